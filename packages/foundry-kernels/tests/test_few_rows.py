"""The kernels of decoding: the same results to rounding, whatever else is computed at the same time."""

import pytest
import torch
import torch.nn.functional as F

from foundry.kernels import few_rows, rms_norm

pytestmark = pytest.mark.skipif(bool(few_rows.missing()), reason=few_rows.missing())


@pytest.fixture
def used(monkeypatch):
    monkeypatch.setattr(few_rows, "WORTH_IT", 0)
    with few_rows.Used(), torch.no_grad():
        yield


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 8, 9, few_rows.LARGEST])
@pytest.mark.parametrize(("inner", "columns"), [(320, 856), (33, 7), (5, 3), (1, 1), (9000, 2)])
def test_a_linear_layer_equals_that_in_fp64(used, monkeypatch, inner, columns, rows, bias):
    monkeypatch.setattr(few_rows, "_torchs_linear", None)  # nobody else computes it
    x, weight, b = draw(rows, 1, inner), draw(columns, inner, seed=1), draw(columns, seed=2) if bias else None
    exact = x.double() @ weight.double().T + (0 if b is None else b.double())
    torch.testing.assert_close(F.linear(x, weight, b).double(), exact, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("inner", [320, 77])
def test_a_row_does_not_depend_on_its_company_or_on_the_threads(used, inner):
    x, weight = draw(11, inner), draw(300, inner, seed=1)
    together = F.linear(x, weight)
    assert all(torch.equal(F.linear(row[None], weight)[0], expected) for row, expected in zip(x, together, strict=True))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if before == 1 else 1)
        assert torch.equal(F.linear(x, weight), together)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(1, 1, 128), (3, 50), (8, 1, 7)])
def test_rms_norm_equals_that_in_fp64(used, monkeypatch, shape):
    monkeypatch.setattr(F, "rms_norm", None)
    x, weight = draw(*shape), draw(shape[-1], seed=1)
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight
    torch.testing.assert_close(rms_norm(x, weight, 1e-5).double(), exact, rtol=1e-5, atol=1e-6)


def test_strided_operands(used):
    x, weight = draw(64, 6).t(), draw(64, 40, seed=1)
    torch.testing.assert_close(F.linear(x, weight.t()), x @ weight, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(F.linear(x, weight.t().contiguous()), x @ weight, rtol=1e-5, atol=1e-4)
    assert torch.equal(rms_norm(x, torch.ones(64), 1e-5), rms_norm(x.contiguous(), torch.ones(64), 1e-5))


@pytest.mark.parametrize(
    "case",
    [
        lambda: F.linear(draw(few_rows.LARGEST + 1, 32), draw(16, 32)),
        lambda: F.linear(draw(2, 32).double(), draw(16, 32).double()),
        lambda: F.linear(draw(2, 32).bfloat16(), draw(16, 32).bfloat16()),
        lambda: F.linear(draw(0, 32), draw(16, 32)),
        lambda: rms_norm(draw(2, 32).double(), draw(32).double(), 1e-5),
    ],
    ids=["many rows", "fp64", "bf16", "no rows", "norm in fp64"],
)
def test_whatever_they_are_not_made_for_is_torchs_own(used, case):
    ours = case()
    few_rows.Used().__exit__()
    assert torch.equal(ours, case())


def test_what_torch_refuses_is_refused(used):
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        F.linear(draw(2, 32), draw(16, 31))
    with pytest.raises(RuntimeError, match="dtype"):
        F.linear(draw(2, 32), draw(16, 32).double())


def test_gradients_are_torchs_own(used):
    x, weight = draw(2, 32).requires_grad_(), draw(16, 32).requires_grad_()
    with torch.enable_grad():
        F.linear(x, weight).sum().backward()
    assert torch.equal(x.grad, weight.detach().sum(0).expand(2, 32))


def test_autocast_is_heeded(used):
    with torch.autocast("cpu", torch.bfloat16):
        assert F.linear(draw(2, 32), draw(16, 32)).dtype == torch.bfloat16


def test_outside_the_context_nothing_has_changed():
    x, weight = draw(2, 320), draw(856, 320)
    before = F.linear
    used = few_rows.Used()
    for _ in range(2):
        with used:
            assert F.linear is not before
        assert F.linear is before
    with pytest.raises(KeyError), used:
        raise KeyError
    assert F.linear is before
    assert not few_rows.fits_rms_norm(x, weight[0])


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize(("n_kv_head", "size", "length"), [(4, 16, 0), (2, 32, 63), (1, 64, 64), (4, 256, 200)])
def test_the_next_token_is_rotated_kept_and_attends(used, n_kv_head, size, length, rotated, padded):
    q, k, v = draw(3, 4, 1, size), draw(3, n_kv_head, 1, size, seed=1), draw(3, n_kv_head, 1, size, seed=2)
    keys, values = draw(3, n_kv_head, 210, size, seed=3), draw(3, n_kv_head, 210, size, seed=4)
    waves = (draw(3, 1, 1, size, seed=5), draw(3, 1, 1, size, seed=6)) if rotated else None
    real = (draw(3, 300, seed=7) > 0)[:, : length + 1] if padded else None
    assert few_rows.fits_next_token(q, v, keys)

    def turned(x):
        return x if waves is None else x * waves[0] + x.roll(size // 2, -1) * waves[1]

    kept, weighed = keys.clone(), values.clone()
    kept[:, :, length], weighed[:, :, length] = turned(k)[:, :, 0], v[:, :, 0]
    mask = None
    if real is not None:
        mask = real.clone()
        mask[:, -1] = True  # it sees itself
        mask = mask[:, None, None]
    seen = [each[:, :, : length + 1].double() for each in (kept, weighed)]
    expected = F.scaled_dot_product_attention(turned(q).double(), *seen, mask, enable_gqa=True)
    y = few_rows.next_token(q, k, v, waves, keys, values, length, real)
    torch.testing.assert_close(y.double(), expected.transpose(1, 2).flatten(2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(keys, kept, rtol=1e-6, atol=1e-6)
    assert torch.equal(values, weighed)


@pytest.mark.parametrize("biases", [(False, False), (True, False)])
def test_linear_layers_are_called_straight_where_that_is_all_they_do(used, monkeypatch, biases):
    x, layers = draw(2, 1, 33), [torch.nn.Linear(33, size, bias) for size, bias in zip((7, 40), biases, strict=True)]
    expected = [layer(x) for layer in layers]
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Linear, "forward", None)
        straight = few_rows.linear_layers(x, *layers)
    assert all(torch.equal(y, wanted) for y, wanted in zip(straight, expected, strict=True))
    with layers[1].register_forward_hook(lambda module, given, y: y + 1):
        hooked = few_rows.linear_layers(x, *layers)
    assert torch.equal(hooked[1], expected[1] + 1)
    with torch.nn.modules.module.register_module_forward_hook(lambda module, given, y: y + 1):
        assert torch.equal(few_rows.linear_layers(x, layers[0])[0], expected[0] + 1)
