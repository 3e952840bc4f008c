"""What can go wrong, and the one edge that turns it into text and an exit code.

Any layer raises `FatalError`; nothing below the edge catches it. A bug of our own
keeps its traceback and exits 128, never 1: inside `git bisect run`, 1 would blame a
commit for our mistake.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from enum import IntEnum

from soup_git.core.text import printable

ISSUES = "https://github.com/git-soup/git-soup/issues"

_TRAINS = "this trains or reads a model"
_SCORES = "this scores what a model says"
EXTRA_OF = {
    **dict.fromkeys(
        ("accelerate", "datasets", "jinja2", "peft", "safetensors", "tokenizers", "torch",
         "transformers", "trl"),
        ("train", _TRAINS),
    ),
    **dict.fromkeys(
        ("jsonschema", "referencing", "regex", "rouge_score", "sacrebleu"), ("eval", _SCORES)
    ),
    "sentence_transformers": ("embedding", "this trains a model to embed texts"),
    "deepspeed": ("deepspeed", "this splits a model among processes"),
    "lm_eval": ("lm-eval", "this asks lm-evaluation-harness"),
}  # fmt: skip
"""What an extra brings -> the extra, and what it is for."""


class ExitCode(IntEnum):
    """git's own exit codes where git has one."""

    OK = 0
    CHECK_FAILED = 1
    DRIFT = 3
    CANNOT_JUDGE = 125
    FATAL = 128
    USAGE = 129
    INTERRUPTED = 130


class FatalError(Exception):
    """The command cannot go on: a sentence, and the next command to type."""

    code = ExitCode.FATAL

    def __init__(self, message: str, *, hint: str = "", code: ExitCode | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        if code is not None:
            self.code = code


class DriftError(FatalError):
    """A refusal because a pin and the world disagree."""

    code = ExitCode.DRIFT


def report_error(error: FatalError) -> int:
    lines = printable(str(error), keep_newlines=True)
    word = "error" if error.code == ExitCode.USAGE else "fatal"
    print(f"{word}: {lines}", file=sys.stderr)
    if error.hint:
        print(f"hint: {printable(error.hint)}", file=sys.stderr)
    return int(error.code)


def run_to_exit_code(command: Callable[[], int]) -> int:
    """Run `command` and return the process's exit code. The only place that catches."""
    try:
        code = command()
        sys.stdout.flush()
    except FatalError as error:
        return report_error(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) left; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except OSError as error:
        return report_error(_from_the_system(error))
    except ModuleNotFoundError as error:
        known = EXTRA_OF.get((error.name or "").partition(".")[0])
        if known is None:
            return _report_bug()
        extra, what = known
        return report_error(
            FatalError(
                f"{what}, and {error.name} is not installed",
                hint=f"pip install 'git-soup[{extra}]'",
            )
        )
    except Exception:  # noqa: BLE001 - the edge: whatever else arrives here is our bug
        return _report_bug()
    return code


def _from_the_system(error: OSError) -> FatalError:
    """What the system would not do with a file: the disk's, the rights' or the name's fault."""
    where, what = error.filename or "the disk", error.strerror or str(error)
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return FatalError(
            f"{where}: {what}", hint="df -h . to see what is full, then type the command again"
        )
    return FatalError(f"{where}: {what}", hint=f"ls -ld {where} tells what is there, and whose")


def _report_bug() -> int:
    import traceback

    traceback.print_exc()
    print("fatal: this is a bug in git-soup, not in your repository", file=sys.stderr)
    print(f"hint: report it with the lines above at {ISSUES}", file=sys.stderr)
    return int(ExitCode.FATAL)
