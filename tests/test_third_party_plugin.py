"""Plugins from outside, built and installed as a user would, in an environment of their own."""

import json
import os
import re
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
EXAMPLE = REPOSITORY / "plugins" / "foundry-plugin-example"
UV = os.environ.get("UV") or shutil.which("uv")
pytestmark = pytest.mark.skipif(UV is None, reason="uv builds and installs the wheels")

SMALL = [
    "model_args.n_layer=1",
    "model_args.n_embd=32",
    "model_args.block_size=16",
    "training.max_iters=3",
    "training.batch_size=4",
    "training.eval_tokens=256",
    "logging.sample_tokens=5",
]


class Environment:
    """A virtual environment with everything that is installed here except plugins, and nothing of it copied."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder, symlinks=True)
        self.python = folder / "bin" / "python"
        here = Path(sysconfig.get_path("purelib"))
        there = Path(self.run("import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        for entry in here.iterdir():
            if not entry.name.startswith(("foundry_plugin", "__pycache__")):
                (there / entry.name).symlink_to(entry)

    def run(self, code: str) -> str:
        return subprocess.run([self.python, "-c", code], check=True, capture_output=True, text=True).stdout

    def install(self, project: Path) -> None:
        """Build the project's wheel and install it, with no network and no dependencies."""
        wheels = self.folder / "wheels"
        subprocess.run([UV, "build", "--wheel", "--offline", "--quiet", "--out-dir", wheels, project], check=True)
        wheel = next(wheels.glob(f"{project.name.replace('-', '_')}-*.whl"))
        command = [UV, "pip", "install", "--offline", "--no-deps", "--quiet", "--python", self.python, wheel]
        subprocess.run(command, check=True)

    def foundry(self, project: Path, *arguments: str) -> dict[str, object]:
        """Run `foundry ARGUMENTS --json` in `project`; what it prints."""
        done = self.module(project, "foundry.cli", *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def test(self, plugin: Path) -> None:
        """Run the plugin's own tests: all pass, and none is skipped because the plugin was not found."""
        tested = self.module(plugin, "pytest", "-q", "-p", "no:cacheprovider", "tests")
        assert tested.returncode == 0, tested.stdout
        passed = re.search(r"(\d+) passed", tested.stdout)
        assert passed is not None, tested.stdout
        assert int(passed[1]) > 5, tested.stdout

    def module(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if key not in ("FOUNDRY_PLUGINS", "PYTHONPATH")}
        environment |= {"OMP_NUM_THREADS": "1", "FOUNDRY_CACHE": str(self.folder / "cache")}
        command = [str(self.python), "-m", *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def environment(tmp_path):
    return Environment(tmp_path / "environment")


@pytest.fixture
def project(tmp_path, environment):
    environment.foundry(tmp_path, "init", "project")
    return tmp_path / "project"


def mutations(environment: Environment, project: Path) -> set[tuple[str, str, str]]:
    listed = environment.foundry(project, "mutate", "--list")["mutations"]
    return {(row["type"], row["value"], row["distribution"]) for row in listed}


def test_the_example_plugin_adds_an_activation_and_a_mutation_type_that_train(environment, project):
    before = mutations(environment, project)
    assert ("activation", "swiglu", "foundry-modules") in before
    environment.install(EXAMPLE)
    after = mutations(environment, project)
    assert before < after
    assert {(type, distribution) for type, _, distribution in after - before} == {
        ("activation", "foundry-plugin-example"),
        ("heads", "foundry-plugin-example"),
    }
    environment.foundry(project, "plugins", "check", "foundry-plugin-example")

    activated = environment.foundry(project, "mutate", "activation", "xielu")["path"]
    both = environment.foundry(project, "mutate", "heads", "2", "--base", activated)["path"]
    assert Path(both).name == "act_xielu+heads_2.yaml"
    shown = environment.foundry(project, "config", "show", both)["experiment"]["model_args"]
    assert (shown["n_head"], shown["activation"]["type"]) == (2, "xielu")
    sets = [word for one in SMALL for word in ("--set", one)]
    trained = environment.foundry(project, "train", both, *sets)
    assert trained["step"] == 3
    written = environment.foundry(project, "generate", str(trained["run"]), "--max-tokens", "5")
    assert written["text"]
    environment.test(EXAMPLE)


def test_what_the_scaffold_writes_passes_its_own_tests(environment, project, tmp_path):
    made = environment.foundry(tmp_path, "plugins", "new", "scaled-silu")
    plugin = tmp_path / str(made["folder"])
    assert environment.foundry(tmp_path, "plugins", "check", str(plugin))["ok"]
    environment.install(plugin)
    assert ("activation", "scaled_silu", "foundry-plugin-scaled-silu") in mutations(environment, project)
    environment.foundry(project, "mutate", "activation", "scaled_silu")
    environment.test(plugin)
