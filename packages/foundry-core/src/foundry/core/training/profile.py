"""`--profile`: a trace of a few steps, to be opened in Perfetto (ui.perfetto.dev) or chrome://tracing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from foundry.core.system import writing

# Steps left to settle (allocator, compilation) before the traced ones.
SKIPPED, TRACED = 5, 5


class Profile:
    """Does nothing unless given a folder; then traces a few steps and writes FOLDER/trace.json and a table."""

    def __init__(self, folder: Path | None, note: Callable[[str], None] = lambda text: None) -> None:
        self.folder, self.note = folder, note
        self.first: int | None = None
        self.profiler: torch.profiler.profile | None = None
        self.closed = False

    def step(self, step: int) -> None:
        """To be called between steps."""
        if self.folder is None:
            return
        if self.first is None:
            self.first = step + SKIPPED
        if step == self.first:
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its start and stop are no news on stderr
            self.profiler = torch.profiler.profile(record_shapes=False, with_stack=False)
            self.profiler.start()
        elif step == self.first + TRACED:
            self.close()

    def close(self) -> None:
        """Write what was traced so far; to be called when the run ends, however it ends."""
        if self.folder is None or self.closed:
            return
        self.closed = True
        if self.profiler is None:
            self.note(f"no profile: the run ended before {SKIPPED} steps were done")
            return
        self.profiler.stop()
        trace, table = self.folder / "trace.json", self.folder / "operators.txt"
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.profiler.export_chrome_trace(str(trace))
            table.write_text(self.profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))
        self.note(f"profile: {trace} (open it in ui.perfetto.dev), {table}")
