"""What a run computes on: device, precision, threads, kernels. Resolved once from the experiment and the machine, saved
with the run, and reused by every resume: nothing here is chosen by a stopwatch."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, get_type_hints

import torch

from foundry.core.contracts import EnvironmentFailure, InvalidData
from foundry.core.kernels import native_kernels
from foundry.core.system import available_cores, code_folder, crowd_remark

# Dense bf16 peaks in FLOP/s, from the vendors' data sheets (without sparsity).
PEAK_BF16 = {
    "B200": 2.25e15,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
}

LIMITS = ("ONEDNN_MAX_CPU_ISA", "FOUNDRY_MAX_CPU_ISA")
"""Environment variables by which one processor stands in for another. ATEN_CPU_CAPABILITY shows in torch's own name."""

REFERENCE = "reference"
"""`Device.kernels` where every operator is torch's own."""


@dataclass(frozen=True)
class Device:
    """The resolved choices that a run's numbers depend on."""

    type: str  # cpu | cuda | mps
    model: str  # "NVIDIA H200", or the processor's architecture and instruction set
    precision: str  # fp32 | bf16
    threads: int  # of intra-op parallelism on CPU
    compile: bool
    kernels: str  # the operators that torch does not compute itself, joined by +, or REFERENCE
    local_rank: int = 0

    @classmethod
    def saved_in(cls, config: Mapping[str, Any], *, source: str) -> Device:
        """The one of a run's config.json.

        Raises:
            InvalidData: it is not what a run saves.
        """
        saved, kinds = {"kernels": REFERENCE} | config["device"], get_type_hints(cls)  # early runs knew no others
        if saved.keys() != kinds.keys() or not all(type(saved[key]) is kind for key, kind in kinds.items()):
            raise InvalidData(f"{source}: damaged: its `device` is not what a run saves")
        return cls(**saved)

    @property
    def torch(self) -> torch.device:
        return torch.device(self.type, self.local_rank) if self.type == "cuda" else torch.device(self.type)

    def activate(self) -> None:
        """Make this process compute so from now on.

        Raises:
            EnvironmentFailure: the kernels are not available here.
        """
        torch.set_num_threads(self.threads)
        _use_kernels(self.kernels)
        if self.compile:  # torch's own place is one among the temporary files that anybody may make first
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(code_folder("inductor")))
        if self.type == "cpu":
            _keep_freed_memory()
        torch.set_float32_matmul_precision("high" if self.type == "cuda" else "highest")  # TF32 where fp32 is left
        if self.type == "cuda":
            torch.cuda.set_device(self.local_rank)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which the forward pass runs; parameters and optimizer state stay fp32."""
        if self.precision == "bf16":
            return torch.autocast(self.type, torch.bfloat16)
        return nullcontext()

    def memory_bytes(self) -> int:
        """The most memory the process has held so far: of the GPU, or resident on CPU."""
        if self.type == "cuda":
            return torch.cuda.max_memory_allocated()
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)

    def peak_flops(self) -> float | None:
        """FLOP/s that MFU is measured against: the data sheet's for a known GPU at bf16, the measured rate of a matrix
        product on CPU, else None."""
        if self.type == "cuda" and self.precision == "bf16":
            return next((peak for name, peak in PEAK_BF16.items() if name in self.model), None)
        return _own_matmul_rate(self.threads) if self.type == "cpu" else None


def thread_remarks(device: Device, training: Any, local_world: int) -> list[str]:
    """What to know of the threads that a training has, and of who else wants the cores.

    Args:
        local_world: ranks on this machine.
    """
    remarks, cores = [], available_cores()
    now = share_of_cores(local_world) if training.threads == "auto" else training.threads
    if device.threads != now:
        threads = f"{device.threads} {'thread' if device.threads == 1 else 'threads'}"
        remarks.append(f"the run keeps the {threads} that it began with: with {now}, sums round otherwise")
    if device.type == "cpu" and device.threads * local_world > cores:
        ranks = f" in each of {local_world} ranks" if local_world > 1 else ""
        remarks.append(
            f"{device.threads} threads{ranks} share {cores} {'core' if cores == 1 else 'cores'}: fewer are faster, "
            "see training.threads"
        )
    return remarks + ([busy] if (busy := crowd_remark()) else [])


def resolve(training: Any, *, local_rank: int = 0, local_world: int = 1, saved: Device | None = None) -> Device:
    """Decide the device for `training` (the experiment's section), or reuse `saved` from an earlier part of the run.

    Raises:
        EnvironmentFailure: the device or the kernels that are asked for, or that the run began on, are not here.
    """
    wanted = saved.type if saved else training.device
    kind = wanted if wanted != "auto" else next(name for name in ("cuda", "mps", "cpu") if is_here(name))
    require(kind)
    precision, threads = training.precision, training.threads
    if precision == "auto":
        precision = "bf16" if kind == "cuda" else "fp32"
    if threads == "auto":
        threads = share_of_cores(local_world)
    if saved is not None:
        device = replace(saved, model=_model(kind, local_rank), local_rank=local_rank)
    else:
        kernels = kernels_of(training.kernels, kind, precision, training.compile)
        device = Device(kind, _model(kind, local_rank), precision, threads, training.compile, kernels, local_rank)
    device.activate()
    return device


def kernels_of(wanted: str, kind: str, precision: str, compile: bool = False) -> str:
    """`Device.kernels` for `training.kernels` on a device of this kind: by name what `auto` and `native` come to here.

    Raises:
        EnvironmentFailure: they are asked for, and cannot be had.
    """
    library = native_kernels()
    plain = kind == "cpu" and precision == "fp32" and not compile  # what they are made for
    if wanted.startswith("native:") and plain:  # whether they can be had shows when they are taken in use
        return "+".join(sorted(wanted.removeprefix("native:").split("+")))
    if wanted.startswith("native"):
        if not plain:
            here = f"{precision} on {kind}{', compiled' if compile else ''}"
            raise EnvironmentFailure(
                f"native kernels are not available: they need fp32 on the CPU without compilation, and this is {here}",
                "set training.kernels to auto",
            )
        missing = library.missing() if library else {"foundry-kernels": "is not installed"}
        chosen = [name for name, reason in missing.items() if not reason]
        if not chosen:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
            raise EnvironmentFailure(f"native kernels are not available: {reasons}", "set training.kernels to auto")
    else:
        chosen = library.suited() if library and plain and wanted == "auto" else []
    return "+".join(sorted(chosen)) or REFERENCE


def setting_of(kernels: str) -> str:
    """The `training.kernels` that comes to `Device.kernels`, and to nothing else on another machine."""
    return kernels if kernels == REFERENCE else f"native:{kernels}"


def _use_kernels(kernels: str) -> None:
    library = native_kernels()
    names = [] if kernels == REFERENCE else kernels.split("+")
    if library is None and not names:
        return
    try:
        if library is None:
            raise RuntimeError("foundry-kernels is not installed")
        library.use(names)
    except RuntimeError as error:
        raise EnvironmentFailure(
            f"the kernels {kernels} are not available here: {error}",
            "a run keeps the kernels it started with: use a machine that has them, or start a new run",
        ) from error


def _keep_freed_memory() -> None:
    """Tell glibc's allocator not to hand freed memory back to the system: otherwise each step's activations are mapped,
    zeroed and unmapped anew, 4 % of a step of a model with 0.8 M parameters on two cores."""
    if platform.libc_ver()[0] != "glibc":
        return
    import ctypes

    M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(M_TRIM_THRESHOLD, 2**30)
    libc.mallopt(M_MMAP_THRESHOLD, 2**30)
    libc.mallopt(M_TOP_PAD, 2**26)


def is_here(kind: str) -> bool:
    """Whether torch can use a device of this kind."""
    backend = {"cuda": torch.cuda, "mps": torch.backends.mps}.get(kind)
    return kind == "cpu" or (backend is not None and backend.is_available())


def require(kind: str) -> None:
    """Raises:
    EnvironmentFailure: torch cannot use a device of this kind here.
    """
    if not is_here(kind):
        raise EnvironmentFailure(
            f"torch {torch.__version__} sees no device of kind {kind} here",
            "choose another (training.device, or --device); `foundry doctor` shows what is here",
        )


def share_of_cores(processes: int) -> int:
    """Threads for each of so many processes: what the environment says, else their share of the cores."""
    return _threads_asked_for() or max(1, available_cores() // processes)


def stay_within_quota() -> None:
    """For what computes without a `Device`: torch has a thread for each core, and knows of no container's quota."""
    if not _threads_asked_for() and available_cores() < torch.get_num_threads():
        torch.set_num_threads(available_cores())


def _threads_asked_for() -> int:
    """OMP_NUM_THREADS, by which users and launchers share a machine; 0 if it says nothing. Two runs that each take all
    cores are up to ten times slower than two that take half."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdigit() else 0


@lru_cache(maxsize=8)
def _own_matmul_rate(threads: int) -> float:
    """Of this processor with so many threads, which are set: measured once, not for every training of a process."""
    return matmul_rate(torch.device("cpu"))


def matmul_rate(device: torch.device, size: int = 768, seconds: float = 0.15) -> float:
    """FLOP/s of a square fp32 matrix product: the best of the repetitions that fit in `seconds`, of which there is one
    on the busiest machine."""
    # Filled without a random generator: dropout's must not notice.
    a = torch.linspace(-1, 1, size * size, device=device).view(size, size)
    b = a.T.contiguous()
    best, end = float("inf"), time.perf_counter() + seconds
    a @ b
    while best == float("inf") or time.perf_counter() < end:
        began = time.perf_counter()
        torch.mm(a, b)  # as models call it: with `out`, it would not be the kernel of `Device.kernels`
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def _model(kind: str, local_rank: int) -> str:
    if kind == "cuda":
        return torch.cuda.get_device_name(local_rank)
    return processor()


def processor() -> str:
    """What results on a CPU depend on to the last bit: architecture and instruction set, as torch, or whoever holds
    oneDNN and our kernels back, has them."""
    limits = [f"{name}={os.environ[name]}" for name in LIMITS if os.environ.get(name)]
    return " ".join([platform.machine(), torch.backends.cpu.get_cpu_capability(), *limits])
