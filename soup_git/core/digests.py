"""Digests, tagged with their algorithm in text: `sha256:…`, DVC's `md5:…`.

The tag is part of the value because two algorithms live side by side here: DVC
addresses objects by md5, everything that is ours is sha256.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

SHA256_HEX = re.compile(r"[0-9a-f]{64}")
MD5_HEX = re.compile(r"[0-9a-f]{32}(\.dir)?")


def sha256_hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def md5_hex(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def folder_sha256(files: Iterable[tuple[str, str]]) -> str:
    """Digest of a folder: sha256 of its sorted `sha256  path` lines, as `sha256sum` prints.

    `files` holds (path relative to the folder with `/`, sha256 hex) pairs.
    """
    lines = sorted(f"{digest}  {path}\n" for path, digest in files)
    # A name may be bytes that are no text.
    return sha256_hex("".join(lines).encode(errors="surrogateescape"))


def closure_sha(base_model_sha: str, dataset_sha: str, env_hash: str) -> str:
    """sha256 of the ASCII concatenation of the three hex digests, as the original tool."""
    return sha256_hex((base_model_sha + dataset_sha + env_hash).encode("ascii"))
