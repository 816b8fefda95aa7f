"""Checkpoints that survive anything: safetensors and JSON, hashed, staged, renamed.

    checkpoints/step-00000600/   model.safetensors  optimizer.safetensors  ema.safetensors  rng.safetensors
                                 state.json         manifest.json (sha256 and size of every file, written last)

A folder is made under another name, every file and the folder are flushed to disk, and one rename publishes it: at no
instant does a kill leave a folder that `newest` accepts and that is not whole. A folder whose hashes do not match is
renamed `*.corrupt`, with the reason on the screen, and the one before it is used.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from torch import Tensor

from foundry.core.contracts import EnvironmentFailure, InvalidData
from foundry.core.system import (
    JSON_BYTES,
    move_folder,
    open_regular,
    read_regular,
    require_memory,
    sync_folder,
    unread,
    way_out,
    write_durably,
)
from foundry.core.tensors import write_tensors
from foundry.core.training import divergence

SCHEMA_VERSION = 2
"""2: the state of each job is under `jobs`. In 1 they lie beside one another, and are read."""
STATE_KEYS = {"step", "identity", "loader", "tokenizer", "plugins", "ema_updates"}
"""What a state must hold, beside `foundry.core.training.progress.Progress`."""
_NAME = re.compile(r"step-([0-9]{8}|[1-9][0-9]{8,})")


@dataclass
class Checkpoint:
    """One saved state: groups of tensors, and what is not a tensor."""

    tensors: Mapping[str, Mapping[str, Tensor]]  # "model" -> parameter path -> tensor
    state: Mapping[str, Any]
    hashes: Mapping[str, str] = field(default_factory=dict)  # file name -> sha256, of one that was loaded

    @property
    def judged_weights(self) -> Mapping[str, Tensor]:
        """What the model is judged by: the moving average where the run keeps one."""
        return {**self.tensors["model"], **self.tensors.get("ema", {})}


def save(folder: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Write `checkpoint` under `folder` (a run's checkpoints/) and return its path. A step that already exists stays
    as it is: nothing published is ever replaced.

    Raises:
        Diverged: a weight, its average or its optimizer's state is not finite; nothing is written.
        EnvironmentFailure: the disk is full or the folder not writable; earlier checkpoints are untouched.
    """
    final = path_of(folder, step)
    if final.exists():
        return final
    for group, tensors in checkpoint.tensors.items():
        if diverged := divergence.of_tensors(group, tensors, step):
            raise diverged
    staging = folder / f".step-{step:08d}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        manifest: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "step": step, "files": {}}
        for group, tensors in checkpoint.tensors.items():
            if tensors:
                write_tensors(staging / f"{group}.safetensors", tensors)
        write_durably(staging / "state.json", json.dumps(checkpoint.state, indent=1, sort_keys=True).encode())
        for file in sorted(staging.iterdir()):
            manifest["files"][file.name] = {"bytes": file.stat().st_size, "sha256": _sha256_of(file)}
        write_durably(staging / "manifest.json", json.dumps(manifest, indent=1).encode())
        sync_folder(staging)
        os.rename(staging, final)
        sync_folder(folder)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise EnvironmentFailure(
            f"cannot save {final}: {error.strerror}", f"{way_out(error)}; the run resumes from there"
        ) from error
    return final


def steps(folder: Path) -> list[int]:
    """The steps with a published checkpoint, oldest first, verified or not."""
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for entry in folder.iterdir() if (match := _NAME.fullmatch(entry.name)))


def path_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def load(path: Path) -> Checkpoint:
    """Read one checkpoint, every byte checked against the manifest.

    Raises:
        InvalidData: a file is missing, truncated, swapped or altered; the message names it.
        EnvironmentFailure: a file cannot be read now, or not by us; it may be whole.
    """
    expected, tensors, state = _manifest(path), {}, None
    try:
        for name, file in expected["files"].items():
            if (actual := (path / name).stat().st_size) != file["bytes"]:
                raise InvalidData(f"{path / name}: {actual} bytes, the manifest says {file['bytes']}")
            require_memory(file["bytes"], f"{path / name}: to read it")
            data = read_regular(path / name, file["bytes"] if name.endswith(".safetensors") else JSON_BYTES)
            if hashlib.sha256(data).hexdigest() != file["sha256"]:
                raise InvalidData(f"{path / name}: its sha256 differs from the manifest's")
            if name.endswith(".safetensors"):
                tensors[name.removesuffix(".safetensors")] = load_bytes(data)
            else:
                state = json.loads(data)
        if state is None or "model" not in tensors:
            raise InvalidData(f"{path / 'manifest.json'}: lists no model.safetensors or state.json")
        if missing := STATE_KEYS - state.keys():
            raise InvalidData(f"{path / 'state.json'}: it lacks {', '.join(sorted(missing))}")
        if state["step"] != expected["step"] or path_of(path.parent, state["step"]).name != path.name:
            raise InvalidData(f"{path}: holds step {state['step']}, not the one its name says")
    except OSError as error:
        raise unread(error, path) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise InvalidData(f"{path}: damaged: {type(error).__name__}: {error}") from error
    return Checkpoint(tensors, state, hashes(path))


def hashes(path: Path) -> dict[str, str]:
    """sha256 of each file of a checkpoint, as its manifest says.

    Raises:
        InvalidData: the manifest is missing or damaged.
    """
    return {name: file["sha256"] for name, file in _manifest(path)["files"].items()}


def _manifest(path: Path) -> dict[str, Any]:
    file = path / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(read_regular(file, JSON_BYTES))
        if manifest["schema_version"] > SCHEMA_VERSION:
            raise InvalidData(f"{path}: written by a newer Foundry (schema {manifest['schema_version']})")
        for entry in manifest["files"].values():
            entry["bytes"] + 0, entry["sha256"]
    except OSError as error:
        raise unread(error, file) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidData(f"{file}: damaged: {type(error).__name__}: {error}") from error
    return manifest


def newest(folder: Path, warn: Callable[[str], None], *, quarantine: bool = True) -> Checkpoint | None:
    """The newest checkpoint that verifies, or None if there never was one.

    Raises:
        InvalidData: there are checkpoints, or were before they were set aside, but none can be used. Never a silent
            fresh start.
        EnvironmentFailure: a checkpoint cannot be read now, or not by us: it may be whole, so it is not set aside.
    """
    reasons = []
    for step in reversed(steps(folder)):
        try:
            return load(path_of(folder, step))
        except InvalidData as error:
            reasons.append(error.message)
            warn(f"refused: {error.message}")
            if quarantine:
                _quarantine(path_of(folder, step))
    reasons = reasons or [f"{path}: refused before" for path in sorted(folder.glob("step-*.corrupt*"))]
    if reasons:
        raise InvalidData(
            f"no checkpoint in {folder} can be used:\n  " + "\n  ".join(reasons),
            "train again with --resume never, which sets this run aside",
        )
    return None


def prune(folder: Path, *, keep: int, pinned: set[int]) -> None:
    """Delete what crashed saves left, and all but the last `keep` checkpoints and the pinned ones. Called by
    `jobs.Save`, which knows how many, and which is the best."""
    for pattern in (".*.partial", ".*.retired"):
        for entry in folder.glob(pattern):
            shutil.rmtree(entry, ignore_errors=True)
    published = steps(folder)
    for step in published[: max(0, len(published) - max(1, keep))]:
        if step not in pinned:
            _retire(path_of(folder, step))


def _retire(path: Path) -> None:
    """Delete a checkpoint, its name first, so that a kill halfway leaves nothing that looks like one."""
    hidden = path.with_name(f".{path.name}.retired")
    shutil.rmtree(hidden, ignore_errors=True)
    try:
        path = path.rename(hidden)
    except OSError as error:
        if error.errno != errno.EXDEV:  # of a container's image, whose folders cannot be renamed
            raise
    shutil.rmtree(path, ignore_errors=True)


def _quarantine(path: Path) -> None:
    """Rename a damaged checkpoint to *.corrupt, or *.corrupt~2, ... if that step was damaged before."""
    names = (path.with_name(f"{path.name}.corrupt" + (f"~{n}" if n > 1 else "")) for n in count(1))
    try:
        move_folder(path, next(name for name in names if not name.exists()))
    except OSError as error:
        raise EnvironmentFailure(f"cannot set {path} aside: {error.strerror}", way_out(error)) from error


def _sha256_of(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
