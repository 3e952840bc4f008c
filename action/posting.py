"""The step with a token that can write, for pull requests of forks: it runs none of their code.

The job that read the fork's files had no such token; what it left, an artifact, was made by
code of the fork's choosing. So the pull request is found from the event alone, and the page
is text of a stranger.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from soup_git.action import runner
from soup_git.action.job import COMMENT, POSTING, SHA, Job
from soup_git.action.review import client_of
from soup_git.core.text import printable
from soup_git.errors import ExitCode, FatalError
from soup_git.forge import comments, pulls
from soup_git.render.foreign import cut_at_line, defused
from soup_git.render.report import say

_MOST_BYTES = 64 << 10
_LONGEST = comments.LONGEST_COMMENT - 200


def post_artifact(job: Job) -> int:
    """Post the page of the run that the event names, on the pull request that the run was for."""
    run = _run(job)
    text = _read(job.folder / "artifact" / COMMENT, _MOST_BYTES)
    posting = _posting(_read(job.folder / "artifact" / POSTING, 1024))
    client = client_of(job)
    owner, whole = run["owner"], run["repository"]
    open_ones = [
        pull for pull in pulls.of_branch(client, owner, run["branch"])
        if pull.head_sha == run["sha"] and pull.head_repository == whole.lower()
    ]  # fmt: skip
    if not open_ones:
        say("the pull request was closed, or has other commits by now: their run comments")
        return ExitCode.OK
    # One branch can be in several pull requests; each had a run of its own.
    found = next((pull for pull in open_ones if pull.number == posting["number"]), None)
    if found is None:
        listed = ", ".join(f"#{pull.number}" for pull in open_ones)
        raise FatalError(
            f"the artifact is for #{posting['number']}, but its run was for {listed}: nothing was posted",
            hint=f"{job.run_url(run['id'])} shows what made it",
        )
    head = (
        f"> Made by [a run]({job.run_url(run['id'])}) of code from the fork"
        f" `{whole}`, at `{run['sha'][:10]}`: its numbers are the fork's own word.\n\n"
    )
    page = cut_at_line(head + defused(text), _LONGEST, "\nCut: the whole is in the artifact.\n")
    how = comments.post if posting["judged"] else comments.refresh
    posted = how(client, found.number, f"pr-{found.number}", page)
    if posted is not None:
        say(f"comment {posted.state}: {posted.url}")
    runner.set_outputs({"comment-url": posted.url if posted else ""})
    return ExitCode.OK


def _run(job: Job) -> dict[str, str]:
    """What GitHub says of the run that made the artifact: id, commit, branch, repository."""
    run: Any = job.event.get("workflow_run")
    if job.event_name != "workflow_run" or not isinstance(run, dict):
        raise FatalError(
            "mode: comment is for the event workflow_run",
            hint="examples/github/comment.yml is a workflow for it",
        )
    if run.get("event") != "pull_request":
        raise FatalError(
            "the run was not for a pull request",
            hint="if: github.event.workflow_run.event == 'pull_request'",
        )
    head = run.get("head_repository") or {}
    owner, name = (head.get("owner") or {}).get("login"), head.get("full_name")
    found = {
        "id": str(run.get("id")), "sha": run.get("head_sha"), "branch": run.get("head_branch"),
        "owner": owner, "repository": name,
    }  # fmt: skip
    values = {key: value for key, value in found.items() if isinstance(value, str) and value}
    if values.keys() != found.keys():
        raise FatalError(
            "the fork is gone, and its pull request with it", hint=job.run_url(str(run.get("id")))
        )
    if not SHA.fullmatch(values["sha"]) or not values["id"].isdecimal():
        raise FatalError("the event names no run and no commit", hint="on: workflow_run")
    return values


def _posting(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    number = data.get("number") if isinstance(data, dict) else None
    if (
        not isinstance(number, int)
        or isinstance(number, bool)
        or data.get("judged") not in {True, False}
    ):
        raise FatalError(
            f"the artifact's {POSTING} cannot be read", hint="the run that made it tells"
        )
    return {"number": number, "judged": data["judged"]}


def _read(path: Path, most: int) -> str:
    """A small text file; no link, no device, nothing that is not UTF-8."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise FatalError(
            f"the artifact has no file {path.name}: {error.strerror}",
            hint="the run that made it tells",
        ) from None
    with os.fdopen(descriptor, "rb") as file:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        data = file.read(most + 1) if is_file else b""
    if not is_file or len(data) > most:
        raise FatalError(
            f"the artifact's {path.name} is no file of at most {most} bytes",
            hint="the run that made it tells",
        )
    return printable(data.decode("utf-8", "replace"), keep_newlines=True)
