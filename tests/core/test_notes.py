"""A note's lines: read as written, and nothing else believed."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soup_git.core.notes import Baseline, EvalRecord, Metric, latest, parse_note
from soup_git.errors import FatalError

MD5, SHA = "a" * 32, "b" * 64
AT = "2026-05-14T10:00:00+02:00"


def record(value: float = 7.4, at: str = AT, **more) -> EvalRecord:
    metrics = {"judge.score": Metric(value, 0.2, 100), "refusals.rate": Metric(0.5)}
    return EvalRecord("adapters/a", MD5, "evals/gate.yaml", SHA, metrics, at, **more)


def test_a_line_is_one_line_with_sorted_keys():
    line = record().line()
    assert "\n" not in line
    body = json.loads(line)
    assert list(body) == sorted(body)
    assert body["schema"] == "soup.eval/1"
    assert body["metrics"]["judge.score"] == {"n": 100, "stderr": 0.2, "value": 7.4}


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.none() | st.floats(0, 1e300),
    st.none() | st.integers(0, 1 << 60),
    st.text(min_size=1),
)
def test_what_is_written_is_read(value, stderr, n, name):
    metrics = {name: Metric(value, stderr, n)}
    whole = EvalRecord("a", MD5, "s", SHA, metrics, AT, Baseline(None, metrics))
    try:
        line = whole.line().encode()
    except UnicodeEncodeError:  # a lone surrogate: no file has such a name for a metric
        return
    assert parse_note(line) == [whole]


def test_lines_that_are_not_ours_are_passed_over():
    good = record().line()
    bad = [
        "Reviewed-by: somebody", "", "{", "[]", "{}", '{"schema": "soup.eval/1"}', "{" * 100_000,
        good.replace("soup.eval/1", "soup.eval/9"), good.replace(MD5, "A" * 32), good.replace(SHA, "b"),
        good.replace("7.4", "NaN"), good.replace("7.4", "1e999"), good.replace("7.4", '"7.4"'),
        good.replace("7.4", "true"), good.replace("7.4", "1" + "0" * 400), good.replace(AT, "yesterday"),
        good.replace(AT, "2026-05-14"), good.replace('"n":100', '"n":-1'), good.replace("0.2", "-0.2"),
        good.replace('"metrics"', '"other"'), good.replace("{", '{"x": "' + "y" * 70_000 + '",', 1),
    ]  # fmt: skip
    assert parse_note("\n".join([*bad, good, good]).encode() + b"\n\xff\xfe") == [record()]


def test_the_last_one_is_the_last_in_time_not_in_text():
    early, late = record(1, "2026-05-14T10:00:00+02:00"), record(2, "2026-05-14T09:00:00+00:00")
    assert parse_note(f"{late.line()}\n{early.line()}".encode()) == [early, late]
    assert latest([late, early]) == late
    assert latest([]) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_not_written(value):
    with pytest.raises(FatalError, match="cannot be noted"):
        record(value).line()


def test_digits_follow_the_standard_error():
    assert record().summary() == "judge.score 7.4 ±0.2 (+1)"
    assert Metric(0.98123, 0.0012).text() == "0.981 ±0.001"
    assert Metric(12.5, 3.0).text() == "12 ±3"
    assert Metric(0.123456789).text() == "0.1235"


def test_a_score_on_a_base_that_somebody_asked_for_stands_behind_those_on_its_own():
    own = record(base_as="trained")
    later = record(at="2026-06-14T10:00:00+02:00", base_as="full")
    records = parse_note(f"{own.line()}\n{later.line()}\n".encode())
    assert records == [own, later]
    assert latest(records) == own
    assert latest([later]) == later


@pytest.mark.parametrize("said", ["[]", '"3bit"', "4", "{}"])
def test_a_record_on_a_base_of_no_known_kind_is_passed_over(said):
    line = record(base_as="trained").line()
    assert parse_note(line.replace('"trained"', said).encode()) == []
