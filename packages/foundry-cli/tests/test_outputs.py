"""Files that commands write at their end: whether they can is known before anything is trained, and what is there
already is only replaced where Foundry made it."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundry.cli import outputs, plots
from foundry.cli.__main__ import main
from foundry.cli.commands import ablate
from foundry.core.contracts import UsageError

COMMANDS = [
    ("ablate", "--axis", "attention=mha", "--csv"),
    ("ablate", "--axis", "attention=mha", "--plot"),
    ("compare", "a.yaml", "b.yaml", "--plot"),
    ("lr-find", "a.yaml", "--plot"),
    ("analyze", "a.yaml", "--plot"),
    ("report", "--out"),
    ("config", "inline", "--out"),
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


@pytest.mark.parametrize("command", [*COMMANDS, ("zoo", "convert", "gpt2", "--experiment")], ids=" ".join)
def test_a_file_of_somebodys_is_not_overwritten(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    notes = tmp_path / "notes.png"
    notes.write_bytes(b"\x89PNG or years of work")
    assert main([*command, "notes.png"]) == 2
    assert "notes.png already exists" in capsys.readouterr().err
    assert notes.read_bytes() == b"\x89PNG or years of work"
    (tmp_path / "null.png").symlink_to("/dev/null")  # which is no file to be replaced
    assert main([*command, "null.png"]) == 3
    assert (tmp_path / "null.png").is_symlink()


def test_what_foundry_wrote_before_is_replaced(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["report", "--out", "page.html"]) == 0
        ablate._write_csv([{"arm": "attention mha", "runs": 2}], outputs.table(Path("table.csv")))
        for suffix in outputs.PICTURES:
            plots._save(Figure(), outputs.picture(Path(f"picture{suffix}")))
    with pytest.raises(UsageError, match="not a picture of Foundry's"):
        outputs.picture(Path("page.html").rename("page.svg"))
    (tmp_path / "empty.csv").touch()
    assert outputs.table(Path("empty.csv")) == Path("empty.csv")
