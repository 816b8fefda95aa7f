"""`slot=attention verdict=reject n>3` -> what the ledger has of it: decisions, trials, refusals, generations.

A query is terms, all of which must hold. A term is KEY OP VALUE: `=` and `!=` (several values: `slot=attention,norm`),
`~` (contains), `<`, `<=`, `>`, `>=` (numbers). A row that lacks the key of a term is not found: `verdict=reject` finds
decisions only, `status=failed` trials only.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple, TypeAlias, get_args

from foundry.core.contracts import UsageError
from foundry.lab.ledger.ledger import Ledger
from foundry.lab.ledger.records import Decision, Generation, Json, Refusal, Role, TrialStatus, Verdict

Row: TypeAlias = dict[str, Any]

KEYS = {
    "what": "decision, trial, refusal or generation",
    "id": "of the row; of a generation, its number",
    "arm": "what was tried: `activation relu2`",
    "slot": "the mutation types of the arm: `activation`",
    "verdict": "promote, reject or inconclusive",
    "status": "queued, running, finished, failed or cancelled",
    "kind": "of a generation: manual, promoted or rollback",
    "metric": "the name of what decided",
    "effect": "baseline - candidate, > 0 = better",
    "low": "of the effect's interval",
    "high": "of the effect's interval",
    "confidence": "of the effect's interval",
    "n": "pairs of runs",
    "llr": "what speaks against no gain, in nats: the log of what betting on a gain has won",
    "sigma": "over seeds",
    "generation": "of the baseline that it was compared with",
    "role": "noise, screen, confirm, guard or audit",
    "share": "of the budget",
    "seed": "of a trial",
    "attempts": "of a trial",
    "sweep": "its id",
    "identity": "of the experiment",
    "reason": "why it was decided so, or failed",
    "created": "seconds since the epoch",
    "run": "the run folder of a trial",
}
"""Beside these, every metric of a trial's result is a key: `val_loss<1.9`."""
VALUES = {
    "what": ("decision", "trial", "refusal", "generation"),
    "verdict": get_args(Verdict),
    "status": get_args(TrialStatus),
    "kind": ("manual", "promoted", "rollback"),
    "role": get_args(Role),
}
"""All that some keys may be."""

_TERM = re.compile(r"([\w.-]+)(!=|<=|>=|=|~|<|>)(.*)", re.DOTALL)
_ORDER: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Term:
    """One condition."""

    key: str
    test: str
    value: str

    def holds(self, row: Row) -> bool:
        """Whether a row has the key, with such a value."""
        if row.get(self.key) is None:
            return False
        if self.test in _ORDER:
            return isinstance(row[self.key], int | float) and _ORDER[self.test](row[self.key], float(self.value))
        values = [_text(value) for value in _each(row[self.key])]
        if self.test == "~":
            return any(self.value.lower() in value.lower() for value in values)
        return self._wanted.isdisjoint(values) == (self.test == "!=")

    @cached_property
    def _wanted(self) -> set[str]:
        parts = self.value.split(",")
        return {*parts, *(_text(_number(part)) for part in parts)}  # an id may look like a number


def parse(words: Sequence[str]) -> list[Term]:
    """The terms of a command line, whether it came as one word or as many. A word without an operator belongs to the
    value before it: `arm=activation relu2`.

    Raises:
        UsageError: it begins with no term, asks for what nothing can be, or compares sizes with what is not a number.
    """
    terms: list[Term] = []
    for word in " ".join(words).split():
        match = _TERM.fullmatch(word)
        if match:
            terms.append(Term(*match.groups()))
        elif terms:
            terms[-1] = Term(terms[-1].key, terms[-1].test, f"{terms[-1].value} {word}".strip())
        else:
            raise UsageError(f"{word!r} is not a term", "write KEY=VALUE: slot=attention verdict=reject 'n>3' arm~mla")
    for term in terms:
        for value in term.value.split(",") if term.test in ("=", "!=") and term.key in VALUES else ():
            if value not in VALUES[term.key]:
                near = get_close_matches(value, VALUES[term.key], n=1)
                hint = f"did you mean {term.key}={near[0]}?" if near else f"it is {', '.join(VALUES[term.key])}"
                raise UsageError(f"nothing has {term.key}={value}", hint)
        if term.test in _ORDER and not isinstance(_number(term.value), int | float):
            raise UsageError(f"{term.key}{term.test}{term.value}: {term.value!r} is not a number")
    return terms


class Found(NamedTuple):
    """What holds for all terms of a query."""

    rows: list[Row]  # oldest first
    metrics: list[str]  # the keys of these rows that are metrics of trials


def query(ledger: Ledger, words: Sequence[str]) -> Found:
    """What holds for all terms; everything without any.

    Raises:
        UsageError: a term cannot be read, or nothing has such a key.
    """
    terms = parse(words)
    rows = sorted(_rows(ledger, terms), key=operator.itemgetter("created"))
    for term in terms:
        if term.key not in KEYS and term.key not in (known := {*KEYS, *(key for row in rows for key in row)}):
            near = get_close_matches(term.key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
            raise UsageError(f"nothing in the ledger has a {term.key!r}", hint)
    rows = [row for row in rows if all(term.holds(row) for term in terms)]
    return Found(rows, [key for key in dict.fromkeys(chain.from_iterable(rows)) if key not in KEYS])


ELSEWHERE = {
    "trial": {"verdict", "kind", "metric", "effect", "low", "high", "confidence", "n", "llr", "sigma", "generation"},
    "decision": {"status", "role", "share", "seed", "attempts", "run", "kind"},
}
"""Keys that no row of a kind has: where a term asks for one, that kind need not be read."""


def _rows(ledger: Ledger, terms: Sequence[Term]) -> Iterator[Row]:
    """Whatever may hold for all terms, and perhaps more. Of a key that is not among KEYS, who has it is not known
    before all are read."""
    asked = {term.key for term in terms}
    exact = asked <= set(KEYS)
    wanted = [set(term.value.split(",")) for term in terms if (term.key, term.test) == ("what", "=")]

    def may_hold(what: str) -> bool:
        return not exact or (asked.isdisjoint(ELSEWHERE.get(what, ())) and all(what in values for values in wanted))

    if may_hold("decision") or may_hold("generation"):
        decisions = {decision.id: decision for decision in ledger.decisions()}
        yield from map(_decision, decisions.values())
        for each in ledger.generations():
            yield _generation(each, decisions.get(each.decision or ""))
    yield from map(_refusal, ledger.refusals())
    if may_hold("trial"):
        yield from map(_trial, ledger.tried())


def _trial(trial: Json) -> Row:
    row = {"what": "trial", **trial["metrics"], **trial, "slot": slots(trial["arm"])}
    del row["metrics"]
    return row


def _decision(decision: Decision) -> Row:
    row = {"what": "decision", **vars(decision), "slot": slots(decision.arm), "identity": decision.candidate}
    del row["candidate"], row["rule"]
    return row


def _refusal(refusal: Refusal) -> Row:
    return {"what": "refusal", **vars(refusal), "slot": slots(refusal.arm)}


def _generation(generation: Generation, decision: Decision | None) -> Row:
    row: Row = {"what": "generation", "id": str(generation.number), "generation": generation.number}
    row |= {"kind": generation.kind, "arm": generation.summary, "slot": slots(decision.arm) if decision else []}
    row |= {"identity": generation.identity, "created": generation.created}
    shown = ("metric", "effect", "low", "high", "confidence", "n", "sweep")
    return row | {key: getattr(decision, key) for key in shown if decision is not None}


def slots(arm: str) -> list[str]:
    """The mutation types of an arm: `attention mla + norm layernorm` -> attention, norm."""
    return [part.split(maxsplit=1)[0] for part in arm.split(" + ") if " " in part]


def _each(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _number(text: str) -> float | int | str:
    """What a value of a term means: `3` is found as 3.0, too."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def _text(value: Any) -> str:
    """One spelling for equal values."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
