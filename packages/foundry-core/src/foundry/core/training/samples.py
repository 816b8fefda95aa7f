"""samples.jsonl: what the model wrote while it learned."""

from __future__ import annotations

import json

from foundry.core.run import Run, read_json_lines
from foundry.core.system import replace_durably, writing


def append_sample(run: Run, step: int, prompt: str, text: str) -> None:
    with writing(run.samples_file), open(run.samples_file, "a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "prompt": prompt, "text": text}) + "\n")


def drop_samples_after(run: Run, step: int) -> None:
    """Forget the samples of steps that a resume will train again."""
    if run.samples_file.exists():
        rows = (row for row in read_json_lines(run.samples_file) if isinstance(row.get("step"), int))
        kept = [json.dumps(row) + "\n" for row in rows if row["step"] <= step]
        with writing(run.samples_file):
            replace_durably(run.samples_file, "".join(kept).encode())
