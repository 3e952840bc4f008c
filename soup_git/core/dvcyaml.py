"""`dvc.yaml` edited as text: `dvc freeze` refuses a stage whose names are templates (`${…}`)."""

from __future__ import annotations

import re

from soup_git.core.yamltext import load_yaml
from soup_git.errors import FatalError


def freeze_stage(data: bytes, stage: str) -> bytes:
    """`data` with `frozen: true` in a stage, and not another byte changed.

    Raises `FatalError` where the layout does not show where to write it.
    """
    text = data.decode("utf-8", "surrogateescape")
    found = re.search(rf"(?m)^(?P<indent> +){re.escape(stage)}:[ \t]*\n(?P<inner> +)\S", text)
    edited = text
    if found is not None and len(found["inner"]) > len(found["indent"]):
        at = found.start("inner")
        edited = f"{text[:at]}{found['inner']}frozen: true\n{text[at:]}"
    result = edited.encode("utf-8", "surrogateescape")
    try:
        before, after = load_yaml(data), load_yaml(result)
        wanted = before["stages"][stage] | {"frozen": True}
        # Read back: the stage of that name, frozen, and all else as it was.
        holds = after["stages"][stage] == wanted and after == before | {
            "stages": before["stages"] | {stage: wanted}
        }
    except (ValueError, KeyError, TypeError):
        holds = False
    if not holds:
        raise FatalError(
            f"dvc.yaml does not show where stage {stage} begins, so it was not frozen",
            hint=f"write frozen: true into stage {stage} of dvc.yaml, and commit it",
        )
    return result
