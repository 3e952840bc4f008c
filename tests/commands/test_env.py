"""`git soup env`: the environment behind `env_hash`, and which packages differ."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def canonical(env: dict) -> str:
    return json.dumps(env, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def edit_env(**changes) -> None:
    lock = json.loads(Path("soup.lock").read_text())
    lock["env"].update(changes)
    lock["env_hash"] = hashlib.sha256(canonical(lock["env"]).encode()).hexdigest()
    pins = lock["base_model_sha"] + lock["dataset_sha"] + lock["env_hash"]
    lock["closure_sha"] = hashlib.sha256(pins.encode()).hexdigest()
    Path("soup.lock").write_text(json.dumps(lock, indent=2, sort_keys=True) + "\n")


def test_the_hash_is_that_of_canonical_json(pinned, soup):
    report = json.loads(soup("env", "show", "--json").stdout)
    assert report.pop("schema") == "soup.env/1"
    digest = report.pop("env_hash")
    assert digest == hashlib.sha256(canonical(report).encode()).hexdigest()
    assert report["packages"] == sorted(report["packages"])
    assert not any(name.startswith(("git-soup==", "ruff==", "pytest==")) for name in report["packages"])  # fmt: skip
    assert digest == json.loads(Path("soup.lock").read_text())["env_hash"]


def test_check_that_holds(pinned, soup):
    assert "is the locked one" in soup("env", "check").stdout


def test_check_names_what_differs(pinned, soup):
    env = json.loads(Path("soup.lock").read_text())["env"]
    packages = [*env["packages"][1:], "zzz-gone==1.0"]
    edit_env(python="2.7", packages=packages)
    done = soup("env", "check", "--json", check=False)
    assert done.returncode == 3
    report = json.loads(done.stdout)
    assert report["schema"] == "soup.env-check/1"
    names = {d["name"]: (d["locked"], d["actual"]) for d in report["differences"]}
    assert names["zzz-gone"] == ("1.0", None)
    assert names["python"][0] == "2.7"
    assert len(names) == 3
    done = soup("env", "check", check=False)
    assert done.returncode == 3
    assert "zzz-gone" in done.stdout


def test_without_a_lock_or_a_pin(repo, soup, refused):
    refused(soup("env", "check", check=False), 128, "git soup lock write")
    Path("soup.lock").write_text(json.dumps({"soup_version": "0", "created_at": "x"}))
    refused(soup("env", "check", check=False), 128, "environment")
