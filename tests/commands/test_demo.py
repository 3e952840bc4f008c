"""What `git soup demo` says at its end, typed. The whole of it is `make demo`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from soup_git.commands.demo import to_go_on


def test_what_it_says_at_the_end_works_in_the_shell_that_the_user_has(
    repo: Path, soup, git, make_adapter
) -> None:
    make_adapter("adapters/chat", seed=1)
    soup("add", "adapters/chat")
    git("commit", "-qm", "An adapter")
    ours = str(Path(sys.executable).parent)
    places = [p for p in os.environ["PATH"].split(os.pathsep) if not Path(p, "git-soup").exists()]
    bare = {**os.environ, "GIT_PAGER": "cat", "MANPAGER": "cat", "PATH": os.pathsep.join(places)}
    bare.pop("MANPATH", None)
    lines = to_go_on(Path("../repo"), bare)
    assert lines[0].startswith("source ")
    # `make` links the page below the prefix; other installations of a clone have none.
    has_page = (Path(sys.prefix) / "share/man/man1/git-soup.1").is_file() and shutil.which("man")
    if not has_page:
        lines.remove("git soup --help")
    done = subprocess.run(
        ["bash", "-e", "-c", "\n".join(lines)], env=bare, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "adapters/chat" in done.stdout
    assert ("GIT-SOUP(1)" in done.stdout) == bool(has_page)
    assert to_go_on(Path("../repo"), {"PATH": ours})[0].startswith("cd ")
