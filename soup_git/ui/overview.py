"""`/` and `/status`: the branches, and what is checked out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from soup_git.commands.branches import BranchesReport, BranchRow
from soup_git.commands.lock import PinCheck
from soup_git.commands.status import StatusReport
from soup_git.render.report import age
from soup_git.ui.markup import (
    Content,
    Html,
    address,
    chip,
    commit,
    definitions,
    link,
    none_yet,
    table,
    tag,
    together,
)


def overview(found: BranchesReport, state: StatusReport) -> Html:
    more = tag("p", link("/status", "Status in full"), class_="more")
    return together([_state(state), more, tag("h2", "Branches"), _branches(found)])


def _state(state: StatusReport) -> Html:
    # Ten digits of the commit are in the report: as many as `git soup status` prints.
    on = together([state.branch or "detached", " ", tag("code", (state.commit or "-")[:7])])
    return definitions(
        ("Checked out", on),
        ("Adapters", _tally(a.state for a in state.adapters) or "none"),
        ("Data", _tally(d.state for d in state.data)),
        ("Lock", together([chip(state.lock), *_drifted(state)])),
    )


def _drifted(state: StatusReport) -> list[Content]:
    pins = dict.fromkeys(pin.pin for pin in state.pins if pin.state == "drifted")
    return [f" {', '.join(pins)}"] if pins else []


def _tally(states: Iterable[str]) -> Html | None:
    """`2 clean 1 missing`; None of nothing."""
    counts = Counter(states)
    parts = [together([f"{number} ", chip(word), " "]) for word, number in sorted(counts.items())]
    return together(parts) if parts else None


def _branches(found: BranchesReport) -> Html:
    if not found.branches:
        return none_yet("No branch pins anything yet: ", "git soup branch NAME")
    current = next((row.name for row in found.branches if row.current), None)
    header = ("branch", "state", "last eval", "adapters>", "base", "dataset", "config", "commit", "age", "")  # fmt: skip
    rows = (_row(row, current) for row in found.branches)
    return table("Branches", header, rows)


def _row(row: BranchRow, current: str | None) -> list[Content]:
    name = together([row.name, tag("span", "current", class_="chip here") if row.current else None])
    compare = None
    if current is not None and not row.current and row.adapters:
        compare = link(
            address("diff", a=current, b=row.name),
            f"diff with {current}",
            aria_label=f"diff of {row.name} with {current}",
        )
    return [
        name,
        together([chip(row.state), tag("small", f" {row.why}") if row.why else None]),
        row.last_eval.summary() if row.last_eval else "–",
        str(row.adapters),
        row.base or "–",
        row.dataset or "–",
        row.config or "–",
        commit(row.commit),
        age(row.age_seconds),
        compare,
    ]


def _of(pin: PinCheck) -> str:
    if pin.state != "ok":
        return pin.line()
    return pin.source or "" if pin.pin == "config" else ""


def status(state: StatusReport) -> Html:
    parts = [_state(state)]
    for name, lines in (
        ("Adapters", [(a.path, a.state, a.note) for a in state.adapters]),
        ("Data", [(d.path, d.state, d.note) for d in state.data]),
        ("Pins", [(p.pin, p.state, _of(p)) for p in state.pins]),
    ):
        if lines:
            rows = ([path, chip(word), note] for path, word, note in lines)
            parts += [
                tag("h2", name),
                table(name, ("name", "state", "note"), rows, prose=("note",)),
            ]
    if state.notes:
        parts += [tag("h2", "Notes"), tag("ul", *(tag("li", note) for note in state.notes))]
    return together(parts)
