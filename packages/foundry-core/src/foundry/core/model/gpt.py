"""A decoder-only transformer, assembled from slots.

    ids -> embed (+ position) -> [x + attention(norm(x)); x + ffn(norm(x))] * n_layer -> norm -> head -> logits

What each of them is, and where the norms stand (residual; here it is `pre`), is chosen layer by layer (`ModelSpec`);
this file only wires them. A layer may have more, and by default has none of it:

    skip              before the layer, mixes the embeddings into the stream again
    canon             before and inside attention and ffn, mixes a token with those just before it
    value_embedding   adds a second embedding of the token to the attention's values

Shapes: B rows, T tokens, S keys (cache length + T), C = n_embd, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from foundry.core.blame import answers_for
from foundry.core.contracts import DECAYING, Aux, Cache, Context, Dims, OptionalParams, Role, Update, role_of
from foundry.core.model.head import Head, TiedHead
from foundry.core.model.init import normal_, uninitialised
from foundry.core.model.scale import Scale

if TYPE_CHECKING:
    from foundry.core.config import LayerSpec, ModelSpec

Build: TypeAlias = Callable[..., Any]
"""How a choice becomes a module: `build(slot, params, *args)`, as `Registry.build` does it; `args` are those that the
slot's contract names."""


Reader: TypeAlias = Callable[[Tensor, Head, Aux], Any]
"""What is made of a forward pass: `read(hidden, head, aux)`, with the normed residual stream (B, T, C), the head, which
makes logits (..., V) of it, and the sum over layers of what they report."""


def logits(hidden: Tensor, head: Head, aux: Aux) -> Tensor:
    """Of every position, (B, T, V)."""
    return head(hidden)


def last_logits(hidden: Tensor, head: Head, aux: Aux) -> Tensor:
    """What is said of the token that follows the last, (B, V); the others' logits are not made."""
    return head(hidden[:, -1])


class Block(nn.Module):
    """One layer: attention, then a feed-forward, each joined to the residual stream."""

    def __init__(self, spec: LayerSpec, build: Build, dims: Dims, positions: dict[object, nn.Module]) -> None:
        super().__init__()
        position = _shared_position(spec, build, dims, positions)

        def norm() -> nn.Module:
            made: nn.Module = build("norm", spec.norm, dims, dims.n_embd)
            return made

        self.attention_norm = norm()
        self.attention = build("attention", spec.attention, dims, position)
        value_size = spec.attention.value_size(dims)
        self.value_embedding = _optional(build, "value_embedding", spec.value_embedding, dims, value_size)
        self.attention_post_norm = norm() if spec.residual.has_post_norm else None
        self.attention_residual = build("residual", spec.residual, dims)
        self.ffn_norm = norm()
        self.ffn = build("ffn", spec.ffn, dims, build("activation", spec.activation, dims), spec.activation.gated)
        self.ffn_post_norm = norm() if spec.residual.has_post_norm else None
        self.ffn_residual = build("residual", spec.residual, dims)
        self.canon = _optional(build, "canon", spec.canon, dims, spec.canon_sizes(dims))

    def forward(self, x: Tensor, ctx: Context) -> tuple[Tensor, Aux]:
        """x (B, T, C) -> (B, T, C), and what the sublayers report."""
        y, attention_aux = self._attend(self.attention_residual.enter(x, self.attention_norm), ctx)
        x = self.attention_residual.leave(x, y, self.attention_norm, self.attention_post_norm)
        y, ffn_aux = self._feed_forward(self.ffn_residual.enter(x, self.ffn_norm), ctx)
        x = self.ffn_residual.leave(x, y, self.ffn_norm, self.ffn_post_norm)
        return x, _add_aux(dict(attention_aux), ffn_aux)

    def init_cache(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> Cache:
        with answers_for(self.attention):
            cache: Cache = self.attention.init_cache(batch, max_len, dtype, device)
        return cache if self.canon is None else self.canon.init_cache(cache, batch, dtype, device)

    def _attend(self, x: Tensor, ctx: Context) -> tuple[Tensor, Aux]:
        if self.canon is not None:
            x, ctx = self.canon.enter("attention", x, ctx)
        if self.value_embedding is not None:
            ctx = ctx._replace(value=self.value_embedding(x, ctx.ids))
        return ctx.planned(self.attention)(x, ctx)

    def _feed_forward(self, x: Tensor, ctx: Context) -> tuple[Tensor, Aux]:
        if self.canon is not None:
            x, ctx = self.canon.enter("ffn", x, ctx)
        return ctx.planned(self.ffn)(x, ctx)


class GPT(nn.Module):
    """The whole model. Its weights are undefined until `foundry.core.model.initialize` or a checkpoint fills them.

    Args:
        spec: the sizes, and what fills each slot of each layer.
        build: makes a module of a choice.
    """

    roles: ClassVar[Mapping[str, Role]] = {"embed_scale": "gain"}

    @uninitialised()
    def __init__(self, spec: ModelSpec, build: Build) -> None:
        super().__init__()

        def as_wide_as(n_embd: int) -> GPT:
            with torch.device("meta"):
                return GPT(spec.as_wide_as(n_embd), build)

        self.spec = spec
        self.scale = Scale(spec.scaling, spec.dims, build, as_wide_as)
        self.dims = replace(spec.dims, multipliers=self.scale.multipliers)
        self.gradient_checkpointing = False  # whether layers are computed again in the backward pass
        vocab_size, n_embd = spec.dims.vocab_size, spec.dims.n_embd
        self.embed = nn.Embedding(vocab_size, n_embd)
        # The first layer's norm reads the embeddings.
        self._embedding_scale: Any = spec.layers[0].norm.embedding_scale(self.dims)
        self.embed_scale = None if self._embedding_scale is None else nn.Parameter(torch.empty(1))
        self.position = None
        if spec.position.acts_on == "embeddings":
            self.position = build("position", spec.position, self.dims)
        self.dropout = nn.Dropout(spec.dims.dropout)
        self.skip = _optional(build, "skip", spec.skip, self.dims)
        shared: dict[object, nn.Module] = {}
        self.blocks = nn.ModuleList(
            Block(layer, build, replace(self.dims, layer=number), shared) for number, layer in enumerate(spec.layers)
        )
        self.norm = build("norm", spec.norm, self.dims, n_embd)
        if spec.tie_embeddings:
            self.head: Head = TiedHead(self.embed, spec.logit_softcap)
        else:
            self.head = Head(n_embd, vocab_size, spec.logit_softcap)

    def forward(
        self,
        ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        is_token: Tensor | None = None,
        cache: list[Cache] | None = None,
        read: Reader = logits,
        plan: Any | None = None,
    ) -> tuple[Any, list[Cache] | None]:
        """Logits for every position, or what else `read` makes of them, and the cache, extended in place.

        Whatever is computed with the weights is computed in here, the head and a loss too: what wraps a model, to share
        its gradients or its weights among ranks, sees nothing else.

        Args:
            ids: (B, T) int64. With a cache, the tokens that follow its content.
            attention_mask: (B or 1, S), 0 or False = not a token (padding on either side). Positions then count only
                tokens, unless they are given.
            positions: (B, T) int64; by default 0..T-1, or on from the cache.
            segments: (B, T) int; tokens attend only within their segment.
            is_token: (B, T) bool, False = not a token, for what counts tokens and not for attention; by default what
                `attention_mask` says.
            cache: from `init_cache`.
            read: what to make of the hidden states.
            plan: how layers decode, see `next_logits`.

        Returns:
            what `read` returns, by default logits (B, T, V), and cache.
        """
        ctx = _context(ids, attention_mask, positions, segments, is_token)._replace(plan=plan)
        hidden, aux = self._hidden(ids, ctx, cache)
        return read(hidden, self.head, aux), cache

    def next_logits(
        self, ids: Tensor, cache: list[Cache], attention_mask: Tensor | None = None, plan: Any | None = None
    ) -> Tensor:
        """What `forward` says of the token that follows the last of `ids`, (B, V); the others' logits are not made.

        Args:
            plan: from `foundry.core.kernels.plan_decoding`, for as long as a text is written.
        """
        with plan or nullcontext():
            said: Tensor = self(ids, attention_mask=attention_mask, cache=cache, read=last_logits, plan=plan)[0]
        return said

    def _hidden(self, ids: Tensor, ctx: Context, cache: list[Cache] | None) -> tuple[Tensor, Aux]:
        """The normed residual stream (B, T, C) as the head reads it, and the sum over layers of what they report."""
        if cache is not None and ctx.positions is None:
            filled, n_new = cache[0].length, ids.shape[1]
            ctx = ctx._replace(positions=torch.arange(filled, filled + n_new, device=ids.device).expand(ids.shape))
        x = self.embed(ids)
        if self.embed_scale is not None:
            x = x * self.embed_scale
        if self.position is not None:
            x = self.position.embed(x, ctx.positions)
        x = embedded = self.dropout(x) if self.training else x
        ctx = ctx._replace(ids=ids)
        total: dict[str, Tensor] = {}
        for i, block in enumerate(self.blocks):
            if self.skip is not None:
                x = self.skip(x, embedded, i)
            layer_ctx = ctx if cache is None else ctx._replace(cache=cache[i])
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x, aux = checkpoint(block, x, layer_ctx, use_reentrant=False)
            else:
                x, aux = block(x, layer_ctx)
            _add_aux(total, aux)
        x, multiplier = self.norm(x), self.dims.multipliers.logits
        return (x if multiplier == 1 else x * multiplier), total

    def init_cache(self, batch: int, max_len: int | None = None) -> list[Cache]:
        """An empty cache for `batch` sequences of up to `max_len` (default block_size) tokens."""
        max_len, weight = max_len or self.dims.block_size, self.embed.weight
        blocks: list[Any] = [*self.blocks]
        return [block.init_cache(batch, max_len, weight.dtype, weight.device) for block in blocks]

    def init_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> bool:
        """GPT-2's initialisation, for every parameter that its own module leaves to the model: normal with standard
        deviation 0.02, but gains 1 and biases 0."""
        match role_of(self, name):
            case "gain":
                tensor.fill_(self._embedding_scale if name == "embed_scale" else 1.0)
            case "bias":
                tensor.zero_()
            case role if role in DECAYING:
                normal_(tensor, 0.02, generator)
            case _:
                return False
        return True

    def lr_factor(self, name: str, update: Update) -> float:
        """What the scale rule multiplies the learning rate of a parameter with, see `contracts.lr_factors`."""
        return self.scale.lr_factor(name, update)


def _optional(build: Build, slot: str, choice: OptionalParams, dims: Dims, *sizes: Any) -> Any:
    """What fills a slot that a layer may go without: a module, or None."""
    return build(slot, choice, dims, *sizes) if choice.has_part(dims) else None


def _shared_position(spec: LayerSpec, build: Build, dims: Dims, made: dict[object, nn.Module]) -> nn.Module | None:
    """What a layer's attention calls: one module for each distinct choice, so that all layers share its tables."""
    if spec.position.acts_on not in ("qk", "scores"):
        return None
    sizes = spec.attention.position_dims(dims)
    choice = spec.position, sizes.head_dim
    if choice not in made:
        made[choice] = build("position", spec.position, sizes)
    return made[choice]


def _context(
    ids: Tensor,
    attention_mask: Tensor | None,
    positions: Tensor | None,
    segments: Tensor | None,
    is_token: Tensor | None,
) -> Context:
    """The arguments of `GPT.forward` as layers read them. Positions are a tensor of this pass alone, by which layers
    may know what another one has already computed from it."""
    key_padding = None if attention_mask is None else attention_mask.bool().expand(len(ids), -1)
    if positions is not None:
        positions = positions.view_as(positions)
    elif key_padding is not None:
        positions = (key_padding.long().cumsum(-1) - 1).clamp_min(0)[:, -ids.shape[1] :]
    if is_token is None and key_padding is not None:
        is_token = key_padding[:, -ids.shape[1] :]
    return Context(positions, segments, key_padding, is_token)


def _add_aux(total: dict[str, Tensor], aux: Aux) -> dict[str, Tensor]:
    for name, value in aux.items():
        total[name] = total[name] + value if name in total else value
    return total
