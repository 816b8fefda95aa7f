"""torch's optimizers without their ties to the compiler.

torch wraps the methods of every optimizer so that `torch.compile` passes over them. The wrappers import the compiler
when the first optimizer is made, which takes as long as to import torch itself. Nothing of Foundry compiles an
optimizer.
"""

import inspect
from typing import TypeVar

import torch

Kind = TypeVar("Kind", bound=type[torch.optim.Optimizer])

TIED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def eager(kind: Kind) -> Kind:
    """The same class, its own and inherited methods as they are written."""
    for name in TIED:
        setattr(kind, name, inspect.unwrap(getattr(kind, name)))
    return kind


@eager
class AdamW(torch.optim.AdamW):
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
