"""Proximal operators against a cone programme, a fine grid, and sums by hand."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan, sqrt
from typing import Any

import clarabel
import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor

from trimtab.errors import ConfigError, ShapeError
from trimtab.steer.lineas.end_to_end import group_shrink, soft_threshold, sparse_group

AMOUNTS = [(0.0, 0.0), (0.3, 0.0), (0.0, 0.4), (0.3, 0.4), (1.0, 0.1), (0.1, 1.0), (5.0, 5.0)]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def minimiser(x: np.ndarray, l1: float, l2: float) -> np.ndarray:
    """The z of least l1 ||z||_1 + l2 ||z||_2 + ||z - x||^2 / 2, by an interior point method on (z, |z|, length)."""
    d, eye = len(x), sparse.eye(len(x))
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-12
    quadratic = sparse.csc_matrix(sparse.diags([1.0] * d + [0.0] * (d + 1)))
    rows = [
        [eye, -eye, None],
        [-eye, -eye, None],
        [sparse.csc_matrix((1, d)), None, sparse.csc_matrix([[-1.0]])],
        [-eye, None, None],
    ]
    constraints = sparse.csc_matrix(sparse.bmat(rows))
    cones = [clarabel.NonnegativeConeT(2 * d), clarabel.SecondOrderConeT(d + 1)]
    linear = np.concatenate([-x, np.full(d, l1), [l2]])
    solver = clarabel.DefaultSolver(quadratic, linear, constraints, np.zeros(3 * d + 1), cones, settings)
    return np.array(solver.solve().x)[:d]


@pytest.mark.parametrize(("l1", "l2"), AMOUNTS)
@pytest.mark.parametrize("d", [1, 2, 7])
def test_sparse_group_is_the_minimiser(d: int, l1: float, l2: float) -> None:
    x = drawn(d, seed=d)
    found = sparse_group(x, l1, l2)
    np.testing.assert_allclose(found.numpy(), minimiser(x.numpy(), l1, l2 * sqrt(d)), atol=1e-6)


@pytest.mark.parametrize("amount", [0.0, 0.3, 1.0, 5.0])
def test_the_parts_are_minimisers_too(amount: float) -> None:
    x = drawn(6)
    np.testing.assert_allclose(soft_threshold(x, amount), minimiser(x.numpy(), amount, 0.0), atol=1e-6)
    np.testing.assert_allclose(group_shrink(x, amount), minimiser(x.numpy(), 0.0, amount), atol=1e-6)


@pytest.mark.parametrize("amount", [0.0, 0.25, 2.0])
@pytest.mark.parametrize("value", [-1.5, -0.1, 0.0, 0.25, 1.0])
def test_the_best_point_of_a_fine_grid(value: float, amount: float) -> None:
    """In one dimension the two operators are one."""
    grid = np.linspace(-2, 2, 400_001)
    best = grid[np.argmin(amount * np.abs(grid) + (grid - value) ** 2 / 2)]
    x = torch.tensor([value], dtype=torch.float64)
    for operator in (soft_threshold, group_shrink):
        assert operator(x, amount).item() == pytest.approx(best, abs=2e-5)


def lowest(z: Tensor, x: Tensor, l1: float, l2: float) -> float:
    return float(l1 * z.abs().sum() + l2 * sqrt(x.numel()) * z.norm() + (z - x).square().sum() / 2)


def test_the_other_order_is_told_apart() -> None:
    """Shrinking first and thresholding after is not the minimiser."""
    x = drawn(6)
    right, wrong = sparse_group(x, 0.3, 0.2), soft_threshold(group_shrink(x, 0.2 * sqrt(6)), 0.3)
    assert lowest(right, x, 0.3, 0.2) < lowest(wrong, x, 0.3, 0.2) - 1e-4


def test_by_hand() -> None:
    """(4, -5, .5) less 1 is (3, -4, 0), of length 5; shrunk by 2.5 it is half as long."""
    x = torch.tensor([4.0, -5.0, 0.5, 0.0])
    assert sparse_group(x, 1.0, 1.25).tolist() == [1.5, -2.0, 0.0, 0.0]
    assert soft_threshold(x, 1.0).tolist() == [3.0, -4.0, 0.0, 0.0]
    assert group_shrink(torch.tensor([3.0, 4.0]), 5.0).tolist() == [0.0, 0.0]


# Edges

Operator = Callable[[Tensor, float], Tensor]
OPERATORS: list[Operator] = [soft_threshold, group_shrink, lambda x, amount: sparse_group(x, amount, amount)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("amount", [0.0, 1e-50, 1e-6, 1.0, 1e30])
@pytest.mark.parametrize("operator", OPERATORS)
def test_zero_stays_zero(operator: Operator, amount: float, dtype: torch.dtype) -> None:
    found = operator(torch.zeros(3, 4, dtype=dtype), amount)
    assert found.dtype == dtype
    assert found.tolist() == [[0.0] * 4] * 3


@pytest.mark.parametrize("operator", OPERATORS)
def test_nothing_taken_leaves_every_bit_in_a_new_tensor(operator: Operator) -> None:
    x = torch.cat(
        [drawn(2, 5).float(), torch.tensor([[1e-40, -1e30, 1e30, -0.0, 1e-30], [1e-44, 0, 0, 0, 0]])]
    )
    found = operator(x, 0.0)
    assert torch.equal(found, x)
    assert found.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("operator", OPERATORS)
def test_inputs_stay_and_empty_is_empty(operator: Operator) -> None:
    x = drawn(2, 5)
    before = x.clone()
    operator(x, 0.5)
    assert torch.equal(x, before)
    assert operator(torch.zeros(2, 0), 0.5).shape == (2, 0)
    assert operator(torch.zeros(0, 3), 0.5).shape == (0, 3)


def test_a_nan_stays_in_its_coordinate_or_its_group() -> None:
    x = torch.tensor([[1.0, nan], [1.0, 2.0]])
    assert soft_threshold(x, 0.5).isnan().tolist() == [[False, True], [False, False]]
    for found in (group_shrink(x, 0.5), sparse_group(x, 0.5, 0.5)):
        assert found.isnan().tolist() == [[True, True], [False, False]]


def test_a_single_number_has_a_threshold_but_is_no_group() -> None:
    x = torch.tensor(2.0)
    assert soft_threshold(x, 0.5).item() == 1.5
    message = r"got x without an axis, expected \(\*groups, d\); try soft_threshold"
    with pytest.raises(ShapeError, match=message):
        group_shrink(x, 0.5)
    with pytest.raises(ShapeError, match=message):
        sparse_group(x, 0.5, 0.5)


@pytest.mark.parametrize("amount", [-1.0, -1e-9, nan, inf])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("amount", lambda amount: soft_threshold(torch.ones(2), amount)),
        ("amount", lambda amount: group_shrink(torch.ones(2), amount)),
        ("gamma_l1", lambda amount: sparse_group(torch.ones(2), amount, 0.0)),
        ("gamma_group", lambda amount: sparse_group(torch.ones(2), 0.0, amount)),
    ],
)
def test_amounts_that_are_none_are_refused(name: str, call: Callable[[float], Any], amount: float) -> None:
    with pytest.raises(ConfigError, match=f"got {name} {amount}, expected a finite number, 0 or above"):
        call(amount)
