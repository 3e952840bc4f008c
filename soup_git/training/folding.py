"""An adapter folded into its base: a model to train another adapter on.

The later trainings of a pipeline start from what an earlier one made: the reward model and the
policy of the template rlhf from the model after SFT, which is also what the policy is compared
with. PEFT computes W + s·B·A per module (https://huggingface.co/docs/peft/developer_guides/lora).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from soup_git.errors import FatalError
from soup_git.training import adapter, machine, model, templates
from soup_git.training.schema import SoupConfig


def fold(config: SoupConfig, workspace_root: Path, output: Path) -> None:
    """Write the base of `config` with its trained adapter in it to the folder `output`.

    The model is loaded, computed and saved in the dtype of its own config; the tokenizer goes
    with it, with the chat template that the adapter was trained by. Raises FatalError where the
    adapter is missing, or where it is not one of words.
    """
    trained = workspace_root / config.output
    if not (trained / adapter.WEIGHTS).is_file():
        raise FatalError(
            f"{config.output} has no {adapter.WEIGHTS}: there is nothing to fold in",
            hint="dvc repro trains it, git soup checkout restores it",
        )
    if config.method.head != "words":
        raise config.refuse("task", f"{config.task} trains a head, which is no base for another")
    machine.prepare_process(config)
    base = model.locate(config, workspace_root)
    tokenizer = model.load_tokenizer(base, config)
    chosen = templates.resolve(config, workspace_root, model.own_template(tokenizer))
    if chosen is not None:
        tokenizer.chat_template = chosen.text
    whole = _folded(config, base, trained)
    shutil.rmtree(output, ignore_errors=True)
    whole.save_pretrained(output)
    tokenizer.save_pretrained(output)


def _folded(config: SoupConfig, base: model.Base, trained: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoConfig

    own = AutoConfig.from_pretrained(
        base.source, revision=base.revision, trust_remote_code=config.trust_remote_code
    ).dtype
    dtype = str(own or "torch.float32").removeprefix("torch.")
    loaded = model.load_weights(base, config, dtype=dtype)
    return PeftModel.from_pretrained(loaded, str(trained)).merge_and_unload(safe_merge=True)
