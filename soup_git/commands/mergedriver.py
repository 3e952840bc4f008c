"""git's merge driver for what git-soup versions: called per file, told nothing but three texts.

In a merge both sides' steps are joined as `git config soup.merge.*` says; whatever puts a step
elsewhere (rebase, cherry-pick, revert, stash pop) adds theirs to ours, whole. A clean merge
replaces `ours`; a conflict leaves both sides marked in it, and git's own ways out work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from soup_git.commands.fetching import fetch_missing
from soup_git.core.adapter import config_object
from soup_git.core.configmerge import merge_configs
from soup_git.core.lock import LOCK, parse_lock
from soup_git.core.manifest import CONFIG, CONFLICT_NOTE, MANIFEST, parse_manifest
from soup_git.core.text import printable
from soup_git.core.threeway import STEP, ConflictError, summarised
from soup_git.core.waysout import take_one_side
from soup_git.errors import FatalError
from soup_git.render.report import say
from soup_git.storage.gitformats import heads_being_merged
from soup_git.storage.snapshot import DVC_LOCK
from soup_git.storage.textmerge import MergedText, in_conflict, merge_texts
from soup_git.storage.threeway import Merged, Merger
from soup_git.storage.underway import operation
from soup_git.storage.workspace import Workspace

_ROWS_IN_CONFLICT = 10
_MUCH = 0.1
"""Of a step: more than this is not lost without a word."""


@dataclass(frozen=True)
class Texts:
    """A file in all of its versions; an empty origin means that there is none."""

    path: str
    origin: bytes
    sides: Sequence[bytes]


@dataclass(frozen=True)
class Names:
    """What to call the sides and the merge base."""

    sides: Sequence[str]
    base: str


def drive(origin: Path, ours: Path, theirs: Path, path: str) -> int:
    """Merge the file that will be called `path` into `ours`; 1 is a conflict, 0 none."""
    texts = Texts(path, origin.read_bytes(), [ours.read_bytes(), theirs.read_bytes()])
    workspace = Workspace.open()
    try:
        is_replay = operation(workspace.git, path, [texts.origin, *texts.sides]) == "replay"
        merger = Merger(workspace, fetch_missing, STEP if is_replay else None)
        merged = merge_file(workspace, merger, texts, lambda: _names(workspace))
    except FatalError as error:
        ours.write_bytes(_marked(workspace, texts, error))
        say(f"  conflict in {path}: {error}")
        if error.hint:
            say(f"hint: {error.hint}")
        return 1
    ours.write_bytes(merged.data)
    if not merged.is_clean:
        say(f"  conflict in {path}: both sides changed the same lines of it")
    return 0 if merged.is_clean else 1


def merge_file(
    workspace: Workspace, merger: Merger, texts: Texts, names: Callable[[], Names]
) -> MergedText:
    """Merge one file by its name, for any number of sides; `names` is asked when there is talk.

    Raises `FatalError` where the adapters that it names clash or cannot be merged here.
    """
    name = texts.path.rpartition("/")[2]
    if name == MANIFEST:
        return _merge_manifest(merger, texts, names)
    if name == LOCK:
        return _merge_soup_lock(merger, texts)
    if name == CONFIG:
        return _merge_config(workspace, texts)
    # Late: a merge of manifests reads no YAML.
    from soup_git.storage.dvcmerge import merge_dvc_lock, merge_pointer

    merge = merge_dvc_lock if name == DVC_LOCK else merge_pointer
    return merge(merger, workspace.git, texts.path, texts.origin, texts.sides)


def _merge_manifest(merger: Merger, texts: Texts, names: Callable[[], Names]) -> MergedText:
    origin = (
        parse_manifest(texts.origin, f"{texts.path} (merge base)") if texts.origin.strip() else None
    )
    sides = [parse_manifest(side, texts.path) for side in texts.sides]
    merged = merger.adapters(origin, sides)
    if merged.choices:
        named = names()
        say(f"  {_summary(merger, merged, named)}")
        if merged.lost > _MUCH:
            say(_lost(merger, merged, named))
    return MergedText(merged.manifest.text().encode(), is_clean=True)


def _merge_soup_lock(merger: Merger, texts: Texts) -> MergedText:
    from soup_git.core.lockmerge import merge_locks

    def merged_weights(origin: str | None, sides: Sequence[str | None]) -> str | None:
        found = merger.weights(origin, sides)
        return None if found is None else found[0]

    origin = parse_lock(texts.origin, texts.path) if texts.origin.strip() else None
    locks = [parse_lock(side, texts.path) for side in texts.sides]
    lock, nulled = merge_locks(origin, locks, merged_weights)
    if nulled:
        say(
            f"  {texts.path}: both sides changed {' and '.join(nulled)}, which is not pinned any"
            " more; git soup lock write pins what the merge gave"
        )
    return MergedText(lock.text().encode(), is_clean=True)


def _merge_config(workspace: Workspace, texts: Texts) -> MergedText:
    """By meaning; what is no config (rerere hands us texts in conflict) line by line."""
    try:
        origin = config_object(texts.origin, texts.path) if texts.origin.strip() else None
        sides = [config_object(side, texts.path) for side in texts.sides]
    except FatalError:
        return merge_texts(workspace.git, texts.origin, texts.sides)
    end = "\n" if any(side.endswith(b"\n") for side in texts.sides) else ""
    merged = merge_configs(origin, sides, end)
    if not merged.conflicts:
        return MergedText(merged.sides[0], is_clean=True)
    say(f"  {texts.path}: both sides changed {' and '.join(map(printable, merged.conflicts))}")
    return merge_texts(workspace.git, merged.origin, merged.sides)


# -- what is said -----------------------------------------------------------------------------


def _summary(merger: Merger, merged: Merged, names: Names) -> str:
    """`196 modules: 120 unchanged, 31 from ours, 18 from theirs, 27 combined (…)`."""
    counts: Counter[str] = Counter()
    for choice in merged.choices:
        sides = [names.sides[side] for side in choice.changed_by]
        taken = f"from {sides[0]}" if len(sides) == 1 else "alike in several"
        counts[taken if choice.kind == "taken" else choice.kind] += 1
    words = [f"from {side}" for side in names.sides]
    order = ["unchanged", *words, "alike in several", "combined", "deleted"]
    parts = [f"{counts[word]} {word}" for word in order if counts[word]]
    text = f"{len(merged.choices)} modules: {', '.join(parts)}"
    if not counts["combined"]:
        return text
    is_step = merger.how is STEP
    how = ["their step, whole" if is_step else f"{merger.how.strategy} from merge base{names.base}"]
    rank = merged.manifest.get("rank")
    how += [f"rank {rank}"] if rank else []
    if merged.residual is not None:
        how.append(f"residual {100 * merged.residual:.2g} %")
    return f"{text} ({', '.join(how)})"


def _lost(merger: Merger, merged: Merged, names: Names) -> str:
    rank = merged.manifest.get("rank")
    text = f"  warning: rank {rank} cannot hold the result, and {merged.lost:.0%} of the step is lost; "
    if merger.how is STEP:
        return (
            f"{text}git soup merge OURS THEIRS BASE --weights 1,1,-1 -o DIR keeps all of it (THEIRS"
            " − BASE is the step)"
        )
    others = " ".join(names.sides[1:])
    return (
        f"{text}git reset --keep ORIG_HEAD (in a conflict git merge --abort), then git soup merge --rank"
        f" grow {others} keeps all of it"
    )


def _names(workspace: Workspace) -> Names:
    """git says in a merge what it merges, in a rebase or a pick it does not."""
    heads = heads_being_merged()
    if len(heads) != 1:
        return Names(("ours", "theirs"), "")
    [(oid, name)] = heads.items()
    git = workspace.git
    done = git.run("merge-base", "HEAD", oid, check=False)
    base = done.stdout.decode().split("\n")[0][:7]
    # git pull calls what it merges by its object id.
    theirs = name[:7] if name == oid else name
    return Names((git.head_branch() or "ours", theirs), f" {base}" if base else "")


# -- conflicts --------------------------------------------------------------------------------


def _marked(workspace: Workspace, texts: Texts, error: FatalError) -> bytes:
    """Both sides with conflict markers; above those of a manifest, why and how far apart."""
    ours, theirs = texts.sides[0], texts.sides[-1]
    marked = in_conflict(workspace.git, texts.origin, ours, theirs)
    if texts.path.rpartition("/")[2] != MANIFEST:
        return marked
    reasons = summarised(error.clashes) if isinstance(error, ConflictError) else [str(error)]
    ways = f"{take_one_side(texts.path)}; or git merge --abort"
    notes = [*reasons, *_drift(workspace, ours, theirs), f"hint: {ways}", f"hint: {error.hint}"]
    lines = [line for note in notes for line in note.split("\n")]
    above = "".join(f"{CONFLICT_NOTE}{printable(line)}\n" for line in lines if line)
    return above.encode() + marked


def _drift(workspace: Workspace, ours: bytes, theirs: bytes) -> list[str]:
    """`git soup diff` of the two sides; nothing where weights are missing or do not compare."""
    from soup_git.commands.diff import compare
    from soup_git.render.report import as_table
    from soup_git.storage.threeway import adapter_of

    try:
        adapters = [
            adapter_of(workspace, parse_manifest(data, side), side)
            for data, side in ((ours, "ours"), (theirs, "theirs"))
        ]
        report = compare(*adapters)
    except FatalError:
        return []
    return [as_table(report.top(_ROWS_IN_CONFLICT))]
