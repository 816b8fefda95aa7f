"""foundry generate: text from a trained model."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from foundry.cli import render
from foundry.cli.options import Json, RunName, run_named


class DeviceType(StrEnum):
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


def generate(
    run: RunName,
    prompt: Annotated[
        list[str] | None, typer.Option(help="The text to continue. Given several times: all prompts in one batch.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="The most tokens to generate.")] = 200,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Continue to --max-tokens, even if the model ends its text before.")
    ] = False,
    temperature: Annotated[float, typer.Option(min=0.0, help="Above 1: more random; below 1: less; 0: greedy.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(min=1, help="Sample from the K likeliest tokens.")] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Sample from the likeliest tokens that together reach probability P: above 0, at most 1."),
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always take the likeliest token.")] = False,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=2**63 - 1,
            help="The same seed gives the same text. The second of several prompts has the next seed.",
        ),
    ] = 0,
    checkpoint: Annotated[str, typer.Option(metavar="last|best|STEP", help="Which checkpoint.")] = "last",
    device: Annotated[DeviceType, typer.Option(help="Device to compute on.")] = DeviceType.cpu,
    json: Json = False,
) -> None:
    """Generate text with the model of RUN, until the model ends it.

    Example: foundry generate runs/baseline-1a2b3c4d-1337 --prompt "def " --top-k 40
    """
    from foundry.core.generate import Sampling, continuations, stream_text
    from foundry.core.loading import load_run
    from foundry.core.training.device import stay_within_quota

    stay_within_quota()
    sampling = Sampling(0.0 if greedy else temperature, top_k, top_p)
    _, tokenizer, model = load_run(run_named(run).path, checkpoint, device=device.value, note=render.say)
    prompts = prompt or [""]
    if len(prompts) > 1 or render.wants_json():
        texts = continuations(model, tokenizer, prompts, max_tokens, sampling, seed=seed, ignore_eos=ignore_eos)
        told = [{"prompt": each, **text._asdict()} for each, text in zip(prompts, texts, strict=True)]
        return render.result(
            {"run": str(run), **(told[0] if len(told) == 1 else {"texts": told})},
            lambda: render.line("\n\n".join(each["prompt"] + each["text"] for each in told)),
        )
    pieces = stream_text(model, tokenizer, prompts[0], max_tokens, sampling, seed=seed, ignore_eos=ignore_eos)
    render.write(prompts[0], flush=True)
    for piece in pieces:
        render.write(piece, flush=True)
    render.line()
