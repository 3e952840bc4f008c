"""`git soup lock`: the pins against coreutils and against the world."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.two_branches import CONFIG, POLITE_ROWS, ROWS, flip

ROWS_FILE = "data/train.jsonl"
A, B, C = "a" * 64, "b" * 64, "c" * 64


def shell(command: str) -> str:
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    return done.stdout.split()[0]


def lock() -> dict:
    return json.loads(Path("soup.lock").read_text())


def edit(**changes) -> None:
    Path("soup.lock").write_text(json.dumps({**lock(), **changes}, indent=2, sort_keys=True) + "\n")


# -- the formulas, against coreutils ----------------------------------------------------------------


def test_the_closure_is_what_sha256sum_prints(pinned, soup):
    soup("lock", "write", "--base-sha", A, "--dataset-sha", B, "--env-hash", C)
    assert lock()["closure_sha"] == shell(f"printf %s {A}{B}{C} | sha256sum")
    soup("lock", "write")
    found = lock()
    assert found["closure_sha"] == shell(
        f"printf %s {found['base_model_sha']}{found['dataset_sha']}{found['env_hash']} | sha256sum"
    )


def test_config_and_dataset_are_digests_of_bytes(pinned, soup):
    soup("lock", "write")
    assert lock()["config_sha"] == shell("sha256sum soup.yaml")
    assert lock()["dataset_sha"] == shell(f"sha256sum {ROWS_FILE}")
    assert lock()["dataset_md5"] == shell(f"md5sum {ROWS_FILE}")


def test_a_dataset_folder_is_the_digest_of_its_sorted_lines(pinned, soup):
    for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl"):
        Path("rows", name).parent.mkdir(parents=True, exist_ok=True)
        Path("rows", name).write_text(name)
    Path("soup.yaml").write_text("base: models/tiny\ndata: {train: rows}\n")
    soup("lock", "write")
    assert lock()["dataset_sha"] == shell("cd rows && find . -type f -printf '%P\\n' | xargs sha256sum | LC_ALL=C sort | sha256sum")  # fmt: skip


def test_a_base_folder_is_weights_config_and_tokenizer(pinned, soup):
    soup("lock", "write")
    before = lock()["base_model_sha"]
    names = "config.json model.safetensors tokenizer.json"
    assert before == shell(f"cd models/tiny && sha256sum {names} | LC_ALL=C sort | sha256sum")
    Path("models/tiny/README.md").write_text("another word\n")
    soup("lock", "write")
    assert lock()["base_model_sha"] == before
    flip(Path("models/tiny/model.safetensors"))
    soup("lock", "write")
    assert lock()["base_model_sha"] != before


def test_a_hub_model_is_its_resolved_commit(pinned, soup, tmp_path):
    commit = "1" * 40
    ref = tmp_path / "hub" / "models--org--name" / "refs" / "main"
    ref.parent.mkdir(parents=True)
    ref.write_text(commit)
    Path("soup.yaml").write_text(f"base: org/name\ndata: {{train: {ROWS_FILE}}}\n")
    here = {"HF_HUB_CACHE": str(tmp_path / "hub")}
    soup("lock", "write", env=here)
    assert lock()["base_model_sha"] == shell(f"printf %s hf:org/name@{commit} | sha256sum")
    assert "cannot be checked here" in soup("lock", "check").stdout
    ref.write_text("2" * 40)
    done = soup("lock", "check", env=here, check=False)
    assert done.returncode == 3
    assert done.stdout.startswith("base_model drifted: sha256:")


def test_what_cannot_be_known_is_null(pinned, soup):
    Path("soup.yaml").write_text(f"base: org/unknown\ndata: {{train: {ROWS_FILE}}}\n")
    done = soup("lock", "write")
    assert "base_model is not pinned" in done.stderr
    assert (lock()["base_model_sha"], lock()["closure_sha"]) == (None, None)
    done = soup("lock", "check")
    assert done.stdout.startswith("base_model not pinned")
    assert soup("lock", "check", "--strict", check=False).returncode == 3


# -- write ---------------------------------------------------------------------------------------------


def test_the_file_is_sorted_json_with_the_original_keys(pinned, soup):
    soup("lock", "write")
    text = Path("soup.lock").read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert {"soup_version", "base_model", "base_model_sha", "dataset_sha", "env_hash", "closure_sha", "created_at", "config_sha", "dataset_md5", "adapters", "seed"} <= set(lock())  # fmt: skip
    assert lock()["seed"] == 7
    assert list(lock()["adapters"]) == ["adapters/support"]


def test_created_at_stays_when_nothing_moved(pinned, soup):
    edit(created_at="2020-01-01T00:00:00+00:00", soup_version="soup-cli 0.1")
    before = Path("soup.lock").read_bytes()
    soup("lock", "write")
    assert Path("soup.lock").read_bytes() == before
    Path("soup.yaml").write_text(CONFIG + "# edited\n")
    soup("lock", "write")
    assert lock()["created_at"] > "2020-01-02"


def test_the_report_is_the_lock(pinned, soup):
    done = soup("lock", "write", "--json")
    report = json.loads(done.stdout)
    assert report["schema"] == "soup.lock/1"
    assert {k: v for k, v in lock().items() if k in report} == {k: v for k, v in report.items() if k in lock()}  # fmt: skip
    assert json.loads(soup("lock", "show", "--json").stdout) == report


def test_overrides_are_taken_as_given(pinned, soup):
    soup("lock", "write", "--base-model", "org/x", "--base-sha", A, "--dataset-sha", B, "--env-hash", C, "-o", "../other.lock")  # fmt: skip
    other = json.loads(Path("../other.lock").read_text())
    assert (other["base_model"], other["base_model_sha"], other["dataset_sha"], other["env_hash"]) == ("org/x", A, B, C)  # fmt: skip
    assert soup("lock", "show", "../other.lock").returncode == 0


@pytest.mark.parametrize("flag", ["--base-sha", "--dataset-sha", "--env-hash"])
@pytest.mark.parametrize("value", ["", "x", "A" * 64, "a" * 63, "a" * 64 + "\n", "sha256:" + A])
def test_an_override_that_is_no_digest(flag, value, pinned, soup, photo, refused):
    before = photo()
    refused(soup("lock", "write", flag, value, check=False), 128, flag)
    assert photo() == before


def test_without_a_config_the_pin_is_null(repo, soup):
    soup("lock", "write")
    assert lock()["config_sha"] is None
    assert "config not pinned" in soup("lock", "check").stdout
    assert soup("lock", "check", "--strict", check=False).returncode == 3


def test_data_outside_the_repository_is_refused(pinned, soup, photo, refused):
    (pinned.parent / "out.jsonl").write_text(ROWS)
    Path("soup.yaml").write_text("data: {train: ../out.jsonl}\n")
    before = photo()
    refused(soup("lock", "write", check=False), 128, "outside")
    assert photo() == before


# -- show ------------------------------------------------------------------------------------------------


def original() -> dict:
    closure = hashlib.sha256((A + B + C).encode()).hexdigest()
    return {
        "base_model": "org/x", "base_model_sha": A, "closure_sha": closure, "dataset_sha": B,
        "created_at": "2026-05-01T00:00:00+00:00", "env_hash": C, "soup_version": "0.77.0",
    }  # fmt: skip


def test_the_original_tools_lock_is_read(pinned, soup):
    Path("theirs.lock").write_text(json.dumps(original()))
    assert "org/x" in soup("lock", "show", "theirs.lock").stdout
    Path("soup.lock").write_text(json.dumps(original()))
    done = soup("lock", "check", "--base-sha", A, "--dataset-sha", B, "--env-hash", C)
    assert done.stdout == "config not pinned\n"
    assert soup("lock", "check", check=False).returncode == 3


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (json.dumps({**original(), "closure_sha": A}), "closure_sha"),
        (json.dumps({**original(), "dataset_sha": C}), "closure_sha"),
        (json.dumps({**original(), "dataset_sha": None}), "closure_sha"),
        (json.dumps({**original(), "env_hash": "x"}), "env_hash"),
        (json.dumps({**original(), "adapters": {"../x": "0" * 32}}), "adapters"),
        (json.dumps({**original(), "dataset_path": "/etc/passwd"}), "dataset_path"),
        ('{"a": 1, "a": 2}', "twice"),
        ("<<<<<<< ours\n{}\n=======\n{}\n>>>>>>> theirs\n", "conflict"),
        ("[]", "object"),
        ("{", "JSON"),
        ("[" * 100_000, "JSON"),
        ('{"seed": NaN}', "JSON"),
        ("", "JSON"),
        ("x" * (1 << 21), "1 MiB"),
    ],
    ids=lambda value: value[:24] if value.isidentifier() else None,
)
def test_a_lock_that_contradicts_itself(text, word, pinned, soup, refused, photo):
    Path("soup.lock").write_text(text)
    before = photo()
    for words in (("show",), ("check",)):
        refused(soup("lock", *words, check=False), 128, "soup.lock", word)
    assert photo() == before
    soup("lock", "write")
    assert soup("lock", "check").returncode == 0, "and it is mended as the hint says"


def test_no_lock(repo, soup, refused):
    refused(soup("lock", "show", check=False), 128, "soup.lock", "git soup lock write")
    refused(soup("lock", "check", check=False), 128, "git soup lock write")
    refused(soup("lock", "show", ".", check=False), 128)


# -- check ------------------------------------------------------------------------------------------------


def drifts(done, *pins) -> None:
    assert done.returncode == 3, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(" ")[0] for line in lines] == list(pins)
    for line in lines:
        assert " drifted: " in line
        assert " -> " in line
    assert done.stderr.startswith("hint: ")
    assert "Traceback" not in done.stderr


def test_a_lock_that_holds(pinned, soup):
    done = soup("lock", "check")
    assert done.stdout == "soup.lock holds: base_model, dataset, env, config\n"
    assert done.stderr == ""


def test_every_pin_has_its_line(pinned, soup):
    Path("soup.yaml").write_text(CONFIG + "# edited\n")
    Path(ROWS_FILE).write_text(POLITE_ROWS)
    flip(Path("models/tiny/config.json"))
    done = soup("lock", "check", "--env-hash", C, check=False)
    drifts(done, "base_model", "dataset", "env", "config")
    for path in ("soup.yaml", ROWS_FILE, "models/tiny"):
        assert path in done.stdout
    assert "git soup lock write" in done.stderr


def test_the_report_as_json(pinned, soup):
    Path(ROWS_FILE).write_text(POLITE_ROWS)
    report = json.loads(soup("lock", "check", "--json", check=False).stdout)
    assert report["schema"] == "soup.lock-check/1"
    assert report["drifted"] is True
    [pin] = [pin for pin in report["pins"] if pin["state"] != "ok"]
    assert pin["pin"] == "dataset"
    assert pin["locked"] == "sha256:" + hashlib.sha256(ROWS.encode()).hexdigest()
    assert pin["actual"] == "sha256:" + hashlib.sha256(POLITE_ROWS.encode()).hexdigest()


def test_what_the_hint_of_changed_data_says_works(pinned, soup):
    Path(ROWS_FILE).write_text(POLITE_ROWS)
    done = soup("lock", "check", check=False)
    drifts(done, "dataset")
    back = done.stderr.partition("accept, ")[2].partition(" to go back")[0]
    assert os.system(back + " 2>/dev/null") == 0, back
    assert Path(ROWS_FILE).read_text() == ROWS
    assert soup("lock", "check").returncode == 0


def test_what_the_hint_of_an_edited_config_says_works(pinned, soup):
    Path("soup.yaml").write_text(CONFIG + "# edited\n")
    done = soup("lock", "check", check=False)
    drifts(done, "config")
    back = done.stderr.partition("accept, ")[2].partition(" to go back")[0]
    assert os.system(back) == 0, back
    assert soup("lock", "check").returncode == 0


def test_a_config_that_names_other_data(pinned, soup):
    Path("data/other.jsonl").write_text(POLITE_ROWS)
    Path("soup.yaml").write_text(CONFIG.replace("train.jsonl", "other.jsonl"))
    done = soup("lock", "check", check=False)
    drifts(done, "dataset", "config")
    assert "data/other.jsonl" in done.stdout


def test_data_that_is_gone(pinned, soup):
    Path(ROWS_FILE).unlink()
    assert soup("lock", "check").returncode == 0, "its pointer and its object are here"
    shutil.rmtree(".dvc/cache")
    assert soup("lock", "check").returncode == 0, "its pointer still has the pinned md5"
    Path(f"{ROWS_FILE}.dvc").unlink()
    done = soup("lock", "check", check=False)
    drifts(done, "dataset")
    assert "missing" in done.stdout


def test_a_config_that_is_gone(pinned, soup):
    Path("soup.yaml").unlink()
    drifts(soup("lock", "check", check=False), "config")


def test_a_dataset_folder_in_which_one_file_changed(pinned, soup):
    Path("rows").mkdir()
    for name in "ab":
        Path("rows", name).write_text(name)
    Path("soup.yaml").write_text("base: models/tiny\ndata: {train: rows}\n")
    soup("lock", "write")
    Path("rows/c").write_text("c")
    drifts(soup("lock", "check", check=False), "dataset")


def test_a_change_within_the_same_second_and_size_is_seen(pinned, soup):
    stat = Path(ROWS_FILE).stat()
    soup("lock", "check")
    Path(ROWS_FILE).write_text(ROWS.replace('"a"', '"z"'))
    os.utime(ROWS_FILE, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    drifts(soup("lock", "check", check=False), "dataset")


def test_staged_looks_at_what_is_staged(pinned, soup, git):
    Path("soup.yaml").write_text(CONFIG + "# edited\n")
    assert soup("lock", "check", "--staged").returncode == 0
    git("add", "soup.yaml")
    drifts(soup("lock", "check", "--staged", check=False), "config")
    Path("soup.yaml").write_text(CONFIG)
    drifts(soup("lock", "check", "--staged", check=False), "config")
    assert soup("lock", "check").returncode == 0


def test_staged_without_a_lock_has_nothing_to_check(repo, soup):
    assert soup("lock", "check", "--staged", "--json").returncode == 0


def test_environment_drift_counts_where_training_happens(pinned, soup):
    found = lock()
    env = {**found["env"], "python": "2.7"}
    digest = hashlib.sha256(json.dumps(env, sort_keys=True, separators=(",", ":")).encode()).hexdigest()  # fmt: skip
    edit(env=env, env_hash=digest, closure_sha=hashlib.sha256((found["base_model_sha"] + found["dataset_sha"] + digest).encode()).hexdigest())  # fmt: skip
    Path("soup.lock").write_text(Path("soup.lock").read_text())
    from soup_git.storage.environment import can_train

    assert soup("lock", "check", check=False).returncode == (3 if can_train() else 0)
    done = soup("lock", "check", "--env", check=False)
    drifts(done, "env")
    assert "git soup env check" in done.stderr
    subprocess.run(["git", "add", "soup.lock"], check=True)
    done = soup("lock", "check", "--staged")
    assert done.stdout.count("\n") == 1
    assert done.stdout.startswith("env ")


def test_version_and_time_never_drift(pinned, soup):
    edit(soup_version="git-soup 99", created_at="1999-01-01T00:00:00+00:00")
    assert soup("lock", "check").returncode == 0
