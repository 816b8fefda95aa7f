"""foundry config show | schema | diff: what an experiment file comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foundry.cli import render
from foundry.cli.options import Config, Json, Sets

app = typer.Typer(help="Show what an experiment file comes to.", no_args_is_help=True)


@app.command()
def show(config: Config = None, sets: Sets = None, json: Json = False) -> None:
    """The whole experiment, with every default filled in.

    Example: foundry config show --set training.learning_rate=3e-4
    """
    from foundry.core.config import load_experiment

    experiment = load_experiment(config, sets or ())
    render.problems(experiment.registry.problems)

    def draw() -> None:
        import yaml

        render.write(yaml.safe_dump(experiment.plain(), sort_keys=False))

    data = {"identity": experiment.identity, "experiment": experiment.plain()}
    render.result(data, draw, f"foundry train{f' {config}' if config else ''}")


@app.command()
def schema(json: Json = False) -> None:
    """The JSON Schema of experiment files, for editors: with it they complete and check what you type.

    Example: foundry config schema > experiments/schema.json
    """
    from foundry.core.config import json_schema
    from foundry.core.registry import registry

    document = json_schema(registry())
    render.document(document)
    render.say("next: begin an experiment with the line  # yaml-language-server: $schema=schema.json")


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="An experiment file.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    json: Json = False,
) -> None:
    """What differs between two experiments, defaults included.

    Example: foundry config diff experiments/baseline.yaml experiments/attn_gqa_2kv.yaml
    """
    from foundry.core.config import load_experiment

    a, b = load_experiment(first), load_experiment(second)
    left, right = flatten(a.plain()), flatten(b.plain())
    keys = [key for key in {**left, **right} if left.get(key) != right.get(key)]
    rows = [{"key": key, "a": left.get(key), "b": right.get(key)} for key in keys]
    data = {"same_identity": a.identity == b.identity, "differences": rows}
    columns = ("key", str(first), str(second))
    render.result(data, lambda: render.table(columns, [tuple(row.values()) for row in rows]))


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
