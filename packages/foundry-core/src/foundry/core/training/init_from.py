"""`init_from`: the first weights of a run, where they are another's and not its seed's. Whose they are, a variant of
the slot `source` says: a run's judged weights, of its newest checkpoint, or what the zoo or a plugin brings.

The source's tokenizer comes with them: ids mean nothing by another. Their hash is kept in config.json, because the
folder may change meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry.core.blame import answers_for
from foundry.core.contracts import InvalidData, Origin, Source, Tokenizer
from foundry.core.loading import choose_checkpoint, read_tokenizer, restore_weights
from foundry.core.run import Run
from foundry.core.system import user_path
from foundry.core.training import checkpoint as checkpoints

if TYPE_CHECKING:
    from foundry.core.config import Experiment
    from foundry.core.model import GPT


def source_of(experiment: Experiment) -> Source | None:
    """What `init_from` names, whose tokenizer is the one that the experiment asks for.

    Raises:
        InvalidData: it is neither a run folder nor a pretrained model that is here, or has another tokenizer.
    """
    named = experiment.init_from
    variant = experiment.registry.source(named)
    if variant is None:
        return None
    target = variant.load()
    with answers_for(target):
        made: Source | None = target(experiment, named)
        if made is None:
            raise TypeError("it returns None, and has to make a source of weights")
    return made


def origin_of(experiment: Experiment) -> Origin | None:
    """The weights that the experiment would begin with now, not verified; None if there are none to be found."""
    with suppress(InvalidData):
        source = source_of(experiment)
        return source.origin() if source else None
    return None


class RunSource:
    """Another run: the source `run`."""

    def __init__(self, experiment: Experiment, named: str) -> None:
        self.experiment, self.run = experiment, Run(user_path(named))
        run = self.run
        if not run.config_file.exists():
            raise InvalidData(f"init_from: {run.path} is not a run folder", f"relative paths start at {Path.cwd()}")
        theirs = run.config()["experiment"].get("data", {}).get("tokenizer")
        if not _are(theirs, experiment.data.tokenizer):
            ours = experiment.plain()["data"]["tokenizer"]
            raise InvalidData(
                f"init_from: {run.path} was trained with data.tokenizer {theirs}, this experiment has {ours}",
                "its weights go with its tokenizer: choose the same",
            )

    def tokenizer(self) -> Tokenizer:
        return read_tokenizer(self.run, self.experiment)

    def origin(self) -> Origin | None:
        with suppress(InvalidData):
            for step in checkpoints.steps(self.run.checkpoints)[-1:]:
                return self._origin(step, checkpoints.hashes(checkpoints.path_of(self.run.checkpoints, step)))
        return None

    def fill(self, model: GPT) -> Origin:
        saved = choose_checkpoint(self.run, "last")
        restore_weights(model, saved.judged_weights, source=f"init_from: {self.run.path}")
        return self._origin(saved.state["step"], saved.hashes)

    def _origin(self, step: int, hashes: Mapping[str, str]) -> Origin:
        file = "ema.safetensors" if "ema.safetensors" in hashes else "model.safetensors"
        return Origin(str(self.run.path), step, hashes[file])


def _are(saved: Any, settings: Any) -> bool:
    """Whether these are the settings that were saved. One that is newer than what was saved had its default there."""
    try:
        return bool(type(settings).model_validate(saved) == settings)
    except ValueError:
        return False
