"""experiments/baseline.yaml and the generations of the ledger: which is the current champion, and how it changes.
Who is promoted is decided in `foundry.lab.decide`.

    current_baseline    what the file says; one that was edited or cloned becomes a generation, never overwritten
    promote, rollback   the ledger's row first, if the baseline is still the one that was decided against; then the file

The row is the truth. A crash between the row and the file is repaired by the next command that looks. The file begins
with its lineage, so that a clone of the project, which has no ledger, knows where its baseline comes from.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from foundry.core.config.assemble import assemble
from foundry.core.config.difference import difference
from foundry.core.config.load import from_plain, load_experiment
from foundry.core.config.write_yaml import to_yaml
from foundry.core.config.yaml import MAX_BYTES, read_text
from foundry.core.contracts import FoundryError, InvalidExperiment, UsageError
from foundry.core.project import BASELINE
from foundry.core.registry import registry
from foundry.core.system import locked, read_regular, replace_durably, writing
from foundry.lab.ledger import Decision, Generation, Ledger
from foundry.lab.ledger.ledger import FOLDER
from foundry.lab.ledger.lineage import ancestry, as_lines, hash_of, rendered, split

if TYPE_CHECKING:
    from foundry.core.config import Experiment

IMPORTED = f"imported from {BASELINE}"


def current_baseline(ledger: Ledger, project: Path) -> tuple[Generation, Experiment]:
    """The baseline that holds now. A file that is not the newest generation's becomes one, of kind `manual`.

    Raises:
        InvalidExperiment: there is no experiments/baseline.yaml, or it cannot be trained.
    """
    with _alone(project):
        return _current(ledger, project)


def promote(
    ledger: Ledger,
    project: Path,
    decision: Decision,
    experiment: Experiment,
    *,
    loss: float | None = None,
    given_up: float = 0.0,
) -> Generation:
    """Make the candidate of a decision the baseline. To do so again changes nothing.

    Args:
        decision: that `experiment` is better than the baseline of generation `decision.generation`.
        loss: the confirmed mean of the metric.
        given_up: what non-inferior promotions since the best confirmed loss may have cost.

    Raises:
        StaleBaseline: another promotion, or an edit of the file, came first.
    """
    with _alone(project):
        _current(ledger, project)  # an edit by hand becomes a generation first
        ledger.decide(decision)
        new = Generation(
            *(0, experiment.identity, experiment.plain(), "promoted", decision.arm, None, decision.id, "", 0.0),
            text=to_yaml(experiment),
            loss=loss,
            given_up=given_up,
        )
        return _replace(ledger, project, decision.generation, new)


def rollback(ledger: Ledger, project: Path, to: int | None = None) -> Generation:
    """Make an earlier generation the baseline again, as a new generation.

    Args:
        to: its number; by default the one before the current one, so that a second rollback undoes the first.

    Raises:
        UsageError: there is no such generation, or it is the current one.
        StaleBaseline: a promotion came first.
    """
    with _alone(project):
        current, _ = _current(ledger, project)
        generations = {each.number: each for each in ledger.generations()}
        number = current.previous if to is None else to
        if number is None:
            raise UsageError("there is no generation before this one", "`foundry lineage` shows what there is")
        if number not in generations:
            raise UsageError(f"there is no generation {number}", f"there are {', '.join(map(str, generations))}")
        target = generations[number]
        if number == current.number:
            raise UsageError(f"generation {number} is the baseline already")
        said = f"back to generation {number}"
        new = replace(target, number=0, kind="rollback", summary=said, decision=None, ancestry=(), restores=number)
        return _replace(ledger, project, current.number, new)


# --------------------------------------------------------------------------------------------------------------------


def _current(ledger: Ledger, project: Path) -> tuple[Generation, Experiment]:
    file = project / BASELINE
    newest = ledger.baseline()
    if newest is not None and not newest.rendered:
        newest = _repair(ledger, project, newest)
    if not file.exists() and newest is None:
        raise InvalidExperiment(f"there is no {BASELINE} in {project}", "`foundry init` writes one")
    if newest is not None and not file.exists():
        _write(ledger, project, newest)
    content = read_regular(file, MAX_BYTES)
    try:
        experiment = load_experiment(file)
    except InvalidExperiment as failure:
        if newest is None:
            raise
        again = f"mend it; or delete it, and the next sweep or rollback writes generation {newest.number} again"
        raise InvalidExperiment(failure.message, "; ".join(filter(None, [failure.hint, again]))) from failure
    if newest is None or newest.identity != experiment.identity or not _is_of(ledger, newest, content):
        newest = _import(ledger, content.decode(), experiment, newest)
    return newest, experiment


def _repair(ledger: Ledger, project: Path, newest: Generation) -> Generation:
    """Write the file of a generation whose row is there, unless somebody has edited the file meanwhile: an edit is left
    to the next command that looks."""
    file = project / BASELINE
    before = {each.number: each.file_hash for each in ledger.generations()}
    there = hash_of(read_regular(file, MAX_BYTES)) if file.exists() else None
    if there is None or (newest.previous is not None and there == before[newest.previous]):
        _write(ledger, project, newest)
    else:
        ledger.rendered(newest.number)
    return replace(newest, rendered=True)


def _import(ledger: Ledger, text: str, experiment: Experiment, newest: Generation | None) -> Generation:
    told = ancestry(text)
    known = as_lines(ledger)
    stands_alone = "extends" not in read_text(text, str(BASELINE)).data
    summary = IMPORTED if newest is None else f"edited: {_difference(newest, experiment)}"
    new = Generation(
        *(_next_number(told), experiment.identity, experiment.plain(), "manual", summary, None, None),
        *(hash_of(text.encode()), time.time()),
        text=split(text)[1] if stands_alone else to_yaml(experiment),
        ancestry=() if not told or told == known else tuple(told),
        rendered=True,
    )
    return ledger.promote(newest.number if newest else None, new)


def _difference(before: Generation, now: Experiment) -> str:
    try:
        old = from_plain(before.experiment, project=now.project, registry=now.registry)
    except FoundryError:  # it needs a plugin that is not here any more
        return "the experiment before needs what is not installed any more"
    said = [str(change) for change in difference(old, now)]
    more = [f"{len(said) - 3} more"] if len(said) > 3 else []
    return ", ".join([*said[:3], *more]) or "its wording"


def _next_number(lines: Sequence[str]) -> int:
    return max((int(line.split()[0]) + 1 for line in lines), default=0)


def _replace(ledger: Ledger, project: Path, expected: int, new: Generation) -> Generation:
    """The row, then the file."""
    again = _read(new.text, project)
    if again.identity != new.identity:
        raise InvalidExperiment(f"{new.summary}: written as YAML it would be another experiment", "this is a bug")
    older = ledger.generations()
    new = replace(new, number=older[-1].number + 1, created=time.time(), rendered=False)
    lines = as_lines(ledger, [*older, new])
    made = ledger.promote(expected, replace(new, file_hash=hash_of(rendered(lines, new.text).encode())))
    if made.rendered:
        return made
    return _repair(ledger, project, made)


def _write(ledger: Ledger, project: Path, generation: Generation) -> None:
    file = project / BASELINE
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_durably(file, _content(ledger, generation))
    ledger.rendered(generation.number)


def _content(ledger: Ledger, generation: Generation) -> bytes:
    until = [each for each in ledger.generations() if each.number <= generation.number]
    return rendered(as_lines(ledger, until), generation.text).encode()


def _is_of(ledger: Ledger, generation: Generation, content: bytes) -> bool:
    """Whether the file is as its author left it, or as it was written again after somebody had deleted it."""
    return hash_of(content) == generation.file_hash or content == _content(ledger, generation)


def _read(text: str, project: Path) -> Experiment:
    return assemble([read_text(text, str(BASELINE))], registry(project), project, name=BASELINE.stem)


@contextmanager
def _alone(project: Path) -> Iterator[None]:
    """One process at a time changes the file, so that an older generation is never written over a newer one."""
    with writing(project / FOLDER):
        (project / FOLDER).mkdir(exist_ok=True)
    with locked(project / FOLDER / "baseline.lock"):
        yield
