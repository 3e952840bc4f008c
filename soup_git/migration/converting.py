"""The whole way from the text of another tool's config to a soup.yaml, top to bottom."""

from __future__ import annotations

from soup_git.migration import reading, target
from soup_git.migration.draft import BASE, DATA, REWARD, Draft
from soup_git.migration.rules import Tool

REWARDED = ("grpo", "rloo")
"""Tasks that learn from a reward, which soup.yaml must name."""


def convert(
    name: str, text: str, tool: str, beside: reading.Beside, *, check_upstream: bool
) -> tuple[Tool, Draft]:
    """What becomes of the config in `text`, a file called `name` of the tool called `tool`.

    What `Draft.config` gives is a valid soup.yaml; with `check_upstream` for the installed
    TRL, PEFT and transformers too. Raises FatalError for a text that is no such config.
    """
    table, found = reading.read(name, text, tool, beside)
    draft = Draft(found)
    table.decide(found, draft)
    draft.walk(table)
    for key in (BASE, DATA):
        if key not in draft.carried:
            draft.stand_in(key, "the config does not say it", key)
    if draft.task in REWARDED and not {REWARD, "training.reward_model"} & set(draft.carried):
        draft.stand_in(REWARD, "rewards are code: put them into a Python file", REWARD)
    draft.fill_in(table.defaults(draft.task))
    target.settle(draft, table.title, check_upstream=check_upstream)
    return table, draft
