"""Rows of block_size tokens, as the trainer reads them: row k is a pure function of (fingerprint, seed, k).

A document is its `bos`, its tokens and its `eos`, cut into rows of T targets; its last row is filled up with padding
whose loss_weight is 0. So each token but the first of a document is a target exactly once per epoch, also what ends it,
and no row crosses two documents: with causal attention, nothing that counts ever sees the padding or a neighbour.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from foundry.core.contracts import Batch, InvalidData, Rows, Tokenizer
from foundry.data.feistel import permute
from foundry.data.params import DataParams
from foundry.data.prepare import Prepared, prepare
from foundry.data.shards import TokenPart

STATE_SCHEMA = 1
ORDER_CHUNK = 1024
"""How many places of the shuffle are computed at once: 0.5 ms, where those of one batch by themselves take 0.2 ms."""


def open_data(
    params: DataParams,
    *,
    block_size: int,
    seed: int,
    tokenizer: Tokenizer | None = None,
    progress: Callable[[str], None] | None = None,
) -> Rows:
    """Prepare the corpus of `params` if that was not done yet, and open it.

    Raises:
        InvalidData: the text cannot be used, or is too short for one row.
        EnvironmentFailure: the cache cannot be written.
    """
    return TrainingRows(prepare(params, tokenizer=tokenizer, progress=progress), block_size, seed)


class CutRows:
    """The rows of one part of a corpus, in the order of its text."""

    def __init__(self, part: TokenPart, block_size: int) -> None:
        self._part = part
        self._block_size = block_size
        targets = np.maximum(np.diff(part.documents) - 1, 0)  # of each document
        self.tokens = int(targets.sum())
        self._first_row = np.concatenate([[0], np.cumsum(-(-targets // block_size))])  # of each document

    def __len__(self) -> int:
        return int(self._first_row[-1])

    def batch(self, start: int, stop: int) -> Batch:
        """Rows start..stop-1, those that exist: the last batch may be short, as a slice may be."""
        return self.take(np.arange(start, min(stop, len(self))))

    def take(self, rows: np.ndarray) -> Batch:
        """The rows with these numbers, (B,) integers in 0..len(self)-1."""
        starts, lengths = self._places(rows)
        windows = self._part.windows(starts, lengths, self._block_size + 1)
        places = np.arange(self._block_size)
        weight = (places < (lengths - 1)[:, None]).astype(np.float32)
        tokens, targets = np.ascontiguousarray(windows[:, :-1]), np.ascontiguousarray(windows[:, 1:])
        return Batch(tokens, targets, weight, is_token=places < lengths[:, None])

    def tokens_of(self, rows: np.ndarray) -> np.ndarray:
        """Supervised tokens of each of these rows, (B,)."""
        _, lengths = self._places(rows)
        return lengths - 1

    def _places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each row begins in the part, and its length with the target of its last token, both (B,)."""
        document = np.searchsorted(self._first_row, rows, side="right") - 1
        starts = self._part.documents[document] + (rows - self._first_row[document]) * self._block_size
        return starts, np.minimum(self._part.documents[document + 1] - starts, self._block_size + 1)


class TrainingRows:
    """The rows of the training text, shuffled anew each epoch. A `foundry.core.contracts.Rows`."""

    def __init__(self, prepared: Prepared, block_size: int, seed: int) -> None:
        self._prepared = prepared
        self._block_size = block_size
        self._seed = seed
        self._order = lru_cache(maxsize=4)(self._order_of)
        self._counted = 0, [0]  # an epoch, and its tokens before every ORDER_CHUNK-th place, as far as it was asked
        self._rows = CutRows(prepared.part("train"), block_size)
        self.validation = CutRows(prepared.part("validation"), block_size)
        self.tokenizer = prepared.tokenizer
        self._refuse_too_little()
        self.rows_per_epoch = len(self._rows)
        self.tokens_per_epoch = self._rows.tokens
        plan = f"rows {STATE_SCHEMA}/{prepared.fingerprint}/{block_size}"
        self.fingerprint = hashlib.sha256(plan.encode()).hexdigest()

    def _refuse_too_little(self) -> None:
        if self._rows.tokens < self._block_size:
            raise InvalidData(
                f"the training text has {self._rows.tokens} tokens, fewer than one row of "
                f"model_args.block_size = {self._block_size}",
                f"give it more text, or set block_size to at most {self._rows.tokens}",
            )
        ends = self._prepared.manifest["data"]["parts"]["validation"]["documents"]
        if self.validation.tokens <= (ends if "eos" in self.tokenizer.special_tokens else 0):
            val_fraction = self._prepared.manifest["origin"]["val_fraction"]
            raise InvalidData(
                f"data.val_fraction: {val_fraction} leaves no token to validate on",
                "give it more text, or a larger val_fraction",
            )

    def batch(self, start: int, stop: int) -> Batch:
        return self.take(np.arange(start, stop))

    def take(self, indices: np.ndarray) -> Batch:
        chunks, places = np.divmod(indices, ORDER_CHUNK)
        rows = np.empty_like(places)
        for chunk in set(chunks.tolist()):
            here = chunks == chunk
            rows[here] = self._order(chunk)[places[here]]
        return self._rows.take(rows)

    def _order_of(self, chunk: int) -> np.ndarray:
        """Which rows of the text the ORDER_CHUNK rows from k = chunk * ORDER_CHUNK on are."""
        epochs, places = np.divmod(np.arange(ORDER_CHUNK) + chunk * ORDER_CHUNK, self.rows_per_epoch)
        rows = np.empty_like(places)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            rows[here] = self._permuted(epoch, places[here])
        return rows

    def _permuted(self, epoch: int, places: np.ndarray) -> np.ndarray:
        return permute(places, self.rows_per_epoch, f"{self.fingerprint}/{self._seed}/{epoch}")

    def tokens_before(self, cursor: int) -> int:
        epoch, place = divmod(cursor, self.rows_per_epoch)
        if self._counted[0] != epoch:
            self._counted = epoch, [0]
        _, sums = self._counted
        while (start := (len(sums) - 1) * ORDER_CHUNK) + ORDER_CHUNK <= place:
            sums.append(sums[-1] + self._tokens_between(epoch, start, start + ORDER_CHUNK))
        chunk = place // ORDER_CHUNK
        behind = self._tokens_between(epoch, chunk * ORDER_CHUNK, place)
        return epoch * self.tokens_per_epoch + sums[chunk] + behind

    def _tokens_between(self, epoch: int, start: int, stop: int) -> int:
        """Supervised tokens in some rows of an epoch, by their places in it."""
        return int(self._rows.tokens_of(self._permuted(epoch, np.arange(start, stop))).sum())

    def state(self, cursor: int) -> dict[str, Any]:
        return {
            "schema": STATE_SCHEMA,
            "cursor_rows": cursor,
            "epoch": cursor // self.rows_per_epoch,
            "seed": self._seed,
            "tokenizer_hash": self.tokenizer.hash,
            "data_hash": self._prepared.fingerprint,
            "block_size": self._block_size,
            "plan_hash": self.fingerprint,
        }

    def resume(self, state: Mapping[str, Any]) -> int:
        for key, what in (
            ("schema", "the form of the loader's state"),
            ("tokenizer_hash", "the tokenizer"),
            ("data_hash", "the text or its split"),
            ("block_size", "model_args.block_size"),
            ("seed", "the seed"),
            ("plan_hash", "the cut of the text into rows"),
        ):
            now = self.state(0)[key]
            if state.get(key) != now:
                raise InvalidData(
                    f"the data is not what this run was trained on: {what} changed: {key} was {state.get(key)}, "
                    f"is {now}",
                    "restore it, or start a new run",
                )
        return int(state["cursor_rows"])
