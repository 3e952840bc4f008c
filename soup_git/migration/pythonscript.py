"""The keyword arguments of a Python script or notebook, as literals: read, never run."""

from __future__ import annotations

import ast
import json
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from soup_git.migration.rules import Code

LARGEST_NOTEBOOK = 16 << 20  # bytes: pictures of its output lie in it
LARGEST_SCRIPT = 1 << 20


class UnreadableError(ValueError):
    """The text is no Python, or no notebook: one line that says why."""


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
    cells = _cells(text) if notebook else [(None, text)]
    trees = [(cell, _tree(source)) for cell, source in cells]
    constants = _constants([tree for _, tree in trees])
    return [
        _call(node, cell, constants)
        for cell, tree in trees
        for node in _calls_of(tree)
        if _name(node.func)
    ]


def _cells(text: str) -> Iterator[tuple[int, str]]:
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"not a notebook: {' '.join(str(error).split())}") from None
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        raise UnreadableError("not a notebook: it has no cells")
    number = 0
    for cell in cells:
        if not isinstance(cell, dict) or cell.get("cell_type") != "code":
            continue
        number += 1
        source = cell.get("source", "")
        lines = source if isinstance(source, list) else [source]
        yield number, _without_magic("".join(map(str, lines)))


def _without_magic(source: str) -> str:
    """`%…`, `!…` and `?…` are IPython's; a cell that starts with %% is no Python at all."""
    lines = source.splitlines()
    first = next((line for line in lines if line.strip()), "")
    if first.startswith("%%") and not first.startswith("%%capture"):
        return ""
    kept = ["pass" if _is_magic(line) else line for line in lines]
    indents = [line[: len(line) - len(line.lstrip())] for line in lines]
    return "\n".join(f"{i}pass" if k == "pass" else k for i, k in zip(indents, kept, strict=True))


def _is_magic(line: str) -> bool:
    return line.lstrip().startswith(("%", "!", "?"))


def _tree(source: str) -> ast.Module:
    if len(source) > LARGEST_SCRIPT:
        raise UnreadableError("a script may have at most 1 MiB")
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise UnreadableError(f"line {error.lineno}: not Python: {error.msg}") from None
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
