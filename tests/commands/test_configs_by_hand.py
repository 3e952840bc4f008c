"""An adapter_config.json that somebody edited: a sentence, or it works; never a traceback."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from soup_git.commands.add import add
from soup_git.commands.diff import compare
from soup_git.commands.merge import MergeRequest, merge
from soup_git.commands.show import show
from soup_git.core.adapter import parse_adapter_config
from soup_git.core.manifest import parse_manifest
from soup_git.core.threeway import decide
from soup_git.errors import FatalError
from soup_git.storage.workspace import Workspace

CONFIG = "adapter_config.json"
KEYS = [
    "r", "lora_alpha", "use_rslora", "use_dora", "lora_bias", "bias", "fan_in_fan_out", "rank_pattern",
    "alpha_pattern", "target_modules", "exclude_modules", "modules_to_save", "layers_to_transform",
    "layers_pattern", "target_parameters", "trainable_token_indices", "init_lora_weights",
    "base_model_name_or_path", "revision", "peft_type", "peft_version", "task_type", "use_qalora",
    "use_bdlora", "kasa_config", "layer_replication", "inference_mode", "a_key_of_nobody",
]  # fmt: skip
VALUES = [None, -1, 0, 1.5, True, "x", "", {}, [], [1], [None], {"a": None}, {"q_proj": 0}, {"(": 2}, float("nan")]  # fmt: skip


def edit(folder: str, **keys: Any) -> bytes:
    file = Path(folder, CONFIG)
    raw = json.loads(file.read_text()) | keys
    file.write_text(json.dumps(raw))
    return file.read_bytes()


@pytest.mark.parametrize("key", KEYS)
def test_each_value_of_each_key_is_refused_with_a_sentence_or_works(
    repo, make_adapter, key: str
) -> None:
    make_adapter("good", seed=1)
    for number, value in enumerate(VALUES):
        folder = f"edited{number}"
        make_adapter(folder, seed=2, layers=1)
        data = edit(folder, **{key: value})
        try:
            parse_adapter_config(data, f"{folder}/{CONFIG}")
        except FatalError as error:
            assert key in str(error)
            assert error.hint
            continue
        run_all(folder)


def run_all(folder: str) -> None:
    """Every command that reads a config, as far as it goes without an exception of ours."""
    workspace = Workspace.open()
    steps = (
        lambda: show(workspace, f"./{folder}", None).tables(),
        lambda: compare(workspace.adapter("./good"), workspace.adapter(f"./{folder}")).tables(),
        lambda: merge(workspace, MergeRequest(["./good", f"./{folder}"], Path("out"), force=True)),
        lambda: add(workspace, [Path(folder)]),
    )
    for step in steps:
        try:
            step()
        except FatalError as error:
            assert error.hint


@pytest.mark.parametrize(
    ("kind", "keys", "tensors"),
    [
        ("LOHA", ("r", "alpha", "rank_pattern", "alpha_pattern"),
         {"hada_w1_a": (6, 2), "hada_w1_b": (2, 5), "hada_w2_a": (6, 2), "hada_w2_b": (2, 5)}),
        ("LOKR", ("r", "alpha", "rank_pattern", "alpha_pattern"), {"lokr_w1": (2, 2), "lokr_w2": (3, 3)}),
        ("ADALORA", ("r", "lora_alpha", "init_r", "rank_pattern"),
         {"lora_A": (2, 5), "lora_B": (6, 2), "lora_E": (2, 1)}),
        ("VBLORA", ("topk", "r"), {"vblora_logits_A": (2, 2, 4), "vblora_logits_B": (3, 2, 4)}),
        ("OFT", ("r", "oft_block_size", "coft"), {"oft_R.weight": (1, 6)}),
        ("NOBODYS", ("r", "alpha"), {"weight": (2, 3)}),
    ],
)  # fmt: skip
def test_other_methods_scalings_too(repo, make_adapter, kind, keys, tensors) -> None:
    from safetensors.numpy import save_file

    generator = np.random.default_rng(0)
    values = {
        f"base_model.model.q_proj.{n}": generator.standard_normal(s) for n, s in tensors.items()
    }
    if kind == "VBLORA":
        values["base_model.vblora_vector_bank"] = generator.standard_normal((4, 2))
    body = {"peft_type": kind, "base_model_name_or_path": "tiny/base", "r": 2}
    for folder, factor in (("good", 1.0), ("edited", 2.0)):
        Path(folder).mkdir()
        save_file({n: factor * v for n, v in values.items()}, f"{folder}/adapter_model.safetensors")
        Path(folder, CONFIG).write_text(json.dumps(body))
    for key, value in product(keys, VALUES):
        Path("edited", CONFIG).write_text(json.dumps(body))
        data = edit("edited", **{key: value})
        try:
            parse_adapter_config(data, f"edited/{CONFIG}")
        except FatalError as error:
            assert key in str(error)
            continue
        run_all("edited")


def test_commands_and_hooks_say_it_too(repo, make_adapter, soup, git) -> None:
    make_adapter("adapters/a", seed=1)
    make_adapter("other", seed=2)
    soup("add", "adapters/a")
    git("commit", "-qm", "one")
    edit("adapters/a", r=None)
    said = "adapters/a/adapter_config.json: r is null, not a whole number of at least 1"
    for words in (
        ("show", "./adapters/a"), ("diff", "./adapters/a", "./other"), ("add", "adapters/a"),
        ("merge", "./adapters/a", "./other", "-o", "out"),
    ):  # fmt: skip
        done = soup(*words, check=False)
        assert done.returncode == 128
        assert said in done.stderr
    edit("adapters/a", r=4)
    git("commit", "-qam", "by hand", "--no-verify")
    for words in (("show", "HEAD"), ("diff", "HEAD", "./other"), ("diff", "HEAD", "HEAD")):
        done = soup(*words, check=False)
        assert "Traceback" not in done.stderr
        assert done.returncode == 128
        assert "says rank 4 for model" in done.stderr
    edit("adapters/a", r=None)
    for run, words in (
        (soup, ("status",)), (soup, ("fsck",)), (soup, ("blame", "adapters/a")), (soup, ("branches",)),
        (git, ("diff",)), (git, ("commit", "-qam", "two")), (soup, ("fsck",)), (soup, ("show", "HEAD")),
        (git, ("log", "-p", "--ext-diff")), (soup, ("diff", "HEAD~1", "HEAD")),
    ):  # fmt: skip
        done = run(*words, check=False)
        assert "Traceback" not in done.stdout + done.stderr, words
        assert done.returncode in {0, 1, 3, 128}, words


@pytest.mark.parametrize(
    "key", ["rank", "alpha", "rslora", "rank_pattern", "target_parameters", "peft"]
)
def test_a_manifests_header_that_was_edited_is_a_sentence_in_the_merge_driver(
    repo, make_adapter, soup, key: str
) -> None:
    manifests = []
    for seed in range(3):
        make_adapter("adapters/a", seed=seed)
        soup("add", "adapters/a")
        manifests.append(Path("adapters/a/adapter.manifest").read_text())
    for value in ("null", "-1", "0", "{}", "[]", '"x"', "nan"):
        lines = [x for x in manifests[1].split("\n") if not x.startswith(f"{key} ")]
        lines.insert(1, f"{key} {value}")
        try:
            edited = parse_manifest("\n".join(lines).encode(), "m")
            decide(
                parse_manifest(manifests[0].encode(), "m"),
                [edited, parse_manifest(manifests[2].encode(), "m")],
            )
        except FatalError:
            pass
