"""From `soup.yaml` to a trained adapter: the whole way, top to bottom, in `train`."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from soup_git.core.text import printable
from soup_git.data import formats
from soup_git.data.formats import Dataset
from soup_git.data.rows import DataRow
from soup_git.training import (
    adapter,
    checkpoints,
    machine,
    model,
    optimizers,
    quantized,
    templates,
    tokens,
)
from soup_git.training.curve import Curve, as_csv, rounded
from soup_git.training.lora import kinds
from soup_git.training.machine import Machine
from soup_git.training.schema import SoupConfig
from soup_git.training.tasks import TASKS, Task, load
from soup_git.training.tokens import Prepared

OnCheckpoint = Callable[[int, Path, float, float], None]


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
    run: dict[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, Any]:
        """What goes into metrics.json: nothing in it depends on the clock."""
        keys = (
            *("steps", "rows", "validation_rows", "truncated_rows", "dropped_rows", "tokens"),
            *("loss_tokens", "trainable_parameters", "train_loss", "final_loss", "eval_loss"),
        )
        return {key: getattr(self, key) for key in keys if getattr(self, key) is not None}


def train(
    config: SoupConfig,
    *,
    workspace_root: Path,
    output: Path,
    state_dir: Path,
    on_checkpoint: OnCheckpoint | None = None,
    resume: bool = True,
    gate: EpochGate | None = None,
) -> TrainReport:
    """Train `config` and write the adapter into `output`; return what was trained.

    Also writes `metrics.json` and `plots/` into `workspace_root`. Checkpoints go into
    `state_dir`, which must be on this machine, outside every DVC output, and belong to this
    run alone; an interrupted run goes on from the last complete one there, unless `resume`
    or `training.resume` is false. `on_checkpoint(step, folder, loss, learning_rate)` is
    called for each complete checkpoint; it should tolerate hearing of one twice. `gate` judges
    the adapter after an epoch; what it computes never moves a byte of the result.

    Raises FatalError for everything a user can cause, with code 130 after Ctrl-C.
    """
    # What is cheap to refuse comes first, before torch is imported.
    machine.prepare_process(config)
    task = TASKS[config.task]
    base = model.locate(config, workspace_root)
    dataset, train_rows, held_out = _rows(config, task, workspace_root)

    tokenizer = model.load_tokenizer(base, config)
    template = None
    if dataset.shape != "text":
        template = templates.resolve(config, workspace_root, model.own_template(tokenizer))
    prepare = load(task.prepare)
    longest, cut = config.data.max_length, _cuts(config)
    train_set = tokens.fitted(prepare(train_rows, tokenizer, template, config), longest, cut=cut)
    eval_set = tokens.fitted(prepare(held_out, tokenizer, template, config), longest, cut=cut)
    if not train_set.sequences:
        raise config.refuse(
            "data.max_length",
            f"nothing to learn is left of any row after {config.data.max_length} tokens: the "
            "prompts alone are longer",
            hint="git soup data show --tokens shows a row; a larger data.max_length",
        )

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
        facts = _facts(here) | quantized.versions(config, stored_as)
        checkpoints.agree(state_dir, _deciding(config, facts, train_rows, held_out))
        done = checkpoints.complete(state_dir)
        if gate is not None:
            checkpoints.refuse_stopped(state_dir)

        import transformers

        transformers.set_seed(config.training.seed)
        how = quantized.load_options(config, here.dtype, here.device, stored_as)
        base_model = quantized.keep_as_trained(model.load(base, config, dtype=here.dtype, **how))
        base_model.config.use_cache = False
        peft_model = adapter.attach(
            base_model,
            config,
            train_set.sequences,
            original=lambda: model.load(base, config, dtype=here.dtype),
        )
        with adapter.kept_exact(peft_model):
            trainer = _trainer(
                config, task, here, peft_model, tokenizer, train_set, eval_set, state_dir
            )
        run = loop.Run(
            config, trainer, peft_model, state_dir=state_dir, on_checkpoint=on_checkpoint
        )
        if gate is not None:
            run.on_epoch = lambda epoch: gate.judge(epoch, peft_model, tokenizer, template)
        trainer.soup = run
        header = _header(config, peft_model, train_set, eval_set)
        _say(header)
        for note in _notes(dataset, template, train_set, eval_set, done, config):
            _say(note)

        steps = run.train(done[-1] if done else None)
        if eval_set.sequences and not (run.curve.evals and run.curve.evals[-1]["step"] == steps):
            trainer.evaluate()
        run.curve.end(steps)

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
        weights_sha256=_sha256(output / adapter.WEIGHTS),
        steps=steps,
        resumed_from=checkpoints.step_of(done[-1]) if done else None,
        rows=len(train_set.sequences),
        validation_rows=len(eval_set.sequences),
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
        run=facts | {"attention": base_model.config._attn_implementation},
    )
    _write_results(report, run.curve, workspace_root)
    return report


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
    if config.data.validation is not None:
        other = read(config.data.validation, dataset.format.name, None)
        return dataset, list(dataset.rows), list(other.rows)
    train_rows, held_out = formats.split(dataset.rows, config.data.val_split)
    if not train_rows:
        raise config.refuse(
            "data.val_split", f"all {len(held_out)} rows fell into the validation split"
        )
    return dataset, train_rows, held_out


def _cuts(config: SoupConfig) -> bool:
    """Are long rows cut? Some packings split them instead."""
    strategy = config.training.trl.get("packing_strategy", "bfd")
    return not config.training.packing or strategy == "bfd"


def _trainer(
    config: SoupConfig,
    task: Task,
    here: Machine,
    peft_model: Any,
    tokenizer: Any,
    train_set: Prepared,
    eval_set: Prepared,
    state_dir: Path,
) -> Any:
    """TRL's trainer for the task, with ours in front."""
    from datasets import Dataset as Table

    from soup_git.training.loop import with_exactness

    training = config.training

    def table(prepared: Prepared) -> Any:
        columns = {
            "input_ids": [s.ids for s in prepared.sequences],
            "labels": [s.labels for s in prepared.sequences],
        }
        return Table.from_dict(columns) if prepared.sequences else None

    options = {
        "output_dir": str(checkpoints.saving(state_dir)),
        "num_train_epochs": training.epochs,
        "max_steps": training.max_steps or -1,
        "learning_rate": training.lr,
        "lr_scheduler_type": training.scheduler,
        "warmup_steps": training.warmup,
        "per_device_train_batch_size": training.batch_size,
        "per_device_eval_batch_size": training.batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "optim": training.optimizer,
        "activation_checkpointing": training.gradient_checkpointing,
        "bf16": here.dtype == "bfloat16",
        "fp16": here.dtype == "float16",
        "use_cpu": here.device == "cpu",
        "seed": training.seed,
        "save_strategy": "steps",
        "save_steps": training.save_steps,
        "save_total_limit": None,  # checkpoints.keep does it, after the rename
        "eval_strategy": "steps" if eval_set.sequences else "no",
        "logging_steps": training.logging_steps,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": here.device == "cuda",
    }
    if "packing" in task.options:
        options |= {"packing": training.packing, "max_length": config.data.max_length}
    if "neftune_alpha" in task.options:
        options["neftune_noise_alpha"] = training.neftune_alpha
    options |= {k: v for k, v in training.trl.items() if k != "model_init_kwargs"}
    try:
        arguments = load(task.config)(**options)
        trainer = with_exactness(load(task.trainer))(
            model=peft_model,
            args=arguments,
            train_dataset=table(train_set),
            eval_dataset=table(eval_set),
            processing_class=tokenizer,
        )
    except (ValueError, TypeError, ImportError, NotImplementedError) as error:
        raise config.refuse("training", f"TRL refuses this: {error}") from error
    if training.eval_steps is None:
        batches = len(trainer.get_train_dataloader())
        per_epoch = math.ceil(batches / training.gradient_accumulation_steps)
        trainer.args.eval_steps = max(per_epoch, 1)
    else:
        trainer.args.eval_steps = training.eval_steps
    return trainer


def _deciding(
    config: SoupConfig, facts: dict[str, Any], train: Sequence[DataRow], val: Sequence[DataRow]
) -> dict[str, Any]:
    """Everything that decides the bytes of the run, flat, for comparison on resume."""
    free = {"eval_gate", "resume", "save_steps", "save_total_limit", "logging_steps", "eval_steps"}
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


def _facts(here: Machine) -> dict[str, Any]:
    """Threads, precision, instruction set and versions: the machine's share in the bytes."""
    packages = ("torch", "transformers", "trl", "peft", "accelerate", "tokenizers")
    return asdict(here) | {name: importlib.metadata.version(name) for name in packages}


def _digest(rows: Sequence[DataRow]) -> str:
    return hashlib.sha256("\n".join(row.digest for row in rows).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parameters(peft_model: Any) -> tuple[int, int]:
    trainable, total = peft_model.get_nb_trainable_parameters()
    return int(trainable), int(total) - int(trainable)


def _header(config: SoupConfig, peft_model: Any, train_set: Prepared, eval_set: Prepared) -> str:
    training = config.training
    trainable, base = _parameters(peft_model)
    rows = f"{len(train_set.sequences):,} rows"
    if eval_set.sequences:
        rows += f" ({len(eval_set.sequences):,} held out)"
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
    if template is not None and "text" not in dataset.shape:
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
    if config.data.val_split and not config.data.validation and not eval_set.sequences:
        notes.append("no row fell into the validation split, so there is no validation loss")
    if done:
        notes.append(f"going on from step {checkpoints.step_of(done[-1])}")
    return notes


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
    (plots / "loss.csv").write_text(as_csv(curve.points, ("step", "loss", "learning_rate")))
    (plots / "eval_loss.csv").write_text(as_csv(curve.evals, ("step", "eval_loss")))
