"""Adapter arithmetic: pure functions on matrices, numpy only; nothing here opens a file.

An adapter's update of one module is ΔW = s·B·A. Everything is computed from the factors;
a dense ΔW is formed only where a method is defined on its entries (`dense.py`).

This import is where numpy's BLAS gets one thread: on r×r products a second one waits for
the first, and the same merge took up to eight times the CPU. Parallelism is over modules.
The variable is read when numpy loads and put back, so that child processes keep theirs.
"""

from __future__ import annotations

import os

_BLAS_THREADS = "OPENBLAS_NUM_THREADS"
_given = os.environ.get(_BLAS_THREADS)
os.environ.setdefault(_BLAS_THREADS, "1")

import numpy as np  # noqa: E402, F401 - after the variable, or it would not be seen

if _given is None:
    del os.environ[_BLAS_THREADS]
