"""`foundry doctor`."""

from __future__ import annotations

from foundry.cli import render
from foundry.cli.options import Json
from foundry.core.contracts import ExitCode


def doctor(json: Json = False) -> int:
    """Show what this machine and installation have, for a bug report.

    Exits with code 6, and the reasons, if nothing can be trained here. Loads the plugins, and so runs the project's
    variants/*.py; FOUNDRY_PLUGINS=-local leaves those out.
    """
    from foundry.cli.diagnosis import diagnose

    facts, reasons = diagnose()

    def draw() -> None:
        render.table(("what", "found"), [(name, _words(value)) for name, value in facts.items()])
        for reason in reasons:
            render.say(f"problem: {reason}")

    data = {"ok": not reasons, "reasons": reasons, **facts}
    render.result(data, draw, "" if reasons else "foundry train")
    return ExitCode.ENVIRONMENT if reasons else ExitCode.OK


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "yes" if value is True else "no" if value is False else str(value)
