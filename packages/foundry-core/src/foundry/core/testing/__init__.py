"""The conformance kit: what every variant must do, slot by slot, as pytest tests that a plugin author inherits.

    from foundry.core.testing import Conformance

    class TestMine(Conformance):                    # every variant and shorthand of a distribution, or ...
        dist = "foundry-plugin-mine"

    class TestWide(Conformance):                    # ... one variant with other than its default settings
        slot, variant, params = "attention", "mine", {"window": 8}

Each check of each variant is a test of its own, `TestMine::test_conforms[attention-mine-causality]`. An option of a
variant deserves a class of its own, with `params` that turn it on.

A check runs on a CPU with a small model's sizes, `dims`; set it where a variant needs others.

A test of your own that compares numbers asks by `assert_rounded(y, expected, *sums_of(module))` whether anything but
rounding is between them, which differs from processor to processor.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import pytest

if "pytest" in sys.modules:  # `foundry plugins check` does without
    sys.modules["pytest"].register_assert_rewrite("foundry.core.testing.checks")

from foundry.core.contracts import Dims
from foundry.core.registry import registry
from foundry.core.testing.case import DIMS, Case
from foundry.core.testing.checks import checks_of
from foundry.core.testing.rounding import assert_gradients_rounded, assert_rounded, sums_of

__all__ = ["DIMS", "Case", "Conformance", "assert_gradients_rounded", "assert_rounded", "sums_of"]


class Conformance:
    """Subclass it as `Test...` and set `dist`, or `slot` and `variant`."""

    dist: ClassVar[str] = ""
    slot: ClassVar[str] = ""
    variant: ClassVar[str] = ""
    params: ClassVar[Mapping[str, Any]] = {}
    dims: ClassVar[Dims] = DIMS

    def test_conforms(self, check: Callable[[], None]) -> None:
        check()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        import pytest

        metafunc.parametrize(
            "check",
            [
                pytest.param(lambda check=check, case=case: check(case), id=f"{case.slot}-{case.name}-{name}")
                for case in self.cases()
                for name, check in checks_of(case)
            ],
        )

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """What is tested: by default, each variant and shorthand of `dist`, or the one variant that is named."""
        if cls.slot:
            yield Case.of(cls.slot, cls.variant, cls.params, cls.dims)
            return
        known = registry()
        for slot in known.slots:
            for name in (*known.variants(slot), *known.shorthands(slot)):
                if known.owner(slot, name) == cls.dist:
                    yield Case.of(slot, name, {}, cls.dims)
