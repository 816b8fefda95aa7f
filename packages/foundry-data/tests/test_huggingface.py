"""Our tokenizers as Hugging Face's library reads them, and a pretrained model's as ours."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry.core.contracts import InvalidData
from foundry.data.tokenize import BPETokenizer, ByteTokenizer, CharTokenizer, load_tokenizer
from foundry.data.tokenize.pretrained import PretrainedTokenizer

tokenizers = pytest.importorskip("tokenizers")

TEXT = (
    "the cat sat on the mat; the cats' 1234 mats, they'll say: aaaa aaa naïve\n\n    def f(x):\n        return x\n" * 3
)
SPELLED = st.text(st.sampled_from("the cats'1aé \n\tmn;ö😀_"), max_size=60)


def learned(cls, *args):
    tokenizer = cls(*args)
    tokenizer.fit(TEXT)
    return tokenizer


OURS = {"byte": ByteTokenizer(), "char": learned(CharTokenizer), "bpe": learned(BPETokenizer, 300)}
THEIRS = {name: tokenizers.Tokenizer.from_str(json.dumps(ours.to_huggingface())) for name, ours in OURS.items()}


def wrapped(ours) -> PretrainedTokenizer:
    saved, bos = json.dumps(ours.to_huggingface()), ours.special_tokens["bos"]
    return PretrainedTokenizer.wrapping(saved, vocab_size=ours.vocab_size, bos=bos)


AS_PRETRAINED = {name: wrapped(ours) for name, ours in OURS.items()}


@settings(max_examples=200, deadline=None)
@given(text=SPELLED)
@pytest.mark.parametrize("name", ["byte", "bpe"])
def test_ids_and_texts_are_the_same_in_both_libraries(name, text):
    ours, theirs, again = OURS[name], THEIRS[name], AS_PRETRAINED[name]
    ids = ours.encode(text)
    assert theirs.encode(text, add_special_tokens=False).ids == ids == again.encode(text)
    assert theirs.encode(text).ids == [ours.special_tokens["bos"], *ids]
    assert theirs.decode(ids) == ours.decode(ids) == again.decode(ids) == text
    assert again.decode_bytes(ids) == text.encode()
    assert again.bytes_of(ids) == len(text.encode())


def test_one_id_per_character():
    ids = OURS["char"].encode(TEXT)
    assert THEIRS["char"].encode(TEXT, add_special_tokens=False).ids == ids == AS_PRETRAINED["char"].encode(TEXT)
    assert THEIRS["char"].decode(ids) == AS_PRETRAINED["char"].decode(ids) == TEXT


@pytest.mark.parametrize("name", OURS)
def test_a_text_that_spells_a_control_token_holds_none(name):
    theirs = AS_PRETRAINED[name]
    bos = theirs.special_tokens["bos"]
    assert bos not in theirs.encode("<|bos|>")
    assert theirs.decode([bos]) == ""
    assert theirs.bytes_of([bos]) == 0


def test_saved_and_read_again():
    first = AS_PRETRAINED["bpe"]
    again = PretrainedTokenizer.from_json(json.loads(json.dumps(first.to_json())))
    assert again.hash == first.hash
    assert again.encode(TEXT) == first.encode(TEXT)
    with pytest.raises(InvalidData, match="its own hash"):
        PretrainedTokenizer.from_json({**first.to_json(), "bos": 3})
    with pytest.raises(InvalidData, match="no tokenizer is of type"):
        load_tokenizer({"type": "unheard of"})


def test_a_vocabulary_with_byte_fallback_spells_its_bytes():
    vocabulary = {"<unk>": 0, "▁": 1, "a": 2, "▁a": 3, **{f"<0x{byte:02X}>": 4 + byte for byte in range(256)}}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [["▁", "a"]], "byte_fallback": True, "unk_token": "<unk>"}
    steps = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    marked = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    parts = {"pre_tokenizer": None, "post_processor": None, "decoder": {"type": "Sequence", "decoders": steps}}
    saved = {"version": "1.0", "added_tokens": [], "normalizer": marked, **parts, "model": model}
    tokenizer = PretrainedTokenizer.wrapping(json.dumps(saved), vocab_size=300, bos=None)
    ids = tokenizer.encode("a aé")
    assert tokenizer.decode(ids) == "a aé"
    assert tokenizer.bytes_of(ids) == 5
    assert tokenizer.decode_bytes([299]) == b""  # a row of the embedding that stands for nothing
    assert tokenizer.special_tokens == {}


def test_a_token_that_is_not_spelled_in_bytes_stands_for_itself():
    """Such as a marker that somebody put into the vocabulary and not among the added tokens."""
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"Ġa": 0, "é": 1, "<a mark>": 2, "naïve…": 3}, merges=[]))
    theirs.decoder = tokenizers.decoders.ByteLevel()
    ours = PretrainedTokenizer.wrapping(theirs.to_str(), vocab_size=4, bos=None)
    assert [ours.decode([number]) for number in range(4)] == [theirs.decode([number]) for number in range(4)]
    assert ours.decode([2, 3]) == "<a mark>naïve…"
