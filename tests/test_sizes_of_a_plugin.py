"""An attention of a plugin, with a width and key/value heads of its own, goes wherever a built-in does: through the
mutations of sizes, a plugin's own among them, `analyze`, training and decoding. Core knows neither of its settings."""

import json

import pytest
import torch
from tests.project import working_in, write_project

from foundry.cli.__main__ import main
from foundry.core import load_experiment, load_run
from foundry.core.config.mutate import mutate
from foundry.core.contracts import InvalidExperiment, PluginError
from foundry.core.generate import Sampling, generate_ids

ATTENTION = """
import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from foundry.core.contracts import AttentionParams, Mutation, Variant


class Params(AttentionParams):
    aliases = {"model_args.n_groups": "groups"}
    inner: int = Field(24, ge=1, description="width of all queries together")
    groups: int = Field(2, ge=1, description="key/value heads")

    def resized(self, old, new):
        if self.groups == 13:
            raise RuntimeError("unlucky")
        groups, rest = divmod(self.groups * new.n_head, old.n_head)
        if rest:
            raise ValueError(f"groups {self.groups} of {old.n_head} heads has no equivalent among {new.n_head}")
        inner = self.inner if new.n_embd == old.n_embd else self.inner * new.n_embd // old.n_embd
        return {"groups": groups, "inner": inner}


class Cache:
    def __init__(self, batch, heads, max_len, size, dtype, device):
        self.length = 0
        self.tensors = [torch.zeros(batch, heads, max_len, size, dtype=dtype, device=device) for _ in "kv"]

    def extend(self, k, v):
        old, self.length = self.length, self.length + k.size(2)
        for kept, new in zip(self.tensors, (k, v)):
            kept[:, :, old : self.length] = new
        return [kept[:, :, : self.length] for kept in self.tensors]


class Own(nn.Module):
    def __init__(self, params, dims, position):
        super().__init__()
        self.heads, self.groups = dims.n_head, params.groups
        self.size = params.inner // dims.n_head
        self.q, self.out = nn.Linear(dims.n_embd, params.inner), nn.Linear(params.inner, dims.n_embd)
        self.kv = nn.Linear(dims.n_embd, 2 * self.groups * self.size)

    def forward(self, x, ctx):
        q = self.q(x).unflatten(-1, (self.heads, self.size)).transpose(1, 2)
        k, v = (each.unflatten(-1, (self.groups, self.size)).transpose(1, 2) for each in self.kv(x).chunk(2, -1))
        old = 0
        if ctx.cache is not None:
            old = ctx.cache.length
            k, v = ctx.cache.extend(k, v)
        sees = torch.ones(x.size(1), k.size(2), dtype=torch.bool, device=x.device).tril(old)
        k, v = (each.repeat_interleave(self.heads // self.groups, 1) for each in (k, v))
        y = scaled_dot_product_attention(q, k, v, sees)
        return self.out(y.transpose(1, 2).flatten(2)), {}

    def init_cache(self, batch, max_len, dtype, device):
        return Cache(batch, self.groups, max_len, self.size, dtype, device)


VARIANTS = [Variant("attention", "own", f"{__name__}:Own", Params, "for tests")]
MUTATIONS = [Mutation("heads", lambda experiment, value: {"model_args.n_head": int(value)}, "n_head", "8")]
"""

EXPERIMENT = """
model_args: {n_layer: 1, n_head: 4, n_embd: 32, block_size: 16, attention: {type: own, inner: 24}, position: learned}
data: {dataset: {type: text, path: corpus.txt}, tokenizer: char}
training: {max_iters: 2, batch_size: 4, eval_tokens: 64, eval_interval: 0, threads: 1}
logging: {sample_tokens: 0}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    files = {"experiments/baseline.yaml": EXPERIMENT, "variants/own.py": ATTENTION}
    files["corpus.txt"] = "the hen on the hill " * 60
    with working_in(write_project(tmp_path_factory.mktemp("project"), files)) as folder:
        yield folder


@pytest.mark.parametrize(
    ("type", "value", "inner", "groups"),
    [
        ("width", "64", 48, 4),
        ("width", "16", 12, 1),
        ("heads", "8", 24, 4),
        ("heads", "2", 24, 1),
        ("depth", "3", 24, 2),
    ],
)
def test_its_settings_follow_the_sizes_as_it_says(project, capsys, type, value, inner, groups):
    assert main(["mutate", type, value, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    experiment = load_experiment(project / made["path"])
    assert (experiment.model_args.attention.inner, experiment.model_args.attention.groups) == (inner, groups)
    assert main(["analyze", made["path"], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    args = experiment.model_args
    assert told["kv_bytes_per_token"] == args.n_layer * 2 * groups * (inner // args.n_head) * 4
    assert main(["train", made["path"], "--out", f"runs/{type}{value}"]) == 0
    _, tokenizer, model = load_run(f"runs/{type}{value}")
    ids = torch.tensor([tokenizer.encode("the hen")])
    for new in generate_ids(model, ids, 6, Sampling(temperature=0)):  # from its cache, as from the whole row
        assert new.item() == model(ids)[0][0, -1].argmax().item()
        ids = torch.cat([ids, new[:, None]], 1)


def test_a_setting_may_be_written_where_it_says(project):
    base = "model_args.attention={type: own, groups: 4}"
    assert load_experiment(sets=["model_args.n_groups=4"]).identity == load_experiment(sets=[base]).identity
    alone = project / "alone.yaml"
    alone.write_text("model_args: {n_groups: 1, position: learned}\n")
    assert load_experiment(alone).model_args.attention.type == "own"
    with pytest.raises(
        InvalidExperiment, match=r"model_args\.n_groups: attention gqa has none; leave it out, or choose own"
    ):
        load_experiment(sets=["model_args.attention=gqa", "model_args.n_groups=1"])


def test_what_cannot_follow_is_refused_with_what_can(project):
    base = load_experiment(sets=["model_args.attention.groups=1"])
    with pytest.raises(InvalidExperiment, match="groups 1 of 4 heads has no equivalent among 2") as caught:
        mutate(base, "width", "16")
    assert caught.value.hint == "try 64"  # 32 is what it is
    with pytest.raises(PluginError, match=r"model_args\.attention: .*unlucky"):
        mutate(load_experiment(sets=["model_args.attention.groups=13"]), "heads", "8")
