"""What every residual must do beyond what every layer must."""

import torch

from foundry.core.contracts import Multipliers
from foundry.core.testing.case import Case, vectors

CHECKS = ("obeys_the_scale_rule", "drops_what_is_added")


def obeys_the_scale_rule(case: Case) -> None:
    """What a sublayer adds is multiplied by `dims.multipliers.branch`: times 0, it adds nothing."""
    layer = case.layer(dims=case.with_dims(multipliers=Multipliers(branch=0.0)).dims)
    x, y = vectors(2, 8, case.dims), vectors(2, 8, case.dims, seed=1)
    with_y, without = (layer.part.leave(x, each, layer.norm, layer.post_norm) for each in (y, torch.zeros_like(y)))
    torch.testing.assert_close(with_y, without, rtol=0, atol=0)


def drops_what_is_added(case: Case) -> None:
    """In training, activations of what a sublayer adds are dropped with probability `dims.dropout`."""
    layer = case.layer(dims=case.with_dims(dropout=0.5).dims)
    x, y = vectors(2, 24, case.dims), vectors(2, 24, case.dims, seed=1)
    results = []
    for training in (True, True, False, False):
        layer.train(training)
        results.append(layer.part.leave(x, y, layer.norm, layer.post_norm))
    assert not torch.equal(*results[:2]), "nothing is dropped in training"
    assert torch.equal(*results[2:]), "something is dropped outside training"
