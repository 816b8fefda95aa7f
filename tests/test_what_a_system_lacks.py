"""Every command of the product on a system that lacks something: it works, as where nothing is missing.

No locks, no links, no flushes, no memory that processes share, an account that nobody knows and that has no home: each
alone, and all of them at once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from tests import sweep_processes
from tests.doses import not_in_small_doses
from tests.project import lines_of_words, write_project
from tests.refusing_system import LACKS, Lack, System

from foundry.cli.app import app

BASELINE = sweep_processes.BASELINE.replace("tokenizer: char", "tokenizer: byte")
BASELINE = BASELINE.replace("log_interval: 5", "log_interval: 5, sample_tokens: 0")


@dataclass(frozen=True)
class Command:
    """One command line, for the project as those before have left it."""

    line: str
    same: str = ""  # what of its output is the same wherever it runs: a pattern; the whole of it where it has no group
    long: bool = False  # seconds, not tenths of one


COMMANDS = [
    Command("init new"),
    Command("train --out run --json", same=r'"(?:val|train)_loss": ([\d.]+)'),
    Command("train --out run --eval-only", same=".+"),
    Command("train --out two --nproc 2 --json", same=r'"(?:val|train)_loss": ([\d.]+)', long=True),
    Command("runs --folder ."),
    Command("runs tag run keep", same=".+"),
    Command("runs note run good", same=".+"),
    Command("generate run --prompt th --greedy --max-tokens 5", same=".+"),
    Command("mutate activation relu2", same=".+"),
    Command("config show", same=".+"),
    Command("config inline", same=".+"),
    Command("config schema", same=".+"),
    Command("config reference", same=".+"),
    Command("config diff experiments/baseline.yaml experiments/act_relu2.yaml", same=".+"),
    Command("analyze", same=".+"),
    Command("export run exported", same=".+"),
    Command("zoo list"),
    Command("zoo pull org/tiny"),
    Command("zoo convert exported --run converted --experiment experiments/converted.yaml", same=".+"),
    Command("zoo check exported", same=".+", long=True),
    Command("generate converted --prompt th --greedy --max-tokens 5", same=".+"),
    Command("plugins list", same=".+"),
    Command("plugins new squared-silu", same=".+"),
    Command("plugins check foundry-plugin-squared-silu", same=".+", long=True),
    Command("doctor"),
    Command("kernels build"),
    Command("kernels check", long=True),
    Command("bench choices --seconds 0.1", long=True),
    Command("bench step depth 2 --lengths 16 --rounds 1", long=True),
    Command("bench attention mqa --lengths 16 --rounds 1", long=True),
    Command("lr-find --steps 20"),
    Command("noise --seeds 3 --json", same=r'"(?:mean|sigma)": ([\d.]+)'),
    Command("sweep lr 1e-2 --delta 0.03 --max-pairs 4 --jobs 2 --promote", same="lr 1e-2.*"),
    Command("lineage"),
    Command("why 1"),
    Command("query verdict=promote"),
    Command("compare experiments/baseline.yaml experiments/act_relu2.yaml", long=True),
    Command("ablate --axis activation=relu2 --seeds 1", long=True),
    Command("evolve --max-trials 12 --proposals 1", long=True),
    Command("rollback"),
    Command("report"),
    Command("runs rename run other"),
    Command("runs rm other --yes"),
]
EVERY_DAY = ("init", "train --out run --json", "generate run", "mutate")


def names(group: object, before: str = "") -> Iterator[str]:
    """Of all commands, those of groups with their group's."""
    for name, command in group.commands.items():
        yield from names(command, f"{name} ") if hasattr(command, "commands") else [before + name]


def test_every_command_is_in_the_table():
    lines = [command.line for command in COMMANDS]
    missing = [name for name in names(typer.main.get_command(app)) if not any(is_of(line, name) for line in lines)]
    assert missing == []


def is_of(line: str, name: str) -> bool:
    return line.split()[: len(name.split())] == name.split()


def make_project(folder: Path) -> Path:
    """With a text, and a hub of models, which is a folder: that of the first model in it answers as the hub does."""
    weights = "weights"
    listed = {"type": "file", "path": "model.safetensors", "size": len(weights), "oid": ""}
    listed["lfs"] = {"oid": hashlib.sha256(weights.encode()).hexdigest()}
    for name in ("cache", "temporary"):
        (folder / name).mkdir(parents=True)
    files = {
        "experiments/baseline.yaml": BASELINE,
        "corpus.txt": lines_of_words(400),
        "hub/api/models/org/tiny/revision/main": '{"sha": "c0ffee"}',
        "hub/api/models/org/tiny/tree/c0ffee?recursive=false": json.dumps([listed]),
        "hub/org/tiny/resolve/c0ffee/model.safetensors": weights,
    }
    return write_project(folder, files)


def run(system: System, lack: Lack, project: Path, commands: list[Command]) -> dict[str, list[str]]:
    """Each command in turn: it works, and says nothing of a fault. Returns what is the same everywhere."""
    told = {}
    environment = {
        "TMPDIR": str(project / "temporary"),
        "HF_ENDPOINT": f"file://{project}/hub",
        "HF_HUB_OFFLINE": "0",
        **({"FOUNDRY_CACHE": str(project / "cache")} if lack.account else {}),
    }
    for command in commands:
        done = system.foundry(lack, project, *command.line.split(), **environment)
        assert done.code == 0, (command.line, done)
        assert not re.search("internal error|a bug in|Traceback|rror:", done.err), (command.line, done.err)
        if command.same:
            told[command.line] = re.findall(command.same, done.out.replace(str(project), "."))
            assert told[command.line], (command.line, done)
    for log in (project / ".foundry").glob("*.log"):
        assert "Traceback" not in log.read_text()
    return told


@pytest.fixture(scope="module")
def unhindered(system, tmp_path_factory):
    """What the commands tell where nothing is missing: each of them is run there once."""
    project, told = make_project(tmp_path_factory.mktemp("nothing") / "project"), {}

    def tell(commands: list[Command]) -> dict[str, list[str]]:
        told.update(run(system, LACKS["nothing"], project, [each for each in commands if each.line not in told]))
        return {command.line: told[command.line] for command in commands if command.same}

    return tell


def test_a_few_commands_where_everything_is_missing(system, tmp_path):
    commands = [command for command in COMMANDS if any(is_of(command.line, line) for line in EVERY_DAY)]
    run(system, LACKS["everything"], make_project(tmp_path / "project"), commands)


@pytest.mark.parametrize("first", ["nothing", "shared maps", "flushes"])
def test_a_ledger_goes_from_one_system_to_another(system, tmp_path, first):
    """Its file says whether SQLite logs ahead, which needs memory that processes share."""
    project, looks = make_project(tmp_path / "project"), [Command("lineage", same=".+")]
    run(system, LACKS[first], project, [Command("sweep lr 1e-2 --dry-run")])  # which begins the ledger
    told = [run(system, LACKS[lack], project, looks) for lack in (first, "shared maps", "nothing", "everything")]
    assert told == told[:1] * 4


@pytest.mark.slow
@not_in_small_doses
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("lack", [name for name in LACKS if name != "nothing"])
def test_every_command(system, unhindered, tmp_path, lack):
    told = run(system, LACKS[lack], make_project(tmp_path / "project"), COMMANDS)
    assert told == unhindered(COMMANDS)
