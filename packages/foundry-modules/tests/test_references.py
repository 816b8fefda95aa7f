"""The modules against transformers' with the same random weights: outputs and gradients, but for rounding."""

import math

import pytest
import torch
from torch import nn

from foundry.core.contracts import Context, Dims
from foundry.core.testing import Case, assert_gradients_rounded, assert_rounded, sums_of
from foundry.core.testing.rounding import rounding

transformers = pytest.importorskip("transformers")

from transformers.models.bloom.modeling_bloom import build_alibi_tensor  # noqa: E402
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP, GPT2Attention  # noqa: E402
from transformers.models.llama.modeling_llama import (  # noqa: E402
    LlamaAttention,
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention  # noqa: E402

B, T = 3, 24
DIMS = Dims(n_layer=2, n_head=4, n_embd=32, head_dim=8, block_size=T, vocab_size=19)
POSITIONS = torch.arange(T).expand(B, T)
CAUSAL = torch.full((T, T), float("-inf")).triu(1)[None, None]


def build(slot, name, *arguments, **params):
    return Case.of(slot, name, params, DIMS).build(*arguments)


def randomise(module):
    for i, parameter in enumerate(module.parameters()):
        nn.init.normal_(parameter, std=0.15, generator=torch.Generator().manual_seed(i))
    return module


def assert_same(ours, theirs, pairs):
    """Both functions of x give the same y and the same gradients, of x and of each (our tensor, their tensor, map)."""
    x = torch.randn(B, T, DIMS.n_embd, generator=torch.Generator().manual_seed(7))
    upstream = torch.randn(B, T, DIMS.n_embd, generator=torch.Generator().manual_seed(8))
    results = []
    for function in (ours, theirs):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        y.backward(upstream)
        results.append((y, leaf.grad))
    (y, of_x), (expected, expected_of_x) = results
    parameters = nn.ParameterList(our_parameter for our_parameter, _, _ in pairs)
    assert_rounded(y, expected, *sums_of(parameters))
    mine = {"x": of_x} | {str(i): pair[0].grad for i, pair in enumerate(pairs)}
    their = {"x": expected_of_x} | {str(i): pair[2](pair[1].grad) for i, pair in enumerate(pairs)}
    assert_gradients_rounded(mine, their, *sums_of(parameters, tokens=B * T))


def same(tensor):
    return tensor


def transposed(tensor):
    return tensor.T


def take_over(ours, theirs, names, to_ours=same):
    """Copy their parameters into ours, by name."""
    pairs = []
    for our_name, their_name in names.items():
        our_parameter, their_parameter = ours.get_parameter(our_name), theirs.get_parameter(their_name)
        with torch.no_grad():
            our_parameter.copy_(to_ours(their_parameter))
        pairs.append((our_parameter, their_parameter, to_ours))
    return pairs


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
def test_llama_attention(n_kv_head, bias):
    config = transformers.LlamaConfig(
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=n_kv_head,
        max_position_embeddings=T,
        attention_bias=bias,
        attn_implementation="eager",
    )
    theirs = randomise(LlamaAttention(config, 0)).eval()
    dims = Dims(2, 4, 32, 8, T, bias=bias)
    rope = Case.of("position", "rope", {"theta": 10_000}, dims).build(dims)
    ours = Case.of("attention", "gqa", {"n_kv_head": n_kv_head}, dims).build(dims, rope)
    pairs = take_over(ours, theirs, {name: name for name, _ in ours.named_parameters()})
    rotary = LlamaRotaryEmbedding(config)
    for ctx in (Context(), Context(positions=POSITIONS)):
        assert_same(
            lambda x, ctx=ctx: ours(x, ctx)[0],
            lambda x: theirs(x, position_embeddings=rotary(x, POSITIONS), attention_mask=CAUSAL)[0],
            pairs,
        )


def test_qwen3_attention_with_qk_norm():
    config = transformers.Qwen3Config(
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        rms_norm_eps=0.1,
        max_position_embeddings=T,
        attn_implementation="eager",
    )
    theirs = randomise(Qwen3Attention(config, 0)).eval()
    ours = build("attention", "gqa", DIMS, build("position", "rope", DIMS), n_kv_head=2, qk_norm=True, qk_norm_eps=0.1)
    pairs = take_over(ours, theirs, {name: name for name, _ in ours.named_parameters()})
    rotary = LlamaRotaryEmbedding(config)
    assert_same(
        lambda x: ours(x, Context())[0],
        lambda x: theirs(x, position_embeddings=rotary(x, POSITIONS), attention_mask=CAUSAL)[0],
        pairs,
    )


def test_gpt2_attention():
    config = transformers.GPT2Config(n_embd=32, n_head=4, n_positions=T, attn_implementation="eager")
    theirs = randomise(GPT2Attention(config, layer_idx=0)).eval()
    dims = Dims(2, 4, 32, 8, T, bias=True)
    ours = Case.of("attention", "mha", {}, dims).build(dims, None)
    with torch.no_grad():  # GPT-2 keeps the three in one (C, 3 C) matrix, input first
        for layer, weight, bias in zip(
            (ours.q_proj, ours.k_proj, ours.v_proj),
            theirs.c_attn.weight.split(32, dim=1),
            theirs.c_attn.bias.split(32),
            strict=True,
        ):
            layer.weight.copy_(weight.T)
            layer.bias.copy_(bias)
    pairs = take_over(ours, theirs, {"o_proj.weight": "c_proj.weight"}, transposed)
    pairs += take_over(ours, theirs, {"o_proj.bias": "c_proj.bias"})
    assert_same(lambda x: ours(x, Context())[0], lambda x: theirs(x, attention_mask=CAUSAL)[0], pairs)
    ours_in_one = torch.cat([layer.weight.grad for layer in (ours.q_proj, ours.k_proj, ours.v_proj)])
    assert_rounded(ours_in_one, theirs.c_attn.weight.grad.T, *sums_of(ours, tokens=B * T))


def test_llama_mlp():
    theirs = randomise(LlamaMLP(transformers.LlamaConfig(hidden_size=32, intermediate_size=88)))
    ours = build("ffn", "dense", DIMS, build("activation", "swiglu", DIMS), True)
    assert ours.up_proj.out_features == 88  # 8 / 3 of 32, rounded up to a multiple of 8
    pairs = take_over(ours, theirs, {name: name for name, _ in ours.named_parameters()})
    assert_same(lambda x: ours(x, Context())[0], theirs, pairs)


def test_gpt2_mlp():
    theirs = randomise(GPT2MLP(128, transformers.GPT2Config(n_embd=32))).eval()
    dims = Dims(2, 4, 32, 8, T, bias=True)
    activation = Case.of("activation", "gelu", {"approximate": "tanh"}).build(dims)
    ours = Case.of("ffn", "dense", {}, dims).build(dims, activation, False)
    pairs = take_over(ours, theirs, {"up_proj.weight": "c_fc.weight", "down_proj.weight": "c_proj.weight"}, transposed)
    pairs += take_over(ours, theirs, {"up_proj.bias": "c_fc.bias", "down_proj.bias": "c_proj.bias"})
    assert_same(lambda x: ours(x, Context())[0], theirs, pairs)


def test_norms():
    """With an eps that is large enough to be seen."""
    ours = build("norm", "rmsnorm", DIMS, 32, eps=0.1)
    theirs = randomise(LlamaRMSNorm(32, eps=0.1))
    assert_same(ours, theirs, take_over(ours, theirs, {"weight": "weight"}))
    ours = build("norm", "layernorm", DIMS, 32, eps=0.1)
    theirs = randomise(nn.LayerNorm(32, eps=0.1, bias=False))
    assert_same(ours, theirs, take_over(ours, theirs, {"weight": "weight"}))


@pytest.mark.parametrize("n_head", [1, 2, 4, 6, 7, 8, 12, 16, 25])
def test_alibi_is_blooms(n_head):
    """Bloom adds m_h s and we subtract m_h (t - s): for each query a constant apart, which softmax does not see."""
    dims = Dims(2, n_head, 32 * n_head, 32, T)
    alibi = Case.of("position", "alibi", {}, dims).build(dims)
    theirs = build_alibi_tensor(torch.ones(B, T), n_head, torch.float32).view(B, n_head, 1, T)
    assert_rounded(alibi.slopes, theirs[0, :, 0, 1], 8)  # a power
    ours = alibi.bias(POSITIONS, POSITIONS)
    assert_rounded(ours - ours[..., :1], (theirs - theirs[..., :1]).expand_as(ours), 8)
    assert (ours.diagonal(dim1=-2, dim2=-1) == 0).all()


def test_rope_scores_depend_on_the_distance_alone():
    rope = build("position", "rope", DIMS)
    q, k = torch.randn(2, 1, 4, 1, 8, generator=torch.Generator().manual_seed(0)).double()

    def score(t, s):
        rotated_q, _ = rope.rotate(q, k, torch.tensor([[t]]))
        _, rotated_k = rope.rotate(q, k, torch.tensor([[s]]))
        return (rotated_q * rotated_k).sum(-1)

    for shift in (1, 100, 3000):  # of an angle so large, an fp32 of 24 bits leaves so much to its cosine
        assert_rounded(score(9 + shift, 4 + shift), score(9, 4), 8, (9 + shift) ** 2, dtype=torch.float32)
    assert_rounded(score(7, 7), (q * k).sum(-1), 8, 7**2, dtype=torch.float32)
    assert (score(9, 4) - score(9, 5)).abs().max() > 0.1


def test_rope_goes_on_beyond_block_size():
    rope = build("position", "rope", DIMS)
    q = k = torch.randn(1, 4, 3 * T, 8)
    grown, _ = rope.rotate(q, k, None)
    expected, _ = rope.rotate(q, k, torch.arange(3 * T)[None])
    assert_rounded(grown, expected, 2, (3 * T) ** 2)


def test_sinusoidal_positions_are_the_papers():
    """Section 3.4 multiplies embeddings by sqrt(C), 3.5 adds the waves."""
    embedded = build("position", "sinusoidal", DIMS).embed(torch.full((1, T, 32), 0.5), None)
    allowed = rounding(torch.float32, 2, T**2)  # of an angle up to T
    for t, i in ((0, 0), (5, 0), (5, 3), (T - 1, 15)):
        angle = t / 10_000 ** (2 * i / 32)
        assert embedded[0, t, 2 * i].item() == pytest.approx(0.5 * 32**0.5 + math.sin(angle), abs=allowed)
        assert embedded[0, t, 2 * i + 1].item() == pytest.approx(0.5 * 32**0.5 + math.cos(angle), abs=allowed)


def test_sinusoidal_positions_go_on_beyond_block_size():
    sinusoidal, x = build("position", "sinusoidal", DIMS), torch.randn(1, 3 * T, 32)
    assert_rounded(sinusoidal.embed(x, None), sinusoidal.embed(x, torch.arange(3 * T)[None]), 2, (3 * T) ** 2)


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("swiglu", lambda gate, up: gate / (1 + (-gate).exp()) * up),
        ("geglu", lambda gate, up: gate * (1 + torch.erf(gate / math.sqrt(2))) / 2 * up),
        ("glu", lambda gate, up: up / (1 + (-gate).exp())),
        ("gelu", lambda up: up * (1 + torch.erf(up / math.sqrt(2))) / 2),
        ("relu2", lambda up: up.clamp(min=0) ** 2),
        ("relu", lambda up: up.clamp(min=0)),
        ("silu", lambda up: up / (1 + (-up).exp())),
    ],
)
def test_activations_are_their_formulas(name, formula):
    """Gated ones also prove which of the two arguments goes through the non-linearity."""
    arguments = torch.randn(formula.__code__.co_argcount, 50, dtype=torch.float64)
    assert_rounded(build("activation", name, DIMS)(*arguments), formula(*arguments), *[1] * 8)
