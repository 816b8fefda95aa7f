"""Texts that are held against a file as a whole: every word of a page, every number, and the order of both.

`FOUNDRY_WRITE_GOLDEN=1 uv run pytest FILE` writes the files anew, and git shows what is different in them."""

import os
from pathlib import Path


def assert_golden(file: Path, told: str) -> None:
    """What is told stands in the file, word by word; blanks at the end of a line are nothing."""
    told = "".join(f"{line.rstrip(' ')}\n" for line in told.splitlines())
    if os.environ.get("FOUNDRY_WRITE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(told, encoding="utf-8")
    assert told == file.read_text(encoding="utf-8")
