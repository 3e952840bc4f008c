"""`git soup status`: what git cannot see: clean, modified, missing, drifted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.two_branches import CONFIG

WEIGHTS = "adapters/support/adapter_model.safetensors"


def states(soup) -> dict[str, str]:
    done = soup("status", "--json")
    report = json.loads(done.stdout)
    assert done.stdout == json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert report["schema"] == "soup.status/1"
    found = {item["path"]: item["state"] for item in [*report["adapters"], *report["data"]]}
    return {**found, "lock": report["lock"]}


CLEAN = {"adapters/support": "clean", "data/train.jsonl": "clean", "lock": "clean"}


def test_clean(pinned, soup):
    assert states(soup) == CLEAN
    assert soup("status").stdout.startswith("On branch main\n")


def test_it_writes_nothing(pinned, soup, photo):
    before = photo()
    soup("status", cwd=pinned / "data")
    assert photo() == before


def test_modified(pinned, soup, make_adapter):
    make_adapter("adapters/support", seed=8)
    Path("data/train.jsonl").write_text("{}\n")
    assert states(soup) == {"adapters/support": "modified", "data/train.jsonl": "modified", "lock": "drifted"}  # fmt: skip
    text = soup("status").stdout
    assert "git soup add adapters/support" in text
    assert "dataset drifted: sha256:" in text


def test_missing_and_how_it_comes_back(pinned, soup):
    Path(WEIGHTS).unlink()
    Path("data/train.jsonl").unlink()
    found = states(soup)
    assert (found["adapters/support"], found["data/train.jsonl"]) == ("missing", "missing")
    assert "git soup checkout" in soup("status").stdout
    soup("checkout")
    assert states(soup) == CLEAN


def test_missing_everywhere(pinned, soup):
    Path(WEIGHTS).unlink()
    shutil.rmtree(".dvc/cache")
    assert "dvc fetch" in soup("status").stdout


def test_a_manifest_that_is_gone_or_in_conflict(pinned, soup):
    manifest = Path("adapters/support/adapter.manifest")
    text = manifest.read_text()
    manifest.unlink()
    assert states(soup)["adapters/support"] == "missing"
    manifest.write_text(f"<<<<<<< ours\n{text}=======\n>>>>>>> theirs\n")
    assert states(soup)["adapters/support"] == "drifted"
    manifest.write_text(text.replace("weights md5:", "weights md5:0")[:-1])
    assert states(soup)["adapters/support"] == "drifted"


def test_a_config_that_was_edited_by_hand(pinned, soup):
    path = Path("adapters/support/adapter_config.json")
    path.write_text(path.read_text().replace('"lora_alpha": 16', '"lora_alpha": 32'))
    assert states(soup)["adapters/support"] == "drifted"
    assert "git soup add adapters/support" in soup("status").stdout
    soup("add", "adapters/support")
    assert states(soup)["adapters/support"] == "clean"


def test_a_pointer_that_names_other_weights(pinned, soup):
    pointer = Path(f"{WEIGHTS}.dvc")
    pointer.write_text(pointer.read_text().replace("md5: ", "md5: 0", 1).replace("0", "", 0))
    text = pointer.read_text()
    pointer.write_text(text)
    done = soup("status", check=False)
    assert "Traceback" not in done.stderr


def test_an_untracked_adapter(pinned, soup, make_adapter):
    make_adapter("adapters/new", seed=8)
    assert states(soup)["adapters/new"] == "untracked"
    assert "git soup add adapters/new" in soup("status").stdout


def test_an_edited_config_is_lock_drift(pinned, soup):
    Path("soup.yaml").write_text(CONFIG + "# edited\n")
    assert states(soup)["lock"] == "drifted"


def test_no_lock_and_a_broken_one(repo, soup):
    assert states(soup)["lock"] == "none"
    Path("soup.yaml").write_text("base: x/y\n")
    assert "git soup lock write" in soup("status").stdout
    Path("soup.lock").write_text("{")
    assert states(soup)["lock"] == "broken"


def test_an_adapter_that_is_newer_than_the_lock(pinned, soup, make_adapter):
    make_adapter("adapters/support", seed=8)
    soup("add", "adapters/support")
    assert "newer than soup.lock" in soup("status").stdout


def test_detached_and_before_the_first_commit(pinned, soup, git, in_tmp_path):
    git("checkout", "-q", "--detach")
    assert soup("status").stdout.startswith("HEAD detached at ")
    git("init", "-q", "../new")
    soup("init", cwd=pinned.parent / "new")
    assert soup("status", cwd=pinned.parent / "new").stdout.startswith("On branch main\n")


def test_a_link_to_a_device_is_not_read_for_ever(pinned, soup, git):
    Path("soup.lock").unlink()
    Path("soup.lock").symlink_to("/dev/zero")
    soup("status")


def test_files_of_another_kept_version_are_not_offered_for_tracking_alone(pinned, soup, git):
    """After a revert or cherry-pick, which call no hook, `git soup add` would undo it."""
    git("-c", "core.hooksPath=/dev/null", "switch", "-q", "politer")
    note = next(a for a in json.loads(soup("status", "--json").stdout)["adapters"])
    assert (note["path"], note["state"]) == ("adapters/support", "modified")
    assert "another kept version: git soup checkout" in note["note"]


def test_short_as_gits_own(pinned, soup, make_adapter):
    assert soup("status", "--short").stdout == ""
    make_adapter("adapters/support", seed=9)
    make_adapter("new", seed=3)
    assert soup("status", "-s").stdout == " M adapters/support\n?? new\n"
    Path("adapters/support/adapter_model.safetensors").unlink()
    assert " D adapters/support" in soup("status", "-s").stdout.splitlines()
