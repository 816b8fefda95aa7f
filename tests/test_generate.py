"""Generation: from the cache or anew, alone or in a batch, the same text."""

from __future__ import annotations

import json
import math
import random
from contextlib import suppress
from itertools import pairwise, product
from types import SimpleNamespace

import pytest
import torch
from tests.documents import faults
from tests.doses import dose
from tests.project import TINY, write_project

from foundry.cli.__main__ import main
from foundry.core import generate
from foundry.core.config import Experiment, from_plain
from foundry.core.contracts import InvalidExperiment, UsageError
from foundry.core.generate import Sampling, continuations, generate_ids, stream_text
from foundry.core.handle import FinishedRun, LiveModel
from foundry.core.model import GPT, initialize, model_of
from foundry.core.registry import registry
from foundry.core.tasks import evaluate, task_asked
from foundry.core.testing import sums_of
from foundry.core.testing.rounding import rounding
from foundry.kernels import decoding, few_rows

VOCAB, BLOCK = 61, 20
TASK = """
from typing import ClassVar
from foundry.core.contracts import Item, TaskParams, Variant

class WordsParams(TaskParams):
    metrics: ClassVar = ("bits_per_byte",)
    last: float = 4.0

class Words:
    digest = ""
    def __init__(self, params):
        self.last = params.last
    def run(self, handle):
        return [Item(str(n), {"bits_per_byte": score}) for n, score in enumerate((1.0, 4.0, self.last))]

VARIANTS = [Variant("task", "words", f"{__name__}:Words", WordsParams, summary="of a test")]
"""
GREEDY = Sampling(temperature=0)


def experiment_with(**model_args) -> Experiment:
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": BLOCK, "attention": "gqa_2kv"}
    return from_plain({"model_args": {**sizes, **model_args}})


def model_with(**model_args) -> GPT:
    model = model_of(experiment_with(**model_args), VOCAB)
    initialize(model, seed=5)
    generator = torch.Generator().manual_seed(6)
    for parameter in model.parameters():  # as sure of its choices as a trained one
        torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.3, generator=generator)
    return model.eval()


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def written(model: GPT, prompt: torch.Tensor, n: int, sampling: Sampling = GREEDY, **options) -> torch.Tensor:
    return torch.stack(list(generate_ids(model, prompt, n, sampling, **options)), 1)


def compositions() -> list:
    """Every attention that has a variant or a name with every position and every choice of the parts that keep
    something of a token, each by torch's operators or by the kernels of decoding."""
    known, draw = registry(), random.Random(1)
    beside = [{}, {"canon": "abcd"}, {"value_embedding": "gated"}, {"canon": "ac", "value_embedding": "table"}]
    attentions = [*known.variants("attention"), *known.shorthands("attention")]
    found = []
    for attention, position, parts in product(attentions, known.variants("position"), beside):
        composed, kernels = {"attention": attention, "position": position, **parts}, draw.random() < 0.5
        with suppress(InvalidExperiment):
            experiment_with(**composed)
            found.append(pytest.param(composed, kernels, id="-".join([*composed.values(), "kernels" * kernels])))
    return draw.sample(found, len(found))


@pytest.mark.parametrize(("parts", "kernels"), dose(compositions(), everyday=6))
def test_each_row_of_a_batch_is_the_likeliest_text_by_itself(monkeypatch, parts, kernels):
    """Past the end of the context several times, each row when its own is full: it goes on from its newer half."""
    if kernels and few_rows.missing():
        pytest.skip(few_rows.missing())
    monkeypatch.setattr(few_rows, "WORTH_IT", 0)
    monkeypatch.setattr(generate, "plan_decoding", decoding.plan_decoding if kernels else lambda model: None)
    # Where an attention chooses blocks that are nearly as good, rounding decides. A fault is in every text.
    model = model_with(**parts)
    assert min(greatest_regret(model, seed) for seed in (0, 1)) <= rounding(torch.float32, *sums_of(model))


@torch.no_grad()
def greatest_regret(model: GPT, seed: int) -> float:
    """By how much, of all tokens that a batch of prompts goes on with, one is below the likeliest, in logits of a pass
    over the row alone without a cache; relative to the largest."""
    lengths, n_new = (3, BLOCK, 11, BLOCK + 7), 3 * BLOCK
    prompts = draw(len(lengths), max(lengths), seed=seed)
    real = torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths)[:, None]
    rows = torch.cat([prompts, written(model, prompts * real, n_new, attention_mask=real)], 1)
    regret = 0.0
    for row, length in zip(rows, lengths, strict=True):
        begin, stop = max(lengths) - min(length, BLOCK), max(lengths)
        while stop < len(row):
            end = min(begin + BLOCK + 1, len(row))
            logits = model(row[None, begin : end - 1])[0][0, stop - 1 - begin :]
            chosen = logits.gather(1, row[stop:end, None])[:, 0]
            regret = max(regret, float((logits.amax(1) - chosen).max() / logits.abs().max()))
            begin, stop = end - BLOCK // 2, end
    return regret


def test_a_row_is_drawn_as_it_is_alone_with_a_seed_of_its_own():
    model, long, wild = model_with(), draw(1, 11), Sampling(temperature=2.0, top_k=40, top_p=0.9)
    batch = torch.cat([long, torch.cat([torch.zeros(1, 7, dtype=torch.long), long[:, :4]], 1)])
    mask = torch.tensor([[1] * 11, [0] * 7 + [1] * 4])
    together = written(model, batch, 40, wild, attention_mask=mask, seed=8)
    alone = written(model, long, 40, wild, seed=8), written(model, long[:, :4], 40, wild, seed=9)
    assert torch.equal(together, torch.cat(alone))
    assert not torch.equal(*written(model, draw(1, 4).expand(2, -1), 12, wild))


def test_a_row_that_has_chosen_a_stop_repeats_it_until_all_have():
    model, prompt, n = model_with(), draw(3, 7), 50
    free = written(model, prompt, n).tolist()
    stop = {free[0][4], free[1][9], free[2][2]}
    first = [next(at for at, token in enumerate(row) if token in stop) for row in free]
    stopped = written(model, prompt, n, stop=stop).tolist()
    assert [len(row) for row in stopped] == [max(first) + 1] * 3
    for row, whole, at in zip(stopped, free, first, strict=True):
        assert row == whole[: at + 1] + [whole[at]] * (max(first) - at)


class Letters:
    """Stands for a tokenizer of single characters."""

    prefix, special_tokens, stops = (), {}, frozenset()

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("A") for letter in text]

    def decode_bytes(self, ids: list[int]) -> bytes:
        return bytes(each + ord("A") for each in ids)


def test_a_text_ends_with_the_first_stop_unless_stops_are_ignored():
    model, tokenizer, n = model_with(), Letters(), 30
    free = "".join(stream_text(model, tokenizer, "HEN", n, GREEDY))
    assert len(free) == n
    tokenizer.stops = frozenset(tokenizer.encode(free[7]))
    ended = free[: free.index(free[7]) + 1]
    for ignoring, text, reason in ((False, ended, "stop"), (True, free, "length")):
        assert "".join(stream_text(model, tokenizer, "HEN", n, GREEDY, ignore_eos=ignoring)) == text
        assert continuations(model, tokenizer, ["HEN"], n, GREEDY, ignore_eos=ignoring) == [(text, reason)]


@pytest.mark.parametrize("row", [[1, 1, 0], [1, 0, 1], [0, 0, 0]])
def test_padding_that_is_not_on_the_left_is_refused(row):
    with pytest.raises(UsageError, match="on the left"):
        written(model_with(), draw(2, 3), 1, attention_mask=torch.tensor([[1, 1, 1], row]))


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(1.0), [0.4, 0.3, 0.2, 0.1]),
        (Sampling(0.5), [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        (Sampling(1.0, top_k=1), [1, 0, 0, 0]),
        (Sampling(1.0, top_k=2), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(1.0, top_k=4), [0.4, 0.3, 0.2, 0.1]),
        (Sampling(1.0, top_p=0.01), [1, 0, 0, 0]),
        (Sampling(1.0, top_p=0.5), [4 / 7, 3 / 7, 0, 0]),  # the second one reaches it
        (Sampling(1.0, top_p=0.75), [4 / 9, 3 / 9, 2 / 9, 0]),
        (Sampling(0.5, top_p=0.5), [1, 0, 0, 0]),  # of what the temperature makes of them
        (Sampling(0.5, top_k=3, top_p=0.6), [16 / 25, 9 / 25, 0, 0]),
    ],
    ids=str,
)
def test_tokens_are_drawn_as_often_as_their_probability_says(sampling, expected):
    draws, places = 4000, torch.tensor([2, 0, 3, 1])  # the likeliest do not stand first
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()[places].expand(draws, -1)
    generator = torch.Generator().manual_seed(1)
    drawn = places[sampling.choose(logits, [generator] * draws)]
    for count, share in zip(torch.bincount(drawn, minlength=4).tolist(), expected, strict=True):
        assert abs(count / draws - share) <= 4 * (share * (1 - share) / draws) ** 0.5


def test_the_same_seed_writes_the_same_and_another_one_another():
    model, prompt, wild = model_with(), draw(1, 5), Sampling(temperature=3.0)
    first, again, other = (written(model, prompt, 12, wild, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_several_prompts_on_the_command_line(working_folder, capsys):
    training = "{max_iters: 40, batch_size: 4, learning_rate: 0.01, eval_tokens: 64, eval_interval: 0, threads: 1}"
    tiny = f"{TINY}\ntraining: {training}\nlogging: {{sample_tokens: 0}}\n"
    write_project(working_folder, {"tiny.yaml": tiny, "corpus.txt": "the hen is rather there than here. " * 40})
    assert main(["train", "tiny.yaml", "--out", "run"]) == 0
    prompts, options = ["the hen", "is", "rather there than"], ["--greedy", "--max-tokens", "40"]
    alone = []
    for prompt in prompts:
        capsys.readouterr()
        assert main(["generate", "run", "--prompt", prompt, *options, "--json"]) == 0
        alone.append(json.loads(capsys.readouterr().out))
        assert faults("generate", alone[-1]) == []
    assert main(["generate", "run", *(f"--prompt={prompt}" for prompt in prompts), *options, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert faults("generate (of several prompts)", said) == []
    kept = ("prompt", "text", "finish_reason")
    assert said["texts"] == [{key: each[key] for key in kept} for each in alone]
    assert main(["generate", "run", *(f"--prompt={prompt}" for prompt in prompts), *options]) == 0
    shown = capsys.readouterr().out
    assert all(each["prompt"] + each["text"] in shown for each in alone)

    def drawn(seed: int, *more: str) -> str:
        capsys.readouterr()
        arguments = ["--prompt", "is", "--temperature", "2", "--max-tokens", "12", "--seed", str(seed), *more]
        assert main(["generate", "run", *arguments]) == 0
        return capsys.readouterr().out

    beside = [each["text"] for each in json.loads(drawn(5, "--prompt", "is", "--json"))["texts"]]
    assert [f"is{text}\n" for text in beside] == [drawn(5), drawn(6)]  # one after the other, and off --json
    assert beside[0] != beside[1]


def test_a_model_of_our_own_learns_to_end_its_texts(working_folder, capsys):
    tiny = (
        "model_args: {n_layer: 1, n_head: 2, n_embd: 32, block_size: 32}\n"
        "data: {dataset: {type: text, path: corpus}, tokenizer: byte}\n"
        "training: {max_iters: 60, batch_size: 8, learning_rate: 0.01, eval_tokens: 64, eval_interval: 0, threads: 1}\n"
        "logging: {sample_tokens: 0}\n"
    )
    texts = {f"corpus/{number}.txt": f"{number % 10} hens sit hère." for number in range(40)}
    write_project(working_folder, {"tiny.yaml": tiny, "variants/words.py": TASK, **texts})
    assert main(["train", "tiny.yaml", "--out", "run"]) == 0

    def written(*more: str) -> dict:
        capsys.readouterr()
        assert main(["generate", "run", "--prompt", "7 hens", "--greedy", "--max-tokens", "30", "--json", *more]) == 0
        return json.loads(capsys.readouterr().out)

    assert (written()["text"], written()["finish_reason"]) == (" sit hère.", "stop")
    longer = written("--ignore-eos")
    assert longer["finish_reason"] == "length"
    assert longer["text"].startswith(" sit hère.")
    capsys.readouterr()
    assert main(["generate", "run", "--prompt", "7 hens", "--greedy"]) == 0
    assert capsys.readouterr().out == "7 hens sit hère.\n"
    assert main(["generate", "run", "--prompt", "7 hens", "--greedy", "--max-tokens", "7"]) == 0
    assert capsys.readouterr().out == "7 hens sit h\ufffd\n"  # half a character at the end is told

    handle = FinishedRun.of(working_folder / "run")
    told = handle.generate(["7 hens", "3 hens s"], max_tokens=30, stop=["it h", "sit h", "never"])
    assert told == [" ", ""]  # where two of them end at once, the first one counts
    (likely, is_greedy), (unlikely, is_not) = handle.score([("7 hens", " sit hère."), ("7 hens", " sit hare.")])
    assert (is_greedy, is_not) == (True, False)
    assert unlikely < likely < 0
    assert_scored_by_hand(LiveModel(handle.tokenizer, Repeats()))
    for asked, mean in {"words": 3.0, "{type: words, last: 1.0}": 2.0}.items():
        assert evaluate(handle, handle.experiment, task_asked(handle.experiment, asked)).means == {
            "words.bits_per_byte": mean
        }


class Repeats:
    """Stands for a model of 8 tokens of context that expects each token again."""

    dims, embed = SimpleNamespace(block_size=8), SimpleNamespace(weight=torch.zeros(1))

    def __call__(self, tokens: torch.Tensor) -> tuple[torch.Tensor, None]:
        return 3 * torch.nn.functional.one_hot(tokens, 300).float(), None


def assert_scored_by_hand(handle: LiveModel) -> None:
    """Every token of a continuation counts once, however many pieces it is read in; and one that the model would not
    have chosen, in any of them, is one."""
    pairs = [("a", "aa"), ("a", "b" * 30), ("x" * 30, "xxxy"), ("", "cc"), ("ab", "b" * 7), ("no", "o" * 25 + "n")]
    for (context, continuation), (likelihood, greedy) in zip(pairs, handle.score(pairs), strict=True):
        text = (context or " ")[-1] + continuation
        changes = sum(before != after for before, after in pairwise(text))
        expected = 3 * (len(continuation) - changes) - len(continuation) * math.log(math.exp(3) + 299)
        assert likelihood == pytest.approx(expected, rel=1e-5)
        assert greedy == (changes == 0)
