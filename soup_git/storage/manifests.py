"""Which manifest describes which weights: an index over every manifest that git has.

A merge driver sees one file only. The pointer and the locks name weights by their md5; what
those weights are (modules, rank, base) is in a manifest somewhere in history. The index is
a file under git's common folder, brought up to date by what is new since it was written,
and rebuilt when missing: losing it costs time, never truth.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from soup_git.core.manifest import FILE, MANIFEST, Manifest, parse_manifest
from soup_git.errors import FatalError
from soup_git.storage.files import write_atomically
from soup_git.storage.gitformats import heads_being_merged
from soup_git.storage.gitrepo import GitRepo

_WEIGHTS = re.compile(rb"^weights md5:([0-9a-f]{32}) ", re.MULTILINE)
_LINE = re.compile(r"(?P<blob>[0-9a-f]{40,64}) (?P<md5>[0-9a-f]{32})")
_OID = re.compile(r"[0-9a-f]{40,64}")
# A commit that is being merged, picked or fetched may be on no branch.
_UNDER_WAY = (
    "HEAD", "FETCH_HEAD", "ORIG_HEAD", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD",
    "REBASE_HEAD",
)  # fmt: skip


class ManifestIndex:
    """Weights md5 -> manifest, over refs, reflogs and what git is about to merge."""

    def __init__(self, git: GitRepo) -> None:
        self._git = git
        self._path = git.common_dir / "soup" / "manifests"
        self._blobs: dict[str, str] | None = None

    def find(self, md5: str) -> Manifest:
        """The one manifest of these weights.

        Of several, git knows in a merge (and in nothing else) which ones are being merged.
        Raises `FatalError` when there is none, or several that mean different adapters.
        """
        blobs = [blob for blob, of in self._known().items() if of == md5]
        found = self._by_digest(blobs)
        count = len(found)
        if count > 1:
            found = self._by_digest([b for b in blobs if b in self._in_this_merge])
        if len(found) == 1:
            return next(iter(found.values()))
        what = f"{count} manifests that differ describe" if count else "no manifest describes"
        raise FatalError(
            f"{what} the weights md5:{md5}",
            hint=f"git log --all -- '*{MANIFEST}' lists the ones that this repository has",
        )

    def remember(self, manifests: Iterable[Manifest]) -> None:
        """Take up manifests that no commit has: `git checkout -m` merges local changes."""
        tips, known = self._read()
        for manifest in manifests:
            known[self._git.write_blob(manifest.text().encode())] = manifest.weights_md5
        self._write(tips, known)
        self._blobs = None

    def _by_digest(self, blobs: Sequence[str]) -> dict[str, Manifest]:
        """Those that mean different weights: a recipe, or a file beside them, is no difference."""
        parsed = [_parsed(entry) for entry in self._git.blobs(blobs)]
        return {_meaning(m): m for m in parsed if m is not None}

    @cached_property
    def _in_this_merge(self) -> set[str]:
        """Blobs of the sides and of their merge base."""
        heads = heads_being_merged()
        if not heads:
            return set()
        bases = self._git.run("merge-base", "--all", "HEAD", *heads, check=False).stdout
        commits = ["HEAD", *heads, *bases.decode().split()]
        return {entry.oid for commit in commits for entry in self._git.tree(commit)}

    def _known(self) -> dict[str, str]:
        """Blob id of a manifest -> md5 of its weights."""
        if self._blobs is None:
            tips, self._blobs = self._read()
            now = set(self._git.lines("for-each-ref", "--format=%(objectname)"))
            fresh = self._new_manifests(tips)
            for entry in self._git.blobs(fresh):
                weights = _WEIGHTS.search(entry[1]) if entry is not None else None
                if entry is not None and weights is not None:
                    self._blobs[entry[0]] = weights[1].decode()
            if fresh or not now <= tips:
                self._write(now, self._blobs)
        return self._blobs

    def _new_manifests(self, tips: set[str]) -> list[str]:
        excluded = "".join(f"^{tip}\n" for tip in sorted(tips))
        out = self._git.run(
            "rev-list", "--objects", "--ignore-missing", "--all", "--reflog", *_UNDER_WAY, "--stdin",
            input=excluded.encode(),
        ).stdout  # fmt: skip
        listed = (line.split(" ", 1) for line in out.decode(errors="replace").split("\n"))
        return sorted(
            {
                words[0]
                for words in listed
                if len(words) == 2 and f"/{words[1]}".endswith(f"/{MANIFEST}")
            }
        )

    def _read(self) -> tuple[set[str], dict[str, str]]:
        """(tips that were indexed, blob -> md5); nothing of a file that is not ours."""
        try:
            lines = self._path.read_text("ascii", "replace").split("\n")
        except FileNotFoundError:
            return set(), {}
        if lines[-1] != "" or "" not in lines[:-1]:
            return set(), {}
        gap = lines.index("")
        entries = [_LINE.fullmatch(line) for line in lines[gap + 1 : -1]]
        return (
            {line for line in lines[:gap] if _OID.fullmatch(line)},
            {entry["blob"]: entry["md5"] for entry in entries if entry is not None},
        )

    def _write(self, tips: set[str], known: Mapping[str, str]) -> None:
        entries = [f"{blob} {md5}" for blob, md5 in sorted(known.items())]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, "\n".join([*sorted(tips), "", *entries, ""]).encode())


def _meaning(manifest: Manifest) -> str:
    header = tuple(pair for pair in manifest.header if pair[0] != FILE)
    return replace(manifest, header=header).digest()


def _parsed(entry: tuple[str, bytes] | None) -> Manifest | None:
    """A manifest of history; one that was committed in conflict, or cut, describes nothing."""
    if entry is None:
        return None
    try:
        return parse_manifest(entry[1], f"{entry[0][:10]}:{MANIFEST}")
    except FatalError:
        return None
