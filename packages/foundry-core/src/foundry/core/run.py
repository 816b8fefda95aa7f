"""The run folder: everything about one training run, and all that is needed to use its model elsewhere.

runs/baseline-1a2b3c4d-1337/
  config.json               the experiment, its identity, the resolved device, the plugins
  tokenizer/tokenizer.json
  checkpoints/              see foundry.core.training.checkpoint
  metrics.jsonl, metrics.csv
  samples.jsonl
  result.json               only once the run is finished
  error.log                 the traceback of what ended it, until it goes on
  labels.json               tags and a note, if somebody gave it any
"""

from __future__ import annotations

import json
import os
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry.core.contracts import EnvironmentFailure, InvalidData
from foundry.core.system import (
    JSON_BYTES,
    Busy,
    locked,
    move_folder,
    open_regular,
    read_regular,
    replace_durably,
    writing,
)

if TYPE_CHECKING:
    from foundry.core.config import Experiment

SCHEMA_VERSION = 1
LINE_BYTES = 2**24
"""Of any row of metrics or of samples; a longer line is damaged, and never held whole."""
CONFIG_KEYS = {"name": str, "identity": str, "seed": int, "experiment": dict, "device": dict}
RESULT_KEYS = {"step": int, "tokens": int, "val_loss": float, "val_bpb": float}
EXPERT_FIELDS = ("expert_usage", "expert_unevenness", "expert_largest_load")
"""What metrics and result.json have of a model with experts, see foundry.core.training.expert_load."""
ERROR_LOG = "error.log"
"""The traceback of a training that has failed."""
# fmt: off
OWN_NAMES = frozenset((
    "config.json", "tokenizer", "checkpoints", "metrics.jsonl", "metrics.csv", "samples.jsonl", "result.json",
    "profile", ERROR_LOG, "labels.json",
))
# fmt: on
"""What a run writes into its folder, beside what is hidden: its lock, and unfinished files."""


class RunInUse(EnvironmentFailure):
    """Another process trains into the run's folder."""


@dataclass(frozen=True)
class Run:
    """A run folder, whether it exists yet or not."""

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def tokenizer_file(self) -> Path:
        return self.path / "tokenizer" / "tokenizer.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def samples_file(self) -> Path:
        return self.path / "samples.jsonl"

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    @property
    def error_file(self) -> Path:
        return self.path / ERROR_LOG

    @property
    def labels_file(self) -> Path:
        return self.path / "labels.json"

    def config(self) -> dict[str, Any]:
        """The content of config.json.

        Raises:
            InvalidData: this is not a run folder, or its config.json is damaged.
        """
        if not self.config_file.exists():
            raise InvalidData(f"{self.path} is not a run folder: it has no config.json")
        return read_json(self.config_file, CONFIG_KEYS, "restore it from a copy of the run")

    def result(self) -> dict[str, Any] | None:
        """The final figures, or None while the run is unfinished.

        Raises:
            InvalidData: result.json is damaged.
        """
        if not self.result_file.exists():
            return None
        result = read_json(self.result_file, RESULT_KEYS, "delete it and train again: nothing but it is made anew")
        return result | {"run": str(self.path)}  # wherever the folder was moved to

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The rows of metrics.jsonl, oldest first."""
        return (row for row in read_json_lines(self.metrics_file) if isinstance(row.get("step"), int))

    def last_metrics(self) -> dict[str, Any] | None:
        """The newest row of metrics.jsonl."""
        return next(iter(deque(self.metrics(), maxlen=1)), None)

    def labels(self) -> dict[str, Any]:
        """What somebody has written on it: `tags`, a list, and `note`.

        Raises:
            InvalidData: labels.json is damaged.
        """
        if not self.labels_file.exists():
            return {"tags": [], "note": ""}
        return read_json(self.labels_file, {"tags": list, "note": str}, "delete it: it holds tags and a note alone")

    def label(self, tags: Iterable[str], note: str) -> None:
        """Write other labels on it."""
        with writing(self.labels_file):
            replace_durably(self.labels_file, json.dumps({"tags": [*tags], "note": note}).encode())

    def keep_error(self) -> None:
        """Of the exception that is handled now, for those who fix the code."""
        with suppress(OSError):  # the disk is full
            self.path.mkdir(parents=True, exist_ok=True)
            self.error_file.write_text(traceback.format_exc(), encoding="utf-8")

    def error(self) -> str:
        """The last line of the traceback that was kept; empty: there is none."""
        with suppress(OSError):
            lines = read_regular(self.error_file, JSON_BYTES).decode(errors="replace").strip().splitlines()
            return lines[-1] if lines else ""
        return ""

    def is_held(self) -> bool:
        """Whether a process trains it now."""
        try:
            open_regular(self.path / ".lock").close()  # else it would be made
            with locked(self.path / ".lock", wait=False):
                return False
        except Busy:
            return True
        except (OSError, EnvironmentFailure):  # nobody ever did, or nobody can: it may not be written
            return False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from training into this folder, which is made if it is not there. The system releases
        it when the process dies.

        Raises:
            RunInUse: another process trains into it.
            EnvironmentFailure: it cannot be written.
        """
        lock = self.path / ".lock"
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with ExitStack() as leaving:
            leaving.callback(self._remove_if_empty)
            try:
                file = leaving.enter_context(locked(lock, wait=False))
            except Busy as busy:
                pid = _said_in(lock)
                who = f"another process ({pid})" if pid else "another process"
                raise RunInUse(f"{who} is training in {self.path}", f"{busy.hint}; or choose another --out") from busy
            with suppress(OSError):  # the disk is full
                file.truncate(0)
                os.write(file.fileno(), str(os.getpid()).encode())
            try:
                yield
            finally:
                if not self.config_file.exists():  # nothing began
                    lock.unlink(missing_ok=True)

    def _remove_if_empty(self) -> None:
        with suppress(OSError):
            self.path.rmdir()

    def refuse_strangers(self) -> None:
        """Raises:
        InvalidData: the folder holds what no run writes: it is somebody's, or it is not one run's.
        """
        names = set(os.listdir(self.path)) if self.path.is_dir() else set()
        strangers = sorted(name for name in names - OWN_NAMES if not name.startswith("."))
        if strangers and "config.json" not in names:
            raise InvalidData(f"{self.path} is not a run folder: it holds {strangers[0]}", "choose another --out")

    def set_aside(self) -> Path | None:
        """Rename an existing run folder to NAME~1, NAME~2, ... so that a fresh start loses nothing."""
        if not self.path.is_dir() or not os.listdir(self.path):
            return None
        number = next(n for n in range(1, 10**6) if not self.path.with_name(f"{self.path.name}~{n}").exists())
        return self.renamed(f"{self.path.name}~{number}").path

    def renamed(self, name: str) -> Run:
        """Give the folder another name beside its own.

        Raises:
            RunInUse: another process trains into it.
        """
        target = self.path.with_name(name)
        with self.held():
            move_folder(self.path, target)
            for lock in target.glob(".lock*"):  # ours, which went along: nobody trains there
                lock.unlink()
        return Run(target)


def _said_in(lock: Path) -> str:
    """The process that has a lock, as the lock's file says; empty where it says none."""
    with suppress(OSError):
        return read_regular(lock, 100).decode(errors="replace")
    return ""


def default_run(experiment: Experiment) -> Run:
    """runs/NAME-HASH8-SEED in the experiment's project."""
    return Run(experiment.project / "runs" / f"{experiment.name}-{experiment.identity[:8]}-{experiment.seed}")


def list_runs(folder: Path) -> list[Run]:
    """The run folders directly under `folder`, oldest first."""
    if not folder.is_dir():
        return []
    found = [Run(entry) for entry in folder.iterdir() if (entry / "config.json").is_file()]
    return sorted(found, key=lambda run: (run.config_file.stat().st_mtime, run.path.name))


def find_run(name: str, folder: Path) -> Run:
    """The run that a text names: its path, its name in `folder`, or the beginning of its name.

    Raises:
        InvalidData: there is none, or more than one.
    """
    if Path(name).is_dir():
        return Run(Path(name))
    known = [run.path.name for run in list_runs(folder)]
    if name in known:
        return Run(folder / name)
    begun = [each for each in known if each.startswith(name)] if name else []
    if len(begun) == 1:
        return Run(folder / begun[0])
    if begun:
        raise InvalidData(f"{name} may be any of {len(begun)} runs", f"say more of one: {', '.join(begun[-5:])}")
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "`foundry runs` lists what there is"
    raise InvalidData(f"there is no run {name!r} in {folder}", hint)


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file. A line that is none, torn by a crash or damaged since, is left out."""
    if not path.is_file():
        return
    with open_regular(path) as file:
        torn = False
        while line := file.readline(LINE_BYTES):
            torn, is_rest = not line.endswith(b"\n"), torn
            if torn or is_rest:
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                yield row


def read_json(path: Path, keys: Mapping[str, type], way_out: str, *, at_most: int = JSON_BYTES) -> dict[str, Any]:
    """The object in a JSON file, which has at least these keys with values of these types."""
    try:
        data = json.loads(read_regular(path, at_most))
    except OSError as error:
        raise InvalidData(f"{path}: cannot be read: {error.strerror}", way_out) from error
    except (ValueError, RecursionError) as error:
        raise InvalidData(f"{path}: damaged: {error}", way_out) from error
    wrong = [key for key, kind in keys.items() if not isinstance(data, dict) or not isinstance(data.get(key), kind)]
    if wrong:
        raise InvalidData(f"{path}: damaged: it lacks {', '.join(wrong)}", way_out)
    if data.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise InvalidData(f"{path}: written by another version of Foundry (schema {data['schema_version']})")
    return dict(data)
