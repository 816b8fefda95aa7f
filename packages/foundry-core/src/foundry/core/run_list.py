"""What was trained, as a list: one plain row for each run, of which pandas makes a table.

import pandas
from foundry.core import run_rows
pandas.DataFrame(run_rows("runs"))
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry.core.code import several_codes
from foundry.core.config.difference import leaves
from foundry.core.config.identity import decides_result
from foundry.core.config.write_yaml import flow
from foundry.core.contracts import InvalidData, Params
from foundry.core.run import Run, list_runs

if TYPE_CHECKING:
    from foundry.core.config import Experiment

FIGURES = ("step", "tokens", "positions", "train_loss", "val_loss", "val_bpb", "tokens_per_second")
UNTOLD = ("name", "logging", "checkpoints")
"""Parts of an experiment by which runs are never told apart."""


def run_rows(folder: str | Path, baseline: Experiment | None = None) -> list[dict[str, Any]]:
    """The runs directly under `folder`, oldest first.

    Args:
        baseline: what each is compared with; None: with nothing.

    Returns:
        run, path, status and, where config.json can be read, name, identity, seed, started (seconds since the epoch),
        step, tokens, positions, train_loss, val_loss, val_bpb, tokens_per_second (of its end, or so far), bytes (on the
        disk), changes (what differs from the baseline: `optimizer: muon -> adamw`), tags, note, codes, remark.

        The status is `finished`; `running`: a process trains it now; `crashed`, with the reason as remark; `stopped`:
        it goes on where it stopped; or `damaged`, with the problem.
    """
    settings = {**_settings(baseline), "seed": baseline.seed} if baseline else {}
    return [_row(run, settings) for run in list_runs(Path(folder))]


def _row(run: Run, baseline: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"run": run.path.name, "path": str(run.path)}
    try:
        config, result, labels = run.config(), run.result(), run.labels()
        last = run.last_metrics() or {}
    except InvalidData as error:
        return row | {"status": "damaged", "problem": error.message}
    figures = {**last, **(result or {})}
    row |= {"name": config["name"], "identity": config["identity"], "seed": config["seed"]}
    row |= {"status": "finished" if result else _unfinished(run), "started": run.config_file.stat().st_mtime}
    row |= {key: figures.get(key) for key in FIGURES}
    row |= {"bytes": _bytes(run.path), "changes": list(_changes(baseline, config["experiment"])), **labels}
    row |= {"codes": (result or {}).get("codes", []), "remark": several_codes(result or {})}
    if row["status"] == "crashed":
        row["remark"] = run.error()
    return row


def _unfinished(run: Run) -> str:
    if run.is_held():
        return "running"
    return "crashed" if run.error() else "stopped"


def _bytes(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it is being replaced just now
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def _changes(baseline: Mapping[str, Any], experiment: Mapping[str, Any]) -> Iterator[str]:
    """What differs, in the order of the schema, without the name of its section; of another variant only its name."""
    theirs = dict(leaves(experiment))
    other: list[str] = []  # where another variant is chosen, whose settings are its own
    for key, ours in baseline.items():
        if any(key.startswith(f"{choice}.") for choice in other) or theirs.get(key) == ours:
            continue
        choice = key.removesuffix(".type")
        if choice != key:
            other.append(choice)
        yield f"{choice.partition('.')[2] or choice}: {flow(ours)} -> {flow(theirs.get(key))}"


def _settings(params: Params) -> dict[str, Any]:
    """Each setting that decides the result, by its dotted path, a choice's `type` before its settings."""
    return {key: value for key, value in _deciding(params, "") if key.partition(".")[0] not in UNTOLD}


def _deciding(params: Params, prefix: str) -> Iterator[tuple[str, Any]]:
    plain = params.model_dump(mode="json")
    for name, field in sorted(type(params).model_fields.items(), key=lambda item: item[0] != "type"):
        value = getattr(params, name)
        if not decides_result(field):
            continue
        if isinstance(value, Params):
            yield from _deciding(value, f"{prefix}{name}.")
        elif isinstance(value, dict):
            yield from leaves(plain[name], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", plain[name]
