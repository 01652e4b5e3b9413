"""Entropy and mutual information against SciPy, scikit-learn, closed forms and the laws of information."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import mutual_info_score

from trimtab.errors import ShapeError
from trimtab.numerics.information import entropy_bits, mutual_information_bits

SEEDS = st.integers(0, 100_000)


def joint(seed: int, shape: tuple[int, ...] = (4, 5)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    table = rng.exponential(size=shape) * (rng.random(shape) < 0.7)
    table.flat[0] += 0.1
    return table / table.sum()


@given(SEEDS)
def test_they_agree_with_other_libraries(seed: int) -> None:
    counts = np.random.default_rng(seed).integers(1, 20, (3, 4))
    table = counts / counts.sum()
    p = counts[0] / counts[0].sum()
    assert entropy_bits(p) == pytest.approx(stats.entropy(p, base=2), abs=1e-12)
    theirs = mutual_info_score(None, None, contingency=counts) / np.log(2)
    assert mutual_information_bits(table) == pytest.approx(theirs, abs=1e-10)


@pytest.mark.parametrize("k", [2, 3, 8])
def test_uniform_partitions_carry_log2_k_bits(k: int) -> None:
    hard = np.kron(np.eye(k), np.ones((5, 1))) / (5 * k)
    assert mutual_information_bits(hard) == pytest.approx(np.log2(k), abs=1e-12)
    assert entropy_bits(np.full(k, 1 / k)) == pytest.approx(np.log2(k), abs=1e-12)


@given(SEEDS)
def test_the_laws_of_information(seed: int) -> None:
    table = joint(seed)
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    shared = mutual_information_bits(table)
    assert 0 <= shared <= min(entropy_bits(rows), entropy_bits(columns)) + 1e-12
    assert shared == pytest.approx(mutual_information_bits(table.T), abs=1e-12)
    total = entropy_bits(rows) + entropy_bits(columns) - entropy_bits(table.ravel())
    assert shared == pytest.approx(total, abs=1e-12)
    assert mutual_information_bits(np.outer(rows, columns)) == pytest.approx(0, abs=1e-12)
    # Whatever is done to one side, nothing is learned (data processing).
    channel = np.random.default_rng(seed).dirichlet(np.ones(3), size=5)
    assert mutual_information_bits(table @ channel) <= shared + 1e-12


def test_edges() -> None:
    for wrong in ([0.5, 0.6], [-0.1, 1.1], [np.nan, 1.0], []):
        with pytest.raises(ShapeError):
            entropy_bits(np.array(wrong))
    with pytest.raises(ShapeError, match="a matrix"):
        mutual_information_bits(np.array([0.5, 0.5]))
