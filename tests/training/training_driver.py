"""Runs trainings in processes of their own, and kills some.

The heavy imports happen once; each run is a fork made before torch computed anything.
Called as `python training_driver.py WORKSPACE`, with a JSON list of runs on stdin:
`state` (folder), `overrides`, and when to SIGKILL: `kill_after` seconds, `kill_in_hook`
(at that call of on_checkpoint) or `kill_while_saving` (as soon as a checkpoint is being
written). A job with `probe_within` runs the probe of `git soup profile` instead, with so many
bytes of memory to spare; `search_within` the search for a batch size. Prints a JSON list of {"status", "digest", "steps", "resumed", "metrics"}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


def run(root: Path, job: dict[str, Any]) -> dict[str, Any]:
    result = root / "result.json"
    result.unlink(missing_ok=True)
    state = root / job["state"]
    child = os.fork()
    if not child:
        probes = "probe_within" in job or "search_within" in job
        os._exit(_probe(root, state, job, result) if probes else _train(root, state, job, result))
    began = time.monotonic()
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        late = "kill_after" in job and time.monotonic() - began > job["kill_after"]
        saving = job.get("kill_while_saving") and list((state / "saving").glob("checkpoint-*"))
        if late or saving:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.001)
    code = os.waitstatus_to_exitcode(status)
    done = json.loads(result.read_text()) if result.exists() else {}
    return {"status": code, **done}


def _train(root: Path, state: Path, job: dict[str, Any], result: Path) -> int:
    from soup_git.errors import FatalError
    from soup_git.training.config import load_config
    from soup_git.training.train import train

    calls: list[int] = []

    def hook(step: int, folder: Path, loss: float, learning_rate: float) -> None:
        calls.append(step)
        if len(calls) == job.get("kill_in_hook"):
            os.kill(os.getpid(), signal.SIGKILL)
        if len(calls) == job.get("interrupt_in_hook"):
            os.kill(os.getpid(), signal.SIGINT)

    try:
        config = load_config(root / "soup.yaml", job.get("overrides", []))
        report = train(
            config,
            workspace_root=root,
            output=root / "output",
            state_dir=state,
            on_checkpoint=hook,
        )
    except FatalError as error:
        result.write_text(json.dumps({"error": str(error)}))
        return int(error.code)
    result.write_text(
        json.dumps(
            {
                "digest": report.weights_sha256,
                "steps": report.steps,
                "resumed": report.resumed_from,
                "metrics": report.metrics,
                "curve": (root / "plots" / "loss.csv").read_text(),
                "announced": calls,
            }
        )
    )
    return 0


def _probe(root: Path, state: Path, job: dict[str, Any], result: Path) -> int:
    import resource

    from soup_git.stages import batchsize, probe

    searches = "search_within" in job
    spare = int(job["search_within" if searches else "probe_within"])
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + spare
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    state.mkdir()
    os.chdir(root)
    # The search is told of plenty, so that it is the system that says no.
    sys.argv = ["stage", str(root / job["config"]), str(state), str(1 << 40) if searches else "3"]
    code = int((batchsize if searches else probe).main())
    result.write_bytes((state / "result.json").read_bytes())
    return code


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    from trl import SFTConfig, SFTTrainer  # noqa: F401

    import soup_git.training.loop  # noqa: F401

    root = Path(sys.argv[1])
    results = [run(root, job) for job in json.load(sys.stdin)]
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
