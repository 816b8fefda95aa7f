"""Slot `proposer`: what to try next. Built as `target(params)`; see `foundry.core.contracts.Proposer`.

Each is a pure function of the space, the history and the random numbers that it is handed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

from pydantic import Field

from foundry.core.contracts import Params, Slot, Space, Stack, Tried, Variant
from foundry.lab.search.stacks import added, keep_rates, on_top, settled, without

TRIES = 50
"""Draws per proposal before a proposer gives up finding one that is new."""

Values = Mapping[str, Sequence[str]]


class Grid:
    """Every single mutation of what is kept, in the order of the list; a keep starts it again on top."""

    def __init__(self, params: Params) -> None: ...

    def propose(self, space: Space, history: Sequence[Tried], n: int, random: Random) -> list[Stack]:
        known = _known(space, history)
        stacks = [on_top(space.current, (type, value)) for type, values in space.values.items() for value in values]
        return [stack for stack in dict.fromkeys(stacks) if stack not in known][:n]


class RandomDraws:
    """One mutation on top of what is kept: a random type, then a random value of it."""

    def __init__(self, params: Params) -> None: ...

    def propose(self, space: Space, history: Sequence[Tried], n: int, random: Random) -> list[Stack]:
        return _distinct(n, space, history, lambda: on_top(space.current, _draw(space.values, random)))


class BestOfNParams(Params):
    largest: int = Field(3, ge=1, le=100, description="most mutations in a proposal")


class BestOfN:
    """Independent draws from the original baseline, whatever was kept since: the control that shows what building on
    earlier finds is worth. For one evolutionary search a user measured 0.9924 without and 0.9927 with it
    (codelion/openevolve, issue 100)."""

    def __init__(self, params: BestOfNParams) -> None:
        self.largest = params.largest

    def propose(self, space: Space, history: Sequence[Tried], n: int, random: Random) -> list[Stack]:
        def draw() -> Stack:
            return on_top((), *(_draw(space.original, random) for _ in range(random.randint(1, self.largest))))

        return _distinct(n, space, history, draw)


class EvolutionaryParams(Params):
    cross: float = Field(0.25, ge=0, le=1, description="share of proposals that join what did well before")
    drop: float = Field(0.05, ge=0, le=1, description="share of proposals that leave out one mutation of what is kept")
    prior_keep_rate: float = Field(
        0.1, gt=0, lt=1, description="expected keep rate of a mutation type that was not tried yet: 1 idea in 10 helps"
    )


class Evolutionary:
    """Mutations of what is kept, joined with what did well.

    A mutation's type is drawn by Thompson sampling: each type's keep rate is drawn from what the ledger says of it, a
    beta distribution, and the highest wins. So types that gave something come often, and untried ones now and then.
    Crossing adds to what is kept a mutation that was better than its control but lost to another one of its round.
    """

    def __init__(self, params: EvolutionaryParams) -> None:
        self.params = params

    def propose(self, space: Space, history: Sequence[Tried], n: int, random: Random) -> list[Stack]:
        rates, donors = keep_rates(history), self._donors(space, history)

        def draw() -> Stack:
            chance = random.random()
            if donors and chance < self.params.cross:
                # Of two that did well the better one.
                donor = max(random.choice(donors), random.choice(donors), key=lambda each: each.effect or 0.0)
                return on_top(space.current, *added(donor.stack, donor.parent))
            if space.current and chance > 1 - self.params.drop:
                return without(space.current, random.choice(space.current))
            return on_top(space.current, self._mutation(space.values, rates, random))

        return _distinct(n, space, history, draw)

    def _donors(self, space: Space, history: Sequence[Tried]) -> list[Tried]:
        return [
            each
            for each in history
            if each.fate in ("kept", "passed_over")
            and each.effect is not None
            and each.effect > 0
            and added(on_top(space.current, *added(each.stack, each.parent)), space.current)
        ]

    def _mutation(self, values: Values, rates: Mapping[str, tuple[int, int]], random: Random) -> tuple[str, str]:
        prior = self.params.prior_keep_rate

        def promise(type: str) -> float:
            kept, tried = rates.get(type, (0, 0))
            return random.betavariate(1 + kept, 1 / prior - 1 + tried - kept)

        type = max(values, key=promise)
        return type, random.choice(values[type])


def _draw(values: Values, random: Random) -> tuple[str, str]:
    type = random.choice([*values])
    return type, random.choice(values[type])


def _known(space: Space, history: Sequence[Tried]) -> set[Stack]:
    """What need not be tried: the baseline, what is kept, and what was settled."""
    return settled(history, space.origin) | {space.current, ()}


def _distinct(n: int, space: Space, history: Sequence[Tried], draw: Callable[[], Stack]) -> list[Stack]:
    """Up to `n` new stacks."""
    found: dict[Stack, None] = {}
    if not (space.values and space.original):
        return []
    known = _known(space, history)
    for _ in range(TRIES * n):
        stack = draw()
        if stack not in known:
            found[stack] = None
        if len(found) == n:
            break
    return [*found]


SLOT = Slot("proposer", "", "evolutionary", "what a search tries next")


def _variant(name: str, target: type, params: type[Params], summary: str) -> Variant:
    return Variant("proposer", name, f"{__name__}:{target.__name__}", params, summary)


VARIANTS = [
    _variant("evolutionary", Evolutionary, EvolutionaryParams, "mutate and join what did well, by keep rates"),
    _variant("random", RandomDraws, Params, "one random mutation on top of what is kept"),
    _variant("grid", Grid, Params, "every mutation of what is kept, one after the other"),
    _variant("best_of_n", BestOfN, BestOfNParams, "independent draws from the original baseline: the control"),
]
