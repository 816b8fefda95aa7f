"""Texts of any size: prepared chunk by chunk, to the same ids as at once, in memory that does not follow their size."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.doses import SMALL

from foundry.core.contracts import InvalidData
from foundry.data.corpora import TextParams
from foundry.data.corpora.text import TextFiles
from foundry.data.params import DataParams
from foundry.data.prepare import Prepared, prepare
from foundry.data.split import PARTS, Part, SplitText
from foundry.data.tokenize import BPEParams, BPETokenizer, ByteTokenizer, CharTokenizer, borders
from foundry.data.tokenize.borders import chunks
from foundry.data.tokenize.pretrained import PretrainedTokenizer

KINDS = {
    "words": st.from_regex(r"[a-zé]{1,9}", fullmatch=True),
    "one word": st.integers(60, 300).map(lambda n: "ab" * (n // 2) + "c" * (n % 2)),
    "an apostrophe": st.sampled_from(["'s", "'LL", "''", "'", "don't've"]),
    "numbers": st.integers(1, 300).map(lambda n: "1234567890" * (n // 10) + "7" * (n % 10)),
    "blanks": st.integers(1, 200).map(lambda n: " " * n),
    "lines": st.sampled_from(["\n", "\r\n", "\n\n\n", " \n", "\n    ", "\t\n\t" * 40, "\n" * 200, "\r" * 9]),
    "signs": st.integers(1, 200).map(lambda n: "(-=" * (n // 3) + "_" * (n % 3)),
    "characters": st.text(max_size=30),
    "new characters": st.sampled_from(
        ["\U0001fae9", "\u1c89\u1c8a" * 50, "\x1c\x1f", "\u200d", "\u0301" * 9, "\u3000"]
    ),
}
TEXTS = st.lists(st.one_of(*KINDS.values()), max_size=40).map("".join)
SAMPLE = "the hen says: don't count 1234 eggs, ababab (ab-ab)!\n\n    said the hen's 'friend'\n" * 30 + " ".join(
    sign * n for n in range(1, 65) for sign in ("x", "0", "-", " ", "漢", "ab", "(-=", "7", "\n", "\r\n", "_", "\u0301")
)


@pytest.fixture(scope="module")
def bpe() -> BPETokenizer:
    tokenizer = BPETokenizer(420)
    tokenizer.fit(SAMPLE)
    return tokenizer


def _short(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(borders, "CHUNK", size)
    monkeypatch.setattr(borders, "NEAR", size)
    monkeypatch.setattr("foundry.data.tokenize.pretrained.IN_VIEW", size // 3)


def _cut_anywhere(text: str, places: Sequence[int]) -> Iterator[str]:
    ends = sorted({min(place, len(text)) for place in places} | {len(text)})
    for start, end in zip([0, *ends], ends, strict=False):
        yield text[start:end]


def _compare(tokenizer: Any, text: str, places: Sequence[int]) -> list[str]:
    cut = list(chunks(_cut_anywhere(text, places), tokenizer.border))
    assert "".join(cut) == text
    try:
        whole = tokenizer.encode(text)
    except InvalidData:
        assert text.startswith(" "), "a tokenizer that puts a blank there does not tell it from its own"
        return cut
    chunked = (tokenizer.encode_chunk(chunk, number > 0).tolist() for number, chunk in enumerate(cut))
    assert [i for ids in chunked for i in ids] == whole
    return cut


PLACES = st.lists(st.integers(0, 3000), max_size=8)


@settings(max_examples=40, deadline=None)
@given(TEXTS, PLACES, st.sampled_from([80, 150, 400]))
def test_a_text_in_chunks_has_the_ids_of_the_whole(
    bpe: BPETokenizer, text: str, places: Sequence[int], size: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _short(patch, size)
        _compare(bpe, text, places)
        _compare(ByteTokenizer(), text, places)


@pytest.mark.slow
@settings(max_examples=300 if SMALL else 3000, deadline=None)
@given(TEXTS, PLACES, st.integers(76, 500))
def test_a_text_in_chunks_has_the_ids_of_the_whole_at_length(
    bpe: BPETokenizer, text: str, places: Sequence[int], size: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _short(patch, size)
        _compare(bpe, text, places)


@pytest.mark.parametrize("text", ["x" * 5000, "0" * 5000, "-" * 5000, " " * 5000, "'s" + "x" * 5000, "漢" * 5000])
def test_an_endless_word_is_cut_too(bpe: BPETokenizer, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _short(monkeypatch, 400)
    assert max(map(len, _compare(bpe, text, range(0, 5000, 100)))) <= 600


def _pretrained(bpe: BPETokenizer, **changes: Any) -> PretrainedTokenizer:
    """A tokenizer.json with bpe's merges and another cut into words."""
    saved = {**json.loads(bpe.to_huggingface()["tokenizer.json"]), **changes}
    return PretrainedTokenizer({"tokenizer.json": json.dumps(saved)})


GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
SPLIT = {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False}
AHEAD = {**SPLIT, "pattern": {"Regex": r"\S+ \S+(?=[a-z ]{0,50}!)|\S+| "}}  # what comes later joins two words
WORDS_OF: dict[str, dict[str, Any]] = {
    "ours": {},
    "GPT-2": {"pre_tokenizer": GPT2},
    "Llama 3": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT, {**GPT2, "use_regex": False}]}},
    "GPT-2 with a blank before the text": {"pre_tokenizer": {**GPT2, "add_prefix_space": True}},
    "one that looks far ahead": {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [AHEAD, {**GPT2, "use_regex": False}]}
    },
    "none": {"pre_tokenizer": {**GPT2, "use_regex": False}},
}


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(list(WORDS_OF)), TEXTS, PLACES)
@example("one that looks far ahead", "", ())
def test_a_pretrained_tokenizer_gives_the_ids_of_the_whole(
    bpe: BPETokenizer, kind: str, text: str, places: Sequence[int]
) -> None:
    tokenizer = _pretrained(bpe, **WORDS_OF[kind])
    with pytest.MonkeyPatch.context() as patch:
        _short(patch, 300)
        _compare(tokenizer, text, places)
        called = "".join("!" if i % 100 == 5 else sign for i, sign in enumerate("said the hen " * 100))
        _compare(tokenizer, called, range(0, 1300, 100))
        cut = _compare(tokenizer, "said the hen. " * 100, range(0, 1400, 100))
    assert len(cut) == 1 if kind == "none" else max(map(len, cut)) < 600


def _documents(prepared: Prepared, part: Part) -> list[list[int]]:
    tokens = prepared.part(part)
    starts, lengths = tokens.documents[:-1], np.diff(tokens.documents)
    windows = tokens.windows(starts, lengths, int(lengths.max()))
    return [window[:length].tolist() for window, length in zip(windows, lengths, strict=True)]


@pytest.mark.parametrize("n_documents", [1, 30])
@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_a_prepared_corpus_is_that_of_whole_documents(
    kind: str, n_documents: int, bpe: BPETokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("texts").mkdir()
    texts = [SAMPLE[i * 7 :][: 200 if i % 3 else None] for i in range(n_documents)]
    texts[0] += " " * 300  # more than a part that none can see
    for i, text in enumerate(texts):
        Path(f"texts/{i:02d}.txt").write_bytes(text.encode())
    char = CharTokenizer()
    char.fit(texts)
    tokenizer = {"byte": ByteTokenizer(), "char": char, "bpe": bpe}[kind]
    data = DataParams(dataset=TextParams(path="texts"))
    whole = prepare(data, tokenizer=tokenizer)
    _short(monkeypatch, 300)
    monkeypatch.setattr("foundry.data.corpora.files.PART", 101)
    chunked = prepare(data.model_copy(update={"cache": "again"}), tokenizer=tokenizer)
    assert chunked.fingerprint == whole.fingerprint
    documents = [_documents(chunked, part) for part in PARTS]
    said = [tokenizer.decode(document) for part in documents for document in part]
    assert sorted("".join(said)) == sorted("".join(texts))


def test_only_the_first_mark_of_a_long_file_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foundry.data.corpora.files.PART", 6)
    Path("a.txt").write_text("\ufeffabc" + "\ufeffdef" * 3)
    [document] = TextFiles(TextParams(path="a.txt"), Path()).documents()
    assert "".join(document.parts()) == "abc" + "\ufeffdef" * 3


def test_where_a_long_file_is_not_utf8_its_byte_is_named() -> None:
    Path("a.txt").write_bytes("é".encode() * 2**20 + b"\xff" + b"x" * 2**20)
    with pytest.raises(InvalidData, match=rf"a\.txt: not UTF-8 at byte {2**21} \(0xff\)"):
        prepare(DataParams(dataset=TextParams(path="a.txt")))
    Path("a.txt").write_bytes(b"x" * 2**21 + b"\0")
    with pytest.raises(InvalidData, match=rf"a\.txt: not text: byte {2**21} is NUL"):
        prepare(DataParams(dataset=TextParams(path="a.txt")))
    Path("a.txt").write_bytes(b"x" * (2**21 - 1) + "é".encode()[:1])
    with pytest.raises(InvalidData, match=rf"a\.txt: not UTF-8 at byte {2**21 - 1} \(0xc3\)"):
        prepare(DataParams(dataset=TextParams(path="a.txt")))


def test_where_a_tokenizer_lacks_a_character_the_chunk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _short(monkeypatch, 100)
    monkeypatch.setattr("foundry.data.corpora.files.PART", 50)
    char = CharTokenizer()
    char.fit("x")
    Path("a.txt").write_text("x" * 250 + "y" + "x" * 249)
    with pytest.raises(InvalidData, match=r"a\.txt, from character 200 on: .* lacks 'y' .*, character 50 of"):
        prepare(DataParams(dataset=TextParams(path="a.txt")), tokenizer=char)


def test_merges_are_learned_from_as_many_pieces_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a text that goes on with new words, a part from everywhere; of one that repeats itself, all."""
    monkeypatch.setattr(borders, "CHUNK", 1000)
    monkeypatch.setattr("foundry.data.corpora.files.PART", 500)
    for name, value in (("UNCOUNTED", 5000), ("A_TURN", 20_000), ("DIFFERENT", 4000)):
        monkeypatch.setattr(f"foundry.data.tokenize.bpe.{name}", value)
    learned: list[str] = []
    monkeypatch.setattr(BPETokenizer, "fit", lambda _, corpus: learned.extend(corpus))

    def learn(text: str) -> list[str]:
        Path("text.txt").write_text(text)
        learned.clear()
        BPETokenizer.learn(BPEParams(), SplitText(TextFiles(TextParams(path="text.txt"), Path()), 0.1))
        return learned

    old = "the same words over and over\n" * 8000
    assert sorted("".join(learn(old))) == sorted(old[: len(old) * 9 // 10])
    new = " ".join(f"w{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}{chr(97 + i // 676)}" for i in range(15_000))
    read = learn(new)
    assert 4000 <= sum(map(len, read)) < 10_000
    assert new.index(read[-1]) > 2 * sum(map(len, read))


PROGRAM = """
import sys
from pathlib import Path
from foundry.data.corpora import TextParams
from foundry.data.params import DataParams
from foundry.data.prepare import prepare
from foundry.data.tokenize import load_tokenizer
def held(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024
tokenizer = load_tokenizer("tokenizer.json")
tokenizer.encode("the hen")
before = held("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
prepare(DataParams(dataset=TextParams(path="text.txt")), tokenizer=tokenizer)
print(held("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
@pytest.mark.parametrize("kind", ["byte", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("char", "bpe"))])
def test_memory_does_not_follow_the_text(kind: str, bpe: BPETokenizer) -> None:
    """8 MB without a line's end took 10 to 15 times as much."""
    char = CharTokenizer()
    char.fit("the hen says it ")
    {"byte": ByteTokenizer(), "char": char, "bpe": bpe}[kind].save("tokenizer.json")
    Path("text.txt").write_text("the hen says it " * 2**19)
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert float(ran.stdout) < 40, f"{ran.stdout} MB"
