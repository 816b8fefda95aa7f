"""One page that shows a project's ledger: `render(read(project))`."""

from foundry.lab.report.data import read
from foundry.lab.report.page import render

__all__ = ["read", "render"]
