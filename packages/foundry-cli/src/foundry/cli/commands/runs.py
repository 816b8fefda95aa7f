"""foundry runs: what was trained here, and how far it came."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foundry.cli import render
from foundry.cli.options import Json


def runs(
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="Where the runs are.", show_default="the project's runs/")
    ] = None,
    json: Json = False,
) -> None:
    """List runs with their last figures, newest last."""
    from foundry.core.contracts import InvalidData
    from foundry.core.registry import find_project
    from foundry.core.run import list_runs

    if folder is not None and not folder.is_dir():
        raise InvalidData(f"{folder} is not a folder", "name the one that holds the run folders")
    folder = folder or find_project(Path.cwd()) / "runs"
    found = [_row(run) for run in list_runs(folder)]
    if not found:
        render.say(f"no runs in {render.place(folder)}")
    columns = ("run", "status", "step", "train_loss", "val_loss", "val_bpb", "tokens_per_second")
    rows = [[_figure(row.get(column)) for column in columns] for row in found]
    finished = [row for row in found if row["status"] == "finished"]
    next_step = f"foundry generate {render.argument(finished[-1]['path'])}" if finished else "foundry train"
    render.result({"folder": str(folder), "runs": found}, lambda: render.table(columns, rows), next_step)


def _row(run: Any) -> dict[str, Any]:
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
        row |= {key: result.get(key) for key in ("step", "tokens", "train_loss", "val_loss", "val_bpb")}
    return row


def _figure(value: Any) -> Any:
    return f"{value:.4f}" if isinstance(value, float) and value < 1000 else value if value is None else _plain(value)


def _plain(value: Any) -> str:
    return f"{value:.0f}" if isinstance(value, float) else str(value)
