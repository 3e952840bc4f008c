"""From `soup.yaml` to a trained adapter: the whole way, top to bottom, in `train`."""

from __future__ import annotations

import contextlib
import importlib.metadata
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from soup_git.training import (
    adapter,
    baseload,
    checkpoints,
    endings,
    machine,
    model,
    optimizers,
    processes,
    quantized,
    report,
    trainer,
)
from soup_git.training.machine import Machine
from soup_git.training.material import Material, read
from soup_git.training.processes import Processes
from soup_git.training.report import TrainReport
from soup_git.training.schema import SoupConfig
from soup_git.training.tasks import Task

if TYPE_CHECKING:
    from soup_git.training.loop import Run

OnCheckpoint = Callable[[int, Path, float, float], None]


class EpochGate(Protocol):
    """Judges the adapter while it trains: `training.eval_gate`."""

    def prepare(self) -> None:
        """Called once before the base is loaded: what it needs is missing now or never."""

    def judge(self, epoch: int, model: Any, tokenizer: Any, template: Any) -> str:
        """Called after an epoch; why training should stop, or nothing."""


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
    watch: Callable[[Run], None] | None = None,
    pinned: Mapping[str, Any] | None = None,
) -> TrainReport:
    """Train `config` and write the adapter into `output`; return what was trained.

    Also writes `metrics.json` and `plots/` into `results` (`workspace_root`). Checkpoints go into
    `state_dir`, which must be on this machine, outside every DVC output, and belong to this
    run alone; an interrupted run goes on from the last complete one there, unless `resume`
    or `training.resume` is false. `on_checkpoint(step, folder, loss, learning_rate)` is
    called for each complete checkpoint; it should tolerate hearing of one twice. `gate` judges
    the adapter after an epoch; what it computes never moves a byte of the result. `watch` is
    given the `loop.Run` before its first step. `pinned` holds what else decides the bytes, such as
    a digest of the base's weights: a resumed run has to have the same. A file `.checkpoint_now`
    in `output` asks for a checkpoint after the step.

    Raises FatalError for everything a user can cause, with code 130 after Ctrl-C.
    """
    # What is cheap to refuse comes first, before torch is imported.
    machine.prepare_process(config)
    material = read(config, workspace_root)
    team = processes.here()
    if gate is not None and team.is_main:
        gate.prepare()
    stored_as = quantized.check(material.base, config)
    here = machine.resolve(config, team.count)
    quantized.check_device(material.base, config, stored_as, here.device)
    optimizers.check_device(config, here.device)
    _quiet_libraries()
    facts = _facts(here, material.task) | quantized.versions(config, stored_as) | dict(pinned or {})

    team.meet(here.device)
    with _state(state_dir, team):
        if team.is_main:
            if not (resume and config.training.resume):
                checkpoints.clear(state_dir)
            checkpoints.agree(state_dir, _deciding(material, facts))
            checkpoints.refuse_stopped(state_dir, endings.judges(config.training))
        team.wait()
        done = checkpoints.complete(state_dir)

        run = _assemble(material, here, stored_as, state_dir, team)
        run.on_checkpoint = on_checkpoint
        run.asks_in(output)
        if gate is not None:
            reading = material.reading
            run.on_epoch = lambda e: gate.judge(e, run.model, reading.tokenizer, reading.template)
        header = report.header(material, here, run.model)
        resumed = [f"going on from step {checkpoints.step_of(done[-1])}"] if done else []
        for line in (header, *material.notes(), *resumed):
            team.say(line)
        if watch is not None:
            watch(run)

        steps = run.train(done[-1] if done else None)
        run.measure_the_end(steps, material.eval_set)
        lowest = _lowest_eval(run, steps)
        tensors, settings = run.adapter()
        run.check_alive(steps)
        if team.is_main:
            adapter.save(tensors, settings, output)
        team.wait()

    facts |= {"attention": run.model.get_base_model().config._attn_implementation}
    trained = TrainReport.of(material, run, header, output, steps, facts, lowest, done)
    if team.is_main:
        report.write(trained, run.curve, results or workspace_root)
    team.part()
    return trained


def _state(state_dir: Path, team: Processes) -> contextlib.AbstractContextManager[None]:
    """The state folder, held by the process that writes into it."""
    return checkpoints.held(state_dir) if team.is_main else contextlib.nullcontext()


def _assemble(
    material: Material, here: Machine, stored_as: str | None, state_dir: Path, team: Processes
) -> Run:
    """The base with a new adapter on it, and the trainer around them."""
    import transformers

    from soup_git.training.loop import Run

    config, base = material.config, material.base
    transformers.set_seed(config.training.seed)
    how = quantized.load_options(base, config, here.dtype, here.device, stored_as)
    base_model = model.load(base, config, dtype=here.dtype, **how)
    base_model = quantized.keep_as_trained(quantized.check_loaded(config, base_model))
    base_model.config.use_cache = False
    peft_model = adapter.attach(
        base_model,
        config,
        material.train_set.texts,
        original=lambda: model.load(base, config, dtype=here.dtype),
    )
    with adapter.kept_exact(peft_model):
        fit = trainer.build(material, here, peft_model, state_dir)
    run = Run(config, fit, peft_model, state_dir=state_dir, processes=team)
    run.base_load = baseload.recorded(base, config, base_model, here.dtype)
    if team.rank:
        # The same dropout for the rows of every process would be less of it.
        transformers.set_seed(config.training.seed + team.rank)
    return run


def _deciding(material: Material, facts: dict[str, Any]) -> dict[str, Any]:
    """Everything that decides the bytes of the run, flat, for comparison on resume."""
    config = material.config
    free = {"eval_gate", "resume", "save_steps", "save_total_limit", "logging_steps", "eval_steps"}
    free |= {"loss_watchdog", "loss_watchdog_threshold", "loss_watchdog_patience"}
    if config.training.early_stop_patience is not None:
        free.remove("eval_steps")
    training = config.training.model_dump(exclude={*free, "lora"})
    return (
        {f"training.{k}": v for k, v in training.items()}
        | {f"training.lora.{k}": v for k, v in config.training.lora.model_dump().items()}
        | {"base": config.base, "revision": config.revision, "task": config.task}
        | {"data.max_length": config.data.max_length}
        | material.deciding()
        | facts
    )


def _facts(here: Machine, task: Task) -> dict[str, Any]:
    """Threads, precision, instruction set and versions: the machine's share in the bytes."""
    packages = ("torch", "transformers", "trl", "peft", "accelerate", "tokenizers")
    names = dict.fromkeys((*packages, *task.packages))
    return asdict(here) | {name: importlib.metadata.version(name) for name in names}


def _lowest_eval(run: Run, step: int) -> int | None:
    """With early stopping, the step of the lowest validation loss; says so if it stopped."""
    training, evals = run.config.training, run.curve.evals
    best = endings.lowest(evals)
    if training.early_stop_patience is None or best is None:
        return None
    at = int(evals[best]["step"])
    if endings.is_over(evals, training):
        run.processes.say(
            f"stopped early, at step {step} of {run.trainer.state.max_steps}: the validation loss "
            f"was lowest at step {at} ({evals[best]['eval_loss']:.4f}), which is run/ID@{at}; the "
            f"output is step {step}"
        )
    return at


def _quiet_libraries() -> None:
    """Progress bars would end up in logs; advice to change code is not for our users."""
    import datasets
    import transformers

    warnings.filterwarnings(
        "ignore",
        category=FutureWarning,
        module="transformers|trl|peft|torch.distributed|deepspeed|accelerate",
    )
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
