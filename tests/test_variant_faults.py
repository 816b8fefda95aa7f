"""What goes wrong in the code of a variant is told as its author's: the file, the line, and what was expected there.

The real commands run, in this process. A comment `# here: NAME` marks the line that has to be named.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tests.processes import run_ranks
from tests.project import TINY, lines_of_words, working_in, write_project

from foundry.cli.__main__ import main
from foundry.core import model, registry
from foundry.core.contracts import ExitCode

BASELINE = f"""{TINY}
training: {{max_iters: 4, batch_size: 4, eval_interval: 0, eval_tokens: 256, threads: 1}}
logging: {{sample_tokens: 4, sample_prompt: th}}
checkpoints: {{save_interval: 0}}
"""
FAULTY = """
import torch
from torch import nn

from foundry.core.contracts import (
    ActivationParams, AttentionParams, FeedForwardParams, NormParams, OptimizerParams, Params, Variant,
)

BUILDS_BADLY = True


class Part(nn.Module):
    def __init__(self, params, *around):
        super().__init__()


class Factory(Part):
    def __init__(self, params, dims):
        super().__init__(params)
        if BUILDS_BADLY:
            raise KeyError("heads")  # here: factory


class Forward(Part):
    def forward(self, x):
        return x @ torch.ones(3, 3, device=x.device)  # here: forward


class Exit(Part):
    def forward(self, x):
        raise SystemExit(3)  # here: exit


class Recursion(Part):
    def forward(self, x):
        return self.forward(x)  # here: recursion


class Mask(Part):
    def forward(self, x):
        return x.masked_fill(torch.ones(x.shape[-1]) > 2, 0.0)  # here: mask


class Value(Part):
    def forward(self, x):
        return x / x.max().item()  # here: value


class NoReturn(Part):
    def forward(self, x):  # here: noreturn
        x.relu()


class Half(Part):
    def forward(self, x):  # here: half
        return x.half()


class Narrow(Part):
    def forward(self, x):  # here: narrow
        return x.mean(-1, keepdim=True)


class PerToken(Part):
    def forward(self, x, ctx):  # here: pertoken
        return x, {"mine_loss": x.mean(-1)}


class NoAux(Part):
    def forward(self, x, ctx):  # here: noaux
        return x


class NoContext(Part):
    def forward(self, x):  # here: nocontext
        return x, {}


class NoForward(Part):  # here: noforward
    pass


class NoCache(Part):  # here: nocache
    def forward(self, x, ctx):
        return x, {}


class NoArguments(nn.Module):  # here: noarguments
    def __init__(self):
        super().__init__()


class Unfilled(Part):
    def __init__(self, params, dims):
        super().__init__(params)
        self.gain = nn.Parameter(torch.empty(()))  # here: unfilled

    def forward(self, x):
        return x * self.gain


class Overwrites(Part):
    def forward(self, x):
        root = x.exp()
        y = root * root  # here: overwrites
        root.add_(1)
        return y


class Back(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return gradient[..., :3]


class Shortens(Part):
    def forward(self, x):
        return Back.apply(x)  # here: shortens


class Mute(RuntimeError):
    def __str__(self):
        return self.missing


class Unsaid(Part):
    def forward(self, x):
        raise Mute  # here: unsaid


made = {"__name__": __name__}
exec("def of_no_file(x): return x.no_such", made)


class OfNoFile(Part):
    def forward(self, x):
        return made["of_no_file"](x)  # here: ofnofile


class OtherRoles(Part):
    def __init__(self, params, dims):
        super().__init__(params)
        self.roles = nn.Linear(2, 2)

    def forward(self, x):
        return x


class NaN(Part):
    def forward(self, x):  # here: nan
        return (x - 100).sqrt()


class Gradient(Part):
    def forward(self, x):
        return x + (x - x).abs().sqrt()  # here: gradient


def nothing(params, dims):  # here: nothing
    pass


def forgets(params, model, learning_rate):  # here: forgets
    return [torch.optim.SGD([next(model.parameters())], lr=learning_rate)]


def slopes(params):
    def factor(step, progress):  # here: slopes
        pass
    return factor


class Lossy(Part):
    def forward(self, hidden, head, batch):  # here: lossy
        return head(hidden).square().sum()


class Later(Part):  # not finite, of other rows than the first
    first = []

    def forward(self, hidden, head, batch):  # here: later
        total = head(hidden).square().sum()
        if not hidden.is_meta:
            self.first.append(batch.tokens)
            if not torch.equal(batch.tokens, self.first[0]):
                total = total * (total - total) / (total - total)
        return total, torch.tensor(float(batch.targets.numel())), {}


def variant(slot, name, target, params=Params):
    return Variant(slot, name, f"{__name__}:{target.__name__}", params, "of a test")


VARIANTS = [
    *(variant("activation", each.__name__.lower(), each, ActivationParams) for each in (
        Factory, Forward, Exit, Recursion, Mask, Value, NoReturn, Half, Narrow, NoForward, NoArguments, Unfilled,
        Overwrites, Shortens, Unsaid, OfNoFile, OtherRoles, NaN, Gradient, nothing,
    )),
    *(variant("attention", each.__name__.lower(), each, AttentionParams) for each in (
        PerToken, NoAux, NoContext, NoCache,
    )),
    variant("optimizer", "forgets", forgets, OptimizerParams),
    variant("schedule", "slopes", slopes),
    *(variant("loss", each.__name__.lower(), each) for each in (Lossy, Later)),
]
"""
WORDS = {
    "activation": {
        "factory": "Factory.__init__: KeyError: 'heads'",
        "forward": "Forward.forward: RuntimeError",
        "exit": "Exit.forward: SystemExit: 3",
        "recursion": "Recursion.forward: RecursionError",
        "mask": "make it with device=x.device",
        "value": "nothing may depend on a tensor's values",
        "noreturn": "NoReturn.forward answers None (is there no return?); what activation promises is",
        "half": "answers a tensor (1, 16, 64) of float16",
        "narrow": "answers a tensor (1, 16, 1) of float32",
        "noforward": "NoForward.forward is missing",
        "noarguments": "takes 1 positional argument but 3 were given",
        "unfilled": "nothing initialises the parameter gain () of Unfilled",
        "overwrites": "the backward pass through this line fails: RuntimeError: one of the variables needed for",
        "shortens": "the backward pass through this line fails: RuntimeError: Function BackBackward returned an",
        "unsaid": "Unsaid.forward: Mute: (its text cannot be had: AttributeError)",
        "ofnofile": "OfNoFile.forward: AttributeError: 'Tensor' object has no attribute 'no_such'",
        "nothing": "it returns None",
        "nan": "NaN.forward answers what is not finite, of finite input",
        "gradient": "its gradient is not finite: Function 'AbsBackward0' returned nan values",
    },
    "attention": {
        "pertoken": "of which losses and figures are one number for each row, (B,), or 0-D",
        "noaux": "what attention promises is (y, aux)",
        "nocontext": "NoContext.forward cannot be called as attention is",
        "nocache": "init_cache is missing: what attention promises is a Cache",
    },
    "optimizer": {"forgets": "no optimizer owns blocks.0"},
    "schedule": {"slopes": "not 'NoneType'"},
    "loss": {
        "lossy": "what loss promises is (sum, count, aux)",
        "later": "Later.forward answers what is not finite, of finite input",
    },
}
CASES = [(slot, name) for slot, names in WORDS.items() for name in names]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    files = {"experiments/baseline.yaml": BASELINE, "variants/faulty.py": FAULTY, "corpus.txt": lines_of_words(60)}
    with working_in(write_project(tmp_path_factory.mktemp("project"), files)) as folder:
        yield folder


@pytest.fixture
def fails(project, capsys):
    """Runs a command that fails; its exit code, and what it said."""

    def run(*arguments: str) -> tuple[int, str]:
        code = main([*arguments])
        return code, capsys.readouterr().err

    return run


def line_of(name: str) -> str:
    number = next(n for n, line in enumerate(FAULTY.splitlines(), 1) if line.endswith(f"# here: {name}"))
    return f"variants/faulty.py:{number}"


def chosen(slot: str, name: str, folder: Path) -> list[str]:
    section = "model_args" if slot in ("activation", "attention") else "training"
    sets = [f"{section}.{slot}={name}", *(["model_args.position=none"] if slot == "attention" else [])]
    return [*(word for each in sets for word in ("--set", each)), "--out", str(folder / "run")]


@pytest.mark.parametrize(("slot", "name"), CASES)
def test_the_line_of_a_variant_is_named_with_what_was_expected(fails, tmp_path, slot, name):
    code, error = fails("train", *chosen(slot, name, tmp_path))
    assert code == (ExitCode.FAILURE if name in ("nan", "gradient", "later") else ExitCode.PLUGIN), error
    assert f"error: {line_of(name)}: " in error
    assert WORDS[slot][name] in error
    assert "Traceback" not in error
    assert "fault of Foundry's own" not in error


def test_of_two_ranks_each_names_the_line_on_the_way_back(project, tmp_path):
    said = run_ranks(2, project, ["train", *chosen("activation", "overwrites", tmp_path)], ExitCode.PLUGIN)
    assert said.count(f"error: {line_of('overwrites')}: forward: the backward pass through this line fails") == 2
    assert "fault of Foundry's own" not in said


def test_an_attribute_roles_that_says_nothing_of_parameters_is_refused(fails, tmp_path):
    code, error = fails("train", *chosen("activation", "otherroles", tmp_path))
    assert code == ExitCode.PLUGIN
    assert "OtherRoles.roles is a Linear, not a mapping" in error


def test_every_command_that_builds_the_model_says_the_same_in_words_and_in_json(fails, project, tmp_path):
    place = f"{line_of('factory')}: Factory.__init__: KeyError: 'heads'"
    (project / "faulty.yaml").write_text(BASELINE.replace("block_size: 16", "block_size: 16, activation: factory"))
    for command in (["analyze"], ["lr-find"], ["train", "--dry-run", "--out", str(tmp_path)]):
        code, error = fails(*command, "faulty.yaml")
        assert (code, error.splitlines()[0]) == (ExitCode.PLUGIN, f"error: {place}"), command
    code, error = fails("analyze", "faulty.yaml", "--json")
    told = json.loads(error)["error"]
    assert (code, told["kind"], told["message"]) == (ExitCode.PLUGIN, "plugin", place)
    assert "foundry plugins check variants/faulty.py" in told["hint"]
    assert "foundry --debug" in told["hint"]


def test_a_model_whose_code_has_changed_since_is_told_so_by_generate(fails, project, monkeypatch, tmp_path):
    faulty = registry.registry().variant("activation", "factory").load()
    module = sys.modules[faulty.__module__]
    monkeypatch.setattr(module, "BUILDS_BADLY", False)
    monkeypatch.setattr(faulty, "forward", lambda self, x: x.relu(), raising=False)
    out = str(tmp_path / "run")
    assert main(["train", "--set", "model_args.activation=factory", "--out", out]) == ExitCode.OK
    monkeypatch.setattr(module, "BUILDS_BADLY", True)
    code, error = fails("generate", out, "--prompt", "th")
    assert code == ExitCode.PLUGIN
    assert f"{line_of('factory')}: Factory.__init__: KeyError: 'heads'" in error


def test_code_of_a_distribution_is_called_by_its_package_and_release(fails, project, monkeypatch, tmp_path):
    (tmp_path / "odd_plugin" / "odd").mkdir(parents=True)
    source = "from foundry.core.contracts import ActivationParams, Variant, hookimpl\nFOUNDRY_API = 1\n@hookimpl\n"
    source += (
        "def foundry_variants():\n    return [Variant('activation', 'odd', 'odd_plugin.odd:Odd', ActivationParams)]\n"
    )
    (tmp_path / "odd_plugin" / "__init__.py").write_text(source)
    (tmp_path / "odd_plugin" / "odd" / "__init__.py").write_text("def Odd(params, dims):\n    return params.width\n")
    info = tmp_path / "foundry_plugin_odd-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foundry-plugin-odd\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text("[foundry]\nodd = odd_plugin\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry._registry.cache_clear()
    code, error = fails("analyze", "--set", "model_args.activation=odd")
    registry._registry.cache_clear()
    assert code == ExitCode.PLUGIN
    assert error.startswith("error: odd_plugin/odd/__init__.py:2: Odd: AttributeError: ")
    assert "foundry-plugin-odd 1.5" in error


def test_a_fault_of_foundrys_own_says_so_and_where_it_is(fails, project, monkeypatch, tmp_path):
    monkeypatch.setattr(model.GPT, "_hidden", lambda *_: 1 / 0)
    code, error = fails("analyze", "--set", "model_args.activation=noreturn")
    assert code == ExitCode.FAILURE
    assert error.startswith("error: internal error: ZeroDivisionError: division by zero (foundry/core/model/gpt.py:")
    assert "a fault of Foundry's own: please report it" in error
