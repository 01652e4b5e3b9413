"""Laws of forgetting fitted to runs: the runs checked, the forms of a law, the robust fit, and the file it is kept in.

Sizes and token counts are in units of their geometric means (`Centre`), so that the first coefficient of each form is a
rise in nats at the middle of the data.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float

from trimtab.errors import DataError, TrimtabError, explain, nearest
from trimtab.numerics.curves import Coefficient, CurveFit, Loss, bootstrap_curve, fit_curve
from trimtab.runs.brief import brief
from trimtab.runs.files import read_json

Points = Mapping[str, Float[np.ndarray, " n"]]

LOSSES = ("loss_pt", "loss_pt0", "loss_ft")
_RANGES = {"params": "above 0", "tokens": "above 0", "inject": "shares from 0 to below 1"} | dict.fromkeys(
    LOSSES, "above 0 nats per token"
)


def points_of(frame: pd.DataFrame, columns: Sequence[str]) -> dict[str, Float[np.ndarray, " n"]]:
    """Some columns of a frame as float arrays.

    Raises:
        DataError: it is no frame, or a column is missing, there twice or holds what it cannot.
    """
    if not hasattr(frame, "columns"):
        got, expected = f"a {type(frame).__name__}", f"a frame with columns {', '.join(columns)}"
        raise DataError(f"frame: {explain(got, expected, 'pandas.DataFrame(...)')}")
    missing = [name for name in columns if name not in frame]
    if missing:
        got = f"columns {', '.join(map(str, frame.columns))}"
        others = [str(name) for name in frame.columns if name not in columns]
        hint = nearest(missing[0], others) or f"adding {missing[0]!r}"
        raise DataError(f"frame: {explain(got, ', '.join(columns), hint)}")
    if twice := [name for name in columns if (frame.columns == name).sum() > 1]:
        raise DataError(f"frame: {explain(f'several columns {twice[0]}', 'one column of each name')}")
    points, largest = {}, sys.float_info.max
    for name in columns:
        column = frame[name]
        if column.dtype == object:  # a whole number beyond the largest float is infinite, not a fault
            column = column.map(lambda x: math.inf if isinstance(x, int) and abs(x) > largest else x)
        points[name] = values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float)
        fine = (values >= 0) & (values < 1) if name == "inject" else (values > 0) & np.isfinite(values)
        _refuse(frame[name], pd.Series(fine), _RANGES[name])
    return points


def numeric(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The frame with some columns as floats, whatever type held their numbers: text, objects, whole numbers.

    Columns that runs may have beside these are read likewise where they are there: `rise_low`, `rise_high` and
    `injected` as floats, nan where nothing stands, and `reached` as booleans.

    Raises:
        DataError: as `points_of`, or one of those columns holds something else.
    """
    read: dict[str, Any] = dict(points_of(frame, columns))
    for name in {"rise_low", "rise_high", "injected"} & set(frame):
        read[name] = pd.to_numeric(frame[name], errors="coerce").astype(float)
        nothing = frame[name].isna() | frame[name].astype(str).isin(["", "nan"])
        _refuse(frame[name], read[name].notna() | nothing, "numbers, or nothing")
    if "reached" in frame:
        read["reached"] = frame["reached"].map(lambda one: _TRUTH.get(str(one).lower()))
        _refuse(frame["reached"], read["reached"].notna(), "true or false")
        read["reached"] = read["reached"].astype(bool)
    return frame.assign(**read)


_TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def _refuse(column: pd.Series[Any], fine: pd.Series[bool], expected: str) -> None:
    if not fine.all():
        row = int(np.flatnonzero(~fine)[0])
        raise DataError(f"{column.name}: {explain(f'{_cell_text(column.iloc[row])} in row {row}', expected)}")


def runs_of(frame: pd.DataFrame) -> np.ndarray | None:
    """(n,) a number per row, the same for rows that agree in the column `run`; None where there is no such column.

    Raises:
        DataError: a row without a run, among rows that have one.
    """
    if "run" not in frame:
        return None
    numbers, _ = pd.factorize(frame["run"], sort=True)
    if (numbers < 0).any():
        row = int(np.flatnonzero(numbers < 0)[0])
        raise DataError(f"run: {explain(f'no value in row {row}', 'the name of a run in every row')}")
    return np.asarray(numbers)


def _cell_text(value: object) -> str:
    """A cell as its reader would write it, without the names of types.

    >>> _cell_text(np.float64("nan")), _cell_text(np.float64(-0.5)), _cell_text("1 %")
    ('no value (nan)', '-0.5', "'1 %'")
    """
    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return "no value (nan)"
    text = repr(value) if isinstance(value, str) else f"{value}"
    return text if len(text) <= 40 else f"{text[:37]}..."


def refuse_undetermined(points: Points, needed: Mapping[str, str]) -> None:
    """Refuse points that do not vary in what a coefficient depends on.

    Args:
        points: the columns.
        needed: column -> the coefficient that only its variation tells.

    Raises:
        DataError: a column has one value throughout; says which coefficient cannot be determined.
    """
    for column, coefficient in needed.items():
        values = np.unique(points[column])
        if len(values) < 2:
            got = f"{values[0]:g} throughout" if len(values) else "no run"
            expected = f"at least two values: nothing else determines {coefficient}"
            raise DataError(f"{column}: {explain(got, expected)}")


def ranges_of(points: Points, columns: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The least and the largest value of some columns."""
    return {name: (float(points[name].min()), float(points[name].max())) for name in columns}


_A = Coefficient("A", 1e-7, 1e2, log=True)
_B = Coefficient("B", 1e-2, 1e8, log=True)
EXPONENTS = (-1.0, 4.0)
"""Between which the exponents of sizes and token counts are sought."""
_ALPHA, _BETA = Coefficient("alpha", *EXPONENTS), Coefficient("beta", *EXPONENTS)
BOUNDS = {"B": (1e-2, 1e8), "alpha": EXPONENTS, "beta": EXPONENTS}
"""Between which coefficients are sought that do not depend on the units of sizes and token counts."""


@dataclass(frozen=True)
class Form:
    """A formula for the rise of the pretraining loss.

    Attributes:
        rise: `rise(x, **coefficients)` in nats per token; x has n and d (params and tokens, in units of the centre) and
            p.
        coefficients: what is fitted.
        about: one line for people.
    """

    rise: Callable[..., Any]
    coefficients: tuple[Coefficient, ...]
    about: str


FORMS: dict[str, Form] = {
    "injection": Form(
        lambda x, A, B, alpha, beta: A * x["d"] ** beta / ((1 + B * x["p"]) * x["n"]) ** alpha,
        (_A, _B, _ALPHA, _BETA),
        "A D^beta / ((1 + B p) N)^alpha (arXiv 2502.06042)",
    ),
    "without the share": Form(
        lambda x, A, alpha, beta: A * x["d"] ** beta / x["n"] ** alpha,
        (_A, _ALPHA, _BETA),
        "A D^beta / N^alpha: injection does nothing",
    ),
    "additive": Form(
        lambda x, A, B, C, alpha, beta: A / ((1 + B * x["p"]) * x["n"]) ** alpha + C * x["d"] ** beta,
        (_A, _B, Coefficient("C", 1e-7, 1e2, log=True), _ALPHA, _BETA),
        "A / ((1 + B p) N)^alpha + C D^beta: size and data do not multiply",
    ),
    "power of the share": Form(
        lambda x, A, B, alpha, beta, gamma: A * x["d"] ** beta / x["n"] ** alpha / (1 + B * x["p"]) ** gamma,
        (_A, _B, _ALPHA, _BETA, Coefficient("gamma", -1.0, 8.0)),
        "A D^beta / (N^alpha (1 + B p)^gamma): the share has an exponent of its own, as in D-CPT (arXiv 2406.01375)",
    ),
    "constant": Form(lambda x, A: A * np.ones_like(x["n"]), (_A,), "A: every run forgets the same"),
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
        """The inputs of a form, from columns params, tokens and, where it matters, inject."""
        share = {"p": points["inject"]} if "inject" in points else {}
        return {"n": points["params"] / self.params, "d": points["tokens"] / self.tokens, **share}

    def natural(self, coefficients: Mapping[str, float], *, sign: int = 1) -> dict[str, float]:
        """Coefficients for sizes in parameters and tokens: A takes up the centre.

        Args:
            coefficients: in units of the centre.
            sign: of the exponent of the tokens in the form: 1 where more tokens raise it, -1 where they lower it.
        """
        unit = self.params ** coefficients["alpha"] / self.tokens ** (sign * coefficients["beta"])
        return {**coefficients, "A": coefficients["A"] * unit}


DELTA = 1e-3
"""Where the Huber loss of log losses turns linear, as is usual for scaling laws (Hoffmann et al. 2022)."""
EFFICIENCIES = np.logspace(-1, 7, 33)
"""Values of B from which searches start."""
BEST, STARTS = 5, 8


@dataclass(frozen=True, eq=False)
class Fitted:
    """Fitted law: coefficients, their bootstrap draws, and residuals.

    Attributes:
        coefficients: value by name, for params and tokens as plain counts.
        draws: (n_boot, P) of the same, from refits to resampled runs; empty without.
        residuals: (n,) log loss less log prediction.
        agreeing: share of starts that came to the same fit.
        at_bounds: coefficients whose value is a bound of the search.
        loss: by which it was fitted.
    """

    coefficients: Mapping[str, float]
    draws: Float[np.ndarray, "n_boot P"]
    residuals: Float[np.ndarray, " n"]
    agreeing: float
    at_bounds: tuple[str, ...]
    loss: str

    __repr__ = brief

    @property
    def n(self) -> int:
        """Runs."""
        return len(self.residuals)

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % percentile interval by name; nan without draws."""
        if not len(self.draws):
            return dict.fromkeys(self.coefficients, (float("nan"), float("nan")))
        low, high = np.quantile(self.draws, [0.025, 0.975], axis=0)
        return {name: (float(a), float(b)) for name, a, b in zip(self.coefficients, low, high, strict=True)}

    def broadcastable(self, *where: Any) -> dict[str, np.ndarray]:
        """Each coefficient's draws with axes to the right for whatever it will meet.

        Raises:
            DataError: there are no draws.
        """
        if not len(self.draws):
            raise DataError(explain("a law without refits", "some, for an interval", "fit(..., n_boot=500)"))
        axes = np.broadcast(*(np.asarray(value) for value in where)).ndim
        shape = (-1, *(1,) * axes)
        return {name: self.draws[:, k].reshape(shape) for k, name in enumerate(self.coefficients)}

    def band(self, curves: np.ndarray, *, noise: bool, confidence: float) -> tuple[Any, Any]:
        """Band: quantiles over refits, with the scatter of a new run where asked."""
        if noise:
            curves = curves * np.exp(np.random.default_rng(0).choice(self.scatter, curves.shape))
        low, high = np.quantile(curves, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
        return unwrap_scalar(low), unwrap_scalar(high)

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        arrays = {"draws": self.draws.tolist(), "residuals": self.residuals.tolist()}
        return {**vars(self), "coefficients": dict(self.coefficients), **arrays}

    @property
    def scatter(self) -> Float[np.ndarray, " n"]:
        """(n,) residuals, widened for the degrees of freedom that the coefficients took."""
        wide: np.ndarray = self.residuals * np.sqrt(self.n / max(1, self.n - len(self.coefficients)))
        return wide


def fit_rise(points: Points, runs: Any, loss: Loss, n_boot: int, seed: int) -> Fitted:
    """The law of forgetting."""
    rises = points["loss_pt"] - points["loss_pt0"]
    if not (rises > 0).any():
        got = f"rises of {rises.min():.4g} to {rises.max():.4g} nats"
        raise DataError(f"loss_pt: {explain(got, 'a run that forgot something, at least one')}")
    centre = Centre.of(points)
    fit = fit_form(FORMS["injection"], points, centre, loss, first=projected(points, centre), seed=seed)
    return _fitted(fit, centre, runs, n_boot, seed, sign=1)


def fit_target(points: Points, runs: Any, loss: Loss, n_boot: int, seed: int) -> Fitted:
    """The law of fine-tuning."""
    centre, least = Centre.of(points), float(points["loss_ft"].min())
    wanted = (_A, _ALPHA, _BETA, Coefficient("E", 0.0, least))

    def curve(x: Any, A: float, alpha: float, beta: float, E: float) -> Any:
        return A / (x["n"] ** alpha * x["d"] ** beta) + E

    x, y = centre.inputs(points), points["loss_ft"]
    first = [floored(x, y, least * share) for share in (0.0, 0.3, 0.6, 0.8, 0.9, 0.99)]
    fit = fit_curve(
        curve, x, y, wanted, loss=loss, delta=DELTA, space="log", starts=STARTS, first=first, seed=seed
    )
    return _fitted(fit, centre, runs, n_boot, seed, sign=-1)


def fit_form(
    form: Form, points: Points, centre: Centre, loss: Loss, *, first: list[dict[str, float]], seed: int = 0
) -> CurveFit:
    """One form of the rise, fitted to log losses."""
    x = {**centre.inputs(points), "base": points["loss_pt0"]}
    return fit_curve(
        lambda x, **values: x["base"] + form.rise(x, **values),
        x,
        points["loss_pt"],
        form.coefficients,
        loss=loss,
        delta=DELTA,
        space="log",
        starts=STARTS,
        first=first,
        seed=seed,
    )


def projected(points: Points, centre: Centre) -> list[dict[str, float]]:
    """Starting points: the best of many B, each with A, alpha and beta that fit the logs of the positive rises."""
    rises = points["loss_pt"] - points["loss_pt0"]
    positive, x = rises > 0, centre.inputs(points)
    starts: list[tuple[float, dict[str, float]]] = []
    for efficiency in EFFICIENCIES:
        size = np.log((1 + efficiency * x["p"][positive]) * x["n"][positive])
        design = np.stack([np.ones(positive.sum()), np.log(x["d"][positive]), -size], axis=1)
        (level, beta, alpha), *_ = np.linalg.lstsq(design, np.log(rises[positive]), rcond=None)
        gap = np.log(rises[positive]) - design @ np.array([level, beta, alpha])
        values = (np.exp(level), efficiency, alpha, beta)
        start = dict(zip(("A", "B", "alpha", "beta"), map(float, values), strict=True))
        starts.append((float(gap @ gap), start))
    return [start for _, start in sorted(starts, key=lambda pair: pair[0])[:BEST]]


def floored(x: Mapping[str, np.ndarray], y: np.ndarray, floor: float) -> dict[str, float]:
    """Starting point: A, alpha and beta that fit the logarithms of what is above a floor."""
    above = np.log(np.maximum(y - floor, 1e-9))
    design = np.stack([np.ones(len(y)), -np.log(x["n"]), -np.log(x["d"])], axis=1)
    (level, alpha, beta), *_ = np.linalg.lstsq(design, above, rcond=None)
    return {"A": float(np.exp(level)), "alpha": float(alpha), "beta": float(beta), "E": floor}


def _fitted(fit: CurveFit, centre: Centre, runs: Any, n_boot: int, seed: int, *, sign: int) -> Fitted:
    if fit.undetermined:
        got = f"runs at which {' and '.join(fit.undetermined)} can be traded against one another"
        raise DataError(explain(got, "runs that tell them apart", "more sizes, token counts or shares"))
    natural = centre.natural(fit.coefficients, sign=sign)
    draws = np.empty((0, len(natural)))
    if n_boot:
        ensemble = bootstrap_curve(fit, clusters=runs, n_boot=n_boot, seed=seed)
        draws = np.array([list(centre.natural(one, sign=sign).values()) for one in ensemble.named()])
    return Fitted(natural, draws, fit.residuals, fit.agreeing, fit.at_bounds, fit.problem.loss)


def unwrap_scalar(values: Any) -> Any:
    """A float where everything given was a number, else the array."""
    return float(values) if np.ndim(values) == 0 else np.asarray(values)


EXPECTED = "a law written by save()"
NAMES = {"forgetting": ("A", "B", "alpha", "beta"), "fine-tuning": ("A", "alpha", "beta", "E")}
"""Coefficients of each law, in the order in which it is written."""
COLUMNS = {"forgetting": ("params", "tokens", "inject"), "fine-tuning": ("params", "tokens")}
_LEAST, _MOST = EXPONENTS
_LIMITS: Mapping[str, tuple[Callable[[float], bool], str]] = {
    **dict.fromkeys(("A", "B"), (lambda x: x > 0, "a number above 0")),
    "E": (lambda x: x >= 0, "a number of 0 or above"),
    **dict.fromkeys(
        ("alpha", "beta"),
        (lambda x: _LEAST <= x <= _MOST, f"a number from {_LEAST:g} to {_MOST:g}, as a fit has it"),
    ),
    "agreeing": (lambda x: 0 <= x <= 1, "a share from 0 to 1"),
}
_KINDS: Mapping[type, str] = {dict: f"a mapping, as in {EXPECTED}", list: "a list", object: ""}


def read_law(path: str | Path, kind: str) -> tuple[Fitted, dict[str, tuple[float, float]]]:
    """The numbers of a law on disk, and the ranges of the runs that it was fitted to.

    Args:
        path: the file.
        kind: "forgetting" or "fine-tuning".

    Raises:
        DataError: the file is missing, no regular one, damaged or that of another law, or a number in it is none that
            a law has: nan, infinite, a coefficient of the wrong sign, an exponent that no fit gives, another number of
            draws per refit, a range that is none. The field is named.
    """
    record = read_json(path, EXPECTED)
    try:
        if not isinstance(record, dict):
            raise _refused("the file", record, _KINDS[dict])
        if record.get("law") != kind:
            got = f"a law of {record['law']!s:.40}" if "law" in record else "no law"
            raise DataError(explain(got, f"a law of {kind}"))
        return _read_fitted(record, NAMES[kind]), {name: _range(record, name) for name in COLUMNS[kind]}
    except TrimtabError as error:
        raise DataError(f"{path}: {error}") from error


def _read_fitted(record: Mapping[str, Any], names: tuple[str, ...]) -> Fitted:
    given, loss, losses = _field(record, "coefficients", dict), _field(record, "loss"), get_args(Loss)
    if set(given) != set(names):
        got, odd = ", ".join(map(repr, given)) or "none", next((n for n in given if n not in names), "")
        raise DataError(f"coefficients: {explain(got[:80], ', '.join(names), nearest(odd, names))}")
    draws, wanted = _field(record, "draws", list), f"{len(names)} numbers: {', '.join(names)}"
    for k, row in enumerate(draws):
        if not isinstance(row, list):
            raise _refused(f"draws[{k}]", row, wanted)
        if len(row) != len(names):
            raise DataError(f"draws[{k}]: {explain(f'{len(row)} values', wanted)}")
        for name, value in zip(names, row, strict=True):
            _number(value, f"draws[{k}], {name}", name)
    residuals, at_bounds = _field(record, "residuals", list), _field(record, "at_bounds", list)
    if not residuals:
        raise DataError(f"residuals: {explain('none', 'one per run that was fitted')}")
    if strange := [name for name in at_bounds if name not in names]:
        raise _refused("at_bounds", strange[0], " or ".join(names))
    if loss not in losses:
        raise _refused("loss", loss, " or ".join(map(repr, losses)))
    return Fitted(
        coefficients={name: _number(given[name], f"coefficients.{name}", name) for name in names},
        draws=np.array(draws, dtype=float).reshape(-1, len(names)),
        residuals=np.array([_number(value, f"residuals[{k}]") for k, value in enumerate(residuals)]),
        agreeing=_number(_field(record, "agreeing"), "agreeing", "agreeing"),
        at_bounds=tuple(at_bounds),
        loss=str(loss),
    )


def _range(record: Mapping[str, Any], name: str) -> tuple[float, float]:
    ends, where = _field(_field(record, "ranges", dict), name, inside="ranges."), f"ranges.{name}"
    if not isinstance(ends, list) or len(ends) != 2:
        raise _refused(where, ends, "the least and the largest of what was fitted: [low, high]")
    low, high = (_number(end, where) for end in ends)
    fine, words = 0 < low <= high, "numbers above 0"
    if name == "inject":
        fine, words = 0 <= low <= high <= 1, "shares from 0 to 1"
    if not fine:
        raise _refused(where, ends, f"{words}, the least first")
    return low, high


def _number(value: Any, where: str, name: str = "") -> float:
    """A number within the limits of its name; nan, infinity and whole numbers beyond the largest float are none."""
    if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
        raise _refused(where, value, "a finite number")
    if name and not _LIMITS[name][0](value):
        raise _refused(where, value, _LIMITS[name][1])
    return float(value)


def _field(record: Mapping[str, Any], name: str, kind: type = object, inside: str = "") -> Any:
    if name not in record:
        raise DataError(f"{inside}{name}: {explain('nothing', EXPECTED, nearest(name, record))}")
    if not isinstance(record[name], kind):
        raise _refused(name, record[name], _KINDS[kind])
    return record[name]


def _refused(where: str, value: Any, expected: str) -> DataError:
    """The error of a JSON value, which is shortened."""
    text = f"{value!r:.40}"
    if isinstance(value, list | dict):
        text = (
            f"a {'list' if isinstance(value, list) else 'mapping'} of {len(value)}" if value else str(value)
        )
    return DataError(f"{where}: {explain(text, expected)}")
