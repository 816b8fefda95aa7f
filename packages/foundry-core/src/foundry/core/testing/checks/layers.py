"""What everything that maps vectors to vectors must do: attention, feed-forward, norm, activation, position."""

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

import torch
from safetensors.torch import load, save
from torch import Tensor

from foundry.core.contracts import Role, role_of
from foundry.core.model import initialize
from foundry.core.testing.case import SEED, Case, Layer, filled, vectors
from foundry.core.testing.checks.differences import assert_near, assert_same

CHECKS = (
    "shape_and_dtype",
    "autocast",
    "finite_gradients",
    "parameters_have_roles",
    "causality",
    "batch_invariance",
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
    """What comes later changes nothing before: bit by bit."""
    for companion in case.companions():
        layer = case.layer(companion=companion)
        x = vectors(2, case.dims.block_size, case.dims)
        y = layer(x)
        for t in (1, case.dims.block_size // 2, case.dims.block_size - 1):
            changed = x.clone()
            changed[:, t:] = 100 * vectors(2, case.dims.block_size - t, case.dims, seed=2)
            assert torch.equal(layer(changed)[:, :t], y[:, :t]), f"position {t} is seen from before it"


def batch_invariance(case: Case) -> None:
    """A row's result does not depend on the rows beside it."""
    for companion in case.companions():
        layer = case.layer(companion=companion)
        x = vectors(3, case.dims.block_size, case.dims)
        alone = torch.cat([layer(row[None]) for row in x])
        assert_same(layer(x), alone)


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
        torch._dynamo.reset()
        compiled = torch.compile(layer, backend="eager", fullgraph=True)
        assert_same(compiled(x), layer(x))


def _tensors(layer: Layer) -> Iterator[Tensor]:
    yield from layer.parameters()
    yield from layer.buffers()
