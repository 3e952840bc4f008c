"""`python -I -m soup_git.action STEP`: one step of `action.yml`."""

from __future__ import annotations

import sys
from collections.abc import Callable

from soup_git.action import review, runner
from soup_git.action.job import Job, job_here
from soup_git.errors import ExitCode, FatalError, run_to_exit_code


def _post(job: Job) -> int:
    from soup_git.action.posting import post_artifact

    return post_artifact(job)


STEPS: dict[str, Callable[[Job], int]] = {
    "fetch": review.fetch,
    "check": review.check,
    "gate": review.gate,
    "render": review.render,
    "comment": review.comment,
    "finish": review.finish,
    "post": _post,
}


def main(arguments: list[str]) -> int:
    """Runs the step with the runner deaf, then says on the run's page what went wrong."""
    job = job_here()
    runner.mask(job.token)
    step = STEPS[arguments[0]]
    if arguments[0] == "finish":
        return run_to_exit_code(lambda: step(job))
    wrong: list[FatalError] = []

    def told() -> int:
        try:
            return step(job)
        except FatalError as error:
            wrong.append(error)
            raise

    with runner.unheard():
        code = run_to_exit_code(told)
    for error in wrong:
        runner.annotate("error", "git-soup", f"{error}\nhint: {error.hint}")
    return code if code != ExitCode.OK else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
