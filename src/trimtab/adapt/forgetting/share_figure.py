"""Rise of the pretraining loss against the share of pretraining data: runs, the law with its band, promises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trimtab.adapt.forgetting.laws import CONFIDENCE, ForgettingLaw
from trimtab.adapt.forgetting.replay import Promise, promises, share_text
from trimtab.report import figures, tags
from trimtab.report.figures import INK
from trimtab.report.formats import count, missing, number, percent, with_ends
from trimtab.report.page import Gallery, Picture, gallery, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS, CURVES, TICKS = 6, 5, 5
"""Sizes that are drawn at most, token counts of each, and shares along an axis."""
STEPS, SAID = 32, 12
"""Points of a drawn curve, and those that say their value beside the shares of the runs."""


@dataclass(frozen=True)
class Place:
    """A size in parameters and a count of unique tokens."""

    params: float
    tokens: float


def largest(points: pd.DataFrame, law: ForgettingLaw | None) -> Place:
    """Largest size and token count of the runs, for which shares are planned."""
    if law is not None:
        return Place(law.ranges["params"][1], law.ranges["tokens"][1])
    return Place(float(points["params"].max()), float(points["tokens"].max()))


def main_picture(points: pd.DataFrame, law: ForgettingLaw | None) -> Picture:
    """Rise against share at the largest size and token count, with what is promised there."""
    place, promised = largest(points, law), promises(law)
    drawn = share_figure(points, law, place.params, [place.tokens], promised)
    return picture(drawn, " ".join(_caption(points, law, place, promised)))


def every_size(points: pd.DataFrame, law: ForgettingLaw | None) -> Iterator[Gallery]:
    """Rise against share for every size and token count; nothing where there is one of each."""
    sizes, counts = (sorted(set(points[name].astype(float))) for name in ("params", "tokens"))
    if len(sizes) * len(counts) < 2:
        return
    panels, curves = _some(sizes, PANELS), _some(counts, CURVES)
    told = "The same for every size and count of unique tokens."
    if len(panels) < len(sizes) or len(curves) < len(counts):
        told = f"The same for {len(panels)} of {len(sizes)} sizes and {len(curves)} of {len(counts)} token counts."
    yield gallery([share_figure(points, law, size, curves) for size in panels], told)


def share_figure(
    points: pd.DataFrame,
    law: ForgettingLaw | None,
    params: float,
    tokens: Sequence[float],
    promised: Sequence[Promise] = (),
) -> Figure:
    """Rise of the pretraining loss against the share of pretraining data, at one size.

    The axis is linear from 0 to the smallest share of the runs and logarithmic above it.

    Args:
        points: one row per run, see `trimtab.adapt.forgetting.grid.forgetting_grid`.
        law: its curve, with its 95 % band where it has refits, dashed beyond the shares of the runs.
        params: the size.
        tokens: unique tokens, a colour for each.
        promised: a dashed line for each, and a diamond at the share that is planned for it.
    """
    shares = sorted({*points["inject"].astype(float), 0.0})
    most = max([*shares, *(one.safe for one in promised if not missing(one.safe))])
    title = f"{count(params)} parameters" + (
        f", {count(tokens[0])} unique tokens" if len(tokens) == 1 else ""
    )
    label = f"Rise of the pretraining loss by share of pretraining data: {title}"
    with figures.chart(3.4 if promised else 2.6, title, label) as (figure, axes):
        if len(shares) > 1:
            axes.set_xscale("symlog", linthresh=shares[1], linscale=0.6)
            axes.set_xlim(-0.15 * shares[1], (2.5 if promised else 1.35) * most)
        for number_of, each in enumerate(tokens):
            look, place = figures.point(number_of), Place(params, each)
            if law is not None:
                _curve(axes, law, place, shares, most, look["color"])
            _runs(axes, points, place, look)
        for one in promised:
            _promise(axes, one)
        _shares_along(axes, shares, most)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.set_ylabel("rise, nats per token")
        figures.grid(axes, "y")
        figures.legend_below(figure, len(axes.get_legend_handles_labels()[0]), ncols=2)
    return figure


def _shares_along(axes: Axes, shares: Sequence[float], most: float) -> None:
    """Ticks in percent at shares of the runs, and at round ones beyond them."""
    beyond = [share for share in (0.01, 0.1, 0.5) if 1.8 * shares[-1] < share <= most]
    ticks = [*_some(shares, TICKS), *beyond]
    axes.set_xticks(ticks, [f"{100 * share:g}" for share in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("share of pretraining data, %")


def _curve(
    axes: Axes, law: ForgettingLaw, place: Place, shares: Sequence[float], most: float, colour: str
) -> None:
    """Curve of the law from no share to the last one, dashed beyond the runs, with its band."""
    fitted, first = shares[-1], next((share for share in shares if share), 1e-3)
    steps = np.unique([*np.linspace(0, first, 6), *np.geomspace(first, max(most, first), STEPS), *shares])
    rise, low, high = _rises(law, place, steps)
    axes.fill_between(steps, low, high, color=colour, alpha=0.22, linewidth=0)
    for inside, style in ((steps <= fitted, "-"), (steps >= fitted, "--")):
        axes.plot(steps[inside], rise[inside], style, color=colour, linewidth=1.4)
    said = np.unique([*shares, *np.geomspace(first, max(most, first), SAID if most > fitted else 2)])
    rise, low, high = _rises(law, place, said)
    (values,) = axes.plot(said, rise, ".", color=colour, markersize=1.5)
    told = zip(*(side.tolist() for side in (said, rise, low, high)), strict=True)
    tags.named(values, [], [f"law at {share_text(at)}: {with_ends(*rises)}" for at, *rises in told])


def _rises(law: ForgettingLaw, place: Place, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rises that a law predicts, with the ends of their 95 % band; nan for a law without refits."""
    where: dict[str, Any] = {"params": place.params, "tokens": place.tokens, "inject": shares}
    rise = np.asarray(law.rise(**where))
    if not len(law.fitted.draws):
        return rise, np.full_like(rise, np.nan), np.full_like(rise, np.nan)
    # The band is one of losses; with a base loss of 1 it is that of the rise, 1 higher.
    low, high = law.interval(**where, loss_pt0=1.0, noise=False)
    return rise, low - 1.0, high - 1.0


def _runs(axes: Axes, points: pd.DataFrame, place: Place, look: dict[str, Any]) -> None:
    """Runs of one size and token count as points with their own intervals, where they have them."""
    rows = points[(points["params"] == place.params) & (points["tokens"] == place.tokens)]
    rise = (rows["loss_pt"] - rows["loss_pt0"]).to_numpy(dtype=float)
    low, high = (_ends(rows, name) for name in ("rise_low", "rise_high"))
    shares = rows["inject"].astype(float).tolist()
    for at, *ends in zip(shares, low, high, strict=True):
        axes.plot([at, at], ends, color=look["color"], linewidth=1.1, alpha=0.8)
    name = f"runs of {count(place.tokens)} tokens"
    (drawn,) = axes.plot(shares, rise, **look, linestyle="none", markersize=4.5, label=name, zorder=3)
    told = zip(shares, rise.tolist(), low, high, strict=True)
    tags.named(drawn, [], [f"run at {share_text(at)}: {with_ends(*rises)}" for at, *rises in told])


def _ends(rows: pd.DataFrame, name: str) -> list[float]:
    """Ends of the runs' own intervals; nan where a table of runs has none."""
    values = rows[name] if name in rows else pd.Series(np.nan, index=rows.index)
    ends: list[float] = pd.to_numeric(values, errors="coerce").astype(float).tolist()
    return ends


def _promise(axes: Axes, one: Promise) -> None:
    """A promised rise as a dashed line, and the share that is planned for it as a diamond on it."""
    axes.axhline(one.rise, color=INK, linestyle="--", linewidth=0.9)
    words = f"{100 * one.part:g} % of the law's rise at 0"
    figures.text_near(axes, words, (axes.get_xlim()[0], one.rise), (4, 2.5), fontsize=8)
    if missing(one.safe):
        return
    face = "none" if one.beyond else figures.PALETTE[4]
    look: dict[str, Any] = {
        "color": figures.PALETTE[4],
        "markerfacecolor": face,
        "markersize": 7,
        "zorder": 4,
    }
    (mark,) = axes.plot([one.safe], [one.rise], "D", **look)
    kept = f"kept in {percent(one.kept)} of refits"
    tags.named(mark, [], [f"planned share {share_text(one.safe)}: rise within {number(one.rise)}, {kept}"])
    figures.text_near(axes, str(share_text(one.safe)), (one.safe, one.rise), (6, 4), fontsize=8.5)


def _caption(
    points: pd.DataFrame, law: ForgettingLaw | None, place: Place, promised: Sequence[Promise]
) -> Iterator[str]:
    """Sentences on what is drawn: the runs, the law, and what is planned."""
    here = (points["params"] == place.params) & (points["tokens"] == place.tokens)
    yield f"Points are the runs of the largest size with the most unique tokens: {int(here.sum())}."
    if {"rise_low", "rise_high"} <= set(points):
        yield "Their bars are 95 % intervals over test records."
    if law is None:
        yield "The runs determine no law, so none is drawn."
        return
    band = ", with its 95 % band from refits" if len(law.fitted.draws) else ""
    yield f"The curve is the law of all {law.fitted.n} runs{band}."
    if not promised:
        yield "It plans no share, so no promise is drawn."
        return
    planned = [one for one in promised if not missing(one.safe)]
    if planned:
        yield f"Diamonds are the shares that keep a promise in {100 * CONFIDENCE:g} % of the refits."
    if beyond := sum(one.beyond for one in planned):
        which = "Those that are hollow lie" if beyond > 1 else "The hollow one lies"
        yield f"{which} beyond the shares of the runs, as does the dashed part of the curve."
    if len(planned) < len(promised):
        yield f"For {len(promised) - len(planned)} of {len(promised)} promises no share is planned."


def _some(values: Sequence[float], most: int) -> list[float]:
    """So many of the values at most, the first and the last among them."""
    places = np.unique(np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int))
    return [values[place] for place in places]
