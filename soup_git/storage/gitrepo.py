"""The door to git: the only file that starts it.

Everything goes through the `git` executable: it is the one implementation that reads
every repository there is (reftable, SHA-256, partial clones, work trees), and a process
costs less than importing a library would.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from soup_git.core.text import printable
from soup_git.errors import FatalError

OLDEST_GIT = (2, 38)  # merge-tree --write-tree, which dry runs of a merge stand on
_LOCK_PATIENCE_SECONDS = 10.0
# A training that took hours must not fail at its end because nobody told git a name.
_NO_IDENTITY = {
    "GIT_AUTHOR_NAME": "git-soup", "GIT_AUTHOR_EMAIL": "git-soup@localhost",
    "GIT_COMMITTER_NAME": "git-soup", "GIT_COMMITTER_EMAIL": "git-soup@localhost",
}  # fmt: skip
# A lock file that another git holds; one that cannot be made for another reason (a full
# disk, a folder without permission) is not busy and will not become free.
_BUSY = re.compile(
    r"Unable to create '(?P<path>[^']+\.lock)': File exists"
    r"|could not lock config file (?P<config>[^:\n]+): File exists"
)


@dataclass(frozen=True)
class TreeEntry:
    mode: str
    oid: str
    path: str


@dataclass(frozen=True)
class RefUpdate:
    """One line of a ref transaction; `old` None means "must not exist yet"."""

    ref: str
    new: str
    old: str | None


@dataclass(frozen=True)
class PushedRef:
    """A ref that a remote refused, in git's words."""

    ref: str
    why: str


class GitRepo:
    """Questions put to one repository and the few changes made to it, as named functions."""

    def __init__(self, root: Path) -> None:
        """`root` is the top of the work tree."""
        self.root = root
        self._batch: subprocess.Popen[bytes] | None = None

    @classmethod
    def discover(cls, start: Path) -> GitRepo:
        """The repository around `start`; raises when there is none, or none with files."""
        found = _start(
            ["rev-parse", "--is-bare-repository", "--is-inside-work-tree", "--show-cdup"], start
        )
        if found.returncode:
            message = _text(found.stderr).strip().removeprefix("fatal: ").split("\n")[0]
            if "dubious ownership" in message:
                command = f"git config --global --add safe.directory {shlex.quote(str(start))}"
                raise FatalError(message, hint=f"if you trust it: {command}")
            raise FatalError(message or "not a git repository", hint="git init, then git soup init")
        bare, inside_tree, up = [*_text(found.stdout).split("\n"), "", ""][:3]
        if bare == "true":
            raise FatalError(
                "this is a bare repository: it has no work tree to keep adapters in",
                hint="git clone it, then git soup init in the clone",
            )
        if inside_tree != "true":
            raise FatalError(
                "this is git's own folder, not a work tree",
                hint="cd .. to the work tree, then again",
            )
        return cls(Path(os.path.normpath(start.resolve() / up)))

    # -- starting git ---------------------------------------------------------------------

    def run(
        self,
        *arguments: str,
        input: bytes | None = None,
        check: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run git at the top of the work tree; a failure is a `FatalError` with git's words."""
        done = _start(arguments, self.root, input=input, env=env)
        if check and done.returncode:
            raise self._failure(arguments, done)
        return done

    def run_in_view(self, *arguments: str) -> int:
        """Run git with the user's own streams, for what git itself reports; returns its exit code."""
        command = [_git(), "-C", str(self.root), *arguments]
        return subprocess.run(command, check=False, env=_environment(None)).returncode

    def text(self, *arguments: str, **options: object) -> str:
        return _text(self.run(*arguments, **options).stdout).rstrip("\n")  # type: ignore[arg-type]

    def lines(self, *arguments: str) -> list[str]:
        out = self.text(*arguments)
        return out.split("\n") if out else []

    def paths(self, *arguments: str) -> list[str]:
        """What a git command with `-z` names; without it git quotes names that are not ASCII."""
        return _text(self.run(*_with_z(arguments)).stdout).split("\0")[:-1]

    def _failure(
        self,
        arguments: Sequence[str],
        done: subprocess.CompletedProcess[bytes],
        hint: str = "git status",
    ) -> FatalError:
        said = _text(done.stderr).strip().replace("\t", "  ")
        lock = _BUSY.search(said)
        if lock:
            return _left_lock(self._lock_file(lock))
        # git's own advice is about git's own commands; ours follows.
        lines = [line for line in said.split("\n") if line and not line.startswith("hint:")]
        words = [line.removeprefix("fatal: ").removeprefix("error: ") for line in lines]
        clean = "\n".join(words).strip()
        if done.returncode < 0:
            clean = f"git {arguments[0]} was ended by signal {-done.returncode}. {clean}".strip()
        if "No space left on device" in clean or -done.returncode == signal.SIGXFSZ:
            hint = "df -h . to see what is full, then type the command again"
        if "empty ident name" in clean or "tell me who you are" in clean:
            clean = "git does not know who you are, and a commit names its author"
            hint = "git config --global user.name NAME, and user.email ADDRESS; then again"
        return FatalError(
            clean or f"git {' '.join(arguments[:2])} failed with {done.returncode}", hint=hint
        )

    def run_with_patience(
        self,
        *arguments: str,
        input: bytes | None = None,
        env: Mapping[str, str] | None = None,
        hint: str = "git status",
    ) -> subprocess.CompletedProcess[bytes]:
        """Run git; wait while another git holds the lock it needs, then name the lock."""
        deadline = time.monotonic() + _LOCK_PATIENCE_SECONDS
        pause = 0.01
        while True:
            done = self.run(*arguments, input=input, check=False, env=env)
            if not done.returncode:
                return done
            busy = _BUSY.search(_text(done.stderr))
            # A lock that is older than our patience is not going away while we wait.
            if not busy or time.monotonic() > deadline or self._is_stale(busy):
                raise self._failure(arguments, done, hint)
            time.sleep(pause)
            pause = min(pause * 2, 0.25)

    def _lock_file(self, busy: re.Match[str]) -> Path:
        return Path(busy["path"] or f"{self.root / busy['config']}.lock")

    def _is_stale(self, busy: re.Match[str]) -> bool:
        try:
            age = time.time() - self._lock_file(busy).stat().st_mtime
        except OSError:
            return False
        return age > _LOCK_PATIENCE_SECONDS

    # -- where things are -----------------------------------------------------------------

    @cached_property
    def _folders(self) -> tuple[str, str, str]:
        git, common, hooks = self.lines(
            "rev-parse",
            "--path-format=absolute",
            "--git-dir",
            "--git-common-dir",
            "--git-path",
            "hooks",
        )
        return git, common, hooks

    @property
    def git_dir(self) -> Path:
        return Path(self._folders[0])

    @property
    def common_dir(self) -> Path:
        """git's folder that all work trees share."""
        return Path(self._folders[1])

    @property
    def hooks_dir(self) -> Path:
        return Path(self._folders[2])

    @property
    def is_linked_work_tree(self) -> bool:
        return self.git_dir != self.common_dir

    @cached_property
    def main_work_tree(self) -> Path | None:
        """The work tree that the others were linked from; None when the repository is bare."""
        first = self.text("worktree", "list", "--porcelain").split("\n\n")[0].split("\n")
        return None if "bare" in first else Path(first[0].removeprefix("worktree "))

    # -- revisions and objects ------------------------------------------------------------

    def resolve(self, revision: str, kind: str = "commit") -> str | None:
        """The object id that `revision` names, peeled to `kind`; None when there is none."""
        if revision.startswith("-") or any(c in revision for c in "\0\n"):
            return None
        done = self.run(
            "rev-parse",
            "--verify",
            "--quiet",
            "--end-of-options",
            f"{revision}^{{{kind}}}",
            check=False,
        )
        return None if done.returncode else _text(done.stdout).strip()

    def commit(self, revision: str) -> str:
        oid = self.resolve(revision)
        if oid is None:
            if revision == "HEAD":
                raise FatalError("this repository has no commit yet", hint="git commit, then again")
            raise FatalError(
                f"{revision!r} names no commit here", hint="git branch -a, or git fetch to get it"
            )
        return oid

    def checked_out(self) -> dict[str, str]:
        """Branch -> the work tree that has it checked out, over all linked work trees."""
        found, folder = {}, ""
        for line in self.lines("worktree", "list", "--porcelain"):
            key, _, value = line.partition(" ")
            if key == "worktree":
                folder = value
            elif key == "branch":
                found[value.removeprefix("refs/heads/")] = folder
        return found

    def work_trees(self) -> list[Path]:
        """The folders of all work trees, linked ones too; some may be gone."""
        out = self.run("worktree", "list", "--porcelain", "-z").stdout
        blocks = [block.split(b"\0") for block in out.split(b"\0\0") if block]
        return [
            Path(os.fsdecode(lines[0].removeprefix(b"worktree ")))
            for lines in blocks
            if b"bare" not in lines
        ]

    def commits_among(self, words: Sequence[str]) -> list[str]:
        """Those of some object ids that name a commit which is here."""
        asked = "".join(f"{word}\n" for word in words).encode()
        out = _text(self.run("cat-file", "--batch-check", input=asked).stdout) if words else ""
        return [
            line.split(" ")[0] for line in out.splitlines() if line.split(" ")[1:2] == ["commit"]
        ]

    def head_branch(self) -> str | None:
        """The branch HEAD is on; None when detached."""
        done = self.run("symbolic-ref", "--quiet", "--short", "HEAD", check=False)
        return _text(done.stdout).strip() or None

    def merge_base(self, one: str, other: str) -> str | None:
        done = self.run("merge-base", one, other, check=False)
        return _text(done.stdout).strip() or None

    def refs(self, *prefixes: str) -> dict[str, str]:
        """Full ref name -> object id (of the tag itself, for an annotated tag)."""
        lines = self.lines("for-each-ref", "--format=%(refname) %(objectname)", *prefixes)
        return dict(line.split(" ", 1) for line in lines)

    def tree(self, revision: str, *paths: str) -> list[TreeEntry]:
        """Every file below `paths` in a revision."""
        done = self.run("ls-tree", "-r", "-z", "--full-tree", revision, "--", *paths)
        entries = []
        for line in _text(done.stdout).split("\0")[:-1]:
            meta, path = line.split("\t", 1)
            mode, _, oid = meta.split(" ")
            entries.append(TreeEntry(mode, oid, path))
        return entries

    def index(self, *paths: str) -> list[TreeEntry]:
        """What is staged (and not in conflict) below `paths`."""
        done = self.run("ls-files", "-z", "--stage", "--", *paths)
        entries = []
        for line in _text(done.stdout).split("\0")[:-1]:
            meta, path = line.split("\t", 1)
            mode, oid, stage = meta.split(" ")
            if stage == "0":
                entries.append(TreeEntry(mode, oid, path))
        return entries

    def blobs(self, names: Iterable[str]) -> Iterator[tuple[str, bytes] | None]:
        """(object id, bytes) for each `OID` or `REV:PATH`, in order; None where missing.

        One `git cat-file --batch` serves all calls of this process.
        """
        for name in names:
            found = self._object(name)
            yield (found[0], found[2]) if found is not None and found[1] == "blob" else None

    def _object(self, name: str) -> tuple[str, str, bytes] | None:
        """(object id, type, bytes) of what `name` names; None where missing."""
        if "\n" in name:
            return None
        batch = self._batch_process()
        assert batch.stdin is not None  # noqa: S101 - for the type checker
        assert batch.stdout is not None  # noqa: S101
        with contextlib.suppress(BrokenPipeError):
            batch.stdin.write(os.fsencode(name) + b"\n")
            batch.stdin.flush()
        answer = batch.stdout.readline()
        if not answer:
            raise self._batch_ended(name)
        parts = answer.split()
        if len(parts) != 3 or answer.endswith((b" missing\n", b" ambiguous\n")):
            return None
        data = batch.stdout.read(int(parts[2]))
        batch.stdout.read(1)
        return parts[0].decode(), parts[1].decode(), data

    def blob(self, name: str) -> bytes | None:
        found = next(iter(self.blobs([name])))
        return None if found is None else found[1]

    def blob_into(self, oid: str, file: BinaryIO) -> None:
        """Write a blob that is too large to hold to a real file, from its position on."""
        file.flush()
        done = subprocess.run(
            [_git(), "-C", str(self.root), "cat-file", "blob", oid],
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.PIPE,
            check=False, env=_environment(None),
        )  # fmt: skip
        if done.returncode:
            raise self._failure(["cat-file"], done, "git fsck")

    def notes_tree(self, revision: str) -> Iterator[tuple[str, str]]:
        """(noted object, blob of its note) for every note of a notes ref or commit.

        git spreads notes over folders by the first bytes of the object's id; read through
        the same `cat-file --batch` as `blobs`, so no process is started for it.
        """
        yield from self._notes_below(f"{revision}^{{tree}}", "")

    def _notes_below(self, name: str, prefix: str) -> Iterator[tuple[str, str]]:
        found = self._object(name)
        if found is None or found[1] != "tree":
            return
        # A tree is `MODE NAME\0` and the id's own bytes, over and over.
        (tree, _, data), at = found, 0
        while at < len(data):
            space, end = data.index(b" ", at), data.index(b"\0", at)
            mode, part = data[at:space], prefix + data[space + 1 : end].decode("ascii", "replace")
            at = end + 1 + len(tree) // 2
            oid = data[end + 1 : at].hex()
            if mode == b"40000" and len(part) < len(tree):
                yield from self._notes_below(oid, part)
            elif mode.startswith(b"100") and len(part) == len(tree):
                yield part, oid

    def _batch_process(self) -> subprocess.Popen[bytes]:
        if self._batch is None:
            self._batch = subprocess.Popen(
                [_git(), "-C", str(self.root), "cat-file", "--batch"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(None),
            )
            atexit.register(self.close)
        return self._batch

    def _batch_ended(self, name: str) -> FatalError:
        """git gives up where a partial clone cannot get an object from its remote."""
        self.close()
        if self.config_values("extensions.partialClone") or self.config_values(
            "remote.origin.promisor"
        ):
            return FatalError(
                f"this is a partial clone, and its remote does not give {name}",
                hint="git fetch, to see whether the remote answers; git fetch --refetch gets all",
            )
        return FatalError(f"git could not read {name}", hint="git fsck")

    def close(self) -> None:
        """End the process that `blobs` reads from, if there is one."""
        if self._batch is not None:
            # A server opens a repository for each request: none may stay until the exit.
            atexit.unregister(self.close)
            assert self._batch.stdin is not None  # noqa: S101
            with contextlib.suppress(BrokenPipeError):
                self._batch.stdin.close()
            if self._batch.stdout is not None:
                self._batch.stdout.close()
            self._batch.wait()
            self._batch = None

    def blob_ids(self, names: Sequence[str]) -> list[tuple[str, int] | None]:
        """(object id, size) for each `REV:PATH`; None where missing or no file."""
        asked = b"".join(os.fsencode(name) + b"\n" for name in names)
        out = self.run("cat-file", "--batch-check", input=asked).stdout
        found: list[tuple[str, int] | None] = []
        for line in out.decode(errors="replace").split("\n")[:-1]:
            parts = line.split(" ")
            ok = len(parts) == 3 and parts[1] == "blob"
            found.append((parts[0], int(parts[2])) if ok else None)
        return found

    def present(self, oids: Iterable[str]) -> list[str]:
        """Those of `oids` whose objects are here."""
        asked = "".join(f"{oid}\n" for oid in oids).encode()
        if not asked:
            return []
        out = self.run("cat-file", "--batch-check=%(objectname)", input=asked).stdout
        return [line for line in out.decode().split("\n") if line and " " not in line]

    def changed_lines(self, old: str, new: str) -> list[str]:
        """The hunks of git's own diff of two files, tracked or not; empty when they are equal.

        Lines end in LF alone: a carriage return is part of its line.
        """
        done = self.run(
            "diff", "--no-index", "--no-ext-diff", "--no-textconv", "--no-color", "--text",
            "--", old, new, check=False,
        )  # fmt: skip
        if done.returncode not in {0, 1}:
            raise self._failure(["diff"], done)
        lines = _text(done.stdout).removesuffix("\n").split("\n")
        first = next((n for n, line in enumerate(lines) if line.startswith("@@ ")), len(lines))
        return lines[first:]

    @property
    def shallow_commits(self) -> set[str]:
        """The commits whose parents a shallow clone left out."""
        path = Path(self.text("rev-parse", "--path-format=absolute", "--git-path", "shallow"))
        return set(path.read_text().split()) if path.is_file() else set()

    def newest(self, commits: Sequence[str]) -> str:
        """Of several commits, one that no other descends from; the first of these, if several."""
        left = self.lines("merge-base", "--independent", *commits)
        return next(commit for commit in commits if commit in left)

    # -- writing: objects first, refs last --------------------------------------------------

    def write_blob(self, data: bytes) -> str:
        return _text(self.run("hash-object", "-w", "--stdin", input=data).stdout).strip()

    def write_blob_of(self, path: Path) -> str:
        """The blob of a file's bytes as they are, without git's own filters."""
        return self.text("hash-object", "-w", "--no-filters", "--", str(path.absolute()))

    def write_tree(self, base: str | None, changes: Mapping[str, str | None]) -> str:
        """A tree: `base` with path -> blob id set, and None removed. Touches no index."""
        with tempfile.TemporaryDirectory(prefix="soup-index-") as folder:
            env = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
            self.run("read-tree", base or "--empty", env=env)
            self.stage_blobs(changes, env=env)
            return self.text("write-tree", env=env)

    @cached_property
    def id_length(self) -> int:
        """Hexadecimal digits of an object id: 40, or 64 in a SHA-256 repository."""
        return 64 if self.text("rev-parse", "--show-object-format") == "sha256" else 40

    def write_commit(
        self, tree: str, parents: Sequence[str], message: str, *, unattended: bool = False
    ) -> str:
        """A commit; `unattended` makes one too where git does not know who its user is."""
        flags = [flag for parent in parents for flag in ("-p", parent)]
        env = _NO_IDENTITY if unattended and not self._has_identity else None
        done = self.run("commit-tree", tree, *flags, "-F", "-", input=message.encode(), env=env)
        return _text(done.stdout).strip()

    def write_tag(self, commit: str, name: str, message: str) -> str:
        """An annotated tag object for a commit; no ref names it yet."""
        who = self.text("var", "GIT_COMMITTER_IDENT")
        text = f"object {commit}\ntype commit\ntag {name}\ntagger {who}\n\n{message}"
        return self.run("mktag", input=os.fsencode(text)).stdout.decode().strip()

    @cached_property
    def _has_identity(self) -> bool:
        return self.run("var", "GIT_COMMITTER_IDENT", check=False).returncode == 0

    def update_refs(self, updates: Sequence[RefUpdate], reason: str) -> None:
        """All of `updates`, or none: one transaction, each with the value it expects."""
        lines = ["start"]
        for update in updates:
            if update.old is None:
                lines.append(f"create {update.ref} {update.new}")
            else:
                lines.append(f"update {update.ref} {update.new} {update.old}")
        lines += ["prepare", "commit", ""]
        self.run_with_patience(
            "-c", "core.filesRefLockTimeout=5000", "update-ref", "-m", reason, "--create-reflog", "--stdin",
            input="\n".join(lines).encode(),
        )  # fmt: skip

    def stage(self, *paths: str) -> None:
        """`git add` exactly these paths, whatever an ignore file says of them."""
        self._with_paths("add", "--force", paths=paths)

    def stage_blobs(
        self, changes: Mapping[str, str | None], env: Mapping[str, str] | None = None
    ) -> None:
        """Put path -> blob id into the index, and take None out of it; no file is touched."""
        lines = b""
        for path, oid in changes.items():
            entry = f"0 {'0' * self.id_length}" if oid is None else f"100644 {oid}"
            lines += os.fsencode(f"{entry}\t{path}") + b"\0"
        if lines:
            self.run_with_patience("update-index", "-z", "--index-info", input=lines, env=env)

    def restore(self, paths: Sequence[str]) -> None:
        """Write these files anew as they are staged."""
        if paths:
            self._with_paths("checkout", paths=paths)

    def adopt(self, revision: str, paths: Sequence[str]) -> None:
        """Stage these files of a revision without looking at the work tree."""
        wanted = set(paths)
        self._set_entries([entry for entry in self.tree(revision) if entry.path in wanted])

    def set_index(self, paths: Sequence[str], entries: Sequence[TreeEntry]) -> None:
        """Give `paths` the entries they had (those without one leave the index); files stay."""
        if paths:
            names = b"".join(os.fsencode(path) + b"\0" for path in paths)
            self.run_with_patience("update-index", "--force-remove", "-z", "--stdin", input=names)
        self._set_entries(entries)

    def _set_entries(self, entries: Sequence[TreeEntry]) -> None:
        if entries:
            lines = b"".join(os.fsencode(f"{e.mode} {e.oid}\t{e.path}\0") for e in entries)
            self.run_with_patience("update-index", "--add", "-z", "--index-info", input=lines)

    def index_of(self, paths: Sequence[str]) -> list[TreeEntry]:
        """What is staged at exactly these paths."""
        return self.index(*(f":(literal){path}" for path in paths)) if paths else []

    def match_modes(self, paths: Sequence[str]) -> None:
        """Make files executable, or not, as they are staged: git's own bit of a file's mode."""
        for entry in self.index_of(paths):
            file = self.root / entry.path
            bits = 0o111 if entry.mode == "100755" else 0
            file.chmod((file.stat().st_mode & 0o666) | bits)

    def _with_paths(self, *arguments: str, paths: Sequence[str]) -> None:
        """Run a command over paths that are names, not patterns, however many there are."""
        self.run_with_patience(
            "--literal-pathspecs", *arguments, "--pathspec-from-file=-", "--pathspec-file-nul",
            input=b"".join(os.fsencode(path) + b"\0" for path in paths),
        )  # fmt: skip

    def switch(self, branch: str, *, track: str | None = None, discard: bool = False) -> None:
        """`git switch`; refuses, changing nothing, when local changes would be overwritten.

        `track` makes the branch from a remote's; `discard` gives up local changes.
        """
        # An ignored file is somebody's file too: git by itself would replace it silently.
        how = "--discard-changes" if discard else "--no-overwrite-ignore"
        which = ["--track", "-c", branch, track] if track else ["--no-guess", branch]
        self.run_with_patience(
            "switch", "--quiet", how, *which,
            hint=f"git stash, then again; git soup checkout --force {branch} gives up local changes",
        )  # fmt: skip

    # -- configuration ----------------------------------------------------------------------

    def config_values(self, key: str, *scope: str) -> list[str]:
        done = self.run("config", *scope, "--get-all", key, check=False)
        return _text(done.stdout).split("\n")[:-1]

    def add_config(self, key: str, value: str) -> None:
        self.run_with_patience("config", "--local", "--add", key, value)

    def set_config(self, key: str, value: str) -> None:
        """`value` alone, whatever and however many were there."""
        self.run_with_patience("config", "--local", "--replace-all", key, value)

    def remotes(self) -> list[str]:
        return self.lines("remote")

    # -- other repositories -------------------------------------------------------------------

    def fetch(
        self, remote: str, refspecs: Sequence[str], *, prune: bool = False, beside: bool = False
    ) -> None:
        """Fetch `refspecs`, alone or `beside` those that the remote is configured with.

        `prune` forgets the copies of what the remote no longer has, below these refspecs only.
        """
        if beside:
            key = f"remote.{remote}.fetch"
            known = self.config_values(key)
            new = [f"{key}={spec}" for spec in refspecs if spec not in known]
            self._talk(*(word for value in new for word in ("-c", value)), "fetch", "--", remote)
            return
        flags = ["--no-tags", "--no-write-fetch-head", *(["--prune"] if prune else [])]
        self._talk("fetch", *flags, "--", remote, *refspecs)

    def push(
        self, remote: str, refspecs: Sequence[str], leases: Mapping[str, str | None]
    ) -> list[PushedRef]:
        """`git push --atomic`; returns what was refused, and nothing when all went through.

        `leases`: ref -> the value that it has there (None: it must not exist yet). Raises
        when the remote could not be spoken to.
        """
        guards = [f"--force-with-lease={ref}:{oid or ''}" for ref, oid in leases.items()]
        done = self._talk(
            "push", "--atomic", "--porcelain", *guards, "--", remote, *refspecs, check=False
        )
        refused = [
            PushedRef(names.partition(":")[2], why)
            for line in _text(done.stdout).split("\n")
            if line.startswith("!\t")
            for _, names, why in [line.split("\t", 2)]
        ]
        if done.returncode and not refused:
            raise self._failure(
                ["push"], done, f"git ls-remote {remote}, to see whether it answers"
            )
        return refused

    def integrate(self, words: Sequence[str], *, conflicts: bool = False) -> bool:
        """`git merge` or `git rebase`; False when it stopped at conflicts, which git's words tell."""
        done = self.run(*words, check=False)
        if not done.returncode:
            return True
        if conflicts and (self.paths("ls-files", "--unmerged") or b"CONFLICT" in done.stdout):
            sys.stderr.write(printable(_text(done.stdout + done.stderr), keep_newlines=True))
            return False
        raise self._failure(words, done, "git stash, then git soup pull again, then git stash pop")

    def is_ancestor(self, one: str, other: str) -> bool:
        return self.run("merge-base", "--is-ancestor", one, other, check=False).returncode == 0

    def typed_refs(self, *prefixes: str) -> dict[str, tuple[str, str]]:
        """Full ref name -> (object id, type of the object)."""
        form = "--format=%(refname) %(objectname) %(objecttype)"
        found = (line.rsplit(" ", 2) for line in self.lines("for-each-ref", form, *prefixes))
        return {ref: (oid, kind) for ref, oid, kind in found}

    def _talk(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Run what may ask for a password and take its time: progress goes to a terminal."""
        words = list(arguments)
        if sys.stderr.isatty():
            words.insert(words.index("--"), "--progress")
        process = subprocess.Popen(
            [_git(), "-C", str(self.root), *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=_environment({"GIT_TERMINAL_PROMPT": os.environ.get("GIT_TERMINAL_PROMPT", "1")}),
        )  # fmt: skip
        assert process.stderr is not None  # noqa: S101 - for the type checker
        said, out = b"", b""
        with concurrent.futures.ThreadPoolExecutor(1) as reader:
            report = reader.submit(process.stdout.read) if process.stdout else None
            while chunk := process.stderr.read1(1 << 16):  # type: ignore[attr-defined]
                said += chunk
                if sys.stderr.isatty():
                    # What the other side says is no reason to move the cursor elsewhere.
                    lines = (printable(line) for line in _text(chunk).split("\r"))
                    shown = "\r".join(line.replace("\\n", "\n") for line in lines)
                    sys.stderr.write(shown)
                    sys.stderr.flush()
            out = report.result() if report is not None else b""
        done = subprocess.CompletedProcess(words, process.wait(), out, said)
        if check and done.returncode:
            remote = words[words.index("--") + 1]
            raise self._failure(
                [arguments[0]], done, f"git ls-remote {remote}, to see whether it answers"
            )
        return done


def _with_z(arguments: Sequence[str]) -> list[str]:
    return [*arguments[:1], "-z", *arguments[1:]]


def heads_being_merged() -> dict[str, str]:
    """Commit -> what the user called it, in a `git merge` that started us; else nothing.

    git tells its drivers by GITHEAD_* variables; in a rebase or a cherry-pick there are none.
    """
    found = (re.fullmatch(r"GITHEAD_([0-9a-f]{40,64})", key) for key in os.environ)
    return {match[1]: os.environ[match[0]] for match in found if match is not None}


def git_version() -> tuple[int, int]:
    out = _text(_start(["version"], Path.cwd()).stdout)
    found = re.search(r"(\d+)\.(\d+)", out)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _git() -> str:
    found = shutil.which("git")
    if found is None:
        raise FatalError("git is not on your PATH", hint="install git 2.38 or newer")
    return found


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    # Messages are parsed in a few places; a background refresh of the index by a command
    # that only reads would take index.lock away from the user's own git.
    return {
        **os.environ, "LC_ALL": "C.UTF-8", "LANGUAGE": "C", "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": os.environ.get("GIT_TERMINAL_PROMPT", "0"),
        "GIT_SOUP_ACTIVE": "1", **(extra or {}),
    }  # fmt: skip


def _start(
    arguments: Sequence[str],
    folder: Path,
    *,
    input: bytes | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [_git(), "-C", str(folder), *arguments],
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        check=False,
        env=_environment(env),
        process_group=0 if _outlives_ctrl_c() else None,
    )


def _outlives_ctrl_c() -> bool:
    """Whether we answer Ctrl-C ourselves, as training does, which saves first: a terminal sends
    it to the whole group, and would end the git that records what was saved."""
    handler = signal.getsignal(signal.SIGINT)
    return callable(handler) and handler is not signal.default_int_handler


def _text(data: bytes) -> str:
    return os.fsdecode(data)


def _left_lock(path: Path) -> FatalError:
    try:
        age = f"it is {time.time() - path.stat().st_mtime:.0f} seconds old"
    except OSError:
        age = "it is gone by now"
    return FatalError(
        f"another git process holds {path}, or a killed one left it behind ({age})",
        hint=f"if no git runs here any more: rm '{path}'",
    )
