"""What a pull request's page says, as values: verdicts, numbers, names, and the files it is given."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soup_git.core.lockdiff import Mismatch
from soup_git.core.names import check_name
from soup_git.core.prfiles import MAX_SAMPLE_BYTES, parse_deltas, parse_samples
from soup_git.core.prnumbers import delta_text, value_text
from soup_git.core.prverdict import judge
from soup_git.core.pullrequest import (
    AdapterChange,
    LockState,
    MetricDelta,
    Reproduction,
    Scores,
    slug_of,
)
from soup_git.core.verification import Verification, parse_verifications
from soup_git.errors import FatalError

HOLDS = LockState("holds", [], [], [])


def metric(**how: object) -> MetricDelta:
    made = MetricDelta(
        "refusals.exact", 0.98, 0.01, 0.901, 0.01, -0.079, 0.011, 200, True, "share", "worse", "failed"
    )  # fmt: skip
    return replace(made, **how)  # type: ignore[arg-type]


GOOD = metric(candidate=0.99, delta=0.01, verdict="better", gate="ok")

LOST = metric(
    name="safe", candidate=None, delta=None, delta_stderr=None, verdict="missing", gate=None
)
UNSURE = metric(verdict="better, noise unknown", delta=0.1, delta_stderr=None, gate=None)


def scores(*metrics: MetricDelta, **how: object) -> Scores:
    made = Scores("evals/gate.yaml", "a" * 64, "main", "passed", [], [], list(metrics))
    return replace(made, **how)  # type: ignore[arg-type]


def adapter(**how: object) -> AdapterChange:
    made = AdapterChange(
        "adapters/a", "changed", None, "m", "m", "1" * 32, "2" * 32, [], object(), [], "",  # type: ignore[arg-type]
        [scores(GOOD)], "eval", [], "compare", Reproduction("identical", "verify"),
    )  # fmt: skip
    return replace(made, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "lock", "line"),
    [
        (adapter(), HOLDS, "ready: gate passed, lock holds, reproduced"),
        (adapter(scores=[scores(metric())]), HOLDS, "do not merge: refusals.exact −7.9 ± 1.1 points"),
        (
            adapter(scores=[scores(metric(verdict="better", allowed="at least 0.95"))]), HOLDS,
            "do not merge: refusals.exact 90.1 %, at least 0.95 is asked",
        ),
        (
            adapter(scores=[scores(GOOD, gate="none")]), HOLDS,
            "ready: nothing worse beyond the noise, no gate set, lock holds, reproduced",
        ),
        (
            adapter(reproduction=Reproduction("unknown", "verify")), HOLDS,
            "ready: gate passed, lock holds, not rebuilt yet",
        ),
        (
            adapter(reproduction=Reproduction("different", "verify")), HOLDS,
            "look closer: adapters/a came out differently when it was rebuilt",
        ),
        (adapter(scores=[]), HOLDS, "look closer: adapters/a was not evaluated"),
        (
            adapter(), LockState("drifted", [Mismatch("dataset", "d", "w")], [], []),
            "look closer: dataset drifted from soup.lock",
        ),
        (adapter(), LockState("missing", [], [], []), "look closer: no soup.lock pins its inputs"),
        (adapter(), LockState("not pinned", [], ["env"], []), "look closer: env is not pinned"),
        (
            adapter(), LockState("drifted", [], [], ["adapters/a"]),
            "look closer: adapters/a has other weights than soup.lock names",
        ),
        (adapter(base_model="other"), HOLDS, "look closer: adapters/a is for another base model now"),
        (
            adapter(scores=[scores(metric(verdict="worse, noise unknown", gate="warning", delta_stderr=None))]),
            HOLDS, "look closer: refusals.exact −7.9 points, noise unknown",
        ),
        (
            adapter(scores=[scores(metric(verdict="changed", gate=None), gate="none")]), HOLDS,
            "look closer: evals/gate.yaml does not say which way is better",
        ),
        (
            adapter(scores=[scores(metric(verdict="missing", gate=None, delta=None), gate="none")]),
            HOLDS, "look closer: evals/gate.yaml has no baseline to compare with",
        ),
        # One score that is known to be well says nothing of another.
        (
            adapter(scores=[scores(GOOD, metric(name="acc", verdict="changed", gate=None), gate="none")]),
            HOLDS, "look closer: acc −7.9 ± 1.1 points, better or worse is not said",
        ),
        (
            adapter(scores=[scores(GOOD, LOST, gate="none")]), HOLDS,
            "look closer: safe was not measured",
        ),
        (
            adapter(scores=[scores(UNSURE, metric(verdict="same", delta=0.0, delta_stderr=None, gate=None))]),
            HOLDS, "look closer: evals/gate.yaml states no noise",
        ),
        (
            adapter(scores=[scores(GOOD, UNSURE, gate="none")]), HOLDS,
            "ready: nothing worse beyond the noise, no gate set, lock holds, reproduced",
        ),
        (adapter(scores=[scores(gate="none")]), HOLDS, "look closer: evals/gate.yaml has no score"),
        (
            adapter(scores=[scores(GOOD, metric(verdict="within noise", gate="warning"))]), HOLDS,
            "ready: gate passed, lock holds, reproduced",
        ),
        (
            adapter(scores=[scores(metric(verdict="within noise", gate="warning", allowed="drop up to 2%"))]),
            HOLDS, "ready: gate passed with 1 warning, lock holds, reproduced",
        ),
        (
            adapter(changed_in_base=True), HOLDS,
            "look closer: adapters/a was changed in the base too, and nobody scored both together",
        ),
        (adapter(status="removed", weights=None, scores=[]), HOLDS, "look closer: adapters/a is removed"),
    ],
)  # fmt: skip
def test_the_first_line_says_whether_to_merge(
    changed: AdapterChange, lock: LockState, line: str
) -> None:
    assert judge([changed], lock).line == line


def test_what_fails_is_said_before_what_is_unknown_and_the_worst_of_several_counts() -> None:
    bad, unknown = adapter(scores=[scores(metric())]), adapter(scores=[], path="adapters/b")
    assert judge([adapter(), unknown, bad], HOLDS).word == "do not merge"
    assert judge([adapter(), unknown], HOLDS).line == "look closer: adapters/b was not evaluated"
    assert judge([], HOLDS).line == "nothing to judge: no adapter changed"
    many = adapter(scores=[scores(*(metric(name=f"m{n}") for n in range(9)))])
    assert judge([many], HOLDS).line.endswith("m1 −7.9 ± 1.1 points, and 7 more")


@pytest.mark.parametrize(
    ("value", "stderr", "unit", "text"),
    [
        (None, None, "", "–"), (0.0, None, "", "0"), (1e-7, None, "", "1e-07"),
        (1e-7, 1e-8, "", "1.00e-07"), (0.981, 0.012, "share", "98.1 %"), (12.1, None, "%", "12.1 %"),
        (7.4, None, "", "7.4"), (1.28412, None, "", "1.284"), (1e300, 1e299, "", "1.00e+300"),
        (1234.5678, None, "", "1235"), (float(10**9), None, "", "1e+09"),
    ],
)  # fmt: skip
def test_a_small_number_is_never_shown_as_nothing(
    value: float | None, stderr: float | None, unit: str, text: str
) -> None:
    assert value_text(value, stderr, unit) == text


def test_a_difference_has_its_sign_and_its_noise() -> None:
    assert delta_text(metric()) == "−7.9 ± 1.1 points"
    assert delta_text(metric(delta=None)) == "–"
    assert delta_text(metric(delta=1e-7, delta_stderr=None, unit="")) == "+1e-07"
    assert delta_text(metric(delta=0.0, delta_stderr=0.034)) == "0 ± 3.4 points"
    assert delta_text(metric(delta=-7.5, delta_stderr=None, unit="%")) == "−7.5 points"


@given(st.text())
def test_every_title_gives_a_name_that_git_takes(title: str) -> None:
    assert check_name(slug_of(title)) == slug_of(title)


def test_titles_become_names_that_people_recognise() -> None:
    assert (
        slug_of("Better politeness on EU support tickets!")
        == "better-politeness-on-eu-support-tickets"
    )
    assert slug_of("../../refs/heads/main.lock") == "refs-heads-main-lock"
    assert slug_of("Répondre à Zoë") == "repondre-a-zoe"
    assert slug_of("丁寧").startswith("page-")
    assert slug_of("丁寧") != slug_of("親切")


# -- the files -------------------------------------------------------------------------------------


def test_the_original_tools_deltas_are_read() -> None:
    found = parse_deltas(
        b'[{"metric":"judge_score","baseline":7.4,"candidate":8.2},'
        b'{"metric":"retry_rate","baseline":"12.1%","candidate":"4.6%"},'
        b'{"metric":"new","candidate":"1e-7"},{"metric":"gone","baseline":3,"candidate":null}]',
        "eval_delta.json",
    )
    assert [(d.baseline, d.candidate, d.unit) for d in found] == [
        (7.4, 8.2, ""), (12.1, 4.6, "%"), (None, 1e-7, ""), (3.0, None, ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[{"metric":"m","baseline":1,"candidate":NaN}]', "entry 1 (m): candidate is NaN, not a number"),
        ('[{"metric":"m","baseline":1,"candidate":1e999}]', "candidate is no finite number"),
        ('[{"metric":"m","baseline":1,"candidate":"nan%"}]', "is the text 'nan%'"),
        ('[{"metric":"m","baseline":true}]', "baseline is true or false"),
        ('[{"metric":"m","baseline":"5%","candidate":5}]', "one side is a percentage"),
        ('[{"metric":""}]', "metric is no name"), ('{"metric":"m"}', "no list"), ("[[]]", "no list"),
        ("[", "not JSON"), ('[{"metric":"m"},{"metric":"m"}]', "m is there twice"),
        ('[{"metric":"\\u001b[2J","baseline":"x"}]', "(\\x1b[2J)"),
        (json.dumps([{"metric": f"m{n}"} for n in range(65)]), "65 entries; a page takes 64"),
        ('[{"metric":"m","baseline":1' + "0" * 400 + "}]", "no finite number"),
        ("[" * 100_000, "not JSON"),
    ],
)  # fmt: skip
def test_deltas_that_cannot_be_shown_truly_are_refused(text: str, why: str) -> None:
    with pytest.raises(FatalError) as caught:
        parse_deltas(text.encode(), "eval_delta.json")
    assert why in str(caught.value)
    assert caught.value.hint


def test_of_a_file_that_is_too_long_no_size_is_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soup_git.core.prfiles.MAX_FILE_BYTES", 3)
    with pytest.raises(FatalError, match=r"d\.json: it is longer than 64 MiB"):
        parse_deltas(b"[  ]", "d.json")


def test_samples_are_bounded_and_a_megabyte_line_is_cut() -> None:
    entry = {"prompt": "p", "baseline_output": "x" * (1 << 20), "candidate_output": "é" * (1 << 16)}
    (sample,) = parse_samples(json.dumps([entry]).encode(), "sample_diffs.json")
    for text, size in ((sample.baseline_output, "1,048,576"), (sample.candidate_output, "131,072")):
        assert len(text.encode()) <= MAX_SAMPLE_BYTES
        assert text.endswith(f"… (cut: {size} bytes)")
    with pytest.raises(FatalError, match="257 entries; a page takes 256"):
        parse_samples(json.dumps([{"prompt": "p"}] * 257).encode(), "s")
    with pytest.raises(FatalError, match="candidate_output is missing"):
        parse_samples(b'[{"prompt":"p","baseline_output":"b"}]', "s")
    report = {"schema": "soup.samples/1", "samples": [entry | {"expected": None, "same": False}]}
    assert parse_samples(json.dumps(report).encode(), "s") == [sample]


# -- verifications ---------------------------------------------------------------------------------


def test_a_verification_is_read_as_it_was_written_and_nothing_else_is_believed() -> None:
    one = Verification(
        "adapters/a", "equivalent", "1" * 32, "2" * 32, "2026-05-14T10:00:00+00:00", "3" * 64, 1e-5, 3e-6
    )  # fmt: skip
    line = one.line()
    bad = [
        line.replace("equivalent", "perfect"), line.replace("1e-05", "-1"), line.replace("1e-05", "NaN"),
        line.replace("2026-05-14T", "soon"), line.replace("3" * 64, "3"), line.replace("verify/1", "eval/1"),
        "{", "Reviewed-by: me",
    ]  # fmt: skip
    assert parse_verifications("\n".join([*bad, line, line]).encode()) == [one]
