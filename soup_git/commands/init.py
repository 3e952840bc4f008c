"""`git soup init`: make a repository a workspace. Idempotent; what was there stays.

A workspace is files that travel (`.dvc/`, `.gitattributes`, `.gitignore`) and settings of
this clone (hooks, fetch refspecs, notes). Each is a `Part` that can be looked at and put
right by itself, so that `--check` and `init` can never disagree.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import ClassVar

from soup_git.commands.dependencies import say_unseen
from soup_git.core.templates import (
    PIPELINE,
    PROMPTS,
    SUITE,
    Template,
    template_named,
)
from soup_git.core.trainconfig import parse_config_pins
from soup_git.data.formats import FORMATS
from soup_git.errors import ExitCode, FatalError
from soup_git.render.report import Table
from soup_git.storage.dvcrepo import DvcRepo
from soup_git.storage.files import TEMPORARY, target_inside, write_atomically
from soup_git.storage.githooks import CHAINED, HOOKS, SUMMARY, install_hook, is_installed
from soup_git.storage.gitrepo import OLDEST_GIT, GitRepo, git_version
from soup_git.storage.gitsetup import apply_setting, missing_settings
from soup_git.storage.templatefiles import template_text
from soup_git.storage.workspace import Workspace

IGNORED = ("adapter_model.safetensors", TEMPORARY)
_NEXT = "Next: git soup add DIR tracks adapters you have, or git soup init --template chat to train one."
_SOUP = "soup.yaml"
_HEADING = "# git-soup (git soup init)"


@dataclass(frozen=True)
class PartState:
    part: str
    state: str
    """ok, created, kept or missing."""
    note: str


@dataclass(frozen=True)
class InitReport:
    schema: ClassVar[str] = "soup.init/1"
    root: str
    parts: list[PartState]
    checked_only: bool
    template: str | None = None
    next: list[str] = field(default_factory=list)
    """What to do and to type now."""

    def tables(self) -> Sequence[Table | str]:
        rows = [(f"  {part.part}", part.state, part.note) for part in self.parts]
        if self.checked_only:
            missing = any(part.state == "missing" for part in self.parts)
            head = "This workspace is not complete" if missing else "This workspace is complete"
            return [Table(("", "", ""), rows, before=head)]
        return [Table(("", "", ""), rows, before="Workspace ready"), *self.next]


@dataclass(frozen=True)
class _Part:
    """`missing()` says what is not there yet; `complete()` puts it there."""

    name: str
    missing: Callable[[], list[str]]
    complete: Callable[[], list[str]]
    """Returns the paths that git should hold."""
    note: str
    there: Callable[[], str] = lambda: "ok"
    """The state of what is not missing: kept, where it is another one than this would make."""


@dataclass(frozen=True)
class Start:
    """A template, and the names to fill in."""

    template: Template
    base: str
    dataset: str
    given: Mapping[str, str] = field(default_factory=dict)
    """Option -> value, of those that say more than the template does."""


def start(name: str, base: str | None, dataset: str | None) -> Start:
    """The template called `name`; its own base and dataset where none is given."""
    template = template_named(name)
    given = {"--base": base, "--dataset": dataset}
    chosen = Start(
        template,
        base or template.base,
        dataset or template.dataset,
        {option: value for option, value in given.items() if value is not None},
    )
    path = PurePosixPath(chosen.dataset)
    if path.is_absolute() or ".." in path.parts:
        raise FatalError(
            f"--dataset {chosen.dataset} is not a path inside the workspace",
            hint="cp the file into the repository, for example into data/",
        )
    return chosen


def init(
    folder: Path,
    *,
    check_only: bool,
    template: Start | None = None,
    commit_summary: bool = False,
) -> tuple[InitReport, ExitCode]:
    if git_version() < OLDEST_GIT:
        raise FatalError(
            f"git {'.'.join(map(str, git_version()))} is too old; git-soup needs"
            f" {'.'.join(map(str, OLDEST_GIT))} or newer",
            hint="upgrade git (https://git-scm.com/downloads)",
        )
    git = GitRepo.discover(folder)
    states: list[PartState] = []
    to_stage: list[str] = []
    asked = [_pipeline(git, template)] if template else []
    asked += [_commit_summary(git)] if commit_summary else []
    for part in [*_parts(git), *asked]:
        missing = part.missing()
        if check_only or not missing:
            note = ", ".join(missing) if missing else part.note
            states.append(PartState(part.name, "missing" if missing else part.there(), note))
            continue
        to_stage += part.complete()
        states.append(PartState(part.name, "created", part.note))
    if to_stage:
        git.index.stage(*to_stage)
    if template is not None and not check_only:
        say_unseen(Workspace(git))
    incomplete = check_only and any(state.state == "missing" for state in states)
    name = template.template.name if template else None
    report = InitReport(str(git.root), states, check_only, name, _next(template, states))
    return report, ExitCode.CHECK_FAILED if incomplete else ExitCode.OK


def _parts(git: GitRepo) -> list[_Part]:
    attributes = [line for line in template_text("gitattributes").splitlines() if line]
    return [
        _dvc(git),
        _lines(
            git,
            ".gitattributes",
            attributes,
            "adapter.manifest, adapter_config.json, *.dvc, dvc.lock, soup.lock",
        ),
        _lines(git, ".gitignore", IGNORED, "weights stay out of git"),
        _lines(git, ".dvcignore", [TEMPORARY], "what a killed command may leave"),
        _hooks(git),
        _settings(git),
        *([_shared_cache(git)] if git.is_linked_work_tree else []),
    ]


# -- files that travel ------------------------------------------------------------------------


def _dvc(git: GitRepo) -> _Part:
    files = {".dvc/config": "config", ".dvc/.gitignore": "gitignore"}

    def missing() -> list[str]:
        return [path for path in files if not (git.root / path).exists()]

    def complete() -> list[str]:
        created = missing()
        for path in created:
            write_atomically(git.root / path, template_text(files[path]).encode())
        return created

    return _Part(".dvc/", missing, complete, "the cache of weights and data, in DVC's layout")


def _lines(git: GitRepo, name: str, wanted: Sequence[str], note: str) -> _Part:
    path = git.root / name

    def missing() -> list[str]:
        there = path.read_text("utf-8", "surrogateescape").splitlines() if path.is_file() else []
        return [line for line in wanted if line not in there]

    def complete() -> list[str]:
        before = path.read_bytes() if path.is_file() else b""
        edited = bool(git.run("diff", "--name-only", "--", name).stdout) if before else False
        gap = b"" if not before or before.endswith(b"\n") else b"\n"
        added = "\n".join([_HEADING, *missing(), ""]).encode()
        write_atomically(path, before + gap + added)
        # A file with changes that the user has not staged is left for them to stage.
        return [] if edited else [name]

    return _Part(name, missing, complete, note)


def rendered(start: Start, *, base_is_folder: bool) -> dict[str, str]:
    """Path in the workspace -> text, of every file of the template."""
    values = {
        "@BASE@": json.dumps(start.base),
        "@DATASET@": json.dumps(start.dataset),
        # A local base can change under a pipeline, a hub revision cannot.
        "@BASE_DEP@": "      - ${base}\n" if base_is_folder else "",
    }
    texts = {}
    for name, parts in start.template.files.items():
        text = "".join(template_text(part) for part in parts)
        for mark, value in values.items():
            text = text.replace(mark, value)
        texts[name] = text
    return texts


def _pipeline(git: GitRepo, start: Start) -> _Part:
    """The template's configs, pipeline and suite; what is there already stays as it is."""
    texts = rendered(start, base_is_folder=(git.root / start.base).is_dir())

    def missing() -> list[str]:
        dvc = git.root / PIPELINE
        # A pipeline of the user's own may have no stage that asks a suite.
        asks = not dvc.is_file() or SUITE in dvc.read_text("utf-8", "replace")
        wanted = [name for name in texts if asks or name not in (SUITE, PROMPTS)]
        return [name for name in wanted if not (git.root / name).exists()]

    def complete() -> list[str]:
        created = missing()
        for name in created:
            write_atomically(target_inside(git.root, name), texts[name].encode())
        return created

    configs = [name for name in texts if name.endswith((_SOUP, PIPELINE))]
    own = [name for name in configs if name.endswith(_SOUP) and (git.root / name).exists()]
    if _SOUP in own:  # the other configs of a template have data of their own
        _refuse_others(_SOUP, (git.root / _SOUP).read_bytes(), start)

    def there() -> str:
        same = all((git.root / name).read_text("utf-8", "replace") == texts[name] for name in own)
        return "ok" if same else "kept"

    return _Part(", ".join(configs), missing, complete, start.template.summary, there)


def _refuse_others(name: str, data: bytes, start: Start) -> None:
    """Options that say something else than a config that is there, and stays."""
    said = parse_config_pins(data, name)
    there = {"--base": said.base, "--dataset": said.dataset}
    others = [f"{o} {v}" for o, v in start.given.items() if there[o] not in {v, f"./{v}"}]
    if others:
        raise FatalError(
            f"{name} is there already, and {' and '.join(others)} would fill in a new one",
            hint=f"edit {name}, or git mv it away and type this again",
        )


def _next(start: Start | None, states: Sequence[PartState]) -> list[str]:
    if start is None:
        return [_NEXT]
    kept = [state.part for state in states if state.state == "kept"]
    if kept:
        return [
            f"{kept[0]}: yours, and not what template {start.template.name} has",
            "  git soup config check says whether it is valid",
        ]
    data = {start.dataset: start.template.rows[0], **(start.template.more_data or {})}
    rows = [f"  rows in {path}, as {FORMATS[form].example}" for path, form in data.items()]
    configs = [name for name in start.template.files if name.endswith(_SOUP)]
    checks = [f"git soup config check{'' if n == _SOUP else f' {n}'}" for n in configs]
    return ["Next:", *rows, f"  {' && '.join(checks)}", "  dvc repro, or git soup train"]


# -- settings of this clone ---------------------------------------------------------------------


def _hooks(git: GitRepo) -> _Part:
    shared = git.config_values("core.hooksPath", "--global") or git.config_values(
        "core.hooksPath", "--system"
    )
    own = git.config_values("core.hooksPath", "--local")

    def missing() -> list[str]:
        return [hook for hook in HOOKS if not is_installed(git.hooks_dir / hook, hook)]

    def complete() -> list[str]:
        if shared and not own:
            raise FatalError(
                f"core.hooksPath is set for all of your repositories ({shared[0]}); git-soup does not"
                " write hooks there",
                hint="git config --local core.hooksPath .git/hooks, then git soup init",
            )
        git.hooks_dir.mkdir(parents=True, exist_ok=True)
        for hook in missing():
            install_hook(git.hooks_dir / hook, hook)
        return []

    chained = [hook for hook in HOOKS if (git.hooks_dir / f"{hook}{CHAINED}").exists()]
    there = [hook for hook in HOOKS if (git.hooks_dir / hook).exists() and hook in missing()]
    before = f"; {', '.join(chained or there)} chained before yours" if chained or there else ""
    return _Part("hooks", missing, complete, f"{', '.join(HOOKS)}{before}")


def _settings(git: GitRepo) -> _Part:
    def missing() -> list[str]:
        return [f"{s.key}={s.value}" for s in missing_settings(git)]

    def complete() -> list[str]:
        for setting in missing_settings(git):
            apply_setting(git, setting)
        return []

    remotes = git.remotes()
    note = (
        f"runs, locks and notes of {', '.join(remotes)} are fetched" if remotes else "no remote yet"
    )
    return _Part("config", missing, complete, f"reflogs of all refs, notes; {note}")


def _commit_summary(git: GitRepo) -> _Part:
    def missing() -> list[str]:
        return [] if git.config_values(SUMMARY, "--type=bool") == ["true"] else [f"{SUMMARY}=true"]

    def complete() -> list[str]:
        git.set_config(SUMMARY, "true")
        return []

    return _Part(SUMMARY, missing, complete, "commit messages say what changed in adapters")


def _shared_cache(git: GitRepo) -> _Part:
    """A linked work tree uses the main one's cache; DVC itself must be told so."""
    dvc = DvcRepo(git.root, git.main_work_tree, git.common_dir)

    def missing() -> list[str]:
        return [] if dvc.shares_cache else ["cache.dir"]

    def complete() -> list[str]:
        dvc.share_cache()
        return []

    return _Part(".dvc/config.local", missing, complete, "the main work tree's cache, shared")
