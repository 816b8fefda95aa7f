"""What parameters are, of every variant: which of them decay, which Muon takes, and what a variant says of its own."""

import re

import pytest
import torch
from tests.project import write_project
from torch import nn

from foundry.core import load_experiment
from foundry.core.contracts import PluginError, role_of, roles
from foundry.core.model import GPT, initialize, model_of
from foundry.core.registry import registry

pytestmark = pytest.mark.quick

SIZES = "n_layer: 2, n_head: 4, n_embd: 32, block_size: 32, bias: true, norm: layernorm, tie_embeddings: false"
NOT_MATRICES = {  # of every model; what else there is is one
    r"bias$|sinks$": "bias",
    r"norm\.weight$|alpha$|embed_scale$|^skip\.": "gain",
    r"^embed\.|wpe\.|value_embedding\.table\.|place$": "table",
    r"^head\.": "head",
}
BESIDES = {
    "canon": {r"\.convs\.": "kernel"},
    "moe": {r"ffn\.gate\.": "router"},
    "peer": {r"keys$": "router", r"ffn\.(gate|up)_proj": "neurons", r"ffn\.down_proj": "table"},
}
MODELS = {
    "plain": "",
    "rms": "attention: {type: gqa_2kv, qk_norm: true, sinks: true}, skip: x0, value_embedding: table, norm: rmsnorm",
    "dyt": "norm: dyt, position: learned, value_embedding: gated, residual: sandwich",
    "mla": "attention: mla",
    "nsa": "attention: {type: nsa, n_kv_head: 2}",
    "canon": "canon: abcd",
    "moe": "ffn: {type: moe, n_shared_experts: 1, bias_update_rate: 0.01}",
    "peer": "ffn: {type: peer, n_experts: 64, top_k: 4, key_dim: 8, query_norm: batchnorm, sparse_gradients: false}",
}


def build(folder, model_args: str, training: str = "") -> tuple[GPT, list[torch.optim.Optimizer]]:
    (folder / "experiments").mkdir(exist_ok=True)
    file = folder / "experiments" / "baseline.yaml"
    given = {part.partition(":")[0].strip() for part in model_args.split(", ")}
    sizes = ", ".join(part for part in SIZES.split(", ") if part.partition(":")[0] not in given)
    file.write_text(f"model_args: {{{sizes}, {model_args}}}\ntraining: {{{training}}}\n")
    experiment = load_experiment(file)
    model = model_of(experiment, 19)
    initialize(model, seed=0)
    factory = registry(folder).variant("optimizer", experiment.training.optimizer.type).load()
    return model, factory(experiment.training.optimizer, model, 0.01)


def expected(kind: str, name: str) -> str:
    table = NOT_MATRICES | BESIDES.get(kind, {})
    return next((role for pattern, role in table.items() if re.search(pattern, name)), "matrix")


@pytest.mark.parametrize("kind", MODELS)
def test_gains_and_biases_do_not_decay_and_muon_takes_the_matrices(tmp_path, kind):
    """Whatever their number of axes: the biases of experts have two, short convolutions three."""
    model, optimizers = build(tmp_path, MODELS[kind], "optimizer: muon")
    role = roles(model)
    groups = [(group, optimizer) for optimizer in optimizers for group in optimizer.param_groups]
    told = {
        parameter: (group["weight_decay"], optimizer) for group, optimizer in groups for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        assert role[parameter] == expected(kind, name), name
        decay, optimizer = told[parameter]
        assert bool(decay) == (role[parameter] not in ("gain", "bias")), name
        assert (optimizer is optimizers[0]) == (role[parameter] == "matrix"), name


VARIANT = """
import torch
from torch import nn
from foundry.core.contracts import NormParams, Variant

class PerHead(nn.Module):
    {roles}
    def __init__(self, params, dims, size):
        super().__init__()
        self.heads = dims.n_head
        self.size = nn.Parameter(torch.empty(dims.n_head, size // dims.n_head))
    def forward(self, x):
        return (x.unflatten(-1, (self.heads, -1)) * self.size).flatten(-2)

VARIANTS = [Variant("norm", "per_head", f"{__name__}:PerHead", NormParams, "a gain for each entry of each head")]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    def project(roles: str):
        monkeypatch.chdir(write_project(tmp_path, {"variants/per_head.py": VARIANT.replace("{roles}", roles)}))
        return tmp_path

    return project


def test_a_variant_says_it_of_its_own(project):
    """Gains with two axes, of one file in the project: they start at 1, do not decay, and are no matrix for Muon."""
    model, optimizers = build(project('roles = {"size": "gain"}'), "norm: per_head", "optimizer: muon")
    gains = {id(parameter): name for name, parameter in model.named_parameters() if name.endswith("norm.size")}
    assert len(gains) == 2 * 2 + 1
    for name in gains.values():
        assert torch.equal(model.get_parameter(name), torch.ones(4, 8))
    decays = [
        group["weight_decay"]
        for optimizer in optimizers[1:]
        for group in optimizer.param_groups
        for parameter in group["params"]
        if id(parameter) in gains
    ]
    assert decays == [0.0] * len(gains)


def test_what_nobody_says_anything_of_decays_if_it_may_be_a_matrix(project):
    model, optimizers = build(project(""), "norm: per_head", "optimizer: muon")
    assert role_of(model, "norm.size") == "other"
    assert model.norm.size.std() < 0.05
    groups = {id(p): group for each in optimizers[1:] for group in each.param_groups for p in group["params"]}
    assert groups[id(model.norm.size)]["weight_decay"] > 0


@pytest.mark.parametrize(
    ("said", "message"),
    [("gains", "PerHead.roles: size is 'gains', which is not a role"), ("matrix", None)],
)
def test_a_word_that_is_no_role_is_refused(project, said, message):
    folder = project(f'roles = {{"size": "{said}"}}')
    if message is None:
        assert role_of(build(folder, "norm: per_head")[0], "norm.size") == "matrix"
        return
    with pytest.raises(PluginError, match=message):
        build(folder, "norm: per_head")


def test_a_vector_is_no_matrix():
    class Wrong(nn.Module):
        roles = {"scale": "matrix"}  # noqa: RUF012

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    with pytest.raises(PluginError, match=r"Wrong.roles: scale is 'matrix' and has 1 axes"):
        role_of(Wrong(), "scale")


def test_what_torch_calls_its_own_is_known():
    model = nn.Sequential(
        nn.Embedding(3, 4),
        nn.Conv1d(4, 4, 3),
        nn.BatchNorm1d(4),
        nn.LayerNorm(4),
        nn.PReLU(),
        nn.Linear(4, 3, bias=False),
    )
    assert list(roles(model).values()) == ["table", *["kernel", "bias"], *["gain", "bias"] * 2, "gain", "matrix"]
    model[5].weight = nn.Parameter(torch.ones(3, 4))
    model[0].weight = model[5].weight  # tied
    assert roles(model)[model[0].weight] == "table"
