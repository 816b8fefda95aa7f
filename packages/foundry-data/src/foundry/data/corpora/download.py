"""A file from the network: fetched once, and never taken for what its checksum says it is not."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

from foundry.core.contracts import EnvironmentFailure, InvalidData
from foundry.core.system import read_regular
from foundry.data.storage import write_atomically

TIMEOUT = 30  # seconds without an answer
AT_MOST = 2**26  # bytes that a server may send


def download(url: str, sha256: str, target: Path) -> Path:
    """`target`, holding the file of `url`; without the network if it already exists.

    Raises:
        EnvironmentFailure: the server cannot be reached, or the folder not be written.
        InvalidData: the server sent something else.
    """
    with suppress(OSError):  # it is not there, or not what was put there
        if _sha256(read_regular(target, AT_MOST)) == sha256:
            return target
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            content = response.read(AT_MOST + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise EnvironmentFailure(
            f"{url}: cannot be downloaded: {reason}",
            f"put the file at {target}, or name your copy of it: dataset.path",
        ) from error
    if len(content) > AT_MOST:
        raise InvalidData(f"{url}: sent more than {AT_MOST:,} bytes", "put your copy of the file in dataset.path")
    if _sha256(content) != sha256:
        raise InvalidData(
            f"{url}: sent {len(content)} bytes whose sha256 is {_sha256(content)}, not {sha256}",
            "nothing was kept; a proxy's login page, perhaps, or the file changed",
        )
    write_atomically(target, content)
    return target


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
