"""The section `data` of the experiment file, and the two slots in it. Imports neither torch nor numpy."""

from __future__ import annotations

from pydantic import Field

from foundry.core.contracts import Params, Slot, Variant
from foundry.data import corpora, tokenize

SLOTS = [
    Slot(
        name="dataset",
        path="data.dataset",
        also_at=("training.dataset",),
        default="stdlib",
        summary="where the text comes from; see foundry.data.corpora.Dataset",
        abbreviation="data",
    ),
    Slot(
        name="tokenizer",
        path="data.tokenizer",
        default="byte",
        summary="text to ids; see foundry.data.tokenize.TokenizerClass",
        abbreviation="tok",
    ),
]
VARIANTS = [*corpora.VARIANTS, *tokenize.VARIANTS]


class DataParams(Params):
    """What the model is trained and validated on.

    In an experiment, `dataset` and `tokenizer` accept the variants of their slots; from Python, any of their params.
    """

    dataset: Params = corpora.StdlibParams()
    tokenizer: Params = tokenize.ByteParams()
    val_fraction: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="share held out for validation: of the documents (by a hash of their content, so that adding one "
        "moves no other), or, with fewer than 20 documents, the tail of the text",
    )
    cache: str | None = Field(
        None,
        description="folder of prepared corpora and downloads; default $FOUNDRY_CACHE or ~/.cache/foundry",
        json_schema_extra={"identity": False},
    )


def variant_of(choice: Params) -> Variant:
    """The variant that a slot's params choose.

    What stands in an experiment carries its variant, whoever's it is; params made in Python are looked up here.
    """
    return choice.variant or next(ours for ours in VARIANTS if isinstance(choice, ours.params))
