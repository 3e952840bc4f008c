"""Suites: which tasks, on which prompts, scored how. YAML, every error at once with its line.

Nothing is accepted and ignored: an unknown key, an option that the task's scorer does not
read, a row without a field its scorer needs, each is an error that names file and line,
before a model is loaded. The docstrings below become the JSON Schema's descriptions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from soup_git.core import yamllines
from soup_git.core.digests import sha256_hex
from soup_git.core.text import canonical_json
from soup_git.core.yamllines import Where, line_of, nearest
from soup_git.data.rows import BadRowError, Problems, Row
from soup_git.errors import FatalError
from soup_git.evaluation import rows as rowfiles
from soup_git.evaluation.model import Decoding
from soup_git.evaluation.rows import EvalRow

MAX_TASKS = 256
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_\-]{0,63}$")]
Percent = Annotated[str, Field(pattern=r"^\d{1,3}(\.\d{1,6})?%$")]


class _Block(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class DecodingBlock(_Block):
    """How answers are generated."""

    max_new_tokens: Annotated[int, Field(ge=1, le=1 << 16)] = 64
    """Tokens of an answer at most."""
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.0
    """0 is greedy. Above, every row is sampled with a generator of its own."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the likeliest tokens that hold this share of the probability."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Sample from this many of the likeliest tokens; 0 from all."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of sampling."""
    stop: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=16)] = []
    """Strings that end an answer and are not part of it."""

    def decoding(self) -> Decoding:
        return Decoding(**self.model_dump(exclude={"stop"}), stop=tuple(self.stop))


class JudgeBlock(_Block):
    """A model behind an OpenAI-compatible endpoint that grades answers."""

    url: Annotated[str, Field(pattern=r"^https?://")]
    """Where `/chat/completions` is, as in http://127.0.0.1:8000/v1."""
    model: Annotated[str, Field(min_length=1)]
    """The model's name there."""
    key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")] | None = None
    """The environment variable that holds the key; no key is sent without it."""
    instruction: Annotated[str, Field(min_length=1)] | None = None
    """What the judge is asked, with {prompt}, {expected} and {output}; it answers with a number."""
    low: float = 1.0
    """The worst grade; it becomes 0."""
    high: float = 10.0
    """The best grade; it becomes 1."""
    timeout: Annotated[float, Field(gt=0, le=600)] = 60.0
    """Seconds per request."""
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    """How often a request that failed is sent again."""
    parallel: Annotated[int, Field(ge=1, le=64)] = 4
    """Requests under way at once."""


class Threshold(_Block):
    """When a gate fails on a metric. Drops count in the direction that is worse."""

    min: float | None = None
    """The value may not be below."""
    max: float | None = None
    """The value may not be above."""
    max_drop: Annotated[float, Field(ge=0)] | int | Percent | None = None
    """How much worse than the baseline it may be: in the metric's unit, or in percent (`2%`)."""


class TaskBlock(_Block):
    """One set of prompts and how the answers are scored."""

    name: Name
    """Its name in reports: `NAME.SCORE`."""
    prompts: Annotated[str, Field(min_length=1)] | None = None
    """A .jsonl file of rows, beside the suite or below the workspace."""
    scoring: Annotated[str, Field(min_length=1)] | None = None
    """A scorer. Without it each row's own `scoring`, and `exact` for rows without."""
    max_rows: Annotated[int, Field(ge=1)] | None = None
    """Only the first rows."""
    chat: bool = True
    """Put prompts through the chat template; false takes them as plain text."""
    decoding: DecodingBlock | None = None
    """Instead of the suite's."""
    case_sensitive: bool = False
    """Whether case counts (exact, contains, regex)."""
    normalize: Annotated[str, Field(pattern="^(tokens|characters|none)$")] = "tokens"
    """What an option's log-likelihood is divided by (choice)."""
    schema_file: Annotated[str, Field(min_length=1)] | None = None
    """A JSON Schema for all rows that bring none as `expected` (json_schema)."""
    judge: JudgeBlock | None = None
    """Who grades (judge)."""
    num_fewshot: Annotated[int, Field(ge=0, le=100)] | None = None
    """Examples before each question (lm_eval)."""
    include_path: Annotated[str, Field(min_length=1)] | None = None
    """A folder of lm-evaluation-harness task files (lm_eval)."""
    gate: dict[str, Threshold] = {}
    """Score -> what `git soup gate` accepts."""


class SuiteFile(_Block):
    """What an adapter is asked, and how the answers are scored."""

    name: Name | None = None
    """Its name in reports and notes; the file's by default."""
    baseline: Annotated[str, Field(min_length=1)] | None = None
    """What `git soup gate` compares with when --baseline says nothing: an adapter spec or `base`."""
    chat_template: Annotated[str, Field(min_length=1)] | None = None
    """The tokenizer's own by default; a name (chatml, qwen3, ...); or a .jinja file."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 8
    """Rows per forward pass. It does not change results beyond floating point."""
    decoding: DecodingBlock = DecodingBlock()
    """How answers are generated, unless a task says otherwise."""
    tasks: Annotated[list[TaskBlock], Field(min_length=1, max_length=MAX_TASKS)]
    """The tasks."""


# Options that only some scorers read.
_SCORER_OPTIONS = (
    "chat", "decoding", "case_sensitive", "normalize", "schema_file", "judge", "num_fewshot",
    "include_path", "max_rows",
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """One scorer over the rows of a task that it scores."""

    name: str
    scoring: str
    block: TaskBlock
    decoding: Decoding
    rows: tuple[EvalRow, ...]
    root: Path
    """The workspace: what a task names may lie anywhere below it."""
    folder: Path
    """The suite's folder: files are looked for here first."""
    files: Mapping[str, str]
    """Other files that decide the scores -> sha256."""

    @cached_property
    def digest(self) -> str:
        """sha256 of all that decides its scores, except model and scorer implementation."""
        block = self.block.model_dump(mode="json", exclude={"name", "gate", "prompts", "decoding"})
        body = {
            "scoring": self.scoring,
            "block": block,
            "decoding": vars(self.decoding) | {"stop": list(self.decoding.stop)},
            "rows": [row.values for row in self.rows],
            "files": dict(self.files),
        }
        return sha256_hex(canonical_json(body).encode("utf-8", "surrogatepass"))


@dataclass(frozen=True)
class Suite:
    """A suite with its rows read and checked."""

    name: str
    path: str
    sha256: str
    """Over the suite's text and the bytes of its prompt files."""
    file: SuiteFile
    tasks: tuple[Task, ...]

    @property
    def thresholds(self) -> Mapping[str, Threshold]:
        """`TASK.SCORE` -> its threshold."""
        return {
            f"{task.name}.{score}": threshold
            for task in self.file.tasks
            for score, threshold in task.gate.items()
        }


def json_schema() -> dict[str, Any]:
    """The schema that editors use to complete and check a suite."""
    schema = SuiteFile.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "suite.yaml"
    return schema


def load_suite(path: Path, root: Path, name: str | None = None) -> Suite:
    """Read a suite and its rows; `root` is the workspace that its files may lie in.

    `name` is what messages call the file, as the user wrote it.

    Raises FatalError with every error of the suite, each with its line, then with those of
    the rows.
    """
    source = name or str(path)
    data = _read(path, source)
    raw, lines, problems = yamllines.read(data.decode("utf-8-sig", "replace"))
    if not problems and not isinstance(raw, dict):
        problems.append(((), 1, "should be a mapping with `tasks:`"))
    if isinstance(raw, dict):
        unreadable = {where for where, _, _ in problems}
        problems += [
            (where, line_of(lines, where), what)
            for where, what in _wrong(raw)
            if where not in unreadable
        ]
    if problems:
        raise yamllines.all_at_once(source, problems)
    file = SuiteFile.model_validate(raw)
    given: set[Where] = {where for where in lines if len(where) == 3}
    problems = [(where, line_of(lines, where), what) for where, what in _together(file, given)]
    if problems:
        raise yamllines.all_at_once(source, problems)
    return _with_rows(file, path, source, root, data, lines)


def _read(path: Path, shown: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(yamllines.LARGEST + 1)
    except FileNotFoundError:
        raise FatalError(
            f"{shown} does not exist", hint="docs/howto/evaluate.md shows a suite to start from"
        ) from None
    except IsADirectoryError:
        raise FatalError(f"{shown} is a folder, not a suite", hint=f"ls {shown}") from None


# -- what the file alone can tell --------------------------------------------------------------

_BLOCKS: dict[str, type[BaseModel]] = {
    "decoding": DecodingBlock,
    "judge": JudgeBlock,
    "tasks": TaskBlock,
    "gate": Threshold,
}
_ELSEWHERE = {
    "metric": "scoring",
    "scorer": "scoring",
    "file": "prompts",
    "dataset": "prompts",
    "data": "prompts",
    "max_tokens": "decoding.max_new_tokens",
    "thresholds": "gate",
    "threshold": "gate",
    "api_key": "judge.key_env: the name of a variable; a key has no place in a file",
}


def _wrong(raw: Mapping[str, Any]) -> Iterator[tuple[Where, str]]:
    try:
        SuiteFile.model_validate(raw)
    except ValidationError as failure:
        by_key: dict[Where, list[str]] = {}
        for error in failure.errors(include_url=False):
            where = _place_of(error["loc"])
            what = error["msg"].replace("Input should", "should")
            if error["type"] == "extra_forbidden":
                what = f"unknown key{_suggestion(where)}"
            elif error["type"] == "missing":
                what = "is missing"
            elif error["type"] == "string_pattern_mismatch" and where[-1] == "name":
                what = "should be letters, digits, - and _"
            elif error["type"] == "string_pattern_mismatch" and where[-1] == "normalize":
                what = f"should be tokens, characters or none{nearest(error['input'], ('tokens', 'characters', 'none'))}"
            elif error["type"] == "string_pattern_mismatch" and where[-1] == "max_drop":
                what = "should be a percentage such as 2%"
            by_key.setdefault(where, []).append(what)
        for where, whats in by_key.items():
            yield where, " or ".join(dict.fromkeys(whats))


def _place_of(location: Sequence[str | int]) -> Where:
    """pydantic's location without the names of union members that it appends."""
    if "max_drop" in location:
        return tuple(location[: location.index("max_drop") + 1])
    return tuple(p for p in location if not (isinstance(p, str) and ("[" in p or p == "str")))


def _suggestion(where: Where) -> str:
    key, above = str(where[-1]), [str(p) for p in where[:-1] if isinstance(p, str)]
    if "gate" in above:
        model: type[BaseModel] = Threshold
    else:
        model = _BLOCKS[above[-1]] if above and above[-1] in _BLOCKS else SuiteFile
    found = nearest(key, model.model_fields)
    if not found and key in _ELSEWHERE:
        return f"; that is {_ELSEWHERE[key]} here"
    if not found:
        models: tuple[type[BaseModel], ...] = (SuiteFile, *_BLOCKS.values())
        found = nearest(key, {name for m in models for name in m.model_fields})
    return found


def _together(file: SuiteFile, given: set[Where]) -> Iterator[tuple[Where, str]]:
    """What no single key's type can tell."""
    from soup_git.evaluation.scorers import SCORERS, scorer_of

    names: dict[str, int] = {}
    for i, task in enumerate(file.tasks):
        at: Where = ("tasks", i)
        if task.name in names:
            yield (*at, "name"), f"{task.name} is the name of an earlier task too"
        names[task.name] = i
        scoring = task.scoring or "exact"
        try:
            scorer = scorer_of(scoring)
        except KeyError:
            known = ", ".join(s.spelled for s in SCORERS.values())
            why = f"there is no scorer {scoring}{nearest(scoring, SCORERS)}; scorers: {known}"
            yield (*at, "scoring"), why
            continue
        if task.prompts is None and scorer.reads != "harness":
            yield at, "prompts is missing"
        if task.prompts is not None and scorer.reads == "harness":
            yield (*at, "prompts"), f"{scoring} brings its own questions"
        if scorer.name == "judge" and task.judge is None:
            yield at, "judge is missing: a url and a model to grade with"
        if task.judge is not None and task.judge.high <= task.judge.low:
            yield (*at, "judge"), "high should be above low"
        for key in _SCORER_OPTIONS:
            is_given = (*at, key) in given and getattr(task, key) is not None
            # Rows may name other scorers than the task does: then the row's scorer reads it.
            readers = [s for s in SCORERS.values() if key in s.options]
            if is_given and key not in scorer.options and (task.scoring or not readers):
                yield (*at, key), f"{scoring} does not read this"


# -- rows --------------------------------------------------------------------------------------


def _with_rows(
    file: SuiteFile,
    path: Path,
    source: str,
    root: Path,
    data: bytes,
    lines: Mapping[Where, int],
) -> Suite:
    from soup_git.evaluation.scorers import scorer_of

    folder = path.resolve().parent
    tasks: list[Task] = []
    digests = [sha256_hex(data)]
    problems = Problems("evaluated")
    for i, block in enumerate(file.tasks):
        at = f"{source}:{line_of(dict(lines), ('tasks', i, 'prompts'))}"
        grouped: dict[str, list[EvalRow]] = {}
        if block.prompts is None:
            grouped[block.scoring or "exact"] = []
        else:
            found, digest = rowfiles.read_rows(
                _find(block.prompts, folder, root, at), block.prompts, block.max_rows, problems
            )
            digests.append(digest)
            for row in found:
                scoring = rowfiles.scoring_of(row, block.scoring, problems)
                if scoring is not None:
                    grouped.setdefault(scoring, []).append(row)
        decoding = (block.decoding or file.decoding).decoding()
        for scoring, of_scoring in grouped.items():
            scorer = scorer_of(scoring)
            files = _files_of(block, folder, root, at)
            digests += files.values()
            task = Task(
                block.name, scoring, block, decoding, tuple(of_scoring), root, folder, files
            )
            _check_rows(task, scorer.check, problems)
            tasks.append(task)
    problems.raise_if_any(source)
    _check_gates(file, tasks, source, lines)
    name = file.name or path.stem
    return Suite(name, source, sha256_hex("".join(digests).encode()), file, tuple(tasks))


def _check_rows(task: Task, check: Any, problems: Problems) -> None:
    for row in task.rows:
        try:
            check(row, task)
        except BadRowError as error:
            problems.add(row.file, row.line, f"{task.scoring} {error}")


def _check_gates(
    file: SuiteFile, tasks: Sequence[Task], source: str, lines: Mapping[Where, int]
) -> None:
    from soup_git.evaluation.scorers import scorer_of

    problems: list[yamllines.Problem] = []
    for i, block in enumerate(file.tasks):
        scorers = [scorer_of(task.scoring) for task in tasks if task.name == block.name]
        if any(scorer.reads == "harness" for scorer in scorers):
            continue  # only the harness knows its scores
        known = [metric.name for scorer in scorers for metric in scorer.metrics]
        for score in block.gate:
            if score not in known:
                where: Where = ("tasks", i, "gate", score)
                what = f"{block.name} has no score {score}{nearest(score, known)}; it has {', '.join(known)}"
                problems.append((where, line_of(dict(lines), where), what))
    if problems:
        raise yamllines.all_at_once(source, problems)


def _files_of(block: TaskBlock, folder: Path, root: Path, at: str) -> dict[str, str]:
    found = {}
    if block.schema_file is not None:
        path = _find(block.schema_file, folder, root, at)
        found[block.schema_file] = sha256_hex(path.read_bytes())
    if block.include_path is not None:
        place = _find(block.include_path, folder, root, at)
        inside = sorted(f for f in place.rglob("*") if f.is_file() and f.suffix != ".pyc")
        for file in inside:
            found[f"{block.include_path}/{file.relative_to(place)}"] = sha256_hex(file.read_bytes())
    return found


def _find(name: str, folder: Path, root: Path, at: str) -> Path:
    """A file that a suite names: beside the suite, else from the workspace's top."""
    places = [folder / name, root / name]
    inside = [path for path in places if path.resolve().is_relative_to(root.resolve())]
    if not inside:
        raise FatalError(
            f"{at}: {name} is outside the workspace", hint="move it into the repository"
        )
    for path in inside:
        if path.exists():
            return path
    raise FatalError(
        f"{at}: {name} does not exist, neither beside the suite nor in the workspace",
        hint=f"git soup checkout, or dvc pull {name}, if DVC tracks it",
    )


def read_json_file(task: Task, name: str) -> Any:
    """A JSON file that a task names. Raises FatalError when it is none."""
    path = _find(name, task.folder, task.root, task.name)
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FatalError(
            f"{name} is not JSON: {error}", hint=f"python -m json.tool {name}"
        ) from None


__all__ = [
    "DecodingBlock", "JudgeBlock", "Row", "Suite", "SuiteFile", "Task", "TaskBlock", "Threshold",
    "json_schema", "load_suite", "read_json_file",
]  # fmt: skip
