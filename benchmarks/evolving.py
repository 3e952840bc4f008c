"""Where the time of a search for merge weights goes: 160 candidates on the demo's base.

    git soup demo DIR                    # trains two adapters, one on each branch
    python benchmarks/evolving.py DIR [--scoring overlap|loss] [--rows 24]

Asks for rows of both branches' datasets, so that the best merge is a real one. "In the model"
is what the model was asked, generation or likelihood; merging, swapping in, tokenising,
scoring answers and the search itself are the rest.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import tempfile
from pathlib import Path

GENERATIONS, POPULATION = 16, 10


def write_suite(folder: Path, root: Path, scoring: str, count: int, branches: list[str]) -> Path:
    import subprocess

    rows = []
    for branch in branches:
        text = subprocess.run(
            ["git", "show", f"{branch}:data/train.jsonl"],
            cwd=root, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        for line in text.splitlines()[: count // len(branches)]:
            asked, answered = json.loads(line)["messages"][:2]
            rows.append({"prompt": asked["content"], "expected": answered["content"]})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = folder / "suite.yaml"
    suite.write_text(
        f"decoding: {{max_new_tokens: 40}}\n"
        f"tasks:\n- {{name: support, prompts: rows.jsonl, scoring: {scoring}}}\n"
        if scoring != "loss"
        else "tasks:\n- {name: support, prompts: rows.jsonl, scoring: loss}\n"
    )
    return suite


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--branches", nargs=2, default=["main", "politer"])
    parser.add_argument("--scoring", default="overlap")
    parser.add_argument("--rows", type=int, default=24)
    given = parser.parse_args()
    os.chdir(given.workspace)

    from soup_git.commands import evolve
    from soup_git.commands.merge import MergeRequest, merge
    from soup_git.evaluation import search
    from soup_git.storage.workspace import Workspace

    # All generations, whatever they bring: the same work each time.
    search.Plan = functools.partial(search.Plan, patience=GENERATIONS + 1)  # type: ignore[misc]
    root = Path.cwd()
    with tempfile.TemporaryDirectory(dir=root, prefix="bench-") as name:
        folder = Path(name)
        suite = write_suite(folder, root, given.scoring, given.rows, given.branches)
        request = MergeRequest(
            given.branches, folder / "merged", strategy="cmaes", suite=suite,
            search=evolve.SearchRequest(
                budget="30m", population=POPULATION, max_generations=GENERATIONS
            ),
        )  # fmt: skip
        found = merge(Workspace.open(), request).search
    assert found is not None
    rest = 1 - found.model_share - found.load_share
    print(f"{found.evaluations} evaluations in {found.seconds:.0f} s, {found.metric}")
    print(f"in the model   {100 * found.model_share:5.1f} %")
    print(f"loading it     {100 * found.load_share:5.1f} %")
    print(
        f"everything else{100 * rest:5.1f} %  ({1000 * rest * found.seconds / found.evaluations:.1f} ms a candidate)"
    )
    for start in found.starts:
        print(f"{start.name}: {start.value:.4f}")
    print(f"found: {found.value:.4f} ({found.origin})")


if __name__ == "__main__":
    main()
