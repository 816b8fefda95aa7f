"""A trained model from its run folder: the checkpoint that is wanted, the tokenizer, the experiment, the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from foundry.core.contracts import InvalidData, Tokenizer
from foundry.core.run import Run, read_json
from foundry.core.system import TOKENIZER_BYTES

if TYPE_CHECKING:
    from foundry.core.config import Experiment
    from foundry.core.model import GPT
    from foundry.core.training.checkpoint import Checkpoint


class LoadedRun(NamedTuple):
    """What `load_run` returns."""

    config: Experiment
    tokenizer: Tokenizer
    model: GPT


def load_run(
    path: str | Path, checkpoint: str = "last", *, device: str = "cpu", note: Callable[[str], None] | None = None
) -> LoadedRun:
    """The experiment, tokenizer and trained model of a run folder.

    Args:
        path: the run folder.
        checkpoint: `last`, `best` (lowest validation loss that was saved), or a step number.
        device: where the model goes.
        note: called with what a person should know: a damaged checkpoint was passed over.

    Returns:
        config, tokenizer, model. The model is in eval mode and holds the moving average where the run keeps one.

    Raises:
        InvalidData: no such run, or no checkpoint of it can be used.
        EnvironmentFailure: this machine has no such device.
    """
    run = Run(Path(path))
    return restored(run, choose_checkpoint(run, checkpoint, note), device=device)


def restored(run: Run, saved: Checkpoint, *, device: str = "cpu") -> LoadedRun:
    """What `load_run` returns, from one checkpoint of the run."""
    from foundry.core.config import from_plain
    from foundry.core.project import find_project
    from foundry.core.training.device import require

    require(device)
    around = find_project(run.path)
    project = around if around != run.path.resolve() else Path.cwd()  # variants/ may be here, the run elsewhere
    experiment = from_plain(run.config()["experiment"], project=project, source=str(run.config_file))
    tokenizer = read_tokenizer(run, experiment)
    if saved.state["tokenizer"] != tokenizer.hash:
        raise InvalidData(f"{run.tokenizer_file} is not the tokenizer that {run.path} was trained with")
    model = rebuilt(experiment, tokenizer.vocab_size, saved.judged_weights, device=device, source=str(run.path))
    return LoadedRun(experiment, tokenizer, model.eval())


def rebuilt(experiment: Experiment, vocab_size: int, weights: Mapping[str, Any], *, device: Any, source: str) -> GPT:
    """The model that named tensors are of.

    Raises:
        InvalidData: as `check_weights` does.
    """
    from foundry.core.model import model_of
    from foundry.core.model.init import materialize

    model = model_of(experiment, vocab_size, "meta")
    check_weights(model, weights, source=source)  # what does not fit is said before memory is spent
    materialize(model, device)
    restore_weights(model, weights, source=source)
    return model


def check_weights(model: Any, weights: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """A model's parameters and saved buffers, of which each is to have its value among `weights`. The model may be on
    the meta device.

    Raises:
        InvalidData: a parameter is missing, unknown, or has another shape; the message names the first.
    """
    from foundry.core.tensors import saved_parts

    own = saved_parts(model)
    for name in sorted(own.keys() | weights.keys()):
        if name not in weights or name not in own:
            where = "the checkpoint" if name not in weights else "the model"
            raise InvalidData(f"{source}: parameter {name} is not in {where}")
        if own[name].shape != weights[name].shape:
            shapes = f"{tuple(weights[name].shape)}, the model's is {tuple(own[name].shape)}"
            raise InvalidData(f"{source}: parameter {name} has shape {shapes}")
    return own


def restore_weights(model: Any, weights: Mapping[str, Any], *, source: str) -> None:
    """Copy named tensors, each of them whole, into a model's parameters.

    Raises:
        InvalidData: as `check_weights` does.
    """
    from foundry.core.tensors import copy_into

    own = check_weights(model, weights, source=source)
    for name, parameter in own.items():
        copy_into(parameter, weights[name])


def read_tokenizer(run: Run, experiment: Experiment) -> Tokenizer:
    """The tokenizer that a run was trained with.

    Raises:
        InvalidData: its file is missing, damaged or altered, or of a type that no plugin here knows.
    """
    file = run.tokenizer_file
    data = read_json(file, {"type": str}, "restore it from a copy of the run", at_most=TOKENIZER_BYTES)
    if data["type"] not in experiment.registry.variants("tokenizer"):
        raise InvalidData(f"{file}: no tokenizer is of type {data['type']!r}", "install the plugin that has it")
    try:
        tokenizer: Tokenizer = experiment.registry.variant("tokenizer", data["type"]).load().from_json(data)
    except InvalidData as error:
        raise InvalidData(f"{file}: {error.message}", error.hint) from error
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidData(f"{file}: damaged: {error!r}", "restore it from a copy of the run") from error
    return tokenizer


def choose_checkpoint(run: Run, which: str, note: Callable[[str], None] | None = None) -> Checkpoint:
    """`last`, `best` or the one of a step. Of those that are asked for by name, a damaged one is refused.

    Raises:
        InvalidData: this is no run, it has none such, or it is damaged.
    """
    from foundry.core.training import checkpoint as checkpoints

    run.config()  # what is no run folder is called so first
    steps = checkpoints.steps(run.checkpoints)
    there_are = f"there are {', '.join(map(str, steps))}" if steps else "there is none yet: train it first, or longer"
    if which in ("last", "best"):
        last = checkpoints.newest(run.checkpoints, warn=note or (lambda text: None), quarantine=False)
        if last is None:
            raise InvalidData(f"{run.path} has no checkpoint", there_are)
        best = last.state.get("jobs", {}).get("validate", last.state).get("best_step")  # outside in old ones
        if which == "last" or best is None:
            return last
        which = str(best)
    if which not in map(str, steps):
        raise InvalidData(f"{run.path} has no checkpoint {which}", there_are)
    return checkpoints.load(checkpoints.path_of(run.checkpoints, int(which)))
