"""What fitting a steering came to: a value that knows its settings and every number of its page.

The page of a steering: what it does as its strength grows, where it acts, what the model writes.

The pictures of a steering's page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trimtab.report import charts
from trimtab.report.formats import NOTHING, fixed, missing, number, span
from trimtab.report.page import Section, Table, Text, chapters_page, gallery, picture, settings_section
from trimtab.runs.atomic import write_atomic
from trimtab.runs.paths import RESULT
from trimtab.runs.serialise import checked, plain, read_result, reading_result, write_result
from trimtab.steer.steering import Steering

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from trimtab.steer.steering import Steering


SCHEMA = 1
STEERING = RESULT.parent / "steering"
"""Where a finished run keeps its steering."""
_KEPT = ("label", "config", "seconds", "curve", "costs", "samples", "read")
_OPTIONAL = ("read",)


@dataclass(frozen=True)
class SteeringResult:
    """The outcome of a steering job.

    Attributes:
        label: a short name of the run, its estimator's unless told otherwise.
        steering: what was fitted.
        curve: effect and side effect by strength on held-out texts, see `trimtab.steer.strength`.
        costs: columns site, before, after: 1-D transport cost to the target samples, mean over units, each in units of
            the target's variance there; held-out samples.
        samples: columns prompt, strength, text: what the model writes.
        config: everything needed to do the run again.
        seconds: of the fit.
        read: one row per side: what was read, used and left out, see `trimtab.steer.lineas.job.reading_table`; empty
            for a run of an earlier version.
    """

    label: str
    steering: Steering
    curve: pd.DataFrame
    costs: pd.DataFrame
    samples: pd.DataFrame
    config: Mapping[str, Any]
    seconds: float
    read: pd.DataFrame = field(default_factory=pd.DataFrame)

    def to_frame(self) -> pd.DataFrame:
        """The strength curve."""
        return self.curve.copy()

    def figure(self) -> Figure:
        """Lean by strength."""

        return curve_figures(self)[0]

    def report(self, path: str | Path) -> Path:
        """Write the report page (one self-contained HTML file) and return its path."""

        write_atomic(Path(path), page([self], title=self.label))
        return Path(path)

    def save(self, folder: str | Path) -> Path:
        """Write the steering and the numbers into a run's folder."""
        self.steering.save_pretrained(Path(folder) / STEERING)
        return write_result(folder, SCHEMA, {name: getattr(self, name) for name in _KEPT}, indent=1)

    @classmethod
    def load(cls, folder: str | Path) -> SteeringResult:
        """Read the result of a finished run.

        Raises:
            CheckpointError: there is none (yet), another version of trimtab wrote it, or a part of it is missing.
        """
        found = read_result(folder, SCHEMA)
        steering = Steering.from_pretrained(Path(folder) / STEERING)
        with reading_result(folder):
            return checked(cls, {**found, "steering": steering})


BINS = 32
"""Columns of the map of changed units, at most."""


def curve_figures(result: SteeringResult) -> list[Figure]:
    """Lean, KL on neutral text, and both losses, by strength; what was not measured is left out."""
    drawn = [
        ("lean", "lean to the target", "nats per token"),
        ("kl", "moved on neutral text", "KL, nats per token"),
        ("source_loss", "loss on source text", "nats per token"),
        ("target_loss", "loss on target text", "nats per token"),
    ]
    curve = result.curve
    return [
        charts.line_band(
            curve["strength"].tolist(),
            *(curve[f"{name}{end}"].tolist() for end in ("", "_low", "_high")),
            reference=0.0 if name == "lean" else float("nan"),
            axis=axis,
            across="strength",
            title=title,
            label=f"{title} by strength, {axis}",
        )
        for name, title, axis in drawn
        if curve[name].notna().any()
    ]


def units_figure(steering: Steering) -> Figure:
    """The share of units that each site's map changes, along its units."""
    shares = [_binned((weight != 1) | (shift != 0)) for weight, shift in steering.maps.values()]
    width = max(map(len, shares))
    table = np.full((len(shares), width), np.nan)
    for row, share in zip(table, shares, strict=True):
        row[: len(share)] = share
    return charts.raster(
        table,
        told_apart(list(steering.maps)),
        axis="share of units changed",
        across=f"units, in at most {BINS} groups",
        title="Where it acts",
        label="Share of units that the map of each site changes, along its units",
    )


def _binned(changed: object) -> np.ndarray:
    parts = np.array_split(np.asarray(changed, dtype=float), BINS)
    return np.array([part.mean() for part in parts if len(part)])


def told_apart(names: Sequence[str]) -> list[str]:
    """Names of sites without what all of them begin and end with.

    >>> told_apart(["model.layers.0.mlp:out", "model.layers.11.mlp:out"])
    ['0', '11']
    >>> told_apart(["model.norm:out"])
    ['model.norm:out']
    """
    parts = [name.split(".") for name in names]
    shortest = min(map(len, parts))
    same = [len({tuple(part[:k]) for part in parts}) == 1 for k in range(shortest)]
    first = max(k for k in range(shortest) if same[k])
    ends = [len({tuple(part[len(part) - k :]) for part in parts}) == 1 for k in range(shortest - first)]
    last = max(k for k in range(shortest - first) if ends[k])
    return [".".join(part[first : len(part) - last]) for part in parts] if len(names) > 1 else list(names)


COVERS = (
    "Intervals are 95 % over the choice of held-out texts; they do not cover the choice of fitting examples."
)
LEAN = (
    "Lean is how much likelier per token the target texts became than they were, less the same of the source texts. "
    "KL is how far next-token distributions moved on texts that should be left alone."
)


def page(results: Sequence[SteeringResult], title: str = "A steering") -> str:
    """One self-contained HTML page about one steering, or about several on the same texts.

    Raises:
        DataError: there is no result.
    """
    return chapters_page(
        title,
        results,
        "steerings beside one another",
        verdict=verdict,
        chapter=_chapter,
        compared=_comparison,
    )


def verdict(result: SteeringResult) -> str:
    """What the steering came to at its largest strength, in one or two sentences."""
    last = _largest(result)
    if last["strength"] == 0:
        return "Only strength 0 was tried, which leaves the model as it is."
    if missing(last["lean"]):
        return f"At strength {last['strength']:g} the lean is not defined."
    counts = _counts(result)
    n = f"; n = {counts['source']} source and {counts['target']} target texts" if counts else ""
    towards = "towards the target" if last["lean"] > 0 else "away from the target"
    told = f"At strength {last['strength']:g} the model leans {fixed(abs(last['lean']))} nats per token {towards}"
    if missing(last["lean_low"]) or missing(last["lean_high"]):
        told += ", of which there is no interval."
    else:
        known = last["lean_low"] > 0 or last["lean_high"] < 0
        told += f" (lean {span(last['lean_low'], last['lean_high'], signed=True)}{n})"
        told += "." if known else ": within what chance explains."
    if not missing(last["kl"]):
        told += f" On neutral text its predictions moved by {fixed(last['kl'])} nats per token"
        if not missing(last["kl_low"]) and not missing(last["kl_high"]):
            n = f"; n = {counts['neutral']}" if "neutral" in counts else ""
            told += f" ({span(last['kl_low'], last['kl_high'])}{n})"
        told += "."
    return told


def _largest(result: SteeringResult) -> pd.Series[Any]:
    """The row of the largest strength, wherever it stands."""
    return result.curve.iloc[int(result.curve["strength"].to_numpy().argmax())]


def _counts(result: SteeringResult) -> dict[str, int]:
    """Side -> texts that its numbers are of; {} where the run did not note it.

    A likelihood is of texts of two tokens or more; KL is of every text.
    """
    rows = result.read.to_dict("records")
    return {row["side"]: int(row["held_out" if row["side"] == "neutral" else "scored"]) for row in rows}


def _chapter(result: SteeringResult) -> Iterator[Section]:
    if len(result.read):
        yield Section("What was read", list(_read(result)))
    counts = _counts(result)
    n = "".join(f" {side}: {count} held-out texts." for side, count in counts.items()).replace(". ", "; ")
    n = f" {n[1:].capitalize()}" if counts else ""
    yield Section("By strength", [gallery(curve_figures(result), f"{LEAN}{n} {COVERS}"), _curve(result)])
    if len(result.samples):
        yield Section("What the model writes", list(_samples(result)))
    yield Section("Where it acts", [_costs(result), picture(units_figure(result.steering))])
    facts = (("model", result.steering.base.name), ("seconds of the fit", f"{result.seconds:.1f}"))
    yield settings_section([*plain(dict(result.config)).items(), *facts])


def _read(result: SteeringResult) -> Iterator[Text | Table]:
    """What of the texts took part, and what was left out or cut."""
    read = result.read
    cut = [
        f"{row['fit_cut'] + row['held_out_cut']} of {row['fit'] + row['held_out']} {row['side']} texts"
        for row in read.to_dict("records")
        if row["fit_cut"] + row["held_out_cut"]
    ]
    if cut:
        yield Text(f"Longer than the limit of tokens, and cut there: {', '.join(cut)}.", "unsure")
    if short := [
        f"{row['held_out'] - row['scored']} {row['side']}"
        for row in read.to_dict("records")
        if row["scored"] < row["held_out"] and row["side"] != "neutral"
    ]:
        yield Text(
            f"Held-out texts of a single token, of which no loss is told: {', '.join(short)}.", "unsure"
        )
    names = {
        "fit": "fitted with",
        "held_out": "held out",
        "different": "different texts in the file",
        "blank": "blank",
        "repeated": "repeated",
        "shared": "on another side too",
        "fit_cut": "cut, of those fitted with",
        "held_out_cut": "cut, of those held out",
    }
    yield Table(
        read[["side", *names]].rename(columns=names),
        "Texts. Blank and repeated ones, and those that stand on another side too, were left out.",
    )


def _curve(result: SteeringResult) -> Table:
    curve = result.curve
    frame = pd.DataFrame({"strength": [f"{s:g}" for s in curve["strength"]]})
    for name, head in (
        ("lean", "lean"),
        ("kl", "KL, neutral"),
        ("source_loss", "loss, source"),
        ("target_loss", "loss, target"),
    ):
        if curve[name].notna().any():
            frame[head] = [fixed(value, signed=name == "lean") for value in curve[name]]
            frame[f"interval: {head}"] = [
                span(low, high, signed=name == "lean")
                for low, high in zip(curve[f"{name}_low"], curve[f"{name}_high"], strict=True)
            ]
    return Table(frame, f"In nats per token. {COVERS}")


def _samples(result: SteeringResult) -> Iterator[Text | Table]:
    yield Text("Greedy completions of the same prompts at each strength; nothing is chosen or left out.")
    wide = result.samples.pivot(index="prompt", columns="strength", values="text")
    wide = wide.loc[list(dict.fromkeys(result.samples["prompt"]))]
    wide.columns = [f"strength {float(column):g}" for column in wide.columns]
    yield Table(wide.reset_index())


def _costs(result: SteeringResult) -> Table:
    frame = result.costs.copy()
    frame["share left"] = [
        NOTHING if missing(b) or b == 0 else fixed(a / b, 2)
        for b, a in zip(frame["before"], frame["after"], strict=True)
    ]
    alone = result.steering.sparsity()
    frame["units left alone"] = [f"{100 * alone[site]:.0f} %" for site in frame["site"]]
    caption = (
        "Squared 1-D Wasserstein distance between pooled activations of source texts and of target texts, mean over "
        "units, each in units of the target's variance; at strength 0 and at 1, on held-out texts."
    )
    return Table(frame, caption, {"before": number, "after": number})


def _comparison(results: Sequence[SteeringResult], labels: Sequence[str]) -> Table:
    rows = []
    for label, result in zip(labels, results, strict=True):
        last = _largest(result)
        rows.append(
            {
                "steering": label,
                "strength": f"{last['strength']:g}",
                "lean": fixed(last["lean"], signed=True),
                "interval of the lean": span(last["lean_low"], last["lean_high"], signed=True),
                "KL, neutral": fixed(last["kl"]),
                "sites": len(result.steering.maps),
                "fit, s": fixed(result.seconds, 1),
            }
        )
    return Table(pd.DataFrame(rows), f"At the largest strength of each. {LEAN} {COVERS}")
