"""What the trials of a sweep compute on: device, precision, threads of each, kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from foundry.core.config import Experiment
from foundry.core.contracts import Edits, EnvironmentFailure


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
