"""Products of a token with the rows of a table that it chose: their results, their gradients, dense and row-sparse."""

import pytest
import torch

from foundry.kernels import rounding
from foundry.kernels.chosen_rows import add_rows, dot_rows


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("n_rows", [4, 90])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_they_are_the_formula(width, n_rows, dtype):
    """Also where more rows are chosen than the table has, which batched products do."""
    generator = torch.Generator().manual_seed(0)
    x, table = (torch.randn(*shape, generator=generator, dtype=dtype) for shape in ((8, 5), (n_rows, 5 * width)))
    ids, weights = torch.randint(n_rows, (8, 6), generator=generator), torch.ones(8, 6, width, dtype=dtype).cumsum(1)
    chosen = table[ids].unflatten(-1, (width, 5)).double()
    for product, formula, other, length in (
        (dot_rows(x, table, ids), "njmc,nc->njm", x, 5),
        (add_rows(weights, table, ids), "njmc,njm->nc", weights, 6 * width),
    ):
        exact = torch.einsum(formula, chosen, other.double())
        size = torch.einsum(formula, chosen.abs(), other.double().abs())
        assert product.dtype == dtype
        assert rounding.excess(product, exact, rounding.rounding(dtype, length) * size) <= 1


@pytest.mark.parametrize("width", [1, 3])
def test_gradients_are_those_of_finite_differences_and_sparse_ones_the_same(width):
    generator = torch.Generator().manual_seed(0)
    x, table = (torch.randn(*s, generator=generator).double().requires_grad_() for s in ((4, 5), (7, 5 * width)))
    weights = torch.randn(4, 6, width, generator=generator).double().requires_grad_()
    ids = torch.randint(7, (4, 6), generator=generator)  # rows are chosen twice
    assert torch.autograd.gradcheck(lambda x, t: dot_rows(x, t, ids), (x, table))
    assert torch.autograd.gradcheck(lambda w, t: add_rows(w, t, ids), (weights, table))
    for function, argument in ((dot_rows, x), (add_rows, weights)):
        dense, sparse = (
            torch.autograd.grad(function(argument, table, ids, sparse=s).sin().sum(), table)[0] for s in (False, True)
        )
        assert sparse.is_sparse
        torch.testing.assert_close(sparse.to_dense(), dense, rtol=1e-10, atol=1e-10)  # in fp64
