"""The parts of the manual that no command tree holds: exit status, files, examples."""

from __future__ import annotations

from soup_git.errors import ExitCode

PURPOSE = "git for fine-tuned adapters, as real git"

DESCRIPTION = """\
git soup keeps LoRA and other PEFT adapters, their datasets and their training configs in a git
repository. Commits, branches and tags are git's own; weights and large data lie in DVC's cache and
travel through DVC's remotes; soup.lock pins config, dataset, base model and environment, and a
commit or a checkout that no longer agrees with its lock is refused.

An adapter is named by a SPEC: a folder that exists (./DIR forces this reading); a revision REV that
has one adapter, or whose tag or soup.yaml says which, or of which one alone differs in a comparison,
or any with --adapter PATH; REV:PATH; run/ID@STEP, a checkpoint of a training run, and run/ID, its
last one.

The report goes to stdout and nothing else does; talk, progress and warnings go to stderr. A fatal
error is followed by a line that starts with hint: and holds the next command to type.
"""

EXIT_STATUS = {
    ExitCode.OK: "Success, and nothing to report.",
    ExitCode.CHECK_FAILED: "A check failed: different, conflict, gate failed, unhealthy.",
    ExitCode.DRIFT: "Drift: what is pinned and what is there disagree. Of a bisection: the first"
    " bad one was found.",
    ExitCode.CANNOT_JUDGE: "This revision cannot be judged (in a step of a bisection).",
    ExitCode.FATAL: "Fatal: bad input, a missing object, a broken setup, or a bug in git-soup.",
    ExitCode.USAGE: "Wrong usage.",
    ExitCode.INTERRUPTED: "Interrupted.",
}

FILES = {
    "soup.yaml": "The training config.",
    "soup.lock": "The pins: base_model, dataset, env and config, and the closure over the first"
    " three.",
    "DIR/adapter_config.json": "PEFT's own config of an adapter; in git.",
    "DIR/adapter.manifest": "One line for each tensor of an adapter; in git, so that git diff, git"
    " blame and git log -L answer for weights.",
    "DIR/adapter_model.safetensors": "The weights; ignored by git, in DVC's cache.",
    "DIR/adapter_model.safetensors.dvc": "DVC's pointer to the weights; in git.",
    "dvc.yaml": "The pipeline: dvc repro trains what soup.yaml says.",
    "metrics.json, plots/": "Numbers and curves of the last training; in git.",
    ".dvc/cache": "Weights and datasets by digest, in DVC's own layout.",
    "GIT_DIR/SOUP_BISECT_LOG": "The log of the last git soup bisect.",
    "refs/soup/": "Training runs and the index of locks; git fetch and git push move them.",
    "refs/notes/soup": "Evaluation results and verdicts of bisections, on the commits that they"
    " belong to.",
}

EXAMPLES = (
    ("Make the repository you are in a workspace", ("git soup init", "git commit -m 'Start'")),
    (
        "Track an adapter that PEFT wrote",
        ("git soup add adapters/support", "git commit -m 'Track support'"),
    ),
    (
        "Pin config, dataset, base model and environment on a branch, and go there",
        ("git soup branch politer -c soup.yaml", "git soup checkout politer"),
    ),
    ("Ask whether anything that is pinned has moved", ("git soup lock check",)),
    (
        "Train an adapter, and prove that it can be made again",
        ("git soup init --template chat", "dvc repro", "git soup verify"),
    ),
    (
        "See what changed between two adapters, and combine them",
        ("git soup diff main politer", "git soup merge main politer -o adapters/both"),
    ),
    (
        "Find the commit since which an eval fails",
        ("git soup bisect v1.0..main --eval-command 'python eval.py {ckpt}'",),
    ),
)

SEE_ALSO = ("git(1)", "gitrevisions(7)", "githooks(5)", "gitattributes(5)")
