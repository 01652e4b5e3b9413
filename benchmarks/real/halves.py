"""bfloat16 products on a processor without arithmetic for them: in float32, rounded once, many times faster.

A processor with AVX-512 multiplies bfloat16 numbers exactly, adds the products in float32 and rounds the sum. Elsewhere
torch does the same, one number at a time. Here it is one product of float32 matrices, so that linear maps differ by the
order of the sums. Attention is rounded at its end, and not inside as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@contextmanager
def products_by_float32() -> Iterator[None]:
    """Linear maps and attention of bfloat16, or under autocast to it, by way of float32."""
    linear, attention = functional.linear, functional.scaled_dot_product_attention
    functional.linear, functional.scaled_dot_product_attention = _by_float32(linear), _by_float32(attention)
    try:
        yield
    finally:
        functional.linear, functional.scaled_dot_product_attention = linear, attention


def _by_float32(product: Any) -> Any:
    def rounded(first: Tensor, *args: Any, **options: Any) -> Tensor:
        if first.dtype != torch.bfloat16 and not torch.is_autocast_enabled("cpu"):
            return product(first, *args, **options)
        with torch.autocast("cpu", enabled=False):
            wide = [_widened(one) for one in (first, *args)]
            return product(*wide, **{key: _widened(one) for key, one in options.items()}).bfloat16()

    return rounded


def _widened(one: Any) -> Any:
    """A tensor of floating point numbers rounded to bfloat16, as float32; anything else as it is."""
    return one.bfloat16().float() if isinstance(one, Tensor) and one.is_floating_point() else one
