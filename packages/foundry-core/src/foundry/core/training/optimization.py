"""What happens to the weights beside the gradient: the optimizers of one run as one, and the moving average."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from foundry.core.tensors import part_of, whole


class OptimizerSet:
    """The torch optimizers that together own every trainable parameter, each exactly once.

    Raises:
        RuntimeError: a parameter is in no group, or in two.
    """

    def __init__(self, optimizers: list[torch.optim.Optimizer], model: nn.Module) -> None:
        self.optimizers = optimizers
        self.names: dict[Tensor, str] = {
            parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        grouped = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        missing = sorted(name for parameter, name in self.names.items() if not any(parameter is p for p in grouped))
        if missing:
            raise RuntimeError(f"no optimizer owns {', '.join(missing)}")
        if len(grouped) != len(self.names):
            raise RuntimeError("a parameter is in two optimizer groups, or is not the model's")
        for group in self._groups():
            group["base_lr"] = group["lr"]

    @property
    def parameters(self) -> list[Tensor]:
        """Every trainable parameter, in the model's order."""
        return list(self.names)

    def step(self, lr_factor: float) -> None:
        """One update with every group's learning rate at `lr_factor` times its base."""
        for group in self._groups():
            group["lr"] = group["base_lr"] * lr_factor
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """The state as `parameter path/state name` -> whole tensor, for a checkpoint."""
        return {
            f"{self.names[parameter]}/{key}": whole(value) if isinstance(value, Tensor) else torch.tensor(value)
            for optimizer in self.optimizers
            for parameter, state in optimizer.state.items()
            for key, value in state.items()
            if value is not None
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the state that `tensors` returned before."""
        by_parameter: dict[str, dict[str, Tensor]] = {}
        for path, value in tensors.items():
            name, _, key = path.rpartition("/")
            by_parameter.setdefault(name, {})[key] = value
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    state = by_parameter.get(self.names[parameter], {})
                    # `step` counts live on CPU unless the optimizer is fused or capturable on a GPU.
                    on_device = bool(group.get("fused") or group.get("capturable"))
                    for key, value in state.items():
                        if value.shape == parameter.shape:
                            value = part_of(value, like=parameter)
                        device = parameter.device if key != "step" or on_device else "cpu"
                        optimizer.state[parameter][key] = value.to(device)

    def _groups(self) -> Iterator[dict]:
        for optimizer in self.optimizers:
            yield from optimizer.param_groups


def clip_gradients(parameters: Sequence[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients together so that their norm is at most `max_norm`; 0 leaves them as they are.

    Returns:
        The norm before, 0-D. On a GPU it stays there.
    """
    gradients = [_dense(parameter) for parameter in parameters if parameter.grad is not None]
    norm = whole(nn.utils.get_total_norm(gradients))
    # On a CPU it costs nothing to look, and most steps need no scaling; a GPU would have to wait.
    if max_norm and (norm.device.type != "cpu" or norm > max_norm):
        torch._foreach_mul_(gradients, torch.clamp(max_norm / (norm + 1e-6), max=1.0))
    return norm


def _dense(parameter: Tensor) -> Tensor:
    """The gradient, or, of a row-sparse one, its rows, each of which is first made to stand there once."""
    assert parameter.grad is not None
    if not parameter.grad.is_sparse:
        return parameter.grad
    parameter.grad = parameter.grad.coalesce()
    return parameter.grad.values()


class MovingAverage:
    """Exponential moving average of the weights (Polyak averaging), with the warm-up of Adam's bias correction: the
    decay of update n is min(decay, (1 + n) / (10 + n))."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        self.live = dict(model.named_parameters())

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.weights.values()), list(self.live.values()), 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the averaged weights with the model's; a second call undoes it."""
        for name, average in self.weights.items():
            kept = average.clone()
            average.copy_(self.live[name])
            self.live[name].copy_(kept)
