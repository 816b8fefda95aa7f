"""Plugins from outside, built and installed as a user would, in an environment of their own."""

import json
import re
from pathlib import Path

import pytest
from tests.project import QUICKLY

EXAMPLE = Path(__file__).parents[1] / "plugins" / "foundry-plugin-example"


@pytest.fixture
def project(tmp_path, environment):
    environment.foundry(tmp_path, "init", "project")
    return tmp_path / "project"


def mutations(environment, project: Path) -> set[tuple[str, str, str]]:
    listed = environment.foundry(project, "mutate", "--list")["mutations"]
    return {(row["type"], row["value"], row["distribution"]) for row in listed}


def assert_its_own_tests_pass(environment, plugin: Path) -> None:
    """Run the plugin's own tests: all pass, and none is skipped because the plugin was not found."""
    tested = environment.run(plugin, environment.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
    passed = re.search(r"(\d+) passed", tested.stdout)
    assert passed is not None, tested.stdout
    assert int(passed[1]) > 5, tested.stdout


def test_the_example_plugin_adds_an_activation_a_mutation_type_and_a_task(environment, project):
    before = mutations(environment, project)
    assert ("activation", "swiglu", "foundry-modules") in before
    environment.install(EXAMPLE)
    after = mutations(environment, project)
    assert before < after
    assert {(type, distribution) for type, _, distribution in after - before} == {
        ("activation", "foundry-plugin-example"),
        ("heads", "foundry-plugin-example"),
    }

    activated = environment.foundry(project, "mutate", "activation", "xielu")["path"]
    both = environment.foundry(project, "mutate", "heads", "2", "--base", activated)["path"]
    assert Path(both).name == "act_xielu+heads_2.yaml"
    shown = environment.foundry(project, "config", "show", both)["experiment"]["model_args"]
    assert (shown["n_head"], shown["activation"]["type"]) == (2, "xielu")
    trained = environment.foundry(project, "train", both, *QUICKLY)
    assert trained["step"] == 3
    written = environment.foundry(project, "generate", str(trained["run"]), "--max-tokens", "5")
    assert written["text"]
    asked = ["--executor", "inline", "--eval-task", "{type: repeat, words: 5}", "--seeds", "2", "--budget", "3 steps"]
    told = environment.run(project, environment.python, "-m", "foundry.cli", "noise", *asked, "--json").stdout
    assert json.loads(told.splitlines()[-1])["metric"] == "repeat.bits_saved"
    assert_its_own_tests_pass(environment, EXAMPLE)


def test_what_the_scaffold_writes_passes_its_own_tests(environment, project, tmp_path):
    made = environment.foundry(tmp_path, "plugins", "new", "scaled-silu")
    plugin = tmp_path / str(made["folder"])
    assert environment.foundry(tmp_path, "plugins", "check", str(plugin))["ok"]
    environment.install(plugin)
    assert ("activation", "scaled_silu", "foundry-plugin-scaled-silu") in mutations(environment, project)
    environment.foundry(project, "mutate", "activation", "scaled_silu")
    assert_its_own_tests_pass(environment, plugin)
