"""What adapters are worth: eval, gate, compare, and the schema of suites."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from soup_git.cli.app import app, group, open_workspace, show_report
from soup_git.cli.options import (
    BaseAsOption,
    JsonOption,
    OutputOption,
    Page,
    PageOption,
    base_as_of,
)
from soup_git.errors import ExitCode

suite_app = group(
    "suite", "Evaluation suites: what adapters are asked, and how answers are scored."
)

SuiteOption = Annotated[Path, typer.Option("--suite", metavar="FILE", help="The suite, YAML.")]
BaselineOption = Annotated[
    str | None,
    typer.Option("--baseline", metavar="SPEC", help="Compare with this adapter, or with `base`."),
]
BaseOption = Annotated[
    str | None,
    typer.Option("--base", metavar="MODEL", help="The base model, whatever the adapters name."),
]
BatchOption = Annotated[
    int | None,
    typer.Option("--batch-size", metavar="N", min=1, max=4096, help="Rows per forward pass."),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", min=1, max=1024, help="CPU threads for the model."),
]
PythonOption = Annotated[
    bool,
    typer.Option(
        "--allow-python", help="Let the suite run scorers that are code of the workspace."
    ),
]
NoCacheOption = Annotated[
    bool, typer.Option("--no-cache", help="Ask again what was asked before, and keep no score.")
]


@app.command("eval")
def evaluate(
    specs: Annotated[
        list[str],
        typer.Argument(metavar="SPEC...", help="Adapters; `base` is the bare base model."),
    ],
    suite: SuiteOption,
    baseline: BaselineOption = None,
    base: BaseOption = None,
    base_as: BaseAsOption = None,
    batch_size: BatchOption = None,
    threads: ThreadsOption = None,
    allow_python: PythonOption = False,
    no_cache: NoCacheOption = False,
    no_note: Annotated[
        bool, typer.Option("--no-note", help="Write no note on the adapters' commits.")
    ] = False,
    metrics: Annotated[
        Path | None,
        typer.Option(
            "--metrics", metavar="FILE", help="Also write one adapter's scores as JSON, for DVC."
        ),
    ] = None,
    form: PageOption = Page.table,
    as_json: JsonOption = False,
    output: OutputOption = None,
) -> int:
    """Score adapters on a suite, with standard errors and differences to a baseline."""
    from soup_git.commands import eval as command

    if metrics is not None and len(specs) != 1:
        raise typer.BadParameter("--metrics holds the scores of one adapter: name one")
    request = command.EvalRequest(
        specs, suite, baseline, base, batch_size, threads, allow_python, not no_cache,
        not no_note, metrics, base_as=base_as_of(base_as),
    )  # fmt: skip
    show_report(command.evaluate(open_workspace(), request), form, as_json, output)
    return ExitCode.OK


@app.command()
def gate(
    suite: SuiteOption,
    spec: Annotated[
        str | None, typer.Argument(metavar="[SPEC]", help="An adapter. [default: the work tree's]")
    ] = None,
    baseline: BaselineOption = None,
    base: BaseOption = None,
    base_as: BaseAsOption = None,
    batch_size: BatchOption = None,
    threads: ThreadsOption = None,
    allow_python: PythonOption = False,
    no_cache: NoCacheOption = False,
    form: PageOption = Page.table,
    as_json: JsonOption = False,
    output: OutputOption = None,
) -> int:
    """Exit 1 when a score is past its threshold by more than the noise."""
    from soup_git.commands import gate as command
    from soup_git.commands.eval import EvalRequest

    request = EvalRequest(
        [spec] if spec else [], suite, baseline, base, batch_size, threads, allow_python,
        not no_cache, base_as=base_as_of(base_as),
    )  # fmt: skip
    report, code = command.gate(open_workspace(), request)
    show_report(report, form, as_json, output)
    return code


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="An adapter; `base` is the bare base.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    prompts: Annotated[
        Path,
        typer.Option(
            "--prompts", metavar="FILE", help="Rows with a prompt (.jsonl), or lines (.txt)."
        ),
    ],
    base: BaseOption = None,
    base_as: BaseAsOption = None,
    max_new_tokens: Annotated[
        int,
        typer.Option(
            "--max-new-tokens", metavar="N", min=1, max=1 << 16, help="Tokens of an answer at most."
        ),
    ] = 64,
    batch_size: BatchOption = None,
    threads: ThreadsOption = None,
    form: PageOption = Page.table,
    as_json: JsonOption = False,
    output: OutputOption = None,
) -> int:
    """Show what two adapters say to the same prompts, side by side."""
    from soup_git.commands import compare as command

    request = command.CompareRequest(
        a, b, prompts, base, max_new_tokens, batch_size, threads, base_as_of(base_as)
    )
    show_report(command.compare(open_workspace(), request), form, as_json, output)
    return ExitCode.OK


@suite_app.command("schema")
def suite_schema(output: OutputOption = None) -> int:
    """Print the JSON Schema of a suite, for editors."""
    from soup_git.commands.eval import suite_schema_text
    from soup_git.render.report import write_text

    write_text(suite_schema_text(), output)
    return ExitCode.OK
