"""The manifest: what is written is what is read, and nothing else is read."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soup_git.core.adapter import AdapterConfig, is_safe_pattern, module_of, parse_adapter_config
from soup_git.core.manifest import (
    FIRST_LINE,
    Manifest,
    Tensor,
    agrees,
    config_bytes,
    make_manifest,
    parse_manifest,
)
from soup_git.errors import FatalError

HEX64 = st.text("0123456789abcdef", min_size=64, max_size=64)
HEX32 = st.text("0123456789abcdef", min_size=32, max_size=32)
LETTERS = st.characters(exclude_categories=["C", "Z"])
WORDS = st.text(LETTERS, min_size=1, max_size=40)
LINES = st.text(LETTERS | st.just(" "), min_size=1, max_size=60)
NORMS = st.floats(min_value=0, allow_nan=False).map(lambda x: float(f"{x:.6g}"))
TENSORS = st.builds(
    Tensor,
    name=WORDS,
    dtype=st.sampled_from(["F32", "BF16", "F16", "I64", "BOOL"]),
    shape=st.lists(st.integers(0, 2**40), max_size=4).map(tuple),
    sha256=HEX64,
    norm=NORMS,
)
KEYS = st.sampled_from(["peft", "base", "rank", "alpha", "rslora", "dora", "rank_pattern"])


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    header = draw(st.lists(st.tuples(KEYS, LINES), unique_by=lambda pair: pair[0]))
    modules = draw(st.lists(st.tuples(st.just("module"), LINES), max_size=3))
    tensors = draw(st.lists(TENSORS, max_size=6, unique_by=lambda t: t.name))
    return Manifest(
        header=(*header, *modules),
        weights_md5=draw(HEX32),
        weights_size=draw(st.integers(0, 2**60)),
        recipe=tuple(draw(st.lists(LINES, max_size=3))),
        tensors=tuple(sorted(tensors, key=lambda t: t.name)),
    )


@given(manifests())
def test_what_is_written_is_read_back(manifest: Manifest) -> None:
    assert parse_manifest(manifest.text().encode(), "m") == manifest


@given(manifests())
def test_the_tensors_line_is_the_digest_of_what_follows_the_blank_line(manifest: Manifest) -> None:
    text = manifest.text().encode()
    body = text.partition(b"\n\n")[2]
    line = f"tensors {len(manifest.tensors)} sha256:{hashlib.sha256(body).hexdigest()}\n"
    assert line.encode() in text


@given(manifests(), st.data())
def test_no_cut_off_text_is_read(manifest: Manifest, data: st.DataObject) -> None:
    text = manifest.text().encode()
    cut = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(FatalError):
        parse_manifest(text[:cut], "m")


@settings(max_examples=60)
@given(manifests(), st.data())
def test_no_other_spelling_is_read(manifest: Manifest, data: st.DataObject) -> None:
    """One changed byte is refused, or it is another manifest that is written the same way."""
    text = bytearray(manifest.text().encode())
    at = data.draw(st.integers(0, len(text) - 1))
    text[at] = data.draw(st.integers(0, 255))
    try:
        found = parse_manifest(bytes(text), "m")
    except FatalError:
        return
    if b"\ntensors " in text:
        assert found.text().encode() == bytes(text)
    elif b"tensors " not in text:  # the byte was in that line's key: one we do not know
        assert any(key not in {"module", "peft"} for key, _ in found.header)
    else:  # the byte was the line feed before it: it is a part of the value before
        assert any("tensors " in value for _, value in found.header)


@given(st.binary(max_size=300))
def test_junk_is_refused_in_words(junk: bytes) -> None:
    for data in (junk, FIRST_LINE.encode() + b"\n" + junk):
        try:
            parse_manifest(data, "m")
        except FatalError as error:
            assert error.hint
        else:
            assert b"weights md5:" in data


def tensor(name: str, shape: tuple[int, ...] = (4, 8), fill: str = "a") -> Tensor:
    return Tensor(name, "F32", shape, fill * 64, 1.5)


def lora(**keys: object) -> AdapterConfig:
    raw = {"peft_type": "LORA", "base_model_name_or_path": "./base", "r": 4, "lora_alpha": 8}
    return parse_adapter_config(json.dumps({**raw, **keys}).encode(), "adapter_config.json")


def pair(module: str, rank: int = 4, fill: str = "a") -> list[Tensor]:
    name = f"base_model.model.{module}"
    return [
        tensor(f"{name}.lora_A.weight", (rank, 64), fill),
        tensor(f"{name}.lora_B.weight", (64, rank), fill),
    ]


def small(config: AdapterConfig | None = None, fill: str = "a") -> Manifest:
    tensors = [t for i in range(3) for t in pair(f"model.layers.{i}.self_attn.q_proj", fill=fill)]
    return make_manifest(
        config or lora(), tensors, weights_md5=fill * 32, weights_size=1000, recipe=()
    )


TEXT = small().text()


def sealed(text: str) -> str:
    """`text` with the `tensors` line that its tensor lines should have."""
    body = text.partition("\n\n")[2]
    digest = hashlib.sha256(body.encode()).hexdigest()
    return re.sub("sha256:.*\n", f"sha256:{digest}\n", text, count=1)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (FIRST_LINE, "soup-manifest 2", "no manifest that this git-soup reads"),
        ("rank 4\n", "rank 4\nrank 8\n", "second `rank`"),
        ("rank 4\n", "<<<<<<< HEAD\nrank 4\n=======\nrank 8\n>>>>>>> topic\n", "conflict markers"),
        ("rank 4\n", "rank 4\n||||||| base\n", "conflict markers"),
        ("rank 4\n", "<<<<<<<<< HEAD\nrank 4\n", "key value"),
        ("\n", "\r\n", "CRLF"),
        ("rank 4\n", "rank\n", "key value"),
        ("rank 4\n", "rank \x1b[31m4\n", "key value"),
        ("weights md5", "weights sha1", "weights md5:HEX SIZE"),
        ("weights md5", "recipe md5", "no `weights` line"),
        ("weights md5", "recipe x\nweights md5", "comes too late"),
        ("weights md5", "module x\nweights md5", "comes too late"),
        ("aa 1000\n", "aa 1000\nmodule x\n", "comes too early"),
        ("aa 1000\n", "aa 01000\n", "weights md5:HEX SIZE"),
        ("aa 1000\n", f"aa {'9' * 5000}\n", "weights md5:HEX SIZE"),
        ("aa 1000\n", "aa ١٠٠\n", "weights md5:HEX SIZE"),
        ("F32 4x64", "F32 04x64", "NAME DTYPE SHAPE"),
        ("F32 4x64", "F32 ٤x64", "NAME DTYPE SHAPE"),
        ("F32 4x64", "F32 4x-64", "NAME DTYPE SHAPE"),
        ("norm=1.5", "norm=1.50", "NAME DTYPE SHAPE"),
        ("norm=1.5", "norm=-1.5", "NAME DTYPE SHAPE"),
        ("norm=1.5", "norm=e", "NAME DTYPE SHAPE"),
        ("norm=1.5", "norm=1.5 ", "NAME DTYPE SHAPE"),
        ("sha256:aaaa", "sha256:AAAA", "NAME DTYPE SHAPE"),
        ("layers.0", "layers.9", "not sorted and unique"),
        ("layers.1", "layers.0", "not sorted and unique"),
        ("tensors 6 ", "tensors 7 ", "mixed two adapters"),
        ("\n\n", "\n", "cut off"),
    ],
)
def test_bad_lines(old: str, new: str, said: str) -> None:
    bad = TEXT.replace(old, new)
    if old in TEXT.partition("\n\n")[2] and old != "\n":
        with pytest.raises(FatalError, match="mixed two adapters"):
            parse_manifest(bad.encode(), "d/adapter.manifest")
        bad = sealed(bad)
    assert bad != TEXT
    with pytest.raises(FatalError) as caught:
        parse_manifest(bad.encode(), "d/adapter.manifest")
    assert said in str(caught.value)
    assert "d/adapter.manifest" in str(caught.value)
    assert caught.value.hint


def test_size_and_encoding_are_bounded() -> None:
    for data in (b"\xff", b"soup-manifest 1\n\xff\n", b"x" * ((64 << 20) + 1)):
        with pytest.raises(FatalError):
            parse_manifest(data, "m")


def test_a_manifest_without_the_tensors_line_is_read() -> None:
    text = re.sub("tensors .*\n", "", TEXT)
    assert parse_manifest(text.encode(), "m") == small()


def test_not_finite_norms_are_kept_as_such() -> None:
    text = make_manifest(
        lora(), [Tensor("a", "F32", (1,), "a" * 64, math.nan), Tensor("b", "F32", (), "a" * 64, math.inf)],
        weights_md5="a" * 32, weights_size=1,
    ).text()  # fmt: skip
    assert parse_manifest(text.encode(), "m").text() == text
    assert "norm=nan" in text
    assert "b F32 scalar" in text


def test_digest_leaves_out_the_recipe_only() -> None:
    one = small()
    merged = Manifest(one.header, one.weights_md5, one.weights_size, ("merge x",), one.tensors)
    assert merged.digest() == one.digest()
    assert merged.is_merged
    assert small(lora(lora_alpha=16)).digest() != one.digest()


# -- what it says of a config ---------------------------------------------------------------


def test_header_of_a_lora() -> None:
    manifest = small(
        lora(use_rslora=True, lora_alpha=1234567.5, alpha_pattern={"z": 3, "q_proj": 64})
    )
    assert manifest.header[:6] == (
        ("peft", "lora"), ("base", "./base"), ("rank", "4"), ("alpha", "1234567.5"),
        ("rslora", "true"), ("dora", "false"),
    )  # fmt: skip
    assert manifest.get("alpha_pattern") == '{"z":3,"q_proj":64}'  # in the config's own order
    assert manifest.header[-1][1].split() == [
        "model.layers.2.self_attn.q_proj", "rank=4", "alpha=64",
    ]  # fmt: skip


def test_keys_that_change_what_factors_mean_are_in_the_header() -> None:
    manifest = small(lora(target_parameters=["mlp.experts"], use_qalora=False))
    assert manifest.get("target_parameters") == '["mlp.experts"]'
    assert manifest.get("use_qalora") is None


@pytest.mark.parametrize("base", ["a\nb", "a\x1b[31m", "a\u202eb", "\ud800", "x\u2028y"])
def test_any_base_is_one_printable_line(base: str) -> None:
    manifest = small(lora(base_model_name_or_path=base, rank_pattern={"a\u202eb": 3}))
    assert parse_manifest(manifest.text().encode(), "m") == manifest


def test_a_full_module_has_no_rank() -> None:
    manifest = make_manifest(
        lora(), [*pair("model.q"), tensor("base_model.model.score.weight", (2, 64))],
        weights_md5="a" * 32, weights_size=1,
    )  # fmt: skip
    lines = [value.split() for key, value in manifest.header if key == "module"]
    assert lines == [["model.q", "rank=4", "alpha=8"], ["score", "full"]]


def test_other_methods_have_module_lines_too() -> None:
    config = parse_adapter_config(b'{"peft_type": "IA3", "base_model_name_or_path": null}', "c")
    name = "base_model.model.h.0.attn.k_proj.ia3_l"
    manifest = make_manifest(config, [tensor(name, (64, 1))], weights_md5="a" * 32, weights_size=1)
    assert [value.split() for key, value in manifest.header if key == "module"] == [
        ["h.0.attn.k_proj", "ia3"]
    ]
    assert manifest.base_model is None


@pytest.mark.parametrize(
    ("config", "rank"),
    [(lora(), 4), (lora(r=8), 8), (lora(rank_pattern={"q_proj": 2}), 2), (lora(rank_pattern={r"model\.layers\.\d+\.self_attn.q_proj": 6}), 6)],
)  # fmt: skip
def test_ranks_are_checked(config: AdapterConfig, rank: int) -> None:
    module = "model.layers.1.self_attn.q_proj"
    make_manifest(config, pair(module, rank), weights_md5="a" * 32, weights_size=1)
    with pytest.raises(FatalError, match=f"says rank {rank}") as caught:
        make_manifest(
            config, pair(module, rank + 1), weights_md5="a" * 32, weights_size=1, where="d/c.json"
        )
    assert "d/c.json" in caught.value.hint


def test_embedding_ranks_lie_on_the_other_axes() -> None:
    name = "base_model.model.model.embed_tokens.lora_embedding_"
    good = [tensor(name + "A", (4, 100)), tensor(name + "B", (64, 4))]
    make_manifest(lora(), good, weights_md5="a" * 32, weights_size=1)
    with pytest.raises(FatalError, match="have rank"):
        make_manifest(lora(), [tensor(name + "B", (64, 5))], weights_md5="a" * 32, weights_size=1)


def test_experts_ranks_are_not_the_factors_rows() -> None:
    config = lora(target_parameters=["mlp.experts.down_proj"])
    make_manifest(config, pair("model.mlp.experts", 32), weights_md5="a" * 32, weights_size=1)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "model.layers.0.self_attn.q_proj"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias", "model.layers.0.self_attn.q_proj"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "model.embed_tokens"),
        ("base_model.model.h.0.attn.c_attn.lora_magnitude_vector", "h.0.attn.c_attn"),
        ("base_model.model.h.0.attn.c_attn.lora_magnitude_vector.weight", "h.0.attn.c_attn"),
        ("base_model.model.score.weight", "score"),
        ("base_model.model.classifier.dense.bias", "classifier.dense"),
        ("base_model.model.h.0.attn.k_proj.ia3_l", "h.0.attn.k_proj"),
        ("base_model.model.h.0.attn.q.hada_w1_a", "h.0.attn.q"),
        ("base_model.model.h.0.attn.q.lokr_w2_b", "h.0.attn.q"),
        ("base_model.model.h.0.attn.q.vera_lambda_d", "h.0.attn.q"),
        ("base_model.model.h.0.attn.q.oft_R.weight", "h.0.attn.q"),
        ("odd", "odd"),
    ],
)  # fmt: skip
def test_module_of(name: str, module: str) -> None:
    assert module_of(name) == module


PATTERNS = st.lists(
    st.one_of(
        st.sampled_from(["q_proj", "layers.0.q_proj", r"layers\.\d+\.q_proj", "q|k", "(q|k)_proj", ".*proj", "^model.layers.0.q_proj", "model"]),
        st.text("abq_.*|", min_size=1, max_size=6),
    ),
    max_size=4, unique=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def get_pattern_key() -> Callable[[Sequence[str], str], str]:
    return pytest.importorskip("peft.utils.other").get_pattern_key  # type: ignore[no-any-return]


@given(
    patterns=PATTERNS,
    module=st.sampled_from(
        ["q_proj", "model.layers.0.q_proj", "layers.10.k_proj", "xq_proj", "a.b"]
    ),
)
def test_patterns_match_as_peft_matches_them(
    get_pattern_key: Callable[[Sequence[str], str], str], patterns: list[str], module: str
) -> None:
    patterns = [pattern for pattern in patterns if is_safe_pattern(pattern)]
    config = AdapterConfig(
        "LORA", None, rank=1, rank_pattern={p: i + 2 for i, p in enumerate(patterns)}
    )
    wanted = config.rank_pattern.get(get_pattern_key(patterns, module), 1)
    assert config.rank_of(module) == wanted


@pytest.mark.parametrize(
    "regex", ["(a+)+", "(a|a)*(b*)*", "a" * 300, "(", r"(a)\1", "((?=a+)a)*", ".*" * 7, "(" * 3000]
)
def test_patterns_that_could_hang_are_refused(regex: str) -> None:
    with pytest.raises(FatalError):
        lora(rank_pattern={regex: 3})


# -- git's own view -------------------------------------------------------------------------

NAMES = {
    "llama": [f"model.layers.{i}.{m}" for i in range(8) for m in ("self_attn.q_proj", "mlp.down_proj")],
    "gpt2": [f"transformer.h.{i}.attn.c_attn" for i in range(12)],
    "bert": [f"encoder.layer.{i}.attention.self.query" for i in range(6)],
    "t5": [f"decoder.block.{i}.layer.0.SelfAttention.q" for i in range(6)],
    "toy": [f"layers.{i}.q_proj" for i in range(2)],
    "one word": ["fc"],
}  # fmt: skip


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.parametrize("family", NAMES)
def test_git_follows_a_rename_with_a_retrain(family: str, tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
            cwd=tmp_path, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip

    def text(seed: int) -> str:
        tensors = [t for module in NAMES[family] for t in pair(module)]
        fresh = [
            Tensor(t.name, t.dtype, t.shape, hashlib.sha256(f"{seed}{t.name}".encode()).hexdigest(), 1.23456 + seed)
            for t in tensors
        ]  # fmt: skip
        md5 = hashlib.md5(bytes([seed]), usedforsecurity=False).hexdigest()
        return make_manifest(lora(), fresh, weights_md5=md5, weights_size=1000 + seed).text()

    git("init", "--quiet")
    (tmp_path / "old").write_text(text(1))
    git("add", ".")
    git("commit", "--quiet", "--message", "one")
    (tmp_path / "old").rename(tmp_path / "new")
    (tmp_path / "new").write_text(text(2))
    git("add", "--all")
    assert re.match(
        r" rename old => new \((5[3-9]|[67]\d)%\)", git("diff", "--cached", "-M", "--summary")
    )


# -- lines that are new ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "init", ["pissa", "pissa_niter_4", "OLoRA", "corda", "loftq", "lora_ga", "new"]
)
def test_an_initialisation_that_moved_the_base_is_in_the_header(init):
    raw = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "init_lora_weights": init}
    config = parse_adapter_config(json.dumps(raw).encode(), "x")
    manifest = make_manifest(config, [], weights_md5="0" * 32, weights_size=1)
    assert manifest.get("init_lora_weights") == json.dumps(init)
    assert parse_adapter_config(config_bytes(manifest.header), "x") == config
    # One that was written before the line was is no drift; one that says otherwise is.
    old = [pair for pair in manifest.header if pair[0] != "init_lora_weights"]
    assert agrees(replace(manifest, header=tuple(old)), config)
    plain = parse_adapter_config(json.dumps({**raw, "init_lora_weights": True}).encode(), "x")
    assert not agrees(manifest, plain)


@pytest.mark.parametrize("init", [True, False, None, "gaussian", "eva", "orthogonal"])
def test_one_that_did_not_is_not(init):
    raw = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "init_lora_weights": init}
    assert parse_adapter_config(json.dumps(raw).encode(), "x").options == {}


def test_the_order_of_target_parameters_is_no_drift():
    raw = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_parameters": ["b.w", "a.w"]}
    config = parse_adapter_config(json.dumps(raw).encode(), "x")
    manifest = make_manifest(config, [], weights_md5="0" * 32, weights_size=1)
    assert manifest.get("target_parameters") == '["a.w","b.w"]'
    old = tuple((k, '["b.w","a.w"]' if k == "target_parameters" else v) for k, v in manifest.header)
    assert agrees(replace(manifest, header=old), config)
