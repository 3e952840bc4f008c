"""One value changes, and nothing else does."""

from __future__ import annotations

import pytest

from soup_git.core.yamledit import with_value

WHERE = ("training", "batch_size")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "base: m   # é 🥣\ntraining:\n  lr: 1\n  batch_size: auto\n  epochs: 2\n",
            "base: m   # é 🥣\ntraining:\n  lr: 1\n  batch_size: 16  # auto: found\n  epochs: 2\n",
        ),
        ("training:\r\n  batch_size: auto\r\n", "training:\r\n  batch_size: 16  # auto: found\r\n"),
        ("training:\n  batch_size: 'auto'", "training:\n  batch_size: 16  # auto: found"),
        (
            "training:\n  batch_size:\n    auto   \n",
            "training:\n  batch_size:\n    16     # auto: found\n",
        ),
        (
            "training:\n  batch_size: auto # mine\n",
            "training:\n  batch_size: 16 # mine  # batch_size: auto: found\n",
        ),
        (
            "training: {batch_size: auto, lr: 1}\n",
            "training: {batch_size: 16, lr: 1}  # batch_size: auto: found\n",
        ),
        (
            "{training: {batch_size: auto}}",
            "{training: {batch_size: 16}}  # batch_size: auto: found",
        ),
        (
            "\ufefftraining: {batch_size: auto,\n  lr: 1}\n",
            "\ufefftraining: {batch_size: 16,  # batch_size: auto: found\n  lr: 1}\n",
        ),
        # A comment would become part of the text.
        (
            'training: {batch_size: auto, note: "a\n  b"}\n',
            'training: {batch_size: 16, note: "a\n  b"}\n',
        ),
    ],
)
def test_every_other_byte_stays(before: str, after: str) -> None:
    assert with_value(before, WHERE, 16, "auto: found") == after


@pytest.mark.parametrize("text", ["base: m\n", "training: 3\n", "training:\n  lr: 1\n", ""])
def test_what_is_not_there_cannot_be_changed(text: str) -> None:
    with pytest.raises(ValueError, match=r"nothing is at training\.batch_size"):
        with_value(text, WHERE, 16, "x")
