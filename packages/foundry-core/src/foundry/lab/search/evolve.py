"""The search for real: each step is a sweep in the ledger, and what passes an audit becomes the baseline.

    with open_lab(project, jobs=2) as lab:
        evolved = evolve(lab, SearchSettings(seed=1), Limits(trials=500))

A search that was killed is played again from its beginning. What the ledger has is answered from there, proposals
included, so that it takes the same way even if the ledger or the proposer has learnt more since; the rest is trained.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from foundry.core.registry import registry
from foundry.lab.search.ledger_search import LedgerSearch, Start, Tell
from foundry.lab.search.settings import Evolved, Limits, SearchSettings, Spent, check_room, searches
from foundry.lab.sweep.lab import Lab
from foundry.lab.sweep.plan import informed


def evolve(lab: Lab, settings: SearchSettings, limits: Limits, tell: Tell = lambda facts: None) -> Evolved:
    """Search until a limit is reached or nothing is left to propose.

    Args:
        tell: told the facts of every step, as it ends.

    Raises:
        Stopped: the process was asked to stop; the same call resumes.
        UsageError: there is no such proposer or metric, or the limits leave no room for a round.
    """
    search = _open(lab, settings, limits, tell)
    try:
        return search.run()
    finally:
        lab.ledger.leave_sweep(search.id)


def preview(lab: Lab, settings: SearchSettings, limits: Limits) -> dict[str, Any]:
    """What a search would do next, and what it would cost. Trains nothing and promotes nothing."""
    return _open(lab, settings, limits, lambda facts: None, begin=False).preview()


def _open(lab: Lab, settings: SearchSettings, limits: Limits, tell: Tell, *, begin: bool = True) -> LedgerSearch:
    """The newest search with these settings, or a new one from the baseline that holds now.

    Args:
        begin: write a new one down, and measure the noise for it if it is not known.
    """
    ledger, asked = lab.ledger, settings.to_json()
    registry(lab.project).variant("proposer", settings.proposer)
    begun = [row for row in searches(ledger) if row.quest == asked]
    if begun:
        if begin:
            ledger.start_sweep(begun[-1].spec)  # this process drives it from now on
        return LedgerSearch(lab, settings, limits, tell, Start.of(begun[-1]))
    check_room(settings.policy, settings.rule, limits, limits.left(Spent()))  # before the noise is measured
    plan = lab.of_baseline(settings.question(()))
    known = lab.with_noise(plan) if begin else informed(plan, ledger)
    start = Start("new", plan.generation, known.sigma or 0.0, known.df)
    if begin:
        start = replace(start, search=ledger.start_sweep(start.spec(settings)))
    return LedgerSearch(lab, settings, limits, tell, start)
