"""The typer app, what every verb calls, and the parse itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

import soup_git
from soup_git.errors import ExitCode, FatalError

if TYPE_CHECKING:
    from soup_git.cli.options import Format, Page
    from soup_git.render.report import Report
    from soup_git.storage.workspace import Workspace

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


def group(name: str, help_: str) -> typer.Typer:
    """A verb with verbs of its own, as `git soup lock write`."""
    made = typer.Typer(help=help_, rich_markup_mode=None)
    app.add_typer(made, name=name)
    return made


def command_tree(verb: str | None = None) -> Any:
    """What is parsed with: click's command, with the verbs below it.

    With the name of a verb, that verb alone: to read the options of all of them takes typer
    longer than most verbs run.
    """
    commands, groups = app.registered_commands, app.registered_groups
    mine = [c for c in commands if (c.name or getattr(c.callback, "__name__", "")) == verb]
    ours = [group for group in groups if group.name == verb]
    if mine or ours:
        app.registered_commands, app.registered_groups = mine, ours
    try:
        return typer.main.get_command(app)
    finally:
        app.registered_commands, app.registered_groups = commands, groups


def run(arguments: list[str]) -> int:
    """Parse and run; click's own errors become git's exit code for usage."""
    arguments = _as_git(arguments)
    command = command_tree(arguments[0] if arguments else None)
    if not arguments:
        with command.make_context("git soup", ["-h"], resilient_parsing=True) as context:
            sys.stderr.write(command.get_help(context) + "\n")
        return ExitCode.USAGE
    try:
        result = command.main(args=arguments, prog_name="git soup", standalone_mode=False)
    except UsageError as error:
        return _report_usage(error, arguments)
    except typer.Abort:
        return ExitCode.INTERRUPTED
    except typer.Exit as error:
        return error.exit_code
    return int(result or 0)


def _as_git(arguments: list[str]) -> list[str]:
    """The arguments after `-C DIR`, which is obeyed, and with `-3` as git log takes it."""
    while len(arguments) > 1 and arguments[0] == "-C":
        try:
            os.chdir(arguments[1])
        except OSError as error:
            raise FatalError(f"cannot change to {arguments[1]!r}: {error.strerror}") from None
        arguments = arguments[2:]
    if arguments[:1] == ["log"]:
        return [f"-n{a[1:]}" if a[:1] == "-" and a[1:].isdecimal() else a for a in arguments]
    return arguments


def _report_usage(error: Any, arguments: list[str]) -> int:
    from soup_git.cli.usage import hint, without_the_originals_group

    context = error.ctx
    path = context.command_path if context is not None else "git soup"
    command = context.command if context is not None else command_tree()
    verbs = command_tree().commands if path == "git soup" else getattr(command, "commands", {})
    known = [*verbs, *(name for option in command.params for name in option.opts)]
    message, what = hint(path, error.format_message(), known)
    sys.stderr.write(f"error: {message}\n")
    # The parser's own errors come without a context, and click's have one.
    if context is not None:
        sys.stderr.write(f"{context.get_usage()}\n")
    what = without_the_originals_group(arguments, list(verbs)) or what
    sys.stderr.write(f"hint: {what}\n")
    return ExitCode.USAGE


def open_workspace() -> Workspace:
    """The workspace around the current folder."""
    from soup_git.storage.workspace import Workspace

    return Workspace.open()


def show_report(
    report: Report, form: Format | Page, as_json: bool, output: Path | None = None
) -> None:
    """Write a report where and how the options say."""
    from soup_git.render.report import show

    show(report, "json" if as_json else form.value, output)


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
