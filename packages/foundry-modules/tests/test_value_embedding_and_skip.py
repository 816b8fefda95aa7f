"""Value embeddings and residual scalars in a whole model, against what their formulas say of its parts."""

import pytest
import torch

from foundry.core.analyze import analyze
from foundry.core.config import load_experiment
from foundry.core.config.mutate import mutate
from foundry.core.contracts import AttentionParams, Context, Dims, InvalidExperiment, Variant
from foundry.core.model import GPT, initialize, model_of
from foundry.core.registry import Plugin, Registry, registry
from foundry.core.testing import Conformance, assert_gradients_rounded, assert_rounded, sums_of

VOCAB = 23
DIMS = Dims(n_layer=4, n_head=4, n_embd=32, head_dim=8, block_size=16)


@pytest.fixture
def load(load):
    return lambda model_args: load(f"model_args: {{n_layer: 4, n_head: 4, n_embd: 32, block_size: 16, {model_args}}}\n")


def filled_model(experiment) -> GPT:
    model = model_of(experiment, VOCAB)
    initialize(model, seed=5)
    return model.eval()


def ids_of(batch: int, length: int) -> torch.Tensor:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("choice", ["table", "{type: gated, gate_channels: 5}"])
def test_a_value_embedding_is_a_per_token_bias_of_the_value_projection(load, choice):
    """For one token repeated, adding to the values is adding a bias to v_proj."""
    model = filled_model(load(f"attention: gqa_2kv, value_embedding: {choice}"))
    block, attention = model.blocks[3], model.blocks[3].attention
    assert [each.value_embedding is not None for each in model.blocks] == [False, True, False, True]
    for parameter in block.value_embedding.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(2))
    x = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(3)).expand(2, 9, 32)
    ids = torch.full((2, 9), 7)
    y, _ = block._attend(x, Context(ids=ids))
    row = block.value_embedding.table.weight[7]
    if "gated" in choice:
        gates = 2 / (1 + torch.exp(-block.value_embedding.gate.weight @ x[0, 0, :5]))
        row = row * gates.repeat_interleave(8)
    attention.v_proj.bias = torch.nn.Parameter(row.detach())
    assert_rounded(attention(x, Context())[0], y, *sums_of(attention))


def test_a_layer_with_values_of_another_size_has_an_embedding_of_that_size(tmp_path):
    file = tmp_path / "experiment.yaml"
    sizes = "n_layer: 4, n_head: 4, n_embd: 32, block_size: 16, attention: mha, value_embedding: table"
    file.write_text(f"model_args: {{{sizes}}}\nlayers: {{1: {{attention: gqa_2kv}}}}\n")
    model = filled_model(load_experiment(file))
    assert [model.blocks[layer].value_embedding.table.weight.size(1) for layer in (1, 3)] == [16, 32]
    assert model(ids_of(2, 16))[0].isfinite().all()


def test_gates_begin_open_and_the_stream_moves_them(load):
    gated, table = (filled_model(load(f"value_embedding: {choice}")) for choice in ("gated", "table"))
    assert_rounded(gated(ids_of(2, 16))[0], table(ids_of(2, 16))[0], *sums_of(gated))
    gated(ids_of(2, 16))[0].square().sum().backward()
    assert gated.blocks[3].value_embedding.gate.weight.grad.abs().min() > 0


def test_skip_x0_mixes_the_embeddings_in_before_every_layer(load):
    plain, mixed = filled_model(load("tie_embeddings: true")), filled_model(load("skip: {type: x0, initial: 0}"))
    assert torch.equal(plain(ids_of(2, 16))[0], mixed(ids_of(2, 16))[0])  # x is 1 x + 0 x0
    with torch.no_grad():
        mixed.skip.stream.copy_(torch.tensor([1.0, 0.5, 2.0, 1.0]))
        mixed.skip.embedded.copy_(torch.tensor([0.0, -1.0, 0.25, 3.0]))
    x = embedded = mixed.embed(ids_of(2, 16))
    for block, a, b in zip(mixed.blocks, (1.0, 0.5, 2.0, 1.0), (0.0, -1.0, 0.25, 3.0), strict=True):
        x, _ = block(a * x + b * embedded, Context())
    assert_rounded(mixed(ids_of(2, 16), read=lambda hidden, *_: hidden)[0], mixed.norm(x), *sums_of(mixed))


@pytest.mark.parametrize("model_args", ["value_embedding: table", "value_embedding: gated", "skip: x0"])
def test_it_decodes_as_it_trains_and_costs_are_known(load, model_args):
    experiment = load(model_args)
    model, ids = filled_model(experiment), ids_of(2, 16)
    cache = model.init_cache(2)
    pieces = [model(piece, cache=cache)[0] for piece in ids.split([5, 1, 1, 9], dim=1)]
    assert_rounded(torch.cat(pieces, 1), model(ids)[0], *sums_of(model))
    costs, plain = analyze(experiment, VOCAB), analyze(load("tie_embeddings: true"), VOCAB)
    assert costs["parameters"] > plain["parameters"]
    assert 0 <= costs["flops_per_token"] - plain["flops_per_token"] < 0.02 * plain["flops_per_token"]


EVERYTHING = "attention: gqa_2kv, residual: sandwich, canon: abcd, value_embedding: gated, skip: x0, norm: layernorm"


def test_all_parts_at_once_train_alike_with_checkpointed_gradients_and_compiled(tmp_path):
    gradients = []
    for how in ("plain", "checkpointed", "compiled"):
        file = tmp_path / f"{how}.yaml"
        file.write_text(
            f"model_args: {{n_layer: 2, n_head: 4, n_embd: 32, block_size: 16, {EVERYTHING}}}\n"
            f"training: {{gradient_checkpointing: {str(how == 'checkpointed').lower()}}}\n"
        )
        model = filled_model(load_experiment(file)).train()
        call = torch.compile(model, backend="eager", fullgraph=True) if how == "compiled" else model
        call(ids_of(2, 16))[0].square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert len(gradients[0]) > 30
    for other in gradients[1:]:
        assert_gradients_rounded(other, gradients[0], *sums_of(model, tokens=2 * 16))


def test_they_are_mutations_and_the_default_is_no_part_of_the_identity(load):
    base = load("tie_embeddings: true")
    assert base.identity == load("skip: none, value_embedding: none").identity
    names = [mutate(base, slot, value).name for slot, value in (("value_embedding", "gated"), ("skip", "x0"))]
    assert names == ["experiment+ve_gated", "experiment+skip_x0"]
    assert len({base.identity, *(mutate(base, *name).experiment.identity for name in [("skip", "x0")])}) == 2


class NoValues(AttentionParams):
    """An attention whose values nothing can be added to."""


def test_an_attention_without_a_place_for_it_is_refused(load, tmp_path):
    known = registry()
    odd = Variant("attention", "odd", "torch.nn:Identity", NoValues)
    extended = Registry([*known.plugins, Plugin("test", "0", "odd", "test", (odd,))])
    file = tmp_path / "experiment.yaml"
    file.write_text(
        "model_args: {n_layer: 4, value_embedding: {type: table, every: 3}}\nlayers: {'3': {attention: odd}}\n"
    )
    with pytest.raises(InvalidExperiment, match=r"2:16: layers\.3\.attention: table adds to the values .* odd has no"):
        load_experiment(file, registry=extended)
    file.write_text("model_args: {n_layer: 4, value_embedding: table}\nlayers: {'2': {attention: odd}}\n")
    assert load_experiment(file, registry=extended)  # layer 2 has no value embedding


class TestEveryLayer(Conformance):
    slot, variant, params = "value_embedding", "gated", {"every": 1, "gate_channels": 3}
