"""Optimal transport on the line between two samples, for many lines at once."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import ConfigError, ShapeError, explain

FEW_THREADS = 3
"""numpy sorts short rows in vector registers, on one thread as fast as torch on three or four: beyond, torch sorts."""


def wasserstein_1d(
    x: Float[Tensor, "*batch n"], y: Float[Tensor, "*batch m"], *, p: float = 2.0
) -> Float[Tensor, "*batch"]:
    """p-Wasserstein distance to the power p between two empirical measures on the line, for each batch entry.

    Optimal transport on the line is monotone, so the distance is the L^p gap of the two quantile functions (Peyre
    & Cuturi 2019, remark 2.30). Exact for n != m: the grids i/n and j/m are merged in integers. Examples stand along
    the last axis: of activations (n, units) pass the transpose.

    Gradients flow to both samples. Where samples tie, or coincide at p = 1, they are one of several subgradients.

    Args:
        x: samples of the first measure, in any order.
        y: samples of the second, same leading batch; the size may differ.
        p: order, finite, at least 1; with p = 2 the result is in squared units of x.

    Returns:
        One non-negative value per batch entry; exactly 0 for equal measures. A sample that is nan gives nan, and so do
        two infinite ones that meet.

    Raises:
        ShapeError: the leading batches differ, or a side is empty.
        ConfigError: p is below 1 or not finite, or samples are not floating point. Both are ValueErrors.

    >>> wasserstein_1d(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]), p=1)
    tensor(1.)
    >>> wasserstein_1d(torch.tensor([0.0, 3.0]), torch.tensor([0.0, 0.0, 3.0]))
    tensor(1.5000)
    """
    _check(x, y, p)
    if x.shape == y.shape:
        return _cost(sorted_samples(x) - sorted_samples(y), p).mean(-1)
    first, second, widths = monotone_pairs(x, y)
    return (_cost(first - second, p) * widths).sum(-1)


def monotone_pairs(
    x: Float[Tensor, "*batch n"], y: Float[Tensor, "*batch m"]
) -> tuple[Float[Tensor, "*batch k"], Float[Tensor, "*batch k"], Float[Tensor, " k"]]:
    """The optimal transport plan between two samples of equal masses on the line, as monotone pairs.

    The quantile functions of both are constant on each of k pieces of [0, 1] (Peyre & Cuturi 2019, remark 2.30): k = n
    pairs of sorted samples for n = m, at most n + m - 1 otherwise. Gradients flow to both samples.

    Returns:
        The value of x, the value of y, and the mass of each piece; the masses sum to 1.

    >>> monotone_pairs(torch.tensor([3.0, 0.0]), torch.tensor([1.0]))
    (tensor([0., 3.]), tensor([1., 1.]), tensor([0.5000, 0.5000]))
    """
    first, second = sorted_samples(x), sorted_samples(y)
    at_x, at_y, widths = (torch.from_numpy(part) for part in _merged(x.shape[-1], y.shape[-1]))
    at_x, at_y, widths = at_x.to(x.device), at_y.to(x.device), widths.to(x.dtype).to(x.device)
    return first.index_select(-1, at_x), second.index_select(-1, at_y), widths


def sorted_samples(x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """The samples in ascending order along the last axis, nan last; gradients flow back to where each came from.

    >>> sorted_samples(torch.tensor([[2.0, 0.0, 1.0]]))
    tensor([[0., 1., 2.]])
    """
    has_fast_sort = x.dtype in (torch.float32, torch.float64)
    if not has_fast_sort or x.device.type != "cpu" or torch.get_num_threads() > FEW_THREADS:
        return x.sort(dim=-1).values
    x = x.contiguous()
    values = x.detach().numpy()
    if x.requires_grad and torch.is_grad_enabled():
        return x.gather(-1, torch.from_numpy(np.argsort(values, axis=-1)))
    return torch.from_numpy(np.sort(values, axis=-1))


@lru_cache(maxsize=64)
def _merged(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pieces on which both quantile functions are constant: index into n, index into m, width; in units of 1/(n m)."""
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    return (ends - 1) // m, (ends - 1) // n, np.diff(ends, prepend=0) / (n * m)


def _cost(gaps: Tensor, p: float) -> Tensor:
    if p == 2:
        return gaps * gaps
    return gaps.abs() if p == 1 else gaps.abs().pow(p)


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
