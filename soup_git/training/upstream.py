"""The option names of TRL's, transformers' and PEFT's own config classes.

They are read from the installed sources with `ast`, so that `soup.yaml` can be checked
against exactly the versions that will train, and without the seven seconds that importing
them takes. A new upstream option needs no release of ours.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from soup_git.errors import EXTRA_OF, FatalError

# The simple types that a written value can be checked against; anything else in an
# annotation (an enum, a config class) leaves the check to the class itself.
_SIMPLE: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "dict": (dict,),
    "list": (list,),
    "None": (type(None),),
}


@dataclass(frozen=True)
class Option:
    """One field of an upstream config class: `kinds` and `choices` are None when unknown."""

    name: str
    kinds: tuple[str, ...] | None
    choices: tuple[str, ...] | None

    def refusal(self, value: Any) -> str | None:
        """What is wrong with `value`, as far as the declaration tells; None if nothing."""
        if self.choices is not None and value not in self.choices:
            return f"is not one of {', '.join(self.choices)}"
        if self.kinds is None:
            return None
        if isinstance(value, bool):
            fits = "bool" in self.kinds
        else:
            fits = any(isinstance(value, _SIMPLE[kind]) for kind in self.kinds)
        return None if fits else f"should be {' or '.join(self.kinds)}"


def installed(package: str) -> bool:
    """Is the package there, as far as can be told without importing it?"""
    parent = package.rpartition(".")[0]
    if parent and not installed(parent):
        return False
    return importlib.util.find_spec(package) is not None


def extra_of(package: str) -> str:
    """The command that installs the extra which brings the package."""
    extra, _ = EXTRA_OF.get(package, EXTRA_OF["trl"])
    return f"pip install 'git-soup[{extra}]'"


def source(package: str, relative: str) -> Path:
    """A file of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FatalError(f"{package} is not installed, training needs it", hint=extra_of(package))
    return Path(spec.submodule_search_locations[0]) / relative


def options(sources: Iterable[tuple[str, str, str]]) -> dict[str, Option]:
    """Fields of the classes `(package, file, class)`; a later class overrides an earlier one."""
    return {name: option for where in sources for name, option in _fields(*where).items()}


@cache
def _tree(package: str, relative: str) -> ast.Module:
    return ast.parse(source(package, relative).read_text(encoding="utf-8"))


def _class(package: str, relative: str, name: str) -> ast.ClassDef:
    for node in _tree(package, relative).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    raise FatalError(
        f"{package} has no {name} in {relative}: this version is not known to git-soup",
        hint="pip install 'git-soup[train]' for the versions that are",
    )


@cache
def _fields(package: str, relative: str, name: str) -> dict[str, Option]:
    found = {}
    for node in _class(package, relative, name).body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        field = node.target.id
        found[field] = Option(field, _kinds(node.annotation), _choices(node.value))
    return found


@cache
def popped(package: str, relative: str, name: str) -> tuple[str, ...]:
    """The names that an upstream class takes as keywords with `kwargs.pop("NAME", …)`."""
    return tuple(
        str(node.args[0].value)
        for node in ast.walk(_class(package, relative, name))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "kwargs.pop"
        and isinstance(node.args[0], ast.Constant)
    )


def enum_values(package: str, relative: str, name: str) -> tuple[str, ...]:
    """The string values of an upstream enum."""
    return tuple(
        str(node.value.value)
        for node in _class(package, relative, name).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    )


def _kinds(annotation: ast.expr) -> tuple[str, ...] | None:
    """`int | None` -> ("int", "None"); None when a part is not a simple type."""
    if isinstance(annotation, ast.BinOp):
        left, right = _kinds(annotation.left), _kinds(annotation.right)
        return left + right if left and right else None
    if isinstance(annotation, ast.Constant) and annotation.value is None:
        return ("None",)
    if isinstance(annotation, ast.Name):
        return (annotation.id,) if annotation.id in _SIMPLE else None
    if isinstance(annotation, ast.Subscript) and isinstance(annotation.value, ast.Name):
        outer = annotation.value.id
        if outer == "Optional":
            inner = _kinds(annotation.slice)
            return (*inner, "None") if inner else None
        if outer == "Union" and isinstance(annotation.slice, ast.Tuple):
            parts = [_kinds(part) for part in annotation.slice.elts]
            return tuple(k for part in parts for k in part or ()) if all(parts) else None
        return (outer,) if outer in _SIMPLE else None
    return None


def _choices(value: ast.expr | None) -> tuple[str, ...] | None:
    """The `choices` of `field(metadata={"choices": [...]})`."""
    for node in ast.walk(value) if value is not None else ():
        if not isinstance(node, ast.Dict):
            continue
        for key, item in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "choices":
                if not isinstance(item, ast.List):
                    return None
                return tuple(str(e.value) for e in item.elts if isinstance(e, ast.Constant))
    return None
