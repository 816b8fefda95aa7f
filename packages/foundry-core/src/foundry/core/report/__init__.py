"""One page that shows a project's ledger: `render(read(project))`."""

from foundry.core.report.data import read
from foundry.core.report.page import render

__all__ = ["read", "render"]
