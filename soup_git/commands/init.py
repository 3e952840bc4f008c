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
from soup_git.core.stagetext import load_pipeline, runs_ours, stage_texts, with_stages
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
from soup_git.storage.dvcprojects import project_around, projects_in_folders
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
    """ok, created, extended, kept or missing."""
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
    done: str = "created"
    """The state after `complete()`."""


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
    add_stages: bool = False,
    commit_summary: bool = False,
) -> tuple[InitReport, ExitCode]:
    if git_version() < OLDEST_GIT:
        raise FatalError(
            f"git {'.'.join(map(str, git_version()))} is too old; git-soup needs"
            f" {'.'.join(map(str, OLDEST_GIT))} or newer",
            hint="upgrade git (https://git-scm.com/downloads)",
        )
    git = GitRepo.discover(folder)
    projects = _projects(git)
    if template is not None and projects != ["."]:
        raise _template_in_a_folder(template, projects)
    states: list[PartState] = []
    to_stage: list[str] = []
    asked = _template_parts(git, template, add_stages=add_stages) if template else []
    asked += [_commit_summary(git)] if commit_summary else []
    for part in [*(part for folder in projects for part in _parts(git, folder)), *asked]:
        missing = part.missing()
        if check_only or not missing:
            note = ", ".join(missing) if missing else part.note
            states.append(PartState(part.name, "missing" if missing else part.there(), note))
            continue
        to_stage += part.complete()
        states.append(PartState(part.name, part.done, part.note))
    if to_stage:
        git.index.stage(*to_stage)
    if template is not None and not check_only:
        say_unseen(Workspace(git))
    incomplete = check_only and any(state.state == "missing" for state in states)
    name = template.template.name if template else None
    report = InitReport(str(git.root), states, check_only, name, _next(template, states))
    return report, ExitCode.CHECK_FAILED if incomplete else ExitCode.OK


def _projects(git: GitRepo) -> list[str]:
    """The DVC projects to complete: the one around us, those that a clone has, or a new one."""
    around = project_around(git)
    if around is not None:
        return [around]
    return projects_in_folders(git) or ["."]


def _template_in_a_folder(start: Start, projects: Sequence[str]) -> FatalError:
    return FatalError(
        f"the DVC project here is in {', '.join(projects)}: adapters and data in it are tracked, and"
        " soup.yaml, soup.lock and a template's pipeline are read at the repository's top alone",
        hint="git soup init tracks adapters here; to train, in a repository of its own: git init"
        f" NEW && cd NEW && git soup init --template {start.template.name}",
    )


def _parts(git: GitRepo, folder: str) -> list[_Part]:
    """What a workspace needs whose DVC project is in `folder`; hooks and settings are git's."""
    inside = "" if folder == "." else f"{folder}/"
    attributes = [line for line in template_text("gitattributes").splitlines() if line]
    return [
        _dvc(git, inside),
        _lines(
            git,
            f"{inside}.gitattributes",
            attributes,
            "adapter.manifest, adapter_config.json, *.dvc, dvc.lock, soup.lock",
        ),
        _lines(git, f"{inside}.gitignore", IGNORED, "weights stay out of git"),
        _lines(git, f"{inside}.dvcignore", [TEMPORARY], "what a killed command may leave"),
        _hooks(git),
        _settings(git),
        *([_shared_cache(git, folder)] if git.is_linked_work_tree else []),
    ]


# -- files that travel ------------------------------------------------------------------------


def _dvc(git: GitRepo, inside: str) -> _Part:
    files = {f"{inside}.dvc/config": "config", f"{inside}.dvc/.gitignore": "gitignore"}

    def missing() -> list[str]:
        return [path for path in files if not (git.root / path).exists()]

    def complete() -> list[str]:
        created = missing()
        for path in created:
            write_atomically(git.root / path, template_text(files[path]).encode())
        return created

    return _Part(
        f"{inside}.dvc/", missing, complete, "the cache of weights and data, in DVC's layout"
    )


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


def _template_parts(git: GitRepo, start: Start, *, add_stages: bool) -> list[_Part]:
    """The template's configs, pipeline and suite; what is there already stays as it is."""
    texts = rendered(start, base_is_folder=(git.root / start.base).is_dir())
    configs = {name: text for name, text in texts.items() if name.endswith(_SOUP)}
    suite = {name: texts[name] for name in (SUITE, PROMPTS) if name in texts}
    if (git.root / _SOUP).exists():  # the other configs of a template have data of their own
        _refuse_others(_SOUP, (git.root / _SOUP).read_bytes(), start)
    summary = start.template.summary
    parts = [_template_file(git, name, text, summary) for name, text in configs.items()]
    parts.append(_pipeline(git, start, texts[PIPELINE], add_stages=add_stages))
    return [*parts, _suite(git, suite)] if suite else parts


def _template_file(git: GitRepo, name: str, text: str, note: str) -> _Part:
    path = git.root / name

    def complete() -> list[str]:
        write_atomically(target_inside(git.root, name), text.encode())
        return [name]

    def there() -> str:
        return "ok" if path.read_text("utf-8", "replace") == text else "kept"

    return _Part(name, lambda: [] if path.exists() else [name], complete, note, there)


def _suite(git: GitRepo, texts: Mapping[str, str]) -> _Part:
    def missing() -> list[str]:
        dvc = git.root / PIPELINE
        # A pipeline of the user's own may have no stage that asks a suite.
        asks = not dvc.is_file() or SUITE in dvc.read_text("utf-8", "replace")
        return [name for name in texts if asks and not (git.root / name).exists()]

    def complete() -> list[str]:
        created = missing()
        for name in created:
            write_atomically(target_inside(git.root, name), texts[name].encode())
        return created

    note = "questions of which stage evaluate keeps the score"
    return _Part(SUITE, missing, complete, note, lambda: _state_of_suite(git, texts))


def _state_of_suite(git: GitRepo, texts: Mapping[str, str]) -> str:
    there = [git.root / name for name in texts]
    same = all(
        p.is_file() and p.read_text("utf-8", "replace") == texts[n]
        for p, n in zip(there, texts, strict=True)
    )
    return "ok" if same else "kept" if there[0].exists() else "not asked"


def _pipeline(git: GitRepo, start: Start, text: str, *, add_stages: bool) -> _Part:
    """`dvc.yaml`: written where there is none; with `add_stages` after the stages of the user's own."""
    path = git.root / PIPELINE
    own = load_pipeline(path.read_bytes()) if path.is_file() else None
    wanted = stage_texts(text)
    lacking = [name for name in wanted if own is not None and not runs_ours(own.get(name))]
    foreign = [name for name in lacking if own is not None and name in own]
    if add_stages and foreign:
        raise FatalError(
            f"{PIPELINE} has a stage {foreign[0]} of your own, and git-soup's has that name too",
            hint=f"rename yours in {PIPELINE}, then type this again",
        )

    def missing() -> list[str]:
        return [PIPELINE] if own is None or (add_stages and lacking) else []

    def complete() -> list[str]:
        if own is None:
            write_atomically(target_inside(git.root, PIPELINE), text.encode())
        else:
            _add_stages(git, path, text, lacking)
        return [PIPELINE]

    note = start.template.summary
    if own is not None:
        note = f"stages {', '.join(lacking)} added after yours" if add_stages else _lack(lacking)
    done = "created" if own is None else "extended"
    return _Part(PIPELINE, missing, complete, note, lambda: "kept" if lacking else "ok", done)


def _lack(stages: Sequence[str]) -> str:
    if not stages:
        return "has the template's stages"
    return f"yours, without stage{'s' if len(stages) > 1 else ''} {', '.join(stages)}"


def _add_stages(git: GitRepo, path: Path, template: str, names: Sequence[str]) -> None:
    before = path.read_bytes()
    try:
        text = with_stages(before.decode("utf-8"), template, names)
    except (ValueError, UnicodeDecodeError) as error:
        lines = "\n".join(stage_texts(template)[name] for name in names)
        raise FatalError(
            f"{PIPELINE} was left as it is: {error}; by hand, `- {_SOUP}` belongs into its vars, and"
            f" into its stages:\n{lines}",
            hint="git soup init --template NAME again, when that is done",
        ) from None
    write_atomically(path, text.encode())
    try:
        Workspace(git).dvc.stages()  # DVC's own word for it, before anybody is told
    except FatalError:
        write_atomically(path, before)
        raise


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
    notes = {state.part: state.note for state in states if state.state == "kept"}
    name = start.template.name
    lines = [
        line
        for kept in notes
        if kept.endswith(_SOUP)
        for line in (
            f"{kept}: yours, and not what template {name} has",
            f"  git soup config check{'' if kept == _SOUP else f' {kept}'} says whether it is valid",
        )
    ]
    if lines:
        return lines
    data = {start.dataset: start.template.rows[0], **(start.template.more_data or {})}
    rows = [f"  rows in {path}, as {FORMATS[form].example}" for path, form in data.items()]
    configs = [name for name in start.template.files if name.endswith(_SOUP)]
    checks = [f"git soup config check{'' if n == _SOUP else f' {n}'}" for n in configs]
    last = ["  dvc repro, or git soup train"]
    if PIPELINE in notes:
        last.insert(
            0, f"  git soup init --template {name} --add-stages: {PIPELINE} is {notes[PIPELINE]}"
        )
    return ["Next:", *rows, f"  {' && '.join(checks)}", *last]


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


def _shared_cache(git: GitRepo, folder: str) -> _Part:
    """A linked work tree uses the main one's cache; DVC itself must be told so."""
    main = git.main_work_tree
    dvc = DvcRepo(git.root / folder, main and main / folder, git.common_dir)

    def missing() -> list[str]:
        return [] if dvc.shares_cache else ["cache.dir"]

    def complete() -> list[str]:
        dvc.share_cache()
        return []

    return _Part(".dvc/config.local", missing, complete, "the main work tree's cache, shared")
