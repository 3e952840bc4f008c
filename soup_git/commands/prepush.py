"""What the pre-push hook checks: every object that the pushed commits name is in the DVC remote.

It looks at the commits that the remote lacks, and at nothing where these name no object.
What the DVC remote was seen to have before is remembered, so most pushes ask nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from soup_git.core.text import counted
from soup_git.errors import ExitCode, FatalError
from soup_git.storage.dvcprojects import has_project
from soup_git.storage.gitrepo import GitRepo

_SHOWN = 5


def check_push(remote: str, lines: Iterable[str]) -> int:
    """`lines` are git's own: LOCAL-REF LOCAL-OID REMOTE-REF REMOTE-OID.

    Raises `FatalError` for commits whose weights or data nobody else could get.
    """
    git = GitRepo.discover(Path.cwd())
    if not has_project(git):
        return ExitCode.OK
    fields = [line.split(" ") for line in lines]
    pushed = {f[1] for f in fields if len(f) == 4 and f[1].strip("0")}
    there = {f[3].strip() for f in fields if len(f) == 4}
    if not pushed:
        return ExitCode.OK
    from soup_git.storage.versions import named_objects
    from soup_git.storage.workspace import Workspace

    store = Workspace(git).dvc_remote
    copies = git.refs(f"refs/remotes/{remote}/", f"refs/soup-remotes/{remote}/").values()
    seen = store.complete() if store.name is not None else []
    known = git.present([oid for oid in there if oid.strip("0")] + seen)
    named, _ = named_objects(git, pushed, [*copies, *known])
    if not named:
        return ExitCode.OK
    if store.name is None:
        raise FatalError(
            f"{counted(len(named), 'object')} named by these commits would be published nowhere: no DVC"
            " remote is configured",
            hint="dvc remote add -d NAME URL, then git soup push;"
            " git push --no-verify publishes the commits alone",
        )
    lacking = store.lacking(named)
    if not lacking:
        return ExitCode.OK
    items = [named[md5] for md5 in sorted(lacking)]
    listed = "".join(f"\n  md5:{item.md5}  {item.where}" for item in items[:_SHOWN])
    more = f"\n  … {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    raise FatalError(
        f"the DVC remote {store.name} lacks {counted(len(items), 'object')} that these commits name:"
        f"{listed}{more}",
        hint="git soup push sends them, then the commits;"
        " git push --no-verify publishes the commits alone",
    )
