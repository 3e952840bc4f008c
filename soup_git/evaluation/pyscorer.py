"""Scorers of the workspace: `python:MODULE:FUNC`, run only where the command line allows it.

FUNC is called as `FUNC(answer, row)` with the answer and the row's object, and returns a
number or a bool. An exception or anything else it returns leaves the row without a score.
"""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from typing import Any

from soup_git.errors import FatalError
from soup_git.evaluation.rows import EvalRow
from soup_git.evaluation.scorers import ScoreAnswer, Scored, UnscoredError


def module_file(target: str, root: Path) -> Path | None:
    """The module's file in the workspace, None where there is none."""
    relative = target.partition(":")[0].replace(".", "/")
    for path in (root / f"{relative}.py", root / relative / "__init__.py"):
        if path.is_file():
            return path
    return None


def load_function(target: str, root: Path) -> ScoreAnswer:
    """The function that `MODULE:FUNC` names, from the workspace at `root` and nowhere else."""
    module, colon, name = target.partition(":")
    words = [*module.split("."), name]
    if not colon or not all(word.isidentifier() for word in words):
        raise FatalError(f"python:{target} is not python:MODULE:FUNC", hint="python:checks:polite")
    file = module_file(target, root)
    if file is None:
        raise FatalError(
            f"python:{target}: the workspace has no module {module}",
            hint=f"{module.replace('.', '/')}.py at the top of the repository",
        )
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise FatalError(
            f"python:{target}: {module} cannot be imported: {type(error).__name__}: {error}",
            hint=f"python -c 'import {module}'",
        ) from error
    loaded = getattr(found, "__file__", None)
    if loaded is None or Path(loaded).resolve() != file.resolve():
        raise FatalError(
            f"python:{target}: another module called {module} is loaded already",
            hint="rename the workspace's",
        )
    function: Any = getattr(found, name, None)
    if not callable(function):
        raise FatalError(f"python:{target}: {module} has no function {name}", hint=f"cat {file}")

    def score(row: EvalRow, answer: str) -> Scored:
        try:
            value = function(answer, dict(row.values))
        except (Exception, SystemExit) as error:
            raise UnscoredError(f"{name} raised {type(error).__name__}") from error
        number = _number(value)
        if not math.isfinite(number):
            raise UnscoredError(f"{name} returned no number")
        return {"python": (number, 1.0)}

    return score


def _number(value: Any) -> float:
    """A number or a bool, numpy's and torch's among them; NaN for anything else."""
    if isinstance(value, str | bytes | bytearray):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return math.nan
