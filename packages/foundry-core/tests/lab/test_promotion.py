"""experiments/baseline.yaml and the ledger's generations: who wins, what is kept, what a crash leaves behind."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tests.project import write_project

from foundry.core.config import load_experiment
from foundry.core.config.mutate import mutate
from foundry.core.contracts import EnvironmentFailure, InvalidExperiment, UsageError
from foundry.lab import baseline
from foundry.lab.baseline import current_baseline, promote, rollback
from foundry.lab.ledger import Decision, Ledger, StaleBaseline
from foundry.lab.ledger.lineage import ancestry, as_lines, hash_of

pytestmark = pytest.mark.quick

BASELINE = """\
# Written by hand, with a remark.
model_args: {n_layer: 2, n_head: 2, n_embd: 32, block_size: 32}
data: {dataset: stdlib, tokenizer: byte}
training: {max_iters: 10, batch_size: 4, learning_rate: 1e-3}
"""


@pytest.fixture
def project(tmp_path):
    return write_project(tmp_path, {"experiments/baseline.yaml": BASELINE})


def text(project: Path) -> str:
    return (project / "experiments" / "baseline.yaml").read_text()


def write(project: Path, content: str) -> None:
    (project / "experiments" / "baseline.yaml").write_text(content)


def decided(generation: int, candidate: str, arm: str = "norm layernorm") -> Decision:
    where = (f"{arm} on {generation}", "sweep", generation, candidate, arm, "val_loss", "promote", "better")
    return Decision(*where, 0.0123, 0.004, 0.0206, 3.7, 4, {"alpha": 0.05}, 0.005, 0.0)


def promoted(ledger: Ledger, project: Path, type: str = "norm", value: str = "layernorm"):
    generation, experiment = current_baseline(ledger, project)
    candidate = mutate(experiment, type, value).experiment
    decision = decided(generation.number, candidate.identity, f"{type} {value}")
    return promote(ledger, project, decision, candidate, loss=2.0), candidate


def test_a_promoted_file_trains_exactly_the_candidate_and_tells_its_lineage(ledger, project):
    generation, candidate = promoted(ledger, project)
    read = load_experiment(project / "experiments" / "baseline.yaml")
    assert (read.identity, read.seed) == (candidate.identity, candidate.seed)
    assert read.name == "baseline"
    assert (generation.number, generation.previous, generation.loss) == (1, 0, 2.0)
    assert current_baseline(ledger, project)[0] == generation
    zero, one = ancestry(text(project))
    assert zero.endswith("manual  imported from experiments/baseline.yaml")
    assert one.endswith("promoted  norm layernorm: val_loss gain +0.0123 [+0.0040, +0.0206], n 4")
    assert as_lines(ledger) == [zero, one]


def test_what_a_lineage_has_given_up_is_that_of_the_generation_that_holds(ledger, project):
    for given_up, mutation in ((0.01, ("norm", "layernorm")), (0.025, ("depth", "3"))):
        generation, experiment = current_baseline(ledger, project)
        candidate = mutate(experiment, *mutation).experiment
        decision = decided(generation.number, candidate.identity, " ".join(mutation))
        promote(ledger, project, decision, candidate, loss=2.0 + given_up, given_up=given_up)
    for to in (1, 0, 2):
        back = rollback(ledger, project, to)
        then = ledger.generations()[to]
        assert (back.given_up, back.loss, back.text) == (then.given_up, then.loss, then.text)
        assert (back.decision, back.restores, back.kind) == (None, to, "rollback")
    assert [each.given_up for each in ledger.generations()] == [0.0, 0.01, 0.025, 0.01, 0.0, 0.025]


@pytest.mark.parametrize(
    "mutation",
    [("attention", "gqa_1kv"), ("depth", "3"), ("width", "64"), ("lr", "3e-4"), ("position", "learned")],
)
def test_any_candidate_survives_being_written_and_read(ledger, project, mutation):
    extra = 'layers: {"1-": {norm: layernorm}}\nlogging: {sample_prompt: \'a: #\\u2028"\'}\n'
    write(project, BASELINE.replace("# Written", "name: mine\n# Written") + extra)
    _, candidate = promoted(ledger, project, *mutation)
    assert load_experiment(project / "experiments" / "baseline.yaml").identity == candidate.identity


def test_a_text_that_no_comment_can_hold_does_not_break_the_file(ledger, project):
    generation, experiment = current_baseline(ledger, project)
    candidate = mutate(experiment, "norm", "layernorm").experiment
    promote(ledger, project, decided(generation.number, candidate.identity, "param x.text=a\nb\x1b\x85"), candidate)
    assert load_experiment(project / "experiments" / "baseline.yaml").identity == candidate.identity
    assert ancestry(text(project)) == as_lines(ledger)


def test_what_extends_another_file_stands_alone_once_it_is_a_generation(ledger, project):
    write(project, "extends: big.yaml\ntraining: {learning_rate: 5e-4}\n")
    (project / "experiments" / "big.yaml").write_text(BASELINE)
    first, experiment = current_baseline(ledger, project)
    (project / "experiments" / "big.yaml").write_text(BASELINE.replace("n_layer: 2", "n_layer: 3"))
    second, _ = current_baseline(ledger, project)
    assert (second.number, second.summary) == (1, "edited: model_args.n_layer: 2 -> 3")
    rollback(ledger, project)
    (project / "experiments" / "big.yaml").unlink()
    assert current_baseline(ledger, project)[1].identity == experiment.identity == first.identity


def test_an_edited_file_becomes_a_generation_and_wins_over_a_decision(ledger, project):
    zero, experiment = current_baseline(ledger, project)
    candidate = mutate(experiment, "norm", "layernorm").experiment
    edited = BASELINE.replace("1e-3", "2e-3")
    write(project, edited)
    with pytest.raises(StaleBaseline) as stale:
        promote(ledger, project, decided(0, candidate.identity), candidate)
    assert (stale.value.expected, stale.value.current) == (0, 1)
    assert text(project) == edited
    one, now = current_baseline(ledger, project)
    assert (one.kind, one.previous, one.identity) == ("manual", 0, now.identity)
    assert one.summary == "edited: training.learning_rate: 1e-3 -> 2e-3"
    assert zero.identity != one.identity


@pytest.mark.parametrize(("edits", "more"), [(3, ""), (4, ", 1 more"), (5, ", 2 more")])
def test_an_edit_is_summed_up_by_three_of_its_changes(ledger, project, edits, more):
    current_baseline(ledger, project)
    changed = BASELINE
    for old, new in [("max_iters: 10", "max_iters: 11"), ("batch_size: 4", "batch_size: 5"), ("1e-3", "2e-3"),
                     ("n_layer: 2", "n_layer: 3"), ("n_embd: 32", "n_embd: 64")][:edits]:  # fmt: skip
        changed = changed.replace(old, new)
    write(project, changed)
    summary = current_baseline(ledger, project)[0].summary
    assert summary.count(" -> ") == 3
    assert summary.removeprefix("edited: ").split(" -> ")[-1].partition(",")[2] == more.removeprefix(",")


def test_an_edit_of_a_promoted_file_keeps_the_lineage(ledger, project):
    promoted(ledger, project)
    write(project, text(project).replace("learning_rate: 1e-3", "learning_rate: 2e-3"))
    generation, _ = current_baseline(ledger, project)
    assert (generation.number, generation.ancestry) == (2, ())
    assert "lineage" not in generation.text  # that is told anew whenever the file is written
    promoted(ledger, project, "depth", "3")
    kinds = [line.split()[2] for line in ancestry(text(project))]
    assert kinds == ["manual", "promoted", "manual", "promoted"]


def test_a_broken_edit_is_refused_with_its_place_and_nothing_is_written(ledger, project):
    current_baseline(ledger, project)
    broken = BASELINE.replace("n_head: 2", "n_head: 5")
    write(project, broken)
    with pytest.raises(InvalidExperiment, match=r"baseline\.yaml:2:") as refused:
        current_baseline(ledger, project)
    assert text(project) == broken
    assert len(ledger.generations()) == 1
    assert "or delete it" in refused.value.hint
    (project / "experiments" / "baseline.yaml").unlink()
    for _ in range(2):  # what was written again is no edit
        assert current_baseline(ledger, project)[0].number == 0
    assert "# Written by hand, with a remark." in text(project)


def test_a_clone_goes_on_from_the_lineage_in_its_file(ledger, project):
    promoted(ledger, project)
    told = ancestry(text(project))
    ledger.close()
    shutil.rmtree(project / ".foundry")
    with Ledger.open(project) as clone:
        generation, _ = current_baseline(clone, project)
        assert (generation.number, generation.kind, generation.ancestry) == (2, "manual", tuple(told))
        promoted(clone, project, "depth", "3")
        assert ancestry(text(project))[:2] == told
        assert [line.split()[0] for line in as_lines(clone)] == ["0", "1", "2", "3"]
        assert ancestry(text(project)) == as_lines(clone)


def test_rollback_brings_the_author_s_own_words_back_and_can_be_undone(ledger, project):
    _, candidate = promoted(ledger, project)
    back = rollback(ledger, project)
    assert (back.number, back.kind, back.summary) == (2, "rollback", "back to generation 0")
    assert text(project).endswith("\n\n" + BASELINE)
    assert rollback(ledger, project).identity == candidate.identity
    assert rollback(ledger, project, to=0).number == 4
    for to, said in ((9, "no generation 9"), (4, "the baseline already")):
        with pytest.raises(UsageError, match=said):
            rollback(ledger, project, to)


def test_there_is_nothing_before_the_first_generation(ledger, project):
    with pytest.raises(UsageError, match="before this one"):
        rollback(ledger, project)


def crash(*arguments) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", ["replace_durably", "rendered"])
@pytest.mark.parametrize("lost", [False, True])
def test_a_crash_between_the_row_and_the_file_is_repaired(ledger, project, monkeypatch, step, lost):
    current_baseline(ledger, project)
    with monkeypatch.context() as patch:
        patch.setattr(baseline if step == "replace_durably" else Ledger, step, crash)
        with pytest.raises(KeyboardInterrupt):
            promoted(ledger, project)
    if lost:
        (project / "experiments" / "baseline.yaml").unlink()
    generation, experiment = current_baseline(ledger, project)
    assert (generation.number, generation.kind) == (1, "promoted")
    assert experiment.model_args.norm.type == "layernorm"
    assert len(ancestry(text(project))) == 2
    write(project, BASELINE)  # by hand, back to what generation 0 was: from now on an edit like any other
    assert current_baseline(ledger, project)[0].kind == "manual"


def test_an_edit_right_after_a_crash_is_not_overwritten(ledger, project, monkeypatch):
    current_baseline(ledger, project)
    with monkeypatch.context() as patch:
        patch.setattr(baseline, "replace_durably", crash)
        with pytest.raises(KeyboardInterrupt):
            promoted(ledger, project)
    edited = BASELINE.replace("1e-3", "2e-3")
    write(project, edited)
    assert current_baseline(ledger, project)[0].number == 2
    assert text(project) == edited


def test_an_edit_in_the_middle_of_a_promotion_is_not_overwritten(ledger, project, monkeypatch):
    current_baseline(ledger, project)
    edited, row = BASELINE.replace("1e-3", "2e-3"), Ledger.promote

    def while_somebody_edits(*arguments):
        write(project, edited)
        return row(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "promote", while_somebody_edits)
        assert promoted(ledger, project)[0].number == 1
    assert text(project) == edited
    generation, _ = current_baseline(ledger, project)
    assert (generation.number, generation.kind) == (2, "manual")


def test_a_disk_that_refuses_the_file_leaves_the_promotion_to_the_next_command(ledger, project, monkeypatch):
    def full(path, data) -> None:
        raise OSError(28, "No space left on device", str(path))

    current_baseline(ledger, project)
    with monkeypatch.context() as patch:
        patch.setattr(baseline, "replace_durably", full)
        with pytest.raises(EnvironmentFailure, match="No space left"):
            promoted(ledger, project)
    assert current_baseline(ledger, project)[0].kind == "promoted"


def test_the_same_decision_promotes_once(ledger, project):
    generation, candidate = promoted(ledger, project)
    rollback(ledger, project)
    again = promote(ledger, project, decided(0, candidate.identity), candidate)
    assert again.number == generation.number
    assert ledger.baseline().kind == "rollback"


def promote_in_child(project: Path, number: int, rounds: int, won) -> None:
    done = 0
    with Ledger.open(project) as ledger:
        for turn in range(rounds):
            with suppress(StaleBaseline):
                generation, experiment = current_baseline(ledger, project)
                candidate = mutate(experiment, "lr", f"{number + 1}e-{turn + 3}").experiment
                decision = decided(generation.number, candidate.identity)
                promote(ledger, project, replace(decision, id=f"{number} {turn}"), candidate)
                done += 1
    won.put(done)
    won.close()
    won.join_thread()
    os._exit(0)


def test_racing_processes_leave_the_file_of_the_newest_generation(ledger, project):
    current_baseline(ledger, project)
    processes = multiprocessing.get_context("fork")
    won = processes.Queue()
    children = [processes.Process(target=promote_in_child, args=(project, n, 5, won)) for n in range(4)]
    for child in children:
        child.start()
    wins = sum(won.get(timeout=120) for _ in children)
    for child in children:
        child.join()
    assert len(ledger.generations()) == 1 + wins
    assert hash_of(text(project).encode()) == ledger.baseline().file_hash
    assert ancestry(text(project)) == as_lines(ledger)
    assert len(ledger.generations()) == len(as_lines(ledger))
    assert current_baseline(ledger, project)[0] == ledger.baseline()
