"""Tokenizers: what goes in comes out, control tokens never come from text, damage is refused."""

from __future__ import annotations

import itertools
import re
import sysconfig
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry.core.contracts import EnvironmentFailure, InvalidData
from foundry.data.storage import hash_of
from foundry.data.tokenize import BPETokenizer, ByteTokenizer, CharTokenizer, load_tokenizer
from foundry.data.tokenize.bpe import PIECES

TEXT = (Path(sysconfig.get_path("stdlib")) / "argparse.py").read_text(encoding="utf-8") + "naïve café — 你好 🙂\n"
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def _bpe(vocab_size: int = 600) -> BPETokenizer:
    tokenizer = BPETokenizer(vocab_size=vocab_size)
    tokenizer.fit(TEXT)
    return tokenizer


def _char(text: str) -> CharTokenizer:
    tokenizer = CharTokenizer()
    tokenizer.fit(text)
    return tokenizer


BPE = _bpe()


@given(ANY_TEXT)
def test_decode_undoes_encode_and_bytes_are_counted(text: str) -> None:
    for tokenizer in (ByteTokenizer(), BPE, _char(text)):
        ids = tokenizer.encode(text)
        assert ids == tokenizer.encode_array(text).tolist()
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode_bytes(ids) == text.encode()
        assert tokenizer.bytes_of(ids) == tokenizer.bytes_of(np.array(ids)) == len(text.encode())


@given(st.lists(st.one_of(st.sampled_from(["<|bos|>", "bos", "<s>", "<|endoftext|>", "<|", "|>"]), ANY_TEXT)))
def test_no_text_spells_a_special_token(parts: list[str]) -> None:
    text = "".join(parts)
    for tokenizer in (ByteTokenizer(), BPE, _char(text)):
        assert set(tokenizer.special_tokens.values()).isdisjoint(tokenizer.encode(text))


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE, _char(TEXT)], ids=lambda t: t.type)
def test_special_tokens_stand_for_no_text(tokenizer: ByteTokenizer) -> None:
    bos, eos = tokenizer.special_tokens["bos"], tokenizer.special_tokens["eos"]
    assert (bos, eos) == (tokenizer.vocab_size - 2, tokenizer.vocab_size - 1)
    assert (tokenizer.prefix, tokenizer.stops) == ((bos,), (eos,))
    assert tokenizer.decode([bos, *tokenizer.encode("ab"), eos]) == "ab"
    assert tokenizer.bytes_of([bos, eos]) == 0
    for number in (eos + 1, -1):
        with pytest.raises(InvalidData, match=f"id {number} is not"):
            tokenizer.decode([bos, number])


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE], ids=lambda t: t.type)
def test_half_a_surrogate_pair_is_refused_with_its_place(tokenizer: ByteTokenizer) -> None:
    with pytest.raises(InvalidData, match=r"character 2 is U\+D83D"):
        tokenizer.encode("ab\ud83d")


def test_half_a_surrogate_pair_is_not_learned() -> None:
    for tokenizer in (CharTokenizer(), BPETokenizer(258)):
        with pytest.raises(InvalidData, match=r"U\+D83D"):
            tokenizer.fit(["fine", "ab\ud83d"])


def test_an_unknown_character_is_named_with_its_code_point_and_place() -> None:
    with pytest.raises(InvalidData, match=r"lacks 'é' \(U\+00E9\), character 3 of"):
        _char("abcf ").encode("café")


def test_the_characters_are_sorted_so_that_the_order_of_the_text_does_not_matter() -> None:
    assert _char("cab").hash == _char("abcabc").hash
    assert _char("cab").encode("abc") == [0, 1, 2]


# BPE against a reference in plain Python.


def _reference_merges(text: str, n_merges: int) -> list[bytes]:
    """The textbook algorithm: count all pairs anew for each merge; ties go to the pair of smallest ids."""
    spelling = [bytes([byte]) for byte in range(256)]
    pieces = [list(piece.encode()) for piece in regex.findall(PIECES, text)]
    while len(spelling) < 256 + n_merges:
        counts = Counter(pair for piece in pieces for pair in itertools.pairwise(piece))
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        pieces = [_merged(piece, best, len(spelling)) for piece in pieces]
        spelling.append(spelling[best[0]] + spelling[best[1]])
    return spelling


def _merged(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    merged: list[int] = []
    for token in ids:
        if merged and (merged[-1], token) == pair:
            merged[-1] = new
        else:
            merged.append(token)
    return merged


def _reference_encode(spelling: list[bytes], text: str) -> list[int]:
    rank = {token: i for i, token in reversed(list(enumerate(spelling)))}
    ids = []
    for piece in regex.findall(PIECES, text):
        parts = [bytes([byte]) for byte in piece.encode()]
        while len(parts) > 1:
            joined = [rank.get(a + b, len(spelling)) for a, b in itertools.pairwise(parts)]
            i = joined.index(min(joined))
            if joined[i] == len(spelling):
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        ids += [rank[part] for part in parts]
    return ids


def test_bpe_learns_the_reference_s_merges() -> None:
    corpus = TEXT[:10_000] + TEXT[-30:]
    tokenizer = BPETokenizer(400)
    tokenizer.fit(corpus)
    assert list(tokenizer.spelling) == _reference_merges(corpus, 400 - 256 - 2)


@settings(max_examples=50, deadline=None)
@given(st.text("abc .\n_1é", min_size=1, max_size=200), ANY_TEXT)
def test_bpe_of_random_text_is_the_reference_s(corpus: str, text: str) -> None:
    possible = _reference_merges(corpus, 10)
    tokenizer = BPETokenizer(len(possible) + 2)
    tokenizer.fit(corpus)
    assert tokenizer.encode(corpus + text) == _reference_encode(list(tokenizer.spelling), corpus + text)


@given(ANY_TEXT)
def test_the_pieces_of_a_text_lose_nothing_and_are_short(text: str) -> None:
    for candidate in (text, text * 100, "_" * 1000 + text, " " * 1000 + text, "a" * 1000 + text):
        pieces = regex.findall(PIECES, candidate)
        assert "".join(pieces) == candidate
        assert max(map(len, pieces), default=0) <= 73


def test_a_million_equal_characters_are_no_trap() -> None:
    for character in "_ a1\n":
        assert BPE.decode(BPE.encode(character * 1_000_000)) == character * 1_000_000


def test_bpe_learns_the_same_from_a_text_and_from_its_parts() -> None:
    documents = ["hello hello", "world hello", "hold the world"]
    one, other = BPETokenizer(262), BPETokenizer(262)
    one.fit(documents)
    other.fit(iter(reversed(documents)))
    assert one.hash == other.hash


def test_a_tokenizer_can_learn_anew() -> None:
    tokenizer = BPETokenizer(259)
    tokenizer.fit("ababab")
    before, old = tokenizer.hash, tokenizer.encode("abcd")
    tokenizer.fit("cdcdcd")
    assert tokenizer.hash != before
    assert tokenizer.encode("abcd") != old


def test_vocab_size_counts_everything_and_is_checked() -> None:
    assert BPE.vocab_size == 600
    with pytest.raises(InvalidData, match="257 is less than 258"):
        BPETokenizer(vocab_size=257)
    with pytest.raises(InvalidData, match=r"needs 742 merges, and the corpus has only 2") as refused:
        BPETokenizer(vocab_size=1000).fit("aaaa")
    enough = int(re.findall(r"at most (\d+)", refused.value.hint)[0])
    BPETokenizer(vocab_size=enough).fit("aaaa")
    with pytest.raises(InvalidData, match="not learned its merges"):
        BPETokenizer(vocab_size=300).encode("a")


# Files.


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE, _char(TEXT)], ids=lambda t: t.type)
def test_a_saved_tokenizer_is_the_same(tokenizer: ByteTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    for loaded in (load_tokenizer(tmp_path), load_tokenizer(tokenizer.to_json())):
        assert loaded.hash == tokenizer.hash
        assert loaded.vocab_size == tokenizer.vocab_size
        assert loaded.encode(TEXT) == tokenizer.encode(TEXT)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["tokenizer.json"]
    tokenizer.save(tmp_path / "new" / "tokenizer.json")
    with pytest.raises(EnvironmentFailure, match=r"cannot write .*tokenizer\.json"):
        tokenizer.save(tmp_path / "tokenizer.json" / "in a file")


def test_a_run_of_old_that_knew_no_end_goes_on_so() -> None:
    plain = {"type": "byte", "special_tokens": {"bos": 256}}
    tokenizer = load_tokenizer({**plain, "hash": hash_of(plain)})
    assert (tokenizer.special_tokens, tokenizer.stops, tokenizer.vocab_size) == ({"bos": 256}, (), 257)
    assert tokenizer.to_json() == {**plain, "hash": hash_of(plain)}


def test_every_flipped_bit_and_every_truncation_is_refused_by_name(tmp_path: Path) -> None:
    tokenizer = BPETokenizer(260)
    tokenizer.fit("hello hello world")
    path = tmp_path / "tok.json"
    tokenizer.save(path)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(InvalidData, match=re.escape(str(path))):
            load_tokenizer(path)
    for length in range(len(whole.rstrip())):
        path.write_bytes(whole[:length])
        with pytest.raises(InvalidData, match=re.escape(str(path))):
            load_tokenizer(path)


@pytest.mark.parametrize("content", [b"[]", b"null", b'{"type": []}', b'{"type": "magic"}', b"[" * 200_000, b"\xff"])
def test_what_is_no_tokenizer_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(InvalidData, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(InvalidData, match="cannot be read"):
        load_tokenizer(tmp_path / "missing.json")
