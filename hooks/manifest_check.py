"""For pre-commit (pre-commit.com): the named manifests parse and fit their configs."""

from __future__ import annotations

import sys
from pathlib import Path

from soup_git.errors import FatalError, run_to_exit_code


def main(paths: list[str]) -> int:
    from soup_git.commands.precommit import check_manifest

    failed = 0
    for path in paths:
        try:
            config = Path(path).parent / "adapter_config.json"
            if not config.is_file():
                raise FatalError(
                    f"{path}: there is no {config.name} beside it", hint=f"git log -- {path}"
                )
            check_manifest(path, Path(path).read_bytes(), config.read_bytes())
        except FatalError as error:
            sys.stderr.write(f"{error}\nhint: {error.hint}\n")
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(run_to_exit_code(lambda: main(sys.argv[1:])))
