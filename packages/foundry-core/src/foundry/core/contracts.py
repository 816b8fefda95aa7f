"""What crosses a wall between Foundry's packages, and between Foundry and a plugin.

This module imports neither torch nor numpy, so listing, validating and mutating experiments stay instant. A sibling
package or a plugin imports this module and `foundry.core.testing`, and nothing else of core.

    Slot       a place in an experiment where a variant is chosen: attention, norm, tokenizer, ...
    Variant    one way to fill a slot: one module file and one `Variant(...)`
    Shorthand  a name for a variant with some of its parameters set: gqa_2kv
    Mutation   a small named edit of an experiment: depth 8
    Section    a top-level part of the experiment file whose schema a package owns: data, eval
    Rows, Tokenizer, Evaluator, Attention, ...   what the objects that variants build can do

Shapes: B rows in a batch, T tokens in a row, S keys (T, or cache length + T), C = n_embd, H heads, D = head_dim,
V vocabulary.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias

import pluggy
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from random import Random

    import numpy as np
    import torch
    from torch import Tensor, nn

FOUNDRY_API = 1
"""The version of this module. A plugin states the one it was written for as its own `FOUNDRY_API`."""


# --------------------------------------------------------------------------------------------------------------------
# Errors: every way to fail that a user can act on, and the exit code of each.


class ExitCode(IntEnum):
    """What a `foundry` command's exit status means."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    INVALID = 3  # the experiment or the data
    PLUGIN = 4
    NOT_PROMOTED = 5  # `sweep --promote` finished without a promotion
    ENVIRONMENT = 6  # no GPU, no disk, no memory
    PEER_FAILED = 7  # another rank died
    STOPPED = 75  # by a signal, with a saved checkpoint (EX_TEMPFAIL: run again to go on)
    SIGINT = 130
    SIGTERM = 143


class FoundryError(Exception):
    """An error with a way out: `message` says what is wrong and where, `hint` what to do."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILURE

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UsageError(FoundryError):
    """The command line asks for something that does not exist."""

    exit_code = ExitCode.USAGE


class InvalidExperiment(FoundryError):
    """An experiment file that cannot be trained; `message` holds one `file:line:column: ...` line per problem."""

    exit_code = ExitCode.INVALID


class InvalidData(FoundryError):
    """A corpus, tokenizer, checkpoint or run folder that cannot be used."""

    exit_code = ExitCode.INVALID


class PluginError(FoundryError):
    """A plugin that the experiment needs is broken, missing or in conflict."""

    exit_code = ExitCode.PLUGIN


class EnvironmentFailure(FoundryError):
    """The machine cannot do it: no such device, disk full, out of memory, folder not writable."""

    exit_code = ExitCode.ENVIRONMENT


class Diverged(FoundryError):
    """The loss or a gradient is not finite."""


class PeerFailed(FoundryError):
    """Another rank of a distributed run died or does not answer."""

    exit_code = ExitCode.PEER_FAILED


class Stopped(FoundryError):
    """Stopped by a signal after saving a checkpoint; the same command goes on from there."""

    exit_code = ExitCode.STOPPED


# --------------------------------------------------------------------------------------------------------------------
# What a plugin contributes. All of it is data: nothing here imports torch until a variant is built.


class Params(BaseModel):
    """The settings of a variant or a section. The field's types and ranges validate the experiment file, document
    `--help`, and give a search its space; a field's `description` becomes the editor's tooltip.

    A field that does not change the result (a name, a cadence of saving) says so with
    `Field(..., json_schema_extra={"identity": False})` and stays out of the experiment's identity. One that nobody
    would search over, such as an epsilon, says `{"search": False}`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), validate_default=True)

    variant: ClassVar[Variant | None] = None
    """The variant that these params chose: set on the classes of which an experiment's slots hold instances."""

    def problems(self, dims: Dims) -> Iterator[tuple[str, str]]:
        """Yield (key, what is wrong and what to do) for values that are impossible in a model of these `dims`."""
        yield from ()


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


@dataclass(frozen=True)
class Slot:
    """A place in the experiment where a variant is chosen."""

    name: str
    path: str  # where it stands in the experiment file: "model_args.attention"; empty: nowhere, see `placed`
    default: str  # the variant used where the file says nothing
    summary: str
    abbreviation: str = ""  # of the slot in file names: attn_mla; the slot's name by default
    per_layer: bool = False  # may `layers:` choose another variant for some layers

    @property
    def placed(self) -> bool:
        """Whether an experiment chooses the variant, or a command's option does: an executor decides no result."""
        return bool(self.path)

    @property
    def section(self) -> str:
        return self.path.rpartition(".")[0]

    @property
    def key(self) -> str:
        return self.path.rpartition(".")[2]


@dataclass(frozen=True)
class Variant:
    """One way to fill a slot."""

    slot: str
    name: str
    target: str  # "package.module:attribute", imported only when the variant is built
    params: type[Params] = Params
    summary: str = ""
    reference: str = ""  # the paper or the code that it is equal to
    requires: tuple[str, ...] = ()  # what the machine must have: "cuda", "triton"

    def load(self) -> Any:
        """Import and return the target.

        Raises:
            PluginError: the module cannot be imported or lacks the attribute.
        """
        return _import(self.target, f"{self.slot} {self.name}")


@dataclass(frozen=True)
class Shorthand:
    """A name for a variant with some parameters set, usable wherever the variant's name is."""

    slot: str
    name: str
    expands_to: Mapping[str, Any]  # {"type": "gqa", "n_kv_head": 2}
    summary: str = ""


Edits: TypeAlias = Mapping[str, Any]
"""What a mutation changes: dotted path in the experiment file -> new value, or `DROP`."""

DROP: Any = type("Drop", (), {"__repr__": lambda self: "DROP", "__bool__": lambda self: False})()
"""As the value of an edit: remove the key, so that its default holds."""


@dataclass(frozen=True)
class Mutation:
    """A small named edit of an experiment, such as `depth 8`. Every slot is one already, without further code."""

    type: str
    edit: Callable[[Mapping[str, Any], str], Edits]
    """A pure function of the resolved experiment, every default filled in, as plain data, and of the value from the
    command line. It raises ValueError, with what would be valid, for a value that makes no sense."""
    summary: str
    example: str = ""  # a value that works on the default experiment, for --help and for tests
    abbreviation: str = ""
    nearby: Callable[[Mapping[str, Any]], Sequence[str]] | None = None
    """Values to try on a resolved experiment, near its own: how `foundry evolve` moves along this type. They need not
    all be valid there. Without it, only `example` is tried."""
    slot: str = ""
    """A slot beside whose variants it stands, as `SLOT TYPE`: `norm qknorm`, which sets a param of the attention. It
    has no other value then, and `edit` gets its type as one."""


@dataclass(frozen=True)
class Section:
    """A top-level part of the experiment file whose schema a package owns."""

    name: str
    params: type[Params]
    target: str = ""  # what core calls to build it, see `OpenData`
    summary: str = ""

    def load(self) -> Any:
        """Import and return the target.

        Raises:
            PluginError: the module cannot be imported or lacks the attribute.
        """
        return _import(self.target, f"section {self.name}")


def _import(target: str, whose: str) -> Any:
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise PluginError(f"{whose}: cannot load {target}: {error}") from error


Contribution: TypeAlias = Slot | Variant | Shorthand | Mutation | Section


@dataclass(frozen=True)
class Problem:
    """A plugin that could not be used, wholly or in part. The rest works on."""

    distribution: str
    plugin: str
    message: str


hookspec = pluggy.HookspecMarker("foundry")
hookimpl = pluggy.HookimplMarker("foundry")


class HookSpecs:
    """The hooks that a plugin may implement: a module named by an entry point of the group `foundry`."""

    @hookspec
    def foundry_variants(self) -> list[Variant]:  # type: ignore[empty-body]
        """Return the variants that this plugin adds."""

    @hookspec
    def foundry_shorthands(self) -> list[Shorthand]:  # type: ignore[empty-body]
        """Return the shorthands that this plugin adds."""

    @hookspec
    def foundry_mutations(self) -> list[Mutation]:  # type: ignore[empty-body]
        """Return the mutation types that this plugin adds, beyond the one that every slot is."""

    @hookspec
    def foundry_slots(self) -> list[Slot]:  # type: ignore[empty-body]
        """Return the slots that this plugin adds."""

    @hookspec
    def foundry_sections(self) -> list[Section]:  # type: ignore[empty-body]
        """Return the sections of the experiment file that this plugin owns."""


# --------------------------------------------------------------------------------------------------------------------
# Data.


class Batch(NamedTuple):
    """Some rows of a corpus. numpy arrays where a `Rows` makes them, tensors where the model reads them.

    `targets[b, t]` is the token that follows `tokens[b, t]`. `loss_weight` is 0 where nothing is to be learned
    (padding, a prompt). `positions` and `segments` are None where each row is one piece of one document; otherwise
    tokens attend only within their segment.
    """

    tokens: Any  # (B, T) int64
    targets: Any  # (B, T) int64
    loss_weight: Any = None  # (B, T) float32, or None: every target counts
    positions: Any = None  # (B, T) int64, or None: 0..T-1
    segments: Any = None  # (B, T) int32, or None: one segment


class Tokenizer(Protocol):
    """Text <-> token ids. Special tokens come only from code, never from text that happens to spell them."""

    @property
    def vocab_size(self) -> int:
        """V, special tokens included."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Name -> id of the control tokens, such as `bos`."""

    @property
    def hash(self) -> str:
        """sha256 of the vocabulary: two tokenizers with the same hash encode alike."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without special tokens. Raises InvalidData for text that the vocabulary cannot spell."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD, special tokens become nothing."""

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of `ids`, of which a part may end inside a character; special tokens become nothing."""

    def bytes_of(self, ids: Sequence[int] | np.ndarray) -> int:
        """How many bytes of text `ids` stand for; a special token counts 0. Bits per byte divides by it."""

    def to_json(self) -> dict[str, Any]:
        """Everything that the class's own `from_json(data)` needs, with the variant's name under `type`."""


class FixedRows(Protocol):
    """A finite list of rows that never changes: what a validation loss is measured on."""

    def __len__(self) -> int: ...
    def batch(self, start: int, stop: int) -> Batch:
        """Rows start..stop-1. Each target of the validation text appears in exactly one row."""

    def take(self, indices: np.ndarray) -> Batch:
        """The rows with these numbers."""


class Rows(Protocol):
    """An endless sequence of training rows in which row k is a pure function of (fingerprint, seed, k)."""

    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def fingerprint(self) -> str:
        """Hash of everything that row k depends on but the seed: text, tokenizer, plan, block_size."""

    @property
    def rows_per_epoch(self) -> int: ...
    @property
    def tokens_per_epoch(self) -> int:
        """Supervised training tokens in one epoch."""

    @property
    def validation(self) -> FixedRows: ...

    def batch(self, start: int, stop: int) -> Batch:
        """Rows start..stop-1, start >= 0, in an order that is shuffled anew each epoch."""

    def take(self, indices: np.ndarray) -> Batch:
        """The rows with these numbers k, in this order: how one rank reads its part of a global batch."""

    def state(self, cursor: int) -> dict[str, Any]:
        """What a checkpoint must hold to go on from row `cursor`: JSON, under 1 KB, the same on every rank."""

    def resume(self, state: Mapping[str, Any]) -> int:
        """The cursor of a saved state. Raises InvalidData, naming the first difference, if the data changed."""


class OpenData(Protocol):
    """The target of the section `data`: prepares the corpus if that was not done yet, and opens it."""

    def __call__(
        self,
        params: Any,
        *,
        block_size: int,
        seed: int,
        tokenizer: Tokenizer | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Rows:
        """`tokenizer` overrides the one that `params` asks for: a resumed run keeps its own."""


# --------------------------------------------------------------------------------------------------------------------
# The model. Parameter names are public: checkpoints, the zoo and LoRA use them.

Aux: TypeAlias = "Mapping[str, Tensor]"
"""What a sublayer reports beside its output, 0-D tensors summed over layers: router losses, counters. The names that
end in `_loss` are added to the training loss. Those that end in `_count` may be of any shape, and are summed over the
micro-batches and ranks of an optimizer step, for `after_step`; what is a layer's own has the layer in its name."""


class Cache(Protocol):
    """What one attention remembers of the tokens before."""

    length: int
    """How many positions are filled."""

    @property
    def tensors(self) -> Sequence[Tensor]:
        """The storage, each (B, ...), most (B, ..., max_len, ...): its size over max_len is the KV bytes per token."""


class Context(NamedTuple):
    """What a layer knows about its tokens beside their vectors. All None is the fast path: plain causal attention
    over whole rows, with no T x T mask."""

    positions: Tensor | None = None  # (B, T) int64; None: 0..T-1 in every row
    segments: Tensor | None = None  # (B, T) int; attention stays within equal numbers
    key_padding: Tensor | None = None  # (B, S) bool, False = not a token
    cache: Any | None = None  # this layer's Cache
    value: Tensor | None = None  # (B, T, value_size): added to the attention's values, see `AttentionParams`
    ids: Tensor | None = None  # (B, T) int64: the tokens themselves, for tables with a row per token
    mix: Callable[[Tensor], Tensor] | None = None  # (B, T, canon_size) -> the same: a canon layer inside a sublayer


class Attention(Protocol):
    """Slot `attention`; built as `target(params, dims, position)`. `position` is a `Position` that acts on q and k or
    on the scores, or None."""

    def __call__(self, x: Tensor, ctx: Context) -> tuple[Tensor, Aux]:
        """x (B, T, C) -> (B, T, C). Position t sees only positions <= t of its segment. With a cache, x is what
        follows the cache's content, and the cache is extended in place."""

    def init_cache(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device | str) -> Cache: ...


class FeedForward(Protocol):
    """Slot `ffn`; built as `target(params, dims, activation, gated)`, where `gated` is what the params of `activation`
    say: whether it is called with (gate, up)."""

    def __call__(self, x: Tensor, ctx: Context) -> tuple[Tensor, Aux]:
        """x (B, T, C) -> (B, T, C), each position by itself."""


class OptionalParams(Params):
    """Base of the params of a part that a layer may go without."""

    def has_part(self, dims: Dims) -> bool:
        """Whether the layer `dims.layer` gets one. `NoParams` says that none does."""
        return True


class NoParams(OptionalParams):
    """The variant `none` of an optional part. Nothing is built for it."""

    def has_part(self, dims: Dims) -> bool:
        return False


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


class FeedForwardParams(Params):
    """Base of every feed-forward's params."""

    def canon_size(self, dims: Dims, gated: bool) -> int:
        """Width of what enters the activation, gate and up side by side, where the network sends it through
        `Context.mix`; 0: it does not, and a canon layer there is refused."""
        return 0


class ActivationParams(Params):
    """Base of every activation's params. A gated one is called with (gate, up), a plain one with (up)."""

    gated: ClassVar[bool] = False


ActsOn: TypeAlias = Literal["embeddings", "qk", "scores", "nothing"]


class PositionParams(Params):
    """Base of every position's params: `acts_on` says which method of `Position` the variant implements."""

    acts_on: ClassVar[ActsOn] = "nothing"


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


class Position(Protocol):
    """Slot `position`; built as `target(params, dims)`. It implements the one method that its `acts_on` names."""

    def embed(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """acts_on embeddings: token embeddings (B, T, C) -> with their positions added."""

    def rotate(self, q: Tensor, k: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor]:
        """acts_on qk: q (B, H, T, D), k (B, H_kv, T, D) -> the same with positions in them."""

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """acts_on scores: (B, T), (B, S) -> (B, H, T, S), to be added to the attention scores."""


class Loss(Protocol):
    """Slot `loss`; built as `target(params, dims)`."""

    def __call__(self, hidden: Tensor, head: Callable[[Tensor], Tensor], batch: Batch) -> tuple[Tensor, Tensor, Aux]:
        """hidden (B, T, C), head: (..., C) -> logits (..., V) -> (sum of token losses, number of supervised tokens,
        aux). It need not call head on everything at once, or at all: where `head.softcap` is None the logits are
        hidden @ head.weight.T."""


class OptimizerFactory(Protocol):
    """Slot `optimizer`: the target itself is this function."""

    def __call__(self, params: Any, model: nn.Module, learning_rate: float) -> list[torch.optim.Optimizer]:
        """Every trainable parameter of `model` in exactly one group of one optimizer. The schedule multiplies the
        learning rate that each group starts with: `learning_rate` times what `lr_factors` says of its parameters. What
        decays in a step, learning rate times weight decay, is to stay as it would be without the factor."""


Update: TypeAlias = Literal["elementwise", "orthogonal"]
"""How large an optimizer's step is, by its learning rate alone: each entry is as large (Adam, Lion), or each singular
value, times sqrt(rows / columns) where a matrix is tall (Muon)."""


def lr_factors(model: Any, update: Update) -> dict[Tensor, float]:
    """What an optimizer multiplies the learning rate of each parameter with, by the model's scale rule; 1 for models
    without one."""
    factor = getattr(model, "lr_factor", None)
    return {parameter: factor(name, update) if factor else 1.0 for name, parameter in model.named_parameters()}


class ScalingParams(Params):
    """Base of every scale rule's params. A field `base_X`, such as `base_n_embd`, is the X of the model that the
    experiment's numbers were found with, and null its own. Mutations of X leave the base where it is."""

    def base(self, dims: Dims) -> Dims:
        """The sizes at which every factor is 1."""
        given = {name.removeprefix("base_"): getattr(self, name) for name in type(self).model_fields}
        return replace(dims, **{name: size for name, size in given.items() if hasattr(dims, name) and size is not None})


WeightKind: TypeAlias = Literal["input", "hidden", "output", "head", "fixed"]
"""Which sides of a parameter grow with n_embd (arXiv:2203.03466, table 3).

input    only its fan-out: embeddings, the gains of norms, biases
hidden   both: the matrices of attention and feed-forward
output   only its fan-in: a router
head     as `output`, and its product is multiplied by `Multipliers.logits`; a tied head is an `input`
fixed    neither: a bias per expert, a short convolution"""


class Weight(NamedTuple):
    """A parameter, as a scale rule sees it."""

    name: str  # its path in the model
    kind: WeightKind
    in_layer: bool  # one for each of n_layer layers


class Scaling(Protocol):
    """Slot `scaling`; built as `target(params, dims, base)`, without torch: how initial weights, learning rates and the
    forward pass follow from the sizes `dims`, relative to those of `base`. In a model of the base's sizes every answer
    is 1, and nobody asks."""

    @property
    def multipliers(self) -> Multipliers: ...
    def init_factor(self, weight: Weight) -> float:
        """What the initial values are multiplied with."""

    def lr_factor(self, weight: Weight, update: Update) -> float:
        """What the learning rate is multiplied with, for an optimizer with such updates."""


class Schedule(Protocol):
    """Slot `schedule`; built as `target(params)`."""

    def __call__(self, step: int, progress: float) -> float:
        """The factor on the learning rate for optimizer step `step` (from 0), when the share `progress` in [0, 1] of
        the budget is used up."""


# A module that owns parameters may also define (see foundry.core.model.init):
#   init_parameter(name, tensor, generator) -> bool   fill `tensor` in place, or return False to leave it to the model
#   weight_kind(name) -> WeightKind | None            what a scale rule is to take it for, where its shape misleads: a
#                                                      table whose rows are multiplied with x is `hidden`
#   init_buffers() -> None                             fill the buffers: those that are not saved, and the first values
#                                                      of those that are
# and any module (see foundry.core.training.after_step):
#   after_step(counts) -> None                         change saved buffers, once after each optimizer step, by what all
#                                                      forward passes of the step counted; the same on every rank
#   inactive_parameters: int                           how many of its parameters take no part in one token's result


# --------------------------------------------------------------------------------------------------------------------
# Evaluation.


class Item(NamedTuple):
    """One scored item of a task."""

    id: str
    score: float
    metric: str  # "bits_per_byte", "accuracy"
    higher_is_better: bool


class Handle(Protocol):
    """A trained model as an evaluator sees it."""

    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def block_size(self) -> int: ...

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """For (context, continuation): the continuation's log-likelihood in nats, and whether greedy decoding gives
        exactly it."""

    def generate(self, prompts: Sequence[str], *, max_tokens: int, stop: Sequence[str] = ()) -> list[str]: ...
    def train(self, edits: Edits) -> Handle:
        """A new model of the same experiment with `edits`, trained from scratch: how a synthetic probe learns."""


class Evaluator(Protocol):
    """Slot `task`; built as `target(params)`."""

    def run(self, handle: Handle) -> list[Item]: ...


# --------------------------------------------------------------------------------------------------------------------
# Search.

Stack: TypeAlias = tuple[tuple[str, str], ...]
"""Mutations one after the other, each as (type, value): (("activation", "relu2"), ("depth", "6"))."""

Fate: TypeAlias = Literal["kept", "passed_over", "failed", "rejected", "unproven", "verified"]
"""kept         screened better than a fresh control
passed_over  screened no better, or another one was kept
failed       no valid experiment, or its training has no result
rejected     no better than the verified baseline, by a test on fresh seeds
unproven     that test ended undecided
verified     better by that test: it became the baseline"""


class Tried(NamedTuple):
    """One proposal and what became of it."""

    origin: int  # the generation of the baseline that `stack` starts from
    parent: Stack  # what was kept at the time
    stack: Stack
    fate: Fate
    effect: float | None = None  # how much better than its control it was, in the metric; None: no score


class Space(NamedTuple):
    """What a proposer can choose from. A stack starts from the original baseline of the search, generation `origin`,
    and a proposal is a whole stack: on top of what is kept, or beside it."""

    origin: int
    current: Stack  # what is kept by now
    values: Mapping[str, Sequence[str]]  # mutation type -> values that are valid on top of `current`
    original: Mapping[str, Sequence[str]]  # the same on top of nothing


class Proposer(Protocol):
    """Slot `proposer`; built as `target(params)`. What it proposes is recorded before it is tried, so a search that was
    killed goes on with the same proposals even if the proposer would make others."""

    def propose(self, space: Space, history: Sequence[Tried], n: int, random: Random) -> Sequence[Stack]:
        """At most `n` different stacks, none of which was tried on this baseline and failed or lost; none at all when
        it has no further idea. `random` is seeded by (the search's seed, the round): with it as the only source of
        chance, the same search can be repeated."""
