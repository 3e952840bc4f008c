"""The command line: one small function per verb: parse, call the command, show its report.

Only these files know typer, a file per group of verbs. Commands are imported inside their
verbs, so that no verb pays for what another one needs.
"""

# ruff: isort: skip_file
# Imported in the order in which the help lists their verbs.
from soup_git.cli import workspace, branches, history, sharing, training, starting
from soup_git.cli import diagnosis, evaluation, sweep
from soup_git.cli import bisect, arithmetic, review, lock, ui
from soup_git.cli.app import command_tree, run

__all__ = [
    "arithmetic",
    "bisect",
    "branches",
    "command_tree",
    "diagnosis",
    "evaluation",
    "history",
    "lock",
    "review",
    "run",
    "sharing",
    "starting",
    "sweep",
    "training",
    "ui",
    "workspace",
]
