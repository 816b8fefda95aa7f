"""Corpora: which text they give, and how text that cannot be used is answered."""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from foundry.core.config import from_plain
from foundry.core.contracts import EnvironmentFailure, ExitCode, FoundryError, InvalidData, InvalidExperiment, Params
from foundry.data.corpora import Document, ShakespeareCharParams, StdlibParams, TextParams
from foundry.data.corpora.stdlib import MODULES
from foundry.data.params import DataParams, variant_of
from foundry.data.prepare import prepare
from foundry.data.rows import open_data
from foundry.data.tokenize import CharParams, CharTokenizer

pytestmark = pytest.mark.quick


def _dataset(params: Params, cache: Path = Path("cache")):  # type: ignore[no-untyped-def]
    return variant_of(params).load()(params, cache)


def _documents(params: Params) -> list[Document]:
    return list(_dataset(params).documents())


def test_the_standard_library_is_several_megabytes_of_text_that_every_interpreter_has() -> None:
    documents = _documents(StdlibParams())
    names = [name for name, _ in documents]
    assert 4e6 < sum(len(text) for _, text in documents) < 2e7
    assert names == sorted(names)
    assert not [name for name in names if {"test", "tests"} & set(name.split("/"))]
    present = {name.split("/")[0].removesuffix(".py") for name in names}
    assert len(present) > 0.95 * len(MODULES)  # a distribution may leave a few out
    assert _dataset(StdlibParams()).fingerprint == _dataset(StdlibParams()).fingerprint


def test_a_folder_s_text_files_in_the_order_of_their_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".hidden").mkdir()
    monkeypatch.chdir(tmp_path / ".hidden")  # what is above the folder that one asks for does not matter
    monkeypatch.setenv("HOME", str(Path.cwd()))
    for name in ("b.txt", "a/z.MD", "a/b.py", "c.png", ".hidden/x.txt", ".x.txt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(f"I am {name}")
    for here in (".", "~", str(Path.cwd())):
        assert [name for name, _ in _documents(TextParams(path=here))] == ["a/b.py", "a/z.MD", "b.txt"]
    assert [name for name, _ in _documents(TextParams(path=".", glob="*.png"))] == ["c.png"]
    assert _documents(TextParams(path="b.txt")) == [Document("b.txt", "I am b.txt")]


def test_files_that_a_pattern_names_and_that_are_packed() -> None:
    for name in ("notes/a.txt", "notes/deep/b.md", "notes/.c.txt", "other/d.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(f"I am {name}")
    Path("notes/e.txt.gz").write_bytes(gzip.compress(b"I am ") + gzip.compress(b"packed"))
    assert [name for name, _ in _documents(TextParams(path="n*/**/*.md"))] == ["notes/deep/b.md"]
    assert [name for name, _ in _documents(TextParams(path="*/*.txt"))] == ["notes/a.txt", "other/d.txt"]
    folder = _documents(TextParams(path="notes"))
    assert [name for name, _ in folder] == ["a.txt", "deep/b.md", "e.txt.gz"]
    assert folder[-1].text == "I am packed"
    assert _documents(TextParams(path="notes/e.txt.gz"))[0].text == "I am packed"
    Path("notes/[1].txt").write_text("a name, and no pattern")
    assert _documents(TextParams(path="notes/[1].txt"))[0].text == "a name, and no pattern"


def test_a_byte_order_mark_goes_and_everything_else_stays() -> None:
    Path("a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n\n\xef\xbb\xbfthree")
    assert _documents(TextParams(path="a.txt"))[0].text == "one\r\ntwo\n\n\ufeffthree"


def test_the_fingerprint_is_of_the_content_and_its_order_not_of_names_and_times() -> None:
    for folder, texts in (("a", "xy"), ("b", "xy"), ("c", "yx"), ("d", "xz")):
        Path(folder).mkdir()
        for number, text in enumerate(texts):
            Path(folder, f"{folder}{number}.txt").write_text(text)
    a, b, c, d = (_dataset(TextParams(path=folder)).fingerprint for folder in "abcd")
    assert a == b
    assert len({a, c, d}) == 3


def test_a_file_that_changes_while_it_is_read_is_refused() -> None:
    Path("a.txt").write_text("before")
    dataset = _dataset(TextParams(path="a.txt"))
    _ = dataset.fingerprint
    Path("a.txt").write_text("behind")
    with pytest.raises(InvalidData, match=r"a\.txt: changed while"):
        list(dataset.documents())


BAD_TEXT = {
    "missing": (TextParams(path="nowhere"), r"no file or folder nowhere"),
    "empty folder": (TextParams(path="empty"), r"no files in empty end in .*\.txt"),
    "no match": (TextParams(path="empty", glob="*.md"), r"no files in empty match '\*\.md'"),
    "absolute glob": (TextParams(path="empty", glob="/*"), r"'/\*' is not a pattern"),
    "empty glob": (TextParams(path="empty", glob=""), r"no files in empty"),
    "empty file": (TextParams(path="empty.txt"), r"the corpus is empty"),
    "blank lines": (TextParams(path="blank.txt"), r"the corpus is empty"),
    "only a mark": (TextParams(path="bom.txt"), r"the corpus is empty"),
    "not UTF-8": (TextParams(path="latin.txt"), r"latin\.txt: not UTF-8 at byte 3 \(0xe9\)"),
    "not UTF-8 after a mark": (TextParams(path="bomlatin.txt"), r"bomlatin\.txt: not UTF-8 at byte 6 \(0xe9\)"),
    "cut character": (TextParams(path="cut.txt"), r"cut\.txt: not UTF-8 at byte 3 \(0xf0\)"),
    "cut byte order mark": (TextParams(path="cutbom.txt"), r"cutbom\.txt: not UTF-8 at byte 0 \(0xef\)"),
    "binary": (TextParams(path="binary.txt"), r"binary\.txt: not text: byte 2 is NUL"),
    "UTF-16": (TextParams(path="wide.txt"), r"wide\.txt: is UTF-16, not UTF-8"),
    "not packed": (TextParams(path="plain.txt.gz"), r"plain\.txt\.gz: is damaged, or was not packed by gzip"),
    "cut": (TextParams(path="cut.txt.gz"), r"cut\.txt\.gz: is damaged, or was not packed by gzip"),
    "no file of the pattern": (TextParams(path="empty/*.txt"), r"no files in empty match '\*\.txt'"),
    "too short": (TextParams(path="short.txt"), r"has 10 tokens, fewer than one row of model_args\.block_size = 32"),
    "nothing to validate on": (TextParams(path="line.txt"), r"leaves no token to validate on"),
}


@pytest.mark.parametrize(("params", "message"), BAD_TEXT.values(), ids=BAD_TEXT)
def test_text_that_cannot_be_used_is_named(params: TextParams, message: str) -> None:
    Path("empty").mkdir()
    Path("empty.txt").touch()
    Path("blank.txt").write_text("\n \n\t\r\n")
    Path("bom.txt").write_bytes(b"\xef\xbb\xbf")
    Path("latin.txt").write_bytes(b"caf\xe9 au lait")
    Path("bomlatin.txt").write_bytes(b"\xef\xbb\xbfcaf\xe9 au lait")
    Path("cut.txt").write_bytes(b"cut\xf0\x9f\x99")
    Path("cutbom.txt").write_bytes(b"\xef\xbb")
    Path("binary.txt").write_bytes(b"ab\0cd")
    Path("wide.txt").write_text("wide", encoding="utf-16")
    Path("plain.txt.gz").write_text("plain")
    Path("cut.txt.gz").write_bytes(gzip.compress(b"cut" * 100)[:-5])
    Path("short.txt").write_text("just a line.")
    Path("line.txt").write_text("x" * 40)
    data = DataParams(dataset=params, val_fraction=0.01 if params.path == "line.txt" else 0.1)
    with pytest.raises(InvalidData, match=message) as refused:
        open_data(data, block_size=32, seed=1)
    assert refused.value.exit_code == ExitCode.INVALID


def test_a_character_that_a_kept_tokenizer_lacks_is_named_with_its_file() -> None:
    Path("a.txt").write_text("plain text, plain text" * 10)
    tokenizer = CharTokenizer()
    tokenizer.fit("plain txe")
    with pytest.raises(
        InvalidData, match=r"a\.txt: the vocabulary of 9 characters lacks ',' \(U\+002C\), character 10"
    ):
        prepare(DataParams(dataset=TextParams(path="a.txt"), tokenizer=CharParams()), tokenizer=tokenizer)


@pytest.mark.parametrize(
    "data", [{"val_fraction": 0}, {"val_fraction": 1}, {"tokenizer": {"type": "bpe", "vocab_size": 257}}]
)
def test_what_leaves_nothing_to_learn_from_is_refused_with_the_experiment(data: dict[str, object]) -> None:
    with pytest.raises(InvalidExperiment, match=next(iter(data))):
        from_plain({"data": data})


# Downloads, from a server of our own.

PLAY = "ROMEO:\nWhat says she?\n" * 100


class _Server(HTTPServer):
    content = PLAY.encode()
    requests = 0


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _play(server: _Server, **changes: str) -> ShakespeareCharParams:
    sha256 = hashlib.sha256(PLAY.encode()).hexdigest()
    return ShakespeareCharParams(url=f"http://127.0.0.1:{server.server_port}/play.txt", sha256=sha256, **changes)


def test_a_download_happens_once(server: _Server) -> None:
    for _ in range(3):
        assert _documents(_play(server)) == [Document("shakespeare", PLAY)]
    assert server.requests == 1


def test_a_damaged_download_is_fetched_again(server: _Server) -> None:
    _documents(_play(server))
    [file] = Path("cache/downloads").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert _documents(_play(server)) == [Document("shakespeare", PLAY)]
    assert server.requests == 2


def test_another_file_than_promised_is_refused_and_not_kept(server: _Server) -> None:
    server.content = b"<html>please log in</html>"
    with pytest.raises(InvalidData, match=r"play\.txt: sent 26 bytes whose sha256 is"):
        _documents(_play(server))
    assert not list(Path("cache").rglob("*.txt"))


def test_offline_the_message_says_where_to_put_the_file(server: _Server) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(EnvironmentFailure, match=r"cannot be downloaded: .*refused") as refused:
        _documents(_play(server))
    place = refused.value.hint.split("put the file at ")[1].split(",")[0]
    Path(place).parent.mkdir(parents=True)
    Path(place).write_text(PLAY)
    assert _documents(_play(server)) == [Document("shakespeare", PLAY)]


def test_where_a_text_lies_is_no_part_of_an_experiment_and_what_it_is_is() -> None:
    def identity(data: dict[str, object], **dataset: str) -> str:
        return from_plain({"data": {"dataset": {"type": "shakespeare_char", **dataset}, **data}}).identity

    here = identity({})
    assert {identity({}, url="https://mirror"), identity({}, path="a"), identity({"cache": "b"})} == {here}
    others = [identity({"val_fraction": 0.2}), identity({}, sha256="0" * 64), identity({"tokenizer": "char"})]
    assert len({here, *others}) == 4


def test_a_copy_of_one_s_own_is_held_to_the_same_checksum(server: _Server) -> None:
    Path("copy.txt").write_text(PLAY)
    assert _documents(_play(server, path="copy.txt")) == [Document("shakespeare", PLAY)]
    Path("copy.txt").write_text(PLAY + "!")
    with pytest.raises(FoundryError, match=r"copy\.txt: its sha256 is"):
        _documents(_play(server, path="copy.txt"))
    assert server.requests == 0
