"""One page that shows a project's ledger: `Report.of(project).html()`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from foundry.lab.report.contents import Contents
from foundry.lab.report.data import read
from foundry.lab.report.page import render


@dataclass(frozen=True)
class Report:
    """What there is to tell of everything that was tried."""

    contents: Contents = field(repr=False)  # plain values

    @classmethod
    def of(cls, project: Path) -> Report:
        """What the ledger of a project holds. A project without one is not given one: its contents are empty.

        Raises:
            InvalidData: the ledger is damaged, or of another version.
        """
        return cls(read(project))

    @property
    def is_empty(self) -> bool:
        """Whether nothing was tried yet, and no baseline is known."""
        return not (self.contents["trials"] or self.contents["generations"])

    def html(self) -> str:
        """The page."""
        return render(self.contents)
