"""Our tokenizers as Hugging Face's library reads them, and a pretrained model's as ours."""

import pytest
from hypothesis import example, given, settings
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
THEIRS = {name: tokenizers.Tokenizer.from_str(ours.to_huggingface()["tokenizer.json"]) for name, ours in OURS.items()}
AS_PRETRAINED = {name: PretrainedTokenizer(ours.to_huggingface()) for name, ours in OURS.items()}


@settings(max_examples=200)
@given(text=SPELLED)
@example(
    text="".join(map(chr, range(0x800)))
)  # every byte that a text may have, but for the first of longer characters
@pytest.mark.parametrize("name", ["byte", "bpe"])
def test_ids_and_texts_are_the_same_in_both_libraries(name, text):
    ours, theirs, again = OURS[name], THEIRS[name], AS_PRETRAINED[name]
    ids = ours.encode(text)
    assert theirs.encode(text, add_special_tokens=False).ids == ids == again.encode(text)
    assert theirs.encode(text).ids == [ours.special_tokens["bos"], *ids]
    assert theirs.encode(text, text).ids == [ours.special_tokens["bos"], *ids, *ids]
    assert theirs.decode(ids) == ours.decode(ids) == again.decode(ids) == text
    assert again.decode_bytes(ids) == text.encode()
    assert again.bytes_of(ids) == len(text.encode())


def test_one_id_per_character():
    ids = OURS["char"].encode(TEXT)
    assert THEIRS["char"].encode(TEXT, add_special_tokens=False).ids == ids == AS_PRETRAINED["char"].encode(TEXT)
    assert THEIRS["char"].decode(ids) == AS_PRETRAINED["char"].decode(ids) == TEXT


def test_the_library_is_needed_for_nothing_else():
    assert load_tokenizer(OURS["bpe"].to_json()).encode(TEXT) == OURS["bpe"].encode(TEXT)
    with pytest.raises(InvalidData, match="no tokenizer is of type"):
        load_tokenizer({"type": "unheard of"})
