"""Writes an experiment as YAML that one would have written by hand: sections as blocks, choices on one line, 1e-3."""

from __future__ import annotations

import json
import os
import re
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry.core.config.yaml import read_file, read_text, scalar
from foundry.core.contracts import EnvironmentFailure, InvalidExperiment

if TYPE_CHECKING:
    from foundry.core.config.experiment import Experiment
    from foundry.core.config.mutate import Mutated

_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./+ -]*(?<! )")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]")


def write_experiment(mutated: Mutated, directory: Path) -> Path:
    """Write DIRECTORY/NAME.yaml; a file with the same content stays as it is.

    Raises:
        InvalidExperiment: there is a file of that name with other content.
        EnvironmentFailure: the folder cannot be written.
    """
    path = directory / f"{mutated.name}.yaml"
    if path.exists():
        there, ours = read_file(path).data, read_text(mutated.text, str(path)).data
        if there != ours:
            raise InvalidExperiment(
                f"{path}: already exists, with other content", "rename or remove it, then try again"
            )
        return path
    try:
        directory.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f".{path.name}.partial")
        staged.write_text(mutated.text, encoding="utf-8")
        os.replace(staged, path)
    except OSError as error:
        raise EnvironmentFailure(f"{path}: cannot be written: {error.strerror}") from error
    return path


def to_yaml(experiment: Experiment) -> str:
    """What was written of an experiment, without its defaults, as a file that stands alone."""
    blocks = []
    explicit = experiment.explicit
    slots = {(slot.section, slot.key) for slot in experiment.registry.placed_slots}
    for section, content in explicit.items():
        if not isinstance(content, dict) or not content:
            blocks.append(f"{_text(section)}: {flow(content)}\n")
            continue
        lines = [f"{_text(section)}:\n"]
        for key, value in content.items():
            is_bare = (section, key) in slots and isinstance(value, dict) and value.keys() == {"type"}
            lines.append(f"  {_text(key)}: {flow(value['type'] if is_bare else value)}\n")
        blocks.append("".join(lines))
    text = "\n".join(blocks) if blocks else "{}\n"
    return re.sub(r"(?m)^(\w+: .*)\n\n(?=\w+: )", r"\1\n", text)  # no blank line between top-level scalars


def number(value: int | float) -> str:
    """The shortest spelling that reads back the same: 1e-3, 2.5e-4, 0.02, 600."""
    if isinstance(value, int) or value != value or value in (float("inf"), float("-inf")):
        return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(str(value), str(value))
    if value == 0 or 0.01 <= abs(value) < 1e16:
        return repr(value)
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    mantissa = str(digits[0]) + ("." + "".join(map(str, digits[1:])) if len(digits) > 1 else "")
    return f"{'-' * sign}{mantissa}e{int(exponent) + len(digits) - 1}"


def flow(value: Any) -> str:
    """Any plain data on one line."""
    match value:
        case None | bool():
            return json.dumps(value)
        case int() | float():
            return number(value)
        case str():
            return _text(value)
        case list():
            return f"[{', '.join(map(flow, value))}]"
        case _:
            return f"{{{', '.join(f'{_text(key)}: {flow(item)}' for key, item in value.items())}}}"


def comment(text: str) -> str:
    """Any text as a comment has it: on one line, without what is no text."""
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", " ".join(text.split()))


def _text(value: str) -> str:
    """Unquoted where that reads back as the same text."""
    if _PLAIN.fullmatch(value) and isinstance(scalar(value), str):
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", quoted)
