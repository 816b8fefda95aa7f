"""Finds and loads plugins: one bad plugin is a `Problem` with its name on it, and never the end of the others.

The order is a function of the names alone: Foundry's own packages, the other distributions by name, then the project's
`variants/*.py`. Who comes first keeps a contested name, so no plugin can take one from the built-ins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from foundry.core.blame import FAULTS, LOCAL, LOCAL_PACKAGE, belongs, described
from foundry.core.contracts import (
    FOUNDRY_API,
    Contribution,
    HookSpecs,
    Metric,
    Mutation,
    Problem,
    Section,
    Shorthand,
    Slot,
    Variant,
)
from foundry.core.registry import local
from foundry.core.system.places import not_trusted
from foundry.core.undisturbed import undisturbed

GROUP = "foundry"
BUILT_IN = ("foundry-core", "foundry-modules", "foundry-kernels", "foundry-data", "foundry-evals", "foundry-cli")

HOOKS: dict[str, type] = {
    "foundry_slots": Slot,
    "foundry_sections": Section,
    "foundry_variants": Variant,
    "foundry_shorthands": Shorthand,
    "foundry_mutations": Mutation,
    "foundry_metrics": Metric,
}


@dataclass(frozen=True)
class Plugin:
    """A plugin that loaded, and what it brought."""

    distribution: str
    version: str  # of the distribution; of a local file the sha256 of its source and of what that imports
    name: str  # of the entry point; of a local file its stem
    module: str
    contributions: tuple[Contribution, ...]


@dataclass(frozen=True)
class Selection:
    """FOUNDRY_PLUGINS: `a,b` loads only these plugins, `-a` all but this one; `*` matches anything. A name is that of
    a distribution or of an entry point. Foundry's own packages always load."""

    allowed: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Selection:
        names = [name.strip() for name in text.split(",") if name.strip()]
        return cls(
            allowed=tuple(_normal(name) for name in names if not name.startswith("-")),
            blocked=tuple(_normal(name[1:]) for name in names if name.startswith("-")),
        )

    def admits(self, distribution: str, name: str) -> bool:
        names = (_normal(distribution), _normal(name))

        def matches(patterns: Iterable[str]) -> bool:
            return any(fnmatchcase(each, pattern) for pattern in patterns for each in names)

        return (not self.allowed or matches(self.allowed)) and not matches(self.blocked)


class Unusable(Exception):
    """Why a plugin cannot be used, in words for its user."""


def discover(project: Path, selection: Selection = Selection()) -> tuple[list[Plugin], list[Problem]]:
    """Load Foundry's packages, the installed plugins and the project's `variants/*.py`, in a fixed order."""
    return _loaded((*_installed(), *local_candidates(project)), selection)


def at_rest(project: Path, selection: Selection = Selection()) -> tuple[list[Plugin], list[Problem]]:
    """As `discover`, but what is in `variants/*.py` is read there, and not run: for names only."""
    plugins, problems = _loaded(_installed(), selection)
    slots = {each.name: each for plugin in plugins for each in plugin.contributions if isinstance(each, Slot)}
    for candidate in local_candidates(project):
        if candidate.project is not None and selection.admits(LOCAL, candidate.name):
            file = project / "variants" / f"{candidate.name}.py"
            stated = tuple(_stated(file, slots))
            plugins.append(Plugin(LOCAL, "", candidate.name, "", stated))
    return plugins, problems


def _stated(file: Path, slots: Mapping[str, Slot]) -> Iterator[Contribution]:
    for kind, text in local.stated(file):
        slot, name, summary = (text.get(key, "") for key in ("slot", "name", "summary"))
        if kind == "Mutation":
            yield Mutation(
                text.get("type", ""), lambda experiment, value: {}, summary, text.get("example", ""), slot=slot
            )
        elif slot in slots:
            yield Variant(slot, name, "variants:unread", slots[slot].params, summary)


def _loaded(candidates: Iterable[Candidate], selection: Selection) -> tuple[list[Plugin], list[Problem]]:
    plugins: list[Plugin] = []
    problems: list[Problem] = []
    for candidate in candidates:
        if candidate.distribution not in BUILT_IN and not selection.admits(candidate.distribution, candidate.name):
            continue
        changes: list[str] = []
        try:
            with undisturbed(changes.append):
                plugins.append(candidate.load())
        except Unusable as reason:
            problems.append(Problem(candidate.distribution, candidate.name, str(reason)))
        for change in changes:  # every experiment would have it, whatever it chooses
            told = f"importing it sets {change}, for every experiment: it is set back"
            problems.append(Problem(candidate.distribution, candidate.name, told))
    return plugins, problems


@dataclass(frozen=True)
class Candidate:
    """A plugin that was found, before any of its code has run."""

    distribution: str
    version: str
    name: str
    import_module: Callable[[], ModuleType]
    project: Path | None = None  # of a local file, whose version is then the hash of what it is made of

    def load(self) -> Plugin:
        """Run the plugin's code and collect what its hooks return; `Unusable` says why it cannot be done."""
        try:
            module = self.import_module()
        except Unusable:
            raise
        except FAULTS as error:
            raise Unusable(f"cannot be imported: {described(error)}") from error
        if self.distribution not in (*BUILT_IN, LOCAL):
            _check_api(module)
        manager = _register(module)
        contributions: list[Contribution] = []
        for hook, kind in HOOKS.items():
            contributions += _collect(manager, module, hook, kind)
        if not contributions and self.distribution not in BUILT_IN:
            raise Unusable(f"contributes nothing: {_how_to_contribute(self.distribution)}")
        if self.distribution not in (*BUILT_IN, LOCAL):
            for each in contributions:
                if isinstance(each, Variant | Section) and isinstance(each.target, str):
                    belongs(each.target.partition(":")[0], self.distribution)
        version = (
            local.hash_of(self.project, modules_of(module.__name__, contributions)) if self.project else self.version
        )
        return Plugin(self.distribution, version, self.name, module.__name__, tuple(contributions))


def modules_of(module: str, contributions: Iterable[Contribution]) -> list[str]:
    """The modules that a plugin's contributions are in: its own, those of their targets, those of their params."""
    modules = [module]
    for each in contributions:
        if isinstance(each, Variant | Section):
            modules += [str(each.target).partition(":")[0], getattr(each.params, "__module__", "")]
    return list(dict.fromkeys(filter(None, modules)))


def _installed() -> Iterator[Candidate]:
    found = []
    for entry_point in entry_points(group=GROUP):
        if entry_point.dist is None:
            continue
        metadata = entry_point.dist.metadata
        # An interrupted uninstall leaves entry points without their METADATA; importing them then says what is wrong.
        name = metadata["Name"] or entry_point.module.partition(".")[0]
        found.append((_normal(name), metadata["Version"] or "", entry_point))
    found.sort(key=lambda each: (_rank(each[0]), each[0], each[2].name))
    for distribution, version, entry_point in found:
        if distribution not in BUILT_IN:
            belongs(entry_point.module, distribution)
        yield Candidate(distribution, version, entry_point.name, _importer(entry_point))


def _importer(entry_point: EntryPoint) -> Callable[[], ModuleType]:
    def import_module() -> ModuleType:
        module = entry_point.load()
        if not isinstance(module, ModuleType):
            raise TypeError(f"the entry point {entry_point.value} names a {type(module).__name__}, not a module")
        return module

    return import_module


def local_candidates(project: Path) -> Iterator[Candidate]:
    """The project's `variants/*.py`. A file that begins with `_` is not a plugin, but the others may import it."""
    folder = project / "variants"
    files = local.files_in(folder)
    if files and (reason := not_trusted(project) or not_trusted(folder)):
        yield Candidate(LOCAL, "", "variants", _refuser(reason))
        return
    local.forget_edited(folder)
    for file in files:
        yield Candidate(LOCAL, "", file.stem, local.importer(folder, file.stem), project)


def _refuser(reason: str) -> Callable[[], ModuleType]:
    def import_module() -> ModuleType:
        raise Unusable(reason)

    return import_module


def _check_api(module: ModuleType) -> None:
    spoken = getattr(module, "FOUNDRY_API", None)
    if spoken is None:
        raise Unusable(
            f"does not say which API it was written for, and this Foundry has API {FOUNDRY_API}: "
            f"the module {module.__name__} lacks FOUNDRY_API = {FOUNDRY_API}"
        )
    if not isinstance(spoken, int) or spoken > FOUNDRY_API:
        raise Unusable(f"was written for API {spoken}, and this Foundry has API {FOUNDRY_API}: upgrade Foundry")


def _register(module: ModuleType) -> pluggy.PluginManager:
    # A manager for each plugin: an unknown hook is then blamed on the one that has it, and two distributions may give
    # their entry points the same name.
    manager = pluggy.PluginManager("foundry")
    manager.add_hookspecs(HookSpecs)
    try:
        manager.register(module)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise Unusable(_explain(error, module)) from error
    return manager


def _collect(manager: pluggy.PluginManager, module: ModuleType, hook: str, kind: type) -> list[Any]:
    """What the plugin's `hook` returns; for a local file without that hook, its list of that name: VARIANTS, ..."""
    source = f"{hook}()"
    try:
        answers = list(getattr(manager.hook, hook)())
    except FAULTS as error:
        raise Unusable(f"{source} failed: {described(error)}") from error
    stated = hook.removeprefix("foundry_").upper()
    if not answers and _is_local(module) and hasattr(module, stated):
        source, answers = stated, [getattr(module, stated)]
    for answer in answers:
        if not isinstance(answer, list | tuple):
            raise Unusable(f"{source} is a {type(answer).__name__}, not a list of {kind.__name__}")
        for item in answer:
            if not isinstance(item, kind):
                raise Unusable(f"{source} holds {item!r}, which is not a {kind.__name__}")
    return [item for answer in answers for item in answer]


def _explain(error: pluggy.PluginValidationError, module: ModuleType) -> str:
    for name in dir(module):
        if hasattr(getattr(module, name), "foundry_impl") and name not in HOOKS:
            return f"implements the hook {name}, which does not exist{_did_you_mean(name)}"
    return " ".join(str(error).split())


def _did_you_mean(hook: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(hook, HOOKS, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(HOOKS)}"


def _how_to_contribute(distribution: str) -> str:
    if distribution == LOCAL:
        return "the file needs VARIANTS = [Variant(...)]"
    return "the module needs a function foundry_variants() marked with @hookimpl"


def _is_local(module: ModuleType) -> bool:
    return module.__name__.startswith(LOCAL_PACKAGE)


def _rank(distribution: str) -> int:
    return BUILT_IN.index(distribution) if distribution in BUILT_IN else len(BUILT_IN)


def _normal(name: str) -> str:
    """A distribution's name as the package index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
