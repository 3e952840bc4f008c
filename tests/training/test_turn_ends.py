"""Is the end of the assistant's turn learnt, and its first word? Asked of real tokenizers."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from soup_git.data import formats
from soup_git.data.rows import DataRow
from soup_git.errors import FatalError
from soup_git.training import material, model, prepared, templates, tokens, upstream
from soup_git.training.config import load_config
from tests.training import tiny_model as tiny

CHAT = [
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "It is two."},
    {"role": "user", "content": "three"},
    {"role": "assistant", "content": "It is four."},
]
SFT = {"messages": CHAT[:2]}
PAIR = {"prompt": CHAT[:1], "chosen": CHAT[1:2], "rejected": CHAT[3:]}
JUDGED = {"prompt": CHAT[:1], "completion": CHAT[1:2], "label": True}
ENDED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OUTSIDE = ENDED.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
NEVER = (
    "{% for m in messages %}{{ m.role | upper }}: {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
SPACED = NEVER.replace("{{ m.content }} ", "{{ m.content }}{{ eos_token }}")


def read(workspace: Path, template: str, row: dict[str, Any], *more: str) -> material.Material:
    (workspace / "t.jinja").write_text(template)
    tiny.write_rows(workspace / "data" / "train.jsonl", [row, row])
    options = ["data.chat_template=t.jinja", "data.val_split=0", *more]
    return material.read(load_config(workspace / "soup.yaml", options), workspace)


def learnt(found: material.Material) -> list[str]:
    """What each text of the first row teaches."""
    decode = found.reading.tokenizer.decode
    parts = found.train_set.examples[0].parts.values()
    return [decode([i for i, w in zip(p.ids, p.in_loss, strict=True) if w]) for p in parts]


TASKS = {
    "sft": (SFT, []),
    "dpo": (PAIR, ["task=dpo"]),
    "orpo": (PAIR, ["task=orpo"]),
    "kto": (JUDGED, ["task=kto"]),
    "distill": (SFT, ["task=distill", "training.teacher_model=base"]),
}


@pytest.mark.parametrize("task", TASKS)
def test_a_template_that_never_ends_a_turn_is_refused_by_each_task_that_learns_answers(
    workspace: Path, task: str
) -> None:
    row, options = TASKS[task]
    assert all(
        text.strip().endswith("<|im_end|>")
        for text in learnt(read(workspace, ENDED, row, *options))
    )
    with pytest.raises(FatalError, match="writes no end of the assistant's turn") as caught:
        read(workspace, NEVER, row, *options)
    # Both ways that the hint names.
    assert "{{ eos_token }}" in caught.value.hint
    ends = NEVER.replace("{{ m.content }} ", "{{ m.content }}{{ eos_token }}\n")
    assert all(
        t.strip().endswith("<|im_end|>") for t in learnt(read(workspace, ends, row, *options))
    )
    assert "chatml" in caught.value.hint
    read(workspace, NEVER, row, *options, "data.chat_template=chatml")


def test_an_end_outside_of_the_marks_is_named_with_what_gets_it_learnt(workspace: Path) -> None:
    with pytest.raises(FatalError, match=r"<\|im_end\|>, is not in the loss") as caught:
        read(workspace, OUTSIDE, SFT)
    assert "training.assistant_only_loss: false" in caught.value.hint
    whole = read(workspace, OUTSIDE, SFT, "training.assistant_only_loss=false")
    assert learnt(whole)[0].rstrip().endswith("It is two.<|im_end|>")
    assert "{% endgeneration %} behind <|im_end|>" in caught.value.hint
    read(workspace, ENDED, SFT)


def test_one_row_says_it_without_being_refused(workspace: Path) -> None:
    (workspace / "t.jinja").write_text(OUTSIDE)
    config = load_config(workspace / "soup.yaml", ["data.chat_template=t.jinja"])
    assert (
        "turns whose end is not learnt: 1 of 1"
        in prepared.view(config, workspace_root=workspace).notes[0]
    )
    (workspace / "t.jinja").write_text(ENDED)
    assert not prepared.view(config, workspace_root=workspace).notes


def test_a_model_that_learns_no_more_than_scores_needs_no_end(workspace: Path) -> None:
    read(workspace, NEVER, PAIR, "task=reward_model")


def test_an_end_that_the_base_knows_as_text_only_is_said(workspace: Path) -> None:
    notes = read(workspace, ENDED.replace("<|im_end|>", "<|eot_id|>"), SFT).notes()
    assert any("turns that end in no token that stops the model: 2 of 2" in note for note in notes)


def test_an_end_that_max_length_cuts_off_is_no_fault_of_the_template(workspace: Path) -> None:
    whole = read(workspace, ENDED, SFT).train_set.texts[0].ids
    cut = len(whole) - 4
    notes = read(workspace, ENDED, SFT, f"data.max_length={cut}").notes()
    assert any(
        note.startswith(f"2 rows cut at {cut} tokens (data.max_length), their ends too")
        for note in notes
    )


SPECIAL = re.compile(
    r"<\|\w+\|>|<\w+\|>|<\|\w+>|<｜[^｜<]+｜>|<(?:end|start)_of_turn>|</s>|</?think>"
)


def judged(workspace: Path, tokenizer: Any, template: templates.Template) -> set[str]:
    """How the turns of a conversation end, by us."""
    options = ["data.max_length=4096", "data.val_split=0"]
    config = load_config(workspace / "soup.yaml", options)
    tiny.write_rows(workspace / "data" / "train.jsonl", [{"messages": CHAT}, SFT])
    rows = formats.load_dataset(workspace / "data" / "train.jsonl").rows
    reading = prepared.Reading(tokenizer, template, config, workspace)
    return {text.end for text in prepared.prepare(rows, config.method, reading).texts}


def test_no_template_that_trl_or_we_ship_is_refused_and_trl_says_the_same(
    workspace: Path, base_folder: Path
) -> None:
    """Each with a tokenizer that has its special tokens; TRL's own check is the oracle."""
    from transformers import AutoTokenizer
    from trl.chat_template_utils import is_chat_template_stop_token_trained as trl_finds_it

    folder = upstream.source("trl", "chat_templates")
    texts = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.jinja")}
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    special = sorted({token for text in texts.values() for token in SPECIAL.findall(text)})
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    of_pictures = {"idefics3", "llava_next", "smolvlm"}  # their turns are no texts
    asked = [name for name in sorted(texts) if name.removesuffix("_training") not in of_pictures]
    assert len(asked) > 50
    for name in (None, *asked):
        own = texts[name] if name else templates.CHATML
        found = templates.find(None, workspace, own, RuntimeError, wants_marks=True)
        assert found is not None
        assert judged(workspace, tokenizer, found) == {"token"}, name
        assert trl_finds_it(tokenizer, found.program) or not found.marked, name
    for end in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>"):
        outside = templates.Template(OUTSIDE.replace("<|im_end|>", end), end, marked=True)
        assert judged(workspace, tokenizer, outside) == {"none"}
        assert not trl_finds_it(tokenizer, outside.text)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("shape", ["sft", "pairs", "judged", "turns"])
def test_the_answers_first_token_is_learnt_where_the_prompts_space_joins_it(
    workspace: Path, shape: str
) -> None:
    """The tokenizer makes one token of a space and a word, so the border lies inside of it."""
    row: dict[str, Any] = {
        "sft": {"prompt": "Every morning ", "completion": "the baker"},
        "pairs": {"prompt": "Every morning ", "chosen": "the baker", "rejected": "the fox"},
        "judged": {"prompt": "Every morning ", "completion": "the baker", "label": True},
        "turns": {"messages": [CHAT[0], {"role": "assistant", "content": "the baker"}]},
    }[shape]
    task = {"pairs": ["task=dpo"], "judged": ["task=kto"]}.get(shape, [])
    if shape == "turns":
        found = read(workspace, SPACED, row)
    else:
        tiny.write_rows(workspace / "data" / "train.jsonl", [row, row])
        options = ["data.val_split=0", *task]
        found = material.read(load_config(workspace / "soup.yaml", options), workspace)
    assert learnt(found)[0] == " the baker<|im_end|>"
    texts = len(found.train_set.texts)
    said = f"answers whose first token begins in the prompt: {texts} "
    assert any(note.startswith(said) for note in found.notes())


def test_a_prompt_that_ends_before_the_space_is_not_talked_about(workspace: Path) -> None:
    row = {"prompt": "Every morning", "completion": " the baker"}
    tiny.write_rows(workspace / "data" / "train.jsonl", [row, row])
    found = material.read(load_config(workspace / "soup.yaml", ["data.val_split=0"]), workspace)
    assert learnt(found)[0] == " the baker<|im_end|>"
    assert not any("first token" in note for note in found.notes())
    before = SPACED.replace("ASSISTANT: ", "ASSISTANT:").replace(": {{", ":{{")
    turns = {"messages": [CHAT[0], {"role": "assistant", "content": " the baker"}]}
    found = read(workspace, before, turns)
    assert not any("first token" in note for note in found.notes())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_trl_warns_of_the_same_prompts(workspace: Path) -> None:
    """What TRL logs of a border inside of a token, when it makes tokens of such a row itself."""
    from accelerate.logging import MultiProcessAdapter
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    config = load_config(workspace / "soup.yaml")
    base = model.locate(config, workspace)
    tokenizer = model.load_tokenizer(base, config)
    network = model.load(base, config, dtype="float32")
    options = {"use_cpu": True, "bf16": False, "report_to": "none", "gradient_checkpointing": False}
    for prompt, answer in (("Every morning ", "the baker"), ("Every morning", " the baker")):
        row = {"prompt": prompt, "completion": answer}
        MultiProcessAdapter.warning_once.cache_clear()  # what another test heard counts as said
        logged: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record, said=logged: said.append(record.getMessage())  # type: ignore[misc, method-assign]
        logging.getLogger("trl").addHandler(handler)
        SFTTrainer(
            model=network,
            args=SFTConfig(output_dir=str(workspace / "trl"), **options),
            train_dataset=Dataset.from_list([row]),
            processing_class=tokenizer,
        )
        logging.getLogger("trl").removeHandler(handler)
        part = tokens.encoded(
            DataRow("x", 1, "x", row), tokenizer, None, only_answers=True, base="base"
        )
        assert part.joined == any("prompt" in said for said in logged), logged


def test_a_tokenizer_that_ends_texts_by_itself_ends_no_prompt_and_no_answer_twice(
    base_folder: Path,
) -> None:
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    plain, ending = (AutoTokenizer.from_pretrained(base_folder) for _ in range(2))
    end = (plain.eos_token, plain.eos_token_id)
    ending.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {end[0]}", special_tokens=[end]
    )
    assert ending(text="x")["input_ids"][-1] == end[1]
    for values in (
        {"text": "The quick"},
        {"text": "The quick<|im_end|>"},
        {"prompt": "The quick", "completion": " fox"},
    ):
        row = DataRow("x", 1, "x", values)
        made = [tokens.encoded(row, t, None, only_answers=True, base="b") for t in (ending, plain)]
        assert made[0] == made[1]
    assert tokens.open_ids("The quick", ending) == tokens.open_ids("The quick", plain)


@pytest.mark.parametrize(("template", "stops"), [(ENDED, True), (OUTSIDE, False)])
def test_a_model_stops_where_the_end_is_in_the_loss_and_goes_on_where_it_is_not(
    workspace: Path, template: str, stops: bool
) -> None:
    """The reason for it all, by torch alone: the tiny model learns one row by heart."""
    import torch

    (workspace / "t.jinja").write_text(template)
    tiny.write_rows(workspace / "data" / "train.jsonl", [SFT])
    config = load_config(workspace / "soup.yaml", ["data.chat_template=t.jinja"])
    base = model.locate(config, workspace)
    tokenizer = model.load_tokenizer(base, config)
    network = model.load(base, config, dtype="float32")
    part = tokens.encoded(
        DataRow("x", 1, "x", SFT), tokenizer,
        templates.Template(template, "t", marked=True), only_answers=True, base="base",
    )  # fmt: skip
    ids, labels = torch.tensor([part.ids]), torch.tensor([part.labels])
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        network(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    start = part.in_loss.index(True)
    answer = network.eval().generate(ids[:, :start], max_new_tokens=40, do_sample=False)
    said = tokenizer.decode(answer[0, start:])
    assert said.startswith("It is two.")
    assert (said == "It is two.<|im_end|>") == stops
