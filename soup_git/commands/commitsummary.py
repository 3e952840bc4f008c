"""The `Soup-Adapter:` trailers of a commit message: what the commit changes in adapters.

Made from the manifests alone, for prepare-commit-msg and commit-msg. Where the message is
written in an editor that starts empty, or from a template, the first only remembers them and
the second adds them: a message that nobody wrote must stay one that git refuses.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from soup_git.core.digests import sha256_hex
from soup_git.core.manifest import MANIFEST, Manifest, parse_manifest
from soup_git.core.text import counted, printable
from soup_git.errors import FatalError
from soup_git.storage.files import bytes_of, write_atomically
from soup_git.storage.gitrepo import GitRepo

KEY = "Soup-Adapter"
_SHOWN = 20
_REPLAYS = (
    "MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "rebase-merge", "rebase-apply", "sequencer",
)  # fmt: skip
"""In git's folder while it makes commits out of other commits, whose messages stay as they are."""


def prepare(file: Path, source: str, commit: str) -> None:
    """prepare-commit-msg: write the trailers into `file`, or remember them for `add_remembered`.

    `source` and `commit` are git's own words (git help githooks).
    """
    git = GitRepo.discover(Path.cwd())
    _remembered(git).unlink(missing_ok=True)
    if any((git.git_dir / name).exists() for name in _REPLAYS):
        return
    parent = _parent(git, source, commit)
    if parent is None:
        return
    trailers = summary(git, parent)
    text = file.read_bytes()
    if source in {"", "template"}:
        if trailers:
            lines = [sha256_hex(_cleaned(git, text)), *trailers, ""]
            write_atomically(_remembered(git), "\n".join(lines).encode("utf-8", "surrogateescape"))
    elif _cleaned(git, text):
        _rewrite(git, file, text, trailers)


def add_remembered(file: Path) -> None:
    """commit-msg: write what `prepare` remembered into `file`, if somebody wrote a message."""
    git = GitRepo.discover(Path.cwd())
    known = bytes_of(_remembered(git))
    if known is None:
        return
    _remembered(git).unlink(missing_ok=True)
    untouched, *trailers = known.decode("utf-8", "surrogateescape").splitlines()
    text = file.read_bytes()
    cleaned = _cleaned(git, text)
    if cleaned and sha256_hex(cleaned) != untouched:
        _rewrite(git, file, text, trailers)


def _remembered(git: GitRepo) -> Path:
    return git.git_dir / "soup" / "commit-summary"


def _parent(git: GitRepo, source: str, commit: str) -> str | None:
    """What the new commit is compared with: a tree-ish, empty for nothing; None: leave it alone."""
    if source == "merge":
        return None
    head = git.resolve("HEAD")
    if head is None:
        return ""
    if source == "commit" and commit == "HEAD":
        return _first_parent(git, head)
    if source == "message" and _may_amend(git, head):
        # `--amend -m` looks like any `-m`. Where both readings give one summary it is right.
        amended = _first_parent(git, head)
        if amended is not None and summary(git, amended) == summary(git, head):
            return head
        raise FatalError("this may be --amend -m, so what it changes is not known")
    return head


def _first_parent(git: GitRepo, head: str) -> str | None:
    """Its parent; empty for a first commit; None for a merge."""
    parents = git.text("rev-list", "--parents", "-n", "1", head).split()[1:]
    return None if len(parents) > 1 else "".join(parents)


def _may_amend(git: GitRepo, head: str) -> bool:
    """Whether the author's date is HEAD's: git tells hooks, and an amend keeps it."""
    when = os.environ.get("GIT_AUTHOR_DATE", "").lstrip("@").split(" ")[0]
    return when == git.text("log", "-1", "--format=%at", head)


def _cleaned(git: GitRepo, text: bytes) -> bytes:
    """A message as git will judge it: no comments, nothing below the scissors of `-v`."""
    mark = b" ------------------------ >8 ------------------------\n"
    start = text.find(mark)
    above = text[: text.rfind(b"\n", 0, start) + 1] if start >= 0 else text
    return git.run("stripspace", "--strip-comments", input=above).stdout


def _rewrite(git: GitRepo, file: Path, text: bytes, trailers: Sequence[str]) -> None:
    """The message with `trailers` in place of older ones of ours, above comments and scissors."""
    prefix = f"{KEY}: ".encode()
    lines = text.split(b"\n")
    kept = b"\n".join(line for line in lines if not line.startswith(prefix))
    if trailers:
        flags = [word for line in trailers for word in ("--trailer", f"{KEY}: {line}")]
        how = ["--no-divider", "--if-exists", "add", "--if-missing", "add", "--where", "end"]
        kept = git.run("interpret-trailers", *how, *flags, input=kept).stdout
    if kept != text:
        file.write_bytes(kept)


# -- what changed -------------------------------------------------------------------------------


def summary(git: GitRepo, parent: str) -> list[str]:
    """One line for each adapter that differs between `parent` (empty: nothing) and the index."""
    against = parent or git.text("mktree", input=b"")
    pattern = [f":(top,glob)**/{MANIFEST}"]
    fields = git.paths(
        "diff-index", "--cached", "--no-renames", "--name-only", against, "--", *pattern
    )
    before = {path: _manifest(git, f"{parent}:{path}") if parent else None for path in fields}
    after = {path: _manifest(git, f":{path}") for path in fields}
    lines = list(_lines(before, after))
    if len(lines) > _SHOWN:
        lines[_SHOWN:] = [f"and {counted(len(lines) - _SHOWN, 'adapter')} more"]
    return lines


def _manifest(git: GitRepo, name: str) -> Manifest | None:
    data = git.blob(name)
    return None if data is None else parse_manifest(data, name)


def _lines(
    before: Mapping[str, Manifest | None], after: Mapping[str, Manifest | None]
) -> Iterable[str]:
    left = {old.weights_md5: path for path, old in before.items() if old and after[path] is None}
    moved = {
        path: left.pop(new.weights_md5)
        for path, new in after.items()
        if new and before[path] is None and new.weights_md5 in left
    }
    for path, new in after.items():
        old, name = before[path], _folder(path)
        if path in moved:
            yield f"{name} moved from {_folder(moved[path])}"
        elif new is not None:
            yield f"{name} {_changes(old, new) if old else _whole(new)}"
        elif old is not None and path not in moved.values():
            yield f"{name} removed"


def _folder(path: str) -> str:
    return printable(path.rpartition("/")[0] or ".")


def _whole(new: Manifest) -> str:
    merged = ", merged" if new.is_merged else ""
    return f"added, {counted(len(new.modules), 'module')}, rank {printable(new.get('rank') or '-')}{merged}"


def _changes(old: Manifest, new: Manifest) -> str:
    """`31 of 196 modules changed`, and what the header says that changed with them."""
    was, now = _tensors(old), _tensors(new)
    added, removed = len(now.keys() - was.keys()), len(was.keys() - now.keys())
    changed = sum(was[module] != now[module] for module in was.keys() & now.keys())
    words = [f"{changed} of {counted(len(now), 'module')} changed"]
    words += [f"{added} added"] if added else []
    words += [f"{removed} removed"] if removed else []
    for key in ("base", "rank", "alpha"):
        one, other = (printable(m.get(key) or "-") for m in (old, new))
        words += [f"{key} {one} -> {other}"] if one != other else []
    words += ["merged"] if new.is_merged and new.weights_md5 != old.weights_md5 else []
    return ", ".join(words)


def _tensors(manifest: Manifest) -> dict[str, set[str]]:
    """Module -> its tensors' lines."""
    found: dict[str, set[str]] = {}
    for tensor in manifest.tensors:
        found.setdefault(tensor.module, set()).add(tensor.line())
    return found


def say_why_not(error: FatalError) -> str:
    """What a hook says that could not know what changed; the commit goes on."""
    return (
        f"note: no {KEY} line was added: {printable(str(error))}\n"
        "hint: git commit --amend --no-edit adds it\n"
    )
