from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load

from soup_git.errors import ExitCode, FatalError
from soup_git.training import loop
from soup_git.training.config import load_config
from soup_git.training.train import TrainReport, train


@dataclass
class Trained:
    """A finished run: its report, its live model and trainer, and what it wrote."""

    report: TrainReport
    run: loop.Run
    output: Path
    settings: dict[str, Any]
    tensors: dict[str, Any]


@dataclass
class Training:
    """Trains in the workspace, in this process, each time anew."""

    root: Path

    def __call__(self, *overrides: str, interrupt_at: int = 0) -> Trained:
        shutil.rmtree(self.root / "state", ignore_errors=True)
        if interrupt_at:
            with pytest.raises(FatalError) as caught:
                self._train(overrides, interrupt_at)
            assert caught.value.code == ExitCode.INTERRUPTED
        return self._train(overrides, 0)

    def _train(self, overrides: tuple[str, ...], interrupt_at: int) -> Trained:
        def stop(step: int, *_: Any) -> None:
            if step == interrupt_at:
                os.kill(os.getpid(), signal.SIGINT)

        runs: list[loop.Run] = []
        original = loop.Run.train

        def keeping(run: loop.Run, resume_from: Path | None) -> int:
            runs.append(run)
            return original(run, resume_from)

        options = ("data.val_split=0.0", "training.max_steps=6", *overrides)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop.Run, "train", keeping)
            report = train(
                load_config(self.root / "soup.yaml", options),
                workspace_root=self.root,
                output=self.root / "output",
                state_dir=self.root / "state",
                on_checkpoint=stop,
            )
        output = self.root / "output"
        settings = json.loads((output / "adapter_config.json").read_text())
        tensors = load((output / "adapter_model.safetensors").read_bytes())
        return Trained(report, runs[-1], output, settings, tensors)

    def refusal(self, *overrides: str) -> str:
        with pytest.raises(FatalError) as caught:
            self(*overrides)
        assert caught.value.hint
        return str(caught.value)


@pytest.fixture
def training(workspace: Path) -> Training:
    return Training(workspace)
