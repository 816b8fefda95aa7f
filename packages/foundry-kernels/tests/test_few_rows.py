"""The kernels of decoding: the same results to rounding, whatever else is computed at the same time."""

import contextlib
import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foundry.kernels import Linear, few_rows, linear, rms_norm, rounding, whole_layers

pytestmark = pytest.mark.skipif(bool(few_rows.missing()), reason=few_rows.missing())


@pytest.fixture
def used(monkeypatch):
    monkeypatch.setattr(few_rows, "WORTH_IT", 0)
    with few_rows.Used(), torch.no_grad():
        yield


def elsewhere(compute):
    """What another thread computes, which has not entered the context."""
    with ThreadPoolExecutor(1) as pool, torch.no_grad():
        return pool.submit(torch.no_grad()(compute)).result()


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 8, 9, few_rows.LARGEST])
@pytest.mark.parametrize(("inner", "columns"), [(320, 856), (33, 7), (5, 3), (1, 1), (9000, 2)])
def test_a_linear_layer_equals_that_in_fp64(used, monkeypatch, inner, columns, rows, bias):
    x, weight, b = draw(rows, 1, inner), draw(columns, inner, seed=1), draw(columns, seed=2) if bias else None
    exact = x.double() @ weight.double().T + (0 if b is None else b.double())
    size = x.double().abs() @ weight.double().abs().T + (0 if b is None else b.double().abs())
    with monkeypatch.context() as patch:
        patch.setattr(F, "linear", None)  # nobody else computes it
        y = linear(x, weight, b)
    assert rounding.excess(y, exact, rounding.rounding(y.dtype, inner + 1) * size) <= 1


@pytest.mark.parametrize("inner", [320, 77])
def test_a_row_does_not_depend_on_its_company_or_on_the_threads(used, inner):
    x, weight = draw(11, inner), draw(300, inner, seed=1)
    together = linear(x, weight)
    assert all(torch.equal(linear(row[None], weight)[0], expected) for row, expected in zip(x, together, strict=True))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if before == 1 else 1)
        assert torch.equal(linear(x, weight), together)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(1, 1, 128), (3, 50), (8, 1, 7)])
def test_rms_norm_equals_that_in_fp64(used, monkeypatch, shape):
    monkeypatch.setattr(F, "rms_norm", None)
    x, weight = draw(*shape), draw(shape[-1], seed=1)
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight
    bound = rounding.rounding(x.dtype, shape[-1] + rounding.FUNCTION) * exact.abs()
    assert rounding.excess(rms_norm(x, weight, 1e-5), exact, bound) <= 1


def test_strided_operands(used):
    x, weight = draw(64, 6).t(), draw(64, 40, seed=1)
    exact, bound = x.double() @ weight.double(), rounding.of_product(x, weight, x.dtype)
    assert rounding.excess(linear(x, weight.t()), exact, bound) <= 1
    assert rounding.excess(linear(x, weight.t().contiguous()), exact, bound) <= 1
    assert torch.equal(rms_norm(x, torch.ones(64), 1e-5), rms_norm(x.contiguous(), torch.ones(64), 1e-5))


@pytest.mark.parametrize(
    "case",
    [
        lambda: linear(draw(few_rows.LARGEST + 1, 32), draw(16, 32)),
        lambda: linear(draw(2, 32).double(), draw(16, 32).double()),
        lambda: linear(draw(2, 32).bfloat16(), draw(16, 32).bfloat16()),
        lambda: linear(draw(0, 32), draw(16, 32)),
        lambda: rms_norm(draw(2, 32).double(), draw(32).double(), 1e-5),
    ],
    ids=["many rows", "fp64", "bf16", "no rows", "norm in fp64"],
)
def test_whatever_they_are_not_made_for_is_torchs_own(used, case):
    assert torch.equal(case(), elsewhere(case))


def test_what_torch_refuses_is_refused(used):
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        linear(draw(2, 32), draw(16, 31))
    with pytest.raises(RuntimeError, match="dtype"):
        linear(draw(2, 32), draw(16, 32).double())


def test_gradients_are_torchs_own(used):
    x, weight = draw(2, 32).requires_grad_(), draw(16, 32).requires_grad_()

    def gradients():
        with torch.enable_grad():
            return torch.autograd.grad(linear(x, weight).sum(), (x, weight))

    for ours, torchs in zip(gradients(), elsewhere(gradients), strict=True):
        assert torch.equal(ours, torchs)


def test_autocast_is_heeded(used):
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(draw(2, 32), draw(16, 32)).dtype == torch.bfloat16


def test_outside_the_context_it_is_torchs_own():
    x, layer = draw(2, 320), Linear(320, 856).requires_grad_(False)
    torchs, used = F.linear(x, layer.weight, layer.bias), few_rows.Used()
    for _ in range(2):
        with used, torch.no_grad():
            assert not torch.equal(layer(x), torchs)
            assert torch.equal(F.linear(x, layer.weight, layer.bias), torchs)
        assert torch.equal(layer(x), torchs)
    with pytest.raises(KeyError), used:
        raise KeyError
    with torch.no_grad():
        assert torch.equal(layer(x), torchs)


def test_a_thread_has_the_context_to_itself(used, monkeypatch):
    """One generates while another evaluates, and ends while a third one goes on."""
    x, weight = draw(2, 320), draw(856, 320, seed=1)
    ours = linear(x, weight)
    with monkeypatch.context() as patch:
        patch.setattr(F, "linear", lambda *operands: "torch's")
        assert elsewhere(lambda: linear(x, weight)) == "torch's"

    def enters_and_leaves():
        with few_rows.Used():
            return linear(x, weight)

    assert torch.equal(elsewhere(enters_and_leaves), ours)
    assert torch.equal(linear(x, weight), ours)
    with few_rows.Used():
        pass
    assert torch.equal(linear(x, weight), ours)


WIDTH, N_HEAD = 24, 4


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("n_kv_head", "size", "length"), [(4, 16, 0), (2, 32, 63), (1, 64, 64), (4, 256, 200)])
@pytest.mark.parametrize(
    "kind", ["plain", "bias", "rotated", "half rotated", "norm of a head", "norm of all heads", "value"]
)
def test_the_next_token_is_projected_kept_and_attends(used, n_kv_head, size, length, kind, padded):
    heads = (N_HEAD, n_kv_head, n_kv_head)
    layers = [Linear(WIDTH, each * size, kind == "bias") for each in heads]
    layers.append(Linear(N_HEAD * size, WIDTH, kind == "bias"))
    x, keys, values = draw(3, 1, WIDTH), draw(3, n_kv_head, 210, size, seed=3), draw(3, n_kv_head, 210, size, seed=4)
    rotary = {"rotated": size, "half rotated": size // 2}.get(kind, 0)
    waves = (draw(3, 1, 1, rotary, seed=5), draw(3, 1, 1, rotary, seed=6)) if rotary else None
    real = (draw(3, 300, seed=7) > 0)[:, : length + 1] if padded else None
    value = draw(3, 1, n_kv_head * size, seed=8) if kind == "value" else None
    norms = None
    if kind.startswith("norm"):
        norm_sizes = [size if kind == "norm of a head" else each * size for each in heads[:2]]
        norms = whole_layers.HeadNorms(draw(norm_sizes[0], seed=9), draw(norm_sizes[1], seed=10), 1e-3)

    def turned(heads):
        if waves is None:
            return heads
        turning, kept = heads[..., :rotary], heads[..., rotary:]
        return torch.cat((turning * waves[0] + turning.roll(rotary // 2, -1) * waves[1], kept), -1)

    exact = [copy.deepcopy(layer).double() for layer in layers]
    q, k, v = (layer(x.double()) for layer in exact[:3])
    if norms is not None:
        q, k = (
            F.rms_norm(each.unflatten(-1, (-1, len(weight))), weight.shape, weight.double(), norms.eps).flatten(-2)
            for each, weight in ((q, norms.of_queries), (k, norms.of_keys))
        )
    v = v if value is None else v + value
    q, k, v = (each.unflatten(-1, (-1, size)).transpose(1, 2) for each in (q, k, v))
    kept, weighed = keys.double(), values.double()
    kept[:, :, length], weighed[:, :, length] = turned(k)[:, :, 0], v[:, :, 0]
    mask = None
    if real is not None:
        mask = real.clone()
        mask[:, -1] = True  # it sees itself
        mask = mask[:, None, None]
    seen = [each[:, :, : length + 1] for each in (kept, weighed)]
    y = F.scaled_dot_product_attention(turned(q), *seen, mask, scale=0.3, enable_gqa=True)
    largest_score = 0.3 * float(turned(q).abs().amax(-1).max() * kept.abs().sum(-1).max())
    expected = exact[3](y.transpose(1, 2).flatten(2))

    kernel = whole_layers.AttentionStep.of(*layers, n_head=N_HEAD, factor=0.3, norms=norms)
    y = kernel(x, keys, values, length, value=value, waves=waves, real=real)
    normed = 0 if norms is None else len(norms.of_queries) + rounding.FUNCTION
    new = WIDTH + 1, normed, 2  # projected, normalised, turned
    of_scores = (2 * largest_score) ** 2 * (sum(new) + size)  # a weight is off by twice what its score is
    of_all = of_scores, rounding.FUNCTION, length + 1, N_HEAD * size
    assert rounding.excess(keys, kept, rounding.of_chain(kept[:, :, length], x.dtype, *new)) <= 1
    assert rounding.excess(values, weighed, rounding.of_chain(weighed[:, :, length], x.dtype, *new)) <= 1
    assert rounding.excess(y, expected, rounding.of_chain(expected, x.dtype, *of_all)) <= 1


def named(nonlinearity):
    """An activation that says of itself what the kernel is to compute."""
    return type("Named", (nn.Module,), {"nonlinearity": nonlinearity, "forward": lambda self, up: up})()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("size", "hidden"), [(33, 7), (128, 344)])
@pytest.mark.parametrize("rows", [1, few_rows.LARGEST])
@pytest.mark.parametrize(("gated", "name", "function"), [
    (True, "silu", F.silu), (True, "sigmoid", torch.sigmoid), (True, "gelu", F.gelu), (False, "gelu", F.gelu),
    (False, "gelu_tanh", lambda x: F.gelu(x, approximate="tanh")), (False, "relu", F.relu),
    (False, "relu2", lambda x: F.relu(x).square()),
])  # fmt: skip
def test_a_feed_forward_equals_that_in_fp64(used, gated, name, function, rows, size, hidden, bias):
    layers = [Linear(size, hidden, bias), Linear(size, hidden, bias), Linear(hidden, size, bias)]
    layers[0].weight *= 20  # activations from far below 0 to far above
    activation = named(name)
    x = draw(rows, 1, size)
    gate, up, down = [copy.deepcopy(layer).double() for layer in layers]
    inputs = gate(x.double())
    expected = down(function(inputs) * up(x.double())) if gated else down(function(inputs))
    gate, up, down = layers
    y = whole_layers.FeedForward.of(gate if gated else None, up if gated else gate, activation, down)(x)
    sums = size + 1, 2 * rounding.FUNCTION, hidden + 1
    assert rounding.excess(y, expected, rounding.of_chain(expected, x.dtype, *sums)) <= 1


class Called(Linear):
    """Not what a layer usually is."""


class ReLU(nn.Module):
    nonlinearity = "relu"

    def forward(self, up):
        return F.relu(up)


class LeakyReLU(ReLU):
    def forward(self, up):
        return F.leaky_relu(up)


class Quantised(torch.Tensor):
    """Calls itself fp32 and has its numbers elsewhere."""

    @staticmethod
    def __new__(cls, like):
        return torch.Tensor._make_wrapper_subclass(cls, like.shape, dtype=like.dtype, strides=like.stride())

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return Quantised(args[0]) if "detach" in str(function) else torch.zeros(args[0].shape)


def computed(x, up, activation, down):
    """Whether the kernel does it."""
    kernel = whole_layers.FeedForward.of(None, up, activation, down)
    return kernel is not None and kernel(x) is not None


@pytest.mark.parametrize(
    "change",
    [
        "hook", "hook on all", "class", "fp64", "shape", "unknown", "child", "gradients", "bf16", "quantised",
        "unregistered", "own forward", "nothing hidden", "another width",
    ],
)  # fmt: skip
def test_a_layer_that_is_anything_else_is_not_replaced(used, change):
    up, down, activation = Linear(32, 64), Linear(64, 32), ReLU()
    x = draw(2, 1, 32)
    assert computed(x, up, activation, down)
    with contextlib.ExitStack() as stack:
        if change == "hook":
            activation.register_forward_hook(lambda module, given, y: y)
        elif change == "hook on all":
            stack.enter_context(nn.modules.module.register_module_forward_hook(lambda module, given, y: y))
        elif change == "class":
            up = Called(32, 64)
        elif change == "fp64":
            down.double()
        elif change == "shape":
            down = Linear(63, 32)
        elif change == "unknown":
            activation = named("snake")
        elif change == "child":
            activation = LeakyReLU()
        elif change == "gradients":
            stack.enter_context(torch.enable_grad())
        elif change == "quantised":
            up.weight = nn.Parameter(Quantised(up.weight), requires_grad=False)
        elif change == "unregistered":
            weight = up.weight.detach()
            del up.weight
            up.weight = weight
        elif change == "own forward":
            up.forward = lambda x: 2 * Linear.forward(up, x)
        elif change == "another width":
            x = draw(2, 1, 16)
        elif change == "nothing hidden":
            up.weight, up.bias, down.weight = (nn.Parameter(draw(*shape)) for shape in ((0, 32), (0,), (32, 0)))
        else:
            stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        assert not computed(x, up, activation, down)


def test_what_is_not_finite_stays_so(used):
    up, down = Linear(32, 64), Linear(64, 32)
    up.weight[0, 0] = torch.nan
    for name in whole_layers.NONLINEARITIES:
        assert whole_layers.FeedForward.of(None, up, named(name), down)(draw(1, 1, 32)).isnan().all(), name


def test_a_full_cache_or_strange_sizes_are_left_to_others(used):
    projections = [Linear(WIDTH, 64, False) for _ in range(3)]
    layers = [*projections, Linear(64, WIDTH, False)]
    keys = draw(1, 4, 3, 16)

    def fits(length=2, n_head=4, x=None, keys=keys, norms=None, **given):
        x, values = draw(1, 1, WIDTH) if x is None else x, keys.clone()
        kernel = whole_layers.AttentionStep.of(*layers, n_head=n_head, factor=1.0, norms=norms)
        return kernel is not None and kernel(x, keys, values, length, **given) is not None

    for width, n_head, fit in ((256, 1, True), (512, 1, False), (512, 2, True)):  # for wider heads it has no room
        wide = [*(Linear(WIDTH, width, False) for _ in range(3)), Linear(width, WIDTH, False)]
        assert (whole_layers.AttentionStep.of(*wide, n_head=n_head, factor=1.0) is not None) == fit
    assert fits()
    assert not fits(length=3)
    assert not fits(n_head=8)
    assert not fits(x=draw(1, 2, WIDTH))
    assert not fits(x=draw(2, 1, WIDTH))
    assert not fits(x=draw(1, 1, WIDTH + 1))
    assert not fits(keys=draw(1, 8, 3, 8))

    def norms(of_queries, of_keys):
        return whole_layers.HeadNorms(of_queries, of_keys, 1e-5)

    def real(*shape):
        return torch.ones(shape, dtype=torch.bool)

    two = {"x": draw(2, 1, WIDTH), "keys": draw(2, 4, 3, 16)}
    assert fits(**two, real=real(2, 3))
    assert not fits(**two, real=real(1, 3))
    assert not fits(real=real(1, 2))
    assert not fits(real=real(1, 3).long())
    assert fits(norms=norms(draw(16), draw(16)))
    assert not fits(norms=norms(draw(16).bfloat16(), draw(16)))
    assert not fits(norms=norms(draw(16), draw(64)))
    assert fits(value=draw(1, 1, 64))
    assert not fits(value=draw(1, 1, 64).bfloat16())
    assert not fits(value=draw(1, 1, 16))
    assert fits(**two, waves=(draw(1, 1, 1, 16), draw(1, 1, 1, 16)))
    assert not fits(waves=(draw(1, 1, 1, 32), draw(1, 1, 1, 32)))
    assert not fits(waves=(draw(1, 1, 1, 16).double(), draw(1, 1, 1, 16).double()))
    assert not fits(x=draw(3, 1, WIDTH), keys=draw(3, 4, 3, 16), waves=(draw(2, 1, 1, 16), draw(2, 1, 1, 16)))
