"""From `soup.yaml` to a trained adapter: the whole way, top to bottom, in `train`."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from soup_git.core.text import printable
from soup_git.data import formats
from soup_git.data.formats import Dataset
from soup_git.data.rows import BadRowError, DataRow, Problems
from soup_git.training import (
    adapter,
    checkpoints,
    endings,
    machine,
    model,
    optimizers,
    quantized,
    templates,
    trainer,
)
from soup_git.training.curve import Curve, as_csv, rounded
from soup_git.training.lora import kinds
from soup_git.training.machine import Machine
from soup_git.training.methods.files import sha256
from soup_git.training.prepared import Prepared, Reading, prepare
from soup_git.training.schema import SoupConfig
from soup_git.training.tasks import Task, load

OnCheckpoint = Callable[[int, Path, float, float], None]
TRIGGER = ".checkpoint_now"


class EpochGate(Protocol):
    """Judges the adapter while it trains: `training.eval_gate`."""

    def prepare(self) -> None:
        """Called once before the base is loaded: what it needs is missing now or never."""

    def judge(self, epoch: int, model: Any, tokenizer: Any, template: Any) -> str:
        """Called after an epoch; why training should stop, or nothing."""


@dataclass(frozen=True)
class TrainReport:
    """What was really trained. `run` holds what decides the bytes beside data and config."""

    header: str
    task: str
    base: str
    format: str
    output: Path
    weights_sha256: str
    steps: int
    resumed_from: int | None
    rows: int
    validation_rows: int
    truncated_rows: int
    dropped_rows: int
    tokens: int
    loss_tokens: int
    modules: int
    trainable_parameters: int
    parameters: int
    train_loss: float
    final_loss: float
    eval_loss: float | None
    lowest_eval_step: int | None
    """With training.early_stop_patience: the step whose validation loss nothing later beat."""
    run: dict[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, Any]:
        """What goes into metrics.json: nothing in it depends on the clock."""
        keys = (
            *("steps", "rows", "validation_rows", "truncated_rows", "dropped_rows", "tokens"),
            *("loss_tokens", "trainable_parameters", "train_loss", "final_loss", "eval_loss"),
            "lowest_eval_step",
        )
        return {key: getattr(self, key) for key in keys if getattr(self, key) is not None}


def train(
    config: SoupConfig,
    *,
    workspace_root: Path,
    output: Path,
    state_dir: Path,
    results: Path | None = None,
    on_checkpoint: OnCheckpoint | None = None,
    resume: bool = True,
    gate: EpochGate | None = None,
    watch: Callable[[Any], None] | None = None,
) -> TrainReport:
    """Train `config` and write the adapter into `output`; return what was trained.

    Also writes `metrics.json` and `plots/` into `results` (`workspace_root`). Checkpoints go into
    `state_dir`, which must be on this machine, outside every DVC output, and belong to this
    run alone; an interrupted run goes on from the last complete one there, unless `resume`
    or `training.resume` is false. `on_checkpoint(step, folder, loss, learning_rate)` is
    called for each complete checkpoint; it should tolerate hearing of one twice. `gate` judges
    the adapter after an epoch; what it computes never moves a byte of the result. `watch` is
    given the `loop.Run` before its first step. A file `.checkpoint_now` in `output` asks for a
    checkpoint after the step.

    Raises FatalError for everything a user can cause, with code 130 after Ctrl-C.
    """
    # What is cheap to refuse comes first, before torch is imported.
    machine.prepare_process(config)
    task = config.method
    base = model.locate(config, workspace_root)
    dataset, train_rows, held_out = _rows(config, task, workspace_root)
    inputs = load(task.inputs)(config, workspace_root) if task.inputs else {}

    tokenizer = model.load_tokenizer(base, config)
    template = None
    if dataset.conversational:
        template = templates.resolve(config, workspace_root, model.own_template(tokenizer))
    reading = Reading(tokenizer, template, config, workspace_root)
    train_set, eval_set = (prepare(rows, task, reading) for rows in (train_rows, held_out))
    _check_left(train_set, eval_set, config)
    if gate is not None:
        gate.prepare()
    stored_as = quantized.check(base, config)
    here = machine.resolve(config)
    quantized.check_device(config, stored_as, here.device)
    optimizers.check_device(config, here.device)
    from soup_git.training import loop

    _quiet_libraries()
    with checkpoints.held(state_dir):
        if not (resume and config.training.resume):
            checkpoints.clear(state_dir)
        facts = _facts(here, task) | quantized.versions(config, stored_as)
        facts |= {f"sha256 of {name}": h for name, h in inputs.items()}
        checkpoints.agree(state_dir, _deciding(config, facts, train_rows, held_out))
        done = checkpoints.complete(state_dir)
        checkpoints.refuse_stopped(state_dir, endings.judges(config.training))

        import transformers

        transformers.set_seed(config.training.seed)
        how = quantized.load_options(config, here.dtype, here.device, stored_as)
        base_model = quantized.keep_as_trained(model.load(base, config, dtype=here.dtype, **how))
        base_model.config.use_cache = False
        peft_model = adapter.attach(
            base_model,
            config,
            train_set.texts,
            original=lambda: model.load(base, config, dtype=here.dtype),
        )
        with adapter.kept_exact(peft_model):
            fit = trainer.build(task, here, peft_model, reading, train_set, eval_set, state_dir)
        run = loop.Run(config, fit, peft_model, state_dir=state_dir, on_checkpoint=on_checkpoint)
        if gate is not None:
            run.on_epoch = lambda epoch: gate.judge(epoch, peft_model, tokenizer, template)
        fit.soup = run
        run.trigger = output / TRIGGER
        run.trigger.unlink(missing_ok=True)
        header = _header(config, peft_model, train_set, eval_set)
        _say(header)
        for note in _notes(dataset, template, train_set, eval_set, done, config):
            _say(note)

        if watch is not None:
            watch(run)
        steps = run.train(done[-1] if done else None)
        if eval_set.examples and not (run.curve.evals and run.curve.evals[-1]["step"] == steps):
            fit.evaluate()
        run.curve.end(steps)
        lowest = _lowest_eval(run, steps)

        final = adapter.factors(peft_model)
        adapter.check_alive(final, run.initial, adapter.modules(peft_model), config.training.lora)
        adapter.save(*run.adapter(), output)

    trainable, total = _parameters(peft_model)
    report = TrainReport(
        header=header,
        task=config.task,
        base=config.base,
        format=dataset.format.name,
        output=output,
        weights_sha256=sha256(output / adapter.WEIGHTS),
        steps=steps,
        resumed_from=checkpoints.step_of(done[-1]) if done else None,
        rows=len(train_set.examples),
        validation_rows=len(eval_set.examples),
        truncated_rows=train_set.truncated + eval_set.truncated,
        dropped_rows=train_set.dropped + eval_set.dropped,
        tokens=train_set.tokens,
        loss_tokens=train_set.loss_tokens,
        modules=len(adapter.modules(peft_model)),
        trainable_parameters=trainable,
        parameters=total,
        train_loss=rounded(run.curve.total / max(steps, 1)),
        final_loss=rounded(run.curve.latest),
        eval_loss=rounded(run.curve.evals[-1]["eval_loss"]) if run.curve.evals else None,
        lowest_eval_step=lowest,
        run=facts | {"attention": base_model.config._attn_implementation},
    )
    _write_results(report, run.curve, results or workspace_root)
    return report


def _check_left(train_set: Prepared, eval_set: Prepared, config: SoupConfig) -> None:
    """Refuse when too few rows are left of what was read."""
    if not train_set.examples:
        raise config.refuse(
            "data.max_length",
            f"nothing to learn is left of any row after {config.data.max_length} tokens: the "
            "prompts alone are longer",
            hint="git soup data show --tokens shows a row; a larger data.max_length",
        )
    if config.training.early_stop_patience is not None and not eval_set.examples:
        raise config.refuse(
            "training.early_stop_patience",
            "needs a validation loss, and no row is held out to measure it on",
            hint="a larger data.val_split, or data.validation",
        )


def _rows(
    config: SoupConfig, task: Task, root: Path
) -> tuple[Dataset, list[DataRow], list[DataRow]]:
    """The dataset, its training rows, and its validation rows."""

    def read(path: str, format_name: str, limit: int | None) -> Dataset:
        return formats.load_dataset(
            root / path, name=path, format_name=format_name, shapes=task.shapes, max_rows=limit
        )

    dataset = read(config.data.train, config.data.format, config.data.max_rows)
    key = "training.assistant_only_loss"
    if dataset.shape == "text" and config.given(key) and config.training.assistant_only_loss:
        raise config.refuse(key, "plain text has no assistant: leave it out, or false")
    if config.data.chat_template is not None and not dataset.conversational:
        raise config.refuse(
            "data.chat_template", "these rows are text, which no template is applied to"
        )
    _check_rows(dataset, task, config)
    if config.data.validation is not None:
        other = read(config.data.validation, dataset.format.name, None)
        _check_rows(other, task, config)
        return dataset, list(dataset.rows), list(other.rows)
    train_rows, held_out = formats.split(dataset.rows, config.data.val_split)
    if not train_rows:
        raise config.refuse(
            "data.val_split", f"all {len(held_out)} rows fell into the validation split"
        )
    return dataset, train_rows, held_out


def _check_rows(dataset: Dataset, task: Task, config: SoupConfig) -> None:
    """Every row that does not fit this config, at once, where the task looks at that."""
    if not task.check_row:
        return
    check, problems = load(task.check_row), Problems()
    for row in dataset.rows:
        try:
            check(row, config)
        except BadRowError as error:
            problems.add(row.file, row.line, str(error))
    problems.raise_if_any(dataset.rows[0].file, len(dataset.rows))


def _deciding(
    config: SoupConfig, facts: dict[str, Any], train: Sequence[DataRow], val: Sequence[DataRow]
) -> dict[str, Any]:
    """Everything that decides the bytes of the run, flat, for comparison on resume."""
    free = {"eval_gate", "resume", "save_steps", "save_total_limit", "logging_steps", "eval_steps"}
    free |= {"loss_watchdog", "loss_watchdog_threshold", "loss_watchdog_patience"}
    if config.training.early_stop_patience is not None:
        free.remove("eval_steps")
    training = config.training.model_dump(exclude={*free, "lora"})
    return (
        {f"training.{k}": v for k, v in training.items()}
        | {f"training.lora.{k}": v for k, v in config.training.lora.model_dump().items()}
        | {
            "base": config.base,
            "revision": config.revision,
            "task": config.task,
            "data.max_length": config.data.max_length,
            "data.chat_template": config.data.chat_template,
            "training rows": _digest(train),
            "validation rows": _digest(val),
        }
        | facts
    )


def _facts(here: Machine, task: Task) -> dict[str, Any]:
    """Threads, precision, instruction set and versions: the machine's share in the bytes."""
    packages = ("torch", "transformers", "trl", "peft", "accelerate", "tokenizers")
    names = dict.fromkeys((*packages, *task.packages))
    return asdict(here) | {name: importlib.metadata.version(name) for name in names}


def _digest(rows: Sequence[DataRow]) -> str:
    return hashlib.sha256("\n".join(row.digest for row in rows).encode()).hexdigest()


def _parameters(peft_model: Any) -> tuple[int, int]:
    trainable, total = peft_model.get_nb_trainable_parameters()
    return int(trainable), int(total) - int(trainable)


def _header(config: SoupConfig, peft_model: Any, train_set: Prepared, eval_set: Prepared) -> str:
    training = config.training
    trainable, base = _parameters(peft_model)
    rows = f"{len(train_set.examples):,} rows"
    if eval_set.examples:
        rows += f" ({len(eval_set.examples):,} held out)"
    length = f"{training.epochs:g} epochs"
    if training.max_steps is not None:
        length = f"{training.max_steps:,} steps"
    lora = f"{kinds.title(training.lora)} r{training.lora.r} on {len(adapter.modules(peft_model))} modules"
    size = f"({_millions(trainable)} of {_millions(base)} parameters)"
    batch = f"effective batch {training.batch_size * training.gradient_accumulation_steps}"
    parts = (config.task, printable(config.base), f"{lora} {size}", rows, length, batch)
    return " · ".join(parts)


def _millions(count: int) -> str:
    return f"{count / 1e6:.3g} M" if count >= 1e5 else f"{count:,}"


def _notes(
    dataset: Dataset,
    template: templates.Template | None,
    train_set: Prepared,
    eval_set: Prepared,
    done: list[Path],
    config: SoupConfig,
) -> list[str]:
    notes = []
    rows = dataset.format.name + (" (detected)" if dataset.detected else "")
    if template is not None:
        rows += f", chat template: {template.origin}"
    notes.append(f"rows: {rows}")
    if dataset.unread:
        columns = ", ".join(printable(c) for c in dataset.unread)
        notes.append(f"columns that are not read: {columns}")
    cut = train_set.truncated + eval_set.truncated
    if cut:
        notes.append(f"{cut} rows cut at {config.data.max_length} tokens (data.max_length)")
    dropped = train_set.dropped + eval_set.dropped
    if dropped:
        notes.append(f"{dropped} rows dropped: nothing to learn was left of them")
    if config.data.val_split and not config.data.validation and not eval_set.examples:
        notes.append("no row fell into the validation split, so there is no validation loss")
    if done:
        notes.append(f"going on from step {checkpoints.step_of(done[-1])}")
    return notes


def _lowest_eval(run: Any, step: int) -> int | None:
    """With early stopping, the step of the lowest validation loss; says so if it stopped."""
    training, evals = run.config.training, run.curve.evals
    best = endings.lowest(evals, training.early_stop_threshold)
    if training.early_stop_patience is None or best is None:
        return None
    at = int(evals[best]["step"])
    if endings.is_over(evals, training):
        _say(
            f"stopped early, at step {step} of {run.trainer.state.max_steps}: the validation loss "
            f"was lowest at step {at} ({evals[best]['eval_loss']:.4f}), which is run/ID@{at}; the "
            f"output is step {step}"
        )
    return at


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _quiet_libraries() -> None:
    """Progress bars would end up in logs; advice to change code is not for our users."""
    import datasets
    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|trl|peft")
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()


def _write_results(report: TrainReport, curve: Curve, root: Path) -> None:
    text = json.dumps(report.metrics, indent=2, sort_keys=True) + "\n"
    (root / "metrics.json").write_text(text, encoding="utf-8")
    plots = root / "plots"
    plots.mkdir(exist_ok=True)
    points = ("step", "loss", "learning_rate", "grad_norm")
    (plots / "loss.csv").write_text(as_csv(curve.points, points))
    (plots / "eval_loss.csv").write_text(as_csv(curve.evals, ("step", "eval_loss")))
