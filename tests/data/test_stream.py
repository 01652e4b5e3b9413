"""The stream's messages and its numbers on cases worked out by hand; its laws are in tests/laws."""

from __future__ import annotations

import json

import pytest

from trimtab.data.stream import UNIT, MixtureStream, permutation, quantise
from trimtab.errors import CheckpointError, ConfigError, DataError, ShapeError


def counts(stream: MixtureStream, weights: list[float]) -> dict[str, int]:
    drawn = [name for name, _ in stream.draw(weights)]
    return {name: drawn.count(name) for name in stream.sizes}


def test_shares_of_a_whole_batch_are_exact():
    stream = MixtureStream({"a": 100, "b": 100, "c": 100}, batch_size=8, seed=0)
    assert counts(stream, [0.5, 0.25, 0.25]) == {"a": 4, "b": 2, "c": 2}


def test_a_share_below_one_row_is_carried_over():
    stream = MixtureStream({"rare": 100, "rest": 100}, batch_size=2, seed=0)
    rare = [counts(stream, [0.125, 0.875])["rare"] for _ in range(16)]
    assert sum(rare) == 4
    assert [sum(rare[start : start + 4]) for start in range(0, 16, 4)] == [1, 1, 1, 1]


def rows_of(name: str, stream: MixtureStream, weights: list[float], draws: int) -> list[int]:
    return [row for _ in range(draws) for got, row in stream.draw(weights) if got == name]


def test_every_domain_keeps_its_own_order_whatever_the_others_do():
    alone = MixtureStream({"math": 7}, batch_size=1, seed=3)
    beside = MixtureStream({"web": 5, "math": 7}, batch_size=2, seed=3)
    assert rows_of("math", alone, [1.0], 21) == rows_of("math", beside, [0.5, 0.5], 21)


def test_looking_ahead_tells_the_next_rows_and_moves_nothing():
    """Also past the end of an epoch of 5 rows."""
    stream = MixtureStream({"math": 5, "web": 3}, 1, seed=2)
    stream.draw([1.0, 0.0])
    before = stream.state()
    ahead = stream.ahead("math", 8)
    assert stream.state() == before
    assert [stream.draw([1.0, 0.0])[0][1] for _ in range(8)] == ahead
    assert stream.ahead("web", 0) == []


def test_what_a_seed_draws_never_changes():
    """Stored numbers: another answer would break the resumption of every run already on disk."""
    assert permutation(8, seed=12345).tolist() == [7, 0, 1, 5, 4, 6, 3, 2]
    stream = MixtureStream({"a": 5, "b": 5}, batch_size=4, seed=0)
    first, second = [("b", 4), ("a", 3), ("a", 2), ("b", 2)], [("b", 3), ("a", 1), ("b", 1), ("a", 4)]
    assert [stream.draw([0.5, 0.5]), stream.draw([0.5, 0.5])] == [first, second]


def test_solver_noise_in_the_weights_is_forgiven():
    assert quantise({"a": 1.0, "b": -1e-9}) == {"a": UNIT, "b": 0}
    assert sum(quantise({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3 + 1e-9}).values()) == UNIT


@pytest.mark.parametrize(
    ("weights", "error", "match"),
    [
        ([0.5, 0.6], ConfigError, r"got a sum of 1.1, expected a sum of 1"),
        ([-0.5, 1.5], ConfigError, r"weight of 'a': got -0.5, expected a finite number, at least 0"),
        ([float("nan"), 1.0], ConfigError, r"weight of 'a': got nan"),
        ([1.0], ShapeError, r"got 1, expected 2, one per domain"),
        ([0.5, 0.5], DataError, r"domain 'b': got 0 rows, expected rows.*; try a weight of 0"),
    ],
)
def test_wrong_weights_are_refused_and_change_nothing(weights, error, match):
    stream = MixtureStream({"a": 4, "b": 0}, batch_size=2, seed=0)
    before = stream.state()
    with pytest.raises(error, match=match):
        stream.draw(weights)
    assert stream.state() == before


def test_an_empty_domain_of_weight_zero_is_no_problem():
    stream = MixtureStream({"a": 4, "b": 0}, batch_size=2, seed=0)
    assert {name for name, _ in stream.draw([1.0, 0.0])} == {"a"}


@pytest.mark.parametrize(
    ("sizes", "batch_size", "error", "match"),
    [
        ({}, 2, ConfigError, "got no domain, expected at least one training domain"),
        ({"a": 3}, 0, ConfigError, "batch_size: got 0, expected a whole number of rows, at least 1"),
        ({"a": -3}, 2, DataError, "domain 'a': got -3"),
    ],
)
def test_impossible_streams_are_refused(sizes, batch_size, error, match):
    with pytest.raises(error, match=match):
        MixtureStream(sizes, batch_size, seed=0)


@pytest.mark.parametrize(("key", "value"), [("seed", 1), ("batch_size", 3), ("sizes", {"a": 5})])
def test_the_state_of_another_stream_is_refused(key, value):
    stream = MixtureStream({"a": 4}, batch_size=2, seed=0)
    state = json.loads(json.dumps(stream.state()))
    with pytest.raises(CheckpointError, match=f"stream state, {key}: got .*, expected .*, as this run has"):
        stream.restore({**state, key: value})
