"""Files that commands write at their end: whether they can is known before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundry.cli.__main__ import main

COMMANDS = [
    ("ablate", "--axis", "attention=mha", "--csv"),
    ("ablate", "--axis", "attention=mha", "--plot"),
    ("compare", "a.yaml", "b.yaml", "--plot"),
    ("lr-find", "a.yaml", "--plot"),
    ("analyze", "a.yaml", "--plot"),
    ("report", "--out"),
]


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """What a command says about a file, before it looks for an experiment: there is none here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()

    def run(command: tuple[str, ...], file: str) -> tuple[int, str]:
        code = main([*command, file])
        assert list(tmp_path.iterdir()) == [tmp_path / "folder.png"]
        return code, capsys.readouterr().err

    return run


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_file_that_could_not_be_written_is_refused_at_once(refused, command):
    assert refused(command, "no/such/x.png") == (
        6,
        "error: cannot write no/such/x.png: there is no folder no/such\n  make it: mkdir -p no/such\n",
    )
    code, said = refused(command, "folder.png")
    assert (code, "folder.png is a folder" in said) == (2, True)
    if Path("/proc/self").exists():  # nobody can make a file there
        code, said = refused(command, "/proc/x.png")
        assert (code, "cannot write /proc/x.png" in said) == (6, True)
