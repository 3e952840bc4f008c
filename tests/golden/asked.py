"""What a golden set is: where its files lie, how a workspace is made of them, what it is asked."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

SETS = Path(__file__).parent
BUNDLE, LOCAL, TEMPLATES, ANSWERS = (
    "workspace.bundle",
    "local.tar.gz",
    "templates.tar.gz",
    "answers",
)

QUESTIONS: dict[str, tuple[str, ...]] = {
    "add": ("add", "adapters/support", "--json"),
    "bisect": ("bisect", "@RUN@", "--eval-command", "sh stopped.sh {ckpt}", "--json"),
    "blame": ("blame", "adapters/support", "--json"),
    "branches": ("branches", "--json"),
    "compared-rows": ("diff", "--data", "start", "HEAD", "--json"),
    "diff": ("diff", "start:adapters/support", "HEAD:adapters/support", "--json"),
    "diff-of-checkpoints": ("diff", "@RUN@@3", "@RUN@", "--json"),
    "diff-of-dora": ("diff", "adapters/dora", "adapters/dora", "--json"),
    "fsck": ("fsck", "--json"),
    "lock": ("lock", "show", "--json"),
    "log": ("log", "--json"),
    "merge": ("merge", "adapters/support", "adapters/tied", "-o", "@OUT@", "--json"),
    "page": ("pr", "Be polite", "--base", "start", "--head", "politer", "--adapter", "adapters/support", "--no-ref", "--json"),
    "show-blend": ("show", "HEAD:adapters/blend", "--json"),
    "show-bf16": ("show", "adapters/bf16", "--json"),
    "show-dora": ("show", "adapters/dora", "--json"),
    "show-loha": ("show", "adapters/loha", "--json"),
    "show-merged": ("show", "HEAD:adapters/support", "--json"),
    "show-patterns": ("show", "adapters/patterns", "--json"),
    "show-run": ("show", "@RUN@@6", "--json"),
    "show-trained": ("show", "output", "--json"),
    "show-whole": ("show", "adapters/whole", "--json"),
    "status": ("status", "--json"),
    "tags": ("tag", "--json"),
    "verify": ("verify", "HEAD", "--adapter", "adapters/blend", "--no-note", "--json"),
    "verify-merge": ("verify", "HEAD", "--adapter", "adapters/support", "--no-note", "--json"),
    "why": ("why", "@RUN@", "--json"),
}  # fmt: skip
"""Name -> the words of a verb that reads what the set holds, in this order."""

Run = Callable[..., Any]


def open_set(folder: Path, root: Path, git: Run, soup: Run) -> None:
    """Make the workspace that a set holds, at `root`, as somebody who clones it has it."""
    git("clone", "-q", folder / BUNDLE, root, cwd=folder)
    refs = ("refs/soup/*", "refs/notes/*", "refs/tags/*")
    git("fetch", "-q", "origin", *(f"+{ref}:{ref}" for ref in refs), cwd=root)
    git("branch", "-q", "politer", "origin/politer", cwd=root)
    unpack(folder / LOCAL, root)
    soup("init", cwd=root)
    soup("checkout", cwd=root)
    assert changed_in(root, git) == []


def changed_in(root: Path, git: Run) -> list[str]:
    """Tracked files that are others now; of a later version, `init` may add attributes."""
    listed = git("status", "--porcelain", "--untracked-files=no", cwd=root).stdout.splitlines()
    return [line for line in listed if line[3:] not in {".gitattributes", ".gitignore"}]


def unpack(archive: Path, root: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(root, filter="data")


def words_of(name: str, run: str, out: Path) -> list[str]:
    """The words of a question, with the run's name and a folder for what it writes."""
    found = {"@RUN@": f"run/{run}", "@OUT@": str(out)}
    pattern = "|".join(found)
    return [re.sub(pattern, lambda mark: found[mark[0]], word) for word in QUESTIONS[name]]


def answered(done: Any, root: Path) -> dict[str, Any]:
    """An answer as it is kept: the exit code and the report, without what is of one moment."""
    try:
        report = json.loads(done.stdout)
    except ValueError:
        report = None
    return {"code": done.returncode, "report": lasting(report, str(root))}


_OF_A_MOMENT = frozenset({"age", "at", "elapsed", "output", "seconds", "soup_version"})


def lasting(value: Any, root: str) -> Any:
    if isinstance(value, dict):
        passing = _OF_A_MOMENT
        if value.get("schema") == "soup.status/1":
            passing |= {"lock"}  # it drifts where the environment does
        if value.get("pin") == "env" and "actual" in value:
            passing |= {"accept", "actual", "state", "why"}  # of the machine that is asked
        return {k: lasting(v, root) for k, v in value.items() if k not in passing}
    if isinstance(value, list):
        return [lasting(v, root) for v in value]
    return value.replace(root, "@ROOT@") if isinstance(value, str) else value
