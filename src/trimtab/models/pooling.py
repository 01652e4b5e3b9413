"""One vector per example: the last, mean or largest value over valid tokens, the mean over an image."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.errors import ModelError, ShapeError, explain, nearest

Pool = Literal["mean", "max", "last"]


def pool(
    values: Float[Tensor, B * rest], how: Pool, mask: Int[Tensor, "B T"] | None = None
) -> Float[Tensor, "B d"]:
    """One vector per example.

    Args:
        values: (B, T, d) over tokens, (B, C, H, W) over positions of an image, or (B, d), returned as it is.
        how: "mean", "max", or "last" (the last valid token; not for images).
        mask: (B, T), 1 where a token is valid, on either side of the padding; None where all are. Not for images.

    Returns:
        (B, d), or (B, C) for an image. Padding never enters: not even infinities or nan there.

    Raises:
        ModelError: an unknown way, or "last" for an image.
        ShapeError: a mask of another shape, an example without a valid token, or values of another rank.

    >>> pool(torch.tensor([[[1.0], [5.0], [9.0]]]), "mean", torch.tensor([[1, 1, 0]]))
    tensor([[3.]])
    """
    if how not in get_args(Pool):
        raise ModelError(
            f"pool: {explain(repr(how), f'one of {get_args(Pool)}', nearest(how, get_args(Pool)))}"
        )
    if values.ndim == 2:
        return values
    if values.ndim == 4:
        if how == "last":
            raise ModelError(f"pool: {explain('last for an image', 'mean or max')}")
        return values.mean((2, 3)) if how == "mean" else values.amax((2, 3))
    if values.ndim != 3:
        raise ShapeError(
            explain(f"values of shape {tuple(values.shape)}", "(B, T, d), (B, C, H, W) or (B, d)")
        )
    return _over_tokens(values, how, _checked(values, mask))


def _over_tokens(values: Tensor, how: Pool, valid: Tensor) -> Tensor:
    if how == "last":
        places = torch.arange(valid.shape[1], device=valid.device)
        return values[torch.arange(len(values), device=valid.device), (valid * places).argmax(1)]
    if how == "max":
        return values.masked_fill(~valid[..., None], -torch.inf).amax(1)
    return values.masked_fill(~valid[..., None], 0).sum(1) / valid.sum(1, keepdim=True)


def _checked(values: Tensor, mask: Tensor | None) -> Tensor:
    """A boolean mask on the device of the values."""
    if mask is None:
        return torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    if mask.shape != values.shape[:2]:
        got = f"a mask of shape {tuple(mask.shape)} for values of shape {tuple(values.shape)}"
        raise ShapeError(explain(got, "one entry per token", "the attention mask of the same batch"))
    if not mask.bool().any(1).all():
        raise ShapeError(explain("an example without a valid token", "at least one each"))
    return mask.bool().to(values.device)
