"""Whether the best learning rate of a narrow model is that of a wider one, with a scale rule and without.

    uv run python benchmarks/scaling.py [--rules none mup] [--optimizer adamw] [--widths 32 64 128] [--steps 150]

Trains a two-layer model on the embedded corpus at each width and each of a geometric row of learning rates, and prints
the validation losses in nats per token. The rule's base is the narrowest width, where all rules are the same run. What
counts is the regret: how much worse the widest model is at the narrowest one's best rate than at its own best.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from foundry.core.config import Experiment, load_experiment
from foundry.core.config.assemble import edit
from foundry.core.config.mutate import mutate
from foundry.core.contracts import FoundryError
from foundry.core.training import train

EXPERIMENT = """
model_args: {{n_layer: 2, n_head: {heads}, n_embd: {width}, block_size: 64, scaling: {rule}}}
data: {{dataset: stdlib, tokenizer: byte}}
training:
  max_iters: {steps}
  batch_size: 16
  optimizer: {optimizer}
  eval_interval: 0
  eval_tokens: 16384
logging: {{sample_tokens: 0}}
"""
HEAD_DIM = 16
DIVERGED = float("inf")

Losses = dict[tuple[int, float], float]
"""(width, learning rate) -> validation loss."""


class Silent:
    def started(self, plan): ...
    def note(self, text): ...
    def step(self, row, progress, seconds_left): ...
    def sample(self, step, text): ...
    def finished(self, result): ...


def experiments(folder: Path, rule: str, args: argparse.Namespace) -> Iterator[tuple[int, float, Experiment]]:
    narrowest = min(args.widths)
    file = folder / "experiments" / f"{rule}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(
        EXPERIMENT.format(
            heads=narrowest // HEAD_DIM, width=narrowest, rule=rule, steps=args.steps, optimizer=args.optimizer
        )
    )
    base = load_experiment(file)
    for width in args.widths:
        for rate in args.rates:
            experiment = edit(base, {"training.learning_rate": rate}, "benchmark")
            yield width, rate, mutate(experiment, "width", str(width)).experiment


def losses(folder: Path, rule: str, args: argparse.Namespace, known: Losses) -> Losses:
    found: Losses = {}
    for width, rate, experiment in experiments(folder, rule, args):
        if width == min(args.widths) and (width, rate) in known:
            found[width, rate] = known[width, rate]  # the base: no rule acts there
            continue
        try:
            result = train(experiment, folder / f"{rule}-{width}-{rate:g}", reporter=Silent())
            found[width, rate] = result["val_loss"]
        except FoundryError:
            found[width, rate] = DIVERGED
    return found


def show(rule: str, found: Losses, args: argparse.Namespace) -> None:
    best = {width: min(args.rates, key=lambda rate: found[width, rate]) for width in args.widths}
    print(f"\nscaling {rule}: validation loss")
    print(f"{'rate':>10}" + "".join(f"{f'width {width}':>12}" for width in args.widths))
    for rate in args.rates:
        cells = [f"{found[width, rate]:.4f}{'*' if best[width] == rate else ' '}" for width in args.widths]
        print(f"{rate:10.2e}" + "".join(f"{cell:>12}" for cell in cells))
    narrow, wide = min(args.widths), max(args.widths)
    regret = found[wide, best[narrow]] - found[wide, best[wide]]
    print(f"width {wide} at width {narrow}'s best rate: {regret:+.4f} nats over its own best")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="+", default=["none", "mup"])
    parser.add_argument("--widths", nargs="+", type=int, default=[32, 64, 128], help=f"multiples of {HEAD_DIM}")
    parser.add_argument("--rates", nargs="+", type=float, default=[2.0**-power for power in (9, 8, 7, 6, 5, 4)])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--optimizer", default="adamw")
    args = parser.parse_args()
    began, known = time.perf_counter(), Losses()
    with tempfile.TemporaryDirectory() as folder:
        for rule in args.rules:
            found = losses(Path(folder), rule, args, known)
            known = known or found
            show(rule, found, args)
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
