"""What foundry-evals contributes: the section `eval` of an experiment, so far without keys of its own.

The validation loss is the trainer's (`training.eval_interval`, `training.eval_tokens`); tasks such as GSM8K will be
chosen here, by evaluators that meet `foundry.core.contracts.Evaluator`.
"""

from foundry.core.contracts import Params, Section, hookimpl

FOUNDRY_API = 1


class EvalParams(Params):
    """How a trained model is judged beyond its validation loss."""


@hookimpl
def foundry_sections() -> list[Section]:
    return [Section("eval", EvalParams, summary="how a trained model is judged beyond its validation loss")]
