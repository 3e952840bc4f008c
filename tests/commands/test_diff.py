"""`git soup diff`: what it prints in each format, and what it answers."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

LAYER_KEYS = {
    "module", "status", "frobenius", "relative_drift", "cosine", "rank_a", "rank_b",
    "effective_rank_a", "effective_rank_b", "effective_rank_delta",
}  # fmt: skip


@pytest.fixture
def pair(repo, make_adapter):
    """Two adapters that differ in one of four modules."""
    make_adapter("a", seed=1)
    make_adapter("b", seed=1)
    shift("b", "model.layers.1.mlp.down_proj.lora_B", 1.5)
    return "./a", "./b"


def shift(folder, tensor, factor):
    """Multiply one tensor of a float32 adapter in its file."""
    path = Path(folder) / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    name = next(n for n in header if tensor in n)
    start, end = (8 + length + o for o in header[name]["data_offsets"])
    values = np.frombuffer(bytes(data[start:end]), "<f4") * np.float32(factor)
    data[start:end] = values.astype("<f4").tobytes()
    path.write_bytes(bytes(data))


def test_the_json_has_the_contracts_fields(pair, soup):
    report = json.loads(soup("diff", *pair, "--json").stdout)
    assert report["schema"] == "soup.diff/1"
    assert all(set(layer) == LAYER_KEYS for layer in report["layers"])
    first, *others = report["layers"]
    assert first["module"] == "model.layers.1.mlp.down_proj"
    assert first["status"] == "changed"
    assert first["relative_drift"] == pytest.approx(0.5, rel=1e-6)
    assert first["cosine"] == pytest.approx(1.0)
    assert (first["rank_a"], first["rank_b"]) == (8, 8)
    assert {x["status"] for x in others} == {"same"}
    summary = report["summary"]
    assert (summary["modules"], summary["changed"], summary["same"]) == (4, 1, 3)
    assert summary["frobenius"] == pytest.approx(first["frobenius"])


def test_the_table_is_ranked_by_drift_and_names_what_it_hides(pair, soup, make_adapter):
    lines = soup("diff", *pair, "--top-k", "1").stdout.splitlines()
    assert lines[0] == "./a -> ./b   base tiny/base   4 modules, 1 changed"
    assert re.match(r"model\.layers\.1\.mlp\.down_proj +50\.0 % .* of 16 +█{8}$", lines[2])
    assert lines[3].startswith("total")
    assert len(lines) == 4
    make_adapter("c", seed=9)
    lines = soup("diff", "./a", "./c", "--top-k", "1").stdout.splitlines()
    assert "3 more" in lines[4]
    assert all(len(line) <= 80 for line in lines)


def test_the_exit_code_says_different_only_when_asked(pair, soup):
    assert soup("diff", *pair, check=False).returncode == 0
    assert soup("diff", *pair, "--exit-code", check=False).returncode == 1
    assert soup("diff", "./a", "./a", "--exit-code", check=False).returncode == 0


def test_equal_adapters_are_known_from_their_digests(pair, soup):
    done = soup("diff", "./a", "./a", "--json", env={"PYTHONPROFILEIMPORTTIME": "1"})
    report = json.loads(done.stdout)
    assert report["summary"]["equal"] is True
    assert {x["status"] for x in report["layers"]} == {"same"}
    assert "the same adapter" in soup("diff", "./a", "./a").stdout


def test_alpha_and_the_factors_basis_mean_what_they_do(repo, soup, make_adapter):
    make_adapter("a", seed=1, alpha=16)
    make_adapter("b", seed=1, alpha=64)
    drift = json.loads(soup("diff", "./a", "./b", "--json").stdout)["summary"]["relative_drift"]
    assert drift == pytest.approx(3.0, rel=1e-6)


def test_modules_that_only_one_has_are_added_and_removed(repo, soup, make_adapter):
    make_adapter("a", seed=1, layers=1)
    make_adapter("b", seed=1, layers=2)
    added = json.loads(soup("diff", "./a", "./b", "--json").stdout)["layers"]
    assert [x["status"] for x in added] == ["added", "added", "same", "same"]
    assert added[0]["relative_drift"] is None
    assert added[0]["rank_a"] is None
    removed = json.loads(soup("diff", "./b", "./a", "--json").stdout)["layers"]
    assert removed[0]["status"] == "removed"
    assert removed[0]["relative_drift"] == 1.0


def test_adapters_of_unequal_rank_are_compared(repo, soup, make_adapter):
    make_adapter("a", seed=1, rank=8)
    make_adapter("b", seed=2, rank=3, dtype="BF16")
    layer = json.loads(soup("diff", "./a", "./b", "--json").stdout)["layers"][0]
    assert (layer["rank_a"], layer["rank_b"]) == (8, 3)
    assert 8 < layer["effective_rank_delta"] <= 11 or layer["effective_rank_delta"] > 3


def test_whole_tensors_are_compared_and_said_to_be(repo, soup, make_adapter):
    name = "base_model.model.score.weight"
    make_adapter("a", seed=1, extra_tensors={name: np.ones((2, 3))})
    make_adapter("b", seed=1, extra_tensors={name: np.full((2, 3), 2.0)})
    report = json.loads(soup("diff", "./a", "./b", "--json").stdout)
    first = report["layers"][0]
    assert (first["module"], first["relative_drift"]) == ("score.weight", 1.0)
    assert first["rank_a"] is first["effective_rank_delta"] is None
    assert "score.weight" in report["summary"]["notes"][0]


def test_revisions_are_compared(repo, soup, git, make_adapter):
    for seed in (1, 2):
        make_adapter("adapters/x", seed=seed)
        soup("add", "adapters/x")
        git("commit", "-qm", f"Train with seed {seed}")
    report = json.loads(soup("diff", "HEAD~1", "HEAD", "--json").stdout)
    assert report["summary"]["changed"] == 4
    assert soup("diff", "HEAD", "./adapters/x", "--exit-code", check=False).returncode == 0


class Page(HTMLParser):
    """Tags, their balance, and the text of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_html_page_stands_alone_in_light_and_dark(pair, soup):
    assert soup("diff", *pair, "--format", "html", "-o", "map.html").stdout == ""
    source = Path("map.html").read_text("utf-8")
    page = Page()
    page.feed(source)
    assert page.open == []
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "img", "iframe", "a"}
    assert "http:" not in source.replace("http-equiv", "")
    assert "https:" not in source
    assert "prefers-color-scheme:dark" in source
    cells = [a for tag, a in page.tags if tag == "td" and "title" in a]
    assert len(cells) == 4  # two layers down, two modules across
    hot = next(a for a in cells if "layers.1.mlp.down_proj" in a["title"])
    assert hot["class"] == "h8"
    assert "50.0 %" in hot["title"]


EVIL = "base_model.model.layers.0.<script>alert(1)</script>|`x`[y](http://z).lora_A.weight"


def test_names_from_an_adapter_are_text_in_every_format(repo, soup, make_adapter):
    pair = {EVIL: np.ones((8, 4)), EVIL.replace("lora_A", "lora_B"): np.ones((4, 8))}
    make_adapter("a", seed=1, extra_tensors=pair)
    make_adapter("b", seed=2, extra_tensors={k: 2 * v for k, v in pair.items()})
    html = soup("diff", "./a", "./b", "--format", "html").stdout
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    markdown = soup("diff", "./a", "./b", "--format", "markdown").stdout
    row = next(line for line in markdown.splitlines() if "alert" in line)
    assert row.count("|") == 7
    assert not re.search(r"[<>`\[\]*]", row)


def test_markdown_is_a_table(pair, soup):
    lines = soup("diff", *pair, "--format", "markdown").stdout.splitlines()
    assert "|---|--:|--:|--:|---|---|" in lines
    assert sum(line.startswith("| ") for line in lines) == 3


def nan_in(folder):
    path = Path(folder) / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-4:] = np.array([np.nan], "<f4").tobytes()
    path.write_bytes(bytes(data))


def test_heads_of_another_size_are_reshaped_and_the_rest_is_compared(repo, soup, make_adapter):
    """A two-class and a six-class adapter of one base: only the head has no difference."""
    generator = np.random.default_rng(0)
    for name, classes in (("two", 2), ("six", 6)):
        head = {"base_model.model.score.weight": generator.standard_normal((classes, 64))}
        make_adapter(name, seed=classes, extra_tensors=head, modules_to_save=["score"])
    report = json.loads(soup("diff", "./two", "./six", "--json").stdout)
    assert all(set(layer) == LAYER_KEYS for layer in report["layers"])
    status = {layer["module"]: layer["status"] for layer in report["layers"]}
    assert {n for n, s in status.items() if s == "reshaped"} == {"score.weight"}
    head = next(layer for layer in report["layers"] if layer["status"] == "reshaped")
    assert {head[key] for key in LAYER_KEYS - {"module", "status"}} == {None}
    summary = report["summary"]
    assert (summary["changed"], summary["reshaped"], summary["modules"]) == (4, 1, 5)
    # What the totals say is what they are without heads.
    for name, classes in (("two", 2), ("six", 6)):
        make_adapter(name, seed=classes)
    bare = json.loads(soup("diff", "./two", "./six", "--json").stdout)["summary"]
    for key in ("frobenius", "relative_drift", "cosine", "norm_a", "norm_b"):
        assert summary[key] == bare[key]


def test_a_reshaped_module_is_in_every_form_of_the_report(repo, soup, make_adapter):
    make_adapter("a", modules={"self_attn.q_proj": (64, 64), "lm_head": (64, 100)}, layers=1)
    make_adapter(
        "b", modules={"self_attn.q_proj": (64, 64), "lm_head": (64, 104)}, layers=1, seed=2
    )
    done = soup("diff", "./a", "./b", "--exit-code", check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0].endswith("2 modules, 1 changed, 1 reshaped")
    assert re.search(r"lm_head +reshaped +– +–", done.stdout)
    assert (
        "of another shape in each, and in no total: model.layers.0.lm_head (100x64 and 104x64)"
        in done.stdout
    )
    for form in ("markdown", "html"):
        assert "reshaped" in soup("diff", "./a", "./b", "--format", form).stdout


def test_equally_many_numbers_of_another_shape_are_not_compared(repo, soup, make_adapter):
    values = np.arange(12.0)
    for name, shape in (("a", (3, 4)), ("b", (4, 3))):
        head = {"base_model.model.score.weight": values.reshape(shape)}
        make_adapter(name, extra_tensors=head, modules_to_save=["score"])
    report = json.loads(soup("diff", "./a", "./b", "--json").stdout)
    assert [x["module"] for x in report["layers"] if x["status"] == "reshaped"] == ["score.weight"]


def test_what_cannot_be_compared_is_a_sentence(repo, soup, make_adapter):
    make_adapter("a", seed=1)
    make_adapter("nan", seed=1)
    nan_in("nan")
    make_adapter("wide", seed=1, modules={"self_attn.q_proj": (32, 64), "mlp.down_proj": (128, 32)})
    for other, said in (("./nan", "not finite"), ("./wide", "for models of different shapes")):
        done = soup("diff", "./a", other, check=False)
        assert done.returncode == 128
        assert said in done.stderr
        assert "hint:" in done.stderr
        assert done.stdout == ""
