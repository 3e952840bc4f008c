"""The environment behind `env_hash`: what of this Python decides the bytes of a training.

Read from installed metadata alone, so that a hook can ask without importing anything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from soup_git.core.digests import sha256_hex
from soup_git.core.text import canonical_json
from soup_git.storage.facts import Facts

DISTRIBUTION = "git-soup"
TRAIN_EXTRA = "train"


def environment(facts: Facts) -> dict[str, Any]:
    """`python`, `platform`, `accelerator` and `packages` (sorted `name==version`).

    The packages are the dependency closure of the `train` extra as it is installed here;
    git-soup itself is not among them, nor is anything training does not import.
    """
    import json

    key = f"env:{_fingerprint_of_path()}"
    known = facts.get(key)
    if known is not None:
        found: dict[str, Any] = json.loads(known)
        return found
    system = os.uname()
    packages = dict(_train_closure())
    env = {
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "platform": f"{system.sysname}-{system.machine}",
        "accelerator": _accelerator(packages),
        "packages": [f"{name}=={version}" for name, version in sorted(packages.items())],
    }
    facts.put(key, canonical_json(env))
    return env


def env_hash(env: dict[str, Any]) -> str:
    return sha256_hex(canonical_json(env).encode())


def can_train() -> bool:
    """Whether every requirement of the `train` extra is installed."""
    from importlib import metadata

    try:
        return all(metadata.version(name) for name, _ in _train_roots())
    except metadata.PackageNotFoundError:
        return False


def installed_accelerator() -> str:
    """As `environment` names it, of the packages that are here now."""
    return _accelerator(dict(_train_closure()))


def _fingerprint_of_path() -> str:
    """Changes whenever something is installed into, or removed from, this Python."""
    places = [sys.prefix, sys.version]
    for entry in sys.path:
        try:
            places.append(f"{entry}={Path(entry).stat().st_mtime_ns}")
        except OSError:
            continue
    return sha256_hex("\n".join(places).encode())


def _train_roots() -> list[tuple[str, frozenset[str]]]:
    """(name, extras) of each requirement of the extra."""
    from importlib import metadata

    from packaging.requirements import Requirement

    try:
        declared = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    parsed = [Requirement(line) for line in declared]
    return [
        (req.name, frozenset(req.extras))
        for req in parsed
        if req.marker is not None
        and req.marker.evaluate({"extra": TRAIN_EXTRA})
        and not req.marker.evaluate({"extra": ""})
    ]


def _train_closure() -> Iterator[tuple[str, str]]:
    from importlib import metadata

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    waiting = _train_roots()
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        name = canonicalize_name(name)
        if (name, extras) in seen or name == DISTRIBUTION:
            continue
        seen.add((name, extras))
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        yield name, found.version
        for line in found.requires or []:
            requirement = Requirement(line)
            wanted = requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in (*extras, "")
            )
            if wanted:
                waiting.append((requirement.name, frozenset(requirement.extras)))


def _accelerator(packages: dict[str, str]) -> str:
    """The runtime that torch was built for: `cpu`, `cu130`, `rocm6.4`, `mps`, or `none`."""
    torch = packages.get("torch")
    if torch is None:
        return "none"
    if "+" in torch:
        return torch.partition("+")[2]
    if sys.platform == "darwin":
        return "mps"
    runtime = [v for n, v in packages.items() if n.startswith("nvidia-cuda-runtime")]
    return f"cuda-{runtime[0]}" if runtime else "cpu"
