"""Every way to fail that a user can act on, and the exit code of each."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What a `foundry` command's exit status means."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    INVALID = 3  # the experiment or the data
    PLUGIN = 4
    NOT_PROMOTED = 5  # `sweep --promote` finished without a promotion
    ENVIRONMENT = 6  # no GPU, no disk, no memory
    PEER_FAILED = 7  # another rank died
    STOPPED = 75  # by a signal, with a saved checkpoint (EX_TEMPFAIL: run again to go on)
    SIGHUP = 129
    SIGINT = 130
    SIGTERM = 143


class FoundryError(Exception):
    """An error with a way out: `message` says what is wrong and where, `hint` what to do."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILURE

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UsageError(FoundryError):
    """The command line asks for something that does not exist."""

    exit_code = ExitCode.USAGE


class InvalidExperiment(FoundryError):
    """An experiment file that cannot be trained; `message` holds one `file:line:column: ...` line per problem."""

    exit_code = ExitCode.INVALID


class InvalidData(FoundryError):
    """A corpus, tokenizer, checkpoint or run folder that cannot be used."""

    exit_code = ExitCode.INVALID


class PluginError(FoundryError):
    """A plugin that the experiment needs is broken, missing or in conflict."""

    exit_code = ExitCode.PLUGIN


class InternalError(FoundryError):
    """A fault of Foundry's own, which no one can act on but its authors."""


class EnvironmentFailure(FoundryError):
    """The machine cannot do it: no such device, disk full, out of memory, folder not writable."""

    exit_code = ExitCode.ENVIRONMENT


class Diverged(FoundryError):
    """The loss or a gradient is not finite."""


class PeerFailed(FoundryError):
    """Another rank of a distributed run died or does not answer."""

    exit_code = ExitCode.PEER_FAILED


class Stopped(FoundryError):
    """Stopped by a signal after saving a checkpoint; the same command goes on from there."""

    exit_code = ExitCode.STOPPED


def text_of(error: BaseException) -> str:
    """What an error says, of which not even that is certain: its author may have written `__str__`."""
    try:
        return str(error)
    except Exception as another:
        return f"(its text cannot be had: {type(another).__name__})"
