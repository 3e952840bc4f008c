"""The door to DVC: its cache, and the only file that starts it.

Objects are read and written natively, in DVC's own layout, because importing DVC costs half
a second and every hook would pay it. What moves bytes between machines (`fetch`, `push`) and
what runs pipelines is DVC itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from soup_git.core.digests import md5_hex
from soup_git.core.manifest import WEIGHTS
from soup_git.errors import FatalError
from soup_git.storage.dvcconfig import DvcConfig, can_hold
from soup_git.storage.dvcfiles import POINTER_SUFFIX
from soup_git.storage.dvcobjects import (
    address,
    address_of_dvc2,
    folder_listing,
    md5_of_dvc2,
    md5_of_file,
    walk,
)
from soup_git.storage.files import (
    copy_bytes,
    move_into_place,
    reflink,
    temporary_in,
    write_atomically,
)

_INTERRUPTED = 130
_PAUSE_SECONDS = 0.5
_YOUNG_SECONDS = 86_400  # far below any grace time, and rare enough to keep digests known


class DvcRepo:
    """The cache and the configuration of one DVC project: of a work tree, or of a folder in it."""

    def __init__(
        self,
        root: Path,
        main: Path | None,
        common_dir: Path,
        other_caches: Callable[[], list[Path]] = list,
    ) -> None:
        """`main` is the project in the main work tree; objects are also read from `other_caches`,
        those of the repository's other projects."""
        self.root = root
        self._main = main
        self._common_dir = common_dir
        self._other_caches = other_caches

    @property
    def exists(self) -> bool:
        return (self.root / ".dvc" / "config").is_file()

    @cached_property
    def config(self) -> DvcConfig:
        return DvcConfig(self.root, self._main)

    @cached_property
    def cache_dir(self) -> Path:
        """Where objects live: as configured, else the main work tree's, so that all share one."""
        configured = self.config.cache_dir
        if configured is not None:
            return configured
        if self._main is None:
            return self._common_dir / "soup" / "dvc"
        return self._main / ".dvc" / "cache"

    # -- objects --------------------------------------------------------------------------

    def object_path(self, md5: str) -> Path:
        """Where an object is: in the cache, or among the kept ones; where it belongs if nowhere."""
        path = self._own_path(md5)
        if path.is_file():
            return path
        others = [address_of_dvc2(self.cache_dir, md5)]
        others += [address(cache, md5) for cache in self._others]
        return next((other for other in others if other.is_file()), path)

    def is_of_dvc2(self, md5: str) -> bool:
        """Whether DVC 2 put the object here, so that its name is DVC 2's digest."""
        return self.object_path(md5) == address_of_dvc2(self.cache_dir, md5)

    def _own_path(self, md5: str) -> Path:
        path, kept = address(self.cache_dir, md5), address(self.kept_dir, md5)
        return kept if not path.is_file() and kept.is_file() else path

    @cached_property
    def _others(self) -> list[Path]:
        return self._other_caches()

    @property
    def kept_dir(self) -> Path:
        """Objects that only our refs reach (checkpoints), where `dvc gc` does not look."""
        return self._common_dir / "soup" / "objects"

    def has(self, md5: str) -> bool:
        """Whether the object is here; of a folder, with all of its files."""
        path = self.object_path(md5)
        if not path.is_file():
            return False
        return not md5.endswith(".dir") or all(
            self.object_path(digest).is_file() for digest in self.folder_files(md5).values()
        )

    def read(self, md5: str) -> bytes:
        return self.object_path(md5).read_bytes()

    def size_of(self, md5: str) -> int:
        """Bytes of an object that is here; of a folder, with its files."""
        own = self.object_path(md5).stat().st_size
        if not md5.endswith(".dir"):
            return own
        return own + sum(self.size_of(inner) for inner in set(self.folder_files(md5).values()))

    def folder_files(self, md5: str, place: Path | None = None) -> dict[str, str]:
        """Relative path -> md5 of each file of a folder object, every path checked.

        `place` is the object's file, where that is not this cache's.
        """
        try:
            listing = json.loads((place or self.object_path(md5)).read_bytes())
            files = {item["relpath"]: item["md5"] for item in listing}
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self.corrupt(md5, "is no list of files") from None
        for path, digest in files.items():
            if not isinstance(path, str) or "\0" in path:
                raise self.corrupt(md5, "names something that is no path")
            if any(p.lower() in {"", ".", "..", ".git"} for p in path.split("/")):
                raise self.corrupt(md5, f"names a path outside its folder ({path!r})")
            if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{32}", digest):
                raise self.corrupt(md5, f"has no md5 for {path!r}")
        return files

    def corrupt(self, md5: str, what: str) -> FatalError:
        return FatalError(
            f"the cache object md5:{md5} {what}",
            hint=f"rm {self.object_path(md5)} && dvc fetch, to get it again",
        )

    def verify(self, md5: str) -> bool:
        """Whether the object's bytes have the digest that names them."""
        path = self.object_path(md5)
        digest = md5_of_dvc2 if self.is_of_dvc2(md5) else md5_of_file
        return path.is_file() and digest(path) == md5.removesuffix(".dir")

    def store_file(
        self,
        source: Path,
        inspect: Callable[[Path], tuple[str, Any]] | None = None,
        *,
        keep: bool = False,
    ) -> tuple[str, Any]:
        """Put a copy of `source` into the cache; return its md5 and what `inspect` found.

        `keep` puts it where `dvc gc` does not look instead.

        The digest is taken over the private copy, so a file that changes meanwhile can
        never be stored under a name that is not its own. `inspect(copy)` returns the md5
        with something of its caller's; without it the md5 is computed here.
        """
        place = self.kept_dir if keep else self.cache_dir
        self.make_folder(place / "files" / "md5")
        with temporary_in(place / "files" / "md5") as copy:
            copy_bytes(source, copy)
            md5, found = inspect(copy) if inspect else (md5_of_file(copy), None)
            if not self._holds(md5, copy.stat().st_size):
                self.make_folder(address(place, md5).parent)
                move_into_place(copy, address(place, md5), mode=0o444)
                protect(address(place, md5))
        return md5, found

    def _holds(self, md5: str, size: int) -> bool:
        """Whether the object is here and sound; one that rotted is written anew."""
        path = self._own_path(md5)
        is_whole = path.is_file() and path.stat().st_size == size
        if not is_whole or md5_of_file(path) != md5.removesuffix(".dir"):
            return False
        _freshen(path)
        return True

    def store_bytes(self, data: bytes, md5: str) -> None:
        path = self._own_path(md5)
        if not path.is_file() or path.read_bytes() != data:
            self.make_folder(path.parent)
            write_atomically(path, data, mode=0o444)
            protect(path)
        _freshen(path)

    def make_folder(self, folder: Path) -> None:
        """Make a folder of the cache with the modes that DVC gives it: a shared one is a group's."""
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
        for place in reversed(missing):
            place.mkdir(exist_ok=True)
            if self.config.is_shared and folder.is_relative_to(self.cache_dir):
                place.chmod(0o2775)

    def adopt(self, md5: str) -> None:
        """Have an object of another project's in this cache, too: DVC looks nowhere else."""
        if self._others and not self._own_path(md5).is_file():
            place = self.object_path(md5)
            if md5.endswith(".dir"):
                self.store_bytes(place.read_bytes(), md5)
            else:
                self.store_file(place)

    def store_folder(self, source: Path) -> tuple[str, int, int]:
        """Put a folder into the cache; return its md5 (`….dir`), its size and its file count."""
        listing, size = [], 0
        for path in walk(source):
            md5, _ = self.store_file(path)
            listing.append({"md5": md5, "relpath": path.relative_to(source).as_posix()})
            size += path.stat().st_size
        data = folder_listing(listing)
        md5 = md5_hex(data) + ".dir"
        self.store_bytes(data, md5)
        return md5, size, len(listing)

    # -- work tree --------------------------------------------------------------------------

    def restore_file(self, md5: str, target: Path) -> None:
        """Give `target` the object's bytes, in the first way of `cache.type` that works.

        Where that is not configured: by reflink, else a copy; the weights in a linked work
        tree by reflink or a hard link (read-only, as the object is), so that the tenth work
        tree costs no more than a name.
        """
        source = self.object_path(md5)
        with temporary_in(target.parent) as temporary:
            for kind in self._ways(target):
                if kind == "reflink" and reflink(source, temporary):
                    break
                # A link to what is kept for our refs alone would dangle once they are gone.
                is_link = kind == "symlink" and source.is_relative_to(self.cache_dir)
                if (kind == "hardlink" and _linked(os.link, source, temporary)) or (
                    is_link and _linked(os.symlink, source.absolute(), temporary)
                ):
                    temporary.replace(target)
                    return
            else:
                copy_bytes(source, temporary)
            move_into_place(temporary, target, mode=0o666)

    def _ways(self, target: Path) -> list[str]:
        is_linked = self.root != self._main
        links = is_linked and target.name == WEIGHTS
        return self.config.cache_types or (["reflink", "hardlink"] if links else ["reflink"])

    @property
    def shares_cache(self) -> bool:
        """Whether DVC itself would use the cache that we use."""
        return self.root == self._main or self.config.names_cache

    def share_cache(self) -> None:
        """Tell DVC, in a linked work tree, where the cache is, and what the main one's
        `config.local` says (a remote's password).
        """
        if not self.shares_cache:
            self.config.name_cache(self.cache_dir)

    # -- DVC itself -------------------------------------------------------------------------

    def run(self, *arguments: str, folder: Path | None = None, progress: bool = False) -> str:
        """Run `dvc`; returns its stdout. Raises with its words.

        `progress` shows its bars where stderr is a terminal.
        """
        if folder is None:
            self._refuse_without_git()
        shown = progress and sys.stderr.isatty()
        done = subprocess.run(
            [sys.executable, "-P", "-m", "dvc", *arguments],
            cwd=folder or self.root, stdin=subprocess.DEVNULL, check=False,
            stdout=subprocess.PIPE, stderr=None if shown else subprocess.PIPE,
            env=_environment(),
        )  # fmt: skip
        if done.returncode:
            raise _failed(arguments, done.stderr or b"", done.returncode)
        return done.stdout.decode(errors="replace")

    def run_apart(self, *arguments: str, log: Path) -> None:
        """Run a `dvc` that leaves processes behind: they write to `log`, never to our streams,
        and in a session of their own hear no Ctrl-C and no closing terminal.
        """
        self._refuse_without_git()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "dvc", *arguments],
                cwd=self.root, stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False,
                env=_environment(), start_new_session=True,
            )  # fmt: skip
        if done.returncode:
            raise _failed(arguments, log.read_bytes(), done.returncode)

    def repro(
        self,
        *stages: str,
        force: bool = False,
        waiting: Callable[[], None] = lambda: None,
    ) -> int:
        """`dvc repro` with its output where ours goes; waits while another DVC runs here.

        `stages` are brought up to date, with what they need; else the whole pipeline. With `force`
        they alone run, whatever changed. `waiting` is called once when it has to wait. Returns DVC's
        exit code. `python` in a stage's command is the one that runs us.
        """
        self._refuse_without_git()
        command = [sys.executable, "-P", "-m", "dvc", "--wait-for-lock", "repro"]
        command += ["--force", "--single-item"] if force else []
        command += stages
        while True:
            if self.is_busy:
                waiting()
                waiting = lambda: None  # noqa: E731
            while self.is_busy:
                time.sleep(_PAUSE_SECONDS)
            code = _outlasted(
                subprocess.Popen(command, cwd=self.root, stdout=sys.stderr, env=_environment())
            )
            if code in {0, _INTERRUPTED} or not self.is_busy:
                return code

    def _refuse_without_git(self) -> None:
        """DVC finds git's folder by `.git` alone, and does not look at GIT_DIR."""
        if not self.shares_cache and not can_hold(self.cache_dir):
            raise FatalError(
                f"DVC cannot be told of the cache at {self.cache_dir}: its configuration holds"
                " plain text of one line",
                hint="mv the main work tree to a plain name, then git worktree repair there",
            )
        is_found = any((folder / ".git").exists() for folder in (self.root, *self.root.parents))
        if is_found or self.config.section("core").get("no_scm", "").lower() == "true":
            return
        named = shlex.quote(f"gitdir: {self._common_dir}")
        raise FatalError(
            f"DVC does not look at GIT_DIR, and there is no .git in {self.root}",
            hint=f"cd {shlex.quote(str(self.root))} && printf '%s\\n' {named} > .git"
            " && git config core.bare false; then again, without GIT_DIR",
        )

    def status(self) -> dict[str, Any]:
        """`dvc status --json`: stage -> what changed."""
        found: dict[str, Any] = json.loads(self.run("status", "--json") or "{}")
        return found

    def stages(self) -> dict[str, list[str]]:
        """Stage name -> the stages it needs, in the order they would run."""
        needs: dict[str, list[str]] = {}
        for line in self.run("dag", "--dot").splitlines():
            edge = re.fullmatch(r'\s*"([^"]+)"(?: -> "([^"]+)")?;?', line)
            if edge:
                needs.setdefault(edge[1], [])
                if edge[2]:
                    needs.setdefault(edge[2], []).append(edge[1])
        ordered: dict[str, list[str]] = {}
        while len(ordered) < len(needs):
            ready = [n for n in needs if n not in ordered and all(d in ordered for d in needs[n])]
            if not ready:
                break
            ordered |= {name: needs[name] for name in ready}
        return {name: deps for name, deps in ordered.items() if not name.endswith(POINTER_SUFFIX)}

    def outputs(self) -> list[str]:
        """The outputs of all stages and pointers, as DVC resolves their names."""
        graph = self.run("dag", "--outs", "--dot")
        return [json.loads(name) for name in re.findall(r'"(?:[^"\\]|\\.)*"', graph)]

    @property
    def is_busy(self) -> bool:
        """Whether a living DVC process reads or writes paths here (its `rwlock` file says so)."""
        try:
            held = json.loads((self.root / ".dvc" / "tmp" / "rwlock").read_text())
            return any(is_dvc(pid) for pid in set(_holders(held)))
        except (FileNotFoundError, ValueError, AttributeError, TypeError, KeyError):
            return False


def _outlasted(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a process that hears the same Ctrl-C as we do: it finishes its step,
    saves, and says how to go on, and is left the time for it."""
    interrupted = False
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            interrupted = True
        else:
            return _INTERRUPTED if interrupted else code


def _failed(arguments: Sequence[str], said: bytes, code: int) -> FatalError:
    lines = said.decode(errors="replace").strip().splitlines()
    last = " ".join(line.strip() for line in lines[-4:])
    return FatalError(
        f"dvc {arguments[0]} failed: {last or f'exit {code}'}",
        hint=f"dvc {' '.join(arguments)} -v shows all of it",
    )


def _environment() -> dict[str, str]:
    """`python` in a stage, and `dvc` in a worker of DVC's queue, are the ones that run us."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}


def _linked(link: Callable[[Path, Path], None], source: Path, temporary: Path) -> bool:
    temporary.unlink()
    try:
        link(source, temporary)
    except OSError:
        temporary.touch()
        return False
    return True


def _holders(held: Any) -> Iterator[int]:
    """The process ids in DVC's rwlock: {"write": {path: {pid}}, "read": {path: [{pid}, …]}}."""
    for mode in ("write", "read"):
        for entries in held.get(mode, {}).values():
            for entry in entries if isinstance(entries, list) else [entries]:
                yield int(entry["pid"])


def is_dvc(pid: int) -> bool:
    """Whether a process is alive and is DVC: one that was killed leaves its number to others."""
    import psutil

    try:
        return any("dvc" in word for word in psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


def protect(path: Path) -> None:
    """Make an object readable by all and writable by none, whatever the umask, as DVC does."""
    # Of somebody else's object in a shared cache the mode is theirs.
    with contextlib.suppress(OSError):
        path.chmod(0o444)


def _freshen(path: Path) -> None:
    """Make an object young again: what is about to be named is no garbage (as git does it)."""
    # A cache that belongs to somebody else is not ours to clean up either.
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime > _YOUNG_SECONDS:
            os.utime(path)
