"""The steps of a review: history, lock, suite, page, comment, and the end that it comes to."""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from soup_git.action import runner
from soup_git.action.job import COMMENT, POSTING, Found, Job
from soup_git.core.lock import LOCK
from soup_git.core.pullrequest import NOTHING, READY, STOP
from soup_git.core.text import printable
from soup_git.errors import ExitCode, FatalError
from soup_git.forge import comments
from soup_git.forge.api import api_for
from soup_git.forge.client import Client
from soup_git.render.report import say
from soup_git.storage import gitremote
from soup_git.storage.deepening import fetch_to_merge_base
from soup_git.storage.exchange import notes_copy, refspecs, remote_named
from soup_git.storage.files import write_atomically
from soup_git.storage.gitrepo import GitRepo
from soup_git.storage.notes import merge_notes
from soup_git.storage.workspace import Workspace


def fetch(job: Job) -> int:
    """Base, head and what lies between, runs, locks, pages and notes: also in a shallow clone."""
    change, git = job.change, GitRepo.discover(Path.cwd())
    remote = remote_named(git, None, push=False)

    def bring() -> str:
        base = fetch_to_merge_base(git, remote, change.base, change.head)
        gitremote.fetch(git, remote, refspecs(remote))
        return base

    try:
        merge_base = bring()
    except FatalError:
        # actions/checkout may have taken its token out again.
        if not _speaks_for(job, git, remote):
            raise
        _use_token(job)
        merge_base = bring()
    merge_notes(git, notes_copy(remote))
    # Another use of the action in this job left its own.
    shutil.rmtree(job.page, ignore_errors=True)
    job.keep(Found(merge_base=merge_base))
    return ExitCode.OK


def _speaks_for(job: Job, git: GitRepo, remote: str) -> bool:
    """Whether the job's token is one for the remote's server."""
    url = urlsplit(git.text("remote", "get-url", remote))
    return bool(job.token) and url.scheme == "https" and url.hostname == job.repository.host


def _use_token(job: Job) -> None:
    """Let git send the token to the server, and to no other; it is on no command line."""
    login = base64.b64encode(f"x-access-token:{job.token}".encode()).decode()
    runner.mask(login)
    os.environ |= {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"http.https://{job.repository.host}/.extraheader",
        "GIT_CONFIG_VALUE_0": f"AUTHORIZATION: basic {login}",
    }


def check(job: Job) -> int:
    """soup.lock of the head against the head's own files; the environment is information."""
    from soup_git.commands.lock import Overrides, check_pins

    workspace = Workspace.open()
    snapshot = workspace.at(job.change.head)
    lock = snapshot.lock
    found = job.found()
    found.drift = []
    if lock is None:
        say(f"there is no {LOCK}: nothing is pinned")
    else:
        pins = check_pins(workspace, lock, snapshot, Overrides(), counts_env=False, staged=True)
        for pin in pins:
            say(printable(pin.line()))
        found.drift = [pin.line() for pin in pins if pin.state == "drifted"]
    job.keep(found)
    runner.set_outputs({"drift": str(bool(found.drift)).lower()})
    return ExitCode.OK


def gate(job: Job) -> int:
    """Ask the suite: the scores go into the notes, where the page finds them."""
    from soup_git.commands.eval import EvalRequest, evaluate
    from soup_git.commands.gate import gate as decide
    from soup_git.render.report import as_table

    found, workspace = job.found(), Workspace.open()
    adapter = job.input("adapter")
    spec = f"{job.change.head}:{adapter}" if adapter else job.change.head
    baseline = job.input("baseline") or _baseline(workspace, found.merge_base, adapter)
    request = EvalRequest(
        [spec], Path(job.input("suite")), baseline, job.input("base-model") or None
    )
    found.gate = "unknown"
    try:
        evaluate(workspace, request)
        report, _ = decide(workspace, request)
    except FatalError as error:
        found.failures.append((f"the suite could not be asked: {error}", error.hint))
    else:
        found.gate = report.verdict
        say(as_table(report))
    job.keep(found)
    runner.set_outputs({"gate": found.gate})
    return ExitCode.OK


def _baseline(workspace: Workspace, merge_base: str, adapter: str) -> str | None:
    """The adapter as it was before the branch, where there was one."""
    there = workspace.at(merge_base).adapters
    if adapter:
        return f"{merge_base}:{adapter}" if adapter in there else None
    return merge_base if len(there) == 1 else None


def render(job: Job) -> int:
    """The page, for the artifact, the job's summary and the comment."""
    from soup_git.commands.pr import PrRequest, pull_request
    from soup_git.commands.prpage import page_files
    from soup_git.render.prmarkdown import as_markdown_page

    change, found, workspace = job.change, job.found(), Workspace.open()
    slug = f"pr-{change.number}" if change.number else None
    pr = pull_request(
        workspace,
        PrRequest(
            job.input("title") or change.title or None, change.base, change.head,
            job.input("adapter") or None, slug=slug,
            base_name=change.base_branch, head_name=change.head_branch,
        ),
    )  # fmt: skip
    name, run = job.input("artifact-name"), job.run_url(job.environment.get("GITHUB_RUN_ID", ""))
    text = as_markdown_page(pr, kept=f"the artifact `{name}` of [its run]({run})")
    job.page.mkdir(parents=True, exist_ok=True)
    for file, data in page_files(pr).items():
        write_atomically(job.page / file, data)
    write_atomically(job.page / COMMENT, text.encode("utf-8", "backslashreplace"))
    posting = {"schema": "soup.posting/1", "number": change.number, "judged": bool(pr.adapters)}
    write_atomically(job.page / POSTING, json.dumps(posting).encode())
    found.verdict, found.verdict_line = pr.verdict.word, pr.verdict.line
    found.has_adapters = bool(pr.adapters)
    job.keep(found)
    runner.add_to_summary(text)
    files = {"page": job.page / COMMENT, "html": job.page / "pr.html", "data": job.page / "pr.json"}
    runner.set_outputs(
        {"verdict": pr.verdict.word, "folder": str(job.page)}
        | {key: str(path) for key, path in files.items()}
    )
    return ExitCode.OK


def comment(job: Job) -> int:
    """One comment with the page, where the job may write one."""
    found, change = job.found(), job.change
    if not job.is_on("comment") or not change.number:
        return ExitCode.OK
    if change.is_fork:
        say(
            "a fork's job has no token that can comment; docs/howto/github.md has the workflow that does"
        )
        return ExitCode.OK
    text = (job.page / COMMENT).read_text("utf-8")
    try:
        # A pull request that touches no adapter gets no comment, unless it has one already.
        how = comments.post if found.has_adapters or found.drift else comments.refresh
        posted = how(client_of(job), change.number, f"pr-{change.number}", text)
    except FatalError as error:
        found.failures.append((f"the page was not posted: {error}", error.hint))
    else:
        found.comment_url = posted.url if posted else ""
        say(f"comment {posted.state}: {posted.url}" if posted else "nothing to say in a comment")
    job.keep(found)
    runner.set_outputs({"comment-url": found.comment_url})
    return ExitCode.OK


def client_of(job: Job) -> Client:
    # The input's token, whatever other tokens the workflow has in its environment.
    names = ("GITHUB_TOKEN", "GITHUB_API_URL", "GITHUB_SERVER_URL")
    sender = api_for(job.repository, {name: job.environment.get(name, "") for name in names})
    if sender is None:
        raise FatalError("there is no token to comment with", hint="token: ${{ github.token }}")
    return Client(sender, job.repository)


def finish(job: Job) -> int:
    """Fail for the right reason, now that everybody can read why."""
    found = job.found()
    failed = found.gate == "failed" or found.verdict == STOP
    if failed:
        words = found.verdict_line if found.verdict == STOP else "the suite's gate failed"
        runner.annotate("error", "do not merge", words)
    for line in found.drift or []:
        runner.annotate("error", "soup.lock drifted", f"{line}; git soup lock write to accept it")
    for what, how in found.failures:
        runner.annotate("error", "git-soup", f"{what}\nhint: {how}" if how else what)
    if found.drift:
        return ExitCode.DRIFT
    if failed:
        return ExitCode.CHECK_FAILED
    if found.failures or found.drift is None or not found.verdict:
        return ExitCode.FATAL
    is_fine = found.verdict in {READY, NOTHING}
    runner.annotate("notice" if is_fine else "warning", "git soup pr", found.verdict_line)
    return ExitCode.OK
