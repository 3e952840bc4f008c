"""What `git diff` shows of an adapter: the drift table, or the manifest's changed lines.

git calls `diff.soup.command` for each changed `adapter.manifest`, with two files and no
revision. The headers of the two manifests say what the weights mean, their md5s where the
weights are; with the weights at hand the table is computed, and remembered by the two
manifests' digests, because what it is computed from never changes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import soup_git
from soup_git.core.digests import sha256_hex
from soup_git.core.manifest import Manifest, config_bytes, parse_manifest
from soup_git.core.text import printable
from soup_git.errors import FatalError
from soup_git.storage.files import bytes_of, write_atomically
from soup_git.storage.gitrepo import GitRepo

if TYPE_CHECKING:
    from soup_git.storage.resolver import Adapter
    from soup_git.storage.workspace import Workspace

NOWHERE = os.devnull
"""What git names as the file of a side that does not exist."""
_ABSENT = "."
"""What git gives as hash and mode of that side."""
_SHORT = 10
_REMEMBERED = 1024


@dataclass(frozen=True)
class Side:
    """One version of a manifest, as git hands it over."""

    path: str
    file: str
    oid: str
    """Zeros for a file of the work tree, `.` for none."""
    mode: str

    @property
    def exists(self) -> bool:
        return self.file != NOWHERE

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0] or "."

    @property
    def label(self) -> str:
        """How a note names this version."""
        return "the work tree" if not self.oid.strip("0") else self.oid[:_SHORT]

    def manifest(self) -> Manifest:
        return parse_manifest(self.data(), self.path)

    def data(self) -> bytes:
        return bytes_of(Path(self.file)) or b""


@dataclass(frozen=True)
class Change:
    old: Side
    new: Side

    @property
    def path(self) -> str:
        """`adapters/a`, or both names where git saw a rename."""
        names = dict.fromkeys([self.old.folder, self.new.folder])
        return " -> ".join(names)


def parse_arguments(arguments: Sequence[str]) -> Change | None:
    """What git calls a driver with (git help git, GIT_EXTERNAL_DIFF); None: the path is unmerged.

    A renamed file comes with its new name and git's own words on the rename after the rest.
    """
    if len(arguments) < 7:
        return None
    path, old_file, old_oid, old_mode, new_file, new_oid, new_mode = arguments[:7]
    new_path = arguments[7] if len(arguments) > 7 else path
    return Change(
        Side(path, old_file, old_oid, old_mode), Side(new_path, new_file, new_oid, new_mode)
    )


def table_or_lines(change: Change, folder: Path) -> str:
    """What to print for a change; `folder` is where git calls from, the top of the work tree."""
    try:
        if not change.old.exists:
            return _whole("new", change.new, change.new.manifest())
        if not change.new.exists:
            return _whole("deleted", change.old, change.old.manifest())
        before, after = change.old.manifest(), change.new.manifest()
        # A recipe or a mode that changed is nothing that a table could show.
        if before.digest() == after.digest():
            return changed_lines(change, folder)
        return _drift(change, before, after, GitRepo(folder))
    except FatalError as error:
        return changed_lines(change, folder) + _note(str(error))


def changed_lines(change: Change, folder: Path) -> str:
    """The manifest's lines as git's own unified diff, with nothing in them that a terminal obeys."""
    old, new = change.old, change.new
    lines = [f"diff --git a/{old.path} b/{new.path}"]
    if not old.exists:
        lines.append(f"new file mode {new.mode}")
    elif not new.exists:
        lines.append(f"deleted file mode {old.mode}")
    elif old.mode != new.mode:
        lines += [f"old mode {old.mode}", f"new mode {new.mode}"]
    if old.path != new.path:
        lines += [f"rename from {old.path}", f"rename to {new.path}"]
    hunks = GitRepo(folder).changed_lines(old.file, new.file)
    if hunks:
        lines.append(f"index {_oid(old)}..{_oid(new)}")
        lines.append(f"--- a/{old.path}" if old.exists else "--- /dev/null")
        lines.append(f"+++ b/{new.path}" if new.exists else "+++ /dev/null")
    return "".join(f"{printable(line)}\n" for line in [*lines, *hunks])


def _oid(side: Side) -> str:
    return "0" * _SHORT if side.oid == _ABSENT else side.oid[:_SHORT]


def unmerged(path: str) -> str:
    return f"* Unmerged path {printable(path)}\n"


def _note(text: str) -> str:
    return f"note: {printable(text)}\n"


def _whole(what: str, side: Side, manifest: Manifest) -> str:
    from soup_git.render.report import size

    merged = ", merged" if manifest.is_merged else ""
    counts = f"{_modules(manifest)}, {len(manifest.tensors)} tensors, {size(manifest.weights_size)}"
    lines = [
        f"{what} adapter {side.folder}   {_facts(manifest)}   {counts}{merged}",
        f"  weights md5:{manifest.weights_md5}",
    ]
    return "".join(f"{printable(line)}\n" for line in lines)


def _modules(manifest: Manifest) -> str:
    count = len(manifest.modules)
    return f"{count} module{'s' if count != 1 else ''}"


def _facts(manifest: Manifest, before: Manifest | None = None) -> str:
    """`base B   rank R`, with both values where they differ."""
    words = []
    for key in ("base", "rank"):
        values = dict.fromkeys(m.get(key) or "-" for m in (before or manifest, manifest))
        words.append(f"{key} {' -> '.join(values)}")
    return "   ".join(words)


# -- the table --------------------------------------------------------------------------------


def _drift(change: Change, before: Manifest, after: Manifest, git: GitRepo) -> str:
    digests = f"{soup_git.__version__} {before.digest()} {after.digest()}"
    known = git.common_dir / "soup" / "drift" / sha256_hex(digests.encode())
    text = bytes_of(known)
    if text is None:
        text = _computed(change, before, after, git).encode()
        _remember(known, text)
    head = f"adapter {change.path}   {_facts(after, before)}   "
    return printable(head) + text.decode("utf-8", "replace")


def _computed(change: Change, before: Manifest, after: Manifest, git: GitRepo) -> str:
    """The table without its first words, which name the path; raises where it cannot be known."""
    from soup_git.storage.workspace import Workspace

    workspace = Workspace(git)
    if not workspace.dvc.exists:
        raise FatalError("this is no git-soup workspace, so there is no drift table; git soup init")
    sides = [(change.old, before), (change.new, after)]
    a, b = (_adapter(workspace, side, manifest) for side, manifest in sides)
    from soup_git.commands.diff import ROWS_IN_TABLE, compare
    from soup_git.render.report import table_text

    report = compare(a, b)
    hidden = report.summary.modules - ROWS_IN_TABLE
    more = f"… {hidden} more (git soup diff A B --top-k N; --format html for the map)"
    table = report.top(ROWS_IN_TABLE).table(more if hidden > 0 else "")
    lines = [*table_text(table).splitlines(), *map(printable, report.summary.notes)]
    return "".join(
        f"{line}\n" for line in [report.summary.counts, *(f"  {line}" for line in lines)]
    )


def _adapter(workspace: Workspace, side: Side, manifest: Manifest) -> Adapter:
    from soup_git.core.adapter import parse_adapter_config
    from soup_git.storage.resolver import Adapter

    if manifest.get("peft") != "lora":
        # LoHa's and AdaLoRA's alpha are in their config alone, and git does not show us that.
        raise FatalError(
            f"a header does not say all of what {manifest.get('peft')} weights mean, so there is no"
            " drift table; git soup diff REV REV reads adapter_config.json too"
        )
    data = config_bytes(manifest.header)
    weights = workspace.local_weights(manifest.weights_md5, side.folder)
    if weights is None:
        raise FatalError(
            f"the weights of {side.label} (md5:{manifest.weights_md5}) are not here, so there is no"
            " drift table; dvc fetch --all-commits brings them"
        )
    config = parse_adapter_config(data, side.path)
    return Adapter(
        side.path, f"git diff of {side.path}", side.folder, None, data, config, manifest, weights
    )


def _remember(path: Path, text: bytes) -> None:
    # A folder that cannot be written costs the next diff its time, and nothing else.
    with suppress(OSError):
        write_atomically(path, text)
        kept = sorted(path.parent.iterdir(), key=lambda p: p.stat().st_mtime)
        for old in kept[: -_REMEMBERED // 2] if len(kept) > _REMEMBERED else []:
            old.unlink(missing_ok=True)


def separator(environment: Mapping[str, str]) -> str:
    """An empty line where git has more files to show after this one."""
    place, count = (environment.get(f"GIT_DIFF_PATH_{key}", "") for key in ("COUNTER", "TOTAL"))
    return "\n" if place.isdigit() and count.isdigit() and int(place) < int(count) else ""
