"""Every DVC object that anything in a repository names: what a clean-up must keep.

Too much is kept rather than too little: a digest counts wherever it stands in a manifest,
a pointer or a lock, also between conflict markers, on any commit that any ref, reflog,
index or half-finished merge reaches, and in the files of every work tree.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from soup_git.core.lock import LOCK
from soup_git.core.manifest import MANIFEST
from soup_git.errors import FatalError
from soup_git.storage.dvcfiles import POINTER_SUFFIX
from soup_git.storage.dvcrepo import DvcRepo
from soup_git.storage.files import bytes_of
from soup_git.storage.gitrepo import GitRepo
from soup_git.storage.snapshot import DVC_LOCK

_NAMES = (MANIFEST, f"*{POINTER_SUFFIX}", DVC_LOCK, LOCK)
_PATHS = tuple(f":(top,glob)**/{name}" for name in _NAMES)
_DIGEST = re.compile(rb"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
_OID = re.compile(rb"\b[0-9a-f]{40}(?:[0-9a-f]{24})?\b")
# What a merge, rebase, cherry-pick or bisection in progress keeps in files of its own.
_IN_PROGRESS = ("*_HEAD", "AUTO_MERGE", "rebase-merge/*", "rebase-apply/*", "sequencer/*")
_MAX_STATE_BYTES = 1 << 20


def used_objects(git: GitRepo, dvc: DvcRepo) -> set[str]:
    """md5s (32 digits, a folder's without `.dir`) of all objects that something names.

    Raises `FatalError` where history or a folder's list of files cannot be read: then
    nobody knows what is used.
    """
    used: set[str] = set()
    blobs = {*_in_history(git), *_in_indexes(git), *_in_notes(git)}
    for oid, blob in zip(blobs, git.blobs(blobs), strict=True):
        if blob is None:
            raise FatalError(
                f"git's object {oid} is not here, so what it names is not known",
                hint="git fetch --refetch, or git fsck, then again",
            )
        used |= _digests(blob[1])
    for data in _in_work_trees(git):
        used |= _digests(data)
    return used | _in_folders(dvc, used)


def _digests(data: bytes) -> set[str]:
    return {found.decode() for found in _DIGEST.findall(data)}


def _in_history(git: GitRepo) -> set[str]:
    """The blobs at our paths on every commit that git itself would keep."""
    done = git.run(
        "log", "--stdin", "--all", "--reflog", "--full-history", "-m", "--root", "--no-renames",
        "--raw", "--no-abbrev", "--no-show-signature", "-z", "--format=",
        input="\n".join([*_in_progress(git), "--", *_PATHS, ""]).encode(),
    )  # fmt: skip
    entries = (part.lstrip("\n") for part in os.fsdecode(done.stdout).split("\0"))
    return {
        oid
        for entry in entries
        if entry.startswith(":") and entry.count(" ") == 4
        for mode, oid in zip(entry[1:].split(" ")[:2], entry.split(" ")[2:4], strict=True)
        if _is_file(mode) and oid.strip("0")
    }


def _is_file(mode: str) -> bool:
    return mode.startswith("100")


def _in_progress(git: GitRepo) -> Iterator[str]:
    """Commits that only a half-finished operation remembers, of every work tree."""
    words: set[str] = set()
    for folder in _git_dirs(git):
        for pattern in _IN_PROGRESS:
            for path in folder.glob(pattern):
                if path.is_file() and path.stat().st_size <= _MAX_STATE_BYTES:
                    words |= {oid.decode() for oid in _OID.findall(path.read_bytes())}
    for name in ("ORIG_HEAD", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "BISECT_HEAD"):
        oid = git.resolve(name)
        words |= {oid} if oid is not None else set()
    yield from git.commits_among(sorted(words))


def _git_dirs(git: GitRepo) -> list[Path]:
    """git's folder of each work tree, also of those whose files are gone."""
    linked = git.common_dir / "worktrees"
    return [git.common_dir, *(sorted(linked.iterdir()) if linked.is_dir() else [])]


def _in_indexes(git: GitRepo) -> set[str]:
    found = set()
    for folder in _git_dirs(git):
        if not (folder / "index").is_file():
            continue
        done = git.run(f"--git-dir={folder}", "ls-files", "-z", "--stage", "--", *_PATHS)
        for line in os.fsdecode(done.stdout).split("\0")[:-1]:
            mode, oid, _ = line.partition("\t")[0].split(" ")
            if _is_file(mode):
                found.add(oid)
    return found


def _in_notes(git: GitRepo) -> set[str]:
    refs = git.refs("refs/notes")
    return {blob for ref in refs for _, blob in git.notes_tree(ref)}


def _in_work_trees(git: GitRepo) -> Iterator[bytes]:
    """The same files as they lie on disk, tracked or not, ignored or not."""
    for folder in git.work_trees():
        if not folder.is_dir():
            continue
        tree = git if folder == git.root else GitRepo(folder)
        for path in tree.paths("ls-files", "--cached", "--others", "--", *_PATHS):
            data = bytes_of(folder / path)
            if data is not None:
                yield data


def _in_folders(dvc: DvcRepo, used: Iterable[str]) -> set[str]:
    """The files of every folder that is used and here."""
    found: set[str] = set()
    for md5 in used:
        if dvc.object_path(f"{md5}.dir").is_file():
            found |= set(dvc.folder_files(f"{md5}.dir").values())
    return found
