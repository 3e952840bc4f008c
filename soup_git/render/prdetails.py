"""The folded part of a pull request's Markdown, each fold with what it is cut down to."""

from __future__ import annotations

from collections.abc import Sequence

from soup_git.core.lockdiff import LockDiff
from soup_git.core.pullrequest import AdapterChange, Commit, PullRequest
from soup_git.core.rowdiff import DatasetDiff
from soup_git.core.text import counted, shortened
from soup_git.render import prwords as words
from soup_git.render.blocks import block_map
from soup_git.render.cutting import Part
from soup_git.render.drift import drift_map, drift_table, moved
from soup_git.render.markdown import code, code_in_table, fenced, table_of
from soup_git.render.prsamples import all_samples
from soup_git.render.report import Table

_TOP = 10
_ROWS = (1000, 200, 50, 20)
"""So many rows of a long table, in the order in which it is cut."""


def _fold(title: str, body: str) -> str:
    return f"<details>\n<summary>{title}</summary>\n\n{body}\n</details>\n\n" if body else ""


def _folded(name: str, weight: int, title: str, versions: Sequence[str]) -> list[Part]:
    """A fold that is cut down to nothing in the end; no fold where there is nothing to show."""
    if not versions or not versions[0]:
        return []
    unique = list(dict.fromkeys(versions))
    return [Part(name, weight, [*(_fold(title, version) for version in unique), ""])]


# -- of one adapter ----------------------------------------------------------------------------


def adapter_details(
    adapter: AdapterChange, pr: PullRequest, *, is_one: bool, has_picture: bool
) -> list[Part]:
    of = "" if is_one else " of adapters"
    # Inside <summary> Markdown is not read, so the name is left to the fold's first line.
    lead = "" if is_one else f"{code(adapter.path)}\n\n"
    parts = []
    if adapter.drift is not None and not adapter.drift.equal:
        changed = moved(adapter.layers)
        if len(changed) > _TOP:
            top = drift_table(changed[:_TOP], adapter.drift)
            title = f"Top {_TOP} modules"
            parts += _folded("top modules" + of, 65, title, [lead + _module_table(top)])
        whole = [lead + _module_table(drift_table(changed[:n], adapter.drift)) for n in _ROWS]
        parts += _folded("all modules" + of, 5, f"All {len(changed)} changed modules", whole)
        if has_picture:
            blocks = fenced("\n".join(block_map(drift_map(adapter.layers))))
            parts += _folded("heat map as text" + of, 30, "Heat map as text", [lead + blocks])
    if adapter.samples:
        title = f"All {counted(len(adapter.samples), 'sample')}"
        texts = [lead + text for text in all_samples(adapter, pr)]
        parts += _folded("samples" + of, 10, title, texts)
    if adapter.recipe:
        recipe = fenced("\n".join(adapter.recipe))
        parts += _folded("recipe" + of, 40, "What it was merged from", [lead + recipe])
    return parts


def _module_table(found: Table) -> str:
    rows = [[code_in_table(row[0]), *row[1:]] for row in found.rows]
    rows[-1][0] = "**total**"
    return table_of(found.header, rows)


# -- of the whole request ----------------------------------------------------------------------


def page_details(pr: PullRequest) -> list[Part]:
    config = [
        table_of(("key", "before", "now"), [_config_row(c.key, c.old, c.new) for c in changes])
        for changes in (pr.config_changes, pr.config_changes[:50], pr.config_changes[:15])
        if changes
    ]
    parts = _folded("config", 45, f"Config: {counted(len(pr.config_changes), 'change')}", config)
    for dataset in pr.datasets:
        versions = [_dataset(dataset, width) for width in (160, 60, 0)]
        title = f"Data: {dataset.role}, {words.dataset_words(dataset)}"
        parts += _folded("rows of the data", 15, title, versions)
    if pr.datasets_unknown:
        text = f"The datasets could not be compared: {code(pr.datasets_unknown, 400)}\n"
        parts += _folded("data", 45, "Data: not compared", [text])
    parts += _folded("packages", 20, f"Lock: {_lock_title(pr)}", _lock(pr))
    parts += _folded(
        "lineage", 35, f"Lineage: {counted(len(pr.lineage), 'commit')}",
        [_lineage(pr.lineage[:count]) for count in (500, 60, 15)] if pr.lineage else [],
    )  # fmt: skip
    commands = fenced("\n".join(pr.reproduce), "sh")
    parts.append(Part("", 80, [_fold("How to reproduce", commands)]))
    return parts


def _config_row(key: str, old: str | None, new: str | None) -> list[str]:
    return [code_in_table(key), *("–" if v is None else code_in_table(v, 160) for v in (old, new))]


def _dataset(found: DatasetDiff, width: int) -> str:
    """Counts, and a few rows of each kind as far as there is room for them."""
    sides = [side.path for side in (found.a, found.b) if side.path is not None]
    text = f"{' → '.join(code(path) for path in dict.fromkeys(sides))}\n\n"
    counts = (
        ("duplicates among the added", found.duplicated),
        ("rows that cannot be read", found.b.unreadable),
    )
    text += "".join(f"{count:,} {what}\n\n" for what, count in counts if count)
    if not width:
        return text
    lines = [f"+ {row.text[: 4 * width]}" for row in found.added_rows]
    lines += [f"- {row.text[: 4 * width]}" for row in found.removed_rows]
    for row in found.changed_rows:
        lines.append(f"  {row.by} {row.key[:width]}")
        for change in row.fields:
            lines += [f"- {change.key}: {change.old[:width]}"] if change.old is not None else []
            lines += [f"+ {change.key}: {change.new[:width]}"] if change.new is not None else []
    lines += [f"! {row.place}: {row.problem}" for row in found.b.unreadable_rows]
    return text + (fenced("\n".join(lines), "diff") if lines else "")


def _lock_title(pr: PullRequest) -> str:
    changed = [pin.pin for pin in pr.lock_changes.pins if pin.changed]
    changed += [] if "config" in changed or not pr.lock_changes.inputs else ["config"]
    said = f"{', '.join(changed)} changed" if changed else "no pin changed"
    return f"{said}; head's {words.lock_words(pr).partition(' ')[2]}"


def _lock(pr: PullRequest) -> list[str]:
    found = pr.lock_changes
    rows = [[pin.pin, _digest(pin.old), _digest(pin.new)] for pin in found.pins]
    rows += [[code_in_table(i.pin), _digest(i.old), _digest(i.new)] for i in found.inputs]
    rows += [
        [_fact(f.pin), _value(f.old), _value(f.new)] for f in found.facts if f.pin != "closure"
    ]
    rows += [[code_in_table(a.pin), _digest(a.old), _digest(a.new)] for a in found.adapters]
    text = table_of(("pin", "before", "now"), rows)
    text += "".join(
        f"\n- {mismatch.pin} {code(mismatch.path)}: {code(mismatch.what, 300)}"
        for mismatch in pr.lock.drift
    )
    text += "".join(
        f"\n- {code(path)} has other weights than the lock names" for path in pr.lock.strays
    )
    return [f"{text}\n{_packages(found, count)}" for count in (500, 40, 0)]


def _packages(found: LockDiff, count: int) -> str:
    if found.environment == "digest only":
        return "\nThe environment differs; a lock without the list of packages cannot say how.\n"
    rows = [[code_in_table(p.name), _value(p.old), _value(p.new)] for p in found.packages[:count]]
    left = len(found.packages) - len(rows)
    more = f"\n… {counted(left, 'package')} more differ\n" if left else ""
    return (f"\n{table_of(('package', 'before', 'now'), rows)}" if rows else "") + more


def _fact(name: str) -> str:
    return name.replace("_", " ")


def _digest(value: str | None) -> str:
    return "–" if value is None else f"`{shortened(value)}`" if value.isalnum() else _value(value)


def _value(value: str | None) -> str:
    return "–" if value is None else code_in_table(value, 80)


def _lineage(commits: Sequence[Commit]) -> str:
    rows = [
        [
            commit.commit[:10],
            commit.date[:10] if commit.date[:10].replace("-", "").isdigit() else "",
            code_in_table(commit.author, 40),
            code_in_table(commit.subject, 100),
            ", ".join([*commit.touched, *(code_in_table(run) for run in commit.runs)]),
        ]
        for commit in commits
    ]
    text = table_of(("commit", "date", "author", "subject", "touched"), rows)
    trailers = [
        f"{commit.commit[:10]}  {name}: {value}"
        for commit in commits
        for name, value in sorted(commit.trailers.items())
    ]
    return text + (f"\n{fenced(chr(10).join(trailers))}" if trailers else "")
