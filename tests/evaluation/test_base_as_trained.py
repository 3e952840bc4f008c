"""A base is loaded as an adapter was trained on it: against transformers, PEFT and bitsandbytes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from soup_git.core.baseload import AS_IT_IS, BaseLoad, parse_base_load
from soup_git.errors import FatalError
from soup_git.evaluation.candidate import Candidate
from soup_git.evaluation.results import by_name
from soup_git.evaluation.runner import BaseChoice, Runner
from soup_git.evaluation.scorecache import ScoreCache
from soup_git.evaluation.suite import Suite, load_suite
from soup_git.training import upstream
from tests.evaluation.conftest import QUESTIONS, WriteSuite
from tests.evaluation.test_runner import LOSS, candidate, reference
from tests.evaluation.test_runner import pytestmark as _of_the_runner

pytestmark = _of_the_runner

FOUR = BaseLoad(quantization="4bit")
ROPE = {"rope_type": "linear", "factor": 8.0, "rope_theta": 10000.0}
STRETCHED = BaseLoad(config={"rope_parameters": ROPE})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    folder = tmp_path_factory.mktemp("root")
    (folder / "base").symlink_to(tiny_base)
    return folder


@pytest.fixture
def fit(tmp_path: Path, write_suite: WriteSuite) -> Suite:
    return load_suite(write_suite(LOSS, QUESTIONS), tmp_path)


def on(adapters: dict[str, Path], name: str, load: BaseLoad) -> Candidate:
    return dataclasses.replace(candidate(adapters[name]), base_load=load)


def losses(
    root: Path, suite: Suite, *asked: Candidate | None, **choice: Any
) -> tuple[list[float], Runner]:
    chosen = BaseChoice("base", digest="d" * 64, **choice)
    with Runner(chosen, root, threads=1) as runner:
        found = [by_name(runner.score(one, suite))["fit.loss"].value for one in asked]
    return [math.nan if value is None else value for value in found], runner


def four_bits(base: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    model = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=torch.float32,
        device_map={"": "cpu"},
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        ),
    )
    for module in model.modules():
        # Else the first pass in eval mode rounds to bf16, on the CPUs that have it.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def stretched(base: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, rope_parameters=dict(ROPE))


def rounded(base: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).float()


@pytest.mark.parametrize(
    ("load", "by_hand", "least"),
    [(FOUR, four_bits, 1e-3), (STRETCHED, stretched, 2e-4), (BaseLoad(dtype="bfloat16"), rounded, 1e-6)],
    ids=["4bit", "rope", "bfloat16"],
)  # fmt: skip
def test_an_adapter_is_scored_on_the_base_it_was_trained_on(
    root: Path, adapters: dict[str, Path], fit: Suite, load: BaseLoad,
    by_hand: Callable[[Path], Any], least: float,
) -> None:  # fmt: skip
    if load is FOUR:
        pytest.importorskip("bitsandbytes")
    (found, again, bare, full), runner = losses(
        root, fit, on(adapters, "one", load), on(adapters, "two", load), None,
        on(adapters, "one", AS_IT_IS), load=load,
    )  # fmt: skip
    wanted = [
        reference(root, folder, fit, by_hand) for folder in (adapters["one"], adapters["two"], None)
    ]
    assert [found, again, bare] == pytest.approx(wanted, abs=2e-5)
    assert full == pytest.approx(reference(root, adapters["one"], fit), abs=2e-5)
    assert abs(found - full) > least
    # Adapters of one base share it; the other base took its place.
    assert runner.attachments.base_loads == 2


def test_what_was_asked_for_goes_before_what_was_trained(
    root: Path, adapters: dict[str, Path], fit: Suite
) -> None:
    pytest.importorskip("bitsandbytes")
    one = on(adapters, "one", FOUR)
    (full,), _ = losses(root, fit, one, base_as="full")
    assert full == pytest.approx(reference(root, adapters["one"], fit), abs=2e-5)
    (few,), _ = losses(root, fit, on(adapters, "one", AS_IT_IS), base_as="4bit")
    assert few == pytest.approx(reference(root, adapters["one"], fit, four_bits), abs=2e-5)
    (eight,), _ = losses(root, fit, one, base_as="8bit")
    assert min(abs(eight - full), abs(eight - few)) > 2e-5


def test_positions_that_were_trained_stay_whatever_the_bits(
    root: Path, adapters: dict[str, Path], fit: Suite
) -> None:
    asked = on(adapters, "one", dataclasses.replace(STRETCHED, quantization="4bit"))
    (full,), _ = losses(root, fit, asked, base_as="full")
    assert full == pytest.approx(reference(root, adapters["one"], fit, stretched), abs=2e-5)


def test_modules_that_are_saved_whole_have_a_place_in_a_base_of_four_bits(
    tmp_path: Path, root: Path, fit: Suite
) -> None:
    pytest.importorskip("bitsandbytes")
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    settings = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["down_proj"])
    model = get_peft_model(four_bits_without(root / "base", ["down_proj"]), settings)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.02)
    model.peft_config["default"].base_model_name_or_path = "base"
    model.save_pretrained(tmp_path / "whole")
    wanted = reference(root, None, fit, lambda _: model)
    asked = dataclasses.replace(candidate(tmp_path / "whole"), base_load=FOUR)
    (found,), _ = losses(root, fit, asked)
    assert found == pytest.approx(wanted, abs=2e-5)


def four_bits_without(base: Path, plain: list[str]) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    how = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32, llm_int8_skip_modules=[*plain, "lm_head"],
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, device_map={"": "cpu"}, quantization_config=how
    )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def test_the_cache_tells_bases_apart(
    tmp_path: Path, root: Path, adapters: dict[str, Path], fit: Suite
) -> None:
    cache = ScoreCache(tmp_path / "scores")
    choice = BaseChoice("base", digest="d" * 64)
    loads = [AS_IT_IS, FOUR, STRETCHED, BaseLoad("8bit"), BaseLoad("full")]
    asked = [on(adapters, "one", load) for load in loads]
    [task] = fit.tasks
    runner = Runner(choice, root, cache)
    questions = [runner.question(one, task) for one in asked]
    assert len({str(question) for question in questions}) == len(loads)
    other = Runner(dataclasses.replace(choice, base_as="4bit"), root, cache)
    assert other.question(asked[0], task) == questions[1]


def test_two_bases_are_never_one(root: Path, adapters: dict[str, Path], fit: Suite) -> None:
    one, two = on(adapters, "one", FOUR), on(adapters, "two", AS_IT_IS)
    with (
        Runner(BaseChoice("base"), root, threads=1) as runner,
        pytest.raises(FatalError, match=r"one and two .* one on 4bit, two on the base as it is"),
        runner.using_both(one, two),
    ):
        pass


def test_what_this_machine_cannot_load_is_refused_with_a_way_out(
    root: Path, adapters: dict[str, Path], fit: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "installed", lambda package: package != "bitsandbytes")
    with pytest.raises(FatalError, match="in 4bit, which needs bitsandbytes") as caught:
        losses(root, fit, on(adapters, "one", FOUR))
    assert "--base-as full" in caught.value.hint
    assert losses(root, fit, on(adapters, "one", FOUR), base_as="full")[0]


def test_what_the_base_does_not_have_is_refused(
    root: Path, adapters: dict[str, Path], fit: Suite
) -> None:
    odd = BaseLoad(config={"expert_bias": 3})
    with pytest.raises(FatalError, match="base has no expert_bias, which the adapter's training"):
        losses(root, fit, on(adapters, "one", odd))


def test_a_base_that_is_quantized_is_not_quantized_again(
    tmp_path: Path, adapters: dict[str, Path], fit: Suite, tiny_base: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    packed = four_bits(tiny_base)
    packed.save_pretrained(tmp_path / "base")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "base" / name).write_bytes((tiny_base / name).read_bytes())
    (as_it_is,), _ = losses(tmp_path, fit, on(adapters, "one", AS_IT_IS))
    wanted = reference(tmp_path, adapters["one"], fit, lambda _: four_bits(tiny_base))
    assert as_it_is == pytest.approx(wanted, abs=2e-5)
    for how, why in (("8bit", "is quantized already"), ("full", "there is no full one")):
        with pytest.raises(FatalError, match=why):
            losses(tmp_path, fit, on(adapters, "one", AS_IT_IS), base_as=how)


@pytest.mark.parametrize(
    "line",
    ["[]", "{", '{"dtype":[]}', '{"quantization":"3bit"}', '{"quantization":{}}', '{"bits":4}',
     '{"config":{"auto_map":{}}}', '{"config":{"_x":1}}', '{"config":[]}', '{"config":{"a":NaN}}',
     '{"quantization":"full"}', '{"config":{"dtype":"float16"}}'],
)  # fmt: skip
def test_a_line_that_cannot_be_loaded_by_is_refused(line: str) -> None:
    with pytest.raises(FatalError, match="base_load") as caught:
        parse_base_load(line, "adapter.manifest")
    assert caught.value.hint


def test_a_line_is_read_as_it_was_written() -> None:
    said = BaseLoad("8bit", "bfloat16", {"rope_parameters": ROPE})
    assert parse_base_load(said.text(), "m") == said
    assert (AS_IT_IS.text(), said.words()) == ("", "8bit, bfloat16, rope_parameters")
