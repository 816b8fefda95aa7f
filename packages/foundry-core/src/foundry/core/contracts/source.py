"""Where initial weights come from, if not from the seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from foundry.core.contracts.plugins import Params

if TYPE_CHECKING:
    from torch import nn

    from foundry.core.contracts.data import Tokenizer


class Origin(NamedTuple):
    """Which weights a run began with."""

    run: str  # or the folder of a pretrained model
    step: int  # of a run's checkpoint; 0 for a pretrained model
    sha256: str  # of the file that holds them, or of the list of files and their hashes


class SourceParams(Params):
    """What a variant of the slot `source` says about itself without importing torch. `init_from` does not name a
    variant: the first one that takes its value is used; if none does, the value is a run folder."""

    @classmethod
    def takes(cls, named: str) -> bool:
        """Whether the value of `init_from` is one of this source's: `zoo:gpt2`, or a folder of its kind."""
        return False

    @classmethod
    def fault(cls, named: str) -> str:
        """What is wrong with the name, and what to do; called when an experiment file is read. Empty: nothing is known
        to be wrong before the training."""
        return ""


class Source(Protocol):
    """Slot `source`; built as `target(experiment, named)`, where `named` is the value of `init_from`.

    Building it raises InvalidData if nothing of that name exists.
    """

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of the weights; None: the experiment's own.

        Raises:
            InvalidData: the experiment asks for another.
        """

    def origin(self) -> Origin | None:
        """The weights that a run would begin with now, not verified; None if there are none to be found."""

    def fill(self, model: nn.Module) -> Origin:
        """Copy them into the parameters of a model.

        Raises:
            InvalidData: they are damaged, or a parameter is missing, unknown or of another shape.
        """
