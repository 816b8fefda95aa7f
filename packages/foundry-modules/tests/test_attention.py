"""What the attention variants promise beyond the conformance kit."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from foundry.core.contracts import Context, Dims, InvalidExperiment, UsageError
from foundry.core.testing import DIMS, Case, assert_rounded, sums_of
from foundry.core.testing.case import vectors
from foundry.modules.attention import MHAParams, attend


@pytest.fixture
def masks(monkeypatch):
    """The (attn_mask, is_causal) of every call of torch's attention."""
    seen = []
    attention = F.scaled_dot_product_attention

    def watch(q, k, v, mask=None, dropout=0.0, is_causal=False, **keywords):
        seen.append((mask, is_causal))
        return attention(q, k, v, mask, dropout, is_causal, **keywords)

    monkeypatch.setattr(attend.F, "scaled_dot_product_attention", watch)
    return seen


def test_whole_rows_and_single_tokens_need_no_mask(masks):
    layer = Case.of("attention", "gqa").layer(companion="rope")
    x, cache = vectors(2, 12, DIMS), layer.init_cache(2, 12)
    layer(x)
    layer(x, Context(positions=torch.arange(12).expand(2, 12)))
    layer(x[:, :8], Context(cache=cache))
    layer(x[:, 8:9], Context(cache=cache))
    assert [(mask is None, is_causal) for mask, is_causal in masks] == [(True, True)] * 3 + [(True, False)]
    layer(x[:, 9:], Context(cache=cache))
    mask, is_causal = masks[-1]
    assert not is_causal
    assert mask.shape == (1, 1, 3, 12)


def test_every_head_of_gqa_uses_its_groups_key():
    """Equal to multi-head attention whose key and value heads are repeated n_head / n_kv_head times."""
    gqa, mha = Case.of("attention", "gqa_2kv").layer(), Case.of("attention", "mha").layer()
    mha.part.load_state_dict(
        {
            name: weight.unflatten(0, (2, -1)).repeat_interleave(2, 0).flatten(0, 1)
            if name in ("k_proj.weight", "v_proj.weight")
            else weight
            for name, weight in gqa.part.state_dict().items()
        }
    )
    x = vectors(2, 12, DIMS)
    assert_rounded(gqa(x), mha(x), *sums_of(mha))


def test_the_cache_of_one_key_head_is_a_quarter():
    sizes = [
        sum(tensor.numel() for tensor in Case.of("attention", name).layer().init_cache(1, 16).tensors)
        for name in ("mha", "gqa_1kv")
    ]
    assert sizes == [2 * 16 * DIMS.n_embd, 2 * 16 * DIMS.n_embd // 4]


def test_a_full_cache_says_so():
    layer = Case.of("attention", "mha").layer()
    cache = layer.init_cache(1, 4)
    layer(vectors(1, 3, DIMS), Context(cache=cache))
    with pytest.raises(UsageError, match="holds 4 tokens, 5 are needed"):
        layer(vectors(1, 2, DIMS), Context(cache=cache))
    assert cache.length == 3


def test_segments_do_not_go_with_a_filled_cache():
    layer = Case.of("attention", "mha").layer()
    cache = layer.init_cache(1, 8)
    layer(vectors(1, 3, DIMS), Context(cache=cache))
    with pytest.raises(UsageError, match="one document per row"):
        layer(vectors(1, 2, DIMS), Context(cache=cache, segments=torch.zeros(1, 2)))


def test_learned_positions_end_at_block_size():
    learned = Case.of("position", "learned").layer()
    with pytest.raises(UsageError, match="25 tokens, but position `learned` knows block_size = 24"):
        learned(vectors(1, 25, DIMS))


@pytest.mark.parametrize(
    ("slot", "name", "projection"),
    [
        ("attention", "mha", "o_proj"),
        ("attention", "mla", "o_proj"),
        ("attention", "nsa", "o_proj"),
        ("ffn", "dense", "down_proj"),
        ("ffn", "moe", "experts.down_proj"),
        ("ffn", "moe", "shared_experts.down_proj"),
    ],
)
def test_what_writes_to_the_residual_stream_starts_small(slot, name, projection):
    dims = replace(DIMS, n_layer=8, n_embd=128, head_dim=32)
    layer = Case.of(slot, name, {"n_shared_experts": 1} if name == "moe" else {}, dims).layer()
    assert layer.get_parameter(f"part.{projection}.weight").std().item() == pytest.approx(0.02 / 4, rel=0.05)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("mha", {}),
        ("gqa", {"softcap": 2.0, "sinks": True}),
        ("sliding_window", {"window": 5}),
        ("sparse", {"block": 3, "window": 6, "stride": 2}),
        ("mla", {}),
        ("nsa", {"window": 5}),
    ],
)
def test_attention_drops_its_weights_in_training_only(name, params):
    """Neither at once nor from the cache; and those that stay are larger, so that the mean is what it was."""
    case, x, n_draws = Case.of("attention", name, params), vectors(2, 12, DIMS), 400
    plain, dropping = case.layer()(x), case.layer(dims=replace(DIMS, dropout=0.5))
    cache = dropping.init_cache(2, 12)
    pieces = [dropping(piece, Context(cache=cache)) for piece in x.split([9, 1, 2], dim=1)]
    for y in (dropping(x), torch.cat(pieces, dim=1)):
        assert_rounded(y, plain, *sums_of(dropping))
    dropping.train()
    torch.manual_seed(0)
    draws = torch.stack([dropping(x) for _ in range(n_draws)]).detach()
    assert (draws.std(0) > 0).all()
    assert ((draws.mean(0) - plain).abs() < 6 * draws.std(0) / n_draws**0.5).all()


def test_head_dim_need_not_divide_n_embd():
    dims = Dims(n_layer=2, n_head=3, n_embd=32, head_dim=6, block_size=12)
    x = vectors(2, 12, dims)
    assert Case.of("attention", "gqa", {"n_kv_head": 1}, dims).layer(companion="rope")(x).shape == x.shape


def test_a_soft_cap_bounds_scores_and_a_sink_takes_weight():
    """A huge cap and a sink far below are plain attention; a sink far above takes everything."""
    x, plain = vectors(2, 12, DIMS), Case.of("attention", "gqa").layer(companion="alibi")
    optional = Case.of("attention", "gqa", {"softcap": 1e4, "sinks": True}).layer(companion="alibi")
    with torch.no_grad():
        optional.part.sinks.fill_(-100.0)
        # The cap bends a score s by s^3 / (3 * 10^8): here by 10^-11.
        assert_rounded(optional(x), plain(x), *sums_of(plain))
        optional.part.sinks.fill_(100.0)
        assert optional(x).abs().max() < 1e-30 * plain(x).abs().max()  # e^-100 of it is left, or nothing


def test_scores_are_capped_before_their_bias_and_weighed_beside_a_sink():
    """ALiBi's bias is no part of what the cap bounds: written out."""
    layer = Case.of("attention", "mha", {"softcap": 0.5, "sinks": True}).layer(companion="alibi")
    part, x, positions = layer.part, 20 * vectors(2, 12, DIMS), torch.arange(12)[None]
    torch.nn.init.normal_(part.sinks, generator=torch.Generator().manual_seed(0))
    q, k, v = part.project(x, Context())
    scores = 0.5 * torch.tanh(q @ k.mT / 8**0.5 / 0.5) + part.score_bias(positions, positions)
    weights = scores.exp().tril()
    weights = weights / (weights.sum(-1, keepdim=True) + part.sinks.exp()[:, None, None])
    expected = part.o_proj((weights @ v).transpose(1, 2).flatten(2))
    assert_rounded(layer(x), expected, *sums_of(layer))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("qkv_bias", [None, False, True])
def test_qkv_bias_is_its_own_choice_and_follows_bias_where_it_is_none(bias, qkv_bias):
    part = Case.of("attention", "mha", {"qkv_bias": qkv_bias}, replace(DIMS, bias=bias)).layer().part
    biases = [name.partition("_")[0] for name, _ in part.named_parameters() if name.endswith("bias")]
    assert biases == [*("qkv" if (bias if qkv_bias is None else qkv_bias) else ""), *("o" if bias else "")]


def test_what_is_added_to_the_values_is_cached_with_them():
    layer = Case.of("attention", "gqa_2kv").layer()
    x, extra = vectors(2, 12, DIMS), torch.randn(2, 12, layer.part.v_proj.out_features)
    y = layer(x, Context(value=extra))
    assert not torch.allclose(y, layer(x))
    cache = layer.init_cache(2, 12)
    pieces = [layer(x[:, t], Context(value=extra[:, t], cache=cache)) for t in (slice(0, 7), slice(7, 8), slice(8, 12))]
    assert_rounded(torch.cat(pieces, dim=1), y, *sums_of(layer))


def test_all_heads_without_qk_norm_is_refused():
    problems = dict(MHAParams(qk_norm_over="all_heads").problems(DIMS))
    assert "qk_norm: true" in problems["qk_norm_over"]


def test_latents_absorb_what_makes_keys_and_values_of_them():
    """Both ways through the same latents, in fp64: whole rows, some queries, padding."""
    layer = Case.of("attention", "mla", {"q_lora_rank": 12, "v_head_dim": 6}).layer().double().part
    x = vectors(2, 16, DIMS).double()
    q_nope, q_rope = layer.q_b_proj(layer.q_a_proj(x)).unflatten(-1, (4, -1)).transpose(1, 2).split((8, 4), dim=-1)
    latents = torch.cat((x[..., :16], x[..., 20:24]), dim=-1)
    real = torch.arange(16) >= torch.tensor([[0], [5]])
    for new, ctx in ((16, Context()), (3, Context()), (1, Context()), (16, Context(key_padding=real))):
        queries = q_nope[:, :, -new:], q_rope[:, :, -new:]
        absorbed, expanded = layer.absorbed(*queries, latents, ctx), layer.expanded(*queries, latents, ctx)
        assert_rounded(absorbed, expanded, *sums_of(layer))


def test_mla_decodes_in_the_space_of_latents_and_caches_nothing_else(monkeypatch):
    layer = Case.of("attention", "mla").layer(companion="rope")
    x, cache = vectors(2, 16, DIMS), layer.init_cache(2, 16)
    whole = layer(x)
    assert sum(tensor.numel() for tensor in cache.tensors) == 2 * 16 * (16 + 4)  # rank n_embd / 2, half a head
    prompt = layer(x[:, :15], Context(cache=cache))
    monkeypatch.delattr(type(layer.part), "expanded")
    assert_rounded(torch.cat((prompt, layer(x[:, 15:], Context(cache=cache))), 1), whole, *sums_of(layer))


def test_mla_refuses_positions_that_bias_scores_and_odd_widths(load):
    with pytest.raises(InvalidExperiment, match=r"alibi acts on the attention scores; mla has no place for that"):
        load("model_args: {attention: mla, position: alibi}")
    with pytest.raises(InvalidExperiment, match=r"qk_rope_head_dim: 7 is odd, and positions rotate pairs; try 6 or 8"):
        load("model_args: {attention: {type: mla, qk_rope_head_dim: 7}}")
    half = "attention: {type: mla, qk_rope_head_dim: 6}, position: {type: rope, fraction: 0.5}, n_embd: 128"
    with pytest.raises(InvalidExperiment, match=r"rope rotates pairs, but 0.5 of a head is 3 wide"):
        load(f"model_args: {{{half}}}")
