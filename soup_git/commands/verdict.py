"""`git soup merge … --eval SUITE`: did the merge keep what its inputs could?"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from soup_git.commands.eval import EvalRequest, Named, measured, on_base, runner_for
from soup_git.core.digests import sha256_hex
from soup_git.core.manifest import CONFIG, WEIGHTS
from soup_git.core.text import canonical_json
from soup_git.errors import FatalError
from soup_git.render.report import Table
from soup_git.storage.resolver import Adapter
from soup_git.storage.workspace import Workspace

if TYPE_CHECKING:
    from soup_git.evaluation.verdict import Verdict

Judging = Callable[[Path, str], "Verdict"]
"""`judge(folder, md5)`: the verdict on the adapter in a folder, whose weights have this digest."""


def judging(
    workspace: Workspace, adapters: Sequence[Adapter], suite_path: Path, request: EvalRequest
) -> Judging:
    """The judge of a merge of `adapters`. A suite that is wrong is refused now, before the merge.

    What keeps the model from answering later (a base that is not here) makes the verdict
    UNKNOWN: the merge is as good as it is.
    """
    from soup_git.evaluation.candidate import Candidate, of_adapter
    from soup_git.evaluation.runner import refuse_two_loads
    from soup_git.evaluation.suite import load_suite
    from soup_git.evaluation.verdict import judge, unknown

    suite = load_suite(suite_path, workspace.root)
    if len(adapters) > 1:
        refuse_two_loads(
            [(a.spec, a.manifest.base_load.asked_as(request.base_as)) for a in adapters]
        )

    def verdict(folder: Path, md5: str) -> Verdict:
        from safetensors.torch import load_file

        config = (folder / CONFIG).read_bytes()
        made = Candidate(
            "the merge",
            json.loads(config),
            lambda: load_file(folder / WEIGHTS),
            f"{md5}-{sha256_hex(config)}",
        )
        named = [Named(a.spec, a, of_adapter(a)) for a in adapters]
        named.append(Named("the merge", None, made))
        try:
            with runner_for(workspace, named, request, shared=True) as runner:
                if request.base is not None:
                    named = [on_base(one, runner.choice.base) for one in named]
                *inputs, result = [(one.spec, runner.score(one.candidate, suite)) for one in named]
        except FatalError as error:
            return unknown(suite.name, suite.sha256, str(error))
        return judge(suite.name, suite.sha256, dict(inputs), result[1])

    return verdict


def recipe_line(verdict: Verdict) -> str:
    """What the recipe keeps of it: the word and the numbers, no part of what makes the weights."""
    scores = {
        s.name: {
            "verdict": s.verdict,
            "value": _rounded(s.value),
            "best": _rounded(s.best),
            "drop": [_rounded(s.drop), _rounded(s.drop_low), _rounded(s.drop_high)],
        }
        for s in verdict.scores
    }
    body = canonical_json({"suite": verdict.suite, "sha256": verdict.suite_sha, "scores": scores})
    return f"verdict {verdict.verdict} {body}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def tables(verdict: Verdict) -> list[Table | str]:
    """The verdict as people read it."""
    head = f"verdict {verdict.verdict} on suite {verdict.suite}"
    head += f": {verdict.why}" if verdict.why else ""
    rows = [
        (
            s.name,
            measured(s.value, None),
            measured(s.best, None),
            s.best_input or "–",
            _drop(s.drop, s.drop_low, s.drop_high),
            s.verdict,
        )
        for s in verdict.scores
    ]
    header = ("score", "merge>", "best input>", "", "drop, 95%>", "verdict")
    return [head, *([Table(header, rows)] if rows else [])]


def _drop(drop: float | None, low: float | None, high: float | None) -> str:
    if drop is None:
        return "–"
    interval = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * drop:.1f} %{interval}"
