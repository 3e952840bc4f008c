"""What DVC calls a file or a folder: its digest, its listing, its place in a cache or a remote."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path

from soup_git.core.digests import md5_hex
from soup_git.errors import FatalError
from soup_git.storage.files import TEMPORARY, target_inside

# `.dvc/cache/files/md5/ab/cdef…`, and `.dvc/cache/ab/cdef…` as DVC 2 had it.
_OBJECT = re.compile(r"/.*/[0-9a-f]{2}/[0-9a-f]{30}(\.dir)?")


def address(store: Path, md5: str) -> Path:
    """Where DVC's layout has an object, in a cache and in a remote."""
    return store / "files" / "md5" / md5[:2] / md5[2:]


def address_of_dvc2(store: Path, md5: str) -> Path:
    """Where DVC 2 had it, and DVC 3 looks for what a pointer without `hash: md5` names."""
    return store / md5[:2] / md5[2:]


def md5_of_dvc2(path: Path) -> str:
    """DVC 2's digest of a file: CR LF counts as LF in what looks like text (`md5-dos2unix`).

    As dvc_data.hashfile.hash has it, each MiB is looked at for itself.
    """
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            head = chunk[:512]
            odd = len(head.translate(None, _TEXT))
            is_text = b"\0" not in head and odd / len(head) <= 0.3
            digest.update(chunk.replace(b"\r\n", b"\n") if is_text else chunk)
    return digest.hexdigest()


_TEXT = bytes(range(32, 127)) + b"\n\r\t\f\b"


def md5_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def folder_md5_of(folder: Path, md5_of: Callable[[Path], str] = md5_of_file) -> str:
    """The digest (`….dir`) that DVC gives a folder, without storing it."""
    listing = [
        {"md5": md5_of(path), "relpath": path.relative_to(folder).as_posix()}
        for path in walk(folder)
    ]
    return md5_hex(folder_listing(listing)) + ".dir"


def folder_listing(files: list[dict[str, str]]) -> bytes:
    """The bytes of DVC's folder object: JSON sorted by relpath, as `dvc add` writes it."""
    return json.dumps(sorted(files, key=itemgetter("relpath")), sort_keys=True).encode()


def is_cache_link(path: Path) -> bool:
    """Whether a path is a link as DVC makes one (`cache.type symlink`): to an object of a cache.

    The object may be gone, or elsewhere since the repository was moved.
    """
    return path.is_symlink() and _OBJECT.fullmatch(str(path.readlink())) is not None


def output_target(root: Path, relative: str) -> Path:
    """As `target_inside`, where a link of DVC's own may stand: it is replaced, as DVC does."""
    return target_inside(root, relative, replaces=is_cache_link)


def walk(folder: Path) -> Iterator[Path]:
    """The files below a folder, sorted, as DVC sees them.

    A link to a file counts as that file (DVC's own cache links are such), one to a folder
    is left out, and one that leads nowhere raises, but for DVC's own, whose object is gone.
    git's and DVC's folders and our own temporary files are left out.
    """
    for path in sorted(folder.iterdir()):
        if path.name in {".git", ".dvc"} or path.match(TEMPORARY):
            continue
        if path.is_dir():
            if not path.is_symlink():
                yield from walk(path)
        elif path.is_file():
            yield path
        elif path.is_symlink() and not is_cache_link(path):
            raise FatalError(
                f"{path} is a link to {path.readlink()}, which is not there",
                hint=f"rm {path}, or bring back what it points to",
            )
