"""foundry lineage: where the baseline comes from."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry.cli import history, render
from foundry.cli.options import Json
from foundry.core.garbage import no_garbage

if TYPE_CHECKING:
    from foundry.lab import Decision, Generation


@no_garbage()
def lineage(json: Json = False) -> None:
    """Show every generation of the baseline. Oldest first: what it changed, and with which effect.

    A tree on a terminal, a table elsewhere. What a rollback has left behind stands beside the trunk.
    """
    from foundry.core.config.yaml import MAX_BYTES
    from foundry.core.registry import BASELINE, find_project
    from foundry.core.system import read_regular
    from foundry.lab import ancestry, standing, was_edited

    project = find_project(Path.cwd())
    with history.ledger() as ledger:
        generations = [] if ledger is None else ledger.generations()
        decisions = {} if ledger is None else {decision.id: decision for decision in ledger.decisions()}
    file = project / BASELINE
    edited = bool(generations) and was_edited(file, generations[-1])
    told = ancestry(read_regular(file, MAX_BYTES).decode(errors="replace")) if file.exists() and not generations else []
    ancestors = list(generations[0].ancestry) if generations else told
    entries = _entries(generations, decisions, standing(generations))

    def draw() -> None:
        if render.is_terminal(sys.stdout):
            _tree(ancestors, entries)
        else:
            _table(entries)
        if edited:
            render.say(f"{render.place(file)} was edited since: the next sweep makes it a generation of its own")

    data = {"generations": entries, "ancestry": ancestors, "edited": edited}
    promoted = any(entry["kind"] == "promoted" for entry in entries)
    render.result(data, draw, "foundry why" if promoted else "")


def _entries(
    generations: Sequence[Generation], decisions: Mapping[str, Decision], standing: set[int]
) -> list[dict[str, Any]]:
    entries = []
    for each in generations:
        state = "baseline" if each is generations[-1] else "standing" if each.number in standing else "undone"
        entry: dict[str, Any] = {"generation": each.number, "created": each.created, "kind": each.kind}
        entry |= {"summary": each.summary, "state": state, "parent": each.parent, "decision": each.decision}
        entry |= {"loss": each.loss, "given_up": each.given_up, "identity": each.identity}
        decision = decisions.get(each.decision or "")
        entry |= {key: getattr(decision, key, None) for key in ("metric", "effect", "low", "high", "confidence", "n")}
        entries.append(entry)
    return entries


def _tree(ancestors: Sequence[str], entries: Sequence[Mapping[str, Any]]) -> None:
    """Time runs downwards, as in the table; one step to the right is what was left behind."""
    for line in ancestors:
        render.line(f"· {line}")
    for entry in entries:
        mark = {"baseline": "◆ ", "standing": "● ", "undone": "│ ○ "}[entry["state"]]
        effect = ""
        if entry["effect"] is not None:
            within = history.interval(entry["low"], entry["high"], entry["confidence"]) or ""
            effect = f"  {entry['metric']} gain {entry['effect']:+.4f} {within}, n {entry['n']}"
        here = "  <- the baseline" if entry["state"] == "baseline" else ""
        when = history.day(entry["created"])
        render.line(f"{mark}{entry['generation']}  {when}  {entry['kind']}  {entry['summary']}{effect}{here}")


def _table(entries: Sequence[Mapping[str, Any]]) -> None:
    columns = ("generation", "created", "kind", "state", "parent", "summary", "metric", "effect", "interval", "n")
    rows = []
    for entry in entries:
        row = {**entry, "created": history.day(entry["created"]), "effect": history.signed(entry["effect"])}
        row["interval"] = history.interval(entry["low"], entry["high"], entry["confidence"])
        rows.append([row[column] for column in columns])
    render.table(columns, rows)
