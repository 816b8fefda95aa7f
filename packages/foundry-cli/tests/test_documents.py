"""With --json a command prints what docs/agents.md says: of commands that train nothing. Those that do are held to it
where they are tried: tests/test_sweep.py, tests/test_evolve_loop.py, test_compare.py and their neighbours."""

from __future__ import annotations

import json

import pytest
from tests.documents import faults, promised
from typer.main import get_command

from foundry.cli.__main__ import main
from foundry.cli.app import app

NOT_OURS = {"config schema"}  # others have laid down its form


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    assert main(["init", str(folder)]) == 0
    (folder / "experiments" / "other.yaml").write_text("extends: baseline.yaml\nmodel_args: {norm: layernorm}\n")
    return folder


def test_every_command_has_its_document_written_down():
    names = set(get_command(app).commands) - {"bench", "zoo", "config", "plugins", "kernels"}
    for group in ("bench", "zoo", "config", "plugins", "kernels", "runs"):
        names |= {f"{group} {each}" for each in get_command(app).commands[group].commands}
    titles = set(promised())
    assert {name for name in names if not any(f"{title} ".startswith(f"{name} ") for title in titles)} == NOT_OURS


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("init", "init another"),
        ("analyze", "analyze"),
        ("mutate", "mutate norm layernorm --dry-run"),
        ("mutate --list", "mutate --list norm"),
        ("sweep --null", "sweep --null --simulate --arms 2"),
        ("doctor", "doctor"),
        ("zoo list", "zoo list"),
        ("config show", "config show"),
        ("config inline", "config inline"),
        ("config reference", "config reference"),
        ("config diff", "config diff experiments/baseline.yaml experiments/other.yaml"),
        ("plugins list", "plugins list"),
        ("plugins new", "plugins new squared-x made"),
        ("kernels build", "kernels build"),
        ("runs", "runs"),
        ("lineage", "lineage"),
        ("query", "query"),
        ("report", "report"),
    ],
)
def test_a_document_holds_what_is_written_down(project, monkeypatch, capsys, name, words):
    monkeypatch.chdir(project)
    assert main([*words.split(), "--json"]) == 0
    assert faults(name, json.loads(capsys.readouterr().out)) == []


def test_a_key_that_is_missing_or_new_is_told():
    document = {"schema_version": 1, "differences": [{"key": "a", "before": 1}], "same": True}
    assert faults("config diff", document) == [
        "config diff has no same_identity",
        "config diff differences has no after",
        "config diff has same, which is not written down",
    ]
