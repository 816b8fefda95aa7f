"""foundry plugins check, on plugins that go wrong in the ways that only using them would show."""

import importlib
import json
import sys

import pytest

from foundry.cli.__main__ import main

FAULTS = {
    "torch at the top": (
        "__init__.py",
        "from pydantic import Field",
        "import torch\nfrom pydantic import Field",
        "imports torch",
    ),
    "wrong target": ("__init__.py", ":QuietSilu", ":LoudSilu", "LoudSilu"),
    "no summary": ("__init__.py", "scale * silu(up)", "", "summary is empty"),
    "no such slot": ("__init__.py", 'slot="activation"', 'slot="activator"', "there is no slot 'activator'"),
    "a name in use": ("__init__.py", 'name="quiet_silu"', 'name="swiglu"', "already belongs to foundry-modules"),
    "defaults lost in YAML": (
        "__init__.py",
        "scale: float = Field(1.0, gt=0,",
        "scale: float = Field(float('nan'),",
        "scale",
    ),
    "import error in the target": ("quiet_silu.py", "import torch.nn.functional as F", "import torsh", "torsh"),
}


@pytest.fixture
def check(capsys, monkeypatch):
    """Run `foundry plugins check WANTED --json`, each time with the plugin's modules imported anew."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def run(wanted):
        for module in [name for name in sys.modules if name.startswith("foundry_plugin_quiet_silu")]:
            del sys.modules[module]
        importlib.invalidate_caches()
        code = main(["plugins", "check", str(wanted), "--json"])
        shown = capsys.readouterr()
        return code, json.loads(shown.out or shown.err)

    return run


@pytest.fixture
def plugin(tmp_path, capsys):
    assert main(["plugins", "new", "quiet-silu", str(tmp_path)]) == 0
    capsys.readouterr()
    return tmp_path / "foundry-plugin-quiet-silu"


def test_a_new_plugin_is_faultless_before_it_is_installed(plugin, check):
    code, told = check(plugin)
    assert (code, told["ok"]) == (0, True)
    assert {row["distribution"] for row in told["checks"]} == {"foundry-plugin-quiet-silu"}


@pytest.mark.parametrize("fault", FAULTS)
def test_check_finds(plugin, check, fault):
    name, old, new, words = FAULTS[fault]
    path = plugin / "src" / "foundry_plugin_quiet_silu" / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    code, told = check(plugin)
    assert code == 4
    assert words in " ".join(row["fault"] for row in told["checks"])


def test_a_plugin_that_does_not_load_is_exit_4_with_the_reason(plugin, check):
    path = plugin / "src" / "foundry_plugin_quiet_silu" / "__init__.py"
    path.write_text(path.read_text().replace("FOUNDRY_API = 1", "FOUNDRY_API = 99"))
    code, told = check(plugin)
    assert code == 4
    assert "API 99" in told["error"]["message"]


def test_checking_everything_finds_what_did_not_load(tmp_path, monkeypatch, check):
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "broken.py").write_text("VARIANTS = [1]\n")
    monkeypatch.chdir(tmp_path)
    code, told = check("")
    assert (code, told["ok"]) == (4, False)
    assert [problem["plugin"] for problem in told["problems"]] == ["broken"]


def test_what_is_no_plugin_is_a_usage_error(tmp_path, check):
    for wanted in ("no-such-plugin", tmp_path):
        code, told = check(wanted)
        assert (code, told["error"]["kind"]) == (2, "usage")


def test_new_refuses_bad_names_and_existing_folders(plugin, monkeypatch):
    monkeypatch.chdir(plugin.parent)
    for name in ("quiet-silu", "1st", "a/b", "../up"):
        assert main(["plugins", "new", name]) == 2
        assert [path.name for path in plugin.parent.iterdir()] == [plugin.name]
