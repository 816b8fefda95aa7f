"""How much the page shows: a browser takes a minute for 50,000 rows, which no reader wants. `foundry query` has all."""

from __future__ import annotations

from collections.abc import Sequence

ROWS = 750
"""Of each table, at most; of the leaderboards of all groups together."""
DOTS = 3000
"""Trials in the chart of progress, at most; of all groups together."""
GROUPS = 24
"""Budgets and metrics that can be chosen, at most; those with most trainings."""
GENERATIONS = 200
"""In the tree, at most; the newest."""
CURVES = 200
"""That are read, at most: those of the newest arms, of the best, and of their controls."""
POINTS = 48
"""Of a curve, at most: the eye sees no more, and 200 curves stay below half a megabyte."""
SEEDS = 32
"""Of a curve, at most; the newest. A mean over more looks the same."""


def shared(sizes: Sequence[int], total: int) -> list[int]:
    """How many of each may be shown, so that it is `total` together: all of what is few, as many of each rest."""
    granted, left = dict[int, int](), total
    for place, which in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        granted[which] = min(sizes[which], left // (len(sizes) - place))
        left -= granted[which]
    return [granted[which] for which in range(len(sizes))]
