"""Leaks of channels whose information is known, laws of the estimate, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import norm
from threadpoolctl import threadpool_limits

from trimtab.errors import ConfigError, DataError, ShapeError
from trimtab.numerics.information import mutual_information_bits
from trimtab.read.leaks.classifiers import DEFAULT, log_softmax
from trimtab.read.leaks.estimate import (
    STRONGEST,
    estimate_leak,
    fit_baseline,
    leak_difference,
    pool_powers,
)
from trimtab.read.leaks.intervals import clustered_mean

LINEAR = ("logistic",)


def symmetric(n: int, error: float, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Four labels through a symmetric channel: one-hot output, label, and the information in bits."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    sent = np.where(rng.random(n) < error, (labels + rng.integers(1, 4, n)) % 4, labels)
    joint = (np.full((4, 4), error / 3) + (1 - error - error / 3) * np.eye(4)) / 4
    return np.eye(4)[sent], labels, mutual_information_bits(joint)


@pytest.mark.parametrize("error", [0.0, 0.1, 0.4])
def test_a_symmetric_channel_is_inside_the_intervals(error):
    x, labels, bits = symmetric(1000, error, 5)
    leak = estimate_leak(x, labels)
    assert leak.low <= bits <= leak.high
    assert leak.high - leak.low < 0.25
    assert leak.accuracy_low <= 1 - error <= leak.accuracy_high
    assert leak.accuracy == leak.correct.mean()
    assert leak.bits == pytest.approx((leak.nats - leak.baseline_nats).mean() / np.log(2))
    assert leak.gain == pytest.approx(leak.accuracy - leak.baseline_accuracy)
    assert (leak.n, leak.groups, leak.classes) == (1000, 1000, 4)
    assert leak.chance == np.bincount(labels).max() / 1000


def test_a_leak_is_shown_on_one_line() -> None:
    features, labels, _ = symmetric(60, 0.1, 0)
    shown = repr(estimate_leak(features, labels, classifiers=LINEAR))
    assert "\n" not in shown
    assert len(shown) < 400


def test_a_gaussian_channel_is_inside_the_intervals():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 800)
    x = rng.normal(size=(800, 1)) + 2.0 * labels[:, None]
    points = np.linspace(-10, 12, 20_001)
    sides = np.stack([norm.pdf(points), norm.pdf(points, 2.0)]) / 2
    leak = estimate_leak(x, labels)
    assert leak.low <= mutual_information_bits(sides / sides.sum()) <= leak.high
    assert leak.accuracy_low <= norm.cdf(1.0) <= leak.accuracy_high


def test_rows_of_one_group_tell_nothing_of_other_groups():
    """Every row has the stamp of its group: it gives the label away as long as groups are on both sides."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 5)
    labels, stamp = rng.integers(0, 2, 60)[groups], rng.normal(size=(60, 6))[groups]
    x = stamp + 0.01 * rng.normal(size=(300, 6))
    careless, grouped = estimate_leak(x, labels), estimate_leak(x, labels, groups)
    assert careless.low > 0.3
    assert careless.classifier == "k-nn"
    assert grouped.low <= 0.0 <= grouped.high
    assert grouped.groups == 60
    assert grouped.high - grouped.low > 2.0 * np.ptp(clustered_mean(grouped.nats, np.arange(300))[1:]) / 10


def test_shuffled_labels_are_at_chance():
    x, labels, _ = symmetric(400, 0.1, 1)
    shuffled = np.random.default_rng(0).permutation(labels)
    leak = estimate_leak(x, shuffled)
    assert leak.low <= 0.0 <= leak.high < 0.05
    assert leak.gain_low <= 0.0 <= leak.gain_high


def test_what_the_baseline_says_is_no_leak_and_noise_costs_little():
    rng = np.random.default_rng(2)
    known, labels, bits = symmetric(400, 0.2, 2)
    noise = rng.normal(size=(400, 60))
    base = fit_baseline(labels, None, known)
    again = estimate_leak(known @ rng.normal(size=(4, 7)), labels, baseline=base)
    assert abs(again.bits) < 0.02
    ignored = estimate_leak(noise, labels, baseline=base)
    assert -0.03 < ignored.bits <= ignored.high
    assert ignored.low <= 0
    alone = estimate_leak(known, labels)
    assert ignored.baseline_accuracy == pytest.approx(alone.accuracy, abs=0.01)
    assert (ignored.baseline_nats - alone.baseline_nats).mean() / np.log(2) == pytest.approx(bits, abs=0.15)


def test_features_add_to_the_baseline():
    """Two views with independent errors: together they have more information than the baseline, by the chain rule."""
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, 1000)
    views = [np.where(rng.random(1000) < 0.2, 1 - labels, labels) for _ in range(2)]
    joint = np.zeros((2, 4))
    for label, first, second in np.ndindex(2, 2, 2):
        joint[label, 2 * first + second] = 0.5 * np.prod(
            [0.8 if v == label else 0.2 for v in (first, second)]
        )
    added = mutual_information_bits(joint) - mutual_information_bits(np.array([[0.4, 0.1], [0.1, 0.4]]))
    leak = estimate_leak(views[0][:, None], labels, baseline=views[1][:, None])
    assert leak.low <= added <= leak.high
    assert leak.high - leak.low < 0.2


def test_a_fitted_baseline_is_the_same_and_must_be_of_the_same_rows():
    x, labels, _ = symmetric(80, 0.2, 6)
    known = np.random.default_rng(0).normal(size=(80, 2)) + labels[:, None]
    base = fit_baseline(labels, None, known, 3, classifiers=LINEAR)
    ours = estimate_leak(x, labels, None, base, 3, classifiers=LINEAR)
    assert np.array_equal(ours.nats, estimate_leak(x, labels, None, known, 3, classifiers=LINEAR).nats)
    with pytest.raises(DataError, match="baseline: got a baseline of 80 rows fitted with other labels"):
        estimate_leak(x, labels, None, base, 4)


@settings(max_examples=2, deadline=None)
@given(st.integers(0, 1000))
def test_order_names_and_units_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 30, 120)
    labels = rng.integers(0, 3, 120)
    x = rng.normal(size=(120, 4)) + labels[:, None]
    leak = estimate_leak(x, labels, groups, seed=seed, classifiers=LINEAR)

    order = rng.permutation(120)
    permuted = estimate_leak(x[order], labels[order], groups[order], seed=seed, classifiers=LINEAR)
    assert permuted.bits == pytest.approx(leak.bits, abs=2e-3)
    assert np.allclose(permuted.nats, leak.nats[order], atol=0.05)

    named = np.array(["pear", "apple", "fig"])[labels]
    assert np.array_equal(estimate_leak(x, named, groups, seed=seed, classifiers=LINEAR).nats, leak.nats)

    scaled = x * np.array([3.0, -0.01, 1e4, 1.0]) + np.array([1.0, 50.0, -2.0, 0.0])
    other = estimate_leak(scaled, labels, groups, seed=seed, classifiers=LINEAR)
    assert other.bits == pytest.approx(leak.bits, abs=2e-3)


def test_constant_columns_and_no_columns_tell_nothing():
    labels = np.arange(60) % 3
    for x in (np.ones((60, 2)), np.empty((60, 0))):
        leak = estimate_leak(x, labels)
        assert leak.bits == pytest.approx(0.0, abs=1e-6)
        assert leak.low <= 0 <= leak.high
        assert leak.accuracy_low < 1 / 3 < leak.accuracy_high


def test_by_default_what_is_not_linear_is_found_too():
    """Exclusive or: nothing by one coordinate, all by both."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(240, 2))
    labels = (x[:, 0] * x[:, 1] > 0).astype(int)
    assert estimate_leak(x, labels, classifiers=LINEAR).bits < 0.05
    leak = estimate_leak(x, labels, classifiers=DEFAULT)
    assert leak.low > 0.4
    assert leak.classifier == "k-nn"


def test_one_result_for_any_number_of_threads_and_nothing_of_the_caller_is_changed():
    x, labels, _ = symmetric(90, 0.3, 8)
    x = np.concatenate([x, np.random.default_rng(1).normal(size=(90, 60))], axis=1)
    kept, state = x.copy(), np.random.get_state()[1].copy()
    with threadpool_limits(2):
        two = estimate_leak(x, labels, seed=1)
    with threadpool_limits(1):
        one = estimate_leak(x, labels, seed=1)
    assert np.array_equal(one.nats, two.nats)
    assert np.array_equal(x, kept)
    assert np.array_equal(np.random.get_state()[1], state)


def test_differences_are_paired_by_row():
    x, labels, _ = symmetric(300, 0.1, 9)
    blurred = np.where(np.random.default_rng(0).random((300, 1)) < 0.5, x, np.roll(x, 1, axis=1))
    a, b = estimate_leak(x, labels, classifiers=LINEAR), estimate_leak(blurred, labels, classifiers=LINEAR)
    both = leak_difference(a, b)
    assert both.bits == pytest.approx(a.bits - b.bits)
    assert both.accuracy == pytest.approx(a.accuracy - b.accuracy)
    assert 0 < both.low < both.bits < both.high
    apart = np.hypot(a.high - a.low, b.high - b.low)
    assert both.high - both.low < apart
    back = leak_difference(b, a)
    assert (back.low, back.accuracy_high) == (pytest.approx(-both.high), pytest.approx(-both.accuracy_low))
    same = leak_difference(a, a)
    assert same.bits == same.low == same.high == 0.0
    assert same.accuracy_low < 0.0 < same.accuracy_high
    with pytest.raises(ShapeError, match="got leaks of 300 and 100 rows, expected the same rows"):
        leak_difference(a, estimate_leak(x[:100], labels[:100], classifiers=LINEAR))


LABELS = np.arange(20) % 2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"features": np.full((20, 2), np.nan)},
            DataError,
            "features: got missing or infinite values in 2 of 2",
        ),
        (
            {"features": np.ones(20)},
            ShapeError,
            r"got features of shape \(20,\) for 20 labels, expected a matrix",
        ),
        ({"baseline": np.ones((19, 1))}, ShapeError, r"got baseline of shape \(19, 1\) for 20 labels"),
        ({"labels": np.zeros(20)}, DataError, "labels: got 1 class in 20 rows, expected at least two"),
        ({"labels": np.array([None, 1] * 10)}, DataError, "labels: got 10 rows without a label.*usable_rows"),
        (
            {"labels": np.arange(20) == 3},
            DataError,
            "got class True in a single group, expected each class in",
        ),
        ({"groups": np.zeros(20)}, DataError, "groups: got 1 groups, expected at least 5, one for each fold"),
        ({"groups": np.zeros(3)}, ShapeError, "got 3 groups for 20 labels, expected one group for each row"),
        ({"folds": 2}, ConfigError, "folds: got 2, expected at least 3"),
        ({"classifiers": ("forest",)}, ConfigError, "classifiers: got 'forest', expected 'logistic' or"),
    ],
)
def test_refusals(change, error, message):
    with pytest.raises(error, match=message):
        estimate_leak(**({"features": np.ones((20, 2)), "labels": LABELS} | change))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(0.0, 3.0))
def test_powers_of_the_pool_are_the_best_of_a_bounded_search(seed, strength):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, 40)
    logits = rng.normal(size=(2, 40, 3)) * 2.0
    logits[0] += strength * np.eye(3)[labels]
    logp = log_softmax(logits)

    def loss(powers: np.ndarray) -> float:
        return float(-log_softmax(np.tensordot(powers, logp, axes=1))[np.arange(40), labels].mean())

    best = minimize(loss, [0.5, 0.5], bounds=[(0, STRONGEST)] * 2, method="L-BFGS-B", options={"ftol": 1e-14})
    value, powers = pool_powers(logp, labels)
    assert value == pytest.approx(loss(powers))
    assert value == pytest.approx(best.fun, abs=1e-6)


def test_no_end_of_bits_is_above_what_the_baseline_leaves_unknown():
    rng = np.random.default_rng(6)
    labels = np.arange(60) % 3
    leak = estimate_leak(labels[:, None] + rng.normal(size=(60, 4)), labels, classifiers=LINEAR)
    assert leak.bits < leak.high <= np.log2(3) + 1e-9
    known = estimate_leak(rng.normal(size=(60, 1)), labels, baseline=np.eye(3)[labels], classifiers=LINEAR)
    unknown = clustered_mean(-known.baseline_nats / np.log(2), known.clusters)[2]
    assert known.bits <= known.high <= unknown < 0.5
