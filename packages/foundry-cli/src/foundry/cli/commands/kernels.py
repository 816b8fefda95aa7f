"""`foundry kernels build | check`."""

from __future__ import annotations

import typer

from foundry.cli import render
from foundry.cli.options import Json
from foundry.core.contracts import ExitCode

app = typer.Typer(help="Kernels that are faster than torch's own on a CPU.", no_args_is_help=True)


@app.command()
def build(json: Json = False) -> int:
    """Compile the kernels in C, if that was not done yet. Exit code 6 if it cannot be."""
    from foundry.core.kernels import native_kernels
    from foundry.kernels import build as building

    native = native_kernels()

    missing, suited = native.missing(), native.suited()
    kernels = [
        {"kernel": name, "here": not reason, "used_by_default": name in suited, "reason": reason}
        for name, reason in missing.items()
    ]

    def draw() -> None:
        rows = [(k["kernel"], k["here"], k["used_by_default"], k["reason"]) for k in kernels]
        render.table(("kernel", "can be had", "used by default", "why not"), rows)

    folder = str(building.folder())
    render.result({"folder": folder, "kernels": kernels}, draw, "foundry kernels check")
    return ExitCode.ENVIRONMENT if building.missing() else ExitCode.OK


@app.command()
def check(json: Json = False) -> int:
    """Compare each kernel with torch's own: results and speed. Exit code 1 if one is wrong."""
    from foundry.core.kernels import native_kernels
    from foundry.core.training.device import stay_within_quota
    from foundry.kernels.check import compare

    stay_within_quota()
    native_kernels()  # which says where they are kept
    found = compare()

    def draw() -> None:
        columns = ("kernel", "size", "error", "torch's error", "ms", "torch's ms", "times as fast")
        rows = [
            (
                *(c.kernel, c.size, f"{c.error:.1e}", f"{c.torch_error:.1e}"),
                *(f"{c.seconds * 1e3:.3f}", f"{c.torch_seconds * 1e3:.3f}", f"{c.ratio:.2f}"),
            )
            for c in found
        ]
        render.table(columns, rows)

    wrong = [c for c in found if c.is_wrong]
    render.result({"ok": not wrong, "comparisons": [c._asdict() | {"ratio": c.ratio} for c in found]}, draw)
    for c in wrong:
        by = f"{c.excess:.2g} times what rounding comes to at most"
        render.say(f"{c.kernel} is wrong at {c.size}, by {by}: set training.kernels=reference, and report it")
    return ExitCode.FAILURE if wrong else ExitCode.OK
