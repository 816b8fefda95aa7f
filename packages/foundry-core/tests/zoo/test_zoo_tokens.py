"""What a pretrained model calls bos, eos, pad and unk, from the folder that it comes in to the one that it leaves in,
by the commands that a user types, against transformers."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.documents import foundry
from tests.project import working_in, write_project

from foundry.cli.__main__ import main
from foundry.core import load_run
from foundry.core.config import from_plain
from foundry.core.contracts import InvalidData
from foundry.core.handle import FinishedRun
from foundry.core.model import initialize, model_of
from foundry.core.testing import sums_of
from foundry.core.testing.rounding import rounding
from foundry.core.training.device import resolve
from foundry.core.training.distributed import World
from foundry.core.training.validation import validation_loss
from foundry.data.corpora import TextParams
from foundry.data.params import DataParams
from foundry.data.prepare import prepare
from foundry.data.rows import TrainingRows
from foundry.data.tokenize.byte import ByteTokenizer
from foundry.data.tokenize.pretrained import PretrainedTokenizer
from foundry.zoo import check
from foundry.zoo.source import PretrainedSource

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
transformers.utils.logging.disable_progress_bar()

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers  # noqa: E402

TEXT = "".join(f"the {i} cats sat on {i * i} mats, naïvely\n" for i in range(300))
PROMPT = "the 12 cats"
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "max_position_embeddings": 64}
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How Qwen cuts a text into pieces."""
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def learned(model, trainer, *, normalizer=None, pre_tokenizer=None, decoder=None) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.decoder = decoder
    return tokenizer


def byte_level(special: list[str], pieces: str = "", **parts) -> tokenizers.Tokenizer:
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pieces)
    cut = [pre_tokenizers.Split(tokenizers.Regex(pieces), "isolated")] if pieces else []
    tokenizer = learned(
        models.BPE(), trainers.BpeTrainer(vocab_size=300, initial_alphabet=level.alphabet(), show_progress=False),
        pre_tokenizer=pre_tokenizers.Sequence([*cut, level]), decoder=decoders.ByteLevel(), **parts,
    )  # fmt: skip
    tokenizer.add_special_tokens(special)
    return tokenizer


def like_gpt2(folder: Path) -> None:
    """One token is bos, eos and unk; nothing says so but config.json; nothing stands before a text."""
    tokenizer = byte_level(["<|endoftext|>"])
    end = tokenizer.token_to_id("<|endoftext|>")
    config = transformers.GPT2Config(
        n_layer=2, n_head=4, n_embd=32, n_positions=64, vocab_size=end + 1, bos_token_id=end, eos_token_id=end
    )
    save(folder, transformers.GPT2LMHeadModel(config), tokenizer, end)
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 64}')
    (folder / "generation_config.json").unlink()


def like_llama(folder: Path) -> None:
    """A blank is read before a text and <s> stands there; what is in no token is spelled in bytes; two ends."""
    special = ["<unk>", "<s>", "</s>"]
    vocabulary = special + [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = learned(
        models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True),
        trainers.BpeTrainer(vocab_size=330, special_tokens=vocabulary, show_progress=False),
        normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        decoder=decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        ),
    )
    saved = json.loads(tokenizer.to_str())
    saved["added_tokens"] = saved["added_tokens"][:3]
    saved["model"]["byte_fallback"] = True
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(saved))
    tokenizer.add_special_tokens(["<|eot|>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair=None, special_tokens=[("<s>", 1)])
    eot = tokenizer.token_to_id("<|eot|>")
    config = transformers.LlamaConfig(
        **SIZES, vocab_size=eot + 1, intermediate_size=48, bos_token_id=1, eos_token_id=2, pad_token_id=None
    )
    save(folder, transformers.LlamaForCausalLM(config), tokenizer, eot)
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT, "add_bos_token": True}
    about |= {"bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": False, "rstrip": False}}
    (folder / "tokenizer_config.json").write_text(json.dumps({**about, "eos_token": "</s>", "unk_token": "<unk>"}))
    (folder / "special_tokens_map.json").write_text('{"pad_token": "<unk>"}')
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": [2, eot]}))


def like_qwen(folder: Path, pieces: str = QWEN) -> None:
    """No bos; a normalizer; rows of the embedding that are no token; a tool's tag that is text; a template of its own
    file, and one more."""
    tokenizer = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], pieces, normalizer=normalizers.NFC())
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    end, turn = (tokenizer.token_to_id(token) for token in ("<|endoftext|>", "<|im_end|>"))
    config = transformers.Qwen2Config(
        **SIZES, vocab_size=tokenizer.get_vocab_size() + 20, intermediate_size=48, num_key_value_heads=2,
        bos_token_id=end, eos_token_id=turn, tie_word_embeddings=True,
    )  # fmt: skip
    save(folder, transformers.Qwen2ForCausalLM(config), tokenizer, turn)
    about = {"tokenizer_class": "Qwen2Tokenizer", "bos_token": None, "eos_token": "<|im_end|>"}
    about |= {"pad_token": "<|endoftext|>", "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [turn, end], "pad_token_id": end}))
    (folder / "chat_template.jinja").write_text(CHAT)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("tools" + CHAT)


def save(folder: Path, model, tokenizer: tokenizers.Tokenizer, end: int) -> None:
    """A random model, sure of its choices, whose greedy text behind PROMPT has `end` as its fourth token or later."""
    start = torch.tensor([tokenizer.encode(PROMPT).ids])
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(*((0.0, 0.6) if parameter.ndim > 1 else (1.0, 0.3)), generator=generator)
        ids = model.eval().generate(start, max_new_tokens=9, do_sample=False, eos_token_id=None, pad_token_id=0)
        ids = ids[0].tolist()
        new = [place for place in range(start.shape[1] + 3, len(ids)) if ids[place] not in ids[:place]]
        if new and end not in ids and "\ufffd" not in tokenizer.decode(ids[: new[-1]]):
            break
    with torch.no_grad():
        for table in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:  # one, if tied
            table[[ids[new[-1]], end]] = table[[end, ids[new[-1]]]]
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))


KINDS = {"gpt2": like_gpt2, "llama": like_llama, "qwen": like_qwen}


@pytest.fixture
def project(tmp_path) -> Iterator[Path]:
    with working_in(write_project(tmp_path, {"corpus.txt": TEXT})):
        yield tmp_path


def theirs(folder: str, prompt: str, **more) -> tuple[str, bool]:
    """What transformers writes behind a prompt, and whether it stopped by itself."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    start = tokenizer(prompt, return_tensors="pt").input_ids
    written = model.generate(start, max_new_tokens=20, do_sample=False, pad_token_id=0, **more)[0].tolist()
    text = tokenizer.decode(written, skip_special_tokens=True)
    assert text.startswith(prompt)
    return text.removeprefix(prompt), len(written) - start.shape[1] < 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_pretrained_model_writes_and_stops_as_in_transformers_and_leaves_as_it_came(kind, project, capsys):
    KINDS[kind](project / "theirs")
    wanted, stops = theirs("theirs", PROMPT)
    assert stops
    foundry(capsys, "zoo", "convert", "theirs", "--run", "run", "--experiment", "exp.yaml")
    greedy = ("--greedy", "--max-tokens", "20", "--prompt")
    said = foundry(capsys, "generate", "run", *greedy, PROMPT)
    assert (said["text"], said["finish_reason"]) == (wanted, "stop")
    longer = foundry(capsys, "generate", "run", *greedy, PROMPT, "--ignore-eos")
    assert longer["finish_reason"] == "length"
    assert longer["text"].startswith(wanted)

    sets = ["data.dataset={type: text, path: corpus.txt}", "training.max_iters=1", "training.learning_rate=1e-9"]
    sets += ["training.batch_size=2", "training.eval_tokens=64", "training.threads=1", "training.device=cpu"]
    assert main(["train", "exp.yaml", "--out", "more", *(f"--set={each}" for each in sets)]) == 0
    assert foundry(capsys, "generate", "more", *greedy, PROMPT)["text"] == wanted
    foundry(capsys, "export", "more", "out", "--to", "hf")
    assert theirs("out", PROMPT) == (wanted, True)

    came, left = (transformers.AutoTokenizer.from_pretrained(folder) for folder in ("theirs", "out"))
    assert left.special_tokens_map == came.special_tokens_map
    assert left.chat_template == came.chat_template
    assert left(TEXT[:99] + "<tool_call></s>").input_ids == came(TEXT[:99] + "<tool_call></s>").input_ids
    for file in Path("theirs").rglob("*"):
        if file.is_file() and file.suffix != ".safetensors" and file.name != "config.json":
            assert (Path("out") / file.relative_to("theirs")).read_bytes() == file.read_bytes()
    configs = [json.loads((Path(folder) / "config.json").read_text()) for folder in ("theirs", "out")]
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    assert [configs[0].get(key) for key in keys] == [configs[1].get(key) for key in keys]
    ours = load_run("more").tokenizer
    assert ours.special_tokens["eos"] == came.eos_token_id
    assert ours.special_tokens.get("pad") == came.pad_token_id


def test_a_check_names_what_transformers_reads_otherwise(project, capsys, monkeypatch):
    """Its class for Qwen cuts a text into pieces of its own, whatever tokenizer.json says."""
    like_qwen(project / "right")
    like_qwen(project / "wrong", pieces=r"\p{N}+|\P{N}+")
    assert foundry(capsys, "zoo", "check", "right")["tokenizer"] == []
    assert main(["zoo", "check", "wrong"]) == 1
    assert "tokenizer: '1234567 890 3.14' is [" in capsys.readouterr().err
    assert main(["zoo", "check", "wrong", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["first_drift"]) == (False, None)
    assert any("'1234567 890 3.14' is [" in difference for difference in told["tokenizer"])
    real = check._from_pretrained
    for token in ("bos", "eos", "pad"):

        def other(which: str, folder: Path, **options):
            made = real(which, folder, **options)
            setattr(made, f"{token}_token", "<|im_start|>")  # noqa: B023 - called before the next
            return made

        with monkeypatch.context() as patch:
            patch.setattr(check, "_from_pretrained", other)
            [difference] = check.tokenizer_differences("right")
        assert difference.startswith(f"{token} is ")
    with monkeypatch.context() as patch:
        patch.setattr(PretrainedTokenizer, "special_tokens", {})
        differences = check.tokenizer_differences("right")
    assert [each for each in differences if " is None here" in each] == [differences[-1]]
    assert differences[-1].startswith("eos is None here")  # pad and unk may be a class's own, as of GPT-2's


def test_text_is_put_into_the_form_of_a_tokenizer_that_comes_with_weights(project):
    like_qwen(project / "theirs")
    asked = {"type": "pretrained", "normalize": True}
    for tokenizer in ({"type": "pretrained"}, asked):
        named = str(project / "theirs")
        experiment = from_plain({"init_from": named, "data": {"tokenizer": tokenizer}})
        source = PretrainedSource(experiment, named).tokenizer()
        if tokenizer == asked:
            assert source.decode(source.encode("cafe\u0301")) == "café"
        else:
            with pytest.raises(InvalidData, match="its normalizer rewrites text"):
                source.encode("cafe\u0301")


@pytest.mark.parametrize(("kind", "block_size"), [("llama", 7), ("llama", 64), ("byte", 64)])
def test_bits_per_byte_are_of_the_texts_own_bytes(kind, block_size, project):
    """However its rows are cut: a blank before a text, the tokens that frame it and what fills up a row are none."""
    if kind == "llama":
        like_llama(project / "theirs")
    tokenizer = PretrainedTokenizer.of(project / "theirs") if kind == "llama" else ByteTokenizer()
    (project / "texts").mkdir()
    for number, line in enumerate(TEXT.splitlines()[:60]):
        (project / "texts" / f"{number}.txt").write_text(" " * (number % 3) + line)
    data = DataParams(dataset=TextParams(path="texts"))
    prepared = prepare(data, tokenizer=tokenizer)
    part = prepared.part("validation")
    lengths = np.diff(part.documents)
    windows = part.windows(part.documents[:-1], lengths, int(lengths.max()))
    texts = [tokenizer.decode(ids[:length]) for ids, length in zip(windows, lengths, strict=True)]
    assert all((project / "texts").joinpath(f"{text.split()[1]}.txt").read_text() == text for text in texts)
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": block_size}
    experiment = from_plain({"model_args": sizes, "training": {"device": "cpu", "threads": 1}})
    model = model_of(experiment, tokenizer.vocab_size)
    initialize(model, seed=1)
    rows = TrainingRows(prepared, block_size, seed=1)
    scored = validation_loss(model, rows.validation, tokenizer, resolve(experiment.training), World())
    assert scored.tokens == sum(lengths - 1)  # what ends a text is scored, too
    size = sum(len(text.encode()) for text in texts)
    assert scored.val_bpb == pytest.approx(scored.val_loss * scored.tokens / math.log(2) / size, rel=1e-9)


def test_what_goes_on_from_a_text_is_scored_as_one_text_with_it(project, capsys):
    """Alone, it would begin with a blank."""
    like_llama(project / "theirs")
    foundry(capsys, "zoo", "convert", "theirs", "--run", "run")
    handle = FinishedRun.of(project / "run")
    model = transformers.AutoModelForCausalLM.from_pretrained("theirs").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained("theirs")
    for context, continuation in (("the 12 cats", " sat"), ("the 12 cats ", "sat"), ("the 12 c", "ats")):
        ids = tokenizer(context + continuation, return_tensors="pt").input_ids
        spelled = [tokenizer.decode(ids[0, : n + 1], skip_special_tokens=True) for n in range(ids.shape[1])]
        first = next(n for n, text in enumerate(spelled) if len(text) > len(context))
        with torch.no_grad():
            logits = model(ids).logits
            scores = logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        [(likelihood, _)] = handle.score([(context, continuation)])
        allowed = rounding(torch.float32, *sums_of(model)) * float(logits.abs().max()) * len(scores)  # of each token
        assert likelihood == pytest.approx(float(scores[first - 1 :].sum()), abs=allowed)
