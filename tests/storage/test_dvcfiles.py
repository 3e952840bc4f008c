"""DVC's files as text: read back by YAML, as DVC writes them, and refused where they are hostile."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from soup_git.errors import FatalError
from soup_git.storage.dvcfiles import Output, parse_dvc_lock, parse_pointer, pointer_text

MD5 = "0123456789abcdef" * 2


NAMES = st.text(
    st.characters(exclude_categories=["C", "Zl", "Zp"], exclude_characters="/"),
    min_size=1,
    max_size=20,
)


@given(
    NAMES
    | st.sampled_from(
        [
            "null",
            "Yes",
            "y",
            "on",
            "1",
            "1e3",
            "~",
            "- a",
            "a: b",
            "#x",
            "a b",
            "'",
            '"',
            "*a",
            "&a",
            "!a",
            "%a",
            "é",
            "x\\y",
        ]
    )
)
def test_any_name_is_read_back_by_yaml_and_by_us(name: str) -> None:
    text = pointer_text(name, MD5, 3)
    assert yaml.safe_load(text)["outs"][0]["path"] == name
    if name not in {"..", ".git", "."}:
        assert parse_pointer(text.encode(), "d/x.dvc") == [Output(f"d/{name}", MD5, 3, "d/x.dvc")]


@pytest.mark.parametrize(
    "md5",
    [
        "1" * 32,
        "0" * 32,
        "12345678901e34567890123456789012",
        "1" * 32 + ".dir",
        MD5,
        "1e" + "a" * 30,
    ],
)
def test_any_md5_is_the_text_that_dvc_writes(md5: str) -> None:
    dumps = pytest.importorskip("dvc.utils.serialize").dumps_yaml
    value = {"outs": [{"md5": md5, "size": 3, "hash": "md5", "path": "x"}]}
    assert pointer_text("x", md5, 3) == dumps(value)
    assert parse_pointer(pointer_text("x", md5, 3).encode(), "p.dvc")[0].md5 == md5


# -- hostile --------------------------------------------------------------------------------

OUT = f"outs:\n- md5: {MD5}\n  size: 3\n  hash: md5\n  path: %s\n"
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n}\n  <<: [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)
)
TEXT_BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)

POINTERS = {
    **{
        f"path {path}": OUT % path
        for path in ("../x", "/etc/passwd", "a/../../x", ".git/hooks/post-checkout", ".GIT/config", "sub/.git/x", "a//b", '"a\\0b"', '""', "3", "null", "[a]", "..")
    },
    **{f"wdir {wdir}": f"wdir: {wdir}\n{OUT % 'x'}" for wdir in ("..", "../../x", "a/../..", "a/../../..", ".git/hooks", ".Git", "[a]", "3", '"\\0"', "{a: b}")},
    "wdir bomb": TEXT_BOMB + f"wdir: *a11\n{OUT % 'x'}",
    "outs bomb": TEXT_BOMB + "outs: *a11\n",
    "merge bomb": MERGE_BOMB + OUT % "x",
    "deep list": "outs: " + "[" * 300_000,
    "deep sequence": "- " * 300_000,
    "deep map": "{a: " * 100_000,
    "object": "outs: !!python/object/apply:os.system ['touch pwned']\n",
    "tag": f"outs:\n- !!python/name:os.system {{md5: {MD5}, path: x}}\n",
    "conflict": f"outs:\n<<<<<<< HEAD\n- md5: {MD5}\n=======\n- md5: {MD5}\n>>>>>>> topic\n  path: x\n",
    "not UTF-8": b"outs: \xff\xfe\xfa",
    "control characters": "outs: \x01\x02",
    "empty": "",
    "a list": "- 1\n",
    "no outs": "md5: x\n",
    "empty outs": "outs: []\n",
    "outs a map": "outs: {a: b}\n",
    "outs of text": "outs: [x]\n",
    "md5 short": OUT.replace(MD5, "abc") % "x",
    "md5 path": OUT.replace(MD5, "../../../../etc/passwd") % "x",
    "md5 upper": OUT.replace(MD5, MD5.upper()) % "x",
    "md5 number": OUT.replace(MD5, "1" * 32) % "x",
    "size negative": OUT.replace("size: 3", "size: -3") % "x",
    "size text": OUT.replace("size: 3", "size: big") % "x",
    "size bool": OUT.replace("size: 3", "size: true") % "x",
    "size endless": OUT.replace("size: 3", "size: " + "9" * 6000) % "x",
    "too long": OUT % "x" + "#" * (1 << 20),
}  # fmt: skip


@pytest.mark.parametrize("text", POINTERS.values(), ids=POINTERS)
def test_hostile_pointers(
    text: str | bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = text if isinstance(text, bytes) else text.encode()
    for path in ("p.dvc", "adapter/p.dvc"):
        if "/" in path and re.search(r"wdir: (a/\.\./)?\.\.\n", str(text)):
            continue  # one level up is inside the repository from there
        with pytest.raises(FatalError) as caught:
            parse_pointer(data, path)
        assert path in str(caught.value)
        assert len(str(caught.value)) < 400
    assert [p.name for p in tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in POINTERS
        if n.startswith(("path ", "md5 ", "size ", "deep ", "merge ", "conflict", "tag"))
    ],
)
def test_hostile_locks(name: str) -> None:
    text = str(POINTERS[name])
    stage = (
        "".join(f"    {line}\n" for line in text.splitlines()) if text.startswith("outs") else text
    )
    with pytest.raises(FatalError, match=r"dvc\.lock"):
        parse_dvc_lock(f"stages:\n  train:\n{stage}".encode(), "dvc.lock")


@pytest.mark.parametrize(
    "text",
    ["stages: [a]\n", "stages: {train: [a]}\n", "stages: {train: {outs: x}}\n", "stages: 3\n"],
)
def test_malformed_locks(text: str) -> None:
    with pytest.raises(FatalError):
        parse_dvc_lock(text.encode(), "dvc.lock")


def test_a_lock_is_read_per_stage() -> None:
    text = f"schema: '2.0'\nstages:\n  train:\n    cmd: x\n    outs:\n    - path: a/w\n      hash: md5\n      md5: {MD5}\n      size: 3\n  empty:\n    cmd: y\n"
    assert parse_dvc_lock(text.encode(), "sub/dvc.lock") == {
        "train": [Output("sub/a/w", MD5, 3, "sub/dvc.lock")], "empty": [],
    }  # fmt: skip


@given(st.binary(max_size=200))
def test_junk_is_refused_in_words(junk: bytes) -> None:
    for parse in (parse_pointer, parse_dvc_lock):
        try:
            parse(junk, "f")
        except FatalError as error:
            assert "f" in str(error)
