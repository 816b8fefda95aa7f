"""Downloads from the Hugging Face hub over plain HTTPS: only what a model needs, resumed where they broke off, and
every file checked against what the hub says it is.

    pull("gpt2")  ->  ~/.cache/foundry/zoo/openai-community--gpt2/, with source.json: repository, commit, file hashes

$HF_TOKEN is sent to the hub, and to nobody that it redirects to; $HF_ENDPOINT is another hub; $HF_HUB_OFFLINE=1, none.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from foundry.core.contracts import EnvironmentFailure, InvalidData
from foundry.core.system import JSON_BYTES, copy_or_link, move_folder, open_regular, replace_durably, writing
from foundry.zoo.catalog import pulled, repository_of
from foundry.zoo.shards import INDEX, PICKLES

TIMEOUT = 30  # seconds without an answer
BLOCK = 1 << 20  # bytes that are received at a time
SOURCE = "source.json"
CHAT_TEMPLATES = "additional_chat_templates"
WANTED = re.compile(
    r"config\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json"
    r"|added_tokens\.json|chat_template\.jinja|" + CHAT_TEMPLATES + r"/[\w.-]+\.jinja"
    r"|LICENSE[\w.]*|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
)


class RemoteFile(NamedTuple):
    path: str
    size: int
    sha256: str  # of a large file; small ones have their git blob's sha1 instead
    blob: str


def pull(name: str, note: Callable[[str], None] | None = None, *, revision: str = "main") -> Path:
    """Download a model of the zoo, or ORG/NAME of the hub; what already exists is not fetched again.

    Args:
        note: called with what a person should know: which file comes, and how large it is.
        revision: a branch, a tag or a commit.

    Returns:
        Its folder.

    Raises:
        UsageError: there is no such name.
        EnvironmentFailure: offline, no right to it, or it cannot be written.
        InvalidData: the hub has no such model, none in safetensors, or sent something else than it said.
    """
    say = note or (lambda message: None)
    repository, folder = repository_of(name), pulled(name)
    hub = Hub(repository)
    commit, files = hub.files(revision)
    partial = folder.with_name(f".{folder.name}.partial")
    with writing(partial):
        partial.mkdir(parents=True, exist_ok=True)
        for number, file in enumerate(files, 1):
            target = partial / file.path
            target.parent.mkdir(exist_ok=True)
            if (folder / file.path).exists() and _is(folder / file.path, file):
                if not target.exists():
                    copy_or_link(folder / file.path, target)
                continue
            if not (target.exists() and _is(target, file)):
                say(f"{repository}: {file.path} ({file.size / 1e6:,.1f} MB), file {number} of {len(files)}")
                hub.fetch(file, commit, target)
        source = {"repository": repository, "revision": revision, "commit": commit}
        hashes = {file.path: file.sha256 or file.blob for file in files}
        replace_durably(partial / SOURCE, json.dumps({**source, "files": hashes}, indent=1).encode())
        shutil.rmtree(folder, ignore_errors=True)
        move_folder(partial, folder)
    return folder


class Hub:
    """One repository of the hub."""

    def __init__(self, repository: str) -> None:
        self.repository = repository
        self.endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
            raise EnvironmentFailure(
                f"{repository} is not here, and HF_HUB_OFFLINE=1 forbids fetching it",
                "unset it, or name a folder that holds the model",
            )

    def files(self, revision: str) -> tuple[str, list[RemoteFile]]:
        """The commit of a revision, and the files of it that a model needs.

        Raises:
            InvalidData: it holds no safetensors.
        """
        about = self._json(f"/api/models/{self.repository}/revision/{urllib.parse.quote(revision, safe='')}")
        commit = str(about.get("sha", revision) if isinstance(about, dict) else revision)
        listing = f"/api/models/{self.repository}/tree/{commit}"
        tree = self._json(f"{listing}?recursive=false")
        try:
            if any(entry["path"] == CHAT_TEMPLATES and entry["type"] == "directory" for entry in tree):
                tree = [*tree, *self._json(f"{listing}/{CHAT_TEMPLATES}?recursive=false")]
            listed = [
                RemoteFile(entry["path"], int(entry["size"]), (entry.get("lfs") or {}).get("oid", ""), entry["oid"])
                for entry in tree
                if entry["type"] == "file"
            ]
            if any(file.size < 0 for file in listed):
                raise ValueError("a size below 0")
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidData(f"{self.endpoint}: its answer is not a list of files: {error!r}") from error
        wanted = [file for file in listed if WANTED.fullmatch(file.path)]
        weights = [file for file in wanted if file.path.endswith(".safetensors")]
        if not weights:
            pickles = [file.path for file in listed if file.path.endswith(PICKLES)]
            has = f", only pickles ({pickles[0]}), which can run any code" if pickles else ""
            raise InvalidData(f"{self.repository} has no safetensors{has}", "choose a repository that has them")
        if any(file.path == "model.safetensors" for file in weights) and any(file.path == INDEX for file in wanted):
            wanted = [file for file in wanted if file.path != "model.safetensors"]  # the shards hold the same
        return commit, sorted(wanted, key=lambda file: file.size)

    def fetch(self, file: RemoteFile, commit: str, target: Path) -> None:
        """Download one file to `target`, going on from what an earlier try left.

        Raises:
            EnvironmentFailure: the connection broke: run again, and it resumes from there.
            InvalidData: what came is not what the hub listed; nothing is kept of it.
        """
        part = target.with_name(f"{target.name}.part")
        had = part.stat().st_size if part.exists() else 0
        if had > file.size:
            part.unlink()
            had = 0
        if had < file.size or file.size == 0:
            url = f"{self.endpoint}/{self.repository}/resolve/{commit}/{urllib.parse.quote(file.path)}"
            with self._open(url, {"Range": f"bytes={had}-"} if had else {}) as answer:
                had = had if _goes_on(answer, had) else 0
                with open(part, "ab" if had else "wb") as sink:
                    try:
                        while block := answer.read(min(BLOCK, file.size - had + 1)):
                            had += sink.write(block)
                    except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
                        raise _broken(url, error) from error
            if had < file.size:
                raise _broken(url, f"{had:,} of {file.size:,} bytes came")
            if had > file.size:
                part.unlink()
                raise InvalidData(
                    f"{self.repository}: {file.path} has more than the {file.size:,} bytes that the hub lists",
                    "nothing of it was kept; try again, and look for a proxy that changes what it passes on",
                )
        if not _is(part, file):
            part.unlink()
            raise InvalidData(
                f"{self.repository}: {file.path} is not the file that the hub lists: its hash differs",
                "nothing of it was kept; try again, and look for a proxy that changes what it passes on",
            )
        os.replace(part, target)

    def _json(self, path: str) -> Any:
        url = f"{self.endpoint}{path}"
        with self._open(url, {}) as answer:
            try:
                text = answer.read(JSON_BYTES + 1)
                if len(text) > JSON_BYTES:
                    raise InvalidData(f"{url}: answers with more than {JSON_BYTES:,} bytes", "is this a hub?")
                return json.loads(text)
            except (ValueError, RecursionError, OSError, http.client.HTTPException) as error:
                raise _broken(url, error) from error

    def _open(self, url: str, headers: Mapping[str, str]) -> Any:
        token = os.environ.get("HF_TOKEN", "")
        request = urllib.request.Request(url, headers={"User-Agent": "foundry", **headers})
        if token:
            request.add_unredirected_header("Authorization", f"Bearer {token}")
        try:
            return urllib.request.urlopen(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            raise self._refused(url, error.code, bool(token)) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _broken(url, getattr(error, "reason", error)) from error

    def _refused(self, url: str, status: int, has_token: bool) -> Exception:
        if status in (401, 403):
            page = f"{self.endpoint}/{self.repository}"
            return EnvironmentFailure(
                f"{self.repository}: the hub restricts access to it (HTTP {status})",
                f"accept its licence at {page}, then set HF_TOKEN to a token of your account ({self.endpoint}/settings"
                "/tokens)" + ("; the one that is set has no access to it" if has_token else ""),
            )
        if status == 404:
            return InvalidData(f"{self.repository}: the hub has no such model or revision ({url})", "check the name")
        return _broken(url, f"HTTP {status}")


def _goes_on(answer: Any, start: int) -> bool:
    """Whether what comes begins at byte `start`: a hub may ignore the range that it was asked for, or send another."""
    sent = answer.headers.get("Content-Range") or f"bytes {start}-"
    return answer.status == http.client.PARTIAL_CONTENT and sent.startswith(f"bytes {start}-")


def _is(path: Path, file: RemoteFile) -> bool:
    """Whether a file is the one that the hub lists: by its sha256, or as a git blob, which is what small ones are."""
    if path.stat().st_size != file.size:
        return False
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    with open_regular(path) as content:
        while block := content.read(BLOCK):
            digest.update(block)
    return digest.hexdigest() == (file.sha256 or file.blob)


def _broken(url: str, reason: object) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"{url}: cannot be downloaded: {reason}",
        "run again to resume the download; or name a folder that holds the model",
    )
