"""What a chat template leaves out: with the templates that TRL ships, on real rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from soup_git.errors import FatalError
from soup_git.training import material, prepared
from soup_git.training.config import load_config
from tests.training import tiny_model as tiny

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "adds",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
CALLED: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": "add"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "x"}}}
            ],
        },
        {"role": "tool", "name": "add", "content": "2"},
        {"role": "assistant", "content": "It is 2"},
    ]
}
SAID = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}


def thinking(*, inside: bool, last: bool = True) -> dict[str, Any]:
    def turn(thought: str, said: str) -> dict[str, str]:
        if inside:
            return {"role": "assistant", "content": f"<think>\n{thought}\n</think>\n\n{said}"}
        return {"role": "assistant", "reasoning_content": thought, "content": said}

    end = turn("two", "B") if last else {"role": "assistant", "content": "B"}
    asked = [{"role": "user", "content": "hi"}, {"role": "user", "content": "again"}]
    return {"messages": [asked[0], turn("one", "A"), asked[1], end]}


def read(workspace: Path, row: dict[str, Any], template: str, *overrides: str) -> list[str]:
    tiny.write_rows(workspace / "data" / "train.jsonl", [row])
    options = [f"data.chat_template={template}", "data.max_length=4096", "data.val_split=0"]
    config = load_config(workspace / "soup.yaml", [*options, *overrides])
    return material.read(config, workspace).notes()


@pytest.mark.parametrize(
    ("template", "row", "what"),
    [
        ("idefics3", SAID, "leaves out what is said in turn 1, the user's"),
        ("smolvlm", SAID, "leaves out what is said in turn 1, the user's"),
        ("llama3", CALLED, "leaves out a tool call in turn 2, the assistant's"),
        ("phi3_5", CALLED, "leaves out a tool call in turn 2, the assistant's"),
        ("qwen2_5_vl", CALLED, "leaves out a tool call in turn 2, the assistant's"),
        ("deepseek_r1_distill", CALLED, "leaves out a tool call in turn 2, the assistant's"),
        ("lfm2", {**CALLED, "tools": [ADD]}, "leaves out a tool call in turn 2, the assistant's"),
        ("deepseekv3", {**CALLED, "tools": [ADD]}, "leaves out the tools of this row"),
        ("deepseekv3", thinking(inside=True), "leaves out the thinking"),
        ("chatml", thinking(inside=False), "<think> in content) in turn 4, the assistant's"),
    ],
)
def test_what_would_be_learnt_as_silence_is_refused(
    workspace: Path, template: str, row: dict[str, Any], what: str
) -> None:
    with pytest.raises(FatalError) as caught:
        read(workspace, row, template)
    assert str(caught.value).startswith(f"data/train.jsonl:1: the chat template ({template}) ")
    assert what in str(caught.value)
    assert "data.chat_template: " in caught.value.hint


@pytest.mark.parametrize(
    ("template", "row"),
    [
        ("llama3_1", {**CALLED, "tools": [ADD]}),
        ("llama3_2", {**CALLED, "tools": [ADD]}),
        ("gptoss", {**CALLED, "tools": [ADD]}),
        ("qwen3", {**CALLED, "tools": [ADD]}),
        ("qwen3_5_think", {**CALLED, "tools": [ADD]}),
        ("glm4moe", {**CALLED, "tools": [ADD]}),
        ("gemma4", {**CALLED, "tools": [ADD]}),
        ("qwen3", thinking(inside=True)),
        ("qwen3", thinking(inside=False)),
        ("gemma3", thinking(inside=True)),
    ],
)
def test_what_a_template_writes_in_its_own_way_is_there(
    workspace: Path, template: str, row: dict[str, Any]
) -> None:
    assert "leaves out" not in " ".join(read(workspace, row, template))


def test_thinking_of_earlier_turns_may_go_and_is_counted(workspace: Path) -> None:
    """Qwen3's and DeepSeek's own chats are without it, too."""
    said = "earlier turns whose thinking the chat template leaves out, not to be learnt: 1"
    assert said in read(workspace, thinking(inside=True), "glm4moe")
    assert said in read(workspace, thinking(inside=False), "gptoss")
    assert said in read(workspace, thinking(inside=False, last=False), "chatml")


def test_arguments_as_json_in_a_text_are_looked_for_as_well(workspace: Path) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": "x"}'}}
    row = {"messages": [CALLED["messages"][0], {"role": "assistant", "tool_calls": [call]}]}
    read(workspace, row, "qwen3")
    (workspace / "names.jinja").write_text(
        "{% for m in messages %}{% generation %}{{ m.content }}{% for c in m.tool_calls or [] %}"
        "{{ c.function.name }}{% endfor %}{% endgeneration %}{% endfor %}"
    )
    with pytest.raises(FatalError, match="leaves out a tool call in turn 2"):
        read(workspace, row, "names.jinja")
    with pytest.raises(FatalError, match="arguments of a tool call in turn 2 as a text in quotes"):
        read(workspace, row, "llama3_1")


def test_a_role_or_a_text_beside_a_call_that_the_template_does_not_know(workspace: Path) -> None:
    told = {"messages": [{"role": "developer", "content": "Be brief"}, *SAID["messages"]]}
    with pytest.raises(FatalError, match="leaves out what is said in turn 1, the dev") as caught:
        read(workspace, told, "qwen3")
    assert caught.value.hint.startswith("role: system")
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    asked, _ = SAID["messages"]
    both = {"role": "assistant", "content": "I shall add.", "tool_calls": [call]}
    with pytest.raises(FatalError, match="leaves out what is said in turn 2") as caught:
        read(workspace, {"messages": [asked, both]}, "llama3_1")
    assert "qwen3 writes what is said beside a call" in caught.value.hint
    read(workspace, {"messages": [asked, both]}, "qwen3")


def test_answers_that_are_compared_are_looked_at_too(workspace: Path) -> None:
    pair = {
        "prompt": SAID["messages"][:1],
        "chosen": [{"role": "assistant", "content": "ho"}],
        "rejected": [{"role": "assistant", "content": "hum"}],
    }
    with pytest.raises(FatalError, match="leaves out what is said in turn 1, the user's"):
        read(workspace, pair, "smolvlm", "task=dpo")


def test_rows_of_one_shape_are_rendered_once_more_in_all(workspace: Path) -> None:
    rows = [tiny.conversation(n) for n in range(8)]
    tiny.write_rows(workspace / "data" / "train.jsonl", rows)
    config = load_config(workspace / "soup.yaml", ["data.chat_template=qwen3"])
    reading = material.read(config, workspace).reading
    assert isinstance(reading, prepared.Reading)
    assert len(reading.left_out._asked) == 1
