"""What commands show a person: signs, shares and rates, and the command that comes next."""

from __future__ import annotations

import json
import os
import re
from types import SimpleNamespace

import pytest

from foundry.cli import sweeps
from foundry.cli.__main__ import main
from foundry.cli.commands import bench, compare

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("promoted", "winner", "is_open", "step"),
    [
        (1, "a", False, "foundry lineage"),
        (None, "a", False, "foundry sweep norm layernorm --promote"),
        (None, None, True, "foundry sweep norm layernorm"),
        (None, None, False, "foundry mutate --list"),
    ],
)
def test_the_next_step_follows_from_how_a_sweep_ended(promoted, winner, is_open, step):
    conclusion = SimpleNamespace(winner=winner, is_open=is_open)
    result = SimpleNamespace(promoted=promoted, conclusion=conclusion)
    assert sweeps.next_step(result, "foundry sweep norm layernorm") == step


def test_a_comparison_is_drawn_as_b_against_a(capsys):
    entries = [
        SimpleNamespace(arm=arm, costs=dict.fromkeys(compare.COSTS, cost), flops=cost)
        for arm, cost in (("mine", 100.0), ("yours", 150.0))
    ]
    pairing = SimpleNamespace(plan=SimpleNamespace(entries=entries))
    compare._draw(SimpleNamespace(pairing=pairing, means=({"val_loss": 2.0}, {"val_loss": 2.05}), verdict="it is so"))
    shown = capsys.readouterr().out
    assert re.search(r"val_loss\s+2\.0000\s+2\.0500\s+\+0\.0500", shown)
    assert len(re.findall(r"x 1\.500", shown)) == 4
    assert "it is so" in shown


def test_a_setting_that_cannot_be_measured_has_the_reason_in_the_place_of_figures():
    choice = {"threads": 2, "kernels": "native", "precision": "bf16", "compile": True}
    speed = {"tokens_per_second": 12345.6, "step_seconds": 0.0123}
    assert bench._row(choice | speed) == ["2", "native", "bf16", "true", "12,346", "12.30", "n/a"]
    assert bench._row(choice | speed | {"mfu": 0.256})[-1] == "25.6%"
    assert bench._row(choice | {"error": "no compiler"}) == ["2", "native", "bf16", "true", "no compiler", "", ""]


def test_the_shares_of_a_models_parameters_are_of_all_of_them(tmp_path, monkeypatch, capsys):
    main(["init", str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["analyze"]) == 0
    *shares, total = [float(each) for each in re.findall(r"\s([0-9.]+)%", capsys.readouterr().out)]
    assert total == 100.0
    assert sum(shares) == pytest.approx(100, abs=0.5)


def test_runs_are_listed_oldest_first_with_their_newest_row(tmp_path, capsys):
    config = {"name": "x", "identity": "x", "seed": 1, "experiment": {}, "device": {}}
    for age, name in enumerate(("new", "a", "old")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        os.utime(tmp_path / name / "config.json", (10**9 - age, 10**9 - age))
        steps = "".join(json.dumps({"step": step, "train_loss": 9.0 - step}) + "\n" for step in range(1, 5 + age))
        (tmp_path / name / "metrics.jsonl").write_text(steps)
    assert main(["runs", "--folder", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["runs"]
    assert [(run["run"], run["step"], run["train_loss"]) for run in told] == [("old", 6, 3), ("a", 5, 4), ("new", 4, 5)]


def test_the_rate_of_null_sweeps_is_of_their_rounds(capsys):
    assert main(["sweep", "--null", "--simulate", "--rounds", "40", "--arms", "2", "--alpha", "0.4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rounds"], told["arms"], told["alpha"], told["sigma"]) == (40, 2, 0.4, 0.005)
    assert told["rate"] == told["false_promotions"] / 40 > 0
