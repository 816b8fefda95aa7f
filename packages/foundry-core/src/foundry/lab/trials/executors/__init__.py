"""What trains the trials of a sweep: the slot `executor`.

    local    warm processes on this machine
    inline   the calling process, one trial after the other

Another one - Slurm, Ray - is a plugin that starts workers (`Site.worker`), not trials. What it is built with and what
it must do is in foundry.core.contracts.
"""

from __future__ import annotations

from pydantic import Field

from foundry.core.contracts import Params, Slot, Variant

SLOT = Slot("executor", "", "local", "what trains the trials of a sweep")


class LocalParams(Params):
    grace_seconds: float = Field(
        60.0,
        gt=0,
        description="for a worker to finish its step and save after a stop of the sweep, before it is killed",
    )


VARIANTS = [
    Variant(
        "executor", "local", "foundry.lab.trials.executors.local:Local", LocalParams, "warm processes on this machine"
    ),
    Variant(
        "executor", "inline", "foundry.lab.trials.executors.inline:Inline", summary="the calling process, for debugging"
    ),
]
