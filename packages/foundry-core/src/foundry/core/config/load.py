"""Reads an experiment: defaults < `extends:` < file < `--set`, all faults at once, each with its place."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from foundry.core.config.assemble import assemble, edited
from foundry.core.config.command_line import Written
from foundry.core.config.document import Document, Fault, Place
from foundry.core.config.experiment import Experiment
from foundry.core.config.yaml import read_file, read_text
from foundry.core.contracts import InvalidExperiment, UsageError
from foundry.core.project import BASELINE, find_project
from foundry.core.registry import Registry
from foundry.core.registry import registry as discover


def load_experiment(
    path: str | Path | None = None, sets: Sequence[str] = (), registry: Registry | None = None
) -> Experiment:
    """The experiment of a file.

    Args:
        path: a YAML file; None is experiments/baseline.yaml of the project around the working directory.
        sets: `section.key=value` each, on top of the file; see `foundry.core.config.command_line`.
        registry: what may be chosen; by default what the file's project has.

    Raises:
        InvalidExperiment: with one `file:line:column: key: what is wrong` line per fault.
        PluginError: it needs a variant that a broken plugin has.
        UsageError: one of `sets` is not `key=value`.
    """
    file = _baseline() if path is None else Path(path)
    project = find_project(file if os.path.exists(file) else Path.cwd())
    if not os.path.exists(file) and (near := _near(file, project)):
        raise InvalidExperiment(f"{file}: there is no such file", f"did you mean {near}?")
    registry = registry or discover(project)
    documents = [*_read_chain(file), *map(_read_set, sets)]
    return assemble(documents, registry, project, name=file.stem, path=file)


def from_plain(
    data: Mapping[str, Any],
    *,
    project: Path | None = None,
    source: str = "config.json",
    registry: Registry | None = None,
    sets: Sequence[str] = (),
) -> Experiment:
    """The experiment that plain data describes, in full as `Experiment.plain()` does or with defaults left out.

    Args:
        project: a folder in the project whose `variants/*.py` take part; by default the working directory.
        source: what messages call the data.
        sets: on top of it, as of `load_experiment`.

    Raises:
        InvalidExperiment, PluginError: as for `load_experiment`.
    """
    project = find_project(project or Path.cwd())
    document = Document(deepcopy(dict(data)), {(): Place(source)})
    return assemble([document, *map(_read_set, sets)], registry or discover(project), project)


def with_sets(experiment: Experiment, sets: Sequence[str]) -> Experiment:
    """`experiment` with `--set` on top, as of `load_experiment`, and the same name.

    Raises:
        InvalidExperiment, PluginError, UsageError: as for `load_experiment`.
    """
    written = edited(experiment, {}, experiment.name, Place(experiment.name))
    documents = [written, *map(_read_set, sets)]
    return assemble(documents, experiment.registry, experiment.project, name=experiment.name)


def from_text(text: str, project: Path, *, name: str, source: str = "") -> Experiment:
    """The experiment that YAML describes which is in no file, or not yet.

    Args:
        name: what it is called unless it says so.
        source: what messages call the text.

    Raises:
        InvalidExperiment, PluginError: as for `load_experiment`.
    """
    return assemble([read_text(text, source or name)], discover(project), project, name=name)


def _near(file: Path, project: Path) -> str:
    """The experiments that may be meant by the name of a file that is not there; empty: none."""
    from difflib import get_close_matches

    files = sorted((project / BASELINE).parent.glob("*.*"))
    there = {each.stem: each for each in files if each.suffix in (".yaml", ".yml", ".json")}
    return " or ".join(os.path.relpath(there[stem]) for stem in get_close_matches(file.stem, there, n=3))


def _baseline() -> Path:
    project = find_project(Path.cwd())
    file = project / BASELINE
    if not file.exists():
        raise InvalidExperiment(f"there is no {BASELINE} in {project}", "`foundry init` writes one, or name a file")
    return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file


def _read_chain(file: Path) -> list[Document]:
    """The file, after everything that it extends."""
    documents: list[Document] = []
    seen: list[Path] = []
    while True:
        document = read_file(file)
        seen.append(file.resolve())
        if documents:
            document.drop(("name",))  # a file is called by its own
        documents.insert(0, document)
        if "extends" not in document.data:
            return documents
        named = document.data["extends"]
        if not isinstance(named, str) or not named:
            _refuse(document.fault(("extends",), "needs the path of another experiment file, relative to this one"))
        file = file.parent / named
        if not os.path.isfile(file):  # which, unlike Path.is_file, says so of an impossible name too
            _refuse(document.fault(("extends",), f"there is no file {file}"))
        if file.resolve() in seen:
            chain = " -> ".join(each.name for each in [*seen, file])
            _refuse(document.fault(("extends",), f"goes in a circle: {chain}"))
        document.drop(("extends",))


def _read_set(flag: str) -> Document:
    key, equals, text = flag.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        raise UsageError(f"--set {flag}: is not key=value", "for example: --set training.learning_rate=3e-4")
    source = f"--set {flag if flag.isprintable() else ascii(flag)}"
    document = Document({}, {(): Place(source)})
    document.set(path, Written(text, source), Place(source))
    return document


def _refuse(fault: Fault) -> None:
    raise InvalidExperiment(str(fault))
