"""Sample outputs that an evaluation left in the score cache: both sides' answers to a suite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from soup_git.commands.compare import in_words
from soup_git.commands.eval import EvalRequest, Named, runner_for
from soup_git.commands.prscores import Side
from soup_git.core.prfiles import MAX_SAMPLES, cut_sample
from soup_git.core.pullrequest import SamplePair, Scores
from soup_git.errors import FatalError
from soup_git.evaluation.candidate import of_adapter
from soup_git.evaluation.pinnedsuite import suite_at
from soup_git.evaluation.runner import Runner
from soup_git.evaluation.suite import Suite
from soup_git.storage.resolver import refuse_changed_weights
from soup_git.storage.workspace import Workspace


def remembered(
    workspace: Workspace, before: Side, after: Side, scores: Sequence[Scores]
) -> list[SamplePair]:
    """What both adapters answered to the suites that were scored, as far as it is still known.

    No model is loaded. What cannot be known here (weights that are elsewhere, a base that is
    not on this machine) is as if nobody had asked.
    """
    suites = [one.source for one in scores if one.suite_sha is not None]
    if not suites or before.manifest is None or after.manifest is None:
        return []
    try:
        named = [_named(workspace, side) for side in (before, after)]
        with runner_for(workspace, named, EvalRequest([], workspace.root)) as runner:
            found = [
                pair
                for path in suites
                if (suite := suite_at(workspace, after.snapshot, path)) is not None
                for pair in _of_suite(runner, suite, named)
            ]
    except FatalError:
        return []
    return list(dict.fromkeys(found))[:MAX_SAMPLES]


def _named(workspace: Workspace, side: Side) -> Named:
    adapter = side.loose or workspace.adapter(side.commit, side.folder)
    refuse_changed_weights(workspace, adapter)
    return Named(side.name, adapter, of_adapter(adapter))


def _of_suite(runner: Runner, suite: Suite, named: Sequence[Named]) -> Iterator[SamplePair]:
    cache = runner.cache
    runner.use_template(suite.file.chat_template)
    for task in suite.tasks:
        # A scorer of the workspace's own has its source beside the suite, which is gone by now.
        if cache is None or task.scoring.startswith("python:"):
            continue
        questions = [runner.question(one.candidate, task) for one in named]
        answers = [None if asked is None else cache.answers(asked) for asked in questions]
        first, second = answers
        if first is None or second is None:
            continue
        for row, one, two in zip(task.rows, first, second, strict=False):
            yield SamplePair(cut_sample(in_words(row.prompt)), one, two)
