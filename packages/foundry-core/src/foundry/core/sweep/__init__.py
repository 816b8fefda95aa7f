"""Mutations of the baseline against the baseline: trained in parallel, compared, decided.

question.py   what is asked;  rule.py  by which rule
arms.py budget.py plan.py     the question made concrete for one baseline: experiments and budgets
fingerprint.py workload.py    what its trainings depend on, and which trial each of them is
procedure.py  what is trained, in which order, and what follows: race.py screening.py confirmation.py; measure.py
duel.py       one arm against one control, in pairs of runs
request.py conclusion.py      what passes between a procedure and whoever trains for it, and its end
driver.py     answers a procedure from the ledger and the workers;  simulate.py  answers it with random numbers
worker.py executors/      who trains
lab.py        sweeps from the question to the promotion;  null.py  sweeps with nothing to find;  result.py

from foundry.core.sweep import Question, Rule, open_lab, run_sweep
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

# By name only, because what drives trainings imports torch, and a registry that lists executors does not.
_PUBLIC = {
    "Budget": "foundry.core.sweep.budget",
    "Question": "foundry.core.sweep.question",
    "Rule": "foundry.core.sweep.rule",
    "SweepResult": "foundry.core.sweep.result",
    "open_lab": "foundry.core.sweep.lab",
    "run_sweep": "foundry.core.sweep.lab",
}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
