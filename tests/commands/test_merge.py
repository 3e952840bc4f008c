"""`git soup merge … -o`: its report, its recipe, its folder, and everything it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from soup_git.commands import merge as command
from soup_git.core.manifest import parse_manifest
from soup_git.errors import FatalError
from soup_git.storage import merging
from soup_git.storage.workspace import Workspace

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


@pytest.fixture
def three(repo, make_adapter):
    for seed, name in enumerate("abc"):
        make_adapter(name, seed=seed)
    return ["./a", "./b", "./c"]


def merge(specs, output="out", **how):
    request = command.MergeRequest(list(specs), Path(output), **how)
    return command.merge(Workspace.open(), request)


def refused(specs, **how):
    """The sentence and hint of a refusal, which leaves no output and nothing beside it."""
    before = {p.name for p in Path().iterdir()}
    with pytest.raises(FatalError) as caught:
        merge(specs, **how)
    assert {p.name for p in Path().iterdir()} == before
    return f"{caught.value} | {caught.value.hint}"


def updates(folder):
    """Module -> dense update, read with safetensors and PEFT's own rule."""
    from safetensors.numpy import load_file

    config = json.loads((Path(folder) / CONFIG).read_text())
    tensors = load_file(Path(folder) / WEIGHTS)
    found = {}
    for name, a in tensors.items():
        if name.endswith("lora_A.weight"):
            b = tensors[name.replace("lora_A", "lora_B")]
            scale = config["lora_alpha"] / config["r"]
            found[name] = scale * b.astype(np.float64) @ a.astype(np.float64)
    return found


def test_a_merge_reports_what_it_did_and_writes_its_recipe(three, soup):
    done = soup("merge", *three, "-o", "out", "--weights", "0.5,0.3,0.2", "--json")
    report = json.loads(done.stdout)
    assert report["schema"] == "soup.merge/1"
    assert (report["strategy"], report["space"], report["rank"]) == ("linear", "exact", 24)
    assert report["residual"] == 0.0
    assert "--rank 8" in report["notes"][0]
    manifest = parse_manifest(Path("out/adapter.manifest").read_bytes(), "out")
    assert manifest.is_merged
    assert manifest.recipe[:2] == ("strategy linear", "space exact")
    inputs = [line for line in manifest.recipe if line.startswith("input ")]
    assert sorted(float(line.split()[1]) for line in inputs) == [0.2, 0.3, 0.5]
    assert all(" md5:" in line for line in inputs)
    wanted = {k: 0.5 * v for k, v in updates("a").items()}
    for name, weight in (("b", 0.3), ("c", 0.2)):
        wanted = {k: v + weight * updates(name)[k] for k, v in wanted.items()}
    for key, value in updates("out").items():
        assert np.linalg.norm(value - wanted[key]) < 1e-6 * np.linalg.norm(wanted[key])
    assert soup("show", "./out").returncode == 0


def test_the_originals_options_are_understood(three, soup):
    soup("merge", "--adapter", "./a", "--adapter", "./b", "--output", "out", "--strategy", "ties")
    assert Path("out", CONFIG).is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name the adapters to merge, or without -o the revisions"),
        (["./a", "./b"], "-o DIR is needed"),
        (["-o", "out"], "name the adapters"),
    ],
)
def test_usage_errors_are_129_and_say_what_is_needed(three, soup, arguments, said):
    done = soup("merge", *arguments, check=False)
    assert done.returncode == 129
    assert said in done.stderr


def test_the_list_names_every_strategy_with_a_reference(repo, soup):
    found = {
        s["name"]: s for s in json.loads(soup("merge", "--list", "--json").stdout)["strategies"]
    }
    assert {"linear", "ties", "dare", "svd", "dare_ties", "magnitude_prune", "slerp",
            "breadcrumbs", "della", "knots", "iso_c"} <= set(found)  # fmt: skip
    assert all(s["paper"] and s["summary"] for s in found.values())
    assert "arXiv" in soup("merge", "--list").stdout


def test_permuting_the_inputs_changes_no_byte(three):
    for strategy in ("linear", "ties", "dare", "knots"):
        shutil.rmtree("x", ignore_errors=True)
        shutil.rmtree("y", ignore_errors=True)
        merge(three, "x", strategy=strategy, weights="0.5,0.3,0.2")
        merge([three[2], three[0], three[1]], "y", strategy=strategy, weights="0.2,0.5,0.3")
        for name in (WEIGHTS, CONFIG, "adapter.manifest"):
            assert Path("x", name).read_bytes() == Path("y", name).read_bytes()


@pytest.mark.parametrize("strategy", ["linear", "svd", "ties", "dare", "knots"])
def test_the_number_of_workers_changes_no_byte(three, monkeypatch, strategy):
    for workers in (1, 3):
        monkeypatch.setattr(merging, "_WORKERS", workers)
        merge(three, f"by{workers}", strategy=strategy)
    assert Path("by1", WEIGHTS).read_bytes() == Path("by3", WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    "dtypes", [("F32", "BF16", "F32"), ("F16", "F16", "F16"), ("BF16", "F16", "F32")]
)
def test_the_widest_dtype_is_kept(repo, make_adapter, dtypes):
    for dtype, name in zip(dtypes[:2], "ab", strict=True):
        make_adapter(name, seed=ord(name), dtype=dtype)
    assert merge(["./a", "./b"]).dtype == dtypes[2]


def test_float64_stays_exact(repo, make_adapter):
    make_adapter("a", seed=1, dtype="F64")
    make_adapter("b", seed=2, dtype="F64")
    assert merge(["./a", "./b"], strategy="svd", rank="16").residual < 1e-14
    got, a, b = updates("out"), updates("a"), updates("b")
    for key in got:
        assert np.linalg.norm(got[key] - (a[key] + b[key]) / 2) < 1e-13 * np.linalg.norm(a[key])


def test_modules_that_one_adapter_has_alone_get_its_share(repo, make_adapter):
    make_adapter("a", seed=1, layers=1)
    make_adapter("b", seed=2, layers=2, rank=4)
    report = merge(["./a", "./b"], strategy="svd")
    assert {m.rank for m in report.layers} == {8, 4}
    merge(["./a", "./b"], "exact")
    config = json.loads(Path("exact", CONFIG).read_text())
    assert len(config["target_modules"]) == 4
    assert sorted({config["r"], *config["rank_pattern"].values()}) == [4, 12]
    assert {
        round(config["alpha_pattern"][k] / v, 9) for k, v in config["rank_pattern"].items()
    } == {round(config["lora_alpha"] / config["r"], 9)}


def test_expressions_weigh_adapters_in_the_order_they_are_named(three):
    report = merge(three, expression="a + 0.5*b - c")
    assert {i.spec: i.weight for i in report.inputs} == {"./a": 1.0, "./b": 0.5, "./c": -1.0}


def test_normalized_weights_add_up_to_one(three):
    report = merge(three, weights="1,1,2", normalize=True)
    assert {i.spec: i.weight for i in report.inputs} == {"./a": 0.25, "./b": 0.25, "./c": 0.5}


def test_an_adapter_is_replaced_only_when_forced_and_what_lies_beside_it_stays(three):
    merge(three[:2])
    assert "holds an adapter already" in refused(three[:2])
    Path("out/README.md").write_text("mine")
    first = Path("out", WEIGHTS).read_bytes()
    merge(three, force=True)
    assert Path("out/README.md").read_text() == "mine"
    assert Path("out", WEIGHTS).read_bytes() != first


def test_a_merge_that_fails_leaves_the_old_adapter(three, monkeypatch):
    merge(three[:2])
    before = Path("out", WEIGHTS).read_bytes()

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merging.TensorWriter, "put", full)
    with pytest.raises(OSError, match="space"):
        merge(three, force=True)
    assert Path("out", WEIGHTS).read_bytes() == before
    assert not [p for p in Path().iterdir() if p.name.startswith(".soup-")]


# -- what is refused --------------------------------------------------------------------------


def rewrite(folder, change):
    """Change a float32 adapter's tensors: `change` gets and returns name -> array."""
    from safetensors.numpy import load_file, save_file

    path = Path(folder) / WEIGHTS
    tensors = change({k: v.copy() for k, v in load_file(path).items()})
    save_file(tensors, path)


def first(tensors, part):
    return next(name for name in sorted(tensors) if f"lora_{part}" in name)


def without(part):
    def change(tensors):
        tensors.pop(first(tensors, part))
        return tensors

    return change


def transposed(tensors):
    for part in "AB":
        name = first(tensors, part)
        tensors[name] = np.ascontiguousarray(tensors[name].T)
    return tensors


def fill(value):
    def change(tensors):
        tensors[first(tensors, "A")][0, 0] = value
        return tensors

    return change


def extra(tensors):
    name = first(tensors, "A")
    return {**tensors, name.replace("lora_A", "lora_E"): np.ones((8, 1), np.float32)}


def empty(tensors):
    a, b = first(tensors, "A"), first(tensors, "B")
    return {**tensors, a: tensors[a][:0], b: tensors[b][:, :0]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("A"), "no lora_A"),
        (without("B"), "no lora_B"),
        (extra, "extra factor lora_E"),
        (transposed, "rank"),
        (fill(np.nan), "not finite"),
        (fill(np.inf), "not finite"),
        (empty, "rank 0"),
    ],
)
def test_a_damaged_adapter_is_refused_by_name(three, change, said):
    rewrite("b", change)
    text = refused(three)
    assert said in text
    assert "./b" in text


def test_a_config_that_lies_about_its_rank_is_refused(three):
    config = Path("b", CONFIG)
    config.write_text(config.read_text().replace('"r": 8', '"r": 4'))
    text = refused(three)
    assert "rank 4" in text
    assert "rank 8" in text


def test_weights_that_the_manifest_does_not_describe_are_refused(repo, soup, git, make_adapter):
    make_adapter("x", seed=1)
    soup("add", "x")
    git("commit", "-qm", "Add x")
    workspace = Workspace.open()
    weights = workspace.adapter("HEAD").weights
    data = bytearray(weights.read_bytes())
    data[-1] ^= 0x40
    weights.chmod(0o644)
    weights.write_bytes(bytes(data))
    assert "its manifest says" in refused(["HEAD"], strategy="svd", rank="2")


def test_other_bases_are_refused_until_said_to_be_meant(repo, make_adapter):
    make_adapter("a", seed=1, base="tiny/base")
    make_adapter("b", seed=2, base="other/base")
    text = refused(["./a", "./b"])
    assert "other/base" in text
    assert "--allow-cross-base" in text
    assert "other/base" in merge(["./a", "./b"], allow_cross_base=True).notes[0]


def test_other_shapes_are_refused(repo, make_adapter):
    make_adapter("a", seed=1)
    make_adapter("b", seed=2, modules={"self_attn.q_proj": (32, 64), "mlp.down_proj": (128, 64)})
    said = refused(["./a", "./b"])
    assert "q_proj is 64x64 in ./a and 64x32 in ./b, and 1 more like it" in said
    make_adapter("b", seed=2, modules={"self_attn.q_proj": (32, 64), "mlp.down_proj": (128, 32)})
    assert "adapters of one base model have the same shapes" in refused(["./a", "./b"])


def test_no_module_in_common_is_refused(repo, make_adapter):
    make_adapter("a", seed=1, modules={"self_attn.q_proj": (64, 64)})
    make_adapter("b", seed=2, modules={"mlp.down_proj": (128, 64)})
    assert "no module in common" in refused(["./a", "./b"])


def test_factors_of_unequal_rank_are_refused_in_factor_space(repo, make_adapter):
    make_adapter("a", seed=1)
    make_adapter("b", seed=2, rank=4)
    assert "--space shared" in refused(["./a", "./b"], strategy="ties", space="factors")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"weights": "1,2"}, "2 weights for 3"),
        ({"weights": "1,x,2"}, "not numbers"),
        ({"weights": "1,nan,2"}, "weight"),
        ({"weights": "1,0,2"}, "adds nothing"),
        ({"weights": "1,-2,1", "normalize": True}, "add up to 0"),
        ({"expression": "a + d"}, "names 'd'"),
        ({"expression": "a * b"}, "only numbers"),
        ({"expression": "a + b"}, "weight of ./c"),
        ({"strategy": "average"}, "--list"),
        ({"strategy": "slerp"}, "takes 2"),
        ({"strategy": "ties", "density": 0.0}, "share"),
        ({"strategy": "ties", "density": 1.5}, "share"),
        ({"density": 0.5}, "means nothing to linear"),
        ({"strategy": "ties", "space": "dense"}, "none of"),
        ({"strategy": "svd", "space": "delta"}, "means nothing"),
        ({"rank": "0"}, "1 to 65536"),
        ({"strategy": "svd", "rank": "full"}, "for linear"),
    ],
)
def test_options_that_mean_nothing_are_usage_errors(three, how, said):
    text = refused(three, **how)
    assert said in text


def test_more_than_sixteen_are_refused(three):
    assert "1 to 16" in refused(three * 6)


def test_the_output_is_never_an_input(three):
    assert "is an input" in refused(three, output="a", force=True)
    assert "is an input" in refused(three, output="./b/../a", force=True)
    Path("other").mkdir()
    Path("other/file").write_text("x")
    assert "other things" in refused(three, output="other")
    assert "is a file" in refused(three, output="README.md")


def test_weights_too_large_for_the_dtype_are_refused(repo, make_adapter):
    make_adapter("a", seed=1, dtype="F16")
    make_adapter("b", seed=2, dtype="F16")
    assert "too large for F16" in refused(["./a", "./b"], weights="1,1e12", strategy="svd")
