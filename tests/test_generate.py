"""Generation: from the cache or anew, alone or in a batch, the same text."""

from __future__ import annotations

import json

import pytest
import torch

from foundry.cli.__main__ import main
from foundry.core.config import from_plain
from foundry.core.generate import Sampling, generate_ids
from foundry.core.model import GPT, initialize

VOCAB, BLOCK = 61, 20
GREEDY = Sampling(temperature=0)


def model_with(**model_args) -> GPT:
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": BLOCK, "attention": "gqa_2kv"}
    model = GPT(from_plain({"model_args": {**sizes, **model_args}}), VOCAB)
    initialize(model, seed=5)
    generator = torch.Generator().manual_seed(6)
    for parameter in model.parameters():  # as sure of its choices as a trained one
        torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.3, generator=generator)
    return model.eval()


def draw(*shape: int) -> torch.Tensor:
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(0))


def written(model: GPT, prompt: torch.Tensor, n: int, sampling: Sampling = GREEDY, **options) -> torch.Tensor:
    return torch.stack(list(generate_ids(model, prompt, n, sampling, **options)), 1)


@pytest.mark.parametrize("position", ["rope", "alibi", "learned"])
def test_greedy_is_the_likeliest_token_again_and_again(position):
    """Past the end of the context, too, where the newer half of it is read again."""
    model, ids = model_with(position=position), draw(3, 7)
    ours, start = written(model, ids, 40), 0
    for step in range(40):
        if ids.shape[1] - start > BLOCK:
            start = ids.shape[1] - BLOCK // 2
        with torch.no_grad():
            logits = model(ids[:, start:])[0][:, -1]
        best = logits.topk(2).values
        assert (best[:, 0] - best[:, 1] > 1e-4).all(), "no choice of this test may be a near tie"
        assert torch.equal(ours[:, step], logits.argmax(-1))
        ids = torch.cat([ids, ours[:, step : step + 1]], 1)


@pytest.mark.parametrize("position", ["rope", "alibi", "learned"])
def test_a_prompt_in_a_padded_batch_is_continued_as_it_is_alone(position):
    model, long = model_with(position=position), draw(1, 11)
    short = long[:, :4]
    batch = torch.cat([long, torch.cat([torch.zeros(1, 7, dtype=torch.long), short], 1)])
    mask = torch.tensor([[1] * 11, [0] * 7 + [1] * 4])
    together = written(model, batch, 9, attention_mask=mask)
    assert torch.equal(together, torch.cat([written(model, long, 9), written(model, short, 9)]))


def test_what_is_never_to_be_chosen_is_not():
    model, prompt = model_with(), draw(2, 5)
    unwanted = written(model, prompt, 6)[:, 0].tolist()
    assert not set(unwanted) & set(written(model, prompt, 6, never=unwanted).flatten().tolist())


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
        "training: {max_iters: 4, batch_size: 4, eval_tokens: 64, eval_interval: 0, threads: 1}\n"
        "logging: {sample_tokens: 0}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOUNDRY_CACHE", str(tmp_path / "cache"))
    assert main(["train", "tiny.yaml", "--out", "run"]) == 0
    prompts, options = ["the hen", "is", "rather there than"], ["--greedy", "--max-tokens", "5"]
    alone = []
    for prompt in prompts:
        capsys.readouterr()
        assert main(["generate", "run", "--prompt", prompt, *options, "--json"]) == 0
        alone.append(json.loads(capsys.readouterr().out))
    assert main(["generate", "run", *(f"--prompt={prompt}" for prompt in prompts), *options, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["texts"] == [{"prompt": each["prompt"], "text": each["text"]} for each in alone]
    assert main(["generate", "run", *(f"--prompt={prompt}" for prompt in prompts), *options]) == 0
    shown = capsys.readouterr().out
    assert all(each["prompt"] + each["text"] in shown for each in alone)
