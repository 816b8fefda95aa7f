"""Slot `attention`: how tokens exchange information. Built as `target(params, dims, position)`."""

from collections.abc import Iterator

from pydantic import Field

from foundry.core.contracts import AttentionParams, Dims, Shorthand, Variant


class MHAParams(AttentionParams):
    qk_norm: bool = Field(False, description="RMS-normalise each head's query and key before positions act on them")
    qkv_bias: bool | None = Field(
        None, description="biases on the query, key and value projections; null follows model_args.bias"
    )


class GQAParams(MHAParams):
    n_kv_head: int = Field(2, ge=1, description="key/value heads, each shared by n_head / n_kv_head query heads")

    def problems(self, dims: Dims) -> Iterator[tuple[str, str]]:
        if dims.n_head % self.n_kv_head:
            divisors = [str(n) for n in range(1, dims.n_head + 1) if dims.n_head % n == 0]
            choices = " or ".join(filter(None, [", ".join(divisors[:-1]), divisors[-1]]))
            yield "n_kv_head", f"{self.n_kv_head} does not divide n_head {dims.n_head}; try {choices}"


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
