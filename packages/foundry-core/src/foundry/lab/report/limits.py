"""How much the page shows: a browser takes a minute for 50,000 rows, and nobody reads them. `foundry query` has all."""

ROWS = 750
"""Of each table, at most."""
DOTS = 3000
"""Trials in the chart of progress, at most."""
GENERATIONS = 200
"""In the tree, at most; the newest."""
CURVES = 200
"""That are read, at most: those of the newest arms, of the best, and of their controls."""
POINTS = 48
"""Of a curve, at most: the eye sees no more, and 200 curves stay below half a megabyte."""
SEEDS = 32
"""Of a curve, at most; the newest. A mean over more looks the same."""
