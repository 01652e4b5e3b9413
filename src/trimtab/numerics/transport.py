"""How far apart two samples of each unit are: optimal transport on the line, for many lines at once."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.errors import ConfigError, ShapeError, explain

FEW_THREADS = 3
"""numpy sorts short rows in vector registers, on one thread as fast as torch on three or four: beyond, torch sorts."""


def wasserstein_1d(
    x: Float[Tensor, "*batch n"],
    y: Float[Tensor, "*batch m"],
    *,
    p: float = 2.0,
    x_weights: Float[Tensor, "*#batch n"] | None = None,
    y_weights: Float[Tensor, "*#batch m"] | None = None,
) -> Float[Tensor, "*batch"]:
    """p-Wasserstein distance to the power p between two empirical measures on the line, for each batch entry.

    Optimal transport on the line is monotone, so the distance is the L^p gap of the two quantile functions (Peyre
    & Cuturi 2019, remark 2.30). Exact for n != m: the grids i/n and j/m are merged in integers. Examples stand along
    the last axis: of activations (n, units) pass the transpose.

    Gradients flow to both samples and to the weights. Where samples tie, or coincide at p = 1, they are one
    of several subgradients.

    Args:
        x: samples of the first measure, in any order.
        y: samples of the second, same leading batch; the size may differ.
        p: order, finite, at least 1; with p = 2 the result is in squared units of x.
        x_weights, y_weights: mass of each sample, (n,) for all entries alike or one row for each; scaled to sum to one.
            A sample of mass 0 does not count, whatever its value. None for equal mass.

    Returns:
        One non-negative value per batch entry. For equal measures exactly 0, with weights 0 within rounding. A
        sample that is nan gives nan, and so do two infinite ones that meet.

    Raises:
        ShapeError: the leading batches differ, a side is empty, or weights are not one per sample.
        ConfigError: p is below 1 or not finite, samples are not floating point, or weights are negative, not finite or
            sum to zero. Both are ValueErrors.

    >>> wasserstein_1d(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]), p=1)
    tensor(1.)
    >>> wasserstein_1d(torch.tensor([0.0, 3.0]), torch.tensor([0.0, 0.0, 3.0]))
    tensor(1.5000)
    """
    _check(x, y, p)
    if x_weights is not None or y_weights is not None:
        masses = _masses("x_weights", x_weights, x), _masses("y_weights", y_weights, y)
        return _weighted(x, y, *masses, p)
    if x.shape == y.shape:
        return _cost(sorted_samples(x) - sorted_samples(y), p).mean(-1)
    first, second, widths = monotone_pairs(x, y)
    return (_cost(first - second, p) * widths).sum(-1)


def monotone_pairs(
    x: Float[Tensor, "*batch n"], y: Float[Tensor, "*batch m"]
) -> tuple[Float[Tensor, "*batch k"], Float[Tensor, "*batch k"], Float[Tensor, " k"]]:
    """The optimal plan between two samples of equal masses on the line: what goes where, and how much of it.

    The quantile functions of both are constant on each of k pieces of [0, 1] (Peyre & Cuturi 2019, remark 2.30): k = n
    pairs of sorted samples for n = m, at most n + m - 1 otherwise. Gradients flow to both samples.

    Returns:
        The value of x, the value of y, and the mass of each piece; the masses sum to 1.

    >>> monotone_pairs(torch.tensor([3.0, 0.0]), torch.tensor([1.0]))
    (tensor([0., 3.]), tensor([1., 1.]), tensor([0.5000, 0.5000]))
    """
    first, second = sorted_samples(x), sorted_samples(y)
    at_x, at_y, widths = (torch.from_numpy(part) for part in _merged(x.shape[-1], y.shape[-1]))
    at_x, at_y = at_x.to(x.device), at_y.to(x.device)
    return (
        first.index_select(-1, at_x),
        second.index_select(-1, at_y),
        widths.to(first.dtype).to(first.device),
    )


def sorted_samples(x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """The samples in ascending order along the last axis, nan last; gradients flow back to where each came from.

    >>> sorted_samples(torch.tensor([[2.0, 0.0, 1.0]]))
    tensor([[0., 1., 2.]])
    """
    if not _numpy_is_faster(x):
        return x.sort(dim=-1).values
    if x.requires_grad and torch.is_grad_enabled():
        x = x.contiguous()
        return x.gather(-1, _order(x))
    return torch.from_numpy(np.sort(x.detach().contiguous().numpy(), axis=-1))


def _order(x: Float[Tensor, "*batch n"]) -> Int[Tensor, "*batch n"]:
    """Where each sorted sample stands in x."""
    if _numpy_is_faster(x):
        return torch.from_numpy(np.argsort(x.detach().contiguous().numpy(), axis=-1))
    return x.detach().argsort(dim=-1)


def _numpy_is_faster(x: Tensor) -> bool:
    known = x.dtype in (torch.float32, torch.float64)
    return known and x.device.type == "cpu" and torch.get_num_threads() <= FEW_THREADS


@lru_cache(maxsize=64)
def _merged(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pieces on which both quantile functions are constant: index into n, index into m, width; in units of 1/(n m)."""
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    return (ends - 1) // m, (ends - 1) // n, np.diff(ends, prepend=0) / (n * m)


def _weighted(
    x: Float[Tensor, "*batch n"],
    y: Float[Tensor, "*batch m"],
    x_mass: Float[Tensor, "*batch n"],
    y_mass: Float[Tensor, "*batch m"],
    p: float,
) -> Float[Tensor, "*batch"]:
    """The same where the pieces differ from entry to entry."""
    (first, x_ends), (second, y_ends) = _quantiles(x, x_mass), _quantiles(y, y_mass)
    ends = torch.cat([x_ends, y_ends], dim=-1).sort(dim=-1).values
    widths = ends.diff(dim=-1, prepend=torch.zeros_like(ends[..., :1]))
    at_x, at_y = (torch.searchsorted(own.detach(), ends.detach()) for own in (x_ends, y_ends))
    # A piece of no width may lie at a sample that does not count: what stands there, even inf, must not matter.
    gaps = torch.where(widths > 0, first.gather(-1, at_x) - second.gather(-1, at_y), 0.0)
    return (_cost(gaps, p) * widths).sum(-1)


def _quantiles(
    x: Float[Tensor, "*batch n"], mass: Float[Tensor, "*batch n"]
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    """Sorted samples and the level up to which each is the quantile; the last level is exactly 1."""
    order = _order(x)
    total = mass.gather(-1, order).cumsum(dim=-1)
    return x.gather(-1, order), total / total[..., -1:]


def _cost(gaps: Tensor, p: float) -> Tensor:
    if p == 2:
        return gaps * gaps
    return gaps.abs() if p == 1 else gaps.abs().pow(p)


def _masses(name: str, weights: Tensor | None, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """Checked weights, one for each sample of each entry."""
    if weights is None:
        return torch.ones_like(x)
    if weights.shape not in (x.shape, x.shape[-1:]):
        raise ShapeError(
            explain(f"{name} of shape {tuple(weights.shape)}", f"{tuple(x.shape)} or {tuple(x.shape[-1:])}")
        )
    if not bool((weights >= 0).all()):
        raise ConfigError(explain(f"{name} with an entry below 0 or nan", "masses, 0 or above"))
    totals = weights.sum(dim=-1)
    if not bool(((totals > 0) & totals.isfinite()).all()):
        raise ConfigError(explain(f"{name} that sum to 0 or infinity", "a finite mass above 0 in each entry"))
    return weights.to(x.dtype).expand_as(x)


def _check(x: Tensor, y: Tensor, p: float) -> None:
    if not 1 <= p < math.inf:
        raise ConfigError(explain(f"p {p}", "a finite order, at least 1", "2.0"))
    shapes = f"x of shape {tuple(x.shape)} and y of shape {tuple(y.shape)}"
    if x.ndim == 0 or x.shape[:-1] != y.shape[:-1] or y.ndim == 0:
        raise ShapeError(explain(shapes, "(*batch, n) and (*batch, m) with the same leading batch"))
    if 0 in (x.shape[-1], y.shape[-1]):
        raise ShapeError(explain(shapes, "at least one sample on either side, along the last axis"))
    if not (x.is_floating_point() and y.is_floating_point()):
        raise ConfigError(explain(f"samples of {x.dtype} and {y.dtype}", "floating point", ".float()"))
