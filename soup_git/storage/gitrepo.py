"""The door to git: the only file that starts it.

Everything goes through the `git` executable: it is the one implementation that reads
every repository there is (reftable, SHA-256, partial clones, work trees), and a process
costs less than importing a library would.
"""

from __future__ import annotations

import concurrent.futures
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
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from soup_git.core.text import printable
from soup_git.errors import FatalError
from soup_git.storage.gitfailures import in_words, lock_in_the_way, seconds_old
from soup_git.storage.gitformats import (
    RefUpdate,
    TreeEntry,
    WorkTree,
    transaction,
    tree_entries,
    work_trees,
)
from soup_git.storage.gitindex import GitIndex
from soup_git.storage.gitobjects import ObjectReader

OLDEST_GIT = (2, 38)  # merge-tree --write-tree, which dry runs of a merge stand on
_LOCK_PATIENCE_SECONDS = 10.0
# A training that took hours must not fail at its end because nobody told git a name.
_NO_IDENTITY = {
    "GIT_AUTHOR_NAME": "git-soup", "GIT_AUTHOR_EMAIL": "git-soup@localhost",
    "GIT_COMMITTER_NAME": "git-soup", "GIT_COMMITTER_EMAIL": "git-soup@localhost",
}  # fmt: skip


# What a user may have set and would write into what is read here: of a signed commit, git log
# prints the verdict on its signature between the lines that were asked for.
_SETTLED = ("-c", "log.showSignature=false")


class GitRepo:
    """Questions put to one repository and the few changes made to it, as named functions."""

    def __init__(
        self, root: Path, here: Path | None = None, place: Mapping[str, str] | None = None
    ) -> None:
        """`root` is the top of the work tree, `here` the folder in it that one stands in.

        `place` has the variables that say where the rest is; without them it is where git finds
        it from `root`, whatever the environment says of another repository, as it does in a hook.
        """
        self.root = root
        self.here = root if here is None else here
        self._place = place or {}

    @classmethod
    def discover(cls, start: Path) -> GitRepo:
        """The repository around `start`; raises when there is none, or none with files."""
        told = _told_places(start)
        found = _start(
            ["rev-parse", "--is-bare-repository", "--is-inside-git-dir", "--show-toplevel"],
            start, env=told,
        )  # fmt: skip
        bare, in_git_dir, top = [*_text(found.stdout).split("\n", 2), "", ""][:3]
        if bare == "true":
            raise FatalError(
                "this is a bare repository: it has no work tree to keep adapters in",
                hint="git clone it, then git soup init in the clone",
            )
        if in_git_dir == "true" and not told.get("GIT_WORK_TREE"):
            raise FatalError(
                "this is git's own folder, not a work tree",
                hint="cd .. to the work tree, then again",
            )
        if found.returncode:
            message = _text(found.stderr).strip().removeprefix("fatal: ").split("\n")[0]
            if "dubious ownership" in message:
                command = f"git config --global --add safe.directory {shlex.quote(str(start))}"
                raise FatalError(message, hint=f"if you trust it: {command}")
            raise FatalError(message or "not a git repository", hint="git init, then git soup init")
        root, here = Path(top.removesuffix("\n")), start.resolve()
        if not here.is_relative_to(root):
            here = root
        if "GIT_DIR" not in told:
            return cls(root, here, told)
        asked = ["rev-parse", "--absolute-git-dir"]
        found_here = _start(asked, root).stdout
        if found_here and found_here == _start(asked, root, env=told).stdout:
            # What git would find by itself, as in a hook: DVC and trainings, which we start in
            # this and in other work trees, are better not told.
            for name in _PLACES:
                os.environ.pop(name, None)
                told.pop(name, None)
            return cls(root, here, told)
        place = {**told, "GIT_WORK_TREE": str(root)}
        os.environ.update(place)
        return cls(root, here, place)

    # -- starting git ---------------------------------------------------------------------

    def run(
        self,
        *arguments: str,
        input: bytes | None = None,
        check: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run git at the top of the work tree; a failure is a `FatalError` with git's words."""
        done = _start(arguments, self.root, input=input, env={**self._place, **(env or {})})
        if check and done.returncode:
            raise self.failure(arguments, done)
        return done

    def run_in_view(self, *arguments: str) -> int:
        """Run git with the user's own streams, for what git itself reports; returns its exit code."""
        command = [_git(), "-C", str(self.root), *arguments]
        return subprocess.run(command, check=False, env=_environment(self._place)).returncode

    def text(self, *arguments: str, **options: object) -> str:
        return _text(self.run(*arguments, **options).stdout).rstrip("\n")  # type: ignore[arg-type]

    def lines(self, *arguments: str) -> list[str]:
        out = self.text(*arguments)
        return out.split("\n") if out else []

    def paths(self, *arguments: str) -> list[str]:
        """What a git command with `-z` names; without it git quotes names that are not ASCII."""
        return _text(self.run(*_with_z(arguments)).stdout).split("\0")[:-1]

    def failure(
        self,
        arguments: Sequence[str],
        done: subprocess.CompletedProcess[bytes],
        hint: str = "git status",
    ) -> FatalError:
        return in_words(arguments, done.returncode, done.stderr, self.root, hint)

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
            lock = lock_in_the_way(done.stderr, self.root)
            age = seconds_old(lock) if lock is not None else None
            # A lock that is older than our patience is not going away while we wait.
            is_stale = age is not None and age > _LOCK_PATIENCE_SECONDS
            if lock is None or time.monotonic() > deadline or is_stale:
                raise self.failure(arguments, done, hint)
            time.sleep(pause)
            pause = min(pause * 2, 0.25)

    # -- where things are -----------------------------------------------------------------

    @cached_property
    def _folders(self) -> list[str]:
        asked = (["--git-dir"], ["--git-common-dir"], ["--git-path", "hooks"])
        words = ["rev-parse", "--path-format=absolute"]
        found = self.text(*words, *(word for one in asked for word in one)).split("\n")
        # A path with a line feed is one answer of several lines.
        return found if len(found) == 3 else [self.text(*words, *one) for one in asked]

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
        return self._listed_work_trees[0].folder

    @property
    def _listed_work_trees(self) -> list[WorkTree]:
        """All of them, the main one first."""
        main, *linked = work_trees(self.run("worktree", "list", "--porcelain", "-z").stdout)
        # git guesses the main one from where its own folder is: wrong in a submodule, and where
        # core.worktree or GIT_WORK_TREE names it.
        if not self.is_linked_work_tree:
            return [replace(main, folder=self.root), *linked]
        named = self.config_values("core.worktree")
        if named:
            main = replace(main, folder=Path(os.path.normpath(self.common_dir / named[-1])))
        return [main, *linked]

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
        return {
            tree.branch: str(tree.folder)
            for tree in self._listed_work_trees
            if tree.branch is not None
        }

    def work_trees(self) -> list[Path]:
        """The folders of all work trees, linked ones too; some may be gone."""
        return [tree.folder for tree in self._listed_work_trees if tree.folder is not None]

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
        return tree_entries(done.stdout)

    def blobs(self, names: Iterable[str]) -> Iterator[tuple[str, bytes] | None]:
        """(object id, bytes) for each `OID` or `REV:PATH`, in order; None where missing.

        One `git cat-file --batch` serves all calls of this process.
        """
        for name in names:
            found = self._objects.read(name)
            yield (found[0], found[2]) if found is not None and found[1] == "blob" else None

    def blob(self, name: str) -> bytes | None:
        found = next(iter(self.blobs([name])))
        return None if found is None else found[1]

    def blob_into(self, oid: str, file: BinaryIO) -> None:
        """Write a blob that is too large to hold to a real file, from its position on."""
        file.flush()
        done = subprocess.run(
            [_git(), "-C", str(self.root), "cat-file", "blob", oid],
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.PIPE,
            check=False, env=_environment(self._place),
        )  # fmt: skip
        if done.returncode:
            raise self.failure(["cat-file"], done, "git fsck")

    def notes_tree(self, revision: str) -> Iterator[tuple[str, str]]:
        """(noted object, blob of its note) for every note of a notes ref or commit.

        git spreads notes over folders by the first bytes of the object's id; read through
        the same `cat-file --batch` as `blobs`, so no process is started for it.
        """
        return self._objects.notes(revision)

    @cached_property
    def _objects(self) -> ObjectReader:
        return ObjectReader(self._start_reader, self._reader_ended)

    def _start_reader(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [_git(), "-C", str(self.root), "cat-file", "--batch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(self._place),
        )

    def _reader_ended(self, name: str) -> FatalError:
        """git gives up where a partial clone cannot get an object from its remote."""
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
        self._objects.close()

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
            raise self.failure(["diff"], done)
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

    @cached_property
    def index(self) -> GitIndex:
        return GitIndex(self)

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
            self.index.put(changes, env=env)
            return self.text("write-tree", env=env)

    @cached_property
    def id_length(self) -> int:
        """Hexadecimal digits of an object id: 40, or 64 in a SHA-256 repository."""
        return 64 if self.text("rev-parse", "--show-object-format") == "sha256" else 40

    def write_commit(
        self, tree: str, parents: Sequence[str], message: str, *, sign: bool | None = None
    ) -> str:
        """A commit of the user's; signed where `git commit` would sign it, unless `sign` says.

        Raises where it is to be signed and git cannot: nothing is written then.
        """
        # commit-tree, being plumbing, does not look at commit.gpgSign.
        signs = self._signs_commits if sign is None else sign
        return self._commit_tree(tree, parents, message, *(["-S"] if signs else []))

    def write_record(self, tree: str, parents: Sequence[str], message: str) -> str:
        """A commit that nobody typed: a checkpoint, a note, a page.

        As git does with its own notes and stashes, it is never signed: it is made while nobody
        is there to give a passphrase. It is made too where git does not know who its user is.
        """
        env = None if self._has_identity else _NO_IDENTITY
        return self._commit_tree(tree, parents, message, env=env)

    def _commit_tree(
        self,
        tree: str,
        parents: Sequence[str],
        message: str,
        *flags: str,
        env: Mapping[str, str] | None = None,
    ) -> str:
        words = [*flags, *(word for parent in parents for word in ("-p", parent))]
        done = self.run("commit-tree", tree, *words, "-F", "-", input=os.fsencode(message), env=env)
        return _text(done.stdout).strip()

    def create_tag(
        self, name: str, commit: str, message: str, *, reason: str, sign: bool | None = None
    ) -> None:
        """An annotated tag; signed as `git tag -F FILE` would sign it, unless `sign` says.

        Raises where the tag is there already, or is to be signed and git cannot.
        """
        # With --annotate, tag.forceSignAnnotated is not looked at.
        how = {None: [], True: ["--sign"], False: ["--annotate", "--no-sign"]}[sign]
        signs = self._signs_tags if sign is None else sign
        done = self.run(
            "tag", *how, "--create-reflog", "--cleanup=verbatim", "-F", "-", name, commit,
            input=os.fsencode(message), env={"GIT_REFLOG_ACTION": reason},
        )  # fmt: skip
        ref = f"refs/tags/{name}"
        if signs and not self.text("for-each-ref", "--format=%(contents:signature)", ref):
            # git 2.39, of an SSH key that is not there, complains and exits 0.
            self.run("update-ref", "-d", ref, self.refs(ref)[ref])
            raise self.failure(["tag"], done)

    @cached_property
    def _signs_commits(self) -> bool:
        return self.config_flag("commit.gpgSign")

    @cached_property
    def _signs_tags(self) -> bool:
        return self.config_flag("tag.gpgSign") or self.config_flag("tag.forceSignAnnotated")

    @cached_property
    def _has_identity(self) -> bool:
        return self.run("var", "GIT_COMMITTER_IDENT", check=False).returncode == 0

    def update_refs(self, updates: Sequence[RefUpdate], reason: str) -> None:
        """All of `updates`, or none: one transaction, each with the value it expects."""
        self.run_with_patience(
            "-c", "core.filesRefLockTimeout=5000", "update-ref", "-m", reason, "--create-reflog", "--stdin",
            input=transaction(updates),
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

    def config_flag(self, key: str) -> bool:
        """A yes or no of git's configuration; no where it is not set. Raises at another value."""
        done = self.run("config", "--type=bool", "--get", key, check=False)
        if done.returncode > 1:
            raise self.failure(["config"], done, f"git config --show-origin --get-all {key}")
        return done.stdout.strip() == b"true"

    def add_config(self, key: str, value: str) -> None:
        self.run_with_patience("config", "--local", "--add", key, value)

    def set_config(self, key: str, value: str) -> None:
        """`value` alone, whatever and however many were there."""
        self.run_with_patience("config", "--local", "--replace-all", key, value)

    def remotes(self) -> list[str]:
        return self.lines("remote")

    # -- other repositories -------------------------------------------------------------------

    def integrate(self, words: Sequence[str], *, conflicts: bool = False) -> bool:
        """`git merge` or `git rebase`; False when it stopped at conflicts, which git's words tell."""
        done = self.run(*words, check=False)
        if not done.returncode:
            return True
        if conflicts and (self.paths("ls-files", "--unmerged") or b"CONFLICT" in done.stdout):
            sys.stderr.write(printable(_text(done.stdout + done.stderr), keep_newlines=True))
            return False
        raise self.failure(words, done, "git stash, then git soup pull again, then git stash pop")

    def is_ancestor(self, one: str, other: str) -> bool:
        return self.run("merge-base", "--is-ancestor", one, other, check=False).returncode == 0

    def typed_refs(self, *prefixes: str) -> dict[str, tuple[str, str]]:
        """Full ref name -> (object id, type of the object)."""
        form = "--format=%(refname) %(objectname) %(objecttype)"
        found = (line.rsplit(" ", 2) for line in self.lines("for-each-ref", form, *prefixes))
        return {ref: (oid, kind) for ref, oid, kind in found}

    def talk(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Run what may ask for a password and take its time: progress goes to a terminal."""
        words = list(arguments)
        if sys.stderr.isatty():
            words.insert(words.index("--"), "--progress")
        process = subprocess.Popen(
            [_git(), "-C", str(self.root), *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=_environment({
                **self._place, "GIT_TERMINAL_PROMPT": os.environ.get("GIT_TERMINAL_PROMPT", "1")
            }),
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
            raise self.failure(
                [arguments[0]], done, f"git ls-remote {remote}, to see whether it answers"
            )
        return done


def _with_z(arguments: Sequence[str]) -> list[str]:
    return [*arguments[:1], "-z", *arguments[1:]]


def git_version() -> tuple[int, int]:
    out = _text(_start(["version"], Path.cwd()).stdout)
    found = re.search(r"(\d+)\.(\d+)", out)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _git() -> str:
    found = shutil.which("git")
    if found is None:
        raise FatalError("git is not on your PATH", hint="install git 2.38 or newer")
    return found


_PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY")
_OF_ONE_REPOSITORY = (*_PLACES, "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_IMPLICIT_WORK_TREE")


def _told_places(start: Path) -> dict[str, str]:
    """What the environment says of where the repository around `start` is, paths made absolute.

    It says so of the current folder, and of the work tree that it names; not of another folder:
    in a hook, another work tree or a scratch clone is another repository.
    """
    told = {name: os.environ[name] for name in _OF_ONE_REPOSITORY if os.environ.get(name)}
    if "GIT_DIR" not in told and "GIT_WORK_TREE" not in told:
        return {name: told[name] for name in told if _is_here(start)}
    if not _is_here(start) and Path(told.get("GIT_WORK_TREE", "")).absolute() != start.absolute():
        return {}
    # Relative to where we are; git is started at the top.
    return {n: str(Path(v).absolute()) if n in _PLACES else v for n, v in told.items()}


def _is_here(start: Path) -> bool:
    return start.resolve() == Path.cwd().resolve()


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    # Messages are parsed in a few places; a background refresh of the index by a command
    # that only reads would take index.lock away from the user's own git.
    ours = {k: v for k, v in os.environ.items() if k not in _OF_ONE_REPOSITORY}
    return {
        **ours, "LC_ALL": "C.UTF-8", "LANGUAGE": "C", "GIT_OPTIONAL_LOCKS": "0",
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
        [_git(), "-C", str(folder), *_SETTLED, *arguments],
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
