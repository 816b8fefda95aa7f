"""A ledger of no past, and one made up: what weeks of sweeps leave behind, in seconds."""

import math
import random

import pytest

from foundry.core.digest import digest
from foundry.lab.decide.procedure import null_procedure, sweep_procedure
from foundry.lab.decide.request import CONTROL, Contender, Failure
from foundry.lab.decide.rule import Rule
from foundry.lab.ledger.ledger import Ledger
from foundry.lab.ledger.records import Decision, Generation, Noise, Trial
from foundry.lab.ledger.sweep_row import SearchStep
from foundry.lab.search.rounds import compare

SIGMA, STEPS, TOKENS, FLOPS = 0.005, 1000, 2_048_000, 5.4e6
SCRIPT = "<script>document.documentElement.dataset.owned=1</script>"
# mutation -> (gain in nats, FLOPs per token relative to the baseline's); None: its runs diverge
WORLD = {
    ("activation", "relu2"): (0.031, 1.0), ("activation", "geglu"): (0.004, 1.0), ("activation", "relu"): (-0.03, 1.0),
    ("activation", SCRIPT): (-0.02, 1.0), ("attention", "mha"): (0.006, 1.04), ("attention", "mla"): (0.012, 1.09),
    ("attention", "gqa_1kv"): (-0.011, 0.98), ("norm", "qknorm"): (0.024, 1.0), ("norm", "layernorm"): (-0.004, 1.0),
    ("optimizer", "muon"): (0.062, 1.0), ("optimizer", "sgd"): None, ("lr", "6e-3"): (0.017, 1.0),
    ("lr", "1e-2"): (-0.02, 1.0), ("lr", "3e-2"): None, ("schedule", "wsd"): (0.003, 1.0),
    ("schedule", "linear"): (0.009, 1.0), ("position", "alibi"): (-0.015, 1.0), ("position", "none"): (-0.11, 1.0),
    ("depth", "6"): (0.021, 1.41), ("depth", "3"): (-0.028, 0.8), ("width", "160"): (0.013, 1.5),
    ("dropout", "0.1"): (-0.05, 1.0), ("weight_decay", "0.2"): (0.002, 1.0), ("batch_size", "8"): (0.019, 1.0),
    ("batch_size", "32"): (-0.024, 1.0), ("ffn_ratio", "3"): (-0.007, 0.9), ("qk_norm", "true"): (0.011, 1.0),
    ("tie", "true"): (-0.003, 0.99),
}  # fmt: skip


def entry_of(mine: tuple, mutation: tuple | None = None) -> dict:
    """An arm in a sweep's spec."""
    if mutation is None:
        return {"mutations": [], "changes": [], "identity": digest(sorted(mine))}
    type, value = mutation
    changes = [f"model_args.{type}: before -> {value}"]
    return {
        "arm": f"{type} {value}",
        "mutations": [mutation],
        "changes": changes,
        "identity": digest(sorted({*mine, mutation})),
    }


class World:
    """A made-up project: a baseline whose loss falls as its promotions add up, and runs that scatter around theirs."""

    def __init__(self, ledger: Ledger, seed: int = 7) -> None:
        self.ledger, self.random, self.sweeps = ledger, random.Random(seed), 0
        self.effects = WORLD | {("bias", "true"): (0.05, 1.0), ("dropout", "0.05"): (-0.03, 1.0), ("heads", "8"): None}
        self.applied: dict[int, tuple] = {0: ()}
        self.promote("manual", "imported from experiments/baseline.yaml", (), None, 2.1)
        ledger.record_noise(Noise("val_loss", "context", SIGMA, 23, 24))

    @property
    def mine(self) -> tuple:
        """The mutations that made the baseline."""
        return self.applied[self.ledger.baseline().number]

    def promote(self, kind, summary, applied, decision, loss, restores=None) -> int:
        before, identity = self.ledger.baseline(), digest(sorted(applied))
        about = (0, identity, {"training": {"max_iters": STEPS}}, kind, summary, None, decision, "hash", 0.0)
        generation = Generation(*about, loss=loss, restores=restores)
        number = self.ledger.promote(None if before is None else before.number, generation).number
        self.applied[number] = applied
        return number

    def sweep(self, arms: list[tuple], refused: tuple[str, ...] = (), end: bool = True) -> None:
        """What `foundry sweep --promote` does, with a trainer that makes its losses up."""
        spec, names = self.spec("sweep", arms, [entry_of(self.mine, each) for each in arms])
        contenders = [Contender(entry["arm"], entry["identity"]) for entry in spec["entries"]]
        procedure = sweep_procedure(contenders[0], contenders[1:], Rule(), SIGMA, 23)
        sweep, conclusion = self.drive(spec, procedure, names, refused, end)
        if conclusion is not None and conclusion.winner:
            applied, decision = (*self.mine, names[conclusion.winner]), digest(sweep, conclusion.winner)[:16]
            self.promote("promoted", conclusion.winner, applied, decision, conclusion.arm(conclusion.winner).loss)

    def round(self, kept: tuple, arms: list[tuple]) -> None:
        """A round of `foundry evolve`: provisional, one run each, on top of what it has kept."""
        spec, names = self.spec("round", arms, [entry_of((*self.mine, *kept), each) for each in arms])
        stacks = {name: (*kept, mutation) for name, mutation in names.items()}
        about = ("search", self.sweeps, self.ledger.baseline().number, False)
        step = SearchStep(*about, stacks, tuple(stacks.values()), kept, least=SIGMA / 2)
        spec["search"] = step.to_json()
        self.drive(spec, compare(list(names), 1000 + self.sweeps, SIGMA / 2), names, on=kept)

    def null(self) -> None:
        spec, _ = self.spec("null", [], [entry_of(self.mine) | {"arm": f"null {k}"} for k in (1, 2)])
        self.drive(spec, null_procedure(digest(sorted(self.mine)), 2, Rule(), SIGMA, 23, round=self.sweeps), {})

    def spec(self, kind: str, arms: list[tuple], entries: list[dict]) -> tuple[dict, dict]:
        self.sweeps += 1
        spec = {
            "kind": kind, "generation": self.ledger.baseline().number, "round": self.sweeps, "sigma": SIGMA, "df": 23,
            "question": {"rule": Rule().to_json()}, "entries": [entry_of(self.mine) | {"arm": CONTROL}, *entries],
        }  # fmt: skip
        return spec, {f"{type} {value}": (type, value) for type, value in arms}

    def drive(self, spec, procedure, names, refused=(), end=True, on=()):
        """A driver and its workers in one: (the sweep, its conclusion). Without `end` nobody works."""
        ledger, mine, order = self.ledger, (*self.mine, *on), 0
        sweep = ledger.start_sweep(spec)
        for arm in refused:
            ledger.record_refusal(
                sweep, arm, f"{arm} cannot be trained: n_kv_head 3 does not divide n_head 4", ["n_kv_head: 2 -> 3"]
            )
        requests = next(procedure)
        while True:
            trials = {request: self.trial(request, names.get(request.arm), mine) for request in requests}
            wanted = [(trial, order + i, r.role, r.arm, str(r.share)) for i, (r, trial) in enumerate(trials.items())]
            order += len(wanted)
            ledger.request(sweep, wanted)
            if not end:
                return sweep, None
            while attempt := ledger.claim("worker", sweep):
                request = next(request for request, trial in trials.items() if trial.id == attempt.trial.id)
                self.work(attempt, request, names.get(request.arm), mine)
            try:
                requests = procedure.send({request: self.answer(trial) for request, trial in trials.items()})
            except StopIteration as stop:
                conclusion = stop.value
                break
        for each in conclusion.arms:
            judged, rule = each.judgement, Rule().to_json()
            sure = judged.confidence if judged else None
            figures = (judged.effect, judged.low, judged.high, judged.llr, judged.n) if judged else (*[None] * 4, 0)
            identity = next(entry["identity"] for entry in spec["entries"] if entry["arm"] == each.arm)
            about = (digest(sweep, each.arm)[:16], sweep, spec["generation"], identity, each.arm, "val_loss")
            ledger.decide(Decision(*about, each.verdict, each.reason, *figures, rule, SIGMA, 0.0, sure))
        ledger.finish_sweep(sweep, conclusion.to_json())
        return sweep, conclusion

    def trial(self, request, mutation, mine) -> Trial:
        return Trial(digest(sorted(mine), mutation, str(request.share)), request.seed, "code", "data", {})

    def answer(self, trial: Trial) -> float | Failure:
        row = self.ledger.trial(trial.id)
        return Failure(row.reason) if row.status == "failed" else row.metric("val_loss")

    def work(self, attempt, request, mutation, mine) -> None:
        """One training, as a worker tells of it."""
        share = float(request.share)
        effect = self.effects[mutation] if mutation else (0.0, 1.0)
        if effect is None:
            return self.ledger.fail(attempt, "not finite at step 41: loss nan, gradient norm inf")
        gain, cost = effect
        stacked = math.fsum(self.effects[each][0] for each in mine) + gain * (0.6 if mutation in mine else 1)
        loss = 2.1 - stacked + 0.28 * (1 / share) ** 0.5 - 0.28 + self.random.gauss(0, SIGMA)
        tokens = int(TOKENS * share)
        pace = self.random.gauss(6, 0.15)
        curve: list[dict[str, float]] = []
        for i in range(1, 41):
            now = loss + 3.4 * (1 - i / 40) * math.exp(-pace * i / 40) + 0.22 * (1 - i / 40)
            curve.append({"step": 25 * i, "tokens": tokens * i // 40, "train_loss": now + self.random.gauss(0, 0.02)})
            if i % 4 == 0:
                curve[-1]["val_loss"] = now
        result = {
            "step": int(STEPS * share), "tokens": tokens, "flops": tokens * FLOPS * cost,
            "training_seconds": 118 * share * cost,
            "metrics": {"val_loss": loss},
        }  # fmt: skip
        self.ledger.finish(attempt, result, curve)
        return None

    def begin(self) -> None:
        """A few small sweeps, with a promotion, a rollback, rounds of a search, and what is left open."""
        self.sweep([("activation", "relu2"), ("optimizer", "sgd"), ("norm", "layernorm")], ("attention gqa_3kv",))
        self.sweep([("norm", "qknorm"), ("depth", "3")])
        self.promote("rollback", "back to generation 1", self.applied[1], None, 2.07, 1)
        self.round((), [("dropout", "0.05"), ("bias", "true")])
        self.round((("bias", "true"),), [("dropout", "0.05"), ("heads", "8")])
        self.null()
        self.sweep([("lr", "6e-3")], end=False)

    def live(self, trials: int) -> None:
        """Sweeps until there are so many trials; one promotion is rolled back, one baseline is edited by hand."""
        while len(self.ledger.trials()) < trials:
            fresh = ("lr", f"{self.random.uniform(2, 5):.2f}e-3")
            self.effects[fresh] = (self.random.gauss(-0.005, 0.01), 1.0)
            rest = [each for each in WORLD if each not in self.mine]
            refused = ("attention gqa_3kv",) if self.sweeps % 3 == 0 else ()
            self.sweep([fresh, *self.random.sample(rest, self.random.choice([2, 5, 7, 11]))], refused)
            newest = self.ledger.baseline().number
            if self.sweeps in (6, 10) and newest >= 2:
                to = self.ledger.generations()[newest - 2]
                said = f"back to generation {to.number}"
                self.promote("rollback", said, self.applied[to.number], None, to.loss, to.number)
            if self.sweeps == 8:
                self.effects["block_size", "64"] = (0.01, 1.0)
                edited = (*self.applied[newest], ("block_size", "64"))
                self.promote("manual", "imported from experiments/baseline.yaml", edited, None, None)
        self.round((), [("dropout", "0.05"), ("bias", "true")])
        self.round((("bias", "true"),), [("dropout", "0.05"), ("heads", "8")])
        self.null()
        self.sweep(list(WORLD)[:6], end=False)


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path) as ledger:
        yield ledger


@pytest.fixture(scope="session")
def made_up_project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ledger") / "tiny-stories"
    folder.mkdir()
    with Ledger.open(folder) as ledger:
        World(ledger).live(500)
    return folder


@pytest.fixture(scope="session")
def small_project(tmp_path_factory):
    """A little of everything, and all of it at the same moment."""
    folder = tmp_path_factory.mktemp("ledger") / "tiny-stories"
    folder.mkdir()
    with Ledger.open(folder) as ledger, pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.time", lambda: 1_800_000_000.0)
        World(ledger).begin()
    return folder
