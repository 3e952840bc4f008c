"""`git soup checkout`: what a branch pins comes back whole, or not at all and with a reason."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.two_branches import CONFIG, POLITE_CONFIG, POLITE_ROWS, ROWS, flip

WEIGHTS = "adapters/support/adapter_model.safetensors"
MANIFEST = "adapters/support/adapter.manifest"
ROWS_FILE = "data/train.jsonl"


def md5_of(path: Path | str) -> str:
    return hashlib.md5(Path(path).read_bytes()).hexdigest()


def named_md5() -> str:
    """What the pointer in the work tree says the weights are."""
    pointer = Path(f"{WEIGHTS}.dvc").read_text()
    return pointer.split("md5: ")[1].split()[0]


def commit_all(git: Any, message: str = "Edit without locking") -> None:
    git("commit", "-qam", message, "--no-verify")


# -- what comes back --------------------------------------------------------------------------


def test_config_data_and_adapter_come_back(pinned, soup, git):
    before = md5_of(WEIGHTS)
    done = soup("checkout", "politer")
    assert done.stdout == ""
    assert "Switched to branch 'politer'" in done.stderr
    assert f"restored {WEIGHTS}" in done.stderr
    assert Path("soup.yaml").read_text() == POLITE_CONFIG
    assert Path(ROWS_FILE).read_text() == POLITE_ROWS
    assert md5_of(WEIGHTS) == named_md5() != before
    assert git("status", "--porcelain").stdout == ""
    assert soup("lock", "check").returncode == 0
    soup("checkout", "main")
    assert Path("soup.yaml").read_text() == CONFIG
    assert Path(ROWS_FILE).read_text() == ROWS
    assert md5_of(WEIGHTS) == before
    assert git("status", "--porcelain").stdout == ""


def test_dvc_itself_agrees_with_what_was_restored(pinned, soup, dvc):
    soup("checkout", "politer")
    assert json.loads(dvc("status", "--json").stdout) == {}


def test_a_second_checkout_changes_nothing(pinned, soup, photo):
    before = photo()
    assert "Already on 'main'" in soup("checkout", "main").stderr
    assert photo() == before


def test_from_a_subfolder(pinned, soup):
    soup("checkout", "politer", cwd=pinned / "adapters")
    assert Path(ROWS_FILE).read_text() == POLITE_ROWS
    assert md5_of(WEIGHTS) == named_md5()


def test_an_adapter_that_only_the_other_branch_has_goes_and_comes(pinned, soup, git, make_adapter):
    make_adapter("adapters/extra", seed=5)
    soup("add", "adapters/extra")
    git("commit", "-qm", "Add extra")
    md5 = md5_of("adapters/extra/adapter_model.safetensors")
    soup("checkout", "politer")
    assert not Path("adapters/extra").exists()
    soup("checkout", "main")
    assert md5_of("adapters/extra/adapter_model.safetensors") == md5


def test_in_a_linked_work_tree(pinned, soup, git):
    git("worktree", "add", "-q", "../linked", "--detach", "main")
    linked = pinned.parent / "linked"
    soup("init", cwd=linked)
    soup("checkout", "politer", cwd=linked)
    assert (linked / ROWS_FILE).read_text() == POLITE_ROWS
    assert not (linked / ".dvc" / "cache").exists()
    assert Path(ROWS_FILE).read_text() == ROWS
    done = soup("checkout", "politer", check=False)
    assert done.returncode == 128
    assert "linked" in done.stderr


def test_a_branch_of_a_remote_is_tracked(pinned, soup, git):
    git("clone", "-q", ".", "../clone")
    clone = pinned.parent / "clone"
    soup("init", cwd=clone)
    shutil.copytree(".dvc/cache", clone / ".dvc" / "cache")
    soup("checkout", "politer", cwd=clone)
    assert (clone / ROWS_FILE).read_text() == POLITE_ROWS
    assert git("rev-parse", "--abbrev-ref", "@{upstream}", cwd=clone).stdout == "origin/politer\n"


def test_a_branch_with_a_slash_in_its_name(pinned, soup, git):
    git("branch", "team/politer", "politer")
    soup("checkout", "team/politer")
    assert Path(ROWS_FILE).read_text() == POLITE_ROWS


def test_changes_to_other_files_come_along_as_with_git(pinned, soup, git):
    Path("README.md").write_text("edited\n")
    soup("checkout", "politer")
    assert Path("README.md").read_text() == "edited\n"
    assert git("branch", "--show-current").stdout == "politer\n"


def test_an_uncommitted_new_version_stays_on_the_same_branch(pinned, soup, git, make_adapter):
    make_adapter("adapters/support", seed=9)
    soup("add", "adapters/support")
    md5 = md5_of(WEIGHTS)
    soup("checkout", "main")
    assert named_md5() == md5, "the pointer is the user's change"
    assert md5_of(WEIGHTS) == md5, "and the weights are the ones it names"


def test_an_uncommitted_new_version_is_carried_to_a_branch_as_git_carries_it(
    pinned, soup, git, make_adapter
):
    git("branch", "twin")
    make_adapter("adapters/support", seed=9)
    soup("add", "adapters/support")
    md5 = md5_of(WEIGHTS)
    soup("checkout", "twin")
    assert md5_of(WEIGHTS) == named_md5() == md5


def test_an_untracked_file_with_equal_bytes_is_adopted(pinned, soup, git):
    git("checkout", "-q", "politer")
    Path("notes.txt").write_text("mine\n")
    git("add", "notes.txt")
    git("commit", "-qm", "Add notes")
    soup("checkout", "main")
    Path("notes.txt").write_text("mine\n")
    soup("checkout", "politer")
    assert git("status", "--porcelain").stdout == ""


def test_an_untracked_program_with_equal_bytes_is_adopted(pinned, soup, git):
    git("checkout", "-q", "politer")
    Path("run.sh").write_text("#!/bin/sh\n")
    Path("run.sh").chmod(0o755)
    git("add", "run.sh")
    git("commit", "-qm", "Add a program")
    soup("checkout", "main")
    Path("run.sh").write_text("#!/bin/sh\n")
    soup("checkout", "politer")
    assert git("status", "--porcelain").stdout == ""
    assert os.access("run.sh", os.X_OK)


def test_data_moves_between_git_and_dvc(pinned, soup, git, dvc):
    git("checkout", "-q", "-b", "small")
    dvc("remove", f"{ROWS_FILE}.dvc")
    git("add", "-f", ROWS_FILE, "data")
    soup("lock", "write")
    git("commit", "-qam", "Keep the rows in git")
    for _ in range(2):
        soup("checkout", "main")
        assert Path(ROWS_FILE).read_text() == ROWS
        assert git("status", "--porcelain").stdout == ""
        soup("checkout", "small")
        assert Path(ROWS_FILE).read_text() == ROWS, "equal bytes are not swept away with DVC's copy"
        assert git("status", "--porcelain").stdout == ""


def test_a_dataset_folder_comes_back(pinned, soup, git):
    Path("rows").mkdir()
    for name in ("a.jsonl", "sub/ä b.jsonl"):
        Path("rows", name).parent.mkdir(exist_ok=True)
        Path("rows", name).write_text(f'{{"in": "{name}"}}\n')
    soup("branch", "many", "--dataset", "rows")
    shutil.rmtree("rows")
    soup("checkout", "many")
    assert Path("rows/sub/ä b.jsonl").is_file()
    assert soup("lock", "check").returncode == 0


# -- fetching ---------------------------------------------------------------------------------


@pytest.fixture
def remote(pinned: Path, dvc, git) -> Path:
    """A local DVC remote that has every object; the cache is empty, the work tree is `main`'s."""
    store = pinned.parent / "store"
    dvc("remote", "add", "--quiet", "--default", "store", str(store))
    git("commit", "-qam", "Name a remote")
    git("checkout", "-q", "politer")
    git("-c", "core.editor=true", "cherry-pick", "main")
    git("checkout", "-q", "main")
    dvc("push", "--quiet", "--all-branches")
    shutil.rmtree(pinned / ".dvc" / "cache")
    return store


def test_missing_objects_are_fetched(remote, soup):
    done = soup("checkout", "politer")
    assert "fetching" in done.stderr
    assert Path(ROWS_FILE).read_text() == POLITE_ROWS
    assert md5_of(WEIGHTS) == named_md5()


def test_a_remote_with_other_bytes_is_refused_and_leaves_no_trace(
    remote, soup, photo, refused, git
):
    md5 = hashlib.md5(POLITE_ROWS.encode()).hexdigest()
    flip(remote / "files" / "md5" / md5[:2] / md5[2:])
    before = {k: v for k, v in photo().items() if "/.dvc/cache/" not in k}
    done = soup("checkout", "politer", check=False)
    refused(done, 3, ROWS_FILE, md5)
    assert {k: v for k, v in photo().items() if "/.dvc/cache/" not in k} == before
    # What was fetched wrong is not kept as if it were right: mending the remote is enough.
    flip(remote / "files" / "md5" / md5[:2] / md5[2:])
    soup("checkout", "politer")
    assert Path(ROWS_FILE).read_text() == POLITE_ROWS


def test_what_nobody_has_is_named(pinned, soup, photo, refused, object_of):
    object_of(WEIGHTS).unlink()
    Path(WEIGHTS).unlink()
    before = photo()
    refused(soup("checkout", check=False), 3, WEIGHTS)
    assert photo() == before


# -- refusals: drift ----------------------------------------------------------------------------


def drift_config() -> None:
    Path("soup.yaml").write_text(POLITE_CONFIG.replace("seed: 7", "seed: 8"))


def drift_header() -> None:
    text = Path(MANIFEST).read_text()
    Path(MANIFEST).write_text(text.replace("\nalpha 16\n", "\nalpha 17\n"))


def drift_tensor_line() -> None:
    text = Path(MANIFEST).read_text()
    at = text.rindex("sha256:") + 10
    Path(MANIFEST).write_text(text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :])


def drift_norm() -> None:
    head, _, norm = Path(MANIFEST).read_text().rstrip("\n").rpartition("norm=")
    Path(MANIFEST).write_text(f"{head}norm={float(norm) * 2:.6g}\n")


def drift_weights_line() -> None:
    text = Path(MANIFEST).read_text()
    at = text.index("weights md5:") + len("weights md5:")
    Path(MANIFEST).write_text(text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :])


def drift_adapter_config() -> None:
    path = Path("adapters/support/adapter_config.json")
    path.write_text(path.read_text().replace('"lora_alpha": 16', '"lora_alpha": 32'))


def drift_lock_pin() -> None:
    lock = json.loads(Path("soup.lock").read_text())
    digest = lock["dataset_sha"]
    lock["dataset_sha"] = ("0" if digest[0] != "0" else "1") + digest[1:]
    Path("soup.lock").write_text(json.dumps(lock, indent=2, sort_keys=True))


def drift_lock_syntax() -> None:
    text = Path("soup.lock").read_text()
    Path("soup.lock").write_text(text.replace("{", "[", 1))


def drift_lock_md5() -> None:
    lock = json.loads(Path("soup.lock").read_text())
    lock["dataset_md5"] = "0" * 32
    Path("soup.lock").write_text(json.dumps(lock, indent=2, sort_keys=True))


def drift_dataset_pointer() -> None:
    path = Path(f"{ROWS_FILE}.dvc")
    now = hashlib.md5(POLITE_ROWS.encode()).hexdigest()
    then = hashlib.md5(ROWS.encode()).hexdigest()
    path.write_text(path.read_text().replace(now, then))


def drift_dataset_gone() -> None:
    Path(f"{ROWS_FILE}.dvc").unlink()


DRIFTS: dict[str, tuple[Callable[[], None], str]] = {
    "a byte of the config": (drift_config, "soup.yaml"),
    "the config is gone": (lambda: Path("soup.yaml").unlink(), "soup.yaml"),
    "the manifest's header": (drift_header, MANIFEST),
    "a digest of a tensor line": (drift_tensor_line, MANIFEST),
    "a norm of a tensor line": (drift_norm, MANIFEST),
    "the manifest's weights": (drift_weights_line, MANIFEST),
    "the adapter's config": (drift_adapter_config, MANIFEST),
    "a pin of the lock": (drift_lock_pin, "soup.lock"),
    "the lock's syntax": (drift_lock_syntax, "soup.lock"),
    "the lock's md5": (drift_lock_md5, ROWS_FILE),
    "the dataset's pointer": (drift_dataset_pointer, ROWS_FILE),
    "the dataset is gone": (drift_dataset_gone, ROWS_FILE),
}


@pytest.mark.parametrize("drift", DRIFTS)
def test_a_tip_that_drifted_is_refused_and_named(drift, pinned, soup, git, photo, refused):
    edit, path = DRIFTS[drift]
    soup("checkout", "politer")
    edit()
    commit_all(git)
    git("checkout", "-q", "--force", "main")
    soup("checkout")
    before = photo()
    done = soup("checkout", "politer", check=False)
    refused(done, 3, path, "--force")
    assert photo() == before


@pytest.mark.parametrize("drift", ["a byte of the config", "the lock's syntax", "a norm of a tensor line"])  # fmt: skip
def test_force_takes_a_drifted_tip_as_it_is(drift, pinned, soup, git):
    edit, path = DRIFTS[drift]
    soup("checkout", "politer")
    edit()
    drifted = Path(path).read_bytes()
    commit_all(git)
    git("checkout", "-q", "--force", "main")
    soup("checkout")
    done = soup("checkout", "--force", "politer")
    assert path in done.stderr, "what was taken as it is, is named"
    assert Path(path).read_bytes() == drifted
    assert Path(ROWS_FILE).read_text() == POLITE_ROWS
    assert git("branch", "--show-current").stdout == "politer\n"


@pytest.mark.parametrize("what", [ROWS_FILE, WEIGHTS])
def test_a_flipped_byte_in_the_cache_is_refused_even_by_force(
    what, pinned, soup, git, photo, refused, object_of
):
    soup("checkout", "politer")
    damaged = object_of(what)
    soup("checkout", "main")
    flip(damaged)
    before = photo()
    done = soup("checkout", "politer", check=False)
    refused(done, 3, what)
    assert photo() == before
    assert "--force" not in done.stderr, "force would not help here"
    refused(soup("checkout", "--force", "politer", check=False), 3, what)
    assert photo() == before


def test_the_hint_over_a_damaged_object_works_when_typed(remote, soup, refused):
    soup("checkout", "politer")
    md5 = hashlib.md5(POLITE_ROWS.encode()).hexdigest()
    damaged = Path(".dvc/cache/files/md5", md5[:2], md5[2:])
    soup("checkout", "main")
    flip(damaged)
    done = soup("checkout", "politer", check=False)
    refused(done, 3, ROWS_FILE)
    hint = done.stderr.partition("hint: ")[2].splitlines()[0]
    command = hint.split(", ")[0].split(" && ")[0]
    assert command.startswith("rm ")
    assert os.system(command) == 0
    soup("checkout", "politer")
    assert Path(ROWS_FILE).read_text() == POLITE_ROWS


def test_a_base_model_folder_that_changed_is_refused(pinned, soup, git, photo, refused):
    Path("models/tiny/config.json").write_text("another model\n")
    before = photo()
    refused(soup("checkout", "politer", check=False), 3, "base_model", "models/tiny")
    assert photo() == before
    assert "models/tiny" in soup("checkout", "--force", "politer").stderr


# -- refusals: local changes --------------------------------------------------------------------


def test_changed_data_whose_bytes_are_nowhere_else_stay(pinned, soup, photo, refused):
    Path(ROWS_FILE).write_text("mine\n")
    before = photo()
    refused(soup("checkout", "politer", check=False), 128, ROWS_FILE)
    assert photo() == before


def test_retrained_weights_that_were_not_added_stay(pinned, soup, photo, refused, make_adapter):
    make_adapter("adapters/support", seed=77)
    before = photo()
    refused(soup("checkout", "politer", check=False), 128, WEIGHTS, "git soup add")
    refused(soup("checkout", check=False), 128, WEIGHTS)
    assert photo() == before


def test_a_changed_config_stays(pinned, soup, photo, refused):
    Path("soup.yaml").write_text("base: mine\n")
    before = photo()
    refused(soup("checkout", "politer", check=False), 128, "soup.yaml")
    assert photo() == before


def test_an_untracked_file_in_the_way_stays(pinned, soup, git, photo, refused):
    git("checkout", "-q", "politer")
    Path("notes.txt").write_text("theirs\n")
    git("add", "notes.txt")
    git("commit", "-qm", "Add notes")
    soup("checkout", "main")
    Path("notes.txt").write_text("mine\n")
    before = photo()
    refused(soup("checkout", "politer", check=False), 128, "notes.txt")
    assert photo() == before


def test_an_ignored_file_in_the_way_stays(pinned, soup, git, photo, refused):
    git("checkout", "-q", "politer")
    Path("secret.txt").write_text("theirs\n")
    git("add", "secret.txt")
    git("commit", "-qm", "Add it")
    soup("checkout", "main")
    Path(".git/info/exclude").write_text("secret.txt\n")
    Path("secret.txt").write_text("mine, ignored\n")
    before = photo()
    refused(soup("checkout", "politer", check=False), 128, "secret.txt")
    assert photo() == before


def test_a_refusal_over_one_file_adopts_no_other(pinned, soup, git, photo, refused):
    git("checkout", "-q", "politer")
    for name in ("equal.txt", "other.txt"):
        Path(name).write_text("theirs\n")
    git("add", "equal.txt", "other.txt")
    git("commit", "-qm", "Add two")
    soup("checkout", "main")
    Path("equal.txt").write_text("theirs\n")
    Path("other.txt").write_text("mine\n")
    before = photo()
    refused(soup("checkout", "politer", check=False), 128, "other.txt")
    assert photo() == before


def test_force_gives_up_local_changes_and_says_which(pinned, soup, git, make_adapter):
    Path("soup.yaml").write_text("base: mine\n")
    Path(ROWS_FILE).write_text("mine\n")
    make_adapter("adapters/support", seed=77)
    done = soup("checkout", "--force", "politer")
    for path in ("soup.yaml", ROWS_FILE, WEIGHTS):
        assert path in done.stderr
    assert Path("soup.yaml").read_text() == POLITE_CONFIG
    assert Path(ROWS_FILE).read_text() == POLITE_ROWS
    assert md5_of(WEIGHTS) == named_md5()
    assert git("status", "--porcelain").stdout == ""


# -- bare: repair -------------------------------------------------------------------------------


def test_bare_checkout_with_nothing_to_do_says_so(pinned, soup, photo):
    before = photo()
    done = soup("checkout")
    assert done.stdout == ""
    assert "nothing to repair" in done.stderr
    assert photo() == before


def test_bare_checkout_brings_back_what_was_removed(pinned, soup, photo):
    before = photo()
    shutil.rmtree("adapters")
    shutil.rmtree("data")
    Path("soup.yaml").unlink()
    Path("soup.lock").unlink()
    soup("checkout")
    assert photo() == before


def test_bare_checkout_brings_back_names_that_git_would_quote(
    pinned, soup, git, photo, make_adapter
):
    make_adapter("adaptadores/señal b/one", seed=3)
    soup("add", "adaptadores/señal b/one")
    git("commit", "-qm", "Add one")
    before = photo()
    shutil.rmtree("adaptadores")
    soup("checkout")
    assert photo() == before


def test_bare_checkout_keeps_what_was_staged_and_then_removed(pinned, soup, git, make_adapter):
    make_adapter("adapters/support", seed=9)
    soup("add", "adapters/support")
    staged = git("ls-files", "--stage").stdout
    md5 = md5_of(WEIGHTS)
    shutil.rmtree("adapters")
    soup("checkout")
    assert git("ls-files", "--stage").stdout == staged
    assert md5_of(WEIGHTS) == md5


def test_bare_checkout_after_a_stash(pinned, soup, git, make_adapter):
    old = md5_of(WEIGHTS)
    make_adapter("adapters/support", seed=9)
    soup("add", "adapters/support")
    new = md5_of(WEIGHTS)
    git("stash", "-q")
    soup("checkout")
    assert md5_of(WEIGHTS) == old
    git("stash", "pop", "-q")
    soup("checkout")
    assert md5_of(WEIGHTS) == new == named_md5()


def test_bare_checkout_after_a_cherry_pick_and_a_reset(pinned, soup, git, make_adapter):
    old = md5_of(WEIGHTS)
    git("checkout", "-q", "-b", "side")
    make_adapter("adapters/support", seed=9)
    soup("add", "adapters/support")
    git("commit", "-qm", "Retrain")
    new = md5_of(WEIGHTS)
    soup("checkout", "main")
    git("cherry-pick", "side")
    soup("checkout")
    assert md5_of(WEIGHTS) == new
    git("reset", "-q", "--hard", "HEAD~1")
    soup("checkout")
    assert md5_of(WEIGHTS) == old


def test_bare_checkout_on_a_detached_head(pinned, soup, git):
    git("checkout", "-q", "--detach", "politer")
    Path(WEIGHTS).unlink()
    soup("checkout")
    assert md5_of(WEIGHTS) == named_md5()


def test_bare_checkout_takes_no_damaged_object(pinned, soup, photo, refused, object_of):
    flip(object_of(WEIGHTS))
    Path(WEIGHTS).unlink()
    before = photo()
    refused(soup("checkout", check=False), 3, WEIGHTS)
    assert photo() == before


# -- -o FILE ------------------------------------------------------------------------------------


def test_the_locked_config_alone(pinned, soup, photo):
    before = photo()
    done = soup("checkout", "politer", "-o", "../theirs.yaml")
    assert done.stdout == ""
    assert Path("../theirs.yaml").read_text() == POLITE_CONFIG
    assert photo() == before


def test_the_locked_config_of_a_drifted_tip_is_refused(pinned, soup, git, refused):
    soup("checkout", "politer")
    drift_config()
    commit_all(git)
    soup("checkout", "--force", "main")
    refused(soup("checkout", "politer", "--output", "../x.yaml", check=False), 3, "soup.yaml")
    assert not Path("../x.yaml").exists()
    soup("checkout", "politer", "--force", "-o", "../x.yaml")
    assert "seed: 8" in Path("../x.yaml").read_text()


def test_an_output_that_is_a_folder(pinned, soup, photo, refused):
    before = photo()
    refused(soup("checkout", "politer", "-o", "adapters", check=False), 128, "adapters")
    assert photo() == before


def test_an_output_without_a_branch(pinned, soup, refused):
    refused(soup("checkout", "-o", "x.yaml", check=False), 128, "branch")


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nowhere", "../x", "a..b", "x.lock", "main~0", "main^{tree}", "refs/heads/main", "*", "\x1b[31mred", ""])  # fmt: skip
def test_a_name_that_is_no_branch(name, pinned, soup, photo, refused):
    before = photo()
    done = soup("checkout", name, check=False)
    refused(done, 128)
    assert "\x1b" not in done.stderr
    assert photo() == before


def test_the_original_name_of_force(pinned, soup):
    soup("checkout", "-f", "main")


def test_an_edit_that_the_branch_has_too_is_no_local_change(pinned, soup, git):
    Path("soup.yaml").write_text(POLITE_CONFIG)
    Path(ROWS_FILE).write_text(POLITE_ROWS)
    soup("checkout", "politer")
    assert git("status", "--porcelain").stdout == ""


def test_a_staged_version_under_an_equal_edit_stays(pinned, soup, git, photo, refused):
    Path("soup.yaml").write_text("staged: only here\n")
    git("add", "soup.yaml")
    Path("soup.yaml").write_text(POLITE_CONFIG)
    before = photo()
    refused(soup("checkout", "politer", check=False), 128, "soup.yaml")
    assert photo() == before


def test_a_folder_whose_restoring_was_cut_short_is_finished(pinned, soup, git):
    Path("rows").mkdir()
    for name in "abc":
        with Path("rows", name).open("wb") as file:
            file.write(name.encode())
            file.truncate(20_000_000)
    soup("branch", "many", "--dataset", "rows")
    whole = {p.name: md5_of(p) for p in Path("rows").iterdir()}
    shutil.rmtree("rows")
    soup("checkout", "many")
    Path("rows/b").unlink()
    Path("rows/.soup-killed.tmp").write_bytes(b"half")
    assert git("status", "--porcelain").stdout == ""
    soup("checkout")
    assert {p.name: md5_of(p) for p in Path("rows").iterdir() if p.suffix != ".tmp"} == whole
