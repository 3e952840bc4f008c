"""What soup.yaml names beside base and dataset: pinned, said when it drifts, and brought back."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from soup_git.core.lock import parse_lock
from soup_git.core.lockmerge import merge_locks
from soup_git.storage.lineage import lineage
from soup_git.storage.lockdiff import lock_changes
from soup_git.storage.workspace import Workspace
from tests.two_branches import CONFIG, flip

TEMPLATE, REWARD, ROWS, REWARDING = "t.jinja", "rewards/short.py", "data/val.jsonl", "adapters/rm"
NAMING = CONFIG.replace(
    "training:\n",
    f"  chat_template: {TEMPLATE}\n  validation: ./{ROWS}\n"
    f"training:\n  reward_fn: [accuracy, {REWARD}]\n  reward_model: {REWARDING}/\n",
)


def sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def adapter_sha256(folder: str) -> str:
    names = ("adapter_config.json", "adapter_model.safetensors")
    lines = sorted(f"{sha256(Path(folder, name))}  {name}\n" for name in names)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def lock() -> dict:
    return json.loads(Path("soup.lock").read_text())


@pytest.fixture
def naming(pinned: Path, git, soup, dvc, make_adapter) -> Path:
    """On `main`, committed: a template and a reward of git's, rows of DVC's, and an adapter."""
    Path("soup.yaml").write_text(NAMING)
    Path(TEMPLATE).write_text("{{ messages }}")
    Path("rewards").mkdir()
    Path(REWARD).write_text("def reward_fn(): ...\n")
    Path(ROWS).write_text('{"prompt": "g", "completion": "h"}\n')
    dvc("add", "--quiet", ROWS)
    make_adapter(Path(REWARDING), seed=5)
    soup("add", REWARDING)
    git("add", ".")
    soup("lock", "write")
    git("add", "soup.lock")
    git("commit", "-qm", "Name more files")
    return pinned


# -- the lock ---------------------------------------------------------------------------------


def test_the_lock_pins_what_the_config_names(naming, soup):
    assert lock()["inputs"] == {
        TEMPLATE: sha256(TEMPLATE),
        REWARD: sha256(REWARD),
        ROWS: sha256(ROWS),
        REWARDING: adapter_sha256(REWARDING),
    }
    assert soup("lock", "check").stdout == "soup.lock holds: base_model, dataset, env, config\n"
    shown = soup("lock", "show").stdout
    assert f"sha256:{sha256(TEMPLATE)}  {TEMPLATE}" in shown
    assert json.loads(soup("lock", "show", "--json").stdout)["inputs"] == lock()["inputs"]
    before = Path("soup.lock").read_bytes()
    soup("lock", "write")
    assert Path("soup.lock").read_bytes() == before


def test_a_config_that_names_nothing_more_has_the_lock_it_had(pinned, soup):
    named = CONFIG.replace("training:", "  chat_template: chatml\n  validation: data/train.jsonl\ntraining:\n  reward_fn: accuracy\n  teacher_model: org/teacher")  # fmt: skip
    Path("soup.yaml").write_text(named)
    soup("lock", "write")
    assert "inputs" not in lock()
    found = parse_lock(Path("soup.lock").read_bytes(), "soup.lock")
    assert found.run == hashlib.sha256((found.closure_sha + found.config_sha).encode()).hexdigest()


def test_a_run_is_named_by_its_inputs_too(naming, soup):
    before = json.loads(soup("lock", "show", "--json").stdout)
    Path(TEMPLATE).write_text("{{ other }}")
    soup("lock", "write")
    after = json.loads(soup("lock", "show", "--json").stdout)
    assert before["closure_sha"] == after["closure_sha"]
    assert before["run"] != after["run"]


@pytest.mark.parametrize(
    "inputs",
    ['{"../x": null}', '{"/etc/passwd": null}', '{"x": "00"}', '{"x": 1}', '["x"]', '{".git/x": null}'],
)  # fmt: skip
def test_inputs_that_are_no_paths_with_digests_are_refused(inputs, pinned, soup, refused):
    Path("soup.lock").write_text(json.dumps({**lock(), "inputs": json.loads(inputs)}))
    refused(soup("lock", "check", check=False), 128, "inputs")


def test_what_is_not_there_or_outside_is_said_and_not_pinned(naming, soup):
    Path(TEMPLATE).unlink()
    Path("soup.yaml").write_text(NAMING.replace(f"./{ROWS}", "../val.jsonl"))
    done = soup("lock", "write")
    assert f"{TEMPLATE} is not pinned: there is no {TEMPLATE}" in done.stderr
    assert "data.validation is not pinned: ../val.jsonl is outside the repository" in done.stderr
    assert lock()["inputs"][TEMPLATE] is None
    assert json.loads(soup("lock", "show", "--json").stdout)["run"] is None
    done = soup("lock", "check")
    assert done.stdout == f"config not pinned: {TEMPLATE}\n"
    assert soup("lock", "check", "--strict", check=False).returncode == 3


# -- drift ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [TEMPLATE, REWARD, ROWS, REWARDING])
def test_a_flipped_byte_is_named_and_the_way_back_works(path, naming, soup):
    file = Path(path, "adapter_model.safetensors") if path == REWARDING else Path(path)
    flip(file, at=-5)
    done = soup("lock", "check", check=False)
    assert done.returncode == 3
    [line] = done.stdout.splitlines()
    assert line.startswith("config drifted: sha256:")
    assert line.endswith(f"   {path}")
    assert f"config drifted: {line.split(': ', 1)[1]}" in soup("status").stdout
    back = done.stderr.partition("accept, ")[2].partition(" to go back")[0]
    if path == REWARDING:
        back = back.replace("git soup checkout", "git soup checkout --force")
    assert os.system(f"{back} 2>/dev/null") == 0, back
    assert soup("lock", "check").returncode == 0


def test_what_is_gone_and_what_is_newly_named_are_drift(naming, soup):
    Path(TEMPLATE).unlink()
    done = soup("lock", "check", check=False)
    assert (done.returncode, done.stdout.splitlines()) == (
        3, [f"config drifted: sha256:{sha_of(TEMPLATE)} -> missing   {TEMPLATE}"],
    )  # fmt: skip
    Path("soup.yaml").write_text(NAMING.replace(TEMPLATE, "other.jinja"))
    Path("other.jinja").write_text("{{ other }}")
    done = soup("lock", "check", "--json", check=False)
    drifted = [pin["source"] for pin in json.loads(done.stdout)["pins"] if pin["state"] != "ok"]
    assert drifted == ["soup.yaml", "other.jinja"]


def sha_of(path: str) -> str:
    digest = lock()["inputs"][path]
    return f"{digest[:4]}…{digest[-4:]}"


def test_a_lock_that_pins_no_inputs_yet_does_not_hold(naming, soup):
    text = {key: value for key, value in lock().items() if key != "inputs"}
    Path("soup.lock").write_text(json.dumps(text))
    done = soup("lock", "check", check=False)
    assert done.returncode == 3
    assert done.stdout.count("config drifted: not pinned -> sha256:") == 4
    soup("lock", "write")
    assert soup("lock", "check").returncode == 0


def test_a_commit_of_another_template_needs_its_lock(naming, git, soup):
    Path(TEMPLATE).write_text("{{ other }}")
    done = git("commit", "-qam", "Edit", check=False)
    assert done.returncode == 1
    assert "config drifted: sha256:" in done.stderr
    assert TEMPLATE in done.stderr
    soup("lock", "write")
    git("add", "soup.lock", TEMPLATE)
    git("commit", "-qm", "Edit, and lock")
    git("rm", "-q", "--cached", REWARD)
    done = git("commit", "-qm", "Forget", check=False)
    assert done.returncode == 1
    assert f"git add {REWARD}" in done.stderr


def test_rows_in_a_folder_that_dvc_holds_as_a_whole(pinned, git, soup, dvc):
    Path("more").mkdir()
    Path("more/val.jsonl").write_text("{}\n")
    Path("more/rest.jsonl").write_text("{}\n")
    Path("soup.yaml").write_text(CONFIG.replace("training:", "  validation: more/val.jsonl\ntraining:"))  # fmt: skip
    dvc("add", "--quiet", "more")
    git("add", ".")
    soup("lock", "write")
    git("add", "soup.lock")
    git("commit", "-qm", "Validate")
    assert soup("lock", "check", "--staged").returncode == 0
    shutil.rmtree("more")
    assert soup("lock", "check").returncode == 0
    shutil.rmtree(".dvc/cache")
    done = soup("lock", "check")
    assert "config cannot be checked here: more/val.jsonl is not in the DVC cache" in done.stdout


def test_a_teacher_that_git_does_not_hold_is_compared_where_it_is(pinned, git, soup):
    shutil.copytree("models/tiny", "teacher")
    Path(".git/info/exclude").write_text("/teacher/\n")
    Path("soup.yaml").write_text(CONFIG.replace("training:\n", "training:\n  teacher_model: teacher\n"))  # fmt: skip
    soup("lock", "write")
    assert list(lock()["inputs"]) == ["teacher"]
    git("commit", "-qam", "Learn from a teacher")
    assert states(soup)["main"] == "clean"
    flip(Path("teacher/model.safetensors"))
    assert soup("lock", "check", check=False).stdout.endswith("   teacher\n")
    assert states(soup)["main"] == "drifted"
    shutil.rmtree("teacher")
    assert "config cannot be checked here: there is no teacher" in soup("lock", "check").stdout
    assert states(soup)["main"] == "clean"


def test_a_link_is_pinned_by_what_it_leads_to(pinned, git, soup):
    Path("shared").mkdir()
    Path("shared/t.jinja").write_text("{{ shared }}")
    Path(TEMPLATE).symlink_to("shared/t.jinja")
    Path("soup.yaml").write_text(CONFIG.replace("training:", f"  chat_template: {TEMPLATE}\ntraining:"))  # fmt: skip
    soup("lock", "write")
    assert list(lock()["inputs"]) == ["shared/t.jinja"]
    git("add", ".")
    git("commit", "-qm", "Share a template")


# -- branches ---------------------------------------------------------------------------------


def states(soup) -> dict[str, str]:
    found = json.loads(soup("branches", "--json").stdout)["branches"]
    return {branch["name"]: branch["state"] for branch in found}


def test_a_tip_with_other_inputs_is_drifted_and_not_checked_out(naming, git, soup, refused, photo):
    git("checkout", "-qb", "edited")
    Path(TEMPLATE).write_text("{{ other }}")
    git("commit", "-qam", "Edit", "--no-verify")
    soup("checkout", "main")
    assert states(soup) == {"edited": "drifted", "main": "clean", "politer": "clean"}
    before = photo()
    refused(soup("checkout", "edited", check=False), 3, "config", TEMPLATE, "pinned")
    refused(soup("verify", "edited", check=False), 128)
    assert photo() == before
    soup("checkout", "--force", "edited")
    assert Path(TEMPLATE).read_text() == "{{ other }}"


def test_a_rebuild_from_other_inputs_is_refused_before_it_starts(naming, git, soup):
    config = NAMING.replace("seed: 7\n", "seed: 7\noutput: adapters/support\n")
    Path("soup.yaml").write_text(config)
    soup("lock", "write")
    git("commit", "-qam", "Train support")
    Path(TEMPLATE).write_text("{{ other }}")
    git("commit", "-qam", "Edit", "--no-verify")
    done = soup("verify", check=False)
    assert done.returncode == 3
    assert "config drifted: sha256:" in done.stderr
    assert TEMPLATE in done.stderr


def test_a_branch_holds_the_inputs_as_they_are_here(naming, git, soup):
    Path(TEMPLATE).write_text("{{ polite }}")
    Path(ROWS).write_text('{"prompt": "i", "completion": "j"}\n')
    Path("rewards/long.py").write_text("def reward_fn(): return 1\n")
    Path("soup.yaml").write_text(NAMING.replace(REWARD, "rewards/long.py"))
    wanted = {path: sha256(path) for path in (TEMPLATE, "rewards/long.py", ROWS)}
    report = json.loads(soup("branch", "polite", "--json").stdout)
    assert report["inputs"] == {**wanted, REWARDING: adapter_sha256(REWARDING)}
    assert states(soup)["polite"] == "clean"
    git("checkout", "-q", "--", ".")
    Path("rewards/long.py").unlink()
    Path(ROWS).unlink()
    soup("checkout")
    soup("checkout", "polite")
    assert {path: sha256(path) for path in wanted} == wanted
    assert soup("lock", "check").returncode == 0
    soup("checkout", "main")
    assert Path(TEMPLATE).read_text() == "{{ messages }}"
    assert soup("lock", "check").returncode == 0


def test_a_branch_takes_an_adapter_as_the_start_has_it(naming, soup):
    flip(Path(REWARDING, "adapter_model.safetensors"))
    done = soup("branch", "polite", "--json")
    assert f"note: {REWARDING} is pinned as HEAD has it, not as it is here" in done.stderr
    assert json.loads(done.stdout)["inputs"][REWARDING] == lock()["inputs"][REWARDING]


# -- what reviewers see -----------------------------------------------------------------------


def test_a_change_of_an_input_is_a_change_of_the_lock(naming, git, soup):
    Path(TEMPLATE).write_text("{{ other }}")
    before = lock()["inputs"][TEMPLATE]
    soup("lock", "write")
    git("commit", "-qam", "Another template")
    workspace = Workspace.open(naming)
    [change] = lock_changes(workspace, "HEAD~1", "HEAD").inputs
    assert (change.pin, change.old, change.new) == (TEMPLATE, before, sha256(TEMPLATE))
    [entry] = lineage(workspace, "HEAD~1", "HEAD")
    assert entry.touched == ["config", "lock"]


# -- merging ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "ours", "theirs", "merged", "nulled"),
    [
        ("a", "a", "b", "b", []),
        ("a", "b", "b", "b", []),
        ("a", "b", "c", None, ["x"]),
        ("a", None, "a", None, []),
        ("", "a", "", "a", []),
        ("", "a", "b", None, ["x"]),
        ("a", "", "a", "", []),
        ("a", "", "b", None, ["x"]),
    ],
)
def test_inputs_are_merged_path_by_path(origin, ours, theirs, merged, nulled, pinned):
    def with_input(sha):
        inputs = {} if sha == "" else {"x": sha and sha * 64, "y": "e" * 64}
        return parse_lock(json.dumps({**lock(), "inputs": inputs}).encode(), "soup.lock")

    found, said = merge_locks(
        with_input(origin), [with_input(ours), with_input(theirs)], lambda before, sides: sides[0]
    )
    assert [name for name in said if name == "x"] == nulled
    assert found.inputs.get("x", "") == (merged and merged * 64)


def test_a_merge_of_two_templates_pins_neither(naming, git, soup):
    Path(TEMPLATE).write_text("{{ messages }}\n\n\n\n\n{{ last }}\n")
    soup("lock", "write")
    git("commit", "-qam", "Lines")
    for name, old, new in (("one", "messages", "first"), ("two", "last", "final")):
        git("checkout", "-qB", name, "main")
        Path(TEMPLATE).write_text(Path(TEMPLATE).read_text().replace(old, new))
        soup("lock", "write")
        git("commit", "-qam", name)
    done = git("merge", "--no-edit", "one")
    assert f"both sides changed {TEMPLATE}, which is not pinned any more" in done.stdout + done.stderr  # fmt: skip
    assert lock()["inputs"][TEMPLATE] is None
    assert lock()["inputs"][REWARD] == sha256(REWARD)
    assert f"config not pinned: {TEMPLATE}" in soup("lock", "check").stdout
    soup("lock", "write")
    assert lock()["inputs"][TEMPLATE] == sha256(TEMPLATE)
