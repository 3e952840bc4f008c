"""`git soup merge --without GLOB --keep A:GLOB`: heads and vocabularies of another size."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
HEAD = "base_model.model.score.weight"


@pytest.fixture
def heads(repo, make_adapter):
    """A two-class and a six-class adapter of one base."""
    generator = np.random.default_rng(0)
    for name, classes in (("two", 2), ("six", 6)):
        head = {HEAD: generator.standard_normal((classes, 64))}
        make_adapter(
            f"adapters/{name}", seed=classes, extra_tensors=head, modules_to_save=["score"],
            task_type="SEQ_CLS",
        )  # fmt: skip
    return ["./adapters/two", "./adapters/six"]


def tensors(folder):
    return load_file(Path(folder, WEIGHTS))


def update(folder, module):
    """ΔW as PEFT computes it, dense."""
    config, found = json.loads(Path(folder, CONFIG).read_text()), tensors(folder)
    a, b = (found[f"base_model.model.{module}.lora_{x}.weight"].astype(float) for x in "AB")
    return config["lora_alpha"] / config["r"] * b @ a


def test_what_the_refusal_names_gets_one_through(heads, soup):
    done = soup("merge", *heads, "-o", "out", check=False)
    assert done.returncode == 128
    said, hint = done.stderr.strip().split("\n")
    assert said == (
        "fatal: score.weight is 2x64 in ./adapters/two and 6x64 in ./adapters/six:"
        " there is no sum of the two"
    )
    options = re.findall(r"--(?:without|keep) \S+", hint)
    assert options == ["--without score", "--keep ./adapters/six:score"]
    for number, option in enumerate(options):
        soup("merge", *heads, "-o", f"out{number}", *shlex.split(option))
    module = "model.layers.1.mlp.down_proj"
    mean = (update("adapters/two", module) + update("adapters/six", module)) / 2
    for folder in ("out0", "out1"):
        assert update(folder, module) == pytest.approx(mean, rel=1e-5, abs=1e-5)
    assert HEAD not in tensors("out0")
    assert json.loads(Path("out0", CONFIG).read_text())["modules_to_save"] is None
    assert (tensors("out1")[HEAD] == tensors("adapters/six")[HEAD]).all()
    assert json.loads(Path("out1", CONFIG).read_text())["modules_to_save"] == ["score"]


def test_many_modules_of_another_shape_are_one_glob(repo, soup, make_adapter):
    for name, width in (("a", 64), ("b", 72)):
        modules = {"self_attn.q_proj": (64, 64), "mlp.router": (64, width)}
        make_adapter(name, modules=modules, seed=width)
    hint = soup("merge", "./a", "./b", "-o", "out", check=False).stderr.split("hint: ")[1]
    assert hint.startswith("--without '*.router' leaves it out; --keep './b:*.router' takes")
    soup("merge", "./a", "./b", "-o", "out", "--without", "*.router")
    config = json.loads(Path("out", CONFIG).read_text())
    names = [f"model.layers.{layer}.self_attn.q_proj" for layer in (0, 1)]
    assert config["target_modules"] == names  # and no router, which would be made anew


@pytest.mark.parametrize("strategy", ["linear", "ties", "svd"])
def test_a_kept_module_is_that_inputs_update_whatever_the_strategy(
    repo, soup, make_adapter, strategy
):
    make_adapter("a", seed=1, rank=4)
    make_adapter("b", seed=2, rank=6, alpha=3)
    soup("merge", "./a", "./b", "-o", "out", "-s", strategy, "--keep", "b:*.1.mlp.*")
    kept = "model.layers.1.mlp.down_proj"
    config = json.loads(Path("out", CONFIG).read_text())
    factors = tensors("out")
    a, b = (factors[f"base_model.model.{kept}.lora_{x}.weight"].astype(float) for x in "AB")
    assert a.shape[0] == 6
    own = config["rank_pattern"] or config["r"] == 6
    assert own
    # Every module has the scaling alpha/r, with its own of each.
    scale = config["lora_alpha"] / config["r"]
    assert scale * b @ a == pytest.approx(update("b", kept), rel=1e-5, abs=1e-5)
    report = json.loads(soup("diff", "./b", "./out", "--json").stdout)
    row = next(x for x in report["layers"] if x["module"] == kept)
    assert row["relative_drift"] < 1e-6


def test_a_merge_with_selections_is_made_again_from_its_recipe(heads, soup, git):
    soup("add", *heads)
    git("commit", "-qm", "two")
    soup(
        "merge", "adapters/two", "adapters/six", "-o", "adapters/m",
        "--keep", "adapters/six:score", "--without", "*.0.self_attn.*",
    )  # fmt: skip
    soup("add", "adapters/m")
    git("commit", "-qm", "merge")
    done = soup("verify", "HEAD", "--adapter", "adapters/m")
    assert "identical" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--without", "nope*"), "--without nope* matches nothing of"),
        (("--keep", "b:nope"), "--keep ./adapters/six:nope matches nothing of"),
        (("--keep", "c:score"), "--keep is 'c:score', not A:GLOB with A one of"),
        (("--keep", "score"), "--keep is 'score', not A:GLOB"),
        (("--without", "*"), "leaves no module to merge"),
        (("--without", "score", "--keep", "b:score"), "score.weight is named by two of"),
        (("--keep", "a:score", "--keep", "b:score"), "score.weight is named by two of"),
    ],
)
def test_selections_that_mean_nothing_are_usage_errors(heads, soup, options, said):
    done = soup("merge", *heads, "-o", "out", *options, check=False)
    assert done.returncode == 129
    assert said in done.stderr
    assert not Path("out").exists()


def test_what_no_result_can_hold_is_said_before_branches_are_merged(heads, soup):
    done = soup("merge", "main", "--without", "score", check=False)
    assert done.returncode == 129
    assert "--without means nothing without -o DIR" in done.stderr


def test_resized_embeddings_are_kept_from_one_side(repo, soup, make_adapter):
    """Two vocabularies: the embeddings and the head that PEFT saved along."""
    generator = np.random.default_rng(0)
    for name, tokens in (("a", 100), ("b", 104)):
        whole = {
            f"base_model.model.{module}.weight": generator.standard_normal((tokens, 64))
            for module in ("model.embed_tokens", "lm_head")
        }
        make_adapter(
            name, seed=tokens, extra_tensors=whole, modules_to_save=["embed_tokens", "lm_head"]
        )
    hint = soup("merge", "./a", "./b", "-o", "out", check=False).stderr.split("hint: ")[1]
    keeps = [word for option in re.findall(r"--keep \S+", hint) for word in shlex.split(option)]
    assert len(keeps) == 4
    soup("merge", "./a", "./b", "-o", "out", *keeps)
    for module in ("model.embed_tokens", "lm_head"):
        name = f"base_model.model.{module}.weight"
        assert (tensors("out")[name] == tensors("b")[name]).all()
