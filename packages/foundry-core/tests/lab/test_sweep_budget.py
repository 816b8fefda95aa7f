"""Equal budgets count the tokens that are trained on: how many a step has, the text says, and not the size of a row."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from tests.project import working_in, write_project

from foundry.core.config import Experiment, from_plain
from foundry.core.config.assemble import edit
from foundry.core.config.budget import Budget
from foundry.core.config.mutate import mutate
from foundry.core.training.budget import StepSize, TrainingBudget
from foundry.core.training.open_rows import open_rows
from foundry.lab.report.runs import DRAWN, _mean
from foundry.lab.trials.costs import Costs, equalised

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Experiment]:
    """Documents of 20 to 60 bytes, in rows of 256 positions."""
    draw = random.Random(0)
    files = {f"texts/{number:03d}.txt": "x" * draw.randint(20, 60) + f"{number:03d}" for number in range(200)}
    with working_in(write_project(tmp_path_factory.mktemp("short"), files)) as folder:
        yield from_plain(
            {
                "model_args": {"n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 256},
                "data": {"dataset": {"type": "text", "path": "texts"}},
                "training": {"max_iters": 40, "batch_size": 4},
            },
            project=folder,
        )


def test_a_block_that_no_document_fills_makes_no_step_larger(short: Experiment) -> None:
    arm = mutate(short, "block_size", "128").experiment
    assert arm.training.max_iters == 80  # by positions: what a file can know
    ours, theirs = Costs.of(short), Costs.of(arm)
    assert theirs.tokens_per_step == ours.tokens_per_step < 4 * 64
    equal, words = equalised(arm, theirs, Budget.of(short), ours)
    assert theirs.flops(Budget.of(equal)) == pytest.approx(ours.flops(Budget.of(short)), rel=0.02)
    cheaper = theirs.training_flops_per_token / ours.training_flops_per_token
    assert cheaper < 0.5  # half the padding, and less attention
    assert words.startswith(f"1.00 x the tokens per step, {cheaper:.2f} x the FLOPs per token: ")


def test_where_padding_costs_nothing_more_the_arms_have_equal_tokens(short: Experiment) -> None:
    """As for a width at which a position costs the same in rows of any size, and rows end with their documents."""
    arm = mutate(short, "block_size", "128").experiment
    ours = Costs(1e6, 160.0, 1024, {})
    equal, words = equalised(arm, Costs(1e6, 160.0, 512, {}), Budget.of(short), ours)
    assert (equal.training.max_iters, words) == (40, "1.00 x the tokens per step: 40 steps for 40 steps")
    equal, words = equalised(arm, Costs(1e6, 80.0, 512, {}), Budget.of(short), ours)
    assert (equal.training.max_iters, words) == (80, "")  # rows are as full as before
    assert equal is arm
    asked = Budget.parse("10 steps")
    assert equalised(arm, Costs(1e6, 80.0, 512, {}), asked, ours)[0].training.max_iters == 20
    tokens = edit(short, Budget.parse("5k tokens").edits, "the test")
    arm = mutate(tokens, "block_size", "128").experiment
    assert equalised(arm, ours, Budget.of(tokens), ours)[0].training.tokens == 5000


@pytest.mark.parametrize("tokens", [1, 161, 4000, 7531, 7532, 30_000])
def test_a_budget_in_tokens_is_as_few_steps_as_have_them(short: Experiment, tokens: int) -> None:
    experiment = edit(short, {**Budget("tokens", tokens).edits, "seed": tokens}, "the test")
    rows = open_rows(experiment)
    steps = TrainingBudget.of(experiment, rows, 1.0).steps
    assert steps is not None
    assert rows.tokens_before(4 * (steps - 1)) < tokens <= rows.tokens_before(4 * steps)
    assert steps == pytest.approx(tokens / StepSize.of(experiment, rows).tokens, abs=3)


def test_the_mean_curve_is_over_seeds_whose_rows_had_other_tokens() -> None:
    def curve(tokens: list[int], steps: list[int], loss: float) -> list[dict]:
        nothing = dict.fromkeys(DRAWN)
        return [nothing | {"step": step, "tokens": n, "val_loss": loss} for step, n in zip(steps, tokens, strict=True)]

    mean = _mean([curve([100, 200, 300], [10, 20, 30], 2.0), curve([104, 190, 310], [10, 20, 31], 1.0)])
    assert [(row["tokens"], row["val_loss"]) for row in mean] == [(102, 1.5), (195, 1.5), (305, 1.5)]
    assert _mean([]) == []
    fewer = curve([104, 310], [10, 31], 1.0)  # of two, what only one has is no mean
    mean = _mean([curve([100, 200, 300], [10, 20, 30], 2.0), fewer])
    assert [(row["tokens"], row["val_loss"]) for row in mean] == [(102, 1.5), (305, 1.5)]
    odd = curve([50, 300], [5, 30], 9.0)
    mean = _mean([curve([100, 200, 300], [10, 20, 30], 2.0), odd, curve([102, 200, 300], [10, 20, 30], 1.0)])
    assert [(row["tokens"], row["val_loss"]) for row in mean] == [(101, 1.5), (200, 1.5), (300, 1.5)]
