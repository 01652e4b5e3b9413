"""Similarities of sets and profiles, and agreement with judgements, against SciPy, brute force and their laws."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score

from trimtab.errors import ConfigError, ShapeError
from trimtab.numerics.bootstrap import mantel, spearman
from trimtab.numerics.similarity import (
    agreement_draws,
    ceiling,
    cosine,
    jaccard,
    overlap_by_chance,
    overlap_coefficient,
    rank_correlation,
    shared,
    spearman_brown,
)


def agreement(near, pairs, scores, **settings):
    return agreement_draws(near, pairs, scores, **settings).interval()


SETS = st.integers(1, 12).flatmap(
    lambda width: st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=2, max_size=6)
)


@settings(max_examples=20)
@given(SETS)
def test_jaccard_is_that_of_scikit_learn_and_empty_sets_are_zero_rows(rows):
    sets = np.array(rows)
    found = jaccard(sets)
    for i, first in enumerate(sets):
        for j, second in enumerate(sets):
            expected = jaccard_score(first, second, zero_division=0)
            assert found[i, j] == pytest.approx(expected, abs=1e-12)
    assert not found[sets.sum(1) == 0].any()
    np.testing.assert_array_equal(jaccard(sets, sets), found)


@settings(max_examples=30)
@given(SETS)
def test_overlaps_count_what_is_shared(rows):
    sets = np.array(rows)
    both = np.array([[len(set(np.nonzero(a)[0]) & set(np.nonzero(b)[0])) for b in sets] for a in sets])
    np.testing.assert_array_equal(shared(sets, sets), both)
    smaller = np.minimum.outer(sets.sum(1), sets.sum(1))
    np.testing.assert_allclose(overlap_coefficient(sets), np.where(smaller, both / np.maximum(smaller, 1), 0))


def test_chance_overlap_is_the_hypergeometric():
    sets = np.random.default_rng(0).random((4, 50)) < np.array([[0.1], [0.3], [0.5], [0.0]])
    found = overlap_by_chance(sets)
    for i in range(3):
        for j in range(3):
            law = scipy.stats.hypergeom(50, sets[i].sum(), sets[j].sum())
            assert found.expected[i, j] == pytest.approx(law.mean())
            assert found.z[i, j] == pytest.approx((found.shared[i, j] - law.mean()) / law.std())
    assert np.isnan(found.z[3]).all()


def test_profiles_are_compared_as_scipy_and_numpy_do():
    profiles = np.random.default_rng(1).integers(0, 5, (5, 30)).astype(float)
    np.testing.assert_allclose(rank_correlation(profiles), scipy.stats.spearmanr(profiles.T)[0], atol=1e-12)
    centred = profiles - profiles.mean(1, keepdims=True)
    np.testing.assert_allclose(cosine(centred), np.corrcoef(profiles), atol=1e-12)
    constant = np.vstack([profiles, np.ones(30)])
    assert np.isnan(rank_correlation(constant)[-1]).all()
    assert np.isnan(cosine(np.zeros((2, 3)))).all()


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=20))
def test_spearman_is_that_of_scipy(pairs):
    first, second = np.array(pairs, dtype=float).T
    found = float(spearman(first, second))
    if len(set(first)) > 1 and len(set(second)) > 1:
        assert found == pytest.approx(scipy.stats.spearmanr(first, second)[0], abs=1e-12)
        assert float(spearman(np.exp(first), second)) == pytest.approx(found, abs=1e-12)
    else:
        assert np.isnan(found)


def judged(n=8, noise=0.3, seed=0, share=0.7):
    """Items on a line, how near they are, and noisy judgements of some of their pairs."""
    draw = np.random.default_rng(seed)
    place = draw.normal(size=n)
    near = -np.abs(place[:, None] - place)
    pairs = np.stack(np.triu_indices(n, 1), 1)
    pairs = pairs[draw.random(len(pairs)) < share]
    return near, pairs, near[pairs[:, 0], pairs[:, 1]] + noise * draw.normal(size=len(pairs))


@pytest.mark.parametrize("share", [0.7, 1.0])
def test_mantel_is_the_share_of_all_permutations(share):
    near, pairs, scores = judged(n=6, noise=1.0, share=share)
    found = mantel(near, pairs, scores, n_perm=8_000)
    values = []
    for order in permutations(range(6)):
        dealt = near[np.ix_(order, order)]
        values.append(scipy.stats.spearmanr(dealt[pairs[:, 0], pairs[:, 1]], scores)[0])
    assert found.value == pytest.approx(scipy.stats.spearmanr(near[pairs[:, 0], pairs[:, 1]], scores)[0])
    assert found.p_value == pytest.approx((np.array(values) >= found.value - 1e-12).mean(), abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_ranking_once_where_every_pair_was_judged_changes_nothing(seed):
    near, pairs, scores = judged(n=12, noise=2.0, share=1.0, seed=seed)
    near, scores = near.round(1), scores.round()  # with ties
    pairs[::3] = pairs[::3, ::-1]
    slow = near.copy()
    np.fill_diagonal(slow, np.nan)  # never looked at, but it makes every deal be ranked anew
    assert mantel(near, pairs, scores, n_perm=499) == mantel(slow, pairs, scores, n_perm=499)


def test_mantel_without_an_effect_is_uniform():
    rng = np.random.default_rng(2)
    found = []
    for seed in range(200):
        near, pairs, _ = judged(seed=seed)
        found.append(mantel(near, pairs, rng.normal(size=len(pairs)), n_perm=199, seed=seed).p_value)
    assert scipy.stats.kstest(found, "uniform").pvalue > 0.01


def test_an_interval_over_items_covers_and_is_wider_than_one_over_pairs():
    """Scores that depend on items, not on pairs: new items give another correlation, new pairs hardly do."""
    near, pairs, scores = judged(n=20, noise=1.0, share=1.0)
    found = agreement(near, pairs, scores, n_boot=200)
    assert found.n == 20
    assert found.low < found.value < found.high
    own = near[pairs[:, 0], pairs[:, 1]]
    draw = np.random.default_rng(0)
    naive = [float(spearman(own[k], scores[k])) for k in draw.integers(len(pairs), size=(200, len(pairs)))]
    assert found.high - found.low > np.subtract(*np.quantile(naive, [0.975, 0.025]))


def test_an_interval_is_that_of_pairs_written_out_as_often_as_they_were_drawn():
    near, pairs, scores = judged(n=9, noise=1.0)
    near, scores = near.round(1), scores.round()  # with ties
    own, draw, values = near[pairs[:, 0], pairs[:, 1]], np.random.default_rng(5), []
    for _ in range(50):
        times = draw.multinomial(9, np.full(9, 1 / 9))
        kept = np.repeat(np.arange(len(pairs)), times[pairs[:, 0]] * times[pairs[:, 1]])
        values.append(scipy.stats.spearmanr(own[kept], scores[kept])[0])
    found = agreement(near, pairs, scores, n_boot=50, seed=5)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=1e-12)


def test_renaming_items_changes_neither_value():
    near, pairs, scores = judged()
    order = np.random.default_rng(3).permutation(len(near))
    renamed = np.empty_like(near)
    renamed[np.ix_(order, order)] = near
    assert (
        mantel(renamed, order[pairs], scores, n_perm=9).value == mantel(near, pairs, scores, n_perm=9).value
    )
    again = agreement(renamed, order[pairs][:, ::-1], scores, n_boot=9)
    assert again.value == agreement(near, pairs, scores, n_boot=9).value


def test_there_is_no_answer_for_two_pairs_or_a_constant_side():
    near, pairs, scores = judged()
    assert np.isnan(mantel(near, pairs[:2], scores[:2]).p_value)
    assert np.isnan(agreement(near, pairs[:2], scores[:2]).low)
    assert np.isnan(mantel(np.ones_like(near), pairs, scores).value)
    assert np.isnan(agreement(near, pairs, np.ones(len(pairs))).value)


def test_ceilings_follow_attenuation():
    """Two noisy copies of one truth correlate as their reliabilities say."""
    draw = np.random.default_rng(4)
    truth = draw.normal(size=200_000)
    halves = truth + draw.normal(size=(2, 200_000))
    rho = np.corrcoef(halves)[0, 1]
    assert spearman_brown(rho) == pytest.approx(np.corrcoef(halves.mean(0), truth)[0, 1] ** 2, abs=0.01)
    assert ceiling(spearman_brown(rho)) == pytest.approx(np.corrcoef(halves.mean(0), truth)[0, 1], abs=0.01)
    assert ceiling(0.81, 0.64) == pytest.approx(0.72)
    assert np.isnan(ceiling(-0.1))
    assert np.isnan(spearman_brown(-1.0))


def test_what_does_not_fit_is_refused():
    near, pairs, scores = judged()
    with pytest.raises(ShapeError, match=r"similarities of shape \(2, 3\)"):
        mantel(np.ones((2, 3)), pairs, scores)
    with pytest.raises(ShapeError, match=r"pairs of shape .* and 1 scores"):
        agreement(near, pairs, scores[:1])
    with pytest.raises(ConfigError, match="n_perm 0"):
        mantel(near, pairs, scores, n_perm=0)
    with pytest.raises(ConfigError, match="reliability 2"):
        ceiling(0.5, 2)
