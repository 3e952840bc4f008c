"""`git soup compare A B --prompts FILE`: what two adapters say to the same prompts, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from soup_git.commands.eval import EvalRequest, loaded_in_words, opened
from soup_git.core.baseload import TRAINED
from soup_git.errors import FatalError
from soup_git.render.heatmap import HeatMap
from soup_git.render.report import Table
from soup_git.storage.workspace import Workspace

MAX_PROMPTS = 1000
_CELL = 400


@dataclass(frozen=True)
class CompareRequest:
    a: str
    b: str
    prompts: Path
    base: str | None = None
    max_new_tokens: int = 64
    batch_size: int | None = None
    threads: int | None = None
    base_as: str = TRAINED


@dataclass(frozen=True)
class Sample:
    """One prompt and both answers, under the names that `git soup pr` reads."""

    prompt: str
    baseline_output: str
    candidate_output: str
    expected: str | None
    same: bool


@dataclass(frozen=True)
class CompareReport:
    schema: ClassVar[str] = "soup.samples/1"
    a: str
    b: str
    base: str
    same: int
    samples: list[Sample]
    base_as: str = TRAINED
    base_loads: tuple[str, str] = ("", "")
    """How the base was loaded for each, in words; empty for the base as it is."""

    @property
    def title(self) -> str:
        return f"{self.a} and {self.b}, side by side"

    def heat_maps(self) -> Sequence[HeatMap]:
        return []

    def tables(self) -> Sequence[Table | str]:
        head = f"{len(self.samples)} prompts, {self.same} answered the same   base {self.base}"
        a, b = (loaded_in_words(self.base_as, load) for load in self.base_loads)
        head += a if a == b else f" ({self.a}:{a or ' as it is'}, {self.b}:{b or ' as it is'})"
        rows = [
            (
                _short(s.prompt),
                _short(s.baseline_output),
                "=" if s.same else _short(s.candidate_output),
            )
            for s in self.samples
        ]
        return [head, Table(("prompt", self.a, self.b), rows)]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _CELL else line[: _CELL - 1] + "…"


def compare(workspace: Workspace, request: CompareRequest) -> CompareReport:
    """Greedy answers of both, on one loaded base. `base` names the bare base model."""
    from soup_git.evaluation.model import Decoding

    prompts = read_prompts(request.prompts)
    asked = EvalRequest(
        [request.a, request.b], request.prompts, base=request.base,
        batch_size=request.batch_size, threads=request.threads, base_as=request.base_as,
    )  # fmt: skip
    decoding = Decoding(max_new_tokens=request.max_new_tokens)
    with opened(workspace, asked) as (runner, named, _):
        texts = [prompt for prompt, _ in prompts]
        loads = tuple(runner.choice.load_of(one.candidate).words() for one in named)
        first, second = (runner.generate(one.candidate, texts, decoding) for one in named)
    samples = [
        Sample(in_words(prompt), one, two, expected, one == two)
        for (prompt, expected), one, two in zip(prompts, first, second, strict=True)
    ]
    same = sum(sample.same for sample in samples)
    return CompareReport(
        request.a, request.b, runner.choice.base, same, samples, request.base_as,
        (loads[0], loads[1]),
    )  # fmt: skip


def read_prompts(path: Path) -> list[tuple[Any, str | None]]:
    """(prompt, expected) of each row of a .jsonl file, or of each line of a .txt file."""
    if not path.is_file():
        raise FatalError(f"{path} is no file of prompts", hint=f"ls {path.parent}")
    if path.suffix == ".txt":
        lines = path.read_text("utf-8", "replace").splitlines()
        found: list[tuple[Any, str | None]] = [(line, None) for line in lines if line.strip()]
    else:
        found = _rows(path)
    if not found:
        raise FatalError(f"{path} has no prompts", hint=f"head {path}")
    if len(found) > MAX_PROMPTS:
        raise FatalError(
            f"{path} has {len(found)} prompts; {MAX_PROMPTS} are compared at most",
            hint=f"head -n {MAX_PROMPTS} {path} > some.jsonl",
        )
    return found


def _rows(path: Path) -> list[tuple[Any, str | None]]:
    from soup_git.data.rows import BadRowError, Problems
    from soup_git.evaluation.rows import read_rows
    from soup_git.evaluation.scorers import check_prompt

    problems = Problems("evaluated")
    rows, _ = read_rows(path, str(path), None, problems)
    for row in rows:
        try:
            check_prompt(row)
        except BadRowError as error:
            problems.add(row.file, row.line, str(error))
    problems.raise_if_any(str(path))
    return [(r.prompt, r.expected if isinstance(r.expected, str) else None) for r in rows]


def in_words(prompt: Any) -> str:
    """A prompt as text: turns as `role: content`."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{turn.get('role')}: {turn.get('content')}" for turn in prompt)
