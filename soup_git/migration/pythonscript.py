"""The keyword arguments of a Python script or notebook, as literals: read, never run."""

from __future__ import annotations

import ast
import operator
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from soup_git.migration import ipython
from soup_git.migration.rules import Code

LARGEST_NOTEBOOK = 16 << 20  # bytes: pictures of its output lie in it
LARGEST_SCRIPT = 1 << 20
_VERSION = ".".join(map(str, sys.version_info[:2]))


UNREAD = "<unread>"
"""The name of a call that stands for a cell that this Python cannot read; its argument says why."""


class UnreadableError(ValueError):
    """The text is no Python, or no notebook: one line that says why."""

    def __init__(self, why: str, line: int = 1) -> None:
        super().__init__(why)
        self.line = line


@dataclass(frozen=True)
class Call:
    """One call: the last words of what is called, and its arguments."""

    name: str
    """`FastLanguageModel.from_pretrained`, `SFTConfig`, `dataset.map`."""
    positional: tuple[Any, ...]
    keywords: dict[str, Any]
    """Literal values; an expression that is none is a `Code`."""
    lines: dict[str, int]
    line: int
    cell: int | None
    """Which code cell of a notebook, from 1."""

    @property
    def method(self) -> str:
        return self.name.rpartition(".")[2]


def calls(text: str, *, notebook: bool) -> list[Call]:
    """Every call with its arguments, top to bottom.

    A name stands for the literal that it was assigned once, anywhere in the file; a name that
    is assigned twice, or anything that would have to be computed, is `Code`.
    """
    trees = _trees(text) if notebook else [(None, _script(text))]
    constants = _constants([tree for _, tree in trees if isinstance(tree, ast.Module)])
    found = []
    for cell, tree in trees:
        if isinstance(tree, ast.Module):
            found += [_call(n, cell, constants) for n in _calls_of(tree) if _name(n.func)]
        else:
            found.append(Call(UNREAD, (str(tree),), {}, {}, tree.line, cell))
    return found


def _trees(text: str) -> list[tuple[int | None, ast.Module | UnreadableError]]:
    """The cells of a notebook; one that this Python cannot read is no reason not to read the
    others, but has to be told of."""
    found: list[tuple[int | None, ast.Module | UnreadableError]] = []
    try:
        for cell, source in ipython.cells(text):
            try:
                found.append((cell, _tree(source)))
            except UnreadableError as error:
                found.append((cell, error))
    except ipython.NotANotebookError as error:
        raise UnreadableError(str(error)) from None
    return found


def _script(text: str) -> ast.Module:
    """A script; one that a notebook was downloaded as may have the notebook's shell lines."""
    try:
        return _tree(text)
    except UnreadableError as error:
        plain = ipython.python_of(text)
        if plain in (text, ""):
            raise
        try:
            return _tree(plain)
        except UnreadableError:
            raise error from None


def _tree(source: str) -> ast.Module:
    if len(source) > LARGEST_SCRIPT:
        raise UnreadableError("a script may have at most 1 MiB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of texts with a stray backslash
            return ast.parse(source)
    except SyntaxError as error:
        raise UnreadableError(
            f"line {error.lineno}: not Python {_VERSION}: {error.msg}", error.lineno or 1
        ) from None
    except (ValueError, RecursionError, MemoryError):
        raise UnreadableError(
            "not Python that can be read: nested too deep, or a null byte"
        ) from None


def _constants(trees: list[ast.Module]) -> dict[str, Any]:
    """Names that are assigned one literal, once."""
    values: dict[str, list[Any]] = {}
    for tree in trees:
        for node in _walk(tree):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    for name in _walk(target):
                        if isinstance(name, ast.Name):
                            whole = target if isinstance(target, ast.Name) else None
                            values.setdefault(name.id, []).append(
                                _literal(node.value, {}) if whole is not None else Code("?")
                            )
            elif isinstance(node, ast.AnnAssign | ast.AugAssign) and isinstance(
                node.target, ast.Name
            ):
                plain = isinstance(node, ast.AnnAssign) and node.value is not None
                found = _literal(node.value, {}) if plain and node.value else Code("?")
                values.setdefault(node.target.id, []).append(found)
            elif isinstance(node, ast.For) and isinstance(node.target, ast.Name):
                values.setdefault(node.target.id, []).append(Code("?"))
    return {
        name: found[0]
        for name, found in values.items()
        if len(found) == 1 and not isinstance(found[0], Code)
    }


def _walk(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes in the order of the text; `ast.walk` goes by depth."""
    stack = [tree]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(list(ast.iter_child_nodes(node))))


def _calls_of(tree: ast.Module) -> Iterator[ast.Call]:
    return (node for node in _walk(tree) if isinstance(node, ast.Call))


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = _name(node.value)
        return f"{before.rpartition('.')[2]}.{node.attr}" if before else node.attr
    return ""


def _call(node: ast.Call, cell: int | None, constants: dict[str, Any]) -> Call:
    keywords = {k.arg: _literal(k.value, constants) for k in node.keywords if k.arg is not None}
    return Call(
        name=_name(node.func),
        positional=tuple(_literal(argument, constants) for argument in node.args),
        keywords=keywords,
        lines={k.arg: k.value.lineno for k in node.keywords if k.arg is not None},
        line=node.lineno,
        cell=cell,
    )


def _literal(node: ast.expr, constants: dict[str, Any]) -> Any:
    if isinstance(node, ast.Name) and node.id in constants:
        return constants[node.id]
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        return _computed(node, constants)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return Code(_source(node))


_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


def _computed(node: ast.BinOp, constants: dict[str, Any]) -> Any:
    """`2 * rank`, of two numbers that the file names; anything longer is code."""
    left, right = (_plain(side, constants) for side in (node.left, node.right))
    if left is None or right is None or right == 0:
        return Code(_source(node))
    return _ARITHMETIC[type(node.op)](left, right)


def _plain(node: ast.expr, constants: dict[str, Any]) -> int | float | None:
    """The number that a name or a literal stands for; None for anything else."""
    value = constants.get(node.id) if isinstance(node, ast.Name) else None
    value = node.value if isinstance(node, ast.Constant) else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < 1e12 else None


def _source(node: ast.expr) -> str:
    try:
        text = " ".join(ast.unparse(node).split())
    except RecursionError:
        return "…"
    return text if len(text) <= 60 else f"{text[:59]}…"
