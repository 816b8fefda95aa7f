"""What figures mean by which models are ranked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A figure that models are ranked by, or described with. A task's metrics are told as NAME.METRIC, of the name that
    the experiment has for the task: `gsm8k.accuracy`."""

    name: str
    unit: str = ""  # as it stands behind a number: "nats", "bits per byte"; empty for a share or a count
    higher_is_better: bool = False
    per_token: bool = False  # of one token, and so not to be compared between two tokenizers
    summary: str = ""
