"""The scripts in examples/ run to their end: two people, one bare remote."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.sh")), ids=lambda path: path.stem)
def test_the_example_runs_to_its_end(script: Path, in_tmp_path: Path, warm_path: str) -> None:
    done = subprocess.run(
        ["sh", str(script), str(in_tmp_path / "story")],
        env={**os.environ, "PATH": warm_path, "PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("Both have the same adapter.\n")
    assert "Traceback" not in done.stdout
    assert "1 combined" in done.stdout
