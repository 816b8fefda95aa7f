"""What every attention must do beyond what every layer must: masks and memory. Positions are tried here too."""

import torch
from torch import Tensor

from foundry.core.contracts import Context, Multipliers
from foundry.core.testing.case import Case, vectors
from foundry.core.testing.rounding import assert_rounded, sums_of

CHECKS = (
    "decode_equals_forward",
    "cache_storage",
    "segments_are_isolated",
    "padding_is_not_seen",
    "padded_decode",
    "positions_by_default",
    "obeys_the_scale_rule",
)


def decode_equals_forward(case: Case) -> None:
    """Fed piece by piece through the cache, a text gives what it gives at once."""
    length = case.dims.block_size
    for companion in case.companions():
        layer, x = case.layer(companion=companion), vectors(2, length, case.dims)
        for pieces in ([1] * length, [5, 1, 1, 8, length - 15], [length]):
            cache = layer.init_cache(2, length)
            outputs = [layer(piece, Context(cache=cache)) for piece in x.split(pieces, dim=1)]
            assert cache.length == length
            assert_rounded(torch.cat(outputs, dim=1), layer(x), *sums_of(layer))


def cache_storage(case: Case) -> None:
    """The cache shows its storage: of the dtype that was asked for, one entry per row."""
    cache = case.layer().init_cache(3, case.dims.block_size, torch.bfloat16)
    assert cache.length == 0
    assert len(cache.tensors) > 0
    for tensor in cache.tensors:
        assert tensor.dtype == torch.bfloat16
        assert tensor.size(0) == 3


def segments_are_isolated(case: Case) -> None:
    """A document in a packed row gives what it gives alone, and no bit of it depends on its neighbours."""
    length, first = case.dims.block_size, case.dims.block_size // 3
    for companion in case.companions():
        layer, x = case.layer(companion=companion), vectors(2, length, case.dims)
        numbers = torch.arange(length).expand(2, length)
        segments = (numbers >= first).int()
        ctx = Context(positions=torch.where(segments.bool(), numbers - first, numbers), segments=segments)
        y = layer(x, ctx)
        alone = torch.cat((layer(x[:, :first]), layer(x[:, first:])), dim=1)
        assert_rounded(y, alone, *sums_of(layer))
        changed = torch.cat((100 * x[:, :first], x[:, first:]), dim=1)
        assert torch.equal(layer(changed, ctx)[:, first:], y[:, first:])


def padding_is_not_seen(case: Case) -> None:
    """Padding on either side changes no token's result, and gives no NaN."""
    length, padding = case.dims.block_size, 5
    for companion in case.companions():
        layer, x = case.layer(companion=companion), vectors(2, length - padding, case.dims)
        alone = layer(x)
        for side in ("left", "right"):
            padded, real = pad(x, padding, side)
            y = layer(padded, Context(positions=positions_of(real), key_padding=real))
            assert y.isfinite().all()
            assert_rounded(y[real].view_as(x), alone, *sums_of(layer))


def padded_decode(case: Case) -> None:
    """Prompts of different lengths, padded on either side, go on as each does alone."""
    length, prompt, padding = case.dims.block_size, 9, 4
    for companion in case.companions():
        layer, x = case.layer(companion=companion), vectors(2, length - padding, case.dims)
        alone = layer(x)[:, prompt:]
        for side in ("left", "right"):
            padded, real = pad(x[:, :prompt], padding, side)
            cache = layer.init_cache(2, length)
            layer(padded, Context(positions=positions_of(real), key_padding=real, cache=cache))
            outputs = []
            for t in range(prompt, x.size(1)):
                real = torch.cat((real, torch.ones(2, 1, dtype=torch.bool)), dim=1)
                ctx = Context(positions=positions_of(real)[:, -1:], key_padding=real, cache=cache)
                outputs.append(layer(x[:, t : t + 1], ctx))
            assert_rounded(torch.cat(outputs, dim=1), alone, *sums_of(layer))


def positions_by_default(case: Case) -> None:
    """Positions None means 0..T-1, and on from the cache."""
    length, half = case.dims.block_size, case.dims.block_size // 2
    for companion in case.companions():
        layer, x = case.layer(companion=companion), vectors(2, length, case.dims)
        positions = torch.arange(length).expand(2, length)
        assert_rounded(layer(x, Context(positions=positions)), layer(x), *sums_of(layer))
        implied, explicit = layer.init_cache(2, length), layer.init_cache(2, length)
        for part in (slice(0, half), slice(half, length)):
            y = layer(x[:, part], Context(positions=positions[:, part], cache=explicit))
            assert_rounded(y, layer(x[:, part], Context(cache=implied)), *sums_of(layer))


def pad(x: Tensor, padding: int, side: str) -> tuple[Tensor, Tensor]:
    """x with noise on one side, and which of its tokens are real (B, T)."""
    noise = 100 * torch.ones_like(x[:, :padding])
    real = torch.ones(x.shape[:2], dtype=torch.bool)
    fake = torch.zeros(noise.shape[:2], dtype=torch.bool)
    if side == "left":
        return torch.cat((noise, x), dim=1), torch.cat((fake, real), dim=1)
    return torch.cat((x, noise), dim=1), torch.cat((real, fake), dim=1)


def positions_of(real: Tensor) -> Tensor:
    """As the model counts them: padding takes no position."""
    return (real.long().cumsum(-1) - 1).clamp_min(0)


def obeys_the_scale_rule(case: Case) -> None:
    """An attention that `scales_scores` multiplies them: times 0, all queries are alike. What makes the queries is
    called `q_proj`, or `q_b_proj` where there are two steps."""
    if not getattr(case.params, "scales_scores", False):
        return
    x = vectors(2, case.dims.block_size, case.dims)
    outputs = []
    for scores in (0.0, 1.0):
        dims = case.with_dims(multipliers=Multipliers(scores=scores)).dims
        for sign in (1, -1):
            layer = case.layer(dims=dims)
            last = "q_b_proj" if hasattr(layer.part, "q_b_proj") else "q_proj"
            layer.part.get_submodule(last).weight.data *= sign
            outputs.append(layer(x))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)
    assert not torch.allclose(outputs[2], outputs[3])
