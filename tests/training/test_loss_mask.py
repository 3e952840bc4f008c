from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from soup_git.data import formats
from soup_git.errors import FatalError
from soup_git.training import model, prepared, templates, tokens
from soup_git.training.config import load_config
from soup_git.training.tasks import TASKS
from tests.training import tiny_model as tiny

UNMARKED = templates.CHATML.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "")


def learnt(view: prepared.TokenView) -> str:
    return "".join(t.text for t in view.tokens if t.in_loss)


def view(workspace: Path, *overrides: str) -> prepared.TokenView:
    config = load_config(workspace / "soup.yaml", overrides)
    return prepared.view(config, workspace_root=workspace)


def rows(workspace: Path, *written: dict[str, Any]) -> None:
    tiny.write_rows(workspace / "data" / "train.jsonl", list(written))


def test_the_loss_is_on_what_the_assistant_says_with_its_end(workspace: Path) -> None:
    seen = view(workspace)
    assert learnt(seen) == f"{tiny.SENTENCES[1]} (0)<|im_end|>"
    assert (seen.place, seen.format, seen.template) == (
        "data/train.jsonl:1",
        "messages",
        "the tokenizer's",
    )
    everything = view(workspace, "training.assistant_only_loss=false")
    assert all(t.in_loss for t in everything.tokens)
    assert [t.id for t in everything.tokens] == [t.id for t in seen.tokens]


def test_both_answers_of_a_conversation_are_learnt_and_only_the_last_of_a_completion(
    workspace: Path,
) -> None:
    turns = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "four"},
    ]
    rows(workspace, {"messages": turns})
    assert learnt(view(workspace)) == "two<|im_end|>four<|im_end|>"
    rows(workspace, {"prompt": turns[:3], "completion": turns[3:]})
    assert learnt(view(workspace)) == "four<|im_end|>"


def test_a_template_without_marks_gives_the_same_mask_by_prefixes(workspace: Path) -> None:
    marked = view(workspace)
    (workspace / "plain.jinja").write_text(UNMARKED)
    by_prefix = view(workspace, "data.chat_template=plain.jinja")
    # What follows the end of the turn, a newline, also belongs to the prefix.
    assert learnt(by_prefix).removesuffix("\\n") == learnt(marked)
    assert [t.id for t in by_prefix.tokens] == [t.id for t in marked.tokens]


def test_a_template_that_rewrites_earlier_turns_is_refused_not_guessed(workspace: Path) -> None:
    text = UNMARKED.replace("message['content']", "(loop.length | string)", 1)
    (workspace / "shifty.jinja").write_text(text)
    turns = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "four"},
    ]
    rows(workspace, {"messages": turns})
    with pytest.raises(FatalError, match=r"train\.jsonl:1: the chat template renders earlier"):
        view(workspace, "data.chat_template=shifty.jinja")


def test_prompt_and_completion_as_text(workspace: Path) -> None:
    rows(workspace, {"prompt": "The quick", "completion": " brown fox"})
    assert learnt(view(workspace)) == " brown fox<|im_end|>"
    whole = learnt(view(workspace, "training.assistant_only_loss=false"))
    assert whole == "The quick brown fox<|im_end|>"


def test_plain_text_is_learnt_whole(workspace: Path) -> None:
    rows(workspace, {"text": "The quick brown fox"})
    seen = view(workspace)
    assert learnt(seen) == "The quick brown fox<|im_end|>"
    assert seen.template == "none"


def test_what_max_length_cuts_is_counted(workspace: Path) -> None:
    seen = view(workspace, "data.max_length=16")
    assert (len(seen.tokens), seen.cut > 0) == (16, True)


def test_control_characters_of_a_row_do_not_reach_a_terminal(workspace: Path) -> None:
    rows(workspace, {"text": "a\x1b[31mb"})
    assert "\x1b" not in learnt(view(workspace))


def test_there_is_no_row_beyond_the_last(workspace: Path) -> None:
    config = load_config(workspace / "soup.yaml")
    with pytest.raises(FatalError, match="rows 1 to 24, not 25"):
        prepared.view(config, workspace_root=workspace, row=25)


@pytest.mark.parametrize(
    ("template", "content", "what"),
    [
        ("missing.jinja", None, "missing.jinja is not a file"),
        ("../out.jinja", "x", "is outside the workspace"),
        ("link.jinja", None, "is outside the workspace"),
        ("a.jinja", "{% include '/etc/passwd' %}", "reads files"),
        ("a.jinja", "{%- from 'x' import y -%}", "reads files"),
        ("a.jinja", "{{ ['a', 'b'] | random }}", "draws at random"),
        ("a.jinja", "{{ lipsum(2) }}", "draws at random"),
        ("a.jinja", "{% if %}{{", "cannot render this row: Expected"),
        ("a.jinja", "{{ ` }}", "is not a Jinja template"),
        ("a.jinja", "{{ messages[0]['content'] + 1 }}", "cannot render this row"),
        ("a.jinja", "{{ messages.__class__.__mro__ }}", "cannot render this row"),
        ("a.jinja", "{{ raise_exception('no tools') }}", "cannot render this row: no tools"),
        ("a.jinja", "x", "nothing in it is the assistant's"),
        (
            "a.jinja",
            "{% if messages|length > 9 %}{% generation %}{% endgeneration %}{% endif %}x",
            "marks nothing as the assistant's",
        ),
        ("qwen33", None, "no template git-soup knows; did you mean qwen3"),
    ],
)
def test_a_template_that_cannot_be_used_says_why(
    workspace: Path, template: str, content: str | None, what: str
) -> None:
    if content is not None:
        (workspace / template).write_text(content)
    (workspace.parent / "secret.jinja").write_text("x")
    (workspace / "link.jinja").symlink_to(workspace.parent / "secret.jinja")
    with pytest.raises(FatalError) as caught:
        view(workspace, f"data.chat_template={template}")
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("template", "date", "chosen"),
    [
        ("llama3_2", "Today Date: 26 Jul 2024", "Today Date: 03 Feb 2031"),
        ("llama3_1", "Today Date: 26 Jul 2024", "Today Date: 03 Feb 2031"),
        ("gptoss", "Current date: 2024-07-26", "Current date: 2031-02-03"),
        ("muse_glimmer", "Current date: 2024-07-26", "Current date: 2031-02-03"),
        ("clock.jinja", "26 July, a day of 2024", "3 February, a day of 2031"),
    ],
)
def test_a_template_that_prints_todays_date_gets_no_clock(
    workspace: Path, template: str, date: str, chosen: str
) -> None:
    """Equal rows would be other tokens tomorrow, and an interrupted run a mix of two days."""
    (workspace / "clock.jinja").write_text(
        "{% macro year() %}{{ strftime_now('a day of %Y') + '. ' }}{% endmacro %}"
        "{{ strftime_now('%-d %B, ') }}{{ year() }}"
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    )
    options = (f"data.chat_template={template}", "data.max_length=2048")
    seen = view(workspace, *options)
    assert date in "".join(t.text for t in seen.tokens)
    told = view(workspace, *options, "data.template_date=2031-02-03")
    assert chosen in "".join(t.text for t in told.tokens)
    assert told.template == f"{template}, dated 2031-02-03 (data.template_date)"
    assert learnt(told) == learnt(seen)


def test_a_stopped_clock_leaves_the_rest_of_a_template_as_it_is(workspace: Path) -> None:
    text = (
        "\n  {% if true %}\n{% for m in messages %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% endfor %}{% endif %}"
    )
    (workspace / "plain.jinja").write_text(text)
    (workspace / "clock.jinja").write_text(
        text + "{% if false %}{{ strftime_now('%Y') }}{% endif %}"
    )
    plain = view(workspace, "data.chat_template=plain.jinja")
    assert view(workspace, "data.chat_template=clock.jinja").tokens == plain.tokens


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("data.chat_template=chatml", "the chat template (chatml) prints no date"),
        ("data.template_date=2031-02-31", "should be a day, YYYY-MM-DD: day is out of range"),
        ("data.template_date=tomorrow", "should be a day, YYYY-MM-DD"),
    ],
)
def test_a_date_that_nothing_prints_or_that_is_none(
    workspace: Path, override: str, what: str
) -> None:
    with pytest.raises(FatalError) as caught:
        view(workspace, "data.template_date=2031-02-03", override)
    assert what in str(caught.value)


def test_turns_without_a_template_say_what_to_set(workspace: Path, base_folder: Path) -> None:
    import shutil

    (workspace / "base").unlink()
    shutil.copytree(base_folder, workspace / "base")
    (workspace / "base" / "chat_template.jinja").unlink()
    with pytest.raises(FatalError, match="no chat template"):
        view(workspace)
    named = view(workspace, "data.chat_template=chatml")
    assert learnt(named) == f"{tiny.SENTENCES[1]} (0)<|im_end|>"


def test_a_known_template_without_marks_gets_trls_training_variant(workspace: Path) -> None:
    from soup_git.training import upstream

    folder = upstream.source("trl", "chat_templates")
    config = load_config(workspace / "soup.yaml")
    own = (folder / "qwen3.jinja").read_text()
    found = templates.resolve(config, workspace, own)
    assert found is not None
    assert found.marked
    assert found.text == (folder / "qwen3_training.jinja").read_text()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_tokens_and_labels_are_those_that_trl_itself_makes(workspace: Path) -> None:
    """We tokenize ourselves; this is the proof that nothing else is trained."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    config = load_config(workspace / "soup.yaml")
    base = model.locate(config, workspace)
    tokenizer = model.load_tokenizer(base, config)
    template = templates.resolve(config, workspace, model.own_template(tokenizer))
    long = {
        "messages": [
            {"role": "user", "content": "x" * 90},
            {"role": "assistant", "content": "y" * 50},
        ]
    }
    cases: list[list[dict[str, Any]]] = [
        [tiny.conversation(n) for n in range(3)] + [long],
        [{"prompt": "The quick", "completion": " brown"}, {"prompt": "a " * 60, "completion": "b"}],
        [{"text": "The quick brown fox"}, {"text": "Rain " * 60}],
        [
            {"prompt": r["messages"][:1], "completion": r["messages"][1:]}
            for n in range(2)
            for r in [tiny.conversation(n)]
        ],
    ]
    network = model.load(base, config, dtype="float32")
    for case in cases:
        rows(workspace, *case)
        dataset = formats.load_dataset(workspace / "data" / "train.jsonl")
        reading = prepared.Reading(tokenizer, template, config, workspace)
        ours = prepared.prepare(dataset.rows, TASKS["sft"], reading).examples
        conversational = isinstance(case[0].get("messages", case[0].get("prompt")), list)
        trainer = SFTTrainer(
            model=network,
            args=SFTConfig(
                output_dir=str(workspace / "trl"),
                use_cpu=True,
                bf16=False,
                report_to="none",
                max_length=96,
                assistant_only_loss=conversational,
                gradient_checkpointing=False,
            ),
            train_dataset=Dataset.from_list(case),
            processing_class=tokenizer,
        )
        theirs = [(r["input_ids"], r["labels"]) for r in trainer.train_dataset]
        columns = tokens.columns(ours, reading)
        assert list(zip(columns["input_ids"], columns["labels"], strict=True)) == theirs
