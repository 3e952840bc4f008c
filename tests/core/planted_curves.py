"""Synthetic training curves: healthy ones of many kinds, and ones with a disease planted."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from soup_git.core.diagnosis import EvalPoint, Evidence, Norms, Point

SETTINGS = {
    "training.lr": 2e-4,
    "training.epochs": 3.0,
    "training.max_grad_norm": 1.0,
    "data.max_length": 2048.0,
}
METRICS = {"rows": 900.0, "validation_rows": 100.0, "truncated_rows": 3.0, "dropped_rows": 0.0}
Shape = Callable[[float], float]


def rate(done: float, peak: float = 2e-4, warmup: float = 0.03) -> float:
    """Warm-up, then cosine; `done` is the share of the run."""
    if done < warmup:
        return peak * done / warmup
    return peak * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup))) / 2


def curve(
    rng: random.Random, shape: Shape, *, points: int, every: int = 10, noise: float = 0.03,
    tails: bool = False, warmup: float = 0.03,
) -> list[Point]:  # fmt: skip
    """`noise` is relative; with `tails` it is Student's with four degrees of freedom."""
    made = []
    for i in range(1, points + 1):
        done = i / points
        z = rng.gauss(0, 1)
        if tails:
            z /= math.sqrt(sum(rng.gauss(0, 1) ** 2 for _ in range(4)) / 4)
        norm = 0.8 * math.exp(rng.gauss(0, 0.35))
        loss = shape(done) * max(0.05, 1 + noise * z)
        made.append(Point(i * every, loss, rate(done, warmup=warmup), norm))
    return made


def healthy(seed: int) -> Evidence:
    """A run that learns and is still learning a little when its rate has decayed."""
    rng = random.Random(seed)
    points = rng.choice([12, 20, 40, 80, 150, 300])
    start, floor = rng.uniform(1.0, 4.0), rng.uniform(0.2, 0.8)
    sharp, stair = rng.uniform(0.25, 0.9), rng.choice([0.0, 0.0, 0.06])

    def shape(done: float) -> float:
        falls = floor + (1 - floor) * (1 + 30 * done) ** -sharp
        return start * falls * (1 - stair * int(3 * done))  # rows seen before are known rows

    made = curve(
        rng, shape, points=points, noise=rng.choice([0.005, 0.02, 0.05, 0.1]), tails=rng.random() < 0.5
    )  # fmt: skip
    last = made[-1].step
    evals = [
        EvalPoint(round(last * k / 3), 1.05 * shape(k / 3) * (1 + rng.gauss(0, 0.003)))
        for k in (1, 2, 3)
    ]
    return Evidence(made, evals, [norms(last)], "sft", SETTINGS, METRICS | {"steps": float(last)})


def norms(step: int, value: float = 0.4) -> Norms:
    names = [
        f"base_model.model.layers.{n}.q_proj.lora_{side}.weight" for n in range(4) for side in "AB"
    ]
    return Norms(
        step,
        {name: 1.3 if ".lora_A." in name else value for name in names},
        {name: f"{step}-{name}" for name in names},
    )


def with_losses(evidence: Evidence, change: Callable[[float, float], float]) -> Evidence:
    """`change(share of the run, loss)` for each point."""
    count = len(evidence.points)
    points = [
        replace(p, loss=change((i + 1) / count, p.loss)) for i, p in enumerate(evidence.points)
    ]
    return replace(evidence, points=points)


def diverging(evidence: Evidence) -> Evidence:
    top = evidence.points[0].loss
    return with_losses(evidence, lambda done, y: y + (max(0.0, done - 0.5) * 3 * top))


def constant(evidence: Evidence) -> Evidence:
    ends = {p.step: p for p in evidence.points}
    rng = random.Random(len(ends))
    return with_losses(evidence, lambda done, y: 2.0 * (1 + rng.gauss(0, 0.01)))


def levelled(evidence: Evidence) -> Evidence:
    rng = random.Random(len(evidence.points))
    return with_losses(
        evidence, lambda done, y: (0.5 + 2 * math.exp(-25 * done)) * (1 + rng.gauss(0, 0.01))
    )


def straight(evidence: Evidence) -> Evidence:
    rng = random.Random(len(evidence.points))
    return with_losses(evidence, lambda done, y: (3 - 0.9 * done) + rng.gauss(0, 0.01))


def overfitted(evidence: Evidence) -> Evidence:
    evals = [EvalPoint(100 * k, 1.0 + 0.1 * (k - 3) ** 2 / 9) for k in range(1, 8)]
    points = [
        replace(p, step=round(700 * (i + 1) / len(evidence.points)))
        for i, p in enumerate(evidence.points)
    ]
    return replace(evidence, evals=evals, points=points)


def hot(evidence: Evidence) -> Evidence:
    rng = random.Random(len(evidence.points))
    return with_losses(
        evidence,
        lambda done, y: (
            (2.0 + 1.5 * math.sin(math.pi * min(1, done * 1.6)) - 1.2 * done)
            * (1 + rng.gauss(0, 0.01))
        ),
    )


def spiked(evidence: Evidence) -> Evidence:
    at = len(evidence.points) // 2
    points = list(evidence.points)
    points[at] = replace(points[at], loss=points[at].loss * 4)
    return replace(evidence, points=points)


def pulled(evidence: Evidence) -> Evidence:
    points = list(evidence.points)
    for at in (len(points) // 3, 2 * len(points) // 3):
        points[at] = replace(points[at], grad_norm=60.0)
    return replace(evidence, points=points)


def clipped(evidence: Evidence) -> Evidence:
    points = [replace(p, grad_norm=30 * (p.grad_norm or 1)) for p in evidence.points]
    return replace(evidence, points=points)


def warming(evidence: Evidence) -> Evidence:
    count = len(evidence.points)
    points = [
        replace(p, learning_rate=rate((i + 1) / count, warmup=0.6))
        for i, p in enumerate(evidence.points)
    ]
    return replace(evidence, points=points)


def overflowed(evidence: Evidence) -> Evidence:
    return replace(evidence, failed_at=evidence.points[-1].step + 3)


def not_a_number(evidence: Evidence) -> Evidence:
    points: Sequence[Point] = evidence.points
    return replace(evidence, points=[*points[:-1], replace(points[-1], loss=math.nan)])


def dead(evidence: Evidence) -> Evidence:
    return replace(evidence, adapters=[norms(evidence.points[-1].step, 0.0)])


def broken(evidence: Evidence) -> Evidence:
    return replace(evidence, adapters=[norms(evidence.points[-1].step, math.nan)])


def stuck(evidence: Evidence) -> Evidence:
    last = norms(evidence.points[-1].step)
    return replace(evidence, adapters=[replace(last, step=last.step - k) for k in (20, 10, 0)])


def cut(evidence: Evidence) -> Evidence:
    return replace(evidence, metrics=evidence.metrics | {"truncated_rows": 400.0})


def dropped(evidence: Evidence) -> Evidence:
    return replace(evidence, metrics=evidence.metrics | {"dropped_rows": 90.0})


def short(evidence: Evidence) -> Evidence:
    points = [replace(p, step=i + 1) for i, p in enumerate(evidence.points[:12])]
    return replace(
        evidence, points=points, evals=[], metrics=METRICS | {"steps": 12.0, "rows": 20.0}
    )


DISEASES = {
    "diverged": diverging,
    "never fell": constant,
    "plateau": levelled,
    "stopped early": straight,
    "overfitting": overfitted,
    "learning rate too high": hot,
    "loss spikes": spiked,
    "gradient spikes": pulled,
    "always clipped": clipped,
    "warm-up too long": warming,
    "not finite": overflowed,
    "not finite ": not_a_number,
    "dead adapter": dead,
    "broken adapter": broken,
    "adapter stopped moving": stuck,
    "rows cut": cut,
    "rows dropped": dropped,
    "few steps": short,
}
