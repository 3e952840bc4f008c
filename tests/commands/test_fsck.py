"""`git soup fsck`: every flipped byte that a ref reaches is named; what is whole is clean."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.two_branches import flip

WEIGHTS = "adapters/support/adapter_model.safetensors"


def problems(soup) -> list[str]:
    done = soup("fsck", "--json", check=False)
    report = json.loads(done.stdout)
    assert report["schema"] == "soup.fsck/1"
    assert done.returncode == (1 if report["problems"] else 0)
    assert "Traceback" not in done.stderr
    return [f"{problem['where']} {problem['what']}" for problem in report["problems"]]


def test_clean_and_counted(pinned, soup, photo):
    before = photo()
    report = json.loads(soup("fsck", "--json").stdout)
    assert report["problems"] == []
    assert (report["refs"], report["manifests"], report["locks"], report["objects"]) == (2, 2, 3, 4)
    assert "clean" in soup("fsck").stdout
    assert photo() == before


def test_every_flipped_byte_of_an_object_is_named(pinned, soup):
    for path in Path(".dvc/cache/files/md5").rglob("*"):
        if path.is_file():
            flip(path)
            assert any(str(path) in problem for problem in problems(soup))
            flip(path)
    assert problems(soup) == []


def test_a_flip_that_keeps_size_and_time_is_named(pinned, soup, object_of):
    import os

    path = object_of(WEIGHTS)
    soup("fsck")
    stat = path.stat()
    flip(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert problems(soup)


def test_an_object_that_is_gone(pinned, soup, object_of, dvc):
    object_of(WEIGHTS).unlink()
    assert any("not in the DVC cache" in problem for problem in problems(soup))
    dvc("remote", "add", "--quiet", "-d", "store", "/nowhere")
    report = json.loads(soup("fsck", "--json").stdout)
    assert report["elsewhere"] == 1


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("adapters/support/adapter.manifest", "\nalpha 16\n", "\nalpha 17\n"),
        ("adapters/support/adapter.manifest", "norm=", "norm=1"),
        ("adapters/support/adapter.manifest", "sha256:", "sha256:0"),
        ("adapters/support/adapter_config.json", '"r": 8', '"r": 4'),
        (f"{WEIGHTS}.dvc", "md5: ", "md5: 0"),
        (f"{WEIGHTS}.dvc", "path: ", "path: ../"),
        ("soup.lock", '"dataset_sha": "', '"dataset_sha": "0'),
        ("soup.lock", "{", "{{"),
    ],
)
@pytest.mark.parametrize("ref", ["refs/heads/x", "refs/soup/runs/x", "refs/tags/x"])
def test_texts_that_disagree_are_named_wherever_a_ref_reaches_them(path, old, new, ref, pinned, soup, git):  # fmt: skip
    if ref != "refs/heads/x" and path != "soup.lock":
        pytest.skip("one text stands for all at the other refs")
    git("checkout", "-q", "--detach")
    Path(path).write_text(Path(path).read_text().replace(old, new, 1))
    git("commit", "-qam", "Damage", "--no-verify")
    git("update-ref", ref, "HEAD")
    git("checkout", "-q", "main")
    name = path.rpartition("/")[0] or path
    assert any(name in problem for problem in problems(soup))


def test_history_is_checked_not_only_tips(pinned, soup, git):
    Path("soup.lock").write_text("{")
    git("commit", "-qam", "Damage", "--no-verify")
    git("revert", "--no-edit", "HEAD")
    assert any("soup.lock" in problem for problem in problems(soup))


def test_a_tag_on_a_blob_and_an_empty_repository(in_tmp_path, soup, git):
    git("init", "-q", "new")
    new = in_tmp_path / "new"
    soup("init", cwd=new)
    assert "clean" in soup("fsck", cwd=new).stdout
    oid = git("hash-object", "-w", "--stdin", stdin="x", cwd=new).stdout.strip()
    git("update-ref", "refs/tags/blob", oid, cwd=new)
    soup("fsck", cwd=new)


def test_hostile_names_in_history_are_spelled(pinned, soup, git, make_adapter):
    make_adapter("x\x1b[31m\ny/a", seed=1)
    folder = Path("x\x1b[31m\ny/a")
    (folder / "adapter.manifest").write_text("soup-manifest 1\n")
    git("add", "-f", str(folder / "adapter.manifest"), str(folder / "adapter_config.json"))
    git("commit", "-qm", "Hostile", "--no-verify")
    done = soup("fsck", check=False)
    assert "\x1b" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
