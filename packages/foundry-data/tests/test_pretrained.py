"""Tokenizers that others made: the ids of a text spell it byte for byte, or it is refused."""

from __future__ import annotations

import itertools
import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.doses import SMALL

from foundry.core.contracts import InvalidData
from foundry.data.corpora import TextParams
from foundry.data.params import DataParams
from foundry.data.prepare import prepare
from foundry.data.storage import hash_of
from foundry.data.tokenize import PretrainedParams
from foundry.data.tokenize.pretrained import PretrainedTokenizer

tokenizers = pytest.importorskip("tokenizers")

from tokenizers import decoders as d  # noqa: E402
from tokenizers import models, trainers  # noqa: E402
from tokenizers import normalizers as n  # noqa: E402
from tokenizers import pre_tokenizers as p  # noqa: E402

CORPUS = [
    "the cat sat on the mat, they'll say: naïve café\n\n    def f(x):\n        return x",
    "Ünï ﬁne ① e\u0301 １２3 漢字 😀 <0xZZ> ▁ </s> <s>",
    "a b  c   d\te",
]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPECIAL = ["<s>", "</s>", "<unk>"]

MODELS = {
    "bpe": lambda: (models.BPE(unk_token="<unk>"), trainers.BpeTrainer(vocab_size=200, special_tokens=SPECIAL)),
    "bpe-bytes": lambda: (
        models.BPE(),
        trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=p.ByteLevel.alphabet()),
    ),
    "bpe-fallback": lambda: (
        models.BPE(unk_token="<unk>", fuse_unk=True),
        trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIAL + BYTES),
    ),
    "unigram": lambda: (
        models.Unigram(),
        trainers.UnigramTrainer(vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>"),
    ),
    "unigram-fallback": lambda: (
        models.Unigram(),
        trainers.UnigramTrainer(vocab_size=400, special_tokens=SPECIAL + BYTES, unk_token="<unk>"),
    ),
    "wordpiece": lambda: (
        models.WordPiece(unk_token="<unk>"),
        trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL),
    ),
    "wordlevel": lambda: (models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer(special_tokens=SPECIAL)),
    "wordlevel, no unk": lambda: (models.WordLevel(unk_token="<no>"), trainers.WordLevelTrainer()),
}
NORMALIZERS = {
    "none": None,
    "nfc": n.NFC(),
    "nfkc": n.NFKC(),
    "lower": n.Lowercase(),
    "accents": n.Sequence([n.NFD(), n.StripAccents()]),
    "bert": n.BertNormalizer(),
    "strip": n.Strip(),
    "nmt": n.Nmt(),
    "squeeze": n.Replace(tokenizers.Regex(" {2,}"), " "),
    "llama": n.Sequence([n.Prepend("▁"), n.Replace(" ", "▁")]),
    "marks": n.Replace(" ", "▁"),
    "prepend": n.Prepend("x"),
}
PRE_TOKENIZERS = {
    "none": None,
    "bytes": p.ByteLevel(add_prefix_space=False),
    "bytes, blank": p.ByteLevel(add_prefix_space=True),
    "metaspace": p.Metaspace(),
    "metaspace, first": p.Metaspace(prepend_scheme="first", split=False),
    "metaspace, never": p.Metaspace(prepend_scheme="never"),
    "words": p.Whitespace(),
    "blanks": p.WhitespaceSplit(),
    "bert": p.BertPreTokenizer(),
    "blanks, metaspace": p.Sequence([p.WhitespaceSplit(), p.Metaspace()]),
    "blanks, bytes": p.Sequence([p.WhitespaceSplit(), p.ByteLevel(add_prefix_space=True, use_regex=False)]),
    "digits": p.Digits(),
    "scripts": p.UnicodeScripts(),
}
_UNMARKED = d.Replace("▁", " ")
DECODERS = {
    "none": None,
    "bytes": d.ByteLevel(),
    "wordpiece": d.WordPiece(),
    "wordpiece, as it is": d.WordPiece(cleanup=False),
    "metaspace": d.Metaspace(),
    "metaspace, never": d.Metaspace(prepend_scheme="never"),
    "bpe": d.BPEDecoder(),
    "ctc": d.CTC(),
    "fuse": d.Fuse(),
    "fallback": d.ByteFallback(),
    "llama": d.Sequence([_UNMARKED, d.ByteFallback(), d.Fuse(), d.Strip(" ", 1, 0)]),
    "gemma": d.Sequence([_UNMARKED, d.ByteFallback(), d.Fuse()]),
    "each": d.Sequence([_UNMARKED, d.Strip(" ", 1, 0), d.Fuse()]),
    "ends": d.Sequence([d.Fuse(), d.Strip(" ", 0, 1)]),
}
IN_USE = [
    ("bpe-bytes", "none", "bytes", "bytes"),  # GPT-2, Llama 3
    ("bpe-bytes", "none", "bytes, blank", "bytes"),  # RoBERTa
    ("bpe-bytes", "nfc", "bytes", "bytes"),  # Qwen
    ("bpe-fallback", "llama", "none", "llama"),  # Llama 2, Mistral
    ("bpe-fallback", "none", "metaspace, first", "llama"),
    ("bpe-fallback", "marks", "none", "gemma"),
    ("unigram", "nfkc", "blanks, metaspace", "metaspace"),  # T5
    ("unigram", "none", "metaspace", "metaspace"),
    ("unigram-fallback", "llama", "none", "llama"),
    ("wordpiece", "bert", "bert", "wordpiece"),  # BERT
    ("wordpiece", "none", "words", "wordpiece, as it is"),
    ("wordlevel", "none", "blanks", "none"),
    ("bpe", "none", "none", "fuse"),
]
PARTS = (MODELS, NORMALIZERS, PRE_TOKENIZERS, DECODERS)
KINDS = st.one_of(st.sampled_from(IN_USE), st.tuples(*(st.sampled_from(list(part)) for part in PARTS)))
NEAR = st.text(st.sampled_from("the cats'1aé \n\tmn;ö😀_▁<0xZ>/s"), max_size=20)
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
HARD = st.sampled_from([*CORPUS, "the cat", "a b", "</s>", "<s>", " a", "  a", "e\u0301", "ﬁ", ""])
TEXTS = st.one_of(NEAR, ANY, HARD)


@cache
def made(model: str, normalizer: str, pre_tokenizer: str, decoder: str) -> str:
    """A tokenizer.json of this kind, learned from CORPUS."""
    empty, trainer = MODELS[model]()
    tokenizer = tokenizers.Tokenizer(empty)
    tokenizer.normalizer, tokenizer.pre_tokenizer = NORMALIZERS[normalizer], PRE_TOKENIZERS[pre_tokenizer]
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.decoder = DECODERS[decoder]
    saved = json.loads(tokenizer.to_str())
    if "fallback" in model:
        saved["model"]["byte_fallback"] = True
        saved["added_tokens"] = [token for token in saved["added_tokens"] if token["content"] in SPECIAL]
    return json.dumps(saved)


@cache
def read(*kind: str) -> PretrainedTokenizer | None:
    try:
        return PretrainedTokenizer({"tokenizer.json": made(*kind)})
    except InvalidData:  # a decoder that is not known
        return None


def exact_or_refused(kind: tuple[str, ...], text: str, cuts: list[int]) -> bool:
    tokenizer = read(*kind)
    if tokenizer is None:
        return False
    try:
        ids = tokenizer.encode(text)
    except InvalidData:
        return False
    theirs = tokenizers.Tokenizer.from_str(made(*kind))
    theirs.encode_special_tokens = True
    assert ids == theirs.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.decode(ids) == text
    assert theirs.decode(ids) in (text, f" {text}")  # the blank that it put there and does not take away
    assert not set(ids) & set(tokenizer.special_tokens.values())
    # As rows are cut: each part is read behind the token before it.
    places = sorted({0, len(ids), *(cut % (len(ids) + 1) for cut in cuts)})
    counted = 0
    for begin, end in itertools.pairwise(places):
        before = ids[begin - 1 : begin] if begin else []
        counted += tokenizer.bytes_of(before + ids[begin:end]) - tokenizer.bytes_of(before)
    assert counted == tokenizer.bytes_of(ids) == len(text.encode())
    return True


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(KINDS, TEXTS, st.lists(st.integers(0, 99), max_size=3))
def test_every_kind_spells_a_text_exactly_or_refuses_it(kind, text, cuts):
    exact_or_refused(kind, text, cuts)


@pytest.mark.slow
@settings(max_examples=500 if SMALL else 5000, suppress_health_check=list(HealthCheck))
@given(KINDS, TEXTS, st.lists(st.integers(0, 99), max_size=3))
def test_every_kind_spells_a_text_exactly_or_refuses_it_again_and_again(kind, text, cuts):
    exact_or_refused(kind, text, cuts)


@pytest.mark.parametrize("kind", IN_USE, ids="-".join)
def test_what_models_have_reads_plain_text(kind):
    assert exact_or_refused(kind, "the cat sat", [1, 2])


def test_a_text_that_spells_a_control_token_is_a_text():
    """In every tokenizer that can spell it: the ids are those of its letters."""
    assert exact_or_refused(("bpe-bytes", "none", "bytes", "bytes"), "the cat</s> sat", [1, 2])


# What is refused, and with which words.


def refused(kind: tuple[str, ...], text: str) -> str:
    tokenizer = read(*kind)
    assert tokenizer is not None
    with pytest.raises(InvalidData) as error:
        tokenizer.encode(text)
    return f"{error.value.message}; {error.value.hint}"


QWEN, LLAMA, BERT = IN_USE[2], IN_USE[3], IN_USE[9]
UNIGRAM, CHARACTERS = IN_USE[7], IN_USE[-1]


def test_a_text_that_would_be_another_is_refused_with_place_and_reason():
    assert "'日本', character 4 of the text, in line 2, as '': its vocabulary lacks that" in refused(
        CHARACTERS, "the\n日本"
    )
    said = refused(QWEN, "cafe e\u0301")
    assert r"read 'e\u0301', character 5 of the text, in line 1, as '\xe9': its normalizer" in said
    assert "its normalizer rewrites text; rewrite it so before, or set data.tokenizer.normalize=true" in said
    assert "'The cat', character 0 of the text, in line 1, as 'the cat': its normalizer" in refused(BERT, "The cat")
    assert "' sat', character 4 of the text, in line 1, as 'sat': it does not keep that" in refused(BERT, "cat  sat")
    assert "' a', character 0 of the text, in line 1, as 'a'" in refused(UNIGRAM, " a")
    assert "'</s>'" in refused(UNIGRAM, "the </s>")  # a piece of its vocabulary: no text may end a text
    assert "character 2 is U+D83D" in refused(LLAMA, "ab\ud83d")


def test_every_byte_of_a_character_that_is_in_no_token_is_spelled():
    assert exact_or_refused(LLAMA, "".join(map(chr, range(0x80, 0x900))), [])


def test_a_piece_that_is_like_a_byte_and_none_is_itself():
    vocabulary = {piece: i for i, piece in enumerate(["<0xZZ>", "<0x+A>", "<0x41>", "<0xC3>", "<0xA9>"])}
    saved = {"model": {"type": "BPE", "vocab": vocabulary, "merges": [], "byte_fallback": True}}
    saved["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    text = json.dumps(saved)
    ours, theirs = PretrainedTokenizer({"tokenizer.json": text}), tokenizers.Tokenizer.from_str(text)
    for ids in ([0], [1], [2], [3, 4], [2, 0, 3, 4]):
        assert ours.decode(ids) == theirs.decode(ids)


def test_an_id_that_stands_for_nothing_spells_nothing():
    tokenizer = PretrainedTokenizer({"tokenizer.json": made(*LLAMA)}, vocab_size=1000)
    ids = tokenizer.encode("the cat")
    assert tokenizer.decode([999, *ids, 998]) == "the cat"
    assert tokenizer.bytes_of([999, *ids, 998]) == len("the cat")
    with pytest.raises(InvalidData, match="id 1000 is not"):
        tokenizer.decode([1000])


def test_a_text_may_be_put_into_the_tokenizers_own_form_first():
    tokenizer = PretrainedTokenizer({"tokenizer.json": made(*QWEN)}, normalize=True)
    assert tokenizer.decode(tokenizer.encode("cafe e\u0301")) == "cafe é"
    assert PretrainedTokenizer.from_json(tokenizer.to_json()).encode("e\u0301") == tokenizer.encode("é")
    assert tokenizer.hash != read(*QWEN).hash
    lower = PretrainedTokenizer({"tokenizer.json": made(*BERT)}, normalize=True)
    assert lower.decode(lower.encode("The Cat")) == "the cat"
    with pytest.raises(InvalidData, match="its vocabulary lacks that"):
        lower.encode("The Dog")
    for kind in (LLAMA, IN_USE[5]):  # whose mark of a blank is no form of the text
        marked = PretrainedTokenizer({"tokenizer.json": made(*kind)}, normalize=True)
        assert marked.decode(marked.encode("the cat")) == "the cat"
    Path("tokenizer.json").write_text(made(*BERT))
    asked = PretrainedTokenizer.learn(PretrainedParams(path=".", normalize=True), None)
    assert asked.encode("The Cat") == PretrainedTokenizer.from_json(asked.to_json()).encode("the cat")


def test_a_corpus_is_refused_by_file_and_place():
    Path("texts").mkdir()
    for number in range(3):
        Path(f"texts/{number}.txt").write_text("the cat sat\n" * 50 + ("日本\n" if number == 1 else ""))
    Path("tokenizer.json").write_text(made(*CHARACTERS))
    data = DataParams(dataset=TextParams(path="texts"), tokenizer=PretrainedParams(path="tokenizer.json"))
    with pytest.raises(
        InvalidData, match=r"1\.txt: the tokenizer would read '日本.*character 600 of the text, in line 51"
    ):
        prepare(data)


# What the files say.

TOKENS = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "<|end|>": 4, "a": 5, "b": 6, "ab": 7}
TEMPLATE = {"single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]}
TEMPLATE["single"].append({"SpecialToken": {"id": "</s>", "type_id": 0}})  # which ends no prompt
TEMPLATE["pair"] = []
TEMPLATE |= {"special_tokens": {t: {"id": t, "ids": [TOKENS[t]], "tokens": [t]} for t in ("<s>", "</s>")}}
SAID = {
    "names": ({"tokenizer_config.json": {"bos_token": "<s>", "eos_token": "</s>"}}, {"bos": 1, "eos": 2}, (2,)),
    "added tokens": (
        {"tokenizer_config.json": {"bos_token": {"content": "<s>"}, "eos_token": {"content": "<|end|>"}}},
        {"bos": 1, "eos": 4},
        (4,),
    ),
    "key by key": (
        {
            "tokenizer_config.json": {"model_max_length": 1024},
            "special_tokens_map.json": {"unk_token": "<unk>"},
            "generation_config.json": {"pad_token_id": 0},
            "config.json": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 5},
        },
        {"bos": 1, "eos": 2, "pad": 0, "unk": 3},
        (2,),
    ),
    "several ends": (
        {
            "tokenizer_config.json": {"eos_token": "<|end|>", "bos_token": "<s>"},
            "generation_config.json": {"eos_token_id": [2, 4]},
            "config.json": {"eos_token_id": 2},
        },
        {"bos": 1, "eos": 4},
        (2, 4),
    ),
    "no bos": (
        {"tokenizer_config.json": {"bos_token": None, "eos_token": "</s>"}, "config.json": {"bos_token_id": 1}},
        {"bos": 2, "eos": 2},  # what ends a document begins the next
        (2,),
    ),
    "the map of old": (
        {"tokenizer_config.json": {"eos_token": "</s>"}, "special_tokens_map.json": {"eos_token": "<|end|>"}},
        {"bos": 4, "eos": 4},
        (4,),
    ),
    "the map beside the file of today": (
        {
            "tokenizer_config.json": {"eos_token": "</s>", "added_tokens_decoder": {}},
            "special_tokens_map.json": {"eos_token": "<|end|>"},
        },
        {"bos": 2, "eos": 2},
        (2,),
    ),
    "numbers that are none of this model": (
        {"config.json": {"bos_token_id": 10, "eos_token_id": [2, 50256], "pad_token_id": -1}},
        {"bos": 2, "eos": 2},
        (2,),
    ),
    "an end that is text": ({"config.json": {"eos_token_id": [5, 2]}}, {"bos": 2, "eos": 2}, (5, 2)),
    "a post-processor": ({"tokenizer.json": {"type": "TemplateProcessing", **TEMPLATE}}, {"bos": 1}, ()),
    "nothing": ({}, {}, ()),
}


def saved(post_processor: object = None) -> str:
    model = {"type": "BPE", "vocab": TOKENS, "merges": [["a", "b"]]}
    added = [{"id": TOKENS[token], "content": token, "special": True} for token in ("<pad>", "<|end|>")]
    for token in added:
        token |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    parts = {"post_processor": post_processor, "decoder": {"type": "Fuse"}}
    return json.dumps({"version": "1.0", "added_tokens": added, "model": model, **parts})


@pytest.mark.parametrize(("files", "special_tokens", "stops"), SAID.values(), ids=SAID)
def test_control_tokens_are_what_the_files_say(files, special_tokens, stops):
    for name, said in files.items():
        Path(name).write_text(json.dumps(said))
    Path("tokenizer.json").write_text(saved(files.get("tokenizer.json")))
    tokenizer = PretrainedTokenizer.of(Path("."), 10)
    assert (tokenizer.special_tokens, tokenizer.stops) == (special_tokens, stops)
    assert tokenizer.prefix == ((1,) if "tokenizer.json" in files else ())
    again = PretrainedTokenizer.from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert (again.hash, again.special_tokens, again.stops) == (tokenizer.hash, special_tokens, stops)
    assert tokenizer.decode([5, *special_tokens.values()]) == "a"
    kept = tokenizer.to_huggingface()
    assert all(kept[name] == Path(name).read_text() for name in kept if name != "config.json")


def test_of_several_things_before_a_text_the_last_that_is_put_there_is_first():
    of_pad = {"id": "<pad>", "ids": [0], "tokens": ["<pad>"]}
    second = {"single": [{"SpecialToken": {"id": "<pad>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]}
    second |= {"type": "TemplateProcessing", "pair": [], "special_tokens": {"<pad>": of_pad}}
    first = {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]}
    text = saved(
        {"type": "Sequence", "processors": [first | dict.fromkeys(("trim_offsets", "add_prefix_space"), False), second]}
    )
    ours, theirs = PretrainedTokenizer({"tokenizer.json": text}), tokenizers.Tokenizer.from_str(text)
    assert theirs.encode("ab").ids[:-1] == [*ours.prefix, *ours.encode("ab")] == [0, 1, 7]


def test_what_a_user_says_is_bos_and_eos_leaves_with_the_tokenizer():
    Path("tokenizer.json").write_text(saved())
    Path("generation_config.json").write_text('{"eos_token_id": 2}')
    params = PretrainedParams(path=".", bos="<s>", eos="<|end|>")
    tokenizer = PretrainedTokenizer.learn(params, None)
    assert (tokenizer.special_tokens, tokenizer.stops) == ({"bos": 1, "eos": 4}, (4,))
    left = {name: json.loads(text) for name, text in tokenizer.to_huggingface().items()}
    assert left["tokenizer_config.json"]["eos_token"] == "<|end|>"
    assert left["generation_config.json"] == {"bos_token_id": 1, "eos_token_id": 4}
    first = PretrainedTokenizer.learn(PretrainedParams(path=".", bos="<pad>"), None)
    assert first.special_tokens["bos"] == 0
    with pytest.raises(InvalidData, match=r"data\.tokenizer\.eos: '<x>' is not a token of"):
        PretrainedTokenizer.learn(params.model_copy(update={"eos": "<x>"}), None)


def test_all_that_belongs_to_a_tokenizer_leaves_with_it_and_nothing_else():
    Path("tokenizer.json").write_text(saved())
    files = {"added_tokens.json": '{"<|end|>": 4}', "special_tokens_map.json": "{}", "chat_template.jinja": "a"}
    for name, text in (files | {"README.md": "b", "merges.txt": "c", "additional_chat_templates/x.jinja": "d"}).items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    Path("config.json").write_text('{"eos_token_id": 2, "hidden_size": 8}')
    left = PretrainedTokenizer.of(Path(".")).to_huggingface()
    assert left.keys() == files.keys() | {"tokenizer.json", "config.json", "additional_chat_templates/x.jinja"}
    assert json.loads(left["config.json"]) == {"eos_token_id": 2}  # what it did not say is not said now


def test_a_text_is_neither_cut_nor_filled_up():
    """As tokenizer.json may ask, for batches."""
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    fill = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None}
    fill |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}
    for parts in ({"truncation": cut}, {"padding": fill}):
        tokenizer = PretrainedTokenizer({"tokenizer.json": json.dumps(json.loads(saved()) | parts)})
        assert tokenizer.encode("abab" * 3) == [7] * 6


def test_the_first_token_may_be_the_one_for_what_is_unknown():
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["?", 0.0], ["a", -1.0]], "byte_fallback": False}
    tokenizer = PretrainedTokenizer({"tokenizer.json": json.dumps({"model": model, "decoder": {"type": "Fuse"}})})
    assert tokenizer.special_tokens == {"unk": 0}
    with pytest.raises(InvalidData, match="its vocabulary lacks that"):
        tokenizer.encode("b")


def test_a_run_of_old_knows_its_bos_alone():
    plain = {"type": "pretrained", "vocab_size": 10, "bos": 1, "tokenizer": saved()}
    old = {**plain, "hash": hash_of(plain)}
    tokenizer = PretrainedTokenizer.from_json(old)
    assert (tokenizer.special_tokens, tokenizer.prefix, tokenizer.stops) == ({"bos": 1}, (1,), ())
    assert tokenizer.to_json() == old
    assert tokenizer.decode(tokenizer.encode("ab")) == "ab"


def test_no_file_of_another_name_leaves_with_a_tokenizer():
    plain = {"type": "pretrained", "vocab_size": 8, "files": {"tokenizer.json": saved(), "../../.profile": "x"}}
    with pytest.raises(InvalidData, match=r"has no file '\.\./\.\./\.profile'"):
        PretrainedTokenizer.from_json({**plain, "hash": hash_of(plain)})


@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json", "chat_template.jinja"])
def test_a_file_that_is_damaged_is_named(name):
    Path("tokenizer.json").write_text(saved())
    Path(name).write_bytes(b"\xff{")
    with pytest.raises(InvalidData, match=f"{name}: damaged"):
        PretrainedTokenizer.of(Path("."))


def test_a_token_that_only_its_config_has_is_added_as_transformers_adds_it():
    Path("tokenizer.json").write_text(saved())
    added = {"8": {"content": "<turn>", "special": True}, "9": {"content": "<tool>", "special": False}}
    Path("tokenizer_config.json").write_text(json.dumps({"eos_token": "<turn>", "added_tokens_decoder": added}))
    tokenizer = PretrainedTokenizer.of(Path("."))
    assert (tokenizer.vocab_size, tokenizer.stops) == (10, (8,))
    assert tokenizer.decode(ids := tokenizer.encode("ab<tool>")) == "ab<tool>"
    assert 9 in ids
