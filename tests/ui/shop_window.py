"""A workspace to look at in a browser: adapters, a run, notes, a stored page, and hostile names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.conftest import Run, runner, write_adapter

ADAPTER = "adapters/support"
RUN = "2026-01-02-a"
STOPPED = "2026-01-02-b"
STEPS = {50: 0.3884, 100: 0.1073, 150: 0.0589}
CURVE = [(25, 1.25), (50, 0.3884), (75, 0.2), (100, 0.1073), (125, 0.08), (150, 0.0589)]
PAGE = "politer-answers"

TAG = '<script>window.pwned=1</script><img src="http://evil.example/x" onerror="window.pwned=1">'
ESCAPES = "\x1b[31mred\x1b]8;;http://evil.example\x07 \u202egnp.exe"
HOSTILE_BRANCH = "x<script>window.pwned=1<'\"&\u202e>"
STORED = f"""<!doctype html><html><head><meta http-equiv="refresh" content="0;url=http://evil.example/">
<style>body{{font-family:sans-serif}}</style></head><body><h1>Stored page</h1>{TAG}
<script>top.location='http://evil.example/'; document.title='pwned'</script>
<form action="http://evil.example/"><button id="send">Send</button></form>
<a id="up" target="_top" href="http://evil.example/">Up</a></body></html>
"""


def build(template: Path, root: Path) -> Path:
    """Fill a copy of `template`, a fresh workspace, and return it."""
    shutil.copytree(template, root, symlinks=True)
    git, soup = runner("git", cwd=root), runner("git", "soup", cwd=root)
    (root / "data").mkdir()
    (root / "data" / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (root / "soup.yaml").write_text("base: tiny/base\ndata:\n  train: data/train.jsonl\n")
    write_adapter(root / ADAPTER, layers=12)
    soup("add", ADAPTER)
    soup("lock", "write", "--base-sha", "a" * 64)
    git("add", "--all")
    git("commit", "-qm", "Add the support adapter")
    git("tag", "-a", "support/v1", "-m", "The first")
    git("switch", "-qc", "politer")
    write_adapter(root / ADAPTER, seed=1, layers=12, scale=0.5)
    soup("add", ADAPTER)
    soup("lock", "write", "--base-sha", "a" * 64)
    git("commit", "-qam", f"Retrain {TAG} {ESCAPES}", env={"GIT_AUTHOR_NAME": ESCAPES})
    git("branch", HOSTILE_BRANCH)
    git("switch", "-q", "main")
    _record_run(git)
    _note(git)
    _store_page(git)
    return root


def _record_run(git: Run) -> None:
    """Checkpoints as training leaves them: a commit each, told by trailers, the last with plots."""
    tree = git("rev-parse", "politer^{tree}").stdout.strip()
    for run, last in ((RUN, max(STEPS)), (STOPPED, 100)):
        parent = git("rev-parse", "main").stdout.strip()
        for step, loss in STEPS.items():
            if step > last:
                break
            said = (
                f"step {step}: loss {loss:.4f}\n\nSoup-Run: {run}\nSoup-Step: {step}\n"
                f"Soup-Loss: {loss}\nSoup-Learning-Rate: 1e-4\nSoup-Elapsed: {step / 10:.1f}s\n"
                f"Soup-Adapter: {ADAPTER}\n"
            )
            # The stopped run lies on the tree of one that ended, and has that one's plots.
            plotted = step == max(STEPS) or run == STOPPED
            at = _with_plots(git, tree) if plotted else tree
            parent = git("commit-tree", at, "-p", parent, stdin=said).stdout.strip()
        git("update-ref", f"refs/soup/runs/{run}", parent)


def _with_plots(git: Run, tree: str) -> str:
    rows = "".join(f"{step},{loss},0.0001\n" for step, loss in CURVE)
    blob = git("hash-object", "-w", "--stdin", stdin=f"step,loss,learning_rate\n{rows}").stdout
    folder = git("mktree", stdin=f"100644 blob {blob.strip()}\tloss.csv\n").stdout.strip()
    entries = git("ls-tree", tree).stdout + f"040000 tree {folder}\tplots\n"
    return git("mktree", stdin=entries).stdout.strip()


def _note(git: Run) -> None:
    def line(suite: str, at: str, **metrics: float) -> str:
        body = {"value": 0.0, "stderr": 0.01, "n": 100}
        record = {
            "schema": "soup.eval/1", "adapter": ADAPTER, "weights": "0" * 32, "suite": suite,
            "suite_sha": "b" * 64, "at": at,
            "metrics": {name: {**body, "value": value} for name, value in metrics.items()},
        }  # fmt: skip
        return json.dumps(record)

    first = line("evals/gate.yaml", "2026-01-02T03:00:00+00:00", exact=0.5, judge=7.0)
    second = line("evals/gate.yaml", "2026-01-03T03:00:00+00:00", exact=0.625)
    hostile = line(f"evals/{TAG}{ESCAPES}", "2026-01-02T03:00:00+00:00", **{TAG: 1.0})
    git("notes", "--ref=soup", "add", "-m", f"{first}\n{hostile}", "main")
    git("notes", "--ref=soup", "add", "-m", second, "politer")


def _store_page(git: Run) -> None:
    def commit(title: str, line: str, before: str | None) -> str:
        verdict = {"word": line.partition(":")[0], "line": line, "reasons": []}
        files = {
            "pr.json": json.dumps({"schema": "soup.pr/1", "title": title, "verdict": verdict}),
            "pr.html": STORED,
        }
        entries = ""
        for name, text in files.items():
            blob = git("hash-object", "-w", "--stdin", stdin=text).stdout.strip()
            entries += f"100644 blob {blob}\t{name}\n"
        tree = git("mktree", stdin=entries).stdout.strip()
        head = git("rev-parse", "politer").stdout.strip()
        parents = ["-p", head, *(["-p", before] if before else [])]
        return git("commit-tree", tree, *parents, "-m", "A page").stdout.strip()

    first = commit("Politer answers", "look closer: judge +0.3, within noise", None)
    second = commit(f"Politer {TAG} {ESCAPES}", f"ready: judge +0.8 {TAG}", first)
    git("update-ref", f"refs/soup/prs/{PAGE}", second)
