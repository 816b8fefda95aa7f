"""What core itself contributes, by the same hooks as any plugin: an experiment's sections and slots, the mutations that
are not slots, and a run's weights as the beginning of another."""

from foundry.core.config.schema import Checkpoints, Logging, ModelArgs, Training
from foundry.core.contracts import (
    ActivationParams,
    AttentionParams,
    CanonParams,
    FeedForwardParams,
    Metric,
    Mutation,
    NormParams,
    OptimizerParams,
    OptionalParams,
    Params,
    PositionParams,
    ResidualParams,
    ScalingParams,
    Section,
    Slot,
    SourceParams,
    TaskParams,
    Variant,
    hookimpl,
)
from foundry.core.metrics import METRICS
from foundry.core.mutations import MUTATIONS

FOUNDRY_API = 1

SECTIONS = [
    Section("model_args", ModelArgs),
    Section("training", Training),
    Section("logging", Logging),
    Section("checkpoints", Checkpoints),
]


def _part(name: str, default: str, abbreviation: str, summary: str, params: type[Params]) -> Slot:
    return Slot(name, f"model_args.{name}", default, summary, abbreviation, per_layer=True, params=params)


def _whole(name: str, default: str, abbreviation: str, summary: str, params: type[Params]) -> Slot:
    return Slot(name, f"model_args.{name}", default, summary, abbreviation, params=params)


SLOTS = [
    _part("attention", "mha", "attn", "how tokens exchange information", AttentionParams),
    _part("ffn", "dense", "ffn", "what a layer does to each token by itself", FeedForwardParams),
    _part("norm", "rmsnorm", "norm", "what keeps a layer's input at one scale", NormParams),
    _part("activation", "swiglu", "act", "the non-linearity of the feed-forward network", ActivationParams),
    _part("position", "rope", "pos", "how a model knows the order of its tokens", PositionParams),
    _part("residual", "pre", "resid", "how a sublayer and its norm join the residual stream", ResidualParams),
    _part("canon", "none", "canon", "a mix of each token with those just before it", CanonParams),
    _part(
        "value_embedding",
        "none",
        "ve",
        "a second embedding of the token, added to the attention's values",
        OptionalParams,
    ),
    _whole("skip", "none", "skip", "what a layer gets beside the stream of the layer before", OptionalParams),
    _whole("scaling", "none", "scale", "how weights and learning rates follow from the sizes", ScalingParams),
    Slot("objective", "training.objective", "next_token", "the loss of a step, from its batch", "obj"),
    Slot("loss", "training.loss", "cross_entropy", "how wrong the predicted tokens are", "loss"),
    Slot("optimizer", "training.optimizer", "adamw", "how gradients become updates", "opt", params=OptimizerParams),
    Slot("schedule", "training.schedule", "cosine", "the learning rate over time", "sched"),
    Slot("task", "eval.tasks", "", "what a trained model is scored on", params=TaskParams, named=True, identity=False),
    Slot("source", "", "run", "where first weights come from, as init_from names them", params=SourceParams),
]

NEXT_TOKEN = Variant(
    "objective", "next_token", "foundry.core.training.objective:NextToken", Params, "the loss of each row's next tokens"
)
RUN = Variant(
    "source", "run", "foundry.core.training.init_from:RunSource", SourceParams, "the judged weights of another run"
)


@hookimpl
def foundry_slots() -> list[Slot]:
    return SLOTS


@hookimpl
def foundry_variants() -> list[Variant]:
    return [NEXT_TOKEN, RUN]


@hookimpl
def foundry_mutations() -> list[Mutation]:
    return MUTATIONS


@hookimpl
def foundry_sections() -> list[Section]:
    return SECTIONS


@hookimpl
def foundry_metrics() -> list[Metric]:
    return METRICS
