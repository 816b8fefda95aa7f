"""The ledger in one process: what its callers rely on, and what it says when it cannot work."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import shutil
import sqlite3
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from foundry.core.contracts import EnvironmentFailure, FoundryError, InvalidData, UsageError
from foundry.core.digest import digest
from foundry.core.system.processes import this_process
from foundry.lab.ledger import (
    Decision,
    Evidence,
    Generation,
    Ledger,
    LostClaim,
    Noise,
    StaleBaseline,
    Terms,
    Trial,
    queue,
    schema,
)
from foundry.lab.ledger.copies import Copies
from foundry.lab.ledger.journal import Event, Journal
from foundry.lab.ledger.lease import LEASE_SECONDS, Beat, Holder
from foundry.lab.ledger.records import TaskSpec, span
from foundry.lab.ledger.sweep_row import BriefArm, SearchStep

pytestmark = pytest.mark.quick

EXPERIMENT = {"training": {"max_iters": 10}}
DECISION = Decision(
    *("d1", "s", 0, "candidate", "activation relu2", "val_loss", "promote", "better", 0.012, 0.008, 0.016, 3.5),
    *(4, {"alpha": 0.05}, 0.005, 0.0),
)
GENERATION = Generation(0, "identity", EXPERIMENT, "manual", "imported", None, None, "hash", 0.0, text="seed: 1\n")


def trial(seed: int) -> Trial:
    return Trial("identity", seed, "code", "data", EXPERIMENT)


def asked(*seeds: int, arm: str = "norm layernorm"):
    return [(trial(seed), order, "screen", arm, "1") for order, seed in enumerate(seeds)]


def seeds(ledger: Ledger, **where) -> list[int]:
    return [row.trial.seed for row in ledger.trials(**where)]


@pytest.fixture
def sweep(ledger) -> str:
    return ledger.start_sweep({"kind": "sweep", "arms": ["norm layernorm"]})


# --------------------------------------------------------------------------------------------------------------------
# Sweeps and trials


def test_a_sweep_tells_what_it_is_without_its_experiments(ledger):
    relu2, deeper = ("activation", "relu2"), ("depth", "6")
    step = SearchStep("search", 3, 1, True, {"relu2": (deeper, relu2)}, ((deeper, relu2),), (deeper,), 0.002)
    stored = {"id": "search", "step": 3, "origin": 1, "closing": True, "arms": {"relu2": [[*deeper], [*relu2]]},
              "proposals": [[[*deeper], [*relu2]]], "kept": [[*deeper]], "least": 0.002}  # fmt: skip
    audit = {key: stored[key] for key in ("id", "step", "origin", "closing", "arms")}
    assert json.loads(json.dumps(step.to_json())) == stored  # a sweep's id is made of it
    assert json.loads(json.dumps(SearchStep.from_json(audit).to_json())) == audit
    arms = [{"arm": name, "identity": name[0], "mutations": [], "changes": [], "experiment": EXPERIMENT, "flops": flops}
            for name, flops in (("baseline", 1e9), ("relu2", None))]  # fmt: skip
    arms[1] |= {"mutations": [relu2], "changes": ["activation.type: gelu -> relu2"]}
    rule = {"metric": "val_bpb", "alpha": 0.05}
    spec = {"kind": "round", "generation": 1, "sigma": 0.004, "df": 7, "question": {"rule": rule}, "entries": arms}
    whole = ledger.sweep(ledger.start_sweep({**spec, "search": step.to_json()}))
    row = replace(whole, spec={})
    assert (row.kind, row.generation, row.sigma, row.df) == ("round", 1, 0.004, 7)
    assert (row.question, row.rule, row.metric) == ({"rule": rule}, rule, "val_bpb")
    assert (row.search, row.asked_by, row.quest) == (step, None, None)
    assert row.arms == (
        BriefArm("baseline", "b", (), ()),
        BriefArm("relu2", "r", (relu2,), ("activation.type: gelu -> relu2",)),
    )
    assert row.flops == {"baseline": 1e9, "relu2": None}
    shorter = [{key: arm[key] for key in arm if key != "flops"} for arm in row.outline["entries"]]
    older = replace(whole, outline={**row.outline, "entries": shorter})
    assert older.flops == row.flops


def test_a_sweep_is_its_question_not_what_was_known_when_it_was_asked(ledger):
    first = ledger.start_sweep({"kind": "sweep", "arms": ["a"], "sigma": 0.005, "df": 7})
    assert ledger.start_sweep({"arms": ["a"], "kind": "sweep", "sigma": 0.009, "df": 20}) == first
    assert ledger.sweep(first).spec["sigma"] == 0.005
    assert ledger.start_sweep({"kind": "sweep", "arms": ["b"], "sigma": 0.005, "df": 7}) != first
    assert ledger.start_sweep({"kind": "sweep", "arms": ["a"], "round": 1}) != first
    ledger.finish_sweep(first, {"winner": "a"})
    ledger.finish_sweep(first, {"winner": "b"})
    assert ledger.sweep(first).conclusion == {"winner": "a"}
    assert [sweep.id for sweep in ledger.sweeps("finished")] == [first]


def test_an_interval_is_told_where_it_has_two_ends():
    assert [span(0.0, 0.25, 0.95), span(-0.5, 0.0, None), span(None, 0.25, 0.95), span(None, None, None)] == [
        *("[+0.0000, +0.2500] (95 %)", "[-0.5000, +0.0000]", "", "")
    ]


def test_the_checksum_of_an_event_is_of_all_of_it():
    event = Event(2, 1.5, "sweep_started", "{}")
    others = [event._replace(**change) for change in ({"seq": 3}, {"time": 1.25}, {"kind": "swept"}, {"data": "[]"})]
    assert len({each.checksum for each in (event, *others)}) == 5


def test_a_sweep_without_a_driver_is_interrupted(ledger, sweep):
    assert ledger.sweep(sweep).status == "running"
    ledger.leave_sweep(sweep)
    assert ledger.sweep(sweep).status == "interrupted"
    assert ledger.start_sweep(ledger.sweep(sweep).spec) == sweep
    assert ledger.sweep(sweep).status == "running"


def test_a_trial_is_queued_once_and_claimed_in_the_order_of_the_oldest_sweep(ledger, sweep):
    ledger.request(sweep, asked(3, 1, 2))
    ledger.request(sweep, asked(3, 1, 2))
    later = ledger.start_sweep({"kind": "sweep", "arms": ["other"]})
    ledger.request(later, asked(9, 3))
    attempts = [ledger.claim("w") for _ in range(4)]
    assert [attempt.trial.seed for attempt in attempts] == [3, 1, 2, 9]
    assert ledger.claim("w") is None
    assert attempts[0].trial.experiment == EXPERIMENT
    assert [want.order for want in ledger.wanted(later)] == [0, 1]
    assert seeds(ledger, sweep=later) == [3, 9]


def test_a_result_is_a_look_up_for_whoever_asks_next(ledger, sweep):
    ledger.request(sweep, asked(1))
    attempt = ledger.claim("w", sweep)
    curve = [{"step": 5, "val_loss": 2.5}, {"step": 10, "val_loss": 2.0}]
    ledger.finish(attempt, {"metrics": {"val_loss": 2.0}}, curve)
    ledger.finish(attempt, {"metrics": {"val_loss": 2.0}}, curve)  # said twice, as after a full disk
    later = ledger.start_sweep({"kind": "sweep", "arms": ["other"]})
    ledger.request(later, asked(1))
    (row,) = ledger.trials(sweep=later)
    assert (row.status, row.metric("val_loss"), row.metric("other")) == ("finished", 2.0, None)
    assert ledger.curve(row.id) == curve
    assert ledger.claim("w") is None


def test_a_failed_trial_keeps_its_reason_and_is_tried_again_only_when_asked(ledger, sweep):
    ledger.request(sweep, asked(1))
    ledger.fail(ledger.claim("w"), "loss is not finite")
    ledger.request(sweep, asked(1))
    assert ledger.claim("w") is None
    (row,) = ledger.trials(status="failed")
    assert row.reason == "loss is not finite"
    ledger.request(sweep, asked(1), retry=True)
    attempt = ledger.claim("w")
    assert attempt.number == 2
    for _ in range(2):
        ledger.fail(attempt, "crashed", retry=True)
        attempt = ledger.claim("w")
    ledger.fail(attempt, "crashed", retry=True)
    assert ledger.claim("w") is None
    assert ledger.trial(row.id).status == "failed"


def test_what_the_end_of_one_sweep_cancels_another_may_still_want(ledger, sweep):
    other = ledger.start_sweep({"kind": "sweep", "arms": ["other"]})
    ledger.request(sweep, asked(1, 2, 3))
    ledger.request(other, asked(2))
    running = ledger.claim("w")
    ledger.finish_sweep(sweep, {"winner": None})
    assert seeds(ledger, status="cancelled") == [3]
    assert ledger.claim("w", sweep) is None
    ledger.finish(running, {"metrics": {}})  # what runs is not cancelled
    assert ledger.claim("w").trial.seed == 2
    ledger.request(other, asked(1, 2, 3))
    assert ledger.claim("w", other).trial.seed == 3
    assert seeds(ledger, status="finished") == [1]


def test_the_end_of_a_sweep_cancels_what_it_alone_had_queued(ledger, sweep):
    ledger.request(sweep, asked(1, 2))
    given_back = ledger.claim("w")
    ledger.finish_sweep(sweep, {"winner": None})
    assert seeds(ledger, status="cancelled") == [2]
    ledger.release(given_back)
    assert seeds(ledger, status="cancelled") == [1, 2]


def test_only_the_last_claim_counts(ledger, sweep):
    ledger.request(sweep, asked(1))
    first = ledger.claim("w")
    assert ledger.renew(first)
    ledger.release(first)
    second = ledger.claim("x")
    assert second.number == 2
    assert second.run == first.run  # it goes on from the checkpoint that is there
    assert not ledger.renew(first)
    for end in (lambda: ledger.finish(first, {}), lambda: ledger.fail(first, "late")):
        with pytest.raises(LostClaim):
            end()
    ledger.finish(second, {"metrics": {}})


def test_a_driver_that_cannot_be_seen_holds_its_sweep_as_long_as_it_was_heard_of_lately(ledger, sweep, tmp_path):
    ledger.request(sweep, asked(1))
    ledger.claim("w")
    me = this_process()
    for elsewhere in (replace(me, namespace="a container"), replace(me, boot="another"), replace(me, host="far")):
        for table in ("driver", "attempt"):
            play(tmp_path, f"UPDATE {table} SET process = ?", json.dumps(asdict(elsewhere)))
        assert ledger.sweep(sweep).status == "running"
        assert ledger.reclaim() == 0
        play(tmp_path, "UPDATE driver SET clock = clock - ?, wall = wall - ?", 3600, 3600)
        assert ledger.sweep(sweep).status == "interrupted"
        play(tmp_path, "UPDATE driver SET clock = clock + ?, wall = wall + ?", 3600, 3600)
    play(tmp_path, "UPDATE heartbeat SET clock = clock - ?, wall = wall - ?", 3600, 3600)
    with Ledger.open(tmp_path) as looked_at:
        assert seeds(looked_at, status="queued") == [1]
    play(tmp_path, "UPDATE driver SET process = ?", json.dumps(asdict(replace(me, start="1"))))
    assert ledger.sweep(sweep).status == "interrupted"  # it can be seen to be gone, whenever it was heard of


def play(project: Path, statement: str, *values: object) -> None:
    """As if another process had written it."""
    with sqlite3.connect(project / ".foundry" / "ledger.db", timeout=30) as db:
        db.execute(statement, values)
    db.close()


def test_a_lease_ends_by_the_clock_that_measures_it():
    """Of another boot by the time of day, of ours by the time since it; both in seconds, and neither a moment early."""
    elsewhere, now = replace(this_process(), host="elsewhere"), Beat.now()
    for silent, lost in ((170.0, False), (190.0, True)):
        of_another = Beat("another", now.clock + 1e9, now.wall - silent)
        of_ours = Beat(now.boot, now.clock - silent, now.wall + 1e9)
        for beat in (of_another, of_ours):
            assert beat.age == pytest.approx(silent, abs=5)
            assert bool(Holder(elsewhere, beat).lost_claim(LEASE_SECONDS)) == lost


def test_what_is_given_back_is_no_failure_and_only_ones_own_is(ledger, sweep, monkeypatch):
    ledger.request(sweep, asked(1, 2))
    for _ in range(40):
        ledger.release(ledger.claim("w", sweep))
    assert {row.status for row in ledger.trials(sweep)} == {"queued"}
    with monkeypatch.context() as patch:
        patch.setattr(queue, "this_process", lambda: replace(this_process(), host="elsewhere"))
        theirs = ledger.claim("another", sweep)
    ours = ledger.claim("w", sweep)
    before = ledger.holders()[ours.trial.id].beat
    assert ledger.renew(ours)
    assert ledger.holders()[ours.trial.id].beat.clock > before.clock
    ledger.release_all()
    assert ledger.holders().keys() == {theirs.trial.id}
    assert not ledger.renew(ours)


def test_who_is_certainly_dead():
    me = this_process()
    assert not me.is_gone()
    assert replace(me, start="1").is_gone()  # a process that had our pid before
    assert not replace(me, boot="another").is_gone()  # a machine of that name, or ours before it was started anew
    assert not replace(me, host="elsewhere", start="1").is_gone()  # nobody knows from here
    assert not replace(me, namespace="a container", start="1").is_gone()


# --------------------------------------------------------------------------------------------------------------------
# What was learnt


def test_evidence_grows_and_never_shrinks(ledger):
    pair = (0, "base", "candidate", "val_loss")
    assert ledger.evidence(*pair) == Evidence(*pair)
    ledger.add_evidence(Evidence(*pair, (0.01, 0.02)))
    ledger.add_evidence(Evidence(*pair, (0.01,)))
    assert ledger.evidence(*pair).differences == (0.01, 0.02)
    ledger.add_evidence(Evidence(*pair, (0.01, 0.02, -0.01)))
    assert ledger.evidence(*pair).differences == (0.01, 0.02, -0.01)
    assert ledger.evidence(*pair, basis="other code").differences == ()


def test_what_is_known_of_a_pair_is_known_of_no_other(ledger):
    """Each is looked up by all that names it: with one of these another, nothing is known."""
    first = Evidence(0, "baseline", "candidate", "val_loss", (0.01,), "code and data")
    others = {"generation": 1, "baseline": "b", "candidate": "c", "metric": "val_bpb", "basis": "other data"}
    for number, (name, value) in enumerate(others.items(), 2):
        other = replace(first, **{name: value})
        names = (other.generation, other.baseline, other.candidate, other.metric, other.basis)
        ledger.add_evidence(first)
        assert ledger.evidence(*names).differences == ()
        ledger.add_evidence(replace(other, differences=(0.01,) * number))
        assert len(ledger.evidence(*names).differences) == number
        assert ledger.evidence(0, "baseline", "candidate", "val_loss", "code and data") == first
    decision = replace(DECISION, candidate="candidate")
    assert len(ledger.evidence_on(decision, "baseline").differences) == 6  # the newest, of whatever code
    assert len(ledger.evidence_on(replace(decision, metric="val_bpb"), "baseline").differences) == 5
    assert len(ledger.evidence_on(replace(decision, generation=1), "baseline").differences) == 2
    assert ledger.evidence_on(replace(decision, candidate="d"), "baseline") is None
    pairs = [replace(first, **{name: others[name]}).pair for name in ("baseline", "candidate", "metric")]
    assert len({first.pair, *pairs}) == 4  # and so their seeds


def test_evidence_keeps_the_terms_of_its_first_difference(ledger):
    pair, first, later = (0, "base", "candidate", "val_loss"), Terms(0.005, 7, 0.01), Terms(0.004, 15, 0.008)
    ledger.add_evidence(Evidence(*pair, (0.01,), terms=first))
    ledger.add_evidence(Evidence(*pair, (0.01, 0.02), terms=later))
    assert ledger.evidence(*pair) == Evidence(*pair, (0.01, 0.02), terms=first)


def test_noise_is_pooled_by_its_degrees_of_freedom_and_counted_once(ledger):
    assert ledger.noise("c") is None
    for _ in range(2):
        ledger.record_noise(Noise("val_loss", "c", 0.004, 7, 8))
    ledger.record_noise(Noise("val_loss", "c", 0.010, 1, 2, group="control"))
    ledger.record_noise(Noise("val_loss", "c", 0.008, 3, 4, group="control"))  # the same control with more seeds
    ledger.record_noise(Noise("val_loss", "elsewhere", 1.0, 7, 8))
    noise = ledger.noise("c")
    assert (noise.df, noise.runs) == (10, 12)
    assert noise.sigma == pytest.approx(((7 * 0.004**2 + 3 * 0.008**2) / 10) ** 0.5)


def test_a_trial_is_named_by_all_that_its_result_depends_on():
    task = TaskSpec("task", {"type": "recall", "pairs": 4}, "of the questions")
    first = Trial("identity", 1, "code", "data", {}, (task,))
    others = {"identity": "other", "seed": 2, "code": "other", "data": "other", "tasks": (task, task)}
    asked = {"name": "other", "choice": {"type": "recall", "pairs": 8}, "digest": "of others"}
    trials = [replace(first, **{name: value}) for name, value in others.items()]
    trials += [replace(first, tasks=(replace(task, **{name: value}),)) for name, value in asked.items()]
    assert len({first.id, *(trial.id for trial in trials)}) == 9
    before = TaskSpec.from_json("gsm8k")  # of a ledger from before tasks had settings
    assert replace(first, tasks=(before,)).id == digest("identity", 1, "code", "data", ["gsm8k"])[:16]
    assert replace(first, experiment={"name": "other"}).id == first.id


def test_a_measurement_of_the_same_runs_again_stays_what_it_was(ledger):
    for sigma, runs in ((0.005, 8), (0.5, 8), (0.5, 7)):
        ledger.record_noise(Noise("val_loss", "context", sigma, runs - 1, runs, group="baseline"))
        assert (ledger.noise("context").sigma, ledger.noise("context").runs) == (0.005, 8)
    ledger.record_noise(Noise("val_loss", "context", 0.007, 8, 9, group="baseline"))
    assert (ledger.noise("context").sigma, ledger.noise("context").runs) == (0.007, 9)
    ledger.record_noise(Noise("val_bpb", "context", 0.007, 8, 9, group="baseline"))
    assert ledger.noise("context").runs == 18  # of another metric it is another


def test_an_arm_and_a_step_of_a_search_are_read_with_the_least_that_is_written_of_them():
    assert BriefArm.from_json({"arm": "baseline", "identity": "i"}) == BriefArm("baseline", "i", (), ())
    step = SearchStep("search", 2, 3, True, {"a": (("norm", "layernorm"),)})
    assert SearchStep.from_json(step.to_json()) == step
    in_full = replace(step, proposals=((("depth", "3"),),), kept=(("bias", "true"),), least=0.1)
    assert SearchStep.from_json(json.loads(json.dumps(in_full.to_json()))) == in_full


def test_a_ledger_says_of_itself_what_it_is(ledger, tmp_path):
    """To `file`, and to whoever opens it."""
    with sqlite3.connect(tmp_path / ".foundry" / "ledger.db") as db:
        told = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
    assert told == [schema.APPLICATION_ID, schema.SCHEMA_VERSION]


def test_configs_and_refusals_are_kept_once(ledger, sweep):
    for reason in ("first", "second"):
        ledger.record_refusal(sweep, "depth 0", reason, ["model_args.n_layer: 4 -> 0"])
        ledger.record_config("i", EXPERIMENT, "base", [("norm", "layernorm")], [reason])
    assert [refusal.reason for refusal in ledger.refusals(sweep)] == ["first"]
    assert ledger.refusals() == ledger.refusals(sweep)
    config = ledger.config("i")
    assert (config.mutations, config.changes) == ((("norm", "layernorm"),), ("first",))


def test_decisions_are_found_by_their_fields(ledger):
    ledger.decide(DECISION)
    ledger.decide(replace(DECISION, id="d2", verdict="reject", effect=None, low=None, high=None))
    ledger.decide(replace(DECISION, reason="another"))
    assert [decision.id for decision in ledger.decisions(verdict="reject", generation=0)] == ["d2"]
    kept = ledger.decision("d1")
    assert kept == replace(DECISION, created=kept.created)
    with pytest.raises(UsageError, match="no 'colour'"):
        ledger.decisions(colour="red")


def test_a_promotion_needs_the_baseline_that_it_was_decided_against(ledger):
    assert ledger.baseline() is None
    zero = ledger.promote(None, GENERATION)
    with pytest.raises(StaleBaseline):
        ledger.promote(None, GENERATION)
    promoted = replace(GENERATION, kind="promoted", decision="d1")
    one = ledger.promote(0, promoted)
    assert ledger.promote(0, promoted) == one  # the same decision, after a crash
    assert (zero.number, one.number, one.previous) == (0, 1, 0)
    with pytest.raises(StaleBaseline) as stale:
        ledger.promote(0, replace(promoted, decision="d2"))
    assert (stale.value.expected, stale.value.current) == (0, 1)
    assert ledger.generations() == [zero, one]
    assert ledger.baseline() == one


# --------------------------------------------------------------------------------------------------------------------
# Where it cannot work


def refused(project: Path, kind: type[FoundryError]) -> str:
    with pytest.raises(kind) as refusal, Ledger.open(project) as ledger:
        ledger.start_sweep({"kind": "sweep"})
    assert refusal.value.hint
    return refusal.value.message


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / ".foundry").mkdir()
    (tmp_path / ".foundry" / "ledger.db").write_bytes(b"name: baseline\n" * 500)
    assert "ledger.db is damaged" in refused(tmp_path, InvalidData)


def test_a_database_of_somebody_else(tmp_path):
    (tmp_path / ".foundry").mkdir()
    with sqlite3.connect(tmp_path / ".foundry" / "ledger.db") as db:
        db.execute("CREATE TABLE accounts (id INTEGER)")
    assert "not a ledger of Foundry" in refused(tmp_path, InvalidData)


def test_another_version(ledger, tmp_path):
    ledger.close()
    with sqlite3.connect(tmp_path / ".foundry" / "ledger.db") as db:
        db.execute("PRAGMA user_version = 99")
    assert "schema version 99, this Foundry reads 4" in refused(tmp_path, InvalidData)


@pytest.mark.parametrize("version", [2, 3])
def test_a_ledger_of_an_older_foundry_is_taken_over_with_all_that_it_holds(ledger, sweep, tmp_path, version):
    ledger.request(sweep, asked(1))
    before = ledger.trials()
    ledger.close()
    events = tmp_path / ".foundry" / "events.jsonl"
    with_checksums = events.read_bytes()
    without = re.sub(rb'"checksum": "\w+", ', b"", with_checksums)
    events.write_bytes(without.replace(b"sweep_started", b"sweep_finished"))  # of another event than the other copy
    said: list[str] = []
    with Ledger.open(tmp_path, note=said.append) as other:  # which can say what it wrote
        assert other.trials() == before
    assert any("is not the one of" in each for each in said)
    assert events.read_bytes() == with_checksums
    events.write_bytes(without)
    with sqlite3.connect(tmp_path / ".foundry" / "ledger.db") as db:
        db.execute("ALTER TABLE event DROP COLUMN checksum")
        db.execute("DROP TABLE driver")
        db.execute("CREATE TABLE driver (sweep TEXT NOT NULL, process TEXT NOT NULL, PRIMARY KEY (sweep, process))")
        db.execute(f"PRAGMA user_version = {version}")
    db.close()
    with Ledger.open(tmp_path) as taken_over:
        assert taken_over.trials() == before
        assert taken_over.sweep(sweep).status == "interrupted"
        assert taken_over.start_sweep(taken_over.sweep(sweep).spec) == sweep
        assert taken_over.sweep(sweep).status == "running"
    assert events.read_bytes() == with_checksums


@pytest.mark.parametrize(("database", "line"), [(True, True), (True, False), (False, True), (False, False)])
def test_where_copies_differ_the_one_that_has_a_checksum_counts(ledger, sweep, tmp_path, database, line):
    """An older Foundry wrote none. Of two that have one, each went on without the other."""
    ledger.close()
    journal = Journal(tmp_path / ".foundry" / "events.jsonl")
    if not line:
        journal.path.write_bytes(re.sub(rb'"checksum": "\w+", ', b"", journal.path.read_bytes()))
    db = sqlite3.connect(tmp_path / ".foundry" / "ledger.db")
    last = Event(*db.execute("SELECT seq, time, kind, data FROM event ORDER BY seq DESC").fetchone())
    other = last._replace(data='{"of": "the database"}')
    db.execute("UPDATE event SET data = ?, checksum = ? WHERE seq = ?", (other.data, other.checksum, last.seq))
    if not database:
        db.execute("ALTER TABLE event DROP COLUMN checksum")
    if database and line:
        with pytest.raises(InvalidData, match="each went on without the other"):
            Copies(db, tmp_path, journal)
    else:
        copies = Copies(db, tmp_path, journal)
        assert [*copies.events()][-1] == (last if line else other)
        assert len(copies.damage) == 1
    db.close()


def test_events_of_another_version_or_kind(ledger, sweep, tmp_path):
    ledger.close()
    events = tmp_path / ".foundry" / "events.jsonl"
    text = events.read_text()
    for old, new, said in (
        ('"schema":2', '"schema":99', "version 99"),
        ("sweep_started", "sweep_begun", "sweep_begun"),
    ):
        (tmp_path / ".foundry" / "ledger.db").unlink(missing_ok=True)
        events.write_text(re.sub('"checksum": "[0-9a-f]+", ', "", text).replace(old, new))
        assert said in refused(tmp_path, InvalidData)


def test_two_ledgers_are_not_mixed(ledger, tmp_path):
    ledger.close()
    with Ledger.open(tmp_path / "other"):
        pass
    events = tmp_path / ".foundry" / "events.jsonl"
    events.write_bytes((tmp_path / "other" / ".foundry" / "events.jsonl").read_bytes())
    assert "different ledgers" in refused(tmp_path, InvalidData)


def test_a_full_disk_loses_nothing_that_was_acknowledged(ledger, sweep, tmp_path):
    ledger.request(sweep, asked(1))
    attempt = ledger.claim("w")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    events = tmp_path / ".foundry" / "events.jsonl"
    resource.setrlimit(resource.RLIMIT_FSIZE, (events.stat().st_size + 10, limit[1]))
    try:
        with pytest.raises(EnvironmentFailure, match="cannot write") as failure:
            ledger.finish(attempt, {"metrics": {"val_loss": 2.0}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert failure.value.hint
    ledger.finish(attempt, {"metrics": {"val_loss": 2.0}})
    assert ledger.trial(attempt.trial.id).metric("val_loss") == 2.0
    with Ledger.open(tmp_path):
        pass
    kinds = [json.loads(line)["kind"] for line in events.read_text().splitlines()]
    assert kinds.count("trial_finished") == 1


def open_as_nobody(folder: Path, said) -> None:
    """The child: to root, no folder is read-only."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        Ledger.open(folder)
    except EnvironmentFailure as failure:
        said.send((failure.message, failure.hint))
    except BaseException as error:
        said.send((repr(error), ""))
    os._exit(0)


def test_a_project_that_cannot_be_written():
    folder = Path(tempfile.mkdtemp())  # tmp_path cannot be entered by others
    fork = multiprocessing.get_context("fork")
    try:
        for prepare in (lambda: None, lambda: Ledger.open(folder).close()):
            folder.chmod(0o755)
            prepare()
            folder.chmod(0o555)
            here, there = fork.Pipe()
            child = fork.Process(target=open_as_nobody, args=(folder, there))
            child.start()
            assert here.poll(60)
            message, hint = here.recv()
            child.join()
            assert message.startswith("cannot"), message
            assert hint
    finally:
        shutil.rmtree(folder)
