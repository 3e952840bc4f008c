"""`git soup show SPEC`: one resolver, every reading, and an error that lists them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def report(done) -> dict:
    return json.loads(done.stdout, parse_constant=pytest.fail)


def test_a_folder_a_revision_and_both(pinned, soup, git):
    folder = report(soup("show", "adapters/support", "--json"))
    assert folder["schema"] == "soup.show/1"
    for spec in ("HEAD", "main", "HEAD:adapters/support", "main:adapters/support/", "main:./adapters/support"):  # fmt: skip
        shown = report(soup("show", spec, "--json"))
        assert shown["weights_md5"] == folder["weights_md5"]
        assert shown["commit"] == git("rev-parse", "HEAD").stdout.strip()
    assert report(soup("show", "politer", "--json"))["weights_md5"] != folder["weights_md5"]


def test_the_table_says_what_it_is(pinned, soup):
    text = soup("show", "adapters/support").stdout
    for word in ("tiny/base", "rank 8", "alpha 16", "4 (8 tensors", "md5:", "model.layers.0.self_attn.q_proj"):  # fmt: skip
        assert word in text
    assert "base_model.model" not in text


def test_a_folder_that_nobody_tracks_and_one_from_a_subfolder(pinned, soup, make_adapter):
    make_adapter("../elsewhere", seed=4)
    assert report(soup("show", "../elsewhere", "--json"))["commit"] is None
    assert report(soup("show", "support", "--json", cwd=pinned / "adapters"))["rank"] == 8


def test_weights_that_are_not_here_are_said(pinned, soup):
    import shutil

    shutil.rmtree(".dvc/cache")
    Path("adapters/support/adapter_model.safetensors").unlink()
    assert report(soup("show", "politer", "--json"))["available"] is False
    assert "not here" in soup("show", "politer").stdout
    soup("show", "adapters/support")


def test_an_edited_folder_is_shown_as_it_is(pinned, soup, make_adapter):
    before = report(soup("show", "adapters/support", "--json"))
    make_adapter("adapters/support", seed=50)
    assert (
        report(soup("show", "adapters/support", "--json"))["weights_md5"] != before["weights_md5"]
    )
    assert report(soup("show", "HEAD", "--json"))["weights_md5"] == before["weights_md5"]


def test_a_checkpoint_of_a_run(pinned, soup, git):
    tree = git("rev-parse", "HEAD^{tree}").stdout.strip()
    parent = git("rev-parse", "HEAD").stdout.strip()
    for step in (10, 20):
        message = f"step {step}\n\nSoup-Step: {step}\nSoup-Adapter: adapters/support\n"
        parent = git("commit-tree", tree, "-p", parent, "-F", "-", stdin=message).stdout.strip()
        if step == 10:
            first = parent
    git("update-ref", "refs/soup/runs/r1", parent)
    assert report(soup("show", "run/r1", "--json"))["commit"] == parent
    assert report(soup("show", "run/r1@20", "--json"))["commit"] == parent
    assert report(soup("show", "run/r1@10", "--json"))["commit"] == first


def test_a_step_that_is_none_lists_them(pinned, soup, git, refused):
    git("update-ref", "refs/soup/runs/r1", "HEAD")
    refused(soup("show", "run/r1@3", check=False), 128, "step 3")


def test_an_ambiguous_spec_lists_the_readings(pinned, soup, git, make_adapter, refused):
    make_adapter("politer", seed=3)
    done = soup("show", "politer", check=False)
    refused(done, 128, "ambiguous", "./politer", "politer:PATH")
    assert report(soup("show", "./politer", "--json"))["path"].endswith("politer")
    soup("show", "politer:adapters/support")


def test_a_revision_with_several_lists_them(pinned, soup, git, make_adapter, refused):
    make_adapter("adapters/extra", seed=3)
    soup("add", "adapters/extra")
    git("commit", "-qm", "Add extra")
    refused(soup("show", "HEAD", check=False), 128, "adapters/extra", "adapters/support")
    soup("show", "HEAD", "--adapter", "adapters/extra")
    refused(soup("show", "HEAD:nowhere", check=False), 128, "nowhere", "adapters/extra")
    refused(soup("show", "HEAD~1:adapters/extra", check=False), 128, "adapters/support")


@pytest.mark.parametrize("spec", ["nowhere", "data", "README.md", "", "HEAD:../x", "HEAD:", "-x:y", "run/none", "run/a@b", "\x1b[31m", "a\nb", "x" * 5000, "HEAD^{tree}", "./nowhere", "/"])  # fmt: skip
def test_a_spec_that_names_nothing(spec, pinned, soup, refused):
    done = soup("show", "--", spec, check=False)
    if spec == "HEAD:":
        assert done.returncode == 0, "one adapter, no path: the revision's"
        return
    refused(done, 128)
    assert "\x1b" not in done.stderr


def test_to_a_file_whole_or_not_at_all(pinned, soup, refused):
    soup("show", "HEAD", "--json", "-o", "out.json")
    assert Path("out.json").read_text() == soup("show", "HEAD", "--json").stdout
    refused(soup("show", "HEAD", "-o", "data", check=False), 128, "data")


def test_escapes_in_names_are_spelled(pinned, soup, make_adapter):
    make_adapter("../x\x1b[31m", seed=1, base="evil\x1b]0;owned\x07\u202e/base")
    done = soup("show", "../x\x1b[31m")
    assert "\x1b" not in done.stdout
    assert "\\x1b" in done.stdout
    assert "\u202e" not in done.stdout
    assert report(soup("show", "../x\x1b[31m", "--json"))["base_model"].startswith("evil")


def test_the_bytes_do_not_depend_on_the_terminal(pinned, soup):
    narrow = soup("show", "HEAD", env={"COLUMNS": "20", "TERM": "xterm-256color", "LC_ALL": "C"})
    wide = soup("show", "HEAD", env={"COLUMNS": "400"})
    assert narrow.stdout == wide.stdout
