"""How much of the machine is ours: what the scheduler lets this process run on, and what its container may use.

A container's limits are those of its control groups, which Linux has in two versions: a quota of processor time
(`cpu.max`, or `cpu.cfs_quota_us`), and a limit of memory. A group lies within others, whose limits hold as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from foundry.core.contracts import EnvironmentFailure

ROOT = Path("/")


def available_cores(root: Path = ROOT) -> int:
    """Cores that this process may keep busy: those that it may run on, and no more than its container's quota of
    processor time, rounded down. A thread beyond the quota is stopped for tens of milliseconds at a time, and the
    others wait for it."""
    try:
        cores = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # macOS has none
        cores = os.cpu_count() or 1
    quota = cpu_quota(root)
    return cores if quota is None else max(1, min(cores, int(quota)))


@cache
def cpu_quota(root: Path = ROOT) -> float | None:
    """Seconds of processor time per second; None: no limit but the machine's.

    Args:
        root: the root of the file system.
    """
    quotas = [_ratio(group) for group in _groups("cpu", root)]
    return min((quota for quota in quotas if quota is not None), default=None)


def crowd_remark() -> str:
    """What to know before something is trained on a machine that others keep busy: more than 1.5 processes for each of
    its cores ran, or waited for one, in the last minute. Empty: nobody waits much, or the system does not tell."""
    try:
        load, cores = os.getloadavg()[0], os.cpu_count() or 1
    except (AttributeError, OSError):
        return ""
    busy = f"{load:.0f} processes shared the {cores} cores of this machine in the last minute"
    return f"{busy}: trainings take longer, their results stay the same" if load > 1.5 * cores else ""


def memory_bytes(root: Path = ROOT) -> int | None:
    """Memory that this process and its container may use; None: this system does not tell."""
    try:
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        installed = 0
    limits = [_number(group / name) for group in _groups("memory", root) for name in _MEMORY]
    return min((limit for limit in [installed, *limits] if limit), default=None)


def require_memory(needed: float, what: str, way_out: str = "take a machine that has it") -> None:
    """Refuse what cannot fit before any of it is there: the system would end this process later, or another one.

    Raises:
        EnvironmentFailure: `needed` bytes are more than this process may use. Its cause says that it is the memory.
    """
    there = memory_bytes()
    if there is not None and needed > there:
        raise out_of(there, needed, what, way_out)


def out_of(there: float, needed: float, what: str, way_out: str) -> EnvironmentFailure:
    """The refusal of what needs more memory than is there, in bytes."""
    failure = EnvironmentFailure(f"{what} needs {_size(needed)} of memory, and {_size(there)} is there", way_out)
    failure.__cause__ = MemoryError()
    return failure


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:,.1f} MB"


_MEMORY = ("memory.max", "memory.limit_in_bytes")


def _ratio(group: Path) -> float | None:
    """A group's own quota."""
    quota, period = [*_words(group / "cpu.max"), "", ""][:2]
    if not quota:
        quota, period = (" ".join(_words(group / name)) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None  # "max", "-1"


def _number(file: Path) -> int | None:
    text = " ".join(_words(file))
    return int(text) if text.isdigit() else None


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of our control groups that have this controller, each with those around it."""
    for kind, inside, mount in _mounts(controller, root):
        ours = _membership(controller if kind == "cgroup" else "", root)
        # What is mounted here may be a group deep inside the machine's: a container sees no more than its own.
        below = os.path.relpath(ours, inside) if ours else "."
        folder = mount if below.startswith("..") else Path(os.path.normpath(mount / below))
        while True:
            yield folder
            if folder == mount or folder == folder.parent:
                break
            folder = folder.parent


def _mounts(controller: str, root: Path) -> Iterator[tuple[str, str, Path]]:
    """(cgroup or cgroup2, which group is mounted, where), see proc(5), mountinfo."""
    for line in _lines(root / "proc/self/mountinfo"):
        head, _, tail = line.partition(" - ")
        kind, _, options = (*tail.split(" "), "", "", "")[:3]
        if kind == "cgroup2" or (kind == "cgroup" and controller in options.split(",")):
            inside, mount = head.split(" ")[3:5]
            yield kind, inside, root / mount.lstrip("/")


def _membership(controller: str, root: Path) -> str:
    """The group that we are in, of version 1's controller, or of version 2 for none."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controller in controllers.split(","):
            return path
    return ""


def _words(file: Path) -> list[str]:
    return [word for line in _lines(file) for word in line.split()]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux, or no such group
        return []
