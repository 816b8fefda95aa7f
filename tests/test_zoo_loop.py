"""Leaving with a trained model and beginning with a pretrained one, by the commands that a user types."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import hashlib
import json
from pathlib import Path

import pytest
import torch
from tests.documents import faults, foundry
from tests.project import write_project

from foundry.cli.__main__ import main
from foundry.core import load_experiment, load_run
from foundry.core.generate import Sampling, first_ids, generate_ids
from foundry.core.testing import assert_rounded, sums_of
from foundry.zoo.shards import WeightsFolder, sha256_of

transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()

BASELINE = """
model_args: {n_layer: 2, n_head: 4, n_embd: 32, block_size: 32, attention: gqa_2kv}
data: {dataset: {type: text, path: corpus.txt}, tokenizer: TOKENIZER}
training: {max_iters: 4, batch_size: 4, eval_tokens: 64, eval_interval: 0, threads: 1, device: cpu, learning_rate: 3e-3}
logging: {sample_tokens: 5}
"""


@pytest.fixture
def project(working_folder) -> Path:
    return write_project(
        working_folder, {"corpus.txt": "".join(f"{i} squared is {i * i}, naïvely\n" for i in range(300))}
    )


def write_baseline(project: Path, tokenizer: str) -> None:
    write_project(project, {"experiments/baseline.yaml": BASELINE.replace("TOKENIZER", tokenizer)})


@pytest.mark.parametrize("tokenizer", ["byte", "char", "{type: bpe, vocab_size: 300}"])
def test_transformers_takes_what_was_trained_with_its_tokenizer(project, capsys, tokenizer):
    write_baseline(project, tokenizer)
    assert main(["train", "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["export", "run", "to read"]) == 0
    assert "no form that transformers reads" not in capsys.readouterr().err
    done = foundry(capsys, "export", "run", "out", "--to", "hf")
    assert (done["architecture"], done["tokenizer"]) == ("llama", True)
    assert (done["folder"], done["files"]) == ("out", sorted(os.listdir("out")))
    assert [name for name in done["files"] if "model" in name] == ["model.safetensors"]
    model = transformers.AutoModelForCausalLM.from_pretrained("out").eval()
    theirs = transformers.AutoTokenizer.from_pretrained("out")
    _, ours, mine = load_run("run")
    text = "12 squared is 144 , naïvely\n"
    assert not theirs.clean_up_tokenization_spaces  # by which transformers before 5 takes away such a blank
    ids = first_ids(ours, text)
    assert theirs(text).input_ids == ids
    assert theirs.decode(ids, skip_special_tokens=True) == text
    bos, eos = ours.special_tokens["bos"], ours.special_tokens["eos"]
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (bos, eos, bos)
    assert model.generation_config.eos_token_id == model.config.eos_token_id == eos
    assert model.generation_config.pad_token_id == model.config.pad_token_id == bos
    if tokenizer != "char":  # which lacks <
        spelled = "naïve <|eos|><|bos|>"  # as the text that it is
        assert theirs(spelled).input_ids == first_ids(ours, spelled)
    assert done["bytes"] == sum(parameter.nbytes for parameter in mine.parameters())
    prompt = torch.tensor([ids[:9]])
    with torch.no_grad():
        assert_rounded(model(prompt).logits, mine(prompt)[0], *sums_of(mine))
        written = torch.cat(list(generate_ids(mine, prompt, 8, Sampling(temperature=0), stop=ours.stops)))
        said = model.generate(prompt, max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert said[0, 9:].tolist() == written.tolist()
    checked = foundry(capsys, "zoo", "check", "out")
    assert checked["ok"]
    assert all(place["same"] and place["difference"] < 1e-3 < place["largest"] for place in checked["places"])
    fewer = foundry(capsys, "zoo", "check", "out", "--tokens", "3")
    assert all(few != many for few, many in zip(fewer["places"], checked["places"], strict=True))
    assert [place["name"] for place in checked["places"]] == ["embedding", "layer 0", "layer 1", "norm", "logits"]


def test_a_converted_run_is_scored_and_never_trained_in_place(project, capsys):
    """It has no loader's state, no optimizer and no random streams, because nothing was trained there."""
    write_baseline(project, "byte")
    assert main(["train", "--out", "run"]) == 0
    foundry(capsys, "export", "run", "out", "--to", "hf")
    foundry(capsys, "zoo", "convert", "out", "--run", "converted")
    scored = foundry(capsys, "train", "--eval-only", "--out", "converted")
    assert (scored["step"], scored["tokens"] > 0, scored["val_loss"] > 0) == (0, True, True)
    for options in ((), ("--resume", "must")):
        assert main(["train", "--out", "converted", *options]) == 3
        assert "holds pretrained weights, and no training to go on with" in capsys.readouterr().err
    started = ("--set", "init_from=converted", "--set", "data.tokenizer=pretrained", "--set", "training.max_iters=1")
    assert foundry(capsys, "train", *started, "--out", "further")["step"] == 1


def test_a_run_begins_with_a_folder_of_weights(project, capsys):
    write_baseline(project, "byte")
    assert main(["train", "--out", "run"]) == 0
    foundry(capsys, "export", "run", "out", "--to", "hf", "--max-shard", "0.001")
    made = foundry(capsys, "zoo", "convert", "out/", "--experiment", "experiments/more.yaml", "--run", "again")
    assert (made["model"], made["experiment"], made["run"]) == ("out/", "experiments/more.yaml", "again")
    assert made["next"] == "foundry train experiments/more.yaml"
    more = load_experiment(Path("experiments/more.yaml"))
    assert (more.name, more.init_from) == ("out", str(project / "out"))  # wherever it is trained from
    _, _, before = load_run("run")
    config, tokenizer, same = load_run("again")
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), same.parameters(), strict=True))
    assert tokenizer.encode("naïve") == list("naïve".encode())
    assert config.data.tokenizer.type == "pretrained"
    sets = ["data.dataset={type: text, path: corpus.txt}", "training.max_iters=1", "training.learning_rate=1e-9"]
    sets += ["training.batch_size=2", "training.eval_tokens=64", "training.threads=1", "training.device=cpu"]
    command = ["train", "experiments/more.yaml", "--out", "more", *(f"--set={each}" for each in sets)]
    assert main(command) == 0
    began = json.loads(Path("more/config.json").read_text())["init_from"]
    names = WeightsFolder(Path("out")).files
    lines = "".join(f"{name}:{sha256_of(Path('out') / name)}\n" for name in names)
    assert began == {"run": str(project / "out"), "step": 0, "sha256": hashlib.sha256(lines.encode()).hexdigest()}
    _, _, after = load_run("more")
    for a, b in zip(before.parameters(), after.parameters(), strict=True):
        assert_rounded(a, b, 1)  # a step of 1e-9 is less than the last bit
    capsys.readouterr()
    assert main([*command[:3], "other", *command[4:], "--set=data.tokenizer=byte"]) == 3
    assert "set data.tokenizer=pretrained" in capsys.readouterr().err
    assert main([*command[:3], "other", *command[4:], "--set=model_args.n_layer=3"]) == 3
    assert "model.layers.2" in capsys.readouterr().err


def test_the_first_layer_that_drifts_is_named(project, capsys, monkeypatch):
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained("theirs")
    from foundry.zoo import weights

    fill = weights.fill

    def swapped(model, *rest):
        fill(model, *rest)
        keys = model.blocks[1].attention.k_proj.weight
        keys.data.copy_(keys.data.flip(0))

    monkeypatch.setattr(weights, "fill", swapped)
    capsys.readouterr()
    assert main(["zoo", "check", "theirs", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert faults("zoo check", told) == []
    assert (told["ok"], told["first_drift"]) == (False, "layer 1")


def test_listing_needs_no_network_and_no_torch(project, environment):
    for name, is_whole in (("openai-community--gpt2", False), ("Qwen--Qwen2-0.5B", True)):
        (environment.folder / "cache" / "zoo" / name).mkdir(parents=True)
        if is_whole:
            (environment.folder / "cache" / "zoo" / name / "config.json").touch()
    printed = environment.run(
        project, environment.python, "-X", "importtime", "-m", "foundry.cli", "zoo", "list", "--json"
    )
    models = {model["name"]: model for model in json.loads(printed.stdout)["models"]}
    assert {"llama3-8b", "llama3-1b", "mistral-7b", "qwen2-7b", "gpt2"} <= models.keys()
    assert [name for name, model in models.items() if model["here"]] == ["qwen2-0.5b"]
    assert {name for name, model in models.items() if model["gated"]} == {"llama3-1b", "llama3-3b", "llama3-8b"}
    assert " torch\n" not in printed.stderr
