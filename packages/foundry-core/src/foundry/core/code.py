"""What code a training runs, as one hash: it is part of a trial's name, and a run's result says by how many it was
trained."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from importlib.metadata import entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry.core.blame import LOCAL
from foundry.core.config.identity import decides_result
from foundry.core.contracts import Params, Section, Variant
from foundry.core.digest import digest
from foundry.core.registry.discovery import modules_of

if TYPE_CHECKING:
    from foundry.core.config import Experiment

SOURCES = (".py", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".metal", ".mm")

UNKNOWN = "unknown"
"""In place of the hash, where a run was begun by a version that did not keep it."""


def code_fingerprint(experiment: Experiment, tasks: tuple[str, ...] = ()) -> str:
    """sha256 of the sources that a training of `experiment` and its evaluation on tasks of these types run: core's, the
    kernels', those of every package that a chosen variant, a task or, with `init_from`, a source of first weights comes
    from, what a chosen file of variants/ is made of, and torch's version. Of core nothing is left out, not even its
    conformance kit: a list of exceptions would have to be right for ever."""
    return digest(_torch_version(), sorted(set(_sources(experiment, tasks))))


def _sources(experiment: Experiment, tasks: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(name, hash) of each package or local file; one may come twice."""
    registry = experiment.registry
    core = Path(__file__).resolve().parent
    yield "foundry-core", _hash_of(core)
    used: list[Variant | Section] = [*_variants(experiment), *(registry.variant("task", task) for task in tasks)]
    if experiment.init_from is not None:  # whichever of them it is: a folder that is gone since then changes no code
        used += registry.variants("source").values()
    used += [section for section in registry.sections.values() if section.target]
    modules = set(_kernels())
    for contribution in used:
        plugin = registry.plugin_of(contribution)
        if plugin.distribution == LOCAL:
            yield plugin.name, plugin.version  # the hash of all that it is made of
        else:
            modules.update(modules_of(plugin.module, [contribution]))
    for module in modules:
        if module.partition(".")[0] == "torch":  # a slot's `none` is torch.nn.Identity; torch counts by its version
            continue
        package = _package_of(module)
        if package is not None and package != core:
            yield package.name, _hash_of(package)


def several_codes(result: Mapping[str, Any]) -> str:
    """What a result.json says of a run that was not trained by one code alone; empty: nothing."""
    number = len({*result.get("codes", ())})
    return f"trained by {number} codes: it was edited before the run went on" if number > 1 else ""


def foreign_variants(experiment: Experiment) -> list[Variant]:
    """The chosen variants whose code is not Foundry's own, each once."""
    chosen = {(variant.slot, variant.name): variant for variant in _variants(experiment)}
    return [variant for variant in chosen.values() if experiment.registry.is_foreign(variant)]


def _variants(params: Any) -> Iterator[Variant]:
    """The variants that an experiment has chosen, anywhere."""
    if isinstance(params, dict):
        for value in params.values():
            yield from _variants(value)
    if isinstance(params, Params):
        if params.variant is not None:
            yield params.variant
        for name, field in type(params).model_fields.items():
            if decides_result(field):  # a task trains nothing
                yield from _variants(getattr(params, name))


# A sweep asks for its code some times a trial. What is installed stays while a process lives, and to read all of it
# takes longer than a small trial's first steps.


@cache
def _torch_version() -> str:
    return version("torch")


@cache
def _kernels() -> tuple[str, ...]:
    """The modules of installed kernels."""
    return tuple(entry_point.module for entry_point in entry_points(group="foundry.kernels"))


@cache
def _package_of(module: str) -> Path | None:
    """The folder of the outermost package around `module` that is no namespace, found without importing the module."""
    names = module.split(".")
    for depth in range(1, len(names) + 1):
        name = ".".join(names[:depth])
        loaded = sys.modules.get(name)
        spec = loaded.__spec__ if loaded is not None else find_spec(name)
        if spec is not None and spec.origin is not None and spec.has_location:
            origin = Path(spec.origin).resolve()
            return origin.parent if spec.submodule_search_locations else origin
    return None


@lru_cache(maxsize=64)
def _hash_of(path: Path) -> str:
    """Of every source file in a folder, or of one file."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    files = sorted(file for file in path.rglob("*") if file.suffix in SOURCES)
    return digest([(str(file.relative_to(path)), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files])
