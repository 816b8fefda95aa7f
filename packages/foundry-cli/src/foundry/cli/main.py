"""One frame around every command, in which each way to fail has its words and its exit code (see
`foundry.core.contracts.ExitCode`)."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence

import typer

from foundry.cli import render
from foundry.cli.app import app
from foundry.cli.interrupts import CODES, Interrupt, Interruptible
from foundry.core.blame import blamed, explained
from foundry.core.contracts import ExitCode, FoundryError, InternalError, PluginError
from foundry.core.system.refusals import refusal

CLOSED_PIPE = 141  # 128 + SIGPIPE, as a shell reports it


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    # Read here and not from the parsed options, so that a command line which does not parse fails in JSON as well.
    render.use_json("--json" in arguments)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - closed by whoever started us: `foundry runs >&-`
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows "?"
    try:
        with Interruptible(), render.own_stdout():
            code = int(app(list(arguments), prog_name="foundry", standalone_mode=False) or ExitCode.OK)
            render.flush()
        return _interrupted(Interrupt(code - 128)) if code in CODES else code
    except FoundryError as failure:
        if debugging():
            raise
        return _told(failure)
    except typer.TyperException as failure:
        return _usage(failure)
    except KeyboardInterrupt as interrupt:
        return _interrupted(interrupt)
    except typer.Abort as failure:  # typer's word for the end of a file
        return _unexpected(failure.__cause__ or failure)
    except render.ClosedPipe:
        render.drop(sys.stdout)
        return CLOSED_PIPE
    except SystemExit as ended:  # of completion; or of a plugin, which may not end our process
        place, _ = blamed(ended)
        if place is None or not place.distribution or debugging():
            raise
        return _unexpected(ended)
    except Exception as failure:
        if debugging():
            raise
        return _unexpected(failure)
    finally:
        render.use_json(False)  # who calls this in a process of theirs prints as before


def debugging() -> bool:
    return os.environ.get("FOUNDRY_DEBUG", "") not in ("", "0")


def _interrupted(interrupt: KeyboardInterrupt) -> int:
    code = 128 + getattr(interrupt, "number", signal.SIGINT)
    render.error(str(interrupt) or "interrupted", "", code)
    return code


def _usage(failure: typer.TyperException) -> int:
    context = getattr(failure, "ctx", None)
    command = context.command_path if context else "foundry"
    if context and failure.message == context.get_help():  # a group without a command
        if render.wants_json():
            render.error(f"{command}: which command?", f"see `{command} --help`", failure.exit_code)
        else:
            render.say(failure.message)
        return failure.exit_code
    render.error(failure.format_message(), f"see `{command} --help`", failure.exit_code)
    return failure.exit_code


def _unexpected(failure: BaseException) -> int:
    """Unexpected errors: the machine's fault, a plugin's, or our own."""
    return _told(refusal(failure) or explained(failure), reason=failure)


def _told(failure: FoundryError, reason: BaseException | None = None) -> int:
    """The error as its reader sees it. `reason`: what was raised, where the words are another's."""
    hint = failure.hint
    if isinstance(failure, PluginError | InternalError) and (reason or failure.__cause__):
        hint = f"{hint}\n`foundry --debug ...` shows the traceback".strip()
    render.error(failure.message, hint, failure.exit_code)
    return failure.exit_code
