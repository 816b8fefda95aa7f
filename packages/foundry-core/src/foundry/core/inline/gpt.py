"""The plain text of the model that wires the slots, as `foundry.core.model.gpt` does: see
`foundry.core.contracts.plain_text` for how it is read. Beside its names these are known here:

    model           the `ModelSpec`
    reads_ids       whether any layer looks up tokens
    one_kind        whether all layers are of one kind
    embed_scale     whether there is a factor on the embeddings
    kinds           the classes of all layers, where they differ
"""

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundry.core.contracts.plain_text import Config, dims, only, slots, spec

model: Any = None
reads_ids = one_kind = embed_scale = False
kinds: Any = ()


class PlainBlock(nn.Module):
    """One layer: attention, then a feed-forward, each joined to the residual stream."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = slots.norm(config.n_embd)
        self.attention = slots.attention(config)
        if spec.value_embedding.has_part(dims):
            self.value_embedding = slots.value_embedding(config)
        if spec.residual.has_post_norm:
            self.attention_post_norm = slots.norm(config.n_embd)
        self.ffn_norm = slots.norm(config.n_embd)
        self.ffn = slots.ffn(config)
        if spec.residual.has_post_norm:
            self.ffn_post_norm = slots.norm(config.n_embd)
        if spec.canon.has_part(dims):
            self.canon = slots.canon(config)
        if dims.dropout:
            self.dropout = nn.Dropout(dims.dropout)

    def forward(self, x: Tensor, ids: Annotated[Tensor, only(reads_ids)]) -> Tensor:
        if spec.canon.has_part(dims) or spec.value_embedding.has_part(dims):
            x = slots.residual(
                x,
                lambda y: self.attend(y, ids=only(spec.value_embedding.has_part(dims), ids)),
                self.attention_norm,
                self.attention_post_norm,
                self.dropout,
            )
        else:
            x = slots.residual(
                x, lambda y: self.attention(y), self.attention_norm, self.attention_post_norm, self.dropout
            )
        if spec.canon.has_part(dims):
            x = slots.residual(x, lambda y: self.feed_forward(y), self.ffn_norm, self.ffn_post_norm, self.dropout)
        else:
            x = slots.residual(x, lambda y: self.ffn(y), self.ffn_norm, self.ffn_post_norm, self.dropout)
        return x

    if spec.canon.has_part(dims) or spec.value_embedding.has_part(dims):

        def attend(self, x: Tensor, ids: Annotated[Tensor, only(spec.value_embedding.has_part(dims))]) -> Tensor:
            if spec.canon.has_part(dims):
                x = self.canon.before_attention(x)
            return self.attention(
                x,
                value=only(spec.value_embedding.has_part(dims), self.value_embedding(x, ids)),
                mix=only("attention" in spec.canon.inside(), self.canon.inside_attention),
            )

    if spec.canon.has_part(dims):

        def feed_forward(self, x: Tensor) -> Tensor:
            x = self.canon.before_ffn(x)
            return self.ffn(x, mix=only("ffn" in spec.canon.inside(), self.canon.inside_ffn))


class PlainGPT(nn.Module):
    """The whole model. Its first weights are torch's own; a run's are in its checkpoint."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.n_embd)
        if embed_scale:
            self.embed_scale = nn.Parameter(torch.ones(1))  # for embeddings that no norm brings to one scale
        if model.position.acts_on == "embeddings":
            self.position = slots.position(config)
        if dims.dropout:
            self.dropout = nn.Dropout(dims.dropout)
        if model.skip.has_part(dims):
            self.skip = slots.skip(config)
        if one_kind:
            self.blocks = nn.ModuleList(PlainBlock(config) for _ in range(config.n_layer))
        else:
            self.blocks = nn.ModuleList(Kind(config) for Kind in kinds)
        self.norm = slots.norm(config.n_embd)
        if not model.tie_embeddings:
            self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, T) int64 -> logits (B, T, V) of the token that follows each."""
        x = self.embed(ids)
        if embed_scale:
            x = x * self.embed_scale
        if model.position.acts_on == "embeddings":
            x = self.position(x)
        if dims.dropout:
            x = self.dropout(x)
        if model.skip.has_part(dims):
            embedded = x
            for layer, block in enumerate(self.blocks):
                x = self.skip(x, embedded, layer)
                x = block(x, ids=only(reads_ids, ids))
        else:
            for block in self.blocks:
                x = block(x, ids=only(reads_ids, ids))
        x = self.norm(x)
        if dims.multipliers.logits != 1:
            x = x * dims.multipliers.logits
        if model.tie_embeddings:
            logits = F.linear(x, self.embed.weight)  # one table at both ends
        if not model.tie_embeddings:
            logits = self.head(x)
        if model.logit_softcap is not None:
            logits = model.logit_softcap * torch.tanh(logits / model.logit_softcap)
        return logits
