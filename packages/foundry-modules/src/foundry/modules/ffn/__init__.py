"""Slot `ffn`: what a layer does to each token by itself. Built as `target(params, dims, activation, gated)`."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

from pydantic import Field

from foundry.core.contracts import Dims, FeedForwardParams, Shorthand, Variant


def resized_hidden(hidden: int | None, old: Dims, new: Dims) -> Mapping[str, Any]:
    """A hidden width of one's own in proportion to n_embd, rounded: what fast matrix products like in it, a factor of
    8, 4 or 2, stays."""
    if hidden is None or new.n_embd == old.n_embd:
        return {}
    unit = math.gcd(hidden, 8)
    return {"hidden": max(1, round(hidden * new.n_embd / old.n_embd / unit)) * unit}


class DenseParams(FeedForwardParams):
    hidden: int | None = Field(
        None,
        ge=1,
        description="hidden width; null: 4 n_embd, or 8/3 n_embd (rounded up to a multiple of 8) when the activation "
        "is gated, for about equal parameters",
    )

    def resized(self, old: Dims, new: Dims) -> Mapping[str, Any]:
        return resized_hidden(self.hidden, old, new)

    def width(self, dims: Dims, gated: bool) -> int:
        """Of the hidden layer."""
        return self.hidden or default_hidden(dims.n_embd, gated)

    def canon_size(self, dims: Dims, gated: bool) -> int:
        return (2 if gated else 1) * self.width(dims, gated)

    def filled(self, dims: Dims, gated: bool = False) -> Self:
        return self.model_copy(update={"hidden": self.width(dims, gated)})


def default_hidden(n_embd: int, gated: bool) -> int:
    """Two matrices of width 4 C, or three of 8/3 C: about equal parameters."""
    return 8 * math.ceil(n_embd / 3) if gated else 4 * n_embd


class MoEParams(FeedForwardParams):
    n_experts: int = Field(8, ge=2, le=65_536, description="routed experts, each a small dense network")
    top_k: int = Field(2, ge=1, description="routed experts that each token uses")
    n_shared_experts: int = Field(0, ge=0, description="experts that every token uses, joined to one wider network")
    hidden: int | None = Field(
        None,
        ge=8,
        multiple_of=8,
        description="hidden width of one expert; null: the default of `dense` divided by the experts that a token "
        "uses, for as many active parameters",
    )
    scoring: Literal["softmax", "sigmoid"] = Field("softmax", description="how a router's logits become scores")
    normalize_top_k: bool = Field(True, description="the scores of a token's experts are made to add up to 1")
    routed_scaling_factor: float = Field(1.0, gt=0, description="on the sum of the routed experts")
    n_groups: int = Field(1, ge=1, description="groups of neighbouring experts; a group's score is that of its best 2")
    top_k_groups: int = Field(1, ge=1, description="groups among which a token chooses its experts")
    aux_loss: float = Field(0.01, ge=0, description="weight of each row's load-balancing loss, per layer; 0 = none")
    bias_update_rate: float | None = Field(
        None,
        ge=0,
        description="balance without a loss: how far a bias on each expert's score, used to choose only, moves after a "
        "step against its load; 0 = the biases stay, null = there are none",
    )

    def resized(self, old: Dims, new: Dims) -> Mapping[str, Any]:
        return resized_hidden(self.hidden, old, new)

    def width(self, dims: Dims, gated: bool) -> int:
        """Of the hidden layer of one expert."""
        active = self.top_k + self.n_shared_experts
        return self.hidden or 8 * math.ceil(default_hidden(dims.n_embd, gated) / (8 * active))

    def filled(self, dims: Dims, gated: bool = False) -> Self:
        return self.model_copy(update={"hidden": self.width(dims, gated)})

    def problems(self, dims: Dims) -> Iterator[tuple[str, str]]:
        if dims.n_embd % 8:
            below = dims.n_embd // 8 * 8
            tries = f"{below} or {below + 8}" if below else "8"
            yield "type", f"its matrix products need an n_embd that 8 divides, and {dims.n_embd} is none; try {tries}"
        if self.top_k > self.n_experts:
            yield "top_k", f"{self.top_k} is more than n_experts {self.n_experts}"
        if self.top_k == 1 and self.normalize_top_k:
            yield "normalize_top_k", "with top_k 1 every weight is 1, and the router cannot learn; set it to false"
        if self.n_experts % self.n_groups:
            yield "n_groups", f"{self.n_groups} does not divide n_experts {self.n_experts}"
        elif self.n_groups > 1 and self.n_experts == self.n_groups:
            yield "n_groups", f"{self.n_groups} groups of n_experts {self.n_experts} hold one each; a group needs 2"
        if self.top_k_groups > self.n_groups:
            yield "top_k_groups", f"{self.top_k_groups} is more than n_groups {self.n_groups}"
        elif self.n_groups > 1 and self.top_k > (offered := self.n_experts // self.n_groups * self.top_k_groups):
            yield "top_k", f"{self.top_k} is more than the {offered} experts of {self.top_k_groups} groups"


class PEERParams(FeedForwardParams):
    n_experts: int = Field(
        16_384, ge=4, description="N, experts in the pool: a number of keys to the power of product_dims"
    )
    product_dims: int = Field(2, ge=2, le=8, description="parts of a key; an expert's key is one sub-key from each")
    heads: int = Field(4, ge=1, description="queries per token, all of one pool and one set of keys")
    top_k: int = Field(16, ge=1, description="experts that each query retrieves")
    key_dim: int = Field(64, ge=2, description="width of a query and of a whole key")
    expert_width: int = Field(1, ge=1, description="hidden neurons of one expert")
    query_norm: Literal["rmsnorm", "batchnorm", "none"] = Field(
        "rmsnorm",
        description="of queries; batchnorm, the paper's, uses statistics of the whole batch in training, so that a "
        "token then depends on all others, and micro_batch must be auto",
    )
    scoring: Literal["softmax", "sigmoid"] = Field(
        "softmax", description="how the scores of a query's experts become weights"
    )
    sparse_gradients: bool | None = Field(
        None,
        description="gradients and updates of the retrieved rows only, by Adam without weight decay; null: from 65,536 "
        "experts on",
    )

    @property
    def n_keys(self) -> int:
        """The whole number nearest to the root of n_experts: sub-keys in each part."""
        return max(2, round(self.n_experts ** (1 / self.product_dims)))

    def problems(self, dims: Dims) -> Iterator[tuple[str, str]]:
        d, n = self.product_dims, self.n_keys
        if n**d != self.n_experts:
            sizes = sorted({size**d for size in (n - 1, n, n + 1) if size >= 2}, key=lambda s: abs(s - self.n_experts))
            tries = " or ".join(f"{size:,}".replace(",", "_") for size in sorted(sizes[:2]))
            yield "n_experts", f"{self.n_experts} is not a whole number to the power of product_dims {d}; try {tries}"
        if self.top_k > self.n_experts:
            yield "top_k", f"{self.top_k} is more than n_experts {self.n_experts}"
        if self.key_dim % d:
            yield "key_dim", f"{self.key_dim} is not a multiple of product_dims {d}; try {-(-self.key_dim // d) * d}"


VARIANTS = [
    Variant(
        slot="ffn",
        name="dense",
        target="foundry.modules.ffn.dense:Dense",
        params=DenseParams,
        summary="one hidden layer, gated if the activation is",
        reference="arXiv:1706.03762, arXiv:2002.05202",
        plain="foundry.modules.ffn.plain:dense",
    ),
    Variant(
        slot="ffn",
        name="moe",
        target="foundry.modules.ffn.moe:MixtureOfExperts",
        params=MoEParams,
        summary="mixture of experts: each token uses top_k of n_experts dense networks; none is dropped",
        reference="arXiv:2401.04088, arXiv:2412.19437",
        plain="foundry.modules.ffn.plain:MixtureOfExperts",
    ),
    Variant(
        slot="ffn",
        name="peer",
        target="foundry.modules.ffn.peer:PEER",
        params=PEERParams,
        summary="parameter-efficient expert retrieval: tiny experts by the thousand, found by product keys",
        reference="arXiv:2407.04153",
        plain="foundry.modules.ffn.plain:PEER",
    ),
]

SHORTHANDS = [
    Shorthand("ffn", "moe_8x2", {"type": "moe", "n_experts": 8, "top_k": 2}, "8 experts, 2 per token, as Mixtral"),
    Shorthand(
        "ffn",
        "moe_16x4",
        {"type": "moe", "n_experts": 16, "top_k": 4},
        "16 experts half as wide, 4 per token",
    ),
    Shorthand(
        "ffn",
        "moe_deepseek",
        {
            "type": "moe",
            "n_experts": 16,
            "top_k": 3,
            "n_shared_experts": 1,
            "scoring": "sigmoid",
            "aux_loss": 0.0,
            "bias_update_rate": 0.001,
        },
        "a shared expert and 3 of 16, balanced by biases and no loss, as DeepSeek-V3",
    ),
    Shorthand("ffn", "peer_64k", {"type": "peer", "n_experts": 65_536}, "peer with 65,536 experts"),
]
