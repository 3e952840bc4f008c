"""What commits hold of ours, over whole histories: one `git log`, each blob read once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from soup_git.core.beside import NAMES
from soup_git.core.lock import LOCK
from soup_git.core.manifest import CONFIG, MANIFEST, parse_manifest_header
from soup_git.errors import FatalError
from soup_git.storage.dvcfiles import (
    POINTER_SUFFIX,
    Output,
    held_back_paths,
    parse_dvc_lock,
    published_outputs,
)
from soup_git.storage.gitformats import TreeEntry
from soup_git.storage.gitrepo import GitRepo
from soup_git.storage.snapshot import DVC_LOCK

_OURS = (MANIFEST, CONFIG, f"*{POINTER_SUFFIX}", DVC_LOCK, LOCK, *sorted(NAMES))
_NAMING = (MANIFEST, f"*{POINTER_SUFFIX}", DVC_LOCK)


@dataclass(frozen=True)
class Named:
    """An object that a commit names."""

    md5: str
    size: int | None
    commit: str
    path: str
    """The manifest, pointer or `dvc.lock` that names it."""

    @property
    def where(self) -> str:
        return f"{self.commit[:10]}:{self.path}"


def versions(
    git: GitRepo, tips: Iterable[str], without: Iterable[str] = (), names: tuple[str, ...] = _OURS
) -> Iterator[tuple[str, list[TreeEntry]]]:
    """(commit, our files that it added or changed) for all that `tips` reach and `without` do not.

    No history is simplified away: what an `ours` merge dropped is in the repository too.
    """
    tips = sorted(set(tips))
    if not tips:
        return
    patterns = [f":(glob)**/{name}" for name in names]
    asked = [*tips, *(f"^{oid}" for oid in sorted(set(without))), "--", *patterns, ""]
    log = git.run(
        "log", "--stdin", "-z", "--format=%x01%H", "--raw", "--no-abbrev", "--no-renames",
        "--diff-filter=d", "-m", "--root", "--full-history", "--", *patterns,
        input="\n".join(asked).encode(),
    ).stdout  # fmt: skip
    for chunk in log.decode(errors="surrogateescape").split("\x01")[1:]:
        commit, _, rest = chunk.partition("\0")
        fields = [field.lstrip("\n") for field in rest.split("\0")]
        entries = [
            TreeEntry(meta.split(" ")[1], meta.split(" ")[3], path)
            for meta, path in zip(fields[0::2], fields[1::2], strict=False)
            if meta.startswith(":")
        ]
        yield commit.strip(), entries


def named_objects(
    git: GitRepo, tips: Iterable[str], without: Iterable[str] = ()
) -> tuple[dict[str, Named], list[str]]:
    """md5 -> who names it, and what could not be read, over the commits of a range.

    Left out is what DVC itself would not push: imports from other repositories, and outputs
    that say `push: false`.
    """
    where: dict[tuple[str, str], tuple[str, str]] = {}
    for commit, entries in versions(git, tips, without, _NAMING):
        for entry in entries:
            if entry.mode != "160000":
                where.setdefault((entry.oid, entry.path.rpartition("/")[2]), (commit, entry.path))
    found: dict[str, Named] = {}
    unread = []
    blobs = git.blobs(oid for oid, _ in where)
    for (commit, path), blob in zip(list(where.values()), blobs, strict=True):
        if blob is None:
            unread.append(f"{commit[:10]}:{path}: its object is missing")
            continue
        try:
            outputs = _outputs(git, commit, path, blob[1])
        except FatalError as error:
            unread.append(str(error))
            continue
        for output in outputs:
            found.setdefault(output.md5, Named(output.md5, output.size, commit, path))
    return found, unread


def _outputs(git: GitRepo, commit: str, path: str, data: bytes) -> list[Output]:
    shown = f"{commit[:10]}:{path}"
    if path.rpartition("/")[2] == MANIFEST:
        header = parse_manifest_header(data, shown)
        return [Output(path, header.weights_md5, header.weights_size, path)]
    if path.endswith(POINTER_SUFFIX):
        return published_outputs(data, path)
    pipeline = f"{path.removesuffix('.lock')}.yaml"
    text = git.blob(f"{commit}:{pipeline}") or b""
    outputs = [output for outs in parse_dvc_lock(data, path, text).values() for output in outs]
    # Metrics and plots (`cache: false`) are git's to hold: the commit has them itself.
    in_git = git.blob_ids([f"{commit}:{output.path}" for output in outputs])
    held_back = held_back_paths(text, f"{commit[:10]}:{pipeline}")
    folder = path.removesuffix(DVC_LOCK)
    return [
        output
        for output, there in zip(outputs, in_git, strict=True)
        if there is None and output.path.removeprefix(folder) not in held_back
    ]
