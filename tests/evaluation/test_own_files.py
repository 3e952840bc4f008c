"""An adapter's own tokenizer and chat template against transformers' own use of that folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from soup_git.core.digests import sha256_hex
from soup_git.evaluation.candidate import Candidate, in_memory
from soup_git.evaluation.model import Model
from soup_git.evaluation.ownfiles import OwnFiles
from soup_git.evaluation.runner import BaseChoice, Runner

pytestmark = pytest.mark.skipif(
    find_spec("peft") is None, reason="the train extra is not installed"
)

TEMPLATE = "{% for x in messages %}<|tool|>{{ x.role }}: {{ x.content }}\n{% endfor %}"
TURNS = [{"role": "user", "content": "Hello you"}]


@pytest.fixture
def runner(tmp_path: Path, tiny_base: Path) -> Iterator[Runner]:
    (tmp_path / "base").symlink_to(tiny_base)
    with Runner(BaseChoice("base", digest="d" * 64), tmp_path, threads=1) as made:
        yield made


def owning(folder: Path, *names: str) -> Candidate:
    digest = sha256_hex(b"".join((folder / name).read_bytes() for name in names))
    own = OwnFiles(names, digest, lambda name: (folder / name).read_bytes())
    return replace(in_memory("mine", {"peft_type": "LORA"}, {}), own=own)


def test_prompts_are_written_and_cut_as_transformers_does_from_that_folder(
    runner: Runner, tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|tool|>"]})
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "a")
    names = sorted(file.name for file in (tmp_path / "a").iterdir())
    found, template = runner._tools_of(owning(tmp_path / "a", *names))
    wanted = AutoTokenizer.from_pretrained(tmp_path / "a")
    assert template.text == TEMPLATE
    assert found.get_vocab() == wanted.get_vocab()
    text = wanted.apply_chat_template(TURNS, tokenize=False)
    assert found(text)["input_ids"] == wanted(text)["input_ids"]
    said = capsys.readouterr().err
    assert "1 token that the base's lacks ('<|tool|>')" in said
    assert "a chat template of its own" in said
    assert (
        runner._tools_of(None)[0].get_vocab()
        == AutoTokenizer.from_pretrained(tiny_base).get_vocab()
    )


def test_a_template_alone_goes_with_the_bases_tokenizer(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    mine = owning(tmp_path, "chat_template.jinja")
    found, template = runner._tools_of(mine)
    assert template.text == TEMPLATE
    assert found.get_vocab() == runner._tools_of(None)[0].get_vocab()
    assert runner._tools_of(None)[1] is None or runner._tools_of(None)[1].text != TEMPLATE


def test_what_equals_the_bases_is_not_talked_of(
    runner: Runner, tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f.name for f in tiny_base.iterdir() if f.name.startswith("tokenizer")]
    runner._tools_of(owning(tiny_base, *names))
    assert "note" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ('{"eos_token_id": 7}', [7]),
        ('{"eos_token_id": [7, 9]}', [7, 9]),
        ('{"eos_token_id": null}', None),
        ('{"eos_token_id": [true, "x", -1]}', None),
        ("[]", None),
        ("no json", None),
    ],
)
def test_answers_end_where_the_adapters_generation_config_says(
    runner: Runner, tmp_path: Path, text: str, ends: list[int] | None
) -> None:
    (tmp_path / "generation_config.json").write_text(text)
    mine = owning(tmp_path, "generation_config.json")
    assert mine.own is not None
    assert mine.own.ends() == ends
    tokenizer, template = runner._tools_of(mine)

    class Base:
        class generation_config:  # noqa: N801 - transformers' own name
            eos_token_id = 5

    told = Model(Base(), tokenizer, template, name="base", batch_size=1, ends=mine.own.ends())
    assert told._ends[: len(ends or [5])] == (ends or [5])
