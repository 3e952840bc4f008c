"""Names of an adapter's tensors as PEFT writes them, and those that PEFT would not load.

`PeftModel.from_pretrained` leaves a tensor out, with a warning among others, whose name is not
the one it looks for; the adapter then answers as its base does. (`set_peft_model_state_dict`,
PEFT 0.21.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from soup_git.core.manifest import Tensor
from soup_git.core.rewrites import renamed
from soup_git.errors import FatalError

_ROOT = "base_model.model."
_LORA_PART = r"\.lora_(?:A|B|embedding_A|embedding_B|magnitude_vector)"
_DEFAULT = re.compile(rf"({_LORA_PART})\.default(?=\.weight$|\.bias$|$)")
_NAMED = re.compile(
    rf"{_LORA_PART}\.(?!weight$|bias$|default(?:\.|$))(?P<adapter>[^.]+)(?:\.weight|\.bias)?"
)
_WRAPPERS = {
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "_orig_mod.": "torch.compile",
    "_forward_module.": "Lightning",
}


def canonical(name: str) -> str:
    """The name without PEFT's own word for the only adapter: `lora_A.default.weight` loads as
    `lora_A.weight`, and so it is compared and merged."""
    return _DEFAULT.sub(r"\1", name)


def refuse_unloadable(tensors: Iterable[Tensor], where: str, file: str) -> None:
    """Raise `FatalError` for tensors that PEFT would leave out, or that hold nothing.

    `where` names the weights in the message, `file` in a command typed here.
    """
    named = list(tensors)
    for tensor in named:
        if tensor.shape == (0,):
            empty = sum(t.shape == (0,) for t in named)
            raise FatalError(
                f"{where}: {tensor.name} has shape [0], it is empty ({empty} of {len(named)} tensors"
                " are): as DeepSpeed ZeRO-3 saves what lies in other processes",
                hint="save it again with whole tensors: stage3_gather_16bit_weights_on_model_save:"
                " true in DeepSpeed's config; zero_to_fp32.py beside a checkpoint gathers an old one",
            )
    for tensor in named:
        wrapper = next((word for word in _WRAPPERS if word in tensor.name), None)
        if wrapper is not None or tensor.name.startswith(f"module.{_ROOT}"):
            by = _WRAPPERS[wrapper] if wrapper else "DistributedDataParallel"
            pattern = "|".join(map(re.escape, _WRAPPERS)) + "|^module[.](?=base_model[.])"
            raise FatalError(
                f"{where}: {tensor.name} has a name that {by} made, and PEFT would load the adapter"
                " without it",
                hint=f"give the tensors their own names: {renamed(file, pattern, '')}",
            )
        found = _NAMED.search(tensor.name)
        if found is not None and found.end() == len(tensor.name):
            pattern, kept = rf"({_LORA_PART})\.{re.escape(found['adapter'])}(?=\.|$)", r"\1"
            raise FatalError(
                f"{where}: {tensor.name} still has the name of an adapter in it"
                f" ({found['adapter']}), and PEFT would load the adapter without it",
                hint=f"give the tensors their own names: {renamed(file, pattern, kept)}",
            )
