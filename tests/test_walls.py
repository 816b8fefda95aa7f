"""The table of who may import whom, in pyproject.toml: it refuses what it says. And the house has no circles."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Container, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.library import Library
from torch.optim import Optimizer

from foundry import core, lab, zoo
from foundry.data import tokenize

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    # Where an import is planted -> the import, and words of the name of the rule that refuses it.
    "foundry-core/src/foundry/core/run.py": ("foundry.lab.baseline", "core knows neither"),
    "foundry-core/src/foundry/lab/baseline.py": ("foundry.zoo.catalog", "the lab knows core only"),
    "foundry-core/src/foundry/lab/decide/rule.py": ("pathlib", "no files and no clock"),
    "foundry-core/src/foundry/lab/trials/driver.py": ("foundry.lab.sweep.plan", "the floors of the lab"),
    "foundry-core/src/foundry/zoo/catalog.py": ("foundry.lab", "the zoo knows core only"),
    "foundry-modules/src/foundry/modules/norm/__init__.py": ("foundry.core.config", "siblings know core's contracts"),
    "foundry-data/src/foundry/data/plugin.py": ("foundry.modules.norm", "siblings do not know each other"),
    "foundry-evals/src/foundry/evals/plugin.py": ("foundry.kernels", "only modules needs kernels"),
    "foundry-kernels/src/foundry/kernels/__init__.py": ("foundry.core.contracts", "kernels imports torch and nothing"),
    "foundry-cli/src/foundry/cli/main.py": ("foundry.lab.ledger.store", "the lab by its face"),
    "foundry-core/src/foundry/core/registry/table.py": ("numpy", "never import torch or numpy"),
}


@pytest.mark.parametrize("package", [core, lab, zoo, tokenize])
def test_every_public_name_of_a_package_is_there(package):
    """They are imported when they are asked for, by a table of where each is."""
    assert [name for name in package.__all__ if getattr(package, name, None) is None] == []


def test_each_wall_refuses_what_it_says(tmp_path):
    """The house is built once more, with one forbidden import behind each wall, for types alone."""
    for package in (ROOT / "packages").glob("*/src"):
        shutil.copytree(package, tmp_path / package.relative_to(ROOT), ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    for file, (module, _) in FORBIDDEN.items():
        path = tmp_path / "packages" / file
        planted = f"from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import {module}\n"
        path.write_text(f"{path.read_text()}\n{planted}")
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    sources = os.pathsep.join(str(each) for each in (tmp_path / "packages").glob("*/src"))
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": sources}, text=True, capture_output=True
    )
    assert done.returncode == 1, done.stderr
    said = " ".join(done.stdout.partition("Broken contracts")[2].split())
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    told = re.split("|".join(f"(?={re.escape(each['name'])})" for each in named), said)  # one text for each contract
    missed = [
        (file, rule)
        for file, (_, rule) in FORBIDDEN.items()
        if not any(rule in each and _module(Path(file.partition("/src/")[2])) in each for each in told)
    ]
    assert not missed, done.stdout


def test_the_face_of_the_lab_names_what_the_command_line_uses_and_no_more():
    """Types included; and whatever it names is there."""
    sources = ROOT / "packages" / "foundry-cli" / "src"
    nodes = (node for file in sources.rglob("*.py") for node in ast.walk(ast.parse(file.read_text())))
    of_the_lab = (node for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "foundry.lab")
    assert {alias.name for node in of_the_lab for alias in node.names} == set(lab.__all__)
    assert all(getattr(lab, name).__name__ for name in lab.__all__)


def test_plugins_use_the_public_api_alone():
    """As a third party's would: they are no part of the house that the linter sees."""
    public = ("foundry.core.contracts", "foundry.core.testing")
    files = [file for file in (ROOT / "plugins").rglob("*.py") if "tests" not in file.parts]
    names = [name for file in files for name in _imports(file) if name.startswith("foundry.")]
    assert names
    assert [name for name in names if not name.startswith(public)] == []


def test_no_files_import_each_other_in_a_circle():
    """Of core, lab and zoo, whatever is imported inside functions included; imports for types alone are none."""
    source = ROOT / "packages" / "foundry-core" / "src"
    modules = {_module(file.relative_to(source)): file for file in source.rglob("*.py")}
    graph = {name: {_owner(each, modules) for each in _imports(file)} - {"", name} for name, file in modules.items()}
    circles = [sorted(found) for found in _components(graph) if len(found) > 1]
    assert not circles, "; ".join(" <-> ".join(each) for each in circles)


def test_a_class_has_its_name_for_itself():
    """In core and in the lab: who reads `Entry` need not ask whose."""
    source, owners = ROOT / "packages" / "foundry-core" / "src" / "foundry", dict[str, list[str]]()
    for file in [*(source / "core").rglob("*.py"), *(source / "lab").rglob("*.py")]:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef):
                owners.setdefault(node.name, []).append(str(file.relative_to(source)))
    assert {name: files for name, files in owners.items() if len(files) > 1} == {}


OPERATORS_WITHOUT_A_NAME = {
    "torch.ops.mkldnn._linear_pointwise",  # a product by oneDNN: by to_mkldnn() it takes half as long again
    "torch.ops.aten._grouped_mm",  # what the counter of FLOPs sees of torch.nn.functional.grouped_mm
}


def test_private_names_of_torch_are_read_nowhere():
    """Torch may change them with any version. What works on lists of tensors has no public name, but all optimizers."""
    shipped = [*(ROOT / "packages").glob("*/src/**/*.py"), *(ROOT / "plugins").glob("*/src/**/*.py")]
    read = [(name, str(file.relative_to(ROOT))) for file in shipped for name in _private_names_of_torch(file)]
    read = [each for each in read if not each[0].startswith("torch._foreach_")]
    assert {name for name, _ in read} == OPERATORS_WITHOUT_A_NAME, read


def _private_names_of_torch(file: Path) -> Iterator[str]:
    """Those that a file imports, those that it finds in torch's modules, and those of objects of torch's classes."""
    objects = nn.Module(), torch.empty(0), Optimizer([torch.empty(0)], {}), Library
    of_objects = {name for each in objects for name in dir(each) if re.match("_[^_]", name)}
    tree, of_torch = ast.parse(file.read_text()), {"torch": "torch"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            package = f"{node.module}." if isinstance(node, ast.ImportFrom) and node.module else ""
            for alias in node.names:
                if f"{package}{alias.name}".partition(".")[0] == "torch" and (package or alias.asname):
                    of_torch[alias.asname or alias.name] = f"{package}{alias.name}"
                    yield from filter(_is_private, [f"{package}{alias.name}"])
                elif alias.name.startswith("torch."):
                    yield from filter(_is_private, [alias.name])
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            root, _, rest = ast.unparse(node.value).partition(".")
            if root in of_torch:
                yield ".".join(filter(None, (of_torch[root], rest, node.attr)))
            elif node.attr in of_objects and root not in ("self", "cls"):
                yield f"{root}.{node.attr}"


def _is_private(name: str) -> bool:
    return any(part.startswith("_") for part in name.split("."))


def _module(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


def _imports(file: Path) -> Iterator[str]:
    """What a file imports of Foundry: modules, and names of packages, which may be modules."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):  # below `if TYPE_CHECKING:` nothing is imported
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _owner(name: str, modules: Container[str]) -> str:
    """The module that an import loads: `name`, or, where that is a name in a module, that module."""
    return next((each for each in (name, name.rpartition(".")[0]) if each in modules), "")


def _components(graph: dict[str, set[str]]) -> Iterator[set[str]]:
    """The sets of modules that reach each other, by Tarjan's algorithm."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []

    def visit(name: str) -> Iterator[set[str]]:
        number[name] = lowest[name] = len(number)
        stack.append(name)
        for other in graph[name]:
            if other not in number:
                yield from visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], number[other])
        if lowest[name] == number[name]:
            found = set()
            while name not in found:
                found.add(stack.pop())
            yield found

    for name in graph:
        if name not in number:
            yield from visit(name)
