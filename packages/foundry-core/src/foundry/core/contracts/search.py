"""What proposes the next mutations, and what it knows of those that were tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from random import Random


Stack: TypeAlias = tuple[tuple[str, str], ...]
"""Mutations one after the other, each as (type, value): (("activation", "relu2"), ("depth", "6"))."""


Fate: TypeAlias = Literal["kept", "passed_over", "failed", "rejected", "unproven", "verified"]
"""kept         screened better than a fresh control
passed_over  screened no better, or another one was kept
failed       no valid experiment, or its training has no result
rejected     no better than the verified baseline, by a test on fresh seeds
unproven     that test ended undecided
verified     better by that test: it became the baseline"""


class Tried(NamedTuple):
    """One proposal and what became of it."""

    origin: int  # the generation of the baseline that `stack` starts from
    parent: Stack  # what was kept at the time
    stack: Stack
    fate: Fate
    effect: float | None = None  # how much better than its control it was, in the metric; None: no score


class Space(NamedTuple):
    """What a proposer can choose from. A stack starts from the original baseline of the search, generation `origin`. A
    proposal is a whole stack; it may extend the current one, or start anew."""

    origin: int
    current: Stack  # the stack that is kept now
    values: Mapping[str, Sequence[str]]  # mutation type -> values that are valid on top of `current`
    original: Mapping[str, Sequence[str]]  # the same on top of nothing


class Proposer(Protocol):
    """Slot `proposer`; built as `target(params)`. Its proposals are recorded before they are
    tried, so a killed search resumes with the same proposals, even if the proposer would now make others."""

    def propose(self, space: Space, history: Sequence[Tried], n: int, random: Random) -> Sequence[Stack]:
        """At most `n` different stacks that did not fail or lose on this baseline before; none ends the search.
        `random` is seeded by (the search's seed, the round). Use no other source of chance: then a search can be
        repeated."""
