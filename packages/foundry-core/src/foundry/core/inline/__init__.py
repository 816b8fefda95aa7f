"""The model of an experiment as one file of plain PyTorch, for somebody who wants to read it in one sitting.

gpt.py      the plain text of what core itself has: the layers, and the model around them
fold.py     what a plain text becomes for one experiment
compose.py  the file: what fills each slot, put together
verify.py   the file is run, and says what the model says

The plain text of a variant is its package's, see `foundry.core.contracts.plain_text`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry.core.inline.compose import compose
from foundry.core.inline.verify import verify
from foundry.core.model import model_of

if TYPE_CHECKING:
    from foundry.core.config import Experiment


def inline(experiment: Experiment, vocab_size: int) -> tuple[str, float]:
    """The text of the file, and by how much its logits differ from the model's at most, as a share of the largest.

    Raises:
        UsageError: there is no plain text of a part.
        FoundryError: the text does not say what the model says. PluginError, where a plugin's part is in it.
    """
    model = model_of(experiment, vocab_size)
    text = compose(experiment, model)
    return text, verify(text, experiment, model)
