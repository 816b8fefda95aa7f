"""The kit without pytest: what `foundry plugins check` runs, and tells in a line each."""

from __future__ import annotations

import inspect
import linecache
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout

from pydantic import ValidationError

from foundry.core.blame import FAULTS, blamed, described, place_of, said
from foundry.core.contracts import Shorthand, Variant
from foundry.core.registry import Plugin, Registry
from foundry.core.registry.check import Check
from foundry.core.registry.table import label
from foundry.core.testing.case import Case
from foundry.core.testing.checks import BASIC, checks_of, modules_of
from foundry.core.testing.checks import Check as Checking


def conform(plugin: Plugin, registry: Registry) -> Iterator[Check]:
    """Put every variant and shorthand of a plugin, with its default settings, to the checks of its slot. What they
    print goes to stderr.

    Args:
        registry: holds the plugin.
    """
    for contribution in plugin.contributions:
        if not isinstance(contribution, Variant | Shorthand) or contribution.slot not in registry.slots:
            continue
        what = label(contribution)
        if isinstance(contribution, Variant) and contribution.requires:
            needed = ", ".join(contribution.requires)
            yield Check("conforms", contribution=what, note=f"not tried: its own tests must, where there is {needed}")
            continue
        try:
            case = Case.of(contribution.slot, contribution.name, known=registry)
        except ValidationError as error:
            missing = [".".join(map(str, each["loc"])) for each in error.errors() if each["type"] == "missing"]
            if not missing:
                yield Check("its settings are valid", said(error), what)
            else:
                yield Check("conforms", contribution=what, note=f"not tried: {_by_its_own_tests(', '.join(missing))}")
            continue
        except FAULTS as error:
            yield Check("its settings are valid", described(error), what)
            continue
        yield from _tried(case, what)


def _by_its_own_tests(missing: str) -> str:
    return f"{missing} has no default; give it one in a test, as `params` of a foundry.core.testing.Conformance"


def _tried(case: Case, what: str) -> Iterator[Check]:
    for name, check in checks_of(case):
        fault, place = _fault(check, case)
        yield Check(name, fault, what, place)
        if fault and name in BASIC:
            return
    if not modules_of(case):
        yield Check("conforms", contribution=what, note="not tried: there are no conformance tests for this slot")


def _fault(check: Checking, case: Case) -> tuple[str, str]:
    """What is wrong and where, or twice nothing."""
    try:
        with redirect_stdout(sys.stderr):
            check(case)
    except AssertionError as error:
        promise = " ".join((inspect.getdoc(check) or "").split())
        return f"{_told(error)} ({promise.rstrip('.')})", str(place_of(case.target) or "")
    except FAULTS as error:
        place, _ = blamed(error)
        if place is None or not place.distribution:
            place = place_of(case.variant.params)
        return said(error), str(place or "")
    return "", ""


def _told(error: AssertionError) -> str:
    """The error's own words on one line, or the condition that does not hold."""
    if words := " ".join(str(error).split()):
        return words
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    line = trace and linecache.getline(trace.tb_frame.f_code.co_filename, trace.tb_lineno)
    return f"not {(line or 'as promised').strip().removeprefix('assert ')}"
