"""foundry plugins check, on plugins that go wrong in the ways that only using them would show."""

import importlib
import json
import sys

import pytest
from tests.documents import faults
from tests.project import write_project

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
        assert not shown.out or faults("plugins check", json.loads(shown.out)) == []
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


def test_a_section_whose_defaults_yaml_makes_something_else_of_is_told(tmp_path, monkeypatch, check):
    source = (
        "from foundry.core.contracts import Params, Section\n\nclass Lessons(Params):\n    order: object = (1, 2)\n\n"
    )
    source += "SECTIONS = [Section('lessons', Lessons, summary='x')]\n"
    monkeypatch.chdir(write_project(tmp_path, {"variants/lessons.py": source}))
    code, told = check("variants/lessons.py")
    faulty = [row for row in told["checks"] if row["fault"]]
    assert (code, [row["check"] for row in faulty]) == (4, ["its defaults survive YAML"])
    assert "comes back as" in faulty[0]["fault"]


def test_a_plugin_that_does_not_load_is_exit_4_with_the_reason(plugin, check):
    path = plugin / "src" / "foundry_plugin_quiet_silu" / "__init__.py"
    path.write_text(path.read_text().replace("FOUNDRY_API = 1", "FOUNDRY_API = 99"))
    code, told = check(plugin)
    assert code == 4
    assert "API 99" in told["error"]["message"]


def test_checking_everything_finds_what_did_not_load(tmp_path, monkeypatch, check):
    monkeypatch.chdir(write_project(tmp_path, {"variants/broken.py": "VARIANTS = [1]\n"}))
    code, told = check("")
    assert (code, told["ok"]) == (4, False)
    assert [problem["plugin"] for problem in told["problems"]] == ["broken"]
    code, told = check("broken")  # by the name of its file alone
    assert code == 4
    assert "local (broken): " in told["error"]["message"]


ATTENTION = """\
import torch
from torch import nn
from foundry.core.contracts import AttentionParams, Variant


class Cache:
    def __init__(self, tensor):
        self.length, self.tensors = 0, (tensor,)


class Forgets(nn.Module):
    def __init__(self, params, dims, position):
        super().__init__()
        self.value = nn.Linear(dims.n_embd, dims.n_embd)

    def forward(self, x, ctx):
        print("so far so good")
        if ctx.cache is not None:
            ctx.cache.length += x.size(1)
        return self.value(x).cumsum(1), {}

    def init_cache(self, batch, max_len, dtype, device):
        return Cache(torch.zeros(batch, 1, dtype=dtype, device=device))


class NoPosition(AttentionParams):
    positions = frozenset({"nothing"})


VARIANTS = [Variant("attention", "forgets", f"{__name__}:Forgets", NoPosition, "the sum of all values so far")]
"""


def test_every_variant_goes_through_the_conformance_kit(tmp_path, monkeypatch, check):
    monkeypatch.chdir(write_project(tmp_path, {"variants/sums.py": ATTENTION}))
    code, told = check("variants/sums.py")
    assert (code, told["ok"]) == (4, False)
    rows = {row["check"]: row for row in told["checks"]}
    assert "torch" in rows["listing it imports nothing heavy"]["note"]
    assert {"causality", "state_dict_round_trip"} <= {name for name, row in rows.items() if not row["fault"]}
    wrong = rows["decode_equals_forward"]
    assert (wrong["contribution"], wrong["place"]) == ("attention forgets", "variants/sums.py:11")
    assert wrong["fault"].startswith("it differs by ")


def test_a_variant_without_defaults_is_said_to_be_untried(tmp_path, monkeypatch, check):
    sine = (
        "from foundry.core.contracts import ActivationParams, Variant\n"
        "class Params(ActivationParams):\n    speed: float\n"
        "VARIANTS = [Variant('activation', 'sine', f'{__name__}:Params', Params, 'sin(speed x)')]\n"
    )
    monkeypatch.chdir(write_project(tmp_path, {"variants/sine.py": sine}))
    code, told = check("variants/sine.py")
    assert code == 0
    assert "not tried: speed has no default" in told["checks"][-1]["note"]


def test_what_is_no_plugin_is_a_usage_error(tmp_path, check):
    for wanted in ("no-such-plugin", tmp_path):
        code, told = check(wanted)
        assert (code, told["error"]["kind"]) == (2, "usage")


def test_new_refuses_bad_names_and_existing_folders(plugin, monkeypatch):
    monkeypatch.chdir(plugin.parent)
    for name in ("quiet-silu", "1st", "a/b", "../up"):
        assert main(["plugins", "new", name]) == 2
        assert [path.name for path in plugin.parent.iterdir()] == [plugin.name]


def test_a_plugins_folder_hides_no_module_of_pythons_own(plugin, check):
    for name in ("dataclasses", "json", "signal"):
        (plugin / "src" / f"{name}.py").write_text("1 / 0\n")
    code, told = check(plugin)
    assert (code, told["ok"]) == (0, True)


@pytest.mark.parametrize("folder", [".", "src"])
def test_a_plugins_folder_that_others_may_write_is_not_run(plugin, check, folder, monkeypatch):
    (plugin / folder).chmod(0o777)
    code, told = check(plugin)
    assert code == 4
    assert f"FOUNDRY_TRUST={(plugin / folder).resolve()}" in told["error"]["message"]
    monkeypatch.setenv("FOUNDRY_TRUST", str(plugin))
    assert check(plugin)[0] == 0
