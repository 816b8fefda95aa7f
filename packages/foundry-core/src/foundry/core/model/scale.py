"""What a scale rule (slot `scaling`) says of one model, parameter by parameter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from foundry.core.contracts import (
    UNSCALED,
    Dims,
    Multipliers,
    Role,
    Scaling,
    ScalingParams,
    Update,
    Weight,
    WeightKind,
    roles,
)

if TYPE_CHECKING:
    from foundry.core.model.gpt import GPT


class Scale:
    """The rule for a model of the sizes `dims`. At the rule's base every answer is 1.

    Args:
        params: the rule's.
        build: makes the rule of its params.
        as_wide_as: makes the same model with another width, on the meta device.
    """

    def __init__(
        self, params: ScalingParams, dims: Dims, build: Callable[..., Scaling], as_wide_as: Callable[[int], GPT]
    ) -> None:
        self._params, self._dims, self._as_wide_as = params, dims, as_wide_as
        self.base: Dims = params.base(dims)
        self.is_base = self.base == dims
        self._rule: Scaling = build("scaling", params, dims, self.base)

    @property
    def multipliers(self) -> Multipliers:
        return UNSCALED if self.is_base else self._rule.multipliers

    def init_factor(self, name: str) -> float:
        """What the initial values of the parameter `name` are multiplied with, once filled as `base_model` does."""
        return 1.0 if self.is_base else self._rule.init_factor(self.weights[name])

    def lr_factor(self, name: str, update: Update) -> float:
        """What an optimizer with such updates multiplies the learning rate of the parameter `name` with."""
        return 1.0 if self.is_base else self._rule.lr_factor(self.weights[name], update)

    def plain(self) -> dict[str, Any]:
        """The rule in words of the experiment: `type`, the sizes of its base that are not the model's, and what it
        multiplies in the forward pass."""
        sizes = {field.name: getattr(self.base, field.name) for field in fields(Dims)}
        multipliers, variant = self.multipliers._asdict().items(), self._params.variant
        return {
            "type": variant.name if variant else "",
            "base": {name: size for name, size in sizes.items() if size != getattr(self._dims, name)},
            "multipliers": {name: factor for name, factor in multipliers if factor != 1},
        }

    @cached_property
    def base_model(self) -> GPT | None:
        """A model as wide as the base, on the meta device; None at the base. What it fills a parameter with does not
        depend on this model's width, so that a module's own rule, such as 1 / sqrt(fan-in), does not act twice."""
        return None if self.is_base else self._as_wide_as(self.base.n_embd)

    @cached_property
    def weights(self) -> dict[str, Weight]:
        """Parameter path -> what of it grows with the width: found by its role, and by comparing shapes with a model
        twice as wide, so that variants need not declare it."""
        model, wider = (self._as_wide_as(times * self._dims.n_embd) for times in (1, 2))
        larger, role = dict(wider.named_parameters()), roles(model)
        found = {}
        for name, parameter in model.named_parameters():
            grows = [size != now for size, now in zip(larger[name].shape, parameter.shape, strict=True)]
            found[name] = Weight(name, kind_of(role[parameter], grows), in_layer=name.startswith("blocks."))
        return found


KINDS: dict[tuple[bool, bool], WeightKind] = {
    (True, True): "hidden",
    (True, False): "input",
    (False, True): "output",
    (False, False): "fixed",
}
"""By whether the fan-out grows, and the fan-in."""


def kind_of(role: Role | None, grows: list[bool]) -> WeightKind:
    """The kind of a parameter of this role, of which these axes grow with the width."""
    match role:
        case "head":
            return "head"
        case "neurons":  # which of them are read does not grow, and what is made of them is as wide as they are
            return "hidden" if grows[-1] else "fixed"
        case "kernel":  # (out, in, ...); one for each channel has an `in` of 1
            fan_out, fan_in = grows[0] and grows[1], grows[1]
        case "matrix" | "router" | "other":
            fan_out, fan_in = grows[-2:]
        case _:
            fan_out, fan_in = bool(grows) and grows[-1], False
    return KINDS[fan_out, fan_in]
