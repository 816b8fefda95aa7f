"""Generation: from the cache or anew, alone or in a batch, the same text."""

from __future__ import annotations

import json
import random
from contextlib import nullcontext, suppress
from itertools import product

import pytest
import torch
from tests.documents import faults
from tests.doses import dose

from foundry.cli.__main__ import main
from foundry.core import generate
from foundry.core.config import Experiment, from_plain
from foundry.core.contracts import InvalidExperiment, UsageError
from foundry.core.generate import Sampling, generate_ids
from foundry.core.model import GPT, initialize
from foundry.core.registry import registry
from foundry.core.testing import sums_of
from foundry.core.testing.rounding import rounding
from foundry.kernels import few_rows

VOCAB, BLOCK = 61, 20
GREEDY = Sampling(temperature=0)


def experiment_with(**model_args) -> Experiment:
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": BLOCK, "attention": "gqa_2kv"}
    return from_plain({"model_args": {**sizes, **model_args}})


def model_with(**model_args) -> GPT:
    model = GPT(experiment_with(**model_args), VOCAB)
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
    monkeypatch.setattr(generate, "decoding_kernels", few_rows.Used if kernels else nullcontext)
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


@pytest.mark.parametrize("row", [[1, 1, 0], [1, 0, 1], [0, 0, 0]])
def test_padding_that_is_not_on_the_left_is_refused(row):
    with pytest.raises(UsageError, match="on the left"):
        written(model_with(), draw(2, 3), 1, attention_mask=torch.tensor([[1, 1, 1], row]))


def test_the_same_seed_writes_the_same_and_another_one_another():
    model, prompt, wild = model_with(), draw(1, 5), Sampling(temperature=3.0)
    first, again, other = (written(model, prompt, 12, wild, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_several_prompts_on_the_command_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "corpus.txt").write_text("the hen is rather there than here. " * 40)
    (tmp_path / "tiny.yaml").write_text(
        "model_args: {n_layer: 1, n_head: 2, n_embd: 16, block_size: 16}\n"
        "data: {dataset: {type: text, path: corpus.txt}, tokenizer: char}\n"
        "training: {max_iters: 40, batch_size: 4, learning_rate: 0.01, eval_tokens: 64, eval_interval: 0, threads: 1}\n"
        "logging: {sample_tokens: 0}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOUNDRY_CACHE", str(tmp_path / "cache"))
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


def test_a_model_of_our_own_learns_to_end_its_texts(tmp_path, monkeypatch, capsys):
    (tmp_path / "corpus").mkdir()
    for number in range(40):
        (tmp_path / "corpus" / f"{number}.txt").write_text(f"{number % 10} hens sit here.")
    (tmp_path / "tiny.yaml").write_text(
        "model_args: {n_layer: 1, n_head: 2, n_embd: 32, block_size: 32}\n"
        "data: {dataset: {type: text, path: corpus}, tokenizer: byte}\n"
        "training: {max_iters: 60, batch_size: 8, learning_rate: 0.01, eval_tokens: 64, eval_interval: 0, threads: 1}\n"
        "logging: {sample_tokens: 0}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOUNDRY_CACHE", str(tmp_path / "cache"))
    assert main(["train", "tiny.yaml", "--out", "run"]) == 0

    def written(*more: str) -> dict:
        capsys.readouterr()
        assert main(["generate", "run", "--prompt", "7 hens", "--greedy", "--max-tokens", "30", "--json", *more]) == 0
        return json.loads(capsys.readouterr().out)

    assert (written()["text"], written()["finish_reason"]) == (" sit here.", "stop")
    longer = written("--ignore-eos")
    assert longer["finish_reason"] == "length"
    assert longer["text"].startswith(" sit here.")
    capsys.readouterr()
    assert main(["generate", "run", "--prompt", "7 hens", "--greedy"]) == 0
    assert capsys.readouterr().out == "7 hens sit here.\n"
