"""`training.batch_size: auto`: the search on real steps, and what the config says afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from soup_git.commands import batchsize
from soup_git.core.batchsearch import Search, decide
from soup_git.errors import ExitCode, FatalError
from soup_git.storage.workspace import Workspace
from soup_git.training.config import load_config
from soup_git.training.rules import smallest_batch
from tests.training import tiny_model as tiny
from tests.training.methods import prepare

pytestmark = [
    # Found, not imported: the hub client reads the tests' environment when it is.
    pytest.mark.skipif(find_spec("trl") is None, reason="the train extra is not installed"),
    pytest.mark.filterwarnings(
        "ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning"
    ),
]

ROWS: dict[str, Any] = {
    "sft": tiny.conversation,
    "dpo": lambda n: {"prompt": f"{n}: ", "chosen": " yes", "rejected": " no"},
    "kto": lambda n: {"prompt": f"{n}: ", "completion": " yes", "label": n % 2 == 0},
    "classifier": lambda n: {"text": tiny.SENTENCES[n % 5], "label": n % 2},
    "embedding": lambda n: {"anchor": f"Which {n}?", "positive": tiny.SENTENCES[n % 5]},
}
PLENTY = 1 << 40


def searched(
    workspace: Path, task: str, *overrides: str, rows: int = 32, memory: int = PLENTY
) -> list[Search]:
    """What a search tells from size to size, in this process."""
    from soup_git.training import batchprobe

    prepare(workspace, task, [ROWS[task](n) for n in range(rows)])
    config = load_config(workspace / "soup.yaml", ["training.batch_size=auto", *overrides])
    config = config.with_batch_size(smallest_batch(config))
    told: list[Search] = []
    scratch = workspace.parent / "scratch"
    batchprobe.search(config, workspace, scratch, memory, told.append)
    assert not (scratch / "output").exists()
    return told


@pytest.mark.parametrize(
    ("task", "overrides", "sizes"),
    [
        ("sft", ["training.gradient_checkpointing=true"], (1, 2, 4)),
        ("sft", ["training.packing=true", "data.max_length=200"], (1,)),
        ("dpo", ["training.gradient_accumulation_steps=2"], (1, 2, 4)),
        ("kto", [], (2, 4)),
        ("classifier", ["training.num_labels=2"], (1, 2, 4)),
        pytest.param(
            *("embedding", [], (2, 4)),
            marks=pytest.mark.skipif(
                find_spec("sentence_transformers") is None, reason="the extra is not installed"
            ),
        ),
    ],
)
def test_real_steps_of_every_kind_of_trainer_are_tried(
    workspace: Path, task: str, overrides: list[str], sizes: tuple[int, ...]
) -> None:
    told = searched(workspace, task, *overrides)
    assert told[-1].sizes == sizes
    tried = [trial.size for trial in told[-1].trials]
    assert tried and tuple(tried) == sizes[: len(tried)]
    for trial in told[-1].trials:
        assert trial.tokens_per_second > 0
        assert trial.peak >= trial.rest > 0
    assert [len(search.trials) for search in told] == list(range(len(tried) + 1))
    assert decide(told[-1]).size in sizes


def test_a_size_that_would_take_too_much_is_not_tried(workspace: Path) -> None:
    told = searched(workspace, "sft", memory=1000)
    assert told[-1].limit == 800
    assert [trial.size for trial in told[-1].trials] == [1]
    assert "2 would take" in decide(told[-1]).why


@pytest.mark.parametrize("task", ["grpo", "rloo"])
def test_tasks_that_answer_in_groups_say_why_they_take_no_auto(task: str) -> None:
    text = f"base: m\ntask: {task}\ndata: {{train: x}}\ntraining: {{reward_fn: format, batch_size: auto}}\n"
    with pytest.raises(FatalError, match=f"batch_size: task {task} takes no auto: .*num_gener"):
        load_config(text)


def test_several_processes_take_a_number() -> None:
    text = "base: m\ndata: {train: x}\ntraining: {launcher: accelerate, batch_size: auto}\n"
    with pytest.raises(FatalError, match="batch_size: auto tries steps in one process"):
        load_config(text)


def test_what_trains_needs_a_number(workspace: Path) -> None:
    config = load_config(workspace / "soup.yaml", ["training.batch_size=auto"])
    with pytest.raises(FatalError, match="batch_size: auto: no number was found") as caught:
        _ = config.training.rows_per_batch
    assert "dvc repro" in caught.value.hint


# -- the process beside, and the file -----------------------------------------------------------


@pytest.fixture
def asking(repo: Path, base_folder: Path) -> Path:
    """A repository whose soup.yaml, in flow style and not for others to read, asks for a size."""
    (repo / "base").symlink_to(base_folder)
    tiny.write_rows(repo / "data" / "train.jsonl", [tiny.conversation(n) for n in range(24)])
    text = "base: base\r\ndata: {train: data/train.jsonl}\r\ntraining: {batch_size: auto, lr: 1e-4}\r\n"
    (repo / "soup.yaml").write_text(text, newline="")
    (repo / "soup.yaml").chmod(0o640)
    return repo


TRIAL = {"size": 1, "tokens_per_second": 10.0, "peak": 2, "rest": 1}
TOLD = {"device": "cpu", "limit": 99, "sizes": [1, 2], "out_of_memory": "", "trials": [TRIAL]}


def ending(monkeypatch: pytest.MonkeyPatch, code: int, told: Mapping[str, Any] | None) -> None:
    """Let the process that searches end so: the system's killer does not come when it is called."""

    def run(words: Sequence[str], _folder: Path, _env: Mapping[str, str]) -> int:
        assert list(words[3:5]) == ["soup_git.stages.batchsize", str(Path.cwd() / "soup.yaml")]
        if told is not None:
            (Path(words[5]) / "result.json").write_text(json.dumps(told))
        return code

    monkeypatch.setattr(batchsize, "run_as_user", run)


def settle(root: Path) -> Any:
    workspace = Workspace.open()
    return batchsize.settled(workspace, workspace, root / "soup.yaml")


@pytest.mark.parametrize("code", [-9, 137])
def test_of_a_search_that_was_killed_what_went_well_counts(
    asking: Path, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ending(monkeypatch, code, TOLD)
    before = (asking / "soup.yaml").read_bytes()
    config = settle(asking)
    assert config.training.batch_size == 1
    after = before.replace(b"auto, lr: 1e-4}", b"1, lr: 1e-4}  # batch_size: auto: found on cpu")
    assert (asking / "soup.yaml").read_bytes() == after
    assert (asking / "soup.yaml").stat().st_mode & 0o777 == 0o640
    said = capsys.readouterr()
    assert "2 rows: the system killed the search" in said.err
    assert "soup.yaml says training.batch_size: 1 now" in said.err
    assert said.out == ""
    assert settle(asking).training.batch_size == 1
    assert capsys.readouterr().err == ""
    # Asked again, it is searched again, and what ends by itself is kept.
    (asking / "soup.yaml").write_bytes(before)
    ending(monkeypatch, 0, {**TOLD, "out_of_memory": "no memory"})
    assert settle(asking).training.batch_size == 1
    assert "auto: 1, found on cpu in" in capsys.readouterr().err
    (asking / "soup.yaml").write_bytes(before)
    monkeypatch.setattr(batchsize, "run_as_user", None)
    assert settle(asking).training.batch_size == 1
    assert "auto: 1, as found on cpu before: 2 rows: no memory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "told"),
    [(-9, None), (-9, {**TOLD, "trials": []}), (1, {"never_began": "no memory"}),
     (0, {**TOLD, "trials": [], "out_of_memory": "no memory"})],
)  # fmt: skip
def test_where_nothing_fits_the_error_says_what_to_lower(
    asking: Path, code: int, told: Mapping[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending(monkeypatch, code, told)
    before = (asking / "soup.yaml").read_bytes()
    with pytest.raises(FatalError, match=r"soup.yaml:3: .*: auto: not even the smallest") as e:
        settle(asking)
    assert "memory" in str(e.value)
    assert "lower training.gradient_checkpointing: true" in e.value.hint
    assert (asking / "soup.yaml").read_bytes() == before


@pytest.mark.parametrize(("code", "ends"), [(128, 128), (130, 130)])
def test_what_the_search_said_itself_is_not_said_twice(
    asking: Path, code: int, ends: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending(monkeypatch, code, {**TOLD, "trials": []})
    assert settle(asking) == ExitCode(ends)


def test_a_config_that_changed_meanwhile_is_left_alone(
    asking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending(monkeypatch, 0, {**TOLD, "sizes": [1]})
    run, path = batchsize.run_as_user, asking / "soup.yaml"

    def edited(*words: Any) -> int:
        path.write_text(path.read_text() + "# more\n")
        return run(*words)

    monkeypatch.setattr(batchsize, "run_as_user", edited)
    with pytest.raises(FatalError, match="changed while its batch size was searched"):
        settle(asking)
    assert "auto, lr" in path.read_text()
