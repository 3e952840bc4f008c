"""`/graph`: what `git soup log --all` lists, with its lanes drawn beside it."""

from __future__ import annotations

from soup_git.commands.log import LogCommit, LogReport
from soup_git.core.text import counted
from soup_git.render import lanes
from soup_git.ui.markup import Content, Html, address, commit, link, tag, together

MARKS = {"branched": "ring", "pinned": "ring", "joined": "diamond", "merged": "diamond"}
"""Kinds of commits that are not drawn as a dot: they hold no weights, or several lines'."""


def graph(found: LogReport, limit: int) -> Html:
    """The lanes are for the eye; each row says in words what its commit did, and after what."""
    if not found.commits:
        return tag("p", "No commit here changed an adapter yet.", class_="none")
    knots = [lanes.Knot(c.commit, c.parents, MARKS.get(c.kind, "dot")) for c in found.commits]
    title = f"Lineage of {counted(len(knots), 'commit')}; the list beside it says the same in words"
    listed = tag("ol", *(_row(c) for c in found.commits), class_="commits")
    return together(
        [
            _legend(),
            tag(
                "div",
                tag("div", Html(lanes.svg(knots, title)), listed, class_="lineage"),
                class_="wide",
                tabindex=0,
                role="group",
                aria_label="Lineage",
            ),
            _older(len(knots), limit),
        ]
    )


def _legend() -> Html:
    def mark(kind: str) -> Html:
        shape = (
            '<path class="diamond" d="M8 1l7 7l-7 7l-7 -7z"/>'
            if kind == "diamond"
            else f'<circle class="{kind}" cx="8" cy="8" r="5.5"/>'
        )
        drawing = f'<svg class="key" viewBox="0 0 16 16" width="14" height="14" aria-hidden="true">{shape}</svg>'
        return Html(drawing)

    parts = (("ring", "pinned"), ("dot", "trained or added"), ("diamond", "merged"))
    return tag(
        "p", *(tag("span", mark(kind), f" {words}") for kind, words in parts), class_="legend-line"
    )


def _row(found: LogCommit) -> Html:
    names = (tag("span", name, class_=_kind_of_name(name)) for name in found.refs)
    runs = sorted({step.run for step in found.adapters if step.run})
    parents = ", ".join(parent[:7] for parent in found.parents)
    first: list[Content] = [tag("b", found.kind), _adapters(found), *names]
    second: list[Content] = [
        commit(found.commit),
        tag("span", found.subject, class_="subject"),
        tag("span", found.author),
        tag("time", found.date[:10], datetime=found.date),
        *(link(address("runs", run), f"run/{run}") for run in runs),
        tag("span", found.evaluated, class_="score") if found.evaluated else None,
        tag("span", f"after {parents}" if parents else "the first", class_="after"),
    ]
    return tag("li", tag("p", *_spaced(first)), tag("p", *_spaced(second), class_="small"))


def _adapters(found: LogCommit) -> Html | None:
    if not found.adapters:
        return None
    names = [step.path for step in found.adapters]
    more = f" +{len(names) - 2} more" if len(names) > 2 else ""
    return tag("span", ", ".join(names[:2]) + more, class_="adapters")


def _kind_of_name(name: str) -> str:
    if name.startswith("tag: "):
        return "chip tag"
    return "chip here" if name.startswith("HEAD") else "chip plain"


def _spaced(parts: list[Content]) -> list[Content]:
    """A space between, for whoever reads without the style."""
    return [item for part in parts if part is not None for item in (part, " ")]


def _older(shown: int, limit: int) -> Html | None:
    if shown < limit:
        return None
    more = link(address("graph", limit=str(2 * limit)), f"Show {2 * limit}")
    return tag("p", f"The newest {limit} commits. ", more, class_="more")
