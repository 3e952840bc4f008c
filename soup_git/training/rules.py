"""Options that exclude each other: what no single key's type can tell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from soup_git.core.diagnosis import POLICY_TASKS
from soup_git.core.yamllines import Where
from soup_git.training import launching, unread
from soup_git.training.lora import exclusions
from soup_git.training.schema import LoraBlock, SoupConfig, TrainingBlock
from soup_git.training.tasks import TASKS, load

Problem = tuple[Where, str]
_LORA: Where = ("training", "lora")


def together(config: SoupConfig, given: set[Where]) -> Iterator[Problem]:
    """Every pair that does not go together; `given` are the keys that the file sets."""
    yield from _tasks(config, given)
    if config.data.validation is not None and ("data", "val_split") in given:
        yield ("data", "val_split"), "excludes data.validation: give one of them"
    yield from _outside(config)
    yield from _training(config.training)
    yield from _endings(config, given)
    yield from _targets(config.training.lora, given)
    yield from exclusions.check(config, given)
    yield from unread.check(config, given)
    yield from launching.check(config, given)


def _tasks(config: SoupConfig, given: set[Where]) -> Iterator[Problem]:
    """Options of other tasks, options that this one needs, and the task's own rules."""
    method = config.method
    for key in sorted({k for task in TASKS.values() for k in task.options}):
        if ("training", key) in given and key not in method.options:
            those = ", ".join(t.name for t in TASKS.values() if key in t.options)
            with_loss = "" if method.name == config.task else f" with preference_loss {method.name}"
            yield (
                ("training", key),
                f"task {config.task}{with_loss} has no such option (task {those} has)",
            )
    needed = [key for key in method.needs if getattr(config.training, key) is not None]
    if method.needs and not needed:
        yield ("task",), f"{config.task} needs training.{' or training.'.join(method.needs)}"
    for key in needed[1:]:
        yield ("training", key), f"excludes {needed[0]}: give one of them"
    if config.compares and config.training.lora.bias != "none":
        yield (
            (*_LORA, "bias"),
            f"{config.compares} compares with the base, which trained biases would change",
        )
    if config.training.eval_gate is not None and method.head != "words":
        # PEFT would wrap another head than the suite's model has, at the end of an epoch.
        instead = "rows held out (data.val_split, data.validation) are measured while it trains"
        yield (
            ("training", "eval_gate"),
            f"a suite asks for words, task {config.task} answers with {method.head}: leave it out; {instead}",
        )
    if method.check:
        yield from load(method.check)(config, given)


def _outside(config: SoupConfig) -> Iterator[Problem]:
    paths: dict[Where, str | None] = {
        ("data", "train"): config.data.train,
        ("data", "validation"): config.data.validation,
        ("output",): config.output,
    }
    for where, value in paths.items():
        parts = PurePosixPath("x" if value is None else value).parts
        if not parts or parts[0] == "/" or ".." in parts:
            yield where, f"{value} is not a path inside the workspace"
    output = PurePosixPath(config.output)
    if output.parts[:1] in {(".git",), (".dvc",)}:
        yield ("output",), f"{config.output} is a folder of {output.parts[0][1:]}'s own"
    elif output == PurePosixPath(config.base):
        yield ("output",), f"{config.output} is the base, which an adapter beside it would hide"


def _training(training: TrainingBlock) -> Iterator[Problem]:
    if training.warmup_ratio is not None and training.warmup_steps is not None:
        yield ("training", "warmup_ratio"), "excludes warmup_steps: give one of them"
    if training.reproducible == "portable":
        if training.threads not in {None, 1}:
            yield ("training", "threads"), "reproducible: portable means one thread"
        if training.device == "cuda":
            yield ("training", "device"), "reproducible: portable is for the CPU"
    if training.batch_size == "auto" and training.launcher != "none":
        what = "auto tries steps in one process, and several train here: give a number"
        yield ("training", "batch_size"), what
    if training.precision == "fp16" and training.device == "cpu":
        yield ("training", "precision"), "fp16 does not train on a CPU; fp32 or bf16 do"


def _endings(config: SoupConfig, given: set[Where]) -> Iterator[Problem]:
    """What ends a training before its last step."""
    training = config.training
    for key in ("loss_watchdog_threshold", "loss_watchdog_patience"):
        if ("training", key) in given and not training.loss_watchdog:
            yield ("training", key), "needs loss_watchdog: true"
    if training.loss_watchdog and config.task in POLICY_TASKS:
        yield (
            ("training", "loss_watchdog"),
            f"the loss of {config.task} says nothing about its health: it need not fall",
        )
    if training.early_stop_patience is None:
        if ("training", "early_stop_threshold") in given:
            yield ("training", "early_stop_threshold"), "needs early_stop_patience"
    elif config.data.validation is None and not config.data.val_split:
        yield (
            ("training", "early_stop_patience"),
            "needs a validation loss: data.val_split above 0, or data.validation",
        )


def _targets(lora: LoraBlock, given: set[Where]) -> Iterator[Problem]:
    if isinstance(lora.target_modules, str):
        for key in ("layers_to_transform", "layers_pattern"):
            if (*_LORA, key) in given:
                yield (*_LORA, key), "needs target_modules as a list of names"
    elif lora.layers_pattern is not None and lora.layers_to_transform is None:
        yield (*_LORA, "layers_pattern"), "needs layers_to_transform"


def smallest_batch(config: SoupConfig) -> int:
    """Rows that a forward pass takes at least: 2 where the task compares the rows of a batch."""
    alone = together(config.with_batch_size(1), set())
    return 2 if any(where == ("training", "batch_size") for where, _ in alone) else 1
