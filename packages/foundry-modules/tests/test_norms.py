"""`dyt` against its formula, and the mutations that stand beside a slot's variants: `norm qknorm`, which is one of the
attention, and `attention sssl`, which is one of layers."""

import pytest
import torch

from foundry.core.config import load_experiment
from foundry.core.config.mutate import list_mutations, mutate
from foundry.core.contracts import Dims, InvalidExperiment
from foundry.core.model import initialize, model_of
from foundry.core.testing import Case, assert_rounded, sums_of
from foundry.modules.norm import DyTParams
from foundry.modules.norm.dyt import DyT

pytestmark = pytest.mark.quick

DIMS = Dims(n_layer=1, n_head=2, n_embd=8, head_dim=4, block_size=8, bias=True)


def test_dyt_is_its_formula_and_its_derivative():
    dyt = DyT(DyTParams(alpha=0.8), DIMS, 8).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in dyt.parameters():
        torch.nn.init.normal_(parameter, 0.7, 0.3, generator=generator)
    x = torch.randn(2, 3, 8, dtype=torch.float64, generator=generator, requires_grad=True)
    assert_rounded(dyt(x), dyt.weight * torch.tanh(dyt.alpha * x) + dyt.bias, *sums_of(dyt))
    assert torch.autograd.gradcheck(dyt, (x,))


def test_dyt_begins_as_it_was_asked_to():
    part = Case.of("norm", "dyt", {"alpha": 0.75}, DIMS).layer().part
    assert {name: set(tensor.tolist()) for name, tensor in part.state_dict().items()} == {
        "alpha": {0.75},
        "weight": {1.0},
        "bias": {0.0},
    }


def test_norm_qknorm_normalises_queries_and_keys_in_every_layer_and_keeps_the_norm(load):
    layers = "layers: {'2-': {attention: {type: mha, qkv_bias: true}}, '0': {ffn: {hidden: 24}}}"
    base = load(f"model_args: {{n_layer: 4, attention: gqa_2kv, norm: layernorm}}\n{layers}\n")
    mutated = mutate(base, "norm", "qknorm")
    assert mutated.name == "experiment+norm_qknorm"
    assert {change.key for change in mutated.changes} == {
        "model_args.attention.qk_norm",
        "layers.2-.attention.qk_norm",
    }
    model = model_of(mutated.experiment, 11)
    assert all(block.attention.q_norm is not None for block in model.blocks)
    assert type(model.norm).__name__ == "LayerNorm"
    assert mutate(base, "norm", "dyt").experiment.model_args.norm.type == "dyt"


def test_it_is_listed_once_beside_the_norms_and_is_no_variant(load):
    base = load("model_args: {n_layer: 1}\n")
    rows = [(row.type, row.value, row.distribution) for row in list_mutations(base.registry)]
    assert rows.count(("norm", "qknorm", "foundry-modules")) == 1
    with pytest.raises(InvalidExperiment, match="qknorm is a mutation, not a variant of norm"):
        load("model_args: {norm: qknorm}\n")


def test_attention_sssl_windows_three_layers_of_four(load):
    base = load(
        "model_args: {n_layer: 6, n_head: 4, block_size: 64, attention: {type: gqa, n_kv_head: 2, sinks: true}}"
    )
    mutated = mutate(base, "attention", "sssl")
    assert mutated.name == "experiment+attn_sssl"
    chosen = [mutated.experiment.layer_args(layer).attention for layer in range(6)]
    assert [each.type for each in chosen] == ["sliding_window"] * 3 + ["gqa"] + ["sliding_window"] * 2
    assert {(each.n_kv_head, each.sinks) for each in chosen} == {(2, True)}
    plain = mutate(load("model_args: {n_layer: 4, n_head: 4, attention: mha}"), "attention", "sssl").experiment
    assert plain.layer_args(0).attention.n_kv_head is None  # one for each query head


def test_a_model_with_dyt_learns_a_factor_on_its_embeddings_that_starts_at_the_root_of_the_width(tmp_path):
    (tmp_path / "e.yaml").write_text("model_args: {n_layer: 1, n_head: 2, n_embd: 16, norm: dyt}\n")
    model = model_of(load_experiment(tmp_path / "e.yaml"), 11)
    initialize(model, seed=1)
    assert model.embed_scale is not None
    assert model.embed_scale.item() == 4.0
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda block, given: seen.append(given[0]))
    ids = torch.arange(5)[None]
    model(ids)[0].sum().backward()
    assert torch.equal(seen[0], 4.0 * model.embed(ids))
    assert model.embed_scale.grad is not None
    assert model.embed_scale.grad.abs() > 0
    normed = model_of(load_experiment(tmp_path / "e.yaml", ["model_args.norm=rmsnorm"]), 11)
    assert normed.embed_scale is None
    (tmp_path / "e.yaml").write_text("model_args: {n_layer: 2, n_head: 2, n_embd: 16}\nlayers: {0: {norm: dyt}}\n")
    first = model_of(load_experiment(tmp_path / "e.yaml"), 11)
    assert first.embed_scale is not None  # the norm that reads the embeddings
