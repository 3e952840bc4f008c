"""`git soup demo`: the whole story on a small real model, in a repository that stays.

Every line that starts with `$` is typed into a real shell's place: the command runs as a
user would run it, and what it prints is shown as it comes.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from soup_git.errors import ExitCode, FatalError
from soup_git.render.report import say
from soup_git.storage.shell import run_as_user

BASE = "models/base"
ADAPTER = "adapters/chat"
PROMPTS = ("Where is my order?", "May I bring a dog?", "How do I renew a book?")

CONFIG = f"""\
base: {BASE}
task: sft
data:
  train: data/train.jsonl
  max_length: 256
training:
  max_steps: 200
  lr: 1e-2
  warmup_steps: 10
  batch_size: 8
  save_steps: 50
  threads: 1
  lora: {{r: 8, alpha: 16}}
output: {ADAPTER}
"""


def make_base(folder: Path) -> None:
    """Train the small base model from nothing, into `folder`."""
    _refuse_existing(folder)
    from soup_git.training.base_model import make_base_model

    started = time.monotonic()

    def progress(step: int, steps: int, loss: float) -> None:
        if sys.stderr.isatty():
            done = "█" * (20 * step // steps)
            sys.stderr.write(f"\r{done:<20}  step {step}/{steps}  loss {loss:.3f} ")
            sys.stderr.flush()

    report = make_base_model(folder, progress=progress)
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    say(
        f"base model in {folder}: {report.parameters / 1e6:.2f} M parameters,"
        f" {report.vocabulary} tokens, {report.train_tokens:,} tokens of Jane Austen;"
        f" held-out loss {report.held_out_loss:.2f} nats a token"
        f" (uniform {report.uniform_loss:.2f}); {time.monotonic() - started:.0f} s"
    )


def play(folder: Path, base: Path | None) -> int:
    """Journeys A, B and C in a new repository at `folder`; `base` is a base model made before."""
    _refuse_existing(folder)
    started = time.monotonic()
    story = _Story(folder)
    if base is None:
        story.tell("A small language model, trained now from two novels: no download.")
        make_base(folder / BASE)
    else:
        shutil.copytree(base, folder / BASE)
    story.begin()
    story.train_first()
    story.branch_and_retrain()
    story.come_back()
    story.refuse_drift()
    story.prove()
    story.tell(
        f"Done in {time.monotonic() - started:.0f} s. The repository is yours to play with:\n"
        + "".join(f"\n  {line}" for line in to_go_on(folder, os.environ))
    )
    return ExitCode.OK


def to_go_on(folder: Path, environment: Mapping[str, str]) -> list[str]:
    """What to type in the shell that the demo was started from, to look at its repository.

    `make demo` runs git-soup from an environment that this shell has not activated: there
    git does not know the word soup.
    """
    lines = [f"cd {shlex.quote(str(folder))}", "git soup status", "git soup show HEAD"]
    lines += ["git log --oneline --graph --all", "git soup --help"]
    if shutil.which("git-soup", path=environment.get("PATH", "")) is None:
        activate = Path(sys.executable).parent / "activate"
        place = shlex.quote(os.path.relpath(activate))
        way = f"source {place}" if activate.is_file() else f'export PATH="{activate.parent}:$PATH"'
        lines.insert(0, way)
    return lines


def _refuse_existing(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FatalError(
            f"{folder} is there already and is not overwritten",
            hint=f"rm -r {folder}, or name another",
        )


class _Story:
    """One chapter a method; `type` runs a command and stops the story when it goes wrong."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        paths = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
        self._env = {
            **os.environ,
            "PATH": os.pathsep.join(paths),
            "DVC_NO_ANALYTICS": "1",
            "HF_HUB_OFFLINE": "1",
            "GIT_PAGER": "cat",
        }

    def tell(self, text: str) -> None:
        sys.stdout.write(f"\n── {text}\n")
        sys.stdout.flush()

    def type(self, command: str, expect: int = 0) -> None:
        sys.stdout.write(f"\n$ {command}\n")
        sys.stdout.flush()
        code = run_as_user(shlex.split(command), self._folder, self._env)
        if code != expect:
            raise FatalError(
                f"the demo stopped: `{command}` exited with {code}, not {expect}",
                hint=f"cd {self._folder} to look",
            )

    def begin(self) -> None:
        self.tell("A circulating library wants its letters answered. Data and config first.")
        self._write(".gitignore", f"/{BASE.partition('/')[0]}/\n")
        self._write("soup.yaml", CONFIG)
        self._take("support.jsonl")
        self._take("support_eval.jsonl", "eval/prompts.jsonl")
        self.type("git init --quiet --initial-branch=main")
        for key, name in (("user.name", "Demo"), ("user.email", "demo@example.org")):
            self.type(f"git config {key} {name}")
        self.type(f"git soup init --template chat --base {BASE}")
        self.type("git add --all")
        self.type("git commit --quiet -m 'Start: config, data, pipeline'")
        self.type("git soup data show 1")

    def train_first(self) -> None:
        self.tell("What the base model says before any training:")
        self._ask(None)
        self.tell("Train. DVC runs the pipeline; every checkpoint becomes a commit.")
        self.type("git soup plan", expect=ExitCode.DRIFT)
        self.type("dvc repro --quiet")
        self.tell("What it says now:")
        self._ask(self._folder / ADAPTER)
        self.type("git add --all")
        self.type("git commit --quiet -m 'Train the support adapter'")
        self.type("git log --oneline --no-decorate --glob=refs/soup/runs")
        self.type("git soup status")

    def branch_and_retrain(self) -> None:
        self.tell("Somebody wants it politer: other data, a branch that pins all of it.")
        self._take("polite.jsonl")
        self.type("git soup lock check", expect=ExitCode.DRIFT)
        self.type("git soup branch politer --switch")
        self.type("dvc repro --quiet")
        self._ask(self._folder / ADAPTER)
        self.type("git add --all")
        self.type("git commit --quiet -m 'Train the polite adapter'")
        self.tell("What changed between the two adapters, per module:")
        self.type("git soup diff main politer --top-k 5")
        self.tell("And which is better, on twenty questions they were not trained on:")
        self.type("git soup eval main politer --baseline base --suite eval/suite.yaml")

    def come_back(self) -> None:
        self.tell("Back to the first branch: config, data and weights come back with it.")
        self.type("git soup branches")
        self.type("git soup checkout main")
        self.type("git soup status")

    def refuse_drift(self) -> None:
        self.tell("Data changes behind the lock's back; the commit is refused.")
        with (self._folder / "data/train.jsonl").open("a") as file:
            file.write(
                '{"messages": [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "No."}]}\n'
            )
        self.type("git commit --all -m 'Nothing to see here'", expect=1)
        self.type("git checkout --quiet HEAD -- data/train.jsonl")

    def prove(self) -> None:
        self.tell("Is the adapter what its lock says? Rebuild it from the lock and compare.")
        self.type("git soup verify")
        self.type("git soup fsck")

    def _ask(self, adapter: Path | None) -> None:
        from soup_git.training.sampling import answers

        for prompt, answer in zip(
            PROMPTS, answers(self._folder / BASE, PROMPTS, adapter), strict=True
        ):
            sys.stdout.write(f"  {prompt}\n    {answer}\n")
        sys.stdout.flush()

    def _write(self, name: str, text: str) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def _take(self, name: str, place: str = "data/train.jsonl") -> None:
        """Put a shipped dataset into its place; the training data's, unless another is said."""
        source = resources.files("soup_git.training").joinpath("demo_data", name)
        target = self._folder / place
        target.parent.mkdir(exist_ok=True)
        with resources.as_file(source) as file:
            shutil.copyfile(file, target)
