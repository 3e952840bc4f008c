"""What the arithmetic promises holds with each kernel that OpenBLAS may choose for a processor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS = {
    "Prescott": {"pni"},
    "Sandybridge": {"avx"},
    "Haswell": {"avx2", "fma"},
    "SkylakeX": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
}
"""A kernel of each width of its sums, with the flags of the processors that can run it."""
HERE = Path(__file__).parent
PROGRAM = f"""
import ctypes, sys
import numpy, pytest
for path in {{l.split(maxsplit=5)[5].strip() for l in open("/proc/self/maps") if "openblas" in l}}:
    lib = ctypes.CDLL(path)
    for name in ("scipy_openblas_get_corename64_", "openblas_get_corename64_", "openblas_get_corename"):
        if hasattr(lib, name):
            getattr(lib, name).restype = ctypes.c_char_p
            print("kernel", getattr(lib, name)().decode())
            break
files = [{str(HERE / "test_factors.py")!r}, {str(HERE / "test_merging.py")!r}]
sys.exit(pytest.main([*files, "--noconftest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]))
"""


def flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_is_promised_does_not_hang_on_a_processor(kernel: str) -> None:
    if not flags() >= KERNELS[kernel]:
        pytest.skip(f"this processor cannot run {kernel}'s")
    env = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**env, "OPENBLAS_CORETYPE": kernel, "OMP_NUM_THREADS": "1"},
        cwd=HERE.parent.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "kernel" not in done.stdout:
        pytest.skip("numpy is built with another BLAS")
    assert done.returncode == 0, done.stdout + done.stderr
