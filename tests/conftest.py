"""What many tests here stand on: a virtual environment of its own, for what a user does outside this checkout (install,
build, follow the docs); a folder to work in; and a system that lacks something."""

import gc
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.project import working_in
from tests.refusing_system import COMPILER, System, refusing_system

UV = os.environ.get("UV") or shutil.which("uv")
NOT_INHERITED = ("FOUNDRY_PLUGINS", "PYTHONPATH", "UV_FIND_LINKS", "UV_INDEX", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL")


class Environment:
    """A virtual environment that sees everything installed here, of which nothing is copied, except Foundry's plugins
    and, unless `with_foundry`, Foundry itself."""

    def __init__(self, folder: Path, *, with_foundry: bool = True) -> None:
        self.folder = folder
        venv.create(folder, symlinks=True)
        self.python = folder / "bin" / "python"
        here = Path(sysconfig.get_path("purelib"))
        self.site_packages = Path(self.says("import sysconfig; print(sysconfig.get_path('purelib'))"))
        for entry in here.iterdir():
            if entry.name.startswith(("foundry_plugin", "__pycache__")):
                continue
            if entry.name.startswith("foundry_") and not with_foundry:
                continue
            self._show(entry)
        self._command("pytest", "pytest")
        if with_foundry:
            self._command("foundry", "foundry.cli")
            from tests.compiled_kernels import put_into  # and torch, which few tests need

            put_into(folder / "cache")

    def _show(self, entry: Path) -> None:
        """Make a file or folder of the parent's site-packages visible here."""
        there = self.site_packages / entry.name
        if entry.suffix == ".dist-info":  # uv takes only a real folder for an installed distribution
            shutil.copytree(entry, there)
        elif entry.name.startswith("foundry_"):  # may be replaced here: not through a link to the original
            shutil.copyfile(entry, there)
        else:
            there.symlink_to(entry)

    def _command(self, name: str, module: str) -> None:
        script = self.folder / "bin" / name
        script.write_text(f"#!/bin/sh\nexec '{self.python}' -m {module} \"$@\"\n")
        script.chmod(0o755)

    def says(self, code: str) -> str:
        """What a line of Python prints in this environment."""
        return self.run(self.folder, self.python, "-c", code).stdout.strip()

    def run(self, folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command in `folder` with this environment active and without network; it must succeed."""
        kept = {key: value for key, value in os.environ.items() if key not in NOT_INHERITED}
        path = [str(self.folder / "bin"), *([str(Path(UV).parent)] if UV else []), os.environ["PATH"]]
        active = {
            "VIRTUAL_ENV": str(self.folder),
            "PATH": os.pathsep.join(path),
            "FOUNDRY_CACHE": str(self.folder / "cache"),
            "OMP_NUM_THREADS": "1",
            "UV_OFFLINE": "1",
        }
        done = subprocess.run(command, cwd=folder, env=kept | active, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
        return done

    def install(self, project: Path) -> None:
        """Build the project's wheel and install it, with no network and no dependencies."""
        assert UV is not None
        wheels = self.folder / "wheels"
        self.run(project, UV, "build", "--wheel", "--quiet", "--out-dir", wheels)
        wheel = next(wheels.glob(f"{project.name.replace('-', '_')}-*.whl"))
        self.run(project, UV, "pip", "install", "--no-deps", "--quiet", wheel)

    def foundry(self, project: Path, *arguments: str) -> dict[str, object]:
        """Run `foundry ARGUMENTS --json` in `project`; what it prints."""
        return json.loads(self.run(project, self.python, "-m", "foundry.cli", *arguments, "--json").stdout)


def pytest_collection_modifyitems(items):
    """Building and installing is uv's work: without it, what needs an environment is skipped."""
    for item in items:
        if UV is None and "make_environment" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip("uv builds and installs"))


FROZEN_AT = 300
"""Modules that have been imported since, before the collector is told again to pass over what is there."""
_modules = 0


def pytest_runtest_setup(item):
    """What imports brought stays: a worker looks through all objects after each trial, and those of torch and
    transformers, a million, take half a second."""
    global _modules
    if len(sys.modules) > _modules + FROZEN_AT:
        _modules = len(sys.modules)
        gc.collect()
        gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()  # else libraries complain of leaks at the end


@pytest.fixture(scope="session")
def make_environment():
    return Environment


@pytest.fixture(scope="module")
def system(tmp_path_factory) -> Iterator[System]:
    """One that lacks what it is told to lack."""
    if COMPILER is None:
        pytest.skip("there is no C compiler to make the system with")
    with refusing_system(tmp_path_factory.mktemp("system")) as system:
        yield system


@pytest.fixture
def working_folder(tmp_path) -> Iterator[Path]:
    """An empty one, which is the working directory."""
    with working_in(tmp_path):
        yield tmp_path


@pytest.fixture
def environment(tmp_path, make_environment) -> Environment:
    return make_environment(tmp_path / "environment")
