"""foundry export: a trained model for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from foundry.cli import render
from foundry.cli.options import Json, RunName, run_named


class Format(StrEnum):
    hf = "hf"


def export(
    run: RunName,
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write; it must not exist.")],
    to: Annotated[Format, typer.Option(help="hf: a folder that transformers loads.")] = Format.hf,
    checkpoint: Annotated[str, typer.Option(metavar="last|best|STEP", help="Which checkpoint.")] = "last",
    architecture: Annotated[
        str, typer.Option(metavar="TYPE", help="The model_type to write.", show_default="the first that fits")
    ] = "",
    dtype: Annotated[str, typer.Option(metavar="TYPE", help="float32, bfloat16 or float16.")] = "float32",
    max_shard: Annotated[
        float, typer.Option(min=0.001, metavar="GB", help="Split the weights into files of at most this size.")
    ] = 5.0,
    json: Json = False,
) -> None:
    """Write the model of RUN for transformers. Writes config.json, safetensors, and the tokenizer if possible.

    A model that no architecture of transformers can express is refused, and the part is named.

    Example: foundry export runs/baseline-1a2b3c4d-1337 --to hf exported
    """
    from foundry.core.loading import load_run
    from foundry.core.training.device import stay_within_quota
    from foundry.zoo import export
    from foundry.zoo.pretrained import dtype_of

    stay_within_quota()
    kept = dtype_of(dtype)  # a word that is no dtype is refused before the weights are read
    config, tokenizer, model = load_run(run_named(run).path, checkpoint, note=render.say)
    limit = int(max_shard * 1e9)
    done = export(config, tokenizer, model.to(kept), out, architecture=architecture, max_shard_bytes=limit)
    if not done.tokenizer:
        kind = config.data.tokenizer.type
        render.say(f"tokenizer {kind} has no form that transformers reads: only the weights were written")

    def draw() -> None:
        render.table(
            ("architecture", "files", "bytes"), [(done.architecture, len(done.files), render.size(done.bytes))]
        )

    data = done._asdict() | {"folder": str(done.folder)}
    render.result(data, draw, f"foundry zoo check {render.argument(out)}")
