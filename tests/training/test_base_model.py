"""The offline base model: really trained, the same bytes each time, usable by TRL."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from soup_git.errors import FatalError
from soup_git.training import demo_rows
from soup_git.training.base_model import BaseModelReport, BaseModelSize, make_base_model

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = BaseModelSize(
    vocabulary=512,
    hidden=32,
    layers=1,
    heads=2,
    intermediate=64,
    window=64,
    batch=4,
    steps=30,
    learning_rate=1e-2,
)
SMALLER = replace(SMALL, steps=3)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> BaseModelReport:
    return make_base_model(tmp_path_factory.mktemp("base"), size=SMALL)


def test_it_learns(report: BaseModelReport) -> None:
    assert report.held_out_loss < report.uniform_loss - 0.5
    assert report.steps == SMALL.steps


def test_only_the_seed_decides_the_bytes(tmp_path: Path) -> None:
    """Not the process, nor its hash seed, nor the number of threads it would take by itself."""
    script = (
        "import sys; from pathlib import Path\n"
        "from soup_git.training.base_model import BaseModelSize, make_base_model\n"
        f"make_base_model(Path(sys.argv[1]), size={SMALLER!r})\n"
    )
    environment = {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)}
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "again")], env=environment, check=True
    )
    make_base_model(tmp_path / "first", size=SMALLER)
    make_base_model(tmp_path / "other", size=SMALLER, seed=1)
    assert digests(tmp_path / "again") == digests(tmp_path / "first")
    ours, theirs = digests(tmp_path / "first"), digests(tmp_path / "other")
    assert ours["tokenizer.json"] == theirs["tokenizer.json"]
    assert ours["model.safetensors"] != theirs["model.safetensors"]


def test_the_folder_loads_and_speaks(report: BaseModelReport) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(report.directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(report.directory)
    prompt = tokenizer("It is a truth", return_tensors="pt")
    assert model.num_parameters() == report.parameters
    assert len(model.generate(**prompt, max_new_tokens=5)[0]) > prompt["input_ids"].shape[1]


@pytest.mark.parametrize(
    "text",
    ["It is a truth, universally acknowledged.", " Two  spaces\n\tand a tab", "né 漢字 🍲", ""],
)
def test_the_tokenizer_gives_every_text_back(report: BaseModelReport, text: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(report.directory)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_mask_covers_the_answers_and_their_ends(report: BaseModelReport) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(report.directory)
    chat = [
        {"role": "system", "content": "You are a library."},
        {"role": "user", "content": "Where is my book?"},
        {"role": "assistant", "content": "On its way."},
        {"role": "user", "content": "When will it come?"},
        {"role": "assistant", "content": "In two days."},
    ]
    encoded = tokenizer.apply_chat_template(
        chat, return_dict=True, return_assistant_tokens_mask=True
    )
    learnt = [
        token
        for token, is_answer in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
        if is_answer
    ]
    assert tokenizer.decode(learnt) == "On its way.<|im_end|>In two days.<|im_end|>"
    asked = tokenizer.apply_chat_template(chat[:2], add_generation_prompt=True, tokenize=False)
    assert asked.endswith("Where is my book?<|im_end|>\n<|im_start|>assistant\n")


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(FatalError, match="not empty"):
        make_base_model(tmp_path, size=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_shipped_rows_are_what_the_script_writes(tmp_path: Path) -> None:
    demo_rows.main(tmp_path)
    shipped = resources.files("soup_git.training") / "demo_data"
    for written in tmp_path.iterdir():
        assert written.read_bytes() == (shipped / written.name).read_bytes()


def test_no_eval_prompt_was_trained_on(tmp_path: Path) -> None:
    demo_rows.main(tmp_path)
    rows = {
        name: [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for name in ("support.jsonl", "polite.jsonl", "support_eval.jsonl")
    }
    questions = [row["messages"][0]["content"] for row in rows["support.jsonl"]]
    assert questions == [row["messages"][0]["content"] for row in rows["polite.jsonl"]]
    assert len(set(questions)) == len(questions)
    asked = {row["prompt"] for row in rows["support_eval.jsonl"]}
    assert not any(question.endswith(tuple(asked)) for question in questions)
