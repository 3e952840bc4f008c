"""The runner: one base, loaded once, and every adapter that is asked something on it.

    with Runner(choice, workspace_root) as runner:
        results = runner.score(candidate, suite)      # list[TaskResult]; None is the bare base
        answers = runner.generate(candidate, prompts)

Nothing is loaded before something has to be asked: scores that are in the cache cost no
model. torch, transformers and peft are imported then.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from soup_git.core.baseload import AS_IT_IS, TRAINED, BaseLoad
from soup_git.core.digests import sha256_hex
from soup_git.core.text import printable
from soup_git.data.rows import DataRow, Row
from soup_git.errors import FatalError
from soup_git.evaluation.attaching import Attachments
from soup_git.evaluation.candidate import Candidate
from soup_git.evaluation.lossrows import as_data
from soup_git.evaluation.model import Decoding, Model, OnDone
from soup_git.evaluation.ownfiles import differences
from soup_git.evaluation.results import TaskResult
from soup_git.evaluation.rows import EvalRow
from soup_git.evaluation.scorecache import ScoreCache, implementation, versions
from soup_git.evaluation.scorers import (
    Context,
    Scored,
    Scorer,
    UnscoredError,
    options_of,
    score_choice,
    score_loss,
    scorer_of,
    source_of,
)
from soup_git.evaluation.suite import Suite, Task
from soup_git.render.report import say
from soup_git.training import baseload, templates
from soup_git.training import model as bases
from soup_git.training.machine import quiet_bitsandbytes
from soup_git.training.prepared import Encoded
from soup_git.training.tokens import encoded


@dataclass(frozen=True)
class BaseChoice:
    """Which base, and who said so. `digest` (sha256 of its pin) names its bytes for the cache."""

    base: str
    revision: str | None = None
    trust_remote_code: bool = False
    digest: str | None = None
    said_by: str = ""
    """What to blame when it cannot be loaded: an adapter's name, an option."""
    base_as: str = TRAINED
    """How it is loaded for an adapter: as that one was trained, or full, 4bit, 8bit for all."""
    load: BaseLoad = AS_IT_IS
    """How it is loaded for who is no adapter that says so: the bare base, a search's blends."""
    is_shared: bool = False
    """Everybody is asked on the base loaded so."""

    def load_of(self, candidate: Candidate | None) -> BaseLoad:
        """How the base is loaded for one of those who are asked."""
        if self.is_shared or candidate is None:
            return self.load
        return candidate.base_load.asked_as(self.base_as)

    def key(self) -> dict[str, Any]:
        """What tells it from other bases, for digests."""
        named = self.digest or [self.base, self.revision]
        return {
            "base": named,
            "as": self.base_as,
            "load": self.load.text(),
            "shared": self.is_shared,
        }

    def refuse(self, key: str, what: str, *, hint: str = "") -> FatalError:
        where = f"{self.said_by}: " if self.said_by else ""
        return FatalError(f"{where}{key}: {what}", hint=hint or "--base MODEL names another")


@dataclass
class Runner:
    """Scores candidates on one base.

    `cache` keeps scores between processes. `batch_size` None takes the suite's, or 8.
    `progress(done, total, what)` is told now and then; `Progress` draws it on a terminal.
    """

    choice: BaseChoice
    root: Path
    cache: ScoreCache | None = None
    batch_size: int | None = None
    chat_template: str | None = None
    template_date: str | None = None
    """What the adapter's training took for today, where the chat template prints it."""
    allow_python: bool = False
    threads: int | None = None
    """CPU threads; by default one for a small model, whose layers are over before a second wakes."""
    progress: Callable[[int, int, str], None] | None = None
    live: Model | None = None
    """A model that somebody else holds (a training): it is asked as it is, nothing is loaded."""
    attachments: Attachments = field(init=False)
    asked: int = field(default=0, init=False)
    """Rows that the model was asked, the cached ones not counted."""
    _tools: tuple[Any, Any] | None = field(default=None, init=False)
    _template: str | None = field(default=None, init=False)
    _asked: Candidate | None = field(default=None, init=False)
    _own: dict[tuple[str, str | None], tuple[Any, Any]] = field(default_factory=dict, init=False)
    """Tokenizers and templates that adapters bring."""
    _tokens: dict[tuple[str, str | None, str], Any] = field(default_factory=dict, init=False)
    """Tasks' rows as tokens: what every candidate is asked again."""

    def __post_init__(self) -> None:
        self._loaded_for: tuple[BaseLoad, tuple[str, ...]] = AS_IT_IS, ()
        self.attachments = Attachments(self._load_base)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _value: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.attachments.close()

    # -- asking -------------------------------------------------------------------------------

    def score(self, candidate: Candidate | None, suite: Suite) -> list[TaskResult]:
        """Every score of every task, in the suite's order; `None` is the bare base.

        Raises FatalError where the adapter does not fit its base, or a scorer's library or
        permission is missing. Rows that cannot be scored are counted in the results.
        """
        if candidate is not None:
            self.refuse_other_base(candidate)
        self.use_template(suite.file.chat_template)
        if self.batch_size is None:
            self.batch_size = suite.file.batch_size
        found: list[TaskResult] = []
        for task in suite.tasks:
            question = self.question(candidate, task)
            known = self.cache.get(question) if self.cache and question else None
            if known is None:
                known = self._score(candidate, task)
                if self.cache is not None and question is not None:
                    self.cache.put(question, known)
            found += known
        return found

    def generate(
        self,
        candidate: Candidate | None,
        prompts: Sequence[str | list[Row]],
        decoding: Decoding | None = None,
    ) -> list[str]:
        """One answer per prompt."""
        if candidate is not None:
            self.refuse_other_base(candidate)
        with self.using(candidate) as model:
            ids = [model.prompt(prompt) for prompt in prompts]
            return model.generate(ids, decoding or Decoding(), self._on_done(len(ids), candidate))

    def losses(
        self, candidate: Candidate | None, sequences: Sequence[Encoded]
    ) -> list[tuple[float, int]]:
        """Per sequence the summed loss in nats and the tokens it is over."""
        with self.using(candidate) as model:
            return [(-lp, n) for lp, n in model.logprobs(sequences)]

    def encode(
        self,
        rows: Sequence[DataRow],
        *,
        only_answers: bool = True,
        candidate: Candidate | None = None,
    ) -> list[Encoded]:
        """Rows of a dataset as the candidate's training read them."""
        tokenizer, template = self._tools_of(candidate)
        return [
            encoded(
                row, tokenizer, template, only_answers=only_answers and template is not None,
                base=self.choice.base,
            )
            for row in rows
        ]  # fmt: skip

    @property
    def has_template(self) -> bool:
        """Whether prompts go through a chat template."""
        return self._tokenizer_and_template()[1] is not None

    @contextmanager
    def using(self, candidate: Candidate | None) -> Iterator[Model]:
        """The model with the candidate on it; `.model` is torch's module."""
        if self.live is not None:
            yield self.live
            return
        tokenizer, template = self._tools_of(candidate)
        self._have_base_for(candidate)
        ends = candidate.own.ends() if candidate is not None and candidate.own else None
        with self.attachments.use(candidate) as module:
            yield Model(
                module, tokenizer, template,
                name=self.choice.base, batch_size=self.batch_size or 8, ends=ends,
            )  # fmt: skip

    @contextmanager
    def using_both(self, first: Candidate, second: Candidate) -> Iterator[tuple[Model, str, str]]:
        """The model with the first on it and the second beside it, and PEFT's names for them.

        Raises FatalError where they were trained on bases that are loaded in two ways.
        """
        self.refuse_two_loads([first, second])
        self._have_base_for(first, second)
        tokenizer, template = self._tools_of(first)
        with self.attachments.use_both(first, second) as (module, own, other):
            size = self.batch_size or 8
            model = Model(module, tokenizer, template, name=self.choice.base, batch_size=size)
            yield model, own, other

    def refuse_other_base(self, candidate: Candidate) -> None:
        """An adapter of another base is refused before anything is loaded."""
        named = (candidate.base, candidate.revision)
        if candidate.base is not None and named != (self.choice.base, self.choice.revision):
            raise FatalError(
                f"{candidate.name} is an adapter for {_base_in_words(*named)}, not for"
                f" {_base_in_words(self.choice.base, self.choice.revision)}",
                hint="evaluate adapters of one base at a time; --base MODEL says that both"
                " names mean the same weights",
            )

    def refuse_two_loads(self, candidates: Sequence[Candidate]) -> None:
        """Raises FatalError where candidates that share one base are for two loads of it."""
        refuse_two_loads([(one.name, self.choice.load_of(one)) for one in candidates])

    # -- loading ------------------------------------------------------------------------------

    def _have_base_for(self, *candidates: Candidate | None) -> None:
        """Give the loaded base up where these want it loaded in another way."""
        load = self.choice.load_of(candidates[0])
        whole = {name for one in candidates if one is not None for name in one.whole_modules}
        wanted = load, tuple(sorted(whole)) if load.in_few_bits else ()
        if wanted != self._loaded_for:
            self.attachments.close()
            self._loaded_for = wanted

    def _load_base(self) -> Any:
        import torch

        _quiet_libraries()
        located = bases.locate(self.choice, self.root)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False
        how, whole = self._loaded_for
        loaded = baseload.load(
            located, self.choice, how, device=device, precision=_dtype(device), full=whole
        )
        if device == "cpu":
            small = loaded.num_parameters() < _SMALL
            torch.set_num_threads(self.threads or (1 if small else len(os.sched_getaffinity(0))))
        return loaded

    def _tokenizer_and_template(self) -> tuple[Any, Any]:
        if self._tools is None:
            _quiet_libraries()
            located = bases.locate(self.choice, self.root)
            tokenizer = bases.load_tokenizer(located, self.choice)
            choice = self._template or self.chat_template
            template = named_template(choice, self.root, tokenizer)
            if template is not None:
                template = replace(template, date=self.template_date)
            self._tools = tokenizer, template
        return self._tools

    def _tools_of(self, candidate: Candidate | None) -> tuple[Any, Any]:
        """The tokenizer and template that an adapter brings, else the base's.

        A template that the suite names goes before the adapter's, the adapter's before soup.yaml's.
        """
        tokenizer, template = self._tokenizer_and_template()
        own = candidate.own if candidate is not None else None
        if candidate is None or own is None:
            return tokenizer, template
        key = own.digest, self._template
        if key not in self._own:
            mine = own.tokenizer(candidate.name, tokenizer)
            found = differences(mine, tokenizer)
            if self._template is None and mine.chat_template is not None:
                template = named_template(None, self.root, mine)
                template = template and replace(template, date=self.template_date)
            self._own[key] = mine, template
            if found:
                say(
                    f"note: {candidate.name} is asked with the tokenizer of its own folder:"
                    f" {'; '.join(found)}"
                )
        return self._own[key]

    def use_template(self, wanted: str | None) -> None:
        """Take the chat template that a suite names; None is the base's own."""
        if wanted != self._template:
            self._template, self._tools = wanted, None

    # -- scoring ------------------------------------------------------------------------------

    def question(self, candidate: Candidate | None, task: Task) -> dict[str, Any] | None:
        """All that decides the scores, in words; None for what is not known again."""
        if self.choice.digest is None or (candidate is not None and candidate.digest is None):
            return None
        code = source_of(task)
        return {
            "base": self.choice.digest,
            "base_load": self.choice.load_of(candidate).text(),
            "adapter": candidate.digest if candidate else None,
            "scaling": dict(candidate.scaling) if candidate else {},
            "task": task.name,
            "task_sha": task.digest,
            "chat_template": [self._template_sha(), self.template_date],
            "code": sha256_hex(code.read_bytes()) if code else None,
            "scorers": implementation(),
            "libraries": versions(few_bits=self.choice.load_of(candidate).in_few_bits),
        }

    def _template_sha(self) -> str | None:
        """The template as it was chosen; the tokenizer's own is part of the base."""
        choice = self._template or self.chat_template
        if choice is None:
            return None
        path = self.root / choice
        return sha256_hex(path.read_bytes()) if path.is_file() else choice

    def _score(self, candidate: Candidate | None, task: Task) -> list[TaskResult]:
        self._asked = candidate
        scorer = scorer_of(task.scoring)
        if scorer.reads == "harness":
            from soup_git.evaluation.harness import run_task

            with self.using(candidate) as model:
                return run_task(task, model)
        # A scorer that cannot be had (no key, no library, not allowed) costs no generation.
        score_answer = scorer.open(task, Context(self.allow_python)) if scorer.open else None
        on_done = self._on_done(len(task.rows), candidate, task)
        with self.using(candidate) as model:
            if score_answer is not None:
                prompts = self._once(task, lambda: self._prompts(model, task))
                answers = model.generate(prompts, task.decoding, on_done)
                self.asked += len(answers)
                scored = _in_turn(
                    [_bound(score_answer, r, a) for r, a in zip(task.rows, answers, strict=True)],
                    _threads(scorer, task),
                )
                if self.cache is not None and not any(isinstance(s, UnscoredError) for s in scored):
                    self.cache.keep_answers(self.question(candidate, task), answers)
            elif scorer.reads == "likelihood":
                scored = self._by_loss(model, task, on_done)
            else:
                scored = self._by_options(model, task, on_done)
        return _results(task, scorer, scored)

    def _prompts(self, model: Model, task: Task) -> list[list[int]]:
        return (
            [
                _at(row, lambda row=row: model.prompt(row.prompt, row.values.get("tools")))  # type: ignore[misc]
                for row in task.rows
            ]
            if task.block.chat
            else [_plain(model, row) for row in task.rows]
        )

    def _by_loss(self, model: Model, task: Task, on_done: OnDone) -> list[Scored | UnscoredError]:
        template = model.template if task.block.chat else None

        def sequence(row: EvalRow) -> Encoded:
            values = as_data(row, chat=template is not None)
            return encoded(
                values, model.tokenizer, template, only_answers=True, base=self.choice.base
            )

        sequences = self._once(task, lambda: [sequence(row) for row in task.rows])
        found = model.logprobs(sequences, on_done)
        self.asked += len(found)
        return _in_turn([_bound(score_loss, lp, n) for lp, n in found], 1)

    def _by_options(
        self, model: Model, task: Task, on_done: OnDone
    ) -> list[Scored | UnscoredError]:
        sequences, owners = self._once(task, lambda: self._options(model, task))
        found: list[list[tuple[float, int]]] = [[] for _ in task.rows]
        for owner, result in zip(owners, model.logprobs(sequences, on_done), strict=True):
            found[owner].append(result)
        self.asked += len(sequences)
        return _in_turn(
            [_bound(score_choice, r, task, f) for r, f in zip(task.rows, found, strict=True)], 1
        )

    def _options(self, model: Model, task: Task) -> tuple[list[Encoded], list[int]]:
        """Every row's options as sequences, and the number of the row that each is of."""
        template, model.template = model.template, model.template if task.block.chat else None
        sequences, owners = [], []
        for i, row in enumerate(task.rows):
            for option in options_of(row):
                tools = row.values.get("tools")
                sequences.append(
                    _at(row, lambda r=row, o=option, t=tools: model.continued(r.prompt, o, t))  # type: ignore[misc]
                )
                owners.append(i)
        model.template = template
        return sequences, owners

    def _once(self, task: Task, make: Callable[[], Any]) -> Any:
        """What `make` gives for this task, made once for all candidates of one tokenizer."""
        own = self._asked.own if self._asked is not None else None
        key = task.digest, self._template, own.digest if own is not None else ""
        if key not in self._tokens:
            self._tokens[key] = make()
        return self._tokens[key]

    def _on_done(self, total: int, candidate: Candidate | None, task: Task | None = None) -> OnDone:
        done = 0
        what = f"{task.name}: " if task else ""
        what += candidate.name if candidate else "base"

        def add(count: int) -> None:
            nonlocal done
            done += count
            if self.progress is not None:
                self.progress(done, max(total, done), what)

        return add


def refuse_two_loads(loads: Iterable[tuple[str, BaseLoad]]) -> None:
    """Raises FatalError where (name, load) of who share one loaded base name two loads of it."""
    (first, wanted), *others = loads
    for name, load in others:
        if load != wanted:
            raise FatalError(
                f"{first} and {name} share a base here, and were trained on two: {first} on"
                f" {in_words(wanted)}, {name} on {in_words(load)}",
                hint="--base-as full, 4bit or 8bit loads one for both",
            )


def in_words(load: BaseLoad) -> str:
    return load.words() or "the base as it is"


def named_template(choice: str | None, root: Path, tokenizer: Any) -> Any:
    """The chat template that a suite names; the tokenizer's own for None, where it has one."""
    return templates.find(
        choice,
        root,
        bases.own_template(tokenizer),
        lambda what, hint="": FatalError(
            f"chat_template: {what}", hint=hint or "edit the suite's chat_template"
        ),
        wants_marks=True,
    )


_SMALL = 50_000_000  # parameters


def _dtype(device: str) -> str:
    import torch

    if device == "cpu":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def _base_in_words(base: str | None, revision: str | None) -> str:
    return f"{base or 'no base'}{f' at {revision}' if revision else ''}"


def _bound(function: Callable[..., Scored], *arguments: Any) -> Callable[[], Scored]:
    return lambda: function(*arguments)


def _plain(model: Model, row: EvalRow) -> list[int]:
    if not isinstance(row.prompt, str):
        raise FatalError(
            f"{row.place}: chat: false takes prompts as text, this one is turns",
            hint="chat: true, or a prompt as text",
        )
    return list(model.tokenizer(text=row.prompt)["input_ids"])


def _at(row: EvalRow, make: Callable[[], Any]) -> Any:
    """What `make` gives, its errors with the row's place in front."""
    try:
        return make()
    except FatalError as error:
        raise FatalError(f"{row.place}: {error}", hint=error.hint) from error


def _threads(scorer: Scorer, task: Task) -> int:
    return task.block.judge.parallel if scorer.in_parallel and task.block.judge else 1


def _in_turn(jobs: Sequence[Callable[[], Scored]], threads: int) -> list[Scored | UnscoredError]:
    def run(job: Callable[[], Scored]) -> Scored | UnscoredError:
        try:
            return job()
        except UnscoredError as error:
            return error

    if threads == 1:
        return [run(job) for job in jobs]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, jobs))


def _results(
    task: Task, scorer: Scorer, scored: Sequence[Scored | UnscoredError]
) -> list[TaskResult]:
    failures = Counter(str(s) for s in scored if isinstance(s, UnscoredError))
    return [
        TaskResult(
            task=task.name,
            score=metric.name,
            rows=tuple(None if isinstance(s, UnscoredError) else s[metric.name] for s in scored),
            kind=metric.kind,
            higher_is_better=metric.higher_is_better,
            binary=metric.binary,
            failures=dict(sorted(failures.items())),
            categories=tuple(row.category for row in task.rows),
        )
        for metric in scorer.metrics
    ]


def _quiet_libraries() -> None:
    """No telemetry, no bars of theirs between our lines; before the hub client is imported."""
    quiet = {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    quiet_bitsandbytes()
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


class Progress:
    """One line on a terminal, redrawn at most ten times a second; nothing anywhere else."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._drawn = 0.0
        self._open = False

    def __call__(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if not self._shown or (now - self._drawn < 0.1 and done < total):
            return
        self._drawn, self._open = now, True
        bar = ("█" * round(20 * done / max(total, 1))).ljust(20, "░")
        sys.stderr.write(f"\r\x1b[K{bar}  {done}/{total}  {printable(what)}")
        sys.stderr.flush()

    def close(self) -> None:
        if self._open:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
