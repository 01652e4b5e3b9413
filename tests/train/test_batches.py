"""Which rows evaluations read, and how rows are put together."""

from __future__ import annotations

import unigram as uni
from trimtab.train.evaluation import batched, evaluation_rows
from trimtab.train.loop import join_batches


def test_which_rows_are_read_depends_on_the_name_alone() -> None:
    rows = evaluation_rows("math", 50, None)
    assert sorted(rows) == list(range(50))
    assert rows != list(range(50))
    assert evaluation_rows("math", 50, 7) == rows[:7]
    assert evaluation_rows("web", 50, None) != rows


def test_runs_of_a_list() -> None:
    assert batched([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]
    assert batched([], 2) == []


def test_batches_are_joined_under_padding_that_carries_no_loss() -> None:
    short, long = uni.split([[0, 1]]).batch([0]), uni.split([[0, 2, 3, 4]]).batch([0])
    joined = join_batches([short, long])
    assert joined.input_ids[:, :2].tolist() == [[0, 1], [0, 2]]
    assert joined.attention_mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert joined.labels.tolist() == [[0, 1, -100, -100], [0, 2, 3, 4]]
