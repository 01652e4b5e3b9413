"""Result of a DiscriTune job: what listeners find before and after, and its page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml

from trimtab.job import Result
from trimtab.models.save import HERE
from trimtab.refer.choices import CHOICES, SETS, TIES, drawn_sets, symbols
from trimtab.report import charts
from trimtab.report.figures import PALETTE
from trimtab.report.formats import NOTHING, estimate, fixed, from_zero, printable, span
from trimtab.report.intervals import Look, interval_rows
from trimtab.report.page import (
    Gallery,
    Section,
    Table,
    Text,
    gallery,
    picture,
    settings_section,
    written,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BEFORE, AFTER = Look("before", PALETTE[0], "o", filled=False), Look("after", PALETTE[0], "o")
COVERS = (
    "Intervals are 95 % bootstrap intervals over test pictures; changes are paired. A share of 0 or 1 has Wilson's "
    "interval. They do not cover another run with another seed."
)
FOUND = (
    "P@1 is how often the picture of a caption is the nearest of its candidates for a listener; m pictures at one "
    "similarity count 1/m each. Random sets hold other test pictures, hard sets the given candidates."
)
WHO = {"listener": "the listener of the training", "independent": "the independent listener"}
CURVES: Mapping[str, tuple[str, str]] = {
    "reward": ("Reward", "mean reward"),
    "found": ("Found", "share among negatives"),
    "advantage_sd": ("Spread of advantages", "standard deviation"),
    "kl_nats": ("Distance from the start", "KL, nats per token"),
    "length": ("Length", "words"),
    "repetition": ("Repetition", "share of word pairs"),
    "vocabulary": ("Vocabulary", "different words"),
}
"""Column of the history -> title and axis of its figure."""


@dataclass(frozen=True, kw_only=True, repr=False)
class DiscriTuneResult(Result):
    """Result of a DiscriTune job.

    Attributes:
        p_at_1: before, after, independent_before, independent_after, each with value, low, high and n: how often a
            listener finds the picture in a random set; None where there is no independent listener.
        p_at_1_hard: the same on the given candidate sets.
        retrieval: both with the paired change, see `evaluation.retrieval`.
        scores: caption scores against references, before and after; empty without references.
        wording: length, repetition and vocabulary.
        truth: hallucinated and omitted attributes; empty where pictures come without a truth.
        captions: columns item, before, after, reference.
        history: diagnostics of each step, see `discritune.Tuned`.
        evaluations: scores on watched test pictures as it trained.
        signs: of reward hacking, a sentence each.
        sets: candidate sets of the first test pictures, see `refer.choices.shown_sets`.
        choices: what each listener chose of them with the caption before and after, see `evaluation.choices`.
        shown: the pictures of these sets as data URIs.
        notes: on the listeners, and on test pictures that were trained on.
    """

    p_at_1: dict[str, Any]
    p_at_1_hard: dict[str, Any]
    retrieval: pd.DataFrame
    scores: pd.DataFrame
    wording: pd.DataFrame
    truth: pd.DataFrame
    captions: pd.DataFrame
    signs: tuple[str, ...] = ()
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    evaluations: pd.DataFrame = field(default_factory=pd.DataFrame)
    sets: pd.DataFrame = field(default_factory=pd.DataFrame)
    choices: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(CHOICES)))
    shown: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """P@1 of each listener on each kind of set, before and after."""
        columns = [
            "listener",
            "candidates",
            "size",
            "before",
            "after",
            "change",
            "change_low",
            "change_high",
            "n",
        ]
        return self.retrieval[columns].copy()

    def headline(self) -> dict[str, str]:
        """P@1 on random sets before and after."""
        return {"P@1": f"{fixed(self._first('before'))} to {fixed(self._first('after'))}"}

    def _first(self, when: str) -> float:
        return float(self.retrieval.iloc[0][when])

    def summary(self) -> str:
        """P@1 before and after, for the listener of the training and for the independent one."""
        parts = []
        for row in self.retrieval.to_dict("records"):
            who = WHO[row["listener"]]
            change = estimate(row["change"], row["change_low"], row["change_high"], signed=True)
            verdict = from_zero(row["change_low"], row["change_high"])
            ends = f"{fixed(row['before'])} to {fixed(row['after'])}"
            parts.append(
                f"Of {row['size']} {row['candidates']} candidates {who} finds {ends} ({change}, {verdict})."
            )
        return " ".join([*parts, *self.signs, *self.notes])

    def to_text(self) -> str:
        """The headline table, what it says, faithfulness and warnings, as plain text."""
        truth = (
            ""
            if not len(self.truth)
            else self.truth[["captions", "hallucinated", "omitted", "named"]].to_string(
                index=False, float_format=lambda value: f"{value:.3f}"
            )
        )
        return "\n\n".join(filter(None, (super().to_text(), truth)))

    def json_values(self) -> dict[str, Any]:
        """Everything but the pictures and the history of steps, P@1 first."""
        values = super().json_values()
        return {name: values[name] for name in sorted(values, key=_order) if name not in ("shown", "history")}

    def figure(self) -> Figure:
        """P@1 before and after, one row per listener and kind of set."""
        names, ends, looks = list[str](), list[list[float]](), list[Look]()
        for row in self.retrieval.to_dict("records"):
            for when, look in (("before", BEFORE), ("after", AFTER)):
                names.append(f"{row['candidates']}, {row['listener']}")
                ends.append([row[when], row[f"{when}_low"], row[f"{when}_high"]])
                looks.append(look)
        value, low, high = np.array(ends, dtype=float).T.tolist()
        title = "How often listeners find the picture"
        return interval_rows(
            names,
            value,
            low,
            high,
            looks,
            bounds=(0.0, 1.02),
            axis="P@1",
            title=title,
            label=f"{title}: P@1 with intervals",
        )

    def sections(self) -> Iterator[Section]:
        """The sections of the page."""
        headings: dict[str, Any] = {
            "listener": "listener",
            "model": "name",
            "candidates": "candidates",
            "of": "size",
        }
        headings |= {when: (when, f"{when}_low", f"{when}_high", ".3") for when in ("before", "after")}
        headings |= {"change": ("change", "change_low", "change_high", "+.3"), "captions": "n"}
        table = Table(written(self.retrieval, headings))
        notices = [*(Text(sign, "bad") for sign in self.signs), *map(Text, self.notes)]
        yield Section("What listeners find", [*notices, picture(self.figure(), f"{FOUND} {COVERS}"), table])
        yield Section("Captions before and after", list(self._examples()))
        yield from self._people()
        if len(self.history):
            yield Section("Training", list(self._training()))
        yield settings_section(self.config.items())

    def _examples(self) -> Iterator[Text | Gallery]:
        said = {
            row["item"]: f"before: {row['before'] or NOTHING} · after: {row['after'] or NOTHING}"
            + (f" · reference: {row['reference']}" if row["reference"] else "")
            for row in self.captions.to_dict("records")
        }
        sets = self.sets
        if not len(sets):  # of a run that kept no choices
            sets = pd.DataFrame([(name, 1, name) for name in self.shown], columns=list(SETS))
        listeners = list(dict.fromkeys(self.retrieval["listener"]))
        drawn = drawn_sets(
            sets, self.choices, self.shown, {"before": "before", "after": "after"}, listeners, said
        )
        changed = int((self.captions["before"] != self.captions["after"]).sum())
        yield Text(f"{changed} of {len(self.captions)} captions changed. {self._sets_caption(listeners)}")
        yield Gallery(drawn)

    def _sets_caption(self, listeners: Sequence[str]) -> str:
        """What is drawn of the candidate sets, and what the marks mean."""
        first = "The first test pictures; nothing is chosen or left out."
        if not len(self.choices):
            return first
        kind, most = self.retrieval["candidates"].iloc[-1], int(self.sets["item"].value_counts().max())
        whole = f", {most} of {self.sets['size'].max()} drawn" if (self.sets["size"] > most).any() else ""
        who = ", ".join(f"{mark} {WHO[name]}" for name, mark in symbols(listeners).items())
        return (
            f"{first} Beside each stand the distractors of its {kind} set{whole}. Marks tell which picture a listener "
            f"chose with the caption before and after: {who}. {TIES}"
        )

    def _people(self) -> Iterator[Section]:
        if len(self.truth):
            headings: dict[str, Any] = {"captions": "captions"}
            for name in ("hallucinated", "omitted"):
                headings[name] = (name, f"{name}_low", f"{name}_high", ".3")
            caption = (
                "Hallucinated is the share of the attribute values that captions name and that are not true of their "
                "object; omitted the share of the true ones that they do not name. Values that no reference names do "
                f"not count. {COVERS}"
            )
            table = Table(written(self.truth, headings | {"named": ("named", ".2"), "n": "n"}), caption)
            yield Section("What is in the picture", [table])
        blocks: list[Table | Section] = []
        if len(self.scores):
            headings = {"references": "references", "score": "score"}
            headings |= {when: (when, f"{when}_low", f"{when}_high", ".3") for when in ("before", "after")}
            headings |= {"pictures": "n"}
            blocks.append(
                Table(written(self.scores, headings), f"Scores against captions by people. {COVERS}")
            )
        form = {"captions": "captions", "length": ("length", ".2"), "repetition": ("repetition", ".3")}
        form |= {"vocabulary": ("vocabulary", ".0"), "n": "n"}
        caption = (
            "Length in words; repetition: word pairs that stood in the same caption before; vocabulary: different "
            "words."
        )
        blocks.append(Table(written(self.wording, form), caption))
        if len(self.scores):
            told = self.scores[["references", "score", "signature"]]
            caption = (
                "What each score was computed with, in full: scores of other signatures are other numbers."
            )
            blocks.append(Section("Signatures of the scores", [Table(told, caption)], collapsed=True))
        yield Section("Beside captions by people", blocks)

    def _training(self) -> Iterator[Gallery | Table]:
        figures = [
            _curve(self.history["step"], self.history[name], title, axis)
            for name, (title, axis) in CURVES.items()
            if name in self.history and self.history[name].notna().any()
        ]
        if len(self.evaluations):
            names = {
                "p_at_1": ("Held-out P@1", "P@1"),
                "cross_entropy_nats": ("Held-out references", "nats per token"),
            }
            one = self.evaluations[self.evaluations["set"] == self.evaluations["set"].iloc[0]]
            figures += [
                _curve(one["step"], one[name], title, axis)
                for name, (title, axis) in names.items()
                if one[name].notna().any()
            ]
        yield gallery(figures, "Diagnostics of every step, of the captions that were drawn in it.")
        if len(self.evaluations):
            caption = "Greedy captions of watched test pictures while it trained; cross-entropy of people's captions."
            headings = {"p_at_1": "P@1", "cross_entropy_nats": "cross-entropy, nats"}
            yield Table(self.evaluations.rename(columns=headings), caption, {"P@1": fixed})

    @classmethod
    def compared(cls, results: Sequence[DiscriTuneResult], labels: Sequence[str]) -> Iterator[Section]:
        """P@1 of every run, listener and kind of set."""
        frames = [one.retrieval.assign(run=label) for label, one in zip(labels, results, strict=True)]
        headings: dict[str, Any] = {"run": "run", "listener": "listener", "candidates": "candidates"}
        headings |= {when: (when, f"{when}_low", f"{when}_high", ".3") for when in ("before", "after")}
        headings |= {"change": ("change", "change_low", "change_high", "+.3")}
        yield Section(
            "Compared", [Table(written(pd.concat(frames, ignore_index=True), headings), f"{FOUND} {COVERS}")]
        )

    def card(self) -> str:
        """Model card of the tuned captioner, in Markdown with the fields that the hub reads."""
        base = str(self.config.get("captioner", ""))
        shown = (
            printable(base if "/" in base and not Path(base).exists() else Path(base).name) or "a captioner"
        )
        head = {
            "library_name": "transformers",
            "pipeline_tag": "image-to-text",
            "tags": ["trimtab", "discritune"],
        }
        rows = []
        for row in self.retrieval.to_dict("records"):
            cells = [
                row["listener"],
                f"{row['candidates']} {row['size']}",
                fixed(row["before"]),
                fixed(row["after"]),
            ]
            cells.append(fixed(row["change"], signed=True))
            cells.append(span(row["change_low"], row["change_high"], signed=True))
            rows.append(f"| {' | '.join(cells)} |")
        return "\n".join(
            (
                f"---\n{yaml.safe_dump(head, sort_keys=False).rstrip()}\n---\n",
                f"# {shown}, tuned for a listener\n",
                "Fine-tuned with [DiscriTune](https://arxiv.org/abs/2304.01662): a frozen listener looks for the "
                "picture of each caption, and its log-probability is the reward.\n",
                "| listener | candidates | P@1 before | after | change | 95 % interval |\n|---|---|---|---|---|---|",
                *rows,
                *([""] + [f"- {sign}" for sign in self.signs] if self.signs else []),
                f'\n```python\nfrom trimtab.models.captioner import captioner\n\nspeaker = captioner("{HERE}")\n```\n',
                "The folder is a Hugging Face checkpoint; `from_pretrained` of the class that `config.json` names "
                "reads it. A prefix captioner needs trimtab.\n",
                "Captions are written for these listeners. Nothing is known of pictures of another kind, nor of what "
                "captions say beyond what was measured here.\n",
            )
        )


def _order(name: str) -> int:
    return ("p_at_1", "p_at_1_hard").index(name) if name in ("p_at_1", "p_at_1_hard") else 2


def _curve(step: pd.Series[Any], values: pd.Series[Any], title: str, axis: str) -> Figure:
    y = values.astype(float).tolist()
    return charts.line_band(
        step.tolist(), y, y, y, axis=axis, title=title, label=f"{title} by training step: {axis}"
    )
