"""Weights files: lies are refused, and what is true agrees with other people's code."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from soup_git.errors import FatalError
from soup_git.storage.weights import ITEM_SIZE, fingerprint, read_header

NUMPY = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1", "BOOL": "?"}  # fmt: skip


def encoded(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def claim(start: int, end: int, shape: Any = None, dtype: Any = "F32") -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": [(end - start) // 4] if shape is None else shape,
        "data_offsets": [start, end],
    }


EIGHT = b"\0" * 8
HOSTILE = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "no header": encoded(b""),
    "header cut off": encoded({"a": claim(0, 8)}, EIGHT)[:20],
    "data cut off": encoded({"a": claim(0, 8)}, EIGHT)[:-1],
    "data padded": encoded({"a": claim(0, 8)}, EIGHT + b"x"),
    "header overlaps the data": encoded({"a": claim(0, 8)}, EIGHT, length=60),
    "header longer than the file": encoded({"a": claim(0, 8)}, EIGHT, length=1 << 20),
    "huge header": encoded(b"{}", length=(1 << 63) + 5),
    "largest header": encoded(b"{}", length=(1 << 64) - 1),
    "deep JSON": encoded(b'{"a":' * 50_000),
    "deep list": encoded(b"[" * 200_000),
    "not JSON": encoded(b"{'a': 1}"),
    "not UTF-8": encoded(b'{"\xff": 1}'),
    "a list": encoded([1]),
    "a number": encoded(b"3"),
    "no tensors": encoded({}),
    "metadata only": encoded({"__metadata__": {"a": "b"}}),
    "metadata of numbers": encoded({"__metadata__": {"a": 1}, "a": claim(0, 8)}, EIGHT),
    "metadata list": encoded({"__metadata__": ["a"], "a": claim(0, 8)}, EIGHT),
    "a name twice": encoded(b'{"a":%b,"a":%b}' % ((json.dumps(claim(0, 8)).encode(),) * 2), EIGHT),
    "a key twice": encoded(b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', EIGHT),
    "a key too many": encoded({"a": {**claim(0, 8), "strides": [1]}}, EIGHT),
    "a key missing": encoded({"a": {"dtype": "F32", "shape": [2]}}, EIGHT),
    "no claim": encoded({"a": None}, EIGHT),
    "overlap": encoded({"a": claim(0, 8), "b": claim(4, 12)}, EIGHT + b"\0" * 4),
    "same bytes": encoded({"a": claim(0, 8), "b": claim(0, 8)}, EIGHT),
    "hole": encoded({"a": claim(0, 4), "b": claim(8, 12)}, b"\0" * 12),
    "hole before": encoded({"a": claim(4, 8)}, EIGHT),
    "out of range": encoded({"a": claim(0, 1 << 40)}, EIGHT),
    "offsets reversed": encoded({"a": claim(8, 0, [2])}, EIGHT),
    "offsets negative": encoded({"a": claim(-8, 0, [2])}, EIGHT),
    "offsets floats": encoded({"a": {**claim(0, 8), "data_offsets": [0.0, 8.0]}}, EIGHT),
    "offsets three": encoded({"a": {**claim(0, 8), "data_offsets": [0, 8, 8]}}, EIGHT),
    "offsets bools": encoded({"a": {"dtype": "U8", "shape": [1], "data_offsets": [False, True]}}, b"x"),
    "offsets text": encoded({"a": {**claim(0, 8), "data_offsets": "08"}}, EIGHT),
    "shape lies": encoded({"a": claim(0, 8, [3])}, EIGHT),
    "shape overflows 64 bits": encoded({"a": claim(0, 8, [1 << 61, 8, 2])}, EIGHT),
    "shape wraps to the right size": encoded({"a": claim(0, 8, [1 << 32, (1 << 32) + 2])}, EIGHT),
    "shape bools": encoded({"a": claim(0, 4, [True])}, b"\0" * 4),
    "shape floats": encoded({"a": claim(0, 8, [2.0])}, EIGHT),
    "shape negative": encoded({"a": claim(0, 8, [-1, -2])}, EIGHT),
    "shape NaN": encoded(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', EIGHT),
    "shape of a thousand axes": encoded({"a": claim(0, 4, [1] * 1000)}, b"\0" * 4),
    "shape digits": encoded(b'{"a":{"dtype":"F32","shape":[' + b"9" * 6000 + b'],"data_offsets":[0,8]}}', EIGHT),
    "dtype unknown": encoded({"a": claim(0, 8, dtype="F128")}, EIGHT),
    "dtype number": encoded({"a": claim(0, 8, dtype=4)}, EIGHT),
    "dtype list": encoded({"a": claim(0, 8, dtype=["F32"])}, EIGHT),
    "pickle": pickle.dumps({"a": [1.0] * 40}),
    **{
        f"name {name!r}": encoded({name: claim(0, 8)}, EIGHT)
        for name in ("", " ", "a b", "a\nb", "a\rb", "a\tb", "a\0b", "a\x1b[31mb", "a\u202eb", "a\u2028b", "a\u00a0b", "\ud800", "x" * 1025)
    },
}  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE.values(), ids=[name[:40] for name in HOSTILE])
def test_hostile_files(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(data)
    for read in (read_header, fingerprint):
        with pytest.raises(FatalError) as caught:
            read(path)
        said = str(caught.value)
        assert str(path) in said
        assert said.isprintable()
        assert len(said) < 600
        assert caught.value.hint


def test_a_renamed_torch_archive(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(archive.getvalue())
    with pytest.raises(FatalError, match="pickle") as caught:
        fingerprint(path)
    assert "weights_only=True" in caught.value.hint


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400))
def test_junk_is_refused_in_words(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "w"
    for data in (junk, encoded(junk), encoded({"a": claim(0, len(junk))}, junk)):
        path.write_bytes(data)
        try:
            fingerprint(path)
        except FatalError:
            continue
        assert safetensors.numpy.load(data)  # what is accepted, the reference accepts too


@pytest.mark.parametrize("length", [0x80, 0x180, 0x4B50])
def test_a_header_as_long_as_a_pickle_begins(tmp_path: Path, length: int) -> None:
    raw = json.dumps({"a": claim(0, 8)}).encode().ljust(length)
    (tmp_path / "w").write_bytes(encoded(raw, EIGHT))
    assert fingerprint(tmp_path / "w").tensors[0].name == "a"


def test_empty_tensors_are_tensors(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(
        encoded(
            {"b": claim(0, 0, [0, 4]), "a": claim(0, 8), "c": claim(8, 12, [])},
            EIGHT + b"\0\0\x80?",
        )
    )
    found = {tensor.name: tensor for tensor in fingerprint(path).tensors}
    assert found["b"].sha256 == hashlib.sha256(b"").hexdigest()
    assert [found[name].norm for name in "abc"] == [0, 0, 1]
    assert found["c"].shape == ()


# -- oracles --------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z.]{1,12}", fullmatch=True),
        st.tuples(st.sampled_from(sorted(NUMPY)), st.lists(st.integers(0, 5), max_size=3), st.integers(0, 99)),
        min_size=1, max_size=5,
    )
)  # fmt: skip
def test_digests_and_norms_are_those_of_hashlib_and_numpy(
    tmp_path: Path, wanted: dict[str, tuple[str, list[int], int]]
) -> None:
    arrays = {
        name: np.asarray(np.random.default_rng(seed).normal(size=shape) * 50, NUMPY[dtype])
        for name, (dtype, shape, seed) in wanted.items()
    }
    path = tmp_path / "w"
    safetensors.numpy.save_file(arrays, path)
    found = fingerprint(path)
    assert found.md5 == hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    assert found.size == path.stat().st_size
    assert [tensor.name for tensor in found.tensors] == sorted(arrays)
    for tensor in found.tensors:
        array = arrays[tensor.name]
        assert tensor.dtype == wanted[tensor.name][0]
        assert tensor.shape == array.shape
        assert tensor.sha256 == hashlib.sha256(array.tobytes()).hexdigest()
        norm = math.sqrt(math.fsum(float(x) ** 2 for x in array.ravel()))
        assert tensor.norm == pytest.approx(norm, rel=6e-6)
    assert [
        (e.name, e.dtype, e.shape) for e in sorted(read_header(path), key=lambda e: e.name)
    ] == [(t.name, t.dtype, t.shape) for t in found.tensors]


def test_blocks_join_without_a_seam(tmp_path: Path) -> None:
    """A tensor larger than one block, and not a multiple of one."""
    array = np.random.default_rng(0).normal(size=(1 << 18) * 2 + 12345).astype("f4")
    path = tmp_path / "w"
    safetensors.numpy.save_file({"a": array, "b": array[:3]}, path)
    seen: list[int] = []
    big, _ = fingerprint(path, progress=seen.append).tensors
    assert sum(seen) == array.nbytes + 12
    assert big.sha256 == hashlib.sha256(array.tobytes()).hexdigest()
    assert big.norm == float(f"{np.linalg.norm(array.astype('f8')):.6g}")


def test_bfloat16_agrees_with_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    saved = pytest.importorskip("safetensors.torch")
    values = torch.randn(40, 7, generator=torch.Generator().manual_seed(0))
    tensors = {"bf16": values.bfloat16(), "f16": values.half(), "f32": values, "i": torch.arange(9)}
    saved.save_file(tensors, tmp_path / "w", {"format": "pt"})
    for found in fingerprint(tmp_path / "w").tensors:
        wanted = tensors[found.name]
        assert found.norm == pytest.approx(wanted.double().norm().item(), rel=6e-6)
        raw = bytes(wanted.contiguous().view(torch.uint8).flatten().tolist())
        assert found.sha256 == hashlib.sha256(raw).hexdigest()
        assert found.dtype in ITEM_SIZE


def test_equal_weights_have_equal_lines_whoever_wrote_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    arrays = {name: rng.normal(size=(3, 5)).astype("f4") for name in ("b.lora_A", "a.lora_B", "c")}
    (tmp_path / "numpy").write_bytes(safetensors.numpy.save(arrays, {"format": "pt", "by": "me"}))
    data, header, at = b"", {}, 0
    for name in ("c", "b.lora_A", "a.lora_B"):  # another order, another spacing, no metadata
        header[name] = claim(at, at + 60, [3, 5])
        data, at = data + arrays[name].tobytes(), at + 60
    (tmp_path / "own").write_bytes(encoded(json.dumps(header, indent=3).encode(), data))
    one, other = fingerprint(tmp_path / "numpy"), fingerprint(tmp_path / "own")
    assert [t.line() for t in one.tensors] == [t.line() for t in other.tensors]
    assert one.md5 != other.md5


def test_health(tmp_path: Path) -> None:
    path = tmp_path / "w"
    for value, finite, zero in (
        (0.0, True, True),
        (1.0, True, False),
        (np.nan, False, False),
        (-np.inf, False, False),
    ):
        safetensors.numpy.save_file({"a": np.array([0, value], "f4"), "b": np.zeros(2, "f2")}, path)
        found = fingerprint(path)
        assert (found.is_finite, found.is_zero) == (finite, zero)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "w"
    safetensors.numpy.save_file({"a": np.ones(3 << 18, "f4")}, path)
    calls: list[int] = []

    def shrink(n: int) -> None:
        if not calls:
            os.truncate(path, 200)
        calls.append(n)

    with pytest.raises(FatalError, match="became shorter"):
        fingerprint(path, progress=shrink)


MEASURE = """
import resource, sys
from pathlib import Path
from soup_git.storage.weights import fingerprint
small, large = map(Path, sys.argv[1:])
fingerprint(small)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
fingerprint(large)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_is_one_block_whatever_the_size(tmp_path: Path) -> None:
    for name, count in (("small", 1 << 19), ("large", 1 << 24)):
        safetensors.numpy.save_file({"a": np.ones(count, "f4")}, tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "small"), str(tmp_path / "large")],
        check=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 16 << 20  # of a file of 64 MiB
