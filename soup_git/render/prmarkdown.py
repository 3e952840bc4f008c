"""A pull request as GitHub's Markdown: the verdict first, then what to judge it by, the rest folded.

Nothing that came from outside is active in it: names stand in code spans, samples in code
blocks that they cannot end. The page stays within what a forge takes for a description.
"""

from __future__ import annotations

from collections.abc import Sequence

from soup_git.core.prnumbers import delta_text, value_text
from soup_git.core.pullrequest import AdapterChange, MetricDelta, PullRequest, Reason, Scores
from soup_git.core.text import counted
from soup_git.render import prwords as words
from soup_git.render.blocks import block_map
from soup_git.render.cutting import Part, fitted
from soup_git.render.drift import drift_map
from soup_git.render.markdown import code, code_in_table, fenced, table_of
from soup_git.render.prdetails import adapter_details, page_details
from soup_git.render.prsamples import side_by_side

MAX_BYTES = 60_000
"""GitHub takes 65,536 characters; what a forge adds (a marker, a link) has to fit too."""
_MOST_METRICS = 64
_NAME = 80


def as_markdown_page(pr: PullRequest, *, image: str | None = None, kept: str | None = None) -> str:
    """The page, at most `MAX_BYTES` of UTF-8.

    `image` is where the picture of the drift lies: relative in a stored page, absolute in a
    posted one. Without it block characters stand in. `kept` says, in Markdown, where the
    page and its data are, if not in the pull request's ref.
    """
    is_one = len(pr.adapters) == 1
    parts = [Part("", 100, [_head(pr)])]
    if image is not None and not is_one and any(adapter.layers for adapter in pr.adapters):
        parts.append(Part("", 90, [_picture(image)]))
    for adapter in pr.adapters:
        parts += _adapter(adapter, pr, image, is_one)
    for adapter in pr.adapters:
        parts += adapter_details(adapter, pr, is_one=is_one, has_picture=image is not None)
    parts += page_details(pr)
    return fitted(parts, MAX_BYTES, lambda cut: _foot(pr, cut, kept))


# -- the first screen --------------------------------------------------------------------------


def _head(pr: PullRequest) -> str:
    reasons = ", ".join(_reason(reason) for reason in pr.verdict.reasons)
    sign = words.SIGNS[pr.verdict.word]
    line = f"## {sign} {pr.verdict.word}{f': {reasons}' if reasons else ''}"
    ends = code(pr.head.name) + (f" into {code(pr.base.name)}" if pr.commits else "")
    about = f"{code(pr.title)} · {ends} · {counted(pr.commits, 'commit')}"
    text = f"{line}\n\n{about}\n\n"
    if not pr.adapters:
        return text + f"- **lock** {words.lock_words(pr)}\n\n"
    if len(pr.adapters) == 1:
        return text + _facts(pr, pr.adapters[0])
    return text + _overview(pr)


def _reason(reason: Reason) -> str:
    return f"{code(reason.about, _NAME)} {reason.words}" if reason.about else reason.words


def _facts(pr: PullRequest, adapter: AdapterChange) -> str:
    """What the verdict stands on, a line each."""
    lines = [f"- **adapter** {code(adapter.path)} {_what(adapter)}"]
    lines += [f"- **gate** {words.gate_words(s)} ({code(s.source)})" for s in adapter.scores]
    if not adapter.scores and adapter.is_judged:
        lines.append(f"- **gate** ? not evaluated: {code(adapter.scores_command, 400)}")
    lines.append(f"- **lock** {words.lock_words(pr)}")
    rebuilt = f"- **rebuilt** {words.rebuilt_words(adapter)}"
    if adapter.reproduction.state == "unknown" and adapter.reproduction.command:
        rebuilt += f": {code(adapter.reproduction.command, 400)}"
    return "\n".join([*lines, rebuilt]) + "\n\n"


def _what(adapter: AdapterChange) -> str:
    if adapter.renamed_from is not None:
        return f"{adapter.status}, from {code(adapter.renamed_from)}"
    if adapter.base_differs:
        before, now = code(adapter.base_model_before or "–"), code(adapter.base_model or "–")
        return f"{adapter.status}; **its base model too**: {before} → {now}"
    merged = "merged, not trained; " if adapter.recipe else ""
    return f"{merged}{adapter.status}"


def _overview(pr: PullRequest) -> str:
    """A row for each adapter, where there are several."""
    rows = [
        (
            code_in_table(adapter.path),
            adapter.status,
            words.drift_words(adapter),
            ", ".join(words.gate_words(scores) for scores in adapter.scores) or "–",
            words.rebuilt_words(adapter),
        )
        for adapter in pr.adapters[:_MOST_METRICS]
    ]
    left = len(pr.adapters) - len(rows)
    more = f"\n… and {counted(left, 'adapter')} more\n" if left > 0 else ""
    table = table_of(("adapter", "", "drift", "gate", "rebuilt"), rows)
    return f"- **lock** {words.lock_words(pr)}\n\n{table}{more}\n"


# -- of one adapter ----------------------------------------------------------------------------


def _adapter(
    adapter: AdapterChange, pr: PullRequest, image: str | None, is_one: bool
) -> list[Part]:
    title = "" if is_one else f"### {code(adapter.path)} {_what(adapter)}\n\n"
    parts = [_scores(scores, pr, title if not number else "", is_one)
             for number, scores in enumerate(adapter.scores)]  # fmt: skip
    if title and not parts:
        asked = code(adapter.scores_command, 400)
        line = f"not evaluated: {asked}\n\n" if adapter.is_judged else ""
        parts.append(Part("sections of adapters", 60, [title + line, ""]))
    if adapter.is_judged:
        parts.append(_drift(adapter, image, is_one))
    if adapter.samples or (adapter.is_judged and is_one):
        parts.append(side_by_side(adapter, pr))
    return parts


def _scores(scores: Scores, pr: PullRequest, title: str, is_one: bool) -> Part:
    ordered = words.by_importance(scores.metrics)
    shown = [_table(scores, ordered, pr)]
    if len(ordered) > _MOST_METRICS:
        shown.append(_table(scores, ordered[:_MOST_METRICS], pr))
    remarks = "".join(f"{_in_text(remark)}\n\n" for remark in scores.remarks)
    versions = [f"{title}{table}\n{remarks}" for table in shown]
    return Part("metrics", 95 if is_one else 85, versions if is_one else [*versions, title, ""])


def _table(scores: Scores, metrics: Sequence[MetricDelta], pr: PullRequest) -> str:
    baseline = code_in_table(scores.baseline, _NAME) if scores.baseline else "baseline"
    header = [
        "metric", f"{baseline}>", f"{code_in_table(pr.head.name, _NAME)}>", "Δ ± standard error>", "",
    ]  # fmt: skip
    is_gated = any(words.held(metric) for metric in metrics)
    rows = [_row(metric, is_gated) for metric in metrics]
    text = table_of([*header, *(["gate"] if is_gated else [])], rows)
    left = len(scores.metrics) - len(metrics)
    return text + (f"\n… and {counted(left, 'metric')} more that changed less\n" if left else "")


def _row(metric: MetricDelta, is_gated: bool) -> list[str]:
    mark = words.MARKS[metric.verdict]
    if metric.gate == "failed":
        mark = f"**{mark}**"
    cells = [
        code_in_table(metric.name, _NAME),
        value_text(metric.baseline, metric.baseline_stderr, metric.unit),
        value_text(metric.candidate, metric.candidate_stderr, metric.unit),
        f"**{delta_text(metric)}**" if metric.gate == "failed" else delta_text(metric),
        mark,
    ]
    return [*cells, *([words.held(metric)] if is_gated else [])]


def _in_text(text: str) -> str:
    """A sentence of ours; what it quotes of a file's content stays code."""
    head, colon, tail = text.partition(": ")
    return f"{head}: {code(tail, 300)}" if colon and "could not be read" in head else text


def _drift(adapter: AdapterChange, image: str | None, is_one: bool) -> Part:
    base = f"**drift** {words.drift_words(adapter)}"
    if adapter.drift_unknown:
        base += f": {code(adapter.drift_unknown, 300)}"
    lines = [f"{base}\n\n", *([] if is_one else [""])]
    if not adapter.layers or (adapter.drift and adapter.drift.equal):
        return Part("drift", 90, lines)
    if image is not None:
        # Of several adapters one picture has all maps, above their sections.
        drawn = _picture(image) if is_one else ""
        return Part("drift", 90, [f"{base}\n\n{drawn}", *lines[1:]])
    blocks = fenced("\n".join(block_map(drift_map(adapter.layers))))
    return Part("block pictures", 90 if is_one else 50, [f"{base}\n\n{blocks}\n", *lines])


def _picture(image: str) -> str:
    return f"![Relative drift of each module: layers across, modules down](<{image}>)\n\n"


# -- the last lines ----------------------------------------------------------------------------


def _foot(pr: PullRequest, cut: Sequence[str], kept: str | None) -> str:
    """Where the whole is, and what was cut."""
    whole = f"`git show {pr.ref}:pr.html > pr.html`" if kept is None else f"`pr.html` in {kept}"
    text = f"\n---\nPage of `git soup pr`, kept with its data in {kept or f'`{pr.ref}`'}.\n"
    if cut:
        listed = ", ".join(cut)
        text += f"\n**Cut to the size of a page:** {listed}. The whole: {whole}\n"
    return text
