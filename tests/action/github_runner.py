"""As much of GitHub's runner as `action.yml` needs: expressions, steps, outputs, commands in a log.

`run:` lines are run by bash as the runner runs them. `uses:` steps are GitHub's own programs:
what they are given is recorded, and an artifact is a folder here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
_TOKEN = re.compile(r"\s*(==|!=|&&|\|\||!|\(|\)|'(?:[^']|'')*'|[A-Za-z_][\w.-]*)")


@dataclass
class _Expression:
    """Operators from the weakest to the strongest, each a method."""

    tokens: list[str]
    contexts: Mapping[str, Any]

    def either(self) -> Any:
        value = self.both()
        while self._take("||"):
            other = self.both()
            value = value or other
        return value

    def both(self) -> Any:
        value = self.equal()
        while self._take("&&"):
            other = self.equal()
            value = value and other
        return value

    def equal(self) -> Any:
        value = self.one()
        while sign := self._take("==", "!="):
            value = (value == self.one()) == (sign == "==")
        return value

    def one(self) -> Any:
        if self._take("!"):
            return not self.one()
        if self._take("("):
            value = self.either()
            assert self._take(")")
            return value
        token = self.tokens.pop(0)
        if token.startswith("'"):
            return token[1:-1].replace("''", "'")
        value = self.contexts
        for name in token.split("."):
            value = value.get(name, "") if isinstance(value, Mapping) else ""
        return value

    def _take(self, *wanted: str) -> str:
        return self.tokens.pop(0) if self.tokens[:1] and self.tokens[0] in wanted else ""


def evaluate(text: str, contexts: Mapping[str, Any]) -> Any:
    """An expression of GitHub's, of the operators that we use."""
    tokens = [found[1] for found in _TOKEN.finditer(text)]
    assert len("".join(tokens)) >= len(text) - text.count(" "), f"unread: {text}"
    expression = _Expression(tokens, contexts)
    value = expression.either()
    assert not tokens, f"unread: {text}"
    return value


def filled(text: str, contexts: Mapping[str, Any]) -> str:
    return re.sub(r"\$\{\{(.*?)\}\}", lambda found: str(evaluate(found[1].strip(), contexts)), text)


@dataclass
class Ran:
    """What a run of the action did."""

    code: int = 0
    log: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    summary: str = ""
    steps: list[str] = field(default_factory=list)
    uses: dict[str, dict[str, str]] = field(default_factory=dict)
    commands: list[tuple[str, str]] = field(default_factory=list)
    """(command with its properties, data): what the runner obeyed."""
    environments: dict[str, dict[str, str]] = field(default_factory=dict)

    def said(self, kind: str) -> list[str]:
        return [f"{head} {data}" for head, data in self.commands if head.split(" ")[0] == kind]


def obeyed(log: str) -> list[tuple[str, str]]:
    """The lines of a log that the runner takes for commands, as it is told to stop and go on."""
    found, stopped = [], ""
    for line in log.splitlines():
        parts = re.fullmatch(r"::([^:]+)::(.*)", line.strip())
        if parts is None:
            continue
        if stopped:
            stopped = "" if parts[1] == stopped else stopped
        elif parts[1] == "stop-commands":
            stopped = parts[2]
        else:
            found.append((parts[1], parts[2]))
    return found


def run_action(
    checkout: Path,
    place: Path,
    event: Mapping[str, Any],
    *,
    event_name: str = "pull_request",
    inputs: Mapping[str, str],
    env: Mapping[str, str],
    artifacts: Path,
    token: str,
) -> Ran:
    """Run action.yml in `checkout`; `place` is the runner's own folder, new for each run."""
    temp = place / "temp"
    temp.mkdir(parents=True)
    (place / "event.json").write_text(json.dumps(event))
    github = {
        "token": token,
        "event": event,
        "repository": "acme/adapters",
        "action_path": str(ROOT),
    }
    given = {name: filled(str(about.get("default", "")), {"github": github}) for name, about in ACTION["inputs"].items()}  # fmt: skip
    unknown = inputs.keys() - given.keys()
    assert not unknown, unknown
    contexts: dict[str, Any] = {
        "inputs": {**given, **inputs}, "github": github, "runner": {"temp": str(temp)}, "steps": {},
    }  # fmt: skip
    machine = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("GIT_AUTHOR", "GIT_COMMITTER"))},
        "GITHUB_EVENT_NAME": event_name, "GITHUB_EVENT_PATH": str(place / "event.json"),
        "GITHUB_REPOSITORY": "acme/adapters", "GITHUB_RUN_ID": "77", "GITHUB_ACTIONS": "true",
        "GITHUB_ACTION_PATH": str(ROOT), "RUNNER_TEMP": str(temp), **env,
    }  # fmt: skip
    ran = Ran()
    for step in ACTION["runs"]["steps"]:
        if not evaluate(step.get("if", "'always'"), contexts):
            continue
        ran.steps.append(step["name"])
        if "uses" in step:
            _use(step, contexts, ran, artifacts)
            continue
        _run(step, contexts, ran, checkout, place, machine)
        if ran.code:
            break
    ran.summary = _text(place / "summary")
    ran.commands = obeyed(ran.log)
    ran.outputs = {
        name: filled(about["value"], contexts) for name, about in ACTION["outputs"].items()
    }
    return ran


def _use(step: Mapping[str, Any], contexts: dict[str, Any], ran: Ran, artifacts: Path) -> None:
    given = {name: filled(str(value), contexts) for name, value in step["with"].items()}
    program = step["uses"].partition("@")[0]
    ran.uses[program] = given
    if program == "actions/upload-artifact":
        shutil.copytree(given["path"], artifacts / given["name"], dirs_exist_ok=True)
        contexts["steps"][step["id"]] = {"outputs": {"artifact-url": f"https://x/{given['name']}"}}
    elif program == "actions/download-artifact":
        shutil.copytree(artifacts / given["name"], given["path"], symlinks=True)


def _run(
    step: Mapping[str, Any],
    contexts: dict[str, Any],
    ran: Ran,
    checkout: Path,
    place: Path,
    machine: Mapping[str, str],
) -> None:
    assert "${{" not in step["run"], "a value in shell text is code"
    assert step["shell"] == "bash"
    own = {name: filled(value, contexts) for name, value in step.get("env", {}).items()}
    ran.environments[step["name"]] = own
    script = place / "step.sh"
    script.write_text(step["run"])
    output = place / "output"
    output.write_text("")
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)],
        cwd=checkout / filled(step.get("working-directory", "."), contexts),
        env={**machine, **own, "GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(place / "summary")},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    ran.log += done.stdout
    ran.code = done.returncode
    if "id" in step:
        contexts["steps"][step["id"]] = {"outputs": _outputs(_text(output))}


def _outputs(text: str) -> dict[str, str]:
    """`NAME=VALUE` and `NAME<<END` … `END`, as the runner reads its file."""
    found, lines = {}, iter(text.splitlines())
    for line in lines:
        name, mark, end = line.partition("<<")
        if mark and "=" not in name:
            value = []
            for part in lines:
                if part == end:
                    break
                value.append(part)
            found[name] = "\n".join(value)
        else:
            name, _, found_value = line.partition("=")
            found[name] = found_value
    return found


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""
