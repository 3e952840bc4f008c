"""`training.launcher`: how many processes train, and what they split among themselves.

Without `fsdp` or `deepspeed` each process has the whole model and a share of the rows (DDP). The
settings of FSDP2 and DeepSpeed are data here: the trainer hands them to accelerate.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from soup_git.core.diagnosis import POLICY_TASKS
from soup_git.core.yamllines import Where
from soup_git.storage.workers import run_together
from soup_git.training import machine
from soup_git.training.schema import SoupConfig

FSDP: dict[str, dict[str, Any]] = {
    "full_shard": {"reshard_after_forward": True},
    "shard_grad": {"reshard_after_forward": False},
    "full_offload": {"reshard_after_forward": True, "cpu_offload": True},
}
"""training.fsdp -> transformers' fsdp_config; the names are the original tool's. Source:
https://huggingface.co/docs/transformers/main/en/fsdp"""

_OFFLOAD = {"device": "cpu", "pin_memory": True}
DEEPSPEED: dict[str, dict[str, Any]] = {
    "zero1": {"stage": 1},
    "zero2": {"stage": 2},
    "zero2_offload": {"stage": 2, "offload_optimizer": _OFFLOAD},
    "zero3": {"stage": 3},
    "zero3_offload": {"stage": 3, "offload_optimizer": _OFFLOAD, "offload_param": _OFFLOAD},
}
"""training.deepspeed -> DeepSpeed's zero_optimization. Source:
https://www.deepspeed.ai/docs/config-json/#zero-optimizations-for-fp16-training"""

# What the trainer knows already: transformers puts its own values where "auto" stands.
_FROM_THE_TRAINER: dict[str, Any] = {
    **dict.fromkeys(("train_batch_size", "train_micro_batch_size_per_gpu"), "auto"),
    **dict.fromkeys(("gradient_accumulation_steps", "gradient_clipping"), "auto"),
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": "auto"},
    "zero_allow_untested_optimizer": True,
}


def splits(config: SoupConfig) -> str:
    """The option that splits more than rows among the processes ("fsdp", "deepspeed"), or ""."""
    training = config.training
    return "fsdp" if training.fsdp else "deepspeed" if training.deepspeed else ""


def trainer_options(config: SoupConfig) -> dict[str, Any]:
    """What transformers' TrainingArguments get of it."""
    training = config.training
    if training.launcher == "none":
        return {}
    # Every process draws its dropout from a seed of its own, and the order of the rows from this.
    shared = {"data_seed": training.seed}
    if training.deepspeed is not None:
        return shared | {"deepspeed": deepspeed_settings(config)}
    if training.fsdp is None:
        return shared
    checkpointing = training.gradient_checkpointing
    return shared | {
        "fsdp": True,
        "fsdp_config": fsdp_settings(config),
        # FSDP has one of its own, which knows where the layers are split.
        **({"activation_checkpointing": False} if checkpointing else {}),
    }


def fsdp_settings(config: SoupConfig) -> dict[str, Any]:
    """transformers' `fsdp_config` for `training.fsdp`."""
    training = config.training
    settings: dict[str, Any] = {"version": 2, "state_dict_type": "FULL_STATE_DICT"}
    settings |= FSDP[str(training.fsdp)]
    if training.gradient_checkpointing:
        settings["activation_checkpointing"] = True
    layers, least = training.fsdp_layers, training.fsdp_min_num_params
    if least is not None:
        return settings | {"auto_wrap_policy": "SIZE_BASED_WRAP", "min_num_params": least}
    settings["auto_wrap_policy"] = "TRANSFORMER_BASED_WRAP"
    return settings | ({"transformer_layer_cls_to_wrap": layers} if layers else {})


def deepspeed_settings(config: SoupConfig) -> dict[str, Any]:
    """DeepSpeed's config for `training.deepspeed`, as its JSON files have it."""
    training = config.training
    zero = DEEPSPEED[str(training.deepspeed)] | training.deepspeed_zero
    return {**_FROM_THE_TRAINER, "zero_optimization": zero}


def read_own_checkpoints(config: SoupConfig) -> None:
    """Let torch build what DeepSpeed's checkpoints hold beside tensors: plain values of these
    classes. Everything else in them is refused, as in any checkpoint (`TORCH_FORCE_…` in
    training/machine.py)."""
    if config.training.deepspeed is None:
        return
    import torch
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    known = [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
    torch.serialization.add_safe_globals(known)


# ---- what does not go together ----------------------------------------------------------------


def check(config: SoupConfig, given: set[Where]) -> Iterator[tuple[Where, str]]:
    """What the file alone tells."""
    training, at = config.training, ("training",)
    yield from _needs(config, given)
    if training.launcher != "none" and config.task == "embedding":
        yield (
            (*at, "launcher"),
            "sentence-transformers' batches do not divide evenly: it drops the rows of the last ones",
        )
    if training.fsdp and training.deepspeed:
        yield (*at, "deepspeed"), "excludes fsdp: give one of them"
    if training.fsdp_layers and training.fsdp_min_num_params is not None:
        yield (*at, "fsdp_min_num_params"), "excludes fsdp_layers: give one of them"
    if training.deepspeed and training.relora_steps is not None:
        yield (
            (*at, "relora_steps"),
            "excludes deepspeed, which has a copy of the weights of its own",
        )
    if split := _splits_the_model(config):
        yield from ((w, f"excludes training.{split}: {why}") for w, why in _whole_models(config))


def _needs(config: SoupConfig, given: set[Where]) -> Iterator[tuple[Where, str]]:
    """Options that do nothing without another."""
    training, at = config.training, ("training",)
    for key in ("num_processes", "fsdp", "deepspeed"):
        if training.launcher == "none" and getattr(training, key) is not None:
            yield (*at, key), "needs training.launcher: accelerate"
    for key, needed in (
        ("fsdp_layers", "fsdp"), ("fsdp_min_num_params", "fsdp"), ("deepspeed_zero", "deepspeed"),
    ):  # fmt: skip
        if (*at, key) in given and getattr(training, needed) is None:
            yield (*at, key), f"needs training.{needed}"


def _splits_the_model(config: SoupConfig) -> str:
    """The option that leaves each process a part of the model, or ""."""
    zero = config.training.deepspeed
    return (
        f"deepspeed: {zero}"
        if zero in {"zero3", "zero3_offload"}
        else "fsdp"
        if config.training.fsdp
        else ""
    )


def _whole_models(config: SoupConfig) -> Iterator[tuple[Where, str]]:
    """What needs the whole model in one process."""
    training, at = config.training, ("training",)
    if training.quantization != "none":
        yield (*at, "quantization"), "weights in few bits cannot be split"
    if training.fsdp and training.relora_steps is not None:
        yield (*at, "relora_steps"), "it changes weights, which are split"
    if training.eval_gate is not None:
        yield (*at, "eval_gate"), "one process answers the suite, and none has the model"
    if training.lora.kind != "lora":
        yield (*at, "lora", f"use_{training.lora.kind}"), "modules share tensors, which are split"
    if config.task in POLICY_TASKS:
        yield ("task",), f"{config.task} answers by itself, and no process has the model"
    if training.teacher_model is not None:
        yield (*at, "teacher_model"), "the teacher would be split, too"


def count_of(config: SoupConfig) -> int:
    """How many processes train. Imports torch; raises FatalError for what is not here."""
    training = config.training
    if training.launcher == "none":
        return 1
    import torch

    gpus = 0 if _on_cpu(config) else torch.cuda.device_count()
    wanted = training.num_processes
    if not gpus:
        if training.fsdp:
            raise config.refuse(
                "training.fsdp", "accelerate splits a model among GPUs, and there is none here"
            )
        if wanted is None:
            raise config.refuse(
                "training.launcher",
                "there are no GPUs here to count",
                hint="training.num_processes: 2, for two processes on the CPU",
            )
        cores = machine.cores()
        if wanted > cores:
            raise config.refuse(
                "training.num_processes", f"{wanted} processes, and {cores} CPUs to run them"
            )
    elif wanted is not None and wanted > gpus:
        raise config.refuse("training.num_processes", f"{wanted}: there are {gpus} GPUs here")
    count = wanted or gpus
    if count == 1 and splits(config):
        raise config.refuse(
            f"training.{splits(config)}", "there is one process: nothing to split between"
        )
    return count


def _on_cpu(config: SoupConfig) -> bool:
    return config.training.device == "cpu" or config.training.reproducible == "portable"


# ---- starting them ----------------------------------------------------------------------------


def launch(config: SoupConfig, words: Sequence[str], root: Path, count: int) -> int:
    """Run `words` in `count` processes and return the exit code of the training."""
    import torch

    with socket.create_server(("127.0.0.1", 0)) as listening:
        # Bound here: torch alone would listen on every network of this machine.
        port = listening.getsockname()[1]
        _store = torch.distributed.TCPStore(
            "127.0.0.1", port, is_master=True, wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )  # fmt: skip
        env = {**os.environ, **_environment(config, count)}
        return run_together(words, root, count, env, port)


def _environment(config: SoupConfig, count: int) -> Mapping[str, str]:
    threads = machine.threads(config, count)
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    return {
        # Both are read when torch loads; accelerate changes the threads where it is not set.
        "OMP_NUM_THREADS": str(threads),
        # They are all on this machine: nothing of what they exchange is to leave it.
        "GLOO_SOCKET_IFNAME": loopback,
        # torch warns of what it does itself: looking for parameters that a step left out.
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
