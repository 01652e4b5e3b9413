"""Proximal operators of penalties that make coordinates, or whole groups of them, exactly zero."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import ConfigError, ShapeError, explain


def soft_threshold(x: Float[Tensor, "*shape"], amount: float) -> Float[Tensor, "*shape"]:
    """The proximal operator of amount * ||.||_1: every coordinate moves towards zero by `amount` and stops there.

    Args:
        x: any shape.
        amount: 0 or above, in units of x; 0 leaves x as it is.

    Returns:
        A new tensor; nan stays nan.

    Raises:
        ConfigError: the amount is negative or not finite.

    Source: Parikh & Boyd 2014, section 6.5.2.

    >>> soft_threshold(torch.tensor([-3.0, 0.5, 2.0]), 1.0)
    tensor([-2.,  0.,  1.])
    """
    _check_amounts(amount=amount)
    return x - x.clamp(-amount, amount)


def group_shrink(x: Float[Tensor, "*groups d"], amount: float) -> Float[Tensor, "*groups d"]:
    """The proximal operator of amount * ||.||_2: the whole vector gets shorter by `amount`, or zero if it is shorter.

    Args:
        x: one group along the last axis; leading axes are further groups, each by itself.
        amount: 0 or above, in units of x; 0 leaves x as it is.

    Returns:
        A new tensor in the direction of x. A zero vector stays zero; a nan anywhere makes its group nan.

    Raises:
        ShapeError: x has no axis.
        ConfigError: the amount is negative or not finite.

    Source: Parikh & Boyd 2014, section 6.5.1 (block soft thresholding).

    >>> group_shrink(torch.tensor([3.0, 4.0]), 2.5)
    tensor([1.5000, 2.0000])
    """
    _check_amounts(amount=amount)
    _check_group(x)
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    share_lost = amount / length.clamp_min(torch.finfo(x.dtype).tiny)  # of a zero vector too, without a nan
    return x * (1 - share_lost.clamp_max(1))


def sparse_group(
    x: Float[Tensor, "*groups d"], gamma_l1: float, gamma_group: float
) -> Float[Tensor, "*groups d"]:
    """The proximal operator of gamma_l1 * ||.||_1 + gamma_group * sqrt(d) * ||.||_2, the sparse group lasso.

    Thresholding each coordinate first and shrinking the group after is the exact operator of the sum; the other
    order is not. LinEAS (arXiv 2503.10679) takes both at its step size times gamma, with d the units of a site.

    Args:
        x: one group along the last axis; leading axes are further groups, each by itself.
        gamma_l1: step size times the weight of the l1 part; 0 switches it off.
        gamma_group: step size times the weight of the group part, before the factor sqrt(d); 0 switches it off.

    Returns:
        A new tensor: the minimiser z of gamma_l1 ||z||_1 + gamma_group sqrt(d) ||z||_2 + ||z - x||^2 / 2.

    Raises:
        ShapeError: x has no axis.
        ConfigError: an amount is negative or not finite.

    Source: Simon, Friedman, Hastie & Tibshirani 2013; why one may follow the other: Yu 2013, On decomposing the
    proximal map.

    >>> sparse_group(torch.tensor([4.0, -5.0, 0.5, 0.0]), 1.0, 1.25)
    tensor([ 1.5000, -2.0000,  0.0000,  0.0000])
    """
    _check_amounts(gamma_l1=gamma_l1, gamma_group=gamma_group)
    _check_group(x)
    return group_shrink(soft_threshold(x, gamma_l1), gamma_group * math.sqrt(x.shape[-1]))


def _check_amounts(**amounts: float) -> None:
    for name, amount in amounts.items():
        if not 0 <= amount < math.inf:
            raise ConfigError(explain(f"{name} {amount}", "a finite number, 0 or above"))


def _check_group(x: Tensor) -> None:
    if x.ndim == 0:
        raise ShapeError(explain("x without an axis", "(*groups, d)", "soft_threshold for single numbers"))
