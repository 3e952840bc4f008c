"""`git soup blame ADAPTER`: for each module the commit that last changed it, and by how much.

git's own blame of the manifest is the whole answer to who: a module's lines are one of the
header and one per tensor, and a merge that took a module from one side took its lines byte
for byte. How much is computed from the weights before and after, where they are here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from soup_git.commands.diff import change_of
from soup_git.core.adapter import module_of, parse_adapter_config
from soup_git.core.drift import common_prefix, percent
from soup_git.core.manifest import CONFIG, MANIFEST, Manifest, parse_manifest
from soup_git.core.modulegroups import grouped
from soup_git.errors import FatalError
from soup_git.render.report import Table
from soup_git.storage import blaming
from soup_git.storage.blaming import BlamedLine
from soup_git.storage.files import bytes_of
from soup_git.storage.resolver import Adapter, locate
from soup_git.storage.snapshot import inside_folder
from soup_git.storage.workspace import Workspace

_ROWS_OF_A_COMMIT = 8
# Header lines that turn every module's factors into another update.
_OF_ALL_MODULES = ("peft ", "rslora ", "dora ")


@dataclass(frozen=True)
class ModuleBlame:
    module: str
    commit: str | None
    """None: in the work tree, in no commit yet."""
    author: str
    date: str
    """The author's date, ISO 8601."""
    status: str
    """`new`: that commit brought it; `changed`."""
    change: float | None
    """Relative drift from the version before; None where it is new or cannot be computed."""


@dataclass(frozen=True)
class BlameReport:
    schema: ClassVar[str] = "soup.blame/1"
    kind: str
    """`provenance`."""
    adapter: str
    path: str
    commit: str | None
    total: int
    """Modules of the adapter, also those that a pattern left out."""
    modules: list[ModuleBlame]
    notes: list[str]
    groups: list[BlameGroup]
    """The same, as the table says it."""

    def tables(self) -> Sequence[Table | str]:
        header = ("commit", "author", "date", "change>", "modules", "")
        return [Table(header, [group.cells() for group in self.groups]), *self.notes]


@dataclass(frozen=True)
class BlameGroup:
    """Modules that one commit changed alike."""

    commit: str | None
    author: str
    date: str
    status: str
    change: float | None
    """‖D‖/‖ΔW‖ over the group's modules."""
    modules: str
    count: int

    def cells(self) -> Sequence[str]:
        change = percent(self.change) if self.change is not None else self.status
        commit = self.commit[:7] if self.commit else "-"
        return commit, self.author, self.date[:10], change, self.modules, f"({self.count})"


@dataclass(frozen=True)
class _Found:
    """What blame says of one module."""

    module: str
    line: BlamedLine
    norms: tuple[float, float] | None = None
    """‖D‖ and ‖ΔW‖ before."""
    is_new: bool = False

    def report(self) -> ModuleBlame:
        status = "new" if self.is_new else "changed"
        change = None if self.norms is None else _share([self.norms])
        line = self.line
        return ModuleBlame(self.module, line.commit, line.author, line.when, status, change)


def blame(
    workspace: Workspace, spec: str, adapter_path: str | None = None, module: str | None = None
) -> BlameReport:
    """Provenance of the modules that the pattern `module` matches, all without one.

    Raises `FatalError` where the adapter or its manifest cannot be read, or nothing matches.
    """
    commit, folder = locate(workspace, spec, adapter_path)
    path = inside_folder(folder, MANIFEST)
    _expect_history(workspace, commit, path)
    lines = blaming.blame(workspace.git, path, commit)
    data = "".join(f"{line.text}\n" for line in lines).encode("utf-8", "surrogateescape")
    manifest = parse_manifest(data, path if commit is None else f"{commit[:10]}:{path}")
    wanted = _matching(manifest.modules, module)
    by_module = _by_module(workspace, lines, wanted)
    notes = _Notes(workspace)
    found = [one for group in _by_change(by_module) for one in _measured(workspace, group, notes)]
    found.sort(key=_newest_first)
    place = {name: number for number, name in enumerate(manifest.modules)}
    return BlameReport(
        kind="provenance",
        adapter=spec,
        path=folder,
        commit=commit,
        total=len(manifest.modules),
        modules=sorted((one.report() for one in found), key=lambda m: place[m.module]),
        notes=notes.lines(),
        groups=_groups(found, manifest.modules),
    )


def _expect_history(workspace: Workspace, commit: str | None, path: str) -> None:
    if commit is None and workspace.git.blob_ids([f"HEAD:{path}"]) == [None]:
        raise FatalError(
            f"no commit holds {path} yet, so nobody is to blame for it",
            hint=f"git soup add {path.rpartition('/')[0] or '.'}, then git commit",
        )


def _matching(modules: Sequence[str], pattern: str | None) -> list[str]:
    if pattern is None:
        return list(modules)
    # A table drops what all names begin with, so a pattern may begin where a table does.
    found = [
        m for m in modules if fnmatchcase(m, pattern) or fnmatchcase(m, f"*.{pattern}")
    ]  # fmt: skip
    if not found:
        raise FatalError(
            f"no module matches {pattern!r}; the first of {len(modules)} is {modules[0]}",
            hint="quote the pattern: --module 'layers.*.mlp.*'",
        )
    return found


# -- who --------------------------------------------------------------------------------------


def _by_module(
    workspace: Workspace, lines: Sequence[BlamedLine], wanted: Sequence[str]
) -> dict[str, BlamedLine]:
    """Module -> of its lines, the one that changed last."""
    of_module: dict[str, list[BlamedLine]] = {module: [] for module in wanted}
    blank = next(number for number, line in enumerate(lines) if not line.text)
    shared = [line for line in lines[:blank] if line.text.startswith(_OF_ALL_MODULES)]
    for line in lines[:blank]:
        if line.text.startswith("module ") and (name := line.text.split()[1]) in of_module:
            of_module[name].append(line)
    for line in lines[blank + 1 :]:
        if (name := module_of(line.text.partition(" ")[0])) in of_module:
            of_module[name].append(line)
    known: dict[frozenset[str | None], BlamedLine] = {}
    found = {}
    for module, its in of_module.items():
        by_commit = {line.commit: line for line in [*shared, *its]}
        key = frozenset(by_commit)
        if key not in known:
            known[key] = _latest(workspace, by_commit)
        found[module] = known[key]
    return found


def _latest(workspace: Workspace, by_commit: dict[str | None, BlamedLine]) -> BlamedLine:
    if None in by_commit:
        return by_commit[None]
    commits = sorted((c for c in by_commit if c), key=lambda c: (-by_commit[c].time, c))
    return by_commit[commits[0] if len(commits) == 1 else workspace.git.newest(commits)]


def _by_change(by_module: dict[str, BlamedLine]) -> list[list[_Found]]:
    """The modules that one version changed, together: their weights are opened once."""
    groups: dict[tuple[str | None, str], list[_Found]] = {}
    for module, line in by_module.items():
        groups.setdefault((line.commit, line.path), []).append(_Found(module, line))
    return list(groups.values())


# -- how much ---------------------------------------------------------------------------------


class _Notes:
    """What could not be told, said once each."""

    def __init__(self, workspace: Workspace) -> None:
        self._shallow = workspace.git.shallow_commits
        self._unmeasured: dict[str, int] = {}
        self._cut: set[str] = set()

    def is_cut_off(self, commit: str | None) -> bool:
        """Whether the history before a commit is not here, in a shallow clone."""
        if commit in self._shallow:
            self._cut.add(commit)
        return commit in self._cut

    def unmeasured(self, count: int, why: str) -> None:
        self._unmeasured[why] = self._unmeasured.get(why, 0) + count

    def lines(self) -> list[str]:
        found = [
            f"note: by how much {count} of them changed is not known: {why}"
            for why, count in self._unmeasured.items()
        ]
        if self._cut:
            which = ", ".join(commit[:7] for commit in sorted(self._cut))
            found.append(
                f"note: this clone is shallow: what changed before {which} is shown as its own;"
                " git fetch --unshallow"
            )
        return found


def _measured(workspace: Workspace, group: list[_Found], notes: _Notes) -> list[_Found]:
    line = group[0].line
    if notes.is_cut_off(line.commit):
        return group
    before = _read(workspace, *line.before) if line.before else None
    if line.before is None:
        return [_Found(one.module, one.line, is_new=True) for one in group]
    try:
        if before is None:
            raise FatalError(f"{line.before[0][:10]}:{line.before[1]} is not here")
        old = parse_manifest(before[0], f"{line.before[0][:10]}:{line.before[1]}")
        known = set(old.modules)
        changed = {one.module for one in group if one.module in known}
        norms = _norms(workspace, line, old, before[1], changed) if changed else {}
        if len(norms) < len(changed):
            why = "their tensors had another shape before"
            notes.unmeasured(len(changed) - len(norms), why)
    except FatalError as error:
        notes.unmeasured(len(group), str(error))
        return group
    return [
        _Found(one.module, one.line, norms.get(one.module), one.module not in known)
        for one in group
    ]


def _norms(
    workspace: Workspace, line: BlamedLine, old: Manifest, config: bytes | None, modules: set[str]
) -> dict[str, tuple[float, float]]:
    now = _read(workspace, line.commit, line.path)
    assert line.before is not None  # noqa: S101 - for the type checker
    if now is None:
        raise FatalError(f"{line.path} is not here")
    where = f"{line.commit[:10]}:{line.path}" if line.commit else line.path
    first = _adapter(workspace, line.before[0], line.before[1], old, config)
    second = _adapter(workspace, line.commit, line.path, parse_manifest(now[0], where), now[1])
    return change_of(first, second, modules)


def _read(workspace: Workspace, commit: str | None, path: str) -> tuple[bytes, bytes | None] | None:
    """The manifest at a path, and the config beside it."""
    paths = [path, path.removesuffix(MANIFEST) + CONFIG]
    if commit is None:
        data, config = (bytes_of(workspace.root / each) for each in paths)
    else:
        blobs = workspace.git.blobs(f"{commit}:{each}" for each in paths)
        data, config = (None if blob is None else blob[1] for blob in blobs)
    return None if data is None else (data, config)


def _adapter(
    workspace: Workspace, commit: str | None, path: str, manifest: Manifest, config: bytes | None
) -> Adapter:
    folder = path.rpartition("/")[0] or "."
    spec = f"{commit[:10]}:{folder}" if commit else folder
    if config is None:
        raise FatalError(f"{spec} has no {CONFIG}")
    weights = workspace.local_weights(manifest.weights_md5, folder)
    if weights is None:
        raise FatalError(
            f"the weights of {spec} (md5:{manifest.weights_md5}) are not here;"
            " dvc fetch --all-commits brings them"
        )
    return Adapter(
        spec, spec, folder, commit, config, parse_adapter_config(config, f"{spec}/{CONFIG}"),
        manifest, weights,
    )  # fmt: skip


def _share(norms: Iterable[tuple[float, float]]) -> float | None:
    """‖D‖/‖ΔW‖ of several modules together; None where there was no update before."""
    pairs = list(norms)
    change, before = (math.hypot(*column) for column in zip(*pairs, strict=True))
    if before > 0.0:
        return change / before
    return 0.0 if change == 0.0 else None


# -- how it is written ------------------------------------------------------------------------


def _newest_first(one: _Found) -> tuple[bool, int, str, bool]:
    return one.line.commit is not None, -one.line.time, one.line.commit or "", one.is_new


def _groups(found: Sequence[_Found], everything: Sequence[str]) -> list[BlameGroup]:
    by_commit: dict[tuple[str | None, bool], dict[str, _Found]] = {}
    for one in found:
        by_commit.setdefault((one.line.commit, one.is_new), {})[one.module] = one
    prefix = common_prefix(everything)
    rows = []
    for number, of_commit in enumerate(by_commit.values(), start=1):
        patterns = grouped(of_commit, everything)
        is_rest = number == len(by_commit) > 1 and len(found) == len(everything)
        if len(of_commit) == len(everything):
            patterns = [("every module", list(of_commit))]
        elif is_rest and len(patterns) > 1:
            patterns = [("everything else", list(of_commit))]
        rest = patterns[_ROWS_OF_A_COMMIT:]
        if len(rest) > 1:
            names = [name for _, some in rest for name in some]
            patterns = [*patterns[:_ROWS_OF_A_COMMIT], (f"… {len(rest)} more patterns", names)]
        rows += [_group(pattern.removeprefix(prefix), [of_commit[n] for n in names])
                 for pattern, names in patterns]  # fmt: skip
    return rows


def _group(pattern: str, members: Sequence[_Found]) -> BlameGroup:
    line, is_new = members[0].line, members[0].is_new
    norms = [one.norms for one in members if one.norms is not None]
    whole = len(norms) == len(members)
    return BlameGroup(
        commit=line.commit,
        author="not committed yet" if line.commit is None else line.author,
        date=line.when,
        status="new" if is_new else "changed",
        change=_share(norms) if whole else None,
        modules=pattern,
        count=len(members),
    )
