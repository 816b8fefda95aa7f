"""Where the norms stand, against the decoder layers of transformers, and that a model with each placement learns."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from torch import nn

from foundry.core.contracts import Context, Multipliers
from foundry.core.model import GPT, initialize, model_of
from foundry.core.testing import Case, assert_gradients_rounded, assert_rounded, sums_of
from foundry.core.testing.case import vectors

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 48}


@pytest.fixture
def build(load):
    def build(model_args: str) -> GPT:
        experiment = load(f"model_args: {{n_layer: 2, n_head: 4, n_embd: 32, block_size: 16, {model_args}}}\n")
        model = model_of(experiment, vocab_size=23)
        initialize(model, seed=7)
        return model

    return build


class Sublayer(nn.Module):
    """Stands for attention and for feed-forward, ours and theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(32, 32)

    def forward(self, x, ctx=None):
        y = self.linear(x).tanh()
        return y if ctx is None else (y, {})


class TheirAttention(Sublayer):
    def forward(self, hidden_states, **ignored):
        return super().forward(hidden_states), None


def olmo2():
    from transformers.models.olmo2.modeling_olmo2 import Olmo2Config, Olmo2DecoderLayer

    layer = Olmo2DecoderLayer(Olmo2Config(**SIZES, rms_norm_eps=1e-5), 0)
    return layer, {"attention_norm": layer.post_attention_layernorm, "ffn_norm": layer.post_feedforward_layernorm}


def gemma2():
    from transformers.models.gemma2.modeling_gemma2 import Gemma2Config, Gemma2DecoderLayer

    layer = Gemma2DecoderLayer(Gemma2Config(**SIZES, head_dim=8, rms_norm_eps=1e-5), 0)
    return layer, {
        "attention_norm": layer.input_layernorm,
        "attention_post_norm": layer.post_attention_layernorm,
        "ffn_norm": layer.pre_feedforward_layernorm,
        "ffn_post_norm": layer.post_feedforward_layernorm,
    }


def llama():
    from transformers.models.llama.modeling_llama import LlamaConfig, LlamaDecoderLayer

    layer = LlamaDecoderLayer(LlamaConfig(**SIZES, rms_norm_eps=1e-5), 0)
    return layer, {"attention_norm": layer.input_layernorm, "ffn_norm": layer.post_attention_layernorm}


def bert():
    """The placement of the original transformer. Its sublayers end in a module that adds and normalises."""
    from transformers.models.bert.modeling_bert import BertConfig, BertSelfOutput

    config = BertConfig(hidden_size=32, layer_norm_eps=1e-5, hidden_dropout_prob=0.0)
    attention, ffn = BertSelfOutput(config), BertSelfOutput(config)
    sublayers = TheirAttention(), Sublayer()
    for output in (attention, ffn):
        output.dense = nn.Identity()

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn, self.mlp = sublayers

        def forward(self, x):
            x = attention(self.self_attn(x)[0], x)
            return ffn(self.mlp(x), x)

    return Layer(), {"attention_norm": attention.LayerNorm, "ffn_norm": ffn.LayerNorm}


@pytest.mark.parametrize(
    ("residual", "norm", "reference", "offset"),
    [
        ("pre", "rmsnorm", llama, 0.0),
        ("post", "rmsnorm", olmo2, 0.0),
        ("sandwich", "rmsnorm", gemma2, 1.0),  # Gemma's norms multiply by 1 + weight
        ("post_add", "layernorm", bert, 0.0),
    ],
)
def test_placement_equals_transformers(build, residual, norm, reference, offset):
    block = build(f"residual: {residual}, norm: {norm}, bias: true").blocks[0].eval()
    block.attention, block.ffn = Sublayer(), Sublayer()
    theirs, norms = reference()
    theirs.self_attn, theirs.mlp = TheirAttention(), Sublayer()
    theirs.eval()
    theirs.self_attn.load_state_dict(block.attention.state_dict())
    theirs.mlp.load_state_dict(block.ffn.state_dict())
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, their_norm in norms.items():
            our_norm = block.get_submodule(name)
            our_norm.weight.normal_(1.0, 0.3, generator=generator)
            their_norm.weight.copy_(our_norm.weight - offset)
    assert sum("norm" in name for name, _ in block.named_parameters()) == sum(
        len(list(their_norm.parameters())) for their_norm in norms.values()
    )
    ours_in, theirs_in = (torch.randn(2, 9, 32, generator=generator).requires_grad_() for _ in range(2))
    theirs_in.data.copy_(ours_in.data)
    y, _ = block(ours_in, Context())
    expected = theirs(theirs_in)
    expected = expected[0] if isinstance(expected, tuple) else expected
    assert_rounded(y, expected, *sums_of(block))
    y.square().sum().backward()
    expected.square().sum().backward()
    gradients = {name: block.get_submodule(name).weight.grad for name in norms} | {"x": ours_in.grad}
    theirs = {name: their_norm.weight.grad for name, their_norm in norms.items()} | {"x": theirs_in.grad}
    assert_gradients_rounded(gradients, theirs, *sums_of(block, tokens=2 * 9))


@pytest.mark.parametrize(
    ("residual", "formula"),
    [
        ("pre", lambda x, y, norm, post_norm: x + y / 4),
        ("post", lambda x, y, norm, post_norm: x + norm(y) / 4),
        ("sandwich", lambda x, y, norm, post_norm: x + post_norm(y) / 4),
        ("post_add", lambda x, y, norm, post_norm: norm(x + y / 4)),
    ],
)
def test_a_scale_rule_multiplies_what_a_norm_gives_and_not_what_it_takes(residual, formula):
    """Before a norm, a factor would be divided out again."""
    case = Case.of("residual", residual)
    layer = case.layer(dims=case.with_dims(multipliers=Multipliers(branch=1 / 4)).dims)
    x, y = vectors(2, 8, case.dims), vectors(2, 8, case.dims, seed=1)
    expected = formula(x, y, layer.norm, layer.post_norm)
    assert_rounded(layer.part.leave(x, y, layer.norm, layer.post_norm), expected, *sums_of(layer))


def test_the_default_changes_no_name_and_no_identity(load):
    unsaid, spelt = load("model_args: {n_layer: 1}\n"), load("model_args: {n_layer: 1, residual: pre}\n")
    assert unsaid.identity == spelt.identity
    names = {name for name, _ in model_of(unsaid, 7).blocks[0].named_parameters()}
    assert {name.partition(".")[0] for name in names} == {"attention_norm", "attention", "ffn_norm", "ffn"}


@pytest.mark.parametrize("residual", ["post", "post_add", "sandwich"])
@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm", "dyt"])
def test_each_placement_learns_with_each_norm(build, residual, norm):
    model = build(f"residual: {residual}, norm: {norm}")
    ids = torch.randint(23, (8, 17), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        logits, _ = model(ids[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
