"""The annealed frontier against a closed form and against lexicons that must not beat it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq

from trimtab.errors import ShapeError
from trimtab.numerics.information import bottleneck, plane

HALF = np.array([0.5, 0.5])


def binary_entropy(p: float) -> float:
    return float(-(p * np.log2(p) + (1 - p) * np.log2(1 - p))) if 0 < p < 1 else 0.0


def test_two_meanings_follow_the_closed_form() -> None:
    """Of a symmetric pair: 1 - h(e * d) bits told for 1 - h(d) bits paid (Wyner and Ziv 1973, Mrs Gerber's lemma)."""
    noise = 0.1
    meanings = np.array([[1 - noise, noise], [noise, 1 - noise]])
    found = bottleneck(
        HALF, meanings, betas=np.array([1.7, 2.0, 3.0, 6.0]), most_iterations=5000, tolerance=1e-13
    )
    for complexity, accuracy in zip(found.complexity_bits, found.accuracy_bits, strict=True):
        flip = brentq(lambda d, bits=complexity: 1 - binary_entropy(d) - bits, 1e-12, 0.5)
        best = 1 - binary_entropy(noise * (1 - flip) + (1 - noise) * flip)
        assert accuracy == pytest.approx(best, abs=1e-6)
    assert found.complexity_bits[-1] > 0.2


def test_below_the_critical_trade_off_nothing_is_said() -> None:
    noise = 0.1
    meanings = np.array([[1 - noise, noise], [noise, 1 - noise]])
    critical = 1 / (1 - 2 * noise) ** 2
    found = bottleneck(
        HALF, meanings, betas=np.array([0.9, 1.1]) * critical, most_iterations=5000, tolerance=1e-14
    )
    assert found.complexity_bits[1] < 1e-3
    assert found.complexity_bits[0] > 0.1


def test_no_lexicon_beats_the_frontier_and_its_ends_are_right() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(25, 2))
    meanings = np.exp(-((points[:, None] - points[None]) ** 2).sum(-1) / 0.02)
    meanings /= meanings.sum(axis=1, keepdims=True)
    prior = rng.dirichlet(np.full(25, 5.0))
    found = bottleneck(prior, meanings)
    order = np.argsort(found.beta)
    assert (np.diff(found.complexity_bits[order]) > -1e-3).all()
    assert (np.diff(found.accuracy_bits[order]) > -1e-3).all()
    assert (found.accuracy_bits <= found.complexity_bits + 1e-9).all()
    best = found.objective()
    for seed in range(200):
        lexicon = np.random.default_rng(seed).dirichlet(np.full(1 + seed % 9, 0.1), size=25)
        complexity, accuracy = plane(prior, lexicon, meanings)
        assert accuracy <= complexity + 1e-9
        assert (complexity - found.beta * accuracy >= best - 1e-3).all()
    for lexicon, complexity in zip(found.lexicons, found.complexity_bits, strict=True):
        np.testing.assert_allclose(lexicon.sum(axis=1), 1, atol=1e-12)
        assert plane(prior, lexicon, meanings)[0] == pytest.approx(complexity, abs=1e-12)


def test_what_is_wrong_is_refused() -> None:
    with pytest.raises(ShapeError, match="numbers above 1"):
        bottleneck(HALF, np.eye(2), betas=np.array([1.0]))
    with pytest.raises(ShapeError, match="2 priors and 3 meanings"):
        bottleneck(HALF, np.eye(3))
    with pytest.raises(ShapeError, match="a sum of one"):
        bottleneck(np.array([0.5, 0.6]), np.eye(2))
