"""What counts and the adapter itself tell: rows, steps, and norms of the manifest's lines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from soup_git.core.diagnosis import PROBLEM, WARNING, Change, Evidence, Finding, Norms, Unjudged

FEW_STEPS = 30  # AdamW's second moment averages over about as many steps before it is steady
FEW_ROWS = 32  # four batches of the default size: the order of the rows decides what is learnt
CUT, CUT_BADLY = 0.05, 0.3  # of the rows; an answer's end is what is cut off
DROPPED, DROPPED_BADLY = 0.02, 0.2
FROZEN = 2  # checkpoints that share a tensor's digest


def find(evidence: Evidence) -> Iterator[Finding]:
    yield from _adapter(evidence)
    yield from _size(evidence)
    yield from _rows(evidence)


def unjudged(evidence: Evidence) -> Iterator[Unjudged]:
    if not evidence.adapters:
        yield Unjudged("the adapter", "no manifest of it was found")
    if "rows" not in evidence.metrics:
        yield Unjudged("the rows", "there is no metrics.json of this run: it did not end")


def _adapter(evidence: Evidence) -> Iterator[Finding]:
    if not evidence.adapters:
        return
    last = evidence.adapters[-1]
    broken = [name for name, norm in last.norms.items() if not math.isfinite(norm)]
    if broken:
        yield Finding(
            "broken adapter", PROBLEM, 1.0,
            f"{len(broken)} of {len(last.norms)} tensors are not finite at step {last.step}, first "
            f"{broken[0]}",
            "The adapter makes every answer of the model nonsense.",
            [Change("training.lr", "lower"), Change("keep", "an earlier checkpoint")],
        )  # fmt: skip
        return
    second = {n: v for n, v in last.norms.items() if ".lora_B." in n or "lora_embedding_B" in n}
    zero = [name for name, norm in second.items() if norm == 0]
    others = [n for n in last.norms if ".lora_" not in n and "lora_embedding" not in n]
    if second and len(zero) == len(second) and not others:
        yield Finding(
            "dead adapter", PROBLEM, 0.98,
            f"all {len(second)} B matrices are exactly zero at step {last.step}",
            "LoRA's update is B·A: this adapter changes nothing.",
            [Change("training.lr", "2e-4"), Change("training.warmup_ratio", "0.03"),
             Change("data.train", "git soup data show --tokens: is anything in the loss?")],
        )  # fmt: skip
    elif zero:
        yield Finding(
            "modules without an update", WARNING, 0.45,
            f"{len(zero)} of {len(second)} B matrices are exactly zero at step {last.step}, first "
            f"{zero[0]}",
            "No gradient ever reached these modules.",
            [Change("training.lora.target_modules", "without them")],
        )  # fmt: skip
    yield from _frozen(evidence.adapters)


def _frozen(adapters: Sequence[Norms]) -> Iterator[Finding]:
    last = adapters[-1]
    same = [a for a in adapters[:-1] if a.digests == last.digests and a.step != last.step]
    if len(same) + 1 >= FROZEN and len(last.digests) > 0:
        yield Finding(
            "adapter stopped moving", PROBLEM if len(same) > 1 else WARNING, 0.65,
            f"its tensors are the same bytes at steps {same[0].step} and {last.step}",
            "The steps in between changed no weight: the rate had fallen to nothing.",
            [Change("training.scheduler", "cosine"), Change("training.max_steps", str(same[0].step))],
        )  # fmt: skip


def _size(evidence: Evidence) -> Iterator[Finding]:
    steps = evidence.steps
    if 0 < steps < FEW_STEPS and evidence.failed_at is None:
        yield Finding(
            "few steps", WARNING, 0.3,
            f"{steps} steps; under {FEW_STEPS} the optimizer has hardly found its stride",
            "What was learnt depends on a handful of batches.",
            [Change("training.epochs", "more"), Change("training.batch_size", "smaller")],
        )  # fmt: skip
    rows = evidence.metrics.get("rows")
    if rows is not None and rows < FEW_ROWS:
        yield Finding(
            "few rows", WARNING, 0.3, f"{rows:.0f} training rows; under {FEW_ROWS} are few",
            "The adapter learns these rows and not what they have in common.",
            [Change("data.train", "some hundred rows"), *_smaller(evidence)],
        )  # fmt: skip


def _smaller(evidence: Evidence) -> list[Change]:
    """An adapter of half the rank, where it has one to halve."""
    rank = evidence.settings.get("training.lora.r", 0)
    return [Change("training.lora.r", f"{rank // 2:.0f}")] if rank > 4 else []


def _rows(evidence: Evidence) -> Iterator[Finding]:
    metrics = evidence.metrics
    kept = metrics.get("rows", 0) + metrics.get("validation_rows", 0)
    cut, dropped = metrics.get("truncated_rows", 0), metrics.get("dropped_rows", 0)
    length = evidence.settings.get("data.max_length")
    longer = Change("data.max_length", f"{2 * length:.0f}" if length else "twice as long")
    look = Change("data.train", "git soup data show --tokens shows where a row is cut")
    if kept and cut / kept >= CUT:
        badly = cut / kept >= CUT_BADLY
        yield Finding(
            "rows cut", PROBLEM if badly else WARNING, 0.6,
            f"{cut:.0f} of {kept:.0f} rows ({cut / kept:.0%}) were cut off at data.max_length",
            "The ends of these answers were never seen, so the model learns not to end.",
            [longer, look],
        )  # fmt: skip
    seen = kept + dropped
    if seen and dropped / seen >= DROPPED:
        badly = dropped / seen >= DROPPED_BADLY
        yield Finding(
            "rows dropped", PROBLEM if badly else WARNING, 0.55,
            f"{dropped:.0f} of {seen:.0f} rows ({dropped / seen:.0%}) had nothing to learn left",
            "Their prompts alone are longer than data.max_length.",
            [longer, look],
        )  # fmt: skip
