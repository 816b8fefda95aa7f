"""The slot `dataset`: one file per kind of corpus. This file imports neither torch nor numpy.

A dataset is built as `target(params)` and yields documents. A document is the unit of everything that follows: rows
never cross it, and the validation split never cuts it where there are enough of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from pydantic import Field

from foundry.core.contracts import Params, Variant


class Document(NamedTuple):
    name: str
    text: str


class Dataset(Protocol):
    """Slot `dataset`; built as `target(params)`."""

    @property
    def fingerprint(self) -> str:
        """sha256 over the content of every document, in order. Cheap: it is asked for at every start."""

    def documents(self) -> Iterator[Document]:
        """The documents, the same in every pass. Raises InvalidData for text that is not."""


class StdlibParams(Params):
    """The sources of this interpreter's own standard library."""


class TextParams(Params):
    """A text file, or the text files of a folder; one document per file."""

    path: str = Field(min_length=1, description="file or folder, relative to the working directory")
    glob: str | None = Field(
        None, description='which files of the folder, such as "**/*.md"; default: the usual suffixes of text'
    )


VARIANTS = [
    Variant(
        slot="dataset",
        name="stdlib",
        target="foundry.data.corpora.stdlib:StandardLibrary",
        params=StdlibParams,
        summary="the interpreter's own Python sources: always there, offline",
    ),
    Variant(
        slot="dataset",
        name="text",
        target="foundry.data.corpora.text:TextFiles",
        params=TextParams,
        summary="a text file, or a folder of them",
    ),
]
