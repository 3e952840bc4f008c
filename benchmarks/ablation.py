"""What running only the changed layers saves, and whether bisect and blame find what was planted.

    python benchmarks/ablation.py [--quick]

The first part times leave-one-out over all modules of a random 12-layer Llama with and
without the reuse of layers, and compares every number. The second plants a regression: a
sequence of checkpoints with one module spoiled from some step on; `bisect --metric` has to
find the step and blame the module, 20 seeds of 20.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.evaluation import planted, small_lora  # noqa: E402
from tests.training import tiny_model as tiny  # noqa: E402


def reuse(folder: Path, layers: int, width: int, rows: int) -> None:
    """CPU seconds of the exact pass, both ways; best of two."""
    from soup_git.evaluation.ablation import Ablation
    from soup_git.evaluation.ablationparts import MODULE, parts_of
    from soup_git.evaluation.lossrows import as_data, load_rows
    from soup_git.evaluation.removal import adapted
    from soup_git.evaluation.runner import BaseChoice, Runner
    from tests.evaluation.test_ablation import candidate

    base = small_lora.make_base(folder / "base", layers, width)
    lora = small_lora.make_lora(folder / "lora", base, 1, scale=0.02)
    data = tiny.write_rows(folder / "rows.jsonl", [tiny.conversation(n) for n in range(rows)])
    with Runner(BaseChoice(str(base)), folder, threads=1) as runner:
        sequences = runner.encode([as_data(row, chat=True) for row in load_rows(data, data.name)])
        with runner.using(candidate(lora)) as model:
            target = adapted(model.model, "lora", model.model.active_adapter)
            parts = parts_of(list(target.modules), MODULE, [])
            seconds, effects = {}, {}
            for way in (False, True):
                with Ablation(target, model, sequences, parts, reuse=way) as job:
                    plan = job.plan(86400.0, job.clock())
                    times = []
                    for _ in range(2):
                        started = time.process_time()
                        outcome = job.run(plan)
                        times.append(time.process_time() - started)
                seconds[way] = min(times)
                effects[way] = {part.name: part.effect or 0.0 for part in outcome.parts}
    apart = max(abs(effects[True][name] - effects[False][name]) for name in effects[True])
    print(
        f"{layers} layers, width {width}, {len(parts)} modules, {rows} rows:"
        f" naive {seconds[False]:.2f} s, reusing layers {seconds[True]:.2f} s CPU,"
        f" {seconds[False] / seconds[True]:.2f}x; effects differ by {apart:.1e} at most"
    )


def search(folder: Path, seeds: int) -> bool:
    """Plant, bisect by the metric, blame; whether all of them were found."""
    from soup_git.commands import bisect, bisectblame
    from soup_git.storage.workspace import Workspace

    subprocess.run(["git", "init", "-q", folder], check=True)
    subprocess.run(["git-soup", "init"], cwd=folder, check=True, capture_output=True)
    os.chdir(folder)
    planted.make_workspace(folder)
    right_step, right_module, probes, started = 0, 0, 0, time.process_time()
    for seed in range(seeds):
        case = planted.plant(folder, seed, count=16)
        specs = [f"./{c.relative_to(folder)}" for c in case.checkpoints]
        request = bisect.Request(
            specs, metric="support.loss", drop="0.02", suite=folder / "suite.yaml"
        )
        workspace = Workspace.open()
        report = bisect.bisect(workspace, request)
        report = bisectblame.then_blame(workspace, request, report, None)
        found = str(report.first_broken)
        step_is_right = found.endswith(case.broken.name)
        module = report.blame.modules[0].name if report.blame else None
        right_step += step_is_right
        right_module += module == case.module
        probes += report.probes
        if module != case.module or not step_is_right:
            print(f"seed {seed}: {found} {module}, planted {case.broken.name} {case.module}")
    print(
        f"planted regressions: step found {right_step} of {seeds}, module {right_module} of"
        f" {seeds}; {probes / seeds:.1f} probes of 16 checkpoints,"
        f" {(time.process_time() - started) / seeds:.1f} s CPU each, blame included"
    )
    return right_step == right_module == seeds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small model, three seeds")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as name:
        # 12 layers, as wide as fits a minute: in a narrower one Python is what takes the time.
        reuse(Path(name) / "reuse", *((8, 64, 8) if quick else (12, 192, 16)))
        (Path(name) / "search").mkdir()
        everything = search(Path(name).resolve() / "search", 3 if quick else 20)
    return 0 if everything else 1


if __name__ == "__main__":
    sys.exit(main())
