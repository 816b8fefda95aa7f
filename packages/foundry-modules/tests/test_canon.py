"""Canon layers against torch's convolution, and in whole models: decoding, packing, padding, and where they fit."""

import pytest
import torch
from torch import nn

from foundry.core.analyze import analyze
from foundry.core.config import load_experiment
from foundry.core.config.mutate import mutate
from foundry.core.contracts import Context, FeedForwardParams, InvalidExperiment, Variant
from foundry.core.model import GPT, initialize, model_of
from foundry.core.registry import Plugin, Registry, registry
from foundry.core.testing import Conformance, assert_rounded, sums_of
from foundry.modules.canon.conv import ShortConv

VOCAB = 23


@pytest.fixture
def load(load):
    return lambda model_args: load(f"model_args: {{n_layer: 2, n_head: 4, n_embd: 32, block_size: 24, {model_args}}}\n")


def filled_model(experiment) -> GPT:
    model = model_of(experiment, VOCAB)
    initialize(model, seed=5)
    return model.eval()


def ids_of(batch: int, length: int) -> torch.Tensor:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kernel", [2, 4, 7])
@pytest.mark.parametrize("length", [1, 3, 20])
def test_a_short_convolution_is_torchs_causal_depthwise_one(kernel, length):
    ours = ShortConv(6, kernel).double()
    theirs = nn.Conv1d(6, 6, kernel, groups=6, padding=kernel - 1, bias=False).double()
    with torch.no_grad():
        ours.weight.copy_(theirs.weight)  # one name, one shape
    x, y = (torch.randn(2, length, 6, dtype=torch.float64).requires_grad_() for _ in range(2))
    y.data.copy_(x.data)
    result = ours(x, Context(), None)
    expected = y + theirs(y.mT)[..., :length].mT
    assert_rounded(result, expected, kernel)
    result.square().sum().backward()
    expected.square().sum().backward()
    assert_rounded(x.grad, y.grad, *sums_of(ours, tokens=kernel))
    assert_rounded(ours.weight.grad, theirs.weight.grad, *sums_of(ours, tokens=2 * length))


@pytest.mark.parametrize("activation", ["swiglu", "relu2"])
@pytest.mark.parametrize("points", ["bd", "ac", "a", "b", "c", "d"])
def test_each_point_mixes_what_enters_the_projections_or_leaves_them(load, activation, points):
    """A kernel that only passes the current token on doubles its inputs: as doubled projections do."""
    both = filled_model(load(f"attention: gqa_2kv, activation: {activation}, canon: {{type: conv, points: {points}}}"))
    plain = filled_model(load(f"attention: gqa_2kv, activation: {activation}"))
    with torch.no_grad():
        for block, reference in zip(both.blocks, plain.blocks, strict=True):
            for conv in block.canon.convs.values():
                conv.weight.zero_()[..., -1] = 1
            doubled = [f"attention.{each}_proj" for each in "qkv"] if set("ab") & set(points) else []
            if set("cd") & set(points):
                doubled += ["ffn.up_proj", "ffn.gate_proj"] if activation == "swiglu" else ["ffn.up_proj"]
            for name in doubled:
                reference.get_submodule(name).weight.mul_(2)
    assert_rounded(both(ids_of(2, 24))[0], plain(ids_of(2, 24))[0], *sums_of(both))


@pytest.mark.parametrize("points", ["abcd", "ac", "d"])
def test_a_model_decodes_padded_and_packed_as_each_text_alone(load, points):
    model = filled_model(load(f"attention: gqa_2kv, canon: {{type: conv, points: {points}}}"))
    texts = [ids_of(1, 9), ids_of(1, 24)[:, 9:15], ids_of(1, 24)[:, 15:17]]
    alone = [model(text)[0] for text in texts]
    packed = torch.cat(texts, dim=1)
    segments = torch.cat([torch.full_like(text, i) for i, text in enumerate(texts)], dim=1)
    positions = torch.cat([torch.arange(text.size(1))[None] for text in texts], dim=1)
    together = model(packed, positions=positions, segments=segments)[0]
    assert_rounded(together, torch.cat(alone, dim=1), *sums_of(model))

    n_prompt = [6, 3, 1]  # padded on the left, then decoded together, token by token
    ids = torch.cat([nn.functional.pad(text[:, :n], (6 - n, 0)) for text, n in zip(texts, n_prompt, strict=True)])
    mask = torch.tensor([[0] * (6 - n) + [1] * n for n in n_prompt])
    cache = model.init_cache(3)
    logits = model(ids, attention_mask=mask, cache=cache)[0][:, -1]
    for step in range(2):
        for row, (expected, n) in enumerate(zip(alone, n_prompt, strict=True)):
            if n + step <= expected.size(1):
                assert_rounded(logits[row], expected[0, n + step - 1], *sums_of(model))
        fresh = torch.cat([text[:, n + step : n + step + 1] if n + step < text.size(1) else text[:, :1]
                           for text, n in zip(texts, n_prompt, strict=True)])  # fmt: skip
        mask = torch.cat((mask, torch.ones(3, 1, dtype=torch.long)), dim=1)
        logits = model(fresh, attention_mask=mask, cache=cache)[0][:, -1]


def test_costs_mutations_and_identity(load):
    base = load("attention: gqa_2kv")
    mutated = mutate(base, "canon", "abcd")
    assert mutated.name == "experiment+canon_abcd"
    assert base.identity == load("attention: gqa_2kv, canon: none").identity
    plain, costs = analyze(base, VOCAB), analyze(mutated.experiment, VOCAB)
    n_conv = 4 * (32 + 64 + 32 + 2 * 88)  # kernel times channels: x; q, k, v; x; gate and up
    assert costs["parameters_by_part"]["canon"] == 2 * n_conv
    assert costs["kv_bytes_per_token"] - plain["kv_bytes_per_token"] == 2 * 4 * (n_conv // 4 * 3) / 24
    assert costs["flops_per_token"] == plain["flops_per_token"]  # no matrix product


def test_it_learns_what_attention_alone_does_not_see_at_once(load):
    """Which token came before is in the convolution's reach from the first step."""
    losses = {}
    for canon in ("none", "ac"):
        model = filled_model(load(f"position: none, canon: {canon}")).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        generator = torch.Generator().manual_seed(0)
        for _ in range(30):
            ids = torch.randint(VOCAB, (16, 24), generator=generator)
            logits = model(ids)[0][:, 1:]
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, :-1].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[canon] = loss.item()
    assert losses["ac"] < losses["none"] - 0.3


class Elsewhere(FeedForwardParams):
    """A feed-forward that sends nothing through `Context.mix`."""


def test_a_sublayer_without_a_place_for_it_is_refused(load, tmp_path):
    known = registry()
    odd = Variant("ffn", "odd", "torch.nn:Identity", Elsewhere)
    extended = Registry([*known.plugins, Plugin("test", "0", "odd", "test", (odd,))])
    file = tmp_path / "experiment.yaml"
    file.write_text("model_args: {canon: conv}\nlayers: {'1': {ffn: odd}}\n")
    with pytest.raises(InvalidExperiment, match=r"layers\.1\.ffn: conv mixes inside ffn; odd has no place .* canon ac"):
        load_experiment(file, registry=extended)
    file.write_text("model_args: {canon: ac, ffn: odd}\n")
    assert load_experiment(file, registry=extended)
    for points, complaint in (("", "points"), ("ba", "points"), ("abcde", "points")):
        with pytest.raises(InvalidExperiment, match=complaint):
            load(f"canon: {{type: conv, points: '{points}'}}")


class TestWideKernel(Conformance):
    slot, variant, params = "canon", "conv", {"kernel": 7, "points": "bc"}
