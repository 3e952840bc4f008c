"""How a base is loaded under an adapter: what an adapter's training says of it, and what is asked for.

A manifest's line `base_load {json}` holds it, where the base was not loaded as it is. Keys: `4bit`
or `8bit` as `quantization` (bitsandbytes: NF4 with double quantization, or LLM.int8); the `dtype`
that the weights were rounded to, where that is less than their own; and `config`, the values that
the training put in the place of those in the base's config.json (`rope_parameters`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from soup_git.core.text import canonical_json
from soup_git.errors import FatalError

BASE_LOAD = "base_load"
"""Its key in a manifest's header."""
TRAINED = "trained"
FULL = "full"
FEW_BITS = ("4bit", "8bit")
BASE_AS = (TRAINED, FULL, *FEW_BITS)
"""What `--base-as` takes."""
DTYPES = ("float16", "bfloat16")

NOT_TO_CHANGE = frozenset(
    {
        *("architectures", "auto_map", "dtype", "model_type", "quantization_config"),
        *("torch_dtype", "transformers_version", "output_attentions", "output_hidden_states"),
        *("return_dict", "use_cache", "problem_type"),
    }
)
"""Keys of a config.json that name code, or that are no part of what a model computes."""
_KEY = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True)
class BaseLoad:
    """How a base is loaded. Nothing said is the base as it is."""

    quantization: str | None = None
    """`4bit`, `8bit`; or `full`, which somebody asked for."""
    dtype: str | None = None
    """What its weights are rounded to."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """In the place of what its config.json says."""

    @property
    def in_few_bits(self) -> bool:
        return self.quantization in FEW_BITS

    def text(self) -> str:
        """As one line of JSON; empty for the base as it is."""
        said = {"config": dict(self.config), "dtype": self.dtype, "quantization": self.quantization}
        said = {key: value for key, value in said.items() if value}
        return json.dumps(said, sort_keys=True, separators=(",", ":")) if said else ""

    def words(self) -> str:
        """`4bit, rope_parameters`; empty for the base as it is."""
        return ", ".join(filter(None, [self.quantization, self.dtype, *sorted(self.config)]))

    def asked_as(self, base_as: str) -> BaseLoad:
        """This, with its weights as `--base-as` says; what else a training changed stays."""
        return self if base_as == TRAINED else replace(self, quantization=base_as, dtype=None)

    def __hash__(self) -> int:
        return hash(canonical_json([self.quantization, self.dtype, dict(self.config)]))


AS_IT_IS = BaseLoad()


def parse_base_load(text: str, where: str) -> BaseLoad:
    """Read the value of a `base_load` line of the manifest `where`.

    Raises FatalError for what this git-soup does not know: left out, it would be another base.
    """
    try:
        said = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise _unknown(where, "is no JSON object")
    for key in said:
        if key not in {"config", "dtype", "quantization"}:
            raise _unknown(where, f"says {json.dumps(key)}")
    quantization, dtype = said.get("quantization"), said.get("dtype")
    config = said.get("config", {})
    if quantization not in (None, *FEW_BITS):
        raise _unknown(where, f"says quantization {json.dumps(quantization)}")
    if dtype not in (None, *DTYPES):
        raise _unknown(where, f"says dtype {json.dumps(dtype)}")
    if not isinstance(config, dict):
        raise _unknown(where, "has a config that is no JSON object")
    for key in config:
        if not _KEY.fullmatch(key) or key in NOT_TO_CHANGE:
            raise _unknown(where, f"changes {json.dumps(key)} of the base's config.json")
    return BaseLoad(quantization, dtype, config)


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")


def _unknown(where: str, what: str) -> FatalError:
    return FatalError(
        f"{where}: its `base_load` line {what}, which this git-soup cannot load a base by",
        hint="a newer git-soup may have written it: pip install -U git-soup",
    )
