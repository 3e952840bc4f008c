"""The step that asks a suite on the real model, and what the page and the end make of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from soup_git.action import review
from soup_git.action.job import Found, Job
from tests.commands.test_eval import judged, pytestmark, template
from tests.conftest import Run

__all__ = ["judged", "pytestmark", "template"]


@pytest.fixture
def job(judged: Path, git: Run, tmp_path: Path) -> Job:
    """A review of the last commit, after its history was fetched and its lock checked."""
    base, head = (git("rev-parse", name, cwd=judged).stdout.strip() for name in ("HEAD~1", "HEAD"))
    event = {"pull_request": {
        "number": 3, "title": "Second", "base": {"sha": base, "ref": "main"},
        "head": {"sha": head, "ref": "second"},
    }}  # fmt: skip
    (tmp_path / "event.json").write_text(json.dumps(event))
    made = Job({
        "GITHUB_EVENT_NAME": "pull_request", "GITHUB_EVENT_PATH": str(tmp_path / "event.json"),
        "GITHUB_REPOSITORY": "acme/adapters", "RUNNER_TEMP": str(tmp_path / "temp"),
        "SOUP_SUITE": "eval/suite.yaml",
    })  # fmt: skip
    made.keep(Found(merge_base=base, drift=[]))
    return made


def test_the_suite_is_asked_and_the_page_shows_it(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    assert review.gate(job) == 0
    assert review.render(job) == 0
    found = job.found()
    assert found.gate in {"passed", "failed"}
    page = (job.page / "comment.md").read_text()
    assert "fit.loss" in page
    assert "words.overlap" in page
    is_worse = found.gate == "failed"
    assert review.finish(job) == (1 if is_worse else 0)
    closing = capsys.readouterr().out.splitlines()[-1]
    assert closing.startswith("::error title=do not merge::" if is_worse else "::")


def test_a_suite_that_cannot_be_asked_fails_the_job_at_its_end(
    job: Job, judged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (judged / "eval" / "suite.yaml").write_text(
        "tasks: [{name: a, prompts: gone.jsonl, scoring: loss}]"
    )
    assert review.gate(job) == 0
    assert review.render(job) == 0, "the page goes on without it"
    assert job.found().gate == "unknown"
    assert review.finish(job) == 128
    assert "::error title=git-soup::the suite could not be asked: " in capsys.readouterr().out
