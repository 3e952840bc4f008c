"""DVC's files as text: pointers (`.dvc` files), `dvc.lock` and what of a `dvc.yaml` matters here.

Read and written natively, byte for byte as DVC would, because importing DVC costs half a
second and every hook would pay it.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import Any

from soup_git.core.digests import MD5_HEX
from soup_git.core.waysout import take_one_side
from soup_git.errors import FatalError

POINTER_SUFFIX = ".dvc"
MAX_POINTER_BYTES = 1 << 20
MAX_LOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class Output:
    """A file or folder whose bytes DVC holds. `path` is relative to the work tree's top."""

    path: str
    md5: str
    size: int | None
    source: str
    """The file that says so: the pointer, or `dvc.lock`."""
    of_dvc2: bool = False
    """Whether DVC 2 wrote it: it lacks `hash: md5`, and its object is in DVC 2's layout."""

    @property
    def is_folder(self) -> bool:
        return self.md5.endswith(".dir")


def pointer_text(name: str, md5: str, size: int, files: int | None = None) -> str:
    """A `.dvc` file for an output called `name` in the pointer's own folder, as `dvc add` writes it."""
    count = f"  nfiles: {files}\n" if files is not None else ""
    md5 = yaml_md5(md5)
    return f"outs:\n- md5: {md5}\n  size: {size}\n{count}  hash: md5\n  path: {_yaml_name(name)}\n"


def yaml_md5(md5: str) -> str:
    """An md5 as DVC writes it: quoted where YAML would read a number."""
    return f"'{md5}'" if _YAML_NUMBER.fullmatch(md5) else md5


def with_weights(text: str, md5: str, size: int) -> str:
    """The text of a pointer, or of one output, that names other bytes and is else as it was.

    New bytes are in the layout of DVC 3, and a text that DVC 2 wrote says so then.
    """
    named = f"md5: {yaml_md5(md5)}"
    is_old = re.search(r"(?m)^[ -]*hash: ", text) is None
    of_dvc3 = is_old and re.search(rf"(?m)^[ -]*{re.escape(named)}$", text) is None

    def line(found: re.Match[str]) -> str:
        return f"{found[1]}{named}" + (f"\n{' ' * len(found[1])}hash: md5" if of_dvc3 else "")

    return _SIZE_LINE.sub(rf"\1size: {size}", _MD5_LINE.sub(line, text))


_MD5_LINE = re.compile(r"(?m)^([ -]*)md5: .*$")
_SIZE_LINE = re.compile(r"(?m)^([ -]*)size: .*$")


def _yaml_name(name: str) -> str:
    """`name` plain where YAML can only read it as this text, else quoted."""
    is_plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.\-]*", name) and name.lower() not in _YAML_WORDS
    return name if is_plain else json.dumps(name, ensure_ascii=False)


# One md5 in a million has digits alone, or one `e` among them: DVC quotes it too.
_YAML_NUMBER = re.compile(r"[0-9]+(e[0-9]+)?")
_YAML_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}

# What `dvc add` and `pointer_text` write for one output: read without a YAML parser, which
# alone would cost a hook more than the rest of its work.
_STANDARD = re.compile(
    rb"outs:\n- md5: (?P<md5>[0-9a-f]{32}(?:\.dir)?)\n  size: (?P<size>\d{1,18})\n"
    rb"(?:  nfiles: \d+\n)?  hash: md5\n  path: (?P<path>[A-Za-z_][A-Za-z0-9_.\-]*)\n"
)


def parse_pointer(data: bytes, path: str) -> list[Output]:
    """The outputs of the `.dvc` file at `path`; raises `FatalError` when it is malformed."""
    plain = _STANDARD.fullmatch(data)
    if plain:
        parent = path.rpartition("/")[0]
        name, md5 = plain["path"].decode(), plain["md5"].decode()
        if name.lower() not in _YAML_WORDS and not _YAML_NUMBER.fullmatch(md5):
            where = f"{parent}/{name}" if parent else name
            return [Output(where, md5, int(plain["size"]), path)]
    raw = _yaml(data, path, MAX_POINTER_BYTES)
    wdir = raw.get("wdir", ".")
    if not isinstance(wdir, str) or "\0" in wdir:
        raise _malformed(path, "its wdir is no path")
    folder = os.path.normpath(f"{path.rpartition('/')[0] or '.'}/{wdir}")
    if folder.startswith(("..", "/")) or ".git" in folder.lower().split("/"):
        raise _malformed(path, "its wdir lies outside the work tree")
    outputs = raw.get("outs")
    if not isinstance(outputs, list) or not outputs:
        raise _malformed(path, "it names no output")
    return _outputs(outputs, "" if folder == "." else folder, path)


def published_outputs(data: bytes, path: str) -> list[Output]:
    """Those of a pointer's outputs that `dvc push` would push.

    Not what `dvc import` brought from another repository, which has it, and no output that
    says `push: false`.
    """
    outputs = parse_pointer(data, path)
    if _STANDARD.fullmatch(data):
        return outputs
    raw = _yaml(data, path, MAX_POINTER_BYTES)
    deps = raw.get("deps")
    if isinstance(deps, list) and any(isinstance(d, dict) and "repo" in d for d in deps):
        return []
    held_back = {str(o["md5"]) for o in raw["outs"] if o.get("push") is False and o.get("md5")}
    return [output for output in outputs if output.md5 not in held_back]


def is_import(data: bytes, path: str) -> bool:
    """Whether a pointer's bytes come from elsewhere (`dvc import`, `dvc import-url`)."""
    return not _STANDARD.fullmatch(data) and bool(_yaml(data, path, MAX_POINTER_BYTES).get("deps"))


def held_back_paths(dvc_yaml: bytes, path: str) -> set[str]:
    """The outputs of a `dvc.yaml` that say `push: false`, as they are written there."""
    if b"push" not in dvc_yaml:
        return set()
    stages = _yaml(dvc_yaml, path, MAX_LOCK_BYTES).get("stages") or {}
    found = set()
    for stage in stages.values() if isinstance(stages, dict) else ():
        body = stage.get("do", stage) if isinstance(stage, dict) else {}
        outs = body.get("outs") if isinstance(body, dict) else None
        for out in outs if isinstance(outs, list) else ():
            if isinstance(out, dict):
                found |= {
                    str(name)
                    for name, options in out.items()
                    if isinstance(options, dict) and options.get("push") is False
                }
    return found


def parse_dvc_lock(
    data: bytes, path: str, dvc_yaml: bytes | None = None
) -> dict[str, list[Output]]:
    """Stage name -> its outputs, from a `dvc.lock`.

    Their paths are relative to the stage's `wdir`, which only the `dvc.yaml` beside it names.
    """
    folder = path.rpartition("/")[0]
    named = (
        {} if dvc_yaml is None else _stage_folders(dvc_yaml, f"{path.removesuffix('.lock')}.yaml")
    )
    found = {}
    for name, stage in parse_dvc_stages(data, path).items():
        # `train@a`, `train@0` are the stages that a foreach or a matrix called `train` makes.
        inner = named.get(name, named.get(name.partition("@")[0], ""))
        where = os.path.normpath(f"{folder or '.'}/{inner}")
        if not where.startswith(("..", "/")):
            inside = "" if where == "." else where
            found[name] = _outputs(stage.get("outs") or [], inside, path, beyond=True)
    return found


def _stage_folders(dvc_yaml: bytes, path: str) -> dict[str, str]:
    """Stage -> its `wdir`, of the stages that have one; one that is a template is left out."""
    if b"wdir" not in dvc_yaml:
        return {}
    stages: Any = _yaml(dvc_yaml, path, MAX_LOCK_BYTES).get("stages")
    bodies: dict[str, Any] = {
        str(name): stage.get("do", stage)
        for name, stage in (stages.items() if isinstance(stages, dict) else ())
        if isinstance(stage, dict)
    }
    folders = {n: body.get("wdir") for n, body in bodies.items() if isinstance(body, dict)}
    return {n: path for n, path in folders.items() if isinstance(path, str) and "$" not in path}


def declared_outputs(dvc_yaml: bytes, path: str) -> dict[str, list[str]]:
    """Stage of a `dvc.yaml` -> the paths of its outputs, as they are written there, templates too."""
    stages = _yaml(dvc_yaml, path, MAX_LOCK_BYTES).get("stages")
    found: dict[str, list[str]] = {}
    for name, stage in stages.items() if isinstance(stages, dict) else ():
        body = stage.get("do", stage) if isinstance(stage, dict) else {}
        for kind in ("outs", "metrics", "plots") if isinstance(body, dict) else ():
            items = body.get(kind)
            for item in items if isinstance(items, list) else ():
                names = [str(key) for key in item] if isinstance(item, dict) else [str(item)]
                found.setdefault(str(name), []).extend(names)
    return found


def parse_dvc_stages(data: bytes, path: str) -> dict[str, dict[str, Any]]:
    """Stage name -> what a `dvc.lock` records of it; `deps` and `outs` are lists where there."""
    stages = _yaml(data, path, MAX_LOCK_BYTES).get("stages") or {}
    if not isinstance(stages, dict):
        raise _malformed(path, "`stages` is no mapping")
    found: dict[str, dict[str, Any]] = {}
    for name, stage in stages.items():
        record = stage or {}
        if not isinstance(record, dict) or not all(
            isinstance(record.get(key) or [], list) for key in ("deps", "outs")
        ):
            raise _malformed(path, f"stage {name} is malformed")
        found[str(name)] = record
    return found


def _outputs(items: list[Any], folder: str, where: str, *, beyond: bool = False) -> list[Output]:
    """Those that have an md5: an import that was never downloaded has none.

    `beyond` takes paths that leave the folder, and stay in the work tree.
    """
    return [
        _output(item, folder, where, beyond=beyond)
        for item in items
        if not isinstance(item, dict) or item.get("md5") is not None
    ]


def _output(item: Any, folder: str, where: str, *, beyond: bool) -> Output:
    if not isinstance(item, dict):
        raise _malformed(where, "an output is no mapping")
    md5, path, size = item.get("md5"), item.get("path"), item.get("size")
    if not isinstance(path, str) or not path:
        raise _malformed(where, "an output has no path")
    if beyond and path.startswith("../"):
        # The stages of a folder may write beside it: still inside the work tree, or refused.
        folder, path = "", os.path.normpath(f"{folder or '.'}/{path}")
    parts = path.split("/")
    if path.startswith("/") or "\0" in path or any(p.lower() in {"", "..", ".git"} for p in parts):
        raise FatalError(
            f"{where}: its output {path!r} lies outside its folder; it is not restored",
            hint=f"git log -- {where} tells who wrote it",
        )
    if not isinstance(md5, str) or not MD5_HEX.fullmatch(md5):
        raise _malformed(where, f"the md5 of {path} is no md5")
    if size is not None and (type(size) is not int or size < 0):
        raise _malformed(where, f"the size of {path} is no size")
    clean = "/".join(part for part in parts if part != ".")
    of_dvc2 = item.get("hash") is None
    return Output(f"{folder}/{clean}" if folder else clean, md5, size, where, of_dvc2)


def _yaml(data: bytes, where: str, limit: int) -> dict[str, Any]:
    # Late: a pointer as DVC writes it needs no parser, and yaml costs a hook 20 ms.
    from soup_git.core.yamltext import load_yaml

    if len(data) > limit:
        raise FatalError(f"{where} is {len(data):,} bytes; at most {limit:,} are read")
    if data.startswith(b"<<<<<<<") or b"\n<<<<<<< " in data:
        raise FatalError(
            f"{where} still has git's conflict markers in it",
            hint=take_one_side(where),
        )
    try:
        raw = load_yaml(data)
    except ValueError as error:
        raise _malformed(where, str(error)) from None
    if not isinstance(raw, dict):
        raise _malformed(where, "it is no mapping")
    return raw


def _malformed(where: str, what: str) -> FatalError:
    return FatalError(f"{where} is not a DVC file: {what}", hint=f"git log -p -- {where}")
