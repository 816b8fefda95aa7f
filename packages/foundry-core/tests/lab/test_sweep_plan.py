"""What a plan knows, and of what: nothing that was found under other terms counts."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import pytest
from tests.project import write_project

from foundry.core.config import from_plain, load_experiment
from foundry.core.config.budget import Budget, share_of
from foundry.core.contracts import UsageError
from foundry.lab.decide.conclusion import ArmConclusion, Conclusion, Duelled, Screened
from foundry.lab.decide.request import CONTROL, Request
from foundry.lab.decide.rule import Rule
from foundry.lab.decide.sequential import Judgement
from foundry.lab.ledger import Evidence, Generation, Ledger, Noise
from foundry.lab.ledger.records import Terms
from foundry.lab.sweep import lab as sweep_lab
from foundry.lab.sweep import workload
from foundry.lab.sweep.arms import Axis
from foundry.lab.sweep.plan import Plan, PlannedArm, informed, make_plan, noise_context
from foundry.lab.sweep.question import Question
from foundry.lab.sweep.result import SweepResult, decisions_of, evidence_of, noise_of
from foundry.lab.trials.costs import EQUAL, Costs
from foundry.lab.trials.fingerprint import make_trial
from foundry.lab.trials.setting import Setting
from foundry.lab.trials.warm_start import WarmStart

pytestmark = pytest.mark.quick

BASELINE = """\
model_args: {n_layer: 2, n_head: 2, n_embd: 32, block_size: 32}
data: {dataset: stdlib, tokenizer: byte}
training: {max_iters: 400, batch_size: 4, learning_rate: 1e-3}
"""
COSTS = {"kv_bytes_per_token": 512.0}


def entry(arm: str, **other) -> PlannedArm:
    return replace(
        PlannedArm(arm, arm, (), (), f"identity of {arm}", {}, "", costs=COSTS, code=f"code of {arm}"), **other
    )


def plan(**other) -> Plan:
    arms = (
        entry(CONTROL),
        entry("norm layernorm", changes=("norm: a -> b",), costs={"kv_bytes_per_token": 256.0}),
        entry("depth 3"),
    )
    return replace(
        Plan(Question((), Rule(metric="val_bpb")), 3, arms, Setting("cpu", "fp32", 1), "code", "data"), **other
    )


def judged(verdict="promote") -> Judgement:
    return Judgement(verdict, 3.2, 2, 0.015, 0.004, 0.026, 0.9)


def conclusion() -> Conclusion:
    """The first arm has won by two pairs, after an earlier sweep's one; the other was only screened."""
    duel = Duelled(CONTROL, judged(), Terms(0.004, 9, 0.012), (0.01, 0.02, 0.015), ((2.02, 2.0), (2.025, 2.01)))
    won = ArmConclusion("norm layernorm", "promote", "better", (Screened(Fraction(1, 2), 2.3, 2, 0.1),), (duel,))
    lost = ArmConclusion("depth 3", "reject", "others did better", (Screened(Fraction(1, 2), 2.5, 2, -0.1),))
    controls = {"1/2": (2.3, 2.4), "1": (2.1,)}
    return Conclusion((lost, won), won.arm, CONTROL, "", 9, Fraction(7, 2), 0.02, controls)


def test_noise_and_evidence_hold_for_what_they_were_found_with():
    terms = ("val_loss", "identity", "data", Fraction(1))
    others = ("val_bpb", "another", "other data", Fraction(1, 2))
    changed = [(*terms[:i], others[i], *terms[i + 1 :]) for i in range(4)]
    assert len({noise_context(*each) for each in (terms, *changed)}) == 5

    here = plan()
    bases = [
        here.basis(here.entries[0], here.entries[1]),
        here.basis(entry(CONTROL, code="mended"), here.entries[1]),
        here.basis(here.entries[0], entry("norm layernorm", code="mended")),
        plan(data="other data").basis(here.entries[0], here.entries[1]),
    ]
    assert len(set(bases)) == 4


def test_a_plan_takes_from_the_ledger_what_was_found_under_its_terms(tmp_path):
    here = plan()
    control, arm, _ = here.entries
    names = (3, control.identity, arm.identity, "val_bpb")
    known = Evidence(*names, (0.01,), here.basis(control, arm))
    elsewhere = {"generation": 2, "metric": "val_loss", "basis": "other code", "baseline": "another"}
    with Ledger.open(tmp_path) as ledger:
        for number, (name, value) in enumerate(elsewhere.items(), 2):
            ledger.add_evidence(replace(known, **{name: value}, differences=(9.0,) * number))
        for metric in ("val_loss", "train_loss"):
            ledger.record_noise(Noise(metric, noise_context(metric, control.identity, "data"), 0.5, 7, 8))
        nothing = informed(here, ledger)
        assert (nothing.sigma, nothing.df, nothing.evidence) == (None, 0, {})
        ledger.add_evidence(known)
        ledger.record_noise(Noise("val_bpb", here.context, 0.005, 7, 8))
        found = informed(here, ledger)
        assert (found.sigma, found.df) == (0.005, 7)
        assert found.evidence == {(control.identity, arm.identity): known}
        assert Plan.from_json(json.loads(json.dumps(found.to_json()))) == found
        own = entry("width 64 as control", family=CONTROL)  # that of arms of another size
        other = replace(known, baseline=own.identity, basis=here.basis(own, arm))
        ledger.add_evidence(other)
        both = informed(replace(here, entries=(*here.entries, own)), ledger).evidence
        assert both == {(control.identity, arm.identity): known, (own.identity, arm.identity): other}


def question_of(project, *stacks: tuple[tuple[str, str], ...], **question) -> tuple[Plan, list[str]]:
    """The plan of a question to a project, where layers cost FLOPs by their width; and what is refused."""
    baseline = load_experiment(project / "experiments" / "baseline.yaml")

    def costs(experiment, setting) -> Costs:
        args = experiment.model_args
        positions = experiment.training.batch_size * args.block_size
        return Costs(args.n_layer * args.n_embd**2, positions, positions, {"kv_bytes_per_token": 1.0})

    generation = Generation(0, baseline.identity, baseline.plain(), "manual", "", None, None, "", 0.0)
    plan, refused = make_plan(generation, baseline, Question(stacks, **question), 1, costs)
    return plan, [str(each) for each in refused]


def test_what_is_set_holds_in_every_training_and_in_nothing_that_is_promoted(tmp_path):
    write_project(tmp_path, {"experiments/baseline.yaml": BASELINE})
    wanted = ((("norm", "layernorm"),), (("depth", "3"),), (("batch_size", "8"),))
    sets = ("model_args.n_embd=16", "training.max_iters=100", "training.dataset=stdlib")
    plan, refused = question_of(tmp_path, *wanted, sets=sets)
    bare, _ = question_of(tmp_path, *wanted)
    assert not refused
    for entry, other in zip(plan.entries, bare.entries, strict=True):
        experiment = from_plain(entry.experiment)
        assert experiment.model_args.n_embd == 16
        assert entry.flops == pytest.approx(plan.baseline.flops, rel=0.02)
        assert entry.text == other.text  # what would be promoted
        assert entry.identity != other.identity
    assert [entry.experiment["training"]["max_iters"] for entry in plan.entries] == [100, 100, 67, 50]
    assert plan.entries[2].experiment["model_args"]["n_layer"] == 3
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert "sets" not in bare.question.to_json()  # it is the question that it was before there were any


@pytest.mark.parametrize("held", ["training.learning_rate=1e-3", "training.learning_rate=5e-3"])
def test_an_arm_that_changes_what_is_set_is_refused(tmp_path, held):
    write_project(tmp_path, {"experiments/baseline.yaml": BASELINE})
    plan, refused = question_of(tmp_path, (("lr", "2e-3"),), (("depth", "3"),), sets=(held,))
    assert plan.arms == ["depth 3"]
    assert refused == ["lr 2e-3: it changes training.learning_rate, which --set holds; leave one of them out"]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"sets": ("seed=3",)}, "a sweep chooses the seeds"),
        ({"sets": ("training.learning_rate=1e-3",), "lr_factors": (0.5,)}, "both say the learning rate"),
        ({"sets": ("model_args.n_layer",)}, "is not key=value"),
    ],
)
def test_what_cannot_be_set_is_told(tmp_path, question, message):
    write_project(tmp_path, {"experiments/baseline.yaml": BASELINE})
    with pytest.raises(UsageError, match=message):
        question_of(tmp_path, (("depth", "3"),), **question)


def test_what_a_trial_leaves_to_a_longer_one_is_of_its_own_seed(tmp_path, monkeypatch):
    """By whose rows a budget in tokens becomes steps."""
    monkeypatch.setattr(
        workload, "warm_start_of", lambda short, long, flops: WarmStart(short.seed, long.seed, int(flops))
    )
    monkeypatch.setattr(workload, "make_trial", lambda experiment, seed, *_: experiment)
    written = from_plain({"training": {"schedule": "wsd"}}).plain()
    entries = (entry(CONTROL), entry("lr 1e-3", experiment=written, costs={"flops_per_token": 1.0}))
    rungs = (Fraction(1, 8), Fraction(1, 2))
    work = workload.PlannedWork(plan(question=Question((), Rule(rungs=rungs)), entries=entries), tmp_path)
    asked = [work.of(Request("lr 1e-3", seed, "screen", rungs[0])) for seed in (5, 7)]
    assert [each.checkpoints.save_interval for each in asked] == [5, 7]
    assert {each.checkpoints.keep for each in asked} == {3}  # FLOPs of a position: forward, and back, which is two


def test_what_a_sweep_found_is_kept_under_the_terms_of_its_own(tmp_path):
    end = conclusion()
    here = plan(sigma=0.006, df=9)
    control, arm, _ = here.entries
    [evidence] = evidence_of(here, end)
    with Ledger.open(tmp_path) as ledger:
        ledger.add_evidence(evidence)
        assert informed(here, ledger).evidence == {(control.identity, arm.identity): evidence}
    assert (evidence.differences, evidence.terms) == ((0.01, 0.02, 0.015), Terms(0.004, 9, 0.012))
    [noise] = noise_of(here, end)  # of one run there is none
    assert noise.context == noise_context("val_bpb", control.identity, "data", Fraction(1, 2)) != here.context
    assert (noise.sigma, noise.df, noise.runs) == (pytest.approx(0.0707, abs=1e-4), 1, 2)
    lost, won = decisions_of("sweep", here, end)
    assert (won.sigma, won.effect, won.low, won.high, won.n) == (0.004, 0.015, 0.004, 0.026, 2)
    assert (lost.sigma, lost.effect, lost.n) == (0.006, None, 0)  # no pair was judged by other terms


def test_a_result_tells_the_arms_best_first_with_their_own_figures():
    end, here = conclusion(), plan(sigma=0.006, df=9)
    result = SweepResult("sweep", here, end, tuple(decisions_of("sweep", here, end)), ())
    won, lost = result.to_json()["arms"]
    assert (won["arm"], lost["arm"]) == ("norm layernorm", "depth 3")
    assert (won["loss"], won["baseline_loss"]) == (pytest.approx(2.005), pytest.approx(2.0225))
    assert won["screening"] == [{"share": "1/2", "mean": 2.3, "runs": 2, "difference": 0.1}]
    assert [each["decision"] for each in (lost, won)] == [each.id for each in result.decisions]
    assert (won["sigma"], won["delta"], result.to_json()["delta"]) == (0.004, 0.012, 0.012)
    assert not end.is_open
    undecided = replace(end.arm("norm layernorm").duels[0], judgement=judged("inconclusive"))
    arms = (replace(end.arm("norm layernorm"), duels=(undecided,)),)
    assert replace(end, arms=arms, winner=None).is_open
    assert not replace(end, arms=arms).is_open


def test_a_winner_takes_its_loss_and_what_it_gave_up_to_the_next_generation(monkeypatch, tmp_path):
    end, here = conclusion(), plan(sigma=0.006, df=9)
    result = SweepResult("sweep", here, end, tuple(decisions_of("sweep", here, end)), ())
    told = {}
    monkeypatch.setattr(sweep_lab, "from_text", lambda text, project, **_: text)
    monkeypatch.setattr(sweep_lab, "promote", lambda *_, **named: told.update(named))
    sweep_lab.Lab.promote(SimpleNamespace(ledger=None, project=tmp_path), result)
    assert told == {"loss": pytest.approx(2.005), "given_up": 0.02}


@pytest.fixture
def baseline(tmp_path, monkeypatch):
    monkeypatch.chdir(write_project(tmp_path, {"experiments/baseline.yaml": BASELINE}))
    monkeypatch.setattr("foundry.lab.sweep.plan.data_fingerprint", lambda experiment: "data")
    return load_experiment()


def planned(baseline, question, *, per_token=1e6, costs=COSTS, given_up=0.0, jobs=1):
    """The plan, where the arms cost so much, and the baseline a million FLOPs per token."""
    generation = Generation(3, baseline.identity, {}, "manual", "", None, None, "", 0.0, given_up=given_up)

    def count(experiment, setting):
        mine = experiment.identity == baseline.identity
        return Costs(1e6 if mine else per_token, 128.0, 128, COSTS if mine else costs)

    return make_plan(generation, baseline, question, jobs, count)[0]


NORM = ((("norm", "layernorm"),),)


@pytest.mark.parametrize(
    ("per_token", "steps"),
    [(1e6, 400), (1e6 * (1 + 0.9 * EQUAL), 400), (1e6 * (1 - 0.9 * EQUAL), 400), (1.04e6, 385), (8e5, 500)],
)
def test_an_arm_whose_tokens_cost_more_than_a_fiftieth_more_gets_fewer(baseline, per_token, steps):
    _, arm = planned(baseline, Question(NORM), per_token=per_token).entries
    assert arm.experiment["training"]["max_iters"] == steps
    assert arm.flops == pytest.approx(400 * 128e6, rel=0.02)
    assert bool(arm.budget) == (steps != 400)


def test_a_sweeps_budget_is_of_its_trials_and_not_of_what_it_promotes(baseline):
    control, arm = planned(baseline, Question(NORM, budget=Budget.parse("0.1k steps")), per_token=8e5).entries
    assert (control.experiment["training"]["max_iters"], arm.experiment["training"]["max_iters"]) == (100, 125)
    assert (control.flops, arm.flops) == (100 * 128e6, 125 * 128 * 8e5)
    assert "max_iters: 400" in control.text
    assert "max_iters: 500" in arm.text


def test_a_plan_has_the_gains_in_cost_the_rates_and_what_was_given_up(baseline):
    rule = Rule(cost="kv_bytes_per_token", cost_factor=1.5)
    question = Question(NORM, rule, lr_factors=(0.5, 4.0))
    here = planned(baseline, question, costs={"kv_bytes_per_token": 128.0}, given_up=0.02)
    assert (here.given_up, here.generation) == (0.02, 3)
    assert {each.arm: here.contender(each).gain for each in here.entries if each.arm == each.family} == {
        CONTROL: 1.0,
        "norm layernorm": 4.0,
    }
    rates = {each.arm: each.experiment["training"]["learning_rate"] for each in here.entries}
    assert rates == {
        CONTROL: 1e-3, "lr 5e-4": 5e-4, "lr 4e-3": 4e-3,
        "norm layernorm": 1e-3, "norm layernorm + lr 5e-4": 5e-4, "norm layernorm + lr 4e-3": 4e-3,
    }  # fmt: skip


def test_where_tokens_differ_bits_per_byte_decide(baseline):
    tokenizers = ((("tokenizer", "char"),),)
    assert planned(baseline, Question(NORM)).question.rule.metric == "val_loss"
    assert planned(baseline, Question(tokenizers)).question.rule.metric == "val_bpb"
    asked = Question(tokenizers, Rule(metric="train_loss"))
    assert planned(baseline, asked).question.rule.metric == "val_bpb"


@pytest.mark.parametrize(
    ("text", "name", "amount"),
    [("300 steps", "max_iters", 300), ("500k tokens", "tokens", 5e5), ("2M tokens", "tokens", 2e6),
     ("1.5g flops", "flops", 1.5e9), ("3b tokens", "tokens", 3e9), ("2t FLOPs", "flops", 2e12),
     ("60 s", "seconds", 60)],
)  # fmt: skip
def test_a_budget_is_read_with_its_unit(text, name, amount):
    assert Budget.parse(text) == Budget(name, amount)
    costs = Costs(1e3, 50.0, 64, {})
    flops = {"max_iters": amount * 5e4, "tokens": amount * 1e3, "flops": amount, "seconds": None}[name]
    assert costs.flops(Budget(name, amount)) == flops


def test_trials_that_share_a_device_have_no_budget_in_seconds(baseline):
    """They would slow each other down."""
    timed = Question(NORM, budget=Budget("seconds", 60))
    assert planned(baseline, timed, jobs=1).arms == ["norm layernorm"]
    assert planned(baseline, replace(timed, budget=Budget("max_iters", 60)), jobs=2).arms == ["norm layernorm"]
    with pytest.raises(UsageError, match="2 trials at a time on 1 cpu"):
        planned(baseline, timed, jobs=2)


def test_a_share_of_a_budget_is_a_part_of_it_and_never_nothing(baseline):
    assert share_of(baseline, Fraction(1, 2)).training.max_iters == 200
    assert share_of(baseline, Fraction(1, 1000)).training.max_iters == 1
    assert share_of(baseline, Fraction(1)) is baseline


def test_a_trial_has_the_seed_and_the_setting_that_it_was_asked_with_and_writes_no_samples(baseline, monkeypatch):
    monkeypatch.setattr("foundry.lab.trials.fingerprint.data_fingerprint", lambda experiment: "data")
    trial = make_trial(baseline, 7, Setting("cpu", "fp32", 3))
    assert (trial.seed, trial.experiment["seed"], trial.data) == (7, 7, "data")
    assert trial.experiment["training"]["threads"] == 3
    assert trial.experiment["logging"]["sample_tokens"] == 0


def test_a_question_is_read_as_it_was_asked():
    asked = Question(NORM, Rule(alpha=0.01), Budget("tokens", 5e5), (0.5, 2.0), ("letters",))
    assert Question.from_json(asked.to_json()) == asked
    assert Question.from_json(replace(asked, budget=None).to_json()).budget is None


@pytest.mark.parametrize(
    ("text", "values"),
    [("norm=a", ("a",)), ("norm = a, b,", ("a", "b")), ("norm=[0.9,0.95],x(1,2)", ("[0.9,0.95]", "x(1,2)"))],
)
def test_an_axis_has_the_values_between_its_commas(text, values):
    assert Axis.parse(text) == Axis("norm", values)
    for wrong in ("norm", "=a", "norm=", "norm=,"):
        with pytest.raises(UsageError, match="TYPE=VALUE"):
            Axis.parse(wrong)
