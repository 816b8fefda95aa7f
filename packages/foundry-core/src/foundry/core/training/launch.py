"""`--nproc N`: start N ranks of this command on this machine, pass signals on, and answer with one exit status."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

from foundry.core.contracts import EnvironmentFailure, ExitCode
from foundry.core.system.machine import available_cores
from foundry.core.system.parents import CHILD, PYTHON
from foundry.core.system.refusals import way_out
from foundry.core.system.signals import INSISTING, heeded

# A dead rank's peers notice at their next collective; after this many seconds they are stopped.
GRACE_SECONDS = 30.0


def launch(arguments: Sequence[str], nproc: int) -> int:
    """Run `python -m foundry.cli ARGUMENTS` as `nproc` ranks.

    Returns:
        0 if every rank ended well, 75 if they were stopped with a checkpoint, 128 + the signal's number if it came
        before there was one to save, else the status of the first rank that failed for a reason of its own.

    Raises:
        EnvironmentFailure: this account may start no more processes.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        **os.environ,
        **CHILD,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(nproc),
        "LOCAL_WORLD_SIZE": str(nproc),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, available_cores() // nproc))),
    }
    command = [*PYTHON, "-m", "foundry.cli", *arguments]
    ranks: list[subprocess.Popen[bytes]] = []
    asked: list[int] = []  # signals that were passed on

    def forward(number: int, _frame: object) -> None:
        insists = bool(asked) and number in INSISTING
        asked.append(number)
        for rank in ranks:
            if insists:
                rank.kill()
            else:
                _ask_to_stop(rank)

    previous = {number: signal.signal(number, forward) for number in heeded()}
    try:
        for r in range(nproc):
            # A session of their own: Ctrl-C reaches the ranks once, through us.
            environment = {**common, "RANK": str(r), "LOCAL_RANK": str(r)}
            ranks.append(subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True))
            if asked:  # before this one was there
                _ask_to_stop(ranks[-1])
        return _supervise(ranks, asked)
    except OSError as error:
        raise EnvironmentFailure(f"rank {len(ranks)} cannot be started: {error.strerror}", way_out(error)) from error
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for rank in ranks:  # none of them is left, but where one could not be started
            rank.kill()


def _ask_to_stop(rank: subprocess.Popen[bytes]) -> None:
    """By a line on its standard input, and not by a signal: who stops us may stop every process of the container, and
    two signals end a rank at once. While it has not begun to read, there is nothing that it could lose."""
    assert rank.stdin is not None
    with suppress(OSError):  # it has ended
        rank.stdin.write(b"stop\n")
        rank.stdin.flush()


def _supervise(ranks: list[subprocess.Popen[bytes]], asked: Sequence[int]) -> int:
    deadline = None
    while any(rank.poll() is None for rank in ranks):
        if deadline is None and any(rank.poll() not in (None, 0, ExitCode.STOPPED) for rank in ranks):
            deadline = time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            for rank in ranks:
                if rank.poll() is None:
                    rank.kill()
        time.sleep(0.05)
    statuses = [rank.returncode for rank in ranks]
    if asked and any(code in (-signal.SIGTERM, 128 + signal.SIGTERM, -signal.SIGKILL) for code in statuses):
        return 128 + asked[0]  # while they started, or because they were asked twice
    # A rank that lost its peer (7) is a consequence; the peer's own status is the reason, unless a signal ate it.
    reasons = [code for code in statuses if code > 0 and code not in (ExitCode.PEER_FAILED, ExitCode.STOPPED)]
    if reasons:
        return reasons[0]
    if any(code < 0 or code == ExitCode.PEER_FAILED for code in statuses):
        return ExitCode.PEER_FAILED
    return max(statuses)
