"""The runner on a real model: against plain transformers and PEFT, whatever the batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from soup_git.errors import FatalError
from soup_git.evaluation.candidate import Candidate, in_memory
from soup_git.evaluation.model import Decoding
from soup_git.evaluation.results import by_name
from soup_git.evaluation.runner import BaseChoice, Runner
from soup_git.evaluation.scorecache import ScoreCache
from soup_git.evaluation.suite import Suite, load_suite
from tests.evaluation.conftest import QUESTIONS, WriteSuite
from tests.training import tiny_model as tiny

# Of PEFT and transformers between themselves, in the reference that we are compared with.
pytestmark = [
    # Found, not imported: the hub client reads the tests' environment when it is.
    pytest.mark.skipif(find_spec("peft") is None, reason="the train extra is not installed"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning"),
]

LOSS = "tasks:\n  - {name: fit, prompts: prompts.jsonl, scoring: loss}\n"
PROMPTS = [row["prompt"] for row in QUESTIONS] + ["Hm?"]


def candidate(folder: Path) -> Candidate:
    from safetensors.torch import load_file

    config = json.loads((folder / "adapter_config.json").read_text())
    weights = folder / "adapter_model.safetensors"
    return Candidate(folder.name, config, lambda: load_file(weights), f"digest of {folder.name}")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    folder = tmp_path_factory.mktemp("root")
    (folder / "base").symlink_to(tiny_base)
    return folder


@pytest.fixture
def runner(root: Path) -> Iterator[Runner]:
    with Runner(BaseChoice("base", digest="d" * 64), root, threads=1) as made:
        yield made


@pytest.fixture
def fit(tmp_path: Path, write_suite: WriteSuite) -> Suite:
    return load_suite(write_suite(LOSS, QUESTIONS), tmp_path)


def loss(runner: Runner, one: Candidate | None, suite: Suite) -> float:
    value = by_name(runner.score(one, suite))["fit.loss"].value
    assert value is not None
    return value


def reference(
    root: Path,
    folder: Path | None,
    suite: Suite,
    load: Callable[[Path], Any] | None = None,
) -> float:
    """The same loss by transformers and PEFT alone, a row at a time; `load` loads the base."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = (load or AutoModelForCausalLM.from_pretrained)(root / "base")
    tokenizer = AutoTokenizer.from_pretrained(root / "base")
    if folder is not None:
        model = PeftModel.from_pretrained(model, str(folder))
    model.eval()
    total, count = 0.0, 0
    for row in suite.tasks[0].rows:
        turns = [{"role": "user", "content": row.prompt}]
        start = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(start + row.expected + "<|im_end|>")["input_ids"]
        labels = [-100] * len(tokenizer(start)["input_ids"])
        labels += ids[len(labels) :]
        with torch.no_grad():
            found = model(torch.tensor([ids]), labels=torch.tensor([labels])).loss
        n = sum(label != -100 for label in labels)
        total, count = total + float(found) * n, count + n
    return total / count


def test_losses_are_those_of_transformers_and_peft(
    runner: Runner, root: Path, adapters: dict[str, Path], fit: Suite
) -> None:
    for folder in (None, adapters["one"], adapters["wide"], adapters["two"], None):
        one = candidate(folder) if folder else None
        assert loss(runner, one, fit) == pytest.approx(reference(root, folder, fit), abs=1e-5)
    assert runner.attachments.base_loads == 1


def test_the_batch_size_changes_nothing(root: Path, adapters: dict[str, Path], fit: Suite) -> None:
    found = []
    for size in (1, 2, 6):
        with Runner(BaseChoice("base"), root, batch_size=size, threads=1) as runner:
            one = candidate(adapters["one"])
            greedy = runner.generate(one, PROMPTS, Decoding(max_new_tokens=12))
            drawn = runner.generate(
                one, PROMPTS, Decoding(max_new_tokens=8, temperature=1.0, seed=3)
            )
            found.append((greedy, drawn, loss(runner, one, fit)))
    assert found[0][:2] == found[1][:2] == found[2][:2]
    assert [f[2] for f in found] == pytest.approx([found[0][2]] * 3, abs=1e-6)


def test_answers_are_those_of_plain_generation(
    runner: Runner, adapters: dict[str, Path], root: Path
) -> None:
    from soup_git.training.sampling import answers

    ours = runner.generate(candidate(adapters["two"]), PROMPTS, Decoding(max_new_tokens=12))
    plain = answers(root / "base", PROMPTS, adapters["two"], max_new_tokens=12)
    assert [" ".join(text.split()) for text in ours] == plain
    assert ours != runner.generate(None, PROMPTS, Decoding(max_new_tokens=12))


def test_an_answer_ends_at_a_stop_and_fits_the_window(runner: Runner) -> None:
    whole = runner.generate(None, PROMPTS[:1], Decoding(max_new_tokens=12))[0]
    stop = whole[3:5]
    cut = runner.generate(None, PROMPTS[:1], Decoding(max_new_tokens=12, stop=(stop,)))[0]
    assert cut == whole[: whole.index(stop)]
    with pytest.raises(FatalError, match="tokens and base reads 256"):
        runner.generate(None, ["word " * 2000])


def test_candidates_from_memory_need_no_file(
    runner: Runner, adapters: dict[str, Path], fit: Suite
) -> None:
    one = candidate(adapters["one"])
    tensors = {name: t.numpy() for name, t in one.load().items()}
    assert loss(runner, in_memory("copy", one.config, tensors), fit) == loss(runner, one, fit)
    halved = {n: t * np.float32(0.5 if ".lora_B" in n else 1.0) for n, t in tensors.items()}
    scaled = replace(one, scaling=dict.fromkeys(_modules(one), 0.5))
    assert loss(runner, in_memory("half", one.config, halved), fit) == pytest.approx(
        loss(runner, scaled, fit), abs=1e-6
    )
    gone = replace(one, scaling=dict.fromkeys(_modules(one), 0.0))
    assert loss(runner, gone, fit) == pytest.approx(loss(runner, None, fit), abs=1e-6)
    assert loss(runner, one, fit) != pytest.approx(loss(runner, None, fit), abs=1e-3)
    with pytest.raises(FatalError, match="no module nowhere to scale"):
        runner.score(replace(one, scaling={"nowhere": 0.0}), fit)


def _modules(one: Candidate) -> list[str]:
    return sorted({n.removeprefix("base_model.model.").partition(".lora_")[0] for n in one.load()})


@pytest.mark.parametrize("kind", ["dora", "rslora", "whole module", "loha", "prompt tuning"])
def test_other_peft_types_and_the_base_comes_back_clean(
    runner: Runner, root: Path, tmp_path: Path, fit: Suite, kind: str
) -> None:
    folder = _trained_elsewhere(root, tmp_path / "other", kind)
    before = loss(runner, None, fit)
    found = loss(runner, candidate(folder), fit)
    assert found == pytest.approx(reference(root, folder, fit), abs=1e-5)
    assert found != pytest.approx(before, abs=1e-4)
    assert loss(runner, None, fit) == before


def _trained_elsewhere(root: Path, folder: Path, kind: str) -> Path:
    """An adapter as PEFT saves it, its numbers moved by chance."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(root / "base")
    targets: dict[str, Any] = {"target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    config = {
        "dora": lambda: peft.LoraConfig(r=4, use_dora=True, **targets),
        "rslora": lambda: peft.LoraConfig(
            r=4, use_rslora=True, rank_pattern={"q_proj": 2}, **targets
        ),
        "whole module": lambda: peft.LoraConfig(r=4, modules_to_save=["lm_head"], **targets),
        "loha": lambda: peft.LoHaConfig(r=4, **targets),
        "prompt tuning": lambda: peft.PromptTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=3
        ),
    }[kind]()
    torch.manual_seed(1)
    wrapped = peft.get_peft_model(model, config)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    wrapped.peft_config["default"].base_model_name_or_path = "base"
    wrapped.save_pretrained(str(folder))
    return folder


def test_what_does_not_fit_the_base_is_refused(
    runner: Runner, adapters: dict[str, Path], fit: Suite
) -> None:
    one = candidate(adapters["one"])
    other = replace(one, config={**one.config, "base_model_name_or_path": "other/model"})
    with pytest.raises(FatalError, match="is an adapter for other/model, not for base"):
        runner.score(other, fit)
    assert runner.attachments.base_loads == 0
    less = {n: t for n, t in one.load().items() if "layers.1" not in n}
    with pytest.raises(FatalError, match="which its weights lack"):
        runner.score(in_memory("less", one.config, less), fit)
    turned = {n: t.T for n, t in one.load().items()}
    with pytest.raises(FatalError, match="does not fit its base"):
        runner.score(in_memory("turned", one.config, turned), fit)
    odd = in_memory("odd", {**one.config, "task_type": "SEQ_CLS"}, one.load())
    with pytest.raises(FatalError, match="adapter for SEQ_CLS"):
        runner.score(odd, fit)
    assert loss(runner, one, fit)  # and goes on


def test_the_same_question_is_never_paid_twice(
    root: Path, tmp_path: Path, adapters: dict[str, Path], fit: Suite
) -> None:
    cache = ScoreCache(tmp_path / "scores")
    one = candidate(adapters["one"])

    def ask(**changes: Any) -> tuple[list[Any], int]:
        choice = replace(BaseChoice("base", digest="d" * 64), **changes)
        with Runner(choice, root, cache=cache, threads=1) as runner:
            return runner.score(one, fit), runner.attachments.base_loads

    first, loads = ask()
    again, loads_again = ask()
    assert (loads, loads_again) == (1, 0)
    assert again == first
    assert ask(digest="e" * 64)[1] == 1
    assert ask(digest=None)[1] == 1
    with Runner(BaseChoice("base", digest="d" * 64), root, cache=cache) as runner:
        runner.score(replace(one, digest="another"), fit)
        runner.score(replace(one, scaling={_modules(one)[0]: 0.0}), fit)
        assert runner.asked == 2 * len(QUESTIONS)
    for file in (tmp_path / "scores").rglob("*.json"):
        file.write_text("{")  # a damaged cache costs time, not truth
    assert ask()[0] == first


def test_choices_and_raw_text(
    runner: Runner, tmp_path: Path, write_suite: WriteSuite, adapters: dict[str, Path]
) -> None:
    rows = [
        {"prompt": "1: x", "options": [tiny.SENTENCES[0], "zzzz qqqq"], "expected": 0},
        {"prompt": "2: x", "options": ["zzzz", tiny.SENTENCES[1]], "expected": tiny.SENTENCES[1]},
    ]
    text = (
        "tasks:\n  - {name: pick, prompts: prompts.jsonl, scoring: choice}\n"
        "  - {name: raw, prompts: prompts.jsonl, scoring: choice, chat: false, normalize: none}\n"
    )
    found = by_name(runner.score(None, load_suite(write_suite(text, rows), tmp_path)))
    assert found["pick.choice"].n == found["raw.choice"].n == 2
    assert found["pick.choice"].rows != () and found["raw.choice"].binary


def test_training_rows_are_scored_as_training_scores_them(
    runner: Runner, tmp_path: Path, write_suite: WriteSuite, fit: Suite
) -> None:
    turns = [
        {"messages": [{"role": "user", "content": row["prompt"]},
                      {"role": "assistant", "content": row["expected"]}]}
        for row in QUESTIONS
    ]  # fmt: skip
    same = load_suite(write_suite(LOSS, turns), tmp_path)
    assert loss(runner, None, same) == pytest.approx(loss(runner, None, fit), abs=1e-6)


def test_asking_moves_no_generator_and_no_mode(runner: Runner, adapters: dict[str, Path]) -> None:
    import torch

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    with runner.using(candidate(adapters["one"])) as model:
        model.model.train()
        model.generate([model.prompt("x")], Decoding(max_new_tokens=3, temperature=1.0))
        assert model.model.training
    assert torch.equal(torch.random.get_rng_state(), before)


def test_lm_evaluation_harness_asks_the_loaded_model(
    runner: Runner, root: Path, tmp_path: Path, write_suite: WriteSuite, adapters: dict[str, Path]
) -> None:
    pytest.importorskip("lm_eval", reason="the lm-eval extra is not installed")
    folder = tmp_path / "harness"
    folder.mkdir()
    rows = [{"q": f"{n}?", "options": ["a", "b"], "gold": n % 2} for n in range(6)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "pick.yaml").write_text(
        "task: soup_pick\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {folder / 'rows.jsonl'}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\n"
        "doc_to_text: '{{q}}'\ndoc_to_choice: '{{options}}'\ndoc_to_target: gold\n"
        "metric_list: [{metric: acc}]\n"
    )
    text = (
        "tasks:\n  - {name: h, scoring: 'lm_eval:soup_pick', include_path: harness, chat: false}\n"
    )
    suite = load_suite(write_suite(text), tmp_path)
    found = by_name(runner.score(candidate(adapters["one"]), suite))
    assert found["h.acc"].n == 6
    assert found["h.acc"].binary
