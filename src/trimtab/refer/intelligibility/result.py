"""Result of a study of mutual intelligibility: its numbers, and its page.

The page shows the matrix, what of it is interaction, its controls, strata, captions and calibration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trimtab.data.naming import each_row
from trimtab.job import Result
from trimtab.refer.choices import CHOICES, SETS, TIES, drawn_sets, lettered, symbols
from trimtab.refer.intelligibility.matrix import Interaction
from trimtab.report.charts import share_map
from trimtab.report.figures import colour, point, with_margin
from trimtab.report.formats import NOTHING, estimate, fixed, from_zero, missing, span
from trimtab.report.intervals import Cloud, Look, curve_and_clouds, interval_rows
from trimtab.report.page import Gallery, Section, Table, Text, gallery, picture, settings_section, written
from trimtab.report.text import plain_table
from trimtab.runs.serialise import checked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACCURACY = ("accuracy", "low", "high", ".3")
VALUE = ("value", "low", "high", "+.3")
KINDS = {
    "own": "own pairs",
    "less control": "own speaker less control",
}
P_AT_1 = ("before", "after", "independent_before", "independent_after")


@dataclass(frozen=True, kw_only=True, repr=False)
class Intelligibility(Result):
    """Result of a study of mutual intelligibility.

    Attributes:
        p_at_1: of a speaker before and after it was tuned for a listener, with that listener and with another one:
            `before`, `after`, `independent_before`, `independent_after`, each value, low, high and n (items); empty
            where no speaker was tuned.
        accuracy: speaker, listener, accuracy, low, high, n (answers), n_groups, chance; a row per cell, nan where
            nobody answered.
        interaction: of the own pairs.
        interactions: kind (own, less control), speaker, listener, other_speaker, other_listener, value,
            low, high, n_groups, reason.
        controls: speaker, listener, control, accuracy, low, high, n, n_groups, reason.
        strata: by, stratum, speaker, listener, accuracy, low, high, n, n_groups, chance.
        captions: statistics of each speaker's captions (see `statistics.caption_statistics`).
        matched: differences of speakers at one mix of lengths (see `statistics.length_matched`).
        calibration: see `calibration.calibration_table`.
        reliability: see `calibration.reliability_table`.
        examples: item, speaker, caption, and the mean score of each listener.
        sets: candidate sets of the examples, see `refer.choices.shown_sets`.
        choices: how many answers of each listener to each speaker's caption chose a candidate of these sets.
        pictures: the pictures of these sets as data URIs; empty where candidates are not pictures.
        answers: speaker, listener, item, cluster, words, and the scores of every answer.
        notes: what a reader should know.
    """

    label: str = "intelligibility"
    p_at_1: Mapping[str, Any] = field(default_factory=dict)
    accuracy: pd.DataFrame
    interaction: Interaction
    interactions: pd.DataFrame
    controls: pd.DataFrame
    strata: pd.DataFrame
    captions: pd.DataFrame
    matched: pd.DataFrame
    calibration: pd.DataFrame
    reliability: pd.DataFrame
    examples: pd.DataFrame
    answers: pd.DataFrame
    sets: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(SETS)))
    choices: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(CHOICES)))
    pictures: dict[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def speakers(self) -> list[str]:
        """Names of the speakers, in their order."""
        return list(dict.fromkeys(map(str, self.accuracy["speaker"])))

    @property
    def listeners(self) -> list[str]:
        """Names of the listeners, in their order."""
        return list(dict.fromkeys(map(str, self.accuracy["listener"])))

    def cell(self, speaker: str, listener: str) -> dict[str, Any]:
        """Accuracy of one pair: value, low, high and n, its answers.

        Raises:
            KeyError: there is no such pair.
        """
        rows = self.accuracy[(self.accuracy["speaker"] == speaker) & (self.accuracy["listener"] == listener)]
        if rows.empty:
            raise KeyError((speaker, listener))
        row = rows.iloc[0]
        ends = {name: float(row[name]) for name in ("low", "high")}
        return {"value": float(row["accuracy"]), **ends, "n": int(row["n"])}

    def to_frame(self) -> pd.DataFrame:
        """The accuracy matrix, one row per cell."""
        return self.accuracy.copy()

    def to_text(self) -> str:
        """Accuracy with its controls, the interactions and the summary."""
        lines = ["speaker", "listener", "control", "accuracy", "low", "high", "n"]
        parts = [self.accuracy, self.controls[self.controls["control"] != "captions"][lines]]
        parts += [self.interactions.drop(columns="reason"), self.captions]
        return "\n\n".join([*(plain_table(one) for one in parts if len(one)), self.summary()])

    def json_values(self) -> dict[str, Any]:
        """Every field but the config, pictures and answers one by one, which are in the result file; `p_at_1` first."""
        values = super().json_values()
        return {
            "p_at_1": values.pop("p_at_1"),
            **{name: it for name, it in values.items() if name not in ("answers", "pictures")},
        }

    def values(self) -> dict[str, Any]:
        """Fields of the result, the interaction as a mapping."""
        return super().values() | {"interaction": asdict(self.interaction)}

    @classmethod
    def from_values(cls, values: dict[str, Any], folder: Path) -> Intelligibility:  # noqa: ARG003
        """The inverse of `values`; a missing number is nan."""
        one = values["interaction"]
        numbers = {
            key: float("nan") if one[key] is None else float(one[key]) for key in ("value", "low", "high")
        }
        pairs = tuple((str(speaker), str(listener)) for speaker, listener in one["pairs"])
        values["interaction"] = Interaction(**numbers, n=one["n"], reason=one["reason"], pairs=pairs)
        of_cells = {
            name: {key: float("nan") if number is None else number for key, number in cell.items()}
            for name, cell in values["p_at_1"].items()
        }
        return checked(cls, values | {"notes": tuple(values["notes"]), "p_at_1": of_cells})

    def headline(self) -> dict[str, str]:
        """The interaction, and the tuned speaker's accuracy with its listener before and after."""
        one = self.interaction
        found = {"interaction": estimate(one.value, one.low, one.high, signed=True)}
        for name in [name for name in ("before", "after") if name in self.p_at_1]:
            cell = self.p_at_1[name]
            found[name] = estimate(cell["value"], cell["low"], cell["high"])
        return found

    def figure(self) -> Figure:
        """Forest plot of the accuracies, by listener; chance is dashed."""
        rows = self.accuracy
        looks = {
            name: Look(name, colour(k), str(point(k)["marker"])) for k, name in enumerate(self.listeners)
        }
        names = [f"{row.speaker} → {row.listener}" for row in each_row(rows)]
        value, low, high = (rows[one].to_numpy(dtype=float) for one in ("accuracy", "low", "high"))
        bounds = with_margin(np.array([0.0, 1.0]))
        chances = rows["chance"].dropna().unique()
        return interval_rows(
            names,
            value.tolist(),
            low.tolist(),
            high.tolist(),
            [looks[str(name)] for name in rows["listener"]],
            bounds=bounds,
            limit=float(chances[0]) if len(chances) == 1 else None,
            axis="accuracy",
            title="Who understands whom",
            label="Accuracy of each listener with each speaker's captions, with intervals",
        )

    def summary(self) -> str:
        """The matrix in its best and worst cell, and the interaction in words."""
        known = self.accuracy[self.accuracy["n"] > 0]
        places = int(known["accuracy"].argmax()), int(known["accuracy"].argmin())
        best, worst = (known.iloc[place] for place in places)
        text = (
            f"{len(self.speakers)} speakers, {len(self.listeners)} listeners, {int(known['n'].sum())} answers. "
            f"Highest accuracy: {_cell_text(best)}; lowest: {_cell_text(worst)}; chance {_chance(known)}."
        )
        return f"{text} {interaction_text(self)}"

    def sections(self) -> Iterator[Section]:
        """Sections of the page: matrix, interaction, controls, strata, captions, calibration, examples, notes."""
        covers = _covers(self)
        headings = {"speaker": "speaker", "listener": "listener", "accuracy": ACCURACY}
        sizes = {"answers": "n", "groups": "n_groups"}
        matrix = written(self.accuracy, headings | sizes | {"chance": ("chance", ".3")})
        drawn = [picture(matrix_figure(self), "Rows are speakers, columns listeners.")]
        drawn.append(picture(self.figure(), f"{covers} Dashed: chance, where it is one number."))
        yield Section("Accuracy", [*drawn, Table(matrix, covers)])
        if len(self.p_at_1):
            yield Section("Before and after tuning", [_tuned(self)])
        yield Section("Interaction", list(_interaction_blocks(self)))
        yield Section("Controls", [_controls(self)])
        yield from _strata(self)
        yield Section("Captions", [_captions(self), *_matched(self)])
        if len(self.calibration):
            yield Section("Calibration", list(_calibration(self)))
        yield Section("Examples", list(_examples(self)))
        if self.notes:
            yield Section("Notes", [Text(f"Note: {note}.", "unsure") for note in self.notes])
        yield settings_section(self.config.items())


def _examples(result: Intelligibility) -> Iterator[Text | Gallery | Table]:
    """Captions of a few items beside their candidates, with who chose what, and their scores."""
    formats = {name: lambda score: fixed(score, 2) for name in result.examples.columns[3:]}
    if len(result.sets):
        rows, marks = result.examples.groupby("item", sort=False), lettered(result.speakers)
        said = {
            str(item): " · ".join(
                f"{marks[row.speaker]}, {row.speaker}: {row.caption or NOTHING}" for row in each_row(own)
            )
            for item, own in rows
        }
        who = ", ".join(f"{mark} {name}" for name, mark in symbols(result.listeners).items())
        sizes, most = result.sets["size"], int(result.sets["item"].value_counts().max())
        whole = f" {most} of {sizes.max()} candidates are drawn." if (sizes > most).any() else ""
        yield Text(
            f"Beside each target stand its distractors.{whole} Marks tell which candidate a listener chose with a "
            f"speaker's caption: {who}. {TIES}"
        )
        yield Gallery(drawn_sets(result.sets, result.choices, result.pictures, marks, result.listeners, said))
    caption = "Items drawn by the seed; under each listener the mean score of its answers."
    yield Table(result.examples, caption, formats)


def interaction_text(result: Intelligibility) -> str:
    """The interaction in words, and how much of it a control speaker shows."""
    one = result.interaction
    if missing(one.value):
        return f"No interaction: {one.reason}."
    ends = f"{fixed(one.value, signed=True)} ({span(one.low, one.high, signed=True)})"
    text = (
        f"Interaction, own pairs ({_pairs(one.pairs)}) less crossed pairs: {ends}, "
        f"{from_zero(one.low, one.high)}."
    )
    for row in each_row(result.interactions):
        if row.kind == "less control" and not missing(row.value):
            less = f"{fixed(row.value, signed=True)} ({span(row.low, row.high, signed=True)})"
            text += f" Beyond {row.other_speaker}, who adapted to nobody, {row.speaker} adds {less} of it, "
            text += f"{from_zero(row.low, row.high)}."
    return text


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{speaker} → {listener}" for speaker, listener in pairs)


def _cell_text(row: Any) -> str:
    return f"{row['listener']} with captions of {row['speaker']}, {fixed(row['accuracy'])}"


def _chance(known: pd.DataFrame) -> str:
    low, high = float(known["chance"].min()), float(known["chance"].max())
    return fixed(low) if fixed(low) == fixed(high) else f"{fixed(low)} to {fixed(high)}"


def _covers(result: Intelligibility) -> str:
    level = 100 * float(result.config.get("confidence", 0.95))
    group = result.config.get("group") or "item"
    kinds = "Wilson's of accuracies, percentile bootstrap of others"
    return f"Intervals are at {level:g} %, clustered by {group}: {kinds}."


def matrix_figure(result: Intelligibility) -> Figure:
    """Heat map of the matrix, with intervals in the cells."""
    rows, columns = result.speakers, result.listeners
    cells = [[result.cell(speaker, listener) for listener in columns] for speaker in rows]
    shares = [[cell["value"] for cell in line] for line in cells]
    notes = [[_span(cell["low"], cell["high"]) for cell in line] for line in cells]
    label = "Accuracy by speaker and listener"
    return share_map(shares, rows, columns, notes=notes, title="Accuracy", label=label)


def _span(low: float, high: float) -> str:
    return "" if missing(low) or missing(high) else f"{fixed(low, 2)}–{fixed(high, 2)}"


def _tuned(result: Intelligibility) -> Table:
    about = dict(zip(P_AT_1, ("own listener, before", "own listener, after"), strict=False))
    about |= {"independent_before": "other listener, before", "independent_after": "other listener, after"}
    rows = [{"measured": about[name], **result.p_at_1[name]} for name in P_AT_1 if name in result.p_at_1]
    frame = written(
        pd.DataFrame(rows), {"P@1": "measured", "value": ("value", "low", "high", ".3"), "items": "n"}
    )
    return Table(frame, "A gain that the other listener does not share is a code, not a better caption.")


def _interaction_blocks(result: Intelligibility) -> Iterator[Text | Table]:
    yield Text(interaction_text(result))
    if not len(result.interactions):
        return
    rows = result.interactions.assign(
        what=[KINDS[str(kind)] for kind in result.interactions["kind"]],
        first=[f"{row.speaker} → {row.listener}" for row in each_row(result.interactions)],
        second=[f"{row.other_speaker} → {row.other_listener}" for row in each_row(result.interactions)],
    )
    headings = {"what": "what", "pair": "first", "other pair": "second", "interaction": VALUE}
    caption = (
        "Accuracy of the two pairs less that of the two crossed pairs. What makes a speaker easy for everyone or a "
        "listener good with everyone cancels. An interaction that the control speaker shows too is no co-adaptation."
    )
    yield Table(
        written(rows, headings | {"groups": "n_groups", "why none": "reason"}), f"{caption} {_covers(result)}"
    )


def _controls(result: Intelligibility) -> Table:
    heads = {"captions": "accuracy"} | {name: name for name in ("shuffled captions", "no caption", "chance")}
    pairs = [(speaker, listener) for speaker in result.speakers for listener in result.listeners]
    at = {(row.speaker, row.listener, row.control): row for row in each_row(result.controls)}
    rows = []
    for speaker, listener in pairs:
        cells: dict[str, Any] = {"speaker": speaker, "listener": listener}
        for control, head in heads.items():
            row = at[speaker, listener, control]
            ends = _span(row.low, row.high)
            cells[head] = row.reason or fixed(row.accuracy) + (f" ({ends})" if ends else "")
        rows.append(cells)
    caption = (
        "Shuffled captions: each target with the caption, or the recorded answer, of another item. No caption: what a "
        "listener picks unheard. At chance or below, answers come from what captions say; below it where other "
        "candidates than the target are favourites, as when the target is the centre of its set."
    )
    return Table(pd.DataFrame(rows), f"{caption} {_covers(result)}")


def _strata(result: Intelligibility) -> Iterator[Section]:
    if not len(result.strata):
        return
    blocks = []
    for name, rows in result.strata.groupby("by", sort=False):
        by = str(name)
        fixed_ones = {"speaker": "speaker", "listener": "listener", "accuracy": ACCURACY}
        fixed_ones |= {"answers": "n", "groups": "n_groups", "chance": ("chance", ".3")}
        headings = {f"{by} (stratum)" if by in fixed_ones else by: "stratum"} | fixed_ones
        blocks.append(Table(written(rows, headings), f"By {by}. {_covers(result)}"))
    yield Section("Strata", blocks, collapsed=len(result.strata) > 40)


def _captions(result: Intelligibility) -> Table:
    headings: dict[str, Sequence[str]] = {"speaker": "speaker", "captions": "n"}
    headings |= {"words": ("words", "words_low", "words_high", ".1"), "different words": "types"}
    headings |= {"same, in equal text": ("rarefied", ".1"), "entropy, bits": ("entropy_bits", ".2")}
    headings |= {"said before": ("repetition", ".3"), "of several items": ("repeats", ".3")}
    headings |= {
        "overlap": ("overlap", "overlap_low", "overlap_high", ".3"),
        "ambiguous": ("ambiguous", ".3"),
    }
    caption = (
        "Same, in equal text: different words expected in as many words as the tersest speaker said. Said before: "
        "share of words that their caption has already used. Of several items: share of captions said of more than "
        "one. Overlap: Jaccard, with the same speaker's captions of the distractors. Ambiguous: share of captions "
        "that equal one of those."
    )
    return Table(written(result.captions, headings), f"{caption} {_covers(result)}")


def _matched(result: Intelligibility) -> Iterator[Table]:
    if not len(result.matched):
        return
    headings: dict[str, Sequence[str]] = {"listener": "listener", "speaker": "speaker", "other": "other"}
    headings |= {"other less speaker": ("difference", "low", "high", "+.3")}
    headings |= {"at equal length": ("matched", "matched_low", "matched_high", "+.3")}
    headings |= {"support": ("support", ".2"), "answers": "n"}
    caption = (
        "At equal length: the difference within bins of length, at the mix of both. Support: answers in bins that both "
        "speakers have."
    )
    yield Table(written(result.matched, headings), f"{caption} {_covers(result)}")


def _calibration(result: Intelligibility) -> Iterator[Any]:
    axes, drawn = ("mean probability of the first candidate", "accuracy"), []
    for listener, own in result.reliability.groupby("listener", sort=False):
        clouds = {
            str(speaker): Cloud(rows["confidence"].tolist(), rows["accuracy"].tolist(), joined=True)
            for speaker, rows in own.groupby("speaker", sort=False)
        }
        title, label = f"Reliability of {listener}", f"Accuracy by confidence of {listener}, by speaker"
        line = Cloud([0, 1], [0, 1])
        drawn.append(curve_and_clouds(line, clouds, axes_names=axes, title=title, label=label))
    yield gallery(drawn, "The line is perfect calibration; each point is a bin of confidence.")
    headings: dict[str, Sequence[str]] = {"speaker": "speaker", "listener": "listener"}
    headings |= {"accuracy": ("accuracy", ".3"), "confidence": ("confidence", ".3")}
    headings |= {"p(target)": ("p_target", ".3"), "calibration error": ("ece", "ece_low", "ece_high", ".3")}
    headings |= {"Brier": ("brier", "brier_low", "brier_high", ".3"), "answers": "n"}
    caption = (
        "Calibration error: mean gap of confidence and accuracy over ten bins, above 0 by chance where few answered. "
        "Brier: mean squared error of the probabilities, 0 to 2."
    )
    yield Table(written(result.calibration, headings), f"{caption} {_covers(result)}")
