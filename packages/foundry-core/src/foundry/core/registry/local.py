"""The project's own code: `variants/*.py`, how it is imported, and of which sources each file is made.

The folder is a package named after its path: two projects in one process do not mix, and a file can say
`from ._helper import ...` and name its own class as f"{__name__}:Class". What runs is the text that was hashed: it is
read once, and compiled from there, never from a .pyc that somebody laid beside it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from foundry.core.blame import LOCAL_PACKAGE
from foundry.core.system.files import JSON_BYTES, read_regular
from foundry.core.system.places import not_trusted

BY_NAME = {"import_module", "__import__", "exec", "run_path", "run_module", "spec_from_file_location"}
"""What imports a module whose name no reader of the source can know."""

_read: dict[Path, bytes] = {}
"""The sources in variants/ as this process read them first."""


def package_of(folder: Path) -> str:
    """What a folder variants/ is imported as."""
    return f"{LOCAL_PACKAGE}{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"


def files_in(folder: Path) -> list[Path]:
    """The files of a folder variants/ that are plugins. One that begins with `_` is none, but they may import it."""
    return sorted(file for file in folder.glob("*.py") if not file.stem.startswith("_")) if folder.is_dir() else []


def importer(folder: Path, stem: str) -> Callable[[], ModuleType]:
    """Imports `stem`.py of a folder variants/."""
    package = package_of(folder)

    def import_module() -> ModuleType:
        if not stem.isidentifier():
            raise ImportError(f"{stem!r} is no Python name; call the file {re.sub(r'[^0-9a-zA-Z]+', '_', stem)}.py")
        if _finder not in sys.meta_path:
            sys.meta_path.insert(0, _finder)
        if package not in sys.modules:
            sys.modules[package] = parent = ModuleType(package)
            parent.__path__ = [str(folder)]
        return importlib.import_module(f"{package}.{stem}")

    return import_module


def forget_edited(folder: Path) -> None:
    """Where a file of variants/ is not any more what this process has read, all of them are read and imported anew."""
    ours = [file for file in _read if file.is_relative_to(folder)]
    if any(_bytes_of(file) != _read[file] for file in ours):
        package = package_of(folder)
        for name in [name for name in sys.modules if f"{name}.".startswith(f"{package}.")]:
            del sys.modules[name]
        for file in ours:
            del _read[file]
        importlib.invalidate_caches()


class _Finder(MetaPathFinder):
    """Finds the modules of folders variants/."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(LOCAL_PACKAGE):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None:
            return spec
        if reason := not_trusted(Path(spec.origin)):
            raise ImportError(reason)
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


_finder = _Finder()


class _Loader(SourceFileLoader):
    """Runs what `_source` returns, whatever lies in __pycache__."""

    def get_code(self, fullname: str) -> CodeType:
        source = _source(Path(self.path)) or self.get_data(self.path)  # which says why it cannot be read
        code: CodeType = self.source_to_code(source, self.path)
        return code


def _source(file: Path) -> bytes:
    if file not in _read:
        _read[file] = _bytes_of(file)
    return _read[file]


def _bytes_of(file: Path) -> bytes:
    try:
        return read_regular(file, JSON_BYTES)
    except OSError:  # a folder, or not ours to read: importing it says so, under its name
        return b""


# --------------------------------------------------------------------------------------------------------------------
# What a file is made of


def hash_of(project: Path, modules: Iterable[str]) -> str:
    """sha256 of the sources that modules of a project are made of: their own, and of whatever they import, anywhere in
    their text, of the project's folder. Installed packages are left out, and Foundry's own."""
    package = package_of(project / "variants")
    sources = [
        (name.replace(package, "variants", 1), hashlib.sha256(source).hexdigest())
        for name, source in _reached(project, modules).items()
    ]
    return hashlib.sha256(json.dumps(sorted(sources)).encode()).hexdigest()


def _reached(project: Path, modules: Iterable[str]) -> dict[str, bytes]:
    """Module -> source. It is read and not run, so that what is only imported when a model is built is there too."""
    reached: dict[str, bytes] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        file, within = _locate(name)
        if name in reached or not ((within and name.startswith(LOCAL_PACKAGE)) or (file and _is_in(project, file))):
            continue
        if parent := name.rpartition(".")[0]:
            waiting.append(parent)
        reached[name] = _source(file) if file else b""
        waiting += _imported(name, name if within else parent, reached[name])
    return {name: source for name, source in reached.items() if source}


def _imported(name: str, package: str, source: bytes) -> Iterator[str]:
    """What a source may import: `from a import b` is a, and the module a.b if there is one."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            around = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*around, *([node.module] if node.module else [])])
            yield origin
            for alias in node.names:
                yield from _below(origin) if alias.name == "*" else (f"{origin}.{alias.name}",)
        elif getattr(node, "id", getattr(node, "attr", None)) in BY_NAME:  # it may be anything beside it
            yield from _below(name.partition(".")[0])


def _below(package: str) -> Iterator[str]:
    """Every module in a package."""
    for folder in map(Path, _locate(package)[1] or ()):
        for file in folder.rglob("*.py"):
            parts = file.relative_to(folder).with_suffix("").parts
            yield ".".join([package, *(parts[:-1] if parts[-1] == "__init__" else parts)])


def _locate(name: str) -> tuple[Path | None, Sequence[str] | None]:
    """A module's file, and where the modules below it are, without importing it."""
    top, _, below = name.partition(".")
    if not top or top == "foundry" or top in sys.stdlib_module_names:
        return None, None
    if (loaded := sys.modules.get(name)) is not None:
        known: dict[str, Any] = getattr(loaded, "__dict__", {})  # there are modules that answer for any name
        file, within = known.get("__file__"), known.get("__path__")
        return Path(file) if isinstance(file, str) else None, list(within) if within else None
    within = _locate(name.rpartition(".")[0])[1] if below else None
    if below and within is None:
        return None, None
    for finder in (PathFinder,) if below else sys.meta_path:
        try:
            spec = finder.find_spec(name, within)
        except (ImportError, AttributeError):
            continue
        if spec is not None:
            file = Path(spec.origin) if spec.has_location and spec.origin else None
            return file, list(spec.submodule_search_locations or ()) or None
    return None, None


def _is_in(project: Path, file: Path) -> bool:
    """Whether a file is the project's own, and not of what is installed in it, as in its .venv."""
    file = file.absolute()
    return file.is_relative_to(project) and not any(file.is_relative_to(folder) for folder in _installed())


@cache
def _installed() -> tuple[Path, ...]:
    import site
    import sysconfig

    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {sysconfig.get_path(kind) for kind in kinds} | {*site.getsitepackages(), site.getusersitepackages()}
    return tuple(map(Path, folders))


# --------------------------------------------------------------------------------------------------------------------
# What a file says of itself


def stated(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(Variant | Shorthand | Mutation, its arguments that are text) as they stand in a file, which is not run. What it
    computes is not seen."""
    order = {
        "Variant": ("slot", "name", "target", "params", "summary"),
        "Shorthand": ("slot", "name", "expands_to", "summary"),
        "Mutation": ("type", "edit", "summary", "example"),
    }
    try:
        tree = ast.parse(read_regular(file, JSON_BYTES))
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        kind = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
        if isinstance(node, ast.Call) and kind in order:
            given = [*zip(order[kind], node.args, strict=False), *((word.arg, word.value) for word in node.keywords)]
            text = {name: ast.literal_eval(each) for name, each in given if name and isinstance(each, ast.Constant)}
            yield kind, {name: value for name, value in text.items() if isinstance(value, str)}
