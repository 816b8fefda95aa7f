"""foundry config show | inline | schema | reference | diff: what an experiment file comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foundry.cli import outputs, render
from foundry.cli.options import Config, Json, Sets, train_command

app = typer.Typer(help="Show what an experiment file comes to.", no_args_is_help=True)


@app.command()
def show(config: Config = None, sets: Sets = None, json: Json = False) -> None:
    """The whole experiment, with every default filled in.

    Example: foundry config show --set training.learning_rate=3e-4
    """
    from foundry.core.config import from_plain, load_experiment
    from foundry.core.config.write_yaml import to_yaml

    experiment = load_experiment(config, sets or ())
    render.problems(experiment.registry.problems)

    def draw() -> None:
        whole = from_plain(experiment.plain(), project=experiment.project, registry=experiment.registry)
        render.write(to_yaml(whole))

    data = {"identity": experiment.identity, "experiment": experiment.plain()}
    render.result(data, draw, train_command(config, sets))


@app.command()
def inline(
    config: Config = None,
    sets: Sets = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it there.", callback=outputs.model, show_default="print")
    ] = None,
    json: Json = False,
) -> None:
    """The model as one file of plain PyTorch. To be read in one sitting; it loads the weights of a run as they are.

    Before it is printed the file is run, with the model's own weights: where its logits are not the model's, or a part
    has no plain text, there is an error instead.

    Example: foundry config inline experiments/baseline.yaml --out model.py
    """
    from foundry.core.config import load_experiment
    from foundry.core.inline import inline
    from foundry.core.training import vocab_size_of

    experiment = load_experiment(config, sets or ())
    render.problems(experiment.registry.problems)
    text, difference = inline(experiment, vocab_size_of(experiment))
    if out:
        outputs.write(out, text.encode())

    def draw() -> None:
        render.line(render.place(out)) if out else render.write(text)
        same = f"agree to {difference:.0e} of the largest" if difference else "are the same, bit for bit"
        render.say(f"the logits of this file and of the model {same}")

    data = {"name": experiment.name, "path": out, "text": text, "difference": difference}
    render.result(data, draw, train_command(config, sets))


@app.command()
def schema(json: Json = False) -> None:
    """The JSON Schema of experiment files, for editors: with it they complete and check what you type.

    Example: foundry config schema > experiments/schema.json
    """
    from foundry.core.config.json_schema import json_schema
    from foundry.core.registry import registry

    document = json_schema(registry())
    render.document(document)
    render.say("next: begin an experiment with the line  # yaml-language-server: $schema=schema.json")


@app.command()
def reference(json: Json = False) -> None:
    """All that may stand in an experiment, as Markdown: every key with its range, default and meaning, plugins' too.

    Example: foundry config reference > reference.md
    """
    from foundry.core.config.reference import reference as page
    from foundry.core.registry import registry

    text = page(registry())
    render.result({"page": text}, lambda: render.write(text))


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="An experiment file.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    json: Json = False,
) -> None:
    """What differs between two experiments, defaults included.

    Example: foundry config diff experiments/baseline.yaml experiments/attn_mha.yaml
    """
    from foundry.core.config import load_experiment
    from foundry.core.config.difference import difference

    a, b = load_experiment(first), load_experiment(second)
    changes = difference(a, b)
    data = {"same_identity": a.identity == b.identity, "differences": [vars(change) for change in changes]}
    columns = ("key", str(first), str(second))
    rows = [(change.key, *change.shown) for change in changes]
    render.result(data, lambda: render.table(columns, rows))
