"""From an arm, a share of the budget and a seed to a `Trial`, whose name says everything that its result depends on."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from foundry.core.config import Experiment
from foundry.core.config.mutate import edit
from foundry.core.contracts import Edits, EnvironmentFailure, Params, Rows, Variant
from foundry.core.ledger.records import Trial, digest
from foundry.core.registry.discovery import LOCAL

NOT_TRAINING = (
    "compare.py", "evolve", "ledger", "lr_find.py", "promotion.py", "report", "statistics", "sweep", "testing",
)  # fmt: skip
"""What of core decides which trials there are, and not what comes out of one."""


SOURCES = (".py", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".metal", ".mm")


@dataclass(frozen=True)
class Setting:
    """What every trial of a sweep computes on, so that arms differ in nothing but their mutation."""

    device: str  # cpu | cuda | mps
    precision: str  # fp32 | bf16
    threads: int
    kernels: Mapping[str, str] = field(default_factory=dict)  # `auto`, `native` -> what each comes to, by name

    @classmethod
    def of(cls, experiment: Experiment, jobs: int, arms: Sequence[Experiment] = ()) -> Setting:
        """What the baseline says, and where it says auto: what is here, its cores shared among `jobs` trials. The
        kernels are those that it or one of the arms asks for."""
        from foundry.core.training.device import is_here, kernels_of, setting_of, share_of_cores

        training = experiment.training
        device = training.device
        if device == "auto":
            device = next(kind for kind in ("cuda", "mps", "cpu") if is_here(kind))
        precision = training.precision
        if precision == "auto":
            precision = "bf16" if device == "cuda" else "fp32"
        threads = training.threads if training.threads != "auto" else share_of_cores(jobs)
        kernels = {}
        for wanted in {each.training.kernels for each in (experiment, *arms)}:
            with suppress(EnvironmentFailure):  # there are none: a trial that asks for them will say so
                named = kernels_of(wanted, device, precision)
                kernels[wanted] = setting_of(named)
        return cls(device, precision, threads, kernels)

    def devices(self) -> int:
        """How many of them are here."""
        import torch

        return torch.cuda.device_count() if self.device == "cuda" else 1

    @property
    def edits(self) -> Edits:
        return {
            "training.device": self.device,
            "training.precision": self.precision,
            "training.threads": self.threads,
        }

    def edits_of(self, experiment: Experiment) -> Edits:
        """What makes a training of `experiment` compute so. Its kernels are named, so that all workers use the same
        ones, and a compiler that is installed in the middle of a sweep changes nothing."""
        wanted, compiled = experiment.training.kernels, experiment.training.compile
        return {**self.edits, "training.kernels": wanted if compiled else self.kernels.get(wanted, wanted)}


def make_trial(experiment: Experiment, seed: int, setting: Setting, tasks: tuple[str, ...] = ()) -> Trial:
    """One training of `experiment`, whose budget is this trial's, with `seed`.

    Nothing is sampled from its model: that would cost a short trial a tenth of its time.
    """
    trained = edit(experiment, {"seed": seed, "logging.sample_tokens": 0, **setting.edits_of(experiment)}, "the sweep")
    return Trial(
        identity=trained.identity,
        seed=seed,
        code=code_fingerprint(trained, tasks),
        data=data_fingerprint(trained),
        experiment=trained.plain(),
        tasks=tasks,
    )


def data_fingerprint(experiment: Experiment) -> str:
    """Of the rows that it trains on, apart from their order, and of the weights that it begins with, where those are
    another run's. The corpus is prepared if it never was."""
    return _data_of(experiment).fingerprint


def vocab_size(experiment: Experiment) -> int:
    """V of the experiment's tokenizer."""
    return int(_data_of(experiment).rows.tokenizer.vocab_size)


def training_rows(experiment: Experiment) -> Rows:
    """The rows that it trains on, in the order of some seed."""
    return _data_of(experiment).rows


@dataclass(frozen=True)
class _Data:
    fingerprint: str
    rows: Rows


def _data_of(experiment: Experiment) -> _Data:
    # With the working directory, from which a corpus by path is looked for.
    key = digest(os.getcwd(), experiment.plain()["data"], experiment.model_args.block_size, experiment.init_from)
    if key not in _opened:
        from foundry.core.training.initial import origin_of
        from foundry.core.training.rows import open_rows

        rows, origin = open_rows(experiment), origin_of(experiment)
        fingerprint = digest(rows.fingerprint, origin.sha256) if origin else rows.fingerprint
        _opened[key] = _Data(fingerprint, rows)
    return _opened[key]


_opened: dict[str, _Data] = {}


def code_fingerprint(experiment: Experiment, tasks: tuple[str, ...] = ()) -> str:
    """sha256 of the sources that a training of `experiment` and its evaluation on `tasks` run: core's, the kernels',
    those of every package that a chosen variant comes from, and torch's version."""
    return digest(version("torch"), sorted(set(_sources(experiment, tasks))))


def _sources(experiment: Experiment, tasks: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(name, hash) of each package; one may come twice."""
    registry = experiment.registry
    yield "foundry-core", _hash_of(Path(__file__).resolve().parents[1], NOT_TRAINING)
    targets = [variant.target for variant in _variants(experiment)]
    targets += [registry.variant("task", task).target for task in tasks]
    targets += [section.target for section in registry.sections.values() if section.target]
    targets += [entry_point.value for entry_point in entry_points(group="foundry.kernels")]
    local = {plugin.module: plugin.version for plugin in registry.plugins if plugin.distribution == LOCAL}
    for module in {target.partition(":")[0] for target in targets}:
        if module in local:
            yield module.rpartition(".")[2], local[module]  # the hash of its source and of its helpers'
        elif package := _package_of(module):
            yield package.name, _hash_of(package)


def foreign_variants(experiment: Experiment) -> list[Variant]:
    """The chosen variants whose code is not Foundry's own, each once."""
    chosen = {(variant.slot, variant.name): variant for variant in _variants(experiment)}
    return [variant for variant in chosen.values() if experiment.registry.is_foreign(variant)]


def _variants(params: Any) -> Iterator[Variant]:
    """The variants that an experiment has chosen, anywhere."""
    if isinstance(params, dict):
        for value in params.values():
            yield from _variants(value)
    if isinstance(params, Params):
        if params.variant is not None:
            yield params.variant
        for name in type(params).model_fields:
            yield from _variants(getattr(params, name))


def _package_of(module: str) -> Path | None:
    """The folder of the outermost package around `module` that is no namespace, found without importing the module."""
    names = module.split(".")
    for depth in range(1, len(names) + 1):
        name = ".".join(names[:depth])
        loaded = sys.modules.get(name)
        spec = loaded.__spec__ if loaded is not None else find_spec(name)
        if spec is not None and spec.origin is not None:
            return Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
    return None


@lru_cache(maxsize=64)
def _hash_of(path: Path, leave_out: tuple[str, ...] = ()) -> str:
    """Of every source file in a folder, or of one file."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    files = sorted(
        file for file in path.rglob("*") if file.suffix in SOURCES and file.relative_to(path).parts[0] not in leave_out
    )
    return digest([(str(file.relative_to(path)), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files])
