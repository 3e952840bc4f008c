"""Commands of one line that make weights which are read of weights which are not: for hints.

Each is typed where PyTorch and safetensors are installed, and takes its files as arguments, so
that no name of a file is part of a program.
"""

from __future__ import annotations

import shlex


def _command(program: str, *arguments: str) -> str:
    return f'python -c "{program}" {shlex.join(arguments)}'


def from_pickle(source: str, target: str) -> str:
    """Of a pickled state dict; nothing but tensors is taken from it."""
    return _command(
        "import sys, torch, safetensors.torch as s; s.save_file({k: v.contiguous() for k, v in"
        " torch.load(open(sys.argv[1], 'rb'), map_location='cpu', weights_only=True).items()}, sys.argv[2],"
        " {'format': 'pt'})",
        source,
        target,
    )


def widened(file: str) -> str:
    """Numbers of eight bits and fewer, in bfloat16."""
    return _command(
        "import sys, torch, safetensors.torch as s; s.save_file({k: v.to(torch.bfloat16) for k, v in"
        " s.load_file(sys.argv[1]).items()}, sys.argv[1], {'format': 'pt'})",
        file,
    )


def joined(shards: list[str], target: str) -> str:
    """Of shards one file, which is what PEFT loads."""
    return _command(
        "import sys, safetensors.torch as s; s.save_file({k: v for f in sys.argv[2:] for k, v in"
        " s.load_file(f).items()}, sys.argv[1], {'format': 'pt'})",
        target,
        *shards,
    )


def renamed(file: str, pattern: str, replacement: str) -> str:
    """Each tensor under its name with what the regular expression finds replaced."""
    return _command(
        "import re, sys, safetensors.torch as s; s.save_file({re.sub(sys.argv[2], sys.argv[3], k): v"
        " for k, v in s.load_file(sys.argv[1]).items()}, sys.argv[1], {'format': 'pt'})",
        file,
        pattern,
        replacement,
    )


def without_mark(file: str) -> str:
    """A text without the byte order mark, in UTF-8."""
    return _command(
        "import sys, pathlib as p; t = p.Path(sys.argv[1]); b = t.read_bytes();"
        " t.write_text(b.decode('utf-16' if b[:1] in b'\\xff\\xfe' else 'utf-8-sig'), 'utf-8')",
        file,
    )
