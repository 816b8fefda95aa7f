"""foundry runs: what was trained here, by itself or in a sweep, how far it came, and what is to be kept of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foundry.cli import render
from foundry.cli.options import Json, RunName, given, run_named
from foundry.core.contracts import UsageError
from foundry.core.garbage import no_garbage

if TYPE_CHECKING:
    from foundry.core.run import Run

app = typer.Typer(invoke_without_command=True)

COLUMNS = ("run", "date", "status", "step", "val_loss", "size", "changes")
LABELS = ("tags", "note", "remark")
"""Columns that are shown where a run has such a thing."""
CSV = (
    "run", "path", "name", "identity", "seed", "status", "started", "step", "tokens", "positions", "train_loss",
    "val_loss", "val_bpb", "tokens_per_second", "bytes", "changes", "tags", "note", "remark",
)  # fmt: skip

Names = Annotated[list[str], typer.Argument(metavar="RUN...", help="Run folders, or the beginnings of their names.")]
Folder = Annotated[
    Path | None, typer.Option("--folder", metavar="DIR", help="Where the runs are.", show_default="the project's runs/")
]


@app.callback()
@no_garbage()
def runs(
    context: typer.Context,
    folder: Folder = None,
    sort: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="By val_loss, step, bytes, run, ...; -KEY: the largest first.",
            show_default="when they began",
        ),
    ] = None,
    filter: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only these: status=finished, run=attn*, tags=keep. Repeatable."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the first N by --sort; without it, the newest N.")
    ] = None,
    trials: Annotated[bool, typer.Option("--trials", help="Also the trials of sweeps.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print the runs as CSV.")] = False,
    json: Json = False,
) -> None:
    """List what was trained here. Lists runs, newest last, with their differences from the baseline, and sweeps.

    A run is `finished`, `running`, `stopped` (`foundry train` resumes it), `crashed` or `damaged`. From Python:
    pandas.DataFrame(foundry.core.run_rows("runs")).

    \b
    foundry runs --sort val_loss --filter status=finished
    foundry runs tag RUN keep      foundry runs note RUN "diverged at 3e-3"
    foundry runs rename RUN NAME   foundry runs rm RUN --checkpoints
    """
    if context.invoked_subcommand:
        _refuse_before(context)
        return
    from foundry.core.contracts import InvalidData
    from foundry.core.project import find_project
    from foundry.core.run_list import run_rows
    from foundry.lab import Ledger

    project = find_project(Path.cwd())
    sweeps, tried = _swept(project) if folder is None and Ledger.is_in(project) else ([], [])
    if folder is not None and not folder.is_dir():
        raise InvalidData(f"{folder} is not a folder", "name the one that holds the run folders")
    folder = folder or project / "runs"
    found = _chosen(run_rows(folder, _baseline()), sort, filter or (), limit)
    for row in found:
        if "problem" in row:
            render.say(row["problem"])
    if csv:
        return _write_csv(found)
    if not found and not sweeps:
        render.say(f"no runs in {render.place(folder)}")

    def draw() -> None:
        columns = [*COLUMNS, *(label for label in LABELS if any(row.get(label) for row in found))]
        shown = render.newest(found, "runs")
        render.table(columns, [[_cell(row, column) for column in columns] for row in shown])
        if found:
            total = sum(row.get("bytes", 0) for row in found)
            render.say(f"{len(found):,} {'run' if len(found) == 1 else 'runs'}, {render.size(total)} on the disk")
        for title, listed in (("sweeps", sweeps), ("trials", tried if trials else [])):
            if listed:
                render.line()
                rows = [[_figure(each) for each in row.values()] for row in render.newest(listed, title)]
                render.table(list(listed[0]), rows, title)
        if tried and not trials:
            render.say(f"{len(tried):,} trials of sweeps: foundry runs --trials")

    data = {"folder": str(folder), "runs": found, "sweeps": sweeps, "trials": tried}
    render.result(data, draw, _next(found, sweeps))


@app.command()
def rm(
    names: Names,
    folder: Folder = None,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Remove only the checkpoints; metrics and results stay.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Remove runs from the disk, for ever. A run that is being trained is not removed.

    Example: foundry runs rm attn_mha-1a2b --checkpoints
    """
    import shutil

    from foundry.core.system import writing

    chosen = _named(names, folder)
    if not yes and not _agreed(
        f"remove {'the checkpoints of ' * checkpoints}{', '.join(r.path.name for r in chosen)}?"
    ):
        raise UsageError("nothing was removed", "--yes removes without asking")
    for run in chosen:
        gone = run.checkpoints if checkpoints else run.path
        with run.held(), writing(gone):
            if gone.exists():
                shutil.rmtree(gone)
    _told(chosen, "removed")


@app.command()
def tag(
    name: RunName,
    tags: Annotated[list[str], typer.Argument(metavar="TAG...", help="Words.")],
    folder: Folder = None,
    off: Annotated[bool, typer.Option("--off", help="Remove the tags.")] = False,
    json: Json = False,
) -> None:
    """Put tags on a run, to find it again: foundry runs --filter tags=keep.

    Example: foundry runs tag attn_mha-1a2b keep
    """
    (run,) = _named([name], folder)
    labels = run.labels()
    kept = [each for each in labels["tags"] if each not in tags]
    run.label(kept if off else [*kept, *tags], labels["note"])
    _told([run], "tagged", **run.labels())


@app.command()
def note(
    name: RunName,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="One line; an empty one removes the note.")],
    folder: Folder = None,
    json: Json = False,
) -> None:
    """Write a note on a run; `foundry runs` shows it.

    Example: foundry runs note attn_mha-1a2b "the rate was too high"
    """
    (run,) = _named([name], folder)
    run.label(run.labels()["tags"], text)
    _told([run], "noted", **run.labels())


@app.command()
def rename(
    name: RunName,
    new: Annotated[str, typer.Argument(metavar="NAME", help="The folder's new name, beside its old one.")],
    folder: Folder = None,
    json: Json = False,
) -> None:
    """Rename a run's folder. `foundry train` then begins the same experiment anew, unless --out names the folder.

    Example: foundry runs rename attn_mha-1a2b best-so-far
    """
    (run,) = _named([name], folder)
    target = run.path.parent / new
    if Path(new).name != new or not new or new.startswith("."):
        raise UsageError(f"{new!r} is not the name of a folder", "choose another name")
    if target.exists():
        raise UsageError(f"{render.place(target)} already exists", "choose another name")
    _told([run.renamed(new)], "renamed")


# --------------------------------------------------------------------------------------------------------------------


def _refuse_before(context: typer.Context) -> None:
    """Raises UsageError for what stands before a command's name, and would not be heard."""
    command = context.invoked_subcommand
    if before := [option for option in given(context).values() if option != "--json"]:
        raise UsageError(
            f"{', '.join(before)}: belongs to `foundry runs`, not to `runs {command}`",
            f"write options of a command after its name: foundry runs {command} ...",
        )


def _named(names: Iterable[str], folder: Path | None) -> list[Run]:
    """Each once.

    Raises:
        InvalidData: one is no run: nothing else may be written to, or removed.
    """
    found = {run.path: run for run in (run_named(name, folder) for name in names)}
    for run in found.values():
        run.config()
    return list(found.values())


def _agreed(question: str) -> bool:
    import sys

    if render.wants_json() or not (sys.stdin and sys.stdin.isatty() and render.is_terminal(sys.stderr)):
        return False
    return typer.confirm(question, err=True)


def _told(chosen: Sequence[Run], done: str, **more: Any) -> None:
    def draw() -> None:
        for run in chosen:
            render.line(f"{done}: {render.place(run.path)}")

    render.result({"runs": [str(run.path) for run in chosen], "done": done, **more}, draw, "foundry runs")


def _baseline() -> Any:
    """The project's; None where it has none, or one that needs a plugin's code: to list runs runs nobody's."""
    from foundry.core.config import load_experiment
    from foundry.core.contracts import FoundryError
    from foundry.core.project import find_project
    from foundry.core.registry import Registry, Selection, discover

    own = Registry(*discover(find_project(Path.cwd()), Selection.parse("-*")))
    try:
        return load_experiment(registry=own)
    except FoundryError:
        return None


def _chosen(
    rows: list[dict[str, Any]], sort: str | None, terms: Sequence[str], limit: int | None
) -> list[dict[str, Any]]:
    """Those that match every term, in this order.

    Raises:
        UsageError: a term is none, or no run has such a key.
    """
    for term in terms:
        key, equals, pattern = term.partition("=")
        if not equals:
            raise UsageError(f"--filter {term!r} is not KEY=VALUE", "for example: --filter status=finished")
        _require_key("--filter", key, rows)
        rows = [row for row in rows if any(fnmatchcase(each, pattern) for each in _texts(row.get(key)))]
    if sort is None:
        return rows[-limit:] if limit else rows
    key = sort.removeprefix("-")
    _require_key("--sort", key, rows)
    known = [row for row in rows if row.get(key) is not None]
    known.sort(key=lambda row: row[key], reverse=sort.startswith("-"))
    return [*known, *(row for row in rows if row.get(key) is None)][:limit]


def _require_key(option: str, key: str, rows: Sequence[dict[str, Any]]) -> None:
    known = {key for row in rows for key in row}
    if rows and key not in known:
        raise UsageError(f"{option}: runs have no {key!r}", f"they have {', '.join(sorted(known))}")


def _texts(value: Any) -> list[str]:
    """What a pattern is held against: each word of a list, or the value."""
    return [str(each) for each in value] if isinstance(value, list) else ["" if value is None else str(value)]


def _next(found: Sequence[dict[str, Any]], sweeps: Sequence[dict[str, Any]]) -> str:
    if any((sweep["status"], sweep["kind"]) == ("interrupted", "sweep") for sweep in sweeps):
        return "foundry sweep --resume"
    finished = [row for row in found if row["status"] == "finished"]
    return f"foundry generate {render.argument(finished[-1]['path'])}" if finished else "foundry train"


def _write_csv(rows: Iterable[dict[str, Any]]) -> None:
    import csv
    from io import StringIO

    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV)
    writer.writerows(
        ["; ".join(value) if isinstance(value := row.get(column), list) else value for column in CSV] for row in rows
    )
    render.write(text.getvalue())


def _swept(project: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The sweeps and the trials of the ledger, each trial once."""
    from collections import Counter

    from foundry.cli.history import day
    from foundry.lab import Ledger

    with Ledger.look(project, note=render.say) as ledger:
        started, listed = ledger.sweeps(), ledger.listed(("val_loss", "val_bpb"))
    counts = Counter(
        (sweep, status) for sweep, _, status in {(row["sweep"], row["trial"], row["status"]) for row in listed}
    )
    states = ("finished", "running", "queued", "failed")
    sweeps = []
    for sweep in started:
        told = {
            "sweep": sweep.id,
            "status": sweep.status,
            "kind": sweep.kind,
            "started": day(sweep.created),
        }
        sweeps.append({**told, **{state: counts[sweep.id, state] for state in states}})
    first: dict[str, dict[str, Any]] = {}
    for row in listed:
        first.setdefault(row["trial"], row)
    return sweeps, list(first.values())


def _cell(row: dict[str, Any], column: str) -> Any:
    from foundry.cli.history import day

    match column:
        case "date":
            return day(row["started"]) if "started" in row else ""
        case "size":
            return render.size(row["bytes"]) if "bytes" in row else ""
        case "changes" | "tags":
            return ", ".join(row.get(column, ()))
        case _:
            return _figure(row.get(column))


def _figure(value: Any) -> Any:
    return f"{value:.4f}" if isinstance(value, float) and value < 1000 else value if value is None else _plain(value)


def _plain(value: Any) -> str:
    return f"{value:.0f}" if isinstance(value, float) else str(value)
