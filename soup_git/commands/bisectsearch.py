"""From a bisection's question to its search: plain, or one that expects wrong answers."""

from __future__ import annotations

from collections.abc import Sequence

from soup_git.core.bisection import PlainSearch, Search
from soup_git.core.bisectlog import Question, Told
from soup_git.errors import FatalError

_DEFAULT_CONFIDENCE = 0.95


def noise_of(
    noise: str | None, confidence: float | None, most: int | None
) -> tuple[tuple[float, float] | None, float | None]:
    """(rates, confidence): None and None where answers are certain."""
    if noise is None and confidence is None:
        if most is not None:
            raise FatalError(
                "--max-probes bounds a search that repeats probes",
                hint="add --confidence 0.95, or leave --max-probes out",
            )
        return None, None
    confidence = confidence if confidence is not None else _DEFAULT_CONFIDENCE
    if not 0.5 < confidence < 1:
        raise FatalError(
            f"--confidence {confidence:g} is not between 0.5 and 1", hint="--confidence 0.95"
        )
    if noise is None:
        return None, confidence
    try:
        rates = [float(word) for word in noise.split(",")]
    except ValueError:
        rates = []
    if len(rates) == 1:
        rates *= 2
    if len(rates) != 2 or not all(0 <= rate < 1 for rate in rates) or not sum(rates) < 1:
        raise FatalError(
            f"--noise {noise} is no flip rate: one below 0.5, or two that add up to less than 1",
            hint="--noise 0.1; or --noise 0.1,0.02 for good judged bad, bad judged good",
        )
    return (rates[0], rates[1]), confidence


def search_for(question: Question, most: int | None) -> Search:
    count = len(question.checkpoints)
    if question.confidence is None:
        return PlainSearch(count)
    from soup_git.arithmetic.posterior import known_rates, unknown_rates
    from soup_git.core.noisybisection import NoisySearch

    rates = known_rates(*question.noise) if question.noise is not None else unknown_rates()
    return NoisySearch(count, rates, question.confidence, most)


def tell(search: Search, question: Question, told: Sequence[Told]) -> None:
    """What a log holds; equal adapters share their verdicts, as they did when it was written."""
    twins = {position: group for group in question.twins() for position in group}
    for one in told:
        for position in twins.get(one.position, [one.position]):
            search.tell(position, one.verdict)
