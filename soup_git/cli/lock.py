"""The pins: soup.lock, and the environment behind one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from soup_git.cli.app import group, open_workspace, show_report
from soup_git.cli.options import Format, FormatOption, JsonOption

lock_app = group("lock", "The pins that make a run reproducible: soup.lock.")
env_app = group("env", "The environment behind the lock's env_hash.")

BaseModelOption = Annotated[
    str | None,
    typer.Option("--base-model", metavar="MODEL", help="The base model's folder or hub id."),
]

BaseShaOption = Annotated[
    str | None, typer.Option("--base-sha", metavar="SHA256", help="The base model's digest.")
]

DatasetShaOption = Annotated[
    str | None, typer.Option("--dataset-sha", metavar="SHA256", help="The dataset's digest.")
]

EnvHashOption = Annotated[
    str | None, typer.Option("--env-hash", metavar="SHA256", help="The environment's digest.")
]


@lock_app.command("write")
def lock_write(
    base_model: BaseModelOption = None,
    base_sha: BaseShaOption = None,
    dataset_sha: DatasetShaOption = None,
    env_hash: EnvHashOption = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write FILE instead of soup.lock."),
    ] = None,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Compute the pins from soup.yaml and the work tree, and write soup.lock."""
    from soup_git.commands import lock as command

    overrides = command.Overrides(base_model, base_sha, dataset_sha, env_hash)
    show_report(command.write(open_workspace(), overrides, output), form, as_json)
    return 0


@lock_app.command("show")
def lockshow_report(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", show_default=False)] = None,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Show a lock and validate its closure."""
    from soup_git.commands import lock as command

    show_report(command.show(open_workspace(), file), form, as_json)
    return 0


@lock_app.command("check")
def lock_check(
    base_model: BaseModelOption = None,
    base_sha: BaseShaOption = None,
    dataset_sha: DatasetShaOption = None,
    env_hash: EnvHashOption = None,
    staged: Annotated[
        bool, typer.Option("--staged", help="Compare what is staged, as the pre-commit hook does.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="A pin that is not pinned is drift.")
    ] = False,
    env: Annotated[
        bool, typer.Option("--env", help="Environment drift counts, wherever this runs.")
    ] = False,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Compare soup.lock with the world; exit 3 when a pin drifted."""
    from soup_git.commands import lock as command
    from soup_git.render.report import say

    overrides = command.Overrides(base_model, base_sha, dataset_sha, env_hash)
    report, code = command.check(open_workspace(), overrides, staged=staged, strict=strict, env=env)
    show_report(report, form, as_json)
    for hint in report.hints:
        say(f"hint: {hint}")
    return code


@env_app.command("show")
def envshow_report(form: FormatOption = Format.table, as_json: JsonOption = False) -> int:
    """Show the environment that training would run in, and its digest."""
    from soup_git.commands import env as command

    show_report(command.show(open_workspace()), form, as_json)
    return 0


@env_app.command("check")
def env_check(form: FormatOption = Format.table, as_json: JsonOption = False) -> int:
    """Say which packages differ from the lock's environment; exit 3 when one does."""
    from soup_git.commands import env as command

    report, code = command.check(open_workspace())
    show_report(report, form, as_json)
    return code
