"""Every estimator of the benchmark by name, at a kind of site."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trimtab import CAA, ITI, AurA, GaussianAcT, LinAcT, LinEAS, MeanAcT

ORACLE = "affine oracle"
DEFAULT, UNPENALISED = "LinEAS, gamma .3", "LinEAS"
LOCAL = {name: f"{name}, local" for name in (DEFAULT, UNPENALISED)}
"""End-to-end fit -> the same with gradients stopped between sites."""
METHODS: dict[str, Callable[[str], Any]] = {
    "LinEAS": lambda sites: LinEAS(sites=sites, gamma=0.0),
    "LinEAS, local": lambda sites: LinEAS(sites=sites, gamma=0.0, stop_gradient=True),
    "LinEAS, gamma .3": lambda sites: LinEAS(sites=sites, gamma=0.3),
    "LinEAS, gamma .3, local": lambda sites: LinEAS(sites=sites, gamma=0.3, stop_gradient=True),
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

VARIANTS: dict[str, Callable[[str], Any]] = {
    "LinEAS, p=1": lambda sites: LinEAS(sites=sites, gamma=0.0, p=1.0),
    "LinEAS, loss at residual": lambda sites: LinEAS(sites=sites, gamma=0.0, loss_sites="residual"),
    "LinEAS, paper": lambda sites: LinEAS(sites=sites, preset="paper"),
    "LinEAS, gamma 1": lambda sites: LinEAS(sites=sites, gamma=1.0),
}
"""Further forms of LinEAS."""

HOME = {"CAA": "residual", "CAA, mean": "residual", "ITI": "attention out", "AurA": "MLP out"}

LABELS = {
    ORACLE: "affine oracle (a ceiling)",
    DEFAULT: f"**`LinEAS`, the default (`gamma={METHODS[DEFAULT]('residual').gamma:g}`)**",
    LOCAL[DEFAULT]: "the default, gradients stopped between sites",
    UNPENALISED: "`LinEAS(gamma=0)`",
    LOCAL[UNPENALISED]: "`LinEAS(gamma=0)`, gradients stopped between sites",
    "MeanAcT": "`MeanAcT`",
    "LinAcT": "`LinAcT`",
    "LinAcT, at once": "`LinAcT(sequential=False)`",
    "GaussianAcT": "`GaussianAcT`",
    "CAA": "`CAA`",
    "CAA, mean": '`CAA(position="mean")`',
    "ITI": "`ITI`",
    "AurA": "`AurA`",
}
"""How the page of results names them, in its order."""
