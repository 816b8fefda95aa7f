"""A part's plain text, as one experiment needs it: what `foundry.core.contracts.plain_text` says is done here.

The text keeps the form that its author gave it, comments too: only what is decided is cut out of it, and only what is
computed is put into it.
"""

from __future__ import annotations

import ast
import builtins
import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.abc import InspectLoader
from importlib.util import find_spec
from typing import Any

from foundry.core.blame import described
from foundry.core.contracts import PluginError, UsageError

BUILT_IN = frozenset(vars(builtins))
HEADER_END = re.compile(r":\s*(#.*)?$")


class ModuleText:
    """The text of a module, what it defines, and where each node of its syntax stands."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tree = ast.parse(text)
        self.defined = {node.name: node for node in self.tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        self._lines = [0]  # where each begins
        for line in text.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))

    def begin(self, node: Any) -> int:
        first = min((each.lineno for each in getattr(node, "decorator_list", ())), default=node.lineno)
        return self._lines[first - 1] + (node.col_offset if first == node.lineno else self._indent(first))

    def end(self, node: Any) -> int:
        """Of what has statements in it, the end of the line: a comment there is the last one's."""
        if isinstance(node, ast.stmt) and hasattr(node, "body"):
            return self.after(node) - 1
        end: int = self._lines[node.end_lineno - 1] + node.end_col_offset
        return end

    def line(self, number: int) -> int:
        """Where the line begins, counted from 1."""
        return self._lines[number - 1]

    def after(self, node: Any) -> int:
        """Where the line after the node begins."""
        return self.line(node.end_lineno + 1)

    def _indent(self, line: int) -> int:
        text = self.text[self._lines[line - 1] : self._lines[line]]
        return len(text) - len(text.lstrip())


@cache
def source_of(module: str) -> ModuleText:
    """The module's text. Its code is not run."""
    found = find_spec(module)
    text = found.loader.get_source(module) if found and isinstance(found.loader, InspectLoader) else None
    if text is None:
        raise PluginError(f"there is no text of the module {module}, which a variant's plain text is said to be in")
    if not text.isascii():  # as Python counts, columns are bytes
        raise PluginError(f"{module} is not in ASCII, as plain texts are")
    return ModuleText(text)


@dataclass(frozen=True)
class Part:
    """A class or a function of a module, and what is known where it is used."""

    module: str
    name: str
    known: Mapping[str, Any]
    called: str = ""  # its name in the text, where that is another


def definition_of(part: Part) -> ast.ClassDef | ast.FunctionDef:
    """Where its module defines it."""
    found = source_of(part.module).defined.get(part.name)
    if found is None:
        raise PluginError(f"{part.module} defines no {part.name}, which a variant's plain text is said to be")
    return found


@dataclass(frozen=True)
class Function:
    """An argument that is called where it is written out."""

    node: ast.Lambda
    fold: Fold


@dataclass
class PlainFile:
    """The definitions of a file, each before those that use it."""

    definitions: dict[str, str] = field(default_factory=dict)

    def define(self, part: Part, slots: Mapping[str, Part], bound: Mapping[str, Any] | None = None) -> str:
        """Add a part and all that it uses, if it is not there already; its name in the text."""
        name, node = part.called or part.name, definition_of(part)
        definition = Fold(self, part, slots, {part.name: name, **(bound or {})}).of(node)
        definition = re.sub(rf"\A((?:class|def) ){part.name}\b", rf"\g<1>{name}", definition)
        definition = re.sub(r"\n{3,}", "\n\n", definition).rstrip()
        for number in range(1, len(self.definitions) + 2):
            unique = name if number == 1 else f"{name}{number}"
            known = re.sub(rf"\b{name}\b", unique, definition) if number > 1 else definition
            if self.definitions.setdefault(unique, known) == known:
                return unique
        raise AssertionError("there are more names than definitions")


@dataclass(frozen=True)
class Fold:
    """Writes nodes of one part's source.

    Args:
        file: what is written.
        part: of which it is, and what is known there.
        slots: what fills the slots of the layer.
        bound: names that stand for something else: a text, or a `Function`.
    """

    file: PlainFile
    part: Part
    slots: Mapping[str, Part]
    bound: Mapping[str, Any]

    @property
    def source(self) -> ModuleText:
        return source_of(self.part.module)

    def of(self, node: ast.AST) -> str:
        """The node, as it stands in the text."""
        if isinstance(node, ast.expr) and self._is_known(node) and _is_literal(value := self._value(node)):
            return _literal(value)
        match node:
            case ast.IfExp() if self._is_known(node.test):
                return self.of(node.body if self._value(node.test) else node.orelse)
            case ast.Name(id=name) if name in self.bound:
                return str(self.bound[name])
            case ast.Name(id=name) if name in self.source.defined:
                return self.file.define(replace(self.part, name=name, called=""), self.slots)
            case ast.Call():
                return self._call(node)
            case ast.FunctionDef(args=arguments) if any(_is_only(_mark(each.annotation)) for each in arguments.args):
                return self._function(node)
            case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[kept, only])) if _is_only(only):
                return self.of(kept)
        return self._spliced(self.source.begin(node), self.source.end(node), _children(node))

    def _function(self, node: ast.FunctionDef) -> str:
        """A function of which some parameters are not always there; the rest stands on one line."""
        source, parameters = self.source, node.args.args
        kept = [self.of(each) for each in parameters if self._is_there(_mark(each.annotation))]
        head = source.text[source.begin(node) : source.begin(parameters[0])].rstrip()
        last = source.end(parameters[-1])
        last += re.match(r",?\s*", source.text[last:]).end()  # type: ignore[union-attr]
        rest = [each for each in _children(node) if source.begin(each) > last]
        return head + ", ".join(kept) + self._spliced(last, source.end(node), rest)

    def _call(self, node: ast.Call) -> str:
        match node.func:
            case ast.Attribute(value=ast.Name(id="slots"), attr=slot):
                filled = self.slots[slot]
                if not filled.module:
                    raise UsageError(
                        f"{filled.name} cannot be inlined: there is no plain text of it",
                        "its Variant(...) may name one: plain='package.module:Name'; docs/add-a-variant.md says how",
                    )
                return self._called(node, filled)
            case ast.Name(id=name) if isinstance(function := self.bound.get(name), Function):
                names = [each.arg for each in function.node.args.args]
                bound = {**function.fold.bound, **dict(zip(names, map(self.of, node.args), strict=True))}
                return replace(function.fold, bound=bound).of(function.node.body)
            case ast.Name(id=name) if name in self.source.defined and name not in self.bound:
                return self._called(node, replace(self.part, name=name, called=""))
        return self._arguments(self.of(node.func), node)

    def _called(self, node: ast.Call, part: Part) -> str:
        """A call of a part: written out, where it is one `return`."""
        function = definition_of(part)
        if isinstance(function, ast.ClassDef) or (result := _only_return(function)) is None:
            return self._arguments(self.file.define(part, self.slots), node)
        values = [Function(each, self) if isinstance(each, ast.Lambda) else self.of(each) for each in node.args]
        names = [each.arg for each in function.args.args]
        return Fold(self.file, part, self.slots, dict(zip(names, values, strict=False))).of(result)

    def _arguments(self, called: str, node: ast.Call) -> str:
        values = [*node.args, *node.keywords]
        kept = [each for each in values if self._is_there(getattr(each, "value", None))]
        if not any(map(self._holds_only, values)):
            rest = [each for each in _children(node) if each is not node.func]
            return called + self._spliced(self.source.end(node.func), self.source.end(node), rest)
        return f"{called}({', '.join(map(self._without_only, kept))})"

    def _holds_only(self, argument: ast.AST) -> bool:
        return isinstance(argument, ast.keyword) and _is_only(argument.value)

    def _without_only(self, argument: ast.AST) -> str:
        if isinstance(argument, ast.keyword) and _is_only(argument.value):
            return f"{argument.arg}={self.of(argument.value.args[1])}"  # type: ignore[attr-defined]
        return self.of(argument)

    def _is_there(self, marked: ast.AST | None) -> bool:
        """Whether the condition of an `only` holds, where there is one."""
        return not _is_only(marked) or bool(self._value(marked.args[0]))  # type: ignore[union-attr]

    def _spliced(self, begin: int, end: int, parts: Iterable[Any]) -> str:
        """A stretch of the source, of which these nodes are written anew."""
        written, source = [], self.source
        for node in sorted(parts, key=source.begin):
            first, last, of_node = source.begin(node), source.end(node), self.of
            if isinstance(node, ast.If) and self._is_known(node.test):
                first, last, of_node = source.line(node.lineno), source.after(node), self._chosen
            written += [source.text[begin:first], of_node(node)]
            begin = last
        return "".join((*written, source.text[begin:end]))

    def _chosen(self, node: ast.AST) -> str:
        """The lines of a decided `if` that are left, as far to the left as it was."""
        assert isinstance(node, ast.If)
        source, truth = self.source, bool(self._value(node.test))
        statements = node.body if truth else node.orelse
        if not statements:
            return ""
        first, last = statements[0], statements[-1]
        if not truth and isinstance(first, ast.If) and source.text[source.begin(first) :].startswith("elif"):
            if self._is_known(first.test):
                return self._chosen(first)
            raise NotImplementedError("an `elif` that is not decided")
        if truth:
            header = next(n for n in range(node.test.end_lineno or 0, first.lineno) if HEADER_END.search(self._line(n)))
        else:
            header = next(n for n in range(first.lineno - 1, 0, -1) if self._line(n).strip() == "else:")
        begin, end = source.line(header + 1), source.after(last)
        return textwrap.indent(textwrap.dedent(self._spliced(begin, end, statements)), " " * node.col_offset)

    def _line(self, number: int) -> str:
        return self.source.text[self.source.line(number) : self.source.line(number + 1)]

    def _is_known(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Slice):
            return False
        names = _names(node)
        return bool(names & self.part.known.keys()) and not names - BUILT_IN - self.part.known.keys()

    def _value(self, node: Any) -> Any:
        try:
            return eval(compile(ast.Expression(node), "<plain text>", "eval"), {}, dict(self.part.known))
        except Exception as error:
            place = f"{self.part.module}, line {node.lineno}"
            raise PluginError(f"{place}: {ast.unparse(node)} cannot be computed: {described(error)}") from error


def _literal(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' * (len(value) == 1)})"
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _is_literal(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_literal, value))
    return value is None or isinstance(value, bool | int | float | str)


@cache
def _names(node: ast.AST) -> frozenset[str]:
    return frozenset(each.id for each in ast.walk(node) if isinstance(each, ast.Name))


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes within a node that have a place in the source."""
    for child in ast.iter_child_nodes(node):
        if hasattr(child, "lineno"):
            yield child
        else:
            yield from _children(child)


def _mark(annotation: ast.AST | None) -> ast.AST | None:
    """What `Annotated` says beside the type."""
    return annotation.slice.elts[-1] if _is_annotated(annotation) else None  # type: ignore[union-attr]


def _is_annotated(node: ast.AST | None) -> bool:
    return (
        isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id == "Annotated"
        and isinstance(node.slice, ast.Tuple)
    )


def _is_only(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "only"


def _only_return(function: ast.FunctionDef) -> ast.expr | None:
    """What a function returns, if that is all that it does."""
    body = [each for each in function.body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))]
    return body[0].value if len(body) == 1 and isinstance(body[0], ast.Return) else None
