"""samples.jsonl: what the model wrote while it learned."""

from __future__ import annotations

import json

from foundry.core.contracts import EnvironmentFailure
from foundry.core.durable import replace_durably
from foundry.core.run import Run, read_json_lines


def append_sample(run: Run, step: int, prompt: str, text: str) -> None:
    try:
        with open(run.samples_file, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "prompt": prompt, "text": text}) + "\n")
    except OSError as error:
        message = f"cannot write {run.samples_file}: {error.strerror}"
        raise EnvironmentFailure(message, "free some space, then run again") from error


def drop_samples_after(run: Run, step: int) -> None:
    """Forget the samples of steps that a resume will train again."""
    if run.samples_file.exists():
        kept = [row for row in read_json_lines(run.samples_file) if row["step"] <= step]
        replace_durably(run.samples_file, "".join(json.dumps(row) + "\n" for row in kept).encode())
