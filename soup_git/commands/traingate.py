"""`training.eval_gate`: the gate's decision, taken on the adapter while it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from soup_git.commands.eval import BARE, EvalRequest, measured, opened
from soup_git.core.baseload import FEW_BITS, TRAINED
from soup_git.core.trainconfig import CONFIG_FILE
from soup_git.errors import FatalError
from soup_git.render.report import say
from soup_git.storage.workspace import Workspace

if TYPE_CHECKING:
    from soup_git.evaluation.gating import Decision
    from soup_git.evaluation.results import TaskResult
    from soup_git.evaluation.suite import Suite
    from soup_git.training.schema import EvalGateBlock, SoupConfig


def gate_of(workspace: Workspace, config: SoupConfig) -> TrainingGate | None:
    """The gate that the config asks for. Its suite is read and checked now."""
    from soup_git.evaluation.suite import load_suite

    block = config.training.eval_gate
    if block is None:
        return None
    suite = load_suite(workspace.root / block.suite, workspace.root, block.suite)
    python = [task.name for task in suite.tasks if task.scoring.startswith("python:")]
    if python:
        raise config.refuse(
            "training.eval_gate.suite",
            f"task {python[0]} runs Python code of the workspace, which a training does not",
            hint="git soup gate --allow-python runs it",
        )
    baseline = block.baseline or suite.file.baseline
    drops = [name for name, t in suite.thresholds.items() if t.max_drop is not None]
    if drops and baseline is None:
        raise config.refuse(
            "training.eval_gate", f"the gate of {drops[0]} allows a drop, but from what?",
            hint="baseline: main, an adapter to measure drops from",
        )  # fmt: skip
    if not suite.thresholds and baseline is None:
        raise config.refuse(
            "training.eval_gate",
            f"{block.suite} has no thresholds and there is no baseline: nothing can fail",
            hint="gate: {SCORE: {min: …}} in a task of the suite",
        )
    return TrainingGate(
        workspace, block, suite, baseline, config.base, config.training.quantization
    )


class TrainingGate:
    """Scores the model that trains, as it is, and decides. Implements train.EpochGate."""

    def __init__(
        self,
        workspace: Workspace,
        block: EvalGateBlock,
        suite: Suite,
        baseline: str | None,
        base: str,
        quantization: str,
    ) -> None:
        self._workspace = workspace
        self._block = block
        self._suite = suite
        self._baseline = baseline
        self._base = base
        # The bare base is asked as it is loaded here; an adapter, as it was trained.
        is_bare = baseline == BARE and quantization in FEW_BITS
        self._base_as = quantization if is_bare else TRAINED
        self._before: list[TaskResult] | None = None

    def prepare(self) -> None:
        """Score the baseline, once: the cache knows it the next time."""
        if self._baseline is None:
            return
        asked = EvalRequest(
            [self._baseline], self._workspace.root / self._block.suite, base_as=self._base_as
        )
        with opened(self._workspace, asked) as (runner, (one,), _):
            if runner.choice.base != self._base:
                raise FatalError(
                    f"{CONFIG_FILE}: training.eval_gate.baseline: {self._baseline} is for"
                    f" {runner.choice.base}, and {self._base} is trained here",
                    hint="an adapter of the same base, or `base`",
                )
            self._before = runner.score(one.candidate, self._suite)

    def judge(self, epoch: int, model: Any, tokenizer: Any, template: Any) -> str:
        if epoch % self._block.every_n_epochs:
            return ""
        from soup_git.evaluation.gating import FAILED, decide
        from soup_git.evaluation.model import Model
        from soup_git.evaluation.runner import BaseChoice, Runner, named_template

        size, choice = self._suite.file.batch_size, self._suite.file.chat_template
        if choice is not None:
            template = named_template(choice, self._workspace.root, tokenizer)
        live = Model(model, tokenizer, template, name=self._base, batch_size=size)
        runner = Runner(BaseChoice(self._base), self._workspace.root, live=live)
        results = runner.score(None, self._suite)
        decisions = decide(results, self._before, self._suite.thresholds)
        failed = [d for d in decisions if d.state == FAILED]
        scores = ", ".join(f"{r.name} {measured(r.value, r.stderr)}" for r in results)
        action = self._block.on_regression
        word = "scores" if action == "continue" else "failed" if failed else "passed"
        say(f"gate after epoch {epoch}: {word}: {scores}")
        if action != "continue":
            for decision in (d for d in decisions if d.why):
                say(f"  {decision.state}: {decision.name}: {decision.why}")
        return f"after epoch {epoch}, {_in_words(failed)}" if failed and action == "stop" else ""


def _in_words(failed: list[Decision]) -> str:
    return "; ".join(f"{d.name}: {d.why}" for d in failed)
