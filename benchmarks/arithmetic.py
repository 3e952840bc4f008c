"""Diff and merge of 8B-size adapters, beside PEFT, mergekit, soup-cli and the limit.

    python benchmarks/arithmetic.py [--sizes r16-F32,r16-BF16,…] [--repeat N] [--data DIR]

Every measurement is a process of its own: wall and CPU seconds are the best of its repeats,
memory is the largest anonymous part of the process (mapped input files are not in it). Ours
runs two workers with one BLAS thread each; the peers get two threads. The limit reads the
inputs once and writes as many bytes as the result has. PEFT is given its adapters loaded
and asked for `add_weighted_adapter` alone; ours reads, computes and writes.

The peers are installed into DIR/peers on first use (--no-peers leaves them out).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from adapters8b import LAYERS, MODULES, write_adapter

WEIGHTS = "adapter_model.safetensors"
DENSITY = 0.5
THREADS = 2
PEERS = ("soup-cli==0.77.0", "mergekit==0.1.5")
SIZES = ("r16-F32", "r16-BF16", "r64-F32", "r64-BF16")
# what is measured -> (limit it is compared with, PEFT's, mergekit's, soup-cli's)
ROWS = {
    "diff": ("read2", None, None, "soup:diff"),
    "linear exact": ("copy9", "peft:linear", "mergekit:linear", "soup:linear"),
    "linear factors": ("copy3", "peft:linear", "mergekit:linear", "soup:linear"),
    "ties factors": ("copy3", "peft:ties", "mergekit:ties", "soup:ties"),
    "dare factors": ("copy3", "peft:dare_linear", "mergekit:dare_linear", "soup:dare"),
    "magnitude_prune factors": ("copy3", "peft:magnitude_prune", None, None),
    "svd": ("copy3", "peft:svd", None, None),
    **{
        f"{name} shared": ("copy3", None, None, None)
        for name in ("ties", "dare", "dare_ties", "breadcrumbs", "della")
    },
    "knots": ("copy3", None, None, None),
    "iso_c": ("copy3", None, None, None),
    "tsv_m": ("copy3", None, None, None),
    "slerp": ("copy3", None, None, None),
}


# -- what a child measures --------------------------------------------------------------------


def limit(name: str, data: Path, tag: str) -> Callable[[], None]:
    """read2: both files; copyN: three files, and N thirds of them written."""
    import mmap

    import numpy as np

    files = [data / f"{tag}-{n}" / WEIGHTS for n in ("a", "b", "c")][: 2 if name == "read2" else 3]
    share = 0 if name == "read2" else int(name.removeprefix("copy")) / 3

    def run() -> None:
        for path in files:
            with path.open("rb") as file:
                flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
                mapped = mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ)
                np.bitwise_xor.reduce(np.frombuffer(mapped, np.uint64, len(mapped) // 8))
        if share:
            block = b"\1" * (1 << 20)
            with tempfile.TemporaryFile(dir=data, buffering=0) as out:
                for _ in range(int(files[0].stat().st_size * share) >> 20):
                    out.write(block)

    return run


def ours(name: str, data: Path, tag: str) -> Callable[[], None]:
    from soup_git.arithmetic.elementwise import Settings
    from soup_git.arithmetic.strategies import STRATEGIES
    from soup_git.commands.diff import compare
    from soup_git.storage.mergeinputs import Input, Recipe
    from soup_git.storage.merging import write_merged
    from soup_git.storage.updates import open_adapter

    adapters = [_adapter(data / f"{tag}-{n}") for n in ("a", "b", "c")]
    if name == "diff":
        return lambda: compare(adapters[0], adapters[2])
    strategy, _, space = name.partition(" ")
    recipe = Recipe(strategy, STRATEGIES[strategy], Settings(DENSITY), space or "exact", None)
    count = STRATEGIES[strategy].inputs or 3

    def run() -> None:
        inputs = [Input(open_adapter(a), 1 / count) for a in adapters[:count]]
        with tempfile.TemporaryDirectory(dir=data) as folder:
            write_merged(Path(folder), inputs, recipe, None)

    return run


def _adapter(folder: Path) -> Any:
    """What the resolver returns, without the digests that it has cached by now."""
    from soup_git.core.adapter import parse_adapter_config
    from soup_git.core.manifest import Tensor, make_manifest
    from soup_git.storage.resolver import Adapter
    from soup_git.storage.weights import read_header

    text = (folder / "adapter_config.json").read_bytes()
    config = parse_adapter_config(text, str(folder))
    tensors = [
        Tensor(e.name, e.dtype, e.shape, hashlib.sha256(f"{folder}{e.name}".encode()).hexdigest(), 1.0)
        for e in read_header(folder / WEIGHTS)
    ]  # fmt: skip
    md5 = hashlib.md5(str(folder).encode(), usedforsecurity=False).hexdigest()
    manifest = make_manifest(config, tensors, weights_md5=md5, weights_size=1)
    return Adapter(
        str(folder), "benchmark", str(folder), None, text, config, manifest, folder / WEIGHTS
    )


def peft(name: str, data: Path, tag: str) -> Callable[[], None]:
    """`add_weighted_adapter` alone, on a model whose base weights are never touched."""
    import torch
    from peft import PeftModel

    torch.set_num_threads(THREADS)
    layers = 1 if name == "svd" else LAYERS
    model = _untouched_model(layers, only="k_proj" if name == "svd" else "")
    loaded: Any = None
    for adapter in ("a", "b", "c"):
        folder = str(data / f"{tag}-{adapter}")
        if loaded is None:
            loaded = PeftModel.from_pretrained(model, folder, adapter_name=adapter)
        else:
            loaded.load_adapter(folder, adapter)
    how = {"density": DENSITY} if name not in {"linear", "svd"} else {}

    def run() -> None:
        loaded.add_weighted_adapter(["a", "b", "c"], [1 / 3] * 3, "m", combination_type=name, **how)
        loaded.delete_adapter("m")

    return run


def _untouched_model(layers: int, only: str = "") -> Any:
    import torch

    def linear(rows: int, columns: int) -> Any:
        with torch.device("meta"):
            module = torch.nn.Linear(columns, rows, bias=False)
        return module.to_empty(device="cpu")  # pages that are never written cost nothing

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, (rows, columns) in MODULES.items():
                group, _, leaf = name.partition(".")
                if not hasattr(self, group):
                    setattr(self, group, torch.nn.Module())
                if leaf == only or not only:
                    setattr(getattr(self, group), leaf, linear(rows, columns))

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = torch.nn.Module()
            self.model.layers = torch.nn.ModuleList(Layer() for _ in range(layers))
            self.config = {"model_type": "custom"}

        def prepare_inputs_for_generation(self) -> None:
            """PEFT asks a causal model for this."""

    return Model()


def mergekit(name: str, data: Path, tag: str) -> Callable[[], None]:
    """Its task arithmetic on the factors, tensor by tensor, as a merge of adapters runs it."""
    import torch
    from mergekit.merge_methods.generalized_task_arithmetic import get_mask
    from mergekit.sparsify import RescaleNorm, SparsificationMethod, sparsify
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(THREADS)
    methods = {
        "ties": SparsificationMethod.magnitude,
        "dare_linear": SparsificationMethod.random,
    }

    def merged(tensors: list[Any]) -> Any:
        if name in methods:
            rescale = RescaleNorm.l1 if name == "dare_linear" else None
            tensors = [sparsify(t, DENSITY, methods[name], rescale_norm=rescale) for t in tensors]
        weighted = torch.stack(tensors, 0) / 3
        if name != "ties":
            return weighted.sum(0)
        mask = get_mask(weighted, method="sum", mask_dtype=weighted.dtype)
        return (weighted * mask).sum(0) / (mask / 3).sum(0).clamp(min=1e-8)

    def run() -> None:
        inputs = [load_file(data / f"{tag}-{n}" / WEIGHTS) for n in ("a", "b", "c")]
        out = {key: merged([t[key] for t in inputs]).contiguous() for key in inputs[0]}
        with tempfile.TemporaryDirectory(dir=data) as folder:
            save_file(out, Path(folder) / WEIGHTS)

    return run


def soup(name: str, data: Path, tag: str) -> Callable[[], None]:
    """soup-cli's own command line, in its process, working folder the data's."""
    from soup_cli.cli import app

    os.chdir(data)
    adapters = [f"{tag}-{n}" for n in ("a", "b", "c")]

    def run() -> None:
        with tempfile.TemporaryDirectory(dir=data) as folder:
            if name == "diff":
                arguments = ["adapters", "diff", adapters[0], adapters[2]]
            else:
                out = Path(folder).name
                arguments = ["adapters", "merge", *adapters, "-o", f"{out}/m", "--strategy", name]
                arguments += ["--allow-unscanned"]
            with contextlib.redirect_stdout(io.StringIO()):
                app(arguments, standalone_mode=False)

    return run


SIDES = {"limit": limit, "ours": ours, "peft": peft, "mergekit": mergekit, "soup": soup}


def child(side: str, name: str, data: Path, tag: str, repeat: int) -> dict[str, float]:
    run = SIDES[side](name, data, tag)
    before = _anonymous()
    best = {"wall": float("inf"), "cpu": float("inf")}
    with _peak() as peak:
        for _ in range(repeat):
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            best["wall"] = min(best["wall"], time.perf_counter() - wall)
            best["cpu"] = min(best["cpu"], time.process_time() - cpu)
            if best["wall"] > 20:
                break
    if (side, name) == ("peft", "svd"):
        best = {key: value * _svd_factor() for key, value in best.items()}
    return {**best, "memory": (peak[0] - before) / 1e6}


def _svd_factor() -> float:
    """From k_proj of one layer to all modules: a full SVD is cubic, here taken as m·n·min(m, n)."""

    def cost(rows: int, columns: int) -> int:
        return rows * columns * min(rows, columns)

    return LAYERS * sum(cost(*s) for s in MODULES.values()) / cost(*MODULES["self_attn.k_proj"])


def _anonymous() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


@contextlib.contextmanager
def _peak() -> Iterator[list[int]]:
    peak, done = [_anonymous()], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], _anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


# -- the table --------------------------------------------------------------------------------


def measured(
    python: str, side: str, name: str, data: Path, tag: str, repeat: int
) -> dict[str, float] | None:
    arguments = [python, __file__, "--child", side, name, "--data", str(data), "--sizes", tag]
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "TQDM_DISABLE": "1"}
    done = subprocess.run(
        [*arguments, "--repeat", str(repeat)], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        print(f"{side} {name} {tag}: {done.stderr.strip()[-300:]}", file=sys.stderr)
        return None
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def peers_python(data: Path) -> str:
    """A throw-away environment over this one, with the peers in it."""
    home = data / "peers"
    python = home / "bin" / "python"
    if not python.exists():
        venv.create(home, with_pip=True)
        site = next((home / "lib").glob("python*/site-packages"))
        (site / "outer.pth").write_text(
            "\n".join(p for p in sys.path if p.endswith("site-packages"))
        )
        install = [str(python), "-m", "pip", "install", "-q", "--no-deps"]
        subprocess.run([*install, *PEERS, "immutables", "plotext"], check=True)
    return str(python)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--child", nargs=2)
    options.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "soup-bench")
    options.add_argument("--sizes", default="r16-F32,r16-BF16")
    options.add_argument("--rows", default=",".join(ROWS))
    options.add_argument("--repeat", type=int, default=3)
    options.add_argument("--no-peers", action="store_true")
    given = options.parse_args()
    data = given.data.resolve()
    if given.child:
        print(json.dumps(child(*given.child, data, given.sizes, given.repeat)))
        return
    python = None if given.no_peers else peers_python(data)
    print(f"ours: 2 workers, 1 BLAS thread each; peers: {THREADS} threads; wall (CPU) seconds")
    for tag in given.sizes.split(","):
        rank, dtype = tag[1:].split("-")
        for name in ("a", "b", "c"):
            write_adapter(data / f"{tag}-{name}", name, int(rank), dtype)
        print(
            f"\n{tag}\n{'':24}{'ours':>14}{'MB':>6}  {'x limit':>13}   peers, times as slow as ours"
        )
        cached: dict[str, dict[str, float] | None] = {}
        for row in given.rows.split(","):
            print(_line(row, data, tag, python, given.repeat, cached), flush=True)


def _line(
    row: str, data: Path, tag: str, python: str | None, repeat: int, cached: dict[str, Any]
) -> str:
    bound, *peers = ROWS[row]

    def get(side: str, name: str, interpreter: str) -> Any:
        key = f"{side}:{name}"
        if key not in cached:
            cached[key] = measured(interpreter, side, name, data, tag, repeat)
        return cached[key]

    low, mine = get("limit", bound, sys.executable), get("ours", row, sys.executable)
    if not low or not mine:
        return f"{row:24} failed"
    text = f"{row:24}{mine['wall']:6.2f} ({mine['cpu']:5.2f}){mine['memory']:6.0f}  "
    text += f"{mine['wall'] / low['wall']:5.1f} ({mine['cpu'] / low['cpu']:5.1f})   "
    for peer in peers if python else ():
        if peer:
            side, _, name = peer.partition(":")
            found = get(side, name, python or "")
            times = "failed" if not found else (
                f"{found['wall'] / mine['wall']:.1f} ({found['cpu'] / mine['cpu']:.1f})"
            )  # fmt: skip
            text += f"{side} {times}   "
    return text.rstrip()


if __name__ == "__main__":
    main()
