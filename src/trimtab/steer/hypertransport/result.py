"""Result of a HyperTransport job: fidelities of held-out concepts under each method, novelty and times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from trimtab.job import Result
from trimtab.report.formats import estimate, missing
from trimtab.report.page import Section, Table, written
from trimtab.report.text import plain_table
from trimtab.steer.hypertransport import page
from trimtab.steer.hypertransport.measuring import ALL_HELD_OUT, DISTANCE, HYPER, LINEAS, SCORES, break_even

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES = ("concept", "split", "method", "strength", "prompt", "text", "png")
"""Columns of the samples."""


@dataclass(frozen=True, repr=False, kw_only=True)
class HyperTransportResult(Result):
    """Result of a HyperTransport job.

    Methods: hypertransport; lineas (fitted to each concept); ridge, nearest, mean (of the training concepts' maps);
    oracle (affine maps trained on the distance to the true outputs, a ceiling); prompting; truth (the true outputs);
    unsteered. The oracle and the truth are there where a judge knows the true outputs.

    Attributes:
        table: one row per concept, method and strength: concept, split ("held value", "held combination", "training"
            or as the file calls it), method, strength (nan where there is none), concept_fidelity and input_fidelity,
            each with _low and _high, truth_distance likewise (mean difference of pixels from the true picture, nan
            where that is unknown), n (prompts). Intervals are 95 %, over prompts.
        means: the same over the concepts of each split and of all held-out ones; n is the number of concepts, and
            intervals are over concepts.
        equal: split, method, concept_fidelity, low, high, n: at equal input fidelity, see
            `trimtab.steer.hypertransport.measuring.at_equal_input`.
        concepts: concept, split, novelty, nearest (training concept), hypertransport_seconds, lineas_seconds.
        samples: concept, split, method, strength, prompt, text, png (base 64): outputs for the page.
        facts: trained_on, training_seconds, seconds of each method, maps_seconds, ridge_alpha, usual_novelty.
        measured_by: "judge", "the encoder of training" or "another encoder".
    """

    label: str = "hypertransport"
    table: pd.DataFrame
    means: pd.DataFrame
    equal: pd.DataFrame
    concepts: pd.DataFrame
    samples: pd.DataFrame
    facts: Mapping[str, Any] = field(default_factory=dict)
    measured_by: str = "judge"

    def to_frame(self) -> pd.DataFrame:
        """Fidelities of each concept under each method and strength."""
        return self.table.copy()

    @property
    def break_even(self) -> float:
        """Fewest concepts from which training once is quicker than fitting LinEAS to each; nan where unknown."""
        names = ("training_seconds", f"{HYPER}_seconds", f"{LINEAS}_seconds")
        times = [self.facts.get(name) for name in names]
        return break_even(*(float("nan") if one is None else float(one) for one in times))

    def at_full_strength(self) -> pd.DataFrame:
        """Means over all held-out concepts, of each method at its largest strength."""
        held = self.means[self.means["split"] == ALL_HELD_OUT].sort_values("strength", kind="stable")
        last = held.groupby("method", sort=False).tail(1)
        order = {method: place for place, method in enumerate(page.NAMES)}
        return last.sort_values("method", key=lambda names: names.map(order)).reset_index(drop=True)

    def headline(self) -> dict[str, str]:
        """Fidelities of the hypernetwork on held-out concepts at the largest strength."""
        rows = self._of(HYPER)
        if not rows:
            return {"hypertransport": "not measured"}
        return {
            name.replace("_", " "): estimate(*(rows[0][f"{name}{end}"] for end in ("", "_low", "_high")))
            for name in SCORES
        }

    def _of(self, method: str) -> list[dict[Any, Any]]:
        full = self.at_full_strength()
        return full[full["method"] == method].to_dict("records")

    def summary(self) -> str:
        """What the hypernetwork reaches on held-out concepts, beside fitting each, and when training pays."""
        rows = self._of(HYPER)
        n = f"n = {rows[0]['n']} concepts" if rows else "no concept"
        text = (
            f"On held-out concepts at the largest strength HyperTransport has {page.short_line(rows)} ({n})."
        )
        if rivals := self._of(LINEAS):
            text += f" That of LinEAS, fitted to each, is {page.short_line(rivals)}."
        held = self.equal[self.equal["split"] == ALL_HELD_OUT]
        ends = ("concept_fidelity", "low", "high")
        told = [
            f"{page.NAMES[row['method']]} {estimate(*(row[end] for end in ends))}"
            for row in held.to_dict("records")
        ]
        text += f" At equal input fidelity, to the concept: {', '.join(told)}." if told else ""
        if not missing(self.break_even):
            text += f" Training pays from {self.break_even:.0f} concepts on."
        return text

    def to_text(self) -> str:
        """Means at the largest strength, and the summary."""
        columns: dict[str, Any] = {"method": "method", "strength": "strength"}
        for name in SCORES:
            columns[name] = (*(f"{name}{end}" for end in ("", "_low", "_high")), estimate)
        if self.means[DISTANCE].notna().any():
            columns[DISTANCE] = (*(f"{DISTANCE}{end}" for end in ("", "_low", "_high")), estimate)
        table = plain_table(written(self.at_full_strength(), columns | {"concepts": "n"}))
        return f"{table}\n\n{self.summary()}"

    def json_values(self) -> dict[str, Any]:
        """Every number; not the pictures."""
        values = {name: value for name, value in super().json_values().items() if name != "samples"}
        return values | {"break_even": None if missing(self.break_even) else int(self.break_even)}

    def figure(self) -> Figure:
        """Fidelity to the concept against fidelity to the input."""
        return page.plane_figure(self.means)

    def sections(self) -> Iterator[Section]:
        """Sections of the page, see `trimtab.steer.hypertransport.page`."""
        yield from page.sections(self)

    @classmethod
    def compared(cls, results: Sequence[HyperTransportResult], labels: Sequence[str]) -> Iterator[Section]:
        """Held-out concepts at the largest strength, of each run."""
        parts = [one.at_full_strength().assign(run=label) for label, one in zip(labels, results, strict=True)]
        columns: dict[str, Any] = {"run": "run", "method": ("method", page.NAMES.__getitem__)}
        for name, heading in zip(SCORES, ("concept", "input"), strict=True):
            columns[heading] = (name, f"{name}_low", f"{name}_high", ".3")
        table = Table(written(pd.concat(parts, ignore_index=True), columns | {"n": "n"}), page.COVERS)
        yield Section("Compared", [table])
