"""Result of a steering job: the strength curve, transport costs and completions, and the page that shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trimtab.job import Result
from trimtab.report import charts
from trimtab.report.formats import NOTHING, estimate, fixed, missing, number, span
from trimtab.report.page import Section, Table, Text, gallery, picture, settings_section, written
from trimtab.runs.paths import RESULT
from trimtab.runs.serialise import checked, plain
from trimtab.steer.steering import Steering

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEERING = RESULT.parent / "steering"
"""Where a finished run keeps its steering."""
BINS = 32
"""Columns of the map of changed units, at most."""
COVERS = (
    "Intervals are 95 % over the choice of held-out texts; they do not cover the choice of fitting examples."
)
LEAN = (
    "Lean is how much likelier per token the target texts became than they were, less the same of the source texts. "
    "KL is how far next-token distributions moved on texts that should be left alone."
)
CURVES = {
    "lean": ("lean", "lean to the target", "nats per token"),
    "kl": ("KL, neutral", "moved on neutral text", "KL, nats per token"),
    "source_loss": ("loss, source", "loss on source text", "nats per token"),
    "target_loss": ("loss, target", "loss on target text", "nats per token"),
}
"""Column of the strength curve -> heading in tables, title and axis of its figure."""
READ = {"side": "side", "fit": "fitted with", "held_out": "held out"}
READ |= {"different": "different texts in the file", "blank": "blank", "repeated": "repeated"}
READ |= {"shared": "on another side too", "fit_cut": "cut, of those fitted with"}
READ |= {"held_out_cut": "cut, of those held out"}
"""Column of `SteeringResult.read` -> heading."""


@dataclass(frozen=True, kw_only=True, repr=False)
class SteeringResult(Result):
    """Result of a steering job; its label is the estimator's name, its seconds are those of the fit.

    Attributes:
        steering: what was fitted.
        curve: effect and side effect by strength on held-out texts, see `trimtab.steer.strength`.
        costs: columns site, before, after: 1-D transport cost to the target samples, mean over units, each in units of
            the target's variance there; held-out samples.
        samples: columns prompt, strength, text: what the model writes.
        read: one row per side: what was read, used and left out, see `trimtab.steer.lineas.job.reading_table`; empty
            for a run of an earlier version.
    """

    steering: Steering
    curve: pd.DataFrame
    costs: pd.DataFrame
    samples: pd.DataFrame
    read: pd.DataFrame = field(default_factory=pd.DataFrame)

    def to_frame(self) -> pd.DataFrame:
        """The strength curve."""
        return self.curve.copy()

    def headline(self) -> dict[str, str]:
        """Lean, and KL on neutral text, at the largest strength."""
        last = self._largest()
        words = {"strength": f"{last['strength']:g}"}
        words["lean"] = estimate(last["lean"], last["lean_low"], last["lean_high"], signed=True)
        if not missing(last["kl"]):
            words["kl"] = estimate(last["kl"], last["kl_low"], last["kl_high"])
        return words

    def figure(self) -> Figure:
        """Lean by strength."""
        return curve_figures(self)[0]

    def values(self) -> dict[str, Any]:
        """Every field but the steering, which has files of its own."""
        return {name: value for name, value in super().values().items() if name != "steering"}

    @classmethod
    def from_values(cls, values: dict[str, Any], folder: Path) -> SteeringResult:
        """The inverse of `values`, with the steering from its folder."""
        return checked(cls, {**values, "steering": Steering.from_pretrained(folder / STEERING)})

    def save(self, folder: str | Path) -> Path:
        """Write the steering and the numbers into a run's folder."""
        self.steering.save_pretrained(Path(folder) / STEERING)
        return super().save(folder)

    def json_values(self) -> dict[str, Any]:
        """The strength curve, the costs, the samples, and what was read."""
        return {name: value for name, value in super().json_values().items() if name != "steering"}

    def to_text(self) -> str:
        """The strength curve without the ends of most intervals, and what it says, as plain text."""
        columns = self.curve[["strength", "lean", "lean_low", "lean_high", *list(CURVES)[1:]]]
        table = columns.to_string(index=False, float_format=lambda value: f"{value:.4f}", na_rep="-")
        return f"{table}\n\n{self.summary()}\n\n{LEAN} {COVERS}"

    def summary(self) -> str:
        """Lean, and KL on neutral text, at the largest strength, in one or two sentences."""
        last = self._largest()
        if last["strength"] == 0:
            return "Only strength 0 was tried, which leaves the model as it is."
        if missing(last["lean"]):
            return f"At strength {last['strength']:g} the lean is not defined."
        counts = self._counts()
        n = f"; n = {counts['source']} source and {counts['target']} target texts" if counts else ""
        towards = "towards the target" if last["lean"] > 0 else "away from the target"
        leans = f"leans {fixed(abs(last['lean']))} nats per token {towards}"
        if missing(last["lean_low"]) or missing(last["lean_high"]):
            leans += ", of which there is no interval."
        else:
            leans += f" (lean {span(last['lean_low'], last['lean_high'], signed=True)}{n})"
            excludes_zero = last["lean_low"] > 0 or last["lean_high"] < 0
            leans += "." if excludes_zero else ": within what chance explains."
        text = f"At strength {last['strength']:g} the model {leans}"
        if missing(last["kl"]):
            return text
        ends = ""
        if not missing(last["kl_low"]) and not missing(last["kl_high"]):
            n = f"; n = {counts['neutral']}" if "neutral" in counts else ""
            ends = f" ({span(last['kl_low'], last['kl_high'])}{n})"
        return f"{text} On neutral text its predictions moved by {fixed(last['kl'])} nats per token{ends}."

    def _largest(self) -> pd.Series[Any]:
        """The row of the largest strength, wherever it stands."""
        return self.curve.iloc[int(self.curve["strength"].to_numpy().argmax())]

    def _counts(self) -> dict[str, int]:
        """Side -> texts that its numbers are of; {} where the run did not note it.

        A likelihood is of texts of two tokens or more; KL is of every text.
        """
        rows = self.read.to_dict("records")
        return {row["side"]: int(row["held_out" if row["side"] == "neutral" else "scored"]) for row in rows}

    @classmethod
    def compared(cls, results: Sequence[SteeringResult], labels: Sequence[str]) -> Iterator[Section]:
        """Each steering at its largest strength."""
        rows = [
            {**one._largest(), "steering": label, "sites": len(one.steering.maps), "seconds": one.seconds}
            for label, one in zip(labels, results, strict=True)
        ]
        headings: dict[str, Any] = {"steering": "steering", "strength": ("strength", "g")}
        headings |= {"lean": ("lean", "lean_low", "lean_high", "+.3")}
        headings |= {"KL, neutral": ("kl", ".3"), "sites": "sites", "fit, s": ("seconds", ".1")}
        caption = f"At the largest strength of each. {LEAN} {COVERS}"
        table = Table(written(pd.DataFrame(rows), headings), caption)
        yield Section("Compared", [table])

    def sections(self) -> Iterator[Section]:
        """What was read, the strength curve, completions, and where it acts."""
        if len(self.read):
            yield Section("What was read", list(_read(self.read)))
        texts = "; ".join(f"{side}: {count} held-out texts" for side, count in self._counts().items())
        n = f" {texts[0].upper()}{texts[1:]}." if texts else ""
        measured = [name for name in CURVES if self.curve[name].notna().any()]
        headings: dict[str, Sequence[str]] = {"strength": ("strength", "g")}
        for name in measured:
            form = "+.3" if name == "lean" else ".3"
            headings[CURVES[name][0]] = (name, f"{name}_low", f"{name}_high", form)
        table = Table(written(self.curve, headings), f"In nats per token. {COVERS}")
        yield Section("By strength", [gallery(curve_figures(self), f"{LEAN}{n} {COVERS}"), table])
        if len(self.samples):
            text = "Greedy completions of the same prompts at each strength; nothing is chosen or left out."
            # Two prompts may read alike: conversations that differ in variables of their template.
            numbered = self.samples.assign(number=self.samples.groupby("strength").cumcount())
            wide = numbered.pivot(index=["number", "prompt"], columns="strength", values="text")
            wide.columns = pd.Index([f"strength {float(column):g}" for column in wide.columns])
            wide = wide.reset_index().drop(columns="number")
            yield Section("What the model writes", [Text(text), Table(wide)])
        yield Section("Where it acts", [_costs(self), picture(units_figure(self.steering))])
        facts = (("model", self.steering.base.name), ("seconds of the fit", f"{self.seconds:.1f}"))
        yield settings_section([*plain(dict(self.config)).items(), *facts])


def curve_figures(result: SteeringResult) -> list[Figure]:
    """Lean, KL on neutral text, and both losses, by strength; what was not measured is left out."""
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
        for name, (_, title, axis) in CURVES.items()
        if curve[name].notna().any()
    ]


def units_figure(steering: Steering) -> Figure:
    """The share of units that each site's map changes, along its units."""
    table = np.full((len(steering.maps), BINS), np.nan)
    for row, (weight, shift) in zip(table, steering.maps.values(), strict=True):
        changed = np.asarray((weight != 1) | (shift != 0), dtype=float)
        shares = [part.mean() for part in np.array_split(changed, BINS) if len(part)]
        row[: len(shares)] = shares
    return charts.raster(
        table[:, ~np.isnan(table).all(axis=0)],
        without_common_ends(list(steering.maps)),
        of=list(steering.maps),
        axis="share of units changed",
        across=f"units, in at most {BINS} groups",
        title="Where it acts",
        label="Share of units that the map of each site changes, along its units",
    )


def without_common_ends(names: Sequence[str]) -> list[str]:
    """Names of sites without their common beginning and end.

    >>> without_common_ends(["model.layers.0.mlp:out", "model.layers.11.mlp:out"])
    ['0', '11']
    >>> without_common_ends(["model.norm:out"])
    ['model.norm:out']
    """
    parts = [name.split(".") for name in names]
    shortest = min(map(len, parts))
    same = [len({tuple(part[:k]) for part in parts}) == 1 for k in range(shortest)]
    first = max(k for k in range(shortest) if same[k])
    ends = [len({tuple(part[len(part) - k :]) for part in parts}) == 1 for k in range(shortest - first)]
    last = max(k for k in range(shortest - first) if ends[k])
    return [".".join(part[first : len(part) - last]) for part in parts] if len(names) > 1 else list(names)


def _read(read: pd.DataFrame) -> Iterator[Text | Table]:
    """Counts of texts by side: used, left out and cut."""
    rows = read.to_dict("records")
    cut = [
        f"{row['fit_cut'] + row['held_out_cut']} of {row['fit'] + row['held_out']} {row['side']} texts"
        for row in rows
        if row["fit_cut"] + row["held_out_cut"]
    ]
    if cut:
        yield Text(f"Longer than the limit of tokens, and cut there: {', '.join(cut)}.", "unsure")
    short = [
        f"{row['held_out'] - row['scored']} {row['side']}"
        for row in rows
        if row["scored"] < row["held_out"] and row["side"] != "neutral"
    ]
    if short:
        text = f"Held-out texts of a single token, of which no loss is told: {', '.join(short)}."
        yield Text(text, "unsure")
    caption = "Texts. Blank and repeated ones, and those that stand on another side too, were left out."
    yield Table(read[list(READ)].rename(columns=READ), caption)


def _costs(result: SteeringResult) -> Table:
    frame, untouched = result.costs.copy(), result.steering.sparsity()
    frame["share left"] = [
        NOTHING if missing(before) or before == 0 else fixed(after / before, 2)
        for before, after in zip(frame["before"], frame["after"], strict=True)
    ]
    frame["units left alone"] = [f"{100 * untouched[site]:.0f} %" for site in frame["site"]]
    caption = (
        "Squared 1-D Wasserstein distance between pooled activations of source texts and of target texts, mean over "
        "units, each in units of the target's variance; at strength 0 and at 1, on held-out texts."
    )
    return Table(frame, caption, {"before": number, "after": number})
