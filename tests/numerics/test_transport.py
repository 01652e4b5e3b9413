"""1-D optimal transport against POT, scipy, brute-force assignment, a linear programme and closed forms."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from math import inf, lcm, nan
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import wasserstein_distance
from torch import Tensor

from trimtab.errors import ConfigError, ShapeError
from trimtab.numerics import transport
from trimtab.numerics.transport import monotone_pairs, sorted_samples, wasserstein_1d

ORDERS = [1.0, 1.5, 2.0, 3.0]
SIZES = [(1, 1), (7, 7), (32, 32), (1, 9), (5, 8), (6, 4), (12, 32)]


@pytest.fixture(autouse=True, params=["numpy", "torch"])
def sorting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs with either library sorting."""
    monkeypatch.setattr(transport, "FEW_THREADS", 10_000 if request.param == "numpy" else 0)
    return str(request.param)


@pytest.fixture(scope="module")
def pot() -> Iterator[Any]:
    """POT, kept from importing array libraries that are not compared with."""
    with pytest.MonkeyPatch.context() as patch:
        for backend in ("JAX", "CUPY", "TENSORFLOW"):
            patch.setenv(f"POT_BACKEND_DISABLE_{backend}", "1")
        yield importlib.import_module("ot")


def drawn(n: int, m: int, *batch: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(*batch, n))), torch.from_numpy(
        rng.normal(1, 2, size=(*batch, m))
    )


def agrees(found: Tensor, expected: Any) -> None:
    np.testing.assert_allclose(found.detach().numpy(), np.asarray(expected), rtol=1e-10, atol=1e-12)


# Second opinions


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_agrees_with_pot(pot: Any, n: int, m: int, p: float) -> None:
    x, y = drawn(n, m, 11)
    agrees(wasserstein_1d(x, y, p=p), pot.wasserstein_1d(x.T.numpy(), y.T.numpy(), p=p))


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize(("n", "m"), [(8, 8), (5, 8), (9, 6)])
def test_gradients_agree_with_pot(pot: Any, n: int, m: int, p: float) -> None:
    ours, theirs = ([part.requires_grad_() for part in drawn(n, m, 4)] for _ in range(2))
    weighing = torch.arange(1.0, 5.0, dtype=torch.float64)
    (wasserstein_1d(*ours, p=p) * weighing).sum().backward()
    (pot.wasserstein_1d(theirs[0].T, theirs[1].T, p=p) * weighing).sum().backward()
    for own, other in zip(ours, theirs, strict=True):
        agrees(own.grad, other.grad)


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize(("n", "m"), [(6, 6), (4, 6), (3, 5), (2, 8)])
def test_is_the_cheapest_assignment(n: int, m: int, p: float) -> None:
    """Samples repeated up to a common size can be assigned one to one."""
    x, y = drawn(n, m)
    size = lcm(n, m)
    cost = np.abs(np.repeat(x.numpy(), size // n)[:, None] - np.repeat(y.numpy(), size // m)) ** p
    agrees(wasserstein_1d(x, y, p=p), cost[linear_sum_assignment(cost)].mean())


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_agrees_with_scipy_at_order_one(n: int, m: int) -> None:
    x, y = drawn(n, m, 5)
    for row, found in enumerate(wasserstein_1d(x, y, p=1)):
        agrees(found, wasserstein_distance(x[row], y[row]))


@pytest.mark.parametrize("p", ORDERS)
def test_to_a_single_point_it_is_the_mean_cost(p: float) -> None:
    x = drawn(9, 1)[0]
    point = torch.tensor([0.25], dtype=torch.float64)
    agrees(wasserstein_1d(x, point, p=p), (x - 0.25).abs().pow(p).mean())


def test_between_fine_grids_of_two_uniforms_it_is_the_integral() -> None:
    """U(0, 1) to U(2, 5): the quantile gap 2 + 2 q, squared and integrated, is 28/3."""
    x, y = ((torch.arange(size, dtype=torch.float64) + 0.5) / size for size in (2000, 3000))
    assert wasserstein_1d(x, 2 + 3 * y).item() == pytest.approx(28 / 3, rel=1e-6)


# Which axis is which


def sorted_over_units(x: Tensor, y: Tensor) -> Tensor:
    """The mistake this loss invites: sorting each example's units."""
    return wasserstein_1d(x.T, y.T).sum()


def over_examples(x: Tensor, y: Tensor) -> Tensor:
    return wasserstein_1d(x, y).sum()


def axes_are_right(loss: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Whether a loss of (units, examples) ignores the order of examples and sees which unit is which."""
    x, y = drawn(6, 6, 5)
    examples, units = torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([1, 2, 3, 4, 0])
    blind_to_examples = torch.allclose(loss(x[:, examples], y), loss(x, y), rtol=1e-12)
    sees_units = not torch.allclose(loss(x[units], y), loss(x, y), rtol=1e-3)
    return blind_to_examples and sees_units


def test_a_loss_that_sorts_units_is_told_apart() -> None:
    assert axes_are_right(over_examples)
    assert not axes_are_right(sorted_over_units)


def test_activations_go_in_transposed() -> None:
    """One unit that shifts and one that stays, three examples: (3, 2) in, two distances out."""
    source = torch.tensor([[0.0, 5.0], [1.0, 6.0], [2.0, 7.0]])
    target = torch.tensor([[12.0, 7.0], [10.0, 5.0], [11.0, 6.0]])
    assert wasserstein_1d(source.T, target.T).tolist() == [100.0, 0.0]


# Gradients


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (6, 6), (4, 6), (5, 3)])
def test_gradients_are_finite_differences(n: int, m: int, p: float) -> None:
    x, y = (part.requires_grad_() for part in drawn(n, m, 2, 3))
    assert torch.autograd.gradcheck(lambda x, y: wasserstein_1d(x, y, p=p), (x, y))


@pytest.mark.parametrize("p", [2.0, 3.0])
@pytest.mark.parametrize("m", [4, 6])
def test_second_derivatives_are_finite_differences(m: int, p: float) -> None:
    x, y = (part.requires_grad_() for part in drawn(4, m, 2))
    assert torch.autograd.gradgradcheck(lambda x, y: wasserstein_1d(x, y, p=p), (x, y))


def test_the_gradient_of_the_squared_distance_by_hand() -> None:
    """Sorted, 1 meets 0 and 3 meets 7: 2 (x - y) / n, each where its sample stood."""
    x = torch.tensor([3.0, 1.0], requires_grad=True)
    wasserstein_1d(x, torch.tensor([0.0, 7.0])).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [-4.0, 1.0]


@pytest.mark.parametrize("p", ORDERS)
def test_where_samples_coincide_the_gradient_is_zero(p: float) -> None:
    x = drawn(5, 1)[0].requires_grad_()
    wasserstein_1d(x, x.detach().flip(0), p=p).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0] * 5


def test_no_gradient_no_graph() -> None:
    x, y = drawn(4, 4, 2)
    assert not wasserstein_1d(x, y).requires_grad
    with torch.no_grad():
        assert not wasserstein_1d(x.requires_grad_(), y).requires_grad


# Shapes, types, edges


@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3), (0,), (2, 0, 3)])
@pytest.mark.parametrize("m", [4, 5])
def test_any_leading_batch(batch: tuple[int, ...], m: int) -> None:
    x, y = drawn(4, m, *batch)
    found = wasserstein_1d(x, y)
    assert found.shape == batch
    for place in np.ndindex(*batch):
        agrees(found[place], wasserstein_1d(x[place], y[place]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("m", [16, 24])
def test_the_type_of_the_samples_stays(dtype: torch.dtype, m: int) -> None:
    x, y = (part.to(dtype).requires_grad_() for part in drawn(16, m, 3))
    found = wasserstein_1d(x, y)
    found.sum().backward()
    assert found.dtype == dtype
    exact = wasserstein_1d(x.double(), y.double())
    torch.testing.assert_close(found.double(), exact, rtol=20 * torch.finfo(dtype).eps, atol=0)


def test_views_and_inputs_stay_as_they_were() -> None:
    x, y = drawn(6, 6, 4)
    wide, before = x.repeat_interleave(2, dim=-1), (x.clone(), y.clone())
    agrees(wasserstein_1d(wide[:, ::2], y.T.contiguous().T), wasserstein_1d(x, y))
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


def test_either_library_sorts_alike() -> None:
    x = torch.tensor([[2.0, nan, -inf, 0.5, 0.5]], requires_grad=True)
    expected = torch.tensor([[-inf, 0.5, 0.5, 2.0, nan]])
    torch.testing.assert_close(sorted_samples(x.detach()), expected, equal_nan=True)
    torch.testing.assert_close(sorted_samples(x), expected, equal_nan=True, check_stride=False)


def test_a_nan_makes_its_entry_nan_and_no_other() -> None:
    x, y = drawn(4, 6, 3)
    x[1, 2] = nan
    for other in (y, y[:, :4]):
        assert wasserstein_1d(x, other).isnan().tolist() == [False, True, False]


def test_infinite_samples_are_infinitely_far_or_undefined() -> None:
    x, y = torch.tensor([0.0, inf]), torch.tensor([0.0, 1.0, 2.0])
    assert wasserstein_1d(x, y).item() == inf
    assert wasserstein_1d(x, x).isnan()


# Refusals


@pytest.mark.parametrize("p", [0.5, 0.0, -1.0, inf, nan])
def test_an_order_that_is_no_order_is_refused(p: float) -> None:
    with pytest.raises(ConfigError, match=r"got p .*, expected a finite order, at least 1; try 2\.0"):
        wasserstein_1d(*drawn(3, 3), p=p)
    with pytest.raises(ValueError, match="expected a finite order"):
        wasserstein_1d(*drawn(3, 3), p=p)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ((2, 3), (3, 3), r"got x of shape \(2, 3\) and y of shape \(3, 3\), expected .* same leading batch"),
        ((3,), (1, 3), r"got x of shape \(3,\) and y of shape \(1, 3\), expected .* same leading batch"),
        ((), (3,), r"got x of shape \(\) and y of shape \(3,\), expected \(\*batch, n\) and \(\*batch, m\)"),
        ((), (), r"got x of shape \(\) and y of shape \(\), expected"),
        ((2, 0), (2, 3), r"got x of shape \(2, 0\) and .*, expected at least one sample on either side"),
        ((2, 3), (2, 0), r"and y of shape \(2, 0\), expected at least one sample on either side"),
    ],
)
def test_samples_that_do_not_fit_are_refused(x: tuple[int, ...], y: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        wasserstein_1d(torch.zeros(x), torch.zeros(y))


def test_integers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"got samples of torch.int64 and torch.float32.*try \.float\(\)"):
        wasserstein_1d(torch.arange(3), torch.zeros(3))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 5), (4, 7), (1, 9), (12, 8)])
def test_monotone_pairs_are_the_plan_of_pot(pot: Any, n: int, m: int) -> None:
    draw = torch.Generator().manual_seed(n * 10 + m)
    x, y = (torch.randn(size, generator=draw, dtype=torch.float64) for size in (n, m))
    first, second, masses = monotone_pairs(x, y)
    plan = pot.emd_1d(x.numpy(), y.numpy())
    found = np.zeros((n, m))
    for value, other, mass in zip(first, second, masses, strict=True):
        found[(x == value).nonzero().item(), (y == other).nonzero().item()] += mass
    np.testing.assert_allclose(found, plan, atol=1e-12)
    assert len(masses) <= n + m - 1
    torch.testing.assert_close(masses.sum(), torch.tensor(1.0).double())
    torch.testing.assert_close(((first - second) ** 2 * masses).sum(), wasserstein_1d(x, y))
