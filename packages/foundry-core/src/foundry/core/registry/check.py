"""`foundry plugins check`: what can be said of a plugin without building a model. The rest is the conformance kit's,
`foundry.core.testing`."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from foundry.core.blame import LOCAL, belongs, described
from foundry.core.contracts import FoundryError, Mutation, PluginError, Section, UsageError
from foundry.core.registry.discovery import (
    BUILT_IN,
    Candidate,
    Plugin,
    Selection,
    Unusable,
    discover,
    local_candidates,
)
from foundry.core.registry.table import Registry, label
from foundry.core.system import not_trusted
from foundry.core.system.files import JSON_BYTES, read_regular
from foundry.core.system.parents import PYTHON

HEAVY = ("torch", "numpy", "triton", "transformers", "jax", "tensorflow")
"""What a plugin may import only when one of its variants is built: listing would take seconds."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and what is wrong with it: nothing, where `fault` is empty."""

    name: str
    fault: str = ""
    contribution: str = ""  # `attention mine`; empty: the plugin as a whole
    place: str = ""  # the file and line of a fault
    note: str = ""  # what to know where nothing is wrong


def find_plugins(wanted: str, registry: Registry) -> tuple[Registry, list[Plugin]]:
    """The plugins that `wanted` names, in a registry that holds them.

    Args:
        wanted: a distribution, an entry point's name, `local`, a plugin's project folder (it need not be installed), or
            a project's variants/FILE.py. Empty: every plugin that is not built in.

    Raises:
        UsageError: there is none of that name.
        FoundryError: its own code cannot be used.
    """
    path = Path(wanted)
    if wanted and path.exists():
        loaded = [_load(candidate) for candidate in _candidates(path)]
        plugins, problems = discover(Path.cwd(), Selection.parse("-*"))
        return Registry([*plugins, *loaded], problems), loaded
    if not wanted:
        return registry, [plugin for plugin in registry.plugins if plugin.distribution not in BUILT_IN]
    selection = Selection.parse(wanted)
    found = [plugin for plugin in registry.plugins if selection.admits(plugin.distribution, plugin.name)]
    for problem in registry.problems:
        if not found and selection.admits(problem.distribution, problem.plugin):
            raise _broken(problem.distribution, problem.plugin, problem.message)
    if not found:
        names = ", ".join(sorted({plugin.distribution for plugin in registry.plugins}))
        raise UsageError(f"no plugin {wanted!r} is installed", f"there are {names}; a plugin's folder will do as well")
    return registry, found


def check(plugin: Plugin, registry: Registry) -> Iterator[Check]:
    """Look at a plugin that loaded, thing by thing. Resolving its targets imports what they import."""
    refused = [problem.message for problem in registry.problems if problem.distribution == plugin.distribution]
    yield Check("every contribution is accepted", "; ".join(refused))
    yield _lightness(plugin)
    for contribution in plugin.contributions:
        what = label(contribution)
        if not isinstance(contribution, Mutation):
            yield Check("has a summary", "" if contribution.summary else "summary is empty", what)
        if isinstance(contribution, Section):
            yield Check("its defaults survive YAML", _yaml_fault(contribution.params), what)
        if isinstance(contribution, Mutation):
            yield Check("changes the default experiment", _mutation_fault(contribution, registry), what)


def _candidates(path: Path) -> Iterator[Candidate]:
    path = path.resolve()
    source = path / "src" if (path / "src").is_dir() else path
    if reason := not_trusted(path) or not_trusted(source):
        raise PluginError(reason)
    if path.is_file():
        if path.suffix != ".py" or path.parent.name != "variants":
            raise UsageError(f"{path} is not a plugin", "give a plugin's folder, or a file in a project's variants/")
        yield from (each for each in local_candidates(path.parent.parent) if each.name == path.stem)
        return
    try:
        project = tomllib.loads(read_regular(path / "pyproject.toml", JSON_BYTES).decode())["project"]
        entry_points = project["entry-points"]["foundry"]
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"{path} is not a plugin: its pyproject.toml has no [project.entry-points.foundry]",
            "`foundry plugins new NAME` writes a plugin to start from",
        ) from error
    sys.path.insert(_after_python(), str(source))
    for name, module in sorted(entry_points.items()):
        belongs(module, project["name"])
        yield Candidate(project["name"], project.get("version", "0"), name, _Importer(module))


def _after_python() -> int:
    """Where on sys.path a folder is found before what is installed, and Python's own modules before it."""
    own = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib")} | {
        f"{sysconfig.get_path('stdlib')}/lib-dynload"
    }
    return max((place for place, entry in enumerate(sys.path, 1) if entry in own), default=0)


@dataclass(frozen=True)
class _Importer:
    module: str

    def __call__(self) -> ModuleType:
        return import_module(self.module)


def _load(candidate: Candidate) -> Plugin:
    try:
        return candidate.load()
    except Unusable as reason:
        raise _broken(candidate.distribution, candidate.name, str(reason)) from reason


def _broken(distribution: str, plugin: str, message: str) -> FoundryError:
    return PluginError(f"{distribution} ({plugin}): {message}", "run `foundry plugins check` again once it is fixed")


def _lightness(plugin: Plugin) -> Check:
    """Imports the plugin's module in an interpreter of its own, and looks at what came along."""
    name = "listing it imports nothing heavy"
    done = subprocess.run([*PYTHON, "-c", _importing(plugin)], capture_output=True, text=True)
    if done.returncode:
        return Check(name, (done.stderr.strip().splitlines() or ["the interpreter died"])[-1])
    if not (found := ", ".join(done.stdout.split())):
        return Check(name)
    if plugin.distribution == LOCAL:  # a local file may hold its nn.Module; it costs its owner alone
        return Check(name, note=f"imports {found}: no fault, but every command here waits; see docs/add-a-variant.md")
    return Check(name, f"{plugin.module} imports {found}; import that in the module that a target names")


def _importing(plugin: Plugin) -> str:
    """A script that imports the plugin and prints what of HEAVY came along."""
    importing = f"import {plugin.module}\n"
    if plugin.distribution == LOCAL:
        project = Path(sys.modules[plugin.module].__file__ or "").parent.parent
        importing = (
            "from pathlib import Path\n"
            "from foundry.core.registry.discovery import local_candidates\n"
            f"for each in local_candidates(Path({str(project)!r})):\n"
            f"    each.name == {plugin.name!r} and each.load()\n"
        )
    printing = f"print(*(name for name in {HEAVY!r} if name in sys.modules))"
    return f"import sys; sys.path[:] = {sys.path!r}\n{importing}{printing}"


def _mutation_fault(mutation: Mutation, registry: Registry) -> str:
    """Of its example on the default experiment."""
    from foundry.core.config import from_plain
    from foundry.core.config.mutate import mutate

    type, value = (mutation.slot, mutation.type) if mutation.slot else (mutation.type, mutation.example)
    if not value:
        return "it has no example: give a value that works on the default experiment"
    try:
        mutate(from_plain({}, registry=registry), type, value)
    except FoundryError as error:
        return " ".join(f"{error}".split())
    return ""


def _yaml_fault(params: type[Any]) -> str:
    import yaml

    if any(field.is_required() for field in params.model_fields.values()):
        return ""
    defaults = params()
    try:
        again = params(**yaml.safe_load(yaml.safe_dump(defaults.model_dump(mode="json"))))
    except (ValueError, yaml.YAMLError) as error:
        return described(error)
    return "" if again == defaults else f"{defaults!r} comes back as {again!r}"
