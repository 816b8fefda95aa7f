"""A pretrained model as the beginning of a run: what `init_from: zoo:NAME` and `init_from: DIR` mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry.core.contracts import FoundryError, InvalidData, Origin, Tokenizer
from foundry.core.system import user_path
from foundry.zoo.catalog import ZOO
from foundry.zoo.config_json import family_of
from foundry.zoo.find import find
from foundry.zoo.pretrained import tokenizer_of
from foundry.zoo.shards import WeightsFolder

if TYPE_CHECKING:
    from foundry.core.config import Experiment
    from foundry.core.model import GPT


class PretrainedSource:
    """The weights of a folder of safetensors: a `foundry.core.contracts.Source`.

    Args:
        named: `zoo:NAME`, of which there must be a copy here, or the folder.
    """

    def __init__(self, experiment: Experiment, named: str) -> None:
        self.experiment, self.named = experiment, named.removeprefix(ZOO)
        try:
            name = self.named if named.startswith(ZOO) else user_path(named)
            self.folder = WeightsFolder(find(name, download=False))
        except FoundryError as error:
            raise InvalidData(f"init_from: {named}: {error.message}", error.hint) from error

    def tokenizer(self) -> Tokenizer | None:
        """Raises InvalidData where the experiment asks for another."""
        ours = self.experiment.data.tokenizer
        theirs = tokenizer_of(self.folder, self.experiment.registry, normalize=getattr(ours, "normalize", False))
        if theirs is not None and ours.type != "pretrained":
            raise InvalidData(
                f"init_from: {self.named} has a tokenizer of its own, this experiment has data.tokenizer {ours.type}",
                "its weights go with its tokenizer: set data.tokenizer=pretrained",
            )
        return theirs

    def origin(self) -> Origin:
        return Origin(str(self.folder.path), 0, self.folder.sha256)

    def fill(self, model: GPT) -> Origin:
        from foundry.zoo.weights import fill

        try:
            fill(model, family_of(self.folder.config, self.experiment.registry), self.folder)
        except InvalidData as error:
            way_out = f"model_args that fit: foundry zoo convert {self.named} --experiment FILE"
            raise InvalidData(f"init_from: {error.message}", error.hint or way_out) from error
        return self.origin()
