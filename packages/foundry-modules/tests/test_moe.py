"""The mixture of experts against transformers' and against a loop over experts; its routing, its balance, its costs."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from foundry.core.contracts import Context, Dims
from foundry.core.model import initialize
from foundry.core.testing import DIMS, Case, assert_gradients_rounded, assert_rounded, sums_of
from foundry.core.testing.case import vectors

transformers = pytest.importorskip("transformers")

from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE  # noqa: E402
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func  # noqa: E402

DIMS_OF_64 = Dims(n_layer=2, n_head=4, n_embd=64, head_dim=16, block_size=24, vocab_size=19)
DEEPSEEK = {
    "n_experts": 16,
    "top_k": 4,
    "n_shared_experts": 2,
    "hidden": 24,
    "scoring": "sigmoid",
    "n_groups": 4,
    "top_k_groups": 2,
    "routed_scaling_factor": 2.5,
    "aux_loss": 0.0,
    "bias_update_rate": 0.01,
}


def moe(activation="swiglu", dims=DIMS, **params):
    case = Case.of("ffn", "moe", params, dims)
    return case.layer(companion=activation, seed=3).part


def take_over(ours, theirs):
    """Random weights of theirs in ours, whose gate and up projections stand apart, as they do on disk."""
    for i, parameter in enumerate(theirs.parameters()):
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(i))
    with torch.no_grad():
        ours.gate.weight.copy_(theirs.gate.weight)
        for mine, values in zip((ours.experts.gate_proj, ours.experts.up_proj), gate_up(theirs, "data"), strict=True):
            mine.weight.copy_(values)
        ours.experts.down_proj.weight.copy_(theirs.experts.down_proj)
        if ours.shared_experts is not None:
            ours.shared_experts.load_state_dict(theirs.shared_experts.state_dict())


def gate_up(theirs, what):
    return getattr(theirs.experts.gate_up_proj, what).chunk(2, dim=1)


def assert_same(ours, theirs):
    x, upstream = vectors(3, 24, DIMS_OF_64, seed=7), vectors(3, 24, DIMS_OF_64, seed=8)
    results = []
    for function in (lambda x: ours(x, Context())[0], theirs):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        y.backward(upstream)
        results += [(y.detach(), leaf.grad)]
    (y, of_x), (expected, expected_of_x) = results
    assert_rounded(y, expected, *sums_of(ours))
    of_gate, of_up = gate_up(theirs, "grad")
    gradients = {
        "x": expected_of_x, "gate.weight": theirs.gate.weight.grad,
        "experts.gate_proj.weight": of_gate, "experts.up_proj.weight": of_up,
        "experts.down_proj.weight": theirs.experts.down_proj.grad,
    }  # fmt: skip
    if ours.shared_experts is not None:
        shared = theirs.shared_experts.named_parameters()
        gradients |= {f"shared_experts.{name}": parameter.grad for name, parameter in shared}
    mine = {"x": of_x} | {name: parameter.grad for name, parameter in ours.named_parameters()}
    assert_gradients_rounded(mine, gradients, *sums_of(ours, tokens=3 * 24))


def test_it_is_mixtrals():
    config = transformers.MixtralConfig(
        hidden_size=64, intermediate_size=40, num_local_experts=8, num_experts_per_tok=2, experts_implementation="eager"
    )
    theirs, ours = MixtralSparseMoeBlock(config), moe(dims=DIMS_OF_64, hidden=40)
    take_over(ours, theirs)
    assert_same(ours, theirs)


@pytest.mark.parametrize("normalize", [True, False])
def test_it_is_deepseeks_with_groups_biases_and_shared_experts(normalize):
    config = transformers.DeepseekV3Config(
        hidden_size=64, moe_intermediate_size=24, n_routed_experts=16, num_experts_per_tok=4, n_shared_experts=2,
        n_group=4, topk_group=2, routed_scaling_factor=2.5, norm_topk_prob=normalize, experts_implementation="eager",
    )  # fmt: skip
    theirs = DeepseekV3MoE(config)
    ours = moe(dims=DIMS_OF_64, **DEEPSEEK, normalize_top_k=normalize)
    take_over(ours, theirs)
    bias = 0.3 * torch.randn(16, generator=torch.Generator().manual_seed(5))
    theirs.gate.e_score_correction_bias.copy_(bias)
    ours.gate.e_score_correction_bias.copy_(bias)
    assert_same(ours, theirs)


@pytest.mark.parametrize("activation", ["swiglu", "gelu"])
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_a_loop_over_experts(activation, bias):
    dims = Dims(2, 4, 32, 8, 24, bias=bias)
    layer = moe(activation, dims, n_experts=5, top_k=3, n_shared_experts=1, hidden=16, routed_scaling_factor=0.7)
    for i, parameter in enumerate(layer.parameters()):
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(i))
    x = vectors(2, 24, dims)
    expected = torch.zeros_like(x)
    probabilities = (x @ layer.gate.weight.T).softmax(-1)

    def linear(stack, expert, x):
        y = x @ stack.weight[expert].T
        return y if stack.bias is None else y + stack.bias[expert]

    for row, token in torch.cartesian_prod(torch.arange(2), torch.arange(24)).tolist():
        best = probabilities[row, token].topk(3)
        for p, e in zip(best.values / best.values.sum(), best.indices.tolist(), strict=True):
            v, experts = x[row, token], layer.experts
            inner = [linear(each, e, v) for each in (experts.gate_proj, experts.up_proj) if each is not None]
            expected[row, token] += 0.7 * p * linear(experts.down_proj, e, layer.experts.activation(*inner))
    expected += layer.shared_experts(x, Context())[0]
    assert_rounded(layer(x, Context())[0], expected, *sums_of(layer))


def test_no_token_is_dropped_when_all_want_the_same_expert():
    layer = moe(n_experts=8, top_k=1, normalize_top_k=False).train()
    with torch.no_grad():
        layer.gate.weight.zero_()[3] = 1.0
    x = vectors(2, 24, DIMS).abs()
    y, aux = layer(x, Context())
    assert (y.flatten(0, 1).norm(dim=-1) > 0).all()
    assert aux["moe_0_load"].tolist() == [0, 0, 0, 48, 0, 0, 0, 0]
    y.sum().backward()
    touched = layer.experts.down_proj.weight.grad.flatten(1).abs().sum(1) > 0
    assert touched.tolist() == [e == 3 for e in range(8)]


def test_a_tokens_experts_do_not_depend_on_what_follows():
    for layer in (moe(), moe(dims=DIMS_OF_64, **DEEPSEEK)):
        x = vectors(1, 24, DIMS_OF_64)[0, :, : layer.gate.weight.size(1)]
        chosen = layer.gate(x)[1]
        for t in (1, 12, 23):
            changed = torch.cat((x[:t], -100 * x[t:]))
            assert torch.equal(layer.gate(changed)[1][:t], chosen[:t])


def test_the_balance_loss_of_a_row_is_mixtrals():
    layer = moe(aux_loss=0.1).train()
    x = vectors(3, 24, DIMS)
    _, aux = layer(x, Context())
    for row, loss in zip(x, aux["moe_balance_loss"], strict=True):
        expected = load_balancing_loss_func((row @ layer.gate.weight.T,), num_experts=8, top_k=2)
        assert_rounded(loss, 0.1 * expected, *sums_of(layer.gate), 24)
    aux["moe_balance_loss"].sum().backward()
    assert layer.gate.weight.grad.abs().max() > 0


@pytest.mark.parametrize("padded", [False, True])
def test_the_balance_loss_is_deepseeks(padded):
    """Equations 17 to 20 of arXiv:2412.19437, of a sequence as they stand there, times top_k."""
    layer = moe(dims=DIMS_OF_64, **{**DEEPSEEK, "aux_loss": 0.1, "n_groups": 1, "top_k_groups": 1}).train()
    nn.init.normal_(layer.gate.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    x = vectors(2, 24, DIMS_OF_64)
    lengths = [24, 7] if padded else [24, 24]
    is_token = torch.arange(24) < torch.tensor(lengths)[:, None] if padded else None
    losses = layer(x, Context(is_token=is_token))[1]["moe_balance_loss"]
    n_experts, top_k = layer.params.n_experts, layer.params.top_k
    for row, length, loss in zip(x, lengths, losses, strict=True):
        s = (row[:length] @ layer.gate.weight.T).sigmoid()
        chosen = torch.zeros_like(s).scatter(1, s.topk(top_k, dim=-1).indices, 1.0)
        f = n_experts / (top_k * length) * chosen.sum(0)
        p = (s / s.sum(-1, keepdim=True)).mean(0)
        assert_rounded(loss, 0.1 * top_k * (f * p).sum(), *sums_of(layer.gate), length, n_experts)


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_the_balance_loss_is_top_k_where_all_experts_score_alike(scoring):
    layer = moe(scoring=scoring, top_k=3, aux_loss=0.1).train()
    layer.gate.weight.data.zero_()
    assert layer(vectors(2, 24, DIMS), Context())[1]["moe_balance_loss"].tolist() == pytest.approx([0.1 * 3] * 2)


def test_a_router_is_as_exact_in_bf16_and_under_autocast():
    """Its choices and weights are those of fp64 for the same inputs, of which many are nearly equal."""
    router = moe(n_experts=64, top_k=8, bias_update_rate=0.0).gate
    nn.init.normal_(router.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    x = vectors(8, 24, DIMS).flatten(0, 1)

    def assert_exact(router, x):
        weights, exact = (each(of)[2] for each, of in ((router, x), (deepcopy(router).double(), x.double())))
        assert weights.dtype == torch.float32
        assert_rounded(weights, exact.float(), *sums_of(router))

    with torch.autocast("cpu", torch.bfloat16):
        assert_exact(router, x)
    assert_exact(router.bfloat16(), x.bfloat16())


@pytest.mark.parametrize("constant", [-5.0, 5.0])
def test_a_bias_that_all_experts_have_changes_no_choice(constant):
    """Neither of groups nor within them."""
    router, x = moe(dims=DIMS_OF_64, **DEEPSEEK).gate, vectors(2, 24, DIMS_OF_64).flatten(0, 1)
    chosen = router(x)[1]
    router.e_score_correction_bias.fill_(constant)
    assert torch.equal(router(x)[1].sort().values, chosen.sort().values)


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_padding_counts_in_no_load_and_no_loss(scoring):
    """On either side, also of different lengths; and what is no token gets no gradient from the balance."""
    layer = moe(scoring=scoring, aux_loss=0.1, bias_update_rate=0.1).train()
    x = vectors(2, 24, DIMS)
    real = torch.ones(2, 24, dtype=torch.bool)
    real[0, 15:] = real[1, :4] = False
    alone = [layer(row[of_row][None], Context())[1] for row, of_row in zip(x, real, strict=True)]
    padded = x.where(real[..., None], 3.0).requires_grad_()
    y, aux = layer(padded, Context(is_token=real))
    assert_rounded(y[real], layer(x, Context())[0][real], *sums_of(layer))
    assert aux.keys() == alone[0].keys()
    assert int(aux["moe_load_0_count"].sum()) == 35 * 2  # tokens, top_k
    losses = torch.cat([each.pop("moe_balance_loss") for each in alone])
    assert_rounded(aux["moe_balance_loss"], losses, *sums_of(layer.gate), 24)
    for name in alone[0]:
        assert torch.equal(aux[name], alone[0][name] + alone[1][name]), name
    aux["moe_balance_loss"].sum().backward()
    assert (padded.grad.abs().sum(-1) > 0).equal(real)
    _, nothing = layer(x, Context(is_token=torch.zeros_like(real)))
    assert all(bool(value.isfinite().all()) for value in nothing.values())


def test_counting_without_padding_waits_for_no_value():
    """On the meta device there is none to wait for."""
    layer = moe(aux_loss=0.1).train().to("meta")
    real = torch.ones(2, 24, dtype=torch.bool, device="meta")
    assert layer(vectors(2, 24, DIMS).to("meta"), Context(is_token=real))[1]["moe_balance_loss"].is_meta


def test_biases_rise_where_the_load_is_low_and_never_weigh():
    layer = moe(dims=DIMS_OF_64, **{**DEEPSEEK, "n_groups": 1, "top_k_groups": 1})
    nn.init.normal_(layer.gate.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    x = vectors(4, 24, DIMS_OF_64) + 0.5  # what all tokens share makes some experts everybody's
    _, aux = layer.train()(x, Context())
    load = aux["moe_load_0_count"]
    assert int(load.sum()) == 4 * 24 * 4  # tokens, top_k
    layer.after_step(aux)
    bias = layer.gate.e_score_correction_bias
    assert torch.equal(bias, torch.full_like(bias, 0.01) * (load.double().mean() - load).sign().float())
    unevenness = [float(load.double().std())]
    for _ in range(80):
        _, aux = layer(x, Context())
        layer.after_step(aux)
        unevenness.append(float(aux["moe_load_0_count"].double().std()))
    assert unevenness[-1] < unevenness[0] / 3
    bias.fill_(5.0)  # the same for all: no other choice, and no other weights
    _, chosen, weights = layer.gate(x.flatten(0, 1))
    bias.zero_()
    _, same, as_before = layer.gate(x.flatten(0, 1))
    assert torch.equal(chosen.sort().values, same.sort().values)
    assert_rounded(weights.sort().values, as_before.sort().values, *sums_of(layer.gate))


@pytest.mark.parametrize(("top_k", "shared"), [(2, 0), (3, 1)])
def test_as_many_parameters_are_active_as_in_a_dense_network(top_k, shared):
    dims = Dims(2, 4, 384, 96, 24)
    layer = moe(dims=dims, n_experts=16, top_k=top_k, n_shared_experts=shared)
    dense = Case.of("ffn", "dense", {}, dims).layer(companion="swiglu").part
    router = layer.gate.weight.numel()
    active = sum(p.numel() for p in layer.parameters()) - layer.inactive_parameters - router
    assert active == pytest.approx(sum(p.numel() for p in dense.parameters()), rel=0.05)


def test_the_first_layers_experts_are_not_the_seconds():
    """Each layer counts for itself: the counts of two layers do not add up."""
    case = Case.of("ffn", "moe", {"bias_update_rate": 0.1})
    assert len({case.with_dims(layer=i).layer().part.load_count for i in (0, 1)}) == 2


@pytest.mark.parametrize(
    ("params", "dims", "key", "words"),
    [
        ({"top_k": 9}, {}, "top_k", "9 is more than n_experts 8"),
        ({"top_k": 1}, {}, "normalize_top_k", "set it to false"),
        ({"n_groups": 3}, {}, "n_groups", "3 does not divide n_experts 8"),
        ({"n_groups": 8, "top_k_groups": 2}, {}, "n_groups", "a group needs 2"),
        ({"n_groups": 4, "top_k_groups": 5}, {}, "top_k_groups", "5 is more than n_groups 4"),
        ({"n_groups": 4, "top_k": 3}, {}, "top_k", "more than the 2 experts of 1 groups"),
        ({}, {"n_embd": 36}, "type", "try 32 or 40"),
    ],
)
def test_impossible_settings_are_named(params, dims, key, words):
    case = Case.of("ffn", "moe", params)
    ((problem_key, problem),) = case.params.problems(case.with_dims(**dims).dims)
    assert problem_key == key
    assert words in problem


def test_saved_biases_come_back():
    layer, other = (Case.of("ffn", "moe", {"bias_update_rate": 0.1}).layer(seed=seed) for seed in (1, 2))
    layer.part.gate.e_score_correction_bias.fill_(0.25)
    other.load_state_dict(layer.state_dict())
    assert float(other.part.gate.e_score_correction_bias[0]) == 0.25
    initialize(other, 3)
    assert float(other.part.gate.e_score_correction_bias.abs().max()) == 0
