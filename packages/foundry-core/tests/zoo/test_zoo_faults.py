"""What is refused on the way in and on the way out, each by one clear error; and downloads that break off."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import contextlib
import hashlib
import json
import resource
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.documents import faults

from foundry.cli.__main__ import main
from foundry.core.config import from_plain
from foundry.core.contracts import EnvironmentFailure, FoundryError, InvalidData
from foundry.core.model import initialize, model_of
from foundry.zoo import export, load, load_pretrained
from foundry.zoo.catalog import zoo_folder
from foundry.zoo.convert import convert, experiment_from
from foundry.zoo.hub import pull
from foundry.zoo.shards import WeightsFolder
from foundry.zoo.source import PretrainedSource

SIZES = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 32, "attention": "gqa_2kv"}
VOCAB = 40


def exported(folder: Path, vocab_size: int = VOCAB, tokenizer=None, **model_args) -> Path:
    experiment = from_plain({"model_args": {**SIZES, **model_args}})
    model = model_of(experiment, vocab_size)
    initialize(model, 1)
    export(experiment, tokenizer, model, folder, max_shard_bytes=20_000)
    return folder


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return exported(tmp_path_factory.mktemp("zoo") / "good")


@pytest.fixture
def folder(good, tmp_path) -> Path:
    return shutil.copytree(good, tmp_path / "model")


def edit(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def shard(folder: Path, number: int = 1) -> Path:
    return sorted(folder.glob("*.safetensors"))[number]


def without(folder: Path, change) -> None:
    """Rewrite one shard with `change` applied to its tensors."""
    tensors = load_file(shard(folder))
    change(tensors)
    save_file(tensors, shard(folder))


def only_a_pickle(folder: Path) -> None:
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")


def disguised(folder: Path) -> None:
    shard(folder).write_bytes(b"\x80\x04cos\nsystem\n")


def truncated(folder: Path) -> None:
    shard(folder).write_bytes(shard(folder).read_bytes()[:-10])


def other_tokenizer(folder: Path, size: int = 99) -> None:
    tokens = {"model": {"type": "BPE", "vocab": {chr(200 + i): i for i in range(size)}, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(tokens))


def outside(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "../../secrets.safetensors"}}))


BAD = {
    "a missing shard": (lambda f: shard(f).unlink(), r"model-00002-of-\d+.safetensors: this shard is missing"),
    "a missing tensor": (lambda f: without(f, lambda t: t.pop(sorted(t)[0])), "the tensor model.* is missing"),
    "a wrong shape": (
        lambda f: without(f, lambda t: t.update({sorted(t)[0]: torch.zeros(7)})),
        r"model\..* has shape \(7,\); config.json asks for \(",
    ),
    "weights that are integers": (
        lambda f: without(f, lambda t: t.update({sorted(t)[0]: t[sorted(t)[0]].to(torch.int8)})),
        "is I8, and Foundry reads plain weights",
    ),
    "a weight that is not finite": (
        lambda f: without(f, lambda t: t[sorted(t)[0]].view(-1)[3:4].fill_(float("nan"))),
        r"model\.layers.* holds NaN or infinity",
    ),
    "an unknown tensor": (lambda f: without(f, lambda t: t.update(odd=torch.zeros(1))), "tensor odd is not of this"),
    "a weight that is infinite": (
        lambda f: without(f, lambda t: t[sorted(t)[0]].view(-1)[3:4].fill_(float("-inf"))),
        r"model\.layers.* holds NaN or infinity",
    ),
    "one tensor in two files": (
        lambda f: without(f, lambda t: t.update(load_file(shard(f, 0)))),
        "which another file holds too",
    ),
    "the last of shards that have no index": (
        lambda f: [file.unlink() for file in (shard(f, -1), f / "model.safetensors.index.json")],
        "this shard is missing; its name asks for it",
    ),
    "a pickle": (only_a_pickle, "holds pickles .pytorch_model.bin. and no safetensors"),
    "a pickle by another name": (disguised, "not a whole safetensors file"),
    "half a file": (truncated, "not a whole safetensors file"),
    "an unknown architecture": (lambda f: edit(f, model_type="mamba"), "'mamba': Foundry does not know this"),
    "a vocabulary that is not the tokenizer's": (other_tokenizer, "has ids up to 98, but .*vocab_size 40"),
    "a vocabulary that is one token too large": (
        lambda f: other_tokenizer(f, size=VOCAB + 1),
        "has ids up to 40, but .*vocab_size 40",
    ),
    "a vocabulary that is not the embedding's": (
        lambda f: edit(with_tokenizer(f), vocab_size=10**12),
        r"vocab_size: 1000000000000: model.embed_tokens.weight has shape \(40, 32\)",
    ),
    "a tokenizer that is none": (lambda f: (f / "tokenizer.json").write_text('{"model": []}'), "not a tokenizer.json"),
    "a tokenizer of another kind": (
        lambda f: (f / "tokenizer.json").write_text('{"model": {"vocab": {}}}'),
        "tokenizer.json: not a tokenizer.json",
    ),
    "another size": (lambda f: edit(f, intermediate_size=100), "has shape .* config.json asks for"),
    "a type that is no word": (lambda f: edit(f, model_type=["llama"]), "model_type: .*does not know"),
    "a part that we lack": (lambda f: edit(f, hidden_act="mish"), "hidden_act: 'mish': Foundry has no such part"),
    "a scaling that we lack": (
        lambda f: edit(f, rope_scaling={"rope_type": "longrope"}, rope_parameters=None),
        "rope_type: 'longrope'",
    ),
    "two keys that disagree": (lambda f: edit(f, attention_bias=True), "False: cannot differ from attention_bias"),
    "a head beside the embedding that it is tied to": (
        lambda f: without(f, lambda t: t.update({"lm_head.weight": torch.zeros(VOCAB, 32)})),
        "lm_head.weight is not the embedding, but config.json ties them",
    ),
    "quantised weights": (lambda f: edit(f, quantization_config={"bits": 4}), "quantization_config"),
    "a missing key": (lambda f: edit(f, hidden_size=None), "config.json: it lacks the key hidden_size"),
    "a list for a number": (lambda f: edit(f, hidden_size=[32]), "hidden_size|n_embd"),
    "heads that do not divide": (lambda f: edit(f, num_key_value_heads=3), "n_kv_head"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: cannot be read"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json: not JSON"),
    "a file outside": (outside, "names a file outside its folder"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_folder_that_is_wrong_is_refused_by_name(kind, folder, capsys):
    spoil, words = BAD[kind]
    spoil(folder)
    with pytest.raises(InvalidData, match=words):
        load(folder)
    assert main(["zoo", "convert", str(folder), "--run", str(folder.parent / "run")]) == 3
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert "Traceback" not in told
    assert not (folder.parent / "run").exists()


def test_shards_are_read_without_their_index_too(folder, good):
    (folder / "model.safetensors.index.json").unlink()
    ours, wanted = load_pretrained(folder), load_pretrained(good)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), wanted.parameters(), strict=True))


@contextlib.contextmanager
def full_disk(limit: int):
    """Files of more than `limit` bytes are refused, as by a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def with_tokenizer(folder: Path) -> Path:
    tokens = {"type": "BPE", "vocab": {chr(97 + i): i for i in range(26)}, "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": tokens}))
    return folder


def test_a_full_disk_leaves_nothing_half_made(folder, tmp_path):
    with_tokenizer(folder)
    before, loaded = sorted(os.listdir(tmp_path)), load(folder)
    with full_disk(5_000):
        with pytest.raises(EnvironmentFailure, match="File too large"):
            export(loaded.config, None, loaded.model, tmp_path / "out")
        with pytest.raises(EnvironmentFailure, match=f"{tmp_path / 'run'}: File too large") as refused:
            convert(folder, tmp_path / "run")
        # not "run again to go on": there is no run that could
        assert refused.value.hint == "free some space, or choose another place, then run again"
    assert sorted(os.listdir(tmp_path)) == before
    convert(folder, tmp_path / "run")  # nothing is in the way of another try


def test_nothing_that_is_there_is_written_over(folder, tmp_path, monkeypatch):
    loaded = load(with_tokenizer(folder))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    for write in (lambda out: convert(folder, out), lambda out: export(*loaded, out)):
        for name in ("file", "full"):
            with pytest.raises(InvalidData, match=f"{name} already exists, and not empty"):
                write(tmp_path / name)
        (tmp_path / "empty").mkdir()
        write(tmp_path / "empty")
        assert len(os.listdir(tmp_path / "empty")) > 2
        shutil.rmtree(tmp_path / "empty")
    monkeypatch.setattr("foundry.zoo.convert.load", None)
    with pytest.raises(InvalidData, match="full already exists"):
        convert(folder, tmp_path / "full")  # before the weights are read
    assert (tmp_path / "file").read_text() == "mine"
    assert os.listdir(tmp_path / "full") == ["mine"]


def test_an_interrupt_leaves_nothing_half_made(folder, tmp_path, monkeypatch):
    with_tokenizer(folder)
    before, loaded = sorted(os.listdir(tmp_path)), load(folder)

    def interrupted(*_):
        raise KeyboardInterrupt

    for module in ("convert.replace_durably", "export_folder.write_durably"):
        monkeypatch.setattr(f"foundry.zoo.{module}", interrupted)
    for action in (
        lambda: convert(folder, tmp_path / "run"),
        lambda: export(loaded.config, None, loaded.model, tmp_path / "out"),
    ):
        with pytest.raises(KeyboardInterrupt):
            action()
    assert sorted(os.listdir(tmp_path)) == before


def test_what_is_unheard_of_is_a_usage_error(capsys):
    assert main(["zoo", "pull", "lama3-1b"]) == 2
    assert "did you mean llama3-1b" in capsys.readouterr().err
    assert main(["zoo", "pull", "gpt2"]) == 6
    assert "HF_HUB_OFFLINE" in capsys.readouterr().err
    assert main(["zoo", "pull", "org/.."]) == 2
    with pytest.raises(InvalidData, match="nowhere: there is no such folder"):
        load("~/nowhere")  # a folder by how it is written


@pytest.mark.parametrize(
    ("model_args", "words"),
    [
        ({"activation": "relu2"}, "nearest is llama, but its activation is swiglu, not relu2"),
        ({"norm": "dyt"}, "nearest is llama, but its norm is rmsnorm, not dyt"),
        ({"logit_softcap": 30.0}, "its logit_softcap is None, not 30.0"),
        ({"position": "sinusoidal"}, "sinusoidal"),
        ({"norm": "layernorm", "position": "none"}, "none"),
        ({"attention": {"type": "gqa", "n_kv_head": 2, "softcap": 5.0}}, "its attention.softcap is None, not 5.0"),
        ({"ffn": {"type": "peer", "n_experts": 64}}, "nearest is llama, but its ffn is dense, not peer"),
        (
            {"ffn": "peer_64k", "activation": "gelu", "norm": "layernorm", "position": "learned", "bias": True},
            "nearest is gpt2, but its ffn is dense, not peer",
        ),
    ],
)
def test_a_model_that_no_architecture_expresses_is_refused_by_its_part(model_args, words, tmp_path):
    with pytest.raises(InvalidData, match="no architecture of transformers expresses") as refused:
        exported(tmp_path / "out", **model_args)
    assert words in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_an_architecture_that_rotates_whole_heads_is_not_given_half_ones(tmp_path):
    experiment = from_plain({"model_args": {**SIZES, "position": {"type": "rope", "fraction": 0.5}}})
    with pytest.raises(InvalidData, match=r"llama does not express .* its position.fraction is 1.0, not 0.5"):
        export(experiment, None, model_of(experiment, VOCAB), tmp_path / "out", architecture="llama")
    with pytest.raises(FoundryError, match=r"lama2.*\n.*did you mean: architecture llama"):
        export(experiment, None, model_of(experiment, VOCAB), tmp_path / "out", architecture="lama2")


def test_a_layer_that_differs_is_named(tmp_path):
    experiment = from_plain({"model_args": SIZES, "layers": {"1": {"norm": "layernorm"}}})
    with pytest.raises(InvalidData, match="its norm is rmsnorm, not layernorm in layer 1"):
        export(experiment, None, model_of(experiment, VOCAB), tmp_path / "out")


# ---- the hub, as a server on this machine ----------------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does for one repository, and counts what it sent."""

    files: ClassVar[dict[str, bytes]] = {}
    sent: ClassVar[dict[str, int]] = {}
    break_after: int | None = None
    in_chunks = False
    spoil, gated = "", False
    endless, answers_ranges, elsewhere = False, "", ""
    tokens: ClassVar[list[str | None]] = []
    revisions: ClassVar[list[str]] = []

    def log_message(self, *args):
        pass

    def do_GET(self):
        Hub.tokens.append(self.headers.get("Authorization"))
        if self.requestline.startswith("GET //"):  # which the server itself would read as /
            return self.send_error(404)
        if Hub.gated and self.headers.get("Authorization") != "Bearer hf_secret":
            return self.send_error(403 if self.headers.get("Authorization") else 401)
        path = self.path.partition("?")[0]
        if path.startswith(revision := "/api/models/org/tiny/revision/"):
            Hub.revisions.append(path.removeprefix(revision))
            return self.say(json.dumps({"sha": "c0ffee"}).encode())
        if path.startswith(tree := "/api/models/org/tiny/tree/c0ffee"):
            folder = path.removeprefix(tree).lstrip("/")
            here = [listed(name, data) for name, data in Hub.files.items() if name.rpartition("/")[0] == folder]
            below = {name.rpartition("/")[0] for name in Hub.files} - {folder, ""}
            folders = [{"type": "directory", "path": name, "oid": "", "size": 0} for name in below if not folder]
            return self.say(json.dumps(here + folders).encode())
        name = path.removeprefix("/org/tiny/resolve/c0ffee/")
        if Hub.elsewhere and not self.headers.get("Host", "").startswith("localhost"):
            self.send_response(302)
            self.send_header("Location", Hub.elsewhere + path)
            return self.end_headers()
        if name not in Hub.files:
            return self.send_error(404)
        self.say(Hub.files[name], name)

    def say(self, data: bytes, name: str = "") -> None:
        asked = self.headers.get("Range", "bytes=0-")
        start = 0 if Hub.answers_ranges else int(asked.removeprefix("bytes=").rstrip("-"))
        if Hub.spoil and name.endswith(Hub.spoil):
            data = bytes(len(data))
        self.send_response(206 if start or (name and Hub.answers_ranges == "with another") else 200)
        if "Range" in self.headers and Hub.answers_ranges != "with everything":
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if name and Hub.in_chunks:
            self.send_header("Transfer-Encoding", "chunked")
        elif not (name and Hub.endless):
            self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if name and Hub.in_chunks:
            self.wfile.write(f"{len(data) - start:x}\r\n".encode())
        if name and Hub.endless:
            return self.send_without_end(data)
        part = data[start:]
        if name and Hub.break_after is not None and len(part) > Hub.break_after:
            part = part[: Hub.break_after]
            self.close_connection = True
        Hub.sent[name] = Hub.sent.get(name, 0) + len(part)
        self.wfile.write(part)

    def send_without_end(self, data: bytes) -> None:
        """As much as anybody takes, a gigabyte at most."""
        with contextlib.suppress(ConnectionError):
            self.wfile.write(data)
            for _ in range(1024):
                self.wfile.write(bytes(1 << 20))
                Hub.sent["too much"] = Hub.sent.get("too much", 0) + 1


def listed(name: str, data: bytes) -> dict:
    entry = {"type": "file", "path": name, "size": len(data)}
    entry["oid"] = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
    if name.endswith(".safetensors"):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data)}
    return entry


@pytest.fixture
def hub(good, tmp_path, monkeypatch):
    nothing_yet: dict[str, Any] = {
        "files": {},
        "sent": {},
        "break_after": None,
        "in_chunks": False,
        "spoil": "",
        "gated": False,
        "endless": False,
        "answers_ranges": "",
        "elsewhere": "",
        "tokens": [],
        "revisions": [],
    }
    for key, value in nothing_yet.items():
        setattr(Hub, key, value)
    Hub.files = {file.name: file.read_bytes() for file in good.iterdir()} | {"pytorch_model.bin": b"x" * 100}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("FOUNDRY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield Hub
    server.shutdown()
    server.server_close()


def test_what_is_not_here_is_downloaded_once(hub, good):
    said: list[str] = []
    model = load_pretrained("org/tiny", note=said.append)
    ours = load_pretrained(good)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), ours.parameters(), strict=True))
    assert any("model-00001" in line for line in said)
    assert "pytorch_model.bin" not in hub.sent
    folder = zoo_folder() / "org--tiny"
    source = json.loads((folder / "source.json").read_text())
    entries = [listed(name, data) for name, data in hub.files.items() if name in hub.sent]
    hashes = {entry["path"]: entry.get("lfs", entry)["oid"] for entry in entries}
    assert source == {"repository": "org/tiny", "revision": "main", "commit": "c0ffee", "files": hashes}
    assert hub.revisions == ["main"]
    further = experiment_from("org/tiny")
    assert (further.name, further.init_from) == ("tiny", "zoo:org/tiny")
    assert PretrainedSource(further, "zoo:org/tiny").origin() == (str(folder), 0, WeightsFolder(folder).sha256)
    before = dict(hub.sent)
    load_pretrained("org/tiny")
    assert hub.sent == before
    pull("org/tiny")  # asks what there is, and fetches nothing
    assert fetched(hub) == {name: n for name, n in before.items() if name}
    (folder / "config.json").unlink()
    load_pretrained("org/tiny")  # what is not whole is not here
    for name in ("config.json", max(name for name in hub.files if "-of-" in name)):  # and mends a copy that is damaged
        (folder / name).write_bytes(bytes(len(hub.files[name])))
        hub.sent.clear()
        pull("org/tiny", revision="refs/pr/1")
        assert fetched(hub) == {name: len(hub.files[name])}
        assert (folder / name).read_bytes() == hub.files[name]
    assert hub.revisions[-1] == "refs%2Fpr%2F1"


def fetched(hub) -> dict[str, int]:
    """Files that were sent, and how many bytes of each."""
    return {name: n for name, n in hub.sent.items() if name}


def test_what_a_tokenizer_comes_with_is_downloaded_too(hub):
    files = ("chat_template.jinja", "additional_chat_templates/tools.jinja", "special_tokens_map.json")
    hub.files |= dict.fromkeys(files, b"{}") | {"onnx/model.json": b"{}", "additional_chat_templates/run.sh": b""}
    hub.files |= {"LICENSE": b"", "model.safetensors": b"all of it once more" * 9999}
    said: list[str] = []
    folder = pull("org/tiny", said.append)
    sizes = [len(hub.files[line.split(": ")[1].split(" ")[0]]) for line in said]
    assert sizes == sorted(sizes)  # what is wrong with small ones shows before large ones come
    assert all((folder / name).read_bytes() == b"{}" for name in files)
    assert (folder / "LICENSE").read_bytes() == b""
    assert not (folder / "model.safetensors").exists()  # the shards hold the same
    assert not (folder / "onnx").exists()
    assert not (folder / "additional_chat_templates" / "run.sh").exists()


def test_a_download_in_chunks_may_break_off_too(hub):
    hub.break_after, hub.in_chunks = 9_000, True
    with pytest.raises(EnvironmentFailure, match="cannot be downloaded"):
        pull("org/tiny")


def test_a_download_that_broke_off_goes_on_where_it_was(hub):
    hub.break_after = 9_000
    for _ in range(2):
        with pytest.raises(EnvironmentFailure, match="cannot be downloaded") as broken:
            pull("org/tiny")
        assert "run again" in broken.value.hint
        assert not (zoo_folder() / "org--tiny").exists()
    while not (zoo_folder() / "org--tiny").exists():
        with contextlib.suppress(EnvironmentFailure):
            pull("org/tiny")
    assert all(hub.sent[name] == len(data) for name, data in hub.files.items() if name in hub.sent)
    load_pretrained("org/tiny")


@pytest.mark.parametrize("kind", ["config.json", ".safetensors"])  # the hub lists hashes of two kinds
def test_what_is_not_what_the_hub_lists_is_not_kept(kind, hub):
    hub.spoil = kind
    with pytest.raises(InvalidData, match="is not the file that the hub lists"):
        pull("org/tiny")
    hub.spoil = ""
    load_pretrained("org/tiny")


def test_leavings_that_are_longer_than_the_file_are_not_gone_on_from(hub):
    hub.break_after = 9_000
    with pytest.raises(EnvironmentFailure, match="cannot be downloaded"):
        pull("org/tiny")
    hub.break_after = None
    for part in zoo_folder().rglob("*.part"):
        part.write_bytes(bytes(1 << 20))  # the hub has another file of this name by now
    load_pretrained("org/tiny")


def test_a_gated_model_says_what_to_do(hub, monkeypatch, capsys):
    hub.gated = True
    assert main(["zoo", "pull", "org/tiny", "--json"]) == 6
    error = json.loads(capsys.readouterr().err)["error"]
    assert "restricts access to it" in error["message"]
    assert "HF_TOKEN" in error["hint"]
    assert "no right to it" not in error["hint"]
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    assert main(["zoo", "pull", "org/tiny", "--json"]) == 6
    assert "the one that is set has no access to it" in json.loads(capsys.readouterr().err)["error"]["hint"]
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert main(["zoo", "pull", "org/tiny", "--json"]) == 0
    assert hub.tokens[-1] == "Bearer hf_secret"
    told = json.loads(capsys.readouterr().out)
    assert faults("zoo pull", told) == []
    assert (told["model"], Path(told["folder"])) == ("org/tiny", zoo_folder() / "org--tiny")


def test_a_file_longer_than_the_hub_lists_is_cut_off_and_not_kept(hub):
    hub.endless = True
    with pytest.raises(InvalidData, match=r"has more than the [\d,]+ bytes that the hub lists"):
        pull("org/tiny")
    assert hub.sent.get("too much", 0) < 64  # what lay in buffers
    assert not list(zoo_folder().rglob("*.part"))
    hub.endless = False
    load_pretrained("org/tiny")


def test_an_answer_of_the_hub_has_a_bound(hub, monkeypatch):
    monkeypatch.setattr("foundry.zoo.hub.JSON_BYTES", 100)
    with pytest.raises(InvalidData, match="answers with more than 100 bytes"):
        pull("org/tiny")


@pytest.mark.parametrize("answer", ["with everything", "with another"])
def test_a_hub_that_ignores_ranges_begins_anew(answer, hub):
    hub.break_after = 9_000
    with pytest.raises(EnvironmentFailure, match="cannot be downloaded"):
        pull("org/tiny")
    assert list(zoo_folder().rglob("*.part"))
    hub.break_after, hub.answers_ranges = None, answer
    load_pretrained("org/tiny")


def test_the_token_is_for_the_hub_and_not_for_where_it_sends_us(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.elsewhere = os.environ["HF_ENDPOINT"].replace("127.0.0.1", "localhost").rstrip("/")
    pull("org/tiny")
    assert {None, "Bearer hf_secret"} == set(hub.tokens)
    files = len([name for name in hub.sent if name])
    assert hub.tokens.count(None) == files


def test_a_model_beyond_the_memory_is_refused_before_it_is_read(good, monkeypatch):
    size = sum(parameter.nbytes for parameter in load_pretrained(good).parameters())
    for there in (1000, size - 1):
        monkeypatch.setattr("foundry.core.system.machine.memory_bytes", lambda: there)  # noqa: B023
        with pytest.raises(EnvironmentFailure, match="of memory, and"):
            load_pretrained(good)


def test_a_repository_of_pickles_is_refused(hub):
    hub.files = {name: data for name, data in hub.files.items() if not name.endswith(".safetensors")}
    with pytest.raises(InvalidData, match="has no safetensors, only pickles"):
        pull("org/tiny")
    with pytest.raises(InvalidData, match="no such model"):
        pull("org/other")
