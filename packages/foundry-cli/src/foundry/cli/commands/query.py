"""foundry query: what the ledger has of something."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from foundry.cli import history, render
from foundry.cli.options import Json
from foundry.core.garbage import no_garbage

COLUMNS = ("what", "id", "arm", "verdict", "status", "kind", "role", "share", "seed", "metric", "effect", "n")
"""Those that a found row has are shown, then the metrics of trials, then these."""
LAST_COLUMNS = ("generation", "sweep", "created", "reason")


@no_garbage()
def query(
    terms: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE...]", help="Conditions that must hold.", show_default="everything"),
    ] = None,
    json: Json = False,
) -> None:
    """Find decisions, trials, refusals and generations. Failed trials are included.

    Terms: KEY=A,B KEY!=A KEY~PART KEY>1 (and >= < <=); all must hold. Keys: what id arm slot verdict status kind
    metric effect low high n llr sigma generation role share seed attempts sweep identity reason created run, and every
    metric of a trial. A row without the key is not found.

    \b
    foundry query slot=attention verdict=reject
    foundry query what=trial status=failed
    foundry query "role=confirm val_loss<1.9"
    """
    from foundry.lab import query

    with history.ledger() as ledger:
        rows, metrics = ([], []) if ledger is None else query(ledger, terms or [])
    decided = [row for row in rows if row["what"] == "decision"]
    next_step = f"foundry why {decided[-1]['id']}" if decided else ""
    render.result({"rows": rows}, lambda: _draw(rows, metrics), next_step)


def _draw(rows: list[dict[str, Any]], metrics: list[str]) -> None:
    rows = list(render.newest(rows, "rows", "--json has all, and terms find fewer"))
    columns = [key for key in (*COLUMNS, *metrics, *LAST_COLUMNS) if any(row.get(key) for row in rows)]
    if rows:
        render.table(columns, [[_cell(key, row.get(key)) for key in columns] for row in rows])
    else:
        render.say("nothing was found")


def _cell(key: str, value: Any) -> Any:
    if key == "created":
        return history.day(value)
    if key == "effect":
        return history.signed(value)
    return f"{value:.4f}" if isinstance(value, float) else value
