"""The attention variants and their options against transformers' with the same random weights, in fp32: outputs, and
the gradients of the input and of every parameter."""

import pytest
import torch
from torch import nn

from foundry.core.contracts import Context, Dims
from foundry.core.testing import Case, assert_gradients_rounded, assert_rounded, sums_of

transformers = pytest.importorskip("transformers")

from transformers.models.deepseek_v3.modeling_deepseek_v3 import (  # noqa: E402
    DeepseekV3Attention,
    DeepseekV3RotaryEmbedding,
)
from transformers.models.gemma2.modeling_gemma2 import Gemma2Attention  # noqa: E402
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssAttention, GptOssRotaryEmbedding  # noqa: E402
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding  # noqa: E402
from transformers.models.mistral.modeling_mistral import MistralAttention  # noqa: E402
from transformers.models.olmo2.modeling_olmo2 import Olmo2Attention  # noqa: E402

B, T = 3, 24
DIMS = Dims(n_layer=2, n_head=4, n_embd=32, head_dim=8, block_size=T, vocab_size=19)
CAUSAL = torch.full((T, T), float("-inf")).triu(1)
WINDOW = 7
WINDOWED = CAUSAL + torch.full((T, T), float("-inf")).tril(-WINDOW)
SIZES = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": T,
    "num_hidden_layers": 2,
    "attn_implementation": "eager",
}


def assert_same(theirs, config, name, params, dims=DIMS, mask=CAUSAL, rotary=LlamaRotaryEmbedding, position=None):
    """Our attention `name`, with their weights under the same names, computes what theirs does."""
    for i, parameter in enumerate(theirs.parameters()):
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(i))
    case = Case.of("attention", name, params, dims)
    rope = Case.of("position", "rope", position or {}, dims).build(case.params.position_dims(dims))
    ours = case.build(dims, rope)
    ours.load_state_dict(theirs.state_dict())
    positions = torch.arange(T).expand(B, T)
    turns = rotary(config)(torch.zeros(1), positions)
    functions = (
        lambda x: ours(x, Context())[0],
        lambda x: theirs.eval()(x, position_embeddings=turns, attention_mask=mask[None, None])[0],
    )
    results = []
    for module, function in zip((ours, theirs), functions, strict=True):
        x = torch.randn(B, T, dims.n_embd, generator=torch.Generator().manual_seed(7)).requires_grad_()
        y = function(x)
        y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(8)))
        results.append((y, {"x": x.grad} | {name: p.grad for name, p in module.named_parameters()}))
    (y, gradients), (expected, of_expected) = results
    assert_rounded(y, expected, *sums_of(ours))
    assert_gradients_rounded(gradients, of_expected, *sums_of(ours, tokens=B * T))


def test_olmo2_normalises_over_all_heads():
    config = transformers.Olmo2Config(**SIZES, rms_norm_eps=0.1)
    params = {"n_kv_head": 2, "qk_norm": True, "qk_norm_over": "all_heads", "qk_norm_eps": 0.1}
    assert_same(Olmo2Attention(config, 0), config, "gqa", params)


def test_gemma2_caps_its_scores():
    config = transformers.Gemma2Config(**SIZES, query_pre_attn_scalar=8, attn_logit_softcapping=0.7)
    assert_same(Gemma2Attention(config, 1), config, "gqa", {"n_kv_head": 2, "softcap": 0.7})


def test_mistral_sees_a_window():
    config = transformers.MistralConfig(**SIZES, sliding_window=WINDOW)
    params = {"n_kv_head": 2, "window": WINDOW}
    assert_same(MistralAttention(config, 0), config, "sliding_window", params, mask=WINDOWED)


def test_gpt_oss_has_sinks():
    rope = {"rope_type": "default", "rope_theta": 10_000.0}
    config = transformers.GptOssConfig(**SIZES, layer_types=["full_attention"] * 2, rope_parameters=rope)
    params, dims = {"n_kv_head": 2, "sinks": True}, Dims(2, 4, 32, 8, T, bias=True)
    assert_same(GptOssAttention(config, 0), config, "gqa", params, dims, rotary=GptOssRotaryEmbedding)
    params["window"] = WINDOW
    theirs = GptOssAttention(config, 0)
    assert_same(theirs, config, "sliding_window", params, dims, WINDOWED, rotary=GptOssRotaryEmbedding)


MLA_SIZES = {"kv_lora_rank": 24, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6}


@pytest.mark.parametrize("rank", [None, 20])
@pytest.mark.parametrize("stretched", [False, True])
def test_deepseek_v3_attention(rank, stretched):
    rope = {"rope_type": "default", "rope_theta": 10_000.0}
    position = {}
    if stretched:
        mscales = {"factor": 4.0, "mscale": 0.7, "mscale_all_dim": 1.0}
        rope |= {"rope_type": "yarn", "original_max_position_embeddings": T // 4} | mscales
        position = {"scaling": {"type": "yarn"} | mscales}
    config = transformers.DeepseekV3Config(
        **{**SIZES, "num_key_value_heads": 4, "head_dim": 4}, **MLA_SIZES, q_lora_rank=rank, rope_interleave=False,
        rope_parameters=rope,
    )  # fmt: skip
    theirs = DeepseekV3Attention(config, 0)
    params = {**MLA_SIZES, "q_lora_rank": rank}
    assert_same(theirs, config, "mla", params, rotary=DeepseekV3RotaryEmbedding, position=position)
