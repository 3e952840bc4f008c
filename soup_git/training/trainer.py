"""The trainer of a task: upstream's class with `soup.yaml`'s options, ours in front."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from soup_git.training import checkpoints, launching, upstream
from soup_git.training.machine import Machine
from soup_git.training.material import Material
from soup_git.training.methods import packed
from soup_git.training.prepared import Prepared
from soup_git.training.schema import SoupConfig
from soup_git.training.tasks import Task, load

# What TRL raises on options that do not go together, or with this model.
_TRL_RAISES = (
    *(ValueError, TypeError, ImportError, NotImplementedError, AttributeError, LookupError),
)


def build(material: Material, here: Machine, peft_model: Any, state_dir: Path) -> Any:
    """Raises FatalError with what upstream says where it refuses the options."""
    from datasets import Dataset as Table

    from soup_git.training.loop import with_exactness

    task, reading = material.task, material.reading
    train_set, eval_set = material.train_set, material.eval_set
    config, training = material.config, material.config.training
    columns = load(task.columns)

    def table(prepared: Prepared) -> Any:
        examples = prepared.examples
        return Table.from_dict(columns(examples, reading)) if examples else None

    options = _everyones(config, here, state_dir) | _tasks(config, task)
    options |= launching.trainer_options(config)
    options["eval_strategy"] = "steps" if eval_set.examples else "no"
    options |= {k: v for k, v in training.trl.items() if k != "model_init_kwargs"}
    everything = [*train_set.examples, *eval_set.examples]
    try:
        trainer = with_exactness(load(task.trainer))(
            model=peft_model,
            args=load(task.config)(**options),
            train_dataset=table(train_set),
            eval_dataset=table(eval_set),
            processing_class=reading.tokenizer,
            **(load(task.equip)(peft_model, reading, everything) if task.equip else {}),
        )
        batches = len(trainer.get_train_dataloader()) if training.eval_steps is None else 0
    except _TRL_RAISES as error:
        raise config.refuse("training", f"TRL refuses this: {error}") from error
    if task.trainer == "transformers:Trainer":
        # transformers leaves accumulated losses undivided where forward takes **kwargs; the
        # losses of heads are means over a batch all the same.
        trainer.model_accepts_loss_kwargs = False
    if training.packing:
        packed.refuse_leaks(
            trainer, config, train_set.texts, set(reading.tokenizer.all_special_ids)
        )
    if training.eval_steps is None:
        per_epoch = math.ceil(batches / training.gradient_accumulation_steps)
        trainer.args.eval_steps = max(per_epoch, 1)
    else:
        trainer.args.eval_steps = training.eval_steps
    return trainer


def _everyones(config: SoupConfig, here: Machine, state_dir: Path) -> dict[str, Any]:
    """Options that every trainer takes."""
    training = config.training
    return {
        "output_dir": str(checkpoints.saving(state_dir)),
        "num_train_epochs": training.epochs,
        "max_steps": training.max_steps or -1,
        "learning_rate": training.lr,
        "lr_scheduler_type": training.scheduler,
        "warmup_steps": training.warmup,
        "per_device_train_batch_size": training.rows_per_batch,
        "per_device_eval_batch_size": training.rows_per_batch,
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
        "logging_steps": training.logging_steps,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": here.device == "cuda",
    }


def _tasks(config: SoupConfig, task: Task) -> dict[str, Any]:
    """Options of this task's trainer: what makes the method, then what soup.yaml says of it."""
    known = upstream.options(task.config_sources)
    options = dict(task.sets)
    if "max_length" in known:
        options["max_length"] = config.data.max_length
    if "disable_dropout" in known:
        # Of the base: an adapter's dropout that soup.yaml asks for would go with it.
        options["disable_dropout"] = not config.training.lora.dropout
    if task.works_out:
        options |= load(task.works_out)(config)
    for key, name in task.options.items():
        value = getattr(config.training, key)
        if name and value is not None:
            options[name] = value
    return options
