"""The model: a GPT in which every part is a chosen variant."""

from foundry.core.model.gpt import GPT, Block
from foundry.core.model.head import Head
from foundry.core.model.init import initialize
from foundry.core.model.of_experiment import model_of

__all__ = ["GPT", "Block", "Head", "initialize", "model_of"]
