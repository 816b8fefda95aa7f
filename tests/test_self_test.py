"""A plugin's part that makes losses, checkpoints or texts worthless is told by file and line, before it does; what only
rounds is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from tests.project import lines_of_words, write_project

from foundry.cli.__main__ import main
from foundry.core.config import from_plain
from foundry.core.generate import Sampling, generate_ids
from foundry.core.model import GPT, initialize, model_of, self_test
from foundry.core.registry import registry

ATTENTION = """\
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from foundry.core.contracts import AttentionParams, Context, NormParams, Variant
from foundry.modules.attention.cache import KVCache


class Mine(nn.Module):
    def __init__(self, params, dims, position):
        super().__init__()
        self.heads, self.head_dim, self.position = dims.n_head, dims.head_dim, position
        self.qkv, self.out = nn.Linear(dims.n_embd, 3 * dims.n_embd), nn.Linear(dims.n_embd, dims.n_embd)
        self.register_buffer("scale", torch.full((1,), 0.5), persistent=False)

    def init_buffers(self):
        self.scale.fill_(0.5)

    def forward(self, x, ctx):
        qkv = self.qkv(x * self.scale).chunk(3, -1)
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in qkv)
        new, old = x.size(1), 0
        if ctx.cache is not None:
            old = ctx.cache.length
            k, v = ctx.cache.extend(k, v)
        sees = torch.ones(new, k.size(2), dtype=torch.bool, device=x.device).tril(old)
        y = scaled_dot_product_attention(q, k, v, sees)
        return self.out(y.transpose(1, 2).flatten(2)), {}

    def init_cache(self, batch, max_len, dtype, device):
        return KVCache(batch, self.heads, max_len, self.head_dim, dtype, device)


VARIANTS = [Variant("attention", "mine", f"{__name__}:Mine", AttentionParams, "for tests")]
"""

FAULTS = {
    "cache": (
        "k, v = ctx.cache.extend(k, v)",
        "ctx.cache.length += new",
        "from its cache, token by token, the model says something else than of the whole row alone: logits differ by",
    ),
    "offset of the cache": (".tril(old)", ".tril()", "from its cache"),
    "ahead": ("scaled_dot_product_attention(q, k, v, sees)", "scaled_dot_product_attention(q, k, v)", "follows it"),
    "rows": ("self.out(y.", "self.out((y - y.mean(0)).", "a row sees another"),
    "chance": ("self.out(y.", "self.out((y + torch.rand_like(y)).", "the same tokens, read again"),
    "buffers": ("self.scale.fill_(0.5)", "self.scale.uniform_()", "what a checkpoint holds makes another model"),
}

EXPERIMENT = """\
model_args: {n_layer: 2, n_head: 2, n_embd: 16, block_size: 16, attention: mine, position: learned}
data: {dataset: {type: text, path: corpus.txt}, tokenizer: char}
training: {max_iters: 3, batch_size: 4, eval_tokens: 64, eval_interval: 0, threads: 1}
logging: {sample_tokens: 5, sample_prompt: th}
"""


@pytest.fixture
def project(working_folder):
    return write_project(working_folder, {"experiments/mine.yaml": EXPERIMENT, "corpus.txt": lines_of_words(30)})


def write(project: Path, old: str = "", new: str = "") -> None:
    assert old in ATTENTION
    write_project(project, {"variants/mine.py": ATTENTION.replace(old, new) if old else ATTENTION})


def said(capsys, *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    return main(list(arguments)), capsys.readouterr().err


TRAIN = ("train", "experiments/mine.yaml", "--out", "run")
LINE = ATTENTION[: ATTENTION.index("class Mine")].count("\n") + 1


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_part_is_told_before_it_is_trained(project, capsys, fault):
    old, new, words = FAULTS[fault]
    write(project, old, new)
    code, told = said(capsys, *TRAIN)
    assert code == 4
    assert re.search(rf"error: variants/mine\.py:{LINE}: attention mine: .*{words}", told)
    assert "`foundry plugins check variants/mine.py`" in told
    assert not list((project / "run").glob("checkpoints/*"))


def test_a_buffer_that_nobody_fills_is_told_before_anything_is_trained(project, capsys):
    write(project, "self.scale.fill_(0.5)", "pass")
    code, told = said(capsys, *TRAIN)
    assert code == 4
    assert f"variants/mine.py:{LINE}: nothing initialises the buffer scale (1,) of Mine" in told
    assert "define init_buffers(self)" in told


def test_a_wrong_cache_is_told_where_decoding_begins(project, capsys):
    write(project, *FAULTS["cache"][:2])
    assert said(capsys, *TRAIN, "--set", "logging.sample_tokens=0")[0] == 0
    for prompts in (["--prompt", "the"], ["--prompt", "the", "--prompt", "rather"]):
        assert main(["generate", "run", *prompts]) == 4
        shown = capsys.readouterr()
        assert shown.out == ""
        assert re.search(rf"variants/mine\.py:{LINE}: attention mine: from its cache.* differ by [\d.]+", shown.err)


def test_padding_that_is_seen_is_told_where_prompts_differ_in_length(project, capsys):
    write(project)
    assert said(capsys, *TRAIN)[0] == 0
    assert main(["generate", "run", "--prompt", "the", "--prompt", "hen", "--max-tokens", "3"]) == 0
    code, told = said(capsys, "generate", "run", "--prompt", "the", "--prompt", "rather")
    assert code == 4
    assert "attention mine: from its cache, padded on the left, the model says something else" in told


def test_a_right_one_trains_and_writes(project, capsys):
    write(project)
    assert said(capsys, *TRAIN)[0] == 0
    assert main(["generate", "run", "--prompt", "the", "--max-tokens", "3"]) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("slot", ["attention", "ffn", "canon", "norm"])
def test_what_rounds_is_no_fault(monkeypatch, slot, dtype):
    """Foundry's own parts, taken for a plugin's, with weights that make much of little."""
    monkeypatch.setattr(self_test, "plugin_parts", lambda model: {"attention": self_test.place_of(GPT)})
    for name in registry().variants(slot):
        sizes = {"n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": 24}
        model = model_of(from_plain({"model_args": {**sizes, slot: name}}), 97)
        initialize(model, seed=5)
        generator = torch.Generator().manual_seed(6)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.3, generator=generator)
        model.to(dtype)
        self_test.check_causality(model)
        self_test.check_decoding(model, padded=True)


def test_a_difference_counts_where_both_rows_have_it():
    """One row alone may be of an expert that rounding chose."""
    expected = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(1))
    noise = expected * 1e-6
    for wrong, told in (([], False), ([0], False), ([1], False), ([0, 1], True)):
        logits = expected + noise
        logits[wrong] += 0.01
        assert bool(self_test._difference(logits, expected)) == told
    assert not self_test._difference(expected * torch.nan, expected * torch.nan)


def test_a_model_is_tried_once(monkeypatch):
    model = model_of(from_plain({"model_args": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16}}), 31)
    initialize(model, seed=1)
    tried = []
    monkeypatch.setattr(self_test, "plugin_parts", lambda model: tried.append(model) or {})
    for _ in range(2):
        list(generate_ids(model, torch.zeros(1, 3, dtype=torch.long), 2, Sampling()))
    assert tried == [model]
