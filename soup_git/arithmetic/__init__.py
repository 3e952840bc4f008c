"""Adapter arithmetic: pure functions on matrices, numpy only; nothing here opens a file.

An adapter's update of one module is ΔW = s·B·A. Everything is computed from the factors;
a dense ΔW is formed only where a method is defined on its entries.

This import is where numpy's BLAS gets one thread, and parallelism is over modules instead:
on matrices of 48 columns a second BLAS thread waits for the first, and with two workers the
same merge took 25 times the CPU. OpenBLAS reads the variable when numpy loads; it is put
back, so that child processes keep theirs. `storage.blas` is for processes that had numpy
loaded before.
"""

from __future__ import annotations

import os

_VARIABLE = "OPENBLAS_NUM_THREADS"
_given = os.environ.get(_VARIABLE)
os.environ.setdefault(_VARIABLE, "1")

import numpy as np  # noqa: E402, F401 - after the variable, or it would not be seen

if _given is None:
    del os.environ[_VARIABLE]
