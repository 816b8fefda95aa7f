"""foundry lineage: where the baseline comes from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry.cli import history, render
from foundry.cli.options import Json
from foundry.core.garbage import no_garbage

if TYPE_CHECKING:
    from foundry.lab import Lineage


@no_garbage()
def lineage(json: Json = False) -> None:
    """Show every generation of the baseline. The oldest is first, each with its change and its effect.

    A tree on a terminal, a table elsewhere. Generations that a rollback left behind are beside the trunk.
    """
    from foundry.core.project import find_project
    from foundry.lab import Lineage

    with history.ledger() as ledger:
        found = Lineage.of(find_project(Path.cwd()), ledger)

    def draw() -> None:
        if render.is_terminal(sys.stdout):
            _tree(found)
        else:
            _table(found)
        if found.edited:
            render.say(f"{render.place(found.file)} was edited since: the next sweep makes it a new generation")

    data = {"generations": _entries(found), "ancestry": list(found.ancestry), "edited": found.edited}
    promoted = any(each.kind == "promoted" for each in found.generations)
    render.result(data, draw, "foundry why" if promoted else "")


def _entries(found: Lineage) -> list[dict[str, Any]]:
    entries = []
    for each in found.generations:
        entry: dict[str, Any] = {"generation": each.number, "created": each.created, "kind": each.kind}
        entry |= {"summary": each.summary, "state": found.state(each), "parent": each.parent, "decision": each.decision}
        entry |= {"loss": each.loss, "given_up": each.given_up, "identity": each.identity}
        decision = found.decision(each)
        entry |= {key: getattr(decision, key, None) for key in ("metric", "effect", "low", "high", "confidence", "n")}
        entries.append(entry)
    return entries


def _tree(found: Lineage) -> None:
    """Time runs downwards, as in the table; one step to the right is what was left behind."""
    for line in found.ancestry:
        render.line(f"· {line}")
    for each in found.generations:
        state, decision = found.state(each), found.decision(each)
        mark = {"baseline": "◆ ", "standing": "● ", "undone": "│ ○ "}[state]
        effect = ""
        if decision is not None and decision.effect is not None:
            effect = f"  {decision.metric} gain {decision.effect:+.4f} {decision.interval}, n {decision.n}"
        here = "  <- the baseline" if state == "baseline" else ""
        when = history.day(each.created)
        render.line(f"{mark}{each.number}  {when}  {each.kind}  {each.summary}{effect}{here}")


def _table(found: Lineage) -> None:
    columns = ("generation", "created", "kind", "state", "parent", "summary", "metric", "effect", "interval", "n")
    rows = []
    for each, entry in zip(found.generations, _entries(found), strict=True):
        decision = found.decision(each)
        row = {**entry, "created": history.day(each.created), "effect": history.signed(entry["effect"])}
        row["interval"] = decision.interval or None if decision else None
        rows.append([row[column] for column in columns])
    render.table(columns, rows)
