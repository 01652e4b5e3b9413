"""How much a model forgets: the law of the paper and the forms it has to beat, all with the same inputs.

Sizes and token counts are in units of their geometric means (`Centre`), so that the first coefficient of each form is a
rise in nats at the middle of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from trimtab.adapt.law_points import Points
from trimtab.numerics.curve_problem import Coefficient

Rise = Callable[..., Any]

_A = Coefficient("A", 1e-7, 1e2, log=True)
_B = Coefficient("B", 1e-2, 1e8, log=True)
EXPONENTS = (-1.0, 4.0)
"""Between which the exponents of sizes and token counts are sought."""
_ALPHA, _BETA = Coefficient("alpha", *EXPONENTS), Coefficient("beta", *EXPONENTS)


@dataclass(frozen=True)
class Form:
    """A formula for the rise of the pretraining loss.

    Attributes:
        rise: `rise(x, **coefficients)` in nats per token; x has n and d (params and tokens, in units of the centre) and
            p.
        coefficients: what is fitted.
        about: one line for people.
    """

    rise: Rise
    coefficients: tuple[Coefficient, ...]
    about: str


def _injection(x: Any, A: float, B: float, alpha: float, beta: float) -> Any:
    return A * x["d"] ** beta / ((1 + B * x["p"]) * x["n"]) ** alpha


def _without_share(x: Any, A: float, alpha: float, beta: float) -> Any:
    return A * x["d"] ** beta / x["n"] ** alpha


def _additive(x: Any, A: float, B: float, C: float, alpha: float, beta: float) -> Any:
    return A / ((1 + B * x["p"]) * x["n"]) ** alpha + C * x["d"] ** beta


def _power_of_share(x: Any, A: float, B: float, alpha: float, beta: float, gamma: float) -> Any:
    return A * x["d"] ** beta / x["n"] ** alpha / (1 + B * x["p"]) ** gamma


def _constant(x: Any, A: float) -> Any:
    return A * np.ones_like(x["n"])


FORMS: dict[str, Form] = {
    "injection": Form(
        _injection, (_A, _B, _ALPHA, _BETA), "A D^beta / ((1 + B p) N)^alpha (arXiv 2502.06042)"
    ),
    "without the share": Form(
        _without_share, (_A, _ALPHA, _BETA), "A D^beta / N^alpha: injection does nothing"
    ),
    "additive": Form(
        _additive,
        (_A, _B, Coefficient("C", 1e-7, 1e2, log=True), _ALPHA, _BETA),
        "A / ((1 + B p) N)^alpha + C D^beta: size and data do not multiply",
    ),
    "power of the share": Form(
        _power_of_share,
        (_A, _B, _ALPHA, _BETA, Coefficient("gamma", -1.0, 8.0)),
        "A D^beta / (N^alpha (1 + B p)^gamma): the share has an exponent of its own, as in D-CPT (arXiv 2406.01375)",
    ),
    "constant": Form(_constant, (_A,), "A: every run forgets the same"),
}


@dataclass(frozen=True)
class Centre:
    """Geometric means of the points, by which sizes and token counts are measured while fitting."""

    params: float
    tokens: float

    @classmethod
    def of(cls, points: Points) -> Centre:
        """The centre of some points."""
        return cls(*(float(np.exp(np.log(points[name]).mean())) for name in ("params", "tokens")))

    def inputs(self, points: Points) -> dict[str, Float[np.ndarray, " n"]]:
        """What a form takes, from columns params, tokens and, where it matters, inject."""
        share = {"p": points["inject"]} if "inject" in points else {}
        return {"n": points["params"] / self.params, "d": points["tokens"] / self.tokens, **share}

    def natural(self, found: Mapping[str, float], *, sign: int = 1) -> dict[str, float]:
        """Coefficients for sizes in parameters and tokens: A takes up the centre.

        Args:
            found: coefficients in units of the centre.
            sign: of the exponent of the tokens in the form: 1 where more tokens raise it, -1 where they lower it.
        """
        unit = self.params ** found["alpha"] / self.tokens ** (sign * found["beta"])
        return {**found, "A": found["A"] * unit}
