"""`git soup branches`: each branch that pins something, and whether it still holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.two_branches import CONFIG, POLITE_CONFIG


def rows(soup) -> dict[str, dict]:
    done = soup("branches", "--json")
    report = json.loads(done.stdout)
    assert done.stdout == json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert report["schema"] == "soup.branches/1"
    return {row["name"]: row for row in report["branches"]}


def test_what_a_row_says(pinned, soup, git):
    found = rows(soup)
    assert list(found) == ["main", "politer"]
    row = found["main"]
    assert row["commit"] == git("rev-parse", "main").stdout.strip()
    assert (row["base"], row["dataset"], row["config"], row["adapters"]) == ("models/tiny", "data/train.jsonl", "soup.yaml", 1)  # fmt: skip
    assert (row["current"], found["politer"]["current"]) == (True, False)
    assert row["age_seconds"] > 0
    lines = soup("branches").stdout.splitlines()
    assert lines[0].split() == ["name", "commit", "base", "dataset", "config", "age", "adapters", "last", "eval", "state"]  # fmt: skip
    assert lines[1].startswith("* main ")
    assert lines[2].startswith("  politer ")


def test_the_four_states(pinned, soup, git, make_adapter):
    Path("soup.yaml").write_text(CONFIG + "# new\n")
    git("checkout", "-q", "-b", "drifted")
    git("commit", "-qam", "Edit without locking", "--no-verify")
    git("checkout", "-q", "-b", "untrained", "main")
    git("rm", "-qr", "adapters")
    soup("lock", "write")
    git("commit", "-qam", "Start anew")
    git("checkout", "-q", "-b", "merged", "main")
    make_adapter("adapters/support", seed=90)
    soup("add", "adapters/support")
    soup("lock", "write")
    manifest = Path("adapters/support/adapter.manifest")
    head, _, rest = manifest.read_text().partition("\n\n")
    manifest.write_text(f"{head}\nrecipe linear a b\n\n{rest}")
    git("commit", "-qam", "Merge", "--no-verify")
    git("checkout", "-q", "main")
    for _ in range(2):
        found = rows(soup)
        assert {name: row["state"] for name, row in found.items()} == {
            "main": "clean", "politer": "clean", "drifted": "drifted", "untrained": "not trained", "merged": "merged",
        }  # fmt: skip
        assert "soup.yaml" in found["drifted"]["why"]


def test_each_way_to_drift(pinned, soup, git):
    def branch(name: str) -> None:
        git("add", "--all")
        git("commit", "-qm", name, "--no-verify")
        git("branch", name)
        git("reset", "-q", "--hard", "main~1")

    git("commit", "-q", "--allow-empty", "-m", "x")
    Path("data/train.jsonl.dvc").unlink()
    branch("no-dataset")
    Path("soup.yaml").unlink()
    branch("no-config")
    Path("soup.lock").write_text("{")
    branch("broken-lock")
    pointer = Path("data/train.jsonl.dvc")
    pointer.write_text(pointer.read_text().replace("md5: ", "md5: 0", 1))
    lock = json.loads(Path("soup.lock").read_text())
    pointer.write_text(pointer.read_text().replace(f"0{lock['dataset_md5']}", "0" * 32))
    branch("other-dataset")
    found = {name: row["state"] for name, row in rows(soup).items()}
    assert {found[n] for n in ("no-dataset", "no-config", "broken-lock", "other-dataset")} == {"drifted"}  # fmt: skip


def test_a_dataset_folder_in_git(pinned, soup, git):
    Path("rows").mkdir()
    Path("rows/a").write_text("a")
    soup("branch", "folder", "--dataset", "rows")
    assert rows(soup)["folder"]["state"] == "clean"
    soup("checkout", "folder")
    Path("rows/a").write_text("b")
    git("commit", "-qam", "Edit", "--no-verify")
    assert rows(soup)["folder"]["state"] == "drifted"


def test_no_branch_pins_anything(repo, soup):
    assert json.loads(soup("branches", "--json").stdout)["branches"] == []
    assert "git soup branch" in soup("branches").stdout


def test_it_needs_no_cache_and_writes_no_ref(pinned, soup, photo):
    shutil.rmtree(".dvc/cache")
    before = photo()
    assert {row["state"] for row in rows(soup).values()} == {"clean"}
    assert photo() == before


def test_damaged_facts_cost_time_and_not_truth(pinned, soup):
    expected = rows(soup)
    facts = Path(".git/soup/facts")
    facts.write_bytes(facts.read_bytes()[:-7] + b"\xff\x00 garbage\nbranch: { .\n")
    for row in [*expected.values(), *rows(soup).values()]:
        row.pop("age_seconds")
    found = rows(soup)
    for row in found.values():
        row.pop("age_seconds")
    assert found == expected


def test_hostile_text_is_spelled(pinned, soup, git):
    Path("soup.yaml").write_text(POLITE_CONFIG)
    soup("branch", "red", "--base", "evil\x1b[31m\u202e")
    done = soup("branches")
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout


def test_ten_times_the_branches_start_no_more_processes(pinned, soup, git):
    soup("branches")
    lines = "".join(f"create refs/heads/b{n} {git('rev-parse', 'main').stdout}" for n in range(200))
    git("update-ref", "--stdin", stdin=lines)
    done = soup("branches", env={"GIT_TRACE": "1"})
    assert done.stdout.count("\n") == 203
    assert done.stderr.count("trace: built-in:") < 15
