"""foundry mutate: a small named edit of an experiment, as a new experiment file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from foundry.cli import render
from foundry.cli.options import Json
from foundry.core.contracts import UsageError


def _complete_type(incomplete: str) -> Iterator[tuple[str, str]]:
    from foundry.core.registry import registry

    found = registry()
    yield from ((name, slot.summary) for name, slot in found.slots.items() if name.startswith(incomplete))
    yield from ((name, each.summary) for name, each in found.mutations.items() if name.startswith(incomplete))


def _complete_value(context: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    from foundry.core.registry import registry

    found, type = registry(), context.params.get("type")
    if type in found.slots:
        choices = {**found.variants(type), **found.shorthands(type)}
        yield from ((name, each.summary) for name, each in choices.items() if name.startswith(incomplete))
    elif type in found.mutations and found.mutations[type].example.startswith(incomplete):
        yield found.mutations[type].example, "for example"


def mutate(
    type: Annotated[
        str | None,
        typer.Argument(metavar="TYPE", help="A slot or a mutation: attention, depth.", autocompletion=_complete_type),
    ] = None,
    value: Annotated[
        str | None,
        typer.Argument(metavar="VARIANT", help="The variant or the value: gqa_2kv, 8.", autocompletion=_complete_value),
    ] = None,
    base: Annotated[
        Path | None, typer.Option(metavar="CONFIG", help="What to mutate.", show_default="experiments/baseline.yaml")
    ] = None,
    list_all: Annotated[bool, typer.Option("--list", help="List every mutation there is, or those of TYPE.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the difference and write nothing.")] = False,
    json: Json = False,
) -> None:
    """Write a mutated copy of an experiment, and print what changed. The copy stands alone and is valid.

    \b
    foundry mutate attention gqa_2kv                             -> experiments/attn_gqa_2kv.yaml
    foundry mutate depth 8 --base experiments/attn_gqa_2kv.yaml  -> experiments/attn_gqa_2kv+depth_8.yaml
    """
    if list_all:
        return _list(type)
    if type is None or value is None:
        raise UsageError(
            "say what to change, and to what", "foundry mutate attention gqa_2kv; `foundry mutate --list` shows all"
        )
    from foundry.core.config.mutate import difference, mutate, write_mutation

    from foundry.core.config import load_experiment

    parent = load_experiment(base)
    child = mutate(parent, type, value)
    path = write_mutation(child, dry_run=dry_run)
    changes = difference(parent, child)

    def draw() -> None:
        render.line(str(path))

    render.result({"path": str(path), "name": child.name, "changes": changes}, draw, f"foundry train {path}")


def _list(type: str | None) -> None:
    from foundry.core.config.mutate import list_mutations

    from foundry.core.registry import registry

    found = registry()
    rows = [vars(row) for row in list_mutations(found)]
    render.result({"mutations": rows}, lambda: render.table(("type", "value", "summary", "from"), rows))
