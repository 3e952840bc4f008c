"""Learning what a teacher would have said: how near the student comes, and by which measure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from soup_git.errors import FatalError
from soup_git.training.config import load_config
from tests.training import tiny_model as tiny
from tests.training.methods import prepare, run, steerable

ROWS = [{"prompt": f"{n}: ", "completion": tiny.SENTENCES[n % 5]} for n in range(8)]
ALONE = ("training.distill_ce_weight=0.0", "training.lora.dropout=0.0", "training.teacher_model=t")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Path:
    """The student's base with other layers, sure of what it says, its vocabulary filled up as the
    larger models of a family have theirs."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("teacher") / "t"
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_pretrained(base_folder)
    for layer in model.model.layers:
        for weight in layer.mlp.parameters():
            weight.data += 0.1 * torch.randn_like(weight)
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    model.lm_head.weight.data *= 8
    model.resize_token_embeddings(len(tokenizer) + 8, mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def school(workspace: Path, base_folder: Path, teacher: Path) -> Path:
    steerable(workspace, base_folder)
    (workspace / "t").symlink_to(teacher)
    prepare(workspace, "distill", ROWS)
    return workspace


def probabilities(workspace: Path, adapter: str | None = "output", base: str = "base") -> Any:
    """Log-probabilities at each place of the answers: (places, vocabulary)."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(workspace / base)
    model = AutoModelForCausalLM.from_pretrained(workspace / base)
    if adapter:
        model = PeftModel.from_pretrained(model, workspace / adapter)
    found = []
    for row in ROWS:
        start = len(tokenizer(row["prompt"])["input_ids"])
        ids = tokenizer(row["prompt"] + row["completion"])["input_ids"]
        with torch.no_grad():
            logits = model.eval()(input_ids=torch.tensor([ids])).logits[0, start - 1 :]
        found.append(logits[:, : len(tokenizer)].log_softmax(-1))
    return torch.cat(found)


def apart(p: Any, q: Any) -> float:
    """KL(p || q) in nats per place, by torch."""
    import torch

    return float(torch.nn.functional.kl_div(q, p, log_target=True, reduction="batchmean"))


def test_the_student_comes_near_the_teacher_by_the_measure_that_is_asked_for(
    school: Path,
) -> None:
    told = probabilities(school, None, "t")
    before = probabilities(school, None)
    found = {}
    for kind in ("forward_kl", "reverse_kl"):
        options = f"training.distill_divergence={kind}", "training.distill_temperature=1.0"
        run(school, *ALONE, *options, "training.max_steps=20", "training.lora.r=16")
        found[kind] = probabilities(school)
        assert apart(told, found[kind]) < 0.4 * apart(told, before)
    forward, reverse = found["forward_kl"], found["reverse_kl"]
    assert apart(told, forward) < apart(told, reverse)
    # Whoever learns by the reverse gives up more of what it is not asked about.
    assert apart(told, forward) < apart(forward, told)
    assert apart(told, reverse) > apart(reverse, told)


def test_the_loss_is_that_of_the_papers(school: Path) -> None:
    """At the first step the student is the base, so the curve starts with what torch computes."""
    import torch

    ours, told = (probabilities(school, None, name) for name in ("base", "t"))
    learnt = answers_of(school)
    for kind, temperature, share in (
        ("forward_kl", 3.0, 0.0),
        ("reverse_kl", 0.5, 0.25),
        ("js", 2.0, 0.9),
    ):
        p, q = ((x / temperature).log_softmax(-1) for x in (told, ours))
        middle = ((p.exp() + q.exp()) / 2).log()
        wanted = {
            "forward_kl": apart(p, q),
            "reverse_kl": apart(q, p),
            "js": (apart(p, middle) + apart(q, middle)) / 2,
        }[kind] * temperature**2
        imitated = float(torch.nn.functional.nll_loss(ours, learnt))
        run(
            school,
            *ALONE,
            "training.max_steps=1",
            "training.batch_size=4",
            "training.gradient_accumulation_steps=2",
            f"training.distill_divergence={kind}",
            f"training.distill_temperature={temperature}",
            f"training.distill_ce_weight={share}",
        )
        line = (school / "plots" / "loss.csv").read_text().splitlines()[1]
        assert float(line.split(",")[1]) == pytest.approx(
            share * imitated + (1 - share) * wanted, rel=1e-4
        )


def answers_of(workspace: Path) -> Any:
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(workspace / "base")
    answers = []
    for row in ROWS:
        start = len(tokenizer(row["prompt"])["input_ids"])
        text = row["prompt"] + row["completion"] + tokenizer.eos_token
        answers += tokenizer(text)["input_ids"][start:]
    return torch.tensor(answers)


def test_temperature_moves_the_gradient() -> None:
    import torch

    from soup_git.training.methods.distilltrainer import divergence

    torch.manual_seed(0)
    told = torch.randn(5, 40) * 4
    directions = []
    for temperature in (1.0, 4.0):
        ours = torch.zeros(5, 40, requires_grad=True)
        divergence(ours, told, "forward_kl", temperature).sum().backward()
        assert ours.grad is not None
        directions.append(ours.grad.flatten())
    assert torch.nn.functional.cosine_similarity(*directions, dim=0) < 0.9


def test_an_adapter_of_the_workspace_teaches_and_its_bytes_are_part_of_the_run(
    school: Path,
) -> None:
    prepare(school, "sft", ROWS)
    run(school, "training.max_steps=12")
    shutil.copytree(school / "output", school / "taught")
    prepare(school, "distill", ROWS)
    report = run(school, *ALONE, "training.teacher_model=taught", "training.max_steps=12")
    told, before, after = (probabilities(school, adapter) for adapter in ("taught", None, "output"))
    assert apart(told, after) < 0.5 * apart(told, before)
    assert set(report.run) >= {"sha256 of taught", "sha256 of base/model.safetensors"}


def test_a_teacher_that_cannot_teach_is_refused(school: Path) -> None:
    def refusal() -> str:
        with pytest.raises(FatalError) as caught:
            run(school, *ALONE)
        assert caught.value.hint
        return str(caught.value)

    (school / "t").unlink()
    (school / "t").mkdir()
    assert "t has no config.json" in refusal()
    settings = school / "t" / "adapter_config.json"
    settings.write_text("{}")
    assert "does not say its base and its task" in refusal()
    settings.write_text(json.dumps({"base_model_name_or_path": "base", "task_type": "SEQ_CLS"}))
    assert "was not trained to answer in words" in refusal()
    settings.write_text(json.dumps({"base_model_name_or_path": "base", "task_type": "CAUSAL_LM"}))
    assert "t has no adapter_model.safetensors" in refusal()


def test_a_teacher_of_other_tokens_is_refused(school: Path, teacher: Path) -> None:
    from transformers import AutoTokenizer

    (school / "t").unlink()
    shutil.copytree(teacher, school / "t")
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    tokenizer.add_tokens(["harbourmaster"])
    tokenizer.save_pretrained(school / "t")
    with pytest.raises(FatalError, match="t reads other tokens than base"):
        run(school, *ALONE)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ("", "distill needs training.teacher_model"),
        ("teacher_model: t, distill_temperature: 0", "distill_temperature: should be greater"),
        ("teacher_model: t, distill_divergence: kl", "distill_divergence: should be 'forward_kl'"),
        ("teacher_model: t, distill_ce_weight: 1", "distill_ce_weight: should be less than 1"),
        ("teacher_model: t, trl: {label_smoothing_factor: 0.1}", "would not read it"),
        ("teacher_revision: x", "teacher_revision: is for teacher_model"),
    ],
)
def test_options_of_distillation_that_cannot_be_honoured(options: str, what: str) -> None:
    with pytest.raises(FatalError) as caught:
        load_config(f"base: m\ntask: distill\ndata: {{train: x}}\ntraining: {{{options}}}\n")
    assert what in str(caught.value)
