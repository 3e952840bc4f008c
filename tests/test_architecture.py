"""The shape that ARCHITECTURE promises, held by machine; each rule with a control that it can fail.

Rules are functions from sources to complaints: the package gives none, and a source that
is written to break the rule gives one.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import MakeAdapter, Run, runner, write_adapter

ROOT = Path(__file__).parents[1]

LEVELS = (
    {"manual"},
    {"action", "cli", "hooks", "stages", "ui", "__main__"},
    {"commands"},
    {"training", "evaluation", "data", "forge", "serving", "migration"},
    {"render"},
    {"storage"},
    {"core"},
    {"arithmetic"},
)
"""Rooms of soup_git, top first; an import points down, or sideways without a circle."""

ANYWHERE = {"errors", "__init__"}
"""What every room but arithmetic may import; errors itself stands on core.text alone."""


@dataclass(frozen=True, eq=False)
class Source:
    """One module: `soup_git.core.text` of room `core`, with its syntax tree."""

    module: str
    tree: ast.Module

    @property
    def room(self) -> str:
        return _room(self.module)


def _room(module: str) -> str:
    return [*module.split("."), "__init__"][1]


@cache
def package() -> list[Source]:
    """Every module that the wheel ships, where pyproject.toml says that it lies."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    elsewhere = {name: ROOT / folder for name, folder in settings["package-dir"].items()}
    sources = []
    for name in settings["packages"]:
        folder = elsewhere.get(name, ROOT / name.replace(".", "/"))
        for path in sorted(folder.glob("*.py")):
            module = name if path.stem == "__init__" else f"{name}.{path.stem}"
            sources.append(Source(module, ast.parse(path.read_text(), str(path))))
    return sources


def written(module: str, text: str) -> list[Source]:
    return [Source(module, ast.parse(text))]


@dataclass(frozen=True)
class Import:
    name: str
    """`soup_git.core.text.printable`, `numpy.linalg`: the module and what is taken from it."""
    is_late: bool
    is_for_types: bool


@cache
def imports(source: Source) -> tuple[Import, ...]:
    """Every import in a module, wherever it stands."""

    def visit(node: ast.AST, late: bool, types: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, late, types) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = source.module.split(".")[: -node.level]
                base = ".".join([*above, base]).rstrip(".")
            yield from (Import(f"{base}.{alias.name}", late, types) for alias in node.names)
        late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            is_guard = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
            yield from visit(child, late, types or is_guard)

    return tuple(visit(source.tree, late=False, types=False))


def _is_of(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


# -- the rules --------------------------------------------------------------------------------


def wrong_directions(sources: list[Source]) -> list[str]:
    level = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
    found = []
    sideways: dict[str, set[str]] = {}
    for source in sources:
        for item in imports(source):
            if not _is_of(item.name, "soup_git"):
                continue
            room = _room(item.name)
            if source.room in ANYWHERE:
                if not _is_of(item.name, "soup_git.core.text"):
                    found.append(f"{source.module} imports {item.name}")
                continue
            if room in ANYWHERE or room == source.room or room not in level:
                continue
            if source.room not in level or level[room] < level[source.room]:
                found.append(f"{source.module} imports {item.name}")
            elif level[room] == level[source.room] and not item.is_for_types:
                sideways.setdefault(source.room, set()).add(room)
    return found + [
        f"{one} and {other} import each other"
        for one, others in sideways.items()
        for other in others
        if one < other and one in sideways.get(other, set())
    ]


def rooms_without_a_level(sources: list[Source]) -> list[str]:
    known = {room for rooms in LEVELS for room in rooms} | ANYWHERE
    known.add("workspace_template")  # holds files, no code
    return sorted({source.room for source in sources} - known)


_INPUT_AND_OUTPUT = {
    "asyncio", "fcntl", "ftplib", "glob", "http", "io", "mmap", "multiprocessing", "os", "pathlib",
    "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "sys", "tempfile", "threading",
    "urllib",
}  # fmt: skip


_PURE = sys.stdlib_module_names - _INPUT_AND_OUTPUT


def impure_arithmetic(sources: list[Source]) -> list[str]:
    return [
        f"{source.module} imports {item.name}"
        for source in sources
        if source.room == "arithmetic"
        for item in imports(source)
        if item.name.split(".")[0] not in {*_PURE, "numpy"}
        and not _is_of(item.name, "soup_git.arithmetic")
        and not (item.name == "os" and _only_sets_numpy_up(source))
        and item.name != "threading.local"  # memory of one thread: no thread is started or met
    ]


def _only_sets_numpy_up(source: Source) -> bool:
    """numpy's BLAS reads its thread count from the environment when it loads: the one exception."""
    used = {
        ast.unparse(node)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os"
    }
    return source.module == "soup_git.arithmetic" and used == {"os.environ"}


def core_that_reads_or_writes(sources: list[Source]) -> list[str]:
    found = []
    for source in sources:
        if source.room != "core":
            continue
        found += [
            f"{source.module} imports {item.name}"
            for item in imports(source)
            if item.name.split(".")[0] in _INPUT_AND_OUTPUT
        ]
        found += [
            f"{source.module}:{node.lineno} calls {ast.unparse(node.func)}"
            for node in ast.walk(source.tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"open", "print", "input"}
        ]
    return found


HOMES = {
    # shell.py types the demo's commands for a user, workers.py starts the processes of one
    # training, probes.py runs the user's own eval command, rewards/ runs the user's reward function and code that a model wrote, gh.py GitHub's program,
    # underway.py asks `ps` who started it;
    # they ask git and DVC nothing.
    "subprocess": {
        "soup_git.evaluation.probes",
        "soup_git.forge.gh",
        "soup_git.storage.gitrepo",
        "soup_git.storage.dvcrepo",
        "soup_git.storage.shell",
        "soup_git.storage.underway",
        "soup_git.storage.workers",
        "soup_git.training.rewards.sandbox",
        "soup_git.training.rewards.workspacefile",
    },
    "git": {"soup_git.storage.gitrepo"},
    "dvc": {"soup_git.storage.dvcrepo"},
    "dask": {"soup_git.evaluation.executors"},
    "distributed": {"soup_git.evaluation.executors"},
    "socketserver": {"soup_git.ui"},
    "typer": {"soup_git.cli"},
    "click": {"soup_git.cli"},
    "torch": {"soup_git.training", "soup_git.evaluation", "soup_git.serving"},
    "transformers": {"soup_git.training", "soup_git.evaluation", "soup_git.serving"},
    "trl": {"soup_git.training", "soup_git.evaluation", "soup_git.serving"},
    "peft": {"soup_git.training", "soup_git.evaluation", "soup_git.serving"},
}
"""Dependency -> the modules or rooms that may import it."""


def dependencies_away_from_home(sources: list[Source]) -> list[str]:
    return [
        f"{source.module} imports {item.name}"
        for source in sources
        for item in imports(source)
        if (homes := HOMES.get(item.name.split(".")[0])) is not None
        and not any(_is_of(source.module, home) for home in homes)
    ]


HEAVY = (
    "numpy", "dvc", "torch", "transformers", "pydantic", "git", "safetensors", "datasets", "trl", "peft",
    "dask", "distributed",
)  # fmt: skip
"""Dependencies that cost more than a whole command of ours: loaded where they are used."""

FAST = {
    "soup_git.__main__",
    "soup_git.cli",
    "soup_git.commands.branches",
    "soup_git.commands.commitsummary",
    "soup_git.commands.diff_driver",
    "soup_git.commands.follow",
    "soup_git.commands.gc",
    "soup_git.commands.lock",
    "soup_git.commands.log",
    "soup_git.commands.precommit",
    "soup_git.commands.status",
    "soup_git.commands.tag",
    "soup_git.render",
    "soup_git.storage.workspace",
}
"""What everyone loads, and what must answer at git's speed. The hooks belong to it, too."""


def heavy_on_the_fast_path(sources: list[Source]) -> list[str]:
    """Follow the imports that run at load time from the fast modules to a heavy dependency."""
    by_name = {source.module: source for source in sources}
    found = []
    for source in sources:
        if source.room != "hooks" and not any(_is_of(source.module, fast) for fast in FAST):
            continue
        waiting, seen = [source.module], set()
        while waiting:
            name = waiting.pop()
            if name in seen or name not in by_name:
                continue
            seen.add(name)
            for item in imports(by_name[name]):
                if item.is_late or item.is_for_types:
                    continue
                if item.name.split(".")[0] in HEAVY:
                    found.append(f"{source.module} loads {item.name} through {name}")
                waiting += [item.name, item.name.rpartition(".")[0]]
    return found


def processes_started_otherwise(sources: list[Source]) -> list[str]:
    """`os.system`, `os.popen`, `os.exec*`, `os.spawn*`, `eval`, `exec`, `shell=True`."""
    found = []
    for source in sources:
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            starts = re.fullmatch(r"os\.(system|popen|exec\w+|spawn\w+|posix_spawnp?)", name)
            shell = any(k.arg == "shell" and ast.unparse(k.value) != "False" for k in node.keywords)
            if starts or shell or name in {"eval", "exec"}:
                found.append(f"{source.module}:{node.lineno} calls {name}")
    return found


_EMPTY_WORDS = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "managers"}


def names_that_say_nothing(sources: list[Source]) -> list[str]:
    """File names that hold anything, and names that hold a version's or an issue's number."""
    numbered = re.compile(r"(?:^|_)(?:v|issue|gh|ticket|bug|seed)_?\d+(?:_|$)", re.IGNORECASE)
    found = []
    for source in sources:
        words = set(re.split(r"[._]", source.module))
        if words & _EMPTY_WORDS or numbered.search(source.module.replace(".", "_")):
            found.append(source.module)
        found += [
            f"{source.module}.{node.name}"
            for node in ast.walk(source.tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and numbered.search(node.name)
        ]
    return found


@pytest.mark.parametrize(
    ("rule", "module", "breaks_it"),
    [
        (wrong_directions, "soup_git.core.x", "from soup_git.storage.files import inside"),
        (wrong_directions, "soup_git.storage.x", "def f():\n    import soup_git.commands.add"),
        (wrong_directions, "soup_git.storage.x", "from ..commands import add"),
        (wrong_directions, "soup_git.arithmetic.x", "import soup_git.core.manifest"),
        (wrong_directions, "soup_git.errors", "from soup_git.core.names import check"),
        (wrong_directions, "soup_git.commands.x", "def f():\n    import soup_git.ui.server"),
        (wrong_directions, "soup_git.ui.x", "from soup_git.manual import words"),
        (rooms_without_a_level, "soup_git.tools.x", ""),
        (impure_arithmetic, "soup_git.arithmetic.x", "import scipy"),
        (impure_arithmetic, "soup_git.arithmetic", "import os\nos.environ\nos.remove('x')"),
        (impure_arithmetic, "soup_git.arithmetic.x", "from pathlib import Path"),
        (impure_arithmetic, "soup_git.arithmetic.x", "from soup_git.errors import FatalError"),
        (core_that_reads_or_writes, "soup_git.core.x", "from pathlib import Path"),
        (core_that_reads_or_writes, "soup_git.core.x", "open('x')"),
        (dependencies_away_from_home, "soup_git.commands.x", "def f():\n    import subprocess"),
        (dependencies_away_from_home, "soup_git.storage.x", "from torch import nn"),
        (dependencies_away_from_home, "soup_git.commands.x", "import typer.core"),
        (dependencies_away_from_home, "soup_git.commands.x", "import socketserver"),
        (heavy_on_the_fast_path, "soup_git.storage.workspace", "import numpy as np"),
        (heavy_on_the_fast_path, "soup_git.hooks.x", "from pydantic import BaseModel"),
        (processes_started_otherwise, "soup_git.core.x", "os.system('ls')"),
        (processes_started_otherwise, "soup_git.core.x", "start('ls', shell=True)"),
        (names_that_say_nothing, "soup_git.core.utils", ""),
        (names_that_say_nothing, "soup_git.core.merge_v2", ""),
        (names_that_say_nothing, "soup_git.core.x", "def fix_issue_12(): ..."),
    ],
)
def test_the_package_keeps_the_rule_and_the_rule_can_fail(
    rule: Callable[[list[Source]], list[str]], module: str, breaks_it: str
) -> None:
    assert rule(package()) == []
    assert rule(written(module, breaks_it))


def test_the_fast_path_is_followed_from_module_to_module() -> None:
    chain = written("soup_git.commands.status", "from soup_git.storage import x")
    chain += written("soup_git.storage.x", "from soup_git.storage.y import z")
    heavy = written("soup_git.storage.y", "import numpy")
    late = written("soup_git.storage.y", "def z():\n    import numpy")
    assert heavy_on_the_fast_path(chain + heavy)
    assert heavy_on_the_fast_path(chain + late) == []


def test_the_fast_path_exists() -> None:
    assert {source.module for source in package()} >= FAST


def test_capabilities_do_not_go_in_a_circle() -> None:
    circle = written("soup_git.data.x", "import soup_git.training.y")
    circle += written("soup_git.training.y", "import soup_git.data.x")
    assert wrong_directions(circle)
    assert wrong_directions(circle[:1]) == []


def test_the_walk_sees_every_module() -> None:
    """The control of all the above: `package()` finds what pyproject.toml and the folders hold."""
    seen = {source.module for source in package()}
    assert {"soup_git.cli.app", "soup_git.hooks.pre_commit", "soup_git.storage.gitrepo"} <= seen
    folders = {path.parent for path in (ROOT / "soup_git").rglob("*.py")}
    rooms = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert rooms <= set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])  # fmt: skip


# -- what a command loads ---------------------------------------------------------------------

PROBE = """
import runpy, sys
module, sys.argv = sys.argv[1], sys.argv[1:]
code = 0
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as end:
    code = end.code or 0
sys.stdout.flush()
sys.stderr.write("\\nloaded: " + " ".join(sorted({name.partition(".")[0] for name in sys.modules})))
sys.exit(code)
"""


def loaded(
    module: str, *arguments: str, stdin: str = "", env: Mapping[str, str] | None = None
) -> set[str]:
    """Top-level names in `sys.modules` after `python -m module arguments` in a new process."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROBE, module, *arguments],
        env={**os.environ, **(env or {})},
        input=stdin,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.rpartition("loaded: ")[2].split())


@pytest.fixture(scope="module")
def pinned_once(repo_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pinned") / "repo"
    shutil.copytree(repo_template, root, symlinks=True)
    git, soup = runner("git", cwd=root), runner("git", "soup", cwd=root)
    (root / "data").mkdir()
    (root / "data" / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (root / "soup.yaml").write_text("base: tiny/base\ndata:\n  train: data/train.jsonl\n")
    write_adapter(root / "adapters" / "support")
    write_adapter(root / "adapters" / "legal", seed=1)
    soup("add", "adapters/support", "adapters/legal")
    soup("lock", "write", "--base-sha", "a" * 64)
    git("add", "soup.yaml", "soup.lock", "data")
    git("commit", "-qm", "Pin")
    soup("branch", "politer", "--base", "tiny/base")
    return root


@pytest.fixture
def pinned(pinned_once: Path, in_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with two adapters, a dataset in git, a lock, and a second branch."""
    root = in_tmp_path / "pinned"
    shutil.copytree(pinned_once, root, symlinks=True)
    monkeypatch.chdir(root)
    return root


@pytest.mark.parametrize(
    "verb",
    [
        ["branches"],
        ["status"],
        ["lock", "check"],
        ["lock", "check", "--staged"],
        ["log", "--graph"],
        ["tag"],
        ["status", "--format", "json"],  # an option with a value: newer typers load pydantic for it
    ],
)
def test_what_people_type_often_loads_nothing_heavy(verb: list[str], pinned: Path) -> None:
    names = loaded("soup_git", *verb)
    assert "soup_git" in names
    assert "typer" in names
    assert not names & set(HEAVY)


HOOKS = {
    "pre_commit": (),
    "prepare_commit_msg": ("README.md", "message"),
    "commit_msg": ("README.md",),
    "pre_push": ("origin", "../origin.git"),
    "post_checkout": ("HEAD", "HEAD", "1"),
    "post_merge": ("0",),
    "post_rewrite": ("rebase",),
    "diff_driver": ("adapters/legal/adapter.manifest",),  # unmerged: there are no sides
}


def test_every_hook_is_probed() -> None:
    modules = {path.stem for path in (ROOT / "hooks").glob("*.py")}
    assert modules - {"__init__", "manifest_check", "merge_driver"} == set(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_with_nothing_to_do_loads_next_to_nothing(hook: str, pinned: Path, git: Run) -> None:
    (pinned / "notes.txt").write_text("nothing of ours\n")
    git("add", "notes.txt")
    git("update-ref", "ORIG_HEAD", "HEAD")
    head = git("rev-parse", "HEAD").stdout.strip()
    told = f"refs/heads/main {head} refs/heads/main {head}\n"
    names = loaded(f"soup_git.hooks.{hook}", *HOOKS[hook], stdin=told)
    assert "soup_git" in names
    assert not names & {*HEAVY, "typer", "click", "yaml"}


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_with_work_to_do_loads_nothing_heavy(
    hook: str, pinned: Path, git: Run, soup: Run, make_adapter: MakeAdapter
) -> None:
    make_adapter(pinned / "adapters" / "legal", seed=2)
    soup("add", "adapters/legal")
    git("update-ref", "ORIG_HEAD", "HEAD~1")
    arguments = ("HEAD~1", "HEAD", "1") if hook == "post_checkout" else HOOKS[hook]
    (pinned / ".dvc" / "config").write_text(
        f"[core]\n    remote = r\n['remote \"r\"']\n    url = {pinned}/.dvc/cache\n"
    )
    told = f"refs/heads/main {git('rev-parse', 'HEAD').stdout.strip()} refs/heads/main {'0' * 40}\n"
    names = loaded(f"soup_git.hooks.{hook}", *arguments, stdin=told)
    assert "soup_git" in names
    assert not names & {*HEAVY, "typer"}


def test_a_diff_without_weights_to_compute_with_loads_next_to_nothing(
    pinned: Path, git: Run, make_adapter: MakeAdapter
) -> None:
    manifest = "adapters/legal/adapter.manifest"
    other = "adapters/support/adapter.manifest"
    one, two = (git("rev-parse", f":{path}").stdout.strip() for path in (manifest, other))
    sides = (manifest, manifest, one, "100644", other, two, "100644")
    first = loaded("soup_git.hooks.diff_driver", *sides)
    assert "numpy" in first  # the control: the first time, the table is computed
    assert not loaded("soup_git.hooks.diff_driver", *sides) & {*HEAVY, "typer", "yaml"}
    shutil.rmtree(pinned / ".dvc" / "cache")
    for folder in ("legal", "support"):
        (pinned / "adapters" / folder / "adapter_model.safetensors").unlink()
    back = (manifest, other, two, "100644", manifest, one, "100644")
    assert not loaded("soup_git.hooks.diff_driver", *back) & {*HEAVY, "typer", "yaml"}


def test_the_manifest_check_loads_nothing_heavy(pinned: Path) -> None:
    names = loaded("soup_git.hooks.manifest_check", "adapters/legal/adapter.manifest")
    assert not names & {*HEAVY, "typer"}


def test_the_probe_sees_what_is_loaded(pinned: Path, make_adapter: MakeAdapter) -> None:
    """The control of the probes: a verb that computes norms loads numpy, and it shows."""
    make_adapter(pinned / "adapters" / "third", seed=3)
    assert "numpy" in loaded("soup_git", "add", "adapters/third")
