"""Stages of one `dvc.yaml` written into another as text: comments, order and layout stay.

DVC's own `dvc stage add` refuses templates (`${…}`), and a YAML library that prints the file anew
moves what people wrote by hand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from soup_git.core.yamltext import load_yaml
from soup_git.errors import FatalError

_EMPTY = re.compile(r"(?m)^stages:[ \t]*(?:\{[ \t]*\}|null|~)?[ \t]*(?P<comment>#.*)?$")
_STAGE = re.compile(r"(?m)^  (?P<name>[\w.@-]+):[ \t]*$")


def stage_texts(template: str) -> dict[str, str]:
    """Stage name -> its lines in a template of ours, the comments above it included."""
    body = template.partition("\nstages:\n")[2]
    found = list(_STAGE.finditer(body))
    starts = [_with_comments(body, match.start()) for match in found]
    ends = [*starts[1:], len(body)]
    return {
        match["name"]: body[start:end].strip("\n") + "\n"
        for match, start, end in zip(found, starts, ends, strict=True)
    }


def with_stages(text: str, template: str, names: Sequence[str]) -> str:
    """`text`, a `dvc.yaml`, with the stages `names` of `template` after its own, and the template's
    `vars` where it has none of these.

    Raises ValueError, with what to write by hand not in it, where the layout shows no place.
    """
    added = {name: stage_texts(template)[name] for name in names}
    before, source = load_yaml(text.encode()) or {}, load_yaml(template.encode())
    edited = _appended(text, added)
    wanted_vars = source.get("vars") or []
    missing = [name for name in wanted_vars if name not in (before.get("vars") or [])]
    if missing:
        edited = _with_vars(edited, missing, has_vars="vars" in before)
    wanted = before | {
        "stages": (before.get("stages") or {}) | {name: source["stages"][name] for name in names}
    }
    if missing:
        wanted["vars"] = [*(before.get("vars") or []), *missing]
    if load_yaml(edited.encode()) != wanted:
        raise ValueError("its layout does not show where stages go")
    return edited


def load_pipeline(data: bytes) -> dict[str, Any]:
    """The stages of a `dvc.yaml`, by name; raises FatalError where it is no YAML."""
    try:
        raw = load_yaml(data)
    except ValueError as error:
        raise FatalError(
            f"dvc.yaml is not YAML: {error}", hint="git checkout -- dvc.yaml, or mend it by hand"
        ) from None
    stages = raw.get("stages") if isinstance(raw, dict) else None
    return stages if isinstance(stages, dict) else {}


def runs_ours(stage: object) -> bool:
    """Whether a stage starts one of git-soup's own (`python -m soup_git.stages.…`)."""
    return isinstance(stage, dict) and "soup_git.stages." in str(stage.get("cmd"))


def _with_comments(body: str, start: int) -> int:
    """Where the comment lines directly above `start` begin."""
    while (previous := body.rfind("\n", 0, max(start - 1, 0)) + 1) < start and body[
        previous:start
    ].lstrip().startswith("#"):
        start = previous
    return start


def _appended(text: str, added: dict[str, str]) -> str:
    body = "\n".join(added.values())
    root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else ()
    stages = next((value for key, value in pairs if key.value == "stages"), None)
    if stages is None:
        return f"{_closed(text)}{'' if not text.strip() else chr(10)}stages:\n{body}"
    if not stages.value:
        empty = _EMPTY.search(text)
        if empty is None:
            raise ValueError("its stages are written on one line")
        comment = f" {empty['comment']}" if empty["comment"] else ""
        rest = text[empty.end() :].removeprefix("\n")
        return f"{text[: empty.start()]}stages:{comment}\n{body}{rest}"
    if stages.flow_style:
        raise ValueError("its stages are written on one line")
    last = _last_line(text, stages)
    indent = " " * stages.value[0][0].start_mark.column
    lines = text.splitlines(keepends=True)
    while last < len(lines) and _goes_with(lines[last], indent):
        last += 1
    while lines[last - 1].strip() == "":
        last -= 1
    shifted = "".join(
        f"{indent}{line[2:]}" if line.strip() else line for line in body.splitlines(keepends=True)
    )
    return f"{_closed(''.join(lines[:last]))}\n{shifted}{''.join(lines[last:])}"


def _goes_with(line: str, indent: str) -> bool:
    """Whether a line after the last value is a comment inside the stages, or empty."""
    return not line.strip() or (line.startswith(f"{indent} ") and line.lstrip().startswith("#"))


def _last_line(text: str, node: Any) -> int:
    """The number of the line after a node's last character."""
    while isinstance(node, yaml.CollectionNode) and node.value and not node.flow_style:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    end = text[: node.end_mark.index].rstrip()
    return end.count("\n") + 1


def _with_vars(text: str, missing: Sequence[str], *, has_vars: bool) -> str:
    items = "".join(f"  - {name}\n" for name in missing)
    if not has_vars:
        lines = text.splitlines(keepends=True)
        at = next((i for i, line in enumerate(lines) if not line.startswith(("#", "\n"))), 0)
        return f"{''.join(lines[:at])}vars:\n{items}\n{''.join(lines[at:])}"
    root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    found = next(value for key, value in root.value if key.value == "vars")
    if not found.value or found.flow_style:
        raise ValueError("its vars are written on one line")
    lines = text.splitlines(keepends=True)
    last = _last_line(text, found)
    dash = lines[found.value[-1].start_mark.line].index("-")
    own = "".join(f"{' ' * dash}- {name}\n" for name in missing)
    return f"{_closed(''.join(lines[:last]))}{own}{''.join(lines[last:])}"


def _closed(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"
