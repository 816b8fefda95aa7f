"""The model: a GPT whose every part is a variant that the experiment names."""

from foundry.core.model.gpt import GPT, Block
from foundry.core.model.head import Head
from foundry.core.model.init import initialize

__all__ = ["GPT", "Block", "Head", "initialize"]
