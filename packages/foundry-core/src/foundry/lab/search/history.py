"""What earlier sweeps and searches know of mutations: the memory with which a new search begins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from foundry.core.contracts import Fate, Tried
from foundry.lab.decide.conclusion import Conclusion
from foundry.lab.ledger import SweepRow
from foundry.lab.ledger.records import Verdict
from foundry.lab.search.rounds import best_of, effects_of

_FATES: dict[Verdict, Fate] = {"promote": "kept", "reject": "rejected", "inconclusive": "unproven"}


def earlier(sweeps: Iterable[SweepRow], search: str) -> list[Tried]:
    """Every arm that was judged, in the order of the sweeps, but for this search's own. Stacks count from the baseline
    of their sweep: what was rejected is settled on that generation alone, and keep rates are known on any."""
    history: list[Tried] = []
    for sweep in sweeps:
        if sweep.status != "finished" or (sweep.search is not None and sweep.search.search == search):
            continue
        if sweep.kind == "round":
            history += _of_round(sweep)
        elif sweep.kind in ("sweep", "audit"):
            history += _of_sweep(sweep)
    return history


def _of_sweep(sweep: SweepRow) -> Iterator[Tried]:
    stacks = {each.arm: each.mutations for each in sweep.arms}
    for arm in Conclusion.from_json(sweep.conclusion or {}).arms:
        effect = arm.judgement.effect if arm.judgement else None
        yield Tried(_origin(sweep), (), stacks[arm.arm], _FATES[arm.verdict], effect)


def _of_round(sweep: SweepRow) -> Iterator[Tried]:
    """One run each settles nothing for anybody else, unless there is no result at all."""
    assert sweep.search is not None
    effects, parent = effects_of(Conclusion.from_json(sweep.conclusion or {})) or {}, sweep.search.kept
    kept = best_of(effects, sweep.search.least)
    for arm, _, mutations, _ in sweep.arms:
        if arm in effects:
            fate: Fate = "failed" if effects[arm] is None else "kept" if arm == kept else "unproven"
            yield Tried(_origin(sweep), parent, (*parent, *mutations), fate, effects[arm])


def _origin(sweep: SweepRow) -> int:
    assert sweep.generation is not None  # of these kinds, all are compared with a baseline
    return sweep.generation
