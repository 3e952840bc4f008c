"""`training.launcher`: settings as data, held against the libraries that read them, and what is
refused. Real processes: tests/pipeline/test_training_in_a_workspace.py."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from soup_git.errors import FatalError
from soup_git.training import launching
from soup_git.training.config import load_config
from soup_git.training.schema import SoupConfig

LAUNCHED = ("training.launcher=accelerate", "training.num_processes=2")


def config(workspace: Path, *overrides: str, upstream: bool = True) -> SoupConfig:
    return load_config(workspace / "soup.yaml", overrides, check_upstream=upstream)


@pytest.mark.parametrize(
    ("preset", "reshard", "offload"),
    [("full_shard", True, False), ("shard_grad", False, False), ("full_offload", True, True)],
)
def test_fsdp_settings_are_what_accelerate_reads(
    workspace: Path, preset: str, reshard: bool, offload: bool
) -> None:
    from accelerate import FullyShardedDataParallelPlugin
    from transformers import TrainingArguments

    read = config(
        workspace, *LAUNCHED, f"training.fsdp={preset}", "training.gradient_checkpointing=true"
    )
    arguments = TrainingArguments(
        output_dir=str(workspace / "x"), use_cpu=True, **launching.trainer_options(read)
    )
    plugin = FullyShardedDataParallelPlugin(**arguments.fsdp_plugin_args)
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is reshard
    assert type(plugin.cpu_offload).__name__ == ("CPU" if offload else "") + "OffloadPolicy"
    assert plugin.activation_checkpointing is True
    assert not arguments.gradient_checkpointing
    assert "FULL" in str(plugin.state_dict_type)


def test_fsdp_splits_by_layers_or_by_size(workspace: Path) -> None:
    layers = config(
        workspace, *LAUNCHED, "training.fsdp=full_shard", "training.fsdp_layers=[Block]"
    )
    assert launching.fsdp_settings(layers)["transformer_layer_cls_to_wrap"] == ["Block"]
    size = config(
        workspace, *LAUNCHED, "training.fsdp=full_shard", "training.fsdp_min_num_params=1000"
    )
    settings = launching.fsdp_settings(size)
    assert (settings["auto_wrap_policy"], settings["min_num_params"]) == ("SIZE_BASED_WRAP", 1000)


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="the deepspeed extra is not installed")
@pytest.mark.parametrize("preset", launching.DEEPSPEED)
def test_deepspeed_settings_are_what_deepspeed_reads(workspace: Path, preset: str) -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    read = config(
        workspace, *LAUNCHED, f"training.deepspeed={preset}",
        "training.deepspeed_zero={overlap_comm: true}",
    )  # fmt: skip
    settings = launching.deepspeed_settings(read)
    zero = DeepSpeedZeroConfig(**settings["zero_optimization"])
    assert int(zero.stage) == int(preset[4])
    assert zero.overlap_comm is True
    assert (zero.offload_param is not None) is (preset == "zero3_offload")
    with pytest.raises(FatalError, match=r"deepspeed_zero\.bogus: no such option"):
        config(
            workspace, *LAUNCHED, "training.deepspeed=zero2", "training.deepspeed_zero={bogus: 1}"
        )


@pytest.mark.skipif(find_spec("deepspeed") is not None, reason="deepspeed is installed")
def test_deepspeed_that_is_not_installed_says_which_extra(workspace: Path) -> None:
    with pytest.raises(FatalError, match=r"training.deepspeed: needs deepspeed: pip install 'git-"):
        config(workspace, *LAUNCHED, "training.deepspeed=zero2")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["training.num_processes=2"], "num_processes: needs training.launcher: accelerate"),
        (["training.fsdp=full_shard"], "fsdp: needs training.launcher: accelerate"),
        ([*LAUNCHED, "training.fsdp_layers=[A]"], "fsdp_layers: needs training.fsdp"),
        ([*LAUNCHED, "training.deepspeed_zero={a: 1}"], "deepspeed_zero: needs training.deepspeed"),
        (
            [*LAUNCHED, "training.fsdp=full_shard", "training.deepspeed=zero2"],
            "deepspeed: excludes fsdp",
        ),
        (
            [
                *LAUNCHED, "training.fsdp=full_shard", "training.fsdp_layers=[A]",
                "training.fsdp_min_num_params=9",
            ],
            "fsdp_min_num_params: excludes fsdp_layers",
        ),
        (
            [*LAUNCHED, "training.fsdp=full_shard", "training.quantization=4bit"],
            "quantization: excludes training.fsdp: weights in few bits cannot be split",
        ),
        (
            [*LAUNCHED, "training.deepspeed=zero3", "training.lora.use_vera=true"],
            "use_vera: excludes training.deepspeed: zero3",
        ),
        (
            [*LAUNCHED, "training.deepspeed=zero2", "training.relora_steps=5"],
            "relora_steps: excludes deepspeed",
        ),
        (
            [*LAUNCHED, "training.fsdp=full_shard", "training.eval_gate={suite: s.yaml}"],
            "eval_gate: excludes training.fsdp",
        ),
        (
            [*LAUNCHED, "training.fsdp=full_shard", "task=grpo", "training.reward_fn=accuracy"],
            "task: excludes training.fsdp: grpo answers by itself",
        ),
        ([*LAUNCHED, "task=embedding"], "launcher: sentence-transformers' batches do not divide"),
        (["training.launcher=torchrun"], "launcher: should be 'none' or 'accelerate'"),
        ([*LAUNCHED, "training.num_processes=0"], "num_processes: should be"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(workspace: Path, options: list[str], what: str) -> None:
    with pytest.raises(FatalError) as caught:
        config(workspace, *options, upstream=False)
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("option", "what"),
    [
        ("{ddp_timeout: 60}", "ddp_timeout: is not taken: needs training.launcher: accelerate"),
        ("{fsdp: true}", "fsdp: is not taken: that is training.fsdp"),
        ("{deepspeed: x.json}", "deepspeed: is not taken: that is training.deepspeed"),
    ],
)
def test_upstreams_own_words_point_to_ours(workspace: Path, option: str, what: str) -> None:
    with pytest.raises(FatalError) as caught:
        config(workspace, f"training.trl={option}")
    assert what in str(caught.value)
    config(workspace, *LAUNCHED, "training.trl={ddp_timeout: 60}")


def test_processes_are_counted_on_this_machine(workspace: Path) -> None:
    """Where there is no GPU: with one, the tests of real processes count them."""
    cpu = "training.device=cpu"
    assert launching.count_of(config(workspace, cpu)) == 1
    assert launching.count_of(config(workspace, cpu, *LAUNCHED)) == 2
    for options, what in (
        (["training.launcher=accelerate"], "there are no GPUs here to count"),
        (["training.launcher=accelerate", "training.num_processes=64"], "64 processes, and"),
        ([*LAUNCHED, "training.fsdp=full_shard"], "there is none here"),
    ):
        with pytest.raises(FatalError, match=what) as caught:
            launching.count_of(config(workspace, cpu, *options))
        assert caught.value.hint


def test_one_process_has_nothing_to_split(workspace: Path) -> None:
    alone = ("training.launcher=accelerate", "training.num_processes=1", "training.device=cpu")
    assert launching.count_of(config(workspace, *alone)) == 1
    with pytest.raises(FatalError, match="nothing to split between"):
        launching.count_of(config(workspace, *alone, "training.deepspeed=zero2", upstream=False))
