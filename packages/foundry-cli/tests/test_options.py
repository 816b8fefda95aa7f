"""Every option of every command changes what reaches the core, and only what it is about.

A command is called with and without an option. What does the work is replaced by functions that write down how they
were called; the difference between the two calls has to be what the table says. An option that is not in the table
fails, and so does one that changes nothing, or something else as well.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import Any

import pytest
from typer.main import get_command

from foundry.cli import render
from foundry.cli.__main__ import main
from foundry.cli.app import app
from foundry.core.config import Experiment
from foundry.core.config.budget import Budget
from foundry.core.contracts import UsageError
from foundry.core.run import Run
from foundry.lab.comparison import Pairing
from foundry.lab.report import Report
from foundry.lab.search.settings import SearchSettings
from foundry.lab.sweep.lab import Lab

COMPARED = SimpleNamespace(comparison=SimpleNamespace(choice="first"))
TWO: Any = SimpleNamespace(entries=(SimpleNamespace(arm="a"), SimpleNamespace(arm="b")))
PAIRING = Pairing(TWO, differences=(), made_equal=(), remarks=())
NOTHING_YET: Any = {"trials": [], "generations": []}


class Reached(BaseException):
    """A call of what ends the command here."""


END = Reached()
THROUGH = object()

SEAMS: dict[str, Any] = {
    # what does a command's work -> what it returns here; END: nothing; THROUGH: what it really does
    "foundry.core.config.load_experiment": THROUGH,
    "foundry.core.config.budget.with_budget": THROUGH,
    "foundry.core.training.train": END,
    "foundry.core.training.plan": END,
    "foundry.core.training.evaluate_run": END,
    "foundry.core.training.launch.launch": END,
    "foundry.core.training.vocab_size_of": 7,
    "foundry.core.training.padding_of": 0.0,
    "foundry.core.training.bench.bench": END,
    "foundry.core.training.side_by_side.bench_steps": END,
    "foundry.core.training.side_by_side.bench_attention": END,
    "foundry.core.analyze.analyze": {},
    "foundry.core.inline.inline": ("", 0.0),
    "foundry.lab.learning_rate.lr_find": {"sets": []},
    "foundry.core.config.mutate.list_mutations": END,
    "foundry.core.config.write_yaml.write_experiment": END,
    "foundry.lab.decide.simulate.simulate_null": END,
    "foundry.lab.ablation.Ablation.run": SimpleNamespace(sweep="", rows=lambda: [{"arm": "a"}], to_json=dict),
    "foundry.lab.search.settings.SearchSettings.last": SearchSettings(seed=99),
    "foundry.lab.search.evolve.evolve": END,
    "foundry.lab.search.evolve.preview": END,
    "foundry.lab.comparison.Pairing.of": PAIRING,
    "foundry.lab.comparison.Pairing.preview": END,
    "foundry.lab.comparison.Pairing.run": COMPARED,
    "foundry.core.loading.load_run": (None, None, SimpleNamespace(to=lambda kept: kept)),
    "foundry.core.generate.stream_text": END,
    "foundry.core.generate.continuations": END,
    "foundry.lab.report.Report.of": Report(NOTHING_YET),
    "foundry.lab.report.Report.html": "",
    "foundry.zoo.export": END,
    "foundry.zoo.hub.pull": END,
    "foundry.zoo.convert.convert": END,
    "foundry.zoo.convert.experiment_from": {},
    "foundry.core.config.write_yaml.to_yaml": "",
    "foundry.zoo.check.tokenizer_differences": [],
    "foundry.zoo.check.check": END,
    "foundry.cli.plots.draw_costs": None,
    "foundry.cli.plots.draw_range_test": None,
    "foundry.cli.plots.draw_effects": None,
    "foundry.cli.plots.draw_comparison": None,
    "foundry.cli.outputs.write": None,
    "foundry.cli.scaffold.baseline": THROUGH,
    "foundry.cli.commands.runs._agreed": True,
    "foundry.core.run.find_run": Run(Path("r")),
    "foundry.core.run.Run.label": None,
    "foundry.core.run.Run.config": {},
    "foundry.core.run.move_folder": None,
    "shutil.rmtree": None,
    "webbrowser.open": True,
    "foundry.cli.render.result": END,
}
WORK = ("sweep", "resume", "noise", "dry_run", "null_sweeps")
"""What a lab does, and a command then ends here."""
UNSAID = (
    "reporter", "note", "tell", "figures", "content", "data", "draw", "next_step", "ledger", "lab", "project",
    "experiments",
)  # fmt: skip
"""Parameters that are the same whatever is asked, or follow from the others."""

BASES: dict[str, tuple[str, ...]] = {
    # command -> the arguments with which its options are tried, where it needs some
    "train --eval-only": ("experiments/baseline.yaml",),
    "mutate": ("norm", "layernorm"),
    "sweep": ("norm", "layernorm"),
    "ablate": ("--axis", "norm=layernorm"),
    "generate": ("runs/r",),
    "export": ("runs/r", "out"),
    "sweep --null": (),
    "sweep --null --simulate": (),
    "sweep --resume": (),
    "compare": ("experiments/baseline.yaml", "experiments/other.yaml"),
    "zoo pull": ("gpt2",),
    "zoo convert": ("gpt2", "--run", "converted"),
    "zoo check": ("gpt2",),
    "runs rm": ("r",),
    "runs tag": ("r", "keep"),
    "runs note": ("r", "good"),
    "runs rename": ("r", "best"),
}
LAB = {
    # of every command that trains trials
    "--jobs": ("3", {"open_lab.jobs": 3}),
    "--executor": ("inline", {"open_lab.executor": "inline"}),
    "--trial-seconds": ("7", {"open_lab.trial_seconds": 7.0}),
    "--retry": (None, {"open_lab.retry": True}),
}
SIDE_BY_SIDE = {
    # of what holds models against each other
    "--set": ("seed=5", {"load_experiment.sets": ["seed=5"]}),
    "--base": ("experiments/other.yaml", {"load_experiment.path": Path("experiments/other.yaml")}),
}
FOLDER = {"--folder": ("other", {"find_run.folder": Path("other")})}
TABLE: dict[str, dict[str, tuple[str | None, dict[str, Any] | str]]] = {
    # command line -> option -> (its value, what that changes). Either all parameters that change, as they arrive; or
    # what is called, +function or +function.parameter=value; or what is called no more, -function
    "train": {
        "--set": ("seed=5", {"load_experiment.sets": ["seed=5"]}),
        "--budget": ("9 steps", "+with_budget.budget=9 steps"),
        "--out": ("runs/x", {"train.out": Path("runs/x")}),
        "--resume": ("must", {"train.resume": "must"}),
        "--nproc": ("2", "+launch.nproc=2"),
        "--eval-only": (None, "+evaluate_run"),
        "--profile": (None, {"train.profile": True}),
        "--dry-run": (None, "+plan"),
    },
    "train --eval-only": {
        "--eval-only": (None, "+evaluate_run"),
        "--out": ("runs/x", {"evaluate_run.path": Path("runs/x")}),
    },
    "train --dry-run": {"--out": ("runs/x", {"plan.out": Path("runs/x")})},
    "mutate": {
        "--base": ("experiments/other.yaml", {"load_experiment.path": Path("experiments/other.yaml")}),
        "--list": (None, "+list_mutations"),
        "--dry-run": (None, "-write_experiment"),
    },
    "sweep": {
        **LAB,
        "--axis": ("depth=3,4", {"sweep.question.stacks": tuple((("norm", "layernorm"), ("depth", d)) for d in "34")}),
        "--seeds": ("3", {"sweep.question.rule.screening_seeds": 3}),
        "--budget": ("2k tokens", {"sweep.question.budget": Budget("tokens", 2000.0)}),
        "--set": ("training.grad_clip=0.5", {"sweep.question.sets": ("training.grad_clip=0.5",)}),
        "--lr-grid": ("0.5,2", {"sweep.question.lr_factors": (0.5, 2.0)}),
        "--metric": ("val_bpb", {"sweep.question.rule.metric": "val_bpb"}),
        "--eval-task": ("letters", {"sweep.question.tasks": ("letters",), "sweep.question.rule.metric": "letters"}),
        "--promote": (None, {"sweep.promote": True}),
        "--accept-cost": (
            "kv_bytes_per_token=0.25",
            {"sweep.question.rule.cost": "kv_bytes_per_token", "sweep.question.rule.cost_factor": 4.0},
        ),
        "--confirm-at": ("depth=2x", {"sweep.question.rule.confirm_at": "depth=2x"}),
        "--delta": ("0.03", {"sweep.question.rule.delta": 0.03}),
        "--alpha": ("0.01", {"sweep.question.rule.alpha": 0.01}),
        "--max-pairs": ("5", {"sweep.question.rule.n_max": 5}),
        "--dry-run": (None, "+dry_run"),
    },
    "sweep --null": {
        "--null": (None, "+null_sweeps"),
        "--rounds": ("3", {"null_sweeps.rounds": 3}),
        "--arms": ("5", {"null_sweeps.arms": 5}),
        "--alpha": ("0.01", {"null_sweeps.question.rule.alpha": 0.01}),
    },
    "sweep --null --simulate": {
        "--simulate": (None, "+simulate_null"),
        "--sigma": ("0.02", {"simulate_null.sigma": 0.02}),
        "--rounds": ("3", {"simulate_null.rounds": 3}),
        "--arms": ("5", {"simulate_null.arms": 5}),
        "--alpha": ("0.01", {"simulate_null.rule.alpha": 0.01}),
    },
    "sweep --resume": {"--resume": (None, "+resume"), "--promote": (None, {"resume.promote": True})},
    "ablate": {
        **LAB,
        "--axis": ("depth=3", {"Ablation.run.question.stacks": ((("norm", "layernorm"), ("depth", "3")),)}),
        "--seeds": ("3", {"Ablation.run.seeds": 3}),
        "--csv": ("a.csv", "+write.path=a.csv"),
        "--plot": ("a.png", "+draw_effects.path=a.png"),
        "--budget": ("9 steps", {"Ablation.run.question.budget": Budget("max_iters", 9.0)}),
        "--set": ("training.grad_clip=0.5", {"Ablation.run.question.sets": ("training.grad_clip=0.5",)}),
        "--metric": ("val_bpb", {"Ablation.run.question.rule.metric": "val_bpb"}),
        "--eval-task": (
            "letters",
            {"Ablation.run.question.tasks": ("letters",), "Ablation.run.question.rule.metric": "letters"},
        ),
    },
    "evolve": {
        **LAB,
        "--max-hours": ("2", {"evolve.limits.hours": 2.0}),
        "--max-trials": ("40", {"evolve.limits.trials": 40}),
        "--max-flops": ("1e12", {"evolve.limits.flops": 1e12}),
        "--proposer": ("random", {"evolve.settings.proposer": "random"}),
        "--seed": ("5", {"evolve.settings.seed": 5}),
        "--proposals": ("3", {"evolve.settings.policy.proposals": 3}),
        "--budget": ("9 steps", {"evolve.settings.budget": Budget("max_iters", 9.0)}),
        "--set": ("training.grad_clip=0.5", {"evolve.settings.sets": ("training.grad_clip=0.5",)}),
        "--strict": (
            None,
            {
                f"evolve.settings.policy.{name}": n
                for name, n in (("margin", 0), ("first_stack", 1), ("largest_stack", 1))
            },
        ),
        "--metric": ("val_bpb", {"evolve.settings.rule.metric": "val_bpb"}),
        "--eval-task": ("letters", {"evolve.settings.tasks": ("letters",), "evolve.settings.rule.metric": "letters"}),
        "--delta": ("0.03", {"evolve.settings.rule.delta": 0.03}),
        "--alpha": ("0.01", {"evolve.settings.rule.alpha": 0.01}),
        "--max-pairs": ("5", {"evolve.settings.rule.n_max": 5}),
        "--confirm-at": ("depth=2x", {"evolve.settings.rule.confirm_at": "depth=2x"}),
        "--dry-run": (None, "+preview"),
        "--resume": (None, {"evolve.settings.seed": 99, "SearchSettings.last": True}),
    },
    "evolve --strict": {"--proposals": ("3", {"evolve.settings.policy.proposals": 3})},
    "noise": {
        **LAB,
        "--seeds": ("3", {"noise.seeds": 3}),
        "--budget": ("9 steps", {"noise.question.budget": Budget("max_iters", 9.0)}),
        "--set": ("training.grad_clip=0.5", {"noise.question.sets": ("training.grad_clip=0.5",)}),
        "--metric": ("val_bpb", {"noise.question.rule.metric": "val_bpb"}),
        "--eval-task": ("letters", {"noise.question.tasks": ("letters",), "noise.question.rule.metric": "letters"}),
    },
    "generate": {
        "--prompt": ("once", {"stream_text.prompt": "once"}),
        "--max-tokens": ("9", {"stream_text.max_tokens": 9}),
        "--ignore-eos": (None, {"stream_text.ignore_eos": True}),
        "--temperature": ("0.3", {"stream_text.sampling.temperature": 0.3}),
        "--top-k": ("4", {"stream_text.sampling.top_k": 4}),
        "--top-p": ("0.6", {"stream_text.sampling.top_p": 0.6}),
        "--greedy": (None, {"stream_text.sampling.temperature": 0.0}),
        "--seed": ("5", {"stream_text.seed": 5}),
        "--checkpoint": ("best", {"load_run.checkpoint": "best"}),
        "--device": ("cuda", {"load_run.device": "cuda"}),
    },
    "generate --prompt=a --prompt=b": {
        "--max-tokens": ("9", {"continuations.max_tokens": 9}),
        "--ignore-eos": (None, {"continuations.ignore_eos": True}),
        "--top-k": ("4", {"continuations.sampling.top_k": 4}),
        "--seed": ("5", {"continuations.seed": 5}),
    },
    "export": {
        "--to": ("gguf", "refused"),  # there is one format, so far
        "--checkpoint": ("best", {"load_run.checkpoint": "best"}),
        "--architecture": ("llama", {"export.architecture": "llama"}),
        "--dtype": ("bfloat16", "+export.model=torch.bfloat16"),
        "--max-shard": ("0.5", {"export.max_shard_bytes": 500_000_000}),
    },
    "analyze": {
        "--set": ("seed=5", {"load_experiment.sets": ["seed=5"]}),
        "--vocab-size": ("99", {"analyze.vocab_size": 99}),
        "--plot": ("a.png", "+draw_costs.path=a.png"),
    },
    "report": {
        "--out": ("other.html", "+write.path=other.html"),
        "--open": (None, "+open"),
    },
    "compare": {
        **LAB,
        "--jobs": ("3", {"open_lab.jobs": 3, "Pairing.of.jobs": 3}),
        "--seeds": ("5", {"Pairing.of.rule.n_max": 5}),
        "--budget": ("9 steps", {"Pairing.of.budget": Budget("max_iters", 9.0)}),
        "--set": ("training.grad_clip=0.5", {"load_experiment.sets": ["training.grad_clip=0.5"]}),
        "--metric": ("val_bpb", {"Pairing.of.rule.metric": "val_bpb"}),
        "--delta": ("0.03", {"Pairing.of.rule.delta": 0.03}),
        "--plot": ("a.png", "+draw_comparison.path=a.png"),
        "--dry-run": (None, "+Pairing.preview"),
    },
    "lr-find": {
        "--set": ("seed=5", {"load_experiment.sets": ["seed=5"]}),
        "--low": ("1e-4", {"lr_find.low": 1e-4}),
        "--high": ("0.5", {"lr_find.high": 0.5}),
        "--steps": ("30", {"lr_find.steps": 30}),
        "--plot": ("a.png", "+draw_range_test.path=a.png"),
    },
    "bench choices": {
        "--set": ("seed=5", {"load_experiment.sets": ["seed=5"]}),
        "--seconds": ("0.5", {"bench.seconds": 0.5}),
    },
    "bench step": {
        **SIDE_BY_SIDE,
        "--lengths": ("16,32", {"bench_steps.lengths": [16, 32]}),
        "--rounds": ("3", {"bench_steps.rounds": 3}),
        "--axis": ("norm=layernorm", {"bench_steps.vocab_sizes": {"baseline": 7, "norm layernorm": 7}}),
    },
    "bench attention": {
        **SIDE_BY_SIDE,
        "--lengths": ("16,32", {"bench_attention.lengths": [16, 32]}),
        "--rounds": ("3", {"bench_attention.rounds": 3}),
    },
    "zoo pull": {"--revision": ("abc", {"pull.revision": "abc"})},
    "zoo convert": {
        "--run": ("other", "+convert.out=other"),
        "--experiment": ("new.yaml", "+write.path=new.yaml"),
        "--dtype": ("float16", {"convert.dtype": "float16"}),
        "--block-size": ("64", {"convert.block_size": 64}),
    },
    "zoo convert --experiment=new.yaml": {
        "--block-size": ("64", {"convert.block_size": 64, "experiment_from.block_size": 64}),
    },
    "zoo check": {"--tokens": ("9", {"check.tokens": 9}), "--tolerance": ("0.5", {"check.tolerance": 0.5})},
    "init": {"--text": ("experiments", {"baseline.text": "./experiments"})},
    "runs rm": {
        **FOLDER,
        "--checkpoints": (
            None,
            {
                "rmtree.path": Path("r/checkpoints"),
                "_agreed.question": "remove the checkpoints of r?",
            },
        ),
        "--yes": (None, "-_agreed"),
    },
    "runs tag": {**FOLDER, "--off": (None, {"Run.label.tags": []})},
    "runs note": FOLDER,
    "runs rename": FOLDER,
    "config show": {"--set": ("seed=5", {"load_experiment.sets": ["seed=5"]})},
    "config inline": {
        "--set": ("seed=5", {"load_experiment.sets": ["seed=5"]}),
        "--out": ("model.py", "+write.path=model.py"),
    },
}
EVERYWHERE = {"--json", "--help"}  # test_json.py calls every command with it


@pytest.fixture(scope="module")
def calls(tmp_path_factory) -> Iterator[Callable[[tuple[str, ...]], dict[str, Any]]]:
    """Runs a command line in a project: every parameter with which something of SEAMS, or the lab, was called."""
    project = tmp_path_factory.mktemp("project")
    main(["init", str(project)])
    (project / "r" / "checkpoints").mkdir(parents=True)
    (project / "experiments" / "other.yaml").write_text("extends: baseline.yaml\nmodel_args: {n_layer: 1}\n")
    found: dict[str, Any] = {}

    def watched(name: str, real: Callable[..., Any], returned: Any) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            found[name] = True
            for parameter, value in inspect.signature(real).bind(*arguments, **named).arguments.items():
                if parameter not in (*UNSAID, "self"):
                    found.update(flat(f"{name}.{parameter}", value))
            if returned is END:
                raise END
            return real(*arguments, **named) if returned is THROUGH else returned

        return call

    @contextmanager
    def open_lab(project: Path, **asked: Any) -> Iterator[Any]:
        found.update({f"open_lab.{name}": value for name, value in asked.items() if name not in UNSAID})
        ledger = SimpleNamespace(trials=lambda *_, **__: [])
        work = {each: watched(each, getattr(Lab, each).__get__(object()), END) for each in WORK}
        yield SimpleNamespace(ledger=ledger, reporter=SimpleNamespace(note=lambda text: None), **work)

    def run(line: tuple[str, ...]) -> dict[str, Any]:
        found.clear()
        render.use_json(False)
        with suppress(Reached):
            get_command(app)(list(line), prog_name="foundry", standalone_mode=False)
        return dict(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.setattr("foundry.lab.sweep.lab.open_lab", open_lab)
        for place, returned in SEAMS.items():
            owner, _, name = place.rpartition(".")
            real = getattr(resolve_name(owner), name)
            patch.setattr(resolve_name(owner), name, watched(real.__qualname__, real, returned))
        yield cache(run)


def flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The fields of a dataclass that holds others; anything else as it is."""
    if is_dataclass(value) and not isinstance(value, Experiment | Budget):
        for each in fields(value):
            yield from flat(f"{name}.{each.name}", getattr(value, each.name))
    elif not isinstance(value, Experiment | SimpleNamespace):
        yield name, value


def commands(group: Any, *words: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *words, name)
        else:
            yield " ".join((*words, name)), command


def declared() -> dict[str, set[str]]:
    """The options of each command."""
    return {
        name: {option for each in command.params if each.param_type_name == "option" for option in each.opts}
        for name, command in commands(get_command(app))
    }


def named(table: dict[str, Any], command: str) -> set[str]:
    """Those that are tried of it, alone or beside others."""
    return {option for line, tried in table.items() if line.split(" --")[0] == command for option in tried}


def test_every_option_of_every_command_is_tried():
    assert {name: options - EVERYWHERE - named(TABLE, name) for name, options in declared().items()} == {
        name: set() for name in declared()
    }
    assert all("--json" in options for options in declared().values())


@pytest.mark.parametrize(("line", "option"), [(line, option) for line, tried in TABLE.items() for option in tried])
def test_an_option_changes_what_it_is_about_and_nothing_else(calls, line, option):
    value, expected = TABLE[line][option]
    command, *beside = line.split(" --")
    beside = [f"--{each}" for each in beside if f"--{each}" != option]
    before = (*command.split(), *BASES.get(line, BASES.get(command, ())), *beside)
    after = (*before, option, *(() if value is None else (value,)))
    if expected == "refused":
        assert main(after) == 2
        return
    without, given = calls(before), calls(after)
    assert without
    if isinstance(expected, dict):
        changed = {key for key in {*without, *given} if "." in key and without.get(key) != given.get(key)}
        assert {key: given.get(key) for key in changed} == expected
    elif expected.startswith("-"):
        assert expected[1:] in without.keys() - given.keys()
    else:
        key, _, told = expected[1:].partition("=")
        assert str(given[key]).endswith(told)
        assert without.get(key) != given[key]


def test_the_options_before_a_command(capsys, monkeypatch):
    monkeypatch.setenv("FOUNDRY_DEBUG", "")
    root = {option for each in get_command(app).params for option in each.opts}
    assert root - EVERYWHERE == {"--version", "--debug", "--install-completion", "--show-completion"}
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("foundry ")
    with pytest.raises(UsageError):
        main(["--debug", "mutate"])
