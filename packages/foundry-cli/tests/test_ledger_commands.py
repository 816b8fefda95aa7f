"""foundry query, why, lineage, rollback and runs, on a project in which two sweeps have run."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.documents import faults
from tests.golden import assert_golden
from tests.processes import ENVIRONMENT, assert_light

from foundry.cli.__main__ import main
from foundry.core.config.mutate import mutate
from foundry.lab.baseline import current_baseline, promote, rollback
from foundry.lab.ledger import Decision, Evidence, Ledger, Trial
from foundry.lab.ledger.query import parse

LOSSES = {"baseline": (1.90, 1.92), "promote": (1.88, 1.89), "reject": (1.93, 1.94)}


def sweep(ledger: Ledger, project, type: str, value: str, verdict: str = "promote"):
    """What a sweep of one arm leaves behind: two pairs of runs, and what follows."""
    generation, experiment = current_baseline(ledger, project)
    mutated = mutate(experiment, type, value)
    candidate, arm = mutated.experiment, f"{type} {value}"
    entries = [
        {"arm": "baseline", "identity": generation.identity, "mutations": [], "changes": []},
        {"arm": arm, "identity": candidate.identity, "mutations": [[type, value]], "changes": []},
    ]
    id = ledger.start_sweep({"kind": "sweep", "entries": entries, "generation": generation.number})
    changes = [str(change) for change in mutated.changes]
    ledger.record_config(candidate.identity, candidate.plain(), generation.identity, [(type, value)], changes)
    pairs = list(zip(LOSSES["baseline"], LOSSES[verdict], strict=True))
    differences = tuple(baseline - candidate for baseline, candidate in pairs)
    evidence = Evidence(generation.number, generation.identity, candidate.identity, "val_loss", differences)
    for i, losses in enumerate(pairs):
        for name, identity, loss in zip(
            ("baseline", arm), (generation.identity, candidate.identity), losses, strict=True
        ):
            trial = Trial(identity, evidence.seed(i), "code", "data", {})
            ledger.request(id, [(trial, i, "confirm", name, "1")])
            if attempt := ledger.claim("worker", id):
                ledger.finish(attempt, {"metrics": {"val_loss": loss}})
    ledger.add_evidence(evidence)
    effect = sum(differences) / 2
    decision = Decision(
        *(f"{type}-decision", id, generation.number, candidate.identity, arm, "val_loss", verdict, "the test said so"),
        *(effect, effect - 0.01, effect + 0.01, 3.5, 2, {"alpha": 0.05}, 0.005, 0.0, 0.9),
    )
    ledger.decide(decision)
    ledger.finish_sweep(id, {"control": "baseline", "error_rate": "at most 5 in 100"})
    return promote(ledger, project, decision, candidate) if verdict == "promote" else None


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """0 manual, 1 activation relu2, 2 back to 0, 3 norm layernorm; attention mha rejected, depth 0 refused."""
    project = tmp_path_factory.mktemp("project")
    assert main(["init", str(project)]) == 0
    with Ledger.open(project) as ledger:
        sweep(ledger, project, "activation", "relu2")
        rollback(ledger, project)
        sweep(ledger, project, "norm", "layernorm")
        sweep(ledger, project, "attention", "mha", "reject")
        left = ledger.start_sweep({"kind": "sweep", "arms": ["depth 8"]})
        ledger.record_refusal(left, "depth 0", "model_args.n_layer: must be at least 1")
        ledger.request(left, [(Trial("identity", 7, "code", "data", {}), 0, "screen", "depth 8", "1/2")])
        ledger.fail(ledger.claim("worker", left), "loss is not finite at step 3")
        ledger.leave_sweep(left)
    return project


@pytest.fixture
def foundry(capsys, monkeypatch):
    def run(project, *arguments: str, code: int = 0):
        monkeypatch.chdir(project)
        assert main(list(arguments)) == code
        shown = capsys.readouterr()
        return json.loads(shown.out or shown.err) if "--json" in arguments else shown

    return run


def test_a_query_finds_rows_for_which_every_term_holds(history, foundry):
    def arms(*terms: str) -> list[str]:
        return [row["arm"] for row in foundry(history, "query", *terms, "--json")["rows"]]

    assert arms("slot=attention verdict=reject") == ["attention mha"]
    assert arms("slot=attention,norm", "what=decision") == ["norm layernorm", "attention mha"]
    assert arms("what=decision", "slot!=attention", "effect>0.02") == ["activation relu2", "norm layernorm"]
    assert arms("arm=activation relu2", "kind=promoted") == ["activation relu2"]
    assert arms("arm~DEPTH") == ["depth 0", "depth 8"]
    assert arms("val_loss>=1.93") == ["attention mha", "attention mha"]
    assert arms("status=failed", "reason~finite") == ["depth 8"]
    assert arms("verdict=reject", "status=failed") == []
    assert len(arms()) == 4 + 3 + 1 + 13


def test_what_is_told_of_the_past_holds_what_is_written_down(history, foundry, tmp_path):
    for command in ("runs", "lineage", "why", "query", "report"):
        assert faults(command, foundry(history, command, "--json")) == []
    shutil.copytree(history, tmp_path / "copy")
    assert faults("rollback", foundry(tmp_path / "copy", "rollback", "--json")) == []


@given(st.integers(-(10**9), 10**9))
def test_a_whole_number_is_found_however_it_is_kept_or_written(number):
    for word in (f"{number}", f"{number}.0"):
        [term] = parse([f"tokens={word}"])
        for kept in (number, float(number)):
            assert term.holds({"tokens": kept})
            assert not term.holds({"tokens": kept + 1})


@pytest.mark.parametrize("id", ["012345678901", "1234567890e1", "000000000000", "3"])
def test_an_id_is_found_though_it_looks_like_a_number(id):
    (term,) = parse([f"sweep={id}"])
    assert term.holds({"sweep": id})
    assert not term.holds({"sweep": "264a8bc06642"})


@pytest.mark.parametrize(
    ("terms", "said", "hint"),
    [
        (["slt=attention"], "nothing in the ledger has a 'slt'", "did you mean slot?"),
        (["attention"], "'attention' is not a term", "KEY=VALUE"),
        (["n>many"], "'many' is not a number", ""),
        (["verdict=rejected"], "nothing has verdict=rejected", "did you mean verdict=reject?"),
        (["what=trial,run"], "nothing has what=run", "it is decision, trial, refusal, generation"),
    ],
)
def test_a_query_that_cannot_be_meant_is_a_usage_error(history, foundry, terms, said, hint):
    error = foundry(history, "query", *terms, "--json", code=2)["error"]
    assert said in error["message"]
    assert hint in error["hint"]


def test_why_tells_the_pairs_of_runs_and_the_rest_of_the_sweep(history, foundry):
    why = foundry(history, "why", "--json")
    assert why["generation"]["number"] == 3
    assert why["decision"]["verdict"] == "promote"
    assert why["changes"] == ["model_args.norm: rmsnorm -> layernorm"]
    assert [(pair["baseline"], pair["candidate"]) for pair in why["pairs"]] == [(1.90, 1.88), (1.92, 1.89)]
    assert [pair["difference"] for pair in why["pairs"]] == pytest.approx([0.02, 0.03])
    text = foundry(history, "why", "activation relu2").out
    assert "generation 1, promoted" in text
    assert "val_loss gain +0.0250 [+0.0150, +0.0350] (90 %), 2 pairs of runs" in text
    assert "at most 5 in 100" in text
    assert "\t1.9000\t1.8800\t+0.0200\n" in text
    rejected = foundry(history, "why", "attention-dec", "--json")
    assert (rejected["generation"], rejected["decision"]["arm"]) == (None, "attention mha")
    assert foundry(history, "why", "0", "--json")["decision"] is None
    sweeps = foundry(history, "runs", "--json")["sweeps"]
    decided = [foundry(history, "why", each["sweep"], "--json")["decision"] for each in sweeps[:-1]]
    assert [each["sweep"] for each in decided] == [each["sweep"] for each in sweeps[:-1]]
    assert {each["sweep"]: each["verdict"] for each in decided} == {
        each["sweep"]: "promote" if "promote" in [row["verdict"] for row in rows] else rows[0]["verdict"]
        for each in sweeps[:-1]
        for rows in [foundry(history, "query", f"sweep={each['sweep']}", "what=decision", "--json")["rows"]]
    }
    assert "has decided nothing: it is interrupted" in foundry(history, "why", sweeps[-1]["sweep"], code=2).err
    assert "there is no 'nonsense'" in foundry(history, "why", "nonsense", code=2).err


def test_what_commands_tell_of_the_past_word_by_word(history, foundry, monkeypatch):
    """Ids and seeds follow the schema of experiments, so they are numbered here as they come."""
    told = []

    def tell(*arguments: str) -> None:
        shown = foundry(history, *arguments)
        told.extend([f"$ foundry {' '.join(arguments)}", shown.out + shown.err])

    for arguments in (["lineage"], ["why"], ["why", "attention mha"], ["why", "0"], ["runs", "--trials"], ["query"]):
        tell(*arguments)
    monkeypatch.setattr("foundry.cli.render.is_terminal", lambda stream: True)
    tell("lineage")
    names: dict[str, str] = {}
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "DAY", "\n".join(told))
    text = re.sub(r"\b[0-9a-f]{8,}\b", lambda found: names.setdefault(found[0], f"ID{len(names)}"), text)
    assert_golden(Path(__file__).parent / "golden" / "history.txt", text)


@pytest.mark.parametrize(("command", "code"), [("lineage", 0), ("query", 0), ("why", 2)])
def test_a_project_without_a_past_is_told_as_one(tmp_path, foundry, command, code):
    foundry(tmp_path, "init")
    assert f"nothing was tried in {tmp_path} yet" in foundry(tmp_path, command, code=code).err


def test_lineage_is_a_table_off_a_terminal_and_a_tree_on_one(history, foundry):
    entries = foundry(history, "lineage", "--json")["generations"]
    states = [(entry["generation"], entry["parent"], entry["state"]) for entry in entries]
    assert states == [(0, None, "standing"), (1, 0, "undone"), (2, 0, "standing"), (3, 2, "baseline")]
    lines = foundry(history, "lineage").out.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["generation", "0", "1", "2", "3"]
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "foundry.cli", "lineage"]
    terminal = ENVIRONMENT | {"TERM": "xterm"}
    subprocess.run(command, cwd=history, env=terminal, stdout=theirs, stderr=subprocess.DEVNULL, check=True)
    os.close(theirs)
    tree = os.read(ours, 65536).decode().splitlines()
    os.close(ours)
    assert [line[: line.index("  ")] for line in tree] == ["● 0", "│ ○ 1", "● 2", "◆ 3"]


def test_runs_lists_sweeps_and_their_trials(history, foundry):
    listed = foundry(history, "runs", "--json")
    assert listed["runs"] == []
    assert [row["status"] for row in listed["sweeps"]] == ["finished"] * 3 + ["interrupted"]
    counts = [(row["finished"], row["failed"]) for row in listed["sweeps"]]
    assert counts == [(4, 0), (4, 0), (4, 0), (0, 1)]  # a trial that two sweeps share counts for both
    assert listed["trials"][-1]["reason"] == "loss is not finite at step 3"
    assert len({row["trial"] for row in listed["trials"]}) == len(listed["trials"])
    assert listed["next"] == "foundry sweep --resume"


def test_rollback_and_an_edit_show_in_the_lineage(tmp_path, foundry):
    foundry(tmp_path, "init")
    assert "no generation yet" in foundry(tmp_path, "rollback", code=2).err
    assert foundry(tmp_path, "lineage", "--json")["generations"] == []
    assert not (tmp_path / ".foundry").exists()
    with Ledger.open(tmp_path) as ledger:
        sweep(ledger, tmp_path, "norm", "layernorm")
    assert foundry(tmp_path, "rollback", "--json")["restores"] == 0
    assert "no generation 9" in foundry(tmp_path, "rollback", "9", code=2).err
    file = tmp_path / "experiments" / "baseline.yaml"
    file.write_text(file.read_text() + "seed: 7\n")
    assert foundry(tmp_path, "lineage", "--json")["edited"]
    assert "was edited since" in foundry(tmp_path, "lineage").err
    assert foundry(tmp_path, "rollback", "1", "--json")["generation"] == 4  # 3 is the edit
    assert not foundry(tmp_path, "lineage", "--json")["edited"]


@pytest.mark.parametrize("command", ["lineage", "query", "why", "runs", "rollback"])
def test_they_answer_without_torch(history, tmp_path, command):
    subprocess.run(["cp", "-r", f"{history}/.", str(tmp_path)], check=True)
    assert_light(command, cwd=tmp_path)


@pytest.mark.parametrize("command", ["runs", "lineage", "why", "query", "rollback", "report"])
def test_a_file_in_the_ledgers_place_is_an_error_and_not_a_project_without_a_past(
    tmp_path, monkeypatch, capsys, command
):
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    (tmp_path / ".foundry").touch()
    capsys.readouterr()
    assert main([command]) == 3
    assert f"{tmp_path / '.foundry'} is a file" in capsys.readouterr().err


def test_a_long_list_is_cut_for_readers_and_whole_for_programs(history, foundry, monkeypatch):
    monkeypatch.setattr("foundry.cli.render.LISTED", 2)
    for arguments, key in ((["query", "what=trial"], "rows"), (["runs", "--trials"], "trials")):
        every = foundry(history, *arguments, "--json")[key]
        shown = foundry(history, *arguments)
        ids = [each.get("trial") or each["id"] for each in every]
        assert [id for id in ids if id in shown.out] == ids[-2:]
        assert f"the newest 2 of {len(ids)} {key}; --json has all" in shown.err


def test_doctor_looks_at_every_event_of_both_copies(history, foundry, tmp_path, monkeypatch):
    monkeypatch.setattr("foundry.lab.ledger.copies.SMALL", 0)
    shutil.copytree(history, tmp_path / "copy")
    events = tmp_path / "copy" / ".foundry" / "events.jsonl"
    whole = events.read_bytes()
    assert "whole in both copies" in foundry(tmp_path / "copy", "doctor").out
    events.write_bytes(whole.replace(b"layernorm", b"layernorn", 1))
    said = foundry(tmp_path / "copy", "doctor").out
    assert re.search(r"events\.jsonl:\d+: event \d+ is damaged, .* whole in the other copy", said)
    assert events.read_bytes() == whole
