"""What a rank cannot hold: said where it is lost, kept where the rank may grow."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.versions import (
    ADAPTER,
    WEIGHTS,
    _sides_template,
    best_of_rank,
    commit_change,
    digests,
    nudge,
    sides,
    two_sides,
)

__all__ = ["_sides_template", "sides"]

BOTH = "model.layers.1.self_attn.q_proj"
PEFT = "base_model.model."


def dense() -> dict[str, np.ndarray]:
    """Module -> s·B·A, rank and alpha by PEFT's rule: the first pattern that matches."""
    config = json.loads(Path(ADAPTER, "adapter_config.json").read_text())
    tensors = load_file(Path(ADAPTER, WEIGHTS))
    found = {}

    def value(key: str, pattern: str, module: str) -> float:
        patterns = config.get(pattern) or {}
        return next(
            (v for k, v in patterns.items() if re.match(rf"(.*\.)?({k})$", module)), config[key]
        )

    for name, a in tensors.items():
        if not name.endswith(".lora_A.weight"):
            continue
        module = name.removeprefix(PEFT).removesuffix(".lora_A.weight")
        rank = value("r", "rank_pattern", module)
        assert a.shape[0] == rank == tensors[name.replace("lora_A", "lora_B")].shape[1]
        alpha = value("lora_alpha", "alpha_pattern", module)
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        b = tensors[name.replace("lora_A", "lora_B")].astype(np.float64)
        found[module] = scale * b @ a.astype(np.float64)
    return found


def is_near(found, wanted) -> None:
    for module, value in wanted.items():
        assert np.linalg.norm(found[module] - value) < 1e-6 * np.linalg.norm(value), module


@pytest.fixture
def unrelated(repo, git, soup, make_adapter):
    """Two sides that were trained from other factors, and their updates."""
    two_sides(
        git, soup, make_adapter,
        lambda: make_adapter(ADAPTER, seed=5), lambda: make_adapter(ADAPTER, seed=6),
    )  # fmt: skip
    ours = dense()
    git("switch", "-q", "politer")
    soup("checkout")
    theirs = dense()
    git("switch", "-q", "main")
    return {module: (ours[module] + theirs[module]) / 2 for module in ours}


def test_what_is_lost_is_said_last_and_the_command_keeps_it(unrelated, git, soup):
    before = git("rev-parse", "HEAD").stdout
    done = git("merge", "politer")
    lines = [line for line in done.stderr.splitlines() if line.startswith("  ")]
    wanted, cut = unrelated, dense()
    git("switch", "-q", "main")
    lost = math.sqrt(
        sum(np.linalg.norm(wanted[m] - best_of_rank(wanted[m], 8)) ** 2 for m in wanted)
    )
    found = re.fullmatch(
        r"  warning: rank 8 cannot hold the result, and (\d+)% of the step is lost; (git reset --keep"
        r" ORIG_HEAD) \(in a conflict git merge --abort\), then (git soup merge --rank grow politer)"
        r" keeps all of it",
        lines[-1],
    )
    assert found, done.stderr
    assert math.sqrt(sum(np.linalg.norm(wanted[m] - cut[m]) ** 2 for m in wanted)) == pytest.approx(
        lost, rel=1e-5
    )
    git(*found[2].split()[1:])
    assert git("rev-parse", "HEAD").stdout == before
    done = soup(*found[3].split()[2:])
    assert "warning" not in done.stderr and "rank 16" in done.stderr
    is_near(dense(), wanted)
    config = json.loads(Path(ADAPTER, "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (16, 32)
    assert git("status", "--porcelain").stdout == ""
    assert len(git("rev-parse", "HEAD^1", "HEAD^2").stdout.split()) == 2
    assert "clean" in soup("fsck").stdout
    assert "identical" in soup("verify").stdout
    assert 'recipe settings {"rank":"grow"}' in Path(ADAPTER, "adapter.manifest").read_text()


def test_two_trainings_that_went_on_from_one_adapter_lose_next_to_nothing(
    repo, git, soup, make_adapter
):
    """To first order their mean is (B + dB)(A + dA), of the rank that it has: nothing to say."""
    two_sides(
        git, soup, make_adapter,
        lambda: nudge(ADAPTER, 2, scale=1e-3), lambda: nudge(ADAPTER, 3, scale=1e-3),
    )  # fmt: skip
    done = git("merge", "politer")
    assert "4 combined" in done.stderr and "lost" not in done.stderr


def test_a_rank_grows_where_it_must_and_patterns_say_so(sides, git, soup):
    kept = digests(ADAPTER)
    ours = dense()
    git("switch", "-q", "politer")
    theirs = dense()
    git("switch", "-q", "main")
    soup("merge", "--rank", "grow", "politer")
    found = dense()
    is_near(found, {BOTH: (ours[BOTH] + theirs[BOTH]) / 2})
    config = json.loads(Path(ADAPTER, "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (8, 16)
    assert list(config["rank_pattern"].values()) == [16]
    assert list(config["alpha_pattern"].values()) == [32]
    same = [name for name, line in digests(ADAPTER).items() if kept[name] == line]
    assert same and all("layers.0" in name for name in same)
    assert f"clean  {ADAPTER}" in soup("status").stdout
    assert "identical" in soup("verify").stdout


def test_rslora_keeps_its_scaling(repo, git, soup, make_adapter):
    two_sides(
        git, soup, make_adapter,
        lambda: nudge(ADAPTER, 2), lambda: nudge(ADAPTER, 3), use_rslora=True, alpha=16,
    )  # fmt: skip
    ours = dense()
    git("switch", "-q", "politer")
    theirs = dense()
    git("switch", "-q", "main")
    soup("merge", "--rank", "grow", "--weights", "1,1", "politer")
    git("switch", "-q", "--detach", "main~1^")
    soup("checkout")
    base = dense()
    git("switch", "-q", "main")
    soup("checkout")
    is_near(dense(), {m: ours[m] + theirs[m] - base[m] for m in ours})


def test_several_revisions_grow_together(unrelated, git, soup, make_adapter):
    git("switch", "-qc", "third", "main~1")
    soup("checkout")
    commit_change(git, soup, lambda: make_adapter(ADAPTER, seed=7), "third")
    third = dense()
    git("switch", "-q", "main")
    soup("merge", "--rank", "grow", "politer", "third")
    is_near(dense(), {m: (2 * unrelated[m] + third[m]) / 3 for m in third})
    assert json.loads(Path(ADAPTER, "adapter_config.json").read_text())["r"] == 24
    assert f"clean  {ADAPTER}" in soup("status").stdout


def test_git_alone_cannot_write_a_config_and_says_so(unrelated, git, soup):
    git("config", "soup.merge.rank", "grow")
    done = git("merge", "politer", check=False)
    assert done.returncode == 1
    assert "soup.merge.rank is grow, and git merge alone cannot write a new rank" in done.stderr
    assert "hint: git merge --abort, then git soup merge REV" in done.stderr
    git("merge", "--abort")
    git("-c", "soup.merge.rank=keep", "merge", "politer")
    git("reset", "-q", "--keep", "ORIG_HEAD")
    soup("merge", "politer")
    is_near(dense(), unrelated)
    # A step that is put elsewhere is no merge: the setting is not asked.
    git("reset", "-q", "--hard", "HEAD^")
    soup("checkout")
    git("cherry-pick", "politer")


def test_a_merge_that_waits_has_its_config_too(unrelated, git, soup):
    soup("merge", "--rank", "grow", "--no-commit", "politer")
    assert json.loads(git("show", f":{ADAPTER}/adapter_config.json").stdout)["r"] == 16
    git("commit", "--no-edit", "-q")
    assert f"clean  {ADAPTER}" in soup("status").stdout
    is_near(dense(), unrelated)


def test_a_step_that_is_cut_comes_with_the_command_that_keeps_it(unrelated, git, soup):
    git("branch", "before")
    done = git("cherry-pick", "politer")
    line = [line for line in done.stderr.splitlines() if line.startswith("  ")][-1]
    assert (
        "of the step is lost; git soup merge OURS THEIRS BASE --weights 1,1,-1 -o DIR keeps" in line
    )
    command = re.search(r"git soup (merge OURS.*) keeps", line)
    names = {"OURS": "before", "THEIRS": "politer", "BASE": "politer~1", "DIR": ADAPTER}
    words = [names.get(word, word) for word in command[1].split()]
    versions = []
    for revision in ("before", "politer", "politer~1"):
        git("switch", "-q", "--detach", revision)
        soup("checkout")
        versions.append(dense())
    git("switch", "-q", "main")
    soup("checkout")
    soup(*words, "--force")
    ours, theirs, base = versions
    is_near(dense(), {m: ours[m] + theirs[m] - base[m] for m in ours})
    soup("add", ADAPTER)
    git("commit", "-qm", "Whole")
    assert f"clean  {ADAPTER}" in soup("status").stdout


def test_a_setting_that_is_none(sides, git):
    done = git("-c", "soup.merge.rank=more", "merge", "politer", check=False)
    assert done.returncode == 1
    assert "soup.merge.rank is 'more': neither keep nor grow" in done.stderr
