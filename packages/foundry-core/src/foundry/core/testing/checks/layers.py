"""What everything that maps vectors to vectors must do: attention, feed-forward, norm, activation, position."""

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

import torch
from safetensors.torch import load, save
from torch import Tensor

from foundry.core.contracts import Context, Role, role_of
from foundry.core.model import initialize
from foundry.core.testing.case import SEED, Case, Layer, filled, vectors
from foundry.core.testing.rounding import assert_rounded, rounding, sums_of

CHECKS = (
    "shape_and_dtype",
    "autocast",
    "finite_gradients",
    "parameters_have_roles",
    "causality",
    "batch_invariance",
    "losses_are_of_rows",
    "seed_determinism",
    "filled_params",
    "state_dict_round_trip",
    "meta_device_init",
    "compile",
)


def shape_and_dtype(case: Case) -> None:
    """(B, T, C) in, (B, T, C) of the same dtype out, in fp32 and in bf16, up to T = block_size and for T = 1."""
    for companion in case.companions():
        layer = case.layer(companion=companion)
        for length in (1, 7, case.dims.block_size):
            x = vectors(2, length, case.dims)
            y = layer(x)
            assert y.shape == x.shape
            assert y.dtype == x.dtype
        rounded = case.layer(companion=companion).to(torch.bfloat16)(x.bfloat16())
        assert rounded.dtype == torch.bfloat16
        assert_near(rounded, y, layer)


def autocast(case: Case) -> None:
    """Under bf16 autocast, as `precision: bf16` trains: near the fp32 result, with fp32 gradients."""
    for companion in case.companions():
        layer = case.layer(companion=companion)
        x = vectors(2, case.dims.block_size, case.dims)
        exact = layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x.requires_grad_())
            y.float().square().sum().backward()
        assert_near(y, exact, layer)
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.dtype == torch.float32, name


def finite_gradients(case: Case) -> None:
    """Every parameter and the input get a gradient, and it is finite, also where the input is large or zero."""
    for companion in case.companions():
        layer = case.layer(companion=companion).train()
        for scale in (1.0, 100.0, 0.0):
            x = (scale * vectors(2, case.dims.block_size, case.dims)).requires_grad_()
            layer.zero_grad()
            layer(x).square().sum().backward()
            for name, leaf in (("input", x), *layer.named_parameters()):
                assert leaf.grad is not None, f"{name} takes no part in the result"
                gradient = leaf.grad.to_dense()
                assert gradient.isfinite().all(), f"the gradient of {name} is not finite, inputs of size {scale}"


def parameters_have_roles(case: Case) -> None:
    """Of every parameter it is known what it is: optimizers ask whether it decays, scale rules how it grows."""
    for companion in case.companions():
        layer = case.layer(companion=companion)
        for name, _ in layer.part.named_parameters():
            role = role_of(layer, f"part.{name}")
            assert role not in (None, "other"), (
                f"nothing says what {name} is; set `roles` of its module, such as roles = {{{name!r}: 'gain'}}, to one "
                f"of {', '.join(get_args(Role))}"
            )


def causality(case: Case) -> None:
    """What comes later changes nothing before: bit by bit, but where it changes how many tokens a product is of."""
    for companion in case.companions():
        layer = case.layer(companion=companion)
        x = vectors(2, case.dims.block_size, case.dims)
        y = layer(x)
        for t in (1, case.dims.block_size // 2, case.dims.block_size - 1):
            changed = x.clone()
            changed[:, t:] = 100 * vectors(2, case.dims.block_size - t, case.dims, seed=2)
            before = layer(changed)[:, :t]
            if _routes(layer):
                assert_rounded(before, y[:, :t], *sums_of(layer))
            else:
                assert torch.equal(before, y[:, :t]), f"position {t} is seen from before it"


def batch_invariance(case: Case) -> None:
    """A row's result does not depend on the rows beside it."""
    for companion in case.companions():
        layer = case.layer(companion=companion)
        x = vectors(3, case.dims.block_size, case.dims)
        alone = torch.cat([layer(row[None]) for row in x])
        assert_rounded(layer(x), alone, *sums_of(layer))


def losses_are_of_rows(case: Case) -> None:
    """What a sublayer reports for the training loss does not depend on the rows beside a row, nor on what fills one up
    behind its text: however a batch is cut, its gradient is the same."""
    if case.slot not in ("attention", "ffn"):
        return
    length = case.dims.block_size
    is_token = torch.arange(length) < torch.tensor([[length], [5], [length // 2], [1]])
    for companion in case.companions():
        layer, x = case.layer(companion=companion).train(), vectors(4, length, case.dims)
        if any(getattr(each, "reads_whole_batch", False) for each in layer.modules()):
            continue
        _, aux = layer.part(x, Context(is_token=is_token))
        noise = torch.where(is_token[..., None], x, 100.0)
        parts = [layer.part(noise[rows], Context(is_token=is_token[rows]))[1] for rows in (slice(0, 1), slice(1, 4))]
        for name, value in aux.items():
            if name.endswith("_loss"):
                assert value.shape in ((), (4,)), f"{name}: one number for each row, (B,), or 0-D"
                pieces = [part[name].expand(rows) for part, rows in zip(parts, (1, 3), strict=True)]
                assert_rounded(torch.cat(pieces).mean(), value.mean(), *sums_of(layer), length)


def seed_determinism(case: Case) -> None:
    """The same seed gives the same weights and the same result, with dropout too."""
    case = case.with_dims(dropout=0.5)
    x = vectors(2, case.dims.block_size, case.dims)
    results = []
    for _ in range(2):
        layer = case.layer().train()
        torch.manual_seed(SEED)
        results.append(layer(x))
    assert torch.equal(*results)


def filled_params(case: Case) -> None:
    """`Params.filled` says what nulls stand for and changes nothing: the same bits, and filled again, the same."""
    for companion in case.companions():
        said = replace(case, params=filled(case, companion))
        assert filled(said, companion) == said.params
        x = vectors(2, case.dims.block_size, case.dims)
        assert torch.equal(said.layer(companion=companion)(x), case.layer(companion=companion)(x))


def state_dict_round_trip(case: Case) -> None:
    """What a checkpoint holds is enough: another model that loads it gives the same result."""
    x = vectors(2, case.dims.block_size, case.dims)
    for companion in case.companions():
        layer, other = case.layer(companion=companion), case.layer(seed=SEED + 1, companion=companion)
        saved = save({name: tensor.contiguous() for name, tensor in layer.state_dict().items()})
        other.load_state_dict(load(saved), strict=True)
        assert torch.equal(other(x), layer(x))


def meta_device_init(case: Case) -> None:
    """Built without memory and filled afterwards, it is the same: `init_buffers` recomputes what is not saved."""
    for companion in case.companions():
        layer = case.layer(companion=companion)
        with torch.device("meta"):
            late = Layer(case, companion, case.dims)
        late.to_empty(device="cpu")
        with torch.no_grad():
            for tensor in _tensors(late):
                tensor.fill_(float("nan") if tensor.is_floating_point() else 0)
        initialize(late, SEED)
        for expected, tensor in zip(_tensors(layer), _tensors(late), strict=True):
            assert torch.equal(expected, tensor)
        x = vectors(2, case.dims.block_size, case.dims)
        assert torch.equal(late.eval()(x), layer(x))


def compile(case: Case) -> None:
    """torch.compile sees one graph, and gets the same result."""
    for companion in case.companions():
        layer = case.layer(companion=companion)
        x = vectors(2, case.dims.block_size, case.dims)
        torch.compiler.reset()
        compiled = torch.compile(layer, backend="eager", fullgraph=True)
        assert_rounded(compiled(x), layer(x), *sums_of(layer))


def assert_near(rounded: Tensor, exact: Tensor, layer: Layer) -> None:
    """But for the rounding of bf16. Where a layer chooses some of its parameters for each token, that of two which are
    all but equal may choose the other: then on average."""
    if _routes(layer):
        allowed = rounding(torch.bfloat16, *sums_of(layer)) * exact.abs().mean()
        assert (rounded.float() - exact).abs().mean() <= allowed
    else:
        assert_rounded(rounded, exact, *sums_of(layer), dtype=torch.bfloat16)


def _routes(layer: Layer) -> bool:
    """Whether each token uses a part of its parameters."""
    return bool(getattr(layer.part, "inactive_parameters", 0))


def _tensors(layer: Layer) -> Iterator[Tensor]:
    yield from layer.parameters()
    yield from layer.buffers()
