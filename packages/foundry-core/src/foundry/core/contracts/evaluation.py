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

    id: str  # the same for every model: two models are compared item by item
    scores: Mapping[str, float]  # one finite number for each of the task's metrics
    cluster: str = ""  # items that tend to be right or wrong together, such as those of one subject; empty: none
    details: Mapping[str, Any] = field(default_factory=dict)  # for a reader, as JSON: prompt, answer, expected


class TaskParams(Params):
    """Base of every task's params. Each setting is part of the name of a trial that is scored with it."""

    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    """The names of its metrics, as `foundry_metrics` defines them. The first ranks models, unless another is chosen."""


class ModelHandle(Protocol):
    """A model as a task sees it."""

    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def block_size(self) -> int: ...

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """For each (context, continuation): the continuation's log-likelihood in nats, and whether greedy decoding
        gives exactly this continuation."""

    def generate(self, prompts: Sequence[str], *, max_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        """Greedy continuations, until the model ends them; each is cut before the first of `stop` in it."""


class RunHandle(ModelHandle, Protocol):
    """The model of a finished run, which has an experiment and a folder."""

    def train(self, edits: Edits) -> RunHandle:
        """A new model of the same experiment with `edits`, trained from scratch: how a synthetic probe learns."""


class Task(Protocol):
    """Slot `task`; built as `target(params)`, with `TaskParams`."""

    @property
    def digest(self) -> str:
        """A hash of what its scores depend on besides the model, the settings and the code, such as a file of
        questions; empty if there is nothing. It is part of the name of a trial."""

    def run(self, handle: RunHandle) -> Iterable[Item]:
        """Score the model; the same items, in the same order, for every model."""
