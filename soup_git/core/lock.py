"""`soup.lock`: the pins that make a run reproducible, and how two of them compare.

The first seven keys are the original tool's; its files are read, and it reads ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from soup_git.core.digests import MD5_HEX, SHA256_HEX, closure_sha, folder_sha256, sha256_hex
from soup_git.core.text import canonical_json, with_odd_bytes
from soup_git.errors import FatalError

LOCK = "soup.lock"
MAX_LOCK_BYTES = 1 << 20
PINS = ("base_model", "dataset", "env", "config")
"""The pins in the order every output names them; the closure holds the first three."""

_TEXT_LIMITS = {"soup_version": 64, "base_model": 512, "created_at": 64}
_DIGEST_KEYS = ("base_model_sha", "dataset_sha", "env_hash", "config_sha")


@dataclass(frozen=True)
class Lock:
    """The content of a lock file. A digest that could not be known is None."""

    soup_version: str
    created_at: str
    base_model: str | None = None
    base_model_sha: str | None = None
    dataset_sha: str | None = None
    env_hash: str | None = None
    config_sha: str | None = None
    dataset_md5: str | None = None
    config_path: str | None = None
    dataset_path: str | None = None
    seed: int | None = None
    adapters: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, Any] | None = None
    inputs: Mapping[str, str | None] = field(default_factory=dict)
    """Path -> sha256 of what the config names beside base and dataset; part of the pin `config`."""

    @property
    def closure_sha(self) -> str | None:
        if self.base_model_sha and self.dataset_sha and self.env_hash:
            return closure_sha(self.base_model_sha, self.dataset_sha, self.env_hash)
        return None

    @property
    def run(self) -> str | None:
        """The name of the run this lock describes: `refs/soup/locks/RUN`."""
        if not (self.closure_sha and self.config_sha):
            return None
        known = [(path, sha) for path, sha in self.inputs.items() if sha is not None]
        if len(known) < len(self.inputs):
            return None
        inputs = folder_sha256(known) if known else ""
        return sha256_hex((self.closure_sha + self.config_sha + inputs).encode("ascii"))

    def pin(self, name: str) -> str | None:
        return {
            "base_model": self.base_model_sha,
            "dataset": self.dataset_sha,
            "env": self.env_hash,
            "config": self.config_sha,
        }[name]

    def text(self) -> str:
        fields = {**self.__dict__, "adapters": dict(self.adapters), "closure_sha": self.closure_sha}
        fields["env"] = dict(self.env) if self.env is not None else None
        # Absent where there is none, so that locks of before stay the bytes they are.
        del fields["inputs"]
        if self.inputs:
            fields["inputs"] = dict(self.inputs)
        text = json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False)
        return with_odd_bytes(text) + "\n"

    def same_but_when(self, other: Lock) -> bool:
        """Equal in everything but the time and the version that wrote it."""
        return replace(self, created_at=other.created_at, soup_version=other.soup_version) == other


def parse_lock(data: bytes, where: str) -> Lock:
    """Read and validate a lock; raises `FatalError` when it contradicts itself."""
    raw = _parse_json(data, where)
    for key, limit in _TEXT_LIMITS.items():
        value = raw.get(key)
        if key == "base_model" and value is None:
            continue
        if not isinstance(value, str) or not value or len(value) > limit or "\0" in value:
            raise _bad(where, f"{key} is not a text of 1 to {limit} characters")
    for key in (*_DIGEST_KEYS, "closure_sha"):
        value = raw.get(key)
        if value is not None and not (isinstance(value, str) and SHA256_HEX.fullmatch(value)):
            raise _bad(where, f"{key} is not a sha256")
    md5 = raw.get("dataset_md5")
    if md5 is not None and not (isinstance(md5, str) and MD5_HEX.fullmatch(md5)):
        raise _bad(where, "dataset_md5 is not an md5")
    lock = Lock(
        **{key: raw[key] for key in (*_TEXT_LIMITS, *_DIGEST_KEYS) if key in raw},
        dataset_md5=md5,
        config_path=_path(raw, "config_path", where),
        dataset_path=_path(raw, "dataset_path", where),
        seed=_seed(raw, where),
        adapters=_adapters(raw, where),
        env=_env(raw, where),
        inputs=_inputs(raw, where),
    )
    written = raw.get("closure_sha")
    if written != lock.closure_sha:
        raise _bad(
            where,
            f"closure_sha is {written}, but its pins give {lock.closure_sha}: a pin or the closure was edited",
        )
    return lock


def _parse_json(data: bytes, where: str) -> dict[str, Any]:
    if len(data) > MAX_LOCK_BYTES:
        raise _bad(where, f"it is {len(data):,} bytes, more than 1 MiB")
    if re.search(rb"^(<<<<<<<|>>>>>>>) ", data, re.MULTILINE):
        raise FatalError(
            f"{where} still has git's conflict markers in it",
            hint="git soup lock write computes it anew from the work tree",
        )
    try:
        raw = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
        # A lock is written back and digests are taken over parts of it: what JSON can hold
        # and text cannot (half a surrogate pair, depth) is refused here, once.
        canonical_json(raw).encode()
    except (ValueError, RecursionError) as error:
        raise _bad(where, f"it is not JSON ({error})") from None
    if not isinstance(raw, dict):
        raise _bad(where, "it is no JSON object")
    return raw


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A key that is there twice is what a merge by text leaves; the last would win unseen."""
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("a key is there twice")
    return keys


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _path(raw: dict[str, Any], key: str, where: str) -> str | None:
    value = raw.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not is_repository_path(value):
        raise _bad(where, f"{key} is not a path inside the repository")
    return value


def is_repository_path(path: str) -> bool:
    return (
        bool(path)
        and path.isprintable()
        and not any(part in {"", ".", "..", ".git"} for part in path.split("/"))
    )


def _seed(raw: dict[str, Any], where: str) -> int | None:
    seed = raw.get("seed")
    if seed is not None and type(seed) is not int:
        raise _bad(where, "seed is not a whole number")
    return seed


def _adapters(raw: dict[str, Any], where: str) -> dict[str, str]:
    adapters = raw.get("adapters")
    if adapters is None:
        return {}
    if not isinstance(adapters, dict) or not all(
        isinstance(md5, str) and MD5_HEX.fullmatch(md5) and is_repository_path(path)
        for path, md5 in adapters.items()
    ):
        raise _bad(where, "adapters does not map paths to md5s")
    return adapters


def _inputs(raw: dict[str, Any], where: str) -> dict[str, str | None]:
    inputs = raw.get("inputs")
    if inputs is None:
        return {}
    if not isinstance(inputs, dict) or not all(
        is_repository_path(path)
        and (sha is None or (isinstance(sha, str) and SHA256_HEX.fullmatch(sha)))
        for path, sha in inputs.items()
    ):
        raise _bad(where, "inputs does not map paths to sha256s")
    return inputs


def _env(raw: dict[str, Any], where: str) -> dict[str, Any] | None:
    env = raw.get("env")
    if env is None:
        return None
    if not isinstance(env, dict):
        raise _bad(where, "env is no JSON object")
    if sha256_hex(canonical_json(env).encode()) != raw.get("env_hash"):
        raise _bad(where, "env_hash is not the digest of env: one of them was edited")
    return env


def now(clock: datetime) -> str:
    """A time as the original tool writes `created_at`: ISO 8601 in UTC with an offset."""
    return clock.isoformat()


def _bad(where: str, what: str) -> FatalError:
    return FatalError(
        f"{where} is not a valid lock: {what}",
        hint=f"git checkout -- {where}, or git soup lock write to compute it anew",
    )
