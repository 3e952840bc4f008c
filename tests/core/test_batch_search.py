"""Which batch sizes are tried, and which is the answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from soup_git.core.batchsearch import Search, Trial, decide, predicted, search_key, sizes

GB = 10**9


def trial(size: int, speed: float, peak: float, rest: float = 2) -> Trial:
    return Trial(size, speed, int(peak * GB), int(rest * GB))


def search(*trials: Trial, limit: float = 10, out_of_memory: str = "") -> Search:
    return Search("cpu", int(limit * GB), (1, 2, 4, 8), trials, out_of_memory)


@pytest.mark.parametrize(
    ("rows", "smallest", "tried"),
    [
        (1, 1, (1,)), (15, 1, (1,)), (16, 1, (1, 2)), (70, 1, (1, 2, 4, 8)),
        (10_000, 1, (1, 2, 4, 8, 16, 32, 64)), (3, 2, (2,)), (64, 2, (2, 4, 8)),
    ],
)  # fmt: skip
def test_powers_of_two_that_leave_an_epoch_some_steps(
    rows: int, smallest: int, tried: tuple[int, ...]
) -> None:
    assert sizes(rows, smallest) == tried


def test_the_next_size_is_predicted_from_what_grew() -> None:
    assert predicted([trial(1, 1, 3)]) == 4 * GB
    assert predicted([trial(1, 1, 3), trial(2, 2, 4)]) == 6 * GB
    # An allocator that keeps what was freed hides it between steps, and not from size to size.
    assert predicted([trial(1, 1, 3, 3), trial(2, 2, 5, 5)]) == 9 * GB


ONE, TWO, FOUR = trial(1, 100, 3), trial(2, 190, 4), trial(4, 300, 6)


@pytest.mark.parametrize(
    ("found", "next_", "size", "why"),
    [
        (search(), 1, None, ""),
        (search(ONE), 2, None, ""),
        (search(ONE, limit=3.9), None, 1, "2 would take 4.0 GB, and 3.9 GB may be used"),
        (search(ONE, TWO), 4, None, ""),
        (search(ONE, replace(TWO, tokens_per_second=109)), None, 1, "2 rows at once are hardly"),
        (search(ONE, TWO, FOUR), 8, None, ""),
        (search(ONE, TWO, FOUR, trial(8, 500, 9)), None, 8, "an epoch had few steps"),
        (search(ONE, TWO, out_of_memory="CUDA"), None, 2, "4 rows: CUDA"),
        (search(out_of_memory="CUDA"), None, None, "CUDA"),
    ],
)  # fmt: skip
def test_where_a_search_goes_on_and_where_it_ends(
    found: Search, next_: int | None, size: int | None, why: str
) -> None:
    decision = decide(found)
    assert (decision.next, decision.size) == (next_, size)
    assert why in decision.why
    assert Search.from_dict(found.as_dict()) == found


def test_a_search_holds_for_other_lengths_and_not_for_other_memory() -> None:
    config = {"base": "b", "output": "o", "training": {"lr": 1, "batch_size": "auto", "trl": {}}}

    def key(**training: object) -> str:
        return search_key({**config, "training": {**config["training"], **training}}, "d", "e", "m")  # type: ignore[dict-item]

    assert len({key(), key(lr=2), key(epochs=5), key(batch_size=4)}) == 1
    assert len({key(), key(gradient_checkpointing=True), key(trl={"adam_beta1": 1})}) == 3
