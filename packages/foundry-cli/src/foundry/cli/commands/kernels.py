"""`foundry kernels build | check`."""

from __future__ import annotations

import typer

from foundry.cli import render
from foundry.cli.options import Json
from foundry.core.contracts import ExitCode

app = typer.Typer(help="Kernels that are faster or need less memory than torch's own.", no_args_is_help=True)


@app.command()
def build(json: Json = False) -> int:
    """Compile the kernels in C, if that was not done yet. Exits with code 6 if it fails."""
    from foundry.core.kernels import native_kernels
    from foundry.kernels import build as building

    native = native_kernels()
    kernels = [
        {
            "kernel": kernel.op,
            "device": kernel.device,
            "dtypes": [str(dtype).removeprefix("torch.") for dtype in kernel.dtypes],
            "used": kernel.when,
            "here": not (reason := kernel.missing()),
            "used_by_default": not reason and kernel.suits(),
            "reason": reason,
        }
        for kernel in native.KERNELS
    ]

    def draw() -> None:
        columns = ("kernel", "device", "dtypes", "used", "can be had", "used by default", "why not")
        render.table(columns, [[" ".join(v) if isinstance(v, list) else v for v in k.values()] for k in kernels])

    folder = str(building.folder())
    render.result({"folder": folder, "kernels": kernels}, draw, "foundry kernels check")
    return ExitCode.ENVIRONMENT if building.missing() else ExitCode.OK


@app.command()
def check(json: Json = False) -> int:
    """Compare each kernel with torch's own operators: results and speed. Exits with code 1 if one is wrong."""
    from foundry.core.kernels import native_kernels
    from foundry.core.training.device import stay_within_quota
    from foundry.kernels.check import compare

    stay_within_quota()
    native = native_kernels()  # which says where they are kept
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
        way_out = "set training.kernels=reference, and report it" if c.kernel in native.BY_NAME else "report it"
        render.say(f"{c.kernel} is wrong at {c.size}, by {by}: {way_out}")
    return ExitCode.FAILURE if wrong else ExitCode.OK
