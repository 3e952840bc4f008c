"""The texts of the fixture `pinned`, and damage as a disk does it."""

from __future__ import annotations

from pathlib import Path

CONFIG = """\
base: models/tiny
data:
  train: data/train.jsonl
training:
  seed: 7
"""
ROWS = '{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n'
POLITE_CONFIG = CONFIG + "  epochs: 2\n"
POLITE_ROWS = ROWS + '{"prompt": "e", "completion": "f, please"}\n'


def flip(path: Path, at: int = -10) -> None:
    """Flip one bit of one byte of a file, read-only or not."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    mode = path.stat().st_mode
    path.unlink()
    path.write_bytes(bytes(data))
    path.chmod(mode)
