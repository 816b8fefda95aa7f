"""The slot `dataset`: one file per kind of corpus. This file imports neither torch nor numpy.

A dataset yields documents. A document is the unit of everything that follows: rows
never cross it, and the validation split never cuts it where there are enough of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from pydantic import Field

from foundry.core.contracts import Params, Variant

PART = 2**20
"""Characters of a text that are held at once: what follows needs some hundred bytes for each."""


class Document(NamedTuple):
    """A text with a name: whole, or, where it may be too long to be held, in parts that follow each other and are read
    once."""

    name: str
    text: str | Iterable[str]

    def parts(self) -> Iterator[str]:
        """The text in parts of any length, few of them longer than PART."""
        if isinstance(self.text, str):
            yield from (self.text[start : start + PART] for start in range(0, len(self.text), PART))
        else:
            yield from self.text


class Dataset(Protocol):
    """Slot `dataset`; built as `target(params, cache)`, where `cache` is the folder to keep downloads in."""

    @property
    def fingerprint(self) -> str:
        """sha256 over the content of every document, in order. Cheap: it is asked for at every start."""

    def documents(self) -> Iterator[Document]:
        """The documents, the same in every pass; each is read before the next is asked for. Raises InvalidData, then
        or when a part is read, for text that is not."""


class StdlibParams(Params):
    """The sources of this interpreter's own standard library."""


class TextParams(Params):
    """A text file, the text files of a folder, or those that a pattern names; one document per file."""

    path: str = Field(
        min_length=1,
        description='file, folder or pattern ("notes/**/*.md"), relative to the working directory; .gz is unpacked',
    )
    glob: str | None = Field(
        None, description='which files of the folder, such as "**/*.md"; default: the usual suffixes of text'
    )

    @classmethod
    def of_text(cls, text: str) -> Mapping[str, Any] | None:
        """What looks like a path: a word alone may be a name that is misspelt."""
        return {"path": text} if {*"./*~"} & {*text} else None


class ShakespeareCharParams(Params):
    """The plays of Shakespeare, as char-rnn and nanoGPT train on them. `sha256` says what the text is, wherever it
    comes from."""

    sha256: str = Field(
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        pattern="^[0-9a-f]{64}$",
        description="hash of the file",
    )
    url: str = Field(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        pattern="^https?://",
        description="where it is downloaded from, once",
        json_schema_extra={"identity": False},
    )
    path: str | None = Field(
        None, description="a copy of the file, instead of a download", json_schema_extra={"identity": False}
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
        name="shakespeare_char",
        target="foundry.data.corpora.shakespeare_char:ShakespeareChar",
        params=ShakespeareCharParams,
        summary="1.1 MB of Shakespeare's plays, the field's smallest common benchmark; downloaded once",
        reference="https://karpathy.github.io/2015/05/21/rnn-effectiveness/",
    ),
    Variant(
        slot="dataset",
        name="text",
        target="foundry.data.corpora.text:TextFiles",
        params=TextParams,
        summary="text of your own: a file, a folder or a pattern; its path alone chooses it",
    ),
]
