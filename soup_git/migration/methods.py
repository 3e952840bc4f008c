"""Training methods by the names that other tools give them, and the options that depend on one."""

from __future__ import annotations

from typing import Any

from soup_git.migration.draft import Draft
from soup_git.migration.rules import number, to
from soup_git.training.tasks import TASKS

BETA = {
    "dpo": "training.dpo_beta",
    "ipo": "training.ipo_tau",
    "bco": "training.bco_beta",
    "kto": "training.kto_beta",
    "orpo": "training.orpo_beta",
    "simpo": "training.trl.beta",
    "cpo": "training.trl.beta",
    "grpo": "training.grpo_beta",
    "rloo": "training.trl.beta",
}
"""Task -> where its beta goes."""

GONE = {
    "ppo": "PPO is gone from TRL; task rloo or grpo with the reward model does its work",
    "gdpo": "GDPO is not offered; task grpo is the closest",
    "ebft": "EBFT is not offered",
}


def choose(draft: Draft, task: str, *where: str) -> bool:
    """Carry the task over, if this version has it."""
    if task in TASKS:
        draft.carry("task", task, *where)
        return True
    why = GONE.get(task, f"this version has no task {task}: {', '.join(TASKS)}")
    draft.lose(why, *where)
    return False


def carry_beta(draft: Draft, value: Any, *where: str) -> None:
    target = BETA.get(draft.task)
    if value is None:
        return
    if target is None:
        draft.lose(f"task {draft.task} has no beta", *where)
    else:
        draft.apply(to(target, number), value, *where)
