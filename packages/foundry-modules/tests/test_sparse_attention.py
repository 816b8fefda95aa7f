"""Attentions that see a part of what is before: which part, and that it costs less."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from foundry.core.analyze import analyze
from foundry.core.contracts import Context, UsageError
from foundry.core.testing import DIMS, Case, assert_gradients_rounded, assert_rounded, sums_of
from foundry.core.testing.case import vectors
from foundry.kernels import SparsePattern, sparse_attention
from foundry.modules.attention import SparseParams, attend

LONG = replace(DIMS, block_size=320)
PATTERNS = [("sliding_window", {"window": 20}), ("sparse", {"block": 16, "window": 32, "stride": 3})]


@pytest.mark.parametrize(("name", "params"), PATTERNS)
@pytest.mark.parametrize("position", ["rope", "alibi"])
@pytest.mark.parametrize("options", [{}, {"softcap": 1.5, "sinks": True, "n_kv_head": 2}])
def test_long_rows_in_chunks_equal_a_mask_over_everything(name, params, position, options, monkeypatch):
    """Whole rows, packed documents and padding; values and gradients."""
    case, x = Case.of("attention", name, params | options, LONG), vectors(2, 320, LONG)
    row = torch.arange(320).expand(2, 320)
    segments = (row >= torch.tensor([[100], [217]])).int()
    packed = Context(positions=torch.where(segments > 0, row - torch.tensor([[100], [217]]), row), segments=segments)
    real = row >= torch.tensor([[0], [30]])
    padded = Context(positions=(real.long().cumsum(-1) - 1).clamp_min(0), key_padding=real)
    results = []
    for chunks in (True, False):
        monkeypatch.setattr(SparsePattern, "suits_chunks", lambda self, length, chunks=chunks: chunks)
        layer = case.layer(companion=position)
        for ctx in (Context(), packed, padded):
            layer.zero_grad()
            y = layer(x, ctx)
            y.square().sum().backward()
            results += [(y, {name: parameter.grad.clone() for name, parameter in layer.named_parameters()})]
    for (y, gradients), (expected, of_expected) in zip(results[:3], results[3:], strict=True):
        assert_rounded(y, expected, *sums_of(layer), 320)
        assert_gradients_rounded(gradients, of_expected, *sums_of(layer, tokens=2 * 320), 320)


@pytest.mark.parametrize("pattern", [SparsePattern(20), SparsePattern(32, 16, 3)])
def test_chunks_keep_no_scores(pattern):
    """Of a query no more than its row's sum, beside what there is in any case; and the gradients are those of finite
    differences, heads that share keys included."""
    q, k, v = (torch.randn(1, heads, 256, 2, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append((x.data_ptr(), x.numel())) or x, lambda x: x):
        y = attend.attend(q, k, v, Context(), pattern=pattern)
    there = {x.data_ptr() for x in (q, k, v, y)}
    assert [size for address, size in kept if address not in there] == [4 * 256]
    inputs = (q, k, v)
    assert torch.autograd.gradcheck(lambda *x: attend.attend(*x, Context(), pattern=pattern), inputs, fast_mode=True)


class Sizes(TorchDispatchMode):
    """Notes how large each result is, views included."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.sizes |= {x.numel() for x in tree_leaves(result) if isinstance(x, torch.Tensor)}
        return result


@pytest.mark.parametrize("packed", [False, True])
def test_no_tensor_of_the_scores_grows_with_the_row(packed):
    """Forward and backward, for the largest that is not of the size of q, k and v; two heads share keys."""

    def largest(length: int) -> int:
        ctx, token = Context(), torch.arange(length)[None]
        if packed:
            ctx = Context(positions=token % 300, segments=token // 300)
        q, k, v = (torch.randn(1, heads, length, 64, requires_grad=True) for heads in (4, 2, 2))
        with Sizes() as seen:
            attend.attend(q, k, v, ctx, pattern=SparsePattern(64)).sum().backward()
        return max(size for size in seen.sizes if size % (length * 64))

    assert largest(1001) == largest(4003) < 2**17


@pytest.mark.parametrize("pattern", [SparsePattern(20), SparsePattern(32, 16, 3)])
def test_chunks_under_autocast_compute_in_bf16_as_torch_does(pattern):
    heads = [vectors(1, 192, DIMS, seed).unflatten(-1, (4, 8)).transpose(1, 2).requires_grad_() for seed in range(3)]
    tokens = torch.arange(192)
    mask = pattern.sees(tokens[:, None], tokens)
    results = []
    for attention in (lambda *x: sparse_attention(*x, pattern), lambda *x: F.scaled_dot_product_attention(*x, mask)):
        with torch.autocast("cpu", torch.bfloat16):
            y = attention(*heads)
        results.append((y, *torch.autograd.grad(y.float().square().sum(), heads)))
    assert results[0][0].dtype == torch.bfloat16
    (y, *of_heads), (expected, *of_expected) = results
    assert_rounded(y, expected, 8, 192, 8)  # stored: the heads, the weights, the result
    size = max(each.abs().max().item() for each in of_expected)
    for mine, theirs in zip(of_heads, of_expected, strict=True):
        assert_rounded(mine, theirs, 8, 192, 8, 8, 8, 192, 192, size=size, dtype=torch.bfloat16)


@pytest.mark.parametrize(("name", "params"), PATTERNS)
def test_who_sees_whom(name, params):
    """By experiment: which inputs change an output. Every pair of tokens against the definition."""
    layer, x = Case.of("attention", name, params, LONG).layer(), vectors(1, 160, LONG)
    window, block, stride = params["window"], params.get("block", 1), params.get("stride")
    for t in (0, 19, 20, 47, 48, 111, 159):
        leaf = x.clone().requires_grad_()
        layer(leaf)[0, t].sum().backward()
        seen = [u for u in range(160) if leaf.grad[0, u].any()]
        near = range(max(0, (t // block + 1) * block - window), t + 1)
        columns = [u for u in range(t + 1) if stride and (u // block + 1) % stride == 0]
        assert seen == sorted({*near, *columns})


def test_a_windowed_layer_counts_fewer_flops(load):
    counted = {}
    for attention in ("mha", "sliding_window", "sparse"):
        experiment = load(f"model_args: {{attention: {attention}, block_size: 2048}}")
        counted[attention] = analyze(experiment, 256)["flops_per_token_by_part"]["attention"]
    projections = 4 * 4 * 2 * 128 * 128
    scores = {name: flops - projections for name, flops in counted.items()}
    assert scores["mha"] == 4 * 4 * 2048 * 128  # 2 products of T x C per token and layer
    assert scores["sliding_window"] < 0.5 * scores["mha"]
    assert scores["sparse"] < 0.6 * scores["mha"]


def test_a_window_is_decoded_from_its_own_keys_alone(monkeypatch):
    layer = Case.of("attention", "sliding_window", {"window": 6}).layer(companion="rope")
    x, cache, widths = vectors(1, 24, DIMS), layer.init_cache(1, 24), []
    attention = F.scaled_dot_product_attention

    def watch(q, k, *rest, **keywords):
        widths.append(k.size(2))
        return attention(q, k, *rest, **keywords)

    monkeypatch.setattr(attend.F, "scaled_dot_product_attention", watch)
    for token in x.split(1, dim=1):
        layer(token, Context(cache=cache))
    assert widths == [1, 2, 3, 4, 5] + [6] * 19


@pytest.mark.parametrize("position", ["rope", "alibi"])
@pytest.mark.parametrize("padding", ["none", "left", "anywhere"])
@settings(max_examples=8, deadline=None)
@given(window=st.integers(1, 40), seed=st.integers(0, 99))
def test_a_window_is_all_that_its_cache_holds(position, padding, window, seed):
    """A text in pieces of any size is what it is at once, wherever the window's cache forgets; padding does not push
    real tokens out of it."""
    draw, length = torch.Generator().manual_seed(seed), 320
    layer = Case.of("attention", "sliding_window", {"window": window}, LONG).layer(companion=position)
    x, real = vectors(2, length, LONG, seed), None
    if padding == "left":
        real = torch.arange(length) >= torch.tensor([[0], [70]])
    elif padding == "anywhere":
        real = torch.rand(2, length, generator=draw) > 0.5
    positions = None if real is None else (real.long().cumsum(-1) - 1).clamp_min(0)
    whole = layer(x, Context(positions=positions, key_padding=real))
    cache, pieces, start = layer.init_cache(2, length), [], 0
    while start < length:
        stop = min(length, start + int(torch.randint(1, 60, (), generator=draw) if start else 120))
        ctx = Context(cache=cache)
        if real is not None:
            ctx = ctx._replace(positions=positions[:, start:stop], key_padding=real[:, :stop])
        pieces.append(layer(x[:, start:stop], ctx))
        start = stop
    shown = torch.ones(2, length, dtype=torch.bool) if real is None else real
    assert_rounded(torch.cat(pieces, 1)[shown], whole[shown], *sums_of(layer), window)
    assert cache.length == length
    if padding != "anywhere":
        assert cache.tensors[0].size(2) == window - 1 + max(window // 8, 16)
    with pytest.raises(UsageError, match="holds 320 tokens, 321 are needed"):
        layer(x[:, :1], Context(cache=cache))


def test_a_window_of_half_a_block_is_refused():
    problems = dict(SparseParams(block=16, window=40).problems(DIMS))
    assert problems["window"].endswith("try 32 or 48")


def test_nsa_is_its_definition():
    """Token by token, head by head, in fp64, as the paper's section 3 says it."""
    l, d, size, n, window = 4, 2, 4, 4, 5  # noqa: E741 - the paper's letters; of up to 6 blocks, 1 of 3 is chosen
    params = dict(compression_block=l, compression_stride=d, selection_block=size, n_selected=n, window=window)
    layer = Case.of("attention", "nsa", {**params, "n_kv_head": 2}).layer().double()
    part, x = layer.part, 3 * vectors(1, 24, DIMS).double()
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    q = part.q_proj(x)[0].view(24, 4, 8)
    k, v = (projection(x)[0].view(24, 3, 2, 8) for projection in (part.k_proj, part.v_proj))
    gates = part.g_proj(x)[0].sigmoid().view(24, 3, 4)

    def phi(compress, rows):
        return compress.down_proj(F.gelu(compress.up_proj((rows + compress.place).flatten())))

    def mixed(query, keys, values):
        return torch.softmax(torch.stack([query @ key for key in keys]) / 8**0.5, 0) @ torch.stack(values)

    expected = torch.zeros(24, 4, 8, dtype=torch.float64)
    for t in range(24):
        for group in range(2):
            heads = (2 * group, 2 * group + 1)
            starts = [s for s in range(0, 24, d) if s + l - 1 <= t]
            small_k = [phi(part.compress_k, k[s : s + l, 0, group]) for s in starts]
            small_v = [phi(part.compress_v, v[s : s + l, 0, group]) for s in starts]
            weight = [0.0] * (t // size + 1)
            for head in heads if starts else ():
                p = torch.softmax(torch.stack([q[t, head] @ key for key in small_k]) / 8**0.5, 0)
                expected[t, head] += gates[t, 0, head] * (p @ torch.stack(small_v))
                for p_start, start in zip(p.tolist(), starts, strict=True):
                    for stretch in range(start, start + l, d):
                        if stretch // size < len(weight):
                            weight[stretch // size] += p_start
            own = t // size
            order = sorted(range(own + 1), key=lambda j: (j not in (0, own - 1, own), -weight[j], j))
            tokens = [u for u in range(t + 1) if u // size in order[:n]]
            near = range(max(0, t - window + 1), t + 1)
            for head in heads:
                for branch, seen in ((1, tokens), (2, near)):
                    keys, values = [k[u, branch, group] for u in seen], [v[u, branch, group] for u in seen]
                    expected[t, head] += gates[t, branch, head] * mixed(q[t, head], keys, values)
    assert_rounded(layer(x)[0], part.o_proj(expected.flatten(1)), *sums_of(layer))


def test_nsa_chooses_by_content():
    """What is chosen is not the same blocks for every text: else the branch would be one more fixed pattern."""
    layer = Case.of("attention", "nsa", {"n_selected": 4, "window": 1}, LONG).layer()
    chosen = []
    for seed in (1, 2):
        leaf = (5 * vectors(1, 320, LONG, seed)).requires_grad_()
        with torch.no_grad():
            layer.part.g_proj.weight.zero_()
        layer(leaf)[0, -1].square().sum().backward()
        influence = leaf.grad[0].norm(dim=-1).view(20, 16).sum(-1)
        chosen.append(frozenset(influence.topk(4).indices.tolist()))
    assert chosen[0] != chosen[1]
    assert all({0, 18, 19} <= each for each in chosen)
