"""lm-evaluation-harness on the loaded model: `scoring: lm_eval:TASK`, extra `lm-eval`."""

from __future__ import annotations

from typing import Any

from soup_git.errors import FatalError
from soup_git.evaluation.model import Model
from soup_git.evaluation.results import TaskResult
from soup_git.evaluation.statistics import Row
from soup_git.evaluation.suite import Task

LOWER_IS_BETTER = (
    "perplexity",
    "byte_perplexity",
    "word_perplexity",
    "bits_per_byte",
    "brier_score",
)


def run_task(task: Task, model: Model) -> list[TaskResult]:
    """The harness' per-row scores of one of its tasks, as results of ours."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    name = task.scoring.partition(":")[2]
    include = task.block.include_path
    folder = next(
        (str(above / include) for above in (task.folder, task.root) if include and (above / include).exists()),
        None,
    )  # fmt: skip
    manager = TaskManager(include_path=folder)
    if name not in manager.all_tasks:
        raise FatalError(
            f"lm-evaluation-harness has no task {name}", hint="lm-eval ls tasks lists them"
        )
    try:
        found = simple_evaluate(
            model=HFLM(
                pretrained=model.model, tokenizer=model.tokenizer, batch_size=model.batch_size
            ),
            tasks=[name],
            task_manager=manager,
            num_fewshot=task.block.num_fewshot,
            limit=task.block.max_rows,
            apply_chat_template=task.block.chat and model.template is not None,
            log_samples=True,
            bootstrap_iters=0,
        )
    except (OSError, ConnectionError, ValueError, KeyError) as error:
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise FatalError(
            f"lm-evaluation-harness could not run {name}: {why[0]}",
            hint="its data sets come from the hub; a task file of your own goes under include_path",
        ) from error
    return [
        result
        for subtask, samples in sorted(found["samples"].items())
        for result in _results(task, subtask if subtask != name else "", samples)
    ]


def _results(task: Task, subtask: str, samples: list[dict[str, Any]]) -> list[TaskResult]:
    prefix = f"{subtask}." if subtask else ""
    scores = sorted({metric for sample in samples for metric in sample.get("metrics", ())})
    results = []
    for score in scores:
        rows: list[Row | None] = []
        for sample in samples:
            value = sample.get(score)
            is_number = isinstance(value, int | float)
            rows.append((float(value), 1.0) if is_number and value is not None else None)
        if all(row is None for row in rows):
            continue  # a corpus score: the harness makes it of parts that are no row's own
        missing = sum(row is None for row in rows)
        values = {row[0] for row in rows if row is not None}
        results.append(
            TaskResult(
                task.name,
                prefix + score,
                tuple(rows),
                higher_is_better=score not in LOWER_IS_BETTER,
                binary=values <= {0.0, 1.0},
                failures={"the harness gave no number": missing} if missing else {},
            )
        )
    return results
