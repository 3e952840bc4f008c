"""The tokenizer and the chat template that an adapter brings in its own folder.

A trainer saves them because the adapter was trained with them. The base's would cut its prompts
into other tokens, and write its turns with other words.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soup_git.core.beside import TEMPLATES, VOCABULARIES
from soup_git.core.digests import sha256_hex
from soup_git.core.text import canonical_json, counted
from soup_git.errors import FatalError
from soup_git.storage.resolver import Adapter
from soup_git.training import model as bases

_CONFIG = "tokenizer_config.json"
_GENERATION = "generation_config.json"
_READ = (
    *VOCABULARIES,
    *TEMPLATES,
    _CONFIG,
    _GENERATION,
    "special_tokens_map.json",
    "added_tokens.json",
)


@dataclass(frozen=True)
class OwnFiles:
    """Files of an adapter that decide its tokens. `digest` names all of them and their bytes."""

    names: tuple[str, ...]
    digest: str
    read: Callable[[str], bytes]

    def tokenizer(self, name: str, base: Any) -> Any:
        """The adapter's tokenizer; the base's with its chat template, where it brings that alone.

        Never runs code of the folder. Raises `FatalError` where transformers cannot read it.
        """
        from transformers import AutoTokenizer

        if not set(self.names) & set(VOCABULARIES):
            tokenizer = copy.deepcopy(base)
            tokenizer.chat_template = self._template() or base.chat_template
            return tokenizer
        with tempfile.TemporaryDirectory(prefix="soup-tokenizer-") as folder:
            for file in self.names:
                Path(folder, file).write_bytes(self.read(file))
            try:
                tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                why = str(error).strip().splitlines() or [type(error).__name__]
                raise FatalError(
                    f"{name}: the tokenizer in its folder cannot be loaded: {why[0]}",
                    hint="tokenizer.save_pretrained(DIR) in transformers writes a whole one; without"
                    " tokenizer files the base's is used",
                ) from error
        if not tokenizer.is_fast:
            raise FatalError(
                f"{name}: the tokenizer in its folder is a slow one; it needs a tokenizer.json",
                hint="save it again with tokenizer.save_pretrained(DIR) in transformers",
            )
        if tokenizer.chat_template is None:
            tokenizer.chat_template = base.chat_template
        return tokenizer

    def ends(self) -> list[int] | None:
        """The tokens that end an answer by the adapter's generation config; None where it names none."""
        if _GENERATION not in self.names:
            return None
        try:
            raw = json.loads(self.read(_GENERATION))
        except (ValueError, RecursionError):
            return None
        found = raw.get("eos_token_id") if isinstance(raw, dict) else None
        ends = found if isinstance(found, list) else [found]
        return [e for e in ends if type(e) is int and e >= 0] or None

    def _template(self) -> str | None:
        if "chat_template.jinja" in self.names:
            return self.read("chat_template.jinja").decode("utf-8", "replace")
        for file in ("chat_template.json", _CONFIG):
            if file in self.names:
                try:
                    found = json.loads(self.read(file))
                except (ValueError, RecursionError):
                    continue
                template = found.get("chat_template") if isinstance(found, dict) else None
                if isinstance(template, str):
                    return template
        return None


def own_files(adapter: Adapter) -> OwnFiles | None:
    """What the adapter brings; None where it is nothing that decides tokens."""
    names = tuple(name for name in sorted(adapter.files) if name in _READ)
    if not names or adapter.read_file is None:
        return None
    digest = sha256_hex(canonical_json({name: adapter.files[name] for name in names}).encode())
    return OwnFiles(names, digest, adapter.read_file)


def differences(own: Any, base: Any) -> list[str]:
    """How an adapter's tokenizer differs from its base's, in words."""
    mine, its = own.get_vocab(), base.get_vocab()
    found = []
    added = [token for token in sorted(mine, key=lambda t: mine[t]) if token not in its]
    if added:
        shown = ", ".join(map(repr, added[:3])) + (", …" if len(added) > 3 else "")
        found.append(f"{counted(len(added), 'token')} that the base's lacks ({shown})")
    if lacking := sum(token not in mine for token in its):
        found.append(f"{counted(lacking, 'token')} of the base's missing")
    if moved := sum(its[token] != number for token, number in mine.items() if token in its):
        found.append(f"{counted(moved, 'token')} of another number")
    if own.eos_token != base.eos_token:
        found.append(f"{own.eos_token!r} as its end of text, not {base.eos_token!r}")
    if bases.own_template(own) != bases.own_template(base):
        found.append("a chat template of its own")
    return found
