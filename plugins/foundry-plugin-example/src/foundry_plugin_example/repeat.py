"""Does a model say a made-up word again that its context has? With that, in-context learning begins (Olsson et al.,
2022, arXiv:2209.11895).

    wug wug wu|g      against      dax dax wu|g

`bits_saved` is what the first context saves in bits per byte of the word, `accuracy` whether the model would say it.
"""

import math
import random
from collections.abc import Iterator

from foundry.core.contracts import Item, RunHandle
from foundry_plugin_example.params import RepeatParams


class Repeat:
    digest = ""  # what it asks follows from its settings and from this file

    def __init__(self, params: RepeatParams) -> None:
        self.params = params

    def run(self, handle: RunHandle) -> Iterator[Item]:
        words = made_up(2 * self.params.words)
        asked, others = words[: self.params.words], words[self.params.words :]
        seen = handle.score([(f"{word} " * self.params.times, word) for word in asked])
        unseen = handle.score(
            [(f"{other} " * self.params.times, word) for word, other in zip(asked, others, strict=True)]
        )
        for word, (again, exact), (anew, _) in zip(asked, seen, unseen, strict=True):
            saved = (again - anew) / math.log(2) / len(word)
            yield Item(word, {"bits_saved": saved, "accuracy": float(exact)}, cluster=f"{len(word)} letters")


def made_up(count: int) -> list[str]:
    """Words of 3 to 7 letters, each once, always the same."""
    draw = random.Random(0)
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(draw.choices("aeinorst", k=draw.randint(3, 7)))] = None
    return list(found)
