"""Scale rules: what they say of each parameter, that they change nothing at their base, and that under muP neither
activations nor their changes grow with the width."""

import math

import pytest
import torch
import torch.nn.functional as F

from foundry.core.config import Experiment, from_plain
from foundry.core.config.mutate import mutate
from foundry.core.contracts import Context, InvalidExperiment, lr_factors
from foundry.core.model import GPT, initialize, model_of
from foundry.core.model.scale import kind_of
from foundry.core.registry import registry
from foundry.core.testing import assert_rounded, sums_of
from foundry.core.training.optimization import OptimizerSet
from foundry.lab.search.space import values_on

VOCAB, LENGTH = 61, 16


@pytest.fixture
def load(load):
    sizes = "n_layer: 2, n_head: 4, n_embd: 32, block_size: 16, attention: gqa_2kv"
    return lambda model_args="", training="optimizer: adamw": load(
        f"model_args: {{{sizes}, {model_args}}}\ntraining: {{learning_rate: 1e-2, {training}}}\n"
    )


def build(experiment: Experiment) -> GPT:
    model = model_of(experiment, VOCAB)
    initialize(model, seed=7)
    return model


def optimizer_of(model: GPT, experiment: Experiment) -> OptimizerSet:
    training = experiment.training
    factory = experiment.registry.variant("optimizer", training.optimizer.type).load()
    return OptimizerSet(factory(training.optimizer, model, training.learning_rate), model)


def steps(model: GPT, optimizer: OptimizerSet, numbers: range) -> None:
    """Optimizer steps on random tokens, the same for every model."""
    for number in numbers:
        ids = torch.randint(VOCAB, (8, LENGTH + 1), generator=torch.Generator().manual_seed(number))
        logits, _ = model(ids[:, :-1])
        F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step(lr_factor=1 / (1 + number))
        optimizer.zero_grad()


# ---- what the rules say -----------------------------------------------------------------------------------------

Q, DOWN = "blocks.1.attention.q_proj.weight", "blocks.1.ffn.down_proj.weight"
NORM = "blocks.0.ffn_norm.weight"
MUP = {  # initial std, Adam's rate, Muon's rate at four times the width: arXiv:2203.03466, tables 3 and 8
    "embed.weight": (1, 1, 1),
    "head.weight": (1, 1, 1),
    NORM: (1, 1, 1),
    "blocks.0.attention.q_proj.bias": (1, 1, 1),
    Q: (1 / 2, 1 / 4, 1),
    "blocks.0.attention.k_proj.weight": (1 / 2, 1 / 4, 1),
    "blocks.0.attention.o_proj.weight": (1 / 2, 1 / 4, 1),
    "blocks.0.ffn.gate_proj.weight": (1 / 2, 1 / 4, 1),
    DOWN: (1 / 2, 1 / 4, 1),
}


def test_mup_is_the_papers_table(load):
    base = load("tie_embeddings: false, bias: true, norm: layernorm, scaling: mup")
    wide = build(mutate(base, "width", "128").experiment)
    for name, (std, adam, muon) in MUP.items():
        said = wide.scale.init_factor(name), wide.lr_factor(name, "elementwise"), wide.lr_factor(name, "orthogonal")
        assert said == (std, adam, muon), name
    assert wide.dims.multipliers == (1, 1, 1 / 4)
    plain = build(mutate(load("tie_embeddings: false, bias: true, norm: layernorm"), "width", "128").experiment)
    for (name, ours), theirs in zip(wide.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs * wide.scale.init_factor(name))  # a power of 2
    x = torch.randn(2, 3, 128)
    assert_rounded(plain.head(x) / 4, wide.head(x / 4), *sums_of(wide.head))


def test_mup_is_the_mup_package(load):
    """uv run --with mup pytest packages/foundry-modules/tests/test_scaling.py"""
    mup = pytest.importorskip("mup")
    base = load("tie_embeddings: false, bias: true, norm: layernorm, ffn: {hidden: 96}, scaling: mup")
    wide, narrow = mutate(base, "width", "128").experiment, base
    twice = mutate(base, "width", "64").experiment
    theirs, ours = model_of(wide, VOCAB), build(wide)
    mup.set_base_shapes(theirs, model_of(narrow, VOCAB), delta=model_of(twice, VOCAB), rescale_params=False)
    their_rates = {
        parameter: (group["lr"], group["lr"] * group["weight_decay"])
        for group in mup.MuAdamW(theirs.parameters(), lr=0.01, weight_decay=0.1).param_groups
        for parameter in group["params"]
    }
    groups = optimizer_of(ours, wide).optimizers[0].param_groups
    our_rates = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    for (name, parameter), counterpart in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert our_rates[parameter] == pytest.approx(their_rates[counterpart][0]), name
        assert parameter.ndim < 2 or their_rates[counterpart][1] == pytest.approx(0.01 * 0.1), name


def test_only_a_fan_in_that_grows_alone_makes_an_output(load):
    """Such as a router's: by what it is and by its axes, found by comparing shapes and not by its name."""
    assert kind_of("router", [False, True]) == kind_of("other", [False, True]) == "output"
    assert kind_of("table", [False, True]) == "input"  # an embedding
    assert kind_of("matrix", [True, False]) == "input"  # from a latent of fixed width
    assert kind_of("matrix", [False, True, True]) == "hidden"  # one for each expert
    assert kind_of("neurons", [False, True]) == "hidden"
    assert kind_of("kernel", [True, False, False]) == "fixed"  # a short convolution per channel
    assert kind_of("kernel", [True, True, False]) == "hidden"
    assert kind_of("bias", [False, True]) == kind_of("gain", [True]) == kind_of(None, [True]) == "input"
    assert kind_of("bias", [False, False]) == kind_of("gain", [False]) == kind_of(None, []) == "fixed"
    assert kind_of("head", [False, True]) == "head"


def test_experts_are_scaled_by_what_they_do(load):
    """A router is an output; of PEER's tables, those that read x are hidden whatever their own initial rule."""
    moe = build(mutate(load("ffn: moe, scaling: mup"), "width", "64").experiment)
    kinds = {name.partition("ffn.")[2]: weight.kind for name, weight in moe.scale.weights.items()}
    assert kinds["gate.weight"] == "output"
    wider = build(mutate(load("ffn: moe, scaling: mup"), "width", "128").experiment)
    router = "blocks.0.ffn.gate.weight"
    rates = [wider.lr_factor(router, update) for update in ("elementwise", "orthogonal")]
    assert (wider.scale.init_factor(router), *rates) == (1 / 4, 1 / 4, 1 / 2)  # at four times the width
    assert kinds["experts.up_proj.weight"] == kinds["experts.down_proj.weight"] == "hidden"
    narrow = load("ffn: {type: peer, n_experts: 64}, scaling: mup")
    peer, wide = build(narrow), build(mutate(narrow, "width", "128").experiment)
    for table, ratio, rate in (("up_proj", 1 / 2, 1 / 4), ("down_proj", 1, 1)):
        name = f"blocks.0.ffn.{table}.weight"
        before, after = (dict(model.named_parameters())[name].std().item() for model in (peer, wide))
        assert after / before == pytest.approx(ratio, rel=0.05)
        assert wide.lr_factor(name, "elementwise") == rate


def test_completep_adds_depth_to_mup(load):
    deep = build(mutate(load("scaling: completep"), "depth", "8").experiment)
    assert deep.dims.multipliers == (1, 1 / 4, 1)
    assert all(deep.lr_factor(name, "elementwise") == 1 for name, _ in deep.named_parameters())
    half = build(mutate(load("scaling: {type: completep, alpha: 0.5}"), "depth", "8").experiment)
    assert half.dims.multipliers.branch == 1 / 2
    factors = [half.lr_factor(name, "elementwise") for name in ("embed.weight", "norm.weight", Q, NORM)]
    assert factors == [1, 1, 1 / 2, 1 / 2]


def test_sqrt_width_is_about_adams_rates_only(load):
    wide = build(mutate(load("ffn: {type: peer, n_experts: 64}, scaling: sqrt_width"), "width", "128").experiment)
    fixed = {name for name, weight in wide.scale.weights.items() if weight.kind == "fixed"}
    assert {name.rpartition("ffn.")[2] for name in fixed} == {"keys", "query_norm.weight"}  # of no width that grows
    assert {wide.lr_factor(name, "elementwise") for name in fixed} == {1}
    wide = build(mutate(load("scaling: sqrt_width"), "width", "128").experiment)
    assert {wide.lr_factor(name, "elementwise") for name, _ in wide.named_parameters()} == {1 / 2}
    assert {wide.lr_factor(name, "orthogonal") for name, _ in wide.named_parameters()} == {1}
    assert {wide.scale.init_factor(name) for name, _ in wide.named_parameters()} == {1}


def test_scores_are_divided_by_the_width_of_a_head_under_mup(load):
    """At the base by sqrt(D) as ever; with heads four times as wide by D, times the base's sqrt(D)."""
    model = build(load("head_dim: 32, position: none, scaling: {type: mup, base_head_dim: 8}"))
    attention, x = model.blocks[0].attention, torch.randn(1, 5, 32)
    q, k, v = attention.project(x, Context())
    assert_rounded(q.transpose(1, 2).flatten(2), attention.q_proj(x) / 2, *sums_of(attention.q_proj))
    scores = (attention.q_proj(x).view(1, 5, 4, 32).transpose(1, 2) @ k.repeat_interleave(2, 1).mT) * 8**0.5 / 32
    weights = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), float("-inf")).softmax(-1)
    y = attention.o_proj((weights @ v.repeat_interleave(2, 1)).transpose(1, 2).flatten(2))
    assert_rounded(attention(x, Context())[0], y, *sums_of(attention))


def test_branches_are_divided_by_the_depth_under_completep(load):
    experiment = mutate(load("scaling: completep"), "depth", "8").experiment
    model, seen = build(experiment), {}
    block = model.blocks[5]
    block.ffn.register_forward_hook(lambda module, args, y: seen.update(y=y[0]))
    block.ffn_norm.register_forward_hook(lambda module, args, y: seen.update(x=args[0]))
    block.register_forward_hook(lambda module, args, y: seen.update(out=y[0]))
    model(torch.arange(LENGTH)[None])
    assert_rounded(seen["out"], seen["x"] + seen["y"] / 4, 1, 1)


def test_analyze_says_which_rule_acts_and_what_rates_come_of_it(load):
    from foundry.core.analyze import analyze

    figures = analyze(mutate(load("scaling: mup"), "width", "128").experiment, VOCAB)
    assert figures["scaling"] == {"type": "mup", "base": {"n_embd": 32}, "multipliers": {"logits": 0.25}}
    rates = {each["rate"]: each["parameters"] for each in figures["learning_rates"]}
    assert sum(rates.values()) == figures["parameters"]
    assert rates.keys() == {0.01, 0.0025}
    assert rates[0.01] == VOCAB * 128 + 5 * 128  # embedding and norms
    assert analyze(load(), VOCAB)["scaling"] == {"type": "none", "base": {}, "multipliers": {}}


# ---- what they do -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("rule", ["mup", "completep", "sqrt_width"])
def test_at_its_base_a_rule_changes_no_bit(load, rule, optimizer):
    trained = []
    for scaling in ("none", rule):
        experiment = mutate(load(training=f"optimizer: {optimizer}"), "scaling", scaling).experiment
        model = build(experiment)
        steps(model, optimizer_of(model, experiment), range(4))
        trained.append(model.state_dict())
    for name, tensor in trained[0].items():
        assert torch.equal(tensor, trained[1][name]), name


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_groups_carry_the_factor_and_the_decay_stays(load, optimizer):
    wide = mutate(load("scaling: mup", f"optimizer: {optimizer}"), "width", "128").experiment
    model = build(wide)
    together = optimizer_of(model, wide)
    together.step(lr_factor=0.5)  # as a schedule does, half the rate everywhere
    for each in together.optimizers:
        of_muon = "momentum" in each.defaults and "betas" not in each.defaults
        factors = lr_factors(model, "orthogonal" if of_muon else "elementwise")
        rate = wide.training.optimizer.learning_rate if of_muon else 0.01
        for group in each.param_groups:
            for parameter in group["params"]:
                assert group["lr"] == pytest.approx(0.5 * rate * factors[parameter])
                decay = wide.training.optimizer.weight_decay if parameter.ndim >= 2 else 0
                assert group["lr"] * group["weight_decay"] == pytest.approx(0.5 * rate * decay)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_training_is_bit_exact_under_a_rule(load, optimizer):
    wide = mutate(load("scaling: mup", f"optimizer: {optimizer}"), "width", "64").experiment
    straight, first, second = build(wide), build(wide), model_of(wide, VOCAB)
    steps(straight, optimizer_of(straight, wide), range(6))
    saved = optimizer_of(first, wide)
    steps(first, saved, range(3))
    second.load_state_dict(first.state_dict())
    restored = optimizer_of(second, wide)
    restored.load(saved.tensors())
    steps(second, restored, range(3, 6))
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


# ---- width and depth as mutations -------------------------------------------------------------------------------


def test_width_and_depth_keep_the_base(load):
    wide = mutate(load("scaling: mup"), "width", "128").experiment
    assert wide.model_args.scaling.base_n_embd == 32
    assert mutate(wide, "width", "256").experiment.model_args.scaling.base_n_embd == 32
    assert mutate(wide, "depth", "4").experiment.model_args.scaling == wide.model_args.scaling
    deep = mutate(load("scaling: completep"), "depth", "6").experiment
    assert (deep.model_args.scaling.base_n_layer, deep.model_args.scaling.base_n_embd) == (2, None)


def test_without_a_rule_they_change_what_they_changed_before(load):
    changed = {change.key for change in mutate(load(), "width", "64").changes}
    assert changed == {"model_args.n_embd", "model_args.n_head", "model_args.attention.n_kv_head"}
    assert "scaling" not in mutate(load(), "depth", "4").text
    assert load("scaling: none").identity == load().identity


def test_at_its_base_a_rule_is_no_other_experiment(load):
    """So that a baseline may get one without a new hash, and no search tries what changes nothing."""
    assert load("scaling: mup").identity == load("scaling: {type: completep, base_n_layer: 2}").identity
    assert load("scaling: mup").identity == load().identity
    wide, plain = (mutate(load(scaling), "width", "64").experiment for scaling in ("scaling: mup", ""))
    assert wide.identity != plain.identity
    assert "scaling" not in values_on(load())
    assert "scaling" in values_on(wide)  # there another rule is another training
    assert not [value for value in values_on(wide)["param"] if "base_" in value]


def test_a_base_that_is_no_model_is_refused(load):
    refused = "base_n_embd: such a base is no model: "
    with pytest.raises(InvalidExperiment, match=f"{refused}width 24: n_kv_head 2 of 4 heads .*; try 16 or 32"):
        load("scaling: {type: mup, base_n_embd: 24}")
    args = {"n_head": 6, "n_embd": 24, "n_kv_head": 6, "ffn": "moe", "scaling": {"type": "mup", "base_n_embd": 12}}
    with pytest.raises(InvalidExperiment, match=f"{refused}.*need an n_embd that 8 divides"):
        from_plain({"model_args": args})
    build(load("scaling: {type: mup, base_n_embd: 16}"))


def test_an_attention_that_cannot_scale_its_scores_is_refused(load, monkeypatch):
    from foundry.modules.attention import MHAParams

    monkeypatch.setattr(MHAParams, "scales_scores", False)
    with pytest.raises(InvalidExperiment, match="base_head_dim: attention gqa cannot multiply its scores"):
        load("scaling: {type: mup, base_head_dim: 4}")
    load("scaling: {type: mup, base_head_dim: 8}")
    monkeypatch.undo()
    monkeypatch.setattr(registry().variant("attention", "sliding_window").params, "scales_scores", False)
    args = {"n_head": 4, "n_embd": 32, "scaling": {"type": "mup", "base_head_dim": 4}}
    with pytest.raises(InvalidExperiment, match="attention sliding_window cannot multiply its scores"):
        from_plain({"model_args": args, "layers": {"2": {"attention": "sliding_window"}}})
    from_plain({"model_args": args})


def test_a_base_of_nothing_is_refused(load):
    with pytest.raises(InvalidExperiment, match="base_n_embd"):
        load("scaling: {type: mup, base_n_embd: 0}")


# ---- the coordinate check (arXiv:2203.03466, appendix D.1) ------------------------------------------------------

WIDTHS = (32, 64, 128, 256)


def growth(base: Experiment, part: str) -> float:
    """The exponent with which a typical coordinate of `part` changes more, in four steps, in a wider model."""
    moved = []
    ids = torch.randint(VOCAB, (8, LENGTH), generator=torch.Generator().manual_seed(99))
    for width in WIDTHS:
        experiment = mutate(base, "width", str(width)).experiment
        model = build(experiment)
        before = outputs(model, ids)[part]
        steps(model, optimizer_of(model, experiment), range(4))
        moved.append((outputs(model, ids)[part] - before).square().mean().sqrt().item())
    return math.log(moved[-1] / moved[0]) / math.log(WIDTHS[-1] / WIDTHS[0])


@torch.no_grad()
def outputs(model: GPT, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the last layer's sublayers add to the residual stream, and the logits."""
    seen = {}
    last = model.blocks[-1]
    hooks = [
        getattr(last, name).register_forward_hook(lambda module, args, y, name=name: seen.update({name: y[0]}))
        for name in ("attention", "ffn")
    ]
    seen["logits"], _ = model(ids)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("tied", ["true", "false"])
@pytest.mark.parametrize("part", ["attention", "ffn", "logits"])
def test_coordinates_do_not_grow_with_the_width_under_mup(load, part, tied):
    """0 in the limit. At these widths -0.2 to -0.3, and 0.7 (logits) to 2.2 (feed-forward) without a rule; an exponent
    of -1/2 would be the lazy limit, in which wide models learn no features."""
    assert -0.4 < growth(load(f"tie_embeddings: {tied}, scaling: mup"), part) < 0.2
    assert growth(load(f"tie_embeddings: {tied}"), part) > 0.5
