"""What failed stays failed until somebody asks for it again: with more time, or on a larger machine."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tests.project import TINY, lines_of_words, write_project

from foundry.cli.__main__ import main
from foundry.core.system.signals import StopRequest
from foundry.lab.ablation import Ablation
from foundry.lab.ledger import Ledger
from foundry.lab.sweep.lab import Lab
from foundry.lab.sweep.question import Question
from foundry.lab.sweep.reporter import Silent

BASELINE = f"""{TINY}
training: {{max_iters: 6, batch_size: 4, learning_rate: 1e-3, eval_interval: 0, eval_tokens: 512, threads: 1}}
"""
QUESTION = Question((((("activation", "relu2")),),))


class Machine:
    """Ends every trial at once; one of relu2 is `too slow` for it, or better by 0.05."""

    def __init__(self, ledger: Ledger, slow: bool) -> None:
        self.ledger, self.slow, self.trained = ledger, slow, 0

    def work(self, sweep: str, **_: Any) -> None:
        while attempt := self.ledger.claim("machine", sweep):
            self.trained += 1
            relu2 = attempt.trial.experiment["model_args"]["activation"]["type"] == "relu2"
            if relu2 and self.slow:
                self.ledger.fail(attempt, "timeout")
            else:
                noise = random.Random(f"{attempt.trial.identity} {attempt.trial.seed}").gauss(0, 0.005)
                self.ledger.finish(attempt, {"metrics": {"val_loss": 3.0 - 0.05 * relu2 + noise}})


@pytest.fixture
def project(working_folder: Path) -> Path:
    files = {"experiments/baseline.yaml": BASELINE, "corpus.txt": lines_of_words(300)}
    return write_project(working_folder, files)


def test_a_sweep_is_decided_again_with_what_had_failed_and_the_new_decision_stays(project: Path) -> None:
    def ask(*, slow: bool, retry: bool = False) -> tuple[str, str, int]:
        with Ledger.open(project) as ledger:
            machine = Machine(ledger, slow)
            result = Lab(project, ledger, 1, machine, Silent(), StopRequest(), retry).sweep(QUESTION)
            arm = result.conclusion.arm("activation relu2")
            return arm.verdict, arm.reason, machine.trained

    verdict, reason, trained = ask(slow=True)
    assert (verdict, trained) == ("reject", 12)  # 8 for the noise, and two pairs
    assert reason.endswith("timeout")
    assert ask(slow=False) == ("reject", reason, 0)  # nobody asked for it again
    assert ask(slow=True, retry=True) == ("reject", reason, 2)
    verdict, _, trained = ask(slow=False, retry=True)
    assert (verdict, trained >= 1) == ("promote", True)
    assert ask(slow=True)[::2] == ("promote", 0)
    assert ask(slow=True, retry=True)[::2] == ("promote", 0)


def test_an_ablation_fills_the_cells_that_had_failed(project: Path) -> None:
    def failures(*, slow: bool, retry: bool) -> tuple[int, int]:
        with Ledger.open(project) as ledger:
            machine = Machine(ledger, slow)
            done = Ablation.run(Lab(project, ledger, 1, machine, Silent(), StopRequest(), retry), QUESTION, seeds=2)
            return sum(len(cell.failures) for cell in done.cells), machine.trained

    assert failures(slow=True, retry=False) == (2, 4)
    assert failures(slow=False, retry=False) == (2, 0)
    assert failures(slow=False, retry=True) == (0, 2)
    assert failures(slow=True, retry=True) == (0, 0)


FRAGILE = """
from pathlib import Path
import torch
from foundry.core.contracts import ActivationParams, Variant

class Fragile(torch.nn.Module):
    def __init__(self, params, dims): super().__init__()
    def forward(self, x):
        if x.device.type != "meta" and Path("broken").exists():
            raise ValueError("it is broken")
        return x

VARIANTS = [Variant("activation", "fragile", f"{__name__}:Fragile", ActivationParams, "of a test")]
"""


@pytest.mark.parametrize(
    "command",
    [
        ["noise", "--seeds", "2"],
        ["ablate", "--axis", "lr=1e-4", "--seeds", "1"],
        ["sweep", "lr", "1e-4", "--max-pairs", "1"],
        ["evolve", "--max-trials", "12", "--proposals", "1"],
    ],
    ids=lambda command: command[0],
)
def test_retry_is_an_option_of_every_command_that_trains_trials(project: Path, command: list[str]) -> None:
    baseline = BASELINE.replace("block_size: 16", "block_size: 16, activation: fragile")
    write_project(project, {"experiments/baseline.yaml": baseline, "variants/fragile.py": FRAGILE})

    def statuses(*options: str) -> set[str]:
        main([*command, "--executor", "inline", *options])
        with Ledger.open(project) as ledger:
            return {row.status for row in ledger.trials()}

    (project / "broken").touch()
    assert statuses() == {"failed"}
    (project / "broken").unlink()
    assert "failed" in statuses()
    assert "failed" not in statuses("--retry")
