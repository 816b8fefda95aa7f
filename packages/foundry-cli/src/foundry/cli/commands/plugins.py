"""`foundry plugins list | check | new`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foundry.cli import render
from foundry.cli.options import Json
from foundry.core.contracts import ExitCode

app = typer.Typer(help="List, check and write plugins.", no_args_is_help=True)


@app.command("list")
def list_plugins(json: Json = False) -> None:
    """List the installed plugins, and the broken ones.

    Listing loads the plugins: the project's variants/*.py are run. FOUNDRY_PLUGINS=a,b loads only those plugins,
    FOUNDRY_PLUGINS=-a all but that one, FOUNDRY_PLUGINS=-local none of the project's files.
    """
    from foundry.core.registry import registry
    from foundry.core.registry.table import label

    found = registry()
    plugins = [
        {
            "distribution": plugin.distribution,
            "version": plugin.version,
            "plugin": plugin.name,
            "module": plugin.module,
            "contributes": [label(contribution) for contribution in plugin.contributions],
        }
        for plugin in found.plugins
    ]
    broken = [vars(problem) for problem in found.problems]

    def draw() -> None:
        render.table(
            ("distribution", "version", "plugin", "contributes"),
            [(p["distribution"], p["version"][:12], p["plugin"], ", ".join(p["contributes"])) for p in plugins],
        )
        render.problems(found.problems)

    data = {"fingerprint": found.fingerprint(), "plugins": plugins, "problems": broken}
    render.result(data, draw, "foundry mutate --list")


@app.command()
def check(
    plugin: Annotated[
        str, typer.Argument(help="A distribution, `local`, a plugin's folder, or variants/FILE.py; all by default.")
    ] = "",
    json: Json = False,
) -> int:
    """Test a plugin. Tests what listing it imports, and everything that a model needs from each of its variants.

    Every variant is built with its default settings, and tested by the conformance kit of its slot: shapes,
    gradients, causality, decoding from the cache, a checkpoint and back, and more. Exit code 4 if anything fails.
    """
    from foundry.core.registry import registry
    from foundry.core.registry.check import check, find_plugins
    from foundry.core.testing.conform import conform
    from foundry.core.training.device import stay_within_quota

    stay_within_quota()
    found, plugins = find_plugins(plugin, registry())
    rows = [(each, result) for each in plugins for result in (*check(each, found), *conform(each, found))]
    loaded = {each.distribution for each in plugins}  # their problems are among their checks
    broken = [] if plugin else [problem for problem in found.problems if problem.distribution not in loaded]
    faults = sum(bool(result.fault) for _, result in rows) + len(broken)

    def draw() -> None:
        render.table(
            ("plugin", "contribution", "check", "result"),
            [(f"{each.distribution} ({each.name})", it.contribution, it.name, _result(it)) for each, it in rows],
        )
        render.problems(broken)
        render.say(f"{len(rows)} checks of {len(plugins)} plugins, {faults} faults")

    data = {
        "ok": not faults,
        "checks": [
            {
                "distribution": each.distribution,
                "plugin": each.name,
                "contribution": result.contribution,
                "check": result.name,
                "fault": result.fault,
                "place": result.place,
                "note": result.note,
            }
            for each, result in rows
        ],
        "problems": [vars(problem) for problem in broken],
    }
    render.result(data, draw)
    return ExitCode.PLUGIN if faults else ExitCode.OK


def _result(check: Any) -> str:
    if check.fault:
        return f"{check.place}: {check.fault}" if check.place else check.fault
    return check.note or "ok"


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The variant's name: squared-silu.")],
    folder: Annotated[Path, typer.Argument(help="Where to make the plugin's folder.")] = Path("."),
    json: Json = False,
) -> None:
    """Write a plugin to start from."""
    from foundry.cli.scaffold import write_plugin

    made = write_plugin(name, folder)

    def draw() -> None:
        for path in made.files:
            render.line(str(path))

    data = {
        "folder": str(made.folder),
        "distribution": made.distribution,
        "variant": made.variant,
        "files": [str(path) for path in made.files],
    }
    render.result(data, draw, f"uv pip install -e {made.folder} && foundry plugins check {made.distribution}")
