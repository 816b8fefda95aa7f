"""Every kind of bad experiment is answered with file:line:column, in words, all faults at once, and never a traceback.

bad_experiments/ holds one file per kind. Its last comments say what is expected:

    # --set key=value         a flag that the file is loaded with
    # expect 2:3: KEY: WORDS  how one line of the message begins, after the file's name if it is this file's
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundry.core.config import from_plain, load_experiment
from foundry.core.config.explain import _path
from foundry.core.config.yaml import MAX_BYTES
from foundry.core.contracts import ExitCode, FoundryError, InvalidExperiment, UsageError

BAD = Path(__file__).parent / "bad_experiments"
FILES = sorted(BAD.glob("*.yaml"))
THROUGH_THE_CLI = [
    "alias_bomb",
    "deep_nesting",
    "duplicate_key",
    "everything_at_once",
    "extends_in_a_circle",
    "kv_heads_do_not_divide",
    "layers_overlap",
    "only_comments",
    "python_tag",
    "set_of_an_unknown_key",
    "tab_indent",
    "two_budgets",
]


def comments(file: Path, kind: str) -> list[str]:
    return [line.removeprefix(f"# {kind} ") for line in file.read_text().splitlines() if line.startswith(f"# {kind} ")]


def message_of(file: Path, sets: list[str]) -> str:
    with pytest.raises(InvalidExperiment) as caught:
        load_experiment(file, sets)
    assert caught.value.exit_code == ExitCode.INVALID
    return str(caught.value)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_bad_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BAD)
    expected = comments(file, "expect")
    lines = message_of(Path(file.name), comments(file, "--set")).splitlines()
    assert len(lines) == len(expected), "\n".join(lines)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start if re.match(r"--set|\w+\.yaml:", start) else f"{file.name}:{start}")


def test_the_names_of_what_a_value_may_be_are_no_part_of_its_place() -> None:
    """Between the keys, pydantic names the member of a union that it tried."""
    data = {"model_args": {"ffn": {"router": {"k": 0}}}}
    for loc in (("model_args", "ffn", "moe", "router", "top-k", "k"), ("model_args", "ffn", "router", "k", "int")):
        assert _path({"loc": loc, "type": "any"}, data) == ("model_args", "ffn", "router", "k")


def test_there_are_at_least_sixty() -> None:
    assert len(FILES) >= 60


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "1:1: is empty"),
        (b"seed: 1\x00\n", "1:8: character U+0000 is not text; is this a binary file?"),
        (b"\x7fELF\x02\x01\x01", "1:1: character U+007F is not text"),
        (b"name: caf\xe9\n", "1:10: byte 0xe9 is not UTF-8 text"),
        (b"\xff\xfes\x00e\x00e\x00d\x00", "1:1: byte 0xff is not UTF-8 text"),
        (b"name: \x1b[31mred\n", "1:7: character U+001B is not text"),
        (b'name: "\\uD800"\n', "1:"),
        (b"#" * (MAX_BYTES + 1), "holds 1,000,001 bytes, more than the 1,000,000 that it may; not read"),
        (b"a: [" + b"1, " * 10_000 + b"1]\n", "holds more than 5000 values"),
        (b"a: " * 3000 + b"1", "1:5: a second colon"),
        (b"seed: " + b"9" * 100_000, "1:1: seed: got inf"),
        (b"name: " + b"x" * 100_000, "1:1: name: got the text 'xxx"),
        (b"seed: 1\r\nmodel_args:\r\n  n_layer: 0\r\n", "3:3: model_args.n_layer: got 0"),
        (b"\xef\xbb\xbfseed: -1\n", "1:1: seed: got -1"),
    ],
)
def test_bad_bytes(content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    message = message_of(file, [])
    assert message.startswith(f"{file}:")
    assert words in message
    assert len(message) < 1000


def test_thousands_of_faults_are_not_all_shown(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("model_args:\n" + "".join(f"  n_layer{number}: 1\n" for number in range(4000)))
    lines = message_of(file, []).splitlines()
    assert lines[0] == f"{file}:2:3: model_args.n_layer0: unknown key; did you mean n_layer?"
    assert (len(lines), lines[-1]) == (51, "... and more")


PIECES = [*"{}[]:,'\"\\\t\n?|-", "- ", "&a ", "*a", "<<: ", "~", "!!str ", "---\n", "1e-3", ".nan", "9" * 30]
PIECES += ["type: ", "gqa", "layers: ", "0-2", "2-,", "extends: ", "n_kv_head: 2"]
PIECES += ["training: ", "model_args: ", "dataset: ", "optimizer: "]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_text_is_a_traceback(data: st.DataObject, tmp_path: Path) -> None:
    """Files with pieces of YAML and of experiments put in anywhere load, or are refused in words."""
    text = data.draw(st.sampled_from(FILES)).read_text()
    for piece in data.draw(st.lists(st.sampled_from(PIECES), min_size=1, max_size=5)):
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + piece + text[at + data.draw(st.integers(0, 8)) :]
    file = tmp_path / "x.yaml"
    file.write_text(text)
    try:
        experiment = load_experiment(file)
    except FoundryError:
        return
    assert from_plain(experiment.plain()).identity == experiment.identity


def test_what_is_not_a_file(tmp_path: Path) -> None:
    assert "is a directory" in message_of(tmp_path, [])
    assert "there is no such file" in message_of(tmp_path / "none.yaml", [])
    assert "cannot be read" in message_of(tmp_path / ("x" * 5000), [])
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in message_of(tmp_path / "pipe", [])


def test_without_a_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidExperiment, match=r"no experiments/baseline\.yaml"):
        load_experiment()


@pytest.mark.parametrize("flag", ["training.max_iters", "=3", "training..x=3", ".=1"])
def test_a_flag_that_is_no_assignment(flag: str) -> None:
    with pytest.raises(UsageError, match="is not key=value"):
        load_experiment(BAD / "zero_layers.yaml", [flag])


@pytest.mark.skipif(find_spec("foundry.cli.__main__") is None, reason="no command line here")
@pytest.mark.parametrize("name", THROUGH_THE_CLI)
def test_through_the_command_line(name: str) -> None:
    file = BAD / f"{name}.yaml"
    flags = [part for flag in comments(file, "--set") for part in ("--set", flag)]
    command = [sys.executable, "-m", "foundry.cli", "config", "show", file.name, *flags]
    done = subprocess.run(command, cwd=BAD, capture_output=True, text=True)
    assert done.returncode == ExitCode.INVALID
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for start in comments(file, "expect"):
        assert start in done.stderr
