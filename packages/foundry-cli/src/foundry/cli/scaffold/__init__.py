"""What `foundry plugins new` and `foundry init` write: files with $placeholders, filled in here."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from foundry.core.contracts import FOUNDRY_API, UsageError

PREFIX = "foundry-plugin-"

PLUGIN_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "plugin.py": "src/$module/__init__.py",
    "variant.py": "src/$module/$variant.py",
    "test_variant.py": "tests/test_$variant.py",
}
"""Template -> where it goes. The templates end in `.template`, so that no tool takes them for code."""


@dataclass(frozen=True)
class Made:
    """What was written."""

    folder: Path
    distribution: str
    variant: str
    files: list[Path]


def write_plugin(name: str, folder: Path) -> Made:
    """Write the project foundry-plugin-NAME into `folder`.

    Raises:
        UsageError: NAME is no name, or the project's folder already exists.
    """
    variant = name.removeprefix(PREFIX).replace("-", "_").lower()
    if not re.fullmatch(r"[a-z][a-z0-9_]*", variant):
        raise UsageError(f"{name!r} is not a name for a variant", "use letters, digits and -, beginning with a letter")
    distribution = PREFIX + variant.replace("_", "-")
    target = folder / distribution
    if target.exists():
        raise UsageError(f"{target} already exists", "choose another name, or remove it")
    words = {
        "name": name,
        "variant": variant,
        "distribution": distribution,
        "module": distribution.replace("-", "_"),
        "class_name": "".join(word.capitalize() for word in variant.split("_")),
        "api": str(FOUNDRY_API),
    }
    made = []
    for template, place in PLUGIN_FILES.items():
        path = target / Template(place).substitute(words)
        path.parent.mkdir(parents=True, exist_ok=True)
        source = files("foundry.cli.scaffold").joinpath("plugin", f"{template}.template").read_text(encoding="utf-8")
        path.write_text(Template(source).substitute(words), encoding="utf-8")
        made.append(path)
    return Made(target, distribution, variant, made)


def baseline(text: str = "") -> str:
    """The text of the first experiment: what `foundry init` writes.

    Args:
        text: path of what it trains on, as its file says it; "" = Python's own sources.
    """
    experiment = files("foundry.cli.scaffold").joinpath("baseline.yaml").read_text(encoding="utf-8")
    if not text:
        return experiment
    own = f"dataset: {json.dumps(text, ensure_ascii=False)}" if re.search(r"[^\w./~*-]", text) else f"dataset: {text}"
    experiment, _, _ = experiment.partition("\nlogging:")  # its samples begin as Python does
    return experiment.replace("dataset: stdlib", own)
