"""The command line: one small function per verb: parse, call the command, show its report.

Only this file knows typer. Commands are imported inside their verbs, so that no verb
pays for what another one needs.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

import soup_git
from soup_git.errors import ExitCode, FatalError

if TYPE_CHECKING:
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
lock_app = typer.Typer(
    help="The pins that make a run reproducible: soup.lock.", rich_markup_mode=None
)
env_app = typer.Typer(help="The environment behind the lock's env_hash.", rich_markup_mode=None)
data_app = typer.Typer(help="The training data, as training sees it.", rich_markup_mode=None)
config_app = typer.Typer(help="The training config, soup.yaml.", rich_markup_mode=None)
app.add_typer(lock_app, name="lock")
app.add_typer(env_app, name="env")
app.add_typer(data_app, name="data")
app.add_typer(config_app, name="config")


class Format(StrEnum):
    table = "table"
    json = "json"


class Page(StrEnum):
    """The formats of a report that people read in a browser or a pull request."""

    table = "table"
    json = "json"
    markdown = "markdown"
    html = "html"


FormatOption = Annotated[
    Format, typer.Option("--format", help="How to write the report.", show_default=True)
]
PageOption = Annotated[
    Page, typer.Option("--format", help="How to write the report.", show_default=True)
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


# \b keeps click from filling a paragraph's lines together.
_MERGE_HELP = """\b
Which strategy? On 16 LLM benchmarks only the plain weighted sum helped reliably, and
subspace methods usually lost (arXiv 2511.21437); over some 1,000 hub LoRAs adaptive
merging gained little over training anew (arXiv 2602.12323). So linear is the default and
exact; the others are offered, and an eval should decide.

\b
Which space, for strategies that work entry by entry?
  shared   an orthonormal basis of the updates themselves: fast, and the same whatever
           basis the factors are in
  delta    the dense entries of the update, as the papers write it: minutes for an 8B
           model; the residual of going back to rank K is reported
  factors  A and B separately: PEFT's numbers, for those who need them

\b
Several weights are applied as given and default to 1/N each."""


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
        # The parser's own errors come without a context, and click's have one.
        if error.ctx is not None:
            sys.stderr.write(f"{error.ctx.get_usage()}\n")
        path = error.ctx.command_path if error.ctx is not None else "git soup"
        sys.stderr.write(f"hint: {path} -h\n")
        return ExitCode.USAGE
    except typer.Abort:
        return ExitCode.INTERRUPTED
    except typer.Exit as error:
        return error.exit_code
    return int(result or 0)


def _workspace() -> Workspace:
    from soup_git.storage.workspace import Workspace

    return Workspace.open()


def _show(report: Report, form: Format | Page, as_json: bool, output: Path | None = None) -> None:
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


@app.command()
def init(
    check: Annotated[
        bool, typer.Option("--check", help="Only say what is missing; exit 1 when something is.")
    ] = False,
    template: Annotated[
        str | None,
        typer.Option("--template", metavar="NAME", help="Also write soup.yaml and dvc.yaml: chat."),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="MODEL", help="The template's base model.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="FILE", help="The template's dataset.")
    ] = None,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Make this repository a workspace; what is there already stays."""
    from soup_git.commands import init as command

    chosen = None
    if template is not None:
        chosen = command.Template(
            template, base or command.DEFAULT_BASE, dataset or command.DEFAULT_DATASET
        )
    elif base is not None or dataset is not None:
        raise typer.BadParameter("--base and --dataset fill in a --template")
    report, code = command.init(Path.cwd(), check_only=check, template=chosen)
    _show(report, form, as_json)
    return code


@app.command()
def add(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Adapter folders.")],
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Track adapters: weights to the cache, manifest and pointer staged."""
    from soup_git.commands import add as command

    report = command.add(_workspace(), folders)
    _show(report, form, as_json)
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

    report = command.show(_workspace(), spec, adapter)
    _show(report, form, as_json, output)
    return 0


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="An adapter spec.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    adapter: AdapterOption = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k", metavar="N", min=1, help="Only the N modules that drifted most. [table: 20]"
        ),
    ] = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit 1 when the two differ, as git diff.")
    ] = False,
    form: PageOption = Page.table,
    as_json: JsonOption = False,
    output: OutputOption = None,
) -> int:
    """Compare two adapters: how far each module's update moved, whatever the factors' basis."""
    from soup_git.commands import diff as command

    report = command.diff(_workspace(), a, b, adapter)
    is_short = not as_json and form in {Page.table, Page.markdown}
    rows = top_k or (command.ROWS_IN_TABLE if is_short else None)
    _show(report if rows is None else report.top(rows), form, as_json, output)
    return ExitCode.CHECK_FAILED if exit_code and report.differs else ExitCode.OK


@app.command(epilog=_MERGE_HELP)
def merge(
    specs: Annotated[
        list[str] | None, typer.Argument(metavar="A B...", help="1 to 16 adapter specs.")
    ] = None,
    more: Annotated[
        list[str] | None, typer.Option("--adapter", metavar="SPEC", help="One more adapter.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Write the merged adapter to DIR."),
    ] = None,
    strategy: Annotated[
        str, typer.Option("-s", "--strategy", metavar="S", help="How to merge: --list names all.")
    ] = "linear",
    weights: Annotated[
        str | None,
        typer.Option("--weights", metavar="W,W...", help="One per adapter. [default: 1/N each]"),
    ] = None,
    expression: Annotated[
        str | None,
        typer.Option("--expr", metavar="EXPR", help="Weights as a sum: 'a + 0.5*b - c'."),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option("--density", metavar="D", help="The share of entries to keep. [default: 0.5]"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Of random masks. [default: 0]")
    ] = None,
    rank: Annotated[
        str | None,
        typer.Option(
            "--rank",
            metavar="K|full",
            help="The result's rank. [default: full for linear, else the largest input rank]",
        ),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(
            "--space",
            metavar="shared|delta|factors",
            help="Where entries are compared. [default: shared]",
        ),
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Divide the weights by their sum.")
    ] = False,
    base: Annotated[
        Path | None,
        typer.Option(
            "--base", metavar="DIR", help="The base model's folder: DoRA and whole tensors need it."
        ),
    ] = None,
    allow_cross_base: Annotated[
        bool,
        typer.Option(
            "--allow-cross-base", help="Merge although the configs name different base models."
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("-f", "--force", help="Replace an adapter that DIR holds.")
    ] = False,
    list_: Annotated[
        bool, typer.Option("--list", help="List the strategies with their papers.")
    ] = False,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Merge adapters into one, on their updates ΔW = s·B·A rather than on A and B."""
    from soup_git.commands import merge as command

    if list_:
        _show(command.strategies(), form, as_json)
        return 0
    named = [*(specs or []), *(more or [])]
    if output is None:
        raise typer.BadParameter("-o DIR is needed: where to write the merged adapter")
    if not named:
        raise typer.BadParameter("name the adapters to merge")
    request = command.MergeRequest(
        named, output, strategy, weights, expression, density, seed, rank, space,
        normalize, allow_cross_base, base, force,
    )  # fmt: skip
    _show(command.merge(_workspace(), request), form, as_json)
    return 0


@app.command()
def status(form: FormatOption = Format.table, as_json: JsonOption = False) -> int:
    """Say what is clean, modified, missing or drifted: adapters, data, lock."""
    from soup_git.commands import status as command

    _show(command.status(_workspace()), form, as_json)
    return 0


@app.command()
def fsck(form: FormatOption = Format.table, as_json: JsonOption = False) -> int:
    """Check that every manifest, lock and object that a ref reaches agrees; exit 1 if not."""
    from soup_git.commands import fsck as command

    report, code = command.fsck(_workspace())
    _show(report, form, as_json)
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

    _expect_names(names, 2 if move else 1)
    pins = {"-c": config, "--base": base, "--dataset": dataset, "--switch": switch}
    unfit = [flag for flag, value in pins.items() if value]
    if delete and move:
        raise typer.BadParameter("-d and -m do not go together")
    if (delete or move) and unfit:
        raise typer.BadParameter(f"{unfit[0]} means nothing with {'-d' if delete else '-m'}")
    workspace = _workspace()
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
    _show(report, form, as_json)
    if switch:
        checkout_command.checkout(_workspace(), names[0], force=False)
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

    _show(command.branches(_workspace()), form, as_json)
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

    workspace = _workspace()
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

    overrides = command.Overrides(base_model, base_sha, dataset_sha, env_hash)
    _show(command.write(_workspace(), overrides, output), form, as_json)
    return 0


@lock_app.command("show")
def lock_show(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", show_default=False)] = None,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Show a lock and validate its closure."""
    from soup_git.commands import lock as command

    _show(command.show(_workspace(), file), form, as_json)
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
    report, code = command.check(_workspace(), overrides, staged=staged, strict=strict, env=env)
    _show(report, form, as_json)
    for hint in report.hints:
        say(f"hint: {hint}")
    return code


@env_app.command("show")
def env_show(form: FormatOption = Format.table, as_json: JsonOption = False) -> int:
    """Show the environment that training would run in, and its digest."""
    from soup_git.commands import env as command

    _show(command.show(_workspace()), form, as_json)
    return 0


@env_app.command("check")
def env_check(form: FormatOption = Format.table, as_json: JsonOption = False) -> int:
    """Say which packages differ from the lock's environment; exit 3 when one does."""
    from soup_git.commands import env as command

    report, code = command.check(_workspace())
    _show(report, form, as_json)
    return code


@app.command()
def train(
    again: Annotated[
        bool, typer.Option("--again", help="Train even when exactly this was trained before.")
    ] = False,
    reuse: Annotated[
        bool, typer.Option("--reuse", help="Take the adapter that was trained from exactly this.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Give up an interrupted run instead of resuming it.")
    ] = False,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Run the pipeline of dvc.yaml (dvc repro), or offer the result that is there already."""
    from soup_git.commands import train as command

    if again and reuse:
        raise typer.BadParameter("--again and --reuse exclude each other")
    ask = sys.stdin.isatty() and sys.stderr.isatty()
    report, code = command.train(_workspace(), again=again, reuse=reuse, restart=restart, ask=ask)
    if report is not None:
        _show(report, form, as_json)
    return code


@app.command()
def plan(form: FormatOption = Format.table, as_json: JsonOption = False) -> int:
    """Say what dvc repro would do, and why; exit 3 when something would run."""
    from soup_git.commands import plan as command

    report, code = command.plan(_workspace())
    _show(report, form, as_json)
    return code


@app.command()
def verify(
    revision: Annotated[str, typer.Argument(metavar="[REV]", show_default=False)] = "HEAD",
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            metavar="X",
            min=0,
            help="Accept relative differences of the update up to X, as GPUs need.",
        ),
    ] = None,
    adapter: AdapterOption = None,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Rebuild the adapter of REV from its lock, or its recipe, and compare digests."""
    from soup_git.commands import verify as command

    report, code = command.verify(_workspace(), revision, tolerance, adapter)
    _show(report, form, as_json)
    return code


@data_app.command("show")
def data_show(
    row: Annotated[int, typer.Argument(metavar="[ROW]", min=1, show_default=False)] = 1,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="As tokens, with what is and is not in the loss.")
    ] = False,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Show a row of the training data (1 is the first), as training sees it."""
    from soup_git.commands import data as command

    workspace = _workspace()
    report = command.tokens(workspace, row) if tokens else command.row(workspace, row)
    _show(report, form, as_json)
    return 0


@config_app.command("check")
def config_check(form: FormatOption = Format.table, as_json: JsonOption = False) -> int:
    """Check soup.yaml without training: every error at once, with its line."""
    from soup_git.commands import config as command

    _show(command.check(_workspace()), form, as_json)
    return 0


@config_app.command("schema")
def config_schema(output: OutputOption = None) -> int:
    """Print the JSON Schema of soup.yaml, for editors."""
    from soup_git.commands import config as command
    from soup_git.render.report import write_text

    write_text(command.schema_text(), output)
    return 0


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where; a new folder.", show_default=True)
    ] = Path("demo"),
    base_only: Annotated[
        bool, typer.Option("--base-only", help="Only make the small base model, in DIR.")
    ] = False,
    base: Annotated[
        Path | None,
        typer.Option("--base", metavar="FOLDER", help="Use a base model that --base-only made."),
    ] = None,
) -> int:
    """Play the whole story in a throw-away repository: train, branch, drift, come back."""
    from soup_git.commands import demo as command

    if base_only:
        command.make_base(folder)
        return 0
    return command.play(folder, base)
