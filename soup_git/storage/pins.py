"""The world that pins are compared with: digests of the config, data, base and environment.

`Pin.digest` None means that it cannot be known here (a hub model with no network, a
dataset whose bytes are elsewhere), which is never the same as drift.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from soup_git.core.digests import folder_sha256, sha256_hex
from soup_git.core.lock import is_repository_path
from soup_git.errors import FatalError
from soup_git.storage.files import inside
from soup_git.storage.snapshot import Snapshot
from soup_git.storage.workspace import DataDigests, Workspace

_BASE_SUFFIXES = (".safetensors", ".bin", ".json", ".model", ".txt", ".jinja", ".tiktoken")
_HUB_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Pin:
    """One input as it is now: its digest (sha256 hex), and the file or id that gives it."""

    digest: str | None
    source: str | None = None
    why: str = ""
    """Why the digest is not known."""
    md5: str | None = None
    """DVC's digest, for a dataset."""


def config_pin(snapshot: Snapshot, path: str) -> Pin:
    data = snapshot.read(path)
    if data is None:
        return Pin(None, path, f"there is no {path}")
    return Pin(sha256_hex(data), path)


def dataset_path(workspace: Workspace, named: str, folder: Path) -> str:
    """A dataset named from `folder`, as a path from the top; refused when it lies outside."""
    return inside(workspace.root, folder / named)


def dataset_pin(workspace: Workspace, snapshot: Snapshot, path: str | None) -> Pin:
    """The dataset in the work tree; its pointer's object where the file itself is not there."""
    if path is None:
        return Pin(None, None, "no dataset is named: soup.yaml has no data.train")
    on_disk = workspace.root / path
    if on_disk.exists():
        found = workspace.data_digests(on_disk)
        return Pin(found.sha256, path, md5=found.md5)
    return pointer_pin(workspace, snapshot, path)


def pointer_pin(workspace: Workspace, snapshot: Snapshot, path: str) -> Pin:
    """A dataset as a snapshot names it: a blob of git's, or an object of DVC's."""
    if path in snapshot.entries:
        return Pin(workspace.blob_sha256(snapshot.entries[path]), path)
    below = {p: oid for p, oid in snapshot.entries.items() if p.startswith(f"{path}/")}
    if below:
        files = [(p[len(path) + 1 :], workspace.blob_sha256(oid)) for p, oid in below.items()]
        return Pin(folder_sha256(files), path)
    output = snapshot.outputs.get(path)
    if output is None:
        return Pin(None, path, f"there is no {path}")
    if not workspace.dvc.has(output.md5):
        return Pin(None, output.source, f"{path} is not in the DVC cache", md5=output.md5)
    return Pin(workspace.object_sha256(output.md5), output.source, md5=output.md5)


def base_model_pin(
    workspace: Workspace, base: str | None, *, network: bool, revision: str | None = None
) -> Pin:
    """A local folder's content, or the commit a hub id resolves to."""
    if base is None:
        return Pin(None, None, "no base model is named: soup.yaml has no base")
    folder = workspace.root / Path(base).expanduser()
    if folder.is_dir():
        files = [path for path in _base_files(folder) if path.is_file()]
        if not files:
            return Pin(None, base, f"{base} holds no model")
        digests = ((p.relative_to(folder).as_posix(), workspace.sha256(p)) for p in files)
        return Pin(folder_sha256(digests), base)
    if base.startswith((".", "/", "~")) or base.count("/") != 1 or not is_repository_path(base):
        return Pin(None, base, f"there is no folder {base}")
    commit = _hub_commit(base, revision or "main", network=network)
    if commit is None:
        return Pin(None, base, f"{base} is not in the local hub cache, and the hub was not reached")
    return Pin(sha256_hex(f"hf:{base}@{commit}".encode()), base)


def _base_files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in _BASE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _hub_commit(model: str, revision: str, *, network: bool) -> str | None:
    """The commit that a hub model's revision is: from the local hub cache, else from the hub."""
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    if not is_repository_path(revision):
        return None
    home = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    hub = Path(home) if home else _hf_home() / "hub"
    ref = hub / f"models--{model.replace('/', '--')}" / "refs" / revision
    if ref.is_file():
        return ref.read_text("utf-8").strip()
    if not network or os.environ.get("HF_HUB_OFFLINE", "0") not in {"", "0"}:
        return None
    return _ask_hub(model, revision)


def _ask_hub(model: str, revision: str) -> str | None:
    """The hub's own answer; None when it is not reached or does not know the model."""
    import http.client
    import json
    import urllib.request
    from urllib.parse import quote

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    if not endpoint.startswith(("https://", "http://")):
        return None
    url = f"{endpoint}/api/models/{model}/revision/{quote(revision, safe='')}"
    request = urllib.request.Request(url)  # noqa: S310 - the scheme was checked
    token_file = _hf_home() / "token"
    token = os.environ.get("HF_TOKEN") or (token_file.read_text() if token_file.is_file() else "")
    if token.strip():
        request.add_header("Authorization", f"Bearer {token.strip()}")
    try:
        with urllib.request.urlopen(request, timeout=_HUB_TIMEOUT_SECONDS) as answer:  # noqa: S310
            commit = json.loads(answer.read(1 << 20)).get("sha")
    except (OSError, ValueError, AttributeError, http.client.HTTPException):
        return None
    return commit if isinstance(commit, str) else None


def _hf_home() -> Path:
    home = os.environ.get("HF_HOME")
    if home:
        return Path(home)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"


def read_dataset(workspace: Workspace, path: str) -> DataDigests:
    """Digests of a dataset that must be in the work tree."""
    on_disk = workspace.root / path
    if not on_disk.exists():
        raise FatalError(
            f"the dataset {path} is not in the work tree",
            hint=f"git soup checkout brings tracked data back; else dvc pull {path}",
        )
    return workspace.data_digests(on_disk)
