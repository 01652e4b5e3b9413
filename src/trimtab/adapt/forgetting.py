"""Scaling laws for forgetting: what fine-tuning costs a model, and which share of pretraining data keeps that small."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from trimtab.adapt.law_fit import Fitted, fit_rise, fit_target, told
from trimtab.adapt.law_points import points_of, ranges_of, refuse_undetermined
from trimtab.errors import ConfigError, DataError, explain
from trimtab.numerics.curve_problem import Loss
from trimtab.runs.atomic import write_atomic
from trimtab.runs.plain import to_json


@dataclass(frozen=True, eq=False)
class Law:
    """What both laws share: fitted coefficients, their draws, where they were fitted.

    Attributes:
        fitted: the numbers.
        ranges: column -> (least, largest) of the runs it was fitted to.
    """

    fitted: Fitted
    ranges: Mapping[str, tuple[float, float]]

    kind: ClassVar[str] = ""

    @property
    def coefficients(self) -> dict[str, float]:
        """Value by name; params and tokens are plain counts, losses nats per token."""
        return dict(self.fitted.coefficients)

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % bootstrap interval of each coefficient; nan without draws."""
        return self.fitted.intervals

    def extrapolates(self, **where: float) -> list[str]:
        """What lies outside the runs that the law was fitted to, in words; empty inside."""
        found = []
        for name, value in where.items():
            low, high = self.ranges[name]
            if not low <= value <= high:
                times = value / high if value > high else (low / value if value else float("inf"))
                found.append(f"{name} {value:g} is outside the fitted {low:g} to {high:g} (by {times:.3g} x)")
        return found

    def to_frame(self) -> pd.DataFrame:
        """One row per coefficient: value, low, high (95 %), n runs."""
        rows = [(name, value, *self.intervals[name]) for name, value in self.coefficients.items()]
        return pd.DataFrame(rows, columns=["coefficient", "value", "low", "high"]).assign(n=self.fitted.n)

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, which `load` and `trimtab plan` read."""
        text = to_json({"law": self.kind, "ranges": self.ranges, **self.fitted.to_plain()}, indent=1)
        write_atomic(Path(path), text + "\n")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Any:
        """Read what `save` wrote.

        Raises:
            DataError: no such file, or it holds something else.
        """
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
            if record["law"] != cls.kind:
                raise DataError(explain(f"a law of {record['law']}", f"a law of {cls.kind}"))
            ranges = {name: (float(low), float(high)) for name, (low, high) in record["ranges"].items()}
            return cls(Fitted.from_plain(record), ranges)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: {explain(str(error), 'a law written by save()')}") from error


class ForgettingLaw(Law):
    """L_pt = L_pt0 + A D^beta / ((1 + B p) N)^alpha (Bethune et al. 2025, arXiv 2502.06042, equation of forgetting).

    N parameters, D unique fine-tuning tokens, p the share of pretraining data among what is trained on, L_pt the loss
    on pretraining data where the fine-tuning validation loss is lowest, L_pt0 that of the base model.
    """

    kind = "forgetting"

    @classmethod
    def fit(
        cls, frame: pd.DataFrame, *, loss: Loss = "huber", n_boot: int = 500, seed: int = 0
    ) -> ForgettingLaw:
        """Fit the law to runs.

        Residuals are those of log L_pt, so runs that forgot nothing, or came out better than before, are points like
        any other. Starts come from a linear fit of log rises for each of many B (variable projection: Golub & Pereyra
        1973).

        Args:
            frame: one row per run: params, tokens, inject (a share, not per cent), loss_pt, loss_pt0; rows that agree
                in `run`, where there is such a column, are resampled together.
            loss: "huber" (at 1e-3) or "squared".
            n_boot: refits for the intervals; 0 for none.
            seed: of the refits.

        Raises:
            DataError: a column is missing or holds what it cannot; params, tokens or inject have one value throughout,
                so that alpha, beta or B cannot be determined; no run forgot anything; or coefficients can be traded
                against one another at these runs.
        """
        points = points_of(frame, ("params", "tokens", "inject", "loss_pt", "loss_pt0"))
        refuse_undetermined(points, {"params": "alpha", "tokens": "beta", "inject": "B"})
        runs = frame["run"].to_numpy() if "run" in frame else None
        return cls(
            fit_rise(points, runs, loss, n_boot, seed), ranges_of(points, ("params", "tokens", "inject"))
        )

    def rise(self, *, params: Any, tokens: Any, inject: Any) -> Any:
        """The predicted rise of the pretraining loss, nats per token; numbers or arrays that broadcast."""
        c = self.coefficients
        return told(
            c["A"]
            * _array(tokens) ** c["beta"]
            / ((1 + c["B"] * _array(inject)) * _array(params)) ** c["alpha"]
        )

    def predict(self, *, params: Any, tokens: Any, inject: Any, loss_pt0: Any) -> Any:
        """The predicted pretraining loss after fine-tuning, nats per token; numbers or arrays that broadcast."""
        return told(_array(loss_pt0) + self.rise(params=params, tokens=tokens, inject=inject))

    def interval(
        self,
        *,
        params: Any,
        tokens: Any,
        inject: Any,
        loss_pt0: Any,
        noise: bool = True,
        confidence: float = 0.95,
    ) -> tuple[Any, Any]:
        """The interval in which the loss of a new run lies; with `noise=False` that of the curve alone.

        Raises:
            DataError: the law was fitted without draws (n_boot=0).
        """
        draws = self.fitted.broadcastable(params, tokens, inject, loss_pt0)
        rise = draws["A"] * _array(tokens) ** draws["beta"]
        rise = rise / ((1 + draws["B"] * _array(inject)) * _array(params)) ** draws["alpha"]
        return self.fitted.band(_array(loss_pt0) + rise, noise=noise, confidence=confidence)

    def inject_for(self, *, rise: Any, params: Any, tokens: Any) -> Any:
        """The smallest share of pretraining data with which the loss rises by no more than `rise` nats per token.

        0 where nothing need be injected; nan where no share below 1 keeps it, or where injection does not help.

        Raises:
            ConfigError: a rise that is not above 0, which no share reaches.
        """
        return told(_share(self.coefficients, rise, params, tokens))

    def inject_interval(
        self, *, rise: Any, params: Any, tokens: Any, confidence: float = 0.95
    ) -> tuple[Any, Any]:
        """The interval of `inject_for` over refits; refits in which no share keeps the rise count as 1."""
        draws = self.fitted.broadcastable(rise, params, tokens)
        shares = np.nan_to_num(_share(draws, rise, params, tokens), nan=1.0)
        low, high = np.quantile(shares, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
        return told(low), told(high)


class FinetuningLaw(Law):
    """L_ft = A / (N^alpha D^beta) + E, whatever is injected (Bethune et al. 2025, arXiv 2502.06042)."""

    kind = "fine-tuning"

    @classmethod
    def fit(
        cls, frame: pd.DataFrame, *, loss: Loss = "huber", n_boot: int = 500, seed: int = 0
    ) -> FinetuningLaw:
        """Fit the law to runs: columns params, tokens, loss_ft (and run), as `ForgettingLaw.fit`.

        Raises:
            DataError: as `ForgettingLaw.fit`, without a need for several shares.
        """
        points = points_of(frame, ("params", "tokens", "loss_ft"))
        refuse_undetermined(points, {"params": "alpha", "tokens": "beta"})
        runs = frame["run"].to_numpy() if "run" in frame else None
        return cls(fit_target(points, runs, loss, n_boot, seed), ranges_of(points, ("params", "tokens")))

    def predict(self, *, params: Any, tokens: Any) -> Any:
        """The predicted loss on the fine-tuning domain, nats per token; numbers or arrays that broadcast."""
        c = self.coefficients
        return told(c["A"] / (_array(params) ** c["alpha"] * _array(tokens) ** c["beta"]) + c["E"])

    def interval(
        self, *, params: Any, tokens: Any, noise: bool = True, confidence: float = 0.95
    ) -> tuple[Any, Any]:
        """The interval in which the loss of a new run lies; with `noise=False` that of the curve alone."""
        draws = self.fitted.broadcastable(params, tokens)
        curve = draws["A"] / (_array(params) ** draws["alpha"] * _array(tokens) ** draws["beta"]) + draws["E"]
        return self.fitted.band(curve, noise=noise, confidence=confidence)


def _share(c: Mapping[str, Any], rise: Any, params: Any, tokens: Any) -> Any:
    """Solve A D^beta / ((1 + B p) N)^alpha = rise for p."""
    wanted = _array(rise)
    if (wanted <= 0).any():
        raise ConfigError(
            f"rise: {explain(rise, 'nats per token above 0: injection makes forgetting small, never none')}"
        )
    with np.errstate(all="ignore"):
        without = c["A"] * _array(tokens) ** c["beta"] / _array(params) ** c["alpha"]
        share = ((without / wanted) ** (1 / c["alpha"]) - 1) / c["B"]
        helps = (c["alpha"] > 0) & (share < 1)
        return np.where(without <= wanted, 0.0, np.where(helps, share, np.nan))


def _array(value: Any) -> np.ndarray:
    return np.asarray(value, dtype=float)
