"""The plays of Shakespeare in one text of 1 115 394 characters, as char-rnn and nanoGPT use it.

With `tokenizer: char` and val_fraction 0.1, the split is nanoGPT's: the first 1 003 854 characters are for training.
"""

from __future__ import annotations

from pathlib import Path

from foundry.core.contracts import InvalidData
from foundry.core.system import user_path
from foundry.data.corpora import ShakespeareCharParams
from foundry.data.corpora.download import download
from foundry.data.corpora.files import FileDocuments


class ShakespeareChar(FileDocuments):
    def __init__(self, params: ShakespeareCharParams, cache: Path) -> None:
        if params.path is None:
            file = download(params.url, params.sha256, cache / "downloads" / f"shakespeare-{params.sha256[:16]}.txt")
        else:
            file = user_path(params.path)
        super().__init__([("shakespeare", file)])
        if self.digests != [params.sha256]:
            raise InvalidData(
                f"{file}: its sha256 is {self.digests[0]}, not {params.sha256}",
                "train on another text with dataset: {type: text, path: FILE}",
            )
