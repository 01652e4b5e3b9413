"""Laws of the distance between samples, and of the operators that make maps sparse, whatever the numbers."""

from __future__ import annotations

from math import sqrt
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trimtab.numerics.transport import wasserstein_1d
from trimtab.steer.lineas.end_to_end import group_shrink, soft_threshold, sparse_group

few = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)
orders = st.sampled_from([1.0, 1.5, 2.0, 3.0])
amounts = st.floats(0, 3)


class Samples(NamedTuple):
    """Three samples of several units."""

    x: Tensor
    y: Tensor
    z: Tensor


@st.composite
def samples(draw: Any, same_size: bool = False) -> Samples:
    """Some with ties, some of equal sizes."""
    rng = np.random.default_rng(draw(seeds))
    units, sizes = int(rng.integers(1, 5)), rng.integers(1, 9, 3)
    if same_size or rng.random() < 0.3:
        sizes[:] = sizes[0]
    rounded = rng.random() < 0.3
    values = [rng.normal(size=(units, size)) * 2 for size in sizes]
    return Samples(*(torch.from_numpy(np.round(value) if rounded else value) for value in values))


def distance(x: Tensor, y: Tensor, p: float) -> Tensor:
    return wasserstein_1d(x, y, p=p)


def close(found: Tensor, expected: Tensor | float) -> None:
    np.testing.assert_allclose(found.numpy(), np.asarray(expected), rtol=1e-9, atol=1e-9)


def shuffled(draw: Any, size: int) -> list[int]:
    return list(draw.sample(range(size), size))


@given(of=samples(), p=orders, draw=st.randoms(use_true_random=False))
@few
def test_the_order_of_examples_does_not_matter(of: Samples, p: float, draw: Any) -> None:
    order = shuffled(draw, of.x.shape[-1])
    close(distance(of.x[:, order], of.y, p), distance(of.x, of.y, p))


@given(of=samples(), p=orders, draw=st.randoms(use_true_random=False))
@few
def test_the_order_of_units_on_both_sides_orders_the_distances(of: Samples, p: float, draw: Any) -> None:
    order = shuffled(draw, of.x.shape[0])
    close(distance(of.x[order], of.y[order], p), distance(of.x, of.y, p)[order])


@given(seed=seeds, p=orders, turn=st.integers(1, 3))
@few
def test_the_order_of_units_on_one_side_matters(seed: int, p: float, turn: int) -> None:
    """A loss that sorts units, or pools them, would not see that samples went to the wrong units."""
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(4, 6)))
    assert (distance(x, x, p) == 0).all()
    assert (distance(x.roll(turn, 0), x, p) > 1e-6).all()


@given(of=samples(), p=orders, draw=st.randoms(use_true_random=False), times=st.integers(1, 3))
@few
def test_equal_multisets_are_at_exactly_zero(of: Samples, p: float, draw: Any, times: int) -> None:
    again = of.x.repeat(1, times)[:, shuffled(draw, times * of.x.shape[-1])]
    assert (distance(of.x, again, p) == 0).all()
    assert (distance(again, of.x, p) == 0).all()


@given(of=samples(), p=orders)
@few
def test_no_distance_is_negative_and_both_ways_are_as_far(of: Samples, p: float) -> None:
    there, back = distance(of.x, of.y, p), distance(of.y, of.x, p)
    assert (there >= 0).all()
    close(there, back)


@given(of=samples(), p=orders, shift=st.floats(-50, 50))
@few
def test_moving_both_changes_nothing_and_moving_one_costs_the_shift(
    of: Samples, p: float, shift: float
) -> None:
    close(distance(of.x + shift, of.y + shift, p), distance(of.x, of.y, p))
    moved = torch.full(of.x.shape[:1], abs(shift) ** p, dtype=torch.float64)
    close(distance(of.x, of.x + shift, p), moved)


@given(of=samples(), p=orders, factor=st.floats(-10, 10))
@few
def test_scaling_scales_by_the_power(of: Samples, p: float, factor: float) -> None:
    before = distance(of.x, of.y, p)
    close(distance(factor * of.x, factor * of.y, p), abs(factor) ** p * before)


@given(of=samples(), p=orders)
@few
def test_a_detour_is_never_shorter(of: Samples, p: float) -> None:
    direct, first, second = (
        distance(*pair).pow(1 / p) for pair in ((of.x, of.z, p), (of.x, of.y, p), (of.y, of.z, p))
    )
    assert (direct <= first + second + 1e-6).all()


@given(of=samples(), p=orders, times=st.integers(2, 4))
@few
def test_every_example_twice_is_the_same_measure(of: Samples, p: float, times: int) -> None:
    close(distance(of.x.repeat(1, times), of.y, p), distance(of.x, of.y, p))


@given(of=samples(), low=st.sampled_from([1.0, 1.5]), high=st.sampled_from([2.0, 3.0]))
@few
def test_the_distance_grows_with_the_order(of: Samples, low: float, high: float) -> None:
    """Jensen: W_p <= W_q for p <= q."""
    less, more = (distance(of.x, of.y, p).pow(1 / p) for p in (low, high))
    assert (less <= more + 1e-9).all()


@given(of=samples(), p=orders)
@few
def test_what_pulls_one_side_pushes_the_other(of: Samples, p: float) -> None:
    """Moving both changes nothing, so the gradients of all samples of a unit sum to zero."""
    x, y = of.x.clone().requires_grad_(), of.y.clone().requires_grad_()
    pulls = torch.autograd.grad(distance(x, y, p).sum(), (x, y))
    close(pulls[0].sum(-1) + pulls[1].sum(-1), torch.zeros(len(x), dtype=torch.float64))


# Operators that make coordinates and groups zero


def vectors(seed: int, count: int = 1) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    shape, scale = (int(rng.integers(1, 4)), int(rng.integers(1, 7))), 10 ** rng.uniform(-1, 1)
    return [torch.from_numpy(rng.normal(size=shape) * scale) for _ in range(count)]


@given(seed=seeds, l1=amounts, l2=amounts)
@few
def test_sparse_group_fulfils_the_conditions_of_optimality(seed: int, l1: float, l2: float) -> None:
    """x - z is a subgradient of l1 ||z||_1 + l2 sqrt(d) ||z||_2 at z (Simon et al. 2013)."""
    (x,) = vectors(seed)
    for row, z in zip(x, sparse_group(x, l1, l2), strict=True):
        group = l2 * sqrt(len(row))
        if not z.any():
            assert soft_threshold(row, l1).norm() <= group + 1e-9
            continue
        left = row - z - group * z / z.norm()
        close(left[z != 0], l1 * z[z != 0].sign())
        assert (left[z == 0].abs() <= l1 + 1e-9).all()


@given(seed=seeds, l1=amounts, l2=amounts)
@few
def test_no_neighbour_is_better(seed: int, l1: float, l2: float) -> None:
    (x,) = vectors(seed)
    z = sparse_group(x, l1, l2)
    step = torch.from_numpy(np.random.default_rng(seed).normal(size=(50, *x.shape)))

    def cost(z: Tensor) -> Tensor:
        group = l2 * sqrt(x.shape[-1]) * z.norm(dim=-1)
        return l1 * z.abs().sum(-1) + group + (z - x).square().sum(-1) / 2

    for size in (1e-4, 1e-1, 1.0):
        assert (cost(z + size * step) >= cost(z) - 1e-12).all()


@given(seed=seeds, amount=amounts)
@few
def test_what_is_taken_is_the_projection_on_the_dual_ball(seed: int, amount: float) -> None:
    """Moreau: x = prox of the norm + projection on the ball of the dual norm."""
    (x,) = vectors(seed)
    close(x - soft_threshold(x, amount), x.clamp(-amount, amount))
    length = x.norm(dim=-1, keepdim=True)
    close(x - group_shrink(x, amount), torch.where(length > amount, amount * x / length, x))


@given(seed=seeds, l1=amounts, l2=amounts)
@few
def test_two_vectors_never_end_further_apart(seed: int, l1: float, l2: float) -> None:
    """Firmly so: |P x - P y|^2 <= <P x - P y, x - y>."""
    x, y = vectors(seed, 2)
    gap = sparse_group(x, l1, l2) - sparse_group(y, l1, l2)
    assert (gap.square().sum(-1) <= (gap * (x - y)).sum(-1) + 1e-9).all()


@given(seed=seeds, l1=amounts, l2=amounts, factor=st.floats(1e-2, 1e2), sign=st.sampled_from([-1, 1]))
@few
def test_another_unit_and_another_sign_go_through(
    seed: int, l1: float, l2: float, factor: float, sign: int
) -> None:
    (x,) = vectors(seed)
    found = sparse_group(sign * factor * x, factor * l1, factor * l2)
    np.testing.assert_allclose(found, sign * factor * sparse_group(x, l1, l2), rtol=1e-8, atol=1e-8)


@given(seed=seeds, l1=amounts, l2=amounts, draw=st.randoms(use_true_random=False))
@few
def test_groups_are_by_themselves_and_coordinates_may_change_places(
    seed: int, l1: float, l2: float, draw: Any
) -> None:
    (x,) = vectors(seed)
    found, order = sparse_group(x, l1, l2), shuffled(draw, x.shape[-1])
    close(sparse_group(x[:, order], l1, l2), found[:, order])
    for row, alone in zip(x, found, strict=True):
        close(sparse_group(row, l1, l2), alone)


@given(seed=seeds, l1=amounts, l2=amounts)
@few
def test_nothing_grows_or_changes_sign(seed: int, l1: float, l2: float) -> None:
    (x,) = vectors(seed)
    found = sparse_group(x, l1, l2)
    assert (found.abs() <= x.abs()).all()
    assert (found * x >= 0).all()


@given(seed=seeds, amount=amounts)
@few
def test_a_short_group_is_zero_to_the_bit(seed: int, amount: float) -> None:
    (x,) = vectors(seed)
    short = x.norm(dim=-1) < amount * (1 - 1e-12)
    assert (group_shrink(x, amount)[short] == 0).all()
    assert (soft_threshold(x, amount)[x.abs() <= amount] == 0).all()
