"""Signatures: what git is told to sign, we sign, and git itself verifies it; or nothing is written."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import soup_git
from soup_git.storage.notes import append_notes
from soup_git.storage.workspace import Workspace
from tests.conftest import Run
from tests.pinned import Photo, Refused, photo, refused
from tests.versions import (
    ADAPTER,
    BOTH,
    WEIGHTS,
    _sides_template,
    commit_change,
    nudge,
    sides,
)

__all__ = ["_sides_template", "photo", "refused", "sides"]

SETTINGS = dict[str, str]
WHO = "Carl Committer <carl@example.com>"


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def quietly(*words: str, stdin: str | None = None) -> str:
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ssh(folder: Path) -> SETTINGS:
    """A key without a passphrase, and the file that says whose it is."""
    quietly(tool("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key"))
    public = (folder / "key.pub").read_text()
    (folder / "allowed").write_text(f"carl@example.com {public}")
    return {
        "gpg.format": "ssh",
        "user.signingKey": str(folder / "key.pub"),
        "gpg.ssh.allowedSignersFile": str(folder / "allowed"),
    }


def openpgp(folder: Path) -> SETTINGS:
    """A key in a ring of its own; git starts gpg through a script that names the ring."""
    gpg = tool("gpg")
    folder.chmod(0o700)
    words = [
        gpg,
        "--homedir",
        str(folder),
        "--batch",
        "--passphrase",
        "",
        "--pinentry-mode",
        "loopback",
    ]
    quietly(*words, "--quick-gen-key", WHO, "ed25519", "sign", "never")
    script = folder / "gpg.sh"
    script.write_text(f'#!/bin/sh\nexec "{gpg}" --homedir "{folder}" "$@"\n')
    script.chmod(0o755)
    return {"gpg.program": str(script), "user.signingKey": "carl@example.com"}


def x509(folder: Path) -> SETTINGS:
    """A certificate signed by itself, which gpgsm is told to trust."""
    gpgsm = tool("gpgsm")
    folder.chmod(0o700)
    (folder / "gpg-agent.conf").write_text("allow-loopback-pinentry\n")
    words = [
        gpgsm,
        "--homedir",
        str(folder),
        "--batch",
        "--pinentry-mode",
        "loopback",
        "--passphrase-fd",
        "0",
    ]
    asked = (
        "Key-Type: RSA\nKey-Length: 2048\nKey-Usage: sign, cert\nSerial: random\n"
        "Name-DN: CN=Carl Committer\nName-Email: carl@example.com\nHash-Algo: SHA256\n"
        "Not-After: 2050-01-01 00:00:00\n"
    )
    (folder / "asked").write_text(asked)
    certificate = folder / "certificate.pem"
    quietly(
        *words,
        "--armor",
        "--output",
        str(certificate),
        "--gen-key",
        str(folder / "asked"),
        stdin="\n",
    )
    quietly(gpgsm, "--homedir", str(folder), "--batch", "--import", str(certificate))
    listed = quietly(gpgsm, "--homedir", str(folder), "--with-colons", "--list-keys")
    print_ = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))
    (folder / "trustlist.txt").write_text(f"{print_} S relax\n")
    (folder / "gpgsm.conf").write_text("disable-crl-checks\n")
    subprocess.run(["gpgconf", "--homedir", str(folder), "--kill", "all"], check=False)
    script = folder / "gpgsm.sh"
    script.write_text(f'#!/bin/sh\nexec "{gpgsm}" --homedir "{folder}" "$@"\n')
    script.chmod(0o755)
    return {"gpg.format": "x509", "gpg.x509.program": str(script), "user.signingKey": print_}


@pytest.fixture(scope="module", params=[ssh, openpgp, x509], ids=["ssh", "openpgp", "x509"])
def signer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SETTINGS]:
    """How a git is configured that can sign, and can verify what it signed."""
    make: Callable[[Path], SETTINGS] = request.param
    # A socket's path is short: the agent of a deep folder does not start.
    folder = Path(quietly("mktemp", "-d", "/tmp/soup-sign-XXXXXX").strip())
    yield make(folder)
    if shutil.which("gpgconf"):
        subprocess.run(["gpgconf", "--homedir", str(folder), "--kill", "all"], check=False)
    shutil.rmtree(folder, ignore_errors=True)


def configure(git: Run, settings: SETTINGS) -> None:
    for key, value in settings.items():
        git("config", key, value)


def third_side(git: Run, soup: Run) -> None:
    git("switch", "-qc", "third", "main~1")
    commit_change(git, soup, lambda: nudge(ADAPTER, 5, [BOTH, "layers.0.mlp"]), "Train third")
    git("switch", "-q", "main")


def pin(folder: Path) -> None:
    (folder / "soup.yaml").write_text("base: org/base\ntask: sft\n")


def is_signed(git: Run, name: str) -> bool:
    return "\ngpgsig" in git("cat-file", "commit", name).stdout


def test_what_git_is_told_to_sign_is_signed_and_verified_by_git(
    sides: Path, git: Run, soup: Run, signer: SETTINGS
) -> None:
    third_side(git, soup)
    configure(git, {**signer, "commit.gpgSign": "true", "tag.gpgSign": "true"})
    pin(sides)
    soup("branch", "pinned-one")
    git("verify-commit", "pinned-one")
    soup("tag", "support")
    git("verify-tag", "support/v1")
    soup("merge", "politer", "third")
    git("verify-commit", "HEAD")
    assert len(git("log", "-1", "--format=%P").stdout.split()) == 3
    # The label beside it is no object, and what a version says is as ever.
    soup("tag", "support", "--as", "prod")
    assert git("cat-file", "-t", "support/prod").stdout == "commit\n"
    [label, version] = json.loads(soup("tag", "--json").stdout)["tags"]
    assert (version["version"], version["adapter"]) == ("v1", ADAPTER)
    assert len(version["weights"]) == 32
    assert label["labels"] == ["prod"]
    soup("fsck")


def test_a_merge_of_one_and_its_amendment_are_signed(
    sides: Path, git: Run, soup: Run, tmp_path: Path
) -> None:
    configure(git, {**ssh(tmp_path), "commit.gpgSign": "true"})
    soup("merge", "politer", "--freeze")
    git("verify-commit", "HEAD")
    git("reset", "-q", "--hard", "HEAD^1")
    soup("merge", "politer", "--no-gpg-sign")
    assert not is_signed(git, "HEAD")


def test_verdicts_on_signatures_are_not_read_as_what_was_asked_for(
    sides: Path, git: Run, soup: Run, tmp_path: Path
) -> None:
    """With log.showSignature, git log writes them to stdout, between the lines of a format."""
    configure(git, {**ssh(tmp_path), "commit.gpgSign": "true"})
    git("commit", "-q", "--allow-empty", "-m", "Signed")
    asked = (["log", "--json"], ["blame", ADAPTER], ["pr", "--base", "HEAD~2", "--json"])
    plain = [soup(*words).stdout for words in asked]
    git("config", "log.showSignature", "true")
    assert "Good" in git("log", "-1", "--format=%H").stdout
    assert [soup(*words).stdout for words in asked] == plain


def test_options_of_one_command_go_before_the_configuration(
    sides: Path, git: Run, soup: Run, tmp_path: Path
) -> None:
    third_side(git, soup)
    configure(git, ssh(tmp_path))
    soup("tag", "support", "-s")
    git("verify-tag", "support/v1")
    git("tag", "-d", "support/v1")
    soup("tag", "support")
    assert git("verify-tag", "support/v1", check=False).returncode == 1
    git("tag", "-d", "support/v1")
    git("config", "tag.forceSignAnnotated", "true")
    soup("tag", "support")
    git("verify-tag", "support/v1")
    git("tag", "-d", "support/v1")
    soup("tag", "support", "--no-sign")
    assert git("verify-tag", "support/v1", check=False).returncode == 1
    done = soup("tag", "support", "--as", "prod", "--sign", check=False)
    assert done.returncode == 129
    assert "is a label" in done.stderr
    soup("merge", "politer", "third", "-S")
    git("verify-commit", "HEAD")
    git("reset", "-q", "--hard", "HEAD^1")
    git("config", "commit.gpgSign", "true")
    soup("merge", "politer", "third", "--no-gpg-sign")
    assert not is_signed(git, "HEAD")


def seen(photo: Photo) -> dict[str, str]:
    """What names things: an object in a cache that nothing names is nobody's."""
    return {place: what for place, what in photo().items() if "/.dvc/cache/" not in place}


FAILING = [
    {"gpg.program": "false"},
    {"gpg.program": "/nowhere/gpg"},
    {"gpg.format": "ssh"},
    {"gpg.format": "ssh", "user.signingKey": "/nowhere/key.pub"},
    {"gpg.format": "x509", "gpg.x509.program": "false"},
]


@pytest.mark.parametrize(
    "settings", FAILING, ids=["fails", "not there", "no key", "lost key", "x509"]
)
def test_where_git_cannot_sign_nothing_is_written(
    settings: SETTINGS, sides: Path, git: Run, soup: Run, photo: Photo, refused: Refused
) -> None:
    third_side(git, soup)
    configure(git, {**settings, "commit.gpgSign": "true", "tag.gpgSign": "true"})
    pin(sides)
    before = seen(photo)
    for words in (["branch", "one"], ["tag", "support"], ["merge", "politer", "third"]):
        refused(soup(*words, check=False), 128, "user[.]signing", "unsigned")
        assert seen(photo) == before, words
    # What the hints say works.
    git("config", "--get-regexp", "^(gpg|user[.]signing)")
    git("-c", "commit.gpgSign=false", "soup", "branch", "one")
    soup("tag", "support", "--no-sign")


def test_a_merge_of_one_that_git_cannot_sign_is_left_as_git_leaves_it(
    sides: Path, git: Run, soup: Run, tmp_path: Path
) -> None:
    configure(git, {"gpg.program": "false", "commit.gpgSign": "true"})
    before = git("rev-parse", "HEAD").stdout
    done = soup("merge", "politer", check=False)
    assert done.returncode == 128
    assert "merged the files, and could not write the commit" in done.stderr
    assert git("rev-parse", "HEAD").stdout == before
    configure(git, ssh(tmp_path))
    git("commit", "-q", "--no-edit")
    git("verify-commit", "HEAD")
    assert "clean" in soup("status").stdout
    assert git("status", "--porcelain").stdout == ""


def test_and_its_hint_takes_it_back(sides: Path, git: Run, soup: Run) -> None:
    configure(git, {"gpg.program": "false", "commit.gpgSign": "true"})
    weights = Path(ADAPTER, WEIGHTS).read_bytes()
    assert soup("merge", "politer", check=False).returncode == 128
    git("merge", "--abort")
    soup("checkout")
    assert Path(ADAPTER, WEIGHTS).read_bytes() == weights
    assert git("status", "--porcelain").stdout == ""


def test_a_setting_that_is_no_yes_or_no_is_gits_own_error(
    sides: Path, git: Run, soup: Run, refused: Refused
) -> None:
    pin(sides)
    git("config", "commit.gpgSign", "perhaps")
    refused(soup("branch", "one", check=False), 128, "commit.gpgsign", "--show-origin")


def test_records_are_made_unsigned_as_gits_own_notes_are(sides: Path, git: Run, soup: Run) -> None:
    """Nobody may be there to give a passphrase: checkpoints, notes and pages never ask for one."""
    configure(git, {"gpg.program": "false", "commit.gpgSign": "true"})
    head = git("rev-parse", "HEAD").stdout.strip()
    git("notes", "--ref=soup", "add", "-m", "{}", head)  # git itself signs none
    append_notes(Workspace.open().git, {head: ['{"a": 1}']})
    soup("pr", "A page", "--base", "politer", "--adapter", ADAPTER)
    refs = git("for-each-ref", "--format=%(refname)", "refs/soup/prs", "refs/notes").stdout.split()
    assert len(refs) == 2
    assert not any(is_signed(git, ref) for ref in refs)


def test_one_place_makes_commits_and_tags() -> None:
    """So that none is made without the question whether it is to be signed."""
    package = Path(soup_git.__file__).parent
    texts = {p.relative_to(package).as_posix(): p.read_text() for p in package.rglob("*.py")}
    made = [
        (place, word)
        for place, text in sorted(texts.items())
        for word in ("commit-tree", "mktag", "fast-import", "tag")
        if re.search(rf"""\b(run|text|lines|run_with_patience)\(\s*["']{word}["']""", text)
    ]
    assert made == [("storage/gitrepo.py", "commit-tree"), ("storage/gitrepo.py", "tag")]
