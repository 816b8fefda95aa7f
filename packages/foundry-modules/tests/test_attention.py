"""What the attention variants promise beyond the conformance kit."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from foundry.core.contracts import Context, Dims, UsageError
from foundry.core.testing import DIMS, Case
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
    torch.testing.assert_close(gqa(x), mha(x), rtol=0, atol=1e-6)


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


@pytest.mark.parametrize(("slot", "projection"), [("attention", "o_proj"), ("ffn", "down_proj")])
def test_what_writes_to_the_residual_stream_starts_small(slot, projection):
    dims = replace(DIMS, n_layer=8, n_embd=128, head_dim=32)
    layer = Case.of(slot, "mha" if slot == "attention" else "dense", dims=dims).layer()
    assert layer.get_parameter(f"part.{projection}.weight").std().item() == pytest.approx(0.02 / 4, rel=0.05)


def test_attention_drops_its_weights_in_training_only():
    layer = Case.of("attention", "mha", dims=replace(DIMS, dropout=0.5)).layer()
    x = vectors(2, 12, DIMS)
    assert torch.equal(layer(x), layer(x))
    layer.train()
    assert not torch.equal(layer(x), layer(x))


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
        torch.testing.assert_close(optional(x), plain(x), rtol=0, atol=1e-6)
        optional.part.sinks.fill_(100.0)
        assert optional(x).abs().max() < 1e-6


def test_what_is_added_to_the_values_is_cached_with_them():
    layer = Case.of("attention", "gqa_2kv").layer()
    x, extra = vectors(2, 12, DIMS), torch.randn(2, 12, layer.part.v_proj.out_features)
    y = layer(x, Context(value=extra))
    assert not torch.allclose(y, layer(x))
    cache = layer.init_cache(2, 12)
    pieces = [layer(x[:, t], Context(value=extra[:, t], cache=cache)) for t in (slice(0, 7), slice(7, 8), slice(8, 12))]
    torch.testing.assert_close(torch.cat(pieces, dim=1), y, rtol=0, atol=1e-6)


def test_all_heads_without_qk_norm_is_refused():
    problems = dict(MHAParams(qk_norm_over="all_heads").problems(DIMS))
    assert "qk_norm: true" in problems["qk_norm_over"]
