"""Whether calling a module computes what its class says, so that something else may compute it instead."""

from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook


def stated(part: Any, name: str) -> Any:
    """`part.name`, if its own class says so; else None. What a class says of what it computes need not hold for a
    subclass, which says it again if it does."""
    return getattr(part, name) if name in vars(type(part)) else None


def is_called_plainly(module: nn.Module) -> bool:
    """Whether to call `module` is to call its class's `forward`, and nothing else: nothing stands in its place, and
    no hook is set."""
    return getattr(module.forward, "__func__", None) is type(module).forward and not has_hooks(module)


def has_hooks(module: nn.Module) -> bool:
    """Whether something wants to see the calls of `module`, or of all modules. Torch tells nobody; but a hook that is
    registered comes with a handle to where all of its kind are."""
    kinds = (
        module.register_forward_hook, module.register_forward_pre_hook,
        register_module_forward_hook, register_module_forward_pre_hook,
    )  # fmt: skip
    return any(_has_others(register) for register in kinds)


def _has_others(register: Any) -> bool:
    handle = register(_see_nothing)
    try:
        return len(handle.hooks_dict_ref()) > 1
    finally:
        handle.remove()


def _see_nothing(*called: object) -> None:
    """A hook that changes nothing, should another thread call the module while it is there."""
