"""Our assembled GPT against transformers' own models with the same random weights: logits and every gradient."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from torch.nn import functional as F

from foundry.core.config import load_experiment
from foundry.core.contracts import InvalidExperiment
from foundry.core.model import GPT, initialize, model_of
from foundry.core.registry import registry
from foundry.core.testing import assert_gradients_rounded, assert_rounded, sums_of

transformers = pytest.importorskip("transformers")

VOCAB, T = 101, 48
SIZES = {"n_layer": 3, "n_head": 4, "n_embd": 64, "block_size": T}


@pytest.fixture
def build(tmp_path):
    def build(**model_args) -> GPT:
        file = tmp_path / "experiment.yaml"
        lines = [f"  {key}: {value}" for key, value in {**SIZES, **model_args}.items()]
        file.write_text("model_args:\n" + "\n".join(lines) + "\n")
        model = model_of(load_experiment(file), VOCAB)
        initialize(model, seed=7)
        for parameter in model.parameters():  # zero biases and unit norms would hide a swap
            torch.nn.init.normal_(parameter, 0.0 if parameter.ndim > 1 else 0.5, 0.15)
        return model

    return build


def compare(ours: GPT, theirs, names: dict[str, tuple[str, bool]]) -> None:
    """Copy our weights into theirs, then compare logits and gradients; `names` maps their parameter to ours, and says
    whether it is stored transposed."""
    own = dict(ours.named_parameters())
    reference = dict(theirs.named_parameters())
    assert set(names) == set(reference), set(names) ^ set(reference)

    def assembled(spec, take):
        parts, transposed = spec
        tensor = torch.cat([take(part) for part in parts.split("+")])
        return tensor.T if transposed else tensor

    with torch.no_grad():
        for name, spec in names.items():
            reference[name].copy_(assembled(spec, own.__getitem__))
    assert {part for parts, _ in names.values() for part in parts.split("+")} == set(own)

    ids = torch.randint(VOCAB, (2, T + 1), generator=torch.Generator().manual_seed(0))
    logits, _ = ours.eval()(ids[:, :-1])
    expected = theirs.eval()(ids[:, :-1]).logits
    assert_rounded(logits, expected, *sums_of(ours))

    for result in (logits, expected):
        F.cross_entropy(result.flatten(0, 1), ids[:, 1:].flatten()).backward()
    gradients = {name: assembled(spec, lambda part: own[part].grad) for name, spec in names.items()}
    of_reference = {name: reference[name].grad for name in names}
    assert_gradients_rounded(gradients, of_reference, *sums_of(ours, tokens=2 * T))


def test_gpt2(build):
    ours = build(
        attention="mha", norm="layernorm", activation="{type: gelu, approximate: tanh}", position="learned", bias="true"
    )
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=VOCAB, n_positions=T, n_embd=64, n_layer=3, n_head=4,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )
    )  # fmt: skip
    names = {
        "transformer.wte.weight": ("embed.weight", False),
        "transformer.wpe.weight": (next(n for n, _ in ours.named_parameters() if n.startswith("position.")), False),
        "transformer.ln_f.weight": ("norm.weight", False),
        "transformer.ln_f.bias": ("norm.bias", False),
    }
    for i in range(3):
        theirs_at, ours_at = f"transformer.h.{i}", f"blocks.{i}"
        for kind in ("weight", "bias"):
            transposed = kind == "weight"  # GPT-2's Conv1D stores (in, out)
            qkv = "+".join(f"{ours_at}.attention.{x}_proj.{kind}" for x in "qkv")
            names |= {
                f"{theirs_at}.ln_1.{kind}": (f"{ours_at}.attention_norm.{kind}", False),
                f"{theirs_at}.ln_2.{kind}": (f"{ours_at}.ffn_norm.{kind}", False),
                f"{theirs_at}.attn.c_attn.{kind}": (qkv, transposed),
                f"{theirs_at}.attn.c_proj.{kind}": (f"{ours_at}.attention.o_proj.{kind}", transposed),
                f"{theirs_at}.mlp.c_fc.{kind}": (f"{ours_at}.ffn.up_proj.{kind}", transposed),
                f"{theirs_at}.mlp.c_proj.{kind}": (f"{ours_at}.ffn.down_proj.{kind}", transposed),
            }
    compare(ours, theirs, names)


@pytest.mark.parametrize(("n_kv_head", "tied"), [(4, True), (2, False), (1, False)])
def test_llama(build, n_kv_head, tied):
    ours = build(
        attention=f"{{type: gqa, n_kv_head: {n_kv_head}}}", norm="{type: rmsnorm, eps: 1e-6}", activation="swiglu",
        ffn="{type: dense, hidden: 96}", position="{type: rope, theta: 5000}", tie_embeddings=str(tied).lower(),
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=n_kv_head, max_position_embeddings=T, rms_norm_eps=1e-6, tie_word_embeddings=tied,
            rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        )
    )  # fmt: skip
    names = {"model.embed_tokens.weight": ("embed.weight", False), "model.norm.weight": ("norm.weight", False)}
    if not tied:
        names["lm_head.weight"] = ("head.weight", False)
    for i in range(3):
        theirs_at, ours_at = f"model.layers.{i}", f"blocks.{i}"
        names |= {
            f"{theirs_at}.self_attn.{x}_proj.weight": (f"{ours_at}.attention.{x}_proj.weight", False) for x in "qkvo"
        }
        names |= {
            f"{theirs_at}.mlp.{x}_proj.weight": (f"{ours_at}.ffn.{x}_proj.weight", False)
            for x in ("gate", "up", "down")
        }
        names[f"{theirs_at}.input_layernorm.weight"] = (f"{ours_at}.attention_norm.weight", False)
        names[f"{theirs_at}.post_attention_layernorm.weight"] = (f"{ours_at}.ffn_norm.weight", False)
    compare(ours, theirs, names)


ATTENTIONS = {  # in 48 tokens, what is seen ends within the prompt
    "mha": "mha",
    "gqa": "gqa_2kv",
    "mqa": "mqa",
    "capped": "{type: gqa, softcap: 2.0, sinks: true, qk_norm: true}",
    "sliding_window": "{type: sliding_window, window: 7}",
    "sparse": "{type: sparse, block: 3, window: 6, stride: 2}",
    "mla": "{type: mla, q_lora_rank: 24}",
    "nsa": "{type: nsa, compression_block: 4, compression_stride: 2, selection_block: 4, window: 5}",
}
POSITIONS = {
    "rope": "rope",
    "yarn": "{type: rope, scaling: {type: yarn, factor: 4.0}}",
    "alibi": "alibi",
    "learned": "learned",
    "sinusoidal": "sinusoidal",
    "none": "none",
}


def test_no_attention_and_no_position_is_left_out():
    assert registry().variants("attention").keys() <= ATTENTIONS.keys()
    assert registry().variants("position").keys() <= POSITIONS.keys()


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("position", POSITIONS)
def test_decoding_from_the_cache_equals_the_full_forward_pass(build, attention, position):
    if position == "alibi" and attention in ("mla", "nsa"):
        with pytest.raises(InvalidExperiment, match="no place for that"):
            build(attention=attention, position=position)
        return
    model = build(attention=ATTENTIONS[attention], position=POSITIONS[position]).eval()
    ids = torch.randint(VOCAB, (2, T), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, _ = model(ids)
        cache, pieces = model.init_cache(2), []
        for start, stop in [(0, 20), (20, 27), *((i, i + 1) for i in range(27, T))]:  # prompt, chunk, token by token
            logits, cache = model(ids[:, start:stop], cache=cache)
            pieces.append(logits)
    assert_rounded(torch.cat(pieces, 1), expected, *sums_of(model))


@pytest.mark.parametrize("position", ["rope", "alibi", "learned", "sinusoidal", "none"])
def test_padding_and_neighbouring_documents_change_nothing(build, position):
    model = build(attention="gqa_2kv", position=position).eval()
    ids = torch.randint(VOCAB, (1, 20), generator=torch.Generator().manual_seed(2))
    junk = torch.randint(VOCAB, (1, 9), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        alone, _ = model(ids)
        padded, _ = model(torch.cat([junk, ids], 1), attention_mask=torch.tensor([[0] * 9 + [1] * 20]))
        packed, _ = model(
            torch.cat([junk, ids], 1),
            segments=torch.tensor([[0] * 9 + [1] * 20]),
            positions=torch.tensor([[*range(9), *range(20)]]),
        )
    assert_rounded(padded[:, 9:], alone, *sums_of(model))
    assert_rounded(packed[:, 9:], alone, *sums_of(model))


def test_variants_share_the_initial_weights_that_they_have_in_common(build):
    torch.manual_seed(0)
    first, second = build(attention="mha"), build(attention="gqa_2kv", norm="layernorm")
    initialize(first, 3)
    initialize(second, 3)
    a, b = dict(first.named_parameters()), dict(second.named_parameters())
    same = [n for n in a.keys() & b.keys() if a[n].shape == b[n].shape]
    assert len(same) > 15
    assert all(torch.equal(a[n], b[n]) for n in same)


def test_dropout_is_of_training_only_and_of_every_sublayer(build):
    model = build(attention="mha", dropout=0.5)
    ids = torch.randint(VOCAB, (2, T), generator=torch.Generator().manual_seed(4))
    seen = []
    for module in model.blocks.modules():
        if isinstance(module, torch.nn.Dropout):
            module.register_forward_hook(lambda module, inputs, output: seen.append((output == 0).float().mean()))
    model.eval()
    assert torch.equal(model(ids)[0], model(ids)[0])
    seen.clear()
    model.train()
    assert not torch.equal(model(ids)[0], model(ids)[0])
    assert len(seen) == 2 * 2 * len(model.blocks)  # two passes, two sublayers
    assert all(abs(share - 0.5) < 0.05 for share in seen)
