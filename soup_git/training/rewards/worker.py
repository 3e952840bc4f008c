"""The process that runs a reward function of the workspace: started by workspacefile.py.

Called as `python -m soup_git.training.rewards.worker FILE FUNCTION` in the workspace. Reads
one call per line of JSON, answers with a line each: `{"rewards": […]}` or `{"error": "…"}`.
What the function prints goes to stderr, and equal calls draw equal random numbers.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import os
import random
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main(file: str, name: str) -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    sys.path.insert(0, str(Path.cwd()))
    try:
        function = _loaded(file, name)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # the user's code: anything can come
        say({"error": f"it cannot be loaded: {_last(error, file)}"})
        return
    say({"rewards": []})
    for line in sys.stdin:
        _seed(line)
        try:
            rewards = function(**json.loads(line))
            say({"rewards": [_number(reward) for reward in rewards]})
        except (Exception, SystemExit) as error:  # noqa: BLE001
            say({"error": f"it raised {_last(error, file)}"})


def _seed(call: str) -> None:
    """What a function draws at random is a function of what it was asked, also in a run that
    was interrupted in between."""
    seed = int.from_bytes(hashlib.sha256(call.encode()).digest()[:4], "big")
    random.seed(seed)
    for name in ("numpy.random", "torch.random"):
        if (module := sys.modules.get(name)) is not None:
            (module.seed if name.startswith("numpy") else module.manual_seed)(seed)


def _loaded(file: str, name: str) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    function: Any = getattr(module, name, None)
    if function is None or not callable(function):
        raise ImportError(f"it has no function {name}")
    taken = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in taken):
        return function  # type: ignore[no-any-return]
    names = {p.name for p in taken}
    return lambda **columns: function(**{k: v for k, v in columns.items() if k in names})


def _number(value: Any) -> Any:
    """A number as JSON has it, numpy's and torch's among them; text for anything else."""
    if isinstance(value, str | bytes) or value is None:
        return repr(value)
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return repr(value)


def _last(error: BaseException, file: str) -> str:
    """What happened, and where in the file."""
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if Path(f.filename).name == Path(file).name]
    return f"{what} (line {lines[-1]})" if lines else what


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
