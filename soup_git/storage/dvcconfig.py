"""DVC's settings for a work tree, read as DVC reads them."""

from __future__ import annotations

import configparser
import io
import os
import re
from functools import cached_property
from pathlib import Path

from soup_git.errors import FatalError
from soup_git.storage.files import write_atomically


class DvcConfig:
    """The settings at `root`; a linked work tree has the main one's `config.local`, too."""

    def __init__(self, root: Path, main_work_tree: Path | None) -> None:
        self._folder = root / ".dvc"
        self._main = None if main_work_tree == root else main_work_tree

    @cached_property
    def _merged(self) -> configparser.ConfigParser:
        config = _read(_nothing(), *_of_machine(), self._folder / "config")
        # What a person set for this repository on this machine holds in each work tree of it.
        config.read_dict(self._locals_of_main())
        return _read(config, self._folder / "config.local")

    def _locals_of_main(self) -> dict[str, dict[str, str]]:
        """The main work tree's `config.local`, seen from a linked one: its paths absolute."""
        if self._main is None:
            return {}
        config = _read(_nothing(), self._main / ".dvc" / "config.local")
        return {
            name: {key: value for key, value in config[name].items() if value is not None}
            for name in config.sections()
        }

    @cached_property
    def names_cache(self) -> bool:
        """Whether DVC itself finds a `cache.dir` in this work tree."""
        files = *_of_machine(), self._folder / "config", self._folder / "config.local"
        own = _read(_nothing(), *files)
        return own.get("cache", "dir", fallback=None) is not None

    def name_cache(self, folder: Path) -> None:
        """Tell DVC in a linked work tree of the cache, and of the main one's `config.local`."""
        if not can_hold(folder):
            return
        local = self._folder / "config.local"
        config = _read(_nothing(), local)
        for name, values in self._locals_of_main().items():
            if not config.has_section(name):
                config[name] = values
        if not config.has_section("cache"):
            config.add_section("cache")
        config["cache"]["dir"] = str(folder)
        text = io.StringIO()
        config.write(text)
        write_atomically(local, text.getvalue().encode(), mode=0o600)

    @property
    def cache_dir(self) -> Path | None:
        """Where the cache is configured to be."""
        configured = self._merged.get("cache", "dir", fallback=None)
        return Path(configured) if configured else None

    @property
    def is_shared(self) -> bool:
        """Whether the cache is a group's (`cache.shared group`)."""
        return self._merged.get("cache", "shared", fallback=None) == "group"

    @property
    def cache_types(self) -> list[str]:
        """How files are made from the cache, the first way that works; [] is not configured."""
        configured = self._merged.get("cache", "type", fallback=None) or ""
        return [kind.strip() for kind in configured.replace('"', "").split(",") if configured]

    @property
    def default_remote(self) -> str | None:
        return self._merged.get("core", "remote", fallback=None)

    def section(self, name: str) -> dict[str, str]:
        """A section of DVC's configuration; {} where there is none."""
        items = self._merged[name].items() if self._merged.has_section(name) else ()
        return {key: value for key, value in items if value is not None}

    def remote_sections(self) -> dict[str, dict[str, str]]:
        """Every remote's settings, the path of one in a folder made absolute."""
        found = {}
        for section in self._merged.sections():
            name = re.fullmatch(r"'remote \"(.+)\"'", section)
            if name is None:
                continue
            values = self.section(section)
            if values.get("url", "").startswith("file:///"):
                values["url"] = os.path.normpath(values["url"].removeprefix("file://"))
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


def can_hold(path: Path) -> bool:
    """Whether DVC's configuration can: it is UTF-8, and a value is one line."""
    return str(path).isprintable()


def _of_machine() -> tuple[Path, Path]:
    """The settings of the machine and of its user, where DVC looks for them."""
    places = os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    own = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    system = os.environ.get("DVC_SYSTEM_CONFIG_DIR") or Path(places.split(os.pathsep)[0], "dvc")
    user = os.environ.get("DVC_GLOBAL_CONFIG_DIR") or Path(own, "dvc")
    return Path(system, "config"), Path(user, "config")


def _nothing() -> configparser.ConfigParser:
    return configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)


def _read(config: configparser.ConfigParser, *paths: Path) -> configparser.ConfigParser:
    """`config` with the settings of some files, a later one's in the place of an earlier one's."""
    for path in paths:
        one = _nothing()
        try:
            one.read(path, "utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            raise FatalError(
                f"{path} is not a DVC configuration: {' '.join(str(error).split())}",
                hint=f"git log -p -- {path}",
            ) from None
        for name in one.sections():
            # DVC reads a relative path from the folder of the file that holds it.
            key = "dir" if name == "cache" else "url"
            value = one[name].get(key)
            if value and "://" not in value:
                one[name][key] = os.path.normpath(path.parent / Path(value).expanduser())
        config.read_dict({name: dict(one[name]) for name in one.sections()})
    return config
