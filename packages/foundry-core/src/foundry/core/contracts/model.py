"""The parts of a model, slot by slot: the base class of their params, and how they are built and called.

Parameter names are public: checkpoints, the zoo and LoRA use them. A module that owns parameters may also define

    init_parameter(name, tensor, generator) -> bool   fill `tensor` in place, or return False to leave it to the model
    roles: Mapping[str, Role]                         what they are, for optimizers and scale rules (see
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
    """The factors of a scale rule in the forward pass; 1 changes nothing."""

    scores: float = 1.0  # attention scores, beside the attention's own 1/sqrt(D)
    branch: float = 1.0  # what each sublayer adds to the residual stream
    logits: float = 1.0


UNSCALED = Multipliers()


@dataclass(frozen=True)
class Dims:
    """The sizes of the model around a variant, and the layer that it is built for."""

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
"""What a sublayer reports besides its output, by name. Figures of several layers with the same name are summed, so a
figure of one layer has the layer in its name. The end of a name says what it is:

    _loss    (B,), one number for each row; the training loss has their mean over the step, in which a row counts as
             often as it has supervised tokens, and so have the run's metrics
    _count   of any shape; summed over the micro-batches and ranks of an optimizer step, for `after_step`
    _load    (E,) int64, how often each of the layer's E experts was chosen; the metrics tell how evenly all of them are
             used (foundry.core.training.expert_load)

Anything else is only recorded, as losses are, too. A row's figure does not depend on the other rows, so the training
does not depend on how its batches are cut into micro-batches and ranks. A loss or figure that is a mean over tokens may
also be one 0-D number for all rows."""


class Cache(Protocol):
    """What one attention remembers of earlier tokens. `Attention.init_cache` makes it, and the attention's forward pass
    extends it."""

    length: int
    """How many tokens it holds, padding too. The model counts positions on from there."""

    @property
    def tensors(self) -> Sequence[Tensor]:
        """The storage, each (B, ...): its size over max_len is the KV bytes per token of a text that fills it."""


class Context(NamedTuple):
    """What a layer knows about its tokens besides their vectors. All None is the fast path: plain causal attention over
    whole rows, with no T x T mask."""

    # Of the rows, the same for all layers:
    positions: Tensor | None = None  # (B, T) int64; None: 0..T-1 in every row, or on from the cache
    segments: Tensor | None = None  # (B, T) int; attention stays within equal numbers
    key_padding: Tensor | None = None  # (B, S) bool, False = not a token: what attention leaves out
    is_token: Tensor | None = None  # (B, T) bool, False = not a token: what loads and statistics leave out
    ids: Tensor | None = None  # (B, T) int64: the tokens themselves, for tables with a row per token
    # Of one layer: its cache, and what its optional parts pass to its sublayers:
    cache: Any | None = None  # this layer's Cache
    value: Tensor | None = None  # (B, T, value_size): a value embedding, which the attention adds to its values
    mix: Callable[[Tensor], Tensor] | None = None  # (B, T, canon_size) -> the same: a canon layer inside a sublayer
    # In generation:
    plan: Any | None = None  # which kernels compute some layers, see `foundry.core.kernels`

    def sees(self, queries: Tensor, keys: Tensor) -> Tensor:
        """May a query see a key? Takes their places in the row, (T,) and (S,), and returns (B or 1, 1, T, S) bool. A
        token sees no later token, no other document and no padding, but always itself, so that no softmax is over
        nothing."""
        places = queries[:, None]
        seen = (keys <= places)[None]
        if self.segments is not None:
            seen = seen & (self.segments[:, queries, None] == self.segments[:, None, keys])
        if self.key_padding is not None:
            seen = seen & (self.key_padding[:, None, keys] | (keys == places))
        return seen[:, None]

    def planned(self, layer: Any) -> Any:
        """What to call instead of a layer, with the same arguments: the layer itself, if no kernel is planned for
        it."""
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
    """Base of every attention's params: `positions` says which kinds of position it supports, `scales_scores` whether
    it multiplies its scores by `dims.multipliers.scores`."""

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
        """The sizes that its position is built for: `head_dim` is the width of the q and k that it gives to
        `Position.rotate`."""
        return dims


class Attention(Protocol):
    """Slot `attention`; built as `target(params, dims, position)`. `position` is a `Position` that acts on q and k or
    on the scores, or None."""

    def __call__(self, x: Tensor, ctx: Context) -> tuple[Tensor, Aux]:
        """x (B, T, C) -> (B, T, C). A token sees no more than `ctx.sees` lets it see. With a cache, x holds the tokens
        after those in the cache, and the attention extends the cache in place."""

    def init_cache(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device | str) -> Cache: ...


class FeedForwardParams(Params):
    """Base of every feed-forward's params."""

    def canon_size(self, dims: Dims, gated: bool) -> int:
        """Width of what enters the activation, gate and up side by side, where the network sends it through
        `Context.mix`; 0: it does not, and a canon layer there is refused."""
        return 0

    def filled(self, dims: Dims, gated: bool = False) -> Self:
        """As `Params.filled`, for an activation that is gated or not."""
        return self


class FeedForward(Protocol):
    """Slot `ffn`; built as `target(params, dims, activation, gated)`, where `gated` is what the params of `activation`
    say: whether it is called with (gate, up)."""

    def __call__(self, x: Tensor, ctx: Context) -> tuple[Tensor, Aux]:
        """x (B, T, C) -> (B, T, C). A token's result does not depend on the other tokens."""


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
        """The initial value of a learned factor on the token embeddings. The model has this factor if the norm of its
        first layer returns a number. None: the norm brings embeddings of any size to one scale, so no factor is
        needed."""
        return None


class ResidualParams(Params):
    """Base of every residual's params."""

    has_post_norm: ClassVar[bool] = False
    """Whether each sublayer gets a second norm, `post_norm`."""


class Residual(Protocol):
    """Slot `residual`: how a sublayer and its norm join the residual stream; built as `target(params, dims)`, one for
    each sublayer. The norms belong to the block, so that their names do not depend on their placement."""

    def enter(self, x: Tensor, norm: nn.Module) -> Tensor:
        """The stream (B, T, C) -> what the sublayer reads."""

    def leave(self, x: Tensor, y: Tensor, norm: nn.Module, post_norm: nn.Module | None) -> Tensor:
        """The stream x and the sublayer's output y, both (B, T, C) -> the stream after it. In training, drops entries
        of y with probability `dims.dropout`; multiplies y by `dims.multipliers.branch`."""


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
        """The sublayer's input x (B, T, C) and the layer's context -> its new input and its own context: with `mix` if
        the canon mixes inside, and with the attention's part of the layer's cache."""

    def init_cache(self, attention: Cache, batch: int, dtype: torch.dtype, device: torch.device | str) -> Cache:
        """The layer's cache: the attention's cache, and the canon's own state."""


class ValueEmbedding(Protocol):
    """Slot `value_embedding`, with `OptionalParams`; built as `target(params, dims, size)`, size = the attention's
    `value_size`."""

    def __call__(self, x: Tensor, ids: Tensor) -> Tensor:
        """The attention's input x (B, T, C) and the tokens, ids (B, T) -> (B, T, size), added to the values."""


class Skip(Protocol):
    """Slot `skip`, with `OptionalParams`; built once for a model as `target(params, dims)`."""

    def __call__(self, x: Tensor, embedded: Tensor, layer: int) -> Tensor:
        """The stream before a layer and the input of the first layer, both (B, T, C) -> the input of this layer."""
