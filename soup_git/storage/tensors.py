"""Tensors of a safetensors file from a memory map, and a file written tensor by tensor.

Reading copies nothing: a tensor is a view of the map. Writing lays the file out first, so
that modules may be computed in any order, by several threads, and none waits in memory.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from soup_git.arithmetic.floats import STORAGE, Array, Stored
from soup_git.core.tensornames import canonical
from soup_git.errors import FatalError
from soup_git.storage.weights import ITEM_SIZE, Entry, read_header


class TensorFile:
    """A safetensors file, mapped read-only."""

    def __init__(self, path: Path, shown: str | None = None, *, any_dtype: bool = False) -> None:
        """`any_dtype` as in `read_header`: only what is read has to be of one that is read here."""
        self.shown = shown or str(path)
        entries = read_header(path, shown, any_dtype=any_dtype)
        self.entries: Mapping[str, Entry] = {canonical(e.name): e for e in entries}
        """By canonical name."""
        if len(self.entries) < len(entries):
            raise FatalError(
                f"{self.shown} holds a tensor twice, with and without the adapter's name"
                " (.default) in its name",
                hint="save the adapter again with PEFT's model.save_pretrained(DIR)",
            )
        with path.open("rb") as file:
            # Not populated: that costs the same, but before the workers can share it.
            self._map = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)

    def __getitem__(self, name: str) -> Stored:
        entry = self._entry(name)
        if entry.dtype not in STORAGE:
            raise FatalError(
                f"{self.shown}: {name} is {entry.dtype}; arithmetic needs {', '.join(STORAGE)}",
                hint="write that file again with floating-point weights (bfloat16)",
            )
        return Stored(self._array(entry, STORAGE[entry.dtype]), entry.dtype)

    def _entry(self, name: str) -> Entry:
        return self.entries.get(name) or self.entries[canonical(name)]

    def raw(self, name: str) -> Array:
        """The bytes of a tensor, whatever its dtype."""
        entry = self._entry(name)
        return np.frombuffer(self._map, np.uint8, entry.end - entry.start, entry.start)

    def values(self, name: str) -> Stored:
        """A tensor of any dtype; integers arrive as float64."""
        entry = self._entry(name)
        if entry.dtype in STORAGE:
            return self[name]
        kind = "u" if entry.dtype == "BOOL" else entry.dtype[0].lower()
        dtype = np.dtype(f"<{kind}{ITEM_SIZE[entry.dtype]}")
        return Stored(self._array(entry, dtype).astype(np.float64), "F64")

    def _array(self, entry: Entry, dtype: np.dtype[Any]) -> Array:
        flat = np.frombuffer(self._map, dtype, prod(entry.shape), entry.start)
        return flat.reshape(entry.shape)


@dataclass(frozen=True)
class Slot:
    """A tensor to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape) * ITEM_SIZE[self.dtype]


class TensorWriter:
    """A safetensors file of known layout, filled in any order; closed by its `with` block.

    Raises `FatalError` at the end when a tensor was not written whole: a half adapter is
    never left behind as one that looks complete.
    """

    def __init__(self, path: Path, slots: Sequence[Slot]) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        self._slots = {slot.name: slot for slot in slots}
        self._left = {slot.name: slot.size for slot in slots}
        self._at: dict[str, int] = {}
        at = 0
        for slot in slots:
            self._at[slot.name] = at
            offsets = [at, at + slot.size]
            header[slot.name] = {"dtype": slot.dtype, "shape": slot.shape, "data_offsets": offsets}
            at += slot.size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._base = 8 + len(text)
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        self._write(len(text).to_bytes(8, "little") + text, 0)

    def put(self, name: str, bits: Array, start: int = 0) -> None:
        """Write `bits`, already in the slot's storage dtype, `start` elements into `name`."""
        slot = self._slots[name]
        data = np.ascontiguousarray(bits).data.cast("B")
        offset = start * ITEM_SIZE[slot.dtype]
        if offset + len(data) > slot.size:
            raise ValueError(f"{name} holds {slot.size} bytes, not {offset + len(data)}")
        self._write(data, self._base + self._at[name] + offset)
        self._left[name] -= len(data)

    def _write(self, data: bytes | memoryview, at: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file, view, at)
            view, at = view[written:], at + written

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)
        missing = [name for name, left in self._left.items() if left]
        if kind is None and missing:
            raise ValueError(f"{self._path}: {missing[0]} was not written")
