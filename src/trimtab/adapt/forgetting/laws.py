"""Scaling laws for forgetting: what fine-tuning costs a model, and which share of pretraining data keeps that small."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from trimtab.adapt.forgetting import fitting
from trimtab.adapt.forgetting.fitting import Fitted, unwrap_scalar
from trimtab.errors import ConfigError, explain
from trimtab.numerics.bootstrap import check_numbers
from trimtab.numerics.curves import Loss
from trimtab.report.formats import number
from trimtab.report.page import Table, cell
from trimtab.runs.atomic import write_atomic
from trimtab.runs.brief import one_line
from trimtab.runs.serialise import to_json

CONFIDENCE = 0.95
"""The share of refits in which a planned share keeps its promise, unless asked otherwise."""
_ROUNDING = 1e-9
"""By how much more is injected than the equation says, so that rounding breaks no promise."""


@dataclass(frozen=True, eq=False)
class Law:
    """The base of both laws: fitted coefficients, their draws, where they were fitted.

    Attributes:
        fitted: the numbers.
        ranges: column -> (least, largest) of the runs it was fitted to.
    """

    fitted: Fitted
    ranges: Mapping[str, tuple[float, float]]

    kind: ClassVar[str] = ""

    def __repr__(self) -> str:
        values = [f"{name}={value:.3g}" for name, value in self.coefficients.items()]
        unknown = [f"{name} not determined" for name in self.undetermined]
        return one_line(type(self).__name__, *values, *unknown, f"n={self.fitted.n} runs")

    def _repr_html_(self) -> str:
        """The equation, and the coefficients with their intervals, for notebooks."""
        return cell(
            type(self).__name__, (type(self).__doc__ or "").partition("\n")[0], Table(self.to_frame())
        )

    @property
    def coefficients(self) -> dict[str, float]:
        """Value by name; params and tokens are plain counts, losses nats per token."""
        return dict(self.fitted.coefficients)

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % bootstrap interval of each coefficient; nan without draws."""
        return self.fitted.intervals

    @property
    def undetermined(self) -> tuple[str, ...]:
        """Coefficients that the runs do not determine: the value, or an end of its interval, is a bound of the search.

        A, whose bounds depend on the runs, is among them only with its value.
        """
        ends = {name: bounds for name, bounds in fitting.BOUNDS.items() if name in self.coefficients}
        near = [
            name
            for name, (low, high) in ends.items()
            if any(
                math.isclose(a, b, rel_tol=1e-3)
                for a, b in zip(self.intervals[name], (low, high), strict=True)
            )
        ]
        return tuple(dict.fromkeys([*self.fitted.at_bounds, *near]))

    def extrapolates(self, **where: float) -> list[str]:
        """Extrapolation: what lies outside the runs that the law was fitted to, in words; empty inside."""
        outside = []
        for name, value in where.items():
            low, high = self.ranges[name]
            if not low <= value <= high:
                times = value / high if value > high else (low / value if value else float("inf"))
                fitted = f"the fitted {low:g} to {high:g} (by {times:.3g} x)"
                outside.append(f"{name} {value:g} is outside {fitted}")
        return outside

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
        """Read what `save` wrote, all of it checked.

        Raises:
            DataError: no such file, no regular one, or it holds something else; what is wrong in it is named.
        """
        return cls(*fitting.read_law(path, cls.kind))


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
        points = fitting.points_of(frame, ("params", "tokens", "inject", "loss_pt", "loss_pt0"))
        fitting.refuse_undetermined(points, {"params": "alpha", "tokens": "beta", "inject": "B"})
        fitted = fitting.fit_rise(points, fitting.runs_of(frame), loss, n_boot, seed)
        return cls(fitted, fitting.ranges_of(points, ("params", "tokens", "inject")))

    def rise(self, *, params: Any, tokens: Any, inject: Any) -> Any:
        """The predicted rise of the pretraining loss, nats per token; numbers or arrays that broadcast.

        Raises:
            ConfigError: params or tokens that are not above 0, or no share from 0 to 1; as `predict` and `interval`.
        """
        _refuse(params=params, tokens=tokens, inject=inject)
        return unwrap_scalar(_rise(self.coefficients, params, tokens, inject))

    def predict(self, *, params: Any, tokens: Any, inject: Any, loss_pt0: Any) -> Any:
        """The predicted pretraining loss after fine-tuning, nats per token; numbers or arrays that broadcast."""
        _refuse(loss_pt0=loss_pt0)
        return unwrap_scalar(_array(loss_pt0) + self.rise(params=params, tokens=tokens, inject=inject))

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
        _refuse(params=params, tokens=tokens, loss_pt0=loss_pt0, inject=inject)
        check_numbers("refits", 1, confidence)
        rise = _rise(self.fitted.broadcastable(params, tokens, inject, loss_pt0), params, tokens, inject)
        return self.fitted.band(_array(loss_pt0) + rise, noise=noise, confidence=confidence)

    def inject_for(
        self, *, rise: Any, params: Any, tokens: Any, confidence: float = CONFIDENCE, loss_pt0: Any = None
    ) -> Any:
        """The smallest share of pretraining data that keeps the rise within `rise` in `confidence` of the refits.

        `confidence=0.5` is the median: the share by the fitted coefficients themselves. It is too small about as often
        as not, also where the law is exact.

        Args:
            rise: the promise, nats per token; numbers or arrays that broadcast, as params and tokens.
            params, tokens: of the run that is planned.
            confidence: from 0.5 to below 1; the refits' share that must keep the promise, to the next whole refit.
            loss_pt0: of the base model; with it the promise is that of a new run, which scatters around its curve as
                the fitted runs do. Without it the promise is that of the curve.

        Returns:
            0 where nothing need be injected; nan where no share below 1 keeps it in so many refits, or where injection
            does not help.

        Raises:
            ConfigError: a rise that is not above 0, which no share reaches; params, tokens or loss_pt0 that are not
                above 0, or a confidence out of range.
            DataError: the law was fitted without refits (n_boot=0), and the confidence is not 0.5.
        """
        _refuse(rise=rise, params=params, tokens=tokens, loss_pt0=loss_pt0)
        if not 0.5 <= confidence < 1:
            expected = "a share of the refits, from 0.5 (the median) to below 1"
            raise ConfigError(f"confidence: {explain(confidence, expected, '0.95')}")
        if confidence == 0.5:
            return unwrap_scalar(_share(self.coefficients, rise, params, tokens))
        shares = np.sort(self._shares(rise, params, tokens, loss_pt0), axis=0)
        share = shares[math.ceil(confidence * len(shares) - _ROUNDING) - 1]
        return unwrap_scalar(np.where(np.isinf(share), np.nan, share * (1 + _ROUNDING)))

    def kept(self, *, rise: Any, params: Any, tokens: Any, inject: Any, loss_pt0: Any = None) -> Any:
        """The share of refits in which a share of pretraining data keeps the rise within `rise`.

        Args:
            rise, params, tokens, loss_pt0: as those of `inject_for`.
            inject: the share, from 0 to 1.

        Raises:
            ConfigError: as `inject_for`; or no share.
            DataError: the law was fitted without refits.
        """
        _refuse(rise=rise, params=params, tokens=tokens, loss_pt0=loss_pt0, inject=inject)
        return unwrap_scalar((self._shares(rise, params, tokens, loss_pt0, inject) <= _array(inject)).mean(0))

    def inject_interval(
        self, *, rise: Any, params: Any, tokens: Any, confidence: float = 0.95
    ) -> tuple[Any, Any]:
        """The interval of the median share over refits; refits in which no share keeps the rise count as 1.

        Raises:
            ConfigError: as `inject_for`, but for a confidence, which is one between 0 and 1.
            DataError: the law was fitted without refits.
        """
        _refuse(rise=rise, params=params, tokens=tokens)
        check_numbers("refits", 1, confidence)
        shares = np.minimum(self._shares(rise, params, tokens, None), 1.0)
        low, high = np.quantile(shares, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
        return unwrap_scalar(low), unwrap_scalar(high)

    def _shares(self, rise: Any, params: Any, tokens: Any, loss_pt0: Any, *more: Any) -> np.ndarray:
        """(refits, ...) the share that each needs, or (refits x residuals, ...) where new runs scatter; else inf.

        A run scatters by a residual r of log losses: (L0 + rise) e^r - L0 is at most what was promised where the
        curve's rise is at most (L0 + promise) e^-r - L0.
        """
        where = (rise, params, tokens) if loss_pt0 is None else (rise, params, tokens, loss_pt0)
        draws, promise = self.fitted.broadcastable(*where, *more), _array(rise)
        if loss_pt0 is None:
            needed: np.ndarray = np.nan_to_num(_share(draws, promise, params, tokens), nan=np.inf)
            return needed
        base = _array(loss_pt0)
        axes = next(iter(draws.values())).ndim - 1
        scatter = np.exp(-self.fitted.scatter).reshape(-1, *(1,) * axes)
        each = {name: values[:, None] for name, values in draws.items()}
        shares = _share(each, (base + promise) * scatter - base, params, tokens)
        several: np.ndarray = np.nan_to_num(shares, nan=np.inf)
        return several.reshape(-1, *shares.shape[2:])


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
        points = fitting.points_of(frame, ("params", "tokens", "loss_ft"))
        fitting.refuse_undetermined(points, {"params": "alpha", "tokens": "beta"})
        fitted = fitting.fit_target(points, fitting.runs_of(frame), loss, n_boot, seed)
        return cls(fitted, fitting.ranges_of(points, ("params", "tokens")))

    def predict(self, *, params: Any, tokens: Any) -> Any:
        """The predicted loss on the fine-tuning domain, nats per token; numbers or arrays that broadcast.

        Raises:
            ConfigError: params or tokens that are not above 0; as `interval`.
        """
        _refuse(params=params, tokens=tokens)
        return unwrap_scalar(_target(self.coefficients, params, tokens))

    def interval(
        self, *, params: Any, tokens: Any, noise: bool = True, confidence: float = 0.95
    ) -> tuple[Any, Any]:
        """The interval in which the loss of a new run lies; with `noise=False` that of the curve alone."""
        _refuse(params=params, tokens=tokens)
        check_numbers("refits", 1, confidence)
        curve = _target(self.fitted.broadcastable(params, tokens), params, tokens)
        return self.fitted.band(curve, noise=noise, confidence=confidence)


def _rise(c: Mapping[str, Any], params: Any, tokens: Any, inject: Any) -> Any:
    """A D^beta / ((1 + B p) N)^alpha."""
    size = (1 + c["B"] * _array(inject)) * _array(params)
    return c["A"] * _array(tokens) ** c["beta"] / size ** c["alpha"]


def _target(c: Mapping[str, Any], params: Any, tokens: Any) -> Any:
    """A / (N^alpha D^beta) + E."""
    return c["A"] / (_array(params) ** c["alpha"] * _array(tokens) ** c["beta"]) + c["E"]


def _share(c: Mapping[str, Any], rise: Any, params: Any, tokens: Any) -> Any:
    """Solve A D^beta / ((1 + B p) N)^alpha = rise for p; nan where no share below 1 does, so for no rise above 0."""
    wanted = _array(rise)
    with np.errstate(all="ignore"):
        without = c["A"] * _array(tokens) ** c["beta"] / _array(params) ** c["alpha"]
        share = ((without / wanted) ** (1 / c["alpha"]) - 1) / c["B"]
        helps = (wanted > 0) & (c["alpha"] > 0) & (share < 1)
        return np.where(without <= wanted, 0.0, np.where(helps, share, np.nan))


_EXPECTED = {
    "rise": "nats per token above 0: injection makes forgetting small, never none",
    "inject": "a share from 0 to 1",
}


def _refuse(**inputs: Any) -> None:
    """Refuse a promise, sizes, token counts and losses that are not above 0, and shares outside 0 to 1."""
    for name, value in inputs.items():
        if value is None:
            continue
        given, hint = _array(value), ""
        fine = (given > 0) & (np.isfinite(given) | (name == "rise"))
        if name == "inject":
            fine, hint = (given >= 0) & (given <= 1), "1 % as 0.01" if (given > 1).any() else ""
        if not fine.all():
            raise ConfigError(f"{name}: {explain(value, _EXPECTED.get(name, 'a number above 0'), hint)}")


def _array(value: Any) -> np.ndarray:
    return np.asarray(value, dtype=float)


@dataclass(frozen=True)
class SharePlan:
    """Planned share of pretraining data of one run, with intervals and warnings.

    Attributes:
        inject: the smallest share that keeps the promise in `confidence` of the law's refits; nan where none does.
        inject_interval: 95 %, of the median share, over refits; 1 stands for refits in which no share keeps it.
        rise: predicted by the law itself with that share, nats per token; without injection where there is no share.
        rise_interval: 95 %, of the law's curve; a run scatters around it.
        rise_without: predicted without any.
        max_rise: the promise.
        warnings: where the law is asked about what it has not seen, and coefficients that the runs did not settle.
        confidence: what was asked for; at 0.5 `inject` is the median.
        kept: the share of refits in which `inject` keeps the promise; where there is no share, that in which any does.
        median: the share by the fitted coefficients themselves; nan where none keeps the promise.
        median_kept: the share of refits in which the median keeps it; nan without one.
        refits: of the law.
        loss_pt0: of the base model, where the scatter of runs counts in `kept`; None where only refits do.
    """

    inject: float
    inject_interval: tuple[float, float]
    rise: float
    rise_interval: tuple[float, float]
    rise_without: float
    max_rise: float
    warnings: tuple[str, ...]
    confidence: float
    kept: float
    median: float
    median_kept: float
    refits: int
    loss_pt0: float | None = None

    def to_plain(self) -> dict[str, Any]:
        """For JSON, null where undefined."""
        return {name: None if value != value else value for name, value in asdict(self).items()}

    def to_text(self) -> str:
        """For people: what the share is the smallest of, and what the law itself says."""
        sentences = [self._first()]
        if not math.isnan(self.inject):
            low, high = (number(end) for end in self.rise_interval)
            rises = f"By the law itself the pretraining loss then rises by {number(self.rise)} nats"
            sentences.append(f"{rises} (95 % of refits: {low} to {high}).")
        if self.confidence != 0.5 and math.isnan(self.median):
            sentences.append("By the law itself no share keeps it, either.")
        elif self.confidence != 0.5:
            median, kept = _percent(self.median), _percent(self.median_kept)
            sentences.append(f"The median of the law, {median}, keeps it in {kept}.")
        without = number(self.rise_without)
        sentences.append(f"Without injection the pretraining loss is predicted to rise by {without} nats.")
        return " ".join(sentences)

    def _first(self) -> str:
        promise, of = f"the rise within {number(self.max_rise)} nats", f"{self.refits} refits of the law"
        if self.loss_pt0 is not None:
            of += " with the scatter of its runs"
        confidence, kept, share = _percent(self.confidence), _percent(self.kept), _percent(self.inject)
        if math.isnan(self.inject) and self.confidence == 0.5:
            return f"No share keeps {promise} by the law itself."
        if math.isnan(self.inject):
            return f"No share keeps {promise} in {confidence} of {of}; some share does in {kept} of them."
        if self.confidence == 0.5:
            median = f"Inject {share} of pretraining data, the median: the law itself then keeps {promise}"
            return f"{median}, and {kept} of {of} do."
        smallest = f"Inject {share} of pretraining data: the smallest share that keeps {promise}"
        return f"{smallest} in at least {confidence} of {of}."


def plan_share(
    law: ForgettingLaw | str | Path,
    *,
    params: float,
    tokens: float,
    max_rise: float,
    confidence: float = CONFIDENCE,
    loss_pt0: float | None = None,
) -> SharePlan:
    """The smallest share of pretraining data that keeps the rise within `max_rise` in `confidence` of the refits.

    Args:
        law: a law, or the file of one.
        params, tokens: of the run that is planned.
        max_rise: nats per token, above 0.
        confidence: from 0.5, the median, to below 1; see `ForgettingLaw.inject_for`.
        loss_pt0: of the base model; with it the scatter of runs around the curve counts, too.

    Raises:
        DataError: the file holds no law, or the law was fitted without refits.
        ConfigError: max_rise, params, tokens or loss_pt0 are not above 0, or a confidence out of range.
    """
    fitted_law = law if isinstance(law, ForgettingLaw) else ForgettingLaw.load(law)
    run: dict[str, Any] = {"rise": max_rise, "params": params, "tokens": tokens, "loss_pt0": loss_pt0}
    share = fitted_law.inject_for(**run, confidence=confidence)
    median = fitted_law.inject_for(**run, confidence=0.5)
    where = {"params": params, "tokens": tokens, "inject": 0.0 if math.isnan(share) else share}
    low, high = fitted_law.interval(**where, loss_pt0=1.0, noise=False)
    warnings, refits = fitted_law.extrapolates(**where), len(fitted_law.fitted.draws)
    least = math.ceil(1 / (1 - confidence) - 1e-9)  # of fewer, all keep it where one in so many would not
    if confidence > 0.5 and refits < least:
        few = f"{refits} refits are too few to tell {_percent(confidence)} of them"
        warnings.append(f"{few}: at least {least} are needed (n_boot)")
    for name in fitted_law.fitted.at_bounds:
        bound = f"{name} of the law is at a bound of its search ({fitted_law.coefficients[name]:.3g})"
        warnings.append(f"{bound}, which the fitted runs do not settle")
    for name in sorted(set(fitted_law.undetermined) - set(fitted_law.fitted.at_bounds)):
        warnings.append(f"{name} of the law is not determined: its interval ends at a bound of the search")
    return SharePlan(
        inject=share,
        inject_interval=fitted_law.inject_interval(rise=max_rise, params=params, tokens=tokens),
        rise=fitted_law.rise(**where),
        rise_interval=(low - 1.0, high - 1.0),
        rise_without=fitted_law.rise(params=params, tokens=tokens, inject=0.0),
        max_rise=max_rise,
        warnings=tuple(warnings),
        confidence=confidence,
        kept=fitted_law.kept(**run, inject=1.0 if math.isnan(share) else share),
        median=median,
        median_kept=math.nan if math.isnan(median) else fitted_law.kept(**run, inject=median),
        refits=refits,
        loss_pt0=loss_pt0,
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
