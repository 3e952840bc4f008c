"""How fast the everyday verbs are beside git's and DVC's own, in one run, as ratios.

    python benchmarks/git_speed.py [--adapters 500] [--commits 5000]

Makes a repository of N small adapters, N pinned branches and a history in which every tenth
commit retrains an adapter, then times each command several times in turn and takes the
medians: `branches` against `git for-each-ref`, `status` and `lock check` against `git status`
and `dvc status`, `log` and `blame` against git's own, hooks and drivers against a bare Python
start.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

PYTHON = sys.executable
SOUP = [PYTHON, "-m", "soup_git"]
ENV = {
    **os.environ,
    "GIT_AUTHOR_NAME": "bench", "GIT_AUTHOR_EMAIL": "bench@example.org",
    "GIT_COMMITTER_NAME": "bench", "GIT_COMMITTER_EMAIL": "bench@example.org",
    "GIT_CONFIG_GLOBAL": os.devnull, "HF_HUB_OFFLINE": "1", "DVC_NO_ANALYTICS": "1",
}  # fmt: skip


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=ENV, capture_output=True, text=True)
    if done.returncode not in {0, 1, 3}:
        raise SystemExit(f"{command}: {done.stderr}")
    return done.stdout


def make_adapter(folder: Path, seed: int) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(4):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = random.standard_normal((8, 64), np.float32)
        tensors[f"{name}.lora_B.weight"] = random.standard_normal((64, 8), np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 8, "lora_alpha": 16}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def make_repository(root: Path, count: int) -> None:
    run("git", "init", "-q", "-b", "main", cwd=root)
    run(*SOUP, "init", cwd=root)
    for number in range(count):
        make_adapter(root / "adapters" / f"a{number:03}", number)
    run(*SOUP, "add", *(f"adapters/a{n:03}" for n in range(count)), cwd=root)
    (root / "soup.yaml").write_text("base: org/base\ndata:\n  train: train.jsonl\n")
    (root / "train.jsonl").write_text('{"prompt": "a"}\n')
    run("git", "add", "soup.yaml", "train.jsonl", cwd=root)
    run(*SOUP, "lock", "write", cwd=root)
    run("git", "add", "soup.lock", cwd=root)
    run("git", "commit", "-q", "-m", "adapters", cwd=root)
    refs = ["start"]
    for number in range(count):
        # Every branch has a config, a lock and a tree of its own, as real ones have.
        (root / "soup.yaml").write_text(
            f"base: org/base\nseed: {number}\ndata:\n  train: train.jsonl\n"
        )
        if number == 0:
            run(*SOUP, "branch", "b0", cwd=root)
            continue
        lock = json.loads(run("git", "show", "b0:soup.lock", cwd=root))
        lock["config_sha"] = hashlib.sha256((root / "soup.yaml").read_bytes()).hexdigest()
        commit = commit_with(
            root, {"soup.yaml": (root / "soup.yaml").read_text(), "soup.lock": json.dumps(lock)}
        )
        refs.append(f"create refs/heads/b{number} {commit}")
    run("git", "checkout", "-q", "--", "soup.yaml", cwd=root)
    lines = "\n".join([*refs, "commit", ""])
    subprocess.run(["git", "update-ref", "--stdin"], input=lines, text=True, cwd=root, check=True)


def make_history(root: Path, adapters: int, commits: int) -> None:
    """Commits on main; every tenth gives one adapter the files of another, the last ones go back."""
    names = ("adapter.manifest", "adapter_model.safetensors.dvc")
    folders = [f"adapters/a{n:03}" for n in range(adapters)]
    listing = run("git", "ls-tree", "-r", "HEAD", "--", "adapters", cwd=root).splitlines()
    blobs = {line.split("\t")[1]: line.split()[2] for line in listing}
    changed = {number: number // 10 % adapters for number in range(0, commits, 10)}
    lines = []
    for number in range(commits):
        lines += [
            "commit refs/heads/main", f"committer bench <bench@example.org> {1_700_000_000 + 60 * number} +0000",
            f"data <<END\nCommit {number}\nEND",
        ]  # fmt: skip
        if number == 0:
            lines.append("from refs/heads/main^0")
        if number == commits - 1:
            # The tip holds what the work tree has, but for one adapter.
            lines += [
                f"M 100644 {blobs[f'{f}/{name}']} {f}/{name}" for f in folders[1:] for name in names
            ]
        elif number in changed:
            here = changed[number]
            other = (here + 1 + number // 10 // adapters) % adapters
            lines += [
                f"M 100644 {blobs[f'{folders[other]}/{name}']} {folders[here]}/{name}"
                for name in names
            ]
        else:
            lines.append(f"M 100644 inline notes.txt\ndata <<END\n{number}\nEND")
        lines.append("")
    stream = "\n".join(lines)
    subprocess.run(["git", "fast-import", "--quiet"], input=stream, text=True, cwd=root, check=True)
    run("git", "reset", "-q", "--hard", cwd=root)
    run(*SOUP, "checkout", cwd=root)


def commit_with(root: Path, files: dict[str, str]) -> str:
    """A commit on top of HEAD with other contents of `files`, made beside the index."""
    env = {**ENV, "GIT_INDEX_FILE": str(root / ".git" / "bench-index")}

    def git(*arguments: str, text: str = "") -> str:
        return subprocess.run(
            ["git", *arguments], cwd=root, env=env, input=text, capture_output=True, text=True, check=True
        ).stdout.strip()  # fmt: skip

    git("read-tree", "HEAD")
    for path, text in files.items():
        git(
            "update-index",
            "--cacheinfo",
            f"100644,{git('hash-object', '-w', '--stdin', text=text)},{path}",
        )
    return git(
        "commit-tree", git("write-tree"), "-p", "HEAD", "-m", "Pin\n\nSoup-Config: soup.yaml"
    )


def measure(
    commands: dict[str, list[str]], cwd: Path, rounds: int
) -> dict[str, tuple[float, float]]:
    """Name -> median (wall, CPU) seconds; the commands take turns, so that noise hits all alike."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            started = time.perf_counter()
            run(*command, cwd=cwd)
            wall = time.perf_counter() - started
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            if number:  # the first round fills caches, git's and ours
                times[name].append((wall, cpu))
    return {
        name: (statistics.median(t[0] for t in taken), statistics.median(t[1] for t in taken))
        for name, taken in times.items()
    }


ROWS = (
    ("git soup branches", "git for-each-ref"),
    ("git soup branches", "bare python"),
    ("git soup status", "git status"),
    ("git soup status", "dvc status"),
    ("git soup lock check", "git status"),
    ("git soup lock check", "dvc status"),
    ("git soup log", "git log"),
    ("git soup log --graph", "git log"),
    ("git soup blame", "git blame"),
    ("git soup gc", "git log"),
    ("git diff, table known", "git diff, lines"),
    ("pre-commit hook", "bare python"),
    ("post-checkout hook", "bare python"),
    ("diff driver", "bare python"),
    ("merge driver", "bare python"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=500)
    parser.add_argument("--commits", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soup-bench-") as name:
        root = Path(name)
        make_repository(root, options.adapters)
        make_history(root, options.adapters, options.commits)
        head = run("git", "rev-parse", "HEAD", cwd=root).strip()
        hook = [PYTHON, "-P", "-m"]
        form = "%(refname) %(objectname) %(contents:trailers:key=Soup-Config,valueonly)"
        one = "adapters/a000/adapter.manifest"
        before = run("git", "rev-list", "--max-count=1", "--skip=1", "HEAD", "--", one, cwd=root)
        sides = [before.strip(), head, "--", one]
        drivers = {"diff driver": [*hook, "soup_git.hooks.diff_driver", one]}
        if importlib.util.find_spec("soup_git.hooks.merge_driver"):
            drivers["merge driver"] = [*hook, "soup_git.hooks.merge_driver"]
        times = measure(
            {
                "bare python": [PYTHON, "-c", ""],
                "git for-each-ref": ["git", "for-each-ref", f"--format={form}", "refs/heads"],
                "git status": ["git", "status", "--short"],
                "git soup branches": [*SOUP, "branches"],
                "git soup status": [*SOUP, "status"],
                "git soup lock check": [*SOUP, "lock", "check"],
                "pre-commit hook": [*hook, "soup_git.hooks.pre_commit"],
                "post-checkout hook": [*hook, "soup_git.hooks.post_checkout", head, head, "1"],
                **drivers,
                "git log": ["git", "log", "--format=%h", "--", "*adapter.manifest"],
                "git soup log": [*SOUP, "log"],
                "git soup log --graph": [*SOUP, "log", "--graph"],
                "git blame": ["git", "blame", one],
                "git soup blame": [*SOUP, "blame", "adapters/a000"],
                "git soup gc": [*SOUP, "gc"],
                "git diff, lines": ["git", "diff", "--no-ext-diff", *sides],
                "git diff, table known": ["git", "diff", *sides],
                "dvc status": [PYTHON, "-m", "dvc", "status", "-q"],
            },
            root,
            options.rounds,
        )
    print(
        f"{options.adapters} adapters, {options.adapters} branches, {options.commits} commits;"
        f" medians of {options.rounds} rounds\n"
    )
    print("| command | wall s | CPU s |\n|---|--:|--:|")
    for label, (wall, cpu) in times.items():
        print(f"| {label} | {wall:.3f} | {cpu:.3f} |")
    print("\n| command | beside | ratio (wall) |\n|---|---|--:|")
    for ours, theirs in (row for row in ROWS if row[0] in times):
        print(f"| {ours} | {theirs} | {times[ours][0] / times[theirs][0]:.2f} |")


if __name__ == "__main__":
    main()
