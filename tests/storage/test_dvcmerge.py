"""`dvc.lock` and pointers as a table of (origin, ours, theirs) -> merged; weights by a stand-in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from soup_git.core.threeway import ConflictError, pick
from soup_git.errors import FatalError
from soup_git.storage.dvcfiles import parse_dvc_lock, pointer_text
from soup_git.storage.dvcmerge import merge_dvc_lock, merge_pointer
from soup_git.storage.gitrepo import GitRepo
from soup_git.storage.workspace import Workspace

W = "out/adapter_model.safetensors"
MERGED = "e" * 31 + "f"


@dataclass
class Answers:
    """What `Merger.weights` answers, without adapters: every true combination is one md5."""

    clashes: bool = False

    def weights(self, origin: str | None, sides: Sequence[str | None]) -> tuple[str, int] | None:
        agreed, md5 = pick(origin, sides)
        if agreed:
            return None if md5 is None else (md5, 0)
        if self.clashes:
            raise ConflictError([], hint="none")
        return MERGED, 999


def lock(
    train: str = "0", data: str = "0", *, lock_data: str | None = None, more: str = ""
) -> bytes:
    """A dvc.lock of a pipeline train -> lock -> report; weights `train`, made from data `data`."""

    def md5(digit: str) -> str:
        return digit * 31 + "a"

    return f"""\
schema: '2.0'
stages:
  train:
    cmd: python -m train
    deps:
    - path: data/rows
      hash: md5
      md5: {md5(data)}
      size: 10
    outs:
    - path: ./{W}
      hash: md5
      md5: {md5(train)}
      size: 100
    - path: metrics.json
      hash: md5
      md5: {md5(train)}
      size: 5
  lock:
    cmd: python -m lock
    deps:
    - path: {W}
      hash: md5
      md5: {md5(train)}
      size: 100
    - path: data/rows
      md5: {md5(lock_data or data)}
    outs:
    - path: report/one
      md5: {md5(train)}
  report:
    cmd: x
    deps:
    - path: report/one
      md5: {md5(train)}
{more}""".encode()


@pytest.fixture
def git(repo) -> GitRepo:
    return Workspace.open().git


def merged(git, origin: bytes, *sides: bytes, clashes: bool = False):
    return merge_dvc_lock(Answers(clashes), git, "dvc.lock", origin, sides)  # type: ignore[arg-type]


def test_a_stage_that_both_retrained_is_ours_with_the_merged_weights(git):
    found = merged(git, lock(), lock("1", "1"), lock("2", "2"))
    assert found.is_clean
    # metrics.json has the same md5 as the weights here, and another path.
    mine = f"path: ./{W}\n      hash: md5\n      md5: {'1' * 31}a\n      size: 100\n".encode()
    new = f"path: ./{W}\n      hash: md5\n      md5: {MERGED}\n      size: 999\n".encode()
    assert found.data == lock("1", "1").replace(mine, new)
    outputs = {
        o.path: o.md5 for outs in parse_dvc_lock(found.data, "dvc.lock").values() for o in outs
    }
    assert outputs[W] == MERGED
    assert outputs["report/one"] == "1" * 31 + "a"


def test_a_record_of_the_side_that_trained_is_taken_whole(git):
    theirs = lock("2", "2")
    for ours in (lock("0", "1"), lock()):
        found = merged(git, lock(), ours, theirs)
        assert (found.data, found.is_clean) == (theirs, True)


def test_other_stages_merge_as_text(git):
    other = "  prepare:\n    cmd: {}\n    outs:\n    - path: x\n      md5: {}\n"
    origin = lock(more=other.format("a", "1" * 31 + "a"))
    found = merged(
        git,
        origin,
        lock("1", more=other.format("a", "1" * 31 + "a")),
        lock(more=other.format("b", "2" * 31 + "a")),
    )
    assert found.is_clean
    assert b"cmd: b" in found.data
    clash = merged(
        git,
        origin,
        lock(more=other.format("b", "2" * 31 + "a")),
        lock(more=other.format("c", "3" * 31 + "a")),
    )
    assert not clash.is_clean
    assert b"<<<<<<< ours" in clash.data
    assert clash.data.startswith(b"schema: '2.0'\nstages:\n  train:")


def test_stages_come_and_go(git):
    more = "  new:\n    cmd: n\n"
    assert merged(git, lock(), lock("1"), lock(more=more)).data == lock("1", more=more)
    assert merged(git, lock(more=more), lock("1", more=more), lock()).data == lock("1")


def test_adapters_that_clash_raise(git):
    with pytest.raises(ConflictError):
        merged(git, lock(), lock("1"), lock("2"), clashes=True)


def test_a_layout_that_is_not_dvcs_merges_as_text(git):
    flow = b"{schema: '2.0', stages: {train: {cmd: a}}}\n"
    assert merged(git, flow, flow, flow.replace(b"a}", b"b}")).data == flow.replace(b"a}", b"b}")
    assert not merged(git, flow, flow.replace(b"a}", b"c}"), flow.replace(b"a}", b"b}")).is_clean


def test_no_origin_and_many_sides(git):
    assert merged(git, b"", lock(), lock()).data == lock()
    found = merged(git, lock(), lock("1"), lock("2"), lock("3"))
    assert MERGED.encode() in found.data


def test_broken_texts_are_refused(git):
    for bad in (b"<<<<<<< ours\n", b"[", b"stages: [1]\n", b"stages:\n  a:\n    outs: x\n"):
        with pytest.raises(FatalError):
            merged(git, lock(), lock("1"), bad)


# -- pointers ---------------------------------------------------------------------------------

POINTER = f"{W}.dvc"


def pointer(digit: str, extra: str = "") -> bytes:
    return (pointer_text("adapter_model.safetensors", digit * 31 + "a", 100) + extra).encode()


def test_pointers_follow_the_weights_and_keep_what_people_add(git):
    found = merge_pointer(
        Answers(), git, POINTER, pointer("0"), [pointer("1", "desc: mine\n"), pointer("2")]
    )  # type: ignore[arg-type]
    assert found.is_clean
    assert (
        found.data.decode()
        == pointer_text("adapter_model.safetensors", MERGED, 999) + "desc: mine\n"
    )
    both = merge_pointer(
        Answers(),
        git,
        POINTER,
        pointer("0"),
        [pointer("1", "desc: a\n"), pointer("2", "desc: b\n")],
    )  # type: ignore[arg-type]
    assert not both.is_clean
    same = merge_pointer(
        Answers(), git, POINTER, pointer("0"), [pointer("0", "desc: a\n"), pointer("2")]
    )  # type: ignore[arg-type]
    assert same.data == pointer("2", "desc: a\n")


def test_a_datasets_pointer_is_text(git):
    rows = [
        re.sub("adapter_model.safetensors", "rows", pointer(d).decode()).encode() for d in "012"
    ]
    assert not merge_pointer(Answers(), git, "rows.dvc", rows[0], rows[1:]).is_clean  # type: ignore[arg-type]
    assert merge_pointer(Answers(), git, "rows.dvc", rows[0], [rows[0], rows[2]]).data == rows[2]  # type: ignore[arg-type]
