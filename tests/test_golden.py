"""Golden sets: what every release wrote is read by today's code, which says of it what was said then.

A set is never changed. Where a later version knows more, an answer has more keys; where one
answered wrong, tests/golden/README.md says what was mended by hand.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from soup_git.core.bisectlog import parse_log
from soup_git.core.lock import parse_lock
from soup_git.core.manifest import parse_manifest
from soup_git.core.notes import note_lines, parse_note
from soup_git.storage.dvcfiles import parse_dvc_lock, parse_pointer, pointer_text
from tests.conftest import Run, runner
from tests.golden.asked import (
    ANSWERS,
    LOCAL,
    QUESTIONS,
    SETS,
    TEMPLATES,
    answered,
    changed_in,
    lasting,
    open_set,
    unpack,
    words_of,
)

NAMES = sorted(path.name for path in SETS.iterdir() if (path / ANSWERS).is_dir())
Blobs = list[tuple[str, bytes]]


@pytest.fixture(scope="module", params=NAMES)
def golden(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, git_soup_script: Path
) -> tuple[Path, Path]:
    """(the set's folder, the workspace that was made of it)."""
    folder, root = SETS / request.param, tmp_path_factory.mktemp("golden") / "workspace"
    open_set(folder, root, runner("git"), runner("git", "soup"))
    return folder, root


def test_there_is_a_set() -> None:
    assert "0.1.0" in NAMES


def test_what_was_said_is_still_said(
    golden: tuple[Path, Path], git: Run, soup: Run, tmp_path: Path
) -> None:
    """Every verb that reads: same exit code, and every key and value of the report of then."""
    folder, root = golden
    [ref] = git("for-each-ref", "--format=%(refname)", "refs/soup/runs", cwd=root).stdout.split()
    wrong = []
    known = [name for name in QUESTIONS if (folder / ANSWERS / f"{name}.json").is_file()]
    for name in known:
        before = json.loads((folder / ANSWERS / f"{name}.json").read_text())
        words = words_of(name, ref.rpartition("/")[2], tmp_path / "out")
        done = soup(*words, check=False, cwd=root)
        after = answered(done, root.parent)
        before["report"] = lasting(before["report"], "@ROOT@")
        wrong += [f"{name}: {what}\n{done.stderr}" for what in differences(before, after, name)]
    assert not wrong, "\n".join(wrong)
    assert len(known) > 20
    assert changed_in(root, git) == []


def differences(before: Any, after: Any, at: str) -> Iterator[str]:
    """What is not as it was; keys that are new are no difference."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key not in after:
                yield f"{at}.{key} is gone"
            else:
                yield from differences(value, after[key], f"{at}.{key}")
    elif isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            yield f"{at} has {len(after)} entries, and had {len(before)}"
        for number, (one, other) in enumerate(zip(before, after, strict=False)):
            yield from differences(one, other, f"{at}[{number}]")
    elif isinstance(before, float) and isinstance(after, int | float):
        if not math.isclose(before, after, rel_tol=1e-5, abs_tol=1e-7):
            yield f"{at} is {after}, and was {before}"
    elif before != after:
        yield f"{at} is {after!r}, and was {before!r}"


def test_the_comparison_can_fail() -> None:
    before = {"a": [1.0, {"b": "x"}], "c": 1}
    assert not list(differences(before, {"a": [1.0 + 1e-9, {"b": "x", "new": 1}], "c": 1}, ""))
    for after in (
        {"a": [1.1, {"b": "x"}], "c": 1},
        {"a": [1.0, {"b": "y"}], "c": 1},
        {"a": [1.0], "c": 1},
        {"c": 1},
    ):
        assert list(differences(before, after, ""))


# -- each format by itself --------------------------------------------------------------------


@pytest.fixture(scope="module")
def blobs(golden: tuple[Path, Path]) -> Callable[[str], Blobs]:
    """`blobs(pattern)`: every file of that path, of any commit of any ref, as it was written."""
    git = runner("git", cwd=golden[1])
    found = {}
    for line in git("rev-list", "--all", "--objects", "--filter=blob:limit=1m").stdout.splitlines():
        oid, _, path = line.partition(" ")
        if path:
            found[oid] = path

    def matching(pattern: str) -> Blobs:
        paths = [(oid, path) for oid, path in found.items() if re.search(pattern, path)]
        texts = [(path, git("cat-file", "-p", oid).stdout.encode()) for oid, path in paths]
        assert texts, f"no {pattern} in the set"
        return texts

    return matching


def test_manifests_are_read_and_written_as_they_were(blobs: Callable[[str], Blobs]) -> None:
    found = blobs(r"(^|/)adapter\.manifest$")
    for path, data in found:
        assert parse_manifest(data, path).text().encode() == data, path
    heads = b"".join(data.partition(b"\n\n")[0] + b"\n" for _, data in found)
    for line in (
        b"recipe origin",
        b"recipe input",
        b"dora true",
        b"rslora true",
        b"rank_pattern",
        b"peft loha",
        b" full\n",
    ):
        assert line in heads


def test_locks_and_pointers_are_read_and_written_as_they_were(
    blobs: Callable[[str], Blobs],
) -> None:
    for path, data in blobs(r"(^|/)soup\.lock$"):
        assert parse_lock(data, path).text().encode() == data, path
    for path, data in blobs(r"[^/]\.dvc$"):
        [output] = parse_pointer(data, path)
        name = path.rpartition("/")[2].removesuffix(".dvc")
        if not output.md5.endswith(".dir"):
            assert pointer_text(name, output.md5, output.size).encode() == data, path
    stages = [parse_dvc_lock(data, path) for path, data in blobs(r"^dvc\.lock$")]
    assert {"train", "evaluate"} <= set().union(*stages)


def test_notes_are_read(golden: tuple[Path, Path]) -> None:
    git = runner("git", cwd=golden[1])
    listed = git("notes", "--ref=soup", "list").stdout.splitlines()
    texts = [git("cat-file", "blob", line.split()[0]).stdout.encode() for line in listed]
    lines = [line for text in texts for line in note_lines(text)]
    schemas = {json.loads(line)["schema"] for line in lines}
    assert {"soup.eval/1", "soup.verify/1", "soup.bisect-verdict/1"} <= schemas
    records = [record for text in texts for record in parse_note(text)]
    assert len(records) == sum(b'"soup.eval/1"' in line for line in lines)
    assert all(record.metrics for record in records)


def test_the_log_of_a_search_that_was_ended_is_read(
    golden: tuple[Path, Path], tmp_path: Path
) -> None:
    unpack(golden[0] / LOCAL, tmp_path)
    log = parse_log((tmp_path / ".git/SOUP_BISECT_LOG").read_bytes(), "log")
    assert (len(log.question.checkpoints), len(log.told)) == (4, 1)


def test_templates_are_valid_configs_and_their_stages_start(
    golden: tuple[Path, Path], tmp_path: Path
) -> None:
    config = pytest.importorskip("soup_git.training.config", reason="the train extra is missing")
    from soup_git.evaluation.suite import load_suite

    unpack(golden[0] / TEMPLATES, tmp_path)
    folders = sorted(path for path in tmp_path.iterdir() if path.is_dir())
    assert len(folders) >= 17
    for folder in folders:
        config.load_config(folder / "soup.yaml")
        for suite in folder.glob("eval/*.yaml"):
            load_suite(suite, folder)
        for module in re.findall(r"-m (soup_git[\w.]+)", (folder / "dvc.yaml").read_text()):
            assert find_spec(module) is not None, f"{folder.name}: {module}"
