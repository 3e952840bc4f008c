"""Files beside an adapter's weights that belong to it: what turns text into its tokens and back.

Trainers save the tokenizer and the chat template that the adapter was trained with into its folder.
They decide its answers as its factors do, so its manifest names each by digest (`file NAME sha256:HEX`).
What a trainer leaves there besides (README.md, training_args.bin, an optimizer's state) is no part
of it.
"""

from __future__ import annotations

from collections.abc import Iterable

from soup_git.core.manifest import FILE

VOCABULARIES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
    "sentencepiece.bpe.model", "spm.model", "tekken.json",
)  # fmt: skip
"""Any of these makes the folder's tokenizer one of its own."""
TEMPLATES = ("chat_template.jinja", "chat_template.json")
NAMES = frozenset(
    (
        *VOCABULARIES, *TEMPLATES, "tokenizer_config.json", "special_tokens_map.json",
        "added_tokens.json", "generation_config.json", "preprocessor_config.json",
        "processor_config.json", "image_processor_config.json", "video_preprocessor_config.json",
    )
)  # fmt: skip
MAX_BYTES = 50 << 20
"""As large as a file that goes into git may be; the largest tokenizers have some 35 MB."""


def facts_of(digests: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The manifest's header lines for files by (name, SHA-256)."""
    return [(FILE, f"{name} sha256:{digest}") for name, digest in sorted(digests)]


def digests_of(facts: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Name -> SHA-256 of the files that a manifest's header names; the inverse of `facts_of`.

    Names that are none of `NAMES` are left out: a manifest is no way to a path of its choice.
    """
    split = (value.partition(" sha256:") for key, value in facts if key == FILE)
    return {name: digest for name, _, digest in split if name in NAMES}
