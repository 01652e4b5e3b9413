"""Laws of the mixture stream, over random sizes, weights and batch sizes."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from trimtab.data.stream import UNIT, MixtureStream, quantise

NAMES = ["math", "code", "web", "../../etc", "<b>", "日本", ""]
FEW = settings(max_examples=40, deadline=None)


def simplex(n: int, *, zeros: bool) -> st.SearchStrategy[list[float]]:
    weight = st.floats(0.0 if zeros else 1e-4, 1.0)
    return (
        st.lists(weight, min_size=n, max_size=n)
        .filter(lambda raw: sum(raw) > 1e-3)
        .map(lambda raw: [value / math.fsum(raw) for value in raw])
    )


@st.composite
def streams(draw: st.DrawFn, *, zeros: bool = True, steps: int = 30):
    """A stream and the weights of its steps, which change at random moments."""
    n = draw(st.integers(1, len(NAMES)))
    sizes = {name: draw(st.integers(1, 17)) for name in NAMES[:n]}
    stream = MixtureStream(sizes, draw(st.integers(1, 13)), draw(st.integers(0, 2**40)))
    some = draw(st.lists(simplex(n, zeros=zeros), min_size=1, max_size=4))
    plan = draw(st.lists(st.sampled_from(some), min_size=1, max_size=steps))
    return stream, plan


def harmonic(n: int) -> float:
    return sum(1 / k for k in range(2, n + 1))


@FEW
@given(streams())
def test_every_draw_is_a_full_batch_of_existing_rows(case):
    stream, plan = case
    for weights in plan:
        batch = stream.draw(weights)
        assert len(batch) == stream.batch_size
        assert all(0 <= row < stream.sizes[name] for name, row in batch)
        zero = {name for name, weight in zip(stream.sizes, weights, strict=True) if weight == 0}
        assert not zero & {name for name, _ in batch}


@FEW
@given(streams(zeros=False, steps=60))
def test_counts_stay_within_the_proven_bounds_whatever_the_weights_do(case):
    stream, plan = case
    shares = dict.fromkeys(stream.sizes, 0)
    drawn: Counter[str] = Counter()
    for weights in plan:
        drawn.update(name for name, _ in stream.draw(weights))
        for name, share in quantise(dict(zip(stream.sizes, weights, strict=True))).items():
            shares[name] += stream.batch_size * share
        for name, share in shares.items():
            owed = (share - drawn[name] * UNIT) / UNIT
            assert -1 < owed <= harmonic(len(shares)) + 1e-9


@FEW
@given(streams(steps=60))
def test_with_zero_weights_too_the_debt_stays_below_the_number_of_domains(case):
    stream, plan = case
    for weights in plan:
        stream.draw(weights)
        credit = stream.state()["credit"]
        assert sum(credit.values()) == 0
        assert all(abs(value) < max(1, len(credit)) * UNIT for value in credit.values())


@FEW
@given(streams(steps=60))
def test_no_row_is_lost_or_repeated_within_an_epoch(case):
    stream, plan = case
    uses = {name: np.zeros(size, int) for name, size in stream.sizes.items()}
    for weights in plan:
        for name, row in stream.draw(weights):
            uses[name][row] += 1
        assert all(np.ptp(counts) <= 1 for counts in uses.values())
    assert {name: int(counts.sum()) for name, counts in uses.items()} == stream.state()["drawn"]


@FEW
@given(streams(), st.data())
def test_a_restored_stream_goes_on_as_the_first_did(case, data):
    stream, plan = case
    cut = data.draw(st.integers(0, len(plan)))
    for weights in plan[:cut]:
        stream.draw(weights)
    state = json.loads(json.dumps(stream.state()))
    expected = [stream.draw(weights) for weights in plan[cut:]]
    fresh = MixtureStream(stream.sizes, stream.batch_size, stream.seed)
    for other in (fresh, stream):
        other.restore(state)
        assert other.state() == state
        assert [other.draw(weights) for weights in plan[cut:]] == expected


@FEW
@given(streams(), st.data())
def test_the_order_of_the_domains_changes_nothing(case, data):
    stream, plan = case
    order = data.draw(st.permutations(range(len(stream.sizes))))
    names = list(stream.sizes)
    twin = MixtureStream(
        {names[place]: stream.sizes[names[place]] for place in order}, stream.batch_size, stream.seed
    )
    for weights in plan:
        assert twin.draw([weights[place] for place in order]) == stream.draw(weights)


@FEW
@given(st.integers(1, 8).flatmap(lambda n: simplex(n, zeros=True)))
def test_quantised_weights_sum_exactly_and_are_near(weights):
    shares = quantise({str(place): weight for place, weight in enumerate(weights)})
    assert sum(shares.values()) == UNIT
    for place, weight in enumerate(weights):
        assert abs(shares[str(place)] - weight * UNIT) <= len(weights) + UNIT * 1e-15
        assert weight or not shares[str(place)]


def test_shares_pass_a_chi_square_test_even_where_a_batch_cannot_hold_them():
    weights = [0.61, 0.25, 0.09, 0.05]
    stream = MixtureStream(dict.fromkeys("abcd", 1000), batch_size=3, seed=5)
    drawn = Counter(name for _ in range(2000) for name, _ in stream.draw(weights))
    expected = [6000 * weight for weight in weights]
    # Rows drawn at random would pass too, but not this well: the shares are exact.
    assert stats.chisquare([drawn[name] for name in "abcd"], expected).pvalue > 0.999


def test_each_row_is_as_likely_at_each_place_of_an_epoch():
    size, seeds = 5, 2000
    table = np.zeros((size, size))
    for seed in range(seeds):
        stream = MixtureStream({"a": size}, batch_size=1, seed=seed)
        for place in range(size):
            table[place, stream.draw([1.0])[0][1]] += 1
    assert stats.chisquare(table, axis=1).pvalue.min() > 1e-4
    assert (table.sum(axis=0) == seeds).all()


def test_places_in_the_batch_say_nothing_about_the_domain():
    stream = MixtureStream({"a": 50, "b": 50}, batch_size=8, seed=1)
    first = np.zeros(8)
    for _ in range(2000):
        first += [name == "a" for name, _ in stream.draw([0.5, 0.5])]
    assert stats.chisquare(first).pvalue > 1e-4


def test_epochs_and_seeds_and_names_have_orders_of_their_own():
    def order(name: str, seed: int, epochs: int) -> list[int]:
        stream = MixtureStream({name: 40}, 1, seed)
        return [stream.draw([1.0])[0][1] for _ in range(40 * epochs)]

    both = order("a", 0, 2)
    assert both[:40] != both[40:]
    assert sorted(both[:40]) == sorted(both[40:]) == list(range(40))
    assert order("a", 1, 1) != both[:40] != order("b", 0, 1)
