"""What crosses a wall between Foundry's packages, and between Foundry and a plugin.

It imports neither torch nor numpy, so listing, validating and mutating experiments stay instant. A sibling package or
a plugin imports from here, `from foundry.core.contracts import Variant`, and from `foundry.core.testing`, and from
nothing else of core.

    errors      every failure that a user can act on, with its exit code
    plugins     Slot        a place in an experiment where a variant is chosen: attention, norm, tokenizer, ...
                Variant     one way to fill a slot: one module file and one `Variant(...)`
                Params      its settings, as the experiment file has them
                Shorthand   a name for a variant with some of its parameters set: gqa_2kv
                Mutation    a small named edit of an experiment: depth 8
                Section     a top-level part of the experiment file whose schema a package owns: data, eval
    metrics     Metric: a figure that models are ranked by, such as val_loss or accuracy
    data        Rows, Tokenizer, Batch: what a model reads
    model       Attention, FeedForward, Position, ...: what the parts of a model can do, one protocol for each slot
    parameters  Role: what each parameter of a model is, for optimizers, scale rules and initial values
    training    Objective, Loss, OptimizerFactory, ...: the same for training;  Job: what runs every N steps
    evaluation  Task, ModelHandle, RunHandle: what scores a trained model
    search      Proposer: what proposes the next mutations
    execution   Executor, Site: what trains the trials of a sweep
    source      Source: where initial weights come from
    architecture  Family, Key, WeightMap, ...: the description of a family of pretrained models
    plain_text  settings, slots, ...: the description of a variant in plain PyTorch

Shapes: B rows in a batch, T tokens in a row, S keys (T, or cache length + T), C = n_embd, H heads, D = head_dim,
V vocabulary.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from foundry.core.contracts.data import Batch, FixedRows, OpenData, Rows, Tokenizer
from foundry.core.contracts.errors import (
    Diverged,
    EnvironmentFailure,
    ExitCode,
    FoundryError,
    InternalError,
    InvalidData,
    InvalidExperiment,
    PeerFailed,
    PluginError,
    Stopped,
    UsageError,
)
from foundry.core.contracts.execution import Executor, Site
from foundry.core.contracts.metrics import Metric
from foundry.core.contracts.parameters import (
    DECAYING,
    Role,
    Update,
    Weight,
    WeightKind,
    lr_factors,
    role_of,
    roles,
)
from foundry.core.contracts.search import Fate, Proposer, Space, Stack, Tried

if TYPE_CHECKING:
    from foundry.core.contracts.evaluation import Item, ModelHandle, RunHandle, Task, TaskParams
    from foundry.core.contracts.model import (
        UNSCALED,
        ActivationParams,
        ActsOn,
        Attention,
        AttentionParams,
        Aux,
        Cache,
        Canon,
        CanonParams,
        Context,
        Dims,
        FeedForward,
        FeedForwardParams,
        Multipliers,
        NoParams,
        NormParams,
        OptionalParams,
        Position,
        PositionParams,
        Residual,
        ResidualParams,
        Skip,
        Sublayer,
        ValueEmbedding,
    )
    from foundry.core.contracts.plugins import (
        DROP,
        FOUNDRY_API,
        Contribution,
        Edits,
        HookSpecs,
        Mutation,
        Params,
        Problem,
        Section,
        Shorthand,
        Slot,
        Variant,
        hookimpl,
        hookspec,
    )
    from foundry.core.contracts.source import Origin, Source, SourceParams
    from foundry.core.contracts.training import (
        Job,
        Loss,
        Moment,
        Objective,
        ObjectiveContext,
        OptimizerFactory,
        OptimizerParams,
        Scaling,
        ScalingParams,
        Schedule,
    )

# Imported on first use: they import pydantic, which would be a third of `foundry --help`.
_WITH_SETTINGS = ("plugins", "model", "training", "evaluation", "source")

__all__ = [
    "DECAYING",
    "DROP",
    "FOUNDRY_API",
    "UNSCALED",
    "ActivationParams",
    "ActsOn",
    "Attention",
    "AttentionParams",
    "Aux",
    "Batch",
    "Cache",
    "Canon",
    "CanonParams",
    "Context",
    "Contribution",
    "Dims",
    "Diverged",
    "Edits",
    "EnvironmentFailure",
    "Executor",
    "ExitCode",
    "Fate",
    "FeedForward",
    "FeedForwardParams",
    "FixedRows",
    "FoundryError",
    "HookSpecs",
    "InternalError",
    "InvalidData",
    "InvalidExperiment",
    "Item",
    "Job",
    "Loss",
    "Metric",
    "ModelHandle",
    "Moment",
    "Multipliers",
    "Mutation",
    "NoParams",
    "NormParams",
    "Objective",
    "ObjectiveContext",
    "OpenData",
    "OptimizerFactory",
    "OptimizerParams",
    "OptionalParams",
    "Origin",
    "Params",
    "PeerFailed",
    "PluginError",
    "Position",
    "PositionParams",
    "Problem",
    "Proposer",
    "Residual",
    "ResidualParams",
    "Role",
    "Rows",
    "RunHandle",
    "Scaling",
    "ScalingParams",
    "Schedule",
    "Section",
    "Shorthand",
    "Site",
    "Skip",
    "Slot",
    "Source",
    "SourceParams",
    "Space",
    "Stack",
    "Stopped",
    "Sublayer",
    "Task",
    "TaskParams",
    "Tokenizer",
    "Tried",
    "Update",
    "UsageError",
    "ValueEmbedding",
    "Variant",
    "Weight",
    "WeightKind",
    "hookimpl",
    "hookspec",
    "lr_factors",
    "role_of",
    "roles",
]


def __getattr__(name: str) -> Any:
    for module in _WITH_SETTINGS if name in __all__ else ():
        if hasattr(found := import_module(f"{__name__}.{module}"), name):
            return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__]
