"""Training: one loop for one device or several ranks.

setup.py        train(): build or restore everything, run, finish
claim.py        whose a run folder is
initial.py      the first weights, where they are another run's
trainer.py      the loop;  progress.py  how far it has come
jobs.py         what happens every so many steps, and in which order
plan.py         what a run would be, and what it came to, without training
bench.py        the speed of each choice that an experiment leaves open
rows.py feed.py the corpus -> this rank's micro-batches
building.py     the model: made, shared among the ranks, filled, given its optimizer
weights.py      its weights and what moves them, by name and whole, however the ranks share them
objective.py    what is minimised
reported.py after_step.py expert_load.py       what layers report beside their outputs, and what becomes of it
optimization.py optimizers as one, the moving average
evaluation.py   the validation loss
horizon.py clock.py     how long, by which clock
checkpoint.py metrics.py samples.py report.py profile.py      what is written and shown
device.py room.py randomness.py distributed.py launch.py        where it runs
diagnosis.py    whose fault it is that a training failed
"""

from foundry.core.training.plan import evaluate_run, padding_of, plan, vocab_size_of
from foundry.core.training.report import PlainReporter, Reporter
from foundry.core.training.setup import train

__all__ = ["PlainReporter", "Reporter", "evaluate_run", "padding_of", "plan", "train", "vocab_size_of"]
