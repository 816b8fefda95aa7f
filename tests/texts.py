"""A text of few words, of which the smallest model learns something in a few steps."""

import random

WORDS = ("the", "then", "there", "three", "tree", "hen", "her", "rather", "earth", "heart")


def lines_of_words(number: int) -> str:
    """The same `number` lines of nine words each, every time."""
    draw = random.Random(0)
    return "\n".join(" ".join(draw.choices(WORDS, k=9)) for _ in range(number))
