"""Whose code an exception comes from, and which line of it: what Foundry says of an unexpected error.

    except Exception as error:
        raise explained(error) from error     # variants/diffattn.py:45: DiffAttention.forward: RuntimeError: ...

A traceback runs through Foundry, through libraries, and through what plugins and the files in variants/ brought. The
innermost line that is a plugin's names whose fault it is, even where Foundry or a library raised below it: they were
handed what they cannot take. Without such a line the fault is Foundry's own.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from foundry.core.contracts.errors import FoundryError, InternalError, PluginError, text_of
from foundry.core.limits import lacking

LOCAL = "local"
"""The distribution that a project's `variants/*.py` count as."""
LOCAL_PACKAGE = "foundry_local_"
"""Begins the name of the package that such a folder is imported as."""
FOUNDRY = tuple(f"foundry.{name}" for name in ("core", "lab", "zoo", "modules", "kernels", "data", "evals", "cli"))
LONG = 400
"""Characters of an error's text that a person reads. torch's can run over pages."""

EXPECTED = (
    (
        r"(same|expected) device|tensors? on|device mismatch",
        "every tensor has to be where the input is: make it with device=x.device. What a model costs is counted on the "
        "device meta, and trained on another",
    ),
    (
        r"meta tensor|meta device|register_meta",
        "what a model costs is counted on the device meta, where tensors have shapes and no numbers: nothing may "
        "depend on a tensor's values while a model is built, or on the way through it",
    ),
    (
        r"same dtype|scalar type|c10::",
        "every tensor has to be of the input's dtype: make it with dtype=x.dtype",
    ),
)
"""What torch says -> what is expected of a variant, where its own words do not tell."""

FAULTS = (Exception, SystemExit)
"""What code of a plugin's may raise that is its own fault: it may not end our process either."""

_owners: dict[str, str] = {}
"""Package or module -> the distribution that it belongs to, as discovery found them."""


@dataclass(frozen=True)
class CodeLine:
    """A line of code, and whose it is."""

    distribution: str  # `local` for the project's own files; empty: Foundry's own
    file: str  # as its owner calls it: variants/diffattn.py, foundry_plugin_mish/mish.py
    line: int
    function: str = ""  # DiffAttention.forward

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def hint(self) -> str:
        """What to do about a fault there."""
        if not self.distribution:
            return (
                "this is a fault of Foundry's own: please report it, with its traceback and what `foundry doctor` says"
            )
        if self.distribution == LOCAL:
            plugin = LOCAL if Path(self.file).stem.startswith("_") else self.file
            return f"mend it; `foundry plugins check {plugin}` tries it"
        return f"this is code of {_release(self.distribution)}: tell its authors"


NOWHERE = CodeLine("", "", 0)


def belongs(module: str, distribution: str) -> None:
    """Note whose code a module is, and whatever else is in the package around it."""
    _owners[module] = distribution


def explained(error: BaseException, doing: str = "") -> FoundryError:
    """The error in words for its reader: whose code, at which line, and what was expected there.

    Args:
        doing: what was done when it came about, `the mutation act relu9`; for an error of Foundry's own kinds, nothing.

    Returns:
        A PluginError where a plugin's code is to blame, an EnvironmentFailure where the machine is, else an
        InternalError. An error that has its words already is returned as it is.
    """
    if isinstance(error, FoundryError):
        return error
    if failure := lacking(error):
        return failure
    place, innermost = blamed(error)
    subject, where = f"{doing}: " if doing else "", ""
    if place is None or not place.distribution:
        where = f" ({place}, in {place.function})" if place else ""
        return InternalError(f"internal error: {subject}{said(error)}{where}", (place or NOWHERE).hint)
    function = f"{place.function}: " if place.function else ""
    if innermost != place:
        where = f" (raised in {innermost})"
    expected = next((words for sign, words in EXPECTED if re.search(sign, text_of(error))), "")
    hint = f"{expected}\n{place.hint}" if expected else place.hint
    return PluginError(f"{subject}{place}: {function}{said(error)}{where}", hint)


@contextmanager
def answers_for(made: Any) -> Iterator[None]:
    """Inside, Foundry calls what a plugin brought, or works with what that returned. What goes wrong there without any
    line of a plugin's in its traceback - it cannot be called so, it returned the wrong thing - is the fault of whoever
    wrote `made`, if that is a plugin.

    Raises:
        PluginError: in place of such an error; every other one passes.
    """
    try:
        yield
    except FoundryError:
        raise
    except FAULTS as error:
        place, culprit = place_of(made), blamed(error)[0]
        if place is None or not place.distribution or (culprit is not None and culprit.distribution):
            raise
        raise PluginError(f"{place}: {place.function}: {said(error)}", place.hint) from error


def described(error: BaseException) -> str:
    """`variants/sine.py:3: KeyError: 'x'`: one line, with the innermost place in a plugin's code, if there is one."""
    place, _ = blamed(error)
    return f"{place}: {said(error)}" if place and place.distribution else said(error)


def said(error: BaseException) -> str:
    """`ValueError: what it says`, in one line."""
    text = " ".join((error.msg if isinstance(error, SyntaxError) else text_of(error)).split())
    text = text if len(text) <= LONG else f"{text[:LONG]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def blamed(error: BaseException) -> tuple[CodeLine | None, CodeLine | None]:
    """The innermost line of a plugin's code that an exception, or what it was raised from, came through, or without one
    the innermost of Foundry's; and the innermost line of both. None, None where it came through neither."""
    places = [place for each in _chain(error) for place in _places(each)]
    innermost = places[-1] if places else None
    return next((place for place in reversed(places) if place.distribution), innermost), innermost


def place_of(made: Any, attribute: str = "") -> CodeLine | None:
    """Where a class, a function, or the class of an object is written; None for what is neither a plugin's nor
    Foundry's.

    Args:
        attribute: of a class, the one whose assignment is meant, `self.gain = ...`, where that is found.
    """
    made = _written(made)
    try:
        lines, first = inspect.getsourcelines(made)
        file, module = inspect.getsourcefile(made), inspect.getmodule(made)
    except (OSError, TypeError):  # it was typed, not written; or it is not Python
        return None
    if file is None or module is None:
        return None
    assigned = re.compile(rf"\bself\.{re.escape(attribute)}\s*(:[^=]+)?=[^=]") if attribute else None
    offset = next((number for number, line in enumerate(lines) if assigned and assigned.search(line)), 0)
    return _place(file, module.__name__, max(1, first) + offset, _short(made.__qualname__))


def is_plugins(made: Any) -> bool:
    """Whether a class, a function, or the class of an object is a plugin's, without a look for its line: to read and
    parse the files of Foundry's own takes a twentieth of a small training."""
    module = inspect.getmodule(_written(made))
    return module is not None and bool(_owner(module.__name__))


def _written(made: Any) -> Any:
    """The class or function that somebody wrote: what is wrapped, or the class of an object."""
    made = inspect.unwrap(made.func if isinstance(made, partial) else made)
    return made if inspect.isclass(made) or inspect.isroutine(made) else type(made)


def place_at(file: str, line: int, function: str = "") -> CodeLine | None:
    """The place that a printed traceback tells; None for what is neither a plugin's nor Foundry's."""
    path = Path(file)
    folder = str(path.parent)
    for name, package in list(sys.modules.items()):  # of which the module itself may not have come to be one
        folders = getattr(package, "__dict__", {}).get("__path__") or ()  # there are modules that answer for any name
        if folder in folders and _owner(name) is not None:
            return _place(file, name if path.stem == "__init__" else f"{name}.{path.stem}", line, _short(function))
    return None


def running(thread: int | None) -> CodeLine | None:
    """The line of a plugin's code that a thread of this process is in just now; None where it is in none."""
    frame = sys._current_frames().get(thread or 0)
    while frame is not None:
        code = frame.f_code
        place = _place(code.co_filename, frame.f_globals.get("__name__", ""), frame.f_lineno, _short(code.co_qualname))
        if place is not None and place.distribution:
            return place
        frame = frame.f_back
    return None


# --------------------------------------------------------------------------------------------------------------------


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error after those that it was raised from, or in the handling of: the first one of all is told last, because
    it is the innermost."""
    seen: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and not any(each is one for one in seen):
        seen.append(each)
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    yield from seen


def _places(error: BaseException) -> Iterator[CodeLine]:
    """The lines of plugins and of Foundry that an exception came through, the innermost last."""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        module = trace.tb_frame.f_globals.get("__name__", "")
        if place := _place(code.co_filename, module, trace.tb_lineno, _short(code.co_qualname)):
            yield place
        trace = trace.tb_next
    for frame in getattr(error, "real_stack", None) or ():  # torch.compile's errors carry the lines that it read
        if place := place_at(frame.filename, frame.lineno or 1, frame.name):
            yield place
    if isinstance(error, SyntaxError) and error.filename:
        yield from filter(None, [place_at(error.filename, error.lineno or 1)])


def _place(file: str, module: str, line: int, function: str) -> CodeLine | None:
    """None for a file that is a library's, or no file at all."""
    owner = _owner(module)
    if owner is None or file.startswith("<"):  # what `exec` ran, or a dataclass wrote for itself
        return None
    path = Path(file)
    depth = module.count(".") + (path.stem == "__init__") + 1
    return CodeLine(owner, "/".join(path.parts[-depth:]), line, function)


def _owner(module: str) -> str | None:
    if module.startswith(LOCAL_PACKAGE):
        return LOCAL
    if any(f"{module}.".startswith(f"{name}.") for name in FOUNDRY):
        return ""
    if module in _owners:
        return _owners[module]
    package = _package(module)
    return next((owner for known, owner in _owners.items() if _package(known) == package), None)


def _package(module: str) -> str:
    """The outermost package around a module that is no namespace, which several distributions may share."""
    names = module.split(".")
    outer = (".".join(names[:depth]) for depth in range(1, len(names)))
    return next((name for name in outer if getattr(sys.modules.get(name), "__file__", None)), module)


def _short(qualname: str) -> str:
    """`DiffAttention.forward`; of what is defined inside a function, the last part."""
    name = qualname.rpartition("<locals>.")[2]
    return "" if name == "<module>" else name


def _release(distribution: str) -> str:
    try:
        return f"{distribution} {version(distribution)}"
    except PackageNotFoundError:
        return distribution
