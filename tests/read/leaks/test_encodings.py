"""Encodings of served tokens, against a dictionary of each answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trimtab.errors import DataError
from trimtab.read.leaks.encodings import FLOOR_NATS, TopTokens, encode, one_hot, served_columns, untied


def tokens(rows, k=None) -> TopTokens:
    """Top tokens of rows of (token, value) pairs."""
    k = k or max(map(len, rows))
    ids, values = np.full((len(rows), k), -1), np.full((len(rows), k), np.nan)
    for row, pairs in enumerate(rows):
        for place, (token, value) in enumerate(sorted(pairs, key=lambda pair: -pair[1])):
            ids[row, place], values[row, place] = token, value
    return TopTokens(ids, values)


_answers = st.lists(
    st.dictionaries(st.integers(0, 12), st.floats(-20, 0, width=32), min_size=1, max_size=5).map(
        lambda one: list(one.items())
    ),
    min_size=1,
    max_size=8,
)


@given(_answers)
def test_served_tokens_stand_in_their_columns_and_others_at_the_floor(rows):
    top, told = tokens(rows), [dict(one) for one in rows]
    assume(all(len(set(one.values())) == len(one) for one in told))  # equal values are moved apart
    shared = sorted({t for one in told for t in one if sum(t in other for other in told) > 1})
    assert served_columns(top).tolist() == shared
    if not shared:
        with pytest.raises(DataError, match="share no token, expected tokens that at least 2 answers served"):
            encode(top, "served")
        return
    features = encode(top, "served")
    assert features.dtype == np.float32
    for row, one in enumerate(told):
        floor = np.float32(min(one.values())) - np.float32(FLOOR_NATS)
        assert features[row].tolist() == [np.float32(one.get(token, floor)) for token in shared]


@given(_answers, st.randoms(use_true_random=False))
def test_sorted_values_do_not_know_their_tokens(rows, random):
    top = tokens(rows)
    features = encode(top, "sorted")
    assert features.shape == (len(rows), top.k)
    assert (np.diff(features, axis=1) <= 0).all()
    names = random.sample(range(100), 13)
    renamed = tokens([[(names[token], value) for token, value in one] for one in rows])
    assert np.array_equal(encode(renamed, "sorted"), features)


@given(_answers)
def test_a_change_of_rows_changes_rows_alone(rows):
    top = tokens(rows)
    order = np.random.default_rng(0).permutation(len(top))
    assert np.array_equal(encode(top.rows(order), "sorted"), encode(top, "sorted")[order])
    if len(served_columns(top)):
        assert np.array_equal(encode(top.rows(order), "served"), encode(top, "served")[order])


def test_the_last_token_served_is_told_from_one_that_was_not():
    """With one token an answer, whose value is the same in all rows, the columns are the token."""
    top = tokens([[(3, -0.5)], [(3, -0.5)], [(5, -0.5)], [(5, -0.5)]])
    assert encode(top, "served").tolist() == [[-0.5, -1.5], [-0.5, -1.5], [-1.5, -0.5], [-1.5, -0.5]]


def test_fewer_tokens_have_fewer_columns_of_the_same_values():
    top = tokens([[(1, -0.1), (2, -1.0), (3, -2.0)], [(2, -0.2), (1, -1.5)], [(2, -0.3), (3, -1.0)]])
    assert top.top(1).ids.tolist() == [[1], [2], [2]]
    assert encode(top.top(2), "sorted").tolist() == encode(top, "sorted")[:, :2].tolist()
    assert served_columns(top.top(1)).tolist() == [2]
    assert len(top) == 3
    with pytest.raises(DataError, match="top: got 4, expected a number from 1 to 3"):
        top.top(4)


def test_answers_alone():
    ids = np.array([4, 2, 4, 2, 9])
    assert one_hot(ids).argmax(1)[:4].tolist() == [1, 0, 1, 0]
    assert one_hot(ids).sum(1).tolist() == [1, 1, 1, 1, 0]
    assert one_hot(np.arange(3)).tolist() == [[0.0]] * 3


@pytest.mark.parametrize(
    ("ids", "values", "message"),
    [
        ([1, 2], [0.0, -1.0], r"ids of shape \(2,\) and values of shape \(2,\), expected both \(n, k\)"),
        ([[1, 2]], [[0.0]], r"ids of shape \(1, 2\) and values of shape \(1, 1\)"),
        ([[]], [[]], "with k at least 1"),
        ([[1.0]], [[0.0]], "got ids of float64 and values of float64, expected integers and numbers"),
        ([[1, -1]], [[0.0, -1.0]], "got a token without a value, or a value without a token, in row 0"),
        ([[1, 2]], [[0.0, np.nan]], "expected -1 and nan together"),
        ([[1, 2]], [[0.0, -np.inf]], "got infinity in row 0, expected finite values"),
        (
            [[1, 2], [-1, 3]],
            [[0.0, -1.0], [np.nan, 0.0]],
            "got a gap in row 1, expected missing tokens at the end",
        ),
        (
            [[1, 2]],
            [[-1.0, 0.0]],
            "got values that rise in row 0, expected falling values; try sorting each row",
        ),
        ([[1, 2, 1]], [[0.0, -1.0, -2.0]], "got a token twice in row 0, expected different tokens"),
    ],
)
def test_what_are_no_top_tokens(ids, values, message):
    with pytest.raises(DataError, match=message):
        TopTokens(np.array(ids, dtype=None if ids != [[]] else int), np.array(values, dtype=float))


def test_what_cannot_be_encoded():
    top = tokens([[(1, 0.0)], [(1, 0.0)]])
    with pytest.raises(DataError, match="got 'sortd', expected 'sorted' or 'served'; try 'sorted'"):
        encode(top, "sortd")  # type: ignore[arg-type]
    empty = TopTokens(np.array([[1], [-1]]), np.array([[0.0], [np.nan]]))
    with pytest.raises(DataError, match="got no token in row 1, expected at least one token in every row"):
        encode(empty, "sorted")
    with pytest.raises(DataError, match="got token 1 of a vocabulary of 1, expected a text for each token"):
        TopTokens(top.ids, top.values, ("a",))


def test_the_order_of_tokens_that_rounding_made_equal_is_served_too() -> None:
    label = np.arange(60) % 2
    ids = np.where(label[:, None], [0, 1, 2], [0, 2, 1])
    top = TopTokens(ids, np.tile([-0.2, -2.0, -2.0], (60, 1)))
    apart = encode(top, "served")
    assert len(np.unique(apart, axis=0)) == 2
    assert np.abs(apart - [-0.2, -2.0, -2.0]).max() < 0.05
    assert (encode(top, "sorted") == encode(top, "sorted")[0]).all()


@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_untied_values_fall_and_round_to_what_they_were(seed: int, decimals: int) -> None:
    drawn = np.random.default_rng(seed).normal(size=(6, 5))
    values = -np.sort(np.abs(drawn)).round(decimals)
    apart = untied(values)
    assert (np.diff(apart, axis=1) < 0).all()
    assert np.array_equal(apart.round(decimals), values)
    assert np.array_equal(untied(drawn), drawn)
