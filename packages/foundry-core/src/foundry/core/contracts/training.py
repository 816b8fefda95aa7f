"""What trains a model: the slots `loss`, `optimizer`, `scaling` and `schedule`; and what a training does besides its
steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from foundry.core.contracts.model import Aux, Dims, Multipliers
from foundry.core.contracts.parameters import Update, Weight
from foundry.core.contracts.plugins import Params

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from foundry.core.contracts.data import Batch


class Loss(Protocol):
    """Slot `loss`; built as `target(params, dims)`."""

    def __call__(self, hidden: Tensor, head: Callable[[Tensor], Tensor], batch: Batch) -> tuple[Tensor, Tensor, Aux]:
        """hidden (B, T, C), head: (..., C) -> logits (..., V) -> (sum of token losses, number of supervised tokens,
        aux). It may call head on parts of hidden, or not at all: if `head.softcap` is None, the logits are
        hidden @ head.weight.T."""


class ObjectiveContext(Protocol):
    """What an objective may use of the training around it."""

    @property
    def dims(self) -> Dims: ...
    @property
    def loss(self) -> Loss:
        """The loss that `training.loss` chooses."""

    def reference(self) -> nn.Module:
        """The model as it was at the start of this training, also after a resume: in eval mode, and without gradients.

        Raises:
            InvalidData: the training started from weights of `init_from` that are gone or have changed.
        """

    def forward(self, model: nn.Module, batch: Batch, read: Callable[[Tensor, Any, Aux], Any] = ...) -> Any:
        """The result of `read(hidden, head, aux)` for the rows of a batch; without `read`, logits (B, T, V). The model
        gets all that the batch knows of its tokens: positions, documents, and padding."""

    def generate(self, prompt: Tensor, max_tokens: int, *, seeds: Sequence[int], temperature: float = 1.0) -> Tensor:
        """Text from the trained model as it is now: prompt (B, T) int64 -> (B, max_tokens) int64. Each row is drawn by
        its own generator, from its seed, which must follow from the content of that row; temperature 0 is greedy."""


class Objective(Protocol):
    """Slot `objective`, an nn.Module; built as `target(params, context)`, with an `ObjectiveContext`: the loss of a
    step from its rows. Its own models and parameters are frozen: not trained, and not saved. Its result must follow
    from the rows and the weights alone, so that a resume is exact. Each row's part must follow from that row alone, so
    that the result does not depend on how a batch is cut."""

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Aux]:
        """The trained model and rows -> (sum of their losses, number of tokens in it, aux), ready for backward. A
        training divides the sums of a step by the supervised tokens of its rows.

        Everything with a gradient comes from calls of `model`. For the rows of the batch, `ObjectiveContext.forward`
        makes the call. For other rows, `model(ids, positions=, segments=, is_token=, read=)` returns (what
        `read(hidden, head, aux)` makes of the hidden states (B, T, C), of the head and of what layers report, by
        default logits (B, T, V); None). The head works only inside `read`: if ranks share weights, each has them only
        during the call."""


class OptimizerParams(Params):
    """Base of every optimizer's params: `hidden_update` says how it changes the hidden matrices."""

    hidden_update: ClassVar[Update] = "elementwise"


class OptimizerFactory(Protocol):
    """Slot `optimizer`: the target itself is this function."""

    def __call__(self, params: Any, model: nn.Module, learning_rate: float) -> list[torch.optim.Optimizer]:
        """Every trainable parameter of `model` in exactly one group of one optimizer. The schedule multiplies the
        initial learning rate of each group: `learning_rate` times the factor of its parameters in `lr_factors`. The
        decay of a step, learning rate times weight decay, must be the same as without the factor. Only parameters whose
        role in `roles` is in `DECAYING` decay."""


class ScalingParams(Params):
    """Base of every scale rule's params. A field `base_X`, such as `base_n_embd`, is the X of the model that the
    experiment's numbers were found with; null: this model's own. Mutations of X do not change the base."""

    def base(self, dims: Dims) -> Dims:
        """The sizes at which every factor is 1."""
        given = {of: getattr(self, name) for name, of in self._bases().items()}
        return replace(dims, **{of: size for of, size in given.items() if size is not None})

    def resized(self, old: Dims, new: Dims) -> Mapping[str, Any]:
        """The old sizes become the base, if none was given."""
        open = {name: of for name, of in self._bases().items() if getattr(self, name) is None}
        return {name: getattr(old, of) for name, of in open.items() if getattr(old, of) != getattr(new, of)}

    @classmethod
    def _bases(cls) -> dict[str, str]:
        """Field -> the size of a model that it is the base of."""
        bases = {name: name.removeprefix("base_") for name in cls.model_fields if name.startswith("base_")}
        return {name: of for name, of in bases.items() if of in Dims.__dataclass_fields__}


class Scaling(Protocol):
    """Slot `scaling`; built as `target(params, dims, base)`, without torch: how initial weights, learning rates and the
    forward pass follow from the sizes `dims`, relative to those of `base`. In a model of the base's sizes every answer
    must be 1, and it is not called."""

    @property
    def multipliers(self) -> Multipliers: ...
    def init_factor(self, weight: Weight) -> float:
        """The factor on the initial values."""

    def lr_factor(self, weight: Weight, update: Update) -> float:
        """The factor on the learning rate, for an optimizer with such updates."""


class Schedule(Protocol):
    """Slot `schedule`; built as `target(params)`."""

    def __call__(self, step: int, progress: float) -> float:
        """The factor on the learning rate for optimizer step `step` (from 0), when the share `progress` in [0, 1] of
        the budget is used up."""


@dataclass
class Moment:
    """Between two steps, when jobs are asked whether they are due. But for `figures` the same on every rank."""

    step: int  # that are done
    ended: bool = False  # the budget is spent: this is the last moment
    stopping: bool = False  # the training was asked to stop: save, and begin nothing that takes long
    checkpoint: Callable[[], Any] = lambda: None
    """Everything that a resumed training needs. Every rank must call it, and none may keep this function: it holds the
    whole training."""
    figures: dict[str, float] = field(default_factory=dict)  # what jobs have measured at this moment: its row has them


class Job(Protocol):
    """What a training does besides its steps, every N steps."""

    name: str

    def is_due(self, now: Moment) -> bool:
        """Whether to run now. A job that already ran for this step is not due again: a resumed training asks once
        more."""

    def run(self, now: Moment) -> Mapping[str, float] | None:
        """Do it. Every rank runs it.

        Returns:
            What was measured: of jobs before the log it is in the row of this step. None where a signal has cut it
            short. It is then due again, and a resumed training does it first.
        """

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, as JSON has it."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned, or from that of a version with fewer or more keys."""
