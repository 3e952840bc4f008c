"""soup.lock: round trip, the original tool's files, and every way to contradict oneself."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import asdict, dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soup_git.core.digests import closure_sha, folder_sha256
from soup_git.core.lock import PINS, Lock, parse_lock
from soup_git.core.text import canonical_json
from soup_git.errors import FatalError

SHA = st.text("0123456789abcdef", min_size=64, max_size=64)
MD5 = st.text("0123456789abcdef", min_size=32, max_size=32)
TEXT = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=40)
PATH = st.from_regex(r"[a-z][a-z0-9_.]{0,8}(/[a-z][a-z0-9_.]{0,8}){0,2}", fullmatch=True)
ENV = st.dictionaries(TEXT, st.one_of(TEXT, st.lists(TEXT, max_size=3), st.none()), max_size=3)


@st.composite
def locks(draw: st.DrawFn) -> Lock:
    env = draw(st.none() | ENV)
    digest = hashlib.sha256(canonical_json(env).encode()).hexdigest()
    return Lock(
        soup_version=draw(TEXT),
        created_at=draw(st.datetimes()).isoformat(),
        base_model=draw(st.none() | TEXT),
        base_model_sha=draw(st.none() | SHA),
        dataset_sha=draw(st.none() | SHA),
        env_hash=draw(st.none() | SHA) if env is None else digest,
        config_sha=draw(st.none() | SHA),
        dataset_md5=draw(st.none() | MD5 | MD5.map(lambda m: m + ".dir")),
        config_path=draw(st.none() | PATH),
        dataset_path=draw(st.none() | PATH),
        seed=draw(st.none() | st.integers()),
        adapters=draw(st.dictionaries(PATH, MD5, max_size=3)),
        env=env,
    )


@given(locks())
def test_what_is_written_is_read_back(lock: Lock) -> None:
    text = lock.text()
    assert parse_lock(text.encode(), "soup.lock") == lock
    assert parse_lock(text.encode(), "soup.lock").text() == text
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


@given(locks())
def test_closure_and_run_are_sha256_of_concatenated_hex(lock: Lock) -> None:
    pins = [lock.base_model_sha, lock.dataset_sha, lock.env_hash]
    if None in pins:
        assert lock.closure_sha is None
        assert lock.run is None
        return
    closure = hashlib.sha256("".join(map(str, pins)).encode("ascii")).hexdigest()
    assert lock.closure_sha == closure
    if lock.config_sha:
        assert lock.run == hashlib.sha256((closure + lock.config_sha).encode("ascii")).hexdigest()


def test_closure_is_what_printf_and_sha256sum_print() -> None:
    command = f"printf %s {'a' * 64}{'b' * 64}{'c' * 64} | sha256sum"
    printed = subprocess.run(
        ["sh", "-c", command], check=True, capture_output=True, text=True
    ).stdout
    assert printed.split()[0] == closure_sha("a" * 64, "b" * 64, "c" * 64)


def test_folder_digest_is_what_sha256sum_prints() -> None:
    files = [("b/x", "2" * 64), ("a", "1" * 64)]
    lines = "".join(sorted(f"{digest}  {path}\n" for path, digest in files))
    assert folder_sha256(files) == hashlib.sha256(lines.encode()).hexdigest()


# -- the original tool ----------------------------------------------------------------------


@dataclass
class Original:
    """The fields that the original tool's lock has, in its own order."""

    soup_version: str
    base_model: str
    base_model_sha: str
    dataset_sha: str
    env_hash: str
    closure_sha: str
    created_at: str


def original() -> dict[str, Any]:
    return asdict(
        Original(
            "0.77.0", "meta-llama/Llama-3.1-8B", "a" * 64, "b" * 64, "c" * 64,
            closure_sha("a" * 64, "b" * 64, "c" * 64), "2026-11-20T10:00:00.123456+00:00",
        )
    )  # fmt: skip


def written(raw: dict[str, Any]) -> bytes:
    return json.dumps(raw, indent=2, sort_keys=True).encode()


def test_a_lock_of_the_original_tool_is_read() -> None:
    lock = parse_lock(written(original()), "soup.lock")
    assert [lock.pin(name) for name in PINS] == ["a" * 64, "b" * 64, "c" * 64, None]
    assert {**json.loads(lock.text()), **original()} == json.loads(lock.text())
    assert lock.adapters == {}


def test_same_but_when() -> None:
    one = parse_lock(written(original()), "soup.lock")
    later = parse_lock(written({**original(), "created_at": "later", "soup_version": "1"}), "l")
    other = parse_lock(written({**original(), "config_sha": "d" * 64}), "l")
    assert one.same_but_when(later)
    assert not one.same_but_when(other)


# -- hostile --------------------------------------------------------------------------------

BAD_VALUES: list[tuple[str, Any]] = [
    ("closure_sha", "d" * 64),
    ("closure_sha", None),
    ("closure_sha", "A" * 64),
    ("base_model_sha", "d" * 64),
    ("base_model_sha", "a" * 63),
    ("base_model_sha", "a" * 64 + "\n"),
    ("base_model_sha", 3),
    ("base_model", ""),
    ("base_model", ["x"]),
    ("base_model", "x" * 513),
    ("base_model", "a\0b"),
    ("base_model", "\ud800"),
    ("soup_version", None),
    ("soup_version", 1),
    ("created_at", 1.5),
    ("config_sha", "sha256:" + "d" * 64),
    ("dataset_md5", "z" * 32),
    ("config_path", "../soup.yaml"),
    ("config_path", "/etc/passwd"),
    ("config_path", ".git/config"),
    ("config_path", "a\nb"),
    ("config_path", 3),
    ("dataset_path", "a//b"),
    ("seed", True),
    ("seed", 1.0),
    ("seed", "1"),
    ("adapters", []),
    ("adapters", 0),
    ("adapters", {"../x": "a" * 32}),
    ("adapters", {"x": "a" * 31}),
    ("adapters", {"x": None}),
    ("env", []),
    ("env", {"python": "3.11"}),
    ("env", {"a": "\ud800"}),
]


@pytest.mark.parametrize(("key", "value"), BAD_VALUES)
def test_a_lock_that_contradicts_itself(key: str, value: Any) -> None:
    with pytest.raises(FatalError, match="not a valid lock") as caught:
        parse_lock(written({**original(), key: value}), "soup.lock")
    assert "git soup lock write" in caught.value.hint


def test_env_is_what_env_hash_says() -> None:
    env = {"python": "3.11", "packages": ["torch==2.13.0"]}
    digest = hashlib.sha256(canonical_json(env).encode()).hexdigest()
    raw = {**original(), "env": env, "env_hash": digest}
    raw["closure_sha"] = closure_sha(raw["base_model_sha"], raw["dataset_sha"], digest)
    assert parse_lock(written(raw), "l").env == env
    with pytest.raises(FatalError, match="env_hash is not the digest of env"):
        parse_lock(written({**raw, "env": {**env, "python": "3.12"}}), "l")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"null", b"{", b"\xff{}", b"[" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b" " * ((1 << 20) + 1),
        written(original())[:-1] + b', "env": {"x": NaN}}',
        written(original())[:-1] + b', "seed": Infinity}',
        written(original())[:-1] + b', "seed": ' + b"9" * 5000 + b"}",
        written(original())[:-1] + b', "base_model": "other"}',
        written(original()).decode().encode("utf-16"),
    ],
    ids=lambda data: repr(data[:8]),
)  # fmt: skip
def test_no_lock_at_all(data: bytes) -> None:
    with pytest.raises(FatalError, match="not a valid lock"):
        parse_lock(data, "soup.lock")


def test_conflict_markers_are_named() -> None:
    text = "{\n<<<<<<< HEAD\n}\n=======\n>>>>>>> topic\n"
    with pytest.raises(FatalError, match="conflict markers"):
        parse_lock(text.encode(), "soup.lock")


@given(st.binary(max_size=200))
def test_junk_is_refused_in_words(junk: bytes) -> None:
    with pytest.raises(FatalError):
        parse_lock(junk, "soup.lock")
