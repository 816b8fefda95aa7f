"""Between experiments: what was tried, what follows from it, what is tried next.

    from foundry.lab import Question, open_lab

    with open_lab(project, jobs=2) as lab:
        result = lab.sweep(Question(stacks=((("attention", "mla"),),)), promote=True)

    ledger/     what happened
    decide/     what follows from it: the rule, the procedures, the statistics; pure
    trials/     who trains: driver, workers, executors; and what a training is known by
    sweep/      mutations of the baseline against the baseline;  search/  sweep after sweep, for days
    ablation.py comparison.py learning_rate.py    what describes, and promotes nothing
    promotion.py   from a decision to the next baseline, and back;  report/  one page that shows all of it

Others use what is named here, and nothing behind it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foundry.lab.ablation import Ablation, ablate
    from foundry.lab.comparison import Compared, Pairing, compare, pair
    from foundry.lab.comparison import preview as preview_comparison
    from foundry.lab.decide.power import characteristic, smallest_decidable
    from foundry.lab.decide.request import CONTROL
    from foundry.lab.decide.rule import Rule
    from foundry.lab.decide.simulate import simulate_null
    from foundry.lab.learning_rate import lr_find
    from foundry.lab.ledger.ledger import Ledger
    from foundry.lab.ledger.lineage import ancestry, standing, was_edited
    from foundry.lab.ledger.query import KEYS as QUERY_KEYS
    from foundry.lab.ledger.query import query
    from foundry.lab.ledger.records import Decision, Generation, span
    from foundry.lab.ledger.why import Why, why
    from foundry.lab.promotion import current_baseline, promote, rollback
    from foundry.lab.report.data import read as read_report
    from foundry.lab.report.page import render as render_report
    from foundry.lab.search.loop import Policy
    from foundry.lab.search.quest import Evolved, Limits, Quest
    from foundry.lab.search.run import evolve, last_quest
    from foundry.lab.search.run import preview as preview_search
    from foundry.lab.search.stacks import words as stack_words
    from foundry.lab.sweep.arms import Axis, grid
    from foundry.lab.sweep.dry_run import dry_run
    from foundry.lab.sweep.null import null_sweeps
    from foundry.lab.sweep.question import Question
    from foundry.lab.sweep.reporter import SweepReporter
    from foundry.lab.sweep.result import SweepResult
    from foundry.lab.sweep.session import Lab, open_lab, run_sweep
    from foundry.lab.trials.budget import Budget
    from foundry.lab.trials.driver import Running

# By name only: what drives trainings imports torch, and who lists executors or reads a ledger does not.
_PUBLIC = {
    "ablate": "ablation:ablate",
    "Ablation": "ablation:Ablation",
    "ancestry": "ledger.lineage:ancestry",
    "Axis": "sweep.arms:Axis",
    "Budget": "trials.budget:Budget",
    "characteristic": "decide.power:characteristic",
    "compare": "comparison:compare",
    "Compared": "comparison:Compared",
    "CONTROL": "decide.request:CONTROL",
    "current_baseline": "promotion:current_baseline",
    "Decision": "ledger.records:Decision",
    "dry_run": "sweep.dry_run:dry_run",
    "evolve": "search.run:evolve",
    "Evolved": "search.quest:Evolved",
    "Generation": "ledger.records:Generation",
    "grid": "sweep.arms:grid",
    "Lab": "sweep.session:Lab",
    "last_quest": "search.run:last_quest",
    "Ledger": "ledger.ledger:Ledger",
    "Limits": "search.quest:Limits",
    "lr_find": "learning_rate:lr_find",
    "null_sweeps": "sweep.null:null_sweeps",
    "open_lab": "sweep.session:open_lab",
    "pair": "comparison:pair",
    "Pairing": "comparison:Pairing",
    "Policy": "search.loop:Policy",
    "preview_comparison": "comparison:preview",
    "preview_search": "search.run:preview",
    "promote": "promotion:promote",
    "query": "ledger.query:query",
    "QUERY_KEYS": "ledger.query:KEYS",
    "Quest": "search.quest:Quest",
    "Question": "sweep.question:Question",
    "read_report": "report.data:read",
    "render_report": "report.page:render",
    "rollback": "promotion:rollback",
    "Rule": "decide.rule:Rule",
    "run_sweep": "sweep.session:run_sweep",
    "Running": "trials.driver:Running",
    "simulate_null": "decide.simulate:simulate_null",
    "smallest_decidable": "decide.power:smallest_decidable",
    "span": "ledger.records:span",
    "stack_words": "search.stacks:words",
    "standing": "ledger.lineage:standing",
    "SweepReporter": "sweep.reporter:SweepReporter",
    "SweepResult": "sweep.result:SweepResult",
    "was_edited": "ledger.lineage:was_edited",
    "Why": "ledger.why:Why",
    "why": "ledger.why:why",
}

__all__ = [
    "CONTROL",
    "QUERY_KEYS",
    "Ablation",
    "Axis",
    "Budget",
    "Compared",
    "Decision",
    "Evolved",
    "Generation",
    "Lab",
    "Ledger",
    "Limits",
    "Pairing",
    "Policy",
    "Quest",
    "Question",
    "Rule",
    "Running",
    "SweepReporter",
    "SweepResult",
    "Why",
    "ablate",
    "ancestry",
    "characteristic",
    "compare",
    "current_baseline",
    "dry_run",
    "evolve",
    "grid",
    "last_quest",
    "lr_find",
    "null_sweeps",
    "open_lab",
    "pair",
    "preview_comparison",
    "preview_search",
    "promote",
    "query",
    "read_report",
    "render_report",
    "rollback",
    "run_sweep",
    "simulate_null",
    "smallest_decidable",
    "span",
    "stack_words",
    "standing",
    "was_edited",
    "why",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return [*__all__]
