"""What `git soup init` sets in the configuration of a clone, as one literal table.

Lists (refspecs, notes refs) get our value beside the user's own. `remote.*.push` is never
set: with it, a plain `git push` would stop pushing the branch.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from typing import Literal

from soup_git.storage.gitrepo import GitRepo


@dataclass(frozen=True)
class Setting:
    key: str
    value: str
    """`@REMOTE@` stands for a remote's name."""
    how: Literal["beside", "unless set", "ours"] = "beside"
    """Beside the user's own values; only where there is none; or alone, a key that is ours."""


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
    # `soup` keeps a remote without such notes from failing the fetch.
    Setting("remote.@REMOTE@.fetch", "+refs/soup/*:refs/soup-remotes/@REMOTE@/*"),
    Setting("remote.@REMOTE@.fetch", "+refs/notes/soup*:refs/notes/@REMOTE@/soup*"),
)


def missing_settings(git: GitRepo) -> list[Setting]:
    """What this clone's own configuration lacks, for it and for each of its remotes."""
    wanted = list(SETTINGS)
    for remote in git.remotes():
        wanted += [
            Setting(
                s.key.replace("@REMOTE@", remote), s.value.replace("@REMOTE@", remote), s.how
            )
            for s in PER_REMOTE
        ]  # fmt: skip
    known = {key: git.config_values(key, "--local") for key in {s.key for s in wanted}}
    return [setting for setting in wanted if _is_missing(setting, known[setting.key])]


def _is_missing(setting: Setting, values: list[str]) -> bool:
    if setting.how == "ours":
        return values != [setting.value]
    return setting.value not in values and not (values and setting.how == "unless set")


def apply_setting(git: GitRepo, setting: Setting) -> None:
    if setting.how == "ours":
        git.set_config(setting.key, setting.value)
    else:
        git.add_config(setting.key, setting.value)
