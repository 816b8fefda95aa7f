"""The files of a project's variants/: of which sources each is made, that what is hashed is what runs, and whose code
is not run at all."""

import importlib.util
import os
import py_compile
import shutil
import stat
from pathlib import Path

import pytest
from tests.project import write_project

from foundry.core.contracts import Problem
from foundry.core.project import find_project
from foundry.core.registry import Plugin, discover, registry, registry_at_rest
from foundry.core.registry.discovery import Selection

pytestmark = pytest.mark.quick

VARIANT = """
from foundry.core.contracts import ActivationParams, Variant
{imports}
VARIANTS = [Variant("activation", "{name}", {target}, ActivationParams, "{name} of a test")]
"""
REACHED = {
    "tri.py": "SCALE = 3.0",
    "_helper.py": "from .deep.inner import X",  # which tri.py does not know
    "deep/__init__.py": "",
    "deep/inner.py": "X = 1",
    "late.py": "Y = 1",
    "named.py": "class Act: ...",
    "starred/__init__.py": "__all__ = ['one']",
    "starred/one.py": "Z = 1",
}
IMPORTS = """
from .tri import SCALE
from . import _helper
from .starred import *
def build():
    from .late import Y
"""


def variant(name: str, imports: str = "", target: str = "f'{__name__}:X'") -> str:
    return VARIANT.format(name=name, imports=imports, target=target)


def write(project: Path, files: dict[str, str]) -> Path:
    return write_project(project, {f"variants/{name}": text + "\n" for name, text in files.items()})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """One file that reaches all of REACHED, and another that reaches nothing."""
    reaches = variant("reaches", IMPORTS, "f'{__package__}.named:Act'")
    (tmp_path / "experiments").mkdir()
    return write(tmp_path, {**REACHED, "reaches.py": reaches, "alone.py": variant("alone")})


def found(project: Path) -> tuple[dict[str, Plugin], list[Problem]]:
    plugins, problems = discover(project, Selection.parse("local"))
    return {plugin.name: plugin for plugin in plugins if plugin.distribution == "local"}, problems


def versions(project: Path) -> dict[str, str]:
    return {name: plugin.version for name, plugin in found(project)[0].items()}


@pytest.mark.parametrize("edited", [*REACHED, "reaches.py"])
def test_an_edit_of_what_a_file_reaches_changes_its_version_and_no_other(project: Path, edited: str):
    before = versions(project)
    with open(project / "variants" / edited, "a") as file:
        file.write("EDITED = True\n")
    after = versions(project)
    assert after["reaches"] != before["reaches"]
    assert after["alone"] == before["alone"]


def test_the_version_is_that_of_the_sources_wherever_they_lie(project: Path, tmp_path: Path):
    moved = shutil.copytree(project / "variants", tmp_path / "other" / "variants").parent
    assert versions(moved) == versions(project)


@pytest.mark.parametrize(
    "call",
    [
        "importlib.import_module(f'{__package__}.{name}')",
        "__import__(f'{__package__}.{name}')",
        "exec(f'from . import {name}')",
        "runpy.run_path(name)",
    ],
)
def test_who_imports_by_a_name_that_is_computed_counts_everything_there(project: Path, call: str):
    computed = f"import importlib, runpy\ndef build(name):\n    return {call}"
    write(project, {"computes.py": variant("computes", computed)})
    before = versions(project)
    write(project, {"alone.py": variant("alone", "# edited")})
    assert {name for name, version in versions(project).items() if version != before[name]} == {"alone", "computes"}


def test_modules_of_the_project_beside_variants_count_and_installed_ones_do_not(project: Path, monkeypatch):
    name = f"mine_{os.getpid()}"
    (project / name).mkdir()
    for file in ("__init__.py", "tri.py"):
        (project / name / file).write_text("SCALE = 1\n")
    monkeypatch.syspath_prepend(project)
    write(project, {"absolute.py": variant("absolute", f"import pluggy\nfrom {name}.tri import SCALE")})
    there = write(
        project / "copy", {"absolute.py": variant("absolute", f"import pluggy\nfrom {name}.tri import SCALE")}
    )
    assert versions(project)["absolute"] != versions(there)["absolute"]  # of which it is no part


def test_what_runs_is_the_text_that_was_hashed(tmp_path: Path):
    """A .pyc that never looks at its source may hold anything, and comes with a clone like every file."""
    write(tmp_path, {"x.py": variant("evil")})
    file = tmp_path / "variants" / "x.py"
    cached = importlib.util.cache_from_source(str(file))
    py_compile.compile(str(file), cached, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    write(tmp_path, {"x.py": variant("good")})
    (contribution,) = found(tmp_path)[0]["x"].contributions
    assert contribution.name == "good"


def test_an_edit_that_keeps_size_and_time_is_seen(tmp_path: Path):
    write(tmp_path, {"x.py": variant("first", "from .tri import A"), "tri.py": "A = 1"})
    file = tmp_path / "variants" / "tri.py"
    before, times = versions(tmp_path), (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    write(tmp_path, {"tri.py": "A = 2"})
    os.utime(file, ns=times)
    assert versions(tmp_path) != before


# ---- whose code it is -------------------------------------------------------------------------------------------


def planting(marker: Path) -> str:
    return variant("evil", f"open({str(marker)!r}, 'a').close()")


def give_away(place: Path, how: str) -> None:
    """Let a file or folder be another's to write."""
    if how == "others may write":
        place.chmod(place.stat().st_mode | stat.S_IWOTH)
    elif os.geteuid():
        pytest.skip("only root can give a file away")
    else:
        os.chown(place, 12345, -1)


@pytest.mark.parametrize("how", ["others may write", "another's"])
def test_the_search_for_the_project_ends_below_a_folder_of_others(tmp_path: Path, how: str):
    shared, marker = tmp_path / "shared", tmp_path / "ran"
    write(shared, {"evil.py": planting(marker)})
    (shared / ".foundry").mkdir()
    (mine := shared / "mine" / "deep").mkdir(parents=True)
    assert find_project(mine) == shared
    give_away(shared, how)
    assert find_project(mine) == mine
    problems = registry(mine).problems
    assert any(f"FOUNDRY_TRUST={shared}" in problem.message for problem in problems)
    (mine.parent / "experiments").mkdir()
    assert find_project(mine) == mine.parent
    assert not marker.exists()


@pytest.mark.parametrize("how", ["others may write", "another's"])
@pytest.mark.parametrize("whose", [".", "variants", "variants/evil.py", "variants/_below/helper.py"])
def test_code_that_others_may_write_is_not_run_unless_the_user_trusts_them(
    tmp_path: Path, monkeypatch, how: str, whose: str
):
    project, marker = tmp_path / "project", tmp_path / "ran"
    helped = variant("evil", "from ._below.helper import X")
    write(project, {"evil.py": helped, "_below/helper.py": f"open({str(marker)!r}, 'a').close()\nX = 1"})
    give_away(project / whose, how)
    plugins, (problem,) = found(project)
    assert not plugins
    assert "FOUNDRY_TRUST=" in problem.message
    assert "\n" not in problem.message
    assert not marker.exists()
    monkeypatch.setenv("FOUNDRY_TRUST", str(project))
    assert "evil" in found(project)[0]
    assert marker.exists()


def test_a_link_to_what_others_may_write_is_no_way_round(tmp_path: Path):
    project, elsewhere, marker = tmp_path / "project", tmp_path / "elsewhere", tmp_path / "ran"
    write(elsewhere, {"evil.py": planting(marker)})
    give_away(elsewhere / "variants", "others may write")
    (project / "variants").mkdir(parents=True)
    (project / "variants" / "evil.py").symlink_to(elsewhere / "variants" / "evil.py")
    assert not found(project)[0]
    assert not marker.exists()


def test_names_are_known_without_running_the_project(project: Path, monkeypatch, tmp_path: Path):
    marker = tmp_path / "ran"
    more = "MUTATIONS = [Mutation('warmer', lambda e, v: {}, 'of a test', '2')]\n"
    more += "SHORTHANDS = [Shorthand('activation', 'evil_2', {'type': 'evil'}, 'short')]"
    write(project, {"evil.py": planting(marker) + more, "broken.py": "VARIANTS = ["})
    monkeypatch.chdir(project)
    names = registry_at_rest()
    assert {"evil", "evil_2", "reaches", "alone", "relu2"} <= {*names.variants("activation")}
    assert (names.mutations["warmer"].summary, names.mutations["warmer"].example) == ("of a test", "2")
    assert names.variants("activation")["evil"].summary == "evil of a test"
    assert not names.problems
    assert not marker.exists()
    monkeypatch.setenv("FOUNDRY_PLUGINS", "-alone")
    assert "alone" not in registry_at_rest().variants("activation")
    assert "reaches" in registry_at_rest().variants("activation")
