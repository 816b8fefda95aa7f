"""Rows: every target once, never across documents, and row k a pure function of (fingerprint, seed, k)."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from foundry.core.contracts import Batch, InvalidData
from foundry.data.corpora import Document, TextParams
from foundry.data.feistel import permute
from foundry.data.params import DataParams
from foundry.data.rows import CutRows, TrainingRows, open_data
from foundry.data.shards import SCHEMA, PartWriter, TokenPart, read_manifest, write_manifest
from foundry.data.split import SplitText
from foundry.data.storage import hash_of
from foundry.data.tokenize import BPEParams, CharParams

pytestmark = pytest.mark.quick


def _folder_of(n: int, folder: str = "texts") -> TextParams:
    Path(folder).mkdir(exist_ok=True)
    for i in range(n):
        Path(folder, f"{i:02d}.txt").write_text(f"document {i}, " + "and so on " * (7 * i % 13) + "é\n")
    return TextParams(path=folder)


def _open(dataset: TextParams, block_size: int = 16, seed: int = 1, **data: object) -> TrainingRows:
    rows = open_data(DataParams(dataset=dataset, **data), block_size=block_size, seed=seed)  # type: ignore[arg-type]
    assert isinstance(rows, TrainingRows)
    return rows


def _pairs(batch: Batch) -> list[tuple[int, int]]:
    return [
        (int(token), int(target))
        for token, target, weight in zip(batch.tokens.flat, batch.targets.flat, batch.loss_weight.flat, strict=True)
        if weight
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 17), st.integers(1, 50))
def test_each_target_of_each_document_is_in_exactly_one_row(
    lengths: list[int], block_size: int, shard_tokens: int
) -> None:
    documents, tokens = [], iter(range(1, 10_000))  # every token of the corpus is another
    with tempfile.TemporaryDirectory() as name:
        writer = PartWriter(Path(name), "train", np.dtype("<u2"), shard_tokens)
        for length in lengths:
            documents.append([next(tokens) for _ in range(length)])
            writer.add([np.array(documents[-1], dtype=np.int64)])
        data = {"dtype": "<u2", "parts": {"train": writer.close()}}
        write_manifest(Path(name), {"schema": SCHEMA, "fingerprint": hash_of(data), "data": data})
        assert read_manifest(Path(name))["data"] == data  # as it is on disk, though shards were cut
        assert all(data["parts"]["train"]["shards"]) or 0 in lengths  # a document of nothing may have a shard alone
        part = TokenPart(Path(name), "train", data)
        rows = CutRows(part, block_size)
        batch = rows.batch(0, len(rows))
    wanted = [pair for document in documents for pair in itertools.pairwise(document)]
    assert _pairs(batch) == wanted
    assert rows.tokens == len(wanted)
    # A row stays in one document: what is a target is one more than its token, and padding ends the row.
    assert (batch.tokens[batch.loss_weight == 0] * batch.targets[batch.loss_weight == 0] == 0).all()
    assert (np.diff(batch.loss_weight, axis=1) <= 0).all()
    # Of a document's tokens all are in the rows but the last, where its row is full.
    ends = [len(document) - 1 for document in documents if len(document) > 1]
    assert batch.is_token.sum() == sum(end + (end % block_size > 0) for end in ends)
    assert batch.is_token[batch.loss_weight > 0].all()


def test_the_tokens_of_rows_are_known_without_reading_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foundry.data.rows.ORDER_CHUNK", 7)
    rows = _open(_folder_of(30))
    assert rows.tokens_per_epoch < rows.rows_per_epoch * 16
    supervised = rows.batch(0, 3 * rows.rows_per_epoch).loss_weight.sum(axis=1).astype(int).tolist()
    for cursor in [*range(3 * rows.rows_per_epoch), 5, rows.rows_per_epoch + 1, 0]:
        assert rows.tokens_before(cursor) == sum(supervised[:cursor])
    assert rows.tokens_before(10**12 * rows.rows_per_epoch) == 10**12 * rows.tokens_per_epoch
    assert rows.validation.tokens == rows.validation.batch(0, len(rows.validation)).loss_weight.sum()


def test_an_epoch_gives_each_document_whole_in_another_order_than_the_next() -> None:
    rows = _open(_folder_of(30))
    bos = rows.tokenizer.special_tokens["bos"]
    n = rows.rows_per_epoch
    epochs = [rows.batch(e * n, (e + 1) * n) for e in range(3)]
    in_order = rows._rows.batch(0, n)
    for epoch in epochs:
        assert sorted(_pairs(epoch)) == sorted(_pairs(in_order))
        assert len(_pairs(epoch)) == rows.tokens_per_epoch == epoch.loss_weight.sum()
        assert epoch.tokens.tolist() != in_order.tokens.tolist()
    assert epochs[0].tokens.tolist() != epochs[1].tokens.tolist() != epochs[2].tokens.tolist()
    texts = {path.read_text() for path in Path("texts").iterdir()}
    validation = rows.validation.batch(0, len(rows.validation))
    assert sorted(_texts(in_order, bos, rows) + _texts(validation, bos, rows)) == sorted(texts)
    # What ends a document is its last target.
    eos = rows.tokenizer.special_tokens["eos"]
    ends = [target for _, target in _pairs(in_order) + _pairs(validation)]
    assert ends.count(eos) == len(texts)
    assert not {eos} & set(in_order.tokens[in_order.loss_weight > 0])


def test_the_seed_and_nothing_else_decides_the_order() -> None:
    dataset = _folder_of(30)
    first, same, other = (_open(dataset, seed=seed) for seed in (1, 1, 2))
    n = first.rows_per_epoch
    assert first.fingerprint == same.fingerprint == other.fingerprint  # of what is trained on, not of its order
    orders = [[row.tobytes() for row in rows.batch(0, n).tokens] for rows in (first, same, other)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])
    assert _open(dataset, block_size=8).fingerprint != first.fingerprint


def test_a_file_system_that_maps_nothing_gives_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(19, "No such device")

    dataset = _folder_of(30)
    mapped = _open(dataset).batch(0, 20)
    monkeypatch.setattr(np, "memmap", refused)
    assert (_open(dataset).batch(0, 20).tokens == mapped.tokens).all()


def _texts(batch: Batch, bos: int, rows: TrainingRows) -> list[str]:
    """The documents that rows in the order of the text spell."""
    documents: list[list[int]] = []
    for token, target in _pairs(batch):
        if token == bos:
            documents.append([])
        documents[-1].append(target)
    return [rows.tokenizer.decode(document) for document in documents]


@given(st.integers(1, 3000), st.text(max_size=5))
def test_the_shuffle_is_a_permutation(size: int, key: str) -> None:
    assert sorted(permute(np.arange(size), size, key).tolist()) == list(range(size))


def test_the_shuffle_takes_any_place_to_any_other() -> None:
    # 40 cells, 2000 keys: chi-square with 39 degrees of freedom exceeds 90 with p < 1e-5 if the keys did their work.
    size, keys = 40, 2000
    for place in (0, 17, 39):
        counts = np.bincount(
            [int(permute(np.array([place]), size, f"key {k}")[0]) for k in range(keys)], minlength=size
        )
        assert ((counts - keys / size) ** 2 / (keys / size)).sum() < 90


def test_the_shuffle_of_a_huge_corpus_needs_no_memory() -> None:
    size = 10**12
    places = permute(np.array([0, 1, size - 1]), size, "key")
    assert len(set(places.tolist())) == 3
    assert ((places >= 0) & (places < size)).all()


def test_the_order_is_the_one_that_runs_were_saved_with() -> None:
    assert permute(np.arange(8), 8, "k").tolist() == [2, 5, 4, 7, 3, 1, 6, 0]
    assert permute(np.arange(16), 16, "k").tolist() == [14, 8, 4, 13, 15, 1, 10, 12, 5, 9, 6, 2, 0, 7, 11, 3]
    assert permute(np.arange(3), 10**9, "k").tolist() == [10623061, 806747538, 352247349]


def test_a_batch_is_its_rows_however_they_are_asked_for() -> None:
    rows = _open(_folder_of(30))
    n = 3 * rows.rows_per_epoch
    whole = rows.batch(0, n)
    shuffled = np.random.default_rng(0).permutation(n)
    taken = rows.take(shuffled)
    ranks = [rows.take(np.arange(rank, n, 3)) for rank in range(3)]
    for field in ("tokens", "targets", "loss_weight"):
        all_rows = getattr(whole, field)
        pieces = [getattr(rows.batch(k, min(k + 7, n)), field) for k in range(0, n, 7)]
        assert (np.concatenate(pieces) == all_rows).all()
        assert (getattr(taken, field) == all_rows[shuffled]).all()
        assert all((getattr(ranks[rank], field) == all_rows[rank::3]).all() for rank in range(3))
    assert (whole.tokens.dtype, whole.targets.dtype, whole.loss_weight.dtype) == (np.int64, np.int64, np.float32)


def test_another_process_with_a_cache_of_its_own_sees_the_same_rows_and_writes_the_same_shards(cache: Path) -> None:
    dataset = _folder_of(30)
    program = (
        "import sys, hashlib; from foundry.data.rows import open_data; from foundry.data.params import DataParams\n"
        "from foundry.data.corpora import TextParams; from foundry.data.tokenize import BPEParams\n"
        "data = DataParams(dataset=TextParams(path='texts'), tokenizer=BPEParams(vocab_size=270))\n"
        "rows = open_data(data, block_size=16, seed=5); batch = rows.batch(10, 200)\n"
        "print(rows.fingerprint, hashlib.sha256(b''.join(a.tobytes() for a in batch[:3])).hexdigest())\n"
        "assert 'torch' not in sys.modules"
    )
    other = cache.with_name("other")
    ran = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "FOUNDRY_CACHE": str(other)}, capture_output=True, text=True
    )
    rows = _open(dataset, seed=5, tokenizer=BPEParams(vocab_size=270))
    digest = hashlib.sha256(b"".join(array.tobytes() for array in rows.batch(10, 200)[:3])).hexdigest()
    assert ran.stdout.split() == [rows.fingerprint, digest], ran.stderr
    ours, theirs = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (cache, other)
    )
    assert ours == theirs


def test_a_kept_tokenizer_gives_the_same_rows_as_the_one_that_was_asked_for() -> None:
    dataset = _folder_of(30)
    rows = _open(dataset, tokenizer=CharParams())
    again = open_data(DataParams(dataset=dataset), block_size=16, seed=1, tokenizer=rows.tokenizer)
    assert again.fingerprint == rows.fingerprint


def test_validation_gives_each_target_once_and_a_short_last_batch() -> None:
    validation = _open(_folder_of(30), block_size=8).validation
    pieces = [validation.batch(i, i + 3) for i in range(0, len(validation) + 3, 3)]
    assert sum(len(piece.tokens) for piece in pieces) == len(validation)
    assert sum(piece.loss_weight.sum() for piece in pieces) == validation.tokens


# The split.


def test_an_added_document_moves_no_other_and_a_copy_stays_on_its_side() -> None:
    def sides() -> tuple[set[str], set[str]]:
        rows = _open(TextParams(path="texts"))
        bos = rows.tokenizer.special_tokens["bos"]
        train = _texts(rows._rows.batch(0, rows.rows_per_epoch), bos, rows)
        return set(train), set(_texts(rows.validation.batch(0, len(rows.validation)), bos, rows))

    _folder_of(40)
    train, validation = sides()
    assert train
    assert validation
    for i, text in enumerate([*train, *validation, "a new document\n"]):
        Path("texts", f"copy {i}.txt").write_text(text)
    more_train, more_validation = sides()
    assert train <= more_train
    assert validation <= more_validation
    assert not more_train & more_validation


class _Texts:
    """A dataset of these texts, each in parts of two characters."""

    fingerprint = ""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def documents(self) -> Iterator[Document]:
        for text in self.texts:
            yield Document(text[:3], (text[i : i + 2] for i in range(0, len(text), 2)))


@settings(max_examples=200)
@given(st.lists(st.text("ab \n", max_size=6), min_size=1, max_size=30), st.floats(0.001, 0.999))
@example([f"text {i}" for i in range(20)], 0.5)
@example([f"text {i}" for i in range(19)], 0.5)
@example([f"text {i}" for i in range(200)], 0.001)
@example([f"text {i}" for i in range(200)], 0.999)
def test_what_is_held_out_is_told_by_the_texts_alone(texts: list[str], val_fraction: float) -> None:
    """From twenty documents on by the hash of each, else at one place; a blank document is none."""
    seen = [text for text in texts if text.strip()]
    split = SplitText(_Texts(texts), val_fraction)
    if not seen:
        with pytest.raises(InvalidData, match="the corpus is empty"):
            list(split.pieces())
        return
    found = [(piece.part, "".join(piece.parts), piece.start, piece.ends_document) for piece in split.pieces()]
    if len(seen) >= 20:
        numbers = {text: int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") for text in seen}
        smallest, largest = min(seen, key=numbers.__getitem__), max(seen, key=numbers.__getitem__)
        held = {text for text in seen if numbers[text] < val_fraction * 2**64} - {largest} | {smallest}
        training = [0 if text in held else len(text) for text in seen]
    else:
        left = int(sum(map(len, seen)) * (1 - val_fraction))
        starts = itertools.accumulate(map(len, seen), initial=0)
        training = [min(len(text), max(0, left - start)) for text, start in zip(seen, starts, strict=False)]
    wanted = []
    for text, size in zip(seen, training, strict=True):
        wanted += [("train", text[:size], 0, size == len(text))] if size else []
        wanted += [("validation", text[size:], size, True)] if size < len(text) else []
    assert found == wanted
    held_out = ("".join(piece.parts) for piece in split.pieces() if piece.part == "validation")  # the rest is not read
    assert [*held_out] == [text for part, text, *_ in wanted if part == "validation"]
    assert (split.documents, split.characters) == (len(seen), sum(map(len, seen)))


@pytest.mark.parametrize("length", [1004, 1005, 1006])  # where to round would be elsewhere
def test_a_single_text_is_split_where_nanogpt_splits_it(length: int) -> None:
    text = "".join(chr(97 + i * i % 26) for i in range(length))
    Path("a.txt").write_text(text)
    rows = _open(TextParams(path="a.txt"), block_size=10)
    n = int(len(text) * 0.9)
    train = [target for _, target in _pairs(rows._rows.batch(0, rows.rows_per_epoch))]
    assert rows.tokenizer.decode(train) == text[:n]
    assert rows.tokenizer.special_tokens["eos"] not in train  # the text goes on
    validation = _pairs(rows.validation.batch(0, len(rows.validation)))
    assert rows.tokenizer.special_tokens["bos"] not in {token for token, _ in validation}  # nor does it begin anew
    assert rows.tokenizer.decode([validation[0][0]] + [target for _, target in validation]) == text[n:]
    assert validation[-1][1] == rows.tokenizer.special_tokens["eos"]


def test_a_character_that_only_the_held_out_text_has_is_spelled_too() -> None:
    Path("a.txt").write_text("ab" * 50 + "z")
    rows = _open(TextParams(path="a.txt"), tokenizer=CharParams())
    _, target = _pairs(rows.validation.batch(0, len(rows.validation)))[-2]
    assert rows.tokenizer.decode([target]) == "z"


def test_a_text_of_one_row_is_enough() -> None:
    Path("a.txt").write_text("x" * 100)
    rows = _open(TextParams(path="a.txt"), block_size=90)  # behind its bos
    assert (rows.rows_per_epoch, rows.tokens_per_epoch) == (1, 90)
    with pytest.raises(InvalidData, match=r"has 90 tokens, fewer than one row of model_args\.block_size = 91"):
        _open(TextParams(path="a.txt"), block_size=91)


# What a checkpoint holds.


def test_the_state_is_small_json_and_says_where_to_go_on() -> None:
    rows = _open(_folder_of(30))
    state = json.loads(json.dumps(rows.state(10**12)))
    assert len(json.dumps(state)) < 1024
    assert rows.resume(state) == 10**12
    assert state["epoch"] == 10**12 // rows.rows_per_epoch


def test_resuming_with_other_data_names_the_first_difference() -> None:
    dataset = _folder_of(30)
    state = _open(dataset).state(5)
    with pytest.raises(InvalidData, match="the seed changed: seed was 1, is 2"):
        _open(dataset, seed=2).resume(state)
    with pytest.raises(InvalidData, match="block_size changed: block_size was 16, is 8"):
        _open(dataset, block_size=8).resume(state)
    with pytest.raises(InvalidData, match="the tokenizer changed"):
        _open(dataset, tokenizer=CharParams()).resume(state)
    with pytest.raises(InvalidData, match="the text or its split changed"):
        _open(dataset, val_fraction=0.3).resume(state)
    Path("texts/00.txt").write_text("something else")
    with pytest.raises(InvalidData, match="the text or its split changed"):
        _open(dataset).resume(state)
    with pytest.raises(InvalidData, match="the form of the loader's state changed"):
        _open(dataset).resume({})
