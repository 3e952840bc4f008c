"""One BLAS thread where somebody loaded numpy before `soup_git.arithmetic` could say so."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

_SETTERS = (
    "scipy_openblas_set_num_threads64_",
    "openblas_set_num_threads64_",
    "openblas_set_num_threads",
)


@cache
def use_one_blas_thread() -> None:
    """Tell every OpenBLAS of this process, unless OPENBLAS_NUM_THREADS is the user's own choice.

    Without it torch or a test that imported numpy first costs a merge 25 times the CPU.
    Where there is no /proc, nothing is done.
    """
    maps = Path("/proc/self/maps")
    if "OPENBLAS_NUM_THREADS" in os.environ or not maps.is_file():
        return
    lines = maps.read_text("utf-8", "replace").splitlines()
    for path in {line.split(maxsplit=5)[5] for line in lines if "openblas" in line}:
        library = ctypes.CDLL(path)
        for name in _SETTERS:
            if hasattr(library, name):
                getattr(library, name)(ctypes.c_int(1))
                break
