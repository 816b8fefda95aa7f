"""Plugins, good and bad, as a user meets them: installed in a folder of site-packages, or in a project's variants/."""

import itertools
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from foundry.core.config.mutate import list_mutations
from foundry.core.contracts import PluginError, UsageError
from foundry.core.project import find_project
from foundry.core.registry import Registry, Selection, discover
from foundry.core.registry import registry as registry_of

pytestmark = pytest.mark.quick

CORE = """
    @hookimpl
    def foundry_slots():
        return [
            Slot("ffn", "model_args.ffn", "dense", "the feed-forward", per_layer=True),
            Slot("attention", "model_args.attention", "mha", "who sees whom", "attn", per_layer=True),
        ]

    @hookimpl
    def foundry_variants():
        return [
            Variant("attention", "mha", "torch.nn:MultiheadAttention"),
            Variant("attention", "gqa", "collections:Counter"),
            Variant("ffn", "dense", "torch.nn:Linear"),
            Variant("ffn", "moe", "torch.nn:Bilinear"),
        ]

    @hookimpl
    def foundry_mutations():
        return [Mutation("depth", lambda experiment, value: {}, "layers")]
"""
HEAD = """
    from foundry.core.contracts import Mutation, Params, Section, Shorthand, Slot, Variant, hookimpl
"""

NUMBERS = itertools.count()  # a module's name is never used again: Python would not read its file


class Site:
    """A folder of installed distributions, the only one that discovery sees beside the standard library."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.project = folder / "project"
        self.project.mkdir()

    def install(self, distribution: str, source: str, *, version="1.0", api: int | None = 1, plugin="", folder=None):
        folder = folder or self.folder
        module = f"plugin_under_test_{next(NUMBERS)}"
        head = textwrap.dedent(HEAD) + (f"FOUNDRY_API = {api}\n" if api is not None else "")
        (folder / f"{module}.py").write_text(head + textwrap.dedent(source))
        info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[foundry]\n{plugin or distribution.split('-')[-1]} = {module}\n")

    def local(self, stem: str, source: str):
        (self.project / "variants").mkdir(exist_ok=True)
        (self.project / "variants" / f"{stem}.py").write_text(textwrap.dedent(HEAD) + textwrap.dedent(source))

    def registry(self, selection: str = "") -> Registry:
        return Registry(*discover(self.project, Selection.parse(selection)))


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *(entry for entry in sys.path if "site-packages" not in entry)])
    site = Site(tmp_path)
    site.install("foundry-core", CORE)
    return site


def adds(*variants: str, slot: str = "attention") -> str:
    """The source of a plugin that adds these variants."""
    listed = ", ".join(f"Variant('{slot}', '{name}', 'collections:OrderedDict')" for name in variants)
    return f"@hookimpl\ndef foundry_variants():\n    return [{listed}]\n"


GOOD = adds("mla")

BROKEN = {
    "import error": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "any error": ("1 / 0", "ZeroDivisionError"),
    "syntax error": ("def f(:", "SyntaxError"),
    "exit": ("raise SystemExit(3)", "SystemExit: 3"),
    "misspelt hook": (GOOD.replace("foundry_variants", "foundry_variant"), "did you mean foundry_variants?"),
    "extra argument": (GOOD.replace("foundry_variants()", "foundry_variants(config)"), "config"),
    "hook raises": ("@hookimpl\ndef foundry_variants(): raise KeyError('lost')", ":5: KeyError: 'lost'"),
    "not a list": ("@hookimpl\ndef foundry_variants(): return 'mla'", "not a list of Variant"),
    "wrong type": ("@hookimpl\ndef foundry_variants(): return [{'name': 'mla'}]", "not a Variant"),
    "wrong hook": (GOOD.replace("foundry_variants", "foundry_mutations"), "not a Mutation"),
    "nothing": ("", "contributes nothing"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_plugin_is_named_and_the_others_work(site, fault):
    source, message = BROKEN[fault]
    site.install("a-good", adds("first"))
    site.install("foundry-plugin-bad", source)
    site.install("z-good", adds("last"))
    registry = site.registry()
    assert [(p.distribution, p.plugin) for p in registry.problems] == [("foundry-plugin-bad", "bad")]
    assert message in registry.problems[0].message
    assert "\n" not in registry.problems[0].message
    assert list(registry.variants("attention")) == ["mha", "gqa", "first", "last"]


def test_what_a_plugin_sets_for_its_whole_process_is_set_back_and_told(site):
    before = sys.getrecursionlimit()
    site.install("foundry-plugin-deep", f"import sys\nsys.setrecursionlimit({before + 7})\n{GOOD}")
    registry = site.registry()
    (problem,) = registry.problems
    assert f"importing it sets the recursion limit to {before + 7}" in problem.message
    assert sys.getrecursionlimit() == before
    assert "mla" in registry.variants("attention")


@pytest.mark.parametrize(("api", "words"), [(2, ["API 2", "API 1"]), (None, ["FOUNDRY_API = 1"]), ("'1'", ["API 1"])])
def test_a_plugin_for_another_api_is_refused_with_both_numbers(site, api, words):
    site.install("foundry-plugin-future", GOOD, api=api)
    (problem,) = site.registry().problems
    assert all(word in problem.message for word in words)
    assert "mla" not in site.registry().variants("attention")


REFUSED = {
    "unknown slot": (adds("x", slot="memory"), "there is no slot 'memory'; there are ffn, attention"),
    "bad name": (adds("Multi-Head"), "a name is lower-case"),
    "bad target": (GOOD.replace("collections:", "collections."), "is not 'package.module:attribute'"),
    "bad params": (GOOD.replace("Dict')", "Dict', params=dict)"), "not a subclass of foundry.core.contracts.Params"),
    "reserved field": (
        "class P(Params):\n    type: str = ''\n" + GOOD.replace("Dict')", "Dict', params=P)"),
        "field `type`",
    ),
    "shorthand of nothing": (
        "@hookimpl\ndef foundry_shorthands(): return [Shorthand('attention', 'mla_8', {'type': 'mla'})]",
        "it expands to the type 'mla', which is no variant of attention",
    ),
    "mutation like a slot": (
        "@hookimpl\ndef foundry_mutations(): return [Mutation('ffn', lambda e, v: {}, '')]",
        "mutation ffn already belongs to foundry-core",
    ),
    "slot without default": (
        "@hookimpl\ndef foundry_slots(): return [Slot('memory', 'model_args.memory', 'none', '')]",
        "its default 'none' was not contributed",
    ),
    "slot in another's place": (
        "@hookimpl\ndef foundry_slots(): return [Slot('mixer', 'model_args.attention', '', '')]",
        "its path 'model_args.attention' is that of slot attention",
    ),
    "section like a key": (
        "@hookimpl\ndef foundry_sections(): return [Section('seed', Params)]",
        "an experiment has a key 'seed' already",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_an_invalid_contribution_is_refused_with_the_reason(site, fault):
    source, message = REFUSED[fault]
    site.install("foundry-plugin-odd", source)
    registry = site.registry()
    (problem,) = registry.problems
    assert (problem.distribution, problem.plugin) == ("foundry-plugin-odd", "odd")
    assert message in problem.message
    assert list(registry.variants("attention")) == ["mha", "gqa"]


def test_a_shorthand_can_be_the_default_of_a_slot(site):
    source = """
        @hookimpl
        def foundry_slots(): return [Slot("memory", "model_args.memory", "small", "what it remembers")]
        @hookimpl
        def foundry_variants(): return [Variant("memory", "table", "collections:OrderedDict")]
        @hookimpl
        def foundry_shorthands(): return [Shorthand("memory", "small", {"type": "table"})]
    """
    site.install("foundry-plugin-memory", source)
    assert site.registry().problems == []


def test_what_an_interrupted_uninstall_leaves_is_named(site):
    site.install("foundry-plugin-gone", "")
    max(site.folder.glob("plugin_under_test_*.py"), key=lambda file: int(file.stem.rpartition("_")[2])).unlink()
    (site.folder / "foundry_plugin_gone-1.0.dist-info" / "METADATA").unlink()
    registry = site.registry()
    (problem,) = registry.problems
    assert "ModuleNotFoundError" in problem.message
    assert len(registry.fingerprint()) == 64


def test_who_comes_first_keeps_a_contested_name(site):
    # `aaa` sorts before `foundry-core`, which still comes first; two entry points of one name are no conflict.
    site.install("aaa", adds("gqa", "mine"), plugin="same")
    site.install("bbb", adds("mine", "other"), plugin="same")
    site.local("other", "VARIANTS = [Variant('attention', 'other', f'{__name__}:Other')]")
    registry = site.registry()
    assert registry.owner("attention", "gqa") == "foundry-core"
    assert registry.owner("attention", "mine") == "aaa"
    assert registry.owner("attention", "other") == "bbb"
    assert [(p.distribution, p.message) for p in registry.problems] == [
        ("aaa", "attention gqa already belongs to foundry-core (core), which keeps it"),
        ("bbb", "attention mine already belongs to aaa (same), which keeps it"),
        ("local", "attention other already belongs to bbb (same), which keeps it"),
    ]


def test_a_mutation_of_a_slot_shares_a_name_with_one_of_another_slot_and_with_no_variant_of_its_own(site):
    site.install(
        "aaa",
        """
        @hookimpl
        def foundry_mutations():
            return [
                Mutation(type, lambda experiment, value: {}, "as asked", slot=slot)
                for slot, type in (("ffn", "halved"), ("attention", "halved"), ("attention", "gqa"))
            ]
        """,
    )
    assert [problem.message for problem in site.registry().problems] == [
        "attention gqa already belongs to foundry-core (core), which keeps it"
    ]


def test_the_plugins_of_a_distribution_come_by_name_whatever_its_list_of_them_says(site):
    site.install("foundry-plugin-two", adds("mine"), plugin="z")
    module = f"plugin_under_test_{next(NUMBERS)}"
    (site.folder / f"{module}.py").write_text(f"{textwrap.dedent(HEAD)}FOUNDRY_API = 1\n{adds('mine')}")
    with open(site.folder / "foundry_plugin_two-1.0.dist-info" / "entry_points.txt", "a") as file:
        file.write(f"a = {module}\n")
    registry = site.registry()
    assert [plugin.name for plugin in registry.plugins] == ["core", "a", "z"]
    assert [problem.plugin for problem in registry.problems] == ["z"]


def test_one_distribution_on_two_paths_is_no_conflict(site, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    sys.path.insert(0, str(other))
    for folder in (None, other):
        site.install("foundry-plugin-twice", GOOD, folder=folder)
    registry = site.registry()
    assert registry.problems == []
    assert registry.owner("attention", "mla") == "foundry-plugin-twice"


def test_order_and_fingerprint_do_not_depend_on_the_file_system(site):
    names = ["zeta", "foundry-evals", "alpha", "foundry-modules", "Mid_Dle"]
    for name in names:
        site.install(name, adds(f"v_{name.lower().replace('-', '_')}"))
    folders = [str(site.folder / f"path{i}") for i in range(len(names))]
    ordered = None
    for order in (names, names[::-1]):
        for folder, name in zip(folders, order, strict=True):
            Path(folder).mkdir(exist_ok=True)
            info = next(site.folder.glob(f"**/{name.replace('-', '_')}-1.0.dist-info"))
            info.rename(Path(folder) / info.name)
        sys.path[1:1] = folders
        registry = site.registry()
        found = ([p.distribution for p in registry.plugins], registry.fingerprint())
        assert found[0] == ["foundry-core", "foundry-modules", "foundry-evals", "alpha", "mid-dle", "zeta"]
        assert ordered in (None, found)
        ordered = found


@pytest.mark.parametrize(
    ("selection", "loaded"),
    [
        ("", ["foundry-core", "foundry-plugin-a", "foundry-plugin-b", "local"]),
        ("a", ["foundry-core", "foundry-plugin-a"]),
        ("foundry_plugin_b, local", ["foundry-core", "foundry-plugin-b", "local"]),
        ("-a", ["foundry-core", "foundry-plugin-b", "local"]),
        ("-*", ["foundry-core"]),
    ],
)
def test_foundry_plugins_decides_before_a_plugin_runs(site, monkeypatch, selection, loaded):
    for name in "ab":
        site.install(f"foundry-plugin-{name}", f"import builtins\nbuiltins.ran_{name} = True\n" + adds(f"by_{name}"))
        monkeypatch.setattr("builtins.ran_" + name, False, raising=False)
    site.local("mine", "VARIANTS = [Variant('ffn', 'mine', f'{__name__}:Mine')]")
    registry = site.registry(selection)
    assert [plugin.distribution for plugin in registry.plugins] == loaded
    import builtins

    for name in "ab":
        assert getattr(builtins, f"ran_{name}") == (f"foundry-plugin-{name}" in loaded)
    monkeypatch.setenv("FOUNDRY_PLUGINS", selection)
    assert [plugin.distribution for plugin in registry_of(site.project).plugins] == loaded


def test_a_local_file_is_a_whole_variant_and_its_source_is_its_version(site):
    source = """
        from ._shared import SCALE

        class ScaledParams(Params):
            scale: float = SCALE

        class Scaled:
            def __init__(self, params, width):
                self.scale, self.width = params.scale, width

        VARIANTS = [Variant("ffn", "scaled", f"{__name__}:Scaled", ScaledParams, "times a constant")]
        SHORTHANDS = [Shorthand("ffn", "scaled_2", {"type": "scaled", "scale": 2.0})]
    """
    site.local("_shared", "SCALE = 3.0")
    site.local("scaled", source)
    registry = site.registry()
    assert registry.problems == []
    variant = registry.variant("ffn", "scaled")

    class Choice(variant.params):
        type: str

    built = registry.build("ffn", Choice(type="scaled"), 64)
    assert (built.scale, built.width) == (3.0, 64)
    before = registry.fingerprint()
    assert site.registry().fingerprint() == before
    site.local("scaled", source + "        # edited\n")
    edited = site.registry().fingerprint()
    site.local("_shared", "SCALE = 4.0")
    assert len({before, edited, site.registry().fingerprint()}) == 3


def test_a_broken_local_file_is_a_problem_with_its_line(site):
    site.local("half-baked", "VARIANTS = []")
    site.local("typo", "\n\nVARIANTS = [Variant('ffn', 'typo', target=MISSING)]")
    site.local("fine", "VARIANTS = [Variant('ffn', 'fine', f'{__name__}:Fine')]")
    (site.project / "variants" / "folder.py").mkdir()
    registry = site.registry()
    messages = {problem.plugin: problem.message for problem in registry.problems}
    assert "half_baked.py" in messages["half-baked"]
    assert "variants/typo.py:5: NameError" in messages["typo"]
    assert "folder" in messages
    assert "fine" in registry.variants("ffn")


def test_unknown_names_get_the_nearest_ones(site):
    registry = site.registry()
    with pytest.raises(UsageError, match="did you mean: attention gqa") as near:
        registry.variant("attention", "qga")
    assert near.value.exit_code == 2
    with pytest.raises(UsageError, match="did you mean: ffn moe"):
        registry.variant("attention", "moe")
    with pytest.raises(UsageError, match=r"known: mha, gqa\n.*is the plugin that has it installed"):
        registry.variant("attention", "hyena")
    with pytest.raises(UsageError, match="known: ffn, attention"):
        registry.variants("atention")
    site.install("foundry-plugin-hyena", "import no_such_module")
    with pytest.raises(PluginError, match=r"foundry-plugin-hyena .*no_such_module"):
        site.registry().variant("attention", "hyena")
    with pytest.raises(UsageError, match="did you mean: attention gqa"):  # which is no broken plugin's
        site.registry().variant("attention", "qga")


def test_a_target_that_cannot_be_loaded_names_the_variant(site):
    site.install("foundry-plugin-late", adds("late").replace("OrderedDict", "Missing"))
    with pytest.raises(PluginError, match="attention late: cannot load collections:Missing"):
        site.registry().variant("attention", "late").load()


def test_the_project_is_the_nearest_folder_that_looks_like_one(tmp_path):
    inner = tmp_path / "project" / "experiments" / "deep"
    inner.mkdir(parents=True)
    experiment = inner / "a.yaml"
    experiment.touch()
    assert find_project(experiment) == tmp_path / "project"
    assert find_project(tmp_path / "project") == tmp_path / "project"
    (inner / "variants").mkdir()  # anyone's folder may be called so: /tmp/variants makes /tmp no project
    assert find_project(experiment) == tmp_path / "project"
    (inner / ".foundry").mkdir()
    assert find_project(experiment) == inner


def test_discovery_imports_neither_torch_nor_numpy(tmp_path):
    script = """if True:
        import json, sys
        from foundry.core.registry import registry
        found = registry()
        print(json.dumps([len(found.inventory()), sorted({"torch", "numpy", "rich"} & set(sys.modules))]))
    """
    # Foundry's own packages only: what else is installed here may be slow.
    output = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"FOUNDRY_PLUGINS": "-*"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    _, heavy = json.loads(output)
    assert heavy == []


def test_a_slot_without_a_place_is_no_part_of_an_experiment(site):
    site.local(
        "scheduler",
        """
        SLOTS = [Slot("scheduler", "", "", "who starts workers")]
        VARIANTS = [Variant("scheduler", "slurm", f"{__name__}:Slurm", Params, "by sbatch")]
    """,
    )
    registry = site.registry()
    assert registry.problems == []
    assert [*registry.variants("scheduler")] == ["slurm"]
    assert "scheduler" not in {slot.name for slot in registry.placed_slots}
    assert "scheduler" not in {row.type for row in list_mutations(registry)}
