"""`/evals`: noted evaluations, a table for each suite."""

from __future__ import annotations

from soup_git.commands.evals import EvalRow, EvalsReport, SuiteEvals
from soup_git.core.text import shortened
from soup_git.ui.markup import Content, Html, commit, moment, none_yet, table, tag, together


def evals(found: EvalsReport) -> Html:
    if not found.suites:
        return none_yet("No evaluation is noted here yet: ", "git soup eval ADAPTER --suite FILE")
    return together(part for suite in found.suites for part in _suite(suite))


def _suite(suite: SuiteEvals) -> list[Content]:
    header = ("date", "commit", "adapter", *(f"{name}>" for name in suite.metrics))
    version = tag("small", " ", tag("code", shortened(f"sha256:{suite.suite_sha}")))
    rows = (_row(row, suite.metrics) for row in suite.rows)
    return [tag("h2", suite.suite, version), table(suite.suite, header, rows)]


def _row(row: EvalRow, metrics: list[str]) -> list[Content]:
    names = (tag("span", name, class_="chip plain") for name in row.names)
    return [
        moment(row.at),
        together([commit(row.commit), *names]) if row.commit else "–",
        row.adapter,
        *(row.metrics[name].text() if name in row.metrics else "–" for name in metrics),
    ]
