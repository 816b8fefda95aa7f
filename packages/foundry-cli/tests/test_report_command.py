"""`foundry report`: where the page goes, and what an agent gets instead."""

import json
import re

import pytest
from tests.processes import assert_light, foundry
from typer.main import get_command

from foundry.cli.__main__ import main
from foundry.cli.app import app
from foundry.lab.ledger.ledger import Ledger
from foundry.lab.ledger.records import Generation


@pytest.fixture
def project(tmp_path):
    (tmp_path / "experiments").mkdir()
    return tmp_path


def test_a_page_for_people_and_data_for_agents(project):
    first = foundry("report", cwd=project)
    assert (first.returncode, first.stdout, first.stderr) == (0, "report.html\n", "next: foundry noise\n")
    page = (project / "report.html").read_text()
    assert "Nothing was tried here yet" in page
    told = [words.split() for words in re.findall("<code>foundry ([^<]+)</code>", page)]
    assert len(told) >= 4
    for name, *words in told:
        known = {option for each in get_command(app).commands[name].params for option in each.opts}
        assert {word for word in words if word.startswith("--")} <= known
    assert sorted(path.name for path in project.iterdir()) == ["experiments", "report.html"]

    with Ledger.open(project) as ledger:
        ledger.promote(None, Generation(0, "identity", {}, "manual", "imported", None, None, "hash", 0.0))
    (project / "report.html").unlink()
    asked = json.loads(foundry("report", "--json", cwd=project).stdout)
    assert (asked["schema_version"], asked["page"]) == (1, None)
    assert [each["summary"] for each in asked["generations"]] == ["imported"]
    assert not (project / "report.html").exists()

    both = json.loads(foundry("report", "--json", "--out", "../a page.html", cwd=project / "experiments").stdout)
    assert "Generation 0" in (project / "a page.html").read_text()
    assert both["page"].endswith("a page.html")


def test_a_page_that_is_to_be_shown_is_written_first(project, monkeypatch, capsys):
    """Also where its data is asked for."""
    shown: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda place: shown.append(place) or True)
    monkeypatch.chdir(project)
    for more in ([], ["--json"]):
        assert main(["report", "--open", *more]) == 0
        (project / "report.html").unlink()
    assert shown == [(project / "report.html").as_uri()] * 2


def test_a_place_that_cannot_hold_a_page_is_refused_in_words(project):
    done = foundry("report", "--out", "experiments", cwd=project)
    assert (done.returncode, done.stdout) == (2, "")
    assert "experiments is a folder" in done.stderr
    assert foundry("report", "--out", "no/such/folder.html", cwd=project).returncode == 6


def test_it_needs_no_torch(project):
    assert_light("report", cwd=project)
