"""Leave-one-out against PEFT and torch used plainly, and against itself without any shortcut."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from soup_git.errors import FatalError
from soup_git.evaluation.ablation import Ablation
from soup_git.evaluation.ablationeffects import ESTIMATED, EXACT, UNRESOLVED, Outcome
from soup_git.evaluation.ablationparts import LAYER, MODULE, parts_of
from soup_git.evaluation.ablationplan import Speed, check_shards, make_plan
from soup_git.evaluation.candidate import Candidate, in_memory
from soup_git.evaluation.lossrows import as_data, load_rows
from soup_git.evaluation.removal import adapted
from soup_git.evaluation.runner import BaseChoice, Runner
from soup_git.evaluation.statistics import MEAN, difference, paired_means
from tests.evaluation import small_lora
from tests.training import tiny_model as tiny

# PEFT asks transformers by a name that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
ROWS = 10


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of four layers, adapters for it, and rows to measure on."""
    root = tmp_path_factory.mktemp("room")
    base = small_lora.make_base(root / "base", 4)
    small_lora.make_lora(root / "plain", base, 1, scale=0.02)
    small_lora.make_lora(root / "other", base, 2, scale=0.02)
    small_lora.make_lora(root / "narrow", base, 3, targets=["q_proj", "up_proj"], r=2)
    small_lora.make_lora(root / "dora", base, 4, targets=["q_proj", "down_proj"], use_dora=True)
    tiny.write_rows(root / "rows.jsonl", [tiny.conversation(n) for n in range(ROWS)])
    return root


def candidate(folder: Path) -> Candidate:
    from safetensors.torch import load_file

    config = json.loads((folder / "adapter_config.json").read_text())
    return in_memory(folder.name, config, load_file(folder / "adapter_model.safetensors"))


@contextmanager
def opened(
    room: Path, name: str, against: str | None = None, *, per: str = MODULE, **options: Any
) -> Iterator[Ablation]:
    with Runner(BaseChoice(str(room / "base")), room, batch_size=4) as runner:
        rows = load_rows(room / "rows.jsonl", "rows.jsonl")
        sequences = runner.encode([as_data(row, chat=True) for row in rows])
        if against is None:
            with runner.using(candidate(room / name)) as model:
                target = adapted(model.model, name, model.model.active_adapter)
                parts = parts_of(list(target.modules), per, [])
                with Ablation(target, model, sequences, parts, **options) as job:
                    yield job
            return
        pair = candidate(room / name), candidate(room / against)
        with runner.using_both(*pair) as (model, own, other):
            target = adapted(model.model, name, own, other)
            parts = parts_of(list(target.modules), per, [])
            with Ablation(target, model, sequences, parts, **options) as job:
                yield job


def measured(job: Ablation) -> Outcome:
    return job.run(job.plan(300.0, job.clock()))


def plainly(room: Path, name: str, changes: dict[str, Any]) -> float:
    """The mean loss on the rows by transformers and PEFT alone, with tensors of the adapter changed."""
    import torch
    from peft import PeftModel
    from transformers import AutoTokenizer, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(room / "base")
    model = PeftModel.from_pretrained(
        LlamaForCausalLM.from_pretrained(room / "base"), room / name
    ).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key in changes:
                parameter.copy_(torch.as_tensor(changes[key]))
    total, count = 0.0, 0
    for line in (room / "rows.jsonl").read_text().splitlines():
        turns = json.loads(line)["messages"]
        found = tokenizer.apply_chat_template(
            turns, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, said = found["input_ids"], found["assistant_masks"]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].double()
        chosen = logits.log_softmax(-1)
        for at in range(1, len(ids)):
            if said[at]:
                total, count = total - float(chosen[at - 1, ids[at]]), count + 1
    return total / count


def test_a_module_taken_out_is_one_with_b_zero(room: Path) -> None:
    with opened(room, "plain") as job:
        found = {part.name: part for part in measured(job).parts}
    whole = plainly(room, "plain", {})
    for module in ("model.layers.0.self_attn.q_proj", "model.layers.2.mlp.down_proj"):
        key = f"base_model.model.{module}.lora_B.default.weight"
        width = 64 if module.endswith("gate_proj") else 32
        without = plainly(room, "plain", {key: np.zeros((width, 4), dtype=np.float32)})
        assert found[module].effect == pytest.approx(without - whole, abs=1e-5)
        assert found[module].status == EXACT
        assert found[module].rows == ROWS


@pytest.mark.parametrize(
    ("name", "against", "per"),
    [
        ("plain", None, MODULE),
        ("plain", None, LAYER),
        ("dora", None, MODULE),
        ("plain", "narrow", MODULE),
        ("dora", "plain", LAYER),
    ],
)
def test_layers_that_are_not_run_again_change_nothing(
    room: Path, name: str, against: str | None, per: str
) -> None:
    with opened(room, name, against, per=per) as job:
        assert job.stack is not None
        quick = measured(job)
    with opened(room, name, against, per=per, reuse=False) as job:
        slow = measured(job)
    effects = {part.name: part.effect for part in slow.parts}
    assert len(effects) == len(quick.parts) >= 4
    for part in quick.parts:
        assert part.effect == pytest.approx(effects[part.name], abs=1e-5)
    assert quick.total.effect == pytest.approx(slow.total.effect, abs=1e-5)
    assert quick.notes == slow.notes == []


def test_a_module_put_back_is_the_other_adapters(room: Path) -> None:
    from safetensors.torch import load_file

    with opened(room, "plain", "other") as job:
        outcome = measured(job)
    other = {
        key.replace(".weight", ".default.weight"): value
        for key, value in load_file(room / "other" / "adapter_model.safetensors").items()
    }
    module = "model.layers.1.self_attn.v_proj"
    of_module = {key: value for key, value in other.items() if module in key}
    found = next(part for part in outcome.parts if part.name == module)
    whole = plainly(room, "plain", {})
    assert found.effect == pytest.approx(plainly(room, "plain", of_module) - whole, abs=1e-5)
    assert outcome.total.loss_without == pytest.approx(plainly(room, "other", {}), abs=1e-5)


@pytest.mark.parametrize("against", [None, "other"])
def test_gradients_add_up_to_the_total(room: Path, against: str | None) -> None:
    with opened(room, "plain", against) as job:
        job.plan(300.0, job.clock())
        job._rank(job.shards)
        total = job._found.total()
    assert total.gradient_sum == pytest.approx(total.effect, rel=0.03)
    assert total.rows == ROWS


def test_a_small_budget_goes_to_the_likely(room: Path) -> None:
    with opened(room, "plain") as job:
        exact = {part.name: part for part in measured(job).parts}
    ticks = itertools.count()
    with opened(room, "plain", clock=lambda: float(next(ticks))) as job:
        # A pass costs a tick: the deadline comes after the shortlist and some more.
        speed = Speed(1e-3, 1e-3, 1e-3, 0).with_gradients(1e-3)
        plan = make_plan(speed, [0] * len(job.parts), 10_000, 100.0, 4, 0.0)
        assert not plan.fits
        outcome = job.run(plan, next(ticks) + 75.0)
    by_status: dict[str, list[str]] = {}
    for part in outcome.parts:
        by_status.setdefault(part.status, []).append(part.name)
        assert part.gradient_estimate is not None
        if part.status == EXACT:
            assert part.effect == pytest.approx(exact[part.name].effect, abs=1e-6)
    assert by_status.keys() <= {EXACT, ESTIMATED, UNRESOLVED}
    assert len(by_status[EXACT]) >= 14
    assert by_status[ESTIMATED]
    assert sum(part.audited for part in outcome.parts) == 3
    assert any(note.startswith("audit: ") for note in outcome.notes)
    largest = sorted(exact.values(), key=lambda p: -abs(p.effect or 0))[:3]
    assert {p.name for p in largest} <= set(by_status[EXACT])


def test_what_the_deadline_cuts_short_is_unresolved(room: Path) -> None:
    ticks = itertools.count()
    with opened(room, "plain", clock=lambda: float(next(ticks))) as job:
        plan = job.plan(300.0, 0.0)
        outcome = job.run(plan, next(ticks) + 40.0)
    assert {part.status for part in outcome.parts} == {UNRESOLVED}
    assert {part.rows for part in outcome.parts} > {ROWS} or max(
        part.rows for part in outcome.parts
    ) < ROWS
    assert all(part.place is None for part in outcome.parts)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "mixtral"])
def test_other_families_are_entered_at_any_layer(family: str) -> None:
    """Their layers are found by themselves; the trial inside says that the losses are the same."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from soup_git.evaluation.prefixreuse import find_layers

    sizes: dict[str, dict[str, Any]] = {
        "gpt2": {"n_embd": 16, "n_layer": 3, "n_head": 2},
        "gemma2": {
            "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 32, "sliding_window": 4,
        },
        "mixtral": {
            "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
            "num_key_value_heads": 1, "intermediate_size": 32, "num_local_experts": 2,
        },
    }  # fmt: skip
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=50, **sizes[family])
    config.pad_token_id = 0
    model = AutoModelForCausalLM.from_config(config)
    target = "c_attn" if family == "gpt2" else "q_proj"
    peft = get_peft_model(
        model, LoraConfig(r=2, target_modules=[target], fan_in_fan_out=family == "gpt2")
    ).eval()
    target_modules = adapted(peft, family, "default")
    ids = torch.arange(1, 13).reshape(2, 6)

    def forward() -> Any:
        with torch.no_grad():
            return peft(input_ids=ids, use_cache=False).logits.logsumexp(-1).mean(1).double()

    stack = find_layers(peft, target_modules.hooked)
    assert stack is not None
    with stack:
        assert stack.why_not(forward) is None
        depths = [stack.depth(name) for name in target_modules.hooked]
    assert depths == [0, 1, 2]


def test_layers_that_cannot_be_skipped_are_noticed() -> None:
    import torch

    from soup_git.evaluation.prefixreuse import find_layers

    class InPlace(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            return x.add_(self.linear(x))

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(InPlace() for _ in range(3))

        def forward(self, x: Any) -> Any:
            for layer in self.layers:
                x = layer(x)
            return x

    torch.manual_seed(0)
    net, start = Net(), torch.ones(2, 4)
    modules = {f"layers.{i}.linear": layer.linear for i, layer in enumerate(net.layers)}
    stack = find_layers(net, modules)
    assert stack is not None
    with torch.no_grad(), stack:
        why = stack.why_not(lambda: net(start.clone()).double().sum(1))
    assert why is not None and "other losses" in why
    assert find_layers(net.layers[0], {"linear": net.layers[0].linear}) is None


def test_many_paired_differences_are_each_the_one() -> None:
    generator = np.random.default_rng(0)
    counts = generator.integers(1, 9, 12).astype(float)
    whole = generator.normal(3, 1, 12) * counts
    sums = whole + generator.normal(0.2, 0.1, (3, 12)) * counts
    sums[2] = sums[1] + 1e-3
    found = paired_means(sums, whole, counts)
    for i in range(3):
        one = difference(
            MEAN, list(zip(sums[i], counts, strict=True)), list(zip(whole, counts, strict=True))
        )
        assert one is not None
        assert found.value[i] == pytest.approx(one.value)
        assert found.stderr[i] == pytest.approx(one.stderr)
        assert found.value[i] + found.reach()[i] == pytest.approx(one.high)
    larger = found.larger()
    assert not larger.diagonal().any()
    # A thousandth more on every row alike is noise to one interval, and sure to a paired one.
    assert larger[2, 1] and not larger[1, 2]


def test_a_plan_that_does_not_pay_for_a_shard_names_one_that_would() -> None:
    speed = Speed(1.0, 1.0, 0.1, 10).with_gradients(8.0)
    plan = make_plan(speed, list(range(10)), 1000, 300.0, 4, 20.0)
    with pytest.raises(FatalError, match="does not pay for one of 4 shards") as error:
        plan.refuse_if_too_small()
    minutes = int(error.value.hint.removeprefix("--budget ").removesuffix("m"))
    enough = make_plan(speed, list(range(10)), 1000, minutes * 60.0, 4, 20.0)
    enough.refuse_if_too_small()
    assert enough.affordable < 10
    assert make_plan(speed, list(range(10)), 10, 300.0, 4, 20.0).fits


def test_thirty_seconds_a_shard_at_least() -> None:
    with pytest.raises(FatalError, match="a shard needs 30 s") as error:
        check_shards(60.0, 4, "60s")
    assert error.value.hint == "--budget 2m, or --shards 2"
    check_shards(120.0, 4, "2m")


def test_patterns_name_layers_or_modules() -> None:
    names = [f"model.layers.{i}.{m}" for i in range(12) for m in ("mlp.up_proj", "mlp.gate_proj")]
    assert [p.name for p in parts_of(names, MODULE, ["layers.1"])] == names[2:4]
    assert [p.name for p in parts_of(names, LAYER, ["1?"])] == [
        "model.layers.10",
        "model.layers.11",
    ]
    assert len(parts_of([*names, "lm_head"], LAYER, [])) == 13
    assert len(parts_of(names, MODULE, ["layers.1?", "*.up_proj"])) == 2
    with pytest.raises(FatalError, match=r"no layer or module matches 'layers\.12'"):
        parts_of(names, MODULE, ["layers.12"])
