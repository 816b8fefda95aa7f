"""Slot `attention`: how tokens exchange information. Built as `target(params, dims, position)`."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from foundry.core.contracts import AttentionParams, Dims, Shorthand, Variant


class MHAParams(AttentionParams):
    scales_scores = True

    qk_norm: bool = Field(False, description="RMS-normalise each head's query and key before positions act on them")
    qk_norm_over: Literal["head", "all_heads"] = Field(
        "head", description="what qk_norm takes the mean over: each head by itself, or all heads at once (OLMo 2)"
    )
    qk_norm_eps: float = Field(
        1e-5, gt=0, lt=1, description="qk_norm: added to the mean square", json_schema_extra={"search": False}
    )
    qkv_bias: bool | None = Field(
        None, description="biases on the query, key and value projections; null follows model_args.bias"
    )
    softcap: float | None = Field(
        None, gt=0, description="keep scores within +-this by softcap * tanh(score / softcap) (arXiv:2408.00118)"
    )
    sinks: bool = Field(
        False, description="a learned score per head without a value, so that a head may look at nothing (gpt-oss)"
    )

    def kv_heads(self, dims: Dims) -> int:
        """Key/value heads."""
        return dims.n_head

    def value_size(self, dims: Dims) -> int:
        return self.kv_heads(dims) * dims.head_dim

    def problems(self, dims: Dims) -> Iterator[tuple[str, str]]:
        if self.qk_norm_over == "all_heads" and not self.qk_norm:
            yield "qk_norm_over", "all_heads does nothing without qk_norm: true; add it"


def shared_heads(n_kv_head: int, dims: Dims) -> Iterator[tuple[str, str]]:
    """What is wrong with so many key/value heads."""
    if dims.n_head % n_kv_head:
        divisors = [str(n) for n in range(1, dims.n_head + 1) if dims.n_head % n == 0]
        choices = " or ".join(filter(None, [", ".join(divisors[:-1]), divisors[-1]]))
        yield "n_kv_head", f"{n_kv_head} does not divide n_head {dims.n_head}; try {choices}"


class GQAParams(MHAParams):
    n_kv_head: int = Field(2, ge=1, description="key/value heads, each shared by n_head / n_kv_head query heads")

    def kv_heads(self, dims: Dims) -> int:
        return self.n_kv_head

    def problems(self, dims: Dims) -> Iterator[tuple[str, str]]:
        yield from super().problems(dims)
        yield from shared_heads(self.n_kv_head, dims)


VARIANTS = [
    Variant(
        slot="attention",
        name="mha",
        target="foundry.modules.attention.mha:MultiHeadAttention",
        params=MHAParams,
        summary="multi-head: every query head has a key/value head of its own",
        reference="arXiv:1706.03762",
    ),
    Variant(
        slot="attention",
        name="gqa",
        target="foundry.modules.attention.gqa:GroupedQueryAttention",
        params=GQAParams,
        summary="grouped-query: groups of query heads share a key/value head; a smaller cache",
        reference="arXiv:2305.13245",
    ),
]

SHORTHANDS = [
    Shorthand("attention", "mqa", {"type": "gqa", "n_kv_head": 1}, "multi-query: one key/value head for all"),
    *(
        Shorthand("attention", f"gqa_{n}kv", {"type": "gqa", "n_kv_head": n}, f"gqa with {n} key/value heads")
        for n in (1, 2, 4)
    ),
]
