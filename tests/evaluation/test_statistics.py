"""Standard errors and intervals, against what is known in closed form."""

from __future__ import annotations

import math
import random
import statistics as known

import pytest

from soup_git.evaluation.statistics import BLEU, EXP_MEAN, MEAN, difference, estimate, t_quantile

scipy_like = {(0.975, 1): 12.7062, (0.975, 2): 4.3027, (0.975, 5): 2.5706, (0.975, 19): 2.0930}


def test_the_jackknife_of_a_mean_is_the_textbook_standard_error() -> None:
    values = [0.2, 0.9, 0.4, 0.7, 0.1]
    found = estimate(MEAN, [(v, 1.0) for v in values])
    assert found is not None
    assert found.value == pytest.approx(known.mean(values))
    assert found.stderr == pytest.approx(known.stdev(values) / math.sqrt(5))


def test_a_loss_is_weighted_by_tokens_and_perplexity_is_its_exponential() -> None:
    rows = [(2.0, 4.0), (9.0, 6.0)]
    loss, perplexity = estimate(MEAN, rows), estimate(EXP_MEAN, rows)
    assert loss is not None and perplexity is not None
    assert loss.value == pytest.approx(11 / 10)
    assert perplexity.value == pytest.approx(math.exp(1.1))


def test_rows_that_all_agree_are_no_certainty() -> None:
    found = estimate(MEAN, [(1.0, 1.0)] * 20, binary=True)
    assert found is not None
    assert found.value == 1.0
    assert found.stderr == pytest.approx(math.sqrt(22 / 24 * 2 / 24 / 24))
    gap = difference(MEAN, [(1.0, 1.0)] * 20, [(1.0, 1.0)] * 20, binary=True)
    assert gap is not None and gap.is_noise
    assert gap.low is not None and gap.high is not None and gap.low < 0 < gap.high


def test_pairing_sees_what_two_standard_errors_hide() -> None:
    draw = random.Random(3)
    base = [draw.gauss(5, 2) for _ in range(30)]
    better = [value + 0.2 + draw.gauss(0, 0.05) for value in base]
    gap = difference(MEAN, [(v, 1.0) for v in better], [(v, 1.0) for v in base])
    alone = estimate(MEAN, [(v, 1.0) for v in base])
    assert gap is not None and alone is not None and gap.stderr is not None and alone.stderr
    assert not gap.is_noise
    assert gap.stderr < alone.stderr / 10


def test_rows_without_a_score_pair_with_nothing() -> None:
    gap = difference(MEAN, [(1.0, 1.0), None, (0.5, 1.0)], [(0.0, 1.0), (1.0, 1.0), None])
    assert gap is not None
    assert (gap.n, gap.value, gap.low) == (1, 1.0, None)
    assert gap.is_noise
    assert difference(MEAN, [None], [(1.0, 1.0)]) is None
    assert estimate(MEAN, [None, None]) is None


@pytest.mark.parametrize(("p", "freedom"), scipy_like)
def test_students_quantile(p: float, freedom: int) -> None:
    assert t_quantile(p, freedom) == pytest.approx(scipy_like[p, freedom], rel=1e-2)


def test_the_stated_confidence_is_kept() -> None:
    """Of 400 intervals on small samples at least 92% hold the truth: means and proportions."""
    draw = random.Random(1)
    hits = {"mean": 0, "proportion": 0}
    for _ in range(400):
        pairs = [(draw.gauss(1.0, 1.0), draw.gauss(0.7, 1.0)) for _ in range(12)]
        gap = difference(MEAN, [(a, 1.0) for a, _ in pairs], [(b, 1.0) for _, b in pairs])
        assert gap is not None and gap.low is not None and gap.high is not None
        hits["mean"] += gap.low <= 0.3 <= gap.high
        bits = [(float(draw.random() < 0.8), float(draw.random() < 0.6)) for _ in range(15)]
        gap = difference(
            MEAN, [(a, 1.0) for a, _ in bits], [(b, 1.0) for _, b in bits], binary=True
        )
        assert gap is not None and gap.low is not None and gap.high is not None
        hits["proportion"] += gap.low <= 0.2 <= gap.high
    assert min(hits.values()) >= 0.92 * 400, hits


def test_corpus_bleu_is_sacrebleus() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    answers = ["the cat sat on the mat today", "a dog barks at the moon tonight"]
    wanted = ["the cat sat on a mat today", "the dog barks at the full moon tonight"]
    bleu = sacrebleu.BLEU(effective_order=True)
    rows = []
    for answer, text in zip(answers, wanted, strict=True):
        s = bleu.sentence_score(answer, [text])
        rows.append(
            (*map(float, s.counts), *map(float, s.totals), float(s.sys_len), float(s.ref_len))
        )
    found = estimate(BLEU, rows)
    assert found is not None
    assert found.value == pytest.approx(sacrebleu.corpus_bleu(answers, [wanted]).score)
