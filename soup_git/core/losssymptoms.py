"""What curves tell: training loss, validation loss, learning rate, norm of the gradient.

A rule fires only on an effect that is both large (a share of the loss, named below) and
certain (several standard errors, by `core.robust`), so that a healthy run with a noisy curve
hears nothing. A curve of fewer than `ENOUGH` points is not judged by its shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median

from soup_git.core import robust
from soup_git.core.diagnosis import (
    POLICY_TASKS,
    PROBLEM,
    WARNING,
    Change,
    Evidence,
    Finding,
    Point,
    Unjudged,
)

MANY = 24  # for slopes of thirds
ENOUGH = 8  # a level needs three points at each end, and two more to tell noise from a trend
CERTAIN = 6.0  # standard errors; the lowest of many windows is some two below by luck alone
GREW = 0.10  # of the loss: less comes and goes with the order of the rows
FELL = 0.03  # of the first loss: a model that learns anything at all does more
FLAT = 0.03  # of the whole fall
IDLE = 0.5  # of the run without a gain is worth saying; a cosine's tail alone is a third
OVERFIT = 0.03  # of the lowest validation loss: the same rows each time, so little is luck
OVERFIT_BADLY = 0.15
SPIKE = 0.5  # of the level around it, and SPIKE_SIGMAS: batches have heavy tails
SPIKE_SIGMAS = 10.0
GRADIENT_SPIKE = 10.0  # times its neighbours; a norm's own scatter is far below
CLIPPED = 10.0  # times max_grad_norm in the middle of the run: steps a tenth as long as asked
WARMUP_SHARE = 0.4  # of all steps; recipes warm up for 3 to 10 per cent
STRAIGHT = 0.6  # of the first third's fall still in the last third: a curve bends far more
LOW_RATE = 5e-5  # LoRA trains at 1e-4 to 5e-4, ten times full fine-tuning's rate
USUAL_RATE = 2e-4  # the default of soup.yaml
FAR_TOO_HIGH = 2e-2  # a hundred times that: no recipe for adapters comes near
HIGHEST_RATE = 5e-4  # what is proposed at most, whatever the share of the one that failed


def find(evidence: Evidence) -> Iterator[Finding]:
    yield from _not_finite(evidence)
    yield from _learning_rate(evidence)
    yield from _gradient(evidence)
    if evidence.task in POLICY_TASKS:
        return
    if len(evidence.finite) >= ENOUGH:
        yield from _shape(evidence)
        yield from _spikes(evidence)
    yield from _overfitting(evidence)


def unjudged(evidence: Evidence) -> Iterator[Unjudged]:
    if evidence.task in POLICY_TASKS:
        yield Unjudged("the loss", f"with {evidence.task} it need not fall: look at the reward")
    elif len(evidence.finite) < ENOUGH:
        yield Unjudged(
            "the loss curve",
            f"it has {len(evidence.finite)} points, and {ENOUGH} are needed: "
            "a smaller training.logging_steps",
        )
    if len(evidence.evals) < 2:
        yield Unjudged("overfitting", "there are fewer than two validation losses: data.val_split")
    if not any(p.grad_norm is not None for p in evidence.points):
        yield Unjudged("the gradient", "its norm was not written down")


# -- numbers that are none --------------------------------------------------------------------


def _not_finite(evidence: Evidence) -> Iterator[Finding]:
    bad = [p.step for p in evidence.points if not math.isfinite(p.loss)]
    bad += [e.step for e in evidence.evals if not math.isfinite(e.loss)]
    bad += [evidence.failed_at] if evidence.failed_at is not None else []
    gradients = [
        p.step
        for p in evidence.points
        if p.grad_norm is not None and not math.isfinite(p.grad_norm)
    ]
    if not bad and not gradients:
        return
    what = f"the loss is not a number at step {min(bad)}" if bad else (
        f"the gradient is not finite at step {min(gradients)}"
    )  # fmt: skip
    finite = evidence.finite
    before = (
        f"; the last finite one is {_n(finite[-1].loss)} at step {finite[-1].step}"
        if finite
        else ""
    )
    yield Finding(
        "not finite", PROBLEM, 1.0, what + before,
        "A number overflowed, and every weight after it is lost.",
        [_lower_rate(evidence, 0.3), Change("training.warmup_ratio", "0.1"),
         Change("training.precision", "bf16 or fp32 instead of fp16")],
    )  # fmt: skip


# -- the shape of the training loss -----------------------------------------------------------


def _shape(evidence: Evidence) -> Iterator[Finding]:
    """Diverged, never fell, flat, or still falling: at most one of them."""
    points = evidence.finite
    losses = [p.loss for p in points]
    sigma = robust.noise(losses)
    width = max(3, len(losses) // 8)
    start = robust.level(losses[:width], sigma)
    end = robust.level(losses[-width:], sigma)
    medians = robust.rolling(losses, width)
    lowest = min(range(len(medians)), key=medians.__getitem__)
    error = math.hypot(end.error, start.error)
    climbed = end.value - medians[lowest]
    scale = max(abs(medians[lowest]), 1e-12)
    if climbed > CERTAIN * error and climbed > GREW * scale:
        yield _diverged(evidence, points[lowest + width // 2], end.value, start.value)
        return
    recovered = _too_hot(evidence, points, start, width)
    if recovered is not None:
        yield recovered
        return
    fall = start.value - end.value
    if fall < FELL * abs(start.value):
        third = len(losses) // 3
        first, last = robust.level(losses[:third], sigma), robust.level(losses[-third:], sigma)
        # Shown, and not merely not disproved: noise can hide a fall as well.
        most = first.value - last.value + 2 * math.hypot(first.error, last.error)
        if most < FELL * abs(first.value):
            yield _never_fell(evidence, first.value, last.value)
        return
    yield from _flat(evidence, points, fall, sigma)
    yield from _straight(evidence, points, start.value, end.value)


def _diverged(evidence: Evidence, best: Point, end: float, start: float) -> Finding:
    worse = end > start
    than = f", above the {_n(start)} it began with" if worse else ""
    share = (end - best.loss) / max(abs(best.loss), 1e-12)
    return Finding(
        "diverged", PROBLEM, 0.95,
        f"the loss fell to {_n(best.loss)} around step {best.step} and ended at {_n(end)} "
        f"({share:+.0%}){than}",
        "Steps were so long that they undid what had been learnt.",
        [_lower_rate(evidence, 0.3), Change("training.warmup_ratio", "0.1"),
         *_clip(evidence, 1.0), _keep(evidence, best.step)],
    )  # fmt: skip


def _too_hot(
    evidence: Evidence, points: Sequence[Point], start: robust.Level, width: int
) -> Finding | None:
    """The loss rose while the rate was high, and came back as it decayed."""
    rates = [p.learning_rate for p in points]
    if any(rate is None for rate in rates):
        return None
    losses = [p.loss for p in points]
    medians = robust.rolling(losses, width)
    top = max(range(len(medians)), key=medians.__getitem__)
    rise = medians[top] - start.value
    error = math.hypot(start.error, start.error)
    if top < width or rise < CERTAIN * error or rise < 2 * GREW * abs(start.value):
        return None
    at = points[top + width // 2]
    return Finding(
        "learning rate too high", PROBLEM, 0.8,
        f"the loss rose from {_n(start.value)} to {_n(medians[top])} around step {at.step}, at a rate "
        f"of {at.learning_rate:.1e}, and fell only as the rate decayed",
        "The first part of the run destroyed, and the rest repaired.",
        [_lower_rate(evidence, 0.3), Change("training.warmup_ratio", "0.1")],
    )  # fmt: skip


def _never_fell(evidence: Evidence, start: float, end: float) -> Finding:
    rate = evidence.settings.get("training.lr")
    told = f"the loss began at {_n(start)} and ended at {_n(end)} after {evidence.steps} steps"
    if rate is not None and rate > FAR_TOO_HIGH:
        still = sum(p.grad_norm == 0 for p in evidence.points)
        gone = (
            f"; at {still} of {len(evidence.points)} points no gradient was left" if still else ""
        )
        return Finding(
            "never fell", PROBLEM, 0.9, f"{told}, at a rate of {rate:.1e}{gone}",
            "Nothing was learnt: the rate is far too high, and the first steps left what the model "
            "knew.",
            [Change("training.lr", f"{USUAL_RATE:g}")],
        )  # fmt: skip
    low = rate is not None and rate < LOW_RATE
    change = [Change("training.lr", _n(max(1e-4, 10 * rate)))] if low and rate is not None else []
    change += [
        Change("data.train", "git soup data show --tokens: is what should be learnt in the loss?"),
        *([] if low else [Change("training.lr", "three times higher, then three times lower")]),
    ]
    return Finding(
        "never fell", PROBLEM, 0.85, told,
        "Nothing was learnt: the rate is too low, the model knows these rows already, or what "
        "is in the loss cannot be predicted.",
        change,
    )  # fmt: skip


def _flat(
    evidence: Evidence, points: Sequence[Point], fall: float, sigma: float
) -> Iterator[Finding]:
    """Flat for a share of the run: shown, not merely not disproved."""
    losses = [p.loss for p in points]
    for part in (0.2, 0.3, 0.4, 0.5):
        cut = round(len(points) * part)
        rest = points[cut:]
        if len(rest) < ENOUGH:
            return
        third = max(3, len(rest) // 3)
        begin, end = (
            robust.level(losses[cut : cut + third], sigma),
            robust.level(losses[-third:], sigma),
        )
        error = math.hypot(begin.error, end.error)
        if abs(begin.value - end.value) + 2 * error < FLAT * fall and 1 - part >= IDLE:
            yield Finding(
                "plateau", WARNING, 0.5,
                f"the loss is {_n(begin.value)} at step {rest[0].step} and {_n(end.value)} at the end: "
                f"the last {1 - part:.0%} of the steps brought less than {FLAT:.0%} of its fall",
                "More steps of this kind cost time and bring nothing.",
                [Change(*_shorter(evidence, rest[0].step)),
                 Change("training.lora.r", "twice as high, if the loss should be lower"),
                 Change("data.train", "more, or other, rows, if the loss should be lower")],
            )  # fmt: skip
            return


def _straight(
    evidence: Evidence, points: Sequence[Point], start: float, end: float
) -> Iterator[Finding]:
    """Still falling at the end nearly as fast as at the beginning."""
    third = len(points) // 3
    if len(points) < MANY:
        return
    early, late = points[:third], points[-third:]
    slopes = [
        robust.slope([p.step for p in part], [p.loss for p in part]) for part in (early, late)
    ]
    first, last = (-s.value for s in slopes)
    sure = last - 3 * slopes[1].error > STRAIGHT * (first + slopes[0].error)
    if first <= 0 or not sure:
        return
    rate = evidence.settings.get("training.lr")
    low = rate is not None and rate < LOW_RATE
    higher = [Change("training.lr", _n(3 * rate))] if rate is not None else []
    longer = [Change("training.epochs", "more: it was still learning")]
    yield Finding(
        "learning rate too low" if low else "stopped early", WARNING, 0.6 if low else 0.4,
        f"the loss went from {_n(start)} to {_n(end)} in a straight line: in the last third still "
        f"{last / first:.0%} as fast as in the first",
        "The run ended long before it had learnt what it could.",
        [*higher, *longer] if low else [*longer, *higher],
    )  # fmt: skip


def _spikes(evidence: Evidence) -> Iterator[Finding]:
    points = evidence.finite
    losses = [p.loss for p in points]
    sigma = robust.noise(losses)
    found = []
    for i in range(1, len(points)):
        around = losses[max(0, i - 3) : i] + losses[i + 1 : i + 4]
        usual = median(around)
        # One of the neighbours as high: a step of the curve, or its steep begin.
        lonely = losses[i] > max(around) + SPIKE * abs(usual) / 2
        over = losses[i] - usual
        if lonely and over > SPIKE_SIGMAS * sigma and over > SPIKE * abs(usual):
            found.append((over, points[i], usual))
    if not found:
        return
    _, worst, usual = max(found, key=lambda item: item[0])
    several = f"{len(found)} points stick out; the highest: " if len(found) > 1 else ""
    yield Finding(
        "loss spikes", WARNING, 0.55,
        f"{several}{_n(worst.loss)} at step {worst.step}, where {_n(usual)} is usual",
        "Single batches threw the model off: a row unlike the others, or steps near too long.",
        [Change("data.train", f"look at the rows of the steps before {worst.step}"),
         _lower_rate(evidence, 0.5), *_clip(evidence, 0.5)],
    )  # fmt: skip


# -- validation -------------------------------------------------------------------------------


def _overfitting(evidence: Evidence) -> Iterator[Finding]:
    evals = [e for e in evidence.evals if math.isfinite(e.loss)]
    if len(evals) < 2:
        return
    best = min(evals, key=lambda e: e.loss)
    # The last one alone may be a bad draw where there are many.
    tail = [e.loss for e in evals[-max(1, len(evals) // 5) :]]
    rise = median(tail) - best.loss
    sigma = robust.noise([e.loss for e in evals]) if len(evals) >= ENOUGH else 0.0
    share = rise / max(abs(best.loss), 1e-12)
    if best is evals[-1] or share < OVERFIT or rise < 4 * sigma:
        return
    after = [p.loss for p in evidence.finite if p.step > best.step]
    before = [p.loss for p in evidence.finite if p.step <= best.step][-len(after) or None :]
    if after and before and median(after) > median(before) * (1 + GREW):
        return  # both rise: that is divergence, and said by another rule
    badly = share >= OVERFIT_BADLY
    yield Finding(
        "overfitting", PROBLEM if badly else WARNING, 0.75,
        f"the validation loss was lowest at step {best.step} ({_n(best.loss)}) and is {_n(median(tail))} "
        f"at the end ({share:+.0%}), while the training loss went on falling",
        "After that step the adapter learnt its rows by heart, and got worse at all others.",
        [_keep(evidence, best.step),
         Change(*_shorter(evidence, best.step)),
         Change("training.lora.dropout", "0.1"), _lower_rate(evidence, 0.5)],
    )  # fmt: skip


# -- learning rate and gradient ---------------------------------------------------------------


def _learning_rate(evidence: Evidence) -> Iterator[Finding]:
    given = [(p.step, p.learning_rate) for p in evidence.points if p.learning_rate is not None]
    rates = [(step, rate) for step, rate in given if math.isfinite(rate)]
    if len(rates) < 3:
        return
    highest = max(rate for _, rate in rates)
    if highest <= 0:
        yield Finding(
            "no learning rate", PROBLEM, 1.0, f"the rate was 0 at all {len(rates)} points",
            "No step moved anything.",
            [Change("training.lr", "2e-4"), Change("training.scheduler", "cosine")],
        )  # fmt: skip
        return
    peak = next(step for step, rate in rates if rate >= 0.999 * highest)
    share = peak / max(evidence.steps, 1)
    rose = rates[0][1] < 0.9 * highest
    if rose and share > WARMUP_SHARE:
        never = peak == rates[-1][0]
        yield Finding(
            "warm-up too long", PROBLEM if never else WARNING, 0.7,
            f"the rate reached its highest, {highest:.1e}, at step {peak} of {evidence.steps} ({share:.0%})",
            "The run ended inside its warm-up." if never else "Most of the run was warm-up.",
            [Change("training.warmup_ratio", "0.03")],
        )  # fmt: skip


def _gradient(evidence: Evidence) -> Iterator[Finding]:
    points = [p for p in evidence.points if p.grad_norm is not None and math.isfinite(p.grad_norm)]
    norms = [p.grad_norm or 0.0 for p in points]
    if len(norms) < ENOUGH:
        return
    middle = median(norms)
    if middle == 0:
        yield Finding(
            "no gradient", PROBLEM, 0.95,
            f"the gradient's norm is 0 at {norms.count(0.0)} of {len(norms)} points",
            "Nothing reaches the adapter: what it changes is not in the loss.",
            [Change("training.lora.target_modules", "all-linear"),
             Change("data.train", "git soup data show --tokens: is anything in the loss?")],
        )  # fmt: skip
        return
    yield from _gradient_spikes(evidence, points)
    clip = evidence.settings.get("training.max_grad_norm", 1.0)
    if clip > 0 and middle > CLIPPED * clip:
        yield Finding(
            "always clipped", WARNING, 0.35,
            f"the usual norm of the gradient is {_n(middle)}, and training.max_grad_norm is {_n(clip)}",
            "Every step keeps the gradient's direction and forgets its size.",
            [_lower_rate(evidence, 0.5), Change("training.max_grad_norm", _n(2 * middle))],
        )  # fmt: skip


def _gradient_spikes(evidence: Evidence, points: Sequence[Point]) -> Iterator[Finding]:
    norms = [p.grad_norm or 0.0 for p in points]
    clip = evidence.settings.get("training.max_grad_norm", 1.0)
    spikes = []
    for i, norm in enumerate(norms):
        usual = median(norms[max(0, i - 4) : i] + norms[i + 1 : i + 5])
        # A first step's gradient is large in a healthy run, too.
        if i > 1 and usual > 0 and norm > GRADIENT_SPIKE * usual and norm > clip:
            spikes.append((norm / usual, points[i], usual))
    if spikes:
        times, worst, usual = max(spikes, key=lambda item: item[0])
        yield Finding(
            "gradient spikes", WARNING, 0.5,
            f"{len(spikes)} of {len(norms)} points; the largest {_n(worst.grad_norm or 0)} at step "
            f"{worst.step}, {times:.0f} times the usual {_n(usual)}",
            "Single batches pull far harder than the others: rows of another kind, or broken ones.",
            [Change("data.train", f"look at the rows of the steps before {worst.step}"),
             *_clip(evidence, 2 * usual),
             Change("training.gradient_accumulation_steps", "twice as many")],
        )  # fmt: skip


def _lower_rate(evidence: Evidence, times: float) -> Change:
    rate = evidence.settings.get("training.lr")
    return Change(
        "training.lr",
        _n(min(rate * times, HIGHEST_RATE)) if rate else f"{times:g} times what it is",
    )


def _clip(evidence: Evidence, norm: float) -> list[Change]:
    """Clip at `norm`, unless training clips there or below already."""
    clip = evidence.settings.get("training.max_grad_norm", 1.0)
    return [Change("training.max_grad_norm", _n(norm))] if not 0 < clip <= norm else []


def _keep(evidence: Evidence, step: int) -> Change:
    """Which adapter to take instead of the last one."""
    if evidence.run is None or not evidence.checkpoints:
        return Change("keep", f"a checkpoint from about step {step}")
    nearest = min(evidence.checkpoints, key=lambda saved: abs(saved - step))
    return Change("keep", f"run/{evidence.run}@{nearest}")


def _shorter(evidence: Evidence, step: int) -> tuple[str, str]:
    """Training up to `step`, by the key that decides the length."""
    epochs, steps = evidence.settings.get("training.epochs"), evidence.steps
    if "training.max_steps" in evidence.settings or epochs is None or not steps:
        return "training.max_steps", str(step)
    return "training.epochs", _n(max(epochs * step / steps, 0.01), 2)


def _n(value: float, digits: int = 4) -> str:
    return f"{value:.{digits}g}"
