"""safetensors files, read without trusting them and without loading them.

The format (huggingface.co/docs/safetensors): eight bytes of header length, a JSON header
of name -> dtype, shape, data_offsets, then the bytes. Pickle formats are never opened.
`safetensors` itself gives numpy no bfloat16 and no raw bytes, so the header is read here;
what is accepted is what the reference implementation accepts, or less.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from soup_git.core.foreignbytes import HEAD_BYTES, recognised
from soup_git.core.manifest import Tensor
from soup_git.core.rewrites import from_pickle, widened
from soup_git.errors import FatalError
from soup_git.storage.filenames import from_top, typed

if TYPE_CHECKING:
    import numpy as np

# bytes of one element; a dtype that is not here is refused by name
ITEM_SIZE = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
MAX_HEADER_BYTES = 100_000_000  # the reference implementation's bound
MAX_NAME_LENGTH = 1024
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Entry:
    """Where a tensor's bytes lie: `start` and `end` are offsets in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Fingerprint:
    """What one pass over a weights file finds."""

    md5: str
    size: int
    tensors: tuple[Tensor, ...]

    @property
    def is_finite(self) -> bool:
        return all(math.isfinite(tensor.norm) for tensor in self.tensors)

    @property
    def is_zero(self) -> bool:
        return all(tensor.norm == 0 for tensor in self.tensors)


def read_header(
    path: Path, shown: str | None = None, *, any_dtype: bool = False
) -> tuple[Entry, ...]:
    """The tensors of a safetensors file in the order of their bytes, every claim checked.

    `any_dtype` takes those whose numbers are not read here, as base models have them (F8_E4M3, F4).
    """
    with path.open("rb") as file:
        return _read_header(file, path, shown or str(path), any_dtype=any_dtype)[0]


def _read_header(
    file: BinaryIO, path: Path, where: str, *, any_dtype: bool = False
) -> tuple[tuple[Entry, ...], bytes]:
    size = path.stat().st_size
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > MAX_HEADER_BYTES or 8 + length > size:
        # Only here: a true header of 128 bytes begins with the byte of a pickle too.
        foreign = recognised(
            prefix + file.read(HEAD_BYTES - 8), size, typed(path), from_top(path), _convert(path)
        )
        if foreign is not None:
            raise FatalError(f"{where} {foreign.what}", hint=foreign.hint)
        if len(prefix) < 8:
            raise _bad(where, f"is cut off: {size} bytes hold no header")
        if length > MAX_HEADER_BYTES:
            raise _bad(where, "is no safetensors file: it does not begin as one")
        raise _cut(where, f"its header alone has {length:,} bytes, the file has {size:,}")
    raw = file.read(length)
    if len(raw) < length:
        raise _cut(where, "it became shorter in its header")
    found = _entries(_parse(raw, where), path, where, 8 + length, any_dtype=any_dtype)
    entries = sorted(found, key=lambda e: (e.start, e.end))
    at = 8 + length
    for entry in entries:
        if entry.start != at:
            what = "overlaps" if entry.start < at else "leaves a hole before"
            raise _bad(where, f"lies: {entry.name} {what} its neighbour")
        at = entry.end
    if at > size:
        raise _cut(where, f"its header tells of {at:,} bytes, the file has {size:,}")
    if at < size:
        raise _bad(where, f"has {size - at:,} bytes behind its tensors, which end at byte {at:,}")
    return tuple(entries), prefix + raw


def _parse(raw: bytes, where: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = dict(pairs)
        if len(keys) != len(pairs):
            raise _bad(where, "names something twice in its header")
        return keys

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _bad(where, f"has a header that is not JSON ({type(error).__name__})") from None
    if not isinstance(header, dict):
        raise _bad(where, "has a header that is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _bad(where, "has metadata that is not text")
    if not header:
        raise _bad(where, "holds no tensor")
    return header


def _entries(
    header: dict[str, Any], path: Path, where: str, base: int, *, any_dtype: bool
) -> Iterator[Entry]:
    for name, claim in header.items():
        if not name or len(name) > MAX_NAME_LENGTH or not name.isprintable() or " " in name:
            raise _bad(
                where, f"has a tensor name that is empty, too long or not one word: {name[:80]!r}"
            )
        if not isinstance(claim, dict) or set(claim) != {"dtype", "shape", "data_offsets"}:
            raise _bad(where, f"describes {name} with other keys than dtype, shape, data_offsets")
        dtype, shape, offsets = claim["dtype"], claim["shape"], claim["data_offsets"]
        is_known = isinstance(dtype, str) and (dtype in ITEM_SIZE or any_dtype)
        if not is_known and str(dtype).startswith(("F8", "F6", "F4")):
            raise FatalError(
                f"{where} holds {name} as {dtype}, eight bits or fewer a number; PEFT trains and"
                f" loads {', '.join(d for d in ITEM_SIZE if 'F' in d)}",
                hint=f"write them in bfloat16: {widened(typed(path))}",
            )
        if not is_known:
            raise _bad(where, f"has dtype {dtype!r} in {name}; {', '.join(ITEM_SIZE)} are read")
        if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
            raise _bad(where, f"lies about the shape or the offsets of {name}")
        start, end = offsets
        wanted = math.prod(shape) * ITEM_SIZE[dtype] if dtype in ITEM_SIZE else end - start
        if end < start or end - start != wanted:
            raise _bad(
                where,
                f"lies about {name}: {end - start:,} bytes for {dtype} {'x'.join(map(str, shape))}",
            )
        yield Entry(name, dtype, tuple(shape), base + start, base + end)


def _sizes(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 16
        and all(type(n) is int and 0 <= n < 1 << 62 for n in value)
    )


def fingerprint(
    path: Path, *, shown: str | None = None, progress: Callable[[int], None] | None = None
) -> Fingerprint:
    """md5 of the file, sha256 and norm of each tensor, in one pass over the bytes.

    Memory is one block's, whatever the adapter's size. The md5 runs in a second thread
    (hashlib releases the GIL), so the pass costs the time of the slower digest.

    Raises `FatalError` when the file is not a well-formed safetensors file.
    """
    from concurrent.futures import ThreadPoolExecutor  # late: 5 ms that a header does not need

    where = shown or str(path)
    size = path.stat().st_size
    with path.open("rb") as file, ThreadPoolExecutor(1) as second:
        entries, head = _read_header(file, path, where)
        md5 = hashlib.md5(head, usedforsecurity=False)
        pending = second.submit(lambda: None)
        tensors = []
        for entry in entries:
            sha256 = hashlib.sha256()
            total = 0.0
            left = entry.end - entry.start
            while left:
                block = file.read(min(_BLOCK, left))
                if not block:
                    raise _bad(where, "became shorter while it was read")
                pending.result()
                pending = second.submit(md5.update, block)
                sha256.update(block)
                total += sum_of_squares(block, entry.dtype)
                left -= len(block)
                if progress:
                    progress(len(block))
            tensors.append(
                Tensor(
                    entry.name, entry.dtype, entry.shape, sha256.hexdigest(),
                    float(f"{math.sqrt(total):.6g}"),
                )
            )  # fmt: skip
        pending.result()
    return Fingerprint(md5.hexdigest(), size, tuple(sorted(tensors, key=lambda t: t.name)))


def sum_of_squares(block: bytes, dtype: str) -> float:
    """Σx² of little-endian `block`, accumulated in float64."""
    import soup_git.arithmetic  # noqa: F401 - one BLAS thread, before numpy loads: 8 times less CPU
    import numpy as np  # isort: skip

    with np.errstate(over="ignore", invalid="ignore"):
        values = as_float64(np.frombuffer(block, _numpy_name(dtype)), dtype)
        return float(np.dot(values, values))


def _numpy_name(dtype: str) -> str:
    size = ITEM_SIZE[dtype]
    return {"F": f"<f{size}", "I": f"<i{size}", "U": f"<u{size}", "B": "<u2" if size > 1 else "u1"}[
        dtype[0]
    ]


def as_float64(raw: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    """float64 values of a raw array; BF16 arrives as uint16, whose bits are a float32's upper half."""
    import numpy as np

    if dtype == "BF16":
        raw = (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return raw.astype(np.float64)


def _convert(path: Path) -> str:
    file = typed(path)
    return f"convert it where you trust it: {from_pickle(file, file)}"


def _cut(where: str, what: str) -> FatalError:
    return FatalError(
        f"{where} is cut off: {what}",
        hint="a download or copy that broke off: get the file again, from where it came",
    )


def _bad(where: str, what: str) -> FatalError:
    return FatalError(
        f"{where} {what}",
        hint="copy or save it again: model.save_pretrained(DIR, safe_serialization=True) in PEFT",
    )
