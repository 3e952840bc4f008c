"""An adapter's config as PEFT writes it: what the manifest and the arithmetic need of it.

The config is untrusted input: it is read as JSON, its types are checked, and the
regular expressions in `rank_pattern` and `alpha_pattern` are bounded before they run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from soup_git.core.kinds import KINDS, NO_PRODUCT, SUMMED, unknown_keys
from soup_git.core.rewrites import without_mark
from soup_git.core.waysout import take_one_side
from soup_git.errors import FatalError

MAX_CONFIG_BYTES = 1 << 20
MAX_PATTERNS = 256
MAX_PATTERN_LENGTH = 256
_NAME = re.compile(r"[A-Za-z0-9_.]+")

_PREFIX = "base_model.model."
# PEFT names a factor `MODULE.lora_A.weight`; embeddings drop `.weight`, biases and DoRA's
# magnitude add their own words, other methods have theirs (IA3, LoHa, LoKr, OFT, VeRA, …).
_FACTOR = re.compile(
    r"\.(?:lora_(?:A|B|embedding_A|embedding_B|magnitude_vector)|lora_E|lora_ranknum"
    r"|hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2|ia3_l|oft_[rR]|boft_[RsS]"
    r"|vera_lambda_[bd]|vblora_(?:logits|vector_bank)_?[AB]?|randlora_(?:lambda|gamma)"
    r"|hra_u|c3a_kernel|spectrum|ln_tuning_layers|delora_(?:A|B|lambda))(?:\.|$)"
)


def module_of(tensor: str) -> str:
    """The module a tensor belongs to: no `base_model.model.`, no `.lora_*` suffix."""
    name = tensor.removeprefix(_PREFIX)
    found = _FACTOR.search(name)
    if found:
        return name[: found.start()]
    return name.removesuffix(".weight").removesuffix(".bias")


@dataclass(frozen=True)
class AdapterConfig:
    """The keys of `adapter_config.json` that say what the weights mean."""

    peft_type: str
    base_model: str | None
    rank: int | None = None
    alpha: float | None = None
    rslora: bool = False
    dora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further keys that change what the factors mean, where they are set."""
    unknown: tuple[str, ...] = ()
    """Keys that are set to something, and that no kind of adapter had when this was written."""
    written_by: str | None = None
    """PEFT's version."""

    @property
    def is_lora(self) -> bool:
        return self.peft_type == "LORA"

    @property
    def ignored(self) -> str | None:
        """What of the config is left out of account, as a sentence goes on after its name."""
        if self.peft_type not in KINDS:
            return (
                f"is {self.peft_type}, a method of {self._writer} that this git-soup does not know"
            )
        if not self.unknown:
            return None
        listed = ", ".join(self.unknown)
        return f"has {listed} in its config, of {self._writer}; git-soup knows no such key and ignores it"

    @property
    def _writer(self) -> str:
        return f"PEFT {self.written_by}" if self.written_by else "a PEFT that it does not name"

    @property
    def no_product(self) -> str | None:
        """The option with which LoRA's factors are no plain s·B·A; None where they are."""
        return next((key for key in NO_PRODUCT if key in self.options), None)

    @property
    def not_summed(self) -> str | None:
        """The option with which LoRA's factors do not add up as s·B·A does; None where they do."""
        return None if self.no_product in SUMMED else self.no_product

    @property
    def target_parameters(self) -> tuple[str, ...]:
        """The raw parameters that LoRA adapts, sorted as PEFT sorts them."""
        return tuple(self.options.get("target_parameters", ()))

    def rank_of(self, module: str) -> int | None:
        key = _matching_pattern(self.rank_pattern, module)
        return self.rank if key is None else self.rank_pattern[key]

    def alpha_of(self, module: str) -> float | None:
        key = _matching_pattern(self.alpha_pattern, module)
        return self.alpha if key is None else self.alpha_pattern[key]


def parse_adapter_config(data: bytes, where: str) -> AdapterConfig:
    """Read the bytes of an `adapter_config.json`; `where` names them in errors."""
    raw = config_object(data, where)
    peft_type = raw.get("peft_type")
    if not isinstance(peft_type, str) or not peft_type.replace("_", "").isalnum():
        raise FatalError(
            f"{where}: peft_type is {peft_type!r}, which is not a PEFT method",
            hint="save the adapter again with PEFT's model.save_pretrained(DIR)",
        )
    for key, (is_valid, wanted) in _TYPES.items():
        if raw.get(key) is not None:
            _checked(raw, key, None, is_valid, wanted, where)
    config = AdapterConfig(
        peft_type=peft_type.upper(),
        base_model=raw.get("base_model_name_or_path") or None,
        unknown=tuple(unknown_keys(peft_type.upper(), raw)),
        written_by=raw.get("peft_version") or None,
    )
    return _lora(config, raw, where) if config.is_lora else _other(config, raw, where)


def _lora(config: AdapterConfig, raw: dict[str, Any], where: str) -> AdapterConfig:
    options = {
        key: canonical(key, raw[key])
        for key in _OPTIONS
        if raw.get(key) and (key != INIT or moves_base(raw[key]))
    }
    return _replace(
        config,
        rank=_checked(raw, "r", 8, _is_rank, _RANK, where),
        alpha=_checked(raw, "lora_alpha", 8, _is_number, "a number", where),
        rslora=raw.get("use_rslora") or False,
        dora=raw.get("use_dora") or False,
        rank_pattern=_pattern(raw, "rank_pattern", _is_rank, where),
        alpha_pattern=_pattern(raw, "alpha_pattern", _is_number, where),
        options=options,
    )


def _other(config: AdapterConfig, raw: dict[str, Any], where: str) -> AdapterConfig:
    """Of a method that is no LoRA: its rank, where it has one, and what gives its tensors a meaning."""
    kind = KINDS.get(config.peft_type)
    options = {key: raw[key] for key in kind.meaning.split() if raw.get(key)} if kind else {}
    if kind is None or kind.update not in {"hadamard", "kronecker"}:
        for key, (is_valid, wanted) in _SCALES.items():
            if key in options:
                _checked(raw, key, None, is_valid, wanted, where)
        rank = raw.get("r")
        return _replace(config, rank=rank if _is_int(rank) else None, options=options)
    return _replace(
        config,
        rank=_checked(raw, "r", 8, _is_rank, _RANK, where),
        alpha=_checked(raw, "alpha", 8, _is_number, "a number", where),
        rank_pattern=_pattern(raw, "rank_pattern", _is_rank, where),
        alpha_pattern=_pattern(raw, "alpha_pattern", _is_number, where),
        options=options,
    )


# Keys of PEFT's LoraConfig, besides rank and scaling, without which the factors cannot be
# turned into an update of the base: a merge driver sees the manifest, never the config.
INIT = "init_lora_weights"
_OPTIONS = (
    "alora_invocation_tokens", "arrow_config", INIT, "kasa_config", "layer_replication",
    "monteclora_config", "target_parameters", "trainable_token_indices", "use_bdlora",
    "use_qalora",
)  # fmt: skip

_RANK = "a whole number of at least 1"
SETS = frozenset({
    "exclude_modules", "feedforward_modules", "layers_pattern", "layers_to_transform",
    "modules_to_save", "target_modules", "target_parameters",
})  # fmt: skip
"""Keys whose lists PEFT reads as sets: their order means nothing, and differs between processes."""

# PEFT's initialisations of A and B that leave the base as it is. The others (pissa, pissa_niter_N,
# olora, corda, loftq, lora_ga) take from the base what they put into A and B, when the adapter is
# loaded again too: the factors as they are stored are not the adapter's update of the base.
_PLAIN_INITS = frozenset({"default", "eva", "gaussian", "orthogonal"})


def moves_base(init: object) -> bool:
    """Whether an adapter with this `init_lora_weights` changes the base, too; an unknown one may."""
    return isinstance(init, str) and init.lower() not in _PLAIN_INITS


CONVERT = (
    "save it as a plain LoRA: save_pretrained(DIR, path_initial_model_for_weight_conversion=INIT)"
)
"""What makes the factors of an adapter whose initialisation moved the base its update of it."""


def canonical(key: str, value: Any) -> Any:
    """A key's value in the one form that its meaning has: a set is sorted."""
    if key not in SETS or not isinstance(value, list):
        return value
    if not all(isinstance(item, str | int) for item in value):
        return value
    words = sorted(item for item in value if isinstance(item, str))
    return list(dict.fromkeys([*sorted(i for i in value if isinstance(i, int)), *words]))


_FIX = "git checkout -- {0}, or save the adapter again with PEFT's model.save_pretrained(DIR)"


def config_object(data: bytes, where: str) -> dict[str, Any]:
    """The JSON object that an `adapter_config.json` is, its values unchecked."""
    if len(data) > MAX_CONFIG_BYTES:
        raise FatalError(
            f"{where} is {len(data):,} bytes; at most 1 MiB is read", hint=_FIX.format(where)
        )
    if data.startswith((b"<<<<<<<",)) or b"\n<<<<<<< " in data:
        raise FatalError(
            f"{where} still has git's conflict markers in it",
            hint=take_one_side(where),
        )
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise FatalError(
            f"{where} begins with a byte order mark, as editors on Windows write; PEFT does not"
            " read it",
            hint=f"take it out: {without_mark(where)}",
        )
    try:
        raw = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FatalError(f"{where} is not JSON: {error}", hint=_FIX.format(where)) from None
    if not isinstance(raw, dict):
        raise FatalError(f"{where} is not a JSON object", hint=_FIX.format(where))
    return raw


def _replace(config: AdapterConfig, **changes: Any) -> AdapterConfig:
    return AdapterConfig(**{**config.__dict__, **changes})


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_ints(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_int, value))


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_tokens(value: object) -> bool:
    lists = list(value.values()) if isinstance(value, dict) else [value]
    return all(map(_is_ints, lists))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_name_or_names(value: object) -> bool:
    return isinstance(value, str) or _is_names(value)


def _is_string(value: object) -> bool:
    return isinstance(value, str)


# What other methods' scalings are computed from.
_SCALES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lora_alpha": (_is_number, "a number"),
    "init_r": (_is_rank, _RANK),
    "topk": (_is_rank, _RANK),
}
# Keys that are read here and there, of whichever kind; null is as if they were not there.
_TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("base_model_name_or_path", "bias", "peft_version", "revision", "task_type"),
        (_is_string, "a string"),
    ),
    **dict.fromkeys(
        ("fan_in_fan_out", "inference_mode", "lora_bias", "use_dora", "use_qalora", "use_rslora"),
        (_is_bool, "true or false"),
    ),
    **dict.fromkeys(
        ("exclude_modules", "layers_pattern", "modules_to_save", "target_modules"),
        (_is_name_or_names, "a name or a list of names"),
    ),
    "target_parameters": (_is_names, "a list of names"),
    "layers_to_transform": (lambda value: _is_int(value) or _is_ints(value), "numbers of layers"),
    "trainable_token_indices": (_is_tokens, "numbers of tokens"),
}


def _checked(
    raw: dict[str, Any],
    key: str,
    default: Any,
    is_valid: Callable[[Any], bool],
    wanted: str,
    where: str,
) -> Any:
    """The key's value, or the default where the config has no such key; null is a value."""
    if key not in raw:
        return default
    if not is_valid(raw[key]):
        raise FatalError(
            f"{where}: {key} is {json.dumps(raw[key])[:60]}, not {wanted}", hint=_FIX.format(where)
        )
    return raw[key]


def _pattern(raw: dict[str, Any], key: str, is_valid: Any, where: str) -> dict[str, Any]:
    pattern = {} if raw.get(key) is None else raw[key]
    if not isinstance(pattern, dict) or not all(map(is_valid, pattern.values())):
        raise FatalError(
            f"{where}: {key} does not map module names to numbers", hint=_FIX.format(where)
        )
    # Names cost next to nothing to match, and EVA writes one for each module of a model.
    regexes = [regex for regex in pattern if not _NAME.fullmatch(regex)]
    if len(regexes) > MAX_PATTERNS:
        raise FatalError(
            f"{where}: {key} has {len(regexes)} regular expressions; at most {MAX_PATTERNS},"
            " beside any number of plain names",
            hint=_FIX.format(where),
        )
    for regex in pattern:
        if not is_safe_pattern(regex):
            raise FatalError(
                f"{where}: the key {regex!r} of {key} is not a pattern that can be matched safely",
                hint="write the module's name, with at most '.*', '\\d+', a choice (a|b) or a"
                " look-ahead (?!…) in it, and no repeat inside a repeat",
            )
    return pattern


def is_safe_pattern(regex: str) -> bool:
    """Whether `regex` compiles and cannot take exponential time (no repeat inside a repeat)."""
    if len(regex) > MAX_PATTERN_LENGTH:
        return False
    try:
        parsed = re._parser.parse(regex)  # type: ignore[attr-defined]
    except (re.error, RecursionError, OverflowError):
        return False
    return _repeats(parsed, inside=False) <= 6


def _repeats(parsed: Iterable[Any], *, inside: bool) -> int:
    """Unbounded repeats in a parsed pattern; one inside another counts as far too many."""
    count = 0
    for operation, argument in parsed:
        name = str(operation)
        if name in {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}:
            count += 100 if inside else 1
            count += _repeats(argument[2], inside=True)
        elif name == "SUBPATTERN":
            count += _repeats(argument[3], inside=inside)
        elif name == "BRANCH":
            count += sum(_repeats(branch, inside=inside) for branch in argument[1])
        elif name in {"ASSERT", "ASSERT_NOT"}:
            # Inside a repeat it is tried at every place: what repeats in it is a repeat in it.
            count += _repeats(argument[1], inside=inside)
        elif name in {"ATOMIC_GROUP", "GROUPREF_EXISTS", "GROUPREF"}:
            count += 100
    return count


def _matching_pattern(patterns: Mapping[str, Any], module: str) -> str | None:
    """The first key that matches, as `peft.utils.get_pattern_key` finds it."""
    for key in patterns:
        # A name's last word is in the module as it stands: most keys of a long list end here.
        plain = _NAME.fullmatch(key)
        if plain and not module.endswith(key.rpartition(".")[2]):
            continue
        if _compiled(key).match(module):
            return key
    return None


@lru_cache(maxsize=4096)
def _compiled(key: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({key})$")
