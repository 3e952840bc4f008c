"""`git soup add`: weights to the cache, manifest and pointer staged, nothing half."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

FILES = ("adapter_config.json", "adapter.manifest", "adapter_model.safetensors.dvc", ".gitignore")


def staged(git) -> list[str]:
    return git("diff", "--cached", "--name-only").stdout.split()


def write_header(path: Path, header: bytes, body: bytes = b"", length: int | None = None) -> None:
    count = len(header) if length is None else length
    path.write_bytes(struct.pack("<Q", count) + header + body)


def test_what_git_should_hold_is_staged_and_weights_are_not(repo, soup, git, make_adapter):
    make_adapter("adapters/a", seed=1)
    soup("add", "adapters/a")
    assert staged(git) == sorted(f"adapters/a/{name}" for name in FILES)
    assert git("status", "--porcelain", "--untracked-files=all").stdout.count("A ") == 4
    md5 = hashlib.md5(Path("adapters/a/adapter_model.safetensors").read_bytes()).hexdigest()
    kept = Path(".dvc/cache/files/md5", md5[:2], md5[2:])
    assert kept.read_bytes() == Path("adapters/a/adapter_model.safetensors").read_bytes()
    assert kept.stat().st_mode & 0o222 == 0


def test_dvc_calls_it_clean(repo, soup, make_adapter, dvc):
    make_adapter("adapters/a", seed=1)
    soup("add", "adapters/a")
    assert json.loads(dvc("status", "--json").stdout) == {}


def test_again_is_the_same_and_a_change_is_said(repo, soup, git, make_adapter):
    make_adapter("adapters/a", seed=1)
    assert soup("add", "adapters/a").stdout.startswith("new ")
    before = git("ls-files", "--stage").stdout
    assert soup("add", "adapters/a").stdout.startswith("same ")
    assert git("ls-files", "--stage").stdout == before
    make_adapter("adapters/a", seed=2)
    report = json.loads(soup("add", "adapters/a", "--json").stdout)
    assert report["schema"] == "soup.add/1"
    assert [a["change"] for a in report["adapters"]] == ["changed"]


def test_many_from_a_subfolder(repo, soup, git, make_adapter):
    for name in "abc":
        make_adapter(f"adapters/{name}", seed=ord(name))
    done = soup("add", "a", "b/", "./c", cwd=repo / "adapters")
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["adapters/a", "adapters/b", "adapters/c"]  # fmt: skip
    assert len(staged(git)) == 12


def test_the_top_of_the_repository(repo, soup, make_adapter):
    make_adapter(".", seed=1)
    soup("add", ".")
    assert "clean  ." in soup("status").stdout


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_every_dtype(dtype, repo, soup, make_adapter):
    make_adapter("adapters/a", seed=1, dtype=dtype)
    soup("add", "adapters/a")
    assert f" {dtype} " in Path("adapters/a/adapter.manifest").read_text()


def test_the_tensor_lines_are_what_numpy_and_sha256sum_say(repo, soup, make_adapter):
    from safetensors.numpy import load_file

    make_adapter("adapters/a", seed=1)
    soup("add", "adapters/a")
    tensors = load_file("adapters/a/adapter_model.safetensors")
    lines = Path("adapters/a/adapter.manifest").read_text().partition("\n\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == sorted(tensors)
    for line in lines:
        name, dtype, shape, digest, norm = line.split()
        values = tensors[name]
        assert (dtype, shape) == ("F32", "x".join(map(str, values.shape)))
        assert digest == "sha256:" + hashlib.sha256(values.tobytes()).hexdigest()
        assert norm == f"norm={np.linalg.norm(values.astype(np.float64)):.6g}"


def test_another_kind_of_adapter(repo, soup, make_adapter):
    make_adapter("adapters/a", seed=1)
    config = json.loads(Path("adapters/a/adapter_config.json").read_text())
    config["peft_type"] = "IA3"
    Path("adapters/a/adapter_config.json").write_text(json.dumps(config))
    soup("add", "adapters/a")
    assert "peft ia3" in Path("adapters/a/adapter.manifest").read_text()


def test_a_dead_adapter_is_added_with_a_warning(repo, soup, make_adapter):
    make_adapter("adapters/zero", seed=1, scale=0.0)
    assert "all zero" in soup("add", "adapters/zero").stderr
    make_adapter("adapters/nan", seed=1, scale=float("nan"))
    done = soup("add", "adapters/nan", "--json")
    assert "not finite" in done.stderr
    json.loads(done.stdout)
    json.loads(soup("show", "adapters/nan", "--json").stdout, parse_constant=pytest.fail)


def test_one_bad_adapter_stores_none(repo, soup, make_adapter, photo, refused):
    make_adapter("adapters/a", seed=1)
    make_adapter("adapters/b", seed=1)
    Path("adapters/b/adapter_model.safetensors").write_bytes(b"short")
    before = photo()
    refused(soup("add", "adapters/a", "adapters/b", check=False), 128, "adapters/b")
    assert photo() == before


# -- what is no adapter ---------------------------------------------------------------------------


def entry(dtype="F32", shape=(2,), offsets=(0, 8)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HOSTILE = {
    "empty": lambda p: p.write_bytes(b""),
    "shorter than its header": lambda p: write_header(p, b"{}", length=100),
    "huge header": lambda p: write_header(p, b"{}", length=1 << 62),
    "no JSON": lambda p: write_header(p, b"not json"),
    "a list": lambda p: write_header(p, b"[]"),
    "deep": lambda p: write_header(p, b"[" * 100_000 + b"]" * 100_000),
    "no tensor": lambda p: write_header(p, b"{}"),
    "cut off": lambda p: write_header(p, json.dumps({"a": entry()}).encode(), b"1234"),
    "padded": lambda p: write_header(p, json.dumps({"a": entry()}).encode(), b"x" * 9),
    "overlapping": lambda p: write_header(p, json.dumps({"a": entry(), "b": entry(offsets=(4, 12))}).encode(), b"x" * 12),
    "a hole": lambda p: write_header(p, json.dumps({"a": entry(), "b": entry(offsets=(12, 20))}).encode(), b"x" * 20),
    "out of range": lambda p: write_header(p, json.dumps({"a": entry(offsets=(0, 1 << 40), shape=(1 << 38,))}).encode(), b"x" * 8),
    "negative": lambda p: write_header(p, json.dumps({"a": entry(offsets=(-8, 0))}).encode(), b"x" * 8),
    "lying shape": lambda p: write_header(p, json.dumps({"a": entry(shape=(3,))}).encode(), b"x" * 8),
    "overflowing shape": lambda p: write_header(p, json.dumps({"a": entry(shape=(1 << 61, 1 << 61, 0))}).encode(), b"x" * 8),
    "true as a size": lambda p: write_header(p, json.dumps({"a": entry(shape=(True, 2))}).encode(), b"x" * 8),
    "unknown dtype": lambda p: write_header(p, json.dumps({"a": entry(dtype="F7")}).encode(), b"x" * 8),
    "a name twice": lambda p: write_header(p, b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), b"x" * 8),
    "a name of two lines": lambda p: write_header(p, json.dumps({"a\nweights md5:0": entry()}).encode(), b"x" * 8),
    "a name with an escape": lambda p: write_header(p, json.dumps({"a\x1b[31m": entry()}).encode(), b"x" * 8),
    "a name of two words": lambda p: write_header(p, json.dumps({"a b": entry()}).encode(), b"x" * 8),
    "a long name": lambda p: write_header(p, json.dumps({"a" * 5000: entry()}).encode(), b"x" * 8),
    "a pickle inside": lambda p: p.write_bytes(pickle.dumps({"a": 1}) + b"x" * 64),
    "a zip inside": lambda p: p.write_bytes(b"PK\x03\x04" + b"x" * 64),
    "a folder": lambda p: p.mkdir(),
    "a link": lambda p: p.symlink_to("/etc/passwd"),
    "a pipe": os.mkfifo,
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_weights_that_are_none(kind, repo, soup, make_adapter, photo, refused):
    make_adapter("adapters/a", seed=1)
    weights = Path("adapters/a/adapter_model.safetensors")
    weights.unlink()
    HOSTILE[kind](weights)
    before = photo()
    done = soup("add", "adapters/a", check=False)
    refused(done, 128, "adapters/a")
    assert "\x1b" not in done.stderr
    assert photo() == before
    assert not any(Path(".dvc/cache").rglob("*.tmp")) if Path(".dvc/cache").exists() else True


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt", "pytorch_model.bin", "adapter.pkl"])  # fmt: skip
def test_a_pickle_is_refused_with_how_to_convert_and_never_opened(name, repo, soup, make_adapter, photo, refused):  # fmt: skip
    make_adapter("adapters/a", seed=1)
    Path("adapters/a/adapter_model.safetensors").unlink()

    class Bomb:
        def __reduce__(self):
            return (os.system, ("touch executed",))

    Path("adapters/a", name).write_bytes(pickle.dumps(Bomb()))
    before = photo()
    refused(soup("add", "adapters/a", check=False), 128, name, "pickle", "weights_only=True")
    refused(soup("show", "adapters/a", check=False), 128, "pickle")
    assert photo() == before


CONFIGS = {
    "empty": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "no method": b'{"r": 8}',
    "rank zero": b'{"peft_type": "LORA", "r": 0}',
    "rank as text": b'{"peft_type": "LORA", "r": "8"}',
    "another rank": b'{"peft_type": "LORA", "r": 4, "lora_alpha": 8}',
    "alpha infinite": b'{"peft_type": "LORA", "r": 8, "lora_alpha": 1e999}',
    "base a number": b'{"peft_type": "LORA", "r": 8, "base_model_name_or_path": 7}',
    "a slow pattern": b'{"peft_type": "LORA", "r": 8, "rank_pattern": {"(a+)+$": 8}}',
    "conflict markers": b"<<<<<<< ours\n{}\n=======\n{}\n>>>>>>> theirs\n",
    "binary": b"\xff\xfe\x00",
    "large": b'{"peft_type": "LORA"}' + b" " * (1 << 20),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_that_is_none(kind, repo, soup, make_adapter, photo, refused):
    make_adapter("adapters/a", seed=1)
    Path("adapters/a/adapter_config.json").write_bytes(CONFIGS[kind])
    before = photo()
    refused(soup("add", "adapters/a", check=False), 128, "adapters/a/adapter_config.json")
    assert photo() == before


@pytest.mark.parametrize("name", ["nowhere", "README.md", "data", "", "x" * 300])
def test_a_folder_that_is_none(name, repo, soup, photo, refused):
    Path("data").mkdir()
    before = photo()
    refused(soup("add", name, check=False), 128)
    assert photo() == before


@pytest.mark.parametrize("name", ["-x", "a..b", "x.lock", "a b", "ä", "a\x1b[31mb", "a\nb"])
def test_a_name_that_no_branch_could_have(name, repo, soup, make_adapter, photo, refused):
    make_adapter(f"adapters/{name}", seed=1)
    before = photo()
    done = soup("add", f"adapters/{name}", check=False)
    refused(done, 128, "not a valid adapter name")
    assert "\x1b" not in done.stderr
    assert photo() == before


def test_an_adapter_outside(repo, soup, make_adapter, photo, refused):
    make_adapter("../outside", seed=1)
    Path("adapters").mkdir()
    Path("adapters/link").symlink_to("../../outside")
    before = photo()
    for name in ("../outside", "adapters/link", repo.parent / "outside"):
        refused(soup("add", name, check=False), 128, "outside")
    assert photo() == before


def test_a_config_that_is_a_link(repo, soup, make_adapter, refused):
    make_adapter("adapters/a", seed=1)
    Path("adapters/a/adapter_config.json").rename("shared.json")
    Path("adapters/a/adapter_config.json").symlink_to("../../shared.json")
    done = soup("add", "adapters/a", check=False)
    refused(done, 128, "symbolic link")
    hint = done.stderr.partition("hint: ")[2].partition(", then")[0]
    subprocess.run(["sh", "-c", hint], check=True)
    soup("add", "adapters/a")


def test_weights_that_git_tracks(repo, soup, git, make_adapter, refused):
    make_adapter("adapters/a", seed=1)
    git("add", "-f", "adapters/a")
    done = soup("add", "adapters/a", check=False)
    refused(done, 128, "git rm --cached")
    git("rm", "-q", "--cached", "adapters/a/adapter_model.safetensors")
    soup("add", "adapters/a")


def test_inside_a_folder_that_dvc_tracks(repo, soup, make_adapter, dvc, photo, refused):
    make_adapter("adapters/a", seed=1)
    dvc("add", "--quiet", "adapters")
    subprocess.run(["git", "add", "adapters.dvc"], check=True)
    before = photo()
    refused(soup("add", "adapters/a", check=False), 128, "adapters.dvc")
    assert photo() == before


def test_an_ignore_file_that_is_not_utf8(repo, soup, make_adapter):
    make_adapter("adapters/a", seed=1)
    Path("adapters/a/.gitignore").write_bytes(b"caf\xe9")
    soup("add", "adapters/a")
    assert Path("adapters/a/.gitignore").read_bytes() == b"caf\xe9\n/adapter_model.safetensors\n"


def test_a_name_with_a_pattern_in_it_stages_nothing_else(repo, soup, git, make_adapter):
    make_adapter("x[ab]/one", seed=1)
    make_adapter("xa/one", seed=1)
    soup("add", "x[ab]/one")
    assert all(path.startswith("x[ab]/") for path in staged(git))


def test_without_a_workspace(in_tmp_path, soup, git, make_adapter, refused):
    refused(soup("add", ".", check=False), 128, "not a git repository")
    git("init", "-q", "new")
    make_adapter("new/a", seed=1)
    refused(soup("add", "a", cwd=in_tmp_path / "new", check=False), 128, "git soup init")


def test_a_stale_index_lock_is_named_with_its_age(repo, soup, make_adapter, refused):
    make_adapter("adapters/a", seed=1)
    lock = Path(".git/index.lock")
    lock.touch()
    os.utime(lock, (1, 1))
    done = soup("add", "adapters/a", check=False)
    refused(done, 128, "index.lock", "seconds old", "rm ")
    assert lock.exists()
    problems = json.loads(soup("fsck", "--json", check=False).stdout)["problems"]
    assert "index.lock" in problems[0]["where"]
    os.system(done.stderr.partition("hint: ")[2].partition(": ")[2].strip())
    soup("add", "adapters/a")
