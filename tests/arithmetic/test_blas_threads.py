"""One BLAS thread, whoever loaded numpy first, and nothing left in the environment."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNT = """
import ctypes, os
paths = {l.split(maxsplit=5)[5].strip() for l in open("/proc/self/maps") if "openblas" in l}
for path in paths:
    lib = ctypes.CDLL(path)
    for name in ("scipy_openblas_get_num_threads64_", "openblas_get_num_threads64_", "openblas_get_num_threads"):
        if hasattr(lib, name):
            print(getattr(lib, name)(), os.environ.get("OPENBLAS_NUM_THREADS"))
            break
"""


@pytest.mark.parametrize(
    "before",
    [
        "import soup_git.arithmetic",
        "import soup_git.storage.weights as w; w.sum_of_squares(bytes(8), 'F32')",
        "import numpy; from soup_git.storage.blas import use_one_blas_thread as one; one()",
    ],
)
def test_the_arithmetic_runs_on_one_blas_thread(before, monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    program = f"{before}\n{COUNT}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    if not done.stdout:
        pytest.skip("numpy is built with another BLAS")
    assert done.stdout.split() == ["1", "None"]
