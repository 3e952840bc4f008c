"""What lies where safetensors weights, or the rows of a dataset, should be.

Downloads and clones leave other things under the right name: a pointer of git-lfs, the page
of a server that refused, a pickle. Each is known by its first bytes, and said with what gets the
true ones.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

HEAD_BYTES = 1024
"""As many of a file's first bytes as `recognised` looks at."""
_LFS = b"version https://git-lfs.github.com/spec/"
_XET = b"# xet version "
_DVC = re.compile(rb"(?:^|\n)outs:\r?\n- ")
_PAGE = re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?<(?:!doctype\s+html|html|error|head)\b", re.IGNORECASE)
_MAGIC = (
    (b"GGUF", "is a GGUF file (llama.cpp's)"),
    (b"\x1f\x8b", "is compressed with gzip"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd"),
    (b"\xfd7zXZ", "is compressed with xz"),
    (b"\x89HDF", "is an HDF5 file (Keras)"),
    (b"\x93NUMPY", "is a NumPy array (.npy)"),
    (b"PAR1", "is a Parquet file"),
)
_AGAIN = "download it again, from where it came"
_NOT_PEFT = "the adapter as PEFT saves it: model.save_pretrained(DIR, safe_serialization=True)"


@dataclass(frozen=True)
class Foreign:
    """What a file is instead, as words that follow its name, and what to type for the true bytes."""

    what: str
    hint: str


def pointer(head: bytes, path: str, from_top: str) -> Foreign | None:
    """The pointer of git-lfs, Xet or DVC that `head`, a file's first bytes, is; else None.

    `path` is the file's name for a command typed here, `from_top` from its repository's top,
    as `git lfs pull --include` takes it from wherever it is typed.
    """
    if head.startswith(_LFS):
        found = re.search(rb"\nsize ([0-9]{1,19})\b", head)
        size = f" of {int(found[1]):,} bytes" if found else ""
        return Foreign(
            f"is a git-lfs pointer: git has only the address of its content{size}",
            f"git lfs pull --include {shlex.quote(from_top)} gets the bytes (git lfs install, once,"
            " lets clones do it)",
        )
    if head.startswith(_XET):
        found = re.search(rb"\nfilesize = ([0-9]{1,19})\b", head)
        size = f" of {int(found[1]):,} bytes" if found else ""
        return Foreign(
            f"is a pointer of Xet: git has only the address of its content{size}",
            f"git-xet materialize {shlex.quote(path)} gets the bytes, or hf download from the hub",
        )
    if _DVC.search(head) and b"md5" in head:
        return Foreign(
            "is the text of a DVC pointer, not the file that it points to",
            f"mv {shlex.quote(path)} {shlex.quote(path + '.dvc')}, then dvc pull"
            f" {shlex.quote(path + '.dvc')}",
        )
    return None


def page(head: bytes) -> Foreign | None:
    """The answer of a server that did not give the file, saved under its name; else None."""
    if _PAGE.match(head):
        title = re.search(rb"<(?:title|message|code)>\s*([^<]{1,80})", head, re.IGNORECASE)
        words = title[1].decode("utf-8", "replace").strip() if title else ""
        said = f" ({words})" if words.isprintable() and words else ""
        return Foreign(
            f"is a web page{said}: the server answered with it instead of the file",
            f"{_AGAIN}; where that needs a login, hf auth login first",
        )
    return None


def recognised(head: bytes, size: int, path: str, from_top: str, convert: str) -> Foreign | None:
    """What a file is that should be safetensors and is not; None for what nothing here knows.

    `head` is its first `HEAD_BYTES` bytes, `size` all it has, `path` and `from_top` as
    in `pointer`, `convert` the command that makes safetensors of a pickle.
    """
    if not size:
        return Foreign("is empty", f"{_AGAIN}: the disk was full, or the download broke off")
    found = pointer(head, path, from_top) or page(head)
    if found is not None:
        return found
    if head[:2] == b"PK" or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"):
        what = "is a PyTorch pickle with a .safetensors name; a pickle can run code and is not read"
        return Foreign(what, convert)
    for magic, what in _MAGIC:
        if head.startswith(magic):
            return Foreign(f"{what}, not safetensors", _NOT_PEFT)
    if head[257:262] == b"ustar":
        return Foreign(
            "is a tar archive, not safetensors", f"tar xf {shlex.quote(path)} unpacks it"
        )
    if head.lstrip()[:1] in {b"{", b"["}:
        return Foreign("is JSON text, not safetensors", _AGAIN)
    line = head.split(b"\n", 1)[0].decode("utf-8", "replace").strip()
    if line and len(line) < 200 and line.isprintable() and "\ufffd" not in line and size < 4096:
        return Foreign(f"is a text, not safetensors: {line[:80]!r}", _AGAIN)
    return None
