"""The run folder: everything about one training run, and all that is needed to use its model elsewhere.

runs/baseline-1a2b3c4d-1337/
  config.json               the experiment, its identity, the resolved device, the plugins
  tokenizer/tokenizer.json
  checkpoints/              see foundry.core.training.checkpoint
  metrics.jsonl, metrics.csv
  samples.jsonl
  result.json               only once the run is finished
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from foundry.core.contracts import EnvironmentFailure, InvalidData, Tokenizer, UsageError

if TYPE_CHECKING:
    from foundry.core.config import Experiment
    from foundry.core.model import GPT

SCHEMA_VERSION = 1


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

    def config(self) -> dict[str, Any]:
        """The content of config.json.

        Raises:
            InvalidData: this is not a run folder, or its config.json is damaged.
        """
        config = _read_json(self.config_file, "not a run folder")
        if missing := {"experiment", "identity", "seed", "device"} - config.keys():
            raise InvalidData(f"{self.config_file}: damaged: it lacks {', '.join(sorted(missing))}")
        return config

    def result(self) -> dict[str, Any] | None:
        """The final figures, or None while the run is unfinished."""
        return _read_json(self.result_file, "damaged") if self.result_file.exists() else None

    def last_metrics(self) -> dict[str, Any] | None:
        """The newest row of metrics.jsonl; a line torn by a crash is ignored."""
        last = None
        if self.metrics_file.exists():
            for row in read_json_lines(self.metrics_file):
                last = row
        return last

    def create(self) -> None:
        """Make the folder.

        Raises:
            EnvironmentFailure: it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise EnvironmentFailure(
                f"cannot write the run folder {self.path}: {error.strerror}", "choose another with --out"
            ) from error

    def lock(self) -> IO[str]:
        """Keep other processes from training into this folder while the returned file is open.

        Raises:
            EnvironmentFailure: another process does.
        """
        import fcntl

        file = open(self.path / ".lock", "w")  # noqa: SIM115 - it outlives this function
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise EnvironmentFailure(
                f"another process is training {self.path}", "wait for it, stop it, or choose another --out"
            ) from error
        return file

    def set_aside(self) -> Path | None:
        """Rename an existing run folder to NAME~1, NAME~2, ... so that a fresh start loses nothing.

        Raises:
            UsageError: the folder holds something, but not a run.
        """
        if not self.path.exists() or not any(self.path.iterdir()):
            return None
        if not self.config_file.exists():
            raise UsageError(f"{self.path} is not empty, and not a run folder", "choose another --out")
        number = next(n for n in range(1, 10**6) if not self.path.with_name(f"{self.path.name}~{n}").exists())
        return self.path.rename(self.path.with_name(f"{self.path.name}~{number}"))


class LoadedRun(NamedTuple):
    """What `load_run` returns."""

    config: Experiment
    tokenizer: Tokenizer
    model: GPT


def default_run(experiment: Experiment) -> Run:
    """runs/NAME-HASH8-SEED in the experiment's project."""
    return Run(experiment.project / "runs" / f"{experiment.name}-{experiment.identity[:8]}-{experiment.seed}")


def load_run(path: str | Path, checkpoint: str = "last", *, device: str = "cpu") -> LoadedRun:
    """The experiment, tokenizer and trained model of a run folder.

    Args:
        path: the run folder.
        checkpoint: `last`, `best` (lowest validation loss that was saved), or a step number.
        device: where the model goes.

    Returns:
        config, tokenizer, model. The model is in eval mode and holds the moving average where the run keeps one.

    Raises:
        InvalidData: no such run, or no checkpoint of it can be used.
    """
    import torch

    from foundry.core.config import from_plain
    from foundry.core.model import GPT
    from foundry.core.model.init import init_buffers
    from foundry.core.training import checkpoint as checkpoints

    run = Run(Path(path))
    experiment = from_plain(run.config()["experiment"], project=run.path)
    tokenizer = read_tokenizer(run, experiment)
    saved = _choose(run, checkpoint, checkpoints)
    with torch.device("meta"):
        model = GPT(experiment, tokenizer.vocab_size)
    model.to_empty(device=device)
    init_buffers(model)
    weights = {**saved.tensors["model"], **saved.tensors.get("ema", {})}
    restore_weights(model, weights, source=str(run.path))
    return LoadedRun(experiment, tokenizer, model.eval())


def restore_weights(model: Any, weights: Mapping[str, Any], *, source: str) -> None:
    """Copy named tensors into a model's parameters.

    Raises:
        InvalidData: a parameter is missing, unknown, or has another shape; the message names the first.
    """
    import torch

    own = dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if n in model.state_dict()}
    for name in sorted(own.keys() | weights.keys()):
        if name not in weights or name not in own:
            where = "the checkpoint" if name not in weights else "the model"
            raise InvalidData(f"{source}: parameter {name} is not in {where}")
        if own[name].shape != weights[name].shape:
            shapes = f"{tuple(weights[name].shape)}, the model's is {tuple(own[name].shape)}"
            raise InvalidData(f"{source}: parameter {name} has shape {shapes}")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])


def read_tokenizer(run: Run, experiment: Experiment) -> Tokenizer:
    """The tokenizer that a run was trained with."""
    data = _read_json(run.tokenizer_file, "the run's tokenizer is missing or damaged")
    return experiment.registry.variant("tokenizer", data.get("type", "?")).load().from_json(data)


def list_runs(folder: Path) -> list[Run]:
    """The run folders directly under `folder`, oldest first."""
    if not folder.is_dir():
        return []
    found = [Run(entry) for entry in folder.iterdir() if (entry / "config.json").is_file()]
    return sorted(found, key=lambda run: (run.config_file.stat().st_mtime, run.path.name))


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file up to the first line that is not whole."""
    with open(path, "rb") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                return
            if not line.endswith(b"\n") or not isinstance(row, dict):
                return
            yield row


def _choose(run: Run, which: str, checkpoints: Any) -> Any:
    if which == "last":
        saved = checkpoints.newest(run.checkpoints, warn=lambda text: None, quarantine=False)
        if saved is None:
            raise InvalidData(f"{run.path}: has no checkpoint yet", "train it first, or longer")
        return saved
    steps = checkpoints.steps(run.checkpoints)
    if which == "best":
        last = checkpoints.newest(run.checkpoints, warn=lambda text: None, quarantine=False)
        which = str((last.state["best_step"] if last else None) or (steps[-1] if steps else 0))
    if not which.isdigit() or int(which) not in steps:
        raise InvalidData(f"{run.path}: has no checkpoint {which}; there are {', '.join(map(str, steps)) or 'none'}")
    return checkpoints.load(checkpoints.path_of(run.checkpoints, int(which)))


def _read_json(path: Path, otherwise: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidData(f"{path}: {error.strerror}: {otherwise}") from error
    except ValueError as error:
        raise InvalidData(f"{path}: {error}: {otherwise}") from error
    if not isinstance(data, dict):
        raise InvalidData(f"{path}: {otherwise}")
    return data
