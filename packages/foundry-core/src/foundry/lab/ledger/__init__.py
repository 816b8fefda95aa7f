"""Everything that was tried, decided and promoted in a project, in .foundry/ beside its experiments.

    records.py  the plain values that cross this wall;  sweep_row.py  the largest of them
    ledger.py   Ledger: what drivers, workers and commands do with it, in two halves:
                queue.py, what is run, and archive.py, what was learnt
    store.py    transactions that are events;  reader.py  a ledger where nothing can be written
    events.py   what each kind of event does to the tables;  schema.py  the tables;  journal.py  events.jsonl
    copies.py   the database and events.jsonl compared, and either made anew from the other
    lease.py    who holds a claim, and whether it still does
    query.py    `slot=attention verdict=reject` -> rows;  why.py  what a decision rests on
    lineage.py  Lineage: every baseline; and as lines, at the head of experiments/baseline.yaml

Nothing here imports torch.
"""

from foundry.lab.ledger.ledger import Ledger
from foundry.lab.ledger.records import (
    Attempt,
    Decision,
    Evidence,
    ExperimentRow,
    Generation,
    LostClaim,
    Noise,
    Refusal,
    StaleBaseline,
    Terms,
    Trial,
    TrialRow,
    Wanted,
)
from foundry.lab.ledger.sweep_row import SweepRow

__all__ = [
    "Attempt",
    "Decision",
    "Evidence",
    "ExperimentRow",
    "Generation",
    "Ledger",
    "LostClaim",
    "Noise",
    "Refusal",
    "StaleBaseline",
    "SweepRow",
    "Terms",
    "Trial",
    "TrialRow",
    "Wanted",
]
