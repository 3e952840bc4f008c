"""Commands of ours, fixed words run where the user can see: the demo's, and the probe's process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def run_as_user(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> int:
    """Run a command in `folder` with our own streams; returns its exit code. No shell."""
    sys.stdout.flush()
    sys.stderr.flush()
    return subprocess.run(command, cwd=folder, env=dict(env), check=False).returncode
