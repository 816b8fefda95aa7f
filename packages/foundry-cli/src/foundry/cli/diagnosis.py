"""What `foundry doctor` finds out about the machine and the installation."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from foundry.core.contracts import EnvironmentFailure, FoundryError
from foundry.core.project import find_project
from foundry.core.registry import registry
from foundry.core.registry.discovery import BUILT_IN
from foundry.core.system import available_cores, cache_folder, memory_bytes

MIN_FREE_BYTES = 1 << 30  # a run of the baseline needs some 10 MB; below this, checkpoints of anything larger fail


def diagnose() -> tuple[dict[str, Any], list[str]]:
    """Facts by name, and the reasons why this machine cannot train (none: it can)."""
    project = find_project(Path.cwd())
    found = registry(project)
    torch_facts, reasons = _torch()
    free = _free_bytes(project)
    if free is not None and free < MIN_FREE_BYTES:
        reasons.append(f"only {free / 1e6:.0f} MB are free on the disk of {project}")
    cache = _cache(reasons)
    if not _writable(project):
        reasons.append(f"{project} is not writable: there is no place for runs/")
    packages = {name: _version(name) for name in BUILT_IN}
    reasons += [f"{name} is not installed" for name, found_version in packages.items() if found_version is None]
    reasons += [
        f"{problem.distribution} ({problem.plugin}) {problem.message}"
        for problem in found.problems
        if problem.distribution in BUILT_IN
    ]
    kept, damage = _ledger(project)
    reasons += damage
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        **torch_facts,
        "cores": available_cores(),
        "threads_set": {key: os.environ[key] for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if key in os.environ},
        "memory_bytes": memory_bytes(),
        "disk_free_bytes": free,
        "project": str(project),
        "ledger": kept,
        "cache": cache,
        "compiler": shutil.which("c++") or shutil.which("g++") or shutil.which("clang++"),
        "packages": packages,
        "plugins": [f"{p.distribution} {p.version[:12]}" for p in found.plugins if p.distribution not in BUILT_IN],
        "plugin_problems": [f"{p.distribution} ({p.plugin}): {p.message}" for p in found.problems],
    }
    return facts, reasons


def _ledger(project: Path) -> tuple[str | list[str], list[str]]:
    """What is found when every event of both its copies is looked at, in words, and why it cannot be used. What one
    copy has whole is mended in the other."""
    from foundry.lab import Ledger

    found: list[str] = []
    try:
        if not Ledger.is_in(project):
            return "none yet", []
        with Ledger.look(project, note=found.append) as ledger:
            found += [each for each in ledger.check() if each not in found]
            return found or f"{ledger.last_event()} events, whole in both copies", []
    except FoundryError as failure:
        return "cannot be read", [f"{failure.message}: {failure.hint}"]


def _torch() -> tuple[dict[str, Any], list[str]]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library that it needs is missing
        return {"torch": None}, [f"torch cannot be imported: {error}"]
    from foundry.core.training.device import processor

    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    devices = [*cuda, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]
    return {
        "torch": torch.__version__,
        "torch_folder": str(Path(torch.__file__).parent),
        "torch_cuda_build": torch.version.cuda,
        "torch_threads": torch.get_num_threads(),
        "devices": devices,
        "processor": processor(),
        "kernels": _kernels(),
    }, []


def _kernels() -> dict[str, str]:
    """What becomes of each kernel that not every machine uses. Those in C are compiled here if they never were."""
    from foundry.core.kernels import native_kernels

    kernels = [kernel for kernel in native_kernels().KERNELS if kernel.when != "always"]
    return {
        kernel.op: kernel.missing() or ("used" if kernel.suits() else "not used: not known to be faster here")
        for kernel in kernels
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _cache(reasons: list[str]) -> str | None:
    try:
        cache = cache_folder()
    except EnvironmentFailure as failure:
        reasons.append(f"{failure.message}: {failure.hint}")
        return None
    if not _writable(cache):
        reasons.append(f"the cache {cache} is not writable: set FOUNDRY_CACHE to a folder that is")
    return str(cache)


def _free_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _writable(folder: Path) -> bool:
    while not folder.exists():  # it will be made when it is needed
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
