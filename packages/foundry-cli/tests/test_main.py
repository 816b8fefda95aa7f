"""The frame around every command: what goes to stdout and stderr, the exit codes, and what is not imported."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.processes import ENVIRONMENT, assert_light, foundry
from tests.project import write_project

from foundry.cli import __main__ as entry
from foundry.cli import interrupts, render
from foundry.cli.app import app
from foundry.cli.progress import BarReporter, reporter
from foundry.core.config import load_experiment
from foundry.core.contracts import ExitCode, InvalidData, InvalidExperiment, PluginError, Stopped


@pytest.fixture
def project(tmp_path):
    assert entry.main(["init", str(tmp_path)]) == 0
    return tmp_path


@pytest.fixture
def failing(monkeypatch):
    """A command that raises what it is given."""

    def install(error: BaseException) -> None:
        def fail(json: bool = False) -> None:
            raise error

        monkeypatch.setattr(app, "registered_commands", list(app.registered_commands))
        app.command("fail")(fail)

    return install


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (InvalidExperiment("a.yaml:3:1: seeed: unknown", "did you mean seed?"), 3, "a.yaml:3:1: seeed: unknown"),
        (PluginError("it is broken", "mend it"), 4, "it is broken"),
        (Stopped("saved at step 7", "run again"), 75, "saved at step 7"),
        (PermissionError(13, "Permission denied", "runs/x"), 6, "Permission denied: runs/x"),
        (OSError(28, "No space left on device"), 6, "No space left on device"),
        (KeyError("lost"), 1, "internal error: KeyError: 'lost'"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_each_failure_has_its_exit_code_and_its_words(failing, capsys, monkeypatch, error, code, words):
    monkeypatch.delenv("FOUNDRY_DEBUG", raising=False)
    failing(error)
    assert entry.main(["fail"]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err
    assert "Traceback" not in shown.err
    if code != 1:
        assert entry.main(["fail", "--json"]) == code
        told = json.loads(capsys.readouterr().err)
        assert told["schema_version"] == 1
        assert told["error"]["exit_code"] == code
        assert told["error"]["kind"] == ExitCode(code).name.lower()
        assert words in told["error"]["message"]


ENTRIES = {
    "python -m foundry.cli": [sys.executable, "-m", "foundry.cli"],
    "foundry": [sys.executable, "-c", "import sys; from foundry.cli.__main__ import main; sys.exit(main())"],
}


@pytest.mark.parametrize(
    ("entry_point", "imported"),
    [
        ("foundry", "typer"),
        ("python -m foundry.cli", "pydantic"),
        ("foundry", "foundry.cli.app"),
        ("python -m foundry.cli", "numpy"),
        ("foundry", "torch.nn"),
    ],
)
def test_ctrl_c_while_python_imports_is_one_line_and_exit_130(project, entry_point, imported):
    """Python tells of each module as soon as it is imported: SIGINT comes right after, while the next one is."""
    command = [*ENTRIES[entry_point], "analyze"]
    process = subprocess.Popen(
        command,
        cwd=project,
        env=ENVIRONMENT | {"PYTHONPROFILEIMPORTTIME": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell's background job, which the tests may be, ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    words, sent = [], False
    for line in map(bytes.decode, process.stderr):
        if not line.startswith("import time:"):
            words.append(line)
        elif not sent and line.rpartition("|")[2].strip() == imported:
            process.send_signal(signal.SIGINT)
            sent = True
    assert sent, f"{imported} is not imported"
    assert process.wait() == 130
    assert words == ["interrupted\n"]


ENDS = {
    "it raises": "signal.raise_signal(number)",
    "a library takes it for its own": """
    try:
        signal.raise_signal(number)
    except KeyboardInterrupt as interrupt:
        raise ImportError("numpy") from interrupt""",
    "a library swallows it": """
    try:
        signal.raise_signal(number)
    except BaseException:
        pass""",
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("becomes", ENDS)
def test_a_signal_is_the_exit_code_whatever_becomes_of_it(number, becomes):
    """typer makes 130 of all three, as if it had been Ctrl-C."""
    script = f"""
import signal, sys
from foundry.cli import __main__ as entry
from foundry.cli.app import app
@app.command()
def ends(number: int) -> None:
    {ENDS[becomes].strip()}
sys.exit(entry.main())"""

    def as_a_shell_does() -> None:
        for each in (signal.SIGINT, signal.SIGHUP):
            signal.signal(each, signal.SIG_DFL)

    command = [sys.executable, "-c", script, "ends", str(int(number))]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, preexec_fn=as_a_shell_does)
    words = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "the terminal is gone"}
    assert (done.returncode, done.stderr) == (128 + number, f"{words[number]}\n")


def test_what_fails_where_python_cannot_raise_is_told_as_python_tells_it(monkeypatch):
    told = []
    monkeypatch.setattr("sys.__unraisablehook__", told.append)
    failure = SimpleNamespace(exc_value=ValueError("in a finalizer"))
    interrupts._unraisable(failure)
    assert told == [failure]


@pytest.mark.parametrize("command", [["export", "run", "--to", "hf", "out"], ["generate", "run"]])
def test_what_is_noted_while_a_run_is_read_is_told(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)

    def load_run(run, checkpoint=None, *, note, **_):
        note("step_4 is damaged: step_2 is read instead")
        raise InvalidData("step_2 is damaged, too")

    for place in ("foundry.core.loading.load_run", "foundry.core.load_run"):
        monkeypatch.setattr(place, load_run)
    assert entry.main(command) == 3
    assert capsys.readouterr().err.splitlines() == [
        *("step_4 is damaged: step_2 is read instead", "error: step_2 is damaged, too")
    ]


def test_what_others_print_is_no_part_of_a_document(capsys):
    render.use_json(True)
    try:
        with render.own_stdout():
            print("a plugin says so")
            render.result({"found": 1}, lambda: None)
        print("after it")
    finally:
        render.use_json(False)
    shown = capsys.readouterr()
    document, _, rest = shown.out.partition("}\n")
    assert json.loads(document + "}")["found"] == 1
    assert (rest, shown.err) == ("after it\n", "a plugin says so\n")


def test_the_end_of_a_file_is_an_error_with_words(failing, capsys, monkeypatch):
    """Of which typer makes an Abort, and would say nothing."""
    monkeypatch.delenv("FOUNDRY_DEBUG", raising=False)
    failing(EOFError("Compressed file ended before the end-of-stream marker was reached"))
    assert entry.main(["fail"]) == 1
    assert "Compressed file ended" in capsys.readouterr().err


def test_debug_shows_the_traceback(failing, monkeypatch):
    monkeypatch.setenv("FOUNDRY_DEBUG", "1")
    failing(KeyError("lost"))
    with pytest.raises(KeyError):
        entry.main(["fail"])


@pytest.mark.parametrize(
    "arguments", [["no-such-command"], ["plugins", "lst"], ["init", "--nope"], ["mutate"], ["ablate"]]
)
def test_a_wrong_command_line_is_exit_2_in_words_and_in_json(capsys, arguments):
    assert entry.main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert entry.main([*arguments, "--json"]) == 2
    shown = capsys.readouterr()
    assert (shown.out, json.loads(shown.err)["error"]["kind"]) == ("", "usage")


@pytest.mark.parametrize("group", [[], ["plugins"]])
def test_a_group_without_a_command_shows_its_help(capsys, group):
    assert entry.main(group) == 2
    assert capsys.readouterr().err.startswith("Usage: foundry")
    assert entry.main([*group, "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["exit_code"] == 2


def test_the_list_of_commands_says_in_one_whole_line_what_each_does(capsys):
    assert entry.main(["--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:")[2].splitlines()
    assert len(listed) > 20
    assert [line for line in listed if line.endswith("...")] == []


def test_help_offers_no_value_that_is_refused(capsys):
    assert entry.main(["generate", "--help"]) == 0
    about = " ".join(capsys.readouterr().out.partition("--top-p")[2].partition("--greedy")[0].split())
    assert "above 0, at most 1" in about
    assert "0.0<=" not in about


def test_a_reader_who_leaves_ends_the_command_quietly(project):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "foundry.cli", "config", "schema"]
    done = subprocess.run(command, cwd=project, env=ENVIRONMENT, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr


LIGHT = [
    ["--help"],
    ["--version"],
    ["train", "--help"],
    ["plugins", "list"],
    ["plugins", "list", "--json"],
    ["mutate", "--list"],
    ["mutate", "attention", "mha"],
    ["config", "show"],
    ["config", "schema"],
]


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_light_commands_import_neither_torch_nor_numpy_nor_rich(project, arguments):
    assert_light(*arguments, cwd=project)


def test_the_version_is_told_without_pydantic(project):
    """A third of the time would be its import. A command with options has it anyway: typer reads them by it."""
    script = (
        "import sys; from foundry.cli.__main__ import main; main(['--version']); sys.exit('pydantic' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=project, env=ENVIRONMENT, check=True)


def test_a_mutation_that_changes_nothing_writes_nothing_and_says_so_in_one_line(project):
    before = sorted(project.rglob("*"))
    done = foundry("mutate", "attention", "gqa_2kv", cwd=project)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [
        "note: nothing changes, so no file is written: baseline has attention gqa_2kv already",
        "next: foundry mutate --list",
    ]
    told = json.loads(foundry("mutate", "attention", "gqa_2kv", "--json", cwd=project).stdout)
    assert (told["path"], told["changes"]) == (None, [])
    assert sorted(project.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["mutate", "depth", "-3"], 3, "needs a whole number >= 1"),
        (["mutate", "lr", "-1e-3", "--dry-run"], 3, "needs a number > 0"),
        (["mutate", "depth", "-3", "--nope"], 2, "--nope"),
        (["mutate", "depth", "-x"], 2, "No such option: -x"),
        (["sweep", "depth", "-3", "--nope", "--dry-run"], 2, "--nope"),
    ],
)
def test_a_negative_number_is_a_value_that_its_range_refuses(project, monkeypatch, capsys, arguments, code, words):
    monkeypatch.chdir(project)
    assert entry.main(arguments) == code
    assert words in capsys.readouterr().err


def test_completion_offers_types_and_the_variants_of_a_type_and_runs_none(project):
    source = "from foundry.core.contracts import ActivationParams, Variant\nopen('ran', 'w').close()\n"
    source += "VARIANTS = [Variant('activation', 'mine', f'{__name__}:Mine', ActivationParams)]\n"
    write_project(project, {"variants/mine.py": source})

    def complete(line: str) -> set[str]:
        words = line.split(" ")
        shell = {"_FOUNDRY_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        done = foundry(cwd=project, **shell, FOUNDRY_PLUGINS="local")
        return set(done.stdout.split())

    assert {"attention", "norm"} <= complete("foundry mutate ")
    assert complete("foundry mutate attention gqa_") >= {"gqa_1kv", "gqa_2kv"}
    assert "mha" not in complete("foundry mutate attention gqa_")
    assert complete("foundry mutate activation mi") == {"mine"}
    assert not (project / "ran").exists()


def test_a_table_is_whole_values_between_tabs_off_a_terminal_and_drawn_on_one(project):
    lines = foundry("plugins", "list", cwd=project).stdout.splitlines()
    assert {line.count("\t") for line in lines} == {3}
    assert any("attention mha" in line and "schedule" in line for line in lines)  # nothing is cut off

    primary, secondary = pty.openpty()
    command = [sys.executable, "-m", "foundry.cli", "plugins", "list"]
    process = subprocess.Popen(
        command, cwd=project, env=ENVIRONMENT | {"TERM": "xterm"}, stdout=secondary, stderr=subprocess.DEVNULL
    )
    os.close(secondary)
    drawn = b""
    try:
        while chunk := os.read(primary, 4096):
            drawn += chunk
    except OSError:  # Linux reports the closed terminal so
        pass
    assert process.wait() == 0
    assert "─" in drawn.decode()
    assert "\t" not in drawn.decode()


@pytest.fixture
def gone():
    """A terminal that was closed: whatever is written there fails."""
    ours, theirs = pty.openpty()
    with open(theirs, "w") as terminal:
        assert terminal.isatty()
        yield terminal, lambda: os.close(ours)


def test_what_is_drawn_on_a_terminal_that_is_gone_goes_nowhere(gone, monkeypatch):
    """A training under nohup goes on."""
    terminal, close = gone
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    plan = {"run": "runs/x", "parameters": 1, "device": "cpu", "precision": "fp32", "threads": 1, "steps": 2, "step": 0}
    with reporter() as bar:
        assert isinstance(bar, BarReporter)
        bar.started(plan)
        close()
        bar.step({"step": 1, "train_loss": 1.0, "val_loss": 1.0}, 0.5, 1.0)
        bar.note("still there")
        bar.finished({})


def test_a_result_for_a_terminal_that_is_gone_is_a_closed_pipe(gone, monkeypatch):
    terminal, close = gone
    monkeypatch.setattr(sys, "stdout", terminal)
    close()
    assert entry.main(["config", "schema"]) == 141


def test_init_writes_the_repositorys_baseline_once(tmp_path):
    done = foundry("init", str(tmp_path), "--json")
    baseline = tmp_path / "experiments" / "baseline.yaml"
    told = json.loads(done.stdout)
    assert told["written"]
    assert told["next"].endswith("foundry train")
    repository = Path(__file__).parents[3] / "experiments" / "baseline.yaml"
    assert load_experiment(baseline).identity == load_experiment(repository).identity
    assert "# lineage:" not in baseline.read_text()  # a new project has no past
    baseline.write_text("# mine\n")
    assert not json.loads(foundry("init", str(tmp_path), "--json").stdout)["written"]
    assert baseline.read_text() == "# mine\n"


def test_init_with_a_text_of_ones_own(tmp_path):
    (tmp_path / "my notes.txt").write_text("the hen on the hill " * 60)
    (tmp_path / "texts").mkdir()
    for here, text, path in (
        ("own", "my notes.txt", "../my notes.txt"),
        (".", "my notes.txt", "my notes.txt"),
        ("b", "texts", "../texts"),
        ("c", "*.txt", "../*.txt"),
        ("d", str(tmp_path / "texts"), str(tmp_path / "texts")),
    ):
        assert foundry("init", here, "--text", text, cwd=tmp_path).returncode == 0
        experiment = load_experiment(tmp_path / here / "experiments" / "baseline.yaml")
        assert (experiment.data.dataset.variant.name, experiment.data.dataset.path) == ("text", path)
        assert experiment.logging.sample_prompt == ""
    refused = foundry("init", "e", "--text", "nowhere.txt", cwd=tmp_path)
    assert (refused.returncode, "there is no such file or folder" in refused.stderr) == (3, True)
    assert not (tmp_path / "e").exists()


def test_config_show_is_a_complete_experiment_with_the_same_identity(project):
    shown = foundry("config", "show", "--set", "training.learning_rate=3e-4", cwd=project)
    (project / "whole.yaml").write_text(shown.stdout)
    told = json.loads(
        foundry("config", "diff", "experiments/baseline.yaml", "whole.yaml", "--json", cwd=project).stdout
    )
    assert [row["key"] for row in told["differences"]] == ["training.learning_rate"]
    told = json.loads(foundry("config", "show", "--json", cwd=project).stdout)
    assert told["experiment"]["training"]["learning_rate"] == 3e-3
    assert len(told["identity"]) == 64


def test_doctor_tells_what_is_installed(project, monkeypatch, capsys):
    done = foundry("doctor", "--json", cwd=project)
    told = json.loads(done.stdout)
    assert told["packages"].keys() >= {"foundry-core", "foundry-cli"}
    assert told["torch"]
    assert (done.returncode, told["ok"]) in [(0, True), (6, False)]
    monkeypatch.chdir(project)
    monkeypatch.setenv("FOUNDRY_CACHE", "/proc/none")
    capsys.readouterr()
    assert entry.main(["doctor", "--json"]) == 6
    assert "/proc/none" in json.loads(capsys.readouterr().out)["reasons"][0]
    monkeypatch.setenv("FOUNDRY_CACHE", "~/cache")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # of an account without a home folder
    assert entry.main(["doctor", "--json"]) == 6
    assert "this account has no home folder" in json.loads(capsys.readouterr().out)["reasons"][0]


def test_a_broken_plugin_is_a_remark_and_not_a_failure(project):
    write_project(project, {"variants/broken.py": "import no_such_module\n"})
    done = foundry("plugins", "list", cwd=project, FOUNDRY_PLUGINS="")
    assert done.returncode == 0
    assert "plugin problem: local (broken): cannot be imported" in done.stderr
    assert foundry("plugins", "check", "local", cwd=project, FOUNDRY_PLUGINS="").returncode == 4
