"""Figures of a leak audit: bits by number of tokens, accuracy by layer, levels side by side, mitigations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trimtab.read.leaks.recommendation import (
    ABOVE,
    BY_ESTIMATE,
    ENCODINGS,
    NO_LEAK,
    SHOWN,
    UNKNOWN,
    UNMITIGATED,
    risk_of,
)
from trimtab.report import figures, tags
from trimtab.report.formats import missing, with_ends
from trimtab.report.intervals import Look, gain_against_cost, interval_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS = {
    ABOVE: Look(ABOVE, figures.PALETTE[4], "D"),
    BY_ESTIMATE: Look("shown, estimate above", figures.PALETTE[1], "D", filled=False),
    SHOWN: Look(SHOWN, figures.PALETTE[1]),
    NO_LEAK: Look(NO_LEAK, figures.PALETTE[0], "s", filled=False),
    UNKNOWN: Look(UNKNOWN, figures.PALETTE[6], "X"),
}
"""The look of each word for a risk."""
BITS = "bits above the question alone"
NARROWEST = 0.01
"""Bits that an axis shows on both sides of 0 at least: less is nothing."""
LEAST_AXIS = 0.1
"""Bits that an axis spans at least, so that what is not there does not look large."""
REFERENCES: dict[str, tuple[str, tuple[int, tuple[float, ...]] | str]] = {
    "largest class": (figures.INK, (0, (1.0, 2.0))),
    "question alone": (figures.PALETTE[1], (0, (4.0, 2.5))),
    "text": (figures.PALETTE[2], (0, (7.0, 2.0, 1.2, 2.0))),
    "pixels": (figures.PALETTE[2], (0, (7.0, 2.0, 1.2, 2.0))),
    "untrained model": (figures.PALETTE[4], "-"),
}
"""Colour and dashes of the lines of controls, the same in every panel; text and pixels are never together."""
_LONG_NAMES: dict[str, Any] = {"ncols": 2, "handlelength": 2.8}
_GREY: dict[str, Any] = {"color": figures.PALETTE[6], "marker": "x", "linestyle": "--"}


def tokens_figure(
    rows: pd.DataFrame, controls: pd.DataFrame, title: str, max_bits: float | None = None
) -> Figure:
    """Bits by number of tokens: a line for each level and encoding, one for the random-token control.

    Args:
        rows: of the headline table: one attribute and role, levels with a number of tokens.
        controls: random tokens, of the same attribute and role.
        title: what stands above the axes.
        max_bits: a dashed line.
    """
    with figures.chart(3.4, title, f"Bits by number of tokens: {title}") as (figure, axes):
        lines = list(rows.groupby(["level", "encoding", "setting"], sort=False))
        for number, ((level, encoding, setting), line) in enumerate(lines):
            kind = (
                "" if level == "logprobs" else level,
                ENCODINGS.get(str(encoding), str(encoding)),
                setting,
            )
            look = {"label": ", ".join(filter(None, map(str, kind)))} | figures.point(number)
            _line(axes, line, "k", ("bits", "low", "high"), look)
        if len(controls):
            _line(axes, controls, "k", ("bits", "low", "high"), {"label": "random tokens, control"} | _GREY)
        places = sorted({*rows["k"].dropna().tolist(), *controls["k"].dropna().tolist()})
        axes.set_xscale("log", base=2)
        axes.set_xticks(places, [f"{place:.0f}" for place in places], parse_math=False)
        axes.minorticks_off()
        axes.axhline(0, color=figures.INK, linestyle=":", linewidth=1.1)
        if max_bits is not None:
            axes.axhline(max_bits, color=figures.INK, linestyle="--", linewidth=1.1)
        bottom, top = axes.get_ylim()
        axes.set(xlabel="tokens", ylabel=BITS, ylim=(min(bottom, -0.06 * LEAST_AXIS), max(top, LEAST_AXIS)))
        figures.grid(axes)
        figures.legend_below(figure, len(lines) + bool(len(controls)), **_LONG_NAMES)
    return figure


def layers_figure(rows: pd.DataFrame, references: Mapping[str, float], title: str) -> Figure:
    """Accuracy of the hidden state by layer with its interval, and of controls as lines across.

    Args:
        rows: of the headline table: one attribute and role, level hidden.
        references: accuracy of controls by name, those of `REFERENCES`.
        title: what stands above the axes.
    """
    with figures.chart(3.4, title, f"Accuracy by layer: {title}") as (figure, axes):
        _line(axes, rows, "layer", ACCURACY, {"label": "hidden state"} | figures.point(0))
        for name, value in references.items():
            colour, dashes = REFERENCES[name]
            axes.axhline(value, color=colour, linestyle=dashes, linewidth=1.4, label=name)
        axes.set(xlabel="state (0 before the first block)", ylabel="accuracy", ylim=(0, 1.03))
        figures.in_percent(axes.yaxis)
        figures.finish(axes, None)
        figures.legend_below(figure, 1 + len(references), **_LONG_NAMES)
    return figure


def short_name(row: Mapping[Any, Any]) -> str:
    """What a row of the headline table reads, short enough for the side of a figure.

    >>> short_name({"level": "logprobs", "k": 20, "encoding": "served"})
    'top 20, ids with values'
    """
    encoding = str(row.get("encoding") or "")
    parts = [LEVELS.get(row["level"], str(row["level"])), str(row.get("lens") or "")]
    parts += [f"{row[name]:.0f}" for name in ("k", "layer") if not missing(row.get(name))]
    return ", ".join(filter(None, [" ".join(filter(None, parts)), ENCODINGS.get(encoding, encoding)]))


LEVELS = {"logprobs": "top", "trajectory": "trajectory,"}
"""Levels whose short names are other ones."""
ACCURACY = ("accuracy", "accuracy_low", "accuracy_high")
"""Columns of an accuracy and its interval."""


def bits_figure(
    names: Sequence[str], rows: pd.DataFrame, title: str, label: str, max_bits: float | None = None
) -> Figure:
    """Forest plot of bits: one row for each of what is read or served, its look the word for its risk.

    Args:
        names: of the rows.
        rows: with columns bits, low and high.
        title: what stands above the axes.
        label: the text alternative.
        max_bits: a dashed line.
    """
    bits, low, high = (rows[name].astype(float).tolist() for name in ("bits", "low", "high"))
    looks = [LOOKS[risk_of(*ends, max_bits)] for ends in zip(bits, low, high, strict=True)]
    bounds = figures.with_margin(
        np.array([-NARROWEST, NARROWEST, *([] if max_bits is None else [max_bits]), *bits, *low, *high])
    )
    return interval_rows(
        names, bits, low, high, looks, bounds=bounds, limit=max_bits, axis=BITS, title=title, label=label
    )


def served_as(rows: pd.DataFrame) -> list[str]:
    """Name of each row of the mitigations: the mitigation with its setting, if it has one.

    >>> served_as(pd.DataFrame({"mitigation": ["none", "round"], "setting": ["", "1 decimal"]}))
    ['none', 'round 1 decimal']
    """
    pairs = zip(rows["mitigation"], rows["setting"], strict=True)
    return [" ".join(filter(None, map(str, pair))) for pair in pairs]


def trade_figure(rows: pd.DataFrame, title: str) -> Figure:
    """Bits that are left against the error of the answer's log-probability, a point for each setting.

    Args:
        rows: of the mitigations, of one attribute and role, the unmitigated among them.
        title: what stands above the axes.
    """
    kinds = {name: number for number, name in enumerate(dict.fromkeys(rows["mitigation"]))}
    plain = rows["mitigation"] == UNMITIGATED
    cost = rows["answer_error_nats"].astype(float).where(~plain, 0.0).tolist()
    bits, low, high = (rows[name].astype(float).tolist() for name in ("bits", "low", "high"))
    looks = [
        Look(str(name), figures.colour(kinds[name]), figures.MARKERS[kinds[name] % len(figures.MARKERS)])
        for name in rows["mitigation"]
    ]
    floor = min([0.0, *(value for value in low if np.isfinite(value))])
    axes_names = ("error of the answer's log-probability, nats", BITS)
    label = f"Bits left against utility: {title}"
    return gain_against_cost(
        cost,
        bits,
        low,
        high,
        looks,
        names=served_as(rows),
        floor=floor,
        axes_names=axes_names,
        title=title,
        label=label,
    )


def _line(
    axes: Axes, rows: pd.DataFrame, across: str, columns: tuple[str, str, str], look: Mapping[str, Any]
) -> None:
    """A value with its interval along a column; rows without either are left out."""
    known = rows.dropna(subset=[across, columns[0]]).sort_values(across, kind="stable")
    value, low, high = (known[name].astype(float).to_numpy() for name in columns)
    ends = np.nan_to_num(np.maximum([value - low, high - value], 0.0))
    shape: dict[str, Any] = {"markersize": 4.5, "linewidth": 1.3, "elinewidth": 0.9, "capsize": 2.0}
    drawn = axes.errorbar(known[across].astype(float), value, yerr=ends, **shape, **look)
    for part in drawn.get_children():
        tags.named(part, [look["label"]])
    points = zip(known[across].tolist(), value.tolist(), low.tolist(), high.tolist(), strict=True)
    told = [f"{look['label']}, {across} {at:g}: {with_ends(*ends)}" for at, *ends in points]
    tags.named(drawn.lines[0], [look["label"]], told)
