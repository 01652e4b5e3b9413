"""Every estimator of the benchmark by name, at a kind of site."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trimtab import CAA, ITI, AurA, GaussianAcT, LinAcT, LinEAS, MeanAcT

ORACLE = "affine oracle"
METHODS: dict[str, Callable[[str], Any]] = {
    "LinEAS": lambda sites: LinEAS(sites=sites),
    "LinEAS, local": lambda sites: LinEAS(sites=sites, stop_gradient=True),
    "LinEAS, loss at residual": lambda sites: LinEAS(sites=sites, loss_sites="residual"),
    "LinEAS, p=1": lambda sites: LinEAS(sites=sites, p=1.0),
    "MeanAcT": lambda sites: MeanAcT(sites=sites),
    "GaussianAcT": lambda sites: GaussianAcT(sites=sites),
    "LinAcT": lambda sites: LinAcT(sites=sites),
    "LinAcT, at once": lambda sites: LinAcT(sites=sites, sequential=False),
    "CAA": lambda sites: CAA(sites=sites),
    "CAA, mean": lambda sites: CAA(sites=sites, position="mean"),
    "ITI": lambda sites: ITI(sites=sites),
    "AurA": lambda sites: AurA(sites=sites),
}
"""At every kind of site, also where a method was not meant for it; its own place is in `HOME`."""

HOME = {"CAA": "residual", "CAA, mean": "residual", "ITI": "attention out", "AurA": "MLP out"}
