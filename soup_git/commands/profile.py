"""`git soup profile`: what a training will take, from a few of its own steps, measured."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from soup_git.commands.batchsize import KILLED, find
from soup_git.commands.estimating import key_of
from soup_git.core.diagnosis import Change
from soup_git.core.durations import spoken
from soup_git.core.measurement import Estimate, Measurement, estimate
from soup_git.core.trainconfig import CONFIG_FILE
from soup_git.errors import ExitCode
from soup_git.render.report import Table, say, size
from soup_git.storage.environment import can_train
from soup_git.storage.files import bytes_of
from soup_git.storage.measurements import store
from soup_git.storage.shell import run_as_user
from soup_git.storage.workspace import Workspace

if TYPE_CHECKING:
    from soup_git.training.schema import SoupConfig


@dataclass(frozen=True)
class ProfileReport:
    schema: ClassVar[str] = "soup.profile/1"
    config: str
    fits: bool
    out_of_memory: str | None
    """What ended the probe, or the step of the longest rows, where memory was not enough."""
    to_lower: list[Change]
    measured: Measurement | None
    estimate: Estimate | None
    memory: int
    """Of this machine, in bytes."""
    free_disk: int

    def tables(self) -> Sequence[Table | str]:
        parts: list[Table | str] = []
        if self.measured is not None and self.estimate is not None:
            parts.append(Table(("", "", ""), _rows(self.measured, self.estimate, self)))
        if not self.fits:
            parts += [f"out of memory: {self.out_of_memory}", "what to lower, the cheapest first:"]
            parts += [f"  {change.key}: {change.value}" for change in self.to_lower]
        return parts


def _rows(m: Measurement, e: Estimate, report: ProfileReport) -> list[tuple[str, str, str]]:
    step = f"{spoken(m.step.low)} to {spoken(m.step.high)} over {m.step.count} steps"
    first = f"the first took {spoken(m.first_step_seconds)}; {m.warm_up_steps} left out"
    rows = [
        ("device", m.device, f"ready after {spoken(m.load_seconds)}"),
        ("step", spoken(m.step.median), f"{step}; {first}"),
    ]
    if m.tokens_per_second is not None:
        rows.append(("tokens per second", f"{m.tokens_per_second:,.0f}", "padding not counted"))
    if m.padding is not None:
        rows.append(("padding", f"{m.padding:.0%}", "of the tokens computed"))
    rows.append(
        ("memory", size(m.peak_memory), f"resident at its highest, of {size(report.memory)}")
    )
    if m.peak_gpu_memory is not None:
        rows.append(("GPU memory", size(m.peak_gpu_memory), "allocated at its highest"))
    if m.longest_tokens is not None:
        verdict = "fits" if m.longest_row_fits else "does not fit"
        rows.append(("longest rows", verdict, f"a batch of {m.longest_tokens:,} tokens"))
    evaluations = f", {e.evaluations} evaluations" if e.evaluations else ""
    what = f"{spoken(e.low)} to {spoken(e.high)}; {e.steps:,} steps{evaluations}, {e.checkpoints} checkpoints"
    rows += [
        ("whole training", f"about {spoken(e.seconds)}", what),
        ("checkpoint", size(m.checkpoint_bytes), f"written in {spoken(m.checkpoint_seconds)}; the adapter {size(m.adapter_bytes)}"),
        ("disk", size(e.disk_bytes), f"needed at once, of {size(report.free_disk)} free"),
    ]  # fmt: skip
    return rows


def profile(
    workspace: Workspace, path: Path | None, steps: int
) -> tuple[ProfileReport | None, ExitCode]:
    """Run the probe and keep what it measured; 1 where memory is not enough.

    No report where the probe's process has said itself what is wrong. Nothing of the
    workspace changes: the steps train into a scratch folder below git's own.
    """
    from soup_git.training.config import load_config

    file = (path or workspace.root / CONFIG_FILE).absolute()
    config = load_config(file, check_upstream=can_train())
    if config.training.launcher != "none":
        raise config.refuse(
            "training.launcher", "one process is measured, and several would train",
            hint="git soup profile -c COPY, a copy without launcher, measures what each of them takes",
        )  # fmt: skip
    if config.training.batch_size == "auto":
        sized = find(workspace, workspace, config, file)
        if isinstance(sized, ExitCode):
            return None, sized
        config = config.with_batch_size(sized[0])
    place = workspace.git.common_dir / "soup"
    place.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="profile-", dir=place) as name:
        say(f"{steps} steps of {file.name} are measured; nothing of them is kept")
        code, result = _probe(workspace.root, file, Path(name), steps, config)
    shown = str(path) if path is not None else CONFIG_FILE
    if "step" in result:
        measured = Measurement.from_dict(result)
        store(workspace, key_of(workspace, config), measured)
        return _report(workspace, shown, config, measured, None)
    if "out_of_memory" in result:
        return _report(workspace, shown, config, None, str(result["out_of_memory"]))
    if code in KILLED:
        why = "the system killed the probe (signal 9), as it does with what takes the last memory"
        return _report(workspace, shown, config, None, why)
    return None, ExitCode.INTERRUPTED if code == ExitCode.INTERRUPTED else ExitCode.FATAL


def _probe(
    root: Path, file: Path, scratch: Path, steps: int, config: SoupConfig
) -> tuple[int, Mapping[str, Any]]:
    words = [sys.executable, "-P", "-m", "soup_git.stages.probe", str(file), str(scratch), str(steps)]  # fmt: skip
    words.append(str(config.training.rows_per_batch))
    code = run_as_user(words, root, os.environ)
    result: Mapping[str, Any] = json.loads(bytes_of(scratch / "result.json") or b"{}")
    return code, result


def _report(
    workspace: Workspace, shown: str, config: SoupConfig, measured: Measurement | None, why: str | None
) -> tuple[ProfileReport, ExitCode]:  # fmt: skip
    import psutil

    if measured is not None and measured.longest_row_fits is False:
        why = (
            f"{measured.step.count} steps fitted, and a batch of the longest rows "
            f"({measured.longest_tokens:,} tokens) did not: the training would end at that batch"
        )
    from soup_git.training.memory import what_to_lower

    report = ProfileReport(
        config=shown,
        fits=why is None,
        out_of_memory=why,
        to_lower=what_to_lower(config) if why is not None else [],
        measured=measured,
        estimate=estimate(measured, config.training.model_dump()) if measured else None,
        memory=int(psutil.virtual_memory().total),
        free_disk=shutil.disk_usage(workspace.git.common_dir).free,
    )
    return report, ExitCode.OK if report.fits else ExitCode.CHECK_FAILED
