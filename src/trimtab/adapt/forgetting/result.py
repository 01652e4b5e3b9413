"""What asking for the laws of forgetting came to: the runs, the laws where they can be told, the page's numbers.

The page about forgetting: was anything forgotten, what injection did, what the law says and where it is guessing.

The pictures of a page about forgetting: predicted against observed, and the law as a surface with its known part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trimtab.adapt.forgetting.effects import (
    beside_none,
    compare_forms,
    forgetting_shown,
    injected_sequences,
    share_removed,
    target_equivalence,
)
from trimtab.adapt.forgetting.laws import FinetuningLaw, ForgettingLaw
from trimtab.errors import CheckpointError, DataError, explain
from trimtab.numerics.bootstrap import bootstrap, mean
from trimtab.report import charts, figures
from trimtab.report.figures import GRID, INK
from trimtab.report.formats import fixed, missing, number, span
from trimtab.report.page import Section, Table, Text, chapters_page, gallery, picture, settings_section
from trimtab.runs.atomic import write_atomic
from trimtab.runs.serialise import checked, finished, numeric, plain, reading_result, write_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from trimtab.adapt.forgetting.laws import ForgettingLaw


SCHEMA = 1
LAW, TARGET_LAW = Path("artifacts/law.json"), Path("artifacts/law-target.json")


@dataclass(frozen=True, eq=False)
class ForgettingResult:
    """The outcome of a job of the laws of forgetting.

    Attributes:
        label: a short name of the run.
        points: one row per run, see `forgetting_grid`; held_out: whether it was kept from the fits that are judged.
        law, target: of all runs; None where the runs cannot tell.
        refused: what they cannot tell, and why; by "forgetting", "fine-tuning", "forms" or "injection".
        forms: the table of `compare_forms`; empty where it was refused.
        facts: single numbers, each with n and an interval where it is a rate or a mean.
        config: everything needed to do the run again.
        seconds: of the run.
    """

    label: str
    points: pd.DataFrame
    law: ForgettingLaw | None
    target: FinetuningLaw | None
    refused: Mapping[str, str]
    forms: pd.DataFrame
    facts: Mapping[str, Any]
    config: Mapping[str, Any]
    seconds: float

    def to_frame(self) -> pd.DataFrame:
        """Coefficients of the laws with 95 % intervals."""
        laws = {"forgetting": self.law, "fine-tuning": self.target}
        frames = [law.to_frame().assign(law=name) for name, law in laws.items() if law is not None]
        columns = ["law", "coefficient", "value", "low", "high", "n"]
        return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)

    def figure(self) -> Figure:
        """Predicted against observed rises."""

        return predicted_figure(self)

    def report(self, path: str | Path) -> Path:
        """Write the report page (one self-contained HTML file) and return its path."""

        write_atomic(Path(path), page([self], title=self.label))
        return Path(path)

    def save(self, folder: str | Path) -> Path:
        """Write the numbers into a run's folder, and the laws that `trimtab plan` reads."""
        for law, name in ((self.law, LAW), (self.target, TARGET_LAW)):
            if law is not None:
                law.save(Path(folder) / name)
        told = {name: getattr(self, name) for name in ("label", "refused", "facts", "config", "seconds")}
        frames = {name: getattr(self, name).to_dict("records") for name in ("points", "forms")}
        return write_result(folder, SCHEMA, told | frames)

    @classmethod
    def load(cls, folder: str | Path) -> ForgettingResult:
        """Read the result of a finished run.

        Raises:
            CheckpointError: there is none (yet), another version of trimtab wrote it, or a part of it is missing.
            DataError: a law beside it is damaged.
        """
        folder = Path(folder)
        found = finished(folder)
        if not isinstance(found, dict) or found.pop("schema", None) != SCHEMA:
            raise CheckpointError(explain(f"another result in {folder}", f"schema {SCHEMA}"))
        with reading_result(folder):
            frames = {name: numeric(pd.DataFrame(found.pop(name))) for name in ("points", "forms")}
        law = ForgettingLaw.load(folder / LAW) if (folder / LAW).exists() else None
        target = FinetuningLaw.load(folder / TARGET_LAW) if (folder / TARGET_LAW).exists() else None
        with reading_result(folder):
            return checked(cls, {**found, **frames, "law": law, "target": target})


def held_out(points: pd.DataFrame) -> pd.Series[bool]:
    """The largest size and the largest token count, where there are at least three of them; else nothing."""
    out = pd.Series(False, index=points.index)
    for name in ("params", "tokens"):
        if points[name].nunique() > 2:
            out |= points[name] == points[name].max()
    return out


def judged(
    points: pd.DataFrame,
    *,
    label: str,
    inject: float,
    margin: float,
    n_boot: int,
    seed: int,
    config: Mapping[str, Any],
    seconds: float,
) -> ForgettingResult:
    """Fit both laws, compare the forms on held-out runs, read off what injection did; refusals are kept as words."""
    refused: dict[str, str] = {}

    def tried(name: str, what: Any) -> Any:
        try:
            return what()
        except DataError as error:
            refused[name] = str(error)
            return None

    points = points.assign(held_out=held_out(points))
    law = tried("forgetting", lambda: ForgettingLaw.fit(points, n_boot=n_boot, seed=seed))
    target = tried("fine-tuning", lambda: FinetuningLaw.fit(points, n_boot=n_boot, seed=seed))
    forms = tried("forms", lambda: compare_forms(points, points["held_out"].tolist(), seed=seed))
    unseen = tried("fine-tuning held out", lambda: _unseen(points, seed))
    pairs = tried("injection", lambda: beside_none(points, inject))
    shown = forgetting_shown(points, seed=seed)
    facts = {
        "runs": len(points),
        "held_out": int(points["held_out"].sum()),
        "inject": inject,
        "forgotten": asdict(shown["rise"]),
        "clear": shown["clear"],
        "target_error": unseen,
        "removed": None if pairs is None else asdict(share_removed(pairs, seed=seed)),
        "equivalence": None if pairs is None else _told(target_equivalence(pairs, margin)),
        "injected": injected_sequences(points).to_dict("records"),
        "not_reached": int((~points["reached"].astype(bool)).sum()) if "reached" in points else None,
    }
    frame = pd.DataFrame() if forms is None else forms
    return ForgettingResult(label, points, law, target, refused, frame, facts, config, seconds)


def _told(found: Any) -> dict[str, Any]:
    return {**asdict(found), "equivalent": found.equivalent}


def _unseen(points: pd.DataFrame, seed: int) -> dict[str, Any] | None:
    """Relative error of the fine-tuning loss where runs were held out, by the law of the others."""
    out = points["held_out"]
    if not out.any():
        return None
    law = FinetuningLaw.fit(points[~out], n_boot=0, seed=seed)
    where = {name: points.loc[out, name].to_numpy(dtype=float) for name in ("params", "tokens")}
    off = np.abs(law.predict(**where) / points.loc[out, "loss_ft"].to_numpy(dtype=float) - 1)
    return asdict(bootstrap(mean, off, seed=seed))


BEYOND = 10.0
"""How far a surface reaches beyond what was fitted, as a factor."""
CELLS = 60
LEAST_SHARE = 1e-4


def predicted_figure(result: ForgettingResult, law: ForgettingLaw | None = None) -> Figure:
    """Rises that a law of the runs which were not held out predicts, beside the observed ones; none without a law."""
    points = result.points
    out = points["held_out"].to_numpy(dtype=bool)
    law = judging_law(result) if law is None else law
    if law is None:
        raise ValueError("no law")
    where = {name: points[name].to_numpy(dtype=float) for name in ("params", "tokens", "inject")}
    observed = (points["loss_pt"] - points["loss_pt0"]).to_numpy(dtype=float)
    groups = np.where(out, "held out", "fitted").tolist()
    return charts.scatter_identity(
        law.rise(**where).tolist(),
        observed.tolist(),
        groups,
        title="Rises: predicted, observed",
        label=f"Predicted and observed rises of {len(points)} runs",
    )


def judging_law(result: ForgettingResult) -> ForgettingLaw | None:
    """The law of the runs that were not held out; that of all where there are none, or they do not tell one."""
    out = result.points["held_out"].to_numpy(dtype=bool)
    if not out.any():
        return result.law
    try:
        return ForgettingLaw.fit(result.points[~out], n_boot=0)
    except DataError:
        return result.law


def share_surface(law: ForgettingLaw, params: float) -> Figure:
    """The predicted rise over token counts and shares, at one size; beyond the dashed frame it is extrapolated."""
    low, high = law.ranges["inject"]
    shares = (LEAST_SHARE, max(0.3, high))
    tokens = _beyond(law.ranges["tokens"])
    x, y = np.geomspace(*tokens, CELLS), np.geomspace(*shares, CELLS)
    rise = law.rise(params=params, tokens=x[None], inject=y[:, None])
    frame = (law.ranges["tokens"], (max(low, LEAST_SHARE), high))
    return _surface(
        x, y, rise, frame, f"Rise at {params:.3g} parameters", ("unique tokens", "share injected")
    )


def size_surface(law: ForgettingLaw) -> Figure:
    """The predicted rise over token counts and sizes without injection; beyond the dashed frame it is extrapolated."""
    x, y = (np.geomspace(*_beyond(law.ranges[name]), CELLS) for name in ("tokens", "params"))
    rise = law.rise(params=y[:, None], tokens=x[None], inject=0.0)
    frame = (law.ranges["tokens"], law.ranges["params"])
    return _surface(x, y, rise, frame, "Rise without injection", ("unique tokens", "parameters"))


def _beyond(ends: tuple[float, float]) -> tuple[float, float]:
    return ends[0] / BEYOND, ends[1] * BEYOND


def _surface(
    x: np.ndarray,
    y: np.ndarray,
    rise: np.ndarray,
    frame: tuple[tuple[float, float], tuple[float, float]],
    title: str,
    names: tuple[str, str],
) -> Figure:
    """A map of rises on two logarithmic axes, shaded by the logarithm, with lines of equal rise."""
    shown = np.log10(np.maximum(rise, 1e-6))
    levels = _levels(rise)
    with figures.house_style():
        figure, axes = figures.one_axes(3.6, title, f"{title}, by {names[0]} and {names[1]}")
        axes.set(xscale="log", yscale="log", xlabel=names[0], ylabel=names[1])
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, place: f"{value:g}")  # noqa: ARG005
            axis.set_minor_formatter(lambda value, place: "")  # noqa: ARG005
        axes.pcolormesh(x, y, shown, cmap="Purples", shading="nearest", rasterized=True)
        if len(levels):
            lines = axes.contour(x, y, rise, levels=levels, colors=INK, linewidths=0.8)
            axes.clabel(lines, fmt=lambda value: f"{value:g}", fontsize=7.5)
        (left, right), (bottom, top) = frame
        look: dict[str, Any] = {
            "facecolor": "none",
            "edgecolor": GRID,
            "hatch": "///",
            "linewidth": 0.0,
            "zorder": 3,
        }
        for a, b, c, d in (
            (x[0], left, y[0], y[-1]),
            (right, x[-1], y[0], y[-1]),
            (left, right, y[0], bottom),
            (left, right, top, y[-1]),
        ):
            if b > a and d > c:
                axes.fill_between([a, b], c, d, **look)
        axes.plot(
            [left, right, right, left, left], [bottom, bottom, top, top, bottom], "--", color=INK, lw=1.2
        )
        axes.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    return figure


def _levels(rise: np.ndarray) -> list[float]:
    """Rises of 1, 2 and 5 times a power of ten inside the map, ten at most."""
    wanted = [m * 10.0**k for k in range(-5, 3) for m in (1, 2, 5)]
    inside = [level for level in wanted if rise.min() < level < rise.max()]
    return inside[:: max(1, -(-len(inside) // 8))]


def sizes_of(points: pd.DataFrame) -> list[float]:
    """The sizes of the runs, rising."""
    return sorted(float(value) for value in points["params"].unique())


FORMS = (
    "Fitted by least squares of log losses; AICc is of the fitted runs, smaller is better. "
    "Errors are mean absolute errors on the held-out runs: of the loss in percent of it, of the rise in percent of the "
    "mean rise there, with 95 % intervals over these runs. "
    "The last column is the error of the rise less that of the law, run by run: above 0 the law errs less. "
    "A loss is mostly that of the base model, so its error looks small even where nothing is said to be forgotten."
)
UNJUDGED = "Fitted by least squares of log losses; AICc is of the fitted runs, smaller is better."
SURFACE = (
    "Nats per token. The dashed frame is what the law was fitted to; everywhere in the hatched zone it extrapolates. "
    "Darker is more."
)


def page(results: Sequence[ForgettingResult], title: str = "Forgetting") -> str:
    """One self-contained HTML page about the laws of one job, or of several.

    Raises:
        DataError: there is no result.
    """
    return chapters_page(title, results, "sets of runs", verdict=verdict, chapter=_chapter)


def verdict(result: ForgettingResult) -> str:
    """Whether there was forgetting, what injection removed, and whether the law beats its rivals on unseen runs."""
    facts = result.facts
    told = f"{facts['runs']} runs. {_forgotten(facts['forgotten'])}"
    removed = facts["removed"]
    if removed and not missing(removed["value"]):
        told += f" Injecting {100 * facts['inject']:g} % removed {_percent(removed)} of that"
        told += "." if _apart(removed) else ": not told apart from nothing."
    if len(result.forms) and facts["held_out"]:
        told += " " + _rivalry(result.forms)
    return told


def _forgotten(rise: Mapping[str, Any]) -> str:
    """What runs without injection forgot, and whether it is told apart from nothing."""
    if missing(rise["value"]):
        return "None is without injection, so what they forgot cannot be told."
    mean = f"their pretraining loss rose by {_interval(rise)} nats per token in the mean"
    if _apart(rise) and rise["value"] > 0:
        return f"Without injection {mean}."
    if _apart(rise):
        return f"Without injection nothing was forgotten: {mean}."
    return f"Without injection {mean}: not told apart from nothing forgotten."


def _rivalry(forms: pd.DataFrame) -> str:
    """How far the law errs on held-out runs, and which rival forms err less, by paired differences."""
    law = forms[forms["form"] == "injection"].iloc[0]
    n = int(law["n_held_out"])
    ends = span(100 * law["rise_low"], 100 * law["rise_high"], 0)
    told = f"On {n} held-out runs the law errs by {fixed(100 * law['rise_error'], 0)} % of the rise ({ends})"
    if "more_low" not in forms:
        return f"{told}; this run did not compare it with other forms run by run."
    rivals = forms[forms["form"] != "injection"]
    less, more = rivals[rivals["more_high"] < 0], rivals[rivals["more_low"] > 0]
    if len(less):
        each = ", ".join(
            f"'{row['form']}' by {fixed(-100 * row['rise_more'], 0)} % "
            f"({span(-100 * row['more_high'], -100 * row['more_low'], 0)})"
            for row in less.to_dict("records")
        )
        return f"{told}; less than it err {each}."
    if len(more) == len(rivals):
        return f"{told}; each of {len(rivals)} other forms errs more, run by run."
    return f"{told}; {len(more)} of {len(rivals)} other forms err more, the rest are not told apart from it."


def _apart(it: Mapping[str, Any]) -> bool:
    """Whether an interval excludes 0."""
    return not missing(it["low"]) and not missing(it["high"]) and (it["low"] > 0 or it["high"] < 0)


def _chapter(result: ForgettingResult) -> Iterator[Section]:
    if result.refused:
        blocks = [Text(f"{name}: {why}", "unsure") for name, why in result.refused.items()]
        yield Section("What the runs cannot tell", blocks)
    yield Section("What injection did", list(_effects(result)))
    if result.law is not None:
        yield Section("The law", list(_law(result)))
    if len(result.forms):
        yield Section("Rival forms", [_forms(result.forms)])
    yield Section(
        "Runs", [Table(result.points.drop(columns="model", errors="ignore"), _RUNS)], collapsed=True
    )
    seconds = ("seconds", f"{result.seconds:.1f}")
    yield settings_section([*plain(dict(result.config)).items(), seconds])


_RUNS = "Losses in nats per token where the validation loss of the target was lowest; inject is a share."


def _effects(result: ForgettingResult) -> Iterator[Text | Table]:
    facts = result.facts
    rows = [("rise without injection, nats per token", *_cells(facts["forgotten"]))]
    share = f"{100 * facts['inject']:g} %"
    if facts["removed"] and not missing(facts["removed"]["value"]):
        rows.append((f"share of forgetting removed at {share}", *_cells(facts["removed"])))
    if facts["target_error"]:
        rows.append(("error of the target loss on held-out runs, as a share", *_cells(facts["target_error"])))
    yield Table(
        pd.DataFrame(rows, columns=["what", "value", "95 % interval", "n"]), "Intervals are over runs."
    )
    if facts["clear"] is not None:
        yield Text(
            f"{facts['clear']} of {facts['forgotten']['n']} runs without injection rose by more than the noise of "
            "their own test records (a whole 95 % interval above 0)."
        )
    if facts["not_reached"]:
        yield Text(
            f"{facts['not_reached']} of {facts['runs']} runs ended before the target's loss had turned: their lowest "
            "reading need not be its minimum.",
            "unsure",
        )
    if facts["equivalence"]:
        yield _equivalence(facts["equivalence"], share)
    if facts["injected"]:
        frame = pd.DataFrame(facts["injected"]).rename(columns={"below_one": "runs below one"})
        frame["inject"] = [f"{100 * value:g} %" for value in frame["inject"]]
        yield Table(frame, "Pretraining sequences injected per run until the point that counts, expected.")


def _equivalence(it: Mapping[str, Any], share: str) -> Text:
    word = "is equivalent to" if it["equivalent"] else "is not shown to be equivalent to"
    ends = span(it["low"], it["high"], 4, signed=True)
    return Text(
        f"The target loss at {share} {word} that without injection: the log differs by "
        f"{number(it['value'], signed=True)} (90 % interval {ends}; margin {it['margin']:g}; n = {it['n']} pairs; two "
        f"one-sided t tests, p = {number(it['p'], 2)}).",
        "good" if it["equivalent"] else "unsure",
    )


def _law(result: ForgettingResult) -> Iterator[Any]:
    law = result.law
    assert law is not None
    frame = result.to_frame().assign(
        interval=lambda f: [_ends(a, b) for a, b in zip(f["low"], f["high"], strict=True)]
    )
    caption = "A D^beta / ((1 + B p) N)^alpha, and A / (N^alpha D^beta) + E; intervals are 95 %, from refits."
    yield Table(frame[["law", "coefficient", "value", "interval", "n"]], caption)
    for name, fitted in (("forgetting", law), ("fine-tuning", result.target)):
        if fitted is not None and fitted.fitted.at_bounds:
            at = ", ".join(fitted.fitted.at_bounds)
            yield Text(
                f"At a bound of the search, so not told by the runs: {at} of the law of {name}.", "unsure"
            )
    shown = judging_law(result)
    yield picture(predicted_figure(result, shown), _shown_fit(result, shown))
    yield gallery([share_surface(law, sizes_of(result.points)[-1]), size_surface(law)], SURFACE)


def _forms(forms: pd.DataFrame) -> Table:
    frame = pd.DataFrame(
        {
            "form": forms["form"],
            "coefficients": forms["coefficients"],
            "AICc": [fixed(value, 1) for value in forms["aicc"]],
            "error of the loss, %": [fixed(100 * value, 2) for value in forms["loss_error"]],
            "interval": _spans(forms, "loss", 2),
            "error of the rise, %": [fixed(100 * value, 1) for value in forms["rise_error"]],
            "its interval": _spans(forms, "rise", 1),
        }
    )
    fitted, unseen = int(forms["n_fitted"].iloc[0]), int(forms["n_held_out"].iloc[0])
    if not unseen:
        return Table(frame.iloc[:, :3], f"{fitted} runs fitted, none held out. {UNJUDGED}", marked=[0])
    if "rise_more" in forms:
        frame["more than the law, %"] = [fixed(100 * value, 1, signed=True) for value in forms["rise_more"]]
        frame["interval of that"] = _spans(forms, "more", 1)
    return Table(frame, f"{fitted} runs fitted, {unseen} held out. {FORMS}", marked=[0])


def _shown_fit(result: ForgettingResult, law: ForgettingLaw | None) -> str:
    """What the law in the picture was fitted to."""
    held = int(result.facts["held_out"])
    if not held:
        return f"The law of all {len(result.points)} runs."
    if law is result.law:
        return f"The law of all {len(result.points)} runs: those that were not held out do not tell one."
    return f"The law of {len(result.points) - held} runs; the {held} held-out runs took no part in it."


def _spans(forms: pd.DataFrame, part: str, places: int) -> list[str]:
    ends = zip(forms[f"{part}_low"], forms[f"{part}_high"], strict=True)
    return [span(100 * low, 100 * high, places) for low, high in ends]


def _ends(low: float, high: float) -> str:
    return f"{number(low)} to {number(high)}"


def _cells(it: Mapping[str, Any]) -> tuple[str, str, int]:
    return number(it["value"]), span(it["low"], it["high"]), it["n"]


def _interval(it: Mapping[str, Any]) -> str:
    return f"{number(it['value'])} ({span(it['low'], it['high'])}; n = {it['n']})"


def _percent(it: Mapping[str, Any]) -> str:
    scaled = {name: None if it[name] is None else 100 * it[name] for name in ("value", "low", "high")}
    return f"{fixed(scaled['value'], 0)} % ({span(scaled['low'], scaled['high'], 0)}; n = {it['n']})"
