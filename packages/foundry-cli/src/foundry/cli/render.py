"""How commands speak: stdout is the result, stderr is everything else.

    result(data, draw, next_step)   with --json `data` as one document; otherwise what `draw()` prints, and where to go
    table(columns, rows)            a table on a terminal; tab-separated, with nothing cut off, elsewhere
    record(data)                    one line of a stream, with --json
    say(text)                       a remark on stderr

Every write goes through here: to stdout, so that a reader who leaves early ends the command quietly; to a terminal, so
that what others wrote (a run's files, a plugin's names, a model's text) is shown and never obeyed. Stdout that is no
terminal is data, and exact: JSON has escapes of its own, a cell of a table has its blanks joined. Stderr is always for
people.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from foundry.core.contracts import ExitCode
from foundry.core.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from foundry.core.contracts import Problem

SCHEMA_VERSION = 1
"""Of every JSON document. A new key does not change it; a key that goes or changes its meaning does."""

INDENTED = 1 << 20
"""Characters up to which a document is indented, for people."""
LISTED = 1000
"""Rows of a long list that are shown without --json."""

_json = False
_stdout: TextIO | None = None  # None: sys.stdout


class ClosedPipe(Exception):
    """Whoever read our stdout has gone: `foundry ... | head`, a terminal that was closed. Not an OSError, which typer
    would turn into exit 1."""


def use_json(wanted: bool) -> None:
    """Whether results, streams and errors are JSON from now on."""
    global _json
    _json = wanted


def wants_json() -> bool:
    return _json


@contextmanager
def own_stdout() -> Iterator[None]:
    """With --json nothing but our documents goes to stdout: what the code of a plugin prints goes to stderr."""
    global _stdout
    if not _json:
        yield
        return
    _stdout, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout, _stdout = _stdout, None


def result(data: Mapping[str, Any], draw: Callable[[], None], next_step: str = "") -> None:
    """A command's result. `next_step` is the command that a user would type now."""
    if _json:
        extra = {"next": next_step} if next_step else {}
        document = {"schema_version": SCHEMA_VERSION, **data, **extra}
        text = _as_json(document)
        if len(text) < INDENTED:  # Python indents, C does not: 50,000 rows would take 20 s
            text = _as_json(document, indent=2)
        write(text)
        return
    draw()
    if next_step:
        say(f"next: {next_step}")


def document(data: Mapping[str, Any]) -> None:
    """A document whose form others have laid down, such as a JSON Schema: printed as it is."""
    write(_as_json(data, indent=2))


def newest(rows: Sequence[Any], what: str, rest: str = "--json has all") -> Sequence[Any]:
    """The end of a list that is too long to be read; a remark says so.

    Args:
        what: `trials`.
        rest: how to get the others.
    """
    if len(rows) > LISTED:
        say(f"the newest {LISTED:,} of {len(rows):,} {what}; {rest}")
    return rows[-LISTED:]


def record(data: Mapping[str, Any]) -> None:
    """One line of a JSON Lines stream."""
    write(_as_json({"schema_version": SCHEMA_VERSION, **data}), flush=True)


def line(text: str = "") -> None:
    write(text + "\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """Rows of values on stdout. The title is for people only."""
    if not is_terminal(sys.stdout):
        for row in (columns, *rows):
            line("\t".join(" ".join(_cell(value).split()) for value in row))
        return
    from rich.console import Console

    console = Console()
    with console.capture() as capture:
        console.print(drawn(columns, rows, title))
    _emit(capture.get())


def drawn(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> Table:
    """A table as a terminal shows it."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    def shown(value: Any, style: str = "") -> Text:  # which is no markup of rich's, either
        return Text(printable(_cell(value)), style)

    heading = shown(title, "table.title") if title else None
    table = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(shown(column))
    for row in rows:
        table.add_row(*map(shown, row))
    return table


def say(text: str) -> None:
    """A remark for the user; silent with --json, where stderr holds errors only."""
    if not _json:
        _to_stderr(text)


def problems(found: Iterable[Problem]) -> None:
    """Plugins that could not be used: a remark, since the rest works."""
    for problem in found:
        say(f"plugin problem: {problem.distribution} ({problem.plugin}): {problem.message}")


def error(message: str, hint: str, code: int) -> None:
    """The one way in which commands fail: what is wrong, and what to do about it."""
    if _json:
        body = {"message": message, "hint": hint, "exit_code": int(code), "kind": _kind(code)}
        _to_stderr(_as_json({"schema_version": SCHEMA_VERSION, "error": body}).rstrip("\n"))
        return
    asked = code in (ExitCode.STOPPED, ExitCode.SIGHUP, ExitCode.SIGINT, ExitCode.SIGTERM)  # that is no error
    _to_stderr(message if asked else f"error: {message}")
    if hint:
        _to_stderr("  " + hint.replace("\n", "\n  ").replace("\n    ", "\n  "))


def write(text: str, flush: bool = False) -> None:
    """To stdout: what others wrote, as it is, or as a terminal may have it."""
    _emit(printable(text) if (_stdout or sys.stdout).isatty() else text, flush)


def _emit(text: str, flush: bool = False) -> None:
    stdout = _stdout or sys.stdout
    with _readers_of(stdout):
        stdout.write(text)
        if flush:
            stdout.flush()


def flush() -> None:
    stdout = _stdout or sys.stdout
    with _readers_of(stdout):
        stdout.flush()


@contextmanager
def _readers_of(stream: TextIO) -> Iterator[None]:
    """Tells their leaving from the other things that may go wrong. A terminal that is gone answers EIO, as does a disk
    that is broken."""
    try:
        yield
    except BrokenPipeError as gone:
        raise ClosedPipe from gone
    except OSError as error:
        if error.errno != errno.EIO or not stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):
            raise
        raise ClosedPipe from error


def screen() -> Console:
    """stderr, for what draws on it. Once the terminal is gone, what is drawn goes nowhere."""
    from rich.console import Console

    return Console(file=cast(TextIO, _Heedless()))


def above(console: Console, text: str) -> None:
    """A remark above what is drawn there."""
    console.print(printable(text), highlight=False, markup=False, soft_wrap=True)


class _Heedless:
    def __init__(self) -> None:
        self._stream = sys.stderr  # as it is now: rich puts something else in its place

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, call: Callable[[], object]) -> None:
        try:
            call()
        except OSError:
            drop(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def drop(stream: TextIO) -> None:
    """After its reader has gone: nothing more is written, and the interpreter's own flush at exit stays quiet."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def size(n_bytes: float) -> str:
    """1536 -> 1.5 KiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} TiB"


def place(path: Path | str) -> str:
    """How a path is shown: from here if it is under the working directory, else whole."""
    path = Path(path).absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def argument(path: Path | str) -> str:
    """How a path stands in a command line that is shown."""
    return shlex.quote(place(path))


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def _as_json(data: Mapping[str, Any], indent: int | None = None) -> str:
    """A document and its end of line, of printable ASCII: the one sign that JSON leaves as it is, DEL, is escaped."""
    return json.dumps(data, indent=indent, default=str).replace("\x7f", "\\u007f") + "\n"


def _kind(code: int) -> str:
    return ExitCode(code).name.lower() if code in set(ExitCode) else "failure"


def _to_stderr(text: str) -> None:
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except OSError:  # the reader is gone: that is no reason to fail
        drop(sys.stderr)
