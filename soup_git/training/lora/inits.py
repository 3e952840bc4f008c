"""Inits that look at the training rows or at a quantized base before the first step.

All are functions of the base, the config and the rows alone, so a resumed run computes the
same ones again.

eva (https://arxiv.org/abs/2410.07170): A holds the main directions of each module's inputs
on the training rows, and modules whose inputs have more of them get a larger rank; B is 0.
The base stays as it is.

corda (https://arxiv.org/abs/2406.05223): A and B hold the part of W that matters most
(`corda_method: kpm`: least) on the training rows, and W keeps the rest. Saved converted, as
pissa is (training/adapter.py).

loftq (https://arxiv.org/abs/2310.08659): s·BA is the best rank-r fit of what 4 bits lost of W.
PEFT's own needs CUDA, moves the base, and leaves out s. This one takes the quantized base as
it is, which is LoftQ with one round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from soup_git.core.adapter import MAX_PATTERNS
from soup_git.training.lora import surgery
from soup_git.training.schema import SoupConfig

MOST_ROWS = 256
# Inits that are the same for any shape; the others look at a layer's weight or its inputs.
_ANYWHERE = frozenset({"random", "gaussian"})
_MOST_PASSES = 20


class Tokens(Protocol):
    """A row as the model reads it."""

    @property
    def ids(self) -> list[int]: ...
    @property
    def labels(self) -> list[int]: ...


def before(model: Any, peft_config: Any, config: SoupConfig, rows: Sequence[Tokens]) -> None:
    """What has to be known about `model` before the adapter is attached to it."""
    lora = config.training.lora
    if lora.init not in _ANYWHERE and surgery.adapts_parameters(model, peft_config):
        raise config.refuse(
            f"training.lora.{'use_olora' if lora.use_olora else 'init_strategy'}",
            f"{lora.init} knows linear layers only, and target_modules mean the experts of "
            f"{config.base} too, which are raw parameters",
            hint="target_modules: [q_proj, k_proj, v_proj, o_proj] leaves the experts alone",
        )
    if config.training.lora.init == "corda":
        _corda(model, peft_config, rows[:MOST_ROWS])


def after(
    peft_model: Any,
    config: SoupConfig,
    rows: Sequence[Tokens],
    original: Callable[[], Any] | None,
) -> None:
    """Put the init into the attached adapter. `original` loads the base unquantized."""
    lora = config.training.lora
    if lora.init == "eva":
        _eva(peft_model, config, rows[:MOST_ROWS])
    elif lora.init == "loftq" and original is not None:
        _loftq(peft_model, config, original())


def _batches(rows: Sequence[Tokens], size: int, device: Any) -> Iterator[dict[str, Any]]:
    """Padded batches: `input_ids`, `attention_mask`, `labels`, each rows × longest, int64."""
    import torch

    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        longest = max(len(row.ids) for row in batch)

        def padded(values: Sequence[list[int]], fill: int, longest: int = longest) -> Any:
            full = [[*v, *[fill] * (longest - len(v))] for v in values]
            return torch.tensor(full, device=device)

        yield {
            "input_ids": padded([row.ids for row in batch], 0),
            "attention_mask": padded([[1] * len(row.ids) for row in batch], 0),
            "labels": padded([row.labels for row in batch], -100),
        }


def _eva(peft_model: Any, config: SoupConfig, rows: Sequence[Tokens]) -> None:
    import peft

    batches = list(_batches(rows, config.training.rows_per_batch, peft_model.device))
    left = _MOST_PASSES * len(batches) + 2

    def forward(model: Any, inputs: dict[str, Any]) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise config.refuse(
                "training.lora.init_strategy",
                f"eva's directions did not settle in {_MOST_PASSES} passes over {len(rows)} rows: "
                "too few tokens are learnt in them for this rank",
                hint="more rows, a smaller r, or peft: {eva_config: {use_label_mask: false}}",
            )
        return model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])

    peft.initialize_lora_eva_weights(
        peft_model, batches, forward_fn=forward, show_progress_bar=False
    )
    patterns = peft_model.peft_config["default"].rank_pattern
    if len(patterns) > MAX_PATTERNS:
        raise config.refuse(
            "training.lora.init_strategy",
            f"eva gave {len(patterns)} modules a rank of their own; an adapter's config may name "
            f"{MAX_PATTERNS}",
            hint="peft: {eva_config: {rho: 1.0}} gives all the same rank",
        )


def _corda(model: Any, peft_config: Any, rows: Sequence[Tokens]) -> None:
    import torch
    from peft.tuners.lora.corda import preprocess_corda
    from peft.tuners.tuners_utils import _maybe_include_all_linear_layers

    # PEFT looks modules up by name here, before it has resolved all-linear.
    _maybe_include_all_linear_layers(peft_config, model)

    def run() -> None:
        # One row at a time: padding would count as input.
        with torch.no_grad():
            for batch in _batches(rows, 1, model.device):
                model(input_ids=batch["input_ids"])

    training = model.training
    preprocess_corda(model, peft_config, run_model=run)
    model.train(training)


def _loftq(peft_model: Any, config: SoupConfig, original: Any) -> None:
    import torch
    from peft.tuners.lora import LoraLayer
    from peft.utils.integrations import dequantize_module_weight

    for name, layer in peft_model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        plain = name.removeprefix("base_model.model.")
        quantized = layer.get_base_layer()
        weight = original.get_submodule(plain).weight.to(quantized.weight.device, torch.float32)
        kept = dequantize_module_weight(quantized).to(torch.float32)
        if kept.shape != weight.shape:
            raise config.refuse(
                "training.lora.init_strategy", f"loftq: {plain} is no linear layer in 4 bits"
            )
        left, values, right = torch.linalg.svd(weight - kept, full_matrices=False)
        rank = min(layer.r["default"], len(values))
        root = (values[:rank] / layer.scaling["default"]).sqrt()
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        with torch.no_grad():
            b.zero_()
            a[:rank] = root[:, None] * right[:rank]
            b[:, :rank] = left[:, :rank] * root
