"""What the zoo knows of its models without a download, against what their authors say they have."""

from __future__ import annotations

import json

import pytest

from foundry.cli.__main__ import main
from foundry.core.model import model_of
from foundry.zoo.catalog import CATALOG
from foundry.zoo.sizes import experiment_named, is_named

# As published, each of them to the last parameter.
PARAMETERS = {
    "gpt2": 124_439_808, "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080, "gpt2-xl": 1_557_611_200,
    "llama3-1b": 1_235_814_400, "llama3-3b": 3_212_749_824, "llama3-8b": 8_030_261_248, "mistral-7b": 7_241_732_096,
    "qwen2-0.5b": 494_032_768, "qwen2-1.5b": 1_543_714_304, "qwen2-7b": 7_615_616_512, "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360, "olmo2-1b": 1_484_916_736, "olmo2-7b": 7_298_617_344, "phi3-mini": 3_821_079_552,
    "phi4": 14_659_507_200, "mixtral-8x7b": 46_702_792_704, "mpt-7b": 6_649_286_656,
}  # fmt: skip


@pytest.mark.parametrize("entry", CATALOG, ids=lambda entry: entry.name)
def test_a_model_has_as_many_parameters_as_its_authors_say(entry):
    experiment, vocabulary = experiment_named(entry.name)
    counted = sum(parameter.numel() for parameter in model_of(experiment, vocabulary, "meta").parameters())
    assert counted == PARAMETERS[entry.name]
    assert counted == pytest.approx(entry.parameters, rel=0.005)


def test_a_model_is_analyzed_by_its_name_without_a_corpus(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["analyze", "llama3-8b", "--set", "model_args.block_size=1024", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["name"], told["parameters"]) == ("llama3-8b", 8_030_261_248)
    assert told["kv_bytes_per_token"] == 32 * 2 * 8 * 128 * 4  # layers, keys and values, heads, width, fp32
    assert not is_named("llama3-9b")
    assert main(["analyze", "llama3-9b"]) == 3
    assert "there is no such file" in capsys.readouterr().err


def test_an_experiment_that_is_not_there_is_told_with_those_that_may_be_meant(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    for words in (
        ["train", "experiments/basline.yaml"],
        ["analyze", "baselin"],
        ["mutate", "norm", "dyt", "--base", "b"],
    ):
        capsys.readouterr()
        assert main(words) == 3
        told = capsys.readouterr().err
        assert ("did you mean experiments/baseline.yaml?" in told) == (words[-1] != "b")
