"""`git soup bisect log`, `replay` and `reset`: what was asked and told so far."""

from __future__ import annotations

from pathlib import Path

from soup_git.commands.bisectreport import BisectReport, report_of, short
from soup_git.commands.bisectsearch import search_for, tell
from soup_git.core.bisection import Contradiction
from soup_git.core.bisectlog import parse_log
from soup_git.errors import FatalError
from soup_git.storage.bisectlog import BisectLog
from soup_git.storage.files import bytes_of
from soup_git.storage.workspace import Workspace


def log_text(workspace: Workspace) -> str:
    text = BisectLog(workspace.git).text()
    if text is None:
        raise FatalError(
            "no bisection is under way", hint="git soup bisect GOOD..BAD --eval-command '...'"
        )
    return text


def replay(workspace: Workspace, file: Path) -> BisectReport:
    """Judge by a log alone, and put it in place for the same question to go on. Runs nothing."""
    data = bytes_of(file)
    if data is None:
        raise FatalError(f"there is no log {file}", hint="git soup bisect log > FILE writes one")
    logged = parse_log(data, str(file))
    search = search_for(logged.question, None)
    try:
        tell(search, logged.question, logged.told)
    except Contradiction as found:
        names = logged.question.checkpoints
        raise FatalError(
            f"{file} contradicts itself: {short(names[found.bad][0])} is bad, and"
            f" {short(names[found.good][0])} is good",
            hint="remove the verdict that is wrong from it, then replay it again",
        ) from None
    log = BisectLog(workspace.git)
    with log.held():
        log.replace(data[: data.rfind(b"\n") + 1])
    return report_of(logged.question, logged.told, search, search.answer() or search.best_guess())


def reset(workspace: Workspace) -> bool:
    """Forget the bisection that is under way; whether there was one."""
    log = BisectLog(workspace.git)
    with log.held():
        return log.remove()
