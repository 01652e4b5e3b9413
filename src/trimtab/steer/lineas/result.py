"""Result of a steering job: the strength curve, transport costs and completions, and the page that shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from trimtab.job import Result
from trimtab.report.formats import estimate, fixed, missing, span
from trimtab.report.page import Section, Table, picture, written
from trimtab.runs.paths import RESULT
from trimtab.runs.serialise import checked
from trimtab.steer.lineas import page
from trimtab.steer.lineas.suggestion import Suggestion
from trimtab.steer.steering import Steering

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEERING = RESULT.parent / "steering"
"""Where a finished run keeps its steering."""


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
        rivals: strength curves of other estimators on the same texts, as `curve`, after a column method; maybe empty.
        rival_samples: what the model writes with those estimators, as `samples`, after a column method; maybe empty.
        suggestion: the suggested strength; None where the config states no budget.
    """

    steering: Steering
    curve: pd.DataFrame
    costs: pd.DataFrame
    samples: pd.DataFrame
    read: pd.DataFrame = field(default_factory=pd.DataFrame)
    rivals: pd.DataFrame = field(default_factory=pd.DataFrame)
    rival_samples: pd.DataFrame = field(default_factory=pd.DataFrame)
    suggestion: Suggestion | None = None

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
        """Lean against KL on neutral text by method and strength; lean by strength where KL was not measured."""
        if self.curve["kl"].isna().all():
            return page.curve_figures(self)[0]
        budget = None if self.suggestion is None else self.suggestion.budget
        return page.trade_off_figure(page.curves_of(self), budget)

    def values(self) -> dict[str, Any]:
        """Every field but the steering, which has files of its own."""
        return {name: value for name, value in super().values().items() if name != "steering"}

    @classmethod
    def from_values(cls, values: dict[str, Any], folder: Path) -> SteeringResult:
        """The inverse of `values`, with the steering from its folder."""
        fitted: dict[str, Any] = {"steering": Steering.from_pretrained(folder / STEERING)}
        if (given := values.get("suggestion")) is not None:
            known = {name: value for name, value in given.items() if value is not None}
            fitted["suggestion"] = checked(Suggestion, {"strength": None, **known})
        return checked(cls, {**values, **fitted})

    def save(self, folder: str | Path) -> Path:
        """Write the steering and the numbers into a run's folder."""
        self.steering.save_pretrained(Path(folder) / STEERING)
        return super().save(folder)

    def json_values(self) -> dict[str, Any]:
        """The strength curves, the suggestion, the costs, the samples, and what was read."""
        return {name: value for name, value in super().json_values().items() if name != "steering"}

    def to_text(self) -> str:
        """The strength curve without the ends of most intervals, and what it says, as plain text."""
        columns = self.curve[["strength", "lean", "lean_low", "lean_high", *list(page.CURVES)[1:]]]
        table = columns.to_string(index=False, float_format=lambda value: f"{value:.4f}", na_rep="-")
        said = [] if self.suggestion is None else [" ".join(self.suggestion.sentences())]
        return "\n\n".join([table, self.summary(), *said, f"{page.LEAN} {page.COVERS}"])

    def summary(self) -> str:
        """Lean, and KL on neutral text, at the largest strength, in one or two sentences."""
        last = self._largest()
        if last["strength"] == 0:
            return "Only strength 0 was tried, which leaves the model as it is."
        if missing(last["lean"]):
            return f"At strength {last['strength']:g} the lean is not defined."
        counts = self.counts()
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

    def counts(self) -> dict[str, int]:
        """Side -> texts that its numbers are of; {} where the run did not note it.

        A likelihood is of texts of two tokens or more; KL is of every text.
        """
        rows = self.read.to_dict("records")
        return {row["side"]: int(row["held_out" if row["side"] == "neutral" else "scored"]) for row in rows}

    @classmethod
    def compared(cls, results: Sequence[SteeringResult], labels: Sequence[str]) -> Iterator[Section]:
        """Each steering over its strengths in one picture, then at its largest strength."""
        rows = [
            {**one._largest(), "steering": label, "sites": len(one.steering.maps), "seconds": one.seconds}
            for label, one in zip(labels, results, strict=True)
        ]
        headings: dict[str, Any] = {"steering": "steering", "strength": ("strength", "g")}
        headings |= {"lean": ("lean", "lean_low", "lean_high", "+.3")}
        headings |= {"KL, neutral": ("kl", ".3"), "sites": "sites", "fit, s": ("seconds", ".1")}
        caption = f"At the largest strength of each. {page.LEAN} {page.COVERS}"
        table = Table(written(pd.DataFrame(rows), headings), caption)
        curves = {
            label: one.curve.sort_values("strength") for label, one in zip(labels, results, strict=True)
        }
        drawn = {label: curve for label, curve in curves.items() if curve["kl"].notna().any()}
        figures = [picture(page.trade_off_figure(drawn))] if drawn else []
        yield Section("Compared", [*figures, table])

    def sections(self) -> Iterator[Section]:
        """Sections of the page, see `trimtab.steer.lineas.page`."""
        yield from page.sections(self)
