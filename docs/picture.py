"""Draws docs/terminal.svg: a terminal in which commands were really typed.

    python docs/picture.py REPOSITORY    # the one that `make demo` leaves

Runs the commands below there and draws what they print.
"""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COMMANDS = (
    "git soup branches",
    "git soup diff main politer --top-k 4",
    "git log --oneline --no-decorate -3 soup/runs/{run}",
    'echo \'{"prompt": "?", "completion": "!"}\' >> data/train.jsonl',
    "git commit --all -m 'A few more rows'",
    "git checkout --quiet HEAD -- data/train.jsonl",
    "git soup checkout politer",
    "git soup verify",
)
COLOURS = {"fatal:": "red", "hint:": "yellow", "identical": "green", "drifted": "red"}


def main(repository: Path) -> None:
    console = Console(record=True, width=92, file=io.StringIO(), force_terminal=True)
    refs = ["git", "for-each-ref", "--format=%(refname:lstrip=3)", "refs/soup/runs"]
    run = subprocess.run(refs, cwd=repository, capture_output=True, text=True).stdout.split()[0]
    for command in COMMANDS:
        typed = command.replace("{run}", run)
        console.print(Text(f"$ {typed}", style="bold cyan"))
        if typed.startswith("echo"):
            with (repository / "data/train.jsonl").open("a") as file:
                file.write('{"prompt": "?", "completion": "!"}\n')
            continue
        done = subprocess.run(shlex.split(typed), cwd=repository, capture_output=True, text=True)
        talk = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("rows:"))
        for line in "\n".join(part for part in (talk, done.stdout.rstrip()) if part).splitlines():
            style = next((colour for word, colour in COLOURS.items() if word in line), "")
            # An SVG viewer drops plain spaces at the start of a line.
            text = Text(line.replace(" ", "\u00a0"), style=style)
            console.print(text, soft_wrap=False, overflow="ellipsis", no_wrap=True)
        if done.stdout or done.stderr:
            console.print()
    picture = Path(__file__).parent / "terminal.svg"
    svg = console.export_svg(title="git soup")
    # rich names a font on another host; a viewer's own monospace is good enough.
    picture.write_text(re.sub(r"\s*@font-face \{.*?\}\n", "\n", svg, flags=re.DOTALL))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
