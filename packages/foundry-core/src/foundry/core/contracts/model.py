"""The parts of a model, slot by slot: what the base of their params says, how they are built and called.

Parameter names are public: checkpoints, the zoo and LoRA use them. A module that owns parameters may also define

    init_parameter(name, tensor, generator) -> bool   fill `tensor` in place, or return False to leave it to the model
    roles: Mapping[str, Role]                         what they are, which optimizers and scale rules ask (see
                                                      foundry.core.contracts.parameters): {"weight": "gain"}
    init_buffers() -> None                            fill the buffers: those that are not saved, and the first values
                                                      of those that are

(see foundry.core.model.init), and any module (see foundry.core.training.after_step)

    after_step(counts) -> None                        change saved buffers, once after each optimizer step, by what all
                                                      forward passes of the step counted; the same on every rank
    reads_whole_batch: bool                           its results depend on all rows of a step at once, which are then
                                                      never cut into micro-batches
    inactive_parameters: int                          how many of its parameters take no part in one token's result
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, Self, TypeAlias

from foundry.core.contracts.plugins import Params

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Multipliers(NamedTuple):
    """What a scale rule multiplies in the forward pass; 1 where it leaves the model alone."""

    scores: float = 1.0  # attention scores, beside the attention's own 1/sqrt(D)
    branch: float = 1.0  # what each sublayer adds to the residual stream
    logits: float = 1.0


UNSCALED = Multipliers()


@dataclass(frozen=True)
class Dims:
    """The sizes of the model around a variant, and the layer it is built for."""

    n_layer: int
    n_head: int
    n_embd: int
    head_dim: int
    block_size: int
    vocab_size: int = 0  # 0 until the tokenizer is known
    dropout: float = 0.0
    bias: bool = False
    layer: int = 0
    multipliers: Multipliers = UNSCALED

    @property
    def residual_std(self) -> float:
        """Initial standard deviation of matrices that write into the residual stream, which sums 2 n_layer of their
        products (GPT-2)."""
        return 0.02 / math.sqrt(2 * self.n_layer)


Aux: TypeAlias = "Mapping[str, Tensor]"
"""What a sublayer reports beside its output, by name. Layers that report the same name are summed, so what is a layer's
own has the layer in its name. The end of a name says what it is:

    _loss    (B,), one number for each row; the training loss has their mean over the step, in which a row counts as
             often as it has supervised tokens, and so have the run's metrics
    _count   of any shape; summed over the micro-batches and ranks of an optimizer step, for `after_step`
    _load    (E,) int64, how often each of the layer's E experts was chosen; the metrics tell how evenly all of them are
             used (foundry.core.training.expert_load)

Anything else is only recorded, as losses are. What is said of each row does not depend on the rows beside it, and so
the training not on how its batches are cut into micro-batches and ranks. Of a loss or a figure that is a mean over
tokens, such as of a penalty on each, one 0-D number for all rows is as good."""


class Cache(Protocol):
    """What one attention remembers of the tokens before. It makes its own, `Attention.init_cache`, and its own forward
    pass extends it."""

    length: int
    """How many tokens it holds, padding too. The model reads it, and counts positions on from there."""

    @property
    def tensors(self) -> Sequence[Tensor]:
        """The storage, each (B, ...): its size over max_len is the KV bytes per token of a text that fills it."""


class Context(NamedTuple):
    """What a layer knows about its tokens beside their vectors. All None is the fast path: plain causal attention
    over whole rows, with no T x T mask."""

    # Of the rows, for all layers the same:
    positions: Tensor | None = None  # (B, T) int64; None: 0..T-1 in every row, or on from the cache
    segments: Tensor | None = None  # (B, T) int; attention stays within equal numbers
    key_padding: Tensor | None = None  # (B, S) bool, False = not a token: what attention leaves out
    is_token: Tensor | None = None  # (B, T) bool, False = not a token: what loads and statistics leave out
    ids: Tensor | None = None  # (B, T) int64: the tokens themselves, for tables with a row per token
    # Of one layer, and what optional parts of it hand to its sublayers:
    cache: Any | None = None  # this layer's Cache
    value: Tensor | None = None  # (B, T, value_size): a value embedding, which the attention adds to its values
    mix: Callable[[Tensor], Tensor] | None = None  # (B, T, canon_size) -> the same: a canon layer inside a sublayer
    # Of a text that is being written:
    plan: Any | None = None  # what computes some layers instead of themselves, see `foundry.core.kernels`

    def sees(self, queries: Tensor, keys: Tensor) -> Tensor:
        """May a query see a key: by their places in the row, (T,) and (S,) -> (B or 1, 1, T, S) bool. Nothing that
        follows it, no other document, no padding; itself always, so that no softmax runs over nothing."""
        places = queries[:, None]
        seen = (keys <= places)[None]
        if self.segments is not None:
            seen = seen & (self.segments[:, queries, None] == self.segments[:, None, keys])
        if self.key_padding is not None:
            seen = seen & (self.key_padding[:, None, keys] | (keys == places))
        return seen[:, None]

    def planned(self, layer: Any) -> Any:
        """What to call instead of a layer, as the layer is called: the layer, where nothing else is planned."""
        return layer if self.plan is None else self.plan.of(layer)


class OptionalParams(Params):
    """Base of the params of a part that a layer may go without."""

    def has_part(self, dims: Dims) -> bool:
        """Whether the layer `dims.layer` gets one. `NoParams` says that none does."""
        return True


class NoParams(OptionalParams):
    """The variant `none` of an optional part. Nothing is built for it."""

    def has_part(self, dims: Dims) -> bool:
        return False


ActsOn: TypeAlias = Literal["embeddings", "qk", "scores", "nothing"]


class AttentionParams(Params):
    """Base of every attention's params: `positions` says which kinds of position it composes with, `scales_scores`
    whether it multiplies its scores by `dims.multipliers.scores`."""

    positions: ClassVar[frozenset[ActsOn]] = frozenset({"embeddings", "qk", "scores", "nothing"})
    scales_scores: ClassVar[bool] = False

    def canon_size(self, dims: Dims) -> int:
        """Width of a token's projections, side by side, where the attention sends them through `Context.mix` before
        norms and positions act on them; 0: it does not, and a canon layer there is refused."""
        return 0

    def value_size(self, dims: Dims) -> int:
        """Width of a token's values, all key/value heads together, where the attention adds `Context.value` to them
        before it caches them; 0: it has no place for that, and a value embedding is refused."""
        return 0

    def position_dims(self, dims: Dims) -> Dims:
        """The sizes that its position is built for: `head_dim` is the width of what it gives to `Position.rotate`."""
        return dims


class Attention(Protocol):
    """Slot `attention`; built as `target(params, dims, position)`. `position` is a `Position` that acts on q and k or
    on the scores, or None."""

    def __call__(self, x: Tensor, ctx: Context) -> tuple[Tensor, Aux]:
        """x (B, T, C) -> (B, T, C). A token sees no more than `ctx.sees` lets it see. With a cache, x is what follows
        the cache's content, and the attention extends the cache in place."""

    def init_cache(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device | str) -> Cache: ...


class FeedForwardParams(Params):
    """Base of every feed-forward's params."""

    def canon_size(self, dims: Dims, gated: bool) -> int:
        """Width of what enters the activation, gate and up side by side, where the network sends it through
        `Context.mix`; 0: it does not, and a canon layer there is refused."""
        return 0

    def filled(self, dims: Dims, gated: bool = False) -> Self:
        """As `Params.filled`, beside an activation that is gated or not."""
        return self


class FeedForward(Protocol):
    """Slot `ffn`; built as `target(params, dims, activation, gated)`, where `gated` is what the params of `activation`
    say: whether it is called with (gate, up)."""

    def __call__(self, x: Tensor, ctx: Context) -> tuple[Tensor, Aux]:
        """x (B, T, C) -> (B, T, C), each position by itself."""


class ActivationParams(Params):
    """Base of every activation's params. A gated one is called with (gate, up), a plain one with (up)."""

    gated: ClassVar[bool] = False


class PositionParams(Params):
    """Base of every position's params: `acts_on` says which method of `Position` the variant implements."""

    acts_on: ClassVar[ActsOn] = "nothing"


class Position(Protocol):
    """Slot `position`; built as `target(params, dims)`. It implements the one method that its `acts_on` names."""

    def embed(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """acts_on embeddings: token embeddings (B, T, C) -> with their positions added."""

    def rotate(self, q: Tensor, k: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor]:
        """acts_on qk: q (B, H, T, D), k (B, H_kv, T, D) -> the same with positions in them."""

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """acts_on scores: (B, T), (B, S) -> (B, H, T, S), to be added to the attention scores."""


class NormParams(Params):
    """Base of every norm's params."""

    def embedding_scale(self, dims: Dims) -> float | None:
        """What a learned factor on the token embeddings starts at, which the model has if the first layer's norm says
        so. None: it has none, as where norms bring embeddings of any size to one scale."""
        return None


class ResidualParams(Params):
    """Base of every residual's params."""

    has_post_norm: ClassVar[bool] = False
    """Whether each sublayer gets a second norm, `post_norm`."""


class Residual(Protocol):
    """Slot `residual`: how a sublayer and its norm join the residual stream; built as `target(params, dims)`, one for
    each sublayer. The norms are the block's, so that their names do not depend on the placement."""

    def enter(self, x: Tensor, norm: nn.Module) -> Tensor:
        """The stream (B, T, C) -> what the sublayer reads."""

    def leave(self, x: Tensor, y: Tensor, norm: nn.Module, post_norm: nn.Module | None) -> Tensor:
        """The stream x and what the sublayer made of it, y, both (B, T, C) -> the stream after it. Drops activations
        of y with probability `dims.dropout` in training, and adds `dims.multipliers.branch` times what is left."""


Sublayer: TypeAlias = Literal["attention", "ffn"]


class CanonParams(OptionalParams):
    """Base of every canon's params."""

    def inside(self) -> frozenset[Sublayer]:
        """The sublayers that it mixes inside, by `Context.mix`."""
        return frozenset()


class Canon(Protocol):
    """Slot `canon`, with `CanonParams`: mixes a token with those just before it; built as
    `target(params, dims, sizes)`, sizes = the `canon_size` of each sublayer."""

    def enter(self, sublayer: Sublayer, x: Tensor, ctx: Context) -> tuple[Tensor, Context]:
        """What the sublayer would read, x (B, T, C), and the layer's context -> what it reads, and its own context:
        with `mix` where it mixes inside, and with the attention's part of the layer's cache."""

    def init_cache(self, attention: Cache, batch: int, dtype: torch.dtype, device: torch.device | str) -> Cache:
        """The layer's cache: what it remembers itself beside the attention's cache."""


class ValueEmbedding(Protocol):
    """Slot `value_embedding`, with `OptionalParams`; built as `target(params, dims, size)`, size = the attention's
    `value_size`."""

    def __call__(self, x: Tensor, ids: Tensor) -> Tensor:
        """What the attention reads, x (B, T, C), and its tokens, ids (B, T) -> (B, T, size), added to the values."""


class Skip(Protocol):
    """Slot `skip`, with `OptionalParams`; built once for a model as `target(params, dims)`."""

    def __call__(self, x: Tensor, embedded: Tensor, layer: int) -> Tensor:
        """The stream before a layer and the embeddings that the first layer got, both (B, T, C) -> what this layer
        gets."""
