"""What the machine can honour, and what of it decides the bytes of a run."""

from __future__ import annotations

import logging
import os
import platform
import sys
from dataclasses import dataclass

from soup_git.errors import FatalError
from soup_git.storage.workers import is_worker
from soup_git.training.schema import SoupConfig

# Without these a library phones home, or prints a progress bar into a log.
_QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_DISABLED": "true",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    # A checkpoint's tensors are never read as a pickle, whatever a library asks torch for.
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
}
# MKL and ATen then take the same code path on every x86 CPU.
_PORTABLE = {"MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default"}
# Where a process stands among others, in torch's words.
_PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# cuBLAS is deterministic only with a fixed workspace.
_EXACT_GPU = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


@dataclass(frozen=True)
class Machine:
    """The device, precision ("float32", …) and thread count that a run really has."""

    device: str
    dtype: str
    threads: int
    capability: str
    name: str
    processes: int = 1


def cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def threads(config: SoupConfig, processes: int) -> int:
    """CPU threads of each process that trains."""
    if config.training.reproducible == "portable":
        return 1
    return config.training.threads or max(cores() // processes, 1)


def quiet_bitsandbytes() -> None:
    """It reports on import that a kernel could not be downloaded, and each cast of 8bit.

    PEFT and transformers import it wherever it is installed: to be called before they are.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def prepare_process(config: SoupConfig) -> None:
    """Set what torch and the hub client read once, at import. Call it before either is."""
    os.environ.update(_QUIET)
    for name in list(os.environ):
        # accelerate and torch read settings from here that soup.yaml does not have: they would
        # change the bytes of a run, or let it wait for processes that nobody starts.
        if name.startswith("ACCELERATE_") or (name in _PLACE and not is_worker()):
            del os.environ[name]
    quiet_bitsandbytes()
    wanted = _PORTABLE if config.training.reproducible == "portable" else _EXACT_GPU
    late = {k for k, v in wanted.items() if os.environ.get(k) != v}
    if late and wanted is _PORTABLE and "torch" in sys.modules:
        raise FatalError(
            "training.reproducible: portable has to be set up before torch is loaded, and it is",
            hint="train in a process of its own: dvc repro, or git soup train",
        )
    os.environ.update(wanted)


def resolve(config: SoupConfig, processes: int = 1) -> Machine:
    """Choose device and precision, fix the threads; refuse what this machine cannot do."""
    import torch

    training = config.training
    has_gpu = torch.cuda.is_available()
    if training.device == "cuda" and not has_gpu:
        raise config.refuse("training.device", "cuda: torch sees no GPU here")
    device = training.device if training.device != "auto" else "cuda" if has_gpu else "cpu"
    if training.reproducible == "portable":
        device = "cpu"
    gpu_bf16 = device == "cuda" and torch.cuda.is_bf16_supported()
    precision = training.precision
    if precision == "auto":
        precision = "fp32" if device == "cpu" else "bf16" if gpu_bf16 else "fp16"
    if precision == "fp16" and device == "cpu":
        raise config.refuse("training.precision", "fp16 does not train on a CPU; fp32 or bf16 do")
    if precision == "bf16" and device == "cuda" and not gpu_bf16:
        raise config.refuse("training.precision", "this GPU does not know bf16; fp16 or fp32 do")
    if device == "cpu":
        for option in ("activation_offloading", "tf32", "use_liger_kernel"):
            if training.trl.get(option):
                raise config.refuse(f"training.trl.{option}", "needs a GPU")

    count = threads(config, processes)
    torch.set_num_threads(count)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False
    return Machine(
        device=device,
        dtype={"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[precision],
        threads=count,
        capability=torch.backends.cpu.get_cpu_capability(),
        name=torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        processes=processes,
    )
