"""What this machine is, for `git soup doctor`: read from the system, nothing is imported or run.

torch is not asked: its import takes seconds and may fail for the very reason that is looked
for. Its build stands in its metadata, the cards and their driver in /proc and /dev.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from soup_git.core.checkup import Check
from soup_git.errors import FatalError
from soup_git.render.report import size
from soup_git.storage.environment import DISTRIBUTION, installed_accelerator
from soup_git.storage.gitrepo import OLDEST_GIT, git_version

# `import trl` with torch takes 0.6 GB before a model is loaded.
LITTLE_MEMORY = 2 << 30
# One resumable checkpoint of a 7B model's LoRA takes a third of it.
LITTLE_DISK, NO_DISK = 5_000_000_000, 500_000_000
_TORCH = (
    "pip install --force-reinstall torch, with the index of https://pytorch.org/get-started/locally"
)
# The oldest driver that runs each CUDA major version (NVIDIA's compatibility table).
_DRIVERS = {"11": 450, "12": 525, "13": 580}


def checks(place: Path) -> Iterator[Check]:
    """`place` is where a training would write."""
    yield _python()
    yield _git()
    yield _gpu()
    yield _memory()
    yield _threads()
    yield _disk(place)


def _python() -> Check:
    from importlib import metadata

    from packaging.specifiers import SpecifierSet

    here = ".".join(map(str, sys.version_info[:3]))
    wanted = metadata.metadata(DISTRIBUTION)["Requires-Python"] or ""
    if here not in SpecifierSet(wanted):
        return Check(
            "machine", "Python", "problem", here, f"git-soup needs {wanted}",
            "python3 -m venv .venv, with a newer python3",
        )  # fmt: skip
    return Check("machine", "Python", "ok", f"{here} at {sys.prefix}")


def _git() -> Check:
    oldest = ".".join(map(str, OLDEST_GIT))
    fix = "upgrade git (https://git-scm.com/downloads)"
    try:
        version = git_version()
    except FatalError as error:
        return Check("machine", "git", "problem", "none", str(error), fix)
    found = ".".join(map(str, version))
    if version < OLDEST_GIT:
        return Check("machine", "git", "problem", found, f"git-soup needs {oldest}", fix)
    return Check("machine", "git", "ok", found)


# -- torch and the card -----------------------------------------------------------------------


def _gpu() -> Check:
    amd, visible = Path("/dev/kfd").exists(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return judge_build(installed_accelerator(), _nvidia_driver(), amd=amd, visible=visible)


def judge_build(build: str, driver: str | None, *, amd: bool, visible: str | None) -> Check:
    """Does the torch that is installed (`cpu`, `cu130`, `rocm6.4`, …, `none`) fit the card?

    `driver` is NVIDIA's version, `unknown`, or None without one; `visible` is
    CUDA_VISIBLE_DEVICES.
    """
    major = _cuda_major(build)
    if build == "none":
        card = "an NVIDIA GPU" if driver else "an AMD GPU" if amd else "no GPU"
        return Check("machine", "GPU", "ok", f"{card}; torch is not installed")
    if driver is not None and major is None:
        return Check(
            "machine", "GPU", "warning", f"an NVIDIA GPU (driver {driver}), torch for {build}",
            "this torch cannot use the GPU: training runs on the CPU",
            _TORCH,
        )  # fmt: skip
    if driver is not None and major is not None:
        return _fitting(driver, major, build, visible)
    if amd and not build.startswith("rocm"):
        return Check(
            "machine", "GPU", "warning", f"an AMD GPU, torch for {build}",
            "this torch cannot use the GPU: training runs on the CPU",
            _TORCH,
        )  # fmt: skip
    if major is not None:
        return Check(
            "machine", "GPU", "ok", f"no NVIDIA driver, torch for {build}",
            "training runs on the CPU; the CPU build of torch is a tenth of the download",
        )  # fmt: skip
    return Check("machine", "GPU", "ok", f"torch for {build}" + (", an AMD GPU" if amd else ""))


def _fitting(driver: str, major: str, build: str, visible: str | None) -> Check:
    oldest = _DRIVERS.get(major)
    number = re.match(r"\d+", driver)
    found = f"an NVIDIA GPU (driver {driver}), torch for {build}"
    if oldest is not None and number is not None and int(number[0]) < oldest:
        return Check(
            "machine", "GPU", "problem", found,
            f"CUDA {major} needs driver {oldest} or newer: torch will see no GPU",
            "update the driver, or pip install torch for an older CUDA",
        )  # fmt: skip
    if visible is not None and visible.strip() in {"", "-1"}:
        return Check(
            "machine", "GPU", "warning", f"{found}, CUDA_VISIBLE_DEVICES={visible!r}",
            "the setting hides every GPU from training", "unset CUDA_VISIBLE_DEVICES",
        )  # fmt: skip
    return Check("machine", "GPU", "ok", found)


def _nvidia_driver() -> str | None:
    """The loaded driver's version; None where there is none."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text("utf-8", "replace")
    except OSError:
        # Containers may have the devices and not the file.
        return "unknown" if Path("/dev/nvidia0").exists() else None
    found = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return found[1] if found else "unknown"


def _cuda_major(build: str) -> str | None:
    """`13` of `cu130` and of `cuda-13.0.48`; None for other builds."""
    found = re.match(r"cu(\d\d)\d", build) or re.match(r"cuda-(\d+)", build)
    return found[1] if found else None


# -- memory, threads, disk --------------------------------------------------------------------


def free_memory() -> int:
    """Bytes that this machine, or the container that this runs in, has to spare."""
    import psutil

    memory = psutil.virtual_memory()
    free, limit = int(memory.available), _number(Path("/sys/fs/cgroup/memory.max"))
    if limit is not None and limit < memory.total:
        used = _number(Path("/sys/fs/cgroup/memory.current")) or 0
        free = min(free, limit - used)
    return free


def _memory() -> Check:
    import psutil

    total, free = int(psutil.virtual_memory().total), free_memory()
    limit = _number(Path("/sys/fs/cgroup/memory.max"))
    found = f"{size(free)} free of {size(total)}"
    if limit is not None and limit < total:
        found = f"{size(max(free, 0))} free; this container may use {size(limit)} of {size(total)}"
    if free < LITTLE_MEMORY:
        return Check(
            "machine", "memory", "warning", found,
            "the libraries of training take 0.6 GB before a model is loaded",
            "git soup profile measures what a training needs",
        )  # fmt: skip
    return Check("machine", "memory", "ok", found)


def _threads() -> Check:
    given, quota = len(os.sched_getaffinity(0)), _cpu_quota()
    asked = os.environ.get("OMP_NUM_THREADS")
    found = f"{given} CPUs" + (f", OMP_NUM_THREADS={asked}" if asked else "")
    if quota is not None and quota < given - 0.5:
        return Check(
            "machine", "threads", "warning", f"{found}, and a quota of {quota:g}",
            "training would start a thread for each CPU that it sees, and wait for most of them",
            f"training.threads: {max(1, int(quota))} in soup.yaml",
        )  # fmt: skip
    if asked is not None and not (asked.isdigit() and 0 < int(asked) <= given):
        return Check(
            "machine", "threads", "warning", found,
            "that is no number of threads that this machine has", "unset OMP_NUM_THREADS",
        )  # fmt: skip
    return Check("machine", "threads", "ok", found)


def _cpu_quota() -> float | None:
    """CPUs that the container may use; None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such control group, or `max`
        return None


def _disk(place: Path) -> Check:
    free = shutil.disk_usage(place).free
    found = f"{size(free)} free at {place}"
    if free >= LITTLE_DISK:
        return Check("machine", "disk", "ok", found)
    return Check(
        "machine", "disk", "problem" if free < NO_DISK else "warning", found,
        "checkpoints, the cache and the base model need more",
        "git soup gc, or dvc cache dir PATH on a larger disk",
    )  # fmt: skip
