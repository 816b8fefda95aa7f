"""Options and arguments that several commands share."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document; errors are JSON on stderr.")]
"""Only declared by a command, never read: `render` knows."""

Config = Annotated[
    Path | None,
    typer.Argument(metavar="CONFIG", help="An experiment file.", show_default="experiments/baseline.yaml"),
]

Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value: training.learning_rate=3e-4. Repeatable."),
]


def train_command(config: Path | None, sets: Sequence[str] | None, out: Path | None = None) -> str:
    """The command line that trains what was looked at."""
    words = ["foundry", "train", *([str(config)] if config else [])]
    words += [word for assignment in sets or () for word in ("--set", assignment)]
    return shlex.join([*words, *(["--out", str(out)] if out else [])])
