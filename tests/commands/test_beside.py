"""What lies beside an adapter's weights: versioned, checked, restored; old manifests stay right."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from soup_git.core.manifest import parse_manifest

TOKENIZER = b'{"version": "1.0", "model": {"type": "BPE"}}'
TEMPLATE = b"{{ messages[0].content }}"


@pytest.fixture
def tracked(repo, soup, git, make_adapter):
    """The adapter `a` with a tokenizer and a template, committed."""
    make_adapter("a", seed=1)
    Path("a/tokenizer.json").write_bytes(TOKENIZER)
    Path("a/chat_template.jinja").write_bytes(TEMPLATE)
    Path("a/README.md").write_text("a card")
    Path("a/training_args.bin").write_bytes(b"\x80\x04.")
    soup("add", "a")
    git("commit", "-qm", "a")
    return Path("a")


def state(soup) -> tuple[str, str]:
    [found] = json.loads(soup("status", "--json").stdout)["adapters"]
    return found["state"], found["note"]


def test_they_are_staged_and_named_by_digest(tracked, git, soup):
    listed = git("ls-files", "a").stdout.split()
    assert {"a/tokenizer.json", "a/chat_template.jinja"} <= set(listed)
    assert not {"a/README.md", "a/training_args.bin"} & set(listed)
    manifest = parse_manifest(Path("a/adapter.manifest").read_bytes(), "a")
    assert manifest.facts == (
        ("file", f"chat_template.jinja sha256:{hashlib.sha256(TEMPLATE).hexdigest()}"),
        ("file", f"tokenizer.json sha256:{hashlib.sha256(TOKENIZER).hexdigest()}"),
    )
    assert state(soup) == ("clean", "")
    soup("fsck")


@pytest.mark.parametrize("change", ["write", "remove"])
def test_a_change_is_modified_and_not_committed_by_itself(change, tracked, git, soup):
    file = tracked / "tokenizer.json"
    file.write_bytes(b"{}") if change == "write" else file.unlink()
    word = "changed" if change == "write" else "is missing"
    assert state(soup)[0] == "modified"
    assert f"tokenizer.json {word}" in state(soup)[1]
    done = git("commit", "-qam", "other tokenizer", check=False)
    assert done.returncode
    assert f"tokenizer.json {word}" in done.stderr
    git("reset", "-q", "--hard") if change == "remove" else soup("add", "a")
    assert state(soup)[0] == "clean"


def test_a_branch_has_its_own(tracked, git, soup):
    git("switch", "-qc", "other")
    (tracked / "chat_template.jinja").write_bytes(b"other")
    soup("add", "a")
    git("commit", "-qm", "other")
    soup("checkout", "main")
    assert (tracked / "chat_template.jinja").read_bytes() == TEMPLATE
    soup("checkout", "other")
    assert (tracked / "chat_template.jinja").read_bytes() == b"other"
    assert state(soup) == ("clean", "")


def test_a_commit_that_mixes_them_is_named(tracked, git, soup):
    (tracked / "tokenizer.json").write_bytes(b"{}")
    git("commit", "-qam", "mixed", "--no-verify")
    done = soup("fsck", check=False)
    assert done.returncode
    assert "its file tokenizer.json changed" in done.stdout + done.stderr


def test_a_manifest_of_before_agrees_and_says_what_is_not_versioned(repo, soup, git, make_adapter):
    make_adapter("a", seed=1)
    soup("add", "a")
    git("commit", "-qm", "a")
    Path("a/tokenizer.json").write_bytes(TOKENIZER)
    assert state(soup) == ("clean", "tokenizer.json not versioned yet: git soup add a")


def test_a_pointer_is_no_tokenizer(repo, soup, make_adapter, refused):
    make_adapter("a", seed=1)
    Path("a/tokenizer.json").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:%b\nsize 9\n" % (b"a" * 64)
    )
    refused(
        soup("add", "a", check=False), 128, "a/tokenizer.json is a git-lfs pointer", "git lfs pull"
    )


def test_a_merge_has_what_its_inputs_have_in_common(tracked, soup, make_adapter):
    make_adapter("b", seed=2)
    Path("b/tokenizer.json").write_bytes(TOKENIZER)
    Path("b/chat_template.jinja").write_bytes(b"other")
    done = soup("merge", "./a", "./b", "-o", "m")
    assert Path("m/tokenizer.json").read_bytes() == TOKENIZER
    assert not Path("m/chat_template.jinja").exists()
    assert "chat_template.jinja" in done.stdout + done.stderr
    manifest = parse_manifest(Path("m/adapter.manifest").read_bytes(), "m")
    assert [value.split()[0] for _, value in manifest.facts] == ["tokenizer.json"]
    soup("add", "m")
    assert (
        next(
            a for a in json.loads(soup("status", "--json").stdout)["adapters"] if a["path"] == "m"
        )["state"]
        == "clean"
    )


def test_git_merges_what_lies_beside_and_the_manifest_agrees(repo, soup, git, make_adapter):
    make_adapter("a", seed=1)
    template = Path("a/chat_template.jinja")
    template.write_text("{{ 1 }}\n")
    soup("add", "a")
    git("commit", "-qm", "one")
    for branch, text in (("theirs", "{{ 2 }}\n"), ("other", "{{ 3 }}\n")):
        git("checkout", "-qb", branch, "main")
        template.write_text(text)
        soup("add", "a")
        git("commit", "-qam", branch)
    git("checkout", "-q", "main")
    make_adapter("a", seed=2)
    soup("add", "a")
    git("commit", "-qam", "ours")
    git("merge", "-q", "--no-edit", "theirs")
    assert template.read_text() == "{{ 2 }}\n"
    assert soup("status", "--short").stdout == ""
    soup("fsck")
    git("merge", "--no-edit", "other", check=False)
    assert git("diff", "--name-only", "--diff-filter=U").stdout.split() == [
        "a/adapter.manifest", "a/chat_template.jinja",
    ]  # fmt: skip
    git("checkout", "MERGE_HEAD", "--", "a")
    soup("checkout")
    git("commit", "-qm", "theirs, whole")
    assert template.read_text() == "{{ 3 }}\n"
    assert soup("status", "--short").stdout == ""
