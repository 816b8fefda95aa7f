"""What a process that runs a model asks this package: which operators this process computes by other kernels than
torch's own, and by what a text is written. What there is stands in `foundry.kernels.table`.

`keep_in(folder)` says where kernels in C are kept once they are compiled.

Results agree with torch's to rounding, not bit for bit. So nothing is replaced until `use` says so, and whoever
promises reproducible numbers writes down what was in use.
"""

from collections.abc import Iterable

from torch import nn

from foundry.kernels import decoding
from foundry.kernels.build import keep_in
from foundry.kernels.decoding import Plan
from foundry.kernels.linear import linear
from foundry.kernels.table import BY_NAME, KERNELS

__all__ = ["BY_NAME", "KERNELS", "keep_in", "linear", "missing", "plan_decoding", "suited", "use"]


def missing() -> dict[str, str]:
    """For each kernel by name, why it cannot be had on this machine; an empty text where it can."""
    return {name: kernel.missing() for name, kernel in BY_NAME.items()}


def suited() -> list[str]:
    """The kernels by name that can be had, and that are known to be faster than torch's on machines of this kind."""
    return [name for name, kernel in BY_NAME.items() if kernel.suits() and not kernel.missing()]


def use(names: Iterable[str]) -> None:
    """Compute with these kernels from now on, in the whole process, and all else as torch does.

    Raises:
        RuntimeError: one of them is not available here; nothing has changed.
    """
    wanted = set(names)
    for name in sorted(wanted):
        if reason := BY_NAME[name].missing() if name in BY_NAME else "there is no such kernel":
            raise RuntimeError(f"{name}: {reason}")
    for name, kernel in BY_NAME.items():
        if kernel.switch is not None:
            kernel.switch(name in wanted)


def plan_decoding(model: nn.Module) -> Plan | None:
    """As `foundry.kernels.decoding.plan_decoding`, where that is known to be faster than torch's own operators; else
    None."""
    kernels = [kernel for kernel in KERNELS if kernel.when == "in decoding"]
    suited = all(kernel.suits() and not kernel.missing() for kernel in kernels)
    return decoding.plan_decoding(model) if suited else None
