"""Rows of token ids as they stand in a trainer's data sets: masks, splits, and what is refused."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab import Domain
from trimtab.data.token_rows import TokenRows
from trimtab.data.tokens import tokenise
from trimtab.errors import DataError
from worlds import domain, texts, tokenizer

SHARES = (0.5, 0.25, 0.25)
IDS = st.lists(st.lists(st.integers(0, 50), min_size=2, max_size=9), min_size=1, max_size=40, unique_by=tuple)


def rows_of(split: Any) -> list[list[int]]:
    """The token ids of each row of a split."""
    return [
        split.ids[start:stop].tolist() for start, stop in zip(split.offsets, split.offsets[1:], strict=False)
    ]


@given(IDS)
def test_a_pool_is_parted_whole_and_the_same_whatever_its_order(ids: list[list[int]]) -> None:
    pool = [{"input_ids": row} for row in ids]
    one = TokenRows("a", pool).tokens(9, SHARES)
    two = TokenRows("a", pool[::-1]).tokens(9, SHARES)
    found = [row for split in one.splits.values() for row in rows_of(split)]
    assert sorted(found) == sorted(ids)
    assert {name: sorted(rows_of(split)) for name, split in one.splits.items()} == {
        name: sorted(rows_of(split)) for name, split in two.splits.items()
    }


def test_rows_are_those_of_the_tokenised_text() -> None:
    text = tokenise(
        Domain("math", **{s: texts("math", s, 9) for s in ("train", "validation", "test")}),
        tokenizer(),
        seq_len=16,
    )
    given_rows = datasets.DatasetDict(
        {
            name: datasets.Dataset.from_list([{"input_ids": row, "labels": row} for row in rows_of(split)])
            for name, split in text.splits.items()
        }
    )
    rows = TokenRows.of("math", given_rows)
    assert rows is not None
    found = rows.tokens(16, SHARES)
    assert found.splits.keys() == text.splits.keys()
    for name, split in text.splits.items():
        for part in ("ids", "loss", "offsets", "targets"):
            np.testing.assert_array_equal(getattr(found.splits[name], part), getattr(split, part))


def test_padding_is_left_out_and_masks_say_what_carries_loss() -> None:
    rows = [
        {"input_ids": [5, 6, 7, 0], "attention_mask": [1, 1, 1, 0], "labels": [-100, 6, 7, -100]},
        {"input_ids": [0, 8, 9, 3], "attention_mask": [0, 1, 1, 1], "labels": None},
        {"input_ids": [1, 2, 3, 4], "completion_mask": [0, 0, 1, 1], "assistant_masks": [0, 1, 1, 0]},
        {"input_ids": [7, 7, 7, 7], "labels": [7, -100, -100, -100]},  # its first token is never predicted
    ]
    split = TokenRows(
        "a", train=rows, validation=rows[:1] * 0 or [{"input_ids": [4, 4]}], test=[{"input_ids": [3, 3]}]
    )
    train = split.tokens(4, SHARES).splits["train"]
    assert rows_of(train) == [[5, 6, 7], [8, 9, 3], [1, 2, 3, 4]]
    marks = [train.loss[a:b].tolist() for a, b in zip(train.offsets, train.offsets[1:], strict=False)]
    assert marks == [[False, True, True], [True] * 3, [False, False, True, False]]
    assert train.targets.tolist() == [2, 2, 1]
    assert (train.counts.records, train.counts.dropped, train.records.tolist()) == (4, 1, [0, 1, 2])


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"input_ids": [1, 2, 3]}], r"row 0: got 3 tokens, expected at most seq_len=2; try seq_len=3"),
        ([{"input_ids": [1, 2], "labels": [1]}], r"row 0: got labels of shape \(1,\).* beside 2 tokens"),
        ([{"input_ids": [0.5, 2.0]}], r"row 0: got input_ids of shape .*float64"),
        ([{"input_ids": [1, 2], "labels": [1, 3]}], r"row 0: got labels of other tokens"),
        ([{"input_ids": [1, 2, 3]}, {"input_ids": [1] * 9}], r"got 3 tokens.*try seq_len=9 for the longest"),
        ([{"input_ids": [1, -1]}], r"row 0: got the token -1, expected token ids of at least 0"),
        ([{"input_ids": None}], r"row 0: got input_ids of shape \(\)"),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(DataError, match=told):
        TokenRows("a", rows).tokens(2, SHARES)


def test_masks_may_be_truth_values_and_rows_may_be_empty() -> None:
    rows = [{"input_ids": [], "completion_mask": []}]
    rows += [{"input_ids": [k, 4, 5, -1], "completion_mask": [False, False, True, True]} for k in range(9)]
    one = TokenRows("a", [{**row, "attention_mask": [i >= 0 for i in row["input_ids"]]} for row in rows])
    numbers = [{name: [int(it) for it in values] for name, values in row.items()} for row in rows]
    two = TokenRows(
        "a", [{**row, "attention_mask": [1, 1, 1, 0][: len(row["input_ids"])]} for row in numbers]
    )
    splits, others = (it.tokens(4, (1.0, 0.0, 0.0)).splits["train"] for it in (one, two))
    assert rows_of(splits) == rows_of(others) == [[k, 4, 5] for k in range(9)]
    assert splits.targets.tolist() == [1] * 9
    assert (splits.counts.records, splits.counts.dropped) == (10, 1)


def test_a_stream_that_does_not_know_its_columns_is_looked_into() -> None:
    rows = [{"input_ids": [k, k + 1]} for k in range(9)]
    stream = datasets.IterableDataset.from_generator(lambda: iter(rows))
    assert stream.column_names is None
    found = TokenRows.of("a", stream)
    assert found is not None
    assert sum(map(len, found.tokens(2, SHARES).splits.values())) == 9


def test_a_row_in_two_splits_and_a_domain_without_rows_are_refused() -> None:
    row = {"input_ids": [1, 2]}
    with pytest.raises(DataError, match="both in train and in test"):
        TokenRows("a", train=[row], test=[row]).tokens(2, SHARES)
    with pytest.raises(DataError, match="no row"):
        TokenRows("a", validation=[]).tokens(2, SHARES)


def test_what_has_no_token_ids_is_left_to_others() -> None:
    for data in (["a text"], [{"text": "a"}], domain("math"), "math.jsonl", {"train": ["a"]}, [], None):
        assert TokenRows.of("a", data) is None
    rows = [{"input_ids": [1, 2], "seq_lengths": [2]}] * 1
    found = TokenRows.of("a", {"val": rows, "other": ["x"]})
    assert found is not None
    assert found.splits == ("validation",)
    assert found.tokens(2, SHARES).unread == ("column 'seq_lengths' not used",)
