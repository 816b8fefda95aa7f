"""Between experiments: what was tried, what follows from it, what is tried next.

    from foundry.lab import Question, open_lab

    with open_lab(project, jobs=2) as lab:
        result = lab.sweep(Question(stacks=((("attention", "mla"),),)), promote=True)

    ledger/     what happened
    decide/     what follows from it: the rule, the procedures, the statistics; pure
    trials/     trainings: driver, workers, executors; and the name of a trial
    sweep/      mutations of the baseline against the baseline;  search/  sweep after sweep, for days
    ablation.py comparison.py learning_rate.py    what describes, and promotes nothing
    baseline.py   from a decision to the next baseline, and back;  report/  one page that shows all of it

Others use what is named here, and nothing behind it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foundry.core.config.budget import Budget
    from foundry.lab.ablation import Ablation
    from foundry.lab.baseline import rollback
    from foundry.lab.comparison import Compared, Pairing
    from foundry.lab.decide.conclusion import ArmConclusion
    from foundry.lab.decide.rule import Rule
    from foundry.lab.decide.simulate import simulate_null
    from foundry.lab.learning_rate import lr_find
    from foundry.lab.ledger.ledger import Ledger
    from foundry.lab.ledger.lineage import Lineage
    from foundry.lab.ledger.query import query
    from foundry.lab.ledger.why import Why
    from foundry.lab.report import Report
    from foundry.lab.search.evolve import evolve
    from foundry.lab.search.evolve import preview as preview_search
    from foundry.lab.search.policy import Policy
    from foundry.lab.search.settings import Evolved, Limits, SearchSettings
    from foundry.lab.sweep.arms import Axis
    from foundry.lab.sweep.lab import Lab, open_lab
    from foundry.lab.sweep.plan import Plan
    from foundry.lab.sweep.question import Question
    from foundry.lab.sweep.reporter import SweepReporter
    from foundry.lab.sweep.result import SweepResult
    from foundry.lab.trials.driver import Running

# By name only: what drives trainings imports torch, and who lists executors or reads a ledger does not.
_PUBLIC = {
    "Ablation": "ablation:Ablation",
    "ArmConclusion": "decide.conclusion:ArmConclusion",
    "Axis": "sweep.arms:Axis",
    "Budget": "trials.costs:Budget",
    "Compared": "comparison:Compared",
    "evolve": "search.evolve:evolve",
    "Evolved": "search.settings:Evolved",
    "Lab": "sweep.lab:Lab",
    "Ledger": "ledger.ledger:Ledger",
    "Limits": "search.settings:Limits",
    "Lineage": "ledger.lineage:Lineage",
    "lr_find": "learning_rate:lr_find",
    "open_lab": "sweep.lab:open_lab",
    "Pairing": "comparison:Pairing",
    "Plan": "sweep.plan:Plan",
    "Policy": "search.policy:Policy",
    "preview_search": "search.evolve:preview",
    "query": "ledger.query:query",
    "SearchSettings": "search.settings:SearchSettings",
    "Question": "sweep.question:Question",
    "Report": "report:Report",
    "rollback": "baseline:rollback",
    "Rule": "decide.rule:Rule",
    "Running": "trials.driver:Running",
    "simulate_null": "decide.simulate:simulate_null",
    "SweepReporter": "sweep.reporter:SweepReporter",
    "SweepResult": "sweep.result:SweepResult",
    "Why": "ledger.why:Why",
}

__all__ = [
    "Ablation",
    "ArmConclusion",
    "Axis",
    "Budget",
    "Compared",
    "Evolved",
    "Lab",
    "Ledger",
    "Limits",
    "Lineage",
    "Pairing",
    "Plan",
    "Policy",
    "Question",
    "Report",
    "Rule",
    "Running",
    "SearchSettings",
    "SweepReporter",
    "SweepResult",
    "Why",
    "evolve",
    "lr_find",
    "open_lab",
    "preview_search",
    "query",
    "rollback",
    "simulate_null",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return [*__all__]
