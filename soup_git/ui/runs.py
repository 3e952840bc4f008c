"""`/runs` and `/runs/ID`: training runs, and the loss of one."""

from __future__ import annotations

from collections.abc import Iterator

from soup_git.commands.runs import RunReport, RunRow, RunsReport, loss_text, rate_text
from soup_git.core.durations import spoken
from soup_git.render import html
from soup_git.render.chart import spark
from soup_git.ui.markup import (
    Content,
    Html,
    address,
    commit,
    definitions,
    link,
    moment,
    none_yet,
    table,
    tag,
    together,
)


def runs(found: RunsReport) -> Html:
    if not found.runs:
        return none_yet("No training run is recorded here yet: ", "git soup train")
    header = ("run", "loss", "last loss>", "step>", "checkpoints>", "adapter", "last checkpoint", "commit")  # fmt: skip
    return table("Runs", header, (_run_row(row) for row in found.runs))


def _run_row(row: RunRow) -> list[Content]:
    losses = [loss for loss in row.losses if loss is not None]
    return [
        link(address("runs", row.run), row.run),
        Html(spark(losses, f"loss at {len(losses)} checkpoints of {row.run}")),
        loss_text(row.loss),
        str(row.step),
        str(row.checkpoints),
        row.adapter,
        moment(row.date),
        commit(row.commit),
    ]


def run(found: RunReport) -> Html:
    last = found.checkpoints[-1]
    elapsed = last.elapsed_seconds
    facts = definitions(
        ("Last loss", loss_text(last.loss)),
        ("Steps", str(last.step)),
        ("Trained for", "–" if elapsed is None else spoken(elapsed)),
        ("Adapter", found.adapter),
        ("Launched from", commit(found.launched_from) if found.launched_from else None),
    )
    parts: list[Content] = [facts, *(Html(html.figure(chart)) for chart in found.charts())]
    if len(found.checkpoints) > 1:
        parts.append(_choice(found))
    return together([*parts, tag("h2", "Checkpoints"), _checkpoints(found)])


def _choice(found: RunReport) -> Html:
    """Any two checkpoints, by a form that needs no script."""
    specs = [f"run/{found.run}@{c.step}" for c in found.checkpoints]

    def picked(name: str, label: str, chosen: str) -> Html:
        options = (
            tag("option", spec.rpartition("@")[2], value=spec, selected=spec == chosen)
            for spec in specs
        )
        select = tag("select", *options, name=name, id=f"pick-{name}")
        return tag("span", tag("label", label, for_=f"pick-{name}"), select, class_="field")

    return tag(
        "form",
        picked("a", "From step", specs[0]),
        picked("b", "to step", specs[-1]),
        tag("button", "Diff", type="submit"),
        action="/diff",
        method="get",
        class_="ask",
    )


def _checkpoints(found: RunReport) -> Html:
    header = ("step>", "loss>", "learning rate>", "trained for>", "commit", "diff")
    return table("Checkpoints", header, _checkpoint_rows(found))


def _checkpoint_rows(found: RunReport) -> Iterator[list[Content]]:
    """The latest first, as a run is looked at."""
    pairs = zip((None, *found.checkpoints), found.checkpoints, strict=False)
    for before, c in reversed(list(pairs)):
        compare = None
        if before is not None:
            a, b = (f"run/{found.run}@{one.step}" for one in (before, c))
            words = f"with step {before.step}"
            compare = link(
                address("diff", a=a, b=b), words, aria_label=f"diff of step {c.step} {words}"
            )
        yield [
            str(c.step),
            loss_text(c.loss),
            rate_text(c.learning_rate),
            "–" if c.elapsed_seconds is None else spoken(c.elapsed_seconds),
            commit(c.commit),
            compare,
        ]
