"""Kernels in C, compiled by the machine's own compiler the first time they are wanted, never at install.

The shared library lies where `keep_in` says, under the hash of all that it depends on: sources, flags, compiler and
processor. It is loaded with ctypes, so that no header of torch is needed and a build takes seconds. Its parallel
loops run on the OpenMP that torch has already loaded, and so on torch's threads: it is not linked with one of its own.

The kernels use the widest vectors that the processor has. FOUNDRY_MAX_CPU_ISA (sse, avx2 or avx512) holds them back, as
ONEDNN_MAX_CPU_ISA does oneDNN and ATEN_CPU_CAPABILITY torch, so that one machine can stand in for others.
"""

import atexit
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

SOURCES = sorted((Path(__file__).parent / "csrc").glob("*.c"))
HEADERS = sorted((Path(__file__).parent / "csrc").glob("*.h"))
FLAGS = ["-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-std=gnu11"]
MAX_ISA = {"sse": ["-mno-avx"], "avx2": ["-mno-avx512f"], "avx512": []}
"""For each value of FOUNDRY_MAX_CPU_ISA, the flags of gcc and clang that keep them from using more on x86."""
BUILD_SECONDS = 120  # seven on an idle core; a compiler that hangs must not hang the training

_kept_in: Path | None = None
_doubts: Callable[[Path], str] | None = None


def keep_in(folder: Path, doubts: Callable[[Path], str] | None = None) -> None:
    """Keep what is compiled from now on in this folder, for later processes.

    Args:
        doubts: says why a library that lies there must not be loaded: it is another user's. It is compiled anew then.
    """
    global _kept_in, _doubts
    _kept_in, _doubts = folder, doubts


def folder() -> Path:
    """Where `keep_in` says; else a folder of this process's own, which goes with it."""
    return _kept_in or _own_folder()


@cache
def _own_folder() -> Path:
    own = tempfile.TemporaryDirectory(prefix="foundry-kernels-", ignore_cleanup_errors=True)
    atexit.register(own.cleanup)
    return Path(own.name)


def compiler() -> str | None:
    """$CC, or the first of the usual names that is there."""
    return next(filter(None, map(shutil.which, filter(None, (os.environ.get("CC"), "cc", "gcc", "clang")))), None)


@cache
def missing() -> str:
    """Why the library is not available here; empty where it is. The answer holds for the life of the process."""
    try:
        load()
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return str(error)
    return ""


@cache
def load() -> ctypes.CDLL:
    """The library, compiled first if that was not done yet.

    Raises:
        RuntimeError: there is no compiler, or it fails.
        OSError: the cache cannot be written, or the library cannot be loaded.
    """
    if (name := compiler()) is None:
        raise RuntimeError("there is no C compiler: install gcc or clang, or name one in CC")
    version = subprocess.run([name, "--version"], capture_output=True, text=True, timeout=BUILD_SECONDS).stdout
    flags = FLAGS + _limit()
    parts = [*(source.read_text(encoding="utf-8") for source in SOURCES + HEADERS), *flags, name, version, _processor()]
    library = folder() / f"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:24]}.so"
    if not library.exists() or (_doubts and _doubts(library)):
        _compile([name, *flags], library)
    return ctypes.CDLL(str(library))


def vector_width() -> int:
    """How many numbers of fp32 the kernels compute with at a time: 16 with AVX-512, 8 with AVX, else 4."""
    return ctypes.c_int.in_dll(load(), "vector_width").value


def is_held_back() -> bool:
    """Whether FOUNDRY_MAX_CPU_ISA asks for less than AVX-512."""
    return bool(MAX_ISA.get(_max_isa()))


def _max_isa() -> str:
    return os.environ.get("FOUNDRY_MAX_CPU_ISA", "").lower() or "avx512"


def _limit() -> list[str]:
    """The flags that FOUNDRY_MAX_CPU_ISA asks for; it says nothing of processors that are not x86.

    Raises:
        RuntimeError: it names no instruction set.
    """
    if _max_isa() not in MAX_ISA:
        raise RuntimeError(f"FOUNDRY_MAX_CPU_ISA is {_max_isa()}: set it to {', '.join(MAX_ISA)}, or not at all")
    return MAX_ISA[_max_isa()] if platform.machine() in ("x86_64", "AMD64") else []


def _compile(command: list[str], library: Path) -> None:
    """Publish `library` by one rename, so that several processes may compile it at once."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".building-") as workplace:
        objects = [str(Path(workplace, f"{source.stem}.o")) for source in SOURCES]
        for source, target in zip(SOURCES, objects, strict=True):
            _run([*command, "-c", str(source), "-o", target])
        undefined = (
            ["-undefined", "dynamic_lookup"] if platform.system() == "Darwin" else []
        )  # OpenMP's names: see above
        staged = Path(workplace, library.name)
        _run([command[0], "-shared", *undefined, *objects, "-lm", "-o", str(staged)])
        staged.chmod(0o755)  # for whoever may read it, and for nobody else to write
        os.replace(staged, library)


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        raise RuntimeError(f"{command[0]} cannot compile the kernels: {lines[0]}")


def _processor() -> str:
    """What -march=native looks at."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(sorted({line for line in lines if line.split("\t")[0] in ("model name", "flags", "Features")}))
