"""Positions against transformers: rotary scaling and partial rotation, ALiBi's slopes, learned positions."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import math
from dataclasses import replace

import pytest
import torch

from foundry.core.contracts import Dims, InvalidExperiment
from foundry.core.testing import Conformance, assert_rounded
from foundry.core.testing.rounding import rounding
from foundry.modules.position import RoPEParams
from foundry.modules.position.alibi import slopes_of
from foundry.modules.position.rope import RoPE

transformers = pytest.importorskip("transformers")
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # noqa: E402

BLOCK = 1024
DIMS = Dims(n_layer=1, n_head=2, n_embd=128, head_dim=64, block_size=BLOCK)
SCALINGS = {
    "linear": {"factor": 4.0},
    "ntk": {"factor": 4.0},
    "llama3": {"factor": 8.0, "original_block_size": 256, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {"factor": 4.0},
    "yarn of DeepSeek-V3": {
        "factor": 40.0, "original_block_size": 128, "beta_fast": 16.0, "mscale": 1.0, "mscale_all_dim": 0.7
    },
    "yarn of gpt-oss": {"factor": 32.0, "original_block_size": 96, "truncate": False, "attention_factor": 1.2},
}  # fmt: skip


def reference(type: str, settings: dict, fraction: float, theta: float):
    """transformers' inverse frequencies and attention factor, of a config that says the same."""
    names = {"original_block_size": "original_max_position_embeddings"}
    rope = {names.get(name, name): value for name, value in settings.items()}
    rope |= {"rope_type": type, "rope_theta": theta, "partial_rotary_factor": fraction}
    seq_len = None
    if type == "ntk":
        # Theirs is dynamic: beyond the trained context, its theta is that of factor = length / trained context.
        rope |= {"rope_type": "dynamic", "factor": 1.0}
        seq_len = int(settings["factor"] * BLOCK)
    elif type == "yarn":
        rope.setdefault("original_max_position_embeddings", BLOCK // int(settings["factor"]))
    config = transformers.LlamaConfig(
        hidden_size=128, num_attention_heads=2, max_position_embeddings=BLOCK, rope_parameters=rope
    )
    return ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu", seq_len=seq_len)


@pytest.mark.parametrize("fraction", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("theta", [5.0, 10_000.0, 500_000.0])
@pytest.mark.parametrize("name", SCALINGS)
def test_scaled_frequencies_equal_transformers(name, theta, fraction):
    type = name.partition(" ")[0]
    params = RoPEParams(theta=theta, fraction=fraction, scaling={"type": type, **SCALINGS[name]})
    assert not list(params.problems(DIMS))
    rope = RoPE(params, DIMS)
    w, factor = rope.frequencies(torch.device("cpu"))
    expected, expected_factor = reference(type, SCALINGS[name], fraction, theta)
    # A power of theta: eps of its exponent, times the exponent's logarithm; then a quotient and a blend.
    assert ((w - expected).abs() <= rounding(torch.float32, *[math.log(theta) ** 2] * 4, 8) * expected).all()
    assert factor == pytest.approx(expected_factor, rel=1e-12)
    cos, _ = rope.waves(torch.tensor([[0]]), torch.float32)
    assert_rounded(cos, torch.full_like(cos, factor), 1)


def test_an_unscaled_rope_is_what_it_was():
    """A scaling of factor 1 and the whole head leave not a bit changed."""
    plain = RoPE(RoPEParams(), DIMS)
    pairs = torch.arange(0, 64, 2, dtype=torch.float32)
    angles = torch.arange(BLOCK)[:, None].float() * 10_000.0 ** (-pairs / 64)
    assert_rounded(plain.cos, torch.cat((angles.cos(), angles.cos()), -1), BLOCK**2)  # of an angle up to BLOCK
    assert torch.equal(RoPE(RoPEParams(scaling={"type": "linear", "factor": 1.0}), DIMS).cos, plain.cos)


def test_a_model_in_bf16_tells_distant_positions_apart():
    """Angles are made in fp32: bf16 has no number between 256 and 258."""
    rope, positions = RoPE(RoPEParams(), DIMS), torch.arange(BLOCK)
    for exact, rounded in zip(
        *(rope.waves(positions, dtype) for dtype in (torch.float32, torch.bfloat16)), strict=True
    ):
        assert ((rounded.float() - exact).abs() <= torch.finfo(torch.bfloat16).eps / 2).all()  # rounded once


def test_partial_rotation_equals_gpt_neox():
    from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb

    rope = RoPE(RoPEParams(fraction=0.25), DIMS)
    q, k = torch.randn(2, 2, 4, 20, 64, generator=torch.Generator().manual_seed(0)).unbind()
    positions = torch.arange(20).expand(2, 20)
    inverse, _ = reference("linear", {"factor": 1.0}, 0.25, 10_000.0)
    angles = positions[..., None].float() * inverse
    angles = torch.cat((angles, angles), dim=-1)
    expected = apply_rotary_pos_emb(q, k, angles.cos(), angles.sin())
    for given in (None, positions):
        for ours, theirs in zip(rope.rotate(q, k, given), expected, strict=True):
            assert_rounded(ours, theirs, 2, 20**2)  # two products, with waves of an angle up to 20


@pytest.mark.parametrize("n_head", [1, 2, 6, 8, 12, 20])
def test_alibi_slopes_equal_bloom_and_mpt(n_head):
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor
    from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

    bloom = build_alibi_tensor(torch.ones(1, 5), n_head, torch.float32)  # (H, 1, S): slope times key position
    slopes = torch.tensor(slopes_of(n_head))
    assert ((bloom[:, 0, 1] - slopes).abs() <= rounding(torch.float32, 8) * slopes).all()  # powers of 2
    mpt = build_mpt_alibi_tensor(n_head, 5).view(n_head, 5)  # slope times (key position - last)
    # MPT takes every other one of the finer slopes first; as a set, and so after permuting heads, it is the same.
    assert ((mpt[:, -2].neg().sort().values - slopes.sort().values).abs() <= rounding(torch.float32, 8)).all()


@pytest.mark.parametrize(
    ("position", "message"),
    [
        ("{type: rope, scaling: {type: yarn}}", "factor"),
        (
            "{type: rope, scaling: {type: magic, factor: 2}}",
            "got the type 'magic'; needs 'linear', 'ntk', 'yarn', 'llama3'",
        ),
        ("{type: rope, scaling: {factor: 2}}", "has no key `type`"),
        ("{type: rope, scaling: {type: linear, factor: 2, beta_fast: 3}}", "unknown key"),
        ("{type: rope, scaling: {type: linear, factor: 0.5}}", "got 0.5; needs a number >= 1"),
        ("{type: rope, scaling: {type: linear, factor: .inf}}", "factor"),
        ("{type: rope, fraction: 0.3}", "0.3 of a head is 9 wide; try 0.25 or 0.3125"),
        ("{type: rope, scaling: {type: llama3, factor: 8, low_freq_factor: 4}}", "is not below high_freq_factor"),
        ("{type: rope, scaling: {type: yarn, factor: 8, beta_slow: 64}}", "is not below beta_fast"),
    ],
)
def test_what_cannot_be_is_refused_at_its_key(load, position, message):
    with pytest.raises(InvalidExperiment, match=message) as refused:
        load(f"model_args: {{n_head: 4, n_embd: 128, position: {position}}}\n")
    assert "model_args.position" in refused.value.message


class TestPartial(Conformance):
    slot, variant, params = "position", "rope", {"fraction": 0.5}


class TestYaRN(Conformance):
    slot, variant, params = "position", "rope", {"scaling": {"type": "yarn", "factor": 4.0, "original_block_size": 64}}


class TestLlama3OfWideHeads(Conformance):
    slot, variant, params = "position", "rope", {"scaling": {"type": "llama3", "factor": 8.0}, "fraction": 0.5}
    dims = replace(DIMS, n_embd=64, head_dim=32, block_size=24)
