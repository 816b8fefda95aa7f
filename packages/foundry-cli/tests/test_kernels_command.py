"""`foundry kernels build | check`."""

import json

import pytest
from tests.documents import faults

from foundry.cli.__main__ import main
from foundry.kernels import attention, build, check
from foundry.kernels.table import KERNELS


@pytest.fixture(autouse=True)
def briefly(monkeypatch):
    """One call of each, instead of a second's worth."""
    compare = check.compare
    monkeypatch.setattr(check, "compare", lambda: compare(seconds=0))


def test_check_compares_every_kernel_that_is_here(capsys):
    assert main(["kernels", "check", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert faults("kernels check", said) == []
    assert said["ok"]
    assert {c["kernel"] for c in said["comparisons"]} == {kernel.op for kernel in KERNELS if not kernel.missing()}
    assert all(0 < c["excess"] <= 1 and c["ratio"] > 0 for c in said["comparisons"])


def test_check_names_a_kernel_that_is_wrong(monkeypatch, capsys):
    if attention.missing():
        pytest.skip(attention.missing())
    real = attention._CausalAttention.apply
    monkeypatch.setattr(attention._CausalAttention, "apply", lambda *heads: 1.001 * real(*heads))
    assert main(["kernels", "check"]) == 1
    assert "attention is wrong" in capsys.readouterr().err


def test_build_says_why_there_is_nothing_to_build(monkeypatch, capsys):
    monkeypatch.setattr(build, "missing", lambda: "there is no C compiler: install gcc or clang")
    assert main(["kernels", "build"]) == 6
    assert "no C compiler" in capsys.readouterr().out
