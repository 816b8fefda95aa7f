"""foundry runs: what was trained here, by itself or in a sweep, and how far it came."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foundry.cli import render
from foundry.cli.options import Json
from foundry.core.garbage import no_garbage


@no_garbage()
def runs(
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="Where the runs are.", show_default="the project's runs/")
    ] = None,
    json: Json = False,
) -> None:
    """List what was trained here. Runs with their last figures, and sweeps with their trials, newest last."""
    from foundry.core.contracts import InvalidData
    from foundry.core.project import find_project
    from foundry.core.run import list_runs
    from foundry.lab import Ledger

    project = find_project(Path.cwd())
    sweeps, trials = _swept(project) if folder is None and Ledger.is_in(project) else ([], [])
    if folder is not None and not folder.is_dir():
        raise InvalidData(f"{folder} is not a folder", "name the one that holds the run folders")
    folder = folder or project / "runs"
    found = [_row(run) for run in list_runs(folder)]
    if not found and not sweeps:
        render.say(f"no runs in {render.place(folder)}")
    columns = ["run", "status", "step", "train_loss", "val_loss", "val_bpb", "tokens_per_second"]
    if any(row.get("remark") for row in found):
        columns.append("remark")
    rows = [[_figure(row.get(column)) for column in columns] for row in found]
    finished = [row for row in found if row["status"] == "finished"]
    next_step = f"foundry generate {render.argument(finished[-1]['path'])}" if finished else "foundry train"
    if any((sweep["status"], sweep["kind"]) == ("interrupted", "sweep") for sweep in sweeps):
        next_step = "foundry sweep --resume"

    def draw() -> None:
        render.table(columns, render.newest(rows, "runs"))
        for title, listed in (("sweeps", sweeps), ("trials", trials)):
            if listed:
                render.line()
                shown = [[_figure(each) for each in row.values()] for row in render.newest(listed, title)]
                render.table(list(listed[0]), shown, title)

    data = {"folder": str(folder), "runs": found, "sweeps": sweeps, "trials": trials}
    render.result(data, draw, next_step)


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


def _row(run: Any) -> dict[str, Any]:
    from foundry.core.code import several_codes
    from foundry.core.contracts import InvalidData

    row: dict[str, Any] = {"run": run.path.name, "path": str(run.path)}
    try:
        config, result, last = run.config(), run.result(), run.last_metrics() or {}
    except InvalidData as error:
        render.say(error.message)
        return row | {"status": "damaged", "problem": error.message}
    row |= {"name": config["name"], "identity": config["identity"], "seed": config["seed"]}
    row |= {"status": "finished" if result else "unfinished", **last}
    if result:
        row |= {"codes": result.get("codes", []), "remark": several_codes(result)}
        row |= {key: result.get(key) for key in ("step", "tokens", "positions", "train_loss", "val_loss", "val_bpb")}
    return row


def _figure(value: Any) -> Any:
    return f"{value:.4f}" if isinstance(value, float) and value < 1000 else value if value is None else _plain(value)


def _plain(value: Any) -> str:
    return f"{value:.0f}" if isinstance(value, float) else str(value)
