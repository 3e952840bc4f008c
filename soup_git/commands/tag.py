"""`git soup tag`: released versions of an adapter, and the labels that move between them.

A version is an annotated tag `NAME/vN`: made once, never moved. A label (`NAME/prod`) is a
lightweight tag, so that `git describe` still names versions; its reflog knows where it was.
Both are git's own: `git checkout support/prod` and every web page understand them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from soup_git.core.manifest import CONFIG, MANIFEST, parse_manifest
from soup_git.core.names import check_name
from soup_git.core.notes import latest
from soup_git.core.versions import TAGS, is_version, next_version, tag_ref
from soup_git.errors import ExitCode, FatalError
from soup_git.render.report import Table
from soup_git.storage.gitformats import RefUpdate
from soup_git.storage.gitrepo import GitRepo
from soup_git.storage.notes import read_notes
from soup_git.storage.snapshot import Snapshot, inside_folder
from soup_git.storage.workspace import Workspace

_TRIES = 20


@dataclass(frozen=True)
class TagRow:
    name: str
    version: str | None
    """None: labels on a commit that was never released under this name."""
    labels: list[str]
    commit: str
    date: str
    """When it was released; of a commit without a version, the commit's own date. ISO 8601."""
    adapter: str | None
    weights: str | None

    def cells(self) -> Sequence[str]:
        labels = ", ".join(self.labels)
        return self.name, self.version or "-", labels, self.commit[:7], self.date[:10]


@dataclass(frozen=True)
class TagsReport:
    schema: ClassVar[str] = "soup.tags/1"
    tags: list[TagRow]

    def tables(self) -> Sequence[Table | str]:
        if not self.tags:
            return ["no version is released yet; git soup tag NAME releases HEAD"]
        header = ("name", "version", "labels", "commit", "date")
        return [Table(header, [row.cells() for row in self.tags])]


@dataclass(frozen=True)
class TagReport:
    schema: ClassVar[str] = "soup.tag/1"
    name: str
    tag: str
    """`support/v2`, `support/prod`."""
    commit: str
    before: str | None
    """Where a label was before; None where the tag is new."""
    adapter: str
    weights: str

    def tables(self) -> Sequence[Table | str]:
        here = f"{self.commit[:7]} {self.adapter} md5:{self.weights}"
        if self.before is None:
            return [f"{self.tag} is {here}", f"git push origin {self.tag} publishes it"]
        if self.before == self.commit:
            return [f"{self.tag} is {here} already"]
        lease = f"--force-with-lease={TAGS}{self.tag}:{self.before}"
        return [
            f"{self.tag} moved from {self.before[:7]} to {here}",
            f"git push {lease} origin +{TAGS}{self.tag} publishes it",
        ]


@dataclass(frozen=True)
class TagRequest:
    name: str
    revision: str = "HEAD"
    what: str | None = None
    """`vN`, a label, or None for the next version."""
    adapter: str | None = None
    sign: bool | None = None
    """None: as git is configured."""


def tag(workspace: Workspace, request: TagRequest) -> TagReport:
    """Release a version, or move a label. Raises `FatalError` where a tag stands in the way."""
    git = workspace.git
    check_name(request.name, "adapter")
    if f"{TAGS}{request.name}" in git.refs(f"{TAGS}{request.name}"):
        raise FatalError(
            f"a tag called {request.name} is in the way of {request.name}/…",
            hint=f"git tag {request.name}-old {request.name}, then git tag -d {request.name}",
        )
    commit = git.commit(_revision(git, request))
    snapshot = workspace.at(commit, label=commit[:10])
    folder = _folder(request, snapshot)
    path = inside_folder(folder, MANIFEST)
    weights = parse_manifest(snapshot.require(path), snapshot.where(path)).weights_md5
    if request.what is None or is_version(request.what):
        name, before = _release(workspace, request, commit, folder)
    else:
        if request.sign:
            raise FatalError(
                f"{request.what} is a label: it moves, and has no object that could be signed",
                hint=f"git soup tag {request.name} --sign releases a version",
                code=ExitCode.USAGE,
            )
        name, before = request.what, _move_label(git, request.name, request.what, commit)
    return TagReport(request.name, f"{request.name}/{name}", commit, before, folder, weights)


def _revision(git: GitRepo, request: TagRequest) -> str:
    """`v2` is this adapter's v2, where there is one."""
    own = f"{TAGS}{request.name}/{request.revision}"
    return own if git.resolve(own) is not None else request.revision


def _folder(request: TagRequest, snapshot: Snapshot) -> str:
    """The adapter that is released: as named, else the only one, else the one of this name."""
    folders, listed = snapshot.adapters, ", ".join(snapshot.adapters) or "none"
    if request.adapter is not None:
        wanted = request.adapter.rstrip("/").removeprefix("./") or "."
        if wanted not in folders:
            raise FatalError(
                f"there is no adapter at {request.adapter} in {snapshot.label}; it has {listed}",
                hint=f"git ls-tree -r --name-only {snapshot.label}",
            )
        return wanted
    named = [folder for folder in folders if folder.rpartition("/")[2] == request.name]
    if len(folders) == 1 or len(named) == 1:
        return folders[0] if len(folders) == 1 else named[0]
    raise FatalError(
        f"{snapshot.label} has {len(folders)} adapters: {listed}",
        hint=f"git soup tag {request.name} --adapter PATH" if folders else "git soup branches",
    )


# -- versions ---------------------------------------------------------------------------------


def _release(
    workspace: Workspace, request: TagRequest, commit: str, folder: str
) -> tuple[str, str | None]:
    """Make the tag; without a wanted number, the next free one, also while others release.

    Returns the version, and `commit` where that version was there already: the same adapter is not
    released twice unless a version is named.
    """
    git, name = workspace.git, request.name
    for _ in range(_TRIES):
        # In this order: who releases the same in between takes the number that we would take.
        taken = _of(git, name)
        same = _released_as(workspace, name, commit, folder) if request.what is None else None
        if same is not None:
            return same, commit
        version = request.what or next_version(set(taken))
        if version in taken:
            raise FatalError(
                f"{name}/{version} is there already, and a version never moves",
                hint=f"git soup tag {name} for the next one, git show {name}/{version} for that one",
            )
        message = _message(workspace, commit, folder, f"{name} {version}")
        try:
            git.create_tag(
                f"{name}/{version}", commit, message, reason=f"git soup tag: {version}",
                sign=request.sign,
            )  # fmt: skip
        except FatalError:
            if request.what is not None or version not in _of(git, name):
                raise
            continue  # somebody released at the same moment: the next number, then
        return version, None
    raise FatalError(f"{name}: others took {_TRIES} versions in a row", hint="try again")


def _released_as(workspace: Workspace, name: str, commit: str, folder: str) -> str | None:
    """The latest version of `name` that is this very adapter, weights and config."""
    rows = sorted((r for r in _listed(workspace.git) if r.name == name and r.version), key=_order)
    files = [inside_folder(folder, file) for file in (MANIFEST, CONFIG)]
    places = [f"{r}:{file}" for r in (commit, *(row.commit for row in rows)) for file in files]
    ids = workspace.git.blob_ids(places) if rows else []
    wanted, there = ids[:2], zip(rows, ids[2::2], ids[3::2], strict=True)
    same = [row.version for row, *found in there if row.adapter == folder and found == wanted]
    return same[-1] if same else None


def _of(git: GitRepo, name: str) -> dict[str, str]:
    """What stands below a name: `v1`, `prod` -> object id."""
    prefix = f"{TAGS}{name}/"
    return {ref.removeprefix(prefix): oid for ref, oid in git.refs(prefix).items()}


def _message(workspace: Workspace, commit: str, folder: str, title: str) -> str:
    """What a release says by itself, wherever the tag goes: weights, base, and how it scored."""
    snapshot = workspace.at(commit, label=commit[:10])
    manifest = snapshot.manifest(folder)
    lines = [
        title, "",
        f"Soup-Adapter: {folder}",
        f"Soup-Weights: md5:{manifest.weights_md5} {manifest.weights_size}",
        f"Soup-Base-Model: {manifest.base_model or '-'}",
    ]  # fmt: skip
    blob = snapshot.entries[inside_folder(folder, MANIFEST)]
    notes = read_notes(workspace.git, [commit, blob])
    record = latest(r for records in notes.values() for r in records)
    if record is not None:
        lines += [f"Soup-Metric: {k} {m.text()}" for k, m in sorted(record.metrics.items())]
    return "".join(f"{' '.join(line.split())}\n" for line in lines)


# -- labels -----------------------------------------------------------------------------------


def _move_label(git: GitRepo, name: str, label: str, commit: str) -> str | None:
    """Point the label at `commit`; returns where it was before."""
    ref = tag_ref(name, label)
    before = git.refs(ref).get(ref)
    if before == commit:
        return commit
    git.update_refs([RefUpdate(ref, commit, before)], f"git soup tag: {label} -> {commit[:10]}")
    return before


def tags(workspace: Workspace) -> TagsReport:
    """Every version and label, by name and number."""
    found = list(_listed(workspace.git))
    versions = [row for row in found if row.version is not None]
    rows = []
    for version in versions:
        labels = [
            label for row in found if row.version is None and row.name == version.name
            and row.commit == version.commit and version is _last_of(versions, version)
            for label in row.labels
        ]  # fmt: skip
        rows.append(TagRow(**{**version.__dict__, "labels": labels}))
    released = {(row.name, row.commit) for row in versions}
    for row in found:
        if row.version is None and (row.name, row.commit) not in released:
            is_known = any(version.name == row.name for version in versions)
            if is_known or workspace.at(row.commit).adapters:
                rows.append(row)
    return TagsReport(sorted(rows, key=_order))


def _last_of(versions: Sequence[TagRow], version: TagRow) -> TagRow:
    """The latest of the versions that were given to one commit: a label there means that one."""
    same = [v for v in versions if (v.name, v.commit) == (version.name, version.commit)]
    return max(same, key=_order)


def _order(row: TagRow) -> tuple[str, int, list[str]]:
    return row.name, int(row.version[1:]) if row.version else 0, row.labels


# Not %(contents:trailers): of a signed tag, it looks for them behind the signature.
_FORM = "".join(
    f"%({field})%00"
    for field in (
        "refname", "objecttype", "objectname", "*objectname", "creatordate:iso-strict", "contents:body",
    )
)  # fmt: skip


def _listed(git: GitRepo) -> Sequence[TagRow]:
    """The tags `NAME/WHAT` that are ours: versions with our trailers, labels with none."""
    rows = []
    fields = iter(git.text("for-each-ref", f"--format={_FORM}", TAGS.rstrip("/")).split("\0"))
    for ref, kind, oid, peeled, date, body in zip(*[fields] * 6, strict=False):
        name, slash, what = ref.lstrip("\n").removeprefix(TAGS).partition("/")
        if not slash or "/" in what:
            continue
        told = dict(line.split(": ", 1) for line in body.splitlines() if ": " in line)
        adapter, weights = told.get("Soup-Adapter"), told.get("Soup-Weights", "")
        if is_version(what) and kind == "tag" and adapter:
            md5 = weights.removeprefix("md5:").partition(" ")[0]
            rows.append(TagRow(name, what, [], peeled, date, adapter, md5))
        elif not is_version(what) and kind == "commit":
            rows.append(TagRow(name, None, [what], oid, date, None, None))
    return rows
