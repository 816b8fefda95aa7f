"""What others wrote, a run's files, a plugin, a model, is shown on a terminal and never obeyed; as data it is exact."""

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

import foundry.cli
from foundry.cli import render, sweeps
from foundry.cli.__main__ import main
from foundry.cli.commands import evolve
from foundry.cli.progress import BarReporter, reporter
from foundry.core.contracts import Problem
from foundry.core.printable import printable
from foundry.core.training.reporter import PlainReporter
from foundry.lab.report.markup import text

HOSTILE = "a\x1b]0;owned\x07\x1b[2J\x9b1m\u202eb\u2066\rc\x7f\b[red]"
SEEN = "a\\x1b]0;owned\\x07\\x1b[2J\\x9b1m\\u202eb\\u2066\\x0dc\\x7f\\x08[red]"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def a_terminal() -> Iterator[Terminal]:
    """Both streams, as one terminal. No fixture: pytest puts its own streams in place between those and the test."""
    stream = Terminal()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stream), redirect_stderr(stream):
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", "200")
        yield stream
    render.use_json(False)


def bar(words: str) -> None:
    shown = BarReporter()
    plan = {"run": words, "parameters": 1, "device": words, "precision": "fp32", "threads": 1, "step": 0, "steps": 1}
    shown.started(plan)
    shown.note(words)
    shown.sample(1, words)
    shown.close()


def live_table(words: str) -> None:
    table = sweeps.LiveTable(Path())
    table._draw()
    table.note(words)
    table.close()


WAYS = {
    "a line": render.line,
    "a stream": render.write,
    "a remark": render.say,
    "an error": lambda words: render.error(words, words, 3),
    "a result": lambda words: render.result({}, lambda: None, words),
    "a plugin": lambda words: render.problems([Problem(words, words, words)]),
    "a table": lambda words: render.table((words,), [(words,)], words),
    "a table of a sweep": live_table,
    "a bar": bar,
    "a log": lambda words: PlainReporter().sample(1, words),
}


@pytest.mark.parametrize("say", WAYS.values(), ids=WAYS)
def test_a_terminal_shows_what_it_would_obey(say):
    with a_terminal() as terminal:
        say(HOSTILE)
    shown = re.sub(r"\x1b\[[0-9;?]*[mlhAKG]|\r(?=\n|\x1b|$)", "", terminal.getvalue())  # what rich draws with
    assert SEEN in shown
    assert printable(shown) == re.sub(r"\r", r"\\x0d", shown)


def test_a_trial_that_failed_is_done():
    def trial(status: str, score: float | None) -> SimpleNamespace:
        row = SimpleNamespace(status=status, metric=lambda name: score)
        return SimpleNamespace(row=row, request=SimpleNamespace(arm="an arm", share=1))

    with a_terminal() as terminal:
        table = sweeps.LiveTable(Path())
        table.batch([trial("finished", 2.5), trial("failed", None), trial("queued", None)])
        table.close()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "2 of 3 trials" in shown
    assert re.search(r"an arm +1 +1/3, 1 failed +2\.5000", shown.replace("│", " "))


def test_a_bar_begins_where_the_run_goes_on_and_is_taken_down_when_it_fails():
    plan = {"run": "r", "parameters": 1, "device": "cpu", "precision": "fp32", "threads": 1, "step": 3, "steps": 9}
    with a_terminal(), suppress(ZeroDivisionError), reporter() as bar:
        bar.started(plan)
        assert bar.progress.tasks[0].fields["step"] == "3/9"
        plan["step"] / 0
    assert not bar.progress.live.is_started


def test_a_round_that_keeps_nothing_names_the_best_of_its_proposals():
    scored = {"swa_64": -0.2, "relu2": -0.1, "gelu": -0.3, "mla": None}
    proposals = [{"arm": arm, "effect": effect} for arm, effect in scored.items()]
    told: list[str] = []
    evolve._teller(told.append)({"event": "round", "step": 3, "kept": "", "effect": None, "proposals": proposals})
    assert told == ["step 3, round: nothing kept; the best, relu2, -0.1000"]


def test_a_place_has_the_name_by_which_it_was_given(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to("disk")
    monkeypatch.chdir(tmp_path)
    assert render.place("runs/a") == render.place(tmp_path / "runs" / "a") == "runs/a"


def test_a_document_is_ascii():
    with a_terminal() as terminal:
        render.use_json(True)
        render.record({HOSTILE: HOSTILE})
    assert json.loads(terminal.getvalue())[HOSTILE] == HOSTILE
    assert terminal.getvalue().isascii()
    assert printable(terminal.getvalue()) == terminal.getvalue()


def test_data_is_exact(capsys):
    render.line(HOSTILE)
    render.table((HOSTILE,), [(f"{HOSTILE}\t\n1",)])
    cell = " ".join(HOSTILE.split())
    assert capsys.readouterr().out == f"{HOSTILE}\n{cell}\n{cell} 1\n"
    render.say(HOSTILE)  # for people, in a log too
    assert capsys.readouterr().err == f"{SEEN}\n"


def test_a_page_shows_the_same():
    assert text(HOSTILE) == SEEN
    assert printable("a\r\nb\tc é 漢 🜁\u200f") == "a\r\nb\tc é 漢 🜁\u200f"


def test_the_names_and_figures_of_a_run_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "a\x1b[2Jb"
    run.mkdir(parents=True)
    config = {"name": HOSTILE, "identity": HOSTILE, "seed": 1, "experiment": {}, "device": {}}
    (run / "config.json").write_text(json.dumps(config))
    with a_terminal() as terminal:
        assert main(["runs"]) == 0
        assert "a\\x1b[2Jb" in terminal.getvalue()
        assert main(["generate", str(run)]) == 3
    assert "\x1b[2J" not in terminal.getvalue()


def test_nothing_else_writes():
    """`render` is the only module of the command that knows of a stream to write to."""
    writes = re.compile(r"\bprint\(|std(?:out|err)\.write|\becho\(|Console\(|console\.print|rich import print")
    sources = Path(foundry.cli.__file__).parent.rglob("*.py")
    found = {source.stem for source in sources if writes.search(source.read_text())}
    assert found == {"render"}
