"""Folders as others wrote them, older files among them, and what one may ask of a model as it comes in."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from foundry.core import load_run
from foundry.core.contracts import InvalidData
from foundry.core.contracts.architecture import Config
from foundry.core.registry import registry
from foundry.core.testing import assert_rounded, sums_of
from foundry.zoo import export, load, load_pretrained
from foundry.zoo.config_json import experiment_of
from foundry.zoo.convert import convert, experiment_from
from foundry.zoo.pretrained import name_of
from foundry.zoo.shards import WeightsFolder

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
transformers.utils.logging.disable_progress_bar()

VOCAB = 67
SIZES = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 48, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def random_model(**more):
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **more))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0 if parameter.ndim > 1 else 0.5, 0.15)
    return model.eval()


def ids(length: int = 40) -> torch.Tensor:
    return torch.randint(3, VOCAB, (2, length), generator=torch.Generator().manual_seed(0))


def edit(file: Path, change) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def with_tables(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)


def with_the_head(tensors: dict[str, torch.Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()


@pytest.mark.parametrize("change", [None, with_tables, with_the_head])
def test_a_base_model_old_tables_and_a_head_that_is_the_embedding(change, tmp_path):
    theirs = random_model(tie_word_embeddings=True)
    (theirs.model if change is None else theirs).save_pretrained(tmp_path)
    if change is None:
        assert "embed_tokens.weight" in WeightsFolder(tmp_path).shapes  # no `model.` before it
    else:
        edit(tmp_path / "model.safetensors", change)
    save_file({"odd": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")  # of another program
    assert_rounded(load_pretrained(tmp_path)(ids())[0], theirs(ids()).logits, *sums_of(theirs))


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 333.0},
        {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 16},
    ],
)  # fmt: skip
def test_what_leaves_is_read_by_transformers_before_5_and_after(rope, tmp_path):
    """Each of the two ways in which config.json says rotary positions is whole without the other."""
    random_model(rope_parameters=rope).save_pretrained(tmp_path / "theirs")
    pretrained = load(tmp_path / "theirs")
    export(*pretrained, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    for ways in (("rope_theta", "rope_scaling"), ("rope_parameters",)):
        data = {key: value for key, value in written.items() if key not in ways}
        read = experiment_of(Config(data, "config.json"), registry(), name=pretrained.config.name)
        assert read.identity == pretrained.config.identity


@pytest.mark.parametrize(
    ("said", "kind", "window"),
    [
        ({}, "sliding_window", 4096),
        ({"sliding_window": None}, "gqa", None),
        ({"sliding_window": 7}, "sliding_window", 7),
    ],
)
def test_mistrals_window_is_none_where_it_says_so_and_its_own_where_it_says_nothing(said, kind, window):
    """As in version 0.1, and from 0.2 on."""
    config = Config({"model_type": "mistral", **SIZES, "max_position_embeddings": 8192, **said}, "config.json")
    attention = experiment_of(config, registry(), name="mistral").model_args.attention
    assert (attention.type, getattr(attention, "window", None)) == (kind, window)


def test_qwens_windows_begin_behind_its_28th_layer_where_it_does_not_say_where():
    windows = {"use_sliding_window": True, "sliding_window": 8}
    config = Config({"model_type": "qwen2", **SIZES, **windows, "num_hidden_layers": 30}, "config.json")
    experiment = experiment_of(config, registry(), name="qwen2")
    kinds = [experiment.layer_args(layer).attention.type for layer in range(30)]
    assert kinds == ["gqa"] * 28 + ["sliding_window"] * 2


def test_an_old_config_has_a_key_for_each_query():
    """Llama 1 knew no groups. Llama 2 says how it was trained, which changes no model."""
    old = {"num_key_value_heads": None, "pretraining_tp": 4}
    config = Config({"model_type": "llama", **SIZES, **old}, "config.json")
    assert experiment_of(config, registry(), name="llama").model_args.attention.n_kv_head == 4


def test_a_scaling_that_an_architecture_does_not_have_is_refused():
    config = Config({"model_type": "phi3", **SIZES, "rope_scaling": {"type": "linear", "factor": 2.0}}, "config.json")
    with pytest.raises(InvalidData, match=r"rope_scaling: .* Foundry knows only None"):
        experiment_of(config, registry(), name="phi3")


@pytest.mark.parametrize("name", registry().variants("architecture"))
def test_a_base_model_lacks_what_all_names_but_the_heads_begin_with(name):
    """Else a file of a base model, which is saved without its head, would be of another architecture."""
    family = registry().variants("architecture")[name].load()
    names = [weight.theirs for weight in family.weights]
    assert {each for each in names if not each.startswith(family.prefix)} == {"lm_head.weight"}


def test_one_shard_of_two_is_no_model(tmp_path):
    random_model().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(InvalidData, match=r"model-00002-of-00002\.safetensors: this shard is missing"):
        load(tmp_path)


def test_the_masks_in_old_files_of_gpt2_are_no_weights(tmp_path):
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=48)
    )
    theirs.save_pretrained(tmp_path)

    def with_masks(tensors: dict[str, torch.Tensor]) -> None:
        for layer in range(2):
            tensors[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 48, 48).tril()
            tensors[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)

    edit(tmp_path / "model.safetensors", with_masks)
    assert_rounded(load_pretrained(tmp_path)(ids())[0], theirs.eval()(ids()).logits, *sums_of(theirs))


def test_layers_that_only_look_further_ahead_are_named_and_not_read(tmp_path):
    """DeepSeek-V3's are saved after the model's own; any other layer that is too many is no such thing."""
    latent = {
        "num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 8, "n_group": 4, "topk_group": 2,
        "num_experts_per_tok": 3, "first_k_dense_replace": 1, "kv_lora_rank": 16, "q_lora_rank": 12,
        "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12, "num_nextn_predict_layers": 1,
    }  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**{**SIZES, **latent})).eval()
    theirs.save_pretrained(tmp_path)

    def with_layer(layer: int):
        def change(tensors: dict[str, torch.Tensor]) -> None:
            last = {name: tensor for name, tensor in tensors.items() if name.startswith("model.layers.1.")}
            tensors |= {name.replace("layers.1.", f"layers.{layer}."): t.clone() for name, t in last.items()}
            tensors[f"model.layers.{layer}.eh_proj.weight"] = torch.zeros(32, 64)

        return change

    edit(tmp_path / "model.safetensors", with_layer(2))
    said: list[str] = []
    assert_rounded(load_pretrained(tmp_path, note=said.append)(ids())[0], theirs(ids()).logits, *sums_of(theirs))
    assert [line.split(" (")[0] for line in said] == ["not read: model.layers.2"]
    edit(tmp_path / "model.safetensors", with_layer(3))
    with pytest.raises(InvalidData, match=r"the tensor model\.layers\.3\..* is not of this deepseek_v3"):
        load_pretrained(tmp_path)


def test_type_mode_and_context_are_the_files_or_as_asked_for(tmp_path):
    theirs = random_model().bfloat16()
    theirs.save_pretrained(tmp_path / "theirs")

    def norms_in_fp32(tensors: dict[str, torch.Tensor]) -> None:  # as some keep what is small
        tensors |= {name: tensor.float() for name, tensor in tensors.items() if tensor.ndim == 1}

    edit(tmp_path / "theirs" / "model.safetensors", norms_in_fp32)
    config, tokenizer, model = load(tmp_path / "theirs")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not model.training
    export(config, tokenizer, model, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as weights:
        assert weights.metadata() == {"format": "pt"}  # without which transformers before 5 reads none
    assert written["dtype"] == written["torch_dtype"] == "bfloat16"  # before transformers 5, by the other name
    again = dict(WeightsFolder(tmp_path / "out").read(theirs.state_dict()))
    assert all(torch.equal(again[name], tensor) for name, tensor in theirs.state_dict().items())
    for word, dtype in (("fp16", torch.float16), ("float16", torch.float16), ("fp64", torch.float64)):
        model = load_pretrained(tmp_path / "theirs", dtype=word)
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    export(config, tokenizer, model, tmp_path / "double")
    assert load_pretrained(tmp_path / "double").embed.weight.dtype == torch.float64
    short = load_pretrained(tmp_path / "theirs", dtype="fp32", block_size=20)
    assert {parameter.dtype for parameter in short.parameters()} == {torch.float32}
    assert short.dims.block_size == experiment_from(tmp_path / "theirs", block_size=20).model_args.block_size == 20
    theirs = type(theirs).from_pretrained(tmp_path / "theirs", dtype=torch.float32)  # whose rope was never bfloat16
    assert_rounded(short(ids(20))[0], theirs.eval()(ids(20)).logits, *sums_of(theirs))


def test_a_run_has_the_tokenizer_the_type_and_the_context_that_were_asked_for(tmp_path):
    random_model().save_pretrained(tmp_path / "theirs")
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4}
    tokenizers.Tokenizer(tokenizers.models.BPE(vocab=words, merges=[])).save(str(tmp_path / "theirs/tokenizer.json"))
    convert(tmp_path / "theirs", tmp_path / "run", dtype="bf16", block_size=16)
    config, tokenizer, _ = load_run(tmp_path / "run")
    assert tokenizer.hash == load(tmp_path / "theirs").tokenizer.hash
    assert tokenizer.special_tokens == {"bos": 1, "eos": 2, "pad": 0}  # by the numbers in config.json
    assert (tokenizer.stops, config.model_args.block_size) == ((2,), 16)
    began = json.loads((tmp_path / "run" / "config.json").read_text())["init_from"]
    assert began == {"run": str(tmp_path / "theirs"), "step": 0, "sha256": WeightsFolder(tmp_path / "theirs").sha256}
    weights = load_file(tmp_path / "run" / "checkpoints" / "step-00000000" / "model.safetensors")
    assert weights["embed.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("said", "name"),
    [("org/My Model", "My-Model"), ("folder/out/", "out"), ("./.hidden", "hidden"), ("/", "pretrained")],
)
def test_an_experiment_is_named_as_its_model(said, name):
    assert name_of(said) == name


COMING_IN = """
import re, sys
from pathlib import Path
from foundry.zoo import load
from foundry.zoo.convert import convert

def resident(which):
    return int(re.search(which + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

how, small, large, out = sys.argv[1:]
convert(small, out + "-small")  # what is imported on the way
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
before = resident("VmRSS")
if how == "load":
    load(large)
else:
    convert(large, out)
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
def test_a_model_comes_in_without_a_second_copy(tmp_path):
    """Of the memory that a process takes, pages of the mapped files included."""
    wide = {"hidden_size": 384, "intermediate_size": 1408, "num_hidden_layers": 8, "vocab_size": 4096}
    for name, sizes in (("small", {}), ("large", wide)):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES | sizes))
        model.save_pretrained(tmp_path / name, max_shard_size="20MB")
        vocabulary = {chr(256 + i): i for i in range(model.config.vocab_size)}
        tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [])).save(str(tmp_path / name / "tokenizer.json"))
    weights = sum(parameter.numel() * 4 for parameter in model.parameters())
    taken = {}
    for how in ("load", "convert"):
        folders = (str(tmp_path / name) for name in ("small", "large", f"run-{how}"))
        done = subprocess.run(
            [sys.executable, "-c", COMING_IN, how, *folders], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        taken[how] = int(done.stdout) / weights
    assert weights > 60e6
    assert 1 < taken["load"] < 1.5, "beside the weights, a shard at most"
    assert 1 < taken["convert"] < 1.5
