"""The door to DVC: the only file that knows its files, its cache, and how to start it.

Pointers (`.dvc` files), `dvc.lock` and cache objects are read and written natively, in
DVC's own layout, because importing DVC costs half a second and every hook would pay it.
What moves bytes between machines (`fetch`, `push`) and what runs pipelines is DVC itself.
"""

from __future__ import annotations

import configparser
import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

from soup_git.core.digests import MD5_HEX, md5_hex
from soup_git.core.manifest import WEIGHTS
from soup_git.core.waysout import take_one_side
from soup_git.errors import FatalError
from soup_git.storage.files import (
    TEMPORARY,
    copy_bytes,
    move_into_place,
    reflink,
    temporary_in,
    write_atomically,
)

POINTER_SUFFIX = ".dvc"
MAX_POINTER_BYTES = 1 << 20
MAX_LOCK_BYTES = 64 << 20
_PAUSE_SECONDS = 0.5
_YOUNG_SECONDS = 86_400  # far below any grace time, and rare enough to keep digests known


@dataclass(frozen=True)
class Output:
    """A file or folder whose bytes DVC holds. `path` is relative to the work tree's top."""

    path: str
    md5: str
    size: int | None
    source: str
    """The file that says so: the pointer, or `dvc.lock`."""

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


def parse_dvc_lock(data: bytes, path: str) -> dict[str, list[Output]]:
    """Stage name -> its outputs, from a `dvc.lock`."""
    folder = path.rpartition("/")[0]
    return {
        name: _outputs(stage.get("outs") or [], folder, path)
        for name, stage in parse_dvc_stages(data, path).items()
    }


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


def _outputs(items: list[Any], folder: str, where: str) -> list[Output]:
    """Those that have an md5: an import that was never downloaded has none."""
    return [
        _output(item, folder, where)
        for item in items
        if not isinstance(item, dict) or item.get("md5") is not None
    ]


def _output(item: Any, folder: str, where: str) -> Output:
    if not isinstance(item, dict):
        raise _malformed(where, "an output is no mapping")
    md5, path, size = item.get("md5"), item.get("path"), item.get("size")
    if not isinstance(path, str) or not path:
        raise _malformed(where, "an output has no path")
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
    return Output(f"{folder}/{clean}" if folder else clean, md5, size, where)


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


class DvcRepo:
    """The cache and the configuration of the DVC workspace at the top of a work tree."""

    def __init__(self, root: Path, main_work_tree: Path | None, common_dir: Path) -> None:
        self.root = root
        self._main = main_work_tree
        self._common_dir = common_dir

    @property
    def exists(self) -> bool:
        return (self.root / ".dvc" / "config").is_file()

    @cached_property
    def _config(self) -> configparser.ConfigParser:
        config = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
        home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "dvc" / "config"
        _read(config, home)
        _read(config, self.root / ".dvc" / "config")
        # What a person set for this repository on this machine holds in each work tree of it.
        config.read_dict(self._locals_of_main())
        _read(config, self.root / ".dvc" / "config.local")
        return config

    def _locals_of_main(self) -> dict[str, dict[str, str]]:
        """The main work tree's `config.local`, seen from a linked one: its paths absolute."""
        if self._main is None or self._main == self.root:
            return {}
        config = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
        _read(config, self._main / ".dvc" / "config.local")
        found = {}
        for name in config.sections():
            values = {key: value for key, value in config[name].items() if value is not None}
            key = "dir" if name == "cache" else "url"
            if values.get(key) and "://" not in values[key]:
                values[key] = os.path.normpath(self._main / ".dvc" / values[key])
            found[name] = values
        return found

    @cached_property
    def _own_cache(self) -> str | None:
        """`cache.dir` as DVC finds it from this work tree."""
        config = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
        home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "dvc" / "config"
        for path in (home, self.root / ".dvc" / "config", self.root / ".dvc" / "config.local"):
            _read(config, path)
        return config.get("cache", "dir", fallback=None)

    @property
    def configured_cache(self) -> str | None:
        return self._config.get("cache", "dir", fallback=None)

    @cached_property
    def cache_dir(self) -> Path:
        """Where objects live: as configured, else the main work tree's, so that all share one."""
        configured = self.configured_cache
        if configured:
            # DVC reads a relative path from the folder of the file that holds it.
            return Path(os.path.normpath(self.root / ".dvc" / configured))
        if self._main is None:
            return self._common_dir / "soup" / "dvc"
        return self._main / ".dvc" / "cache"

    @property
    def default_remote(self) -> str | None:
        return self._config.get("core", "remote", fallback=None)

    def section(self, name: str) -> dict[str, str]:
        """A section of DVC's configuration; {} where there is none."""
        items = self._config[name].items() if self._config.has_section(name) else ()
        return {key: value for key, value in items if value is not None}

    def remote_sections(self) -> dict[str, dict[str, str]]:
        """Every remote's settings, the path of one in a folder made absolute."""
        found = {}
        for section in self._config.sections():
            name = re.fullmatch(r"'remote \"(.+)\"'", section)
            if name is None:
                continue
            values = self.section(section)
            url = (values.get("url") or "").removeprefix("file://")
            if url and "://" not in url:
                # DVC reads a relative path from the folder of the file that holds it.
                values["url"] = os.path.normpath(self.root / ".dvc" / Path(url).expanduser())
            found[name[1]] = values
        return found

    def remote_section(self, name: str) -> dict[str, str]:
        found = self.remote_sections().get(name)
        if found is None:
            raise FatalError(
                f"the DVC remote {name!r} is the default, and no section of .dvc/config names it",
                hint=f"dvc remote add {name} URL",
            )
        return found

    # -- objects --------------------------------------------------------------------------

    def object_path(self, md5: str) -> Path:
        """Where an object is: in the cache, or among the kept ones; where it belongs if nowhere."""
        path = address(self.cache_dir, md5)
        if not path.is_file():
            kept = address(self.kept_dir, md5)
            if kept.is_file():
                return kept
        return path

    @property
    def kept_dir(self) -> Path:
        """Objects that only our refs reach (checkpoints), where `dvc gc` does not look."""
        return self._common_dir / "soup" / "objects"

    def has(self, md5: str) -> bool:
        """Whether the object is here; of a folder, with all of its files."""
        path = self.object_path(md5)
        if not path.is_file():
            return False
        return not md5.endswith(".dir") or all(
            self.object_path(digest).is_file() for digest in self.folder_files(md5).values()
        )

    def read(self, md5: str) -> bytes:
        return self.object_path(md5).read_bytes()

    def size_of(self, md5: str) -> int:
        """Bytes of an object that is here; of a folder, with its files."""
        own = self.object_path(md5).stat().st_size
        if not md5.endswith(".dir"):
            return own
        return own + sum(self.size_of(inner) for inner in set(self.folder_files(md5).values()))

    def folder_files(self, md5: str, place: Path | None = None) -> dict[str, str]:
        """Relative path -> md5 of each file of a folder object, every path checked.

        `place` is the object's file, where that is not this cache's.
        """
        try:
            listing = json.loads((place or self.object_path(md5)).read_bytes())
            files = {item["relpath"]: item["md5"] for item in listing}
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self.corrupt(md5, "is no list of files") from None
        for path, digest in files.items():
            if not isinstance(path, str) or "\0" in path:
                raise self.corrupt(md5, "names something that is no path")
            if any(p.lower() in {"", ".", "..", ".git"} for p in path.split("/")):
                raise self.corrupt(md5, f"names a path outside its folder ({path!r})")
            if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{32}", digest):
                raise self.corrupt(md5, f"has no md5 for {path!r}")
        return files

    def corrupt(self, md5: str, what: str) -> FatalError:
        return FatalError(
            f"the cache object md5:{md5} {what}",
            hint=f"rm {self.object_path(md5)} && dvc fetch, to get it again",
        )

    def verify(self, md5: str) -> bool:
        """Whether the object's bytes have the digest that names them."""
        path = self.object_path(md5)
        return path.is_file() and md5_of_file(path) == md5.removesuffix(".dir")

    def store_file(
        self,
        source: Path,
        inspect: Callable[[Path], tuple[str, Any]] | None = None,
        *,
        keep: bool = False,
    ) -> tuple[str, Any]:
        """Put a copy of `source` into the cache; return its md5 and what `inspect` found.

        `keep` puts it where `dvc gc` does not look instead.

        The digest is taken over the private copy, so a file that changes meanwhile can
        never be stored under a name that is not its own. `inspect(copy)` returns the md5
        with something of its caller's; without it the md5 is computed here.
        """
        place = self.kept_dir if keep else self.cache_dir
        with temporary_in(place / "files" / "md5") as copy:
            copy_bytes(source, copy)
            md5, found = inspect(copy) if inspect else (md5_of_file(copy), None)
            if not self._holds(md5, copy.stat().st_size):
                move_into_place(copy, address(place, md5), mode=0o444)
        return md5, found

    def _holds(self, md5: str, size: int) -> bool:
        """Whether the object is here and sound; one that rotted is written anew."""
        path = self.object_path(md5)
        if not (path.is_file() and path.stat().st_size == size and self.verify(md5)):
            return False
        _freshen(path)
        return True

    def store_bytes(self, data: bytes, md5: str) -> None:
        path = self.object_path(md5)
        if not path.is_file() or path.read_bytes() != data:
            write_atomically(path, data, mode=0o444)
        _freshen(path)

    def store_folder(self, source: Path) -> tuple[str, int, int]:
        """Put a folder into the cache; return its md5 (`….dir`), its size and its file count."""
        listing, size = [], 0
        for path in walk(source):
            md5, _ = self.store_file(path)
            listing.append({"md5": md5, "relpath": path.relative_to(source).as_posix()})
            size += path.stat().st_size
        data = folder_listing(listing)
        md5 = md5_hex(data) + ".dir"
        self.store_bytes(data, md5)
        return md5, size, len(listing)

    # -- work tree --------------------------------------------------------------------------

    def restore_file(self, md5: str, target: Path) -> None:
        """Give `target` the object's bytes, in the first way of `cache.type` that works.

        Where that is not configured: by reflink, else a copy; the weights in a linked work
        tree by reflink or a hard link (read-only, as the object is), so that the tenth work
        tree costs no more than a name.
        """
        source = self.object_path(md5)
        with temporary_in(target.parent) as temporary:
            for kind in self._ways(target):
                if kind == "reflink" and reflink(source, temporary):
                    break
                if kind == "hardlink" and _hard_link(source, temporary):
                    temporary.replace(target)
                    return
            else:
                copy_bytes(source, temporary)
            move_into_place(temporary, target, mode=0o666)

    def _ways(self, target: Path) -> list[str]:
        configured = self._config.get("cache", "type", fallback=None)
        if configured:
            return [kind.strip() for kind in configured.replace('"', "").split(",")]
        is_linked = self.root != self._main
        links = is_linked and target.name == WEIGHTS
        return ["reflink", "hardlink"] if links else ["reflink"]

    @property
    def shares_cache(self) -> bool:
        """Whether DVC itself would use the cache that we use."""
        return self.root == self._main or self._own_cache is not None

    def share_cache(self) -> None:
        """Tell DVC, in a linked work tree, where the cache is, and what the main one's
        `config.local` says (a remote's password).
        """
        if self.shares_cache:
            return
        local = self.root / ".dvc" / "config.local"
        config = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
        config.read(local, "utf-8")
        for name, values in self._locals_of_main().items():
            if not config.has_section(name):
                config[name] = values
        if not config.has_section("cache"):
            config.add_section("cache")
        config["cache"]["dir"] = str(self.cache_dir)
        text = io.StringIO()
        config.write(text)
        write_atomically(local, text.getvalue().encode(), mode=0o600)

    # -- DVC itself -------------------------------------------------------------------------

    def run(self, *arguments: str, folder: Path | None = None, progress: bool = False) -> str:
        """Run `dvc`; returns its stdout. Raises with its words.

        `progress` shows its bars where stderr is a terminal.
        """
        shown = progress and sys.stderr.isatty()
        done = subprocess.run(
            [sys.executable, "-P", "-m", "dvc", *arguments],
            cwd=folder or self.root, stdin=subprocess.DEVNULL, check=False,
            stdout=subprocess.PIPE, stderr=None if shown else subprocess.PIPE,
            env=_environment(),
        )  # fmt: skip
        if done.returncode:
            raise _failed(arguments, done.stderr or b"", done.returncode)
        return done.stdout.decode(errors="replace")

    def run_apart(self, *arguments: str, log: Path) -> None:
        """Run a `dvc` that leaves processes behind: they write to `log`, never to our streams,
        and in a session of their own hear no Ctrl-C and no closing terminal.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "dvc", *arguments],
                cwd=self.root, stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False,
                env=_environment(), start_new_session=True,
            )  # fmt: skip
        if done.returncode:
            raise _failed(arguments, log.read_bytes(), done.returncode)

    def repro(self, *, force: bool = False, waiting: Callable[[], None] = lambda: None) -> int:
        """`dvc repro` with its output where ours goes; waits while another DVC runs here.

        `waiting` is called once when it has to wait. Returns DVC's exit code. `python` in a
        stage's command is the one that runs us.
        """
        command = [sys.executable, "-P", "-m", "dvc", "--wait-for-lock", "repro"]
        if force:
            command += ["--force", "--single-item", "train"]
        while True:
            if self.is_busy:
                waiting()
                waiting = lambda: None  # noqa: E731
            while self.is_busy:
                time.sleep(_PAUSE_SECONDS)
            try:
                code = subprocess.run(
                    command, cwd=self.root, check=False, stdout=sys.stderr,
                    env=_environment(),
                ).returncode  # fmt: skip
            except KeyboardInterrupt:
                # The stage got the same Ctrl-C, saved, and said how to go on.
                return 130
            if code == 0 or not self.is_busy:
                return code

    def status(self) -> dict[str, Any]:
        """`dvc status --json`: stage -> what changed."""
        found: dict[str, Any] = json.loads(self.run("status", "--json") or "{}")
        return found

    def stages(self) -> dict[str, list[str]]:
        """Stage name -> the stages it needs, in the order they would run."""
        needs: dict[str, list[str]] = {}
        for line in self.run("dag", "--dot").splitlines():
            edge = re.fullmatch(r'\s*"([^"]+)"(?: -> "([^"]+)")?;?', line)
            if edge:
                needs.setdefault(edge[1], [])
                if edge[2]:
                    needs.setdefault(edge[2], []).append(edge[1])
        ordered: dict[str, list[str]] = {}
        while len(ordered) < len(needs):
            ready = [n for n in needs if n not in ordered and all(d in ordered for d in needs[n])]
            if not ready:
                break
            ordered |= {name: needs[name] for name in ready}
        return {name: deps for name, deps in ordered.items() if not name.endswith(POINTER_SUFFIX)}

    @property
    def is_busy(self) -> bool:
        """Whether a living DVC process reads or writes paths here (its `rwlock` file says so)."""
        try:
            held = json.loads((self.root / ".dvc" / "tmp" / "rwlock").read_text())
            return any(is_dvc(pid) for pid in set(_holders(held)))
        except (FileNotFoundError, ValueError, AttributeError, TypeError, KeyError):
            return False


def _failed(arguments: Sequence[str], said: bytes, code: int) -> FatalError:
    lines = said.decode(errors="replace").strip().splitlines()
    last = " ".join(line.strip() for line in lines[-4:])
    return FatalError(
        f"dvc {arguments[0]} failed: {last or f'exit {code}'}",
        hint=f"dvc {' '.join(arguments)} -v shows all of it",
    )


def _environment() -> dict[str, str]:
    """`python` in a stage, and `dvc` in a worker of DVC's queue, are the ones that run us."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}


def _read(config: configparser.ConfigParser, path: Path) -> None:
    try:
        config.read(path, "utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise FatalError(
            f"{path} is not a DVC configuration: {' '.join(str(error).split())}",
            hint=f"git log -p -- {path}",
        ) from None


def _hard_link(source: Path, temporary: Path) -> bool:
    temporary.unlink()
    try:
        os.link(source, temporary)
    except OSError:
        temporary.touch()
        return False
    return True


def _holders(held: Any) -> Iterator[int]:
    """The process ids in DVC's rwlock: {"write": {path: {pid}}, "read": {path: [{pid}, …]}}."""
    for mode in ("write", "read"):
        for entries in held.get(mode, {}).values():
            for entry in entries if isinstance(entries, list) else [entries]:
                yield int(entry["pid"])


def is_dvc(pid: int) -> bool:
    """Whether a process is alive and is DVC: one that was killed leaves its number to others."""
    import psutil

    try:
        return any("dvc" in word for word in psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


def _freshen(path: Path) -> None:
    """Make an object young again: what is about to be named is no garbage (as git does it)."""
    # A cache that belongs to somebody else is not ours to clean up either.
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime > _YOUNG_SECONDS:
            os.utime(path)


def address(store: Path, md5: str) -> Path:
    """Where DVC's layout has an object, in a cache and in a remote."""
    return store / "files" / "md5" / md5[:2] / md5[2:]


def folder_listing(files: list[dict[str, str]]) -> bytes:
    """The bytes of DVC's folder object: JSON sorted by relpath, as `dvc add` writes it."""
    return json.dumps(sorted(files, key=itemgetter("relpath")), sort_keys=True).encode()


def walk(folder: Path) -> Iterator[Path]:
    """The files below a folder, sorted, as DVC sees them.

    A link to a file counts as that file (DVC's own cache links are such), one to a folder
    is left out, and one that leads nowhere raises. git's and DVC's folders and our own
    temporary files are left out.
    """
    for path in sorted(folder.iterdir()):
        if path.name in {".git", ".dvc"} or path.match(TEMPORARY):
            continue
        if path.is_dir():
            if not path.is_symlink():
                yield from walk(path)
        elif path.is_file():
            yield path
        elif path.is_symlink():
            raise FatalError(
                f"{path} is a link to {path.readlink()}, which is not there",
                hint=f"rm {path}, or bring back what it points to",
            )


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
