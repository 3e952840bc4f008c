"""What `git soup init` sets in the configuration of a clone, as one literal table.

Lists (refspecs, notes refs) get our value beside the user's own. `remote.*.push` is never
set: with it, a plain `git push` would stop pushing the branch.

Most of it is in a file of ours that `.git/config` includes: DVC copies `.git/config` into each
experiment that runs apart (`dvc exp run --temp`, its queue) with a parser that refuses a key
that is there twice.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from soup_git.storage.gitrepo import GitRepo


@dataclass(frozen=True)
class Setting:
    key: str
    value: str
    """`@REMOTE@` stands for a remote's name."""
    how: Literal["beside", "unless set", "ours"] = "beside"
    """Beside the user's own values; only where there is none; or alone, a key that is ours."""

    @property
    def name(self) -> str:
        """The key as git folds it: section and name in lower case, what is between them as it is."""
        section, _, rest = self.key.partition(".")
        middle, dot, name = rest.rpartition(".")
        return f"{section.lower()}.{middle}{dot}{name.lower()}"


INCLUDED = "soup/gitconfig"
"""Our file, in git's common folder; as `.git/config` names it, and so for a copy of it too."""


# With its path: a client with a window has no environment's programs on its PATH.
PYTHON = shlex.quote(sys.executable)


def _diff_command() -> str:
    """The diff driver; when its Python is gone, git's own diff, so that `git diff` never breaks."""
    ours = f'{PYTHON} -P -m soup_git.hooks.diff_driver "$@"'
    gits = 'git --no-pager diff --no-index --no-ext-diff "$2" "$5" || :'
    return f"f() {{ if [ -x {PYTHON} ]; then {ours}; else {gits}; fi; }}; f"


SETTINGS = (
    Setting("core.logAllRefUpdates", "always"),
    Setting("log.excludeDecoration", "refs/soup/*"),
    Setting("log.excludeDecoration", "refs/soup-remotes/*"),
    Setting("diff.soup.command", _diff_command(), "ours"),
    # As patterns: of a ref that is not there yet, git warns in every log, of a pattern not.
    Setting("notes.rewriteRef", "refs/notes/soup*"),
    Setting("notes.displayRef", "refs/notes/soup*"),
    Setting("notes.soup.mergeStrategy", "cat_sort_uniq", "unless set"),
    Setting("merge.soup.name", "adapters, their pointers and locks", "ours"),
    Setting("merge.soup.driver", f"{PYTHON} -P -m soup_git.hooks.merge_driver %O %A %B %P", "ours"),
    # A criss-cross history has several merge bases; their merge is no adapter to start from.
    Setting("merge.soup.recursive", "binary", "ours"),
    Setting("merge.soup-ours.name", "results of a run: ours, never mixed", "ours"),
    Setting("merge.soup-ours.driver", "true", "ours"),
)

PER_REMOTE = (
    # Into a namespace of their own: a fetch must never move local refs. The `*` after
    # `soup` keeps a remote without such notes from failing the fetch. In `.git/config`, so that
    # `git remote remove` and `rename` take them along, and spelled apart: git reads one key.
    Setting("remote.@REMOTE@.Fetch", "+refs/soup/*:refs/soup-remotes/@REMOTE@/*"),
    Setting("remote.@REMOTE@.FETCH", "+refs/notes/soup*:refs/notes/@REMOTE@/soup*"),
)
_INCLUDE = Setting("include.path", INCLUDED)


def missing_settings(git: GitRepo) -> list[Setting]:
    """What this clone's configuration lacks, or has where DVC's parser could not read it.

    In the order in which it is put right: a kill in between leaves every answer of git's.
    """
    own, ours = _values(git, "--local"), _values(git, "--file", str(_file(git)))
    found = [] if INCLUDED in own.get(_INCLUDE.name, []) else [_INCLUDE]
    found += [s for s in SETTINGS if _is_missing(s, own.get(s.name, []), ours.get(s.name, []))]
    lines = _lines(git)
    for remote in git.remotes():
        wanted = [
            Setting(s.key.replace("@REMOTE@", remote), s.value.replace("@REMOTE@", remote))
            for s in PER_REMOTE
        ]  # fmt: skip
        found += [
            s
            for s in wanted
            if f"{s.key.rpartition('.')[2]} = {s.value}" not in lines
            or _of_an_old_name(s, own.get(s.name, []))
        ]
    return found


def _of_an_old_name(setting: Setting, values: list[str]) -> list[str]:
    """Our refspecs of a remote's former name, which `git remote rename` leaves, spelled `fetch`."""
    name = setting.key.rpartition(".")[2]
    template = next(s.value for s in PER_REMOTE if s.key.endswith(f".{name}"))
    ours = re.compile(re.escape(template).replace("@REMOTE@", ".+"))
    return [value for value in values if value != setting.value and ours.fullmatch(value)]


def _is_missing(setting: Setting, own: list[str], ours: list[str]) -> bool:
    """`own` is what `.git/config` itself says, `ours` the included file."""
    if setting.how == "unless set":
        return not own and not ours
    if setting.how == "ours":
        return ours != [setting.value] or bool(own)
    return setting.value not in ours or setting.value in own


def apply_setting(git: GitRepo, setting: Setting) -> None:
    """Have one of the missing settings; an older version's line for it leaves `.git/config`."""
    if setting.key.startswith("remote."):
        for value in _of_an_old_name(setting, git.config_values(setting.key, "--local")):
            _forget(git, Setting(setting.key, value))
        _forget(git, setting)
        git.add_config(setting.key, setting.value)
        return
    if setting is _INCLUDE:
        is_taken = bool(git.config_values("include.path", "--local"))
        git.add_config("include.Path" if is_taken else "include.path", INCLUDED)
        return
    file = _file(git)
    file.parent.mkdir(parents=True, exist_ok=True)
    if setting.how == "ours":
        git.run_with_patience(
            "config", "--file", str(file), "--replace-all", setting.key, setting.value
        )
    elif setting.value not in git.config_values(setting.key, "--file", str(file)):
        git.run_with_patience("config", "--file", str(file), "--add", setting.key, setting.value)
    _forget(git, setting)


def _forget(git: GitRepo, setting: Setting) -> None:
    """Take a setting's value, or all values of a key that is ours, out of `.git/config` itself."""
    own = git.config_values(setting.key, "--local")
    if setting.how == "ours" and own:
        git.run_with_patience("config", "--local", "--unset-all", setting.key)
    elif setting.value in own:
        git.run_with_patience(
            "config", "--local", "--fixed-value", "--unset-all", setting.key, setting.value
        )


def _file(git: GitRepo) -> Path:
    return git.common_dir / INCLUDED


def _lines(git: GitRepo) -> set[str]:
    """The lines of `.git/config` as they are spelled there."""
    text = (git.common_dir / "config").read_text("utf-8", "surrogateescape")
    return {line.strip().replace('"', "") for line in text.splitlines()}


def _values(git: GitRepo, *scope: str) -> dict[str, list[str]]:
    """Key, as git folds its case -> values, of one file alone."""
    found: dict[str, list[str]] = {}
    done = git.run("config", *scope, "--list", "-z", check=False)
    for item in os.fsdecode(done.stdout).split("\0")[:-1]:
        key, _, value = item.partition("\n")
        found.setdefault(key, []).append(value)
    return found


def repeated_keys(git: GitRepo) -> list[str]:
    """The keys that `.git/config` has twice, spelled alike in one section: DVC's parser stops."""
    counts: Counter[str] = Counter()
    section, continued = "", False
    for line in (git.common_dir / "config").read_text("utf-8", "surrogateescape").splitlines():
        header = re.match(r'\s*\[\s*([^\s"\]]+)(?:\s+"(.*?)")?\s*\]', line)
        key = re.match(r"\s*([A-Za-z][A-Za-z0-9-]*)\s*(?:=|$)", line)
        if continued:
            pass
        elif header:
            section = f"{header[1]}.{header[2]}" if header[2] else header[1]
        elif key:
            counts[f"{section}.{key[1]}"] += 1
        continued = line.endswith("\\")
    return [key for key, count in counts.items() if count > 1]


def respelling(git: GitRepo, key: str) -> str:
    """The commands that spell each value of a repeated key apart: to git it stays one key."""
    section, _, name = key.rpartition(".")
    taken = _lines(git)
    spellings = (
        "".join(letters)
        for letters in product(*({c: None, c.swapcase(): None} for c in name.lower()))
        if not any(line.startswith(f"{''.join(letters)} =") for line in taken)
    )
    remote = section.removeprefix("remote.")
    ours = {s.value.replace("@REMOTE@", remote) for s in PER_REMOTE}
    values = [v for v in dict.fromkeys(git.config_values(key, "--local")) if v not in ours]
    commands = []
    for value in values[1:]:
        commands.append(
            f"git config --fixed-value --unset-all {shlex.quote(key)} {shlex.quote(value)}"
        )
        commands.append(
            f"git config --add {shlex.quote(f'{section}.{next(spellings)}')} {shlex.quote(value)}"
        )
    return " && ".join(commands)
