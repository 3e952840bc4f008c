"""The scripts in examples/ run to their end: two people, one bare remote."""

from __future__ import annotations

import json
import os
import re
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


@pytest.mark.parametrize(
    ("page", "verdict"),
    [
        ("longer-training", "ready"),
        ("higher-learning-rate", "do not merge"),
        ("more-questions", "look closer"),
    ],
)
def test_the_example_pages_say_what_to_do_in_their_first_line(page: str, verdict: str) -> None:
    """Which one to merge is told by one line of each form, and all forms agree."""
    folder = EXAMPLES / "pull_requests"
    data = json.loads((folder / f"{page}.json").read_text())
    assert data["schema"] == "soup.pr/1"
    assert verdict in (folder / f"{page}.md").read_text().splitlines()[0]
    html = (folder / f"{page}.html").read_text()
    assert verdict in re.sub(r"<[^>]+>", "", html.partition("</h1>")[0])
    assert "<script" not in html
    assert (folder / f"{page}.png").read_bytes().startswith(b"\x89PNG")
