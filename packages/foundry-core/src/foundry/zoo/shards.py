"""A folder of weights as others save it: config.json, and safetensors in one file or in shards with an index. Opened,
not read: a tensor leaves the disk when it is asked for, and a pickle is never opened at all."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry.core.contracts import InvalidData
from foundry.zoo.family import Config

if TYPE_CHECKING:
    import torch
    from torch import Tensor

INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
AGAIN = "fetch the folder again: `foundry zoo pull`"
_NUMBERED = re.compile(r"(.+)-\d{5}-of-(\d{5})\.safetensors")
_BLOCK = 1 << 22  # bytes that are hashed at a time


class WeightsFolder:
    """A folder with config.json and safetensors.

    Raises:
        InvalidData: there is no such folder, or it holds no config.json.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            raise InvalidData(f"{path}: there is no such folder", "`foundry zoo list` names what can be pulled")
        self.config = Config(read_json(path / "config.json"), str(path / "config.json"))

    @cached_property
    def files(self) -> list[str]:
        """The names of the safetensors files.

        Raises:
            InvalidData: there are none, or one is missing.
        """
        if (self.path / INDEX).exists():
            index = read_json(self.path / INDEX).get("weight_map")
            if not isinstance(index, dict) or not index:
                raise InvalidData(f"{self.path / INDEX}: it lacks a weight_map", AGAIN)
            names = sorted(set(map(str, index.values())))
            if any(Path(name).name != name for name in names):
                raise InvalidData(f"{self.path / INDEX}: names a file outside its folder")
            wanted_by = INDEX
        else:
            names, wanted_by = self._unlisted(), "its name"
        for name in names:
            if not (self.path / name).is_file():
                raise InvalidData(f"{self.path / name}: this shard is missing; {wanted_by} asks for it", AGAIN)
        return names

    def _unlisted(self) -> list[str]:
        there = sorted(entry.name for entry in self.path.iterdir() if entry.suffix == ".safetensors")
        if "model.safetensors" in there or len(there) == 1:
            names = ["model.safetensors"] if "model.safetensors" in there else there
            if match := _NUMBERED.fullmatch(names[0]):
                return _all_of(match)
            return names
        for name in there:
            if match := _NUMBERED.fullmatch(name):
                return _all_of(match)
        pickles = sorted(entry.name for entry in self.path.iterdir() if entry.suffix in PICKLES)
        if pickles:
            raise InvalidData(
                f"{self.path}: holds pickles ({pickles[0]}) and no safetensors; a pickle can run any code, so Foundry "
                "reads none",
                "take the repository's safetensors, or convert a copy that you trust with transformers: "
                "model.save_pretrained(folder)",
            )
        raise InvalidData(f"{self.path}: holds no safetensors", AGAIN)

    @cached_property
    def sha256(self) -> str:
        """Of all files of weights, in the order of their names."""
        digest = hashlib.sha256()
        for name in self.files:
            digest.update(f"{name}:{sha256_of(self.path / name)}\n".encode())
        return digest.hexdigest()

    def open(self) -> OpenWeights:
        """The tensors, for a `with` statement."""
        return OpenWeights(self)


class OpenWeights:
    """The tensors of a folder, by name.

    Raises:
        InvalidData: a file is no safetensors, or damaged; or two files hold one tensor.
    """

    def __init__(self, folder: WeightsFolder) -> None:
        from safetensors import SafetensorError, safe_open

        self.folder = folder
        self._stack = ExitStack()
        self._of: dict[str, Any] = {}  # tensor -> the open file that holds it
        for name in folder.files:
            path = folder.path / name
            try:
                file: Any = self._stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                self._stack.close()
                raise InvalidData(f"{path}: not a whole safetensors file: {error}", AGAIN) from error
            for key in sorted(file.keys()):
                if key in self._of:
                    raise InvalidData(f"{path}: holds {key}, which another file holds too")
                self._of[key] = file

    def __enter__(self) -> OpenWeights:
        return self

    def __exit__(self, *failure: object) -> None:
        self._stack.close()
        self._of.clear()

    def __iter__(self) -> Iterator[str]:
        return iter(self._of)

    def __contains__(self, name: str) -> bool:
        return name in self._of

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._of[name].get_slice(name).get_shape())

    def dtype(self) -> torch.dtype:
        """Of the largest tensor: small ones are sometimes kept in higher precision."""
        import math

        largest = max(self._of, key=lambda name: math.prod(self.shape(name)))
        dtype: torch.dtype = self._of[largest].get_slice(largest)[:0].dtype
        return dtype

    def tensor(self, name: str) -> Tensor:
        """Read one, on the CPU."""
        tensor: Tensor = self._of[name].get_tensor(name)
        return tensor


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InvalidData: it is missing, or not JSON.
    """
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidData(f"{path}: cannot be read: {error.strerror}", AGAIN) from error
    except (ValueError, RecursionError) as error:
        raise InvalidData(f"{path}: not JSON: {error}", AGAIN) from error
    if not isinstance(data, dict):
        raise InvalidData(f"{path}: not a JSON object", AGAIN)
    return data


def _all_of(match: re.Match[str]) -> list[str]:
    count = int(match[2])
    return [f"{match[1]}-{i:05d}-of-{match[2]}.safetensors" for i in range(1, count + 1)]
