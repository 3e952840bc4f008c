"""The text of a bisection's log: the question it asks, and what it was told.

    # git soup bisect log
    question {"checkpoints": [["run/a@100", "9f2c…"], …], "command": ["python", …], …}
    good 0 exit=0 seconds=1.204 # run/a@100
    bad 8 exit=1 seconds=1.187 # run/a@900
    end BROKEN_AT # run/a@600

Lines are only ever added. A last line without its newline is what a kill cut short, and
counts as never written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from soup_git.core.bisection import Found, Verdict
from soup_git.core.text import canonical_json, printable
from soup_git.errors import FatalError

HEAD = "# git soup bisect log\n"
_LINE = re.compile(
    r"(?P<verdict>good|bad|skip) (?P<position>\d{1,9}) exit=(?P<exit>\d{1,3}|-)"
    r" seconds=(?P<seconds>\d{1,9}\.\d{3})(?: #.*)?"
)
_END = re.compile(r"end (?P<found>[A-Z_]+)(?: #.*)?")


@dataclass(frozen=True)
class Question:
    """What a bisection asks. Another one is another search."""

    checkpoints: tuple[tuple[str, str], ...]
    """(name, key) in order; equal keys are equal adapters, byte for byte."""
    probe: Mapping[str, Any]
    """What judges a checkpoint, as JSON has it."""
    noise: tuple[float, float] | None
    """Rates of false alarms and of misses, where they were given."""
    confidence: float | None
    """None: answers are certain."""

    def twins(self) -> list[list[int]]:
        """Positions of equal adapters: one certain verdict counts for all of them."""
        groups: dict[str, list[int]] = {}
        if self.confidence is None:
            for position, (_, key) in enumerate(self.checkpoints):
                groups.setdefault(key, []).append(position)
        return [group for group in groups.values() if len(group) > 1]

    def text(self) -> str:
        body = {
            "checkpoints": self.checkpoints,
            "probe": self.probe,
            "noise": self.noise,
            "confidence": self.confidence,
        }
        return f"question {canonical_json(body)}\n"


@dataclass(frozen=True)
class Told:
    position: int
    verdict: Verdict
    exit_code: int | None
    """None when it was ended at its time limit, or had nothing to judge."""
    seconds: float

    def line(self, name: str) -> str:
        code = "-" if self.exit_code is None else self.exit_code
        return (
            f"{self.verdict} {self.position} exit={code} seconds={self.seconds:.3f}"
            f" # {printable(name)}\n"
        )


@dataclass(frozen=True)
class Log:
    question: Question
    told: tuple[Told, ...]
    end: Found | None
    """How the search ended; None when it can go on."""


def parse_log(data: bytes, where: str) -> Log:
    """Raises `FatalError` for what is no log of ours, with the line."""
    text = data.decode("utf-8", "replace")
    whole, _, _ = text.rpartition("\n")
    question: Question | None = None
    told: list[Told] = []
    end = None
    for number, line in enumerate(whole.split("\n"), start=1):
        if not line or line.startswith("#"):
            continue
        if question is None:
            question = _question(line, where)
        elif found := _LINE.fullmatch(line):
            told.append(_told(found))
            if told[-1].position >= len(question.checkpoints):
                raise _malformed(where, f"line {number} names a checkpoint that is not there")
        elif (found := _END.fullmatch(line)) and found["found"] in Found.__members__:
            end = Found(found["found"])
        else:
            raise _malformed(where, f"line {number} is neither a verdict nor an end")
    if question is None:
        raise _malformed(where, "it holds no question")
    return Log(question, tuple(told), end)


def _told(found: re.Match[str]) -> Told:
    code = None if found["exit"] == "-" else int(found["exit"])
    return Told(int(found["position"]), Verdict(found["verdict"]), code, float(found["seconds"]))


def _question(line: str, where: str) -> Question:
    word, _, rest = line.partition(" ")
    try:
        body = json.loads(rest)
    except (ValueError, RecursionError):
        body = None
    if word != "question" or not isinstance(body, dict):
        raise _malformed(where, "it does not begin with a question")
    checkpoints: Any = body.get("checkpoints")
    probe: Any = body.get("probe")
    noise: Any = body.get("noise")
    confidence: Any = body.get("confidence")
    fits = (
        isinstance(checkpoints, list)
        and len(checkpoints) >= 2
        and all(_is_list_of(pair, str, 2) for pair in checkpoints)
        and isinstance(probe, dict)
        and (noise is None or (_is_list_of(noise, float, 2) and all(0 <= r < 1 for r in noise)))
        and (confidence is None or (type(confidence) is float and 0.5 < confidence < 1))
    )
    if not fits:
        raise _malformed(where, "its question is not one that git soup bisect writes")
    return Question(
        checkpoints=tuple((name, key) for name, key in checkpoints),
        probe=probe,
        noise=None if noise is None else (noise[0], noise[1]),
        confidence=confidence,
    )


def _is_list_of(value: Any, kind: type, length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(type(v) is kind for v in value)


def _malformed(where: str, what: str) -> FatalError:
    return FatalError(
        f"{where} is not a log of git soup bisect: {what}",
        hint="git soup bisect log prints the present one",
    )
