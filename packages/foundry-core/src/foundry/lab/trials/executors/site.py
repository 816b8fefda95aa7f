"""What Foundry's own executors are built with: they look after their workers' claims, too."""

from __future__ import annotations

from dataclasses import dataclass, field

from foundry.core.contracts import Site
from foundry.core.system.parents import PYTHON
from foundry.lab.ledger.ledger import Ledger

WORKER = (*PYTHON, "-m", "foundry.lab.trials.worker")


@dataclass(frozen=True)
class LedgerSite(Site):
    """A site with its ledger."""

    ledger: Ledger = field(kw_only=True)
