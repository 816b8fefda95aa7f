"""foundry why: what a promotion rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from foundry.cli import history, render
from foundry.cli.options import Json
from foundry.core.contracts import UsageError
from foundry.core.garbage import no_garbage

if TYPE_CHECKING:
    from foundry.lab import Why


@no_garbage()
def why(
    reference: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMOTION",
            help='A generation\'s number, the id of a decision or a sweep, or an arm: "activation relu2".',
            show_default="the last promotion",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show why an arm became the baseline, or did not. Shows the verdict, every pair of runs, and the other arms."""
    from foundry.lab import Why

    with history.ledger() as ledger:
        if ledger is None:
            raise UsageError("there is no generation yet", "`foundry sweep` makes the first one")
        found = Why.of(ledger, reference)
    render.result(_data(found), lambda: _draw(found), _next(found))


def _data(found: Why) -> dict[str, Any]:
    from dataclasses import asdict

    generation = None if found.generation is None else asdict(found.generation)
    for bulky in ("experiment", "text"):
        if generation is not None:
            del generation[bulky]
    return {**asdict(found), "generation": generation}


def _draw(found: Why) -> None:
    generation, decision = found.generation, found.decision
    if generation is not None:
        render.line(
            f"generation {generation.number}, {generation.kind} {history.day(generation.created)}: {generation.summary}"
        )
    if decision is None:
        render.say("there was no decision: the file was edited by hand, or an earlier generation was restored")
        return
    render.line(f"{decision.arm} against generation {decision.generation}: {decision.verdict}")
    render.line(f"  {decision.reason}")
    if decision.effect is not None:
        within = f"{decision.effect:+.4f} {decision.interval}"
        render.line(f"  {decision.metric} gain {within}, {decision.n} pairs of runs")
    llr = "" if decision.llr is None else f"log-likelihood ratio {decision.llr:.2f}"
    sigma = "" if decision.sigma is None else f"sigma between seeds {decision.sigma:.4g}"
    for text in (", ".join(filter(None, (llr, sigma))), found.error_rate):
        if text:
            render.line(f"  {text}")
    for change in found.changes:
        render.line(f"  {change}")
    if found.pairs:
        rows = [
            [str(pair.seed), _score(pair.baseline), _score(pair.candidate), f"{pair.difference:+.4f}"]
            for pair in found.pairs
        ]
        render.table(("seed", "baseline", "candidate", "difference"), rows)
    if found.rivals:
        rivals = [[each.arm, each.verdict, history.signed(each.effect), each.reason] for each in found.rivals]
        render.table(("also tried", "verdict", "effect", "reason"), rivals)


def _score(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


def _next(found: Why) -> str:
    if found.generation is not None and found.generation.kind == "promoted":
        return "foundry rollback"
    return f"foundry query sweep={found.decision.sweep}" if found.decision else "foundry lineage"
