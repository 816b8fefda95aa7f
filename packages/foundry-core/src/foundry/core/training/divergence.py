"""When a training has diverged: a loss, a gradient norm, a weight or a state is no finite number. Found wherever such
values are on the host anyway, so that no step waits for the question: of steps in `Metrics.settle`, each time a job is
due; of the validation loss in `Metrics.flush`; of tensors as they are saved. Each function gives the error, or None."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, isfinite

from foundry.core.contracts import Diverged

_KEPT = "the checkpoints before it are kept"


def of_step(step: int, loss: float, grad_norm: float) -> Diverged | None:
    """Of the training loss of a step, and the norm of its gradient before clipping."""
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return None
    return Diverged(
        f"not finite at step {step}: loss {loss}, gradient norm {grad_norm}",
        f"{_KEPT}; try a smaller training.learning_rate, a longer warmup, or a smaller training.grad_clip",
    )


def of_validation(loss: float) -> Diverged | None:
    return None if math.isfinite(loss) else Diverged(f"the validation loss is {loss}", _KEPT)


def of_tensors(group: str, tensors: Mapping[str, Tensor], step: int) -> Diverged | None:
    """Of the weights, their moving average or an optimizer's state, which are about to be saved."""
    for name, tensor in tensors.items():
        if not isfinite(tensor).all():
            return Diverged(f"{group} {name} is not finite at step {step}", _KEPT)
    return None
