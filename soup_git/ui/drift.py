"""`/diff`: a form for two adapter specs, and the drift between them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from soup_git.commands.diff import DriftReport, compare
from soup_git.core.drift import number, percent
from soup_git.core.spec import FolderSpec
from soup_git.core.text import counted
from soup_git.render import html
from soup_git.render.drift import drift_table, moved
from soup_git.storage.files import inside
from soup_git.storage.resolver import path_among, reading_of
from soup_git.storage.workspace import Workspace
from soup_git.ui.markup import Content, Html, definitions, table, tag, together

_SHOWN = 20
_REMEMBERED = 16
_BAR = 120


class Drifts:
    """Computes one diff at a time, whoever asks, and remembers the latest few.

    The other pages are not held up: each request has a thread of its own.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._known: OrderedDict[tuple[str, ...], DriftReport] = OrderedDict()

    def between(self, workspace: Workspace, a: str, b: str, path: str | None) -> DriftReport:
        """As `commands.diff.diff`, of weights that are here: a page that is looked at fetches
        nothing. Raises `FatalError` as that does."""
        for spec in (a, b):
            _refuse_outside(workspace, spec)
        path = path_among(workspace, (a, b), path)
        first, second = (workspace.adapter(spec, path) for spec in (a, b))
        key = (a, b, first.manifest.digest(), second.manifest.digest())
        with self._turn:
            if key not in self._known:
                self._known[key] = compare(first, second)
                while len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)
            return self._known[key]


def _refuse_outside(workspace: Workspace, spec: str) -> None:
    """An address is no command line: of folders, only those of the work tree are read."""
    reading = reading_of(workspace, spec)
    if isinstance(reading, FolderSpec):
        inside(workspace.root, Path(reading.path))


def form(a: str, b: str, path: str, specs: Iterable[str]) -> Html:
    def field(name: str, label: str, value: str, hint: str, *, listed: bool) -> Html:
        return tag(
            "span",
            tag("label", label, for_=f"spec-{name}"),
            tag(
                "input", name=name, id=f"spec-{name}", value=value, placeholder=hint,
                list="specs" if listed else None, required=listed, autocomplete="off",
                spellcheck="false", autocapitalize="none",
            ),
            class_="field",
        )  # fmt: skip

    return tag(
        "form",
        field("a", "From", a, "main~1", listed=True),
        field("b", "To", b, "run/ID@STEP", listed=True),
        field("adapter", "Adapter", path, "the only one", listed=False),
        tag("button", "Diff", type="submit"),
        tag("datalist", *(tag("option", value=spec) for spec in specs), id="specs"),
        action="/diff",
        method="get",
        class_="ask",
    )


def drift(found: DriftReport) -> Html:
    s = found.summary
    if s.equal:
        return tag(
            "p", f"The same adapter: {s.modules} modules, equal weights and config.", class_="none"
        )
    base = s.base_b or "–" if s.base_a == s.base_b else f"{s.base_a or '–'} → {s.base_b or '–'}"
    facts = definitions(
        ("Relative drift", percent(s.relative_drift)),
        ("‖Δ‖", number(s.frobenius)),
        ("Cosine", "–" if s.cosine is None else f"{s.cosine:.3f}"),
        ("Modules", s.counts),
        ("Base", base),
    )
    maps = [Html(html.heat_map(one)) for one in found.heat_maps()]
    notes = [tag("p", note) for note in s.notes]
    return together(
        [facts, *maps, tag("h2", "Modules, the largest drift first"), *_tables(found), *notes]
    )


def _tables(found: DriftReport) -> list[Content]:
    drawing = drift_table(found.layers, found.summary)
    *rows, total = drawing.rows
    drifts = [layer.relative_drift or 0.0 for layer in moved(found.layers)]
    worst = max(drifts, default=0.0) or 1.0
    # The last column's bar is made of letters, for a terminal.
    drawn = [[*row[:-1], _bar(drift / worst)] for row, drift in zip(rows, drifts, strict=True)]
    parts: list[Content] = [
        table("Modules", drawing.header, [*drawn[:_SHOWN], [*total[:-1], None]])
    ]
    if len(drawn) > _SHOWN:
        rest = table("The other modules", drawing.header, drawn[_SHOWN:])
        parts.append(
            tag("details", tag("summary", counted(len(drawn) - _SHOWN, "more module")), rest)
        )
    return parts


def _bar(share: float) -> Html:
    width = _BAR * max(0.0, min(1.0, share))
    return Html(
        f'<svg class="bar" width="{_BAR}" height="10" aria-hidden="true">'
        f'<rect width="{width:.1f}" height="10" rx="2"/></svg>'
    )
