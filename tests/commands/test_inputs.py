"""Config, lock and lineage of two revisions: what changed in the inputs, and where it comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from soup_git.core.lock import Lock
from soup_git.core.lockdiff import environment_changes
from soup_git.errors import FatalError
from soup_git.storage.configdiff import config_changes
from soup_git.storage.lineage import lineage
from soup_git.storage.lockdiff import lock_changes
from soup_git.storage.workspace import Workspace


@pytest.fixture
def workspace(pinned: Path) -> Workspace:
    return Workspace.open(pinned)


def lines(workspace, a, b):
    return [change.line() for change in config_changes(workspace, a, b)]


def test_config_lock_and_lineage_of_a_branch(workspace):
    assert lines(workspace, "main", "politer") == ["training.epochs: (not set) -> 2"]
    assert lines(workspace, "politer", "main") == ["training.epochs: 2 -> (not set)"]
    found = lock_changes(workspace, "main", "politer")
    assert [(pin.pin, pin.changed) for pin in found.pins] == [
        ("base_model", False), ("dataset", True), ("env", False), ("config", True),
    ]  # fmt: skip
    assert (found.environment, found.packages) == ("same", [])
    assert [change.pin for change in found.adapters] == ["adapters/support"]
    assert {change.pin for change in found.facts} == {"closure", "created_at"}
    assert (found.base_drift, found.head_drift) == ([], [])
    trained, pinned_commit = lineage(workspace, "main", "politer")
    assert (trained.subject, trained.touched) == ("Train politer", ["adapter", "lock"])
    assert [origin.path for origin in trained.adapters] == ["adapters/support"]
    assert pinned_commit.touched == ["config", "data", "lock"]
    assert list(pinned_commit.trailers) == [
        "Soup-Config", "Soup-Dataset", "Soup-Base-Model", "Soup-Version",
    ]  # fmt: skip
    assert pinned_commit.trailers["Soup-Dataset"].startswith("data/train.jsonl sha256:")
    assert lineage(workspace, "politer", "main") == []
    assert len(lineage(workspace, "main~1", "politer", limit=1)) == 1


def test_comments_and_order_are_no_change_and_bad_yaml_is(workspace, git):
    def commit(text):
        Path("soup.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        git("commit", "-nqam", "Edit")

    commit("# new\ntraining: {seed: 7}\ndata:\n    train: 'data/train.jsonl'\nbase: models/tiny\n")
    assert lines(workspace, "main~1", "main") == []
    drift = lock_changes(workspace, "main~1", "main").head_drift
    assert [(found.pin, found.path) for found in drift] == [("config", "soup.yaml")]
    for bad, why in (
        ("base: [\n", "not valid YAML"),
        (b"\xff", "not UTF-8"),
        ("- a\n", "no mapping"),
        ("a: &x 1\nb: *x\n", "anchors"),
        ("a: 1\na: 2\n", "given twice"),
    ):
        commit(bad)
        (change,) = config_changes(workspace, "main~1", "main")
        assert change.key == "soup.yaml"
        assert why in (change.new or "")
    git("rm", "-q", "soup.yaml")
    git("commit", "-nqm", "Remove")
    assert config_changes(workspace, "politer", "main")[0].new is None
    assert lineage(workspace, "main~1", "main")[0].touched == ["config"]


def test_a_lock_that_is_damaged_or_missing_is_told(workspace, git):
    raw = json.loads(Path("soup.lock").read_text())
    raw["env_hash"] = "0" * 64
    Path("soup.lock").write_text(json.dumps(raw))
    git("commit", "-nqam", "Edit by hand")
    found = lock_changes(workspace, "politer", "main")
    assert (found.base_locked, found.head_locked) == (True, False)
    assert [drift.pin for drift in found.head_drift] == ["lock"]
    assert all(pin.new is None for pin in found.pins)
    with pytest.raises(FatalError, match="names no commit"):
        lock_changes(workspace, "nothing", "main")


def test_a_run_and_a_recipe_are_named(workspace, git, soup):
    manifest = Path("adapters/support/adapter.manifest")
    tip = git("rev-parse", "politer").stdout.strip()
    tree = git("rev-parse", "politer^{tree}").stdout.strip()
    message = "step 9: loss 1\n\nSoup-Run: 2026-05-14-a\nSoup-Adapter: adapters/support\n"
    run = git("commit-tree", tree, "-p", tip, "-m", message).stdout.strip()
    git("update-ref", f"refs/soup/locks/{'a' * 64}", run)
    assert lineage(workspace, "main", "politer")[0].adapters[0].run == "2026-05-14-a"
    git("update-ref", "refs/soup/runs/2026-05-14-b", run)
    assert lineage(workspace, "main", "politer")[0].adapters[0].run == "2026-05-14-b"
    soup("merge", "main", "politer", "-o", "adapters/both", "--rank", "8")
    soup("add", "adapters/both")
    git("commit", "-nqm", "Merge weights")
    (merged,) = lineage(workspace, "main~1", "main")
    assert merged.adapters[0].recipe
    assert manifest.exists()


def test_environments_are_compared_by_package_where_both_lists_are_known():
    def lock(version, **more):
        env = {"python": "3.11", "packages": [f"torch=={version}", "peft==1"], **more}
        return Lock("git-soup 1", "now", env_hash=version, env=env)

    kind, packages = environment_changes(lock("2.0"), lock("2.1", accelerator="cpu"))
    assert kind == "packages"
    assert [(p.name, p.old, p.new) for p in packages] == [
        ("accelerator", None, "cpu"), ("torch", "2.0", "2.1"),
    ]  # fmt: skip
    assert environment_changes(lock("2.0"), Lock("x", "now", env_hash="f")) == ("digest only", [])
    assert environment_changes(None, None) == ("same", [])
