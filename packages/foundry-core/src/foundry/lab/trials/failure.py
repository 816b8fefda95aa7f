"""What a failure says of an arm: the reason why it has none but failures; or nothing, where the machine is to blame."""

from __future__ import annotations

from foundry.core.blame import explained
from foundry.core.contracts import EnvironmentFailure, FoundryError, InternalError, PluginError, Stopped
from foundry.core.limits import is_out_of_memory


def is_the_machines(error: BaseException) -> bool:
    """Whether another arm would fail in the same way, and this one would not elsewhere: a full disk, a stop. A model
    too large for the memory is the arm's own."""
    if not isinstance(error, Stopped | EnvironmentFailure):
        return False
    return error.__cause__ is None or not is_out_of_memory(error.__cause__)


def reason_of(error: BaseException) -> str:
    """The failure in one line, as the ledger keeps it: `Diverged: not finite at step 3`, and of code that fails, where
    it does."""
    failure = explained(error)
    words = "; ".join(line.strip() for line in failure.message.splitlines())
    return words if is_of_code(failure) else f"{type(failure).__name__}: {words}"


def is_of_code(failure: FoundryError) -> bool:
    """Whether somebody's code is to blame, and no value or file."""
    return isinstance(failure, PluginError | InternalError)
