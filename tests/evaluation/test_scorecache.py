"""What names a score: every module that decides one, and no other."""

from __future__ import annotations

import ast
import importlib.metadata
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from soup_git.evaluation import scorecache
from soup_git.evaluation.scorecache import DECIDING, implementation, versions

PACKAGE = Path(scorecache.__file__).parents[1]

NOT_DECIDING = {
    # Values and words; who names what is asked for, and reads it into the question.
    "data/__init__", "evaluation/__init__", "training/__init__", "errors",
"core/beside", "render/report", "storage/pointers", "storage/resolver", "storage/weights",
    "core/adapter", "core/digests",
    "core/text", "core/yamllines",
    "data/labels", "data/preferences", "data/reading", "data/rows",
    "evaluation/candidate", "evaluation/scorecache", "evaluation/suite",
    "storage/http",
    # Refusals, and what a training config may say.
    "training/architecture", "training/machine", "training/schema",
    "training/tasks", "training/upstream",
}  # fmt: skip
"""Imported by an evaluation, and of no weight in a score."""


def imported(name: str) -> Iterator[str]:
    """The modules of ours that `name` imports when it runs, late imports too."""
    tree = ast.parse((PACKAGE / f"{name}.py").read_text())
    only_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in only_types:
            words = (node.module or "").split(".")
            if words[0] != "soup_git":
                continue
            for parts in (words, *([*words, alias.name] for alias in node.names)):
                path = "/".join(parts[1:])
                if (PACKAGE / f"{path}.py").is_file():
                    yield path
                elif (PACKAGE / path / "__init__.py").is_file():
                    yield f"{path}/__init__"


def reached() -> set[str]:
    """All that an evaluation imports: from the runner, below what decides."""
    found: set[str] = set()
    todo = ["evaluation/runner"]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        if name in DECIDING:
            todo += imported(name)
    return found


def test_each_module_that_an_evaluation_imports_decides_or_is_known_not_to() -> None:
    assert reached() == {*DECIDING, *NOT_DECIDING}, "a new module: DECIDING, or NOT_DECIDING?"
    assert not {*DECIDING} & NOT_DECIDING
    assert list(DECIDING) == sorted(set(DECIDING))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("package") / "soup_git"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def asked_anew(package: Path, name: str) -> bool:
    """Whether a byte more in a module asks another question."""
    file = package / f"{name}.py"
    implementation.cache_clear()
    before, text = implementation(package), file.read_bytes()
    try:
        file.write_bytes(text + b"#")
        implementation.cache_clear()
        return implementation(package) != before
    finally:
        file.write_bytes(text)
        implementation.cache_clear()


@pytest.mark.parametrize("name", DECIDING)
def test_an_edit_of_what_decides_forgets_the_scores(package: Path, name: str) -> None:
    assert asked_anew(package, name)


def test_no_other_edit_forgets_one(package: Path) -> None:
    others = [f.relative_to(package).with_suffix("").as_posix() for f in package.rglob("*.py")]
    others = sorted({*others} - {*DECIDING})
    assert "evaluation/ablationplan" in others
    before = implementation(package)
    texts = {name: (package / f"{name}.py").read_bytes() for name in others}
    for name, text in texts.items():
        (package / f"{name}.py").write_bytes(text + b"#")
    implementation.cache_clear()
    assert implementation(package) == before
    for name, text in texts.items():
        (package / f"{name}.py").write_bytes(text)


def test_two_modules_that_exchange_their_texts_are_others(package: Path) -> None:
    one, two = (package / f"{name}.py" for name in DECIDING[:2])
    before = implementation(package)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    implementation.cache_clear()
    assert implementation(package) != before
    one.write_bytes(first)
    two.write_bytes(second)


def test_versions_are_read_without_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"torch": "2.1", "transformers": "5.0"}

    def version(name: str) -> str:
        if name not in known:
            raise importlib.metadata.PackageNotFoundError(name)
        return known[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert versions() == {"torch": "2.1", "transformers": "5.0", "peft": None, "trl": None}
