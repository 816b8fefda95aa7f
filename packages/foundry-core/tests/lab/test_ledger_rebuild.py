"""The database and events.jsonl hold the same: each can be lost, cut or old, and nothing that was done is forgotten."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry.lab.ledger import Decision, Evidence, Generation, Ledger, LostClaim, Noise, StaleBaseline, Trial
from foundry.lab.ledger.records import TaskSpec
from foundry.lab.ledger.schema import VOLATILE

SPECS = [{"kind": "sweep", "arms": [f"arm {n}"], "sigma": 0.1 * n} for n in range(3)]
GENERATION = Generation(0, "identity", {"seed": 1}, "promoted", "a — b", None, None, "hash", 0.0, ancestry=("old",))
DECISION = Decision(
    *("", "s", 0, "c", "norm layernorm", "val_loss", "reject", "no gain", None, None, None, -2.3),
    *(3, {"n_max": 16}, None, 0.0),
)


def tables(project: Path) -> dict[str, list]:
    """Everything that the events say, as the database has it."""
    db = sqlite3.connect(project / ".foundry" / "ledger.db")
    names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    content = {name: sorted(map(repr, db.execute(f"SELECT * FROM {name}"))) for name in names if name not in VOLATILE}
    db.close()
    return content


def lose_database(project: Path) -> None:
    for path in (project / ".foundry").glob("ledger.db*"):
        path.unlink()


class History:
    """Random things that drivers and workers do, in the order in which hypothesis wants them."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.attempts: list = []
        self.sweeps = [ledger.start_sweep(SPECS[0])]
        self.results: dict[str, object] = {}
        self.do("request", 4)

    def do(self, what: str, n: int) -> None:
        ledger, sweep = self.ledger, self.sweeps[n % len(self.sweeps)]
        attempt = self.attempts[n % len(self.attempts)] if self.attempts else None
        trials = [
            Trial(f"i{k % 2}", k, "code", "data", {"k": k}, (TaskSpec("t", {"type": "t"}),) * (k % 2))
            for k in range(n % 5)
        ]
        try:
            match what:
                case "start":
                    self.sweeps.append(ledger.start_sweep(SPECS[n % 3]))
                case "request":
                    wanted = [(trial, order, "screen", "norm x", "1/3") for order, trial in enumerate(trials)]
                    ledger.request(sweep, wanted, retry=n % 2 == 0)
                case "claim":
                    if claimed := ledger.claim("w", sweep if n % 2 else None):
                        self.attempts.append(claimed)
                case "finish" if attempt:
                    result = {"metrics": {"val_loss": 1 / (n + 1)}, "text": 'é"\n', "grad_norm": float("inf")}
                    ledger.finish(attempt, result, [{"step": n, "val_loss": 0.1}])
                    self.results.setdefault(attempt.trial.id, result)
                case "fail" if attempt:
                    ledger.fail(attempt, "because", retry=n % 3 > 0)
                case "release" if attempt:
                    ledger.release(attempt)
                case "conclude" if len(self.sweeps) > 1:
                    ledger.finish_sweep(sweep, {"winner": None, "n": n})
                case "learn":
                    ledger.record_config(f"i{n % 4}", {"n": n}, None, [("norm", str(n))], ["a -> b"])
                    ledger.record_refusal(sweep, f"depth {n % 3}", "no", ())
                    ledger.record_noise(Noise("val_loss", "c", 0.01 * n, n % 3 + 1, n % 3 + 2, group="g" * (n % 2)))
                    ledger.add_evidence(Evidence(n % 2, "b", "c", "val_loss", (0.1 + 0.2,) * (n % 4)))
                case "decide":
                    ledger.decide(replace(DECISION, id=f"d{n % 4}", sweep=sweep))
                case "promote":
                    decision = f"d{n}" if n % 2 else None
                    made = ledger.promote(n - 1 if n else None, replace(GENERATION, decision=decision))
                    ledger.rendered(made.number)
        except (LostClaim, StaleBaseline):
            pass


ACTIONS = ("start", "request", "request", "claim", "claim", "finish", "finish", "fail", "release")
ACTIONS += ("conclude", "learn", "decide", "promote")


def each_want_is_told_once_in_its_order(ledger):
    """All trials at once are what they are one by one, however they are asked for."""
    wants = [want for sweep in ledger.sweeps() for want in ledger.wanted(sweep.id)]
    tried = [(row["sweep"], row["id"], row["arm"], row["role"]) for row in ledger.tried()]
    assert sorted(tried) == sorted((want.sweep, want.trial, want.arm, want.role) for want in wants)
    assert {id for _, id, *_ in tried} == {row.id for row in ledger.trials()}
    order = {(want.sweep, want.trial, want.arm, want.role): want.order for want in wants}
    requests = dict(ledger._store.tuples("SELECT id, seq FROM trial"))
    places = [(requests[want[1]], order[want]) for want in tried]
    assert places == sorted(places)
    listed = ledger.listed(["val_loss", "absent"])
    for row, short in zip(ledger.tried(), listed, strict=True):
        known = ledger.trial(row["id"])
        assert (row["status"], row["reason"], row["seed"]) == (known.status, known.reason, known.trial.seed)
        assert (short["val_loss"], short["absent"]) == (known.metric("val_loss"), None)
        assert {key: short[key] for key in ("sweep", "arm", "role", "share", "seed", "status", "run", "reason")} == {
            key: row[key] for key in ("sweep", "arm", "role", "share", "seed", "status", "run", "reason")
        }
    brief = [(row.sweep, order[row.sweep, row.id, row.arm, row.role], row.arm) for row in ledger.brief_trials()]
    assert brief == sorted(brief)
    assert len(brief) == len(wants)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 8)), min_size=10, max_size=60))
def test_events_alone_make_the_same_database(actions):
    project = Path(tempfile.mkdtemp())
    try:
        with Ledger.open(project) as ledger:
            history = History(ledger)
            for what, n in actions:
                history.do(what, n)
            for id, result in history.results.items():  # whatever came later
                assert ledger.trial(id).result == result
            each_want_is_told_once_in_its_order(ledger)
        before = tables(project)
        lose_database(project)
        said: list[str] = []
        with Ledger.open(project, note=said.append):
            assert tables(project) == before
        assert "was lost, and made anew" in said[0]
    finally:
        shutil.rmtree(project)


@pytest.fixture
def project(tmp_path):
    with Ledger.open(tmp_path) as ledger:
        history = History(ledger)
        for n, what in enumerate(ACTIONS):
            history.do(what, n)
    return tmp_path


def events(project: Path) -> Path:
    return project / ".foundry" / "events.jsonl"


def test_a_lost_journal_is_written_again(project):
    whole = events(project).read_bytes()
    events(project).unlink()
    Ledger.open(project).close()
    assert events(project).read_bytes() == whole


@pytest.mark.parametrize("cut", [1, 20, 4000])
def test_a_torn_journal_is_completed(project, cut):
    whole = events(project).read_bytes()
    events(project).write_bytes(whole[:-cut])
    Ledger.open(project).close()
    assert events(project).read_bytes() == whole


def test_a_torn_last_event_is_dropped_when_the_database_is_lost_too(project):
    whole = events(project).read_bytes()
    events(project).write_bytes(whole[:-5])
    lose_database(project)
    with Ledger.open(project) as ledger:
        last = ledger.start_sweep({"kind": "after"})
    lines = [json.loads(line) for line in events(project).read_bytes().splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines[-1]["data"]["id"] == last


def test_an_old_copy_of_the_database_is_brought_up_to_date(project, tmp_path):
    with sqlite3.connect(project / ".foundry" / "ledger.db") as db, sqlite3.connect(tmp_path / "copy.db") as copy:
        db.backup(copy)
    db.close()
    copy.close()
    with Ledger.open(project) as ledger:
        ledger.start_sweep({"kind": "after the copy"})
    now = tables(project)
    lose_database(project)
    shutil.copy(tmp_path / "copy.db", project / ".foundry" / "ledger.db")
    said: list[str] = []
    with Ledger.open(project, note=said.append):
        assert tables(project) == now
    assert "was behind: 1 events" in said[0]


def test_what_is_damaged_in_the_only_copy_is_named_and_the_rest_is_kept(project):
    lines = events(project).read_bytes().splitlines(keepends=True)
    lose_database(project)
    events(project).write_bytes(b"".join([*lines[:2], b"{not json\n", lines[3], lines[3], *lines[4:]]))
    said: list[str] = []
    with Ledger.open(project, note=said.append):
        kept = events(project).read_bytes().splitlines(keepends=True)
    assert kept[:2] + kept[3:] == lines[:2] + lines[3:]
    lost = json.loads(kept[2])
    assert (lost["kind"], lost["data"]["text"]) == ("event_lost", "{not json\n")
    assert any(f"events.jsonl:3: event 3 is damaged, 10 bytes from byte {len(lines[0] + lines[1])} on" in each
               for each in said)  # fmt: skip
    assert any("events.jsonl:5: event 4 stands there a second time" in each for each in said)
    quiet: list[str] = []
    Ledger.open(project, note=quiet.append).close()
    assert quiet == []


def test_a_database_that_is_lost_under_an_open_ledger_is_made_anew(tmp_path):
    with Ledger.open(tmp_path) as ledger, Ledger.open(tmp_path) as other:
        sweep = ledger.start_sweep(SPECS[0])
        ledger.request(sweep, [(Trial("i", 1, "c", "d", {}), 0, "screen", "a", "1")])
        attempt = ledger.claim("w")
        lose_database(tmp_path)
        assert other.sweep(sweep) is not None
        assert other.claim("x") is None  # who trains goes on
        ledger.finish(attempt, {"metrics": {"val_loss": 2.0}})
        assert other.trial(attempt.trial.id).metric("val_loss") == 2.0
    now = tables(tmp_path)
    lose_database(tmp_path)
    with Ledger.open(tmp_path):
        assert tables(tmp_path) == now


def test_what_was_claimed_before_the_database_was_lost_is_claimed_and_lost_as_before(tmp_path):
    """The beats are not in the journal: who trains gets a whole lease to give a sign, and loses its trial without."""
    with Ledger.open(tmp_path) as ledger:
        sweep = ledger.start_sweep(SPECS[0])
        ledger.request(sweep, [(Trial("i", 1, "code", "data", {}), 0, "screen", "norm x", "1")])
        attempt = ledger.claim("worker", sweep)
    lose_database(tmp_path)
    with Ledger.open(tmp_path) as ledger:
        assert ledger.holders().keys() == {attempt.trial.id}
        assert ledger.reclaim() == 0
        assert ledger.renew(attempt)
        ledger.lease_seconds = -1.0
        assert ledger.reclaim() == 1
        assert not ledger.renew(attempt)
        assert ledger.claim("another", sweep).number == 2
