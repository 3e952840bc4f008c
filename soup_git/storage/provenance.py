"""What manifests in history say of themselves, and which run ended with which weights."""

from __future__ import annotations

from collections.abc import Sequence

from soup_git.core.manifest import MANIFEST, Manifest, parse_manifest_header
from soup_git.errors import FatalError
from soup_git.storage.gitrepo import GitRepo
from soup_git.storage.runs import LOCKS
from soup_git.storage.snapshot import inside_folder


def manifest_headers(git: GitRepo, blobs: Sequence[str]) -> dict[str, Manifest]:
    """Blob -> the manifest's header; one that cannot be read is left out."""
    found = {}
    for oid, blob in zip(blobs, git.blobs(blobs), strict=True):
        try:
            if blob is not None:
                found[oid] = parse_manifest_header(blob[1], oid)
        except FatalError:
            continue  # history may hold a damaged one: its row says what git knows
    return found


def runs_by_weights(git: GitRepo, *prefixes: str) -> dict[str, str]:
    """md5 of the weights that a run ended with -> the run, from the refs below `prefixes`."""
    # git before 2.40 mixes up the keys of two such fields in one format.
    form = "--format=%(refname)%00%(contents:trailers:only,unfold,separator=%x01)"
    ends = []
    for line in git.lines("for-each-ref", form, *prefixes):
        ref, _, trailers = line.partition("\0")
        told = dict(t.split(": ", 1) for t in trailers.split("\x01") if ": " in t)
        run = told.get("Soup-Run", "") if ref.startswith(LOCKS) else ref.rpartition("/")[2]
        if run and "Soup-Adapter" in told:
            ends.append((run, f"{ref}:{inside_folder(told['Soup-Adapter'], MANIFEST)}"))
    found: dict[str, str] = {}
    for (run, _), blob in zip(ends, git.blobs(name for _, name in ends), strict=True):
        try:
            if blob is not None:
                found[parse_manifest_header(blob[1], run).weights_md5] = run
        except FatalError:
            continue
    return found
