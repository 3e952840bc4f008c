"""Each knob by what it does to weights or optimizer, not by the flag being read."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from soup_git.errors import FatalError
from soup_git.training import adapter
from soup_git.training.lora import relora
from tests.training.lora.conftest import Training
from tests.training.lora.test_reload import RESTARTS, VBLORA, VERA

B0 = "base_model.model.model.layers.{}.self_attn.q_proj.lora_B.weight"
STILL = ("training.lora.dropout=0.0",)


def test_loraplus_gives_b_its_own_rate_and_b_moves_further(training: Training) -> None:
    plain = training(*STILL, "training.lr=1e-4")
    plus = training(*STILL, "training.lr=1e-4", "training.loraplus_lr_ratio=16")
    groups = plus.run.trainer.optimizer.param_groups
    rates = {
        name: group["initial_lr"]
        for group in groups
        for name, p in plus.run.model.named_parameters()
        if any(p is member for member in group["params"])
    }
    assert {n.split(".lora_")[1][0]: rate for n, rate in rates.items()} == {
        "A": pytest.approx(1e-4),
        "B": pytest.approx(1.6e-3),
    }
    assert len(rates) == len(plus.tensors)
    moved = [run.tensors[B0.format(0)].norm() for run in (plain, plus)]
    assert moved[1] > 8 * moved[0]
    odd = training("training.loraplus_lr_ratio=4", "training.optimizer=sgd", "training.lr=0.1")
    assert type(odd.run.trainer.optimizer.optimizer) is torch.optim.SGD


def test_loraplus_is_for_b_and_for_no_other_vector(training: Training) -> None:
    plus = training(
        "training.lora.use_dora=true", "training.loraplus_lr_ratio=16", "training.lr=1e-4",
        "training.weight_decay=0.1", "training.max_steps=2",
    )  # fmt: skip
    groups = plus.run.trainer.optimizer.param_groups
    rates = {
        name.split(".lora_")[1].partition(".")[0]: (group["initial_lr"], group["weight_decay"])
        for group in groups
        for name, p in plus.run.model.named_parameters()
        if any(p is member for member in group["params"])
    }
    assert rates == {
        "A": (pytest.approx(1e-4), 0.1),
        "magnitude_vector": (pytest.approx(1e-4), 0.1),
        "B": (pytest.approx(1.6e-3), 0.1),
    }


def test_loraplus_keeps_adapted_embeddings_slow_unless_told(training: Training) -> None:
    options = ("training.loraplus_lr_ratio=4", "training.lora.target_modules=[embed_tokens]")
    assert "training changed nothing" not in str(
        training(*options, "training.loraplus_lr_embedding=0.01").report
    )
    rates = {
        group["initial_lr"]
        for group in training(*options).run.trainer.optimizer.param_groups
        if group["params"]
    }
    assert rates == {1e-6}
    said = training.refusal("training.loraplus_lr_ratio=4", "training.loraplus_lr_embedding=0.01")
    assert "loraplus_lr_embedding: is for adapted embeddings, and none has an adapter" in said


def test_rank_and_alpha_patterns_shape_and_scale_the_update(training: Training) -> None:
    trained = training(
        "training.lora.rank_pattern={q_proj: 2}", "training.lora.alpha_pattern={v_proj: 64}"
    )
    attention = trained.run.model.base_model.model.model.layers[0].self_attn
    assert trained.tensors[B0.format(0)].shape[1] == 2
    a, b = (getattr(attention.v_proj, f"lora_{x}")["default"].weight for x in "AB")
    assert torch.equal(attention.v_proj.get_delta_weight("default"), b @ a * (64 / 4))
    assert attention.q_proj.scaling["default"] == 8 / 2
    assert attention.k_proj.scaling["default"] == 8 / 4


def test_rslora_scales_by_the_root_of_the_rank(training: Training) -> None:
    trained = training("training.lora.use_rslora=true")
    layer = trained.run.model.base_model.model.model.layers[0].self_attn.q_proj
    assert layer.scaling["default"] == 8 / 2


def test_dora_trains_the_magnitudes(training: Training) -> None:
    trained = training("training.lora.use_dora=true")
    name = B0.format(1).replace("lora_B.weight", "lora_magnitude_vector")
    weight = trained.run.model.base_model.model.model.layers[1].self_attn.q_proj.weight
    start = weight.norm(dim=1)
    assert torch.equal(trained.run.initial[name], start)
    assert not torch.equal(trained.tensors[name], start)


def test_vera_shares_two_frozen_matrices_and_trains_two_vectors(training: Training) -> None:
    trained = training(*VERA, "training.lora.r=32")
    parameters = [n for n, p in trained.run.model.named_parameters() if p.requires_grad]
    assert {n.rpartition(".vera_")[2] for n in parameters} == {
        "lambda_d.default",
        "lambda_b.default",
    }
    for name, start in trained.run.initial.items():
        assert torch.equal(trained.tensors[name], start) == ("vera_lambda" not in name)
    layers = trained.run.model.base_model.model.model.layers
    shared = {layer.self_attn.q_proj.vera_A["default"].data_ptr() for layer in layers}
    assert len(shared) == 1
    assert trained.report.header.startswith("sft · base · vera r32 on 14 modules")


def test_vblora_builds_all_modules_from_one_bank(training: Training) -> None:
    trained = training(*VBLORA)
    bank = trained.tensors["base_model.vblora_vector_bank"]
    assert bank.shape == (256, 16)
    assert not torch.equal(bank, trained.run.initial["base_model.vblora_vector_bank"])
    assert trained.tensors[B0.format(0).replace("lora_B.weight", "vblora_logits_B")].shape == (
        64 // 16, 4, 256,
    )  # fmt: skip


@pytest.mark.parametrize("option", ["freeze_layers=1", "freeze_ratio=0.6"])
def test_frozen_layers_get_no_adapter(training: Training, option: str) -> None:
    trained = training(f"training.{option}")
    assert {name.split(".layers.")[1][0] for name in trained.tensors} == {"1"}
    live = dict(trained.run.model.base_model.model.model.layers[0].named_modules())
    assert not any("lora" in name for name in live)


def test_neftune_moves_the_bytes(training: Training) -> None:
    noisy = training("training.neftune_alpha=5", "training.max_steps=2")
    plain = training("training.max_steps=2")
    assert noisy.report.weights_sha256 != plain.report.weights_sha256


def test_eva_starts_from_the_inputs_and_shares_out_ranks(training: Training) -> None:
    trained = training("training.lora.init_strategy=eva", "training.max_steps=2")
    ranks = trained.settings["rank_pattern"]
    sizes = {n: t.shape[0] for n, t in trained.run.initial.items() if ".lora_A." in n}
    assert len(set(sizes.values())) > 1
    assert sum(sizes.values()) == 4 * 14
    assert all(sizes[f"base_model.model.{n}.lora_A.weight"] == rank for n, rank in ranks.items())
    a = trained.run.initial[B0.format(0).replace("lora_B", "lora_A")]
    assert torch.allclose(a @ a.T, torch.eye(len(a)), atol=1e-5)
    even = training(
        "training.lora.init_strategy=eva",
        "training.lora.peft={eva_config: {rho: 1.0}}",
        "training.max_steps=2",
    )
    assert even.settings["rank_pattern"] == {}


def test_eva_that_cannot_settle_says_so(training: Training) -> None:
    said = training.refusal("training.lora.init_strategy=eva", "training.lora.r=512")
    assert "eva's directions did not settle" in said


def test_loftq_starts_closer_to_the_base_than_four_bits_do(training: Training) -> None:
    pytest.importorskip("bitsandbytes")
    from safetensors.torch import load_file

    trained = training(
        "training.quantization=4bit", "training.lora.init_strategy=loftq", "training.lora.r=8",
        "training.max_steps=2",
    )  # fmt: skip
    name = "model.layers.0.self_attn.q_proj"
    full = load_file(training.root / "base" / "model.safetensors")[f"{name}.weight"]
    layer = trained.run.model.base_model.model.get_submodule(name)
    from peft.utils.integrations import dequantize_module_weight

    lost = full - dequantize_module_weight(layer.get_base_layer())
    a, b = (trained.run.initial[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
    left = lost - layer.scaling["default"] * (b @ a)
    best = torch.linalg.svdvals(lost)[8:].norm()
    assert left.norm().item() == pytest.approx(best.item(), rel=1e-4)
    assert left.norm() < 0.9 * lost.norm()


# ---- ReLoRA ---------------------------------------------------------------------------------


def test_pruning_leaves_a_tenth_and_no_momentum_of_the_rest(training: Training) -> None:
    seen: dict[str, tuple[Any, Any]] = {}

    class Look(relora.Pruning):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            super().on_step_end(args, state, control, **kwargs)
            for name, p in kwargs["model"].named_parameters():
                if p.requires_grad and state.global_step == 4:
                    momentum = kwargs["optimizer"].state[p]["exp_avg"]
                    seen[name] = (p.detach().clone(), momentum.clone())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relora, "Pruning", Look)
        training("training.relora_steps=2", "training.relora_warmup_ratio=0.5", "training.lr=1e-2")
    assert seen
    for factor, momentum in seen.values():
        assert 0.09 < (factor != 0).float().mean() < 0.12
        assert not momentum[factor == 0].any()
        assert momentum[factor != 0].any()


def test_pruning_can_leave_the_optimizer_alone(training: Training) -> None:
    options = ("training.relora_steps=2", "training.max_steps=3")
    kept = training(*options, "training.relora_reset_optimizer=false")
    reset = training(*options)
    assert kept.report.weights_sha256 != reset.report.weights_sha256


def test_restarts_add_up_ranks_and_warm_up_again(training: Training) -> None:
    trained = training(
        *RESTARTS, "training.relora_restart_warmup=1", "training.logging_steps=1",
        "training.scheduler=constant", "training.warmup_steps=0", "training.max_steps=7",
    )  # fmt: skip
    merged = trained.run.relora.merged
    assert len(merged) == 3
    assert trained.settings["r"] == trained.settings["lora_alpha"] == 4 * 4
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    a, b = (trained.tensors[f"{name}.lora_{x}.weight"] for x in "AB")
    assert torch.linalg.matrix_rank(b @ a, rtol=1e-5) > 4
    total = sum(
        2 * pair[f"{name}.lora_B.weight"] @ pair[f"{name}.lora_A.weight"] for pair in merged
    )
    layer = trained.run.model.get_submodule(name)
    assert torch.allclose(b @ a, total + layer.get_delta_weight("default"), atol=1e-6)
    assert not merged[1][f"{name}.lora_A.weight"].equal(merged[0][f"{name}.lora_A.weight"])
    rates = [point["learning_rate"] for point in trained.run.curve.points]
    assert rates == pytest.approx([1e-2, 1e-2, 5e-3, 1e-2, 5e-3, 1e-2, 5e-3])


def test_a_restart_forgets_most_of_the_optimizers_state(training: Training) -> None:
    parameter = torch.nn.Parameter(torch.zeros(100, 100))
    state = {
        "exp_avg": torch.ones(100, 100),
        "exp_avg_sq": torch.ones(100, 100),
        "step": torch.ones(()),
    }
    optimizer = torch.optim.AdamW([parameter])
    optimizer.state[parameter] = dict(state)
    trained = training(*RESTARTS)
    trained.run.relora._forget_most(optimizer)
    left = optimizer.state[parameter]
    assert 0 < left["exp_avg"].sum() < 40
    assert left["step"] == 1


def test_a_checkpoint_between_restarts_is_an_adapter_of_its_own(training: Training) -> None:
    trained = training(*RESTARTS, "training.save_steps=3")
    for step, rank in ((3, 8), (6, 12)):
        folder = training.root / "state" / f"checkpoint-{step}"
        assert f'"r": {rank}' in (folder / "adapter_config.json").read_text()
    same = training.root / "state" / "checkpoint-6" / "adapter_model.safetensors"
    assert same.read_bytes() == (trained.output / same.name).read_bytes()


def test_relora_that_never_fires_is_refused(training: Training) -> None:
    assert "7 never comes up in 6 steps" in training.refusal("training.relora_steps=7")
    said = training.refusal("training.relora_steps=2", "training.relora_warmup_ratio=0.9")
    assert "2 never comes up in 6 steps after relora_warmup_ratio" in said


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_restarts_refuse_experts() -> None:
    from tests.training.lora.test_surgery import config, experts

    settings = config("r: 2, dropout: 0.0")
    with pytest.raises(
        FatalError, match=r"relora_mode: merge changes weights, and .*experts is no"
    ):
        relora.Restarts(settings, adapter.attach(experts(), settings))


def test_restarts_refuse_weights_that_others_share(training: Training) -> None:
    said = training.refusal(*RESTARTS, "training.lora.target_modules=[embed_tokens, q_proj]")
    assert "model.embed_tokens is no linear layer" in said


# ---- interrupted = uninterrupted --------------------------------------------------------------


RESUMED: dict[str, tuple[str, ...]] = {
    "restarts": (*RESTARTS, "training.lora.init_strategy=gaussian"),
    "eva, loraplus, pruning": (
        "training.lora.init_strategy=eva",
        "training.loraplus_lr_ratio=8",
        "training.relora_steps=2",
    ),
    "corda, neftune": ("training.lora.init_strategy=corda", "training.neftune_alpha=3"),
    "8bit vblora": (*VBLORA, "training.quantization=8bit", "training.optimizer=adamw_8bit"),
    "4bit loftq, frozen": (
        "training.quantization=4bit",
        "training.lora.init_strategy=loftq",
        "training.freeze_layers=1",
    ),
}


@pytest.mark.parametrize("case", RESUMED)
def test_interrupted_and_resumed_ends_in_the_same_bytes(training: Training, case: str) -> None:
    if "bit" in case:
        pytest.importorskip("bitsandbytes")
    options = RESUMED[case]
    through = training(*options)
    resumed = training(*options, interrupt_at=3)
    assert resumed.report.resumed_from == 4
    assert resumed.report.weights_sha256 == through.report.weights_sha256
