"""The command line: one small function per verb: parse, call the command, show its report.

Only this file knows typer. Commands are imported inside their verbs, so that no verb
pays for what another one needs.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

import soup_git
from soup_git.errors import ExitCode, FatalError

# Help is plain text: git's own help is, and pages and completions are made from it.
typer.core.HAS_RICH = False

# typer has click inside since 0.26 and beside it before; either way this is its base class.
UsageError: type[Any] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="git soup",
    help="git for fine-tuned adapters, as real git.",
    no_args_is_help=False,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
lock_app = typer.Typer(
    help="The pins that make a run reproducible: soup.lock.", rich_markup_mode=None
)
env_app = typer.Typer(help="The environment behind the lock's env_hash.", rich_markup_mode=None)
app.add_typer(lock_app, name="lock")
app.add_typer(env_app, name="env")


class Format(StrEnum):
    table = "table"
    json = "json"


FormatOption = Annotated[
    Format, typer.Option("--format", help="How to write the report.", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Short for --format json.")]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", metavar="FILE", help="Write the report to FILE, whole or not at all."
    ),
]
AdapterOption = Annotated[
    str | None,
    typer.Option("--adapter", metavar="PATH", help="Which adapter, where a revision has several."),
]


def command_tree() -> Any:
    """What is parsed with: click's command, with the verbs below it."""
    return typer.main.get_command(app)


def run(arguments: list[str]) -> int:
    """Parse and run; click's own errors become git's exit code for usage."""
    command = command_tree()
    if not arguments:
        with command.make_context("git soup", ["-h"], resilient_parsing=True) as context:
            sys.stderr.write(command.get_help(context) + "\n")
        return ExitCode.USAGE
    try:
        result = command.main(args=arguments, prog_name="git soup", standalone_mode=False)
    except UsageError as error:
        sys.stderr.write(f"error: {error.format_message()}\n")
        if error.ctx is not None:
            sys.stderr.write(f"{error.ctx.get_usage()}\n")
            sys.stderr.write(f"hint: {error.ctx.command_path} -h\n")
        return ExitCode.USAGE
    except typer.Abort:
        return ExitCode.INTERRUPTED
    except typer.Exit as error:
        return error.exit_code
    return int(result or 0)


def _form(form: Format, as_json: bool) -> str:
    return "json" if as_json else form.value


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> int:
    if version:
        sys.stdout.write(f"git-soup version {soup_git.__version__}\n")
        raise typer.Exit(0)
    if context.invoked_subcommand is None:
        raise typer.Exit(ExitCode.USAGE)
    return 0


@app.command()
def init(
    check: Annotated[
        bool, typer.Option("--check", help="Only say what is missing; exit 1 when something is.")
    ] = False,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Make this repository a workspace; what is there already stays."""
    from soup_git.commands import init as command
    from soup_git.render.report import show as show_report

    report, code = command.init(Path.cwd(), check_only=check)
    show_report(report, _form(form, as_json))
    return code


@app.command()
def add(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Adapter folders.")],
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Track adapters: weights to the cache, manifest and pointer staged."""
    from soup_git.commands import add as command
    from soup_git.render.report import show as show_report
    from soup_git.storage.workspace import Workspace

    report = command.add(Workspace.open(), folders)
    show_report(report, _form(form, as_json))
    return 0


@app.command()
def show(
    spec: Annotated[
        str,
        typer.Argument(metavar="SPEC", help="A folder, a revision, REV:PATH, or run/ID[@STEP]."),
    ],
    adapter: AdapterOption = None,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
    output: OutputOption = None,
) -> int:
    """Show one adapter: config, base, rank, modules, size, digest, origin."""
    from soup_git.commands import show as command
    from soup_git.render.report import show as show_report
    from soup_git.storage.workspace import Workspace

    report = command.show(Workspace.open(), spec, adapter)
    show_report(report, _form(form, as_json), output)
    return 0


@app.command()
def status(form: FormatOption = Format.table, as_json: JsonOption = False) -> int:
    """Say what is clean, modified, missing or drifted: adapters, data, lock."""
    from soup_git.commands import status as command
    from soup_git.render.report import show as show_report
    from soup_git.storage.workspace import Workspace

    show_report(command.status(Workspace.open()), _form(form, as_json))
    return 0


@app.command()
def fsck(form: FormatOption = Format.table, as_json: JsonOption = False) -> int:
    """Check that every manifest, lock and object that a ref reaches agrees; exit 1 if not."""
    from soup_git.commands import fsck as command
    from soup_git.render.report import show as show_report
    from soup_git.storage.workspace import Workspace

    report, code = command.fsck(Workspace.open())
    show_report(report, _form(form, as_json))
    return code


@app.command()
def branch(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME", help="The branch; with -m, OLD NEW.")
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            "-c",
            "--config",
            metavar="FILE",
            help="The training config to pin. [default: soup.yaml]",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            "--base-model",
            metavar="MODEL",
            help="The base model. [default: the config's]",
        ),
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            "--dataset",
            metavar="FILE",
            help="The dataset to pin. [default: the config's data.train]",
        ),
    ] = None,
    start: Annotated[
        str, typer.Option("--from", metavar="REV", help="The revision to build on.")
    ] = "HEAD",
    switch: Annotated[
        bool, typer.Option("--switch", help="Check the branch out afterwards.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "-f", "--force", help="Move a branch that exists; its reflog keeps the old tip."
        ),
    ] = False,
    delete: Annotated[
        bool, typer.Option("-d", "--delete", help="Delete NAME, as git does.")
    ] = False,
    move: Annotated[
        bool, typer.Option("-m", "--move", help="Rename OLD to NEW, as git does.")
    ] = False,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Make a branch that pins config, dataset, base and environment."""
    from soup_git.commands import branch as command
    from soup_git.commands import checkout as checkout_command
    from soup_git.render.report import show as show_report
    from soup_git.storage.workspace import Workspace

    _expect_names(names, 2 if move else 1)
    pins = {"-c": config, "--base": base, "--dataset": dataset, "--switch": switch}
    unfit = [flag for flag, value in pins.items() if value]
    if delete and move:
        raise typer.BadParameter("-d and -m do not go together")
    if (delete or move) and unfit:
        raise typer.BadParameter(f"{unfit[0]} means nothing with {'-d' if delete else '-m'}")
    workspace = Workspace.open()
    if delete:
        command.delete(workspace, names[0], force=force)
        return 0
    if move:
        command.rename(workspace, names[0], names[1], force=force)
        return 0
    report = command.create(
        workspace,
        names[0],
        config=config,
        base_model=base,
        dataset=dataset,
        start=start,
        force=force,
    )
    show_report(report, _form(form, as_json))
    if switch:
        checkout_command.checkout(Workspace.open(), names[0], force=False)
    return 0


def _expect_names(names: list[str], count: int) -> None:
    if len(names) != count:
        raise typer.BadParameter(
            f"expected {count} name{'s' if count > 1 else ''}, got {len(names)}"
        )


@app.command()
def branches(form: FormatOption = Format.table, as_json: JsonOption = False) -> int:
    """List the branches that pin something, and whether each still holds."""
    from soup_git.commands import branches as command
    from soup_git.render.report import show as show_report
    from soup_git.storage.workspace import Workspace

    show_report(command.branches(Workspace.open()), _form(form, as_json))
    return 0


@app.command()
def checkout(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", show_default=False)] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Only write the locked config to FILE."
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "-f", "--force", help="Take a branch that drifted as it is; give up local changes."
        ),
    ] = False,
) -> int:
    """Switch to a branch and bring back its config, data and adapters, or say what drifted.

    Without NAME, repair the work tree to what HEAD names.
    """
    from soup_git.commands import checkout as command
    from soup_git.storage.workspace import Workspace

    workspace = Workspace.open()
    if name is None:
        if output is not None:
            raise FatalError("-o needs a branch to take the config from", hint="git soup branches")
        command.repair(workspace, force=force)
    elif output is not None:
        command.write_config(workspace, name, output, force=force)
    else:
        command.checkout(workspace, name, force=force)
    return 0


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
    from soup_git.render.report import show as show_report
    from soup_git.storage.workspace import Workspace

    overrides = command.Overrides(base_model, base_sha, dataset_sha, env_hash)
    show_report(command.write(Workspace.open(), overrides, output), _form(form, as_json))
    return 0


@lock_app.command("show")
def lock_show(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", show_default=False)] = None,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Show a lock and validate its closure."""
    from soup_git.commands import lock as command
    from soup_git.render.report import show as show_report
    from soup_git.storage.workspace import Workspace

    show_report(command.show(Workspace.open(), file), _form(form, as_json))
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
    from soup_git.render.report import show as show_report
    from soup_git.storage.workspace import Workspace

    overrides = command.Overrides(base_model, base_sha, dataset_sha, env_hash)
    report, code = command.check(Workspace.open(), overrides, staged=staged, strict=strict, env=env)
    show_report(report, _form(form, as_json))
    for hint in report.hints:
        say(f"hint: {hint}")
    return code


@env_app.command("show")
def env_show(form: FormatOption = Format.table, as_json: JsonOption = False) -> int:
    """Show the environment that training would run in, and its digest."""
    from soup_git.commands import env as command
    from soup_git.render.report import show as show_report
    from soup_git.storage.workspace import Workspace

    show_report(command.show(Workspace.open()), _form(form, as_json))
    return 0


@env_app.command("check")
def env_check(form: FormatOption = Format.table, as_json: JsonOption = False) -> int:
    """Say which packages differ from the lock's environment; exit 3 when one does."""
    from soup_git.commands import env as command
    from soup_git.render.report import show as show_report
    from soup_git.storage.workspace import Workspace

    report, code = command.check(Workspace.open())
    show_report(report, _form(form, as_json))
    return code
