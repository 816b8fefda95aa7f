"""What every task must do. A stand-in answers for the model, by the texts alone, so nothing is trained."""

import random
from collections.abc import Sequence
from hashlib import sha256
from typing import Self

from foundry.core.config import from_plain
from foundry.core.config.assemble import edit
from foundry.core.contracts import Edits, InvalidData, Item, PluginError, Task, TaskParams, Tokenizer
from foundry.core.registry import registry
from foundry.core.tasks import NamedTask, scored
from foundry.core.testing.case import Case

CHECKS = ("items_are_scored", "digest_is_fixed", "runs_alike", "asks_every_model_the_same")
BASIC = "items_are_scored"

LETTERS = "0123456789 abcdefghijklmnopqrstuvwxyz.\n"


def items_are_scored(case: Case) -> None:
    """There are items, each with an id of its own, one finite number for each metric that the params name and no other,
    and details as JSON has them."""
    items_of(case)


def digest_is_fixed(case: Case) -> None:
    """The digest is a text, and that of another build is the same: it is part of a trial's name."""
    first, second = case.build().digest, case.build().digest
    assert isinstance(first, str), f"the digest is {first!r}, and has to be a text"
    assert first == second, f"the digest is {first!r}, and then {second!r}"


def runs_alike(case: Case) -> None:
    """The same model gets the same items, however often the task was run before."""
    task = case.build()
    first = items_of(case, task)
    for again, words in ((items_of(case, task), "run again"), (items_of(case), "made anew")):
        changed = next((a.id for a, b in zip(first, again, strict=False) if a != b), "")
        assert first == again, f"{words}, it gives other items to the same model, from {changed!r} on"


def asks_every_model_the_same(case: Case) -> None:
    """Another model gets items of the same ids in the same order: two models are compared item by item."""
    ids, others = ([item.id for item in items_of(case, answers=answers)] for answers in ("one", "another"))
    assert ids == others, "with other answers, it gives items of other ids, or in another order"


def items_of(case: Case, task: Task | None = None, answers: str = "one") -> tuple[Item, ...]:
    """What a task, by default one that is made anew, gives a stand-in for a model."""
    assert isinstance(case.params, TaskParams)
    task, handle = task or case.build(), StandIn(case.dims.block_size, answers)
    try:
        return scored(task, handle, NamedTask(case.name, case.params)).items
    except (InvalidData, PluginError) as error:
        raise AssertionError(f"{error}") from error


class StandIn:
    """A `RunHandle` without a model: what it answers follows from its name and the texts.

    Args:
        name: two with different names answer differently.
    """

    def __init__(self, block_size: int, name: str) -> None:
        self.block_size, self.name = block_size, name

    @property
    def tokenizer(self) -> Tokenizer:
        byte = registry().variant("tokenizer", "byte")
        made: Tokenizer = byte.load().learn(byte.params(), None)  # it learns nothing of a text
        return made

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """1 to 3 nats for each byte; about a third of the continuations is what greedy decoding gives."""
        shares = [self._draw(context, continuation).random() for context, continuation in pairs]
        lengths = [len(continuation.encode()) for _, continuation in pairs]
        return [(-(1 + 2 * share) * length, share < 1 / 3) for share, length in zip(shares, lengths, strict=True)]

    def generate(self, prompts: Sequence[str], *, max_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        """Letters, digits, blanks and ends of lines."""
        return [self._continuation(prompt, max_tokens, stop) for prompt in prompts]

    def train(self, edits: Edits) -> Self:
        """Itself, where the edits are possible ones of the default experiment."""
        edit(from_plain({}), edits, "the task")
        return self

    def _continuation(self, prompt: str, max_tokens: int, stop: Sequence[str]) -> str:
        text = "".join(self._draw(prompt).choices(LETTERS, k=max_tokens))
        return text[: min((at for word in stop if (at := text.find(word)) >= 0), default=len(text))]

    def _draw(self, *texts: str) -> random.Random:
        return random.Random(sha256("\0".join((self.name, *texts)).encode()).digest())
