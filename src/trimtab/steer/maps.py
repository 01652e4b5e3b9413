"""Elementwise affine maps: the interventions that steerings are made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import ModelError, ShapeError, explain


@dataclass(frozen=True, eq=False)
class AffineMap:
    """`T(z) = weight * z + shift`, unit by unit (arXiv 2503.10679, eq. 4).

    Attributes:
        weight: (d,) by what each unit is multiplied.
        shift: (d,) what is added to it.
    """

    weight: Float[Tensor, " d"]
    shift: Float[Tensor, " d"]

    @classmethod
    def identity(cls, width: int) -> AffineMap:
        """The map that changes nothing."""
        return cls(torch.ones(width), torch.zeros(width))

    @property
    def width(self) -> int:
        """How many units there are."""
        return len(self.weight)

    def __call__(self, h: Tensor) -> Tensor:
        """The map of (..., d), or of the channels of an image, (B, d, H, W).

        Raises:
            ShapeError: h has another number of units.
        """
        image = h.ndim == 4
        if h.shape[1 if image else -1] != self.width:
            raise ShapeError(explain(f"{h.shape[1 if image else -1]} units", f"{self.width}, as the map has"))
        # In bfloat16 a weight of 1.003 is 1: maps act in float32 there, and only what they give is rounded.
        wide = torch.float32 if h.dtype in (torch.bfloat16, torch.float16) else h.dtype
        weight, shift = self.weight.to(h.device, wide), self.shift.to(h.device, wide)
        if image:
            weight, shift = weight[:, None, None], shift[:, None, None]
        return torch.addcmul(shift, h.to(wide), weight).to(h.dtype)

    def toned(self, amount: float) -> AffineMap:
        """`(1 - c) z + c T(z)` as a map; c may be beyond [0, 1]."""
        return AffineMap(1 + amount * (self.weight - 1), amount * self.shift)

    def then(self, other: AffineMap) -> AffineMap:
        """First this map, then the other.

        Raises:
            ShapeError: their widths differ.
        """
        if other.width != self.width:
            raise ShapeError(explain(f"maps of {self.width} and {other.width} units", "the same site"))
        return AffineMap(other.weight * self.weight, other.weight * self.shift + other.shift)

    def inverse(self) -> AffineMap:
        """The map that undoes this one.

        Raises:
            ModelError: a weight is 0.
        """
        if lost := int((self.weight == 0).sum()):
            got = f"{lost} units of weight 0, whose values are lost"
            raise ModelError(
                explain(got, "weights other than 0", "a steering that was toned down (steering * 0.9)")
            )
        return AffineMap(1 / self.weight, -self.shift / self.weight)
