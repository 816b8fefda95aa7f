"""What stands in an experiment file: core's sections. Other packages own theirs (`data`, `eval`), and every slot's
field is filled in from the registry by `compose`."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field

from foundry.core.config.model_spec import LayerSpec
from foundry.core.contracts import Dims, Params, Sublayer

Choice: TypeAlias = Any
"""A slot's choice: an instance of the variant's own params class, with the variant's name in `.type`."""

BUDGETS = ("max_iters", "tokens", "flops", "seconds")
"""The ways to say how long to train; an experiment uses one."""

Positive: TypeAlias = Annotated[int, Field(ge=1, le=16_777_216)]

NOT_IDENTITY: dict[str, Any] = {"identity": False}
"""For fields that cannot change the trained weights or their score."""


class ModelArgs(Params):
    """The sizes of the model and the variant of each of its parts."""

    n_layer: int = Field(4, ge=1, le=10_000, description="layers")
    n_head: int = Field(4, ge=1, le=65_536, description="query heads of each attention")
    n_embd: int = Field(128, ge=1, le=1_048_576, description="width of the residual stream")
    head_dim: int | None = Field(None, ge=1, le=65_536, description="width of a head; null: n_embd / n_head")
    block_size: int = Field(128, ge=1, le=16_777_216, description="tokens in a row: the context that is trained")
    tie_embeddings: bool = Field(True, description="the output head shares the embedding's weights")
    dropout: float = Field(0.0, ge=0, lt=1, description="probability of dropping an activation in training")
    bias: bool = Field(False, description="biases in linear layers and norms")
    logit_softcap: float | None = Field(
        None, gt=0, description="keep logits within +-this by softcap * tanh(logits / softcap) (arXiv:2408.00118)"
    )
    attention: Choice
    ffn: Choice
    norm: Choice
    activation: Choice
    position: Choice
    residual: Choice
    canon: Choice
    value_embedding: Choice
    skip: Choice
    scaling: Choice

    def canon_sizes(self, dims: Dims) -> dict[Sublayer, int]:
        """Width of what a canon layer can mix inside each sublayer; 0: nothing."""
        return self.layer_spec().canon_sizes(dims)

    def layer_spec(self) -> LayerSpec:
        """What a layer with these choices is made of."""
        return LayerSpec(**{field.name: getattr(self, field.name) for field in fields(LayerSpec)})

    def filled(self, dims: Dims) -> Self:
        parts = {name: part.filled(dims) for name, part in self if isinstance(part, Params)}
        parts["ffn"] = self.ffn.filled(dims, self.activation.gated)
        return self.model_copy(update={**parts, "head_dim": dims.head_dim})


class Training(Params):
    """How long, how fast and on what the model is trained."""

    max_iters: int | None = Field(600, ge=1, description="optimizer steps; the budget if no other is given")
    tokens: int | None = Field(None, ge=1, description="tokens to train on, padding not counted, instead of max_iters")
    flops: float | None = Field(None, gt=0, description="floating-point operations, padding too, instead of max_iters")
    seconds: float | None = Field(None, gt=0, description="seconds of training, instead of max_iters")
    batch_size: int = Field(16, ge=1, le=16_777_216, description="rows in an optimizer step, over all ranks")
    micro_batch: Positive | Literal["auto"] = Field(
        "auto", description="rows that a rank computes at once; auto: as many as fit in memory"
    )
    learning_rate: float = Field(1e-3, gt=0, description="the peak, which the schedule multiplies")
    grad_clip: float = Field(1.0, ge=0, description="largest norm of the gradient; 0 = never clip")
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay per step of a moving average of the weights, which is then validated"
    )
    optimizer: Choice
    schedule: Choice
    objective: Choice
    loss: Choice
    eval_interval: int = Field(
        100,
        ge=0,
        description="steps between measurements of the validation loss; 0 = only at the end",
        json_schema_extra=NOT_IDENTITY,  # the last step is judged, and measuring draws no random number
    )
    eval_tokens: int | None = Field(None, ge=1, description="validate on about this many tokens; null: the whole text")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 on CUDA, fp32 elsewhere")
    compile: bool = Field(False, description="torch.compile the model")
    kernels: (
        Literal["auto", "native", "reference"] | Annotated[str, Field(pattern=r"^native:[a-z0-9_]+(\+[a-z0-9_]+)*$")]
    ) = Field(
        "auto",
        description="reference: torch's own; native: all others that are available, for fp32 on a CPU; "
        "native:NAME+NAME: these, or the run fails; auto: those known to be faster on this kind of machine",
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward pass")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: cuda, else mps, else cpu")
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(
        "auto", description="CPU threads of a rank; torch crashes with about 10,000"
    )
    distributed: Literal["auto", "none", "ddp", "fsdp"] = Field(
        "auto", description="auto: none on one rank, ddp on several; fsdp is not built yet, and refused"
    )
    fsdp_min_params: int = Field(
        1_000_000_000,
        ge=0,
        description="not built yet, and not read: parameters from which `auto` would shard the model",
    )


class Logging(Params):
    """What is shown and written while training."""

    log_interval: int = Field(10, ge=1, description="steps between rows of metrics", json_schema_extra=NOT_IDENTITY)
    sample_interval: int = Field(
        0, ge=0, description="steps between samples of text; 0 = only at the end", json_schema_extra=NOT_IDENTITY
    )
    sample_prompt: str = Field("", description="prompt of the samples", json_schema_extra=NOT_IDENTITY)
    sample_tokens: int = Field(
        200, ge=0, le=1_000_000, description="length of a sample; 0 = no samples", json_schema_extra=NOT_IDENTITY
    )


class Checkpoints(Params):
    """What is kept of a run."""

    save_interval: int = Field(
        200, ge=0, description="steps between checkpoints; 0 = only at the end", json_schema_extra=NOT_IDENTITY
    )
    keep: int = Field(
        2, ge=1, description="newest checkpoints to keep, besides the best", json_schema_extra=NOT_IDENTITY
    )
    before_decay: bool = Field(
        True,
        description="keep the one where the decay of wsd begins: a longer training can go on from it",
        json_schema_extra=NOT_IDENTITY,
    )
