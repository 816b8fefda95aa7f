"""Slot `attention`: how tokens exchange information. Built as `target(params, dims, position)`."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field

from foundry.core.contracts import AttentionParams, Dims, Edits, Mutation, Shorthand, Variant


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

    def implied(self, dims: Dims) -> Mapping[str, Any]:
        return {"n_kv_head": dims.n_head}

    def value_size(self, dims: Dims) -> int:
        return self.kv_heads(dims) * dims.head_dim

    def canon_size(self, dims: Dims) -> int:
        return (dims.n_head + 2 * self.kv_heads(dims)) * dims.head_dim

    def filled(self, dims: Dims) -> Self:
        return self.model_copy(update={"qkv_bias": dims.bias if self.qkv_bias is None else self.qkv_bias})

    def problems(self, dims: Dims) -> Iterator[tuple[str, str]]:
        if self.qk_norm_over == "all_heads" and not self.qk_norm:
            yield "qk_norm_over", "all_heads does nothing without qk_norm: true; add it"


def shared_heads(n_kv_head: int, dims: Dims) -> Iterator[tuple[str, str]]:
    """What is wrong with so many key/value heads."""
    if dims.n_head % n_kv_head:
        divisors = [str(n) for n in range(1, dims.n_head + 1) if dims.n_head % n == 0]
        choices = " or ".join(filter(None, [", ".join(divisors[:-1]), divisors[-1]]))
        yield "n_kv_head", f"{n_kv_head} does not divide n_head {dims.n_head}; try {choices}"


def resized_heads(n_kv_head: int, old: Dims, new: Dims) -> Mapping[str, Any]:
    """Key/value heads that are shared by as many query heads as before.

    Raises:
        ValueError: they would not be whole.
    """
    shared, rest = divmod(n_kv_head * new.n_head, old.n_head)
    if rest or shared < 1:
        raise ValueError(f"n_kv_head {n_kv_head} of {old.n_head} heads has no equivalent among {new.n_head}")
    return {} if shared == n_kv_head else {"n_kv_head": shared}


class GQAParams(MHAParams):
    aliases: ClassVar[Mapping[str, str]] = {"model_args.n_kv_head": "n_kv_head"}

    n_kv_head: int = Field(2, ge=1, description="key/value heads, each shared by n_head / n_kv_head query heads")

    def kv_heads(self, dims: Dims) -> int:
        return self.n_kv_head

    def resized(self, old: Dims, new: Dims) -> Mapping[str, Any]:
        return resized_heads(self.n_kv_head, old, new)

    def problems(self, dims: Dims) -> Iterator[tuple[str, str]]:
        yield from super().problems(dims)
        yield from shared_heads(self.n_kv_head, dims)


class WindowParams(AttentionParams):
    """What attentions with a window have in common."""

    window: int | None = Field(
        None,
        ge=1,
        le=16_777_216,
        description="tokens that a token sees, itself included; null: a quarter of block_size",
    )
    n_kv_head: int | None = Field(
        None, ge=1, description="key/value heads, each shared by n_head / n_kv_head query heads; null: n_head"
    )

    def window_size(self, dims: Dims) -> int:
        return self.window or max(1, dims.block_size // 4)

    def kv_heads(self, dims: Dims) -> int:
        return self.n_kv_head or dims.n_head

    def resized(self, old: Dims, new: Dims) -> Mapping[str, Any]:
        return {} if self.n_kv_head is None else resized_heads(self.n_kv_head, old, new)

    def filled(self, dims: Dims) -> Self:
        sizes = {"window": self.window_size(dims), "n_kv_head": self.kv_heads(dims)}
        return super().filled(dims).model_copy(update=sizes)

    def problems(self, dims: Dims) -> Iterator[tuple[str, str]]:
        yield from super().problems(dims)
        yield from shared_heads(self.kv_heads(dims), dims)

    def remarks(self, dims: Dims) -> Iterator[tuple[str, str]]:
        if (window := self.window_size(dims)) >= dims.block_size > 1:
            yield "window", f"{window} tokens cover a whole row (block_size {dims.block_size}): this is full attention"


class SlidingWindowParams(WindowParams, MHAParams):
    pass


class SparseParams(SlidingWindowParams):
    block: int = Field(16, ge=1, le=65_536, description="tokens of a block, which is seen as a whole")
    stride: int = Field(8, ge=2, le=65_536, description="of every N blocks, one is seen by all tokens after it")

    def window_size(self, dims: Dims) -> int:
        return self.window or max(1, dims.block_size // 4 // self.block) * self.block

    def problems(self, dims: Dims) -> Iterator[tuple[str, str]]:
        yield from super().problems(dims)
        if (window := self.window_size(dims)) % self.block:
            below = window // self.block * self.block
            tries = " or ".join(str(tokens) for tokens in (below, below + self.block) if tokens)
            yield "window", f"{window} is not a whole number of blocks of {self.block} tokens; try {tries}"


class NSAParams(WindowParams):
    """Defaults are for short rows; the paper's sizes stand beside them, and its window has 512 tokens."""

    positions = frozenset({"embeddings", "qk", "nothing"})
    scales_scores = True

    compression_block: int = Field(16, ge=1, le=65_536, description="tokens made into one key and value (paper: 32)")
    compression_stride: int = Field(8, ge=1, le=65_536, description="tokens between the starts of two such (paper: 16)")
    selection_block: int = Field(16, ge=1, le=65_536, description="tokens of a block that is chosen whole (paper: 64)")
    n_selected: int = Field(
        4,
        ge=3,
        le=65_536,
        description="blocks for each token, including the first, its own and the one before (paper: 16)",
    )

    def problems(self, dims: Dims) -> Iterator[tuple[str, str]]:
        yield from super().problems(dims)
        if self.compression_block > dims.block_size:
            yield "compression_block", f"{self.compression_block} is longer than block_size {dims.block_size}"
        for name in ("compression_block", "selection_block"):
            if (tokens := getattr(self, name)) % self.compression_stride:
                yield name, f"{tokens} is not a multiple of compression_stride {self.compression_stride}"


class MLASizes(NamedTuple):
    """`MLAParams` in a model of known sizes."""

    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int


class MLAParams(AttentionParams):
    """Where null, sizes are in DeepSeek-V2's proportions to a head: 4, 1, 1/2 and 1 of head_dim."""

    positions = frozenset({"embeddings", "qk", "nothing"})
    scales_scores = True

    q_lora_rank: int | None = Field(None, ge=1, le=65_536, description="rank of the queries; null: not compressed")
    kv_lora_rank: int | None = Field(
        None, ge=1, le=65_536, description="rank of keys and values together; null: 4 head_dim, at most n_embd / 2"
    )
    qk_nope_head_dim: int | None = Field(
        None, ge=1, le=65_536, description="width of a head's query and key without position; null: head_dim"
    )
    qk_rope_head_dim: int | None = Field(
        None,
        ge=2,
        le=65_536,
        description="width of the part with position; the heads share one key of it; null: head_dim / 2",
    )
    v_head_dim: int | None = Field(None, ge=1, le=65_536, description="width of a head's value; null: head_dim")
    norm_eps: float = Field(
        1e-6, gt=0, lt=1, description="added to the mean square of latents", json_schema_extra={"search": False}
    )

    def implied(self, dims: Dims) -> Mapping[str, Any]:
        return {"n_kv_head": dims.n_head}  # what is cached is one latent; each head makes its own keys of it

    def sizes(self, dims: Dims) -> MLASizes:
        return MLASizes(
            self.q_lora_rank,
            self.kv_lora_rank or max(1, min(4 * dims.head_dim, dims.n_embd // 2)),
            self.qk_nope_head_dim or dims.head_dim,
            self.qk_rope_head_dim or max(2, dims.head_dim // 4 * 2),
            self.v_head_dim or dims.head_dim,
        )

    def filled(self, dims: Dims) -> Self:
        return self.model_copy(update=self.sizes(dims)._asdict())

    def position_dims(self, dims: Dims) -> Dims:
        return replace(dims, head_dim=self.sizes(dims).qk_rope_head_dim)

    def problems(self, dims: Dims) -> Iterator[tuple[str, str]]:
        if (width := self.sizes(dims).qk_rope_head_dim) % 2:
            yield "qk_rope_head_dim", f"{width} is odd, and positions rotate pairs; try {width - 1} or {width + 1}"


def window_three_of_four(experiment: Mapping[str, Any], value: str) -> Edits:
    """`attention sssl`: the model's own attention in each fourth layer, and in the others a sliding window with those
    of its settings that it has too."""
    own = experiment["model_args"]["attention"]
    kept = {name: setting for name, setting in own.items() if name in SlidingWindowParams.model_fields}
    return {"layers.SSSL/S.attention": {"type": "sliding_window", **kept}}


VARIANTS = [
    Variant(
        slot="attention",
        name="mha",
        target="foundry.modules.attention.mha:MultiHeadAttention",
        params=MHAParams,
        summary="multi-head: every query head has a key/value head of its own",
        reference="arXiv:1706.03762",
        plain="foundry.modules.attention.plain:Attention",
    ),
    Variant(
        slot="attention",
        name="gqa",
        target="foundry.modules.attention.gqa:GroupedQueryAttention",
        params=GQAParams,
        summary="grouped-query: groups of query heads share a key/value head; a smaller cache",
        reference="arXiv:2305.13245",
        plain="foundry.modules.attention.plain:Attention",
    ),
    Variant(
        slot="attention",
        name="sliding_window",
        target="foundry.modules.attention.sliding_window:SlidingWindowAttention",
        params=SlidingWindowParams,
        summary="a token sees the last `window` tokens only, in time that follows the window",
        reference="arXiv:2310.06825",
        plain="foundry.modules.attention.plain:Attention",
    ),
    Variant(
        slot="attention",
        name="sparse",
        target="foundry.modules.attention.sparse:BlockSparseAttention",
        params=SparseParams,
        summary="block-strided: a window, and every stride-th block before it",
        reference="arXiv:1904.10509",
        plain="foundry.modules.attention.plain:Attention",
    ),
    Variant(
        slot="attention",
        name="mla",
        target="foundry.modules.attention.mla:MultiHeadLatentAttention",
        params=MLAParams,
        summary="multi-head latent: keys and values are made of one small vector per token; only that is cached",
        reference="arXiv:2412.19437",
        plain="foundry.modules.attention.plain:LatentAttention",
    ),
    Variant(
        slot="attention",
        name="nsa",
        target="foundry.modules.attention.nsa:NativeSparseAttention",
        params=NSAParams,
        summary="native sparse: compressed blocks, blocks chosen by them, and a window, gated; exact, not yet fast",
        reference="arXiv:2502.11089",
        plain="foundry.modules.attention.plain:NativeSparseAttention",
    ),
]

SHORTHANDS = [
    Shorthand("attention", "mqa", {"type": "gqa", "n_kv_head": 1}, "multi-query: one key/value head for all"),
    *(
        Shorthand(
            "attention", f"gqa_{n}kv", {"type": "gqa", "n_kv_head": n}, f"gqa with {n} key/value head{'s' * (n > 1)}"
        )
        for n in (1, 2, 4)
    ),
    *(
        Shorthand("attention", f"swa_{n}", {"type": "sliding_window", "window": n}, f"a sliding window of {n} tokens")
        for n in (64, 256, 1024)
    ),
]

MUTATIONS = [
    Mutation(
        "sssl",
        window_three_of_four,
        "a sliding window in three layers of four (https://github.com/karpathy/nanochat)",
        slot="attention",
    )
]
