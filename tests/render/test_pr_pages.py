"""A pull request's pages as a forge and a browser read them: rendered, parsed, and measured."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soup_git.core.drift import DriftSummary, LayerDrift
from soup_git.core.excerpt import excerpt
from soup_git.core.lockdiff import LockDiff, Mismatch, PackageChange, PinChange
from soup_git.core.prverdict import judge
from soup_git.core.pullrequest import (
    AdapterChange,
    Commit,
    LockState,
    MetricDelta,
    PullRequest,
    Reproduction,
    Revision,
    SamplePair,
    Scores,
)
from soup_git.core.rowdiff import ChangedRow, DatasetDiff, DataSide, RowSample
from soup_git.core.text import printable
from soup_git.core.valuediff import ValueChange
from soup_git.render.cutting import Part, fitted
from soup_git.render.drift import drift_map
from soup_git.render.heatsvg import picture
from soup_git.render.markdown import code, code_in_table, fenced, table_of
from soup_git.render.prhtml import as_html_page
from soup_git.render.prmarkdown import MAX_BYTES, as_markdown_page
from soup_git.render.prwords import gate_words
from soup_git.render.report import as_json

cmarkgfm = pytest.importorskip("cmarkgfm", reason="the dev extra is not installed")

HOSTILE = (
    "@evil #123 <img src=x onerror=alert(1)> | ``` `x` ![p](http://e/p.png) www.e.example"
    " http://e.example a@e.example <script>x</script> \x1b[2J\u202eevil </td></table></details> \\| $x$"
)
FENCES = f"```\n@evil #123\n~~~~\n</details>\n{HOSTILE}\n````\n| a | b |\n# h\n"


VOID = {"br", "hr", "img", "meta", "input"}


class Page(HTMLParser):
    """Tags, attributes, and the text that is not code; tables by their rows' cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.open: list[str] = []
        self.plain = ""
        self.coded = ""
        self.rows: list[int] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {(tag, name) for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append(0)
        if tag in {"td", "th"}:
            spans = [int(value or 1) for name, value in attrs if name == "colspan"]
            self.rows[-1] += sum(spans) or 1

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"code", "pre", "style", "title"} & set(self.open):
            self.coded += data
        else:
            self.plain += data


def rendered(markdown: str) -> Page:
    from cmarkgfm.cmark import Options

    html = cmarkgfm.github_flavored_markdown_to_html(markdown, Options.CMARK_OPT_UNSAFE)
    page = Page(html)
    assert not page.open
    return page


def layer(number: int, module: str = "self_attn.q_proj") -> LayerDrift:
    name = f"model.layers.{number}.{module}"
    return LayerDrift(name, "changed", 1.0, 0.1 + number / 100, 0.9, 8, 8, 3.0, 3.0, 4.0)


def page_of(
    *, hostile: str = "", layers: int = 4, samples: int = 4, text: str = "An answer."
) -> PullRequest:
    bad = hostile or "plain"
    deltas = [
        MetricDelta(f"{bad}.exact", 0.98, 0.01, 0.901, 0.01, -0.079, 0.011, 200, True, "share", "worse",
                    "failed", "drop up to 2%", "dropped by 0.079"),
        MetricDelta("fit.loss", 1.2, 0.1, None, None, None, None, None, False, "", "missing"),
    ]  # fmt: skip
    found = [layer(n) for n in range(layers)]
    drift = DriftSummary(
        "main", "topic", "m", "m", False, layers, layers, 0, 0, 0, 1.0, 1.0, 1.0, 0.2, 0.9, []
    )
    adapter = AdapterChange(
        f"adapters/{bad}", "changed", None, bad, f"{bad}2", "1" * 32, "2" * 32, [f"recipe {bad}"], drift,
        found, "", [Scores(f"evals/{bad}.yaml", "a" * 64, bad, "failed", ["a remark"], [], deltas)],
        "git soup eval", [SamplePair(f"{n} {text}", f"{text} one", f"{text} two") for n in range(samples)],
        "git soup compare", Reproduction("unknown", f"git soup verify {bad}"),
    )  # fmt: skip
    row = RowSample(f"{bad}:1", "d" * 64, printable(text[:80]))
    side = DataSide(f"data/{bad}.jsonl", "git", 10, 0, 1, [replace(row, problem=f"no JSON: {bad}")])
    changed = ChangedRow(row.place, row.place, "prompt", bad, [ValueChange(bad, bad, None)])
    data = DatasetDiff("train", side, side, 8, 0, 0, 1, 1, 1, 0, [row], [row], [changed])
    pins = [PinChange("dataset", "a" * 64, "b" * 64), PinChange("env", None, "c" * 64)]
    locks = LockDiff(
        pins, [PinChange("seed", "1", bad)], [PinChange(bad, None, "1" * 32)],
        [PackageChange(bad, "1", bad)], "packages", True, True,
    )  # fmt: skip
    lock = LockState("drifted", [Mismatch("dataset", bad, bad)], ["env"], [bad])
    commit = Commit("a" * 40, bad, "2026-05-14T10:00:00+00:00", bad, ["adapter"], [f"run/{bad}"], {"Soup-Config": bad})  # fmt: skip
    return PullRequest(
        bad, "a-page", judge([adapter], lock), Revision(f"b{bad}", "b" * 40), Revision(f"h{bad}", "c" * 40),
        "b" * 40, 3, [adapter], lock, [ValueChange(bad, bad, bad)], locks, [data], bad, [commit],
        ["git soup checkout", f"git soup verify {bad}"],
    )  # fmt: skip


def test_the_first_screen_has_the_verdict_the_metrics_and_the_picture() -> None:
    text = as_markdown_page(page_of(), image="heatmap.svg")
    lines = text.splitlines()
    assert lines[0] == "## ⛔ do not merge: `plain.exact` −7.9 ± 1.1 points"
    assert (
        "| `plain.exact` | 98.0 % | 90.1 % | **−7.9 ± 1.1 points** | **✗ worse** | ✗ drop up to 2% |"
        in lines
    )
    assert "| `fit.loss` | 1.20 | – | – | – not compared |  |" in lines
    assert "](<heatmap.svg>)" in text
    assert text.index("![") < text.index("samples") < text.index("<details>")
    blocks = as_markdown_page(page_of())
    assert "![" not in blocks
    assert "self_attn.q_proj  " in blocks.partition("<details>")[0]


def test_a_gate_that_could_not_be_asked_is_not_called_unset() -> None:
    found = Scores("evals/a.yaml", "a" * 64, "main", "none", [], [], [])
    assert gate_words(found) == "– none is set"
    asked = replace(found, doubts=["changed since it was scored"])
    assert gate_words(asked) == "? changed since it was scored"


def test_nothing_from_outside_is_active_in_markdown() -> None:
    page = page_of(hostile=HOSTILE, text=FENCES)
    for image in (None, "https://host.example/heatmap.svg"):
        found = rendered(as_markdown_page(page, image=image))
        assert found.tags <= {
            "h2", "h3", "p", "ul", "li", "strong", "code", "pre", "table", "thead", "tbody", "tr", "th",
            "td", "em", "details", "summary", "hr", *(["img"] if image else []),
        }  # fmt: skip
        assert not {name for _, name in found.attributes} & {"href", "onerror", "style"}
        for word in ("@evil", "#123", "http", "www.", "a@e", "\x1b", "\u202e", "$x$", "<img"):
            assert word not in found.plain, word
        assert "@evil #123" in found.coded
        assert "\x1b" not in found.coded
        assert found.tags >= {"table", "details", "pre"}


def test_rows_keep_their_cells_whatever_is_in_them() -> None:
    page = page_of(hostile="a | b \\| c \\\\| ` d || `` \\")
    text = as_markdown_page(page)
    found = rendered(text)
    tables = [block for block in text.split("\n\n") if block.lstrip().startswith("|")]
    assert len(tables) >= 5
    for block in tables:
        rows = rendered(block).rows
        assert len(set(rows)) == 1, block
    assert "a | b" in found.coded


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60) | st.text("`|\\ a\n", max_size=20))
def test_any_text_is_one_code_span_and_any_text_one_block(text: str) -> None:
    if text.strip() and excerpt(text, 120).strip():
        shown = excerpt(text, 120)
        assert rendered(f"x {code(text)} y").coded == shown
        in_cell = rendered(table_of(("a", "b"), [[code_in_table(text), "z"]]))
        assert in_cell.rows == [2, 2]
        # A backslash before a pipe is shown twice; nothing else changes.
        assert in_cell.coded.replace("\\", "") == shown.replace("\\", "")
    block = rendered(f"- a\n\n{fenced(text)}\nend")
    assert block.coded == printable(text, keep_newlines=True).rstrip("\n") + "\n" or not text.strip(
        "\n"
    )
    assert block.plain.split() == ["a", "end"]


def test_a_page_is_cut_by_importance_and_says_what_went() -> None:
    huge = page_of(layers=3000, samples=256, text="word " * 6000)
    text = as_markdown_page(huge)
    assert len(text.encode()) <= MAX_BYTES
    assert text.startswith("## ⛔ do not merge: `plain.exact` −7.9 ± 1.1 points\n")
    assert "| `plain.exact` | 98.0 % |" in text
    note = text.partition("**Cut to the size of a page:** ")[2]
    assert note.startswith("all modules, ")
    assert "samples" in note
    assert "`git show refs/soup/prs/a-page:pr.html > pr.html`" in note
    assert not rendered(text).open
    small = as_markdown_page(page_of())
    assert "Cut to the size" not in small


def test_the_lightest_part_goes_first_and_no_further_than_needed() -> None:
    parts = [
        Part("a", 9, ["A" * 50]),
        Part("b", 1, ["B" * 50, "B" * 10, ""]),
        Part("c", 5, ["C" * 50, ""]),
    ]
    assert fitted(parts, 1000, str) == "A" * 50 + "B" * 50 + "C" * 50 + "[]"
    assert fitted(parts, 120, str) == "A" * 50 + "B" * 10 + "C" * 50 + "['b']"
    assert fitted(parts, 70, str) == "A" * 50 + "['b', 'c']"


def test_many_metrics_and_many_adapters_still_fit() -> None:
    page = page_of()
    one = page.adapters[0]
    metrics = [replace(one.scores[0].metrics[0], name=f"{'m' * 300}{n}") for n in range(900)]
    crowded = replace(one, scores=[replace(one.scores[0], metrics=metrics)])
    text = as_markdown_page(replace(page, adapters=[crowded]))
    assert len(text.encode()) <= MAX_BYTES
    assert "… and 836 metrics more that changed less" in text
    several = [replace(one, path=f"adapters/{n}") for n in range(300)]
    text = as_markdown_page(replace(page, adapters=several), image="heatmap.svg")
    assert len(text.encode()) <= MAX_BYTES
    assert "… and 236 adapters more" in text
    assert not rendered(text).open


def test_the_html_page_is_whole_and_runs_nothing() -> None:
    html = as_html_page(page_of(hostile=HOSTILE, text=FENCES, samples=9))
    page = Page(html.partition("\n")[2])
    assert not page.open
    assert not page.tags & {"script", "img", "a", "link", "iframe", "form"}
    assert not {name for _, name in page.attributes} & {"href", "onerror", "src", "style"}
    assert "default-src 'none'" in html
    assert html.count("</article>") == 12
    assert "\x1b" not in html
    assert "\u202e" not in html


def test_the_picture_is_sound_xml_without_anything_active() -> None:
    layers = [layer(n, m) for n in range(40) for m in ("mlp.up_proj", '<a href="x">&\x1b]]>')]
    layers.append(replace(layer(41), relative_drift=None, status="added"))
    layers.append(replace(layer(0), module="lm_head", relative_drift=0.0, status="same"))
    root = ET.fromstring(
        picture([("adapters/<script>", drift_map(layers)), ("b", drift_map(layers[:2]))])
    )
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert names == {"svg", "style", "rect", "text", "g", "title"}
    assert float(root.attrib["width"]) < 1000
    assert "prefers-color-scheme:dark" in ET.tostring(root, encoding="unicode")


def test_the_data_is_json_with_every_field() -> None:
    import json

    body = json.loads(as_json(page_of()))
    assert body["schema"] == "soup.pr/1"
    assert body["verdict"]["line"] == "do not merge: plain.exact −7.9 ± 1.1 points"
    assert body["adapters"][0]["scores"][0]["metrics"][1]["candidate"] is None
