"""`soup.yaml`: its schema, and a loader that reports every error at once, with its line.

Nothing is accepted and ignored: an unknown key, a wrong type, two options that exclude
each other, a TRL or PEFT option that does not exist or that git-soup must own itself, each
is an error here, before anything heavy is imported. What only the machine can tell (is
there a GPU that knows bf16) is checked in `training/machine.py`, before the model loads.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from soup_git.core import yamllines
from soup_git.core.yamllines import Where, line_of, nearest
from soup_git.errors import FatalError
from soup_git.training import passthrough, rules
from soup_git.training.schema import INITS, SoupConfig, json_schema
from soup_git.training.tasks import GONE

__all__ = ["SoupConfig", "json_schema", "load_config", "problems_of"]


def load_config(
    path_or_text: Path | str, overrides: Sequence[str] = (), *, check_upstream: bool = True
) -> SoupConfig:
    """Read and check a config: a `Path` is read, a `str` is the text itself.

    `overrides` are `key=value` as in `dvc exp run -S`, the value in YAML. Every error is
    reported at once, as `FILE:LINE: key.path: what is wrong`, in one FatalError.
    `check_upstream=False` leaves out the checks against the installed TRL, PEFT and
    transformers, for commands that only need to know base, data and output.
    """
    if isinstance(path_or_text, Path):
        source, text = str(path_or_text), _read(path_or_text)
    else:
        source, text = "soup.yaml", path_or_text
    raw, lines, problems = yamllines.read(text)
    if not problems and not isinstance(raw, dict):
        problems.append(((), 1, "should be a mapping that starts with `base:`"))
    if isinstance(raw, dict):
        problems += _override(raw, lines, overrides)
        unreadable = {where for where, _, _ in problems}
        found = [(where, what) for where, what in _check(raw) if where not in unreadable]
        problems += [(where, line_of(lines, where), what) for where, what in found]
        if check_upstream:
            problems += [
                (where, line_of(lines, where), what) for where, what in passthrough.check(raw)
            ]
    if problems:
        raise yamllines.all_at_once(source, problems)
    config = SoupConfig.model_validate(raw)
    config._source, config._lines = source, lines
    return config


def problems_of(raw: dict[str, Any], *, check_upstream: bool) -> list[tuple[Where, str]]:
    """Every error of a config that no file holds yet, each with the key that it is about."""
    return [*_check(raw), *(passthrough.check(raw) if check_upstream else ())]


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(yamllines.LARGEST + 1).decode("utf-8-sig")
    except FileNotFoundError:
        raise FatalError(
            f"{path} does not exist", hint="git soup init --template chat writes one"
        ) from None
    except IsADirectoryError:
        raise FatalError(f"{path} is a folder, not a config", hint=f"ls {path}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise FatalError(f"{path}:{line}: not UTF-8", hint=f"file {path}") from None


def _override(
    raw: dict[str, Any], lines: dict[Where, int], overrides: Sequence[str]
) -> Iterator[yamllines.Problem]:
    for override in overrides:
        key, sign, text = override.partition("=")
        path = tuple(key.split("."))
        if not sign or not all(path):
            yield (override,), 0, "an override is key=value, such as training.lr=1e-5"
            continue
        value, _, problems = yamllines.read(text)
        yield from (((*path, *where), 0, what) for where, _, what in problems)
        block: Any = raw
        for part in path[:-1]:
            block = block.setdefault(part, {})
            if not isinstance(block, dict):
                yield path, 0, f"{part} is not a block of options"
                break
        else:
            block[path[-1]] = value
            for known in [p for p in lines if p[: len(path)] == path]:
                del lines[known]
            lines[path] = 0


# ---- what the file alone can tell ---------------------------------------------------------


def _check(raw: dict[str, Any]) -> Iterator[tuple[Where, str]]:
    """The schema's errors, then those of options that do not go together.

    For the second part the values that failed the first are taken out, so that one typing
    error does not hide the rest.
    """
    trimmed = raw
    for _ in range(3):
        try:
            config = SoupConfig.model_validate(trimmed)
        except ValidationError as failure:
            errors = failure.errors(include_url=False)
            if trimmed is raw:
                yield from _readable(errors)
            trimmed = _without(trimmed, [_known_path(e) for e in errors])
        else:
            given = set(_paths(trimmed))
            yield from rules.together(config, given)
            return


def _readable(errors: Sequence[ErrorDetails]) -> Iterator[tuple[Where, str]]:
    """One sentence per key: the alternatives of a union arrive as separate errors."""
    by_key: dict[Where, list[str]] = {}
    for error in errors:
        where = _known_path(error)
        what = error["msg"].replace("Input should", "should")
        what = re.sub(r"a valid dictionary or instance of \w+", "a block of options", what)
        if error["type"] == "extra_forbidden":
            what = f"unknown key{_suggestion(where)}"
        elif error["type"] == "missing":
            what = "is missing"
        elif error["type"] == "string_pattern_mismatch" and where[-1] == "init_strategy":
            what = _init_refusal(error["input"])
        elif where == ("task",) and error["input"] in GONE:
            what = f"{error['input']} {GONE[error['input']]}"
        elif where == ("training", "batch_size") and error["type"] == "literal_error":
            what = "auto"
        elif error["type"] == "literal_error":
            what += nearest(error["input"], re.findall(r"'([^']+)'", error["msg"]))
        by_key.setdefault(where, []).append(what)
    for where, whats in by_key.items():
        yield where, " or ".join(dict.fromkeys(whats))


def _known_path(error: ErrorDetails) -> Where:
    """pydantic's location without the names of union members that it appends."""
    path: list[str | int] = []
    block: Any = SoupConfig
    for part in error["loc"]:
        if not (isinstance(block, type) and issubclass(block, BaseModel)):
            # Inside a value: keep list indices and the keys of patterns, drop "list[str]".
            if isinstance(part, int) or (block == "mapping" and part != "[key]"):
                path.append(part)
            continue
        path.append(part)
        field = block.model_fields.get(str(part))
        annotation = field.annotation if field else None
        block = "mapping" if str(part).endswith("_pattern") else annotation
    return tuple(path)


def _blocks(model: type[BaseModel] = SoupConfig, at: Where = ()) -> Iterator[tuple[Where, Any]]:
    yield at, model
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _blocks(field.annotation, (*at, name))


_TEXT = "texts are what is trained on"
_ROPE = "rope_scaling in the config.json of a copy of the base"

# Names that other trainers (and the original tool, in places) use for what is ours, and
# keys of the original that are not offered, each with what to do instead.
_ELSEWHERE = {
    "learning_rate": "training.lr",
    "num_train_epochs": "training.epochs",
    "num_epochs": "training.epochs",
    "per_device_train_batch_size": "training.batch_size",
    "micro_batch_size": "training.batch_size",
    "lr_scheduler_type": "training.scheduler",
    "optim": "training.optimizer",
    "neftune_noise_alpha": "training.neftune_alpha",
    "packing_cross_doc_attn_mask": "nothing, as packed rows never see each other",
    "train_on_responses_only": "training.assistant_only_loss",
    "lora_r": "training.lora.r",
    "lora_alpha": "training.lora.alpha",
    "lora_dropout": "training.lora.dropout",
    "init_lora_weights": "training.lora.init_strategy",
    "vblora": "training.lora.use_vblora",
    "use_galore": "nothing, as an adapter's factors have a low rank already: GaLore is for full weights",
    "galore_rank": "nothing, as use_galore is not offered: GaLore is for full weights",
    "galore_update_proj_gap": "nothing, as use_galore is not offered: GaLore is for full weights",
    "galore_scale": "nothing, as use_galore is not offered: GaLore is for full weights",
    "load_in_4bit": "training.quantization: 4bit",
    "load_in_8bit": "training.quantization: 8bit",
    "bf16": "training.precision: bf16",
    "fp16": "training.precision: fp16",
    "base_model": "base",
    "model": "base",
    "output_dir": "output",
    "dataset": "data.train",
    "eval_split": "data.val_split",
    "gdpo_variant": "training.preference_loss (sigmoid_norm divides by length)",
    "mask_truncated_completions": "training.trl.mask_truncated_completions",
    "off_policy_mask_threshold": "nothing, as an answer is used by the model that gave it",
    "auto_batch_size_strategy": "nothing, as batch_size: auto probes",
    "backend": "nothing, as TRL trains",
    "modality": f"nothing, as {_TEXT}",
    "image_dir": f"nothing, as {_TEXT}",
    "audio_dir": f"nothing, as {_TEXT}",
    "vision_grpo": f"nothing, as {_TEXT}",
    "tts_family": f"nothing, as {_TEXT}",
    "tts_emotion": f"nothing, as {_TEXT}",
    "quantization_aware": "training.quantization (4bit or 8bit, which is not trained for)",
    "moe_lora": "training.lora.target_parameters",
    "moe_aux_loss_coeff": "training.trl.model_init_kwargs: {router_aux_loss_coef: …}",
    "rope_scaling_type": _ROPE,
    **dict.fromkeys(("yarn_factor", "yarn_beta_fast", "yarn_beta_slow", "yarn_attn_factor"), _ROPE),
    "streaming": "nothing, as rows are read once, into tokens",
    "buffer_size": "nothing, as rows are read once, into tokens",
    "shards": "nothing, as data.train is one file or one folder",
    **dict.fromkeys(
        ("ppo_epochs", "ppo_clip_ratio", "ppo_kl_penalty"),
        "nothing, as PPO is gone from TRL: task rloo or grpo does its work",
    ),
    "grpo_fp16": "training.precision: fp16",
    **dict.fromkeys(
        (
            "replay_buffer_size",
            "async_grpo_prefetch",
            "tis_threshold",
            "defer_rerolling",
            "skip_zero_advantage",
            "rollout_backend",
            "vllm_sleep_mode",
            "long_context_grpo",
        ),
        "nothing, as the model itself answers, and each answer is learnt from once",
    ),
    "ref_model_ema_alpha": "nothing, as the reference is the base without the adapter",
    "mole": "nothing, as no mixtures are trained",
    "regression_threshold": "gate: {SCORE: {max_drop: …}} in the suite",
}


def _suggestion(where: Where) -> str:
    key, at = str(where[-1]), where[:-1]
    levels = {path: tuple(model.model_fields) for path, model in _blocks()}
    if key in _ELSEWHERE:
        _, nothing, why = _ELSEWHERE[key].partition("nothing, as ")
        return f"; leave it out: {why}" if nothing else f"; that is {_ELSEWHERE[key]} here"
    same_level = difflib.get_close_matches(key, levels.get(at, ()), 1, 0.75)
    if same_level:
        return f"; did you mean {same_level[0]}?"
    everywhere = {name: (*path, name) for path, names in levels.items() for name in names}
    close = difflib.get_close_matches(key, everywhere, 1, 0.75)
    if close:
        return f"; did you mean {'.'.join(map(str, everywhere[close[0]]))}?"
    far = difflib.get_close_matches(key, levels.get(at, ()), 1, 0.5)
    if far:
        return f"; did you mean {far[0]}?"
    passes: dict[Where, str] = {
        ("training",): "TRL's own options go under training.trl",
        ("training", "lora"): "PEFT's own options go under training.lora.peft",
    }
    return f"; {passes[at]}" if at in passes else ""


def _init_refusal(value: Any) -> str:
    if value == "lora_ga":
        return (
            "lora_ga: PEFT takes its gradients from a base that it then moves, and reloads it "
            "wrongly (the outputs are 40% off); pissa and corda start from the base's weights too"
        )
    names = ("pissa_niter_16", *INITS)
    return f"should be one of {', '.join(names)}{nearest(value, names)}"


# ---- paths into the document, and the report -----------------------------------------------


def _paths(value: Any, at: Where = ()) -> Iterator[Where]:
    for key, item in value.items() if isinstance(value, dict) else ():
        yield (*at, key)
        yield from _paths(item, (*at, key))


def _without(raw: dict[str, Any], wrong: Sequence[Where]) -> dict[str, Any]:
    """A copy of `raw` without the values at `wrong`; what is required gets a stand-in."""
    values = {path[:-1] if path and isinstance(path[-1], int) else path for path in wrong}

    def copy(value: Any, at: Where) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: copy(v, (*at, k)) for k, v in value.items() if (*at, k) not in values}

    trimmed: dict[str, Any] = copy(raw, ())
    trimmed.setdefault("base", "x")
    trimmed.setdefault("data", {}).setdefault("train", "x")
    return trimmed
