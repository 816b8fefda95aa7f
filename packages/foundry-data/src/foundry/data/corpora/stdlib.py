"""The default corpus: Python sources that every interpreter brings along, so that training works offline at once."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from foundry.core.contracts import EnvironmentFailure
from foundry.data.corpora import StdlibParams
from foundry.data.corpora.files import FileDocuments

# Modules and packages that CPython 3.11, 3.12 and 3.13 all have. A fixed list, so that what a distribution adds or a
# site installs never changes the text. Left out: tests, generated tables (encodings, pydoc_data), tkinter and its
# programs (often not installed), and what 3.12 and 3.13 removed.
# fmt: off
MODULES = [
    "_collections_abc", "_compat_pickle", "_markupbase", "_osx_support", "_py_abc", "_pydecimal", "_pyio",
    "_sitebuiltins", "_strptime", "_threading_local", "_weakrefset", "abc", "argparse", "ast", "asyncio", "base64",
    "bdb", "bisect", "bz2", "cProfile", "calendar", "cmd", "code", "codecs", "codeop", "collections", "colorsys",
    "compileall", "concurrent", "configparser", "contextlib", "contextvars", "copy", "copyreg", "csv", "ctypes",
    "curses", "dataclasses", "datetime", "dbm", "decimal", "difflib", "dis", "doctest", "email", "enum", "filecmp",
    "fileinput", "fnmatch", "fractions", "ftplib", "functools", "genericpath", "getopt", "getpass", "gettext",
    "glob", "graphlib", "gzip", "hashlib", "heapq", "hmac", "html", "http", "imaplib", "importlib", "inspect", "io",
    "ipaddress", "json", "keyword", "linecache", "locale", "logging", "lzma", "mailbox", "mimetypes",
    "modulefinder", "multiprocessing", "netrc", "ntpath", "nturl2path", "numbers", "opcode", "operator", "optparse",
    "os", "pathlib", "pdb", "pickle", "pickletools", "pkgutil", "platform", "plistlib", "poplib", "posixpath",
    "pprint", "profile", "pstats", "pty", "py_compile", "pyclbr", "pydoc", "queue", "quopri", "random", "re",
    "reprlib", "rlcompleter", "runpy", "sched", "secrets", "selectors", "shelve", "shlex", "shutil", "signal",
    "site", "smtplib", "socket", "socketserver", "sqlite3", "ssl", "stat", "statistics", "string", "stringprep",
    "struct", "subprocess", "symtable", "sysconfig", "tabnanny", "tarfile", "tempfile", "textwrap", "threading",
    "timeit", "token", "tokenize", "tomllib", "trace", "traceback", "tracemalloc", "tty", "types", "typing",
    "unittest", "urllib", "uuid", "warnings", "wave", "weakref", "webbrowser", "wsgiref", "xml", "xmlrpc", "zipapp",
    "zipfile", "zipimport", "zoneinfo",
]
# fmt: on


class StandardLibrary(FileDocuments):
    """One document per source file, in the order of their names. Modules that a distribution leaves out are missing
    from the text, and so change its fingerprint."""

    def __init__(self, params: StdlibParams, cache: Path) -> None:
        root = Path(sysconfig.get_path("stdlib"))
        files = [file for module in MODULES for file in _sources(root, module)]
        if not files:
            raise EnvironmentFailure(
                f"dataset stdlib: this Python comes without its sources in {root}",
                "use another Python, or a text of your own: dataset: {type: text, path: FILE}",
            )
        super().__init__(sorted((file.relative_to(root).as_posix(), file) for file in files))


def _sources(root: Path, module: str) -> list[Path]:
    """A module's file, or a package's files without its tests."""
    single = root / f"{module}.py"
    if single.is_file():
        return [single]
    package = root / module
    return [file for file in package.rglob("*.py") if not {"test", "tests"} & set(file.relative_to(root).parts)]
