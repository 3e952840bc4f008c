"""A reward function of the workspace: Python code of the user's, in a process of its own.

It runs because soup.yaml names it, as dvc.yaml names the programs of its stages. In a process
of its own it can hang, exit or print without taking the training along.
"""

from __future__ import annotations

import json
import math
import os
import queue
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soup_git.core.text import printable
from soup_git.errors import FatalError
from soup_git.training.rewards.asked import Asked

FUNCTION = "reward_fn"


class WorkspaceReward:
    """`FILE.py`: its function `reward_fn(prompts, completions, **columns)` gives one number each.

    A prompt that was written as turns has its completion as one, too.
    """

    def __init__(self, name: str, root: Path, seconds: float) -> None:
        self.name = name
        self._root = root
        self._seconds = seconds
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()

    def __call__(self, asked: Sequence[Asked]) -> list[float]:
        """Raises FatalError for what the function did wrong, naming the file."""
        self.start()
        columns = {key: [a.row.get(key) for a in asked] for key in sorted(_keys(asked))}
        call = {
            "prompts": [a.row["prompt"] for a in asked],
            "completions": [a.completion for a in asked],
            **{k: v for k, v in columns.items() if k != "prompt"},
        }
        answer = self._exchange(json.dumps(call))
        rewards = answer.get("rewards")
        if rewards is None:
            raise self._wrong(str(answer["error"]))
        if len(rewards) != len(asked):
            raise self._wrong(f"it returned {len(rewards)} rewards for {len(asked)} completions")
        for reward in rewards:
            if isinstance(reward, str):
                raise self._wrong(f"it returned {reward}, which is no number")
            if not math.isfinite(reward):
                raise self._wrong(f"it returned {reward}, which nothing can be learnt from")
        return [float(reward) for reward in rewards]

    def start(self) -> None:
        """Load the file, once. Raises FatalError where that fails."""
        if self._process is not None:
            return
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "soup_git.training.rewards.worker", self.name, FUNCTION],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self._root,
            # As the sandbox for a model's code: the order of a set is not to decide a reward.
            env={**os.environ, "PYTHONHASHSEED": "0"},
            start_new_session=True,  # Ctrl-C ends a step of training, not this
        )
        weakref.finalize(self, _end, self._process)
        threading.Thread(
            target=_listen, args=(self._process.stdout, self._answers), daemon=True
        ).start()
        answer = self._exchange(None)
        if "error" in answer:
            raise self._wrong(str(answer["error"]))

    def _exchange(self, call: str | None) -> dict[str, Any]:
        process = self._process
        if process is None or process.stdin is None:
            raise self._wrong("its process is gone")
        try:
            if call is not None:
                process.stdin.write(call + "\n")
                process.stdin.flush()
            line = self._answers.get(timeout=self._seconds)
        except queue.Empty:
            _end(process)
            raise self._wrong(
                f"it took longer than {self._seconds:g} s for one batch",
                hint="training.reward_timeout gives it more",
            ) from None
        except BrokenPipeError:
            line = ""
        if not line:
            raise self._wrong(f"its process ended with exit code {process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _wrong(self, what: str, *, hint: str = "") -> FatalError:
        return FatalError(
            f"the reward function of {printable(self.name)}: {printable(what)}",
            hint=hint
            or f"it is called as {FUNCTION}(prompts=…, completions=…, COLUMN=…), "
            "and returns a finite number for each completion",
        )


def _keys(asked: Sequence[Asked]) -> set[str]:
    return {key for a in asked for key in a.row}


def _listen(stream: Any, answers: queue.SimpleQueue[str]) -> None:
    for line in stream:
        answers.put(line)
    answers.put("")


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
