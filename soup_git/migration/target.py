"""soup.yaml, as what is migrated to: which keys it has, what it refuses, how it is written."""

from __future__ import annotations

from collections.abc import Sequence

from soup_git.core.yamllines import Where
from soup_git.migration.draft import STAND_INS, Draft
from soup_git.migration.rules import OFF, Carried, Lost
from soup_git.training import config, configtext
from soup_git.training.configtext import Line

_FREE = ("training.trl.", "training.lora.peft.")
"""Blocks whose keys are TRL's and PEFT's."""


def has_key(key: str) -> bool:
    return key in configtext.all_keys() or key.startswith(_FREE)


def settle(draft: Draft, title: str, *, check_upstream: bool) -> None:
    """Take out, with the reason, whatever soup.yaml would refuse, until it refuses nothing."""
    for unknown in [to for to in draft.carried if not has_key(to)]:
        if draft.carried[unknown].value in OFF:
            del draft.carried[unknown]
        else:
            draft.refuse(unknown, "this version of git-soup has no such option", title)
    while True:
        problems = config.problems_of(draft.config(), check_upstream=check_upstream)
        if not problems:
            return
        taken_out = set()
        for where, what in problems:
            blamed = _carried_at(draft, where)
            if blamed is None or blamed in taken_out:
                continue
            taken_out.add(blamed)
            if draft.carried[blamed].value in OFF and "no such option" in what:
                del draft.carried[blamed]  # nothing is lost with what is switched off
            else:
                draft.refuse(blamed, what, title)
        if not taken_out:
            said = "; ".join(f"{'.'.join(map(str, where))}: {what}" for where, what in problems)
            raise AssertionError(f"soup.yaml refuses what nothing was carried into: {said}")


def _carried_at(draft: Draft, where: Where) -> str | None:
    """The carried key at, above or below a place that soup.yaml complains about."""
    at = ".".join(map(str, where))
    near = [to for to in draft.carried if _is_of(at, to) or _is_of(to, at)]
    changeable = [to for to in near if draft.carried[to].value != STAND_INS.get(to)]
    return max(changeable, key=len, default=None)


def _is_of(key: str, block: str) -> bool:
    return key == block or key.startswith(f"{block}.")


def text_of(draft: Draft, lost: Sequence[Lost], head: Sequence[str]) -> str:
    """The soup.yaml, with what changes training and is not in it on top, refused values as comments."""
    changes = [f"  {item.place}: {item.key}: {item.why}" for item in lost if item.changes_training]
    lines = [Line(e.to, e.value, _comment(e)) for e in draft.carried.values()]
    lines += [Line(e.to, e.value, "refused, see above", live=False) for e in draft.refused]
    return configtext.written(lines, [*head, *changes])


def _comment(entry: Carried) -> str:
    if entry.key:
        return ""
    return "fill in" if entry.value == STAND_INS.get(entry.to) else "the default there"
