"""A pull request as one self-contained HTML page: no script, no network, light and dark, uncut."""

from __future__ import annotations

from soup_git.core.prnumbers import delta_text, value_text
from soup_git.core.pullrequest import (
    AdapterChange,
    MetricDelta,
    PullRequest,
    Reason,
    SamplePair,
    Scores,
)
from soup_git.core.rowdiff import DatasetDiff
from soup_git.core.text import counted, printable, shortened
from soup_git.render import prwords as words
from soup_git.render.drift import drift_map, drift_table, moved
from soup_git.render.html import base_style, heat_map, page, table, text_of
from soup_git.render.report import Table

_KINDS = {"ready": "good", "do not merge": "bad", "look closer": "unsure"}
_TOP = 10


def as_html_page(pr: PullRequest) -> str:
    kind = _KINDS.get(pr.verdict.word, "none")
    reasons = ", ".join(_reason(reason) for reason in pr.verdict.reasons)
    said = f": {reasons}" if reasons else ""
    sign = f'<span aria-hidden="true">{words.SIGNS[pr.verdict.word]}</span>'
    kept = f"kept with its data in <code>{text_of(pr.ref)}</code>"
    ends = f"<code>{text_of(pr.head.name)}</code>"
    if pr.commits:
        ends += f" into <code>{text_of(pr.base.name)}</code>"
    body = [
        "<main>",
        f'<h1 class="verdict {kind}">{sign} {text_of(pr.verdict.word)}{said}</h1>',
        f"<p><strong>{text_of(pr.title)}</strong> · {ends} · {counted(pr.commits, 'commit')}</p>",
        _lock_line(pr),
        *(_adapter(adapter, pr) for adapter in pr.adapters),
        *_details(pr),
        f"<footer><p>Page of <code>git soup pr</code>, {kept}.</p></footer>",
        "</main>",
    ]
    return page(f"{pr.verdict.word}: {pr.title}", "\n".join(body), base_style() + _STYLE)


def _reason(reason: Reason) -> str:
    about = f"<code>{text_of(reason.about)}</code> " if reason.about else ""
    return about + text_of(reason.words)


def _lock_line(pr: PullRequest) -> str:
    return f'<ul class="facts"><li><b>lock</b> {text_of(words.lock_words(pr))}</li></ul>'


# -- of one adapter ----------------------------------------------------------------------------


def _adapter(adapter: AdapterChange, pr: PullRequest) -> str:
    facts = [f"<b>drift</b> {text_of(_drift_text(adapter))}"]
    facts += [
        f"<b>gate</b> {text_of(words.gate_words(s))} (<code>{text_of(s.source)}</code>)"
        for s in adapter.scores
    ]
    if not adapter.scores and adapter.is_judged:
        facts.append(f"<b>gate</b> ? not evaluated: {_command(adapter.scores_command)}")
    rebuilt = f"<b>rebuilt</b> {text_of(words.rebuilt_words(adapter))}"
    if adapter.reproduction.state == "unknown" and adapter.reproduction.command:
        rebuilt += f": {_command(adapter.reproduction.command)}"
    parts = [
        f"<section><h2><code>{text_of(adapter.path)}</code> {text_of(_what(adapter))}</h2>",
        f'<ul class="facts">{"".join(f"<li>{fact}</li>" for fact in [*facts, rebuilt])}</ul>',
        *(_scores(scores, pr) for scores in adapter.scores),
    ]
    if adapter.layers and not (adapter.drift and adapter.drift.equal):
        parts.append(heat_map(drift_map(adapter.layers)))
    parts.append(_samples(adapter, pr))
    if adapter.drift is not None and not adapter.drift.equal:
        changed = moved(adapter.layers)
        if len(changed) > _TOP:
            top = table(drift_table(changed[:_TOP], adapter.drift))
            parts.append(_fold(f"Top {_TOP} modules", top))
        whole = table(drift_table(changed, adapter.drift))
        parts.append(_fold(f"All {len(changed)} changed modules", whole))
    if adapter.recipe:
        parts.append(_fold("What it was merged from", _pre("\n".join(adapter.recipe))))
    return "\n".join([*(part for part in parts if part), "</section>"])


def _what(adapter: AdapterChange) -> str:
    if adapter.renamed_from is not None:
        return f"{adapter.status}, from {adapter.renamed_from}"
    if adapter.base_differs:
        before, now = adapter.base_model_before or "–", adapter.base_model or "–"
        return f"{adapter.status}; its base model too: {before} → {now}"
    return f"{'merged, not trained; ' if adapter.recipe else ''}{adapter.status}"


def _drift_text(adapter: AdapterChange) -> str:
    why = f": {adapter.drift_unknown}" if adapter.drift_unknown else ""
    return words.drift_words(adapter) + why


def _scores(scores: Scores, pr: PullRequest) -> str:
    head = ("metric", scores.baseline or "baseline", pr.head.name, "Δ ± standard error", "", "gate")
    cells = "".join(f'<th scope="col">{text_of(name)}</th>' for name in head)
    rows = "".join(_metric(metric) for metric in words.by_importance(scores.metrics))
    remarks = "".join(f"<p>{text_of(remark)}</p>" for remark in scores.remarks)
    return (
        f'<div class="wide"><table class="rows"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{remarks}"
    )


def _metric(metric: MetricDelta) -> str:
    numbers = (
        value_text(metric.baseline, metric.baseline_stderr, metric.unit),
        value_text(metric.candidate, metric.candidate_stderr, metric.unit),
        delta_text(metric),
    )
    kind = ' class="failed"' if metric.gate == "failed" else ""
    cells = "".join(f'<td class="n">{text_of(number)}</td>' for number in numbers)
    mark = text_of(words.MARKS[metric.verdict])
    return (
        f'<tr{kind}><th scope="row">{text_of(metric.name)}</th>{cells}'
        f"<td>{mark}</td><td>{text_of(words.held(metric))}</td></tr>"
    )


def _samples(adapter: AdapterChange, pr: PullRequest) -> str:
    if not adapter.samples:
        made = _command(adapter.samples_command)
        again = "then <code>--samples samples.json</code> here"
        return f"<p><b>samples</b> none yet: {made}, {again}</p>" if adapter.is_judged else ""
    first = words.first_samples(adapter.samples)
    text = f"<h3>Samples</h3><p>{text_of(words.samples_words(adapter.samples))}</p>"
    text += "".join(_sample(sample, pr) for sample in first)
    if len(adapter.samples) > len(first):
        every = "".join(_sample(sample, pr) for sample in adapter.samples)
        text += _fold(f"All {counted(len(adapter.samples), 'sample')}", every)
    return text


def _sample(sample: SamplePair, pr: PullRequest) -> str:
    def side(name: str, text: str) -> str:
        return f"<div><h4><code>{text_of(name)}</code></h4>{_pre(text)}</div>"

    outputs = side(pr.base.name, sample.baseline_output)
    if sample.same:
        outputs += f"<div><h4><code>{text_of(pr.head.name)}</code></h4><p>the same</p></div>"
    else:
        outputs += side(pr.head.name, sample.candidate_output)
    return (
        f'<article class="sample"><h4>prompt</h4>{_pre(sample.prompt)}'
        f'<div class="sides">{outputs}</div></article>'
    )


# -- of the whole request ----------------------------------------------------------------------


def _details(pr: PullRequest) -> list[str]:
    parts = []
    if pr.config_changes:
        rows = [(c.key, _value(c.old), _value(c.new)) for c in pr.config_changes]
        title = f"Config: {counted(len(rows), 'change')}"
        parts.append(_fold(title, table(Table(("key", "before", "now"), rows))))
    for dataset in pr.datasets:
        title = f"Data: {dataset.role}, {words.dataset_words(dataset)}"
        parts.append(_fold(title, _dataset(dataset)))
    if pr.datasets_unknown:
        parts.append(_fold("Data: not compared", f"<p>{text_of(pr.datasets_unknown)}</p>"))
    parts.append(_fold("Lock and environment", _lock(pr)))
    if pr.lineage:
        parts.append(_fold(f"Lineage: {counted(len(pr.lineage), 'commit')}", _lineage(pr)))
    parts.append(_fold("How to reproduce", _pre("\n".join(pr.reproduce))))
    return parts


def _dataset(found: DatasetDiff) -> str:
    paths = dict.fromkeys(side.path for side in (found.a, found.b) if side.path is not None)
    text = f"<p>{' → '.join(f'<code>{text_of(path)}</code>' for path in paths)}</p>"
    kinds = [(f"{kind} rows", rows) for kind, rows in (
        ("Added", found.added_rows), ("Removed", found.removed_rows),
    ) if rows]  # fmt: skip
    for title, rows in kinds:
        listed = table(Table(("where", "row"), [(row.place, row.text) for row in rows]))
        text += f"<h4>{title}</h4>{listed}"
    changes = [
        (row.place_b, change.key, _value(change.old), _value(change.new))
        for row in found.changed_rows
        for change in row.fields
    ]
    if changes:
        listed = table(Table(("where", "field", "before", "now"), changes))
        text += f"<h4>Changed rows</h4>{listed}"
    if found.b.unreadable_rows:
        unread = [(row.place, row.problem) for row in found.b.unreadable_rows]
        text += f"<h4>Rows that cannot be read</h4>{table(Table(('where', 'why'), unread))}"
    return text


def _lock(pr: PullRequest) -> str:
    found = pr.lock_changes
    rows = [(pin.pin, _digest(pin.old), _digest(pin.new)) for pin in found.pins]
    rows += [(one.pin, _digest(one.old), _digest(one.new)) for one in found.inputs]
    rows += [(fact.pin, _value(fact.old), _value(fact.new)) for fact in found.facts]
    rows += [(one.pin, _value(one.old), _value(one.new)) for one in found.adapters]
    text = table(Table(("pin", "before", "now"), rows))
    for mismatch in pr.lock.drift:
        text += f"<p>{text_of(f'{mismatch.pin} {mismatch.path}: {mismatch.what}')}</p>"
    for path in pr.lock.strays:
        text += f"<p>{text_of(path)} has other weights than the lock names</p>"
    if found.packages:
        packages = [(p.name, _value(p.old), _value(p.new)) for p in found.packages]
        text += table(Table(("package", "before", "now"), packages))
    if found.environment == "digest only":
        text += "<p>The environment differs; a lock without packages cannot say how.</p>"
    return text


def _lineage(pr: PullRequest) -> str:
    rows = [
        (
            commit.commit[:10],
            commit.date[:10],
            commit.author,
            commit.subject,
            ", ".join([*commit.touched, *commit.runs]),
            "; ".join(f"{name}: {value}" for name, value in sorted(commit.trailers.items())),
        )
        for commit in pr.lineage
    ]
    return table(Table(("commit", "date", "author", "subject", "touched", "trailers"), rows))


def _value(value: str | None) -> str:
    return "–" if value is None else value


def _digest(value: str | None) -> str:
    return "–" if value is None else shortened(value)


def _command(command: str) -> str:
    return f"<code>{text_of(command)}</code>"


def _fold(title: str, body: str) -> str:
    return f"<details><summary>{text_of(title)}</summary>\n{body}\n</details>"


def _pre(text: str) -> str:
    lines = (text_of(line) for line in printable(text, keep_newlines=True).split("\n"))
    return f'<pre dir="auto">{chr(10).join(lines)}</pre>'


_STYLE = """\
main{max-width:62rem;margin:auto}
.verdict{padding:.7rem 1rem;border-left:.5rem solid #6e7781;background:#6e778118;border-radius:.3rem}
.verdict.good{border-color:#1a7f37;background:#1a7f3718}
.verdict.bad{border-color:#cf222e;background:#cf222e18}
.verdict.unsure{border-color:#9a6700;background:#9a670018}
h2{font-size:1.1rem;overflow-wrap:anywhere}h3{font-size:1rem}h4{margin:.4rem 0;font-size:.85rem}
.facts{list-style:none;padding:0}.facts li{overflow-wrap:anywhere}.facts b{display:inline-block;min-width:4.5rem}
.rows th[scope=row]{font-weight:400;overflow-wrap:anywhere}.failed th,.failed td{font-weight:700!important}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#8881;padding:.5rem;border-radius:.3rem;margin:0;font-size:.85rem}
.sides{display:grid;grid-template-columns:1fr 1fr;gap:.6rem}
@media (max-width:40rem){.sides{grid-template-columns:1fr}}
.sample{border:1px solid #8884;border-radius:.3rem;padding:.4rem .8rem .8rem;margin:.6rem 0}
figure{margin-top:1.2rem}
details{border:1px solid #8884;border-radius:.3rem;padding:.4rem .8rem;margin:.5rem 0}
summary{cursor:pointer;font-weight:600}footer{opacity:.8;font-size:.85rem}
"""
