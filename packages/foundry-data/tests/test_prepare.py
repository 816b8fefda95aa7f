"""Preparing a corpus: once, whole or not at all, and never silently other than it was."""

from __future__ import annotations

import importlib
import itertools
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from foundry.core.contracts import EnvironmentFailure, ExitCode, InvalidData
from foundry.data.corpora import TextParams
from foundry.data.params import DataParams
from foundry.data.prepare import Prepared, prepare
from foundry.data.tokenize import BPEParams, ByteTokenizer

DATA = DataParams(dataset=TextParams(path="texts"), tokenizer=BPEParams(vocab_size=280))


@pytest.fixture(autouse=True)
def texts() -> None:
    Path("texts").mkdir()
    for i in range(25):
        Path(f"texts/{i}.txt").write_text(f"document {i} says hello hello world\n" * (i + 1))


def _prepare(**keywords: object) -> tuple[Prepared, list[str]]:
    said: list[str] = []
    return prepare(DATA, progress=said.append, **keywords), said  # type: ignore[arg-type]


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_corpus_is_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first, said = _prepare()
    assert said[-1].startswith("prepared 25 documents (text ")
    lengths = [len(file.read_text()) for file in Path("texts").iterdir()]
    told = {"documents": 25, "characters": sum(lengths), "val_fraction": DATA.val_fraction}
    assert {key: first.manifest["origin"][key] for key in told} == told
    monkeypatch.setattr("foundry.data.prepare._tokenize", None)
    monkeypatch.setattr("foundry.data.tokenize.bpe.BPETokenizer.fit", lambda *_: pytest.fail("learned again"))
    again, said = _prepare()
    assert said == []
    assert again.fingerprint == first.fingerprint
    assert again.tokenizer.hash == first.tokenizer.hash


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [_cut, _flip, Path.unlink, lambda file: file.write_bytes(b"")])
@pytest.mark.parametrize("name", ["train-00000.bin", "validation-00000.bin", "train.documents.bin", "manifest.json"])
def test_a_damaged_file_is_named_and_the_corpus_prepared_again(name: str, damage: Callable[[Path], object]) -> None:
    first, _ = _prepare()
    whole = _contents(first.folder)
    damage(first.folder / name)
    again, said = _prepare()
    assert re.search(rf"{re.escape(name)}: .*; preparing the corpus again", said[0])
    assert again.fingerprint == first.fingerprint
    assert _contents(again.folder) == whole


def test_a_damaged_tokenizer_is_named_and_learned_again(cache: Path) -> None:
    first, _ = _prepare()
    [file] = (cache / "tokenizers").iterdir()
    _flip(file)
    again, said = _prepare()
    assert re.search(rf"{re.escape(str(file))}: .*; learning it again", said[0])
    assert again.tokenizer.hash == first.tokenizer.hash


def test_an_edit_that_keeps_size_and_time_is_seen() -> None:
    first, _ = _prepare()
    file = Path("texts/7.txt")
    times = file.stat()
    file.write_text(file.read_text().replace("hello", "jello"))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert _prepare()[0].fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("module", "said"),
    [("tokenize.bpe", ["learning", "prepared"]), ("corpora.text", ["learning", "prepared"])],
)
def test_what_edited_code_reads_or_encodes_is_prepared_anew(
    module: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where, as here, the text and its ids come out as before."""
    first, _ = _prepare()
    edited = importlib.import_module(f"foundry.data.{module}")
    Path("edited.py").write_bytes(Path(str(edited.__file__)).read_bytes() + b"# an edit\n")
    monkeypatch.setattr(edited, "__file__", "edited.py")
    again, lines = _prepare()
    assert [line.split()[0] for line in lines] == said
    assert again.folder != first.folder
    assert again.fingerprint == first.fingerprint


def test_another_choice_is_another_corpus_beside_the_first() -> None:
    first, _ = _prepare()
    for change in ({"tokenizer": BPEParams(vocab_size=290)}, {"val_fraction": 0.4}):
        said: list[str] = []
        other = prepare(DATA.model_copy(update=change), progress=said.append)
        assert [line.split()[0] for line in said] == ["learning", "prepared"]
        assert other.fingerprint != first.fingerprint
        assert other.tokenizer.vocab_size == getattr(change.get("tokenizer"), "vocab_size", 280)
    assert _prepare()[1] == []


def test_it_says_how_far_it_is_and_not_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count(step=0.4)  # what a look at the clock takes
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    _, said = _prepare()
    shares = [int(line.removesuffix(" %").rpartition(" ")[2]) for line in said if line.endswith(" %")]
    assert shares == sorted(shares)
    assert 0 < shares[0] < 40 < 80 < shares[-1] <= 100
    assert 4 <= len(shares) <= 10  # of 25 documents, each of which takes 0.4 seconds or more


def test_a_longer_vocabulary_is_not_cut_to_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wide(ByteTokenizer):
        special_tokens = {"bos": 2**16}  # noqa: RUF012
        vocab_size = 2**16 + 1

    rows = prepare(DATA, tokenizer=Wide()).part("train")
    assert rows.windows(rows.documents[:1], rows.documents[:1] + 1, 1).tolist() == [[2**16]]


def test_an_id_that_the_model_has_no_row_for_is_refused() -> None:
    class Narrow(ByteTokenizer):
        vocab_size = ord("y")  # of says: the largest of all

    with pytest.raises(InvalidData, match=r"0\.txt: the tokenizer gave ids outside its vocabulary of 121"):
        prepare(DATA, tokenizer=Narrow())


def test_a_tokenizer_that_loses_text_is_found_out_by_file_and_place() -> None:
    class Capitals:  # as somebody's plugin may be
        vocab_size, special_tokens, hash = 256, {}, "capitals"

        def encode(self, text: str) -> list[int]:
            return list(text.upper().encode())

        def decode_bytes(self, ids: list[int]) -> bytes:
            return bytes(ids)

    with pytest.raises(InvalidData, match=r"0\.txt: the tokenizer would read 'document 0', .* as 'DOCUMENT 0'"):
        prepare(DATA, tokenizer=Capitals())  # type: ignore[arg-type]


# Faults, in real processes.

PROGRAM = """
import os, signal, sys
from foundry.data.corpora import TextParams
from foundry.data.params import DataParams
from foundry.data.prepare import prepare
from foundry.data.tokenize import BPEParams
{setup}
data = DataParams(dataset=TextParams(path="texts"), tokenizer=BPEParams(vocab_size=280))
print(prepare(data, progress=lambda line: print(line, file=sys.stderr)).fingerprint)
"""


def _start(setup: str = "", **keywords: object) -> subprocess.Popen[str]:
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-c", PROGRAM.format(setup=setup)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **keywords,
    )


@pytest.mark.parametrize("nth_sync", [1, 2, 4, 6, 7, 8])
def test_killed_at_any_write_it_leaves_nothing_that_is_taken_for_whole(nth_sync: int, cache: Path) -> None:
    expected, _ = _prepare()
    whole = _contents(expected.folder)
    shutil.rmtree(cache)
    killed = _start(
        "real, count = os.fsync, []\n"
        "def fsync(descriptor):\n"
        "    count.append(1)\n"
        f"    os.kill(os.getpid(), signal.SIGKILL) if len(count) == {nth_sync} else real(descriptor)\n"
        "os.fsync = fsync"
    )
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    again, said = _prepare()
    assert not any("damaged" in line for line in said)
    assert _contents(again.folder) == whole
    assert not list((cache / "corpora").glob("*.part"))


def test_of_several_processes_one_prepares_and_all_agree(cache: Path) -> None:
    slow = "import time, foundry.data.prepare as p; real = p._write\np._write = lambda *a: (time.sleep(1), real(*a))"
    processes = [_start(slow) for _ in range(3)]
    outputs = [process.communicate() for process in processes]
    assert len({out for out, _ in outputs}) == 1, outputs
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum("prepared 25 documents" in said for _, said in outputs) == 1
    assert sorted(path.suffix for path in (cache / "corpora").iterdir()) == ["", ".lock"]


def test_two_may_write_one_file_at_the_same_time() -> None:
    """As two that learn the same tokenizer do."""
    program = (
        "import sys; from pathlib import Path; from foundry.data.storage import write_atomically\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for i in range(100): write_atomically(Path('one'), bytes([65 + i % 26]) * 9999)"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    writers = [subprocess.Popen([sys.executable, "-c", program], text=True, **pipes) for _ in range(2)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    told = [writer.communicate()[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], told
    assert set(Path("one").read_bytes()) == {65 + 99 % 26}


def test_a_full_disk_is_an_environment_failure_and_leaves_nothing_behind(cache: Path) -> None:
    full = _start(
        "from foundry.core.contracts import EnvironmentFailure\n"
        "def report(kind, error, trace):\n"
        "    print(error); sys.stdout.flush(); os._exit(error.exit_code)\n"
        "sys.excepthook = report",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
    )
    out, err = full.communicate()
    assert full.returncode == ExitCode.ENVIRONMENT, err
    assert re.search(r"cannot write .*: File too large\n  free some space, or set FOUNDRY_CACHE", out)
    left = [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert [path.parent.name for path in left] in ([], ["tokenizers"])
    _prepare()


def test_a_cache_that_cannot_be_written_is_named() -> None:
    Path("file").touch()
    with pytest.raises(EnvironmentFailure, match=r"cannot write .*file") as refused:
        prepare(DATA.model_copy(update={"cache": "file/cache"}))
    assert "FOUNDRY_CACHE" in refused.value.hint


def test_the_plugin_is_listed_without_numpy() -> None:
    program = "import sys, foundry.data.plugin as p; p.foundry_variants(), p.foundry_slots(), p.foundry_sections()\n"
    program += "print({'torch', 'numpy', 'tiktoken', 'rustbpe'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout == "set()\n", ran.stderr
