"""What was counted on a model before, on this machine.

To count, a model runs on the meta device, for which torch imports its compiler. That takes nearly as long as to import
torch itself, before the first step of every training and in every worker of a sweep. So a count is kept in the cache,
under all that decides it: the model's part of the experiment, the vocabulary, and the code, torch's version included.
Code of a plugin is looked at each time, and so is what it may do wrong.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

from foundry.core.code import code_fingerprint, foreign_variants
from foundry.core.config.identity import canonical
from foundry.core.contracts import EnvironmentFailure
from foundry.core.digest import digest
from foundry.core.model import GPT, model_of
from foundry.core.system import code_folder, read_regular, replace_durably

if TYPE_CHECKING:
    from foundry.core.config import Experiment

    Count: TypeAlias = Callable[[Experiment, GPT], Any]

MODEL = ("model_args", "layers")
"""The sections that a model is made of."""
COUNT_BYTES = 2**20

_known: dict[str, Any] = {}


def counted_once(count: Count, experiment: Experiment, vocab_size: int, *more: Any) -> Any:
    """What `count(experiment, model)` returns, or returned before, of the model on the meta device.

    Args:
        count: returns plain JSON. Its name is part of the count's.
        more: plain JSON that decides it besides the model and the vocabulary.
    """

    def counted() -> Any:
        return count(experiment, model_of(experiment, vocab_size, "meta"))

    if foreign_variants(experiment):
        return counted()
    content = canonical(experiment)
    model = [content.get(section) for section in MODEL]
    key = digest(count.__name__, model, vocab_size, code_fingerprint(experiment), *more)
    if key not in _known:
        _known[key] = _kept(key, counted)
    return _known[key]


def _kept(key: str, counted: Callable[[], Any]) -> Any:
    try:
        file = code_folder("counts") / f"{key}.json"  # nobody else may write there: what it says is believed
    except EnvironmentFailure:  # there is no place to keep anything
        return counted()
    with suppress(OSError, ValueError, KeyError, TypeError):  # it was never counted, or the file is damaged
        found = json.loads(read_regular(file, COUNT_BYTES))
        if found["sha256"] == digest(found["count"]):
            return found["count"]
    new = counted()
    with suppress(OSError, EnvironmentFailure):  # counted again next time
        text = json.dumps({"count": new, "sha256": digest(new)})
        replace_durably(file, text.encode(), writer=str(os.getpid()))
    return new
