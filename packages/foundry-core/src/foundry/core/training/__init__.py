"""Training: one loop for one device or several ranks.

run_training.py train(): build or restore everything, run, finish
claim.py        whose a run folder is
init_from.py    the first weights, where they are another run's
trainer.py      the loop;  progress.py  how far it has come
jobs.py         what happens every so many steps, and in which order
dry_run.py      what a run would be, without training
bench.py        the speed of each choice that an experiment leaves open;  side_by_side.py  of several models, in turns
open_rows.py feed.py    the corpus -> this rank's micro-batches
building.py     the model: made, shared among the ranks, filled, given its optimizer
weights.py      its weights and what moves them, by name and whole, however the ranks share them
objective.py    what is minimised
aux_totals.py after_step.py expert_load.py       what layers report beside their outputs, and what becomes of it
optimization.py optimizers as one, the moving average
validation.py   the validation loss
budget.py clock.py     how long, by which clock
checkpoint.py metrics.py samples.py reporter.py profile.py      what is written and shown
device.py memory_check.py randomness.py distributed.py launch.py        where it runs
divergence.py   what has to be finite;  diagnosis.py  whose fault it is that a training failed
"""

from foundry.core.training.dry_run import padding_of, plan, vocab_size_of
from foundry.core.training.reporter import PlainReporter, Reporter
from foundry.core.training.run_training import train
from foundry.core.training.validation import evaluate_run

__all__ = ["PlainReporter", "Reporter", "evaluate_run", "padding_of", "plan", "train", "vocab_size_of"]
