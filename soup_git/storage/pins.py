"""The world that pins are compared with: digests of the config, data, base and environment.

`Pin.digest` None means that it cannot be known here (a hub model with no network, a
dataset whose bytes are elsewhere), which is never the same as drift.
"""

from __future__ import annotations

import os
import re
import time
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
    commit, why = _hub_commit(base, revision or "main", network=network)
    if commit is None:
        return Pin(None, base, why)
    return Pin(sha256_hex(f"hf:{base}@{commit}".encode()), base)


def _base_files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in _BASE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _hub_commit(model: str, revision: str, *, network: bool) -> tuple[str | None, str]:
    """(the commit that a hub model's revision is, or why it is not known).

    From the local hub cache, else from the hub.
    """
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision, ""
    if not is_repository_path(revision):
        return None, f"{revision!r} is no revision of a hub model"
    home = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    hub = Path(home) if home else _hf_home() / "hub"
    ref = hub / f"models--{model.replace('/', '--')}" / "refs" / revision
    if ref.is_file():
        return ref.read_text("utf-8").strip(), ""
    missing = f"{model} is not in the local hub cache"
    if not network or _is_set("HF_HUB_OFFLINE"):
        why = (
            "the hub was not asked"
            if not network
            else "HF_HUB_OFFLINE keeps the hub from being asked"
        )
        return None, f"{missing}, and {why}"
    commit, why = _ask_hub(model, revision)
    return commit, f"{missing}, and {why}"


def _ask_hub(model: str, revision: str) -> tuple[str | None, str]:
    """(the hub's own answer, or why there is none)."""
    import http.client
    import json
    import urllib.error
    import urllib.request
    from urllib.parse import quote

    from soup_git.storage.http import open_moved_url, whole_body

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    if not endpoint.startswith(("https://", "http://")):
        return None, f"HF_ENDPOINT is no address of a hub: {endpoint!r}"
    url = f"{endpoint}/api/models/{model}/revision/{quote(revision, safe='')}"
    request = urllib.request.Request(url)  # noqa: S310 - the scheme was checked
    token = _hub_token()
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        until = time.monotonic() + _HUB_TIMEOUT_SECONDS
        # A model that was renamed is a redirect.
        with open_moved_url(request, _HUB_TIMEOUT_SECONDS) as answer:
            commit = json.loads(whole_body(answer, until, 1 << 20)).get("sha")
    except urllib.error.HTTPError as error:
        error.close()
        return None, f"the hub answers {error.code}"
    except (OSError, http.client.HTTPException):
        return None, "the hub was not reached"
    except (ValueError, AttributeError, RecursionError):
        commit = None
    is_commit = isinstance(commit, str) and re.fullmatch(r"[0-9a-f]{40}", commit)
    return (commit, "") if is_commit else (None, "the hub's answer names no commit")


def _hub_token() -> str:
    """The user's token, looked for where the hub's own library looks; empty where there is none."""
    token, place = os.environ.get("HF_TOKEN", ""), "$HF_TOKEN"
    file = Path(os.environ.get("HF_TOKEN_PATH") or _hf_home() / "token")
    if not token.strip() and _is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        return ""
    if not token.strip() and file.is_file():
        token, place = file.read_bytes().decode("utf-8", "replace"), str(file)
    token = token.strip()
    if not (token.isascii() and token.isprintable()):
        raise FatalError(
            f"the hub's token in {place} has a line break, or another character that no header"
            " can hold",
            hint="hf auth login, to store one anew",
        )
    return token


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "0").lower() not in {"", "0", "false", "no", "off"}


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
