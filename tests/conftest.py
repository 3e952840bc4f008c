"""What every test stands on: an isolated machine, real repositories, small real adapters.

Tests run `git soup VERB` as a process of its own, the way a user does: the installed console
script of the interpreter that runs them, mostly forked from one that has its imports done
(`warm.py`). Identity and dates are pinned, so whole
outputs and object names can be asserted. Nothing here reaches the network.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.warm import Warm, program_launcher

Run = Callable[..., subprocess.CompletedProcess[str]]
MakeAdapter = Callable[..., Path]

SCRIPTS = Path(sysconfig.get_path("scripts"))
WHEN = "2026-01-02T03:04:05+00:00"

# git's, DVC's, the hub's and Python's variables of the person who runs the tests would leak into
# them; without bytecode every start of ours compiles the package again.
FOREIGN = (
    "GH_", "GIT_", "GITHUB_", "DVC_", "HF_", "HUGGING", "PYTHON", "XDG_", "SOUP_", "TRANSFORMERS_",
)  # fmt: skip
PINNED = {
    "GIT_AUTHOR_NAME": "Ada Author",
    "GIT_AUTHOR_EMAIL": "ada@example.com",
    "GIT_AUTHOR_DATE": WHEN,
    "GIT_COMMITTER_NAME": "Carl Committer",
    "GIT_COMMITTER_EMAIL": "carl@example.com",
    "GIT_COMMITTER_DATE": WHEN,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_EDITOR": "true",
    "GIT_PAGER": "cat",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "TERM": "dumb",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DVC_NO_ANALYTICS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Programs that would fetch something meet a closed door instead of a slow one.
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost,::1",
    "no_proxy": "127.0.0.1,localhost,::1",
}
GITCONFIG = """\
[init]
\tdefaultBranch = main
[advice]
\tdetachedHead = false
[maintenance]
\tauto = false
[gc]
\tauto = 0
"""


@pytest.fixture(scope="session", autouse=True)
def isolated_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A home of its own, pinned identity, `git-soup` on PATH, and no network."""
    home = tmp_path_factory.mktemp("home")
    (home / ".gitconfig").write_text(GITCONFIG)
    patch = pytest.MonkeyPatch()
    # A shell's background job ignores Ctrl-C, and so would all that the tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in list(os.environ):
        if name.startswith(FOREIGN):
            patch.delenv(name)
    for name, value in PINNED.items():
        patch.setenv(name, value)
    patch.setenv("HOME", str(home))
    patch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    # A repository that happens to lie above the temporary folders is not the tests'.
    patch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path_factory.getbasetemp()))
    for variable, folder in (
        ("XDG_CONFIG_HOME", ".config"),
        ("XDG_CACHE_HOME", ".cache"),
        ("XDG_DATA_HOME", ".local/share"),
        ("XDG_STATE_HOME", ".local/state"),
        ("HF_HOME", ".cache/huggingface"),
        ("HF_HUB_CACHE", ".cache/huggingface/hub"),
        ("DVC_SITE_CACHE_DIR", ".cache/dvc-site"),
        ("DVC_GLOBAL_CONFIG_DIR", ".config/dvc"),
        ("DVC_SYSTEM_CONFIG_DIR", ".config/dvc-system"),
    ):
        patch.setenv(variable, str(home / folder))
    patch.setenv("PATH", f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}")
    patch.setattr(socket.socket, "connect", _local_only(socket.socket.connect))
    yield
    patch.undo()


def _local_only(connect: Callable[..., None]) -> Callable[..., None]:
    def guarded(self: socket.socket, address: Any) -> None:
        is_local = self.family == socket.AF_UNIX or address[0] in {"127.0.0.1", "::1", "localhost"}
        if not is_local:
            raise OSError(f"tests do not reach the network: {address}")
        connect(self, address)

    return guarded


# -- running git and git-soup -----------------------------------------------------------------


def runner(*program: str, cwd: Path | None = None) -> Run:
    """A function that runs `program` with arguments; `cwd` is where, unless the call says."""
    default = cwd

    def run(
        *arguments: str | Path,
        check: bool = True,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run in `cwd` (default: the current folder); `check` fails the test with the output."""
        place, environment = cwd or default or Path.cwd(), {**os.environ, **(env or {})}
        words = [str(argument) for argument in arguments]
        if program == ("git", "soup") and _is_plain(environment):
            done = _WARM.run(words, place, environment, stdin or "")
        else:
            done = subprocess.run(
                [*program, *words],
                cwd=place,
                env=environment,
                input=stdin or "",
                capture_output=True,
                text=True,
            )
        if check and done.returncode:
            pytest.fail(
                f"{' '.join([*program, *words])}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done

    return run


def _is_plain(environment: Mapping[str, str]) -> bool:
    """No other installation, and nothing that a Python reads only at its start."""
    first = environment.get("PATH", "").partition(os.pathsep)[0]
    return first == str(SCRIPTS) and not any(name.startswith("PYTHON") for name in environment)


_WARM = Warm("soup")


@pytest.fixture(scope="session", autouse=True)
def warm_soup(isolated_machine: None) -> Iterator[None]:
    yield
    _WARM.stop()


@pytest.fixture(scope="session")
def warm_path(warm_soup: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH on which git and shells find a `git-soup` that needs no start."""
    _WARM.start()
    folder = tmp_path_factory.mktemp("programs")
    program_launcher(folder, "git-soup", "soup_git", _WARM)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test starts in its own empty folder, never in the checkout."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def git(in_tmp_path: Path) -> Run:
    """`git(*arguments, check=True, cwd=None, env=None, stdin=None)`: real git, text output."""
    return runner("git")


@pytest.fixture
def soup(in_tmp_path: Path, git_soup_script: Path) -> Run:
    """`soup(*arguments, …)`: what a user types, `git soup …`, through git and the script."""
    return runner("git", "soup")


@pytest.fixture(scope="session")
def git_soup_script(isolated_machine: None) -> Path:
    """The console script beside the running interpreter."""
    script = SCRIPTS / "git-soup"
    if not script.is_file():
        pytest.fail(f"{script} is missing: pip install -e . into the Python that runs the tests")
    return script


@pytest.fixture(scope="session")
def repo_template(tmp_path_factory: pytest.TempPathFactory, git_soup_script: Path) -> Path:
    root = tmp_path_factory.mktemp("template") / "repo"
    root.mkdir()
    git, soup = runner("git", cwd=root), runner("git", "soup", cwd=root)
    git("init", "-q")
    (root / "README.md").write_text("# A workspace\n")
    git("add", "README.md")
    git("commit", "-qm", "Start")
    soup("init")
    git("commit", "-qm", "Make it a workspace")
    return root


@pytest.fixture
def repo(repo_template: Path, in_tmp_path: Path, git: Run, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A real repository after `git soup init`, with two commits on `main`; the test runs in it."""
    root = in_tmp_path / "repo"
    shutil.copytree(repo_template, root, symlinks=True)
    monkeypatch.chdir(root)
    git("update-index", "-q", "--refresh")
    return root


# -- adapters ---------------------------------------------------------------------------------

_MODULES = {"self_attn.q_proj": (64, 64), "mlp.down_proj": (128, 64)}
"""Module name -> (inputs, outputs)."""


@pytest.fixture(scope="session")
def make_adapter() -> MakeAdapter:
    """`make_adapter(folder, seed=0, rank=8, …)`: a folder as PEFT's `save_pretrained` leaves it."""
    return write_adapter


def write_adapter(
    folder: Path | str,
    *,
    seed: int = 0,
    rank: int = 8,
    alpha: int | None = None,
    dtype: str = "F32",
    layers: int = 2,
    modules: Mapping[str, tuple[int, int]] = _MODULES,
    base: str = "tiny/base",
    scale: float = 1.0,
    extra_tensors: Mapping[str, np.ndarray[Any, Any]] | None = None,
    **config: Any,
) -> Path:
    """Write `adapter_config.json` and `adapter_model.safetensors` into `folder`; return it.

    The factors are standard normal times `scale` from `seed` alone: A is rank × inputs and B
    outputs × rank, both stored as `dtype` (F64, F32, F16 or BF16, truncated to its upper 16
    bits). `alpha` defaults to twice the rank. Further keywords enter the config as they are.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for layer in range(layers):
        for module, (inputs, outputs) in modules.items():
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            a = generator.standard_normal((rank, inputs)) * scale
            b = generator.standard_normal((outputs, rank)) * scale
            tensors[f"{prefix}.lora_A.weight"] = a
            tensors[f"{prefix}.lora_B.weight"] = b
    tensors.update(extra_tensors or {})
    (folder / "adapter_model.safetensors").write_bytes(_safetensors(tensors, dtype))
    body = {
        "base_model_name_or_path": base,
        "bias": "none",
        "lora_alpha": 2 * rank if alpha is None else alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted({module.rpartition(".")[2] for module in modules}),
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
        **config,
    }
    text = json.dumps(body, indent=2, sort_keys=True)
    (folder / "adapter_config.json").write_text(text)
    return folder


_CODES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<f4"}


def _safetensors(tensors: Mapping[str, np.ndarray[Any, Any]], dtype: str) -> bytes:
    """The bytes of a safetensors file; by hand, because numpy has no bfloat16 to give the library."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, tensor in sorted(tensors.items()):
        values = tensor.astype(_CODES[dtype])
        if dtype == "BF16":
            values = (values.view("<u4") >> 16).astype("<u2")
        raw = values.tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data
