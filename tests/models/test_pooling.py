from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import ModelError, ShapeError
from trimtab.models.batches import pool

WAYS = ("mean", "max", "last")
ONE_BY_ONE = {"mean": lambda v: v.mean(0), "max": lambda v: v.amax(0), "last": lambda v: v[-1]}


@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    how=st.sampled_from(WAYS),
    left=st.booleans(),
    garbage=st.sampled_from([0.0, 1e9, torch.inf, torch.nan]),
    seed=st.integers(0, 99),
)
def test_pooling_is_that_of_each_example_alone_whatever_padding_holds(lengths, how, left, garbage, seed):
    draw = torch.Generator().manual_seed(seed)
    rows = [torch.randn(n, 3, generator=draw, dtype=torch.float64) for n in lengths]
    width = max(lengths)
    values = torch.full((len(rows), width, 3), garbage, dtype=torch.float64)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for k, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(0, len(row))
        values[k, where], mask[k, where] = row, 1
    expected = torch.stack([ONE_BY_ONE[how](row) for row in rows])
    torch.testing.assert_close(pool(values, how, mask), expected, rtol=1e-12, atol=1e-12)


def test_without_a_mask_all_tokens_count():
    values = torch.arange(12.0).reshape(2, 3, 2)
    assert torch.equal(pool(values, "mean"), values.mean(1))
    assert torch.equal(pool(values, "last"), values[:, -1])


def test_images_are_pooled_over_positions_and_vectors_stay():
    image = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert torch.equal(pool(image, "mean"), image.mean((2, 3)))
    assert torch.equal(pool(image, "max"), torch.tensor([[11.0, 23.0]]))
    vectors = torch.ones(2, 5)
    assert pool(vectors, "mean") is vectors


def test_gradients_reach_valid_tokens_only():
    values = torch.ones(1, 3, 2, requires_grad=True)
    pool(values, "mean", torch.tensor([[1, 1, 0]])).sum().backward()
    assert values.grad.tolist() == [[[0.5, 0.5], [0.5, 0.5], [0.0, 0.0]]]


@pytest.mark.parametrize(
    ("shape", "how", "mask", "error", "message"),
    [
        ((2, 3, 4), "median", None, ModelError, "pool: got 'median', expected one of"),
        ((2, 3, 4, 5), "last", None, ModelError, "pool: got last for an image, expected mean or max"),
        ((2, 3, 4), "mean", torch.ones(2, 4), ShapeError, r"a mask of shape \(2, 4\) for values"),
        (
            (2, 3, 4),
            "mean",
            torch.tensor([[1, 1, 1], [0, 0, 0]]),
            ShapeError,
            "an example without a valid token",
        ),
        ((2,), "mean", None, ShapeError, r"values of shape \(2,\)"),
    ],
)
def test_what_cannot_be_pooled_is_refused(shape, how, mask, error, message):
    with pytest.raises(error, match=message):
        pool(torch.ones(shape), how, mask)
