"""Every built-in variant passes the kit that plugin authors use, and so do the options that are off by default."""

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

import torch

from foundry.core.registry import registry
from foundry.core.testing import DIMS, Conformance
from foundry.core.testing.case import Case


class TestBuiltIns(Conformance):
    dist = "foundry-modules"


class TestQKNorm(Conformance):
    slot, variant, params = "attention", "gqa", {"qk_norm": True, "qkv_bias": True, "n_kv_head": 1}


class TestQKNormOverAllHeads(Conformance):
    slot, variant, params = "attention", "gqa", {"qk_norm": True, "qk_norm_over": "all_heads"}


class TestSoftcapAndSinks(Conformance):
    slot, variant, params = "attention", "gqa", {"softcap": 2.0, "sinks": True}


class TestWindowWithSinks(Conformance):
    slot, variant, params = "attention", "sliding_window", {"window": 5, "sinks": True, "n_kv_head": 2}


class TestColumnsOfBlocks(Conformance):
    slot, variant, params = "attention", "sparse", {"block": 3, "window": 6, "stride": 2}


class TestNativeSparseOfSmallBlocks(Conformance):
    slot, variant = "attention", "nsa"
    params: ClassVar = {
        "n_kv_head": 2, "compression_block": 4, "compression_stride": 2, "selection_block": 4, "n_selected": 3,
        "window": 5,
    }  # fmt: skip


class TestMLAWithAQueryRank(Conformance):
    slot, variant = "attention", "mla"
    params: ClassVar = {"q_lora_rank": 12, "kv_lora_rank": 40, "qk_rope_head_dim": 6, "v_head_dim": 5}
    dims = replace(DIMS, bias=True)


class TestBiases(Conformance):
    slot, variant = "attention", "mha"
    dims = replace(DIMS, bias=True)


class TestDenseWithBias(Conformance):
    slot, variant, params = "ffn", "dense", {"hidden": 40}
    dims = replace(DIMS, bias=True)


class TestLayerNormWithBias(Conformance):
    slot, variant = "norm", "layernorm"
    dims = replace(DIMS, bias=True)


class TestGPT2sGELU(Conformance):
    slot, variant, params = "activation", "gelu", {"approximate": "tanh"}


class TestALiBiOfSixHeads(Conformance):
    slot, variant = "position", "alibi"
    dims = replace(DIMS, n_head=6, n_embd=48)


class TestChunkedCrossEntropy(Conformance):
    slot, variant, params = "loss", "cross_entropy", {"chunk_tokens": 7}


class TestZLoss(Conformance):
    slot, variant, params = "loss", "cross_entropy", {"z_loss": 1e-4}


def at_their_bounds() -> Iterator[Case]:
    """Each setting of a layer's parts at the least and the largest value that may be written, where sizes allow it."""
    for slot in registry().slots.values():
        for name, variant in registry().variants(slot.name).items() if slot.per_layer else ():
            for setting, field in variant.params.model_fields.items():
                for bound in (getattr(limit, end, None) for limit in field.metadata for end in ("ge", "le")):
                    if bound is not None and bound <= 100:
                        case = Case.of(slot.name, name, {setting: bound})
                        if not list(case.params.problems(case.dims)):
                            yield case


def test_what_a_setting_may_be_at_most_and_at_least_makes_a_layer():
    x, cases = torch.randn(2, DIMS.block_size, DIMS.n_embd), [*at_their_bounds()]
    assert len(cases) > 20
    for case in cases:
        y = case.layer(companion=case.companions()[0])(x)
        assert y.isfinite().all(), case
        assert y.any(), case
