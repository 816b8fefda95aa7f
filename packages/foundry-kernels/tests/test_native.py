"""Kernels that are not torch's own: the same results to rounding, only where they were asked for."""

import pytest
import torch
import torch.nn.functional as F

from foundry.kernels import matmul, native, rounding


@pytest.fixture
def onednn():
    if not torch.backends.mkldnn.is_available():
        pytest.skip("torch is built without oneDNN")
    matmul.switch(True)
    yield
    matmul.switch(False)


def assert_is_product(y: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """y is a @ b, but for the rounding of fp32."""
    assert y.dtype == torch.float32
    assert rounding.excess(y, a.double() @ b.double(), rounding.of_product(a, b, y.dtype)) <= 1


def draw(*shape: int, seed: int = 0, **options) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_(**options)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(768, 128, 512), (129, 257, 65), (1, 2048, 2048), (7, 5, 3), (0, 8, 4), (3, 0, 4)])
def test_a_linear_layer_and_its_gradients_equal_those_in_fp64(onednn, shape, bias):
    rows, inner, columns = shape
    x, weight, upstream = draw(rows, inner), draw(columns, inner, seed=1), draw(rows, columns, seed=2)
    one = torch.ones(rows, 1)
    b = draw(columns, seed=3) if bias else torch.zeros(columns)
    y = F.linear(x, weight, b) if bias else F.linear(x, weight)
    assert_is_product(y, torch.cat((x, one), 1), torch.cat((weight.t(), b[None])))
    of_x, of_weight, *of_b = torch.autograd.grad(y, (x, weight, *([b] if bias else [])), upstream)
    assert_is_product(of_x, upstream, weight)
    assert_is_product(of_weight, upstream.t(), x)
    for each in of_b:
        assert_is_product(each[None], one.t(), upstream)


def test_strided_operands(onednn):
    a, b = draw(512, 300).t(), draw(256, 2 * 512).t()[::2]
    assert not a.is_contiguous()
    assert not b.is_contiguous()
    assert_is_product(a @ b, a, b)


def test_onednn_is_not_given_the_layout_that_it_has_no_kernel_for(onednn, monkeypatch):
    """It would take a thousand times as long."""
    operator, layouts = torch.ops.mkldnn._linear_pointwise, []

    def watched(a, weight, *rest):
        layouts.append(weight.is_contiguous() or weight.t().is_contiguous())
        return operator(a, weight, *rest)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", watched)
    part, _ = draw(512, 80).split((64, 16), dim=1)  # as of a projection that makes two things at once
    for a, b in ((draw(256, 512), part), (draw(256, 64), part.t())):
        assert_is_product(a @ b, a, b)
    assert layouts == [True, True]


def test_what_torch_refuses_is_refused(onednn):
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        torch.mm(draw(200, 200), draw(201, 200))
    with pytest.raises(RuntimeError, match="dtype"):
        torch.mm(draw(200, 200), draw(200, 200).double())


def test_a_product_of_nan_and_infinity_is_not_hidden(onednn):
    a = draw(256, 256)
    with torch.no_grad():
        a[3, 5], a[7, 0] = float("nan"), float("inf")
    y = a @ torch.eye(256)
    assert y[3].isnan().all()
    assert not y[7].isfinite().any()
    assert y[[0, 1, 2, 4, 5, 6]].isfinite().all()


def test_other_types_are_torchs_own(onednn):
    for dtype in (torch.float64, torch.bfloat16):
        a, b = draw(256, 256).to(dtype), draw(256, 256, seed=1).to(dtype)
        ours = a @ b
        matmul.switch(False)
        assert torch.equal(ours, a @ b)
        matmul.switch(True)


def test_the_same_product_twice_is_the_same(onednn):
    a, b = draw(768, 128), draw(128, 512, seed=1)
    first = a @ b
    assert all(torch.equal(first, a @ b) for _ in range(5))


def test_removed_is_as_if_it_had_never_been_there():
    a, b = draw(300, 300), draw(300, 300, seed=1)
    before = a @ b
    matmul.switch(True)
    matmul.switch(False)
    assert torch.equal(a @ b, before)


def test_an_unknown_kernel_is_refused_and_nothing_changes():
    with pytest.raises(RuntimeError, match="no such kernel"):
        native.use(["abacus"])


def test_a_kernel_that_is_not_for_this_machine_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr(native.BY_NAME["matmul"], "missing", lambda: "it is Tuesday")
    with pytest.raises(RuntimeError, match="matmul: it is Tuesday"):
        native.use(["matmul"])
    assert native.missing()["matmul"] == "it is Tuesday"
    assert "matmul" not in native.suited()
