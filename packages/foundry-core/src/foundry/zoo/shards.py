"""A folder of weights as others save it: config.json, and safetensors in one file or in shards with an index. Opened,
not read: a tensor leaves the disk when it is asked for, and a pickle is never opened at all."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Container, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry.core.contracts import InvalidData
from foundry.core.contracts.architecture import Config
from foundry.core.system import JSON_BYTES, open_regular, read_regular

if TYPE_CHECKING:
    import torch
    from torch import Tensor

INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
AGAIN = "fetch the folder again: `foundry zoo pull`"
_NUMBERED = re.compile(r"(.+)-\d{5}-of-(\d{5})\.safetensors")
DTYPES = ("F64", "F32", "F16", "BF16")
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

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor -> shape, read of the files' heads.

        Raises:
            InvalidData: a file is no safetensors, or damaged; or two files hold one tensor.
        """
        shapes: dict[str, tuple[int, ...]] = {}
        for name in self.files:
            with self._open(name) as file:
                for tensor in sorted(file.keys()):
                    if tensor in shapes:
                        raise InvalidData(f"{self.path / name}: holds {tensor}, which another file holds too")
                    shapes[tensor] = tuple(file.get_slice(tensor).get_shape())
        return shapes

    def dtype(self) -> torch.dtype:
        """Of the largest tensor: small ones are sometimes kept in higher precision."""
        largest = max(self.shapes, key=lambda tensor: math.prod(self.shapes[tensor]))
        return next(tensor.dtype for _, tensor in self.read({largest}))

    def read(self, wanted: Container[str]) -> Iterator[tuple[str, Tensor]]:
        """The tensors of these names, on the CPU, one at a time; one file is open at a time.

        Raises:
            InvalidData: one holds integers or another form of quantised weights.
        """
        for name in self.files:
            with self._open(name) as file:
                for tensor in sorted(file.keys()):
                    if tensor in wanted:
                        dtype = file.get_slice(tensor).get_dtype()
                        if dtype not in DTYPES:
                            why = f"is {dtype}, and Foundry reads plain weights: {', '.join(DTYPES)}"
                            raise InvalidData(
                                f"{self.path / name}: {tensor} {why}", "take a copy that is not quantised"
                            )
                        yield tensor, file.get_tensor(tensor)

    @contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path / name, framework="pt") as file:
                yield file
        except (SafetensorError, OSError) as error:
            raise InvalidData(f"{self.path / name}: not a whole safetensors file: {error}", AGAIN) from error


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InvalidData: it is missing, or not JSON.
    """
    try:
        data = json.loads(read_regular(path, JSON_BYTES))
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
