"""The conformance kit finds the mistakes that it is there for."""

import math
from runpy import run_path

import pytest
import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from foundry.core.contracts import Params, ResidualParams, Variant
from foundry.core.testing import Case, assert_rounded, conform
from foundry.core.testing.checks import checks_of
from foundry.modules.attention import MHAParams
from foundry.modules.attention.mha import MultiHeadAttention
from foundry.modules.loss import CrossEntropyParams
from foundry.modules.loss.cross_entropy import CrossEntropy
from foundry.modules.norm import RMSNormParams
from foundry.modules.norm.rmsnorm import RMSNorm
from foundry.modules.optimizer import AdamWParams
from foundry.modules.optimizer.adamw import adamw
from foundry.modules.position import RoPEParams
from foundry.modules.position.rope import RoPE
from foundry.modules.residual.pre import Pre
from foundry.modules.schedule import CosineParams
from foundry.modules.schedule.cosine import Cosine


class SeesTheFuture(MultiHeadAttention):
    def forward(self, x, ctx):
        y, aux = super().forward(x, ctx)
        return y + 1e-4 * x.mean(dim=1, keepdim=True), aux


class IgnoresSegments(MultiHeadAttention):
    def forward(self, x, ctx):
        return super().forward(x, ctx._replace(segments=None))


class IgnoresPadding(MultiHeadAttention):
    def forward(self, x, ctx):
        return super().forward(x, ctx._replace(key_padding=None))


class ForgetsTheCache(MultiHeadAttention):
    def forward(self, x, ctx):
        if ctx.cache is not None:
            ctx.cache.length += x.size(1)
        return super().forward(x, ctx._replace(cache=None))


class ForgetsTheCacheWhereNothingRotates(ForgetsTheCache):
    def __init__(self, params, dims, position):
        super().__init__(params, dims, position)
        self.rotates = isinstance(position, RoPE)

    def forward(self, x, ctx):
        return MultiHeadAttention.forward(self, x, ctx) if self.rotates else super().forward(x, ctx)


class CountsFromZeroAgain(MultiHeadAttention):
    def forward(self, x, ctx):
        positions = torch.arange(x.size(1)).expand(x.shape[:2]) if ctx.positions is None else ctx.positions
        return super().forward(x, ctx._replace(positions=positions))


class HasAnIdleParameter(MultiHeadAttention):
    def __init__(self, params, dims, position):
        super().__init__(params, dims, position)
        self.idle = nn.Linear(3, 3)


class CannotComeFromMeta(RoPE):
    def init_buffers(self):
        if not hasattr(self, "made"):
            self.made = True
            super().init_buffers()


class ForgetsPositionsOfTheCache(RoPE):
    def rotate(self, q, k, positions):
        return super().rotate(q, k, None)


class KeepsWhatItComputedFirst(RMSNorm):
    def __init__(self, *given):
        super().__init__(*given)
        self.factor = 2.0 if torch.empty(()).is_meta else 1.0  # of values that are not there yet

    def forward(self, x):
        return self.factor * super().forward(x)


class BreaksTheGraph(RMSNorm):
    def forward(self, x):
        return super().forward(x if x.sum().item() > 0 else x * 1)


class MixesRows(RMSNorm):
    def forward(self, x):
        return super().forward(x) + 1e-3 * x.mean(dim=0)


class StaysInFloat32(RMSNorm):
    def forward(self, x):
        return super().forward(x).float()


class HasItsOwnDice(RMSNorm):
    def forward(self, x):
        return super().forward(x) * (1 + torch.rand((), generator=torch.Generator().manual_seed(torch.seed() >> 1)))


class DividesByTheCount(CrossEntropy):
    def forward(self, hidden, head, batch):
        total, count, aux = super().forward(hidden, head, batch)
        return total / count, count, aux


class CountsTheUnsupervised(CrossEntropy):
    def forward(self, hidden, head, batch):
        total, _, aux = super().forward(hidden, head, batch)
        return total, torch.tensor(batch.targets.numel()), aux


class IsInfiniteWithASoftcap(CrossEntropy):
    def forward(self, hidden, head, batch):
        total, count, aux = super().forward(hidden, head, batch)
        return total * (1 if head.softcap is None else math.inf), count, aux


class MixesRowsOfTheStream(Pre):
    def leave(self, x, y, norm, post_norm):
        return super().leave(x, y + 1e-3 * y.mean(dim=0), norm, post_norm)


def ignores_the_rate(params, model, learning_rate):
    optimizers = adamw(params, model, learning_rate)
    for optimizer in optimizers:
        optimizer.register_step_pre_hook(lambda o, *_: [g.update(lr=learning_rate) for g in o.param_groups] and None)
    return optimizers


def forgets_biases(params, model, learning_rate):
    return [torch.optim.AdamW([p for p in model.parameters() if p.ndim > 1], lr=learning_rate)]


def takes_the_frozen(params, model, learning_rate):
    return [torch.optim.AdamW(model.parameters(), lr=learning_rate)]


def keeps_state_elsewhere(params, model, learning_rate):
    (optimizer,) = adamw(params, model, learning_rate)
    steps = iter(range(1, 1000))
    optimizer.register_step_pre_hook(lambda o, *_: o.param_groups[0].update(betas=(0.9, 1 - 0.1 / next(steps))))
    return [optimizer]


class GoesBeyondThePeak(Cosine):
    def after(self, share):
        return 2 * super().after(share)


class Remembers(Cosine):
    def __call__(self, step, progress):
        self.highest = max(getattr(self, "highest", 0), step)
        return super().__call__(self.highest, progress)


class DipsInTheWarmup(Cosine):
    def __call__(self, step, progress):
        return super().__call__(step, progress) / (2 if step == 5 else 1)


class UndocumentedParams(Params):
    window: int = 3


@pytest.mark.parametrize(
    ("slot", "target", "params", "expected"),
    [
        ("attention", SeesTheFuture, MHAParams, "causality"),
        ("attention", IgnoresSegments, MHAParams, "segments_are_isolated"),
        ("attention", IgnoresPadding, MHAParams, "padding_is_not_seen"),
        ("attention", ForgetsTheCache, MHAParams, "decode_equals_forward"),
        ("attention", ForgetsTheCacheWhereNothingRotates, MHAParams, "decode_equals_forward"),
        ("attention", CountsFromZeroAgain, MHAParams, "positions_by_default"),
        ("attention", HasAnIdleParameter, MHAParams, "finite_gradients"),
        ("position", CannotComeFromMeta, RoPEParams, "meta_device_init"),
        ("position", ForgetsPositionsOfTheCache, RoPEParams, "decode_equals_forward"),
        ("norm", KeepsWhatItComputedFirst, RMSNormParams, "meta_device_init"),
        ("norm", BreaksTheGraph, RMSNormParams, "compile"),
        ("norm", MixesRows, RMSNormParams, "batch_invariance"),
        ("norm", StaysInFloat32, RMSNormParams, "shape_and_dtype"),
        ("norm", HasItsOwnDice, RMSNormParams, "seed_determinism"),
        ("norm", RMSNorm, UndocumentedParams, "params_are_documented"),
        ("residual", MixesRowsOfTheStream, ResidualParams, "batch_invariance"),
        ("loss", IsInfiniteWithASoftcap, CrossEntropyParams, "total_and_count"),
        ("loss", DividesByTheCount, CrossEntropyParams, "micro_batches_add_up"),
        ("loss", CountsTheUnsupervised, CrossEntropyParams, "unsupervised_tokens_do_not_count"),
        ("optimizer", forgets_biases, AdamWParams, "owns_every_parameter_once"),
        ("optimizer", takes_the_frozen, AdamWParams, "owns_every_parameter_once"),
        ("optimizer", ignores_the_rate, AdamWParams, "obeys_the_learning_rate"),
        ("optimizer", keeps_state_elsewhere, AdamWParams, "state_round_trip"),
        ("schedule", GoesBeyondThePeak, CosineParams, "factors_are_shares_of_the_peak"),
        ("schedule", DipsInTheWarmup, CosineParams, "warms_up"),
        ("schedule", Remembers, CosineParams, "is_a_pure_function"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_mistake_fails_its_check(slot, target, params, expected):
    case = Case(target.__name__, Variant(slot, "wrong", f"{__name__}:{target.__name__}", params), params())
    with pytest.raises((AssertionError, TorchDynamoException)):
        dict(checks_of(case))[expected](case)


def test_a_check_tries_a_shorthand_with_the_settings_that_a_test_gives():
    assert Case.of("attention", "gqa_2kv", {"n_kv_head": 4}).params.n_kv_head == 4


def test_values_of_another_shape_are_no_rounding():
    with pytest.raises(AssertionError, match=r"\(1, 3\) where it should be \(2, 3\)"):
        assert_rounded(torch.ones(1, 3), torch.ones(2, 3), 1)


def test_a_check_without_words_tells_the_condition_that_does_not_hold(tmp_path):
    (tmp_path / "checks.py").write_text("def check(n):\n    deeper(n)\n\n\ndef deeper(n):\n    assert n > 2\n")
    with pytest.raises(AssertionError) as failed:
        run_path(str(tmp_path / "checks.py"))["check"](1)
    assert conform._told(failed.value) == "not n > 2"
