"""What earlier sweeps and searches know of mutations: the memory with which a new search begins."""

from __future__ import annotations

from collections.abc import Iterator

from foundry.core.contracts import Fate, Tried
from foundry.lab.decide.conclusion import Conclusion
from foundry.lab.ledger import Ledger, SweepRow
from foundry.lab.ledger.records import Verdict
from foundry.lab.search.rounds import best_of, effects_of
from foundry.lab.search.stacks import stack_of

_FATES: dict[Verdict, Fate] = {"promote": "kept", "reject": "rejected", "inconclusive": "unproven"}


def earlier(ledger: Ledger, search: str) -> list[Tried]:
    """Every arm that was judged, oldest first, but for this search's own. Stacks count from the baseline of their
    sweep: what was rejected is settled on that generation alone, and keep rates are known on any."""
    history: list[Tried] = []
    for sweep in ledger.sweeps("finished"):
        if sweep.spec["kind"] == "round" and sweep.spec["search"]["id"] != search:
            history += _of_round(sweep)
        elif sweep.spec["kind"] in ("sweep", "audit") and sweep.spec.get("search", {}).get("id") != search:
            history += _of_sweep(sweep)
    return history


def _of_sweep(sweep: SweepRow) -> Iterator[Tried]:
    stacks = {entry["arm"]: stack_of(entry["mutations"]) for entry in sweep.spec["entries"]}
    for arm in Conclusion.from_json(sweep.conclusion or {}).arms:
        effect = arm.judgement.effect if arm.judgement else None
        yield Tried(sweep.spec["generation"], (), stacks[arm.arm], _FATES[arm.verdict], effect)


def _of_round(sweep: SweepRow) -> Iterator[Tried]:
    """One run each settles nothing for anybody else, unless there is no result at all."""
    effects = effects_of(Conclusion.from_json(sweep.conclusion or {})) or {}
    kept, place = best_of(effects, sweep.spec["search"]["least"]), sweep.spec["search"]
    parent = stack_of(place["kept"])
    for entry in sweep.spec["entries"]:
        if (arm := entry["arm"]) in effects:
            fate: Fate = "failed" if effects[arm] is None else "kept" if arm == kept else "unproven"
            stack = (*parent, *stack_of(entry["mutations"]))
            yield Tried(sweep.spec["generation"], parent, stack, fate, effects[arm])
