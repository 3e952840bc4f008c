"""git's index: what is staged, and the few ways in which that is changed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from soup_git.storage.gitformats import TreeEntry, index_entries, index_info

if TYPE_CHECKING:
    from soup_git.storage.gitrepo import GitRepo


class GitIndex:
    """The index of one work tree."""

    def __init__(self, git: GitRepo) -> None:
        self._git = git

    def entries(self, *paths: str) -> list[TreeEntry]:
        """What is staged (and not in conflict) below `paths`."""
        done = self._git.run("ls-files", "-z", "--stage", "--", *paths)
        return index_entries(done.stdout)

    def entries_at(self, paths: Sequence[str]) -> list[TreeEntry]:
        """What is staged at exactly these paths."""
        return self.entries(*(f":(literal){path}" for path in paths)) if paths else []

    def stage(self, *paths: str) -> None:
        """`git add` exactly these paths, whatever an ignore file says of them."""
        self._with_paths("add", "--force", paths=paths)

    def put(self, changes: Mapping[str, str | None], env: Mapping[str, str] | None = None) -> None:
        """Put path -> blob id into the index, and take None out of it; no file is touched."""
        lines = b""
        for path, oid in changes.items():
            entry = f"0 {'0' * self._git.id_length}" if oid is None else f"100644 {oid}"
            lines += os.fsencode(f"{entry}\t{path}") + b"\0"
        if lines:
            self._git.run_with_patience("update-index", "-z", "--index-info", input=lines, env=env)

    def restore(self, paths: Sequence[str]) -> None:
        """Write these files anew as they are staged."""
        if paths:
            self._with_paths("checkout", paths=paths)

    def adopt(self, revision: str, paths: Sequence[str]) -> None:
        """Stage these files of a revision without looking at the work tree."""
        wanted = set(paths)
        self._set_entries([entry for entry in self._git.tree(revision) if entry.path in wanted])

    def put_back(self, paths: Sequence[str], entries: Sequence[TreeEntry]) -> None:
        """Give `paths` the entries they had (those without one leave the index); files stay."""
        if paths:
            names = b"".join(os.fsencode(path) + b"\0" for path in paths)
            self._git.run_with_patience(
                "update-index", "--force-remove", "-z", "--stdin", input=names
            )
        self._set_entries(entries)

    def _set_entries(self, entries: Sequence[TreeEntry]) -> None:
        if entries:
            self._git.run_with_patience(
                "update-index", "--add", "-z", "--index-info", input=index_info(entries)
            )

    def match_modes(self, paths: Sequence[str]) -> None:
        """Make files executable, or not, as they are staged: git's own bit of a file's mode."""
        for entry in self.entries_at(paths):
            file = self._git.root / entry.path
            bits = 0o111 if entry.mode == "100755" else 0
            file.chmod((file.stat().st_mode & 0o666) | bits)

    def _with_paths(self, *arguments: str, paths: Sequence[str]) -> None:
        """Run a command over paths that are names, not patterns, however many there are."""
        self._git.run_with_patience(
            "--literal-pathspecs", *arguments, "--pathspec-from-file=-", "--pathspec-file-nul",
            input=b"".join(os.fsencode(path) + b"\0" for path in paths),
        )  # fmt: skip
