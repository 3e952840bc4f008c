"""A tiny base, adapters for it, and a workspace around both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_adapter
from tests.training import tiny_model as tiny

WriteSuite = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_base(tmp_path_factory.mktemp("evaluated") / "base")


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three small adapters that move what the tiny base says, each in its own way."""
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: write_adapter(root / name, seed=seed, rank=rank, base="base", scale=0.15)
        for name, seed, rank in (("one", 1, 4), ("two", 2, 4), ("wide", 3, 8))
    }


@pytest.fixture
def write_suite(tmp_path: Path) -> WriteSuite:
    """`write_suite(yaml, rows, name="suite.yaml")`: a suite, and its rows in prompts.jsonl."""

    def write(
        text: str, rows: list[dict[str, Any]] | None = None, name: str = "suite.yaml"
    ) -> Path:
        (tmp_path / name).write_text(text)
        if rows is not None:
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / "prompts.jsonl").write_text(lines)
        return tmp_path / name

    return write


QUESTIONS: list[dict[str, Any]] = [
    {"prompt": f"{n}: {sentence}", "expected": tiny.SENTENCES[(n + 1) % 5]}
    for n, sentence in enumerate(tiny.SENTENCES)
]
