"""The results of fine-tuning: of one run, and of several on the same data, with a verdict in sentences."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pandas as pd

from trimtab.adapt.card import model_card
from trimtab.adapt.dynamics.compare import (
    comparison_table,
    gain_difference,
    kept_all,
    target_gain,
    unique_labels,
)
from trimtab.adapt.dynamics.figures import mixture_figure
from trimtab.adapt.dynamics.limits import lost_sentence, miss_sentence, validation_gain
from trimtab.adapt.dynamics.page import MAPS, MAPS_OF_OTHERS, chapter, comparison_section
from trimtab.adapt.dynamics.text import headline, run_text, text_table
from trimtab.adapt.record import (
    RunRecord,
    example_line,
    from_mapping,
    to_mapping,
)
from trimtab.adapt.units import unit_notes
from trimtab.errors import CheckpointError, DataError, explain
from trimtab.job import Result, titles
from trimtab.report.formats import fixed, missing, span
from trimtab.report.page import Page, Section, Text
from trimtab.runs.atomic import write_atomic
from trimtab.runs.paths import RESULT
from trimtab.runs.serialise import finished, plain, read_object, reading_result, seal, to_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

READING = (
    "Changes: nats per token on test, against the base model; gain: fall of target\n"
    "perplexity. Intervals (95 %) are over test records, not over the seed. Cost:\n"
    "multiples of one fixed-mixture run, steps alone / with evaluations."
)


@dataclass(frozen=True, repr=False)
class FinetuneResult(RunRecord):
    """The outcome of `finetune`; its numbers are the attributes of `trimtab.adapt.record.RunRecord`."""

    def figure(self) -> Figure:
        """The mixture over time."""
        return mixture_figure(self)

    def headline(self) -> dict[str, str]:
        """Status, target gain with its interval, constraints kept on test, and cost."""
        return headline(self)

    def summary(self) -> str:
        """Verdict: gain, kept constraints and cost of the run, on test."""
        return verdict([self])

    def sections(self) -> Iterator[Section]:
        """Result on test, mixture, losses, slopes, data, cost and settings."""
        yield from chapter(self, self.label, MAPS)

    @classmethod
    def page(cls, results: Sequence[Self], title: str = "", about: str = "") -> str:
        """One self-contained HTML page about the first run; others are compared with it, their own details folded.

        Raises:
            DataError: there is no result.
        """
        if not results:
            raise DataError(explain("no result", "at least one finished run", "trimtab runs"))
        title = title or "Fine-tuning under constraints"
        labels = unique_labels(results)
        first = list(chapter(results[0], labels[0], MAPS))
        if len(results) == 1:
            return Page(title, verdict(results), first, about).render()
        others = []
        for result, label in zip(results[1:], labels[1:], strict=True):
            good = result.status == "feasible" and kept_all(result)
            sentence = Text(sentence_about(result, label), "good" if good else "bad")
            details = chapter(result, label, MAPS_OF_OTHERS, results[0].data)
            others.append(Section(label, [sentence, *details], collapsed=True))
        sections = [
            comparison_section(results),
            Section(f"This run: {labels[0]}", first),
            Section("The runs it is compared with", others),
        ]
        return Page(title, verdict(results), sections, about).render()

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

    @property
    def passed(self) -> bool:
        """Whether a checkpoint kept every constraint on validation and gained: the model holds tuned weights."""
        return self.step > 0

    def card(self, *, adapter: bool | None = None) -> str:
        """Model card: a README.md with the verdict on every domain, how it was trained and loaded, and its limits.

        Args:
            adapter: whether it is of an adapter, not of a whole model; None for what the run trained.
        """
        adapter = bool(self.config.get("adapter")) if adapter is None else adapter
        return model_card(self, verdict([self]), adapter=adapter)

    def to_text(self) -> str:
        """Status, gain and cost, a row per domain, notes, and what is learned of its first training domain."""
        lines = [run_text(self), "", READING, *last_lines(self), *self.notes, *unit_notes(self)]
        for name, stretches in list(self.examples.items())[:1]:
            lines.append(f"Learned of {name}, first sequence, in double brackets: {example_line(stretches)}")
        return "\n".join(lines)

    def to_json(self) -> str:
        """The run as the one row of a comparison."""
        return comparison_json([self], {})


@dataclass(frozen=True, repr=False)
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

    @property
    def passed(self) -> bool:
        """Whether the main run finished and passed; the others are there to compare."""
        return self.runs[0].label == self.label and self.runs[0].passed

    @property
    def chosen(self) -> FinetuneResult | None:
        """The run whose model is kept: feasible, with the largest fall of target loss on validation; None without one.

        Test records have no part in the choice, so that what the run did on them stays honest.
        """
        gains = {k: validation_gain(run) for k, run in enumerate(self.runs) if run.status == "feasible"}
        known = [k for k, gain in gains.items() if not math.isnan(gain)]
        return self.runs[max(known, key=gains.__getitem__)] if known else None

    def choice(self) -> str:
        """Which run's model is kept and why, in a sentence."""
        if self.chosen is None:
            return "No run was feasible, so there is no model to keep."
        feasible, n = sum(run.status == "feasible" for run in self.runs), len(self.runs)
        return (
            f"The model kept is that of {self.chosen.label}: of {feasible} feasible runs among {n} the one whose "
            f"target loss fell most on validation, by {fixed(validation_gain(self.chosen))} nats per token."
        )

    def card(self, *, adapter: bool | None = None) -> str:
        """Model card of the run that is `chosen`.

        Raises:
            DataError: no run is.
        """
        if (run := self.chosen) is None:
            raise DataError(explain("runs of which none is feasible", "one whose model is kept"))
        adapter = bool(run.config.get("adapter")) if adapter is None else adapter
        return model_card(run, f"{verdict([run])} {self.choice()}", adapter=adapter)

    def to_frame(self) -> pd.DataFrame:
        """One row per run, see `comparison_table`."""
        return comparison_table(self.runs)

    def headline(self) -> dict[str, str]:
        """That of the main run, how many it is compared with, and of another run the gain, if its model is kept."""
        facts = headline(self.runs[0]) | {"compared": f"with {_others(self.runs)}"}
        if (chosen := self.chosen) is None or chosen is self.runs[0]:
            return facts
        return facts | {"model": f"of {chosen.label}, gain {headline(chosen)['gain']}"}

    def figure(self) -> Figure:
        """The mixture of the main run over time."""
        return self.runs[0].figure()

    def summary(self) -> str:
        """Verdict: gain, kept constraints and cost of the main run on test, and a sentence about the comparison."""
        return verdict(self.runs)

    def report(self, path: str | Path) -> Path:
        """Write the page of all runs and return its path."""
        label = f"{self.runs[0].label} and {_others(self.runs)}"
        write_atomic(Path(path), FinetuneResult.page(self.runs, *titles(Path(path).parent, label)))
        return Path(path)

    def save(self, folder: str | Path) -> Path:
        """Write the comparison into the folder of the group; each run is in a folder of its own below."""
        write_atomic(Path(folder) / "artifacts/comparison.json", self.to_json() + "\n")
        return Path(folder)

    def to_text(self) -> str:
        """The comparison as a table; notes and examples are on the page."""
        lines = [text_table(self.to_frame()), "", READING, *last_lines(self.runs[0]), self.choice()]
        if self.chosen is not None and self.chosen is not self.runs[0]:
            lines.append(f"On test: {sentence_about(self.chosen, self.chosen.label)}")
        lines += unit_notes(self.runs[0])
        lines += [f"{label} failed: {error}" for label, error in self.failures.items()]
        if notes := sum(len(run.notes) for run in self.runs):
            lines.append(f"Notes of the runs ({notes}), and what is learned of each domain, are on the page.")
        return "\n".join(lines)

    def to_json(self) -> str:
        """One object per run, the failures, and the label of the run chosen (null without one)."""
        chosen = self.chosen.label if self.chosen else None
        return comparison_json(self.runs, self.failures, chosen=chosen)


def last_lines(result: FinetuneResult) -> Iterator[str]:
    """What the last lines about a run say beside its row: its nearest miss, steps for nothing, a model unchanged."""
    if why := _why(result):
        yield why
    if not result.step:
        yield "The model is unchanged: its base weights were returned, and no model is written."


def _why(result: FinetuneResult) -> str:
    return miss_sentence(result) if result.status == "infeasible" else lost_sentence(result)


def comparison_json(runs: Sequence[FinetuneResult], failures: Mapping[str, str], **more: str | None) -> str:
    """A comparison as JSON text."""
    rows = plain(comparison_table(runs).to_dict("records"))
    return json.dumps({"runs": rows, "failures": dict(failures), **more}, indent=2)


def verdict(results: Sequence[FinetuneResult]) -> str:
    """Verdict: gain, kept constraints and cost of the first run on test, and a sentence about the comparison."""
    labels = unique_labels(results)
    sentence = sentence_about(results[0], labels[0])
    if len(results) == 1:
        return sentence
    gains = [target_gain(result) for result in results]
    kept = [k for k, result in enumerate(results) if kept_all(result) and gains[k][0] > 0]
    count = f"{len(kept)} gained something and kept every constraint on test"
    sentence += f" Of the {len(results)} runs compared, {count}."
    if not kept:
        return sentence
    best = max(kept, key=lambda k: gains[k][0])
    gain, low, high = gains[best]
    estimate = f"{fixed(gain, 1)} % ({span(low, high, 1)})"
    sentence += f" The largest estimate among them, {estimate}, is that of {labels[best]}"
    ends = {labels[k]: gain_difference(results[best], results[k]).high for k in kept if k != best}
    if not ends:
        return f"{sentence}."
    parts = []
    if close := [name for name, high in ends.items() if high >= 0]:
        parts.append(f"it is not distinguishable from {_listed(close)}")
    if unknown := [name for name, high in ends.items() if math.isnan(high)]:
        parts.append(f"its difference from {_listed(unknown)} was not measured on the same test records")
    differences = ", and ".join(parts) or "it is distinguishable from every other one"
    return f"{sentence}; {differences} (95 % intervals of paired differences over test records)."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def sentence_about(result: FinetuneResult, label: str) -> str:
    """Verdict on one run: gain, kept constraints and cost."""
    outcome = f"{_moved(result)} and kept {_count_kept(result)}"
    if result.status == "infeasible":
        outcome = "is infeasible: no checkpoint kept every constraint on validation, so the base weights were returned"
    elif result.status == "no gain":
        outcome = "gained nothing: no checkpoint within the constraints was better on the targets than the base weights"
    elif result.status == "diverged":
        good = f"diverged, and its last good checkpoint (step {result.step}) {outcome}"
        none = "diverged before any checkpoint was better within the constraints, so the base weights were returned"
        outcome = good if result.step else none
    steps, all_in = fixed(result.cost.training_multiple, 2), fixed(result.cost.all_in_multiple, 2)
    price = f"for {steps} times the training steps of one fixed-mixture run ({all_in} times with evaluations)"
    why = _why(result)
    return f"{label} {outcome}, {price}.{' ' if why else ''}{why}"


def _others(runs: Sequence[FinetuneResult]) -> str:
    return "1 other" if len(runs) == 2 else f"{len(runs) - 1} others"


def _moved(result: FinetuneResult) -> str:
    gain, low, high = target_gain(result)
    if missing(gain):
        return "has no test result on its targets"
    doubt = ", which may be no change at all" if low <= 0 <= high else ""
    verb, ends = ("lowered", (low, high)) if gain >= 0 else ("raised", (-high, -low))
    interval = f"95 % interval {span(*ends, 1)}{doubt}"
    return f"{verb} target perplexity on test by {fixed(abs(gain), 1)} % ({interval})"


def _count_kept(result: FinetuneResult) -> str:
    constraints = result.final[result.final["role"] == "constraint"]
    if not len(constraints):
        return "no constraint, as none was set"
    judged = constraints[[not missing(kept) for kept in constraints["kept"]]]
    kept = judged["kept"].astype(bool)
    held, broken = judged[kept], judged[~kept]
    close = int((held["change_high"] > held["tolerance"]).sum())
    doubt = f" ({close} of them within the noise: the interval reaches beyond the tolerance)" if close else ""
    count = f"{len(held)} of {len(constraints)} constraints{doubt}"
    names = [
        f"{name} ({fixed(change, signed=True)} nats, tolerance {fixed(tolerance)})"
        for name, change, tolerance in broken[["domain", "change", "tolerance"]].to_numpy().tolist()
    ]
    return f"{count}; not kept: {', '.join(names)}" if names else count
