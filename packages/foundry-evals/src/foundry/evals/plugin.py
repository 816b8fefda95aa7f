"""What foundry-evals contributes: the section `eval` of an experiment, and the metrics that tasks give.

The validation loss is the trainer's (`training.eval_interval`, `training.eval_tokens`). Tasks are chosen under
`eval.tasks`; none comes with this package yet.
"""

from foundry.core.contracts import Metric, Params, Section, hookimpl

FOUNDRY_API = 1


class EvalParams(Params):
    """How a trained model is judged beyond its validation loss."""


@hookimpl
def foundry_sections() -> list[Section]:
    return [Section("eval", EvalParams, summary="how a trained model is judged beyond its validation loss")]


@hookimpl
def foundry_metrics() -> list[Metric]:
    return [
        Metric("accuracy", higher_is_better=True, summary="the share of items that are right"),
        Metric("bits_per_byte", "bits per byte", summary="of the right answer's text, under the model"),
    ]
