"""Stacks of mutations: what one adds to another, and how they are joined."""

from __future__ import annotations

from collections.abc import Iterable

from foundry.core.contracts import Stack, Tried

SETTLED = ("passed_over", "failed", "rejected", "verified")
"""Fates after which a stack is not proposed again on the same baseline."""


def on_top(stack: Stack, *mutations: tuple[str, str]) -> Stack:
    """`stack` with more mutations. One replaces an earlier one that set the same: after depth 6, depth 5 is void."""
    for mutation in mutations:
        stack = (*(each for each in stack if _target(each) != _target(mutation)), mutation)
    return stack


def without(stack: Stack, mutation: tuple[str, str]) -> Stack:
    return tuple(each for each in stack if each != mutation)


def added(stack: Stack, parent: Stack) -> Stack:
    """The mutations of `stack` that `parent` has not."""
    return tuple(each for each in stack if each not in parent)


def settled(history: Iterable[Tried], origin: int) -> set[Stack]:
    """The stacks of which it is known what becomes of them on the baseline of generation `origin`."""
    return {each.stack for each in history if each.origin == origin and each.fate in SETTLED}


def keep_rates(history: Iterable[Tried]) -> dict[str, tuple[int, int]]:
    """Mutation type -> (how often a stack that added it was kept or verified, how often one was judged), on any
    baseline. A kept stack that its audit rejects thus counts for and against its types."""
    counts: dict[str, tuple[int, int]] = {}
    for each in history:
        for type in {type for type, _ in added(each.stack, each.parent)}:
            good, judged = counts.get(type, (0, 0))
            counts[type] = good + (each.fate in ("kept", "verified")), judged + 1
    return counts


def stack_of(mutations: Iterable[Iterable[str]]) -> Stack:
    """A stack from JSON, or from anybody else. Raises ValueError or TypeError for what is none."""
    pairs = [tuple(mutation) for mutation in mutations]
    if not all(len(pair) == 2 and all(isinstance(part, str) for part in pair) for pair in pairs):
        raise ValueError(f"{pairs} is not a stack of mutations, each a type and a value")
    return tuple((type, value) for type, value in pairs)


def _target(mutation: tuple[str, str]) -> str:
    """What a mutation sets: its type, but for `param position.theta=2e4` that one param."""
    type, value = mutation
    return f"{type} {value.partition('=')[0]}" if "=" in value else type
