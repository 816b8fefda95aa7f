"""The report of a small made-up ledger, as a whole: what is read from it, and what the page shows of that."""

import json
import re
from pathlib import Path

import pytest
from tests.golden import assert_golden

from foundry.lab.report.data import read
from foundry.lab.report.page import render

pytestmark = pytest.mark.quick

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def contents(small_project):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.time", lambda: 1_800_000_000.0)
        patch.setattr("foundry.lab.report.limits.POINTS", 5)
        return read(small_project)


def test_what_is_read_from_a_ledger(contents):
    lines = []
    for key, value in rounded(contents).items():
        entries = value if isinstance(value, list) else [value]
        lines += [f"{key}: {json.dumps(each, ensure_ascii=False)}" for each in entries]
    assert_golden(GOLDEN / "report.jsonl", "\n".join(lines) + "\n")


def test_what_the_page_shows(contents, monkeypatch):
    """With the first and the last rows of its tables, without what never changes: style and script."""
    monkeypatch.setattr("foundry.lab.report.limits.ROWS", 8)
    page = render(contents)
    body = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.S)
    body = re.sub(r"sha256-[^']*", "sha256-HASH", body)
    assert_golden(GOLDEN / "report.html", re.sub(r">(?=<(?!/))", ">\n", body))


def rounded(value):
    """Without the last digits of numbers, which are the processor's."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else value
