"""git's own commands merge adapters: merge, rebase, cherry-pick, revert, stash, merge-tree."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from tests.versions import (
    ADAPTER,
    BOTH,
    THEIRS,
    WEIGHTS,
    _sides_template,
    best_of_rank,
    commit_change,
    digests,
    nudge,
    sides,
    two_sides,
    updates,
)

__all__ = ["_sides_template", "sides"]


@pytest.fixture
def states(sides, git) -> dict[str, dict[str, str]]:
    """The manifest lines of the three versions."""
    lines = {}
    for name, revision in (("base", "main~1"), ("main", "main"), ("politer", "politer")):
        text = git("show", f"{revision}:{ADAPTER}/adapter.manifest").stdout.partition("\n\n")[2]
        lines[name] = {line.split(" ", 1)[0]: line for line in text.splitlines()}
    return lines


def named(revision: str, git) -> dict[str, str]:
    """The weights md5 that each file of a revision names."""
    manifest = git("show", f"{revision}:{ADAPTER}/adapter.manifest").stdout
    pointer = git("show", f"{revision}:{ADAPTER}/{WEIGHTS}.dvc").stdout
    lock = json.loads(git("show", f"{revision}:soup.lock").stdout)
    return {
        "manifest": manifest.partition("\nweights md5:")[2].split()[0],
        "pointer": pointer.partition("md5: ")[2].split()[0].strip("'"),
        "lock": lock["adapters"][ADAPTER],
    }


def one_md5(revision: str, git) -> str:
    found = set(named(revision, git).values())
    assert len(found) == 1, found
    return found.pop()


def md5_of(path: str) -> str:
    return hashlib.md5(Path(path).read_bytes()).hexdigest()


def is_whole(git, soup) -> None:
    assert git("fsck", "--strict", "--no-dangling").returncode == 0
    assert "clean" in soup("fsck").stdout


def test_a_merge_takes_what_one_side_changed_and_combines_what_both_did(
    sides, states, git, soup, dvc
):
    base = git("rev-parse", "--short=7", "main~1").stdout.strip()
    done = git("merge", "politer")
    assert (
        f"4 modules: 2 from main, 1 from politer, 1 combined (linear from merge base {base}, rank 8, residual"
        in done.stderr
    )
    assert f"note: {ADAPTER} was merged, not trained from soup.yaml" in done.stderr
    merged = digests(ADAPTER)
    for name, line in merged.items():
        if "layers.0" in name:
            assert line == states["main"][name] != states["base"][name]
        elif "mlp" in name:
            assert line == states["politer"][name] != states["base"][name]
        else:
            assert line not in {states[version][name] for version in states}
    md5 = one_md5("HEAD", git)
    assert md5_of(f"{ADAPTER}/{WEIGHTS}") == md5
    is_whole(git, soup)
    assert "up to date" in dvc("status").stdout
    assert git("status", "--porcelain").stdout == ""
    assert "merged, not trained from this config" in soup("status").stdout
    assert "identical" in soup("verify").stdout
    blame = git("blame", "-s", f"{ADAPTER}/adapter.manifest").stdout
    assert (
        len({line[:8] for line in blame.splitlines() if "sha256:" in line and "lora" in line}) == 3
    )


def test_the_combined_update_is_base_plus_the_mean_of_both_steps(sides, git):
    found = {}
    for name in ("main~1", "politer", "main"):
        git("checkout", "-q", name)
        found[name] = updates(ADAPTER)
    git("switch", "-q", "main")
    git("merge", "-q", "politer")
    merged = updates(ADAPTER)
    for module, value in merged.items():
        base, ours, theirs = (
            found["main~1"][module],
            found["main"][module],
            found["politer"][module],
        )
        wanted = base + (ours - base) + (theirs - base)
        if BOTH in module:
            wanted = (ours + theirs) / 2
            assert np.linalg.norm(wanted - best_of_rank(wanted, 8)) > 1e-3
            wanted = best_of_rank(wanted, 8)
        assert np.linalg.norm(value - wanted) < 1e-6 * np.linalg.norm(wanted)


def test_strategy_and_weights_are_git_config(sides, git, soup):
    done = git(
        "-c", "soup.merge.strategy=ties", "-c", "soup.merge.weights=mean", "merge", "politer"
    )
    assert "(ties from merge base" in done.stderr
    recipe = Path(ADAPTER, "adapter.manifest").read_text()
    assert 'recipe strategy ties\nrecipe settings {"density":0.5}\n' in recipe
    assert recipe.count("recipe side mean md5:") == 2
    assert "identical" in soup("verify").stdout


def test_merging_back_gives_the_same_adapter(sides, git):
    git("branch", "old")
    git("merge", "-q", "politer")
    there = one_md5("HEAD", git)
    git("switch", "-q", "politer")
    git("merge", "-q", "old")
    assert one_md5("HEAD", git) == there
    assert git("diff", "main", "politer").stdout == ""


@pytest.mark.parametrize("alone", ["adapter.manifest", "*.dvc", "soup.lock"])
def test_each_driver_alone_reaches_the_same_weights(alone, sides, git):
    tree = git("merge-tree", "--write-tree", "main", "politer").stdout.split()[0]
    wanted = one_md5(tree, git)
    for path in Path(".git/soup").iterdir():
        if path.name != "gitconfig":  # which names the driver
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(".dvc/cache/files/md5/" + wanted[:2])
    Path(".git/info/attributes").write_text("* !merge\n" + f"{alone} merge=soup\n")
    done = git("merge-tree", "--write-tree", "main", "politer", check=False)
    tree = done.stdout.split()[0]
    kind = {"adapter.manifest": "manifest", "*.dvc": "pointer", "soup.lock": "lock"}[alone]
    path = {
        "manifest": f"{ADAPTER}/adapter.manifest",
        "pointer": f"{ADAPTER}/{WEIGHTS}.dvc",
        "lock": "soup.lock",
    }[kind]
    assert wanted in git("show", f"{tree}:{path}").stdout
    assert Path(f".dvc/cache/files/md5/{wanted[:2]}/{wanted[2:]}").is_file()


def test_a_dry_run_for_a_pull_request_touches_nothing(sides, git):
    before = git("for-each-ref").stdout + git("status", "--porcelain").stdout
    tree = git("merge-tree", "--write-tree", "main", "politer").stdout.strip()
    assert git("for-each-ref").stdout + git("status", "--porcelain").stdout == before
    git("merge", "-q", "politer")
    assert git("rev-parse", "HEAD^{tree}").stdout.strip() == tree


def test_rebase(sides, git, soup):
    git("switch", "-q", "politer")
    done = git("rebase", "main")
    assert "1 from theirs" in done.stderr + done.stdout
    assert md5_of(f"{ADAPTER}/{WEIGHTS}") == one_md5("HEAD", git)
    is_whole(git, soup)
    git("switch", "-q", "main")
    assert git("merge", "--ff-only", "politer").returncode == 0


def test_cherry_pick_leaves_weights_that_checkout_repairs(sides, git, soup):
    git("cherry-pick", "politer")
    md5 = one_md5("HEAD", git)
    soup("checkout")
    assert md5_of(f"{ADAPTER}/{WEIGHTS}") == md5
    is_whole(git, soup)


def test_a_commit_on_no_branch_can_be_picked(sides, git):
    tip = git("rev-parse", "politer").stdout.strip()
    git("branch", "-qD", "politer")
    git("cherry-pick", tip)
    one_md5("HEAD", git)


def test_revert_takes_one_step_back_out(sides, git, soup):
    commit_change(git, soup, lambda: nudge(ADAPTER, 4, [BOTH]), "A third training")
    git("revert", "--no-edit", "HEAD~1")
    one_md5("HEAD", git)
    soup("checkout")
    is_whole(git, soup)
    wanted = git("show", f"main~3:{ADAPTER}/adapter.manifest").stdout
    for name, line in digests(ADAPTER).items():
        if "layers.0" in name:
            assert line in wanted


def test_stash_pop(sides, git, soup):
    git("switch", "-q", "politer")
    nudge(ADAPTER, 7, ["layers.0"])
    soup("add", ADAPTER)
    git("stash", "-q")
    git("switch", "-q", "main")
    git("stash", "pop")
    soup("checkout")
    manifest = Path(ADAPTER, "adapter.manifest").read_text()
    assert md5_of(f"{ADAPTER}/{WEIGHTS}") in manifest
    assert "recipe origin" in manifest
    assert "clean  adapters/support" in soup("status").stdout


def test_criss_cross(sides, git, soup):
    main, politer = (git("rev-parse", name).stdout.strip() for name in ("main", "politer"))
    git("merge", "-q", politer)
    git("switch", "-q", "politer")
    git("merge", "-q", main)
    commit_change(git, soup, lambda: nudge(ADAPTER, 11, THEIRS), "politer again")
    git("switch", "-q", "main")
    commit_change(git, soup, lambda: nudge(ADAPTER, 12, [BOTH]), "main again")
    assert len(git("merge-base", "--all", "main", "politer").stdout.split()) == 2
    git("merge", "-q", "politer")
    one_md5("HEAD", git)
    is_whole(git, soup)


def test_a_linked_work_tree_shares_weights_and_index(sides, git, soup):
    git("worktree", "add", "-q", "../politer", "politer")
    there = sides.parent / "politer"
    git("merge", "-q", "main", cwd=there)
    assert md5_of(there / ADAPTER / WEIGHTS) == one_md5("politer", git)
    is_whole(git, soup)


def test_a_rename_on_one_side_is_followed(sides, git, soup):
    git("mv", "adapters/support", "adapters/help")
    git("commit", "-qm", "Rename")
    git("merge", "-q", "politer", check=False)
    pointer = Path(f"adapters/help/{WEIGHTS}.dvc").read_text()
    manifest = Path("adapters/help/adapter.manifest").read_text()
    assert pointer.partition("md5: ")[2].split()[0] in manifest
    assert "recipe origin" in manifest


# -- conflicts --------------------------------------------------------------------------------


def conflict(git, soup, *words: str) -> str:
    """A merge that is an ordinary conflict, and that `git merge --abort` takes back whole."""
    before = git("rev-parse", "HEAD").stdout, Path(ADAPTER, WEIGHTS).read_bytes()
    done = git("merge", "politer", check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    text = Path(ADAPTER, "adapter.manifest").read_text()
    assert "<<<<<<< " in text and "\n>>>>>>> " in text
    assert f"conflict  {ADAPTER}" in soup("status").stdout
    # A side taken as the hint says is whole: its config is not the other's.
    git("checkout", "HEAD", "--", ADAPTER)
    assert f"clean  {ADAPTER}" in soup("status").stdout
    git("merge", "--abort")
    assert (git("rev-parse", "HEAD").stdout, Path(ADAPTER, WEIGHTS).read_bytes()) == before
    assert git("status", "--porcelain").stdout == ""
    return text


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"rank": 4}, "rank is 8 and 4, and both sides changed the weights"),
        ({"base": "other/base"}, "the base model differs: tiny/base and other/base"),
    ],
)
def test_a_config_that_clashes_is_an_ordinary_conflict(change, word, repo, git, soup, make_adapter):
    two_sides(
        git, soup, make_adapter,
        lambda: nudge(ADAPTER, 2), lambda: make_adapter(ADAPTER, seed=9, **change),
    )  # fmt: skip
    text = conflict(git, soup, word, "hint: ")
    assert f"# conflict: hint: git checkout HEAD -- {ADAPTER} takes ours" in text


def test_a_conflict_shows_how_far_the_sides_are_apart(repo, git, soup, make_adapter):
    two_sides(
        git, soup, make_adapter,
        lambda: nudge(ADAPTER, 2), lambda: make_adapter(ADAPTER, seed=1, alpha=64),
    )  # fmt: skip
    git("switch", "-q", "politer")
    commit_change(git, soup, lambda: nudge(ADAPTER, 3), "more")
    git("switch", "-q", "main")
    text = conflict(git, soup, "alpha is 16 and 64")
    assert "# conflict: ours -> theirs   base tiny/base   4 modules, 4 changed" in text
    assert "# conflict: module" in text


def test_a_module_that_one_side_deleted_and_the_other_trained(repo, git, soup, make_adapter):
    two_sides(
        git, soup, make_adapter,
        lambda: nudge(ADAPTER, 2, ["mlp"]),
        lambda: make_adapter(ADAPTER, seed=1, modules={"self_attn.q_proj": (64, 64)}),
    )  # fmt: skip
    conflict(
        git,
        soup,
        "model.layers.0.mlp.down_proj and 1 more: deleted on one side and changed on the other",
    )


def test_an_adapter_that_one_side_deleted(sides, git, soup):
    git("rm", "-rq", ADAPTER)
    soup("lock", "write", "--base-sha", "a" * 64)
    git("commit", "-qam", "Drop it")
    done = git("merge", "politer", check=False)
    assert done.returncode == 1
    assert "modify/delete" in done.stdout
    git("merge", "--abort")
    is_whole(git, soup)


def test_both_added_it_and_there_is_nothing_to_start_from(repo, git, soup, make_adapter):
    git("switch", "-qc", "politer")
    commit_change(git, soup, lambda: make_adapter(ADAPTER, seed=2), "theirs")
    git("switch", "-q", "main")
    commit_change(git, soup, lambda: make_adapter(ADAPTER, seed=1), "ours")
    conflict(git, soup, "no common version", "hint: git soup merge A B -o DIR")


def test_weights_that_nobody_has_are_a_conflict_with_the_way_out(sides, git, soup):
    md5 = named("politer", git)["pointer"]
    place = Path(f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}")
    place.rename("elsewhere")
    done = git("merge", "politer", check=False)
    assert done.returncode == 1
    assert f"md5:{md5}" in done.stderr
    assert "hint: git merge --abort, git soup pull" in done.stderr
    assert "Traceback" not in done.stderr
    git("merge", "--abort")
    Path("elsewhere").rename(place)
    git("merge", "-q", "politer")
    is_whole(git, soup)


def test_weights_that_rotted_are_not_merged(sides, git, soup):
    md5 = named("politer", git)["pointer"]
    place = Path(f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}")
    data = bytearray(place.read_bytes())
    data[-5] ^= 1
    place.unlink()
    place.write_bytes(bytes(data))
    done = git("merge", "politer", check=False)
    assert done.returncode == 1
    assert "damaged" in done.stderr


def test_a_manifest_edited_by_hand_is_a_conflict(sides, git, soup):
    path = Path(ADAPTER, "adapter.manifest")
    path.write_text(path.read_text().replace("alpha 16", "alpha sixteen"))
    git("commit", "-qam", "edit", "--no-verify")
    done = git("merge", "politer", check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_strategy_that_is_none(sides, git):
    done = git("-c", "soup.merge.strategy=tie", "merge", "politer", check=False)
    assert done.returncode == 1
    assert "soup.merge.strategy is 'tie'" in done.stderr
    assert "hint: git soup merge --list" in done.stderr


def test_a_conflict_left_in_a_manifest_is_named_by_its_readers(sides, git, soup):
    git("-c", "soup.merge.weights=x", "merge", "politer", check=False)
    git("add", "--all")
    done = git("commit", "-qm", "oops", check=False)
    assert done.returncode != 0
    assert "conflict" in done.stderr
    assert "git checkout HEAD -- " in done.stderr


def test_a_colleague_without_the_driver_gets_a_conflict_that_says_so(sides, git, soup):
    git("config", "--file", ".git/soup/gitconfig", "--remove-section", "merge.soup")
    assert git("merge", "politer", check=False).returncode == 1
    assert "conflict" in soup("status").stdout
    assert "merge.soup.driver" in soup("init", "--check", check=False).stdout


# -- a driver that dies -----------------------------------------------------------------------


@pytest.mark.parametrize("after", [0.15, 0.4])
def test_a_killed_merge_can_be_aborted_and_typed_again(after, sides, git, soup):
    process = subprocess.Popen(
        ["git", "merge", "politer"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    time.sleep(after)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for lock in Path(".git").rglob("*.lock"):
        lock.unlink()
    is_whole(git, soup)
    if Path(".git/MERGE_HEAD").exists():
        git("merge", "--abort")
    git("reset", "-q", "--hard", "main")
    git("merge", "-q", "politer")
    soup("checkout")
    one_md5("HEAD", git)
    is_whole(git, soup)
    # git hands a driver its texts in files at the top, and a killed git leaves them there.
    left = git("status", "--porcelain").stdout.splitlines()
    assert all(line.startswith("?? .merge_file_") for line in left)


def test_a_driver_that_is_killed_is_a_conflict_or_an_error_and_never_half_a_merge(sides, git, soup):
    git("config", "merge.soup.driver", "kill -9 $$")
    before = git("rev-parse", "HEAD").stdout
    done = git("merge", "politer", check=False)
    assert done.returncode != 0
    git("merge", "--abort", check=False)
    git("reset", "-q", "--hard")
    assert git("rev-parse", "HEAD").stdout == before
    is_whole(git, soup)


# -- what it loads ----------------------------------------------------------------------------

PROBE = """
import sys
from pathlib import Path
from soup_git.commands.mergedriver import drive
code = drive(*map(Path, sys.argv[1:4]), sys.argv[4])
heavy = {"numpy", "typer", "click", "pydantic", "dvc", "torch", "yaml"} & set(sys.modules)
print(code, sorted(heavy))
"""


def drive(name: str, *texts: str) -> str:
    import sys

    files = [Path(f"../{part}") for part in ("o", "a", "b")]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    theirs = subprocess.check_output(["git", "rev-parse", "politer"], text=True).strip()
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROBE, *map(str, files), name],
        capture_output=True, text=True, env={**os.environ, f"GITHEAD_{theirs}": "politer"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_driver_without_weights_to_compute_loads_nothing_heavy(sides, git):
    def at(revision: str, path: str) -> str:
        return git("show", f"{revision}:{path}").stdout

    manifest, pointer = f"{ADAPTER}/adapter.manifest", f"{ADAPTER}/{WEIGHTS}.dvc"
    for path in (manifest, pointer, "soup.lock"):
        base, ours = at("main~1", path), at("main", path)
        assert drive(path, base, ours, base) == "0 []"
    assert "numpy" in drive(
        manifest, at("main~1", manifest), at("main", manifest), at("politer", manifest)
    )
    # What the first driver computed, the others find.
    for path in (manifest, pointer, "soup.lock"):
        assert drive(path, at("main~1", path), at("main", path), at("politer", path)) == "0 []"


# -- datasets and results ---------------------------------------------------------------------


def test_a_datasets_pointer_merges_as_text(sides, git, dvc, soup):
    for branch, rows in (("main", "a\n"), ("politer", "b\n")):
        git("switch", "-q", branch)
        Path("rows.jsonl").write_text(rows)
        dvc("add", "--quiet", "rows.jsonl")
        git("add", "--all")
        git("commit", "-qm", "rows")
    git("switch", "-q", "main")
    done = git("merge", "politer", check=False)
    assert done.returncode == 1
    assert "<<<<<<< ours" in Path("rows.jsonl.dvc").read_text()
    assert "conflict in rows.jsonl.dvc" in done.stderr
    git("merge", "--abort")


def test_metrics_and_plots_keep_ours(sides, git):
    Path("plots").mkdir()
    for branch in ("main", "politer"):
        git("switch", "-q", branch)
        Path("plots").mkdir(exist_ok=True)
        Path("metrics.json").write_text(json.dumps({"loss": branch}))
        Path("plots/loss.csv").write_text(f"{branch}\n")
        git("add", "--all")
        git("commit", "-qm", "results")
    git("switch", "-q", "main")
    git("merge", "-q", "politer")
    assert json.loads(Path("metrics.json").read_text()) == {"loss": "main"}
    assert Path("plots/loss.csv").read_text() == "main\n"


def test_weights_that_two_manifests_describe_are_told_apart_by_what_is_merged(sides, git, soup):
    """Alpha was changed once, the weights were not: their md5 alone does not say which adapter."""
    git("switch", "-qc", "stronger", "main~1")
    for name in ("adapter.manifest", "adapter_config.json"):
        path = Path(ADAPTER, name)
        text = path.read_text().replace("alpha 16", "alpha 32").replace("alpha=16", "alpha=32")
        path.write_text(text.replace('"lora_alpha": 16', '"lora_alpha": 32'))
    git("commit", "-qam", "Stronger")
    git("branch", "other")
    commit_change(git, soup, lambda: nudge(ADAPTER, 21, [BOTH]), "ours")
    git("switch", "-q", "other")
    commit_change(git, soup, lambda: nudge(ADAPTER, 22, [BOTH]), "theirs")
    git("merge", "-q", "stronger")
    one_md5("HEAD", git)
    assert "alpha 32" in Path(ADAPTER, "adapter.manifest").read_text()
    git("reset", "-q", "--hard", "HEAD~1")
    done = git("cherry-pick", "stronger", check=False)
    assert done.returncode == 1
    assert "2 manifests that differ describe the weights" in done.stderr


# -- configs ----------------------------------------------------------------------------------


def rewritten(**values: object) -> None:
    path = Path(ADAPTER, "adapter_config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}, indent=2))


def config_sides(git, soup, make_adapter, ours: dict[str, object], theirs: dict[str, object]):
    """Both sides retrained, and wrote a config of their own."""

    def trained(seed: int, values: dict[str, object]):
        def change() -> None:
            nudge(ADAPTER, seed)
            rewritten(**values)

        return change

    two_sides(git, soup, make_adapter, trained(2, ours), trained(3, theirs))


def test_the_order_in_which_peft_wrote_a_set_is_no_conflict(repo, git, soup, make_adapter):
    config_sides(
        git, soup, make_adapter,
        {"target_modules": ["down_proj", "q_proj"], "peft_version": "0.21.2"},
        {"target_modules": ["q_proj", "down_proj"], "peft_version": "0.21.10", "auto_mapping": None},
    )  # fmt: skip
    git("merge", "politer")
    text = Path(ADAPTER, "adapter_config.json").read_text()
    found = json.loads(text)
    assert found["target_modules"] == ["down_proj", "q_proj"]
    assert found["peft_version"] == "0.21.10"
    assert text == json.dumps(found, indent=2, sort_keys=True)
    assert f"clean  {ADAPTER}" in soup("status").stdout
    is_whole(git, soup)
    merged = git("rev-parse", f"HEAD:{ADAPTER}/adapter_config.json").stdout
    git("switch", "-q", "politer")
    git("merge", "main~1")
    assert git("rev-parse", f"HEAD:{ADAPTER}/adapter_config.json").stdout == merged


def test_what_both_wrote_differently_is_a_conflict_in_that_line_alone(
    repo, git, soup, make_adapter
):
    config_sides(
        git, soup, make_adapter,
        {"lora_dropout": 0.1, "target_modules": ["q_proj", "down_proj"]},
        {"lora_dropout": 0.2, "target_modules": ["down_proj", "q_proj"], "r": 8},
    )  # fmt: skip
    done = git("merge", "politer", check=False)
    assert done.returncode == 1
    assert "adapter_config.json: both sides changed lora_dropout" in done.stderr
    path = Path(ADAPTER, "adapter_config.json")
    marked = path.read_text()
    inside = marked.partition("<<<<<<< ours\n")[2].partition(">>>>>>>")[0].splitlines()
    assert [line.strip() for line in inside] == [
        '"lora_dropout": 0.1,', "=======", '"lora_dropout": 0.2,',
    ]  # fmt: skip
    # Resolved as any text: the rest agrees with the manifest.
    lines = [li for li in marked.splitlines() if li[:7] not in {"<<<<<<<", "=======", ">>>>>>>"}]
    lines.remove('  "lora_dropout": 0.2,')
    path.write_text("\n".join(lines))
    git("add", ADAPTER)
    git("commit", "-qm", "Join")
    soup("checkout")
    assert f"clean  {ADAPTER}" in soup("status").stdout


def test_a_config_that_is_no_json_merges_line_by_line(repo, git, soup, make_adapter):
    two_sides(git, soup, make_adapter, lambda: nudge(ADAPTER, 2), lambda: nudge(ADAPTER, 3))
    Path("adapter_config.json").write_text("1\n2\n3\n4\n")
    git("add", ".")
    git("commit", "-qm", "no adapter's")
    git("branch", "other")
    Path("adapter_config.json").write_text("one\n2\n3\n4\n")
    git("commit", "-qam", "ours")
    git("switch", "-q", "other")
    Path("adapter_config.json").write_text("1\n2\n3\nfour\n")
    git("commit", "-qam", "theirs")
    git("merge", "main")
    assert Path("adapter_config.json").read_text() == "one\n2\n3\nfour\n"


def test_several_revisions_merge_their_configs_by_meaning(repo, git, soup, make_adapter):
    config_sides(
        git, soup, make_adapter,
        {"target_modules": ["down_proj", "q_proj"], "peft_version": "0.20.0"},
        {"target_modules": ["q_proj", "down_proj"], "peft_version": "0.21.0"},
    )  # fmt: skip
    git("branch", "third", "main~1")
    git("switch", "-q", "third")
    soup("checkout")
    commit_change(git, soup, lambda: (nudge(ADAPTER, 4), rewritten(peft_version="0.19.0")), "third")
    git("switch", "-q", "main")
    soup("merge", "politer", "third")
    found = json.loads(Path(ADAPTER, "adapter_config.json").read_text())
    assert found["peft_version"] == "0.21.0"
    assert f"clean  {ADAPTER}" in soup("status").stdout


@pytest.mark.parametrize("init", ["pissa", "olora", "corda", "loftq", "lora_ga"])
@pytest.mark.parametrize("of", [("theirs",), ("origin", "ours", "theirs")])
def test_factors_of_a_base_that_was_moved_are_not_combined(of, init, repo, git, soup, make_adapter):
    values = {
        side: {"init_lora_weights": init if side in of else True} for side in ("ours", "theirs")
    }

    def trained(seed: int, side: str):
        return lambda: (nudge(ADAPTER, seed), rewritten(**values[side]))

    origin = {"init_lora_weights": init} if "origin" in of else {}
    two_sides(git, soup, make_adapter, trained(2, "ours"), trained(3, "theirs"), **origin)
    text = conflict(
        git, soup, f"initialised with {init}, which changes the base too",
        "hint: save it as a plain LoRA: save_pretrained",
    )  # fmt: skip
    assert "its factors are compared, which are not its update" in text
    done = git("cherry-pick", "politer", check=False)
    assert done.returncode == 1 and f"initialised with {init}" in done.stderr
    git("cherry-pick", "--abort")
    notes = json.loads(soup("diff", "main", "politer", "--json").stdout)["summary"]["notes"]
    assert f"politer was initialised with {init}, which changes the base too" in notes[-1]


def test_one_side_alone_may_have_moved_the_base(repo, git, soup, make_adapter):
    two_sides(
        git, soup, make_adapter,
        lambda: Path("other").write_text("x"),
        lambda: (nudge(ADAPTER, 3), rewritten(init_lora_weights="pissa")),
    )  # fmt: skip
    git("merge", "-q", "politer")
    assert 'init_lora_weights "pissa"' in Path(ADAPTER, "adapter.manifest").read_text()
    assert f"clean  {ADAPTER}" in soup("status").stdout
