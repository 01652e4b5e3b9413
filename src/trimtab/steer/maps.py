"""Elementwise affine maps: the interventions that steerings are made of, and the model that they belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.errors import ModelError, ShapeError, explain
from trimtab.models.hooks import intervene
from trimtab.models.sites import Site, network_of, resolve, site_fingerprints
from trimtab.runs.brief import brief

if TYPE_CHECKING:
    from trimtab.models.load import Model

Maps = Mapping[str, tuple[Tensor, Tensor]]
"""Site name -> weight (d,) and shift (d,)."""


@dataclass(frozen=True, eq=False)
class AffineMap:
    """Elementwise affine map `T(z) = weight * z + shift` (arXiv 2503.10679, eq. 4).

    Attributes:
        weight: (d,) by what each unit is multiplied.
        shift: (d,) what is added to it.
    """

    weight: Float[Tensor, " d"]
    shift: Float[Tensor, " d"]

    __repr__ = brief

    @classmethod
    def identity(cls, width: int) -> AffineMap:
        """Identity map, which changes nothing."""
        return cls(torch.ones(width), torch.zeros(width))

    @property
    def width(self) -> int:
        """Number of units."""
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
        """Scaled map `(1 - c) z + c T(z)`; c may be beyond [0, 1]."""
        return AffineMap(1 + amount * (self.weight - 1), amount * self.shift)

    def then(self, other: AffineMap) -> AffineMap:
        """Composition: first this map, then the other.

        Raises:
            ShapeError: their widths differ.
        """
        if other.width != self.width:
            raise ShapeError(explain(f"maps of {self.width} and {other.width} units", "the same site"))
        return AffineMap(other.weight * self.weight, other.weight * self.shift + other.shift)

    def inverse(self) -> AffineMap:
        """Inverse map `(z - shift) / weight`, which undoes this one.

        Raises:
            ModelError: a weight is 0.
        """
        if lost := int((self.weight == 0).sum()):
            got = f"{lost} units of weight 0, whose values are lost"
            hint = "a steering that was toned down (steering * 0.9)"
            raise ModelError(explain(got, "weights other than 0", hint))
        return AffineMap(1 / self.weight, -self.shift / self.weight)


@dataclass(frozen=True)
class Base:
    """Base model, on which a steering was fitted: its name and fingerprints.

    Attributes:
        name: hub name, folder or class.
        fingerprints: of its modules at the sites, by path; see `trimtab.models.sites`.
    """

    name: str
    fingerprints: Mapping[str, str]

    __repr__ = brief

    @classmethod
    def of(cls, model: Model | nn.Module, sites: Iterable[Site]) -> Base:
        """Base of a model: its name, and its fingerprints at the sites."""
        network = network_of(model)
        return cls(str(getattr(model, "name", type(network).__name__)), site_fingerprints(network, sites))

    def conflicts(self, other: Base) -> list[str]:
        """Paths at which the fingerprints of two bases differ."""
        shared = self.fingerprints.keys() & other.fingerprints.keys()
        return sorted(path for path in shared if self.fingerprints[path] != other.fingerprints[path])

    def check(self, model: Model | nn.Module, names: Iterable[str]) -> None:
        """Refuse another model than this one.

        Args:
            model: a handle or a network.
            names: of the sites that count.

        Raises:
            ModelError: it lacks a site, or its weights there differ.
        """
        sites = [Site.parse(name) for name in names]
        resolve(model, sites)
        if changed := self.conflicts(Base.of(model, sites)):
            got = f"a model whose weights at {changed[0]} are not those of {self.name}"
            hint = "steering.rebased(model), if you mean it"
            raise ModelError(explain(got, "the model it was fitted on", hint))


def check_maps(maps: Maps) -> None:
    """Refuse invalid maps.

    Raises:
        ShapeError: weight and shift are not vectors of one length.
        ModelError: there is no site, one is no name, or a value is not finite.
    """
    if not maps:
        raise ModelError(explain("no site", "maps at one site at least"))
    for name, (weight, shift) in maps.items():
        Site.parse(name)
        if weight.ndim != 1 or weight.shape != shift.shape:
            got = f"{name} with weight {tuple(weight.shape)} and shift {tuple(shift.shape)}"
            raise ShapeError(explain(got, "two vectors (d,)"))
        if not (torch.isfinite(weight).all() and torch.isfinite(shift).all()):
            raise ModelError(explain(f"{name} with values that are not finite", "finite maps"))


def fingerprint(maps: Maps) -> str:
    """Fingerprint of maps: 16 hex digits that change when a site or a value does."""
    digest = hashlib.sha256()
    for name, pair in maps.items():
        digest.update(name.encode())
        for part in pair:
            digest.update(part.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def sparsity(maps: Maps) -> dict[str, float]:
    """Sparsity: site name -> share of its units that are left alone (weight exactly 1, shift exactly 0)."""
    return {name: float(((w == 1) & (b == 0)).float().mean()) for name, (w, b) in maps.items()}


def steered(model: Model | nn.Module, maps: Maps, strength: float | Tensor) -> AbstractContextManager[None]:
    """Run a block with maps in place; for the strength, and what is refused, see `trimtab.models.hooks.intervene`."""
    acting = {name: AffineMap(*pair) for name, pair in maps.items()}
    if isinstance(strength, float) and strength not in (0.0, 1.0):
        # One multiplication and addition per unit instead of a map and a blend.
        acting, strength = {name: one.toned(strength) for name, one in acting.items()}, 1.0
    return intervene(model, acting, strength)
