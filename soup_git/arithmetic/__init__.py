"""Adapter arithmetic: pure functions on matrices, numpy only; nothing here opens an adapter.

An adapter's update of one module is ΔW = s·B·A. Everything is computed from the factors;
a dense ΔW is formed only where a method is defined on its entries.

This import is where numpy's BLAS gets one thread, and parallelism is over modules instead:
on matrices of 48 columns a second BLAS thread waits for the first, and with two workers the
same merge took 25 times the CPU. OpenBLAS reads the variable when numpy loads; it is put
back, so that child processes keep theirs. Where somebody loaded numpy before, the library is
told directly.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_VARIABLE = "OPENBLAS_NUM_THREADS"
_SETTERS = (
    "scipy_openblas_set_num_threads64_",
    "openblas_set_num_threads64_",
    "openblas_set_num_threads",
)


def _limit_loaded_blas() -> None:
    """Set one thread in every OpenBLAS of this process; where /proc is missing, do nothing."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        return
    lines = maps.read_text("utf-8", "replace").splitlines()
    for path in {line.split(maxsplit=5)[5] for line in lines if "openblas" in line}:
        library = ctypes.CDLL(path)
        for name in _SETTERS:
            if hasattr(library, name):
                getattr(library, name)(ctypes.c_int(1))
                break


_loaded, _given = "numpy" in sys.modules, os.environ.get(_VARIABLE)
os.environ.setdefault(_VARIABLE, "1")

import numpy as np  # noqa: E402, F401 - after the variable, or it would not be seen

if _given is None:
    del os.environ[_VARIABLE]
    if _loaded:
        _limit_loaded_blas()
