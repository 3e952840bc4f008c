"""The edge: what an exception becomes."""

from __future__ import annotations

import pytest

from soup_git.errors import run_to_exit_code


def importing(name: str) -> int:
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_a_missing_library_of_the_train_extra_names_the_extra(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_to_exit_code(lambda: importing("transformers.models")) == 128
    said = capsys.readouterr().err
    assert "transformers.models is not installed" in said
    assert "hint: pip install 'git-soup[train]'" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("module", "extra"), [("sacrebleu.metrics", "eval"), ("regex", "eval"), ("lm_eval", "lm-eval")]
)
def test_a_missing_scorers_library_names_its_extra(
    module: str, extra: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_to_exit_code(lambda: importing(module)) == 128
    assert f"hint: pip install 'git-soup[{extra}]'" in capsys.readouterr().err


def test_any_other_missing_module_is_our_bug(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_to_exit_code(lambda: importing("soup_git.nowhere")) == 128
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "bug in git-soup" in said
