"""foundry mutate: a small named edit of an experiment, as a new experiment file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foundry.cli import render
from foundry.cli.options import Json
from foundry.core.contracts import UsageError
from foundry.core.printable import printable

if TYPE_CHECKING:
    from foundry.core.config.mutate import Listed


def _mutations() -> list[Listed]:
    from foundry.core.config.mutate import list_mutations
    from foundry.core.registry import registry

    return list_mutations(registry())


def _names() -> list[Listed]:
    """As `_mutations`, for the Tab key, which runs nothing of the project's."""
    from foundry.core.config.mutate import list_mutations
    from foundry.core.registry import registry_at_rest

    return list_mutations(registry_at_rest())


def _complete_type(incomplete: str) -> list[str]:
    return [type for type in dict.fromkeys(row.type for row in _names()) if type.startswith(incomplete)]


def _complete_value(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    return [
        (row.value, printable(row.summary))
        for row in _names()
        if row.type == context.params.get("type") and row.value.startswith(incomplete)
    ]


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
    list_all: Annotated[bool, typer.Option("--list", help="List all mutations, or those of TYPE.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the difference and write nothing.")] = False,
    json: Json = False,
) -> None:
    """Write a mutated copy of an experiment, and print what changed. The copy is complete and valid.

    This loads the plugins, also with --list, and so runs the project's variants/*.py.

    \b
    foundry mutate attention mha                             -> experiments/attn_mha.yaml
    foundry mutate depth 8 --base experiments/attn_mha.yaml  -> experiments/attn_mha+depth_8.yaml
    """
    if list_all:
        return _list(type)
    if type is None:
        raise UsageError(
            "say what to change, and to what", "foundry mutate attention mha; `foundry mutate --list` shows all"
        )
    from foundry.core.config import load_experiment
    from foundry.core.config.mutate import mutate, value_missing
    from foundry.core.config.write_yaml import write_experiment

    if value is None:
        from foundry.core.registry import registry

        raise value_missing(registry(), type)

    parent = load_experiment(base)
    render.problems(parent.registry.problems)
    mutated = mutate(parent, type, value)
    data = {
        "name": mutated.name,
        "identity": mutated.experiment.identity,
        "changes": [vars(change) for change in mutated.changes],
        "remarks": mutated.remarks,
    }
    if not mutated.changes:
        note = f"note: nothing changes, so no file is written: {parent.name} has {type} {value} already"
        return render.result({"path": None, **data}, lambda: render.say(note), "foundry mutate --list")
    folder = parent.project / "experiments"
    path = folder / f"{mutated.name}.yaml" if dry_run else write_experiment(mutated, folder)
    shown = render.place(path)

    def draw() -> None:
        render.line(shown)
        for change in mutated.changes:
            render.line(f"  {change}")
        for remark in mutated.remarks:
            render.say(f"note: {remark}")

    render.result({"path": shown, **data}, draw, "" if dry_run else f"foundry train {render.argument(path)}")


def _list(type: str | None) -> None:
    from foundry.core.config.mutate import list_fixed
    from foundry.core.registry import registry

    render.problems(registry().problems)
    rows = [row for row in _mutations() if type in (None, row.type)]
    fixed = [row for row in list_fixed(registry()) if type in (None, row.type)]
    if not rows and not fixed:
        known = ", ".join(dict.fromkeys(row.type for row in _mutations()))
        raise UsageError(f"there is no mutation type {type!r}", f"known: {known}")

    def draw() -> None:
        columns = ("type", "value", "summary", "from")
        for listed in filter(None, (rows, fixed)):
            render.table(columns, [(row.type, row.value, row.summary, row.distribution) for row in listed])
        if fixed:
            render.say("note: what two experiments must share to be compared is set, not mutated")

    data = {"mutations": [vars(row) for row in rows], "fixed": [vars(row) for row in fixed]}
    step = f"mutate {rows[0].type} {rows[0].value}" if rows else f"train --set data.{fixed[0].type}={fixed[0].value}"
    render.result(data, draw, f"foundry {step}")
