"""The results of fine-tuning: of one run, and of several on the same data, with what they came to in sentences."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pandas as pd

from trimtab.adapt.data_table import example_line, few_records, few_records_note
from trimtab.adapt.dynamics.compare import (
    comparison_table,
    gain_difference,
    target_gain,
    text_table,
    unique_labels,
)
from trimtab.adapt.dynamics.figures import mixture_figure
from trimtab.adapt.dynamics.group_page import comparison_section
from trimtab.adapt.dynamics.page import MAPS, MAPS_OF_OTHERS, chapter
from trimtab.adapt.record import RunRecord, from_mapping, to_mapping
from trimtab.errors import CheckpointError, DataError, explain
from trimtab.job import Result
from trimtab.report.formats import fixed, missing, span
from trimtab.report.page import Page, Section, Text
from trimtab.runs.atomic import write_atomic
from trimtab.runs.paths import RESULT
from trimtab.runs.serialise import finished, plain, read_object, reading_result, seal, to_json
from trimtab.train.losses import Change

if TYPE_CHECKING:
    from matplotlib.figure import Figure

READING = (
    "Changes: nats per token on test, against the base model; gain: fall of target perplexity. Intervals (95 %) are\n"
    "over test records, not over the seed. Cost: multiples of one fixed-mixture run, steps alone / with evaluations."
)


@dataclass(frozen=True)
class FinetuneResult(RunRecord):
    """The outcome of `finetune`; its numbers are the attributes of `trimtab.adapt.record.RunRecord`."""

    def figure(self) -> Figure:
        """The mixture over time."""
        return mixture_figure(self)

    def summary(self) -> str:
        """What the run gained and kept on test, and at which cost."""
        return verdict([self])

    def sections(self) -> Iterator[Section]:
        """Result on test, mixture, losses, slopes, data, cost and settings."""
        yield from chapter(self, self.label, MAPS)

    @classmethod
    def page(cls, results: Sequence[Self], title: str = "") -> str:
        """One self-contained HTML page about the first run; others are compared with it, their own details folded.

        Raises:
            DataError: there is no result.
        """
        if not results:
            raise DataError(explain("no result", "at least one finished run", "trimtab runs"))
        title = title or "Fine-tuning under constraints"
        labels = unique_labels(results)
        first = chapter(results[0], labels[0], MAPS)
        if len(results) == 1:
            return Page(title, verdict(results), first).render()
        others = []
        for result, label in zip(results[1:], labels[1:], strict=True):
            good = result.status == "feasible" and kept_all(result)
            sentence = Text(sentence_about(result, label), "good" if good else "bad")
            own = chapter(result, label, MAPS_OF_OTHERS, results[0].data)
            others.append(Section(label, [sentence, *own], collapsed=True))
        sections = [
            comparison_section(results),
            Section(f"This run: {labels[0]}", first),
            Section("The runs it is compared with", others),
        ]
        return Page(title, verdict(results), sections).render()

    def save(self, path: str | Path) -> Path:
        """Write the result as one JSON file that `FinetuneResult.load` reads; in the folder of a run, in its place."""
        in_run = Path(path).is_dir()
        file = Path(path) / RESULT if in_run else Path(path)
        write_atomic(file, to_json(to_mapping(self), indent=1) + "\n")
        if in_run:
            seal(path)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a saved result, or that of a finished run folder.

        Raises:
            CheckpointError: there is no result (yet), or another version of trimtab wrote it.
        """
        path = Path(path)
        if not path.is_dir() and not path.exists():
            raise CheckpointError(explain(f"no finished result in {path}", "a finished run", "resuming it"))
        value = finished(path) if path.is_dir() else read_object(path)
        with reading_result(path):
            return from_mapping(cls, value)

    def to_text(self) -> str:
        """The run as the one row of a comparison, its notes, and what is learned of its first training domain."""
        lines = [text_table(comparison_table([self])), "", READING, *self.notes]
        lines += [few_records_note(few)] if (few := few_records(self)) else []
        for name, stretches in list(self.examples.items())[:1]:
            lines.append(f"Learned of {name}, first sequence, in double brackets: {example_line(stretches)}")
        return "\n".join(lines)

    def to_json(self) -> str:
        """The run as the one row of a comparison."""
        return comparison_json([self], {})


@dataclass(frozen=True)
class Comparison(Result):
    """Runs of several mixers on the same model, data and evaluation grid.

    Attributes:
        runs: one per mixer that finished, the main one first.
        failures: label -> what went wrong, for runs that did not finish.
    """

    runs: Sequence[FinetuneResult] = ()
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every run finished."""
        return not self.failures

    def to_frame(self) -> pd.DataFrame:
        """One row per run, see `comparison_table`."""
        return comparison_table(self.runs)

    def figure(self) -> Figure:
        """The mixture of the main run over time."""
        return self.runs[0].figure()

    def summary(self) -> str:
        """What the main run gained and kept on test, and a second sentence about the comparison."""
        return verdict(self.runs)

    def report(self, path: str | Path) -> Path:
        """Write the page of all runs and return its path."""
        title = f"{self.runs[0].label} beside {len(self.runs) - 1} others"
        write_atomic(Path(path), FinetuneResult.page(self.runs, title))
        return Path(path)

    def save(self, folder: str | Path) -> Path:
        """Write the comparison into the folder of the group; each run is in a folder of its own below."""
        write_atomic(Path(folder) / "artifacts/comparison.json", self.to_json() + "\n")
        return Path(folder)

    def to_text(self) -> str:
        """The comparison as a table; notes and examples are on the page."""
        lines = [text_table(self.to_frame()), "", READING]
        lines += [few_records_note(few)] if (few := few_records(self.runs[0])) else []
        lines += [f"{label} failed: {error}" for label, error in self.failures.items()]
        if notes := sum(len(run.notes) for run in self.runs):
            lines.append(f"Notes of the runs ({notes}), and what is learned of each domain, are on the page.")
        return "\n".join(lines)

    def to_json(self) -> str:
        """One object per run, and the failures."""
        return comparison_json(self.runs, self.failures)


def comparison_json(runs: Sequence[FinetuneResult], failures: Mapping[str, str]) -> str:
    """A comparison as JSON text."""
    rows = plain(comparison_table(runs).to_dict("records"))
    return json.dumps({"runs": rows, "failures": dict(failures)}, indent=2)


def verdict(results: Sequence[FinetuneResult]) -> str:
    """What the first run gained and kept on test and at which cost, and a second sentence about the comparison."""
    labels = unique_labels(results)
    sentence = sentence_about(results[0], labels[0])
    if len(results) == 1:
        return sentence
    kept = [k for k, result in enumerate(results) if kept_all(result) and target_gain(result)[0] > 0]
    best = max(kept, key=lambda k: target_gain(results[k])[0], default=None)
    group = (
        f"Of the {len(results)} runs compared, {len(kept)} gained something and kept every constraint on test"
    )
    if best is None:
        return f"{sentence} {group}."
    others = {labels[k]: gain_difference(results[best], results[k]) for k in kept if k != best}
    return f"{sentence} {group}. {_best(labels[best], _gain(results[best]), others)}"


def _best(label: str, gain: str, others: Mapping[str, Change]) -> str:
    """Who gained most, and from whom the paired differences on test records tell it apart."""
    sentence = f"The largest estimate among them, {gain}, is that of {label}"
    if not others:
        return f"{sentence}."
    unknown = [name for name, apart in others.items() if math.isnan(apart.high)]
    close = [name for name, apart in others.items() if name not in unknown and apart.high >= 0]
    parts = []
    if close:
        parts.append(f"it is not told apart from {_listed(close)}")
    if unknown:
        parts.append(f"its difference from {_listed(unknown)} was not measured on the same test records")
    if not parts:
        parts = ["it is told apart from each other one"]
    return f"{sentence}; {', and '.join(parts)} (95 % intervals of paired differences over test records)."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def sentence_about(result: FinetuneResult, label: str) -> str:
    """What one run gained, kept and cost."""
    return f"{label} {_outcome(result)}, {_price(result)}."


def _outcome(result: FinetuneResult) -> str:
    """What a run came to, to follow its label."""
    if result.status == "infeasible":
        return "is infeasible: no checkpoint kept every constraint on validation, so the base weights were returned"
    if result.status == "no gain":
        return "gained nothing: no checkpoint within the constraints was better on the targets than the base weights"
    if result.status == "diverged" and result.step == 0:
        return "diverged before any checkpoint was better within the constraints, so the base weights were returned"
    diverged = result.status == "diverged"
    begin = f"diverged, and its last good checkpoint (step {result.step}) " if diverged else ""
    return f"{begin}{_moved(result)} and kept {_count_kept(result)}"


def _moved(result: FinetuneResult) -> str:
    gain, low, high = target_gain(result)
    if missing(gain):
        return "has no test result on its targets"
    doubt = ", which may be no change at all" if low <= 0 <= high else ""
    verb = "lowered" if gain >= 0 else "raised"
    low, high = (low, high) if gain >= 0 else (-high, -low)
    return f"{verb} target perplexity on test by {fixed(abs(gain), 1)} % (95 % interval {span(low, high, 1)}{doubt})"


def _gain(result: FinetuneResult) -> str:
    gain, low, high = target_gain(result)
    return f"{fixed(gain, 1)} % ({span(low, high, 1)})"


def _count_kept(result: FinetuneResult) -> str:
    own = result.final[result.final["role"] == "constraint"]
    if not len(own):
        return "no constraint, as none was set"
    broken = own[[not missing(kept) and not kept for kept in own["kept"]]]
    held = own[[not missing(kept) and bool(kept) for kept in own["kept"]]]
    open_ = int((held["change_high"] > held["tolerance"]).sum())
    doubt = f" ({open_} of them within the noise: the interval reaches beyond the tolerance)" if open_ else ""
    count = f"{len(held)} of {len(own)} constraints{doubt}"
    names = [
        f"{name} ({fixed(change, signed=True)} nats, tolerance {fixed(tolerance)})"
        for name, change, tolerance in zip(
            broken["domain"], broken["change"], broken["tolerance"], strict=True
        )
    ]
    return f"{count}; not kept: {', '.join(names)}" if names else count


def kept_all(result: FinetuneResult) -> bool:
    """Whether every constraint is known to be kept on test; true of a run without any."""
    own = result.final.loc[result.final["role"] == "constraint", "kept"]
    return all(not missing(kept) and bool(kept) for kept in own)


def _price(result: FinetuneResult) -> str:
    cost = result.cost
    return (
        f"for {fixed(cost.training_multiple, 2)} times the training steps of one fixed-mixture run "
        f"({fixed(cost.all_in_multiple, 2)} times with evaluations)"
    )
