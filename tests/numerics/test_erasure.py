"""LEACE: nothing linear is left, nothing moves more than it must."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from trimtab.errors import DataError, ShapeError
from trimtab.numerics.erasure import leace


def concept_in_noise(n: int, d: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated rows whose first coordinates tell the class, and the class of each."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    x = 2.0 * np.eye(classes, d)[labels] + rng.normal(size=(n, d))
    return x @ rng.normal(size=(d, d)) + 3.0, labels


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(2, 12), st.integers(3, 60))
def test_covariance_with_the_concept_is_zero_and_the_map_a_projection(
    seed: int, classes: int, d: int, n: int
) -> None:
    x, labels = concept_in_noise(n, d, classes, seed)
    z = np.eye(classes)[labels]
    erasure = leace(x, z)
    erased = erasure(x)
    assert np.allclose((erased - erased.mean(axis=0)).T @ (z - z.mean(axis=0)) / n, 0.0, atol=1e-7)
    assert np.allclose(erased.mean(axis=0), x.mean(axis=0))
    assert np.allclose(erasure.projection @ erasure.projection, erasure.projection, atol=1e-6)
    rank = np.linalg.matrix_rank(np.eye(d) - erasure.projection, tol=1e-6)
    assert rank <= min(len(np.unique(labels)) - 1, d)


def test_no_linear_classifier_beats_the_majority_afterwards() -> None:
    """Theorem 3.1 of Belrose et al. 2023: cross-entropy can not fall below that of the class shares."""
    x, labels = concept_in_noise(600, 10, 3, 0)
    z, shares = np.eye(3)[labels], np.bincount(labels) / len(labels)
    before, after = (
        LogisticRegression(C=1e6, tol=1e-8, max_iter=5000).fit(rows, labels) for rows in (x, leace(x, z)(x))
    )
    assert before.score(x, labels) > 0.7
    predicted = after.predict_proba(leace(x, z)(x))
    assert -np.log(predicted)[np.arange(600), labels].mean() == pytest.approx(
        -shares @ np.log(shares), abs=1e-6
    )
    assert np.allclose(predicted, shares, atol=1e-3)


def test_least_change_among_affine_maps_that_erase() -> None:
    """Brute force: minimise the squared change over all matrices P with P Cov(x, z) = 0, in three dimensions."""
    x, labels = concept_in_noise(400, 3, 2, 1)
    z = labels[:, None].astype(float)
    erasure = leace(x, z)
    centred = x - x.mean(axis=0)
    shared = centred.T @ (z - z.mean()) / len(x)
    free = np.linalg.svd(shared)[0][
        :, 1:
    ]  # rows of P are combinations of these, since they must miss Cov(x, z)

    def change(flat: np.ndarray) -> float:
        moved = centred @ (flat.reshape(3, 2) @ free.T - np.eye(3)).T
        return float((moved**2).sum(axis=1).mean())

    best = minimize(change, np.zeros(6), method="BFGS", options={"gtol": 1e-9})
    assert change((erasure.projection @ free).ravel()) == pytest.approx(best.fun, rel=1e-8)
    assert np.allclose(erasure.projection, best.x.reshape(3, 2) @ free.T, atol=1e-5)


def test_formula_of_the_paper_by_a_root_of_the_covariance() -> None:
    """Theorem 4.3 with the symmetric root: the choice of W among those that whiten does not matter."""
    x, labels = concept_in_noise(300, 5, 3, 2)
    z = np.eye(3)[labels]
    centred = x - x.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(x))
    whiten, root = (vectors * values**power @ vectors.T for power in (-0.5, 0.5))
    left = whiten @ centred.T @ (z - z.mean(axis=0)) / len(x)
    expected = np.eye(5) - root @ left @ np.linalg.pinv(left, rcond=1e-8) @ whiten
    assert np.allclose(leace(x, z).projection, expected, atol=1e-9)


@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_the_result_follows_a_change_of_basis(seed: int) -> None:
    """Erasing after an invertible map is the map of the erased rows: what is least does not hang on the norm."""
    x, labels = concept_in_noise(80, 4, 2, seed)
    z = labels[:, None].astype(float)
    basis = np.random.default_rng(seed + 1).normal(size=(4, 4)) + 3.0 * np.eye(4)
    assert np.allclose(leace(x @ basis, z)(x @ basis), leace(x, z)(x) @ basis, atol=1e-6)


def test_constant_concept_and_dependent_columns() -> None:
    x, labels = concept_in_noise(50, 4, 2, 3)
    assert np.allclose(leace(x, np.ones((50, 1))).projection, np.eye(4))
    z = labels[:, None].astype(float)
    twice = np.concatenate([x, x], axis=1)
    assert np.allclose(leace(twice, z)(twice), np.concatenate([leace(x, z)(x)] * 2, axis=1), atol=1e-9)
    kept = twice.copy()
    assert leace(twice, z)(twice.astype(np.float32)).dtype == np.float32
    assert np.array_equal(twice, kept)


def test_refusals() -> None:
    with pytest.raises(ShapeError, match=r"got x of shape \(3, 2\) and z of shape \(2, 1\), expected"):
        leace(np.zeros((3, 2)), np.zeros((2, 1)))
    with pytest.raises(DataError, match="got missing or infinite values, expected at least two rows"):
        leace(np.array([[np.nan], [1.0]]), np.ones((2, 1)))
    with pytest.raises(DataError, match="got 1 rows, expected"):
        leace(np.ones((1, 2)), np.ones((1, 1)))
