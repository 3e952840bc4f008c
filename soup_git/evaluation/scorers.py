"""The scorers, one row each: what it reads, what a row needs, which scores it gives.

A scorer turns an answer (or log-likelihoods) into the statistics of a row; `statistics`
turns those of all rows into a value with its standard error. A row that cannot be scored
raises `UnscoredError`: it is counted with its reason, and is no zero.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soup_git.core.answers import final_answer, without_fence
from soup_git.data.formats import fitting
from soup_git.data.rows import BadRowError
from soup_git.data.schemas import validator_of
from soup_git.errors import FatalError
from soup_git.evaluation import toolcalls
from soup_git.evaluation.rows import EvalRow
from soup_git.evaluation.statistics import BLEU, EXP_MEAN, MEAN, Row

if TYPE_CHECKING:
    from soup_git.evaluation.suite import Task

REGEX_SECONDS = 1.0
"""A pattern that takes longer on one answer is stopped."""
LONGEST_PATTERN = 1000


class UnscoredError(Exception):
    """This row has no score, and why: a few words that are the same for the same cause."""


@dataclass(frozen=True)
class Metric:
    """One score: how rows make its value, which direction is better."""

    name: str
    kind: str = MEAN
    higher_is_better: bool = True
    binary: bool = False


@dataclass(frozen=True)
class Context:
    """What a scorer may use beside its task."""

    allow_python: bool = False


Scored = Mapping[str, Row]
ScoreAnswer = Callable[[EvalRow, str], Scored]


@dataclass(frozen=True)
class Scorer:
    """One way to score. `reads` says what the model is asked for.

    output: an answer. likelihood: how likely it finds the row. options: how likely it finds
    each of the row's options. harness: lm-evaluation-harness asks.
    """

    name: str
    summary: str
    reads: str
    metrics: tuple[Metric, ...]
    check: Callable[[EvalRow, Task], None]
    open: Callable[[Task, Context], ScoreAnswer] | None = None
    """For `output`: the function that scores an answer, made once per task."""
    options: frozenset[str] = frozenset()
    """Keys of a task that this scorer reads, beside name, prompts, scoring, gate."""
    argument: str = ""
    """What follows a colon after its name."""
    in_parallel: bool = False
    """Whether answers are scored by several threads: it waits for somebody else."""
    of_suite_only: bool = False
    """A row may not choose it."""

    @property
    def spelled(self) -> str:
        return f"{self.name}:{self.argument}" if self.argument else self.name


def scorer_of(scoring: str) -> Scorer:
    """The scorer that `scoring` names, `NAME` or `NAME:ARGUMENT`. Raises KeyError."""
    name, colon, argument = scoring.partition(":")
    scorer = SCORERS[name]
    if bool(scorer.argument) != bool(colon and argument):
        raise KeyError(scoring)
    return scorer


# -- what a row needs --------------------------------------------------------------------------


def check_prompt(row: EvalRow) -> None:
    """A prompt, as text or turns, with tools if any. Raises BadRowError."""
    prompt = row.prompt
    is_turns = isinstance(prompt, list) and prompt and all(isinstance(t, dict) for t in prompt)
    if prompt is None:
        raise BadRowError(f"needs prompt, this row has {_keys(row)}")
    if not is_turns and not (isinstance(prompt, str) and prompt.strip()):
        raise BadRowError("needs prompt as text, or as a list of turns")
    tools = row.values.get("tools")
    if tools is not None and not (
        isinstance(tools, list) and all(isinstance(t, dict) for t in tools)
    ):
        raise BadRowError("needs tools as a list of objects")


def _check_text(row: EvalRow, _task: Task) -> None:
    """`expected` is a text, or several of which one is enough."""
    check_prompt(row)
    if not references(row):
        raise BadRowError(f"needs expected as text, or a list of texts; this row has {_keys(row)}")


def references(row: EvalRow) -> list[str]:
    """The texts that `expected` names; numbers are spelled as JSON does."""
    expected = row.expected
    values = expected if isinstance(expected, list) else [expected]
    texts = [
        v if isinstance(v, str) else json.dumps(v)
        for v in values
        if isinstance(v, str | int | float) and not (isinstance(v, str) and not v.strip())
    ]
    return texts if len(texts) == len(values) else []


def _keys(row: EvalRow) -> str:
    return ", ".join(sorted(map(str, row.values))) or "nothing"


def _check_free(row: EvalRow, _task: Task) -> None:
    check_prompt(row)


# -- text --------------------------------------------------------------------------------------


def _graded(grade: Callable[[Task], Callable[[str, str], float]], name: str) -> Any:
    """A scorer that compares an answer with each reference and takes the best."""

    def make(task: Task, _context: Context) -> ScoreAnswer:
        compare = grade(task)

        def score(row: EvalRow, answer: str) -> Scored:
            return {name: (max(compare(answer, wanted) for wanted in references(row)), 1.0)}

        return score

    return make


def _folded(task: Task) -> Callable[[str], str]:
    keep = task.block.case_sensitive
    return lambda text: text.strip() if keep else text.strip().lower()


def _exact(task: Task) -> Callable[[str, str], float]:
    fold = _folded(task)
    return lambda answer, wanted: float(fold(answer) == fold(wanted))


def _contains(task: Task) -> Callable[[str, str], float]:
    """As a whole word: `14` does not contain `4`, nor `catalogue` `cat`."""
    fold = _folded(task)

    def found(answer: str, wanted: str) -> float:
        text, needle = fold(answer), fold(wanted)
        at = text.find(needle)
        while at >= 0:
            before, after = text[at - 1 : at], text[at + len(needle) : at + len(needle) + 1]
            inside = (before.isalnum() and needle[0].isalnum()) or (
                after.isalnum() and needle[-1].isalnum()
            )
            if not inside:
                return 1.0
            at = text.find(needle, at + 1)
        return 0.0

    return found


def _answer(_task: Task) -> Callable[[str, str], float]:
    return lambda answer, wanted: float(final_answer(answer) == final_answer(wanted))


def _overlap(_task: Task) -> Callable[[str, str], float]:
    """Jaccard's index of the words."""

    def share(answer: str, wanted: str) -> float:
        ours, theirs = set(answer.lower().split()), set(wanted.lower().split())
        return len(ours & theirs) / len(ours | theirs) if ours and theirs else 0.0

    return share


def _check_regex(row: EvalRow, task: Task) -> None:
    _check_text(row, task)
    import regex

    for pattern in references(row):
        if len(pattern) > LONGEST_PATTERN:
            raise BadRowError(f"needs a pattern of at most {LONGEST_PATTERN} characters")
        try:
            regex.compile(pattern, _regex_flags(task))
        except (regex.error, RecursionError, OverflowError, MemoryError) as error:
            raise BadRowError(f"needs a regular expression: {error}") from None


def _regex_flags(task: Task) -> Any:
    import regex

    return regex.VERSION0 if task.block.case_sensitive else regex.VERSION0 | regex.IGNORECASE


def _regex(task: Task) -> Callable[[str, str], float]:
    import regex

    flags = _regex_flags(task)

    def found(answer: str, pattern: str) -> float:
        try:
            return float(
                regex.search(pattern, answer, flags=flags, timeout=REGEX_SECONDS) is not None
            )
        except TimeoutError:
            raise UnscoredError(f"the pattern took longer than {REGEX_SECONDS:g} s") from None

    return found


# -- structure ---------------------------------------------------------------------------------


def _check_schema(row: EvalRow, task: Task) -> None:
    check_prompt(row)
    _schema_of(row, task)


def _schema_of(row: EvalRow, task: Task) -> Any:
    from soup_git.evaluation.suite import read_json_file

    schema = row.expected
    if schema is None and task.block.schema_file is not None:
        schema = read_json_file(task, task.block.schema_file)
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError):
            raise BadRowError("needs a JSON Schema as expected, this is not JSON") from None
    if not isinstance(schema, dict):
        raise BadRowError("needs a JSON Schema: expected in the row, or schema_file in the task")
    return validator_of(schema).schema


def _json_schema(task: Task, _context: Context) -> ScoreAnswer:
    from referencing.exceptions import Unresolvable

    def score(row: EvalRow, answer: str) -> Scored:
        try:
            value = json.loads(without_fence(answer))
        except (ValueError, RecursionError):
            return {"json_schema": (0.0, 1.0), "json": (0.0, 1.0)}
        try:
            fits = validator_of(_schema_of(row, task)).is_valid(value)
        except Unresolvable:
            raise UnscoredError("the schema refers to another one, which is not fetched") from None
        except RecursionError:
            raise UnscoredError("the schema or the answer is nested too deep") from None
        return {"json_schema": (float(fits), 1.0), "json": (1.0, 1.0)}

    return score


def _check_calls(row: EvalRow, _task: Task) -> None:
    check_prompt(row)
    if toolcalls.expected_calls(row.expected) is None:
        raise BadRowError('needs expected as {"name": …, "arguments": {…}}, or a list of such')


def _tool_call(grade: str) -> Callable[[Task, Context], ScoreAnswer]:
    def make(_task: Task, _context: Context) -> ScoreAnswer:
        def score(row: EvalRow, answer: str) -> Scored:
            wanted = toolcalls.expected_calls(row.expected) or []
            return {
                name: (value, 1.0)
                for name, value in toolcalls.graded(toolcalls.calls_in(answer), wanted).items()
                if name in grade.split()
            }

        return score

    return make


# -- overlap with references -------------------------------------------------------------------


def _bleu(_task: Task, _context: Context) -> ScoreAnswer:
    from sacrebleu.metrics import BLEU as SACREBLEU

    bleu = SACREBLEU(effective_order=True)

    def score(row: EvalRow, answer: str) -> Scored:
        found = bleu.sentence_score(answer, references(row))
        lengths = (float(found.sys_len), float(found.ref_len))
        return {"bleu": (*map(float, found.counts), *map(float, found.totals), *lengths)}

    return score


_ROUGES = ("rouge1", "rouge2", "rougeL")


def _rouge(_task: Task, _context: Context) -> ScoreAnswer:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(_ROUGES), use_stemmer=True)

    def score(row: EvalRow, answer: str) -> Scored:
        found = scorer.score_multi(references(row), answer)
        return {name: (float(found[name].fmeasure), 1.0) for name in _ROUGES}

    return score


# -- likelihood --------------------------------------------------------------------------------


def check_loss(row: EvalRow, _task: Task | None = None) -> None:
    """A prompt with what is expected, or a row as training takes them."""
    if row.prompt is not None and row.expected is not None:
        check_prompt(row)
        if not isinstance(row.expected, str) or not row.expected.strip():
            raise BadRowError("needs expected as text: what the loss is measured on")
        return
    dataset_row(row)


def dataset_row(row: EvalRow) -> dict[str, Any]:
    """The row converted as a training dataset's. Raises BadRowError."""
    fits = [f for f in fitting(row.values) if f.shape in {"messages", "prompt_completion", "text"}]
    if len(fits) != 1:
        raise BadRowError(
            f"needs prompt and expected, or a row of a training dataset; this row has {_keys(row)}"
        )
    return fits[0].convert(row.values)


def score_loss(logprob: float, tokens: int) -> Scored:
    """Mean loss in nats a token over all tokens; perplexity is its exponential."""
    if not tokens or not math.isfinite(logprob):
        raise UnscoredError("no token to predict" if not tokens else "the loss is not finite")
    return {"loss": (-logprob, float(tokens)), "perplexity": (-logprob, float(tokens))}


def _check_choice(row: EvalRow, _task: Task) -> None:
    check_prompt(row)
    choices = options_of(row)
    if len(choices) < 2:
        raise BadRowError("needs options: a list of two texts or more")
    if right_option(row) is None:
        raise BadRowError("needs expected as one of its options, or as their index from 0")


def options_of(row: EvalRow) -> list[str]:
    options = row.values.get("options")
    if not isinstance(options, list) or not all(isinstance(o, str) and o for o in options):
        return []
    return options


def right_option(row: EvalRow) -> int | None:
    options, expected = options_of(row), row.expected
    if isinstance(expected, str) and expected in options:
        return options.index(expected)
    if isinstance(expected, int) and not isinstance(expected, bool):
        return expected if 0 <= expected < len(options) else None
    return None


def score_choice(row: EvalRow, task: Task, found: Sequence[tuple[float, int]]) -> Scored:
    """1 where the likeliest option is the right one; log-likelihoods are length-normalised."""
    lengths = {
        "tokens": [tokens for _, tokens in found],
        "characters": [len(option) for option in options_of(row)],
        "none": [1] * len(found),
    }[task.block.normalize]
    values = [
        logprob / length if length else -math.inf
        for (logprob, _), length in zip(found, lengths, strict=True)
    ]
    if not any(math.isfinite(value) for value in values):
        raise UnscoredError("no option has a finite likelihood")
    return {"choice": (float(values.index(max(values)) == right_option(row)), 1.0)}


# -- by somebody else --------------------------------------------------------------------------


def _judge(task: Task, _context: Context) -> ScoreAnswer:
    from soup_git.evaluation.judge import Judge

    if task.block.judge is None:
        raise FatalError(f"{task.name} names no judge", hint="judge: {url: …, model: …}")
    return Judge(task.block.judge).score


def _python(task: Task, context: Context) -> ScoreAnswer:
    from soup_git.evaluation.pyscorer import load_function

    if not context.allow_python:
        raise FatalError(
            f"task {task.name} is scored by {task.scoring}, which runs code of the workspace",
            hint="read it, then say --allow-python",
        )
    return load_function(task.scoring.partition(":")[2], task.root)


def source_of(task: Task) -> Path | None:
    """The file of a python scorer, which is part of what decides its scores."""
    from soup_git.evaluation.pyscorer import module_file

    name, _, target = task.scoring.partition(":")
    return module_file(target, task.root) if name == "python" else None


# -- the table ---------------------------------------------------------------------------------

_ASKED = frozenset({"chat", "decoding", "max_rows"})


def _binary(name: str) -> tuple[Metric, ...]:
    return (Metric(name, binary=True),)


SCORERS: dict[str, Scorer] = {
    scorer.name: scorer
    for scorer in (
        Scorer("exact", "the whole answer is the expected one", "output", _binary("exact"),
               _check_text, _graded(_exact, "exact"), _ASKED | {"case_sensitive"}),
        Scorer("contains", "the expected words are in the answer", "output", _binary("contains"),
               _check_text, _graded(_contains, "contains"), _ASKED | {"case_sensitive"}),
        Scorer("regex", "the answer has a match of the expected pattern", "output",
               _binary("regex"), _check_regex, _graded(_regex, "regex"),
               _ASKED | {"case_sensitive"}),
        Scorer("answer", "the answer ends with the expected number or word", "output",
               _binary("answer"), _check_text, _graded(_answer, "answer"), _ASKED),
        Scorer("overlap", "share of words in common with the expected text (Jaccard)", "output",
               (Metric("overlap"),), _check_text, _graded(_overlap, "overlap"), _ASKED),
        Scorer("loss", "nats a token for the expected text; and perplexity", "likelihood",
               (Metric("loss", MEAN, higher_is_better=False),
                Metric("perplexity", EXP_MEAN, higher_is_better=False)),
               check_loss, None, frozenset({"chat", "max_rows"})),
        Scorer("choice", "the likeliest of the row's options is the expected one", "options",
               _binary("choice"), _check_choice, None,
               frozenset({"chat", "max_rows", "normalize"})),
        Scorer("json_schema", "the answer is JSON that fits a schema; and whether it is JSON",
               "output", (*_binary("json_schema"), *_binary("json")), _check_schema, _json_schema,
               _ASKED | {"schema_file"}),
        Scorer("tool_call", "the answer calls the expected tools with the expected arguments",
               "output", (*_binary("tool_call"), *_binary("tool_name")), _check_calls,
               _tool_call("tool_call tool_name"), _ASKED),
        Scorer("tool_name", "the answer calls the expected tools, whatever the arguments",
               "output", _binary("tool_name"), _check_calls, _tool_call("tool_name"), _ASKED),
        Scorer("tool_arguments", "half for the name, half for the share of right arguments",
               "output", (Metric("tool_arguments"),), _check_calls, _tool_call("tool_arguments"),
               _ASKED),
        Scorer("bleu", "corpus BLEU against the expected texts (sacrebleu), 0 to 100", "output",
               (Metric("bleu", BLEU),), _check_text, _bleu, _ASKED),
        Scorer("rouge", "ROUGE-1, -2 and -L F-measures (rouge-score), 0 to 1", "output",
               tuple(Metric(name) for name in _ROUGES), _check_text, _rouge, _ASKED),
        Scorer("judge", "a model behind an OpenAI-compatible endpoint grades the answer", "output",
               (Metric("judge"),), _check_free, _judge, _ASKED | {"judge"}, in_parallel=True,
               of_suite_only=True),
        Scorer("python", "a function of the workspace, with --allow-python", "output",
               (Metric("python"),), _check_free, _python, _ASKED, argument="MODULE:FUNC",
               of_suite_only=True),
        Scorer("lm_eval", "a task of lm-evaluation-harness (extra lm-eval)", "harness", (),
               _check_free, None, frozenset({"max_rows", "num_fewshot", "include_path", "chat"}),
               argument="TASK", of_suite_only=True),
    )
}  # fmt: skip
"""Name -> scorer."""
