"""`--profile`: a trace of a few steps, to be opened in Perfetto (ui.perfetto.dev) or chrome://tracing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

# Steps left to settle (allocator, compilation) before the traced ones.
SKIPPED, TRACED = 5, 5


class Profile:
    """Does nothing unless given a folder; then traces a few steps and writes FOLDER/trace.json and a table."""

    def __init__(self, folder: Path | None, note: Callable[[str], None] = lambda text: None) -> None:
        self.folder, self.note = folder, note
        self.first: int | None = None
        self.profiler: torch.profiler.profile | None = None

    def step(self, step: int) -> None:
        """To be called between steps."""
        if self.folder is None:
            return
        if self.first is None:
            self.first = step + SKIPPED
        if step == self.first:
            self.profiler = torch.profiler.profile(record_shapes=False, with_stack=False)
            self.profiler.start()
        elif step == self.first + TRACED:
            self.close()

    def close(self) -> None:
        """Write what was traced so far; to be called when the run ends, however it ends."""
        if self.profiler is None or self.folder is None:
            return
        profiler, self.profiler = self.profiler, None
        profiler.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.folder / "trace.json"))
        table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25)
        (self.folder / "operators.txt").write_text(table)
        self.note(
            f"profile: {self.folder / 'trace.json'} (open it in ui.perfetto.dev), {self.folder / 'operators.txt'}"
        )
