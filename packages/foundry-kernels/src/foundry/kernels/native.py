"""Which operators this process computes by other kernels than torch's own, for fp32 on a CPU.

    attention   causal attention over whole rows, by a kernel in C
    matmul      matrix products, by oneDNN

`keep_in(folder)` says where those in C are kept once they are compiled.

Results agree with torch's to fp32's rounding, not bit for bit. So nothing is replaced until `use` says so, and whoever
promises reproducible numbers writes down what was in use.
"""

from collections.abc import Iterable

from torch import nn

from foundry.kernels import attention, decoding, few_rows, matmul
from foundry.kernels.build import keep_in
from foundry.kernels.decoding import Plan
from foundry.kernels.linear import linear

__all__ = ["KERNELS", "keep_in", "linear", "missing", "plan_decoding", "suited", "use"]

KERNELS = {"attention": attention, "matmul": matmul}
"""Each a module with missing(), suits(), install() and remove()."""


def missing() -> dict[str, str]:
    """For each kernel, why it cannot be had on this machine; an empty text where it can."""
    return {name: kernel.missing() for name, kernel in KERNELS.items()}


def suited() -> list[str]:
    """The kernels that can be had, and that are known to be faster than torch's on machines of this kind."""
    return [name for name, kernel in KERNELS.items() if kernel.suits() and not kernel.missing()]


def use(names: Iterable[str]) -> None:
    """Compute with these kernels from now on, in the whole process, and all else as torch does.

    Raises:
        RuntimeError: one of them cannot be had here; nothing has changed.
    """
    wanted = set(names)
    for name in sorted(wanted):
        if reason := KERNELS[name].missing() if name in KERNELS else "there is no such kernel":
            raise RuntimeError(f"{name}: {reason}")
    for name, kernel in KERNELS.items():
        if name in wanted:
            kernel.install()
        else:
            kernel.remove()


def plan_decoding(model: nn.Module) -> Plan | None:
    """As `foundry.kernels.decoding.plan_decoding`, where that is known to be faster than torch's own operators; else
    None."""
    return decoding.plan_decoding(model) if few_rows.suits() and not few_rows.missing() else None
