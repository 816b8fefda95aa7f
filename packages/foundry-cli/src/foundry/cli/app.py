"""The command tree, in the order of the loop. A command is a thin module under commands/: its signature is the
interface, and what is slow to import is imported inside the function, so that `foundry --help` answers at once."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from foundry.cli import render
from foundry.cli.commands import (
    ablate,
    analyze,
    bench,
    compare,
    config,
    doctor,
    evolve,
    export,
    generate,
    init,
    kernels,
    lineage,
    lr_find,
    mutate,
    noise,
    plugins,
    query,
    report,
    rollback,
    runs,
    sweep,
    train,
    why,
    zoo,
)
from foundry.cli.options import TakesNumbers

app = typer.Typer(
    name="foundry",
    help="A lab for language-model architectures: mutate -> train -> evaluate -> promote -> repeat.",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich help takes 70 ms more to print
    pretty_exceptions_enable=False,
)

app.command()(init.init)
app.command()(train.train)
app.command(cls=TakesNumbers)(mutate.mutate)
app.command(cls=TakesNumbers)(sweep.sweep)
app.command()(ablate.ablate)
app.command()(evolve.evolve)
app.command()(noise.noise)
app.command()(generate.generate)
app.command()(export.export)
app.command()(analyze.analyze)
app.add_typer(runs.app, name="runs")
app.command()(lineage.lineage)
app.command()(why.why)
app.command()(query.query)
app.command()(rollback.rollback)
app.command()(report.report)
app.command()(compare.compare)
app.command("lr-find")(lr_find.lr_find)
app.add_typer(bench.app, name="bench")
app.command()(doctor.doctor)
app.add_typer(zoo.app, name="zoo")
app.add_typer(config.app, name="config")
app.add_typer(plugins.app, name="plugins")
app.add_typer(kernels.app, name="kernels")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        render.line(f"foundry {version('foundry-cli')}")
        raise typer.Exit


@app.callback()
def foundry(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if debug:
        os.environ["FOUNDRY_DEBUG"] = "1"  # the environment, so that workers and other ranks follow
