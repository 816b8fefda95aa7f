"""`foundry zoo list | pull | convert | check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foundry.cli import outputs, render
from foundry.cli.options import Json
from foundry.core.contracts import ExitCode, UsageError

app = typer.Typer(help="Pretrained models: fetch them, start from them, check them.", no_args_is_help=True)

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A name of the zoo, ORG/NAME on the hub, or a folder of safetensors.")
]


@app.command("list")
def list_models(json: Json = False) -> None:
    """List the models with a name. Shows which are downloaded, and the architectures that Foundry knows.

    Name any other model of these architectures by its ORG/NAME on the hub, or by its folder.
    """
    from foundry.core.registry import registry
    from foundry.zoo.catalog import CATALOG, pulled

    models = [
        entry._asdict() | {"here": (pulled(entry.name) / "config.json").exists(), "folder": str(pulled(entry.name))}
        for entry in CATALOG
    ]
    families = {name: variant.summary for name, variant in registry().variants("architecture").items()}

    def draw() -> None:
        columns = ("name", "repository", "architecture", "parameters", "gated", "here")
        rows = [
            (
                *(m["name"], m["repository"], m["architecture"], _millions(m["parameters"])),
                *("yes" if m[key] else "" for key in ("gated", "here")),
            )
            for m in models
        ]
        render.table(columns, rows)
        render.say("architectures: " + ", ".join(families))

    render.result({"models": models, "architectures": families}, draw, "foundry zoo pull gpt2")


@app.command()
def pull(
    model: Model,
    revision: Annotated[str, typer.Option(metavar="REV", help="A branch, tag or commit.")] = "main",
    json: Json = False,
) -> None:
    """Download MODEL from the hub. Fetches config, tokenizer and safetensors, resumes, and checks every file.

    HF_TOKEN opens gated models, HF_ENDPOINT names another hub, FOUNDRY_CACHE is the folder for copies.
    """
    from foundry.zoo.hub import pull

    folder = pull(model, render.say, revision=revision)
    render.result(
        {"model": model, "folder": str(folder)}, lambda: render.line(str(folder)), f"foundry zoo check {model}"
    )


@app.command()
def convert(
    model: Model,
    run: Annotated[Path | None, typer.Option(metavar="DIR", help="Write a run folder, with the weights.")] = None,
    experiment: Annotated[
        Path | None,
        typer.Option(metavar="FILE", callback=outputs.new, help="Write an experiment that trains the model further."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="TYPE", help="Of the run's weights.", show_default="the file's")
    ] = None,
    block_size: Annotated[
        int | None, typer.Option(min=1, help="A shorter context.", show_default="the model's")
    ] = None,
    json: Json = False,
) -> None:
    """Convert MODEL to a run or an experiment. A run generates text; an experiment trains the model further.

    Example: foundry zoo convert gpt2 --experiment experiments/gpt2.yaml --block-size 256
    """
    from foundry.core.training.device import stay_within_quota
    from foundry.zoo.convert import convert, experiment_from

    if run is None and experiment is None:
        raise UsageError("convert to what?", "give --run DIR, or --experiment FILE, or both")
    stay_within_quota()
    wrote: dict[str, str] = {}
    if experiment is not None:
        from foundry.core.config.write_yaml import to_yaml

        outputs.write(experiment, to_yaml(experiment_from(model, block_size=block_size)).encode())
        wrote["experiment"] = str(experiment)
    if run is not None:
        wrote["run"] = str(convert(model, run, dtype=dtype, block_size=block_size, note=render.say).path)
    trained, made = experiment and render.argument(experiment), run and render.argument(run)
    following = f"foundry train {trained}" if trained else f"foundry generate {made}"
    render.result({"model": model, **wrote}, lambda: render.line("\n".join(wrote.values())), following)


@app.command()
def check(
    model: Model,
    tokens: Annotated[int, typer.Option(min=1, help="Random tokens to compare on.")] = 64,
    tolerance: Annotated[float, typer.Option(min=0.0, help="Largest difference, in fp32.")] = 1e-4,
    json: Json = False,
) -> int:
    """Compare MODEL with transformers. Compares the tokenizer and each layer, and names the first that differs.

    Exit code 1 if anything differs.

    Needs transformers: pip install 'foundry-core[transformers]'.
    """
    from foundry.core.training.device import stay_within_quota
    from foundry.zoo.check import check, first_drift, tokenizer_differences

    stay_within_quota()
    differences = tokenizer_differences(model)
    places = check(model, tokens=tokens, tolerance=tolerance)
    drift = first_drift(places)

    def draw() -> None:
        rows = [(p.name, f"{p.difference:.1e}", f"{p.largest:.3g}", "" if p.same else "drifts") for p in places]
        render.table(("place", "largest difference", "largest number", ""), rows)

    ok = drift is None and not differences
    data = {"ok": ok, "first_drift": drift and drift.name, "places": [p._asdict() for p in places]}
    render.result(data | {"tokenizer": differences}, draw)
    for difference in differences:
        render.say(f"tokenizer: {difference}")
    if drift:
        render.say(f"{drift.name} is the first that differs, by {drift.difference:.1e}")
    return ExitCode.OK if ok else ExitCode.FAILURE


def _millions(parameters: float) -> str:
    return f"{parameters / 1e9:.2f}B" if parameters >= 1e9 else f"{parameters / 1e6:.0f}M"
