"""What scores a trained model: the slot `task`, and the model as a task sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from foundry.core.contracts.plugins import Params

if TYPE_CHECKING:
    from foundry.core.contracts.data import Tokenizer
    from foundry.core.contracts.plugins import Edits


@dataclass(frozen=True)
class Item:
    """One scored item of a task: a question, a document."""

    id: str  # the same for every model: by it two models are compared item by item
    scores: Mapping[str, float]  # one finite number for each of the task's metrics
    cluster: str = ""  # items that stand or fall together, such as those of one subject; empty: none do
    details: Mapping[str, Any] = field(default_factory=dict)  # for a reader, as JSON has it: prompt, answer, expected


class TaskParams(Params):
    """Base of every task's params. Each setting is part of the name of a trial that is scored with it."""

    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    """What it gives, by the names that `foundry_metrics` has for them. The first ranks models, if nobody asks for
    another."""


class ModelHandle(Protocol):
    """A model as a task sees it."""

    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def block_size(self) -> int: ...

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """For (context, continuation): the continuation's log-likelihood in nats, and whether greedy decoding gives
        exactly it."""

    def generate(self, prompts: Sequence[str], *, max_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        """Greedy continuations, to where the model ends them, each cut before the first of `stop` in it."""


class RunHandle(ModelHandle, Protocol):
    """The model of a finished run, which has an experiment and a folder."""

    def train(self, edits: Edits) -> RunHandle:
        """A new model of the same experiment with `edits`, trained from scratch: how a synthetic probe learns."""


class Task(Protocol):
    """Slot `task`; built as `target(params)`, with `TaskParams`."""

    @property
    def digest(self) -> str:
        """Of what its scores depend on beside the model, the settings and the code, such as the hash of a file of
        questions; empty where there is nothing. It is part of the name of a trial."""

    def run(self, handle: RunHandle) -> Iterable[Item]:
        """Score the model; the same items, in the same order, for every model."""
