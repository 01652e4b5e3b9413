from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.steer.samples import Scale, unit_costs


def drawn(n, m, d=5, seed=0):
    draw = torch.Generator().manual_seed(seed)
    place, size = torch.randn(d, generator=draw), torch.rand(d, generator=draw) + 0.5
    source = torch.randn(n, d, generator=draw, dtype=torch.float64)
    target = place + size * torch.randn(m, d, generator=draw, dtype=torch.float64)
    return source, target


def cost(source, target, how="scale-free", p=2.0):
    """The loss of one site."""
    return unit_costs(source, target, Scale.of(source, target, how), p).sum()


def sorted_over_units(source, target):
    """What the loss is when the wrong axis is sorted."""
    gap = source.sort(dim=1).values - target.sort(dim=1).values
    return gap.square().mean(0).sum()


def laws(loss):
    """Which laws of a loss over samples of units a function keeps."""
    source, target = drawn(8, 8)
    rows, units = torch.randperm(8), torch.tensor([1, 2, 3, 4, 0])
    once = loss(source, target)
    return {
        "examples may be permuted": bool(torch.isclose(loss(source[rows], target), once, rtol=1e-12)),
        "units may not": not torch.isclose(loss(source[:, units], target), once, rtol=1e-3),
        "equal samples cost nothing": loss(source, source[rows]) == 0,
    }


def test_the_loss_keeps_its_laws_and_sorting_over_units_breaks_all_of_them():
    assert all(laws(cost).values()), laws(cost)
    assert all(laws(lambda x, y: cost(x, y, "paper", 1.0)).values())
    assert not any(laws(sorted_over_units).values()), laws(sorted_over_units)


@given(st.lists(st.lists(st.integers(-3, 3), min_size=2, max_size=2), min_size=2, max_size=9), st.randoms())
def test_equal_multisets_cost_exactly_nothing(rows, draw):
    source = torch.tensor(rows, dtype=torch.float32)
    columns = [draw.sample(column, len(column)) for column in source.T.tolist()]
    target = torch.tensor(columns).T
    assert cost(source, target) == 0
    assert cost(source, target + torch.tensor([0.0, 1.0])) > 0


@pytest.mark.parametrize(("n", "m"), [(8, 8), (5, 8), (32, 7)])
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_in_the_paper_s_units_it_is_the_mean_gap_of_sorted_samples_repeated_to_one_size(n, m, p):
    source, target = drawn(n, m)
    first = source.sort(dim=0).values.repeat_interleave(m, 0)
    second = target.sort(dim=0).values.repeat_interleave(n, 0)
    expected = (first - second).abs().pow(p).mean(0).sum()
    torch.testing.assert_close(cost(source, target, "paper", p), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_scale_free_costs_know_neither_scale_nor_offset_of_a_site(p):
    source, target = drawn(9, 6)
    torch.testing.assert_close(cost(100 * source + 7, 100 * target + 7, p=p), cost(source, target, p=p))


def test_one_spread_of_difference_costs_one():
    source = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scale = Scale.of(source, source, "scale-free")
    torch.testing.assert_close(unit_costs(source, source + scale.spread, scale), torch.ones(3).double())
    torch.testing.assert_close(scale.spread, source.std(0, correction=0), rtol=0.02, atol=0)


def test_units_that_never_vary_have_a_finite_scale():
    flat = torch.ones(4, 3)
    assert Scale.of(flat, flat, "scale-free").spread.tolist() == [1.0] * 3
    one = torch.cat([flat, torch.randn(4, 1)], 1)
    assert (Scale.of(one, one, "scale-free").spread > 0).all()
