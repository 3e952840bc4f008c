"""Make the golden set of this release: `python -m tests.golden.make`, from the top of the checkout.

A set is a whole workspace as this version writes it (a bundle, the DVC cache, what lies in git's
folder), what its verbs said of it, and every template. It is made once, with the release, and
never changed: later versions read it (tests/test_golden.py).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np

import soup_git
from tests.conftest import FOREIGN, GITCONFIG, PINNED, SCRIPTS, write_adapter
from tests.golden.asked import (
    ANSWERS,
    BUNDLE,
    LOCAL,
    QUESTIONS,
    SETS,
    TEMPLATES,
    answered,
    open_set,
    words_of,
)
from tests.training import tiny_model as tiny
from tests.versions import nudge

_SMALL = {"self_attn.q_proj": (16, 16), "mlp.down_proj": (32, 16)}
_PREFIX = "base_model.model.model.layers.0"
CONFIG = tiny.CONFIG.replace(
    "    r: 4\n    alpha: 8\n", "    r: 2\n    alpha: 4\n    target_modules: [q_proj]\n"
)
JUDGE = """\
case $(grep '^weights' "$1/adapter.manifest") in
*@BAD@*) exit 1 ;;
esac
"""


class Maker:
    """One workspace, and git, git-soup and DVC run in it with a home of its own."""

    def __init__(self, scratch: Path) -> None:
        self.root = scratch / "workspace"
        self.root.mkdir()
        home = scratch / "home"
        home.mkdir()
        (home / ".gitconfig").write_text(GITCONFIG)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        self.environment = {
            **kept, **PINNED, "HOME": str(home), "GIT_CONFIG_GLOBAL": str(home / ".gitconfig"),
            "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def run(self, *words: object, check: bool = True, cwd: Path | None = None):  # type: ignore[no-untyped-def]
        done = subprocess.run(
            [str(word) for word in words], cwd=cwd or self.root, env=self.environment,
            capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if check and done.returncode:
            raise SystemExit(f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def git(self, *words: object, check: bool = True, cwd: Path | None = None):  # type: ignore[no-untyped-def]
        return self.run("git", *words, check=check, cwd=cwd)

    def soup(self, *words: object, check: bool = True, cwd: Path | None = None):  # type: ignore[no-untyped-def]
        return self.run("git", "soup", *words, check=check, cwd=cwd)

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "-qm", message)


def build(maker: Maker) -> None:
    """The whole story: adapters of many kinds, a training, branches, merges, tags, notes, a page."""
    root, git, soup = maker.root, maker.git, maker.soup
    git("init", "-q", "-b", "main")
    tiny.make_base(root / "base")
    (root / ".gitignore").write_text("/base/\n")
    tiny.write_rows(root / "data/train.jsonl", [tiny.conversation(n) for n in range(24)])
    (root / "soup.yaml").write_text(CONFIG)
    soup("init", "--template", "chat")
    adapters(root / "adapters")
    for name in ("rows.jsonl", "folder/a.jsonl", "folder/b c.jsonl"):
        tiny.write_rows(root / "more" / name, [tiny.conversation(n) for n in range(3)])
    maker.run("dvc", "add", "-q", "more/rows.jsonl", "more/folder")
    soup("add", *(f"adapters/{folder.name}" for folder in sorted((root / "adapters").iterdir())))
    soup("lock", "write")
    maker.commit("Track what is there")
    git("tag", "start")
    soup("train")
    maker.commit("Train")
    run = run_of(maker)
    prompts = [{"prompt": s, "expected": s[:3]} for s in tiny.SENTENCES[:3]]
    tiny.write_rows(root / "evals/golden.jsonl", prompts)
    (root / "evals/golden.yaml").write_text(
        "tasks:\n  - {name: words, prompts: golden.jsonl, scoring: loss}\n"
    )
    bad = git("show", f"refs/soup/runs/{run}~1:output/adapter.manifest").stdout
    after = git("show", f"refs/soup/runs/{run}:output/adapter.manifest").stdout
    marks = "*|*".join(t.partition("weights md5:")[2].split()[0] for t in (bad, after))
    (root / "judge.sh").write_text(JUDGE.replace("@BAD@", marks))
    maker.commit("Judge")
    soup("eval", "output", "--suite", "evals/golden.yaml")

    (root / "soup.yaml").write_text(CONFIG.replace("lr: 1e-3", "lr: 2e-3"))
    rows = [tiny.conversation(n) for n in range(2, 26)]
    tiny.write_rows(root / "data/train.jsonl", rows)
    soup("branch", "politer")
    git("checkout", "-q", "--", "soup.yaml", "data")
    soup("checkout", "politer")
    nudge(root / "adapters/support", 3, ["layers.1"])
    soup("add", "adapters/support")
    maker.commit("Be polite")
    soup("checkout", "main")
    nudge(root / "adapters/support", 2, ["layers.0", "layers.1.self_attn"])
    soup("add", "adapters/support")
    maker.commit("Support again")
    soup("pr", "Be polite", "--base", "start", "--head", "politer", "--adapter", "adapters/support")
    sides = ("start:adapters/support", "politer:adapters/support", "main:adapters/support")
    soup("merge", "politer", "-m", "Merge the polite one")
    soup("merge", *sides, "-o", "adapters/tied", "--strategy", "ties", "--density", "0.5")
    soup("merge", *sides, "-o", "adapters/blend", "--strategy", "svd", "--rank", "2")
    soup("add", "adapters/tied", "adapters/blend")
    maker.commit("Blend")
    soup("verify", "--adapter", "adapters/blend")
    soup("tag", "support", "--adapter", "adapters/support")
    soup("tag", "support", "--adapter", "adapters/support", "--as", "prod")
    first = soup("bisect", f"run/{run}", "--eval-command", "sh judge.sh {ckpt}", check=False)
    assert first.returncode == 3, first.stderr
    soup("bisect", "reset")
    # And one that was ended in the middle: the log goes on in a later version.
    (root / "stopped.sh").write_text(
        '[ -e resumed ] || [ ! -e once ] || exit 127\ntouch once\nsh judge.sh "$1"\n'
    )
    maker.commit("A judge that stops")
    ended = soup("bisect", f"run/{run}", "--eval-command", "sh stopped.sh {ckpt}", check=False)
    assert ended.returncode == 128, ended.stderr
    (root / "resumed").touch()


def adapters(folder: Path) -> None:
    """One of each shape of a manifest's header that needs no training."""
    small = {"modules": _SMALL, "rank": 2}
    write_adapter(folder / "support", seed=1, **small)
    write_adapter(folder / "bf16", seed=2, dtype="BF16", **small)
    write_adapter(
        folder / "patterns", seed=3, use_rslora=True, alpha_pattern={"down_proj": 7},
        rank_pattern={"layers.1.mlp.down_proj": 2}, **small,
    )  # fmt: skip
    draws = np.random.default_rng(4)
    magnitudes = {
        f"base_model.model.model.layers.{n}.{module}.lora_magnitude_vector": draws.random(16)
        for n in range(2) for module in _SMALL
    }  # fmt: skip
    write_adapter(folder / "dora", seed=4, use_dora=True, extra_tensors=magnitudes, **small)
    whole = {"base_model.model.score.weight": draws.standard_normal((3, 16))}
    write_adapter(
        folder / "whole", seed=5, modules_to_save=["score"], task_type="SEQ_CLS",
        extra_tensors=whole, **small,
    )  # fmt: skip
    hada = {
        f"{_PREFIX}.self_attn.q_proj.hada_{name}": draws.standard_normal(shape)
        for name, shape in (("w1_a", (16, 2)), ("w1_b", (2, 16)), ("w2_a", (16, 2)), ("w2_b", (2, 16)))
    }  # fmt: skip
    write_adapter(folder / "loha", layers=0, rank=2, extra_tensors=hada, peft_type="LOHA", alpha=4)
    config = folder / "loha/adapter_config.json"
    read = json.loads(config.read_text())
    kept = {
        k: v
        for k, v in read.items()
        if k not in {"lora_alpha", "lora_dropout", "use_rslora", "bias"}
    }
    config.write_text(
        json.dumps({**kept, "alpha": 4, "target_modules": ["q_proj"]}, indent=2, sort_keys=True)
    )


def run_of(maker: Maker) -> str:
    [ref] = maker.git("for-each-ref", "--format=%(refname)", "refs/soup/runs").stdout.split()
    return str(ref).rpartition("/")[2]


def pack(maker: Maker, target: Path) -> None:
    root = maker.root
    maker.git("bundle", "create", "-q", target / BUNDLE, "--all")
    places = [
        ".dvc/cache",
        ".git/soup/objects",
        ".git/soup/scores",
        ".git/SOUP_BISECT_LOG",
        "resumed",
    ]
    archive(target / LOCAL, root, places)


def archive(file: Path, root: Path, places: list[str]) -> None:
    def plain(item: tarfile.TarInfo) -> tarfile.TarInfo:
        item.uid = item.gid = item.mtime = 0
        item.uname = item.gname = ""
        return item

    with tarfile.open(file, "w:gz") as tar:
        for place in places:
            if (root / place).exists():
                tar.add(root / place, place, filter=plain)


def templates(maker: Maker, scratch: Path, target: Path) -> None:
    """What `git soup init --template` writes, of each template there is."""
    from soup_git.core.templates import TEMPLATES as NAMES

    root = scratch / "templates"
    for name in NAMES:
        place = root / name
        place.mkdir(parents=True)
        maker.git("init", "-q", cwd=place)
        maker.soup("init", "--template", name, cwd=place)
        shutil.rmtree(place / ".git")
    archive(target / TEMPLATES, root, sorted(path.name for path in root.iterdir()))


def answers(maker: Maker, scratch: Path, target: Path) -> None:
    """Ask a clone, as the tests of later versions will."""
    place = scratch / "clone"
    open_set(target, place, maker.git, maker.soup)
    run = run_of(maker)
    (target / ANSWERS).mkdir()
    for name in QUESTIONS:
        done = maker.soup(*words_of(name, run, scratch / "out"), check=False, cwd=place)
        if "Traceback" in done.stderr or done.returncode not in {0, 1, 3}:
            raise SystemExit(f"{name}: exit {done.returncode}\n{done.stderr}")
        text = json.dumps(answered(done, scratch), indent=1, sort_keys=True)
        (target / ANSWERS / f"{name}.json").write_text(text + "\n")


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else soup_git.__version__
    target = SETS / name
    if target.exists():
        raise SystemExit(f"{target} is there, and a set is never made again")
    with tempfile.TemporaryDirectory(prefix="soup-golden-") as folder:
        scratch = Path(folder)
        made = scratch / "set"
        made.mkdir()
        maker = Maker(scratch)
        build(maker)
        pack(maker, made)
        templates(maker, scratch, made)
        answers(maker, scratch, made)
        shutil.copytree(made, target)
    print(f"made {target}")


if __name__ == "__main__":
    main()
