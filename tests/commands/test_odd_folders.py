"""Adapter folders as trainers, clones and downloads leave them: each refusal's hint, typed."""

from __future__ import annotations

import json
import re
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from soup_git.core.tensornames import canonical
from soup_git.data.reading import values
from soup_git.errors import FatalError

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def adapter(repo, make_adapter):
    """The adapter `a`, and its tensors."""
    make_adapter("a", seed=1)
    return Path("a"), load_file(f"a/{WEIGHTS}")


def hint_of(done) -> str:
    return re.search(r"^hint: (.*)$", done.stderr, re.MULTILINE)[1]


def typed(command: str) -> None:
    subprocess.run(["/bin/bash", "-ec", command], check=True, capture_output=True)


def refused_then_taken(soup, what: str) -> None:
    """`git soup add a` is refused with `what`; the command in its hint gets the user through."""
    done = soup("add", "a", check=False)
    assert done.returncode == 128, done.stderr
    assert what in done.stderr
    hint = hint_of(done)
    typed(hint[hint.index("python -c") :] if "python -c" in hint else hint)
    soup("add", "a")


SHARDS = {"join": "adapter_model-0000{}-of-00002.safetensors"}


def test_shards_are_joined(adapter, soup):
    folder, tensors = adapter
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    for number, part in enumerate((names[:2], names[2:]), 1):
        save_file({n: tensors[n] for n in part}, folder / SHARDS["join"].format(number))
    (folder / "adapter_model.safetensors.index.json").write_text("{}")
    refused_then_taken(soup, "in shards")
    assert all(np.array_equal(v, tensors[n]) for n, v in load_file(folder / WEIGHTS).items())


def test_another_name(adapter, soup):
    (adapter[0] / WEIGHTS).rename(adapter[0] / "model.safetensors")
    refused_then_taken(soup, "another name (model.safetensors)")


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda n: f"_fsdp_wrapped_module.{n}",
        lambda n: n.replace("layers.0.", "layers.0._fsdp_wrapped_module."),
        lambda n: n.replace("base_model.model.", "base_model.model._orig_mod."),
        lambda n: f"module.{n}",
        lambda n: n.replace(".weight", ".policy.weight"),
    ],
    ids=["fsdp", "fsdp inside", "compiled", "ddp", "adapter's name"],
)
def test_names_that_peft_does_not_load(wrapped, adapter, soup):
    folder, tensors = adapter
    save_file({wrapped(n): v for n, v in tensors.items()}, folder / WEIGHTS)
    refused_then_taken(soup, "PEFT would load the adapter without it")
    assert load_file(folder / WEIGHTS).keys() == tensors.keys()


def test_a_byte_order_mark(adapter, soup):
    config = adapter[0] / "adapter_config.json"
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    refused_then_taken(soup, "byte order mark")


def test_eight_bits(adapter, soup):
    import torch
    from safetensors.torch import save_file as save_torch

    folder, tensors = adapter
    small = {n: torch.as_tensor(v).to(torch.float8_e4m3fn) for n, v in tensors.items()}
    save_torch(small, folder / WEIGHTS)
    refused_then_taken(soup, "F8_E4M3")


def test_a_renamed_pickle(adapter, soup):
    import torch

    folder, tensors = adapter
    torch.save({n: torch.as_tensor(v) for n, v in tensors.items()}, folder / WEIGHTS)
    refused_then_taken(soup, "pickle with a .safetensors name")
    assert load_file(folder / WEIGHTS).keys() == tensors.keys()


def test_an_adapter_in_a_folder_below(repo, soup, make_adapter):
    make_adapter("out/policy", seed=1)
    done = soup("add", "out", check=False)
    assert "(policy)" in done.stderr
    typed(hint_of(done))
    assert Path("out/policy/adapter.manifest").is_file()


def test_a_link_to_nowhere(adapter, soup, refused):
    (adapter[0] / WEIGHTS).unlink()
    (adapter[0] / WEIGHTS).symlink_to("../blobs/0123")
    refused(soup("add", "a", check=False), 128, "../blobs/0123, which is not there")
    refused(soup("show", "a", check=False), 128, "../blobs/0123, which is not there")


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:%b\nsize 167832240\n" % (b"a" * 64)
INSTEAD = {
    "lfs": (LFS, "git-lfs pointer", "167,832,240 bytes"),
    "xet": (b"# xet version 0\nfilesize = 42\nhash = 'ab'\n", "pointer of Xet", "42 bytes"),
    "page": (b"<!DOCTYPE html><html><head><title>Sign in</title>", "web page (Sign in)", "hf auth"),
    "s3": (b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code>", "(AccessDenied)", "download"),
    "dvc": (b"outs:\n- md5: 0123\n  size: 3\n  path: x\n", "DVC pointer", "dvc pull"),
    "json": (b'{"error": "Repository not found"}', "JSON", "download it again"),
    "text": (b"Invalid username or password.", "Invalid username", "download it again"),
    "gguf": (b"GGUF\x03\0\0\0" + bytes(64), "GGUF", "save_pretrained"),
    "gzip": (b"\x1f\x8b\x08" + bytes(64), "gzip", ""),
    "empty": (b"", "is empty", "download it again"),
}  # fmt: skip


@pytest.mark.parametrize("kind", INSTEAD)
def test_what_lies_in_the_place_of_weights_is_named(kind, adapter, soup, refused):
    data, what, hint = INSTEAD[kind]
    (adapter[0] / WEIGHTS).write_bytes(data)
    for verb in ("add", "show"):
        refused(soup(verb, "a", check=False), 128, what, hint)


def test_a_pointer_is_pulled_by_its_name_from_the_top(repo, soup, make_adapter):
    make_adapter("deep/er/a", seed=1)
    Path("deep/er/a", WEIGHTS).write_bytes(LFS)
    done = soup("add", "a", cwd=repo / "deep/er", check=False)
    assert "git lfs pull --include deep/er/a/adapter_model.safetensors" in done.stderr


def test_a_download_that_broke_off_says_both_sizes(adapter, soup, refused):
    file = adapter[0] / WEIGHTS
    whole = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-100])
    refused(soup("add", "a", check=False), 128, f"{whole:,} bytes", f"{whole - 100:,}", "again")


def test_a_dataset_that_is_a_pointer(repo):
    Path("rows.jsonl").write_bytes(LFS)
    with pytest.raises(FatalError, match="git-lfs pointer") as caught:
        list(values(Path("rows.jsonl"), "rows.jsonl"))
    assert "git lfs pull --include rows.jsonl" in caught.value.hint


def test_empty_tensors_of_zero3(adapter, soup, refused):
    folder, tensors = adapter
    save_file(tensors | {"base_model.model.lm_head.weight": np.zeros(0, "f4")}, folder / WEIGHTS)
    refused(soup("add", "a", check=False), 128, "lm_head.weight has shape [0]", "1 of", "ZeRO-3")


def test_the_only_adapters_name_is_no_difference(adapter, soup):
    folder, tensors = adapter
    Path("b").mkdir()
    Path("b/adapter_config.json").write_bytes((folder / "adapter_config.json").read_bytes())
    renamed = {n.replace(".weight", ".default.weight"): v for n, v in tensors.items()}
    save_file(renamed, f"b/{WEIGHTS}")
    assert {canonical(n) for n in renamed} == set(tensors)
    report = json.loads(soup("diff", "./a", "./b", "--json").stdout)
    assert report["summary"]["relative_drift"] == 0
    soup("merge", "./a", "./b", "-o", "m", "--rank", "4")
    assert load_file(f"m/{WEIGHTS}").keys() == tensors.keys()


def test_the_hint_for_what_was_never_tracked_is_no_checkout(adapter, soup, refused):
    (adapter[0] / WEIGHTS).unlink()
    done = soup("add", "a", check=False)
    assert "checkout" not in done.stderr
    assert "save_pretrained" in done.stderr


def test_a_zip_is_a_pickle(adapter, soup, refused):
    with zipfile.ZipFile(adapter[0] / WEIGHTS, "w") as file:
        file.writestr("data.pkl", "x")
    refused(soup("add", "a", check=False), 128, "pickle")
