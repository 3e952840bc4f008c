"""The DVC remote: which objects it has, and what moves them there and back.

DVC itself moves the bytes, so that every kind of remote works. It works on what the
pointers of its work tree name, and those may be another revision's; so it runs in a folder
of its own that names exactly the objects in question, with this workspace's remotes. Only a
remote that is a plain folder is read and written here: it has the cache's own layout, and
DVC's start would cost more than most copies.

What a remote was once seen to have is remembered under git's common folder, because asking
costs DVC's start and a connection; `git soup push --recheck` forgets it.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cached_property
from pathlib import Path

from soup_git.core.digests import sha256_hex
from soup_git.errors import FatalError
from soup_git.storage.dvcobjects import address, address_of_dvc2
from soup_git.storage.dvcrepo import DvcRepo, protect
from soup_git.storage.facts import Facts
from soup_git.storage.files import beside, copy_bytes

_COMPLETE = "history"
_HASH = "  hash: md5\n"


class DvcRemote:
    """The default remote of a workspace, as `dvc remote add -d NAME URL` sets it."""

    def __init__(self, dvc: DvcRepo, common_dir: Path) -> None:
        self._dvc = dvc
        self._place = common_dir / "soup"

    @property
    def name(self) -> str | None:
        return self._dvc.config.default_remote

    def require(self) -> str:
        """The remote's name; raises, with how to set one, where there is none."""
        if self.name is None:
            raise FatalError(
                "no DVC remote is configured, so nobody else could get the weights and data",
                hint="dvc remote add -d NAME URL, with a folder, s3://BUCKET/PATH or ssh://… as URL;"
                " then git commit .dvc/config, and git soup push",
            )
        return self.name

    @cached_property
    def _section(self) -> dict[str, str]:
        name = self.require()
        section = self._dvc.config.remote_section(name)
        for option in ("version_aware", "worktree"):
            if section.get(option, "").lower() == "true":
                raise FatalError(
                    f"the DVC remote {name!r} has {option}: it names objects by the cloud's versions,"
                    " not by their digests, and DVC alone finds them there",
                    hint="dvc push and dvc fetch move them; for a remote that git soup serves,"
                    f" dvc remote modify {name} {option} false",
                )
        return section

    @cached_property
    def _facts(self) -> Facts:
        # What one remote has says nothing of another of the same name.
        key = sha256_hex(json.dumps(self._section, sort_keys=True).encode())[:16]
        return Facts(self._place / "remotes" / key)

    @property
    def _folder(self) -> Path | None:
        """Where a remote that is a plain folder keeps objects: looked at without DVC."""
        url = self._section.get("url", "")
        is_plain = set(self._section) <= {"url", "verify"}
        return Path(url) if is_plain and url.startswith("/") else None

    # -- what it has --------------------------------------------------------------------------

    def forget(self) -> None:
        """Believe nothing that was remembered; the next question asks the remote."""
        self._facts.clear()

    def is_known(self, md5: str) -> bool:
        return self._facts.get(md5) is not None

    def complete(self) -> list[str]:
        """Commits of which all objects, of their whole history, were seen in the remote."""
        return [key.partition(":")[2] for key in self._facts.keys_of(f"{_COMPLETE}:")]

    def remember(self, md5s: Iterable[str], commits: Iterable[str] = ()) -> None:
        for key in [*md5s, *(f"{_COMPLETE}:{commit}" for commit in commits)]:
            self._facts.put(key, "there")

    def lacking(self, md5s: Collection[str]) -> set[str]:
        """Those that the remote has not, of a folder when any file of it is missing there."""
        unknown = [md5 for md5 in md5s if not self.is_known(md5)]
        if not unknown:
            return set()
        folder = self._folder
        if folder is not None:
            missing = {md5 for md5 in unknown if not self._is_in(folder, md5)}
        else:
            missing = self._asked(unknown)
        self.remember(md5 for md5 in unknown if md5 not in missing)
        return missing

    def _is_in(self, folder: Path, md5: str) -> bool:
        place = _found(folder, md5)
        if not place.is_file():
            return False
        if not md5.endswith(".dir"):
            return True
        files = self._dvc.folder_files(md5, place)
        return all(_found(folder, inner).is_file() for inner in files.values())

    def _asked(self, md5s: Collection[str]) -> set[str]:
        with self._scratch(md5s, links=True) as scratch:
            told = json.loads(self._dvc.run("status", "--cloud", "--json", folder=scratch) or "{}")
        return {path.partition("/")[0] for path, state in told.items() if state != "deleted"}

    # -- moving bytes ---------------------------------------------------------------------------

    def push(self, md5s: Collection[str]) -> None:
        """Send objects of the cache, and kept ones; they are there and sound."""
        if not md5s:
            return
        folder = self._folder
        if folder is not None:
            self._copy(
                md5s,
                self._dvc.object_path,
                lambda md5: _address(folder, md5, of_dvc2=self._dvc.is_of_dvc2(md5)),
            )
        else:
            with self._scratch(md5s, links=True) as scratch:
                self._dvc.run("push", folder=scratch, progress=True)
        self.remember(md5s)

    def fetch(self, md5s: Collection[str]) -> None:
        """Get objects into the cache, whatever the work tree holds."""
        if not md5s:
            return
        folder = self._folder
        if folder is not None:
            self._copy(
                md5s,
                lambda md5: _found(folder, md5),
                lambda md5: _address(
                    self._dvc.cache_dir, md5, of_dvc2=_found(folder, md5) != address(folder, md5)
                ),
            )
        else:
            with self._scratch(md5s, links=False) as scratch:
                self._dvc.run("fetch", folder=scratch, progress=True)

    def _copy(
        self, md5s: Iterable[str], source: Callable[[str], Path], target: Callable[[str], Path]
    ) -> None:
        """Copy what is there and not yet here; a folder's files before the folder's own list."""
        for md5 in md5s:
            if not source(md5).is_file():
                continue
            if md5.endswith(".dir"):
                self._copy(self._dvc.folder_files(md5, source(md5)).values(), source, target)
            if not target(md5).is_file():
                self._dvc.make_folder(target(md5).parent)
                with beside(target(md5), mode=0o444) as copy:
                    copy_bytes(source(md5), copy)
                protect(target(md5))

    @contextlib.contextmanager
    def _scratch(self, md5s: Collection[str], *, links: bool) -> Iterator[Path]:
        """A workspace that names `md5s` alone.

        With `links` its cache holds exactly the objects that are here, the kept ones too.
        """
        self._place.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="exchange-", dir=self._place) as name:
            scratch = Path(name)
            (scratch / ".dvc").mkdir()
            cache = scratch / "cache" if links else self._dvc.cache_dir
            self._write_config(scratch / ".dvc" / "config", cache, scratch / "site")
            of_dvc2 = {md5 for md5 in md5s if self._dvc.is_of_dvc2(md5)}
            items = "".join(
                f"- md5: '{md5}'\n{'' if md5 in of_dvc2 else _HASH}  path: '{md5}'\n"
                for md5 in sorted(set(md5s))
            )
            (scratch / "objects.dvc").write_text(f"outs:\n{items}")
            for md5 in self._with_contents(md5s) if links else ():
                # A folder that DVC 2 named has its files where DVC 2 had them.
                for place in (address, address_of_dvc2) if of_dvc2 else (address,):
                    link = place(cache, md5)
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(self._dvc.object_path(md5).absolute())
            yield scratch

    def _with_contents(self, md5s: Iterable[str]) -> set[str]:
        here = {md5 for md5 in md5s if self._dvc.object_path(md5).is_file()}
        for md5 in [md5 for md5 in here if md5.endswith(".dir")]:
            here |= {
                inner
                for inner in self._dvc.folder_files(md5).values()
                if self._dvc.object_path(inner).is_file()
            }
        return here

    def _write_config(self, path: Path, cache: Path, site: Path) -> None:
        sections = self._dvc.config.remote_sections()
        config = configparser.ConfigParser(interpolation=None)
        config.read_dict({f"'remote \"{name}\"'": values for name, values in sections.items()})
        config["core"] = {
            **self._dvc.config.section("core"),
            "remote": self.require(),
            "no_scm": "true",
            # DVC keeps a database per workspace there, and this one is gone in a moment.
            "site_cache_dir": str(site),
        }
        config["cache"] = {**self._dvc.config.section("cache"), "dir": str(cache)}
        with path.open("w") as file:
            path.chmod(0o600)  # a remote's section may hold its password
            config.write(file)


def _address(store: Path, md5: str, *, of_dvc2: bool) -> Path:
    return address_of_dvc2(store, md5) if of_dvc2 else address(store, md5)


def _found(folder: Path, md5: str) -> Path:
    """Where a remote in a folder has an object: in DVC 2's layout if only there."""
    old = address_of_dvc2(folder, md5)
    is_old = not address(folder, md5).is_file() and old.is_file()
    return _address(folder, md5, of_dvc2=is_old)
