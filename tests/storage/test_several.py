"""Several adapters in one repository: which one a revision means, by itself and beside another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NAMES = ("chat", "eu", "tone")


@pytest.fixture
def three(repo: Path, soup, git, make_adapter) -> Path:
    """Three adapters on `main`; `politer` has another `tone`, `both` another `tone` and `eu`."""
    for seed, name in enumerate(NAMES):
        make_adapter(f"adapters/{name}", seed=seed)
    soup("add", *(f"adapters/{name}" for name in NAMES))
    git("commit", "-qm", "three")
    for branch, changed in (("politer", ("tone",)), ("both", ("tone", "eu"))):
        git("checkout", "-qb", branch, "main")
        for name in changed:
            make_adapter(f"adapters/{name}", seed=7 + len(changed))
        soup("add", *(f"adapters/{name}" for name in changed))
        git("commit", "-qm", branch)
    git("checkout", "-q", "main")
    return repo


def test_the_adapter_that_alone_differs_is_the_one_that_is_compared(three, soup) -> None:
    report = json.loads(soup("diff", "main", "politer", "--json").stdout)["summary"]
    assert (report["a"], report["b"]) == ("main:adapters/tone", "politer:adapters/tone")
    assert report["changed"] > 0
    assert (
        "the other 2 adapters of these revisions: equal" in soup("diff", "main", "politer").stdout
    )
    named = json.loads(
        soup("diff", "main", "politer", "--adapter", "adapters/tone", "--json").stdout
    )
    assert named["summary"]["relative_drift"] == report["relative_drift"]
    Path("known").write_text(Path("adapters/tone/adapter.manifest").read_text())
    words = ("bisect", "main..politer", "--eval-command", "cmp -s {ckpt}/adapter.manifest known")
    found = json.loads(soup(*words, "--json", check=False).stdout)
    assert (found["verdict"], found["probes"]) == ("BROKEN_AT", 2)
    soup("merge", "main", "politer", "-o", "merged")
    assert json.loads(soup("diff", "./merged", "main:adapters/tone", "--json").stdout)["layers"]


def test_a_path_that_one_side_names_holds_for_the_other(three, soup) -> None:
    for a, b in (("adapters/eu", "both"), ("main:adapters/eu", "both")):
        report = json.loads(soup("diff", a, b, "--json").stdout)["summary"]
        assert report["b"] == "both:adapters/eu"
        assert report["changed"] > 0


def test_a_path_from_where_one_stands_as_git_takes_it(three, soup, monkeypatch) -> None:
    monkeypatch.chdir("adapters")
    for spec in ("HEAD:./tone", "HEAD:../adapters/tone", "HEAD:adapters/tone"):
        assert json.loads(soup("show", spec, "--json").stdout)["path"] == "adapters/tone"
    done = soup("show", "HEAD:../../x", check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (128, False)


def test_where_several_can_be_meant_they_are_listed(three, soup) -> None:
    for words in (
        ("diff", "main", "both"),
        ("show", "HEAD"),
        ("show",),
        ("diff", "main", "main~0"),
    ):
        done = soup(*words, check=False)
        assert done.returncode == 128
        assert "3 adapters: adapters/chat, adapters/eu, adapters/tone" in done.stderr
        assert "--adapter PATH" in done.stderr
    assert "adapters/tone" in soup("show", "HEAD", "--adapter", "*/tone").stdout
    two = soup("show", "HEAD", "--adapter", "adapters/*", check=False)
    assert "adapters/* means 3 adapters" in two.stderr
    assert soup("show", "HEAD", "--adapter", "b*", check=False).returncode == 128


def test_a_revision_means_what_its_config_trains(three, soup, git) -> None:
    Path("soup.yaml").write_text("base: org/base\ntask: sft\noutput: ./adapters/eu\n")
    git("add", "soup.yaml")
    git("commit", "-qm", "a config")
    assert "adapters/eu" in soup("show").stdout
    said = soup("diff", "main", "both").stdout
    assert "main:adapters/eu -> both:adapters/eu" in said
    assert "not compared here, and different too: adapters/tone (--adapter PATH)" in said


def test_revisions_that_do_not_differ_are_said_to_be_equal(three, soup, git) -> None:
    git("commit", "-q", "--allow-empty", "-m", "nothing")
    done = soup("diff", "HEAD~1", "HEAD", "--exit-code")
    assert "the same adapter: " in done.stdout
    assert "the other 2 adapters of these revisions: equal" in done.stdout


def test_a_tag_means_the_adapter_that_it_was_made_for(three, soup, git) -> None:
    soup("tag", "release", "--adapter", "adapters/eu")
    soup("tag", "release", "--as", "prod", "--adapter", "adapters/eu")
    soup("tag", "tone", "--as", "prod")
    for spec, folder in (("release/v1", "eu"), ("release/prod", "eu"), ("tone/prod", "tone")):
        assert f"adapters/{folder}" in soup("show", spec).stdout
