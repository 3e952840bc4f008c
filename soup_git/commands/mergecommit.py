"""`git soup merge REV…`: a merge commit. One REV is git's own merge; several are one commit of
all, module by module from their common ancestor (git's octopus merge calls no driver)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from soup_git.commands.checkout import follow, repair
from soup_git.commands.fetching import fetch_missing
from soup_git.commands.follow import say_merged
from soup_git.commands.mergedriver import Names, Texts, merge_file
from soup_git.core.dvcyaml import freeze_stage
from soup_git.core.lock import LOCK
from soup_git.core.manifest import CONFIG, MANIFEST, parse_manifest
from soup_git.core.threeway import GROW, MAX_SIDES, Combination, has_origin, parse_combination, pick
from soup_git.errors import ExitCode, FatalError
from soup_git.render.report import say
from soup_git.storage.dvcfiles import POINTER_SUFFIX, parse_dvc_lock
from soup_git.storage.files import write_atomically
from soup_git.storage.growth import with_ranks_of
from soup_git.storage.snapshot import DVC_LOCK, inside_folder, is_weights
from soup_git.storage.threeway import WRITES_CONFIGS, Merger, read_settings
from soup_git.storage.workspace import Workspace

_FORM = "git soup merge REV... [--strategy S] [--weights W,W]"
_ONE_BY_ONE = "git soup merge them one at a time, and resolve what git leaves in conflict"


@dataclass(frozen=True)
class MergeCommitRequest:
    """What was asked for; None where nothing was said, and git's configuration holds."""

    revisions: Sequence[str]
    strategy: str | None = None
    weights: str | None = None
    density: float | None = None
    seed: int | None = None
    freeze: bool = False
    commit: bool = True
    message: str | None = None
    sign: bool | None = None
    rank: str | None = None

    @property
    def settings(self) -> dict[str, str]:
        """As `git config soup.merge.*` spells them."""
        given = {"strategy": self.strategy, "weights": self.weights,
                 "density": self.density, "seed": self.seed, "rank": self.rank}  # fmt: skip
        return {key: str(value) for key, value in given.items() if value is not None}

    @property
    def signing(self) -> list[str]:
        """As `git merge` and `git commit` spell it."""
        words: dict[bool | None, list[str]] = {True: ["--gpg-sign"], False: ["--no-gpg-sign"]}
        return words.get(self.sign, [])


def merge_commit(workspace: Workspace, request: MergeCommitRequest) -> int:
    """Merge revisions into the current branch; returns git's exit code: 1 is a conflict.

    Raises `FatalError` where git refuses; nothing is changed then.
    """
    git = workspace.git
    how = _combination(workspace, request)
    before = git.commit("HEAD")
    tips = [_tip(workspace, revision) for revision in request.revisions]
    if len(tips) == 1:
        code = _merge_one(workspace, request, how)
    else:
        code = _merge_all(workspace, request, how, before, tips)
    if code:
        return code
    after = git.commit("HEAD")
    if after != before:
        follow(workspace, before, after)
        say_merged(workspace, before, after)
    elif git.resolve("MERGE_HEAD") is not None:
        repair(workspace, force=False)
    else:
        return 0
    if request.freeze:
        _freeze(workspace, before, request)
    return 0


def _tip(workspace: Workspace, revision: str) -> str:
    if workspace.git.resolve(revision) is None and Path(revision).is_dir():
        raise FatalError(
            f"{revision} is a folder and no revision; -o DIR is needed to merge adapters in folders",
            hint="git soup merge A B -o DIR",
            code=ExitCode.USAGE,
        )
    return workspace.git.commit(revision)


def _combination(workspace: Workspace, request: MergeCommitRequest) -> Combination:
    """How the adapters will be joined, checked before git is started."""
    from soup_git.storage.combining import strategy_of

    if len(request.revisions) >= MAX_SIDES:
        raise FatalError(
            f"{len(request.revisions)} revisions; at most {MAX_SIDES - 1} are merged", hint=_FORM
        )
    if len(request.revisions) > 1 and not request.commit:
        raise FatalError("--no-commit is for one revision", hint=_ONE_BY_ONE, code=ExitCode.USAGE)
    how = parse_combination({**read_settings(workspace), **request.settings})
    strategy_of(how)
    how.of_sides(len(request.revisions) + 1)
    return how


def _merge_one(workspace: Workspace, request: MergeCommitRequest, how: Combination) -> int:
    git = workspace.git
    grows = how.rank == GROW
    known = {**request.settings, **({WRITES_CONFIGS: "true"} if grows else {})}
    settings = [w for key, value in known.items() for w in ("-c", f"soup.merge.{key}={value}")]
    words = ["--no-edit"] if request.message is None else ["-m", request.message]
    # git has written the tree before any hook of it could add a config: ours is the commit.
    words += ["--no-commit"] if grows or not request.commit else request.signing
    was_merging = git.resolve("MERGE_HEAD") is not None
    code = git.run_in_view(*settings, "merge", *words, "--", *request.revisions)
    if grows and code <= 1 and git.resolve("MERGE_HEAD") is not None and not was_merging:
        _write_grown(workspace)
        if code == 0 and request.commit:
            code = git.run_in_view("commit", "--quiet", "--no-edit", *request.signing) and 2
    if code > 1 and git.resolve("MERGE_HEAD") is not None and not was_merging:
        # As git leaves it where a commit cannot be signed, or a hook of the user's refuses it.
        repair(workspace, force=False)
        raise FatalError(
            "git merged the files, and could not write the commit",
            hint="git commit, once what git says above is mended; git merge --abort goes back",
        )
    if code > 1:
        raise FatalError("git did not merge; nothing was changed", hint="git status")
    return code


def _write_grown(workspace: Workspace) -> None:
    """Give the configs in index and work tree the ranks of the manifests that were merged."""
    git = workspace.git
    snapshot = Workspace(git).staged
    for folder in snapshot.adapters:
        path = inside_folder(folder, CONFIG)
        if path not in snapshot.entries:  # in conflict, and the user's to resolve
            continue
        before = snapshot.require(path)
        data = with_ranks_of(before, snapshot.manifest(folder), path)
        if data != before:
            write_atomically(workspace.root / path, data)
            git.index.stage(path)


# -- several revisions ------------------------------------------------------------------------


def _merge_all(
    workspace: Workspace,
    request: MergeCommitRequest,
    how: Combination,
    head: str,
    tips: Sequence[str],
) -> int:
    git = workspace.git
    needed = set(git.lines("merge-base", "--independent", head, *tips))
    names = dict(zip([head, *tips], [git.head_branch() or "HEAD", *request.revisions], strict=True))
    parents = [oid for oid in names if oid in needed]
    if parents == [head]:
        say("Already up to date.")
        return 0
    octopus = _Octopus(
        workspace,
        Merger(workspace, fetch_missing, how, writes_configs=True),
        parents,
        [names[p] for p in parents],
    )
    tree = octopus.tree()
    message = request.message or _message(request.revisions)
    commit = (
        parents[0]
        if len(parents) == 1
        else git.write_commit(tree, parents, message + "\n", sign=request.sign)
    )
    git.run_with_patience(
        "merge", "--ff-only", "--quiet", commit,
        env={"GIT_REFLOG_ACTION": f"soup merge {' '.join(request.revisions)}"},
        hint="git stash, then again",
    )  # fmt: skip
    return 0


def _message(revisions: Sequence[str]) -> str:
    quoted = [f"'{revision}'" for revision in revisions]
    return f"Merge {', '.join(quoted[:-1])} and {quoted[-1]}"


class _Octopus:
    """The tree of a merge of many: text folded by git, what is ours merged in one step."""

    def __init__(
        self, workspace: Workspace, merger: Merger, parents: Sequence[str], names: Sequence[str]
    ) -> None:
        self._workspace = workspace
        self._git = workspace.git
        self._merger = merger
        self._parents = parents
        self._names = names

    @cached_property
    def _base(self) -> str:
        done = self._git.run("merge-base", "--octopus", *self._parents, check=False)
        base = done.stdout.decode().strip()
        if not base:
            raise FatalError("the revisions have no common ancestor", hint=_ONE_BY_ONE)
        return base

    def tree(self) -> str:
        """Its object id; raises, exit 1, with the files that are in conflict."""
        folded = self._folded()
        versions = [self._ours(commit) for commit in self._parents]
        before, merged = self._ours(self._base), self._ours(folded)
        moved = [
            path
            for path, oid in before.items()
            if path not in merged and any(v.get(path, oid) != oid for v in versions)
        ]
        if moved:
            raise _in_conflict(moved, "renamed or deleted on one side and changed on another")
        changes: dict[str, str | None] = {}
        for path in merged:
            there = [version[path] for version in versions if path in version]
            agreed, oid = pick(before.get(path), there)
            # git itself kept ours where several changed it: the driver was told to.
            changes[path] = oid if agreed else self._merged(path, before.get(path), there)
        return self._git.write_tree(folded, {**changes, **self._grown(changes)})

    def _grown(self, changes: Mapping[str, str | None]) -> dict[str, str | None]:
        """The configs beside merged manifests, with the ranks of those."""
        found: dict[str, str | None] = {}
        for path, oid in changes.items():
            config = changes.get(f"{path.removesuffix(MANIFEST)}{CONFIG}")
            if oid is None or config is None or not f"/{path}".endswith(f"/{MANIFEST}"):
                continue
            texts = [self._git.blob(blob) or b"" for blob in (oid, config)]
            data = with_ranks_of(texts[1], parse_manifest(texts[0], path), path)
            if data != texts[1]:
                found[f"{path.removesuffix(MANIFEST)}{CONFIG}"] = self._git.write_blob(data)
        return found

    def _folded(self) -> str:
        """All parents merged one by one as git does it, our own files left as the first has them."""
        commit = self._parents[0]
        for tip in self._parents[1:]:
            done = self._git.run(
                "-c", "merge.soup.driver=true", "-c", "merge.soup-ours.driver=true",
                "merge-tree", "--write-tree", "-z", "--name-only", "--no-messages", commit, tip,
                check=False,
            )  # fmt: skip
            words = done.stdout.decode(errors="surrogateescape").split("\0")
            if done.returncode == 1:
                raise _in_conflict([word for word in words[1:] if word], "changed on several sides")
            if done.returncode:
                raise FatalError(
                    f"git could not merge {tip[:10]}: {done.stderr.decode(errors='replace').strip()}",
                    hint=_ONE_BY_ONE,
                )
            commit = self._git.write_record(words[0], [commit, tip], "a step of a merge\n")
        return commit

    def _ours(self, commit: str) -> Mapping[str, str]:
        """Path -> blob of the files that the driver merges."""
        return {e.path: e.oid for e in self._git.tree(commit) if _is_driven(e.path)}

    def _merged(self, path: str, origin: str | None, sides: Sequence[str]) -> str:
        ids = [*([origin] if origin else []), *sides]
        texts = [entry[1] if entry else b"" for entry in self._git.blobs(ids)]
        before = texts.pop(0) if origin else b""
        names = Names(self._names, f" {self._base[:7]}")
        try:
            merged = merge_file(
                self._workspace, self._merger, Texts(path, before, texts), lambda: names
            )
        except FatalError as error:
            raise FatalError(
                f"{path} is in conflict, and nothing was changed: {error}",
                hint=error.hint or _ONE_BY_ONE,
                code=ExitCode.CHECK_FAILED,
            ) from None
        if not merged.is_clean:
            raise _in_conflict([path], "changed on several sides")
        return self._git.write_blob(merged.data)


def _is_driven(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name in {CONFIG, MANIFEST, DVC_LOCK, LOCK} or name.endswith(POINTER_SUFFIX)


def _in_conflict(paths: Sequence[str], why: str) -> FatalError:
    listed = "".join(f"\n  {path}" for path in paths)
    return FatalError(
        f"in conflict, and nothing was changed: {why}{listed}",
        hint=_ONE_BY_ONE,
        code=ExitCode.CHECK_FAILED,
    )


# -- --freeze ---------------------------------------------------------------------------------


def _freeze(workspace: Workspace, before: str, request: MergeCommitRequest) -> None:
    """Freeze the stages whose weights were merged, as a part of the merge commit."""
    git = workspace.git
    stages = _merged_stages(workspace, before)
    if not stages:
        say(
            "note: no stage in dvc.yaml makes an adapter that was merged: there is nothing to freeze"
        )
        return
    path = workspace.root / "dvc.yaml"
    text = path.read_bytes()
    for stage in stages:
        text = freeze_stage(text, stage)
        say(f"froze stage {stage}: dvc repro leaves it alone while dvc.yaml says frozen: true")
    write_atomically(path, text)
    git.index.stage("dvc.yaml")
    if request.commit:
        git.run_with_patience(
            "commit", "--quiet", "--amend", "--no-edit", "--no-verify", *request.signing
        )


def _merged_stages(workspace: Workspace, before: str) -> list[str]:
    """Stages at the top whose weights were merged now; of a fast-forward, none."""
    git = workspace.git
    is_new_merge = git.resolve("MERGE_HEAD") or git.resolve("HEAD^2")
    if not is_new_merge or (git.resolve("HEAD^1") != before and git.resolve("HEAD") != before):
        return []
    snapshot = Workspace(git).staged
    data = snapshot.read(DVC_LOCK)
    found = []
    for stage, outputs in parse_dvc_lock(data, DVC_LOCK).items() if data is not None else []:
        folders = {o.path.rpartition("/")[0] or "." for o in outputs if is_weights(o.path)}
        merged = [f for f in folders if f in snapshot.adapters and has_origin(snapshot.manifest(f))]
        found += [stage] if merged else []
    return found
