"""Result of a comparison: changes with verdicts, what moved, and its page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from trimtab.adapt.compare.weights import by_part
from trimtab.job import Result
from trimtab.report.figures import PALETTE
from trimtab.report.formats import count, estimate, fixed, missing, number, percent, span
from trimtab.report.intervals import Look, interval_rows
from trimtab.report.page import (
    Mark,
    Section,
    Table,
    Text,
    Tone,
    changed_words,
    picture,
    settings_section,
    written,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOOKS = {
    "worse": Look("worse", PALETTE[4], "X"),
    "better": Look("better", PALETTE[0], "o"),
    "no": Look("no change shown", PALETTE[6], "o", filled=False),
}
TONES: Mapping[str, Tone] = {
    "kept": "good",
    "broken": "bad",
    "open": "unsure",
    "worse": "bad",
    "better": "good",
}
FEW = 30
"""Records or groups below which an interval says little."""
INTERVALS = (
    "Intervals are 95 % and of each row alone, over records, or over groups where records have them. "
    "Losses have Student's interval, accuracies Tango's score interval for pairs."
)
SHOWN = (
    "A change is called worse or better where its interval excludes 0 after Holm's correction over all rows. "
    "So a page calls any change where there is none in at most 5 % of cases, whatever the number of domains."
)
VERDICTS = (
    "Kept: the whole interval is within the tolerance. Broken: the whole interval is beyond it, also after Holm's "
    "correction over all tolerances, or the loss is not finite. Open: neither."
)
MOST_PARTS, MOST_NAMES, FOLDED = 40, 8, 15
PLACES = {"loss": 3, "accuracy": 1}
"""Decimals of a change in a table."""


@dataclass(frozen=True, kw_only=True, repr=False)
class CompareResult(Result):
    """Result of a comparison of two models.

    Attributes:
        changes: one row per domain and measure: domain, measure ("loss" or "accuracy"), unit, base, tuned, change, low
            and high (95 %, of the row alone), tolerance, verdict ("kept", "broken", "open"; None without a tolerance),
            shown ("worse", "better" or "no", after Holm's correction), p, p_holm, n (records read), units and of what.
        predictions: domain, positions, kl (nats per token) and changed (share of greedy tokens), both with their ends.
        examples: domain, text, tokens, base, tuned, change: the sequences that changed most.
        answers: domain, prompt, answer, base, tuned, moved ("lost" or "won"): tasks that one model alone solved.
        completions: domain, prompt, reference, before, after.
        weights: one row per tensor, see `trimtab.adapt.compare.weights.moved_weights`.
        facts: names of the models, unit, sites and adapter of the change, and why a part is missing.
        notes: what a reader of the numbers has to know, a sentence each.
    """

    changes: pd.DataFrame
    predictions: pd.DataFrame
    examples: pd.DataFrame
    answers: pd.DataFrame
    completions: pd.DataFrame
    weights: pd.DataFrame
    facts: Mapping[str, Any]
    notes: Sequence[str] = ()

    @property
    def passed(self) -> bool:
        """False where a tolerance is broken."""
        return not (self.changes["verdict"] == "broken").any()

    def to_frame(self) -> pd.DataFrame:
        """One row per domain and measure, in columns that a terminal holds; `changes` has all numbers.

        Returns:
            Columns: domain, measure, change, interval (95 %, text), tolerance, n (groups, else records), verdict and
            shown.
        """
        table = self.changes
        ends = zip(table["low"], table["high"], table["measure"].map(PLACES), strict=True)
        columns = {
            "domain": table["domain"],
            "measure": table["measure"],
            "change": [round(value, 4) + 0.0 for value in table["change"].astype(float)],
            "interval": [span(*it, signed=True).replace("−", "-") for it in ends],
            "tolerance": table["tolerance"].astype(float),
            "n": table["units"],
            "verdict": table["verdict"],
            "shown": table["shown"],
        }
        return pd.DataFrame(columns)

    def headline(self) -> dict[str, str]:
        """Domains that are worse or better, and tolerances by verdict."""
        words = {"worse": self._named("worse") or "none", "better": self._named("better") or "none"}
        counts = self.changes["verdict"].value_counts()
        return words | {word: str(counts[word]) for word in ("broken", "open", "kept") if word in counts}

    def summary(self) -> str:
        """Which domains changed after the correction, which tolerances are kept, and how much else moved."""
        domains = self.changes["domain"].nunique()
        text = (
            f"{self.facts['tuned']} against {self.facts['base']} on {domains} domain{'s' * (domains != 1)}."
        )
        for word in ("worse", "better"):
            text += f" {word.capitalize()}: {named}." if (named := self._named(word)) else ""
        moved = set(self.changes.loc[self.changes["shown"] != "no", "domain"])
        rows = _rows(self.changes[self.changes["shown"] == "no"])
        still = list(dict.fromkeys(_called(row) if row["domain"] in moved else row["domain"] for row in rows))
        text += f" No change is shown in {_few(still)}." if still else ""
        judged = self.changes[self.changes["verdict"].notna()]
        for word in ("broken", "open", "kept"):
            which = [_called(row) for row in _rows(judged[judged["verdict"] == word])]
            text += f" Tolerance {word}: {_few(which)}." if which else ""
        return text

    def _named(self, word: str) -> str:
        """The changes that are called so, with their intervals."""
        each = []
        for row in _rows(self.changes[self.changes["shown"] == word]):
            places = PLACES[row["measure"]]
            text = estimate(row["change"], row["low"], row["high"], places, signed=True)
            text = f"{text} {row['unit']}" if math.isfinite(row["change"]) else "(loss not finite)"
            each.append(f"{row['domain']} {text}")
        return _few(each, "; ")

    def figure(self) -> Figure:
        """Change of the loss of each domain with its interval, and its tolerance."""
        return changes_figure(self.changes[self.changes["measure"] == "loss"])

    def sections(self) -> Iterator[Section]:
        """What changed, the predictions, the weights, examples and completions side by side."""
        yield Section("What changed", list(self._changed()))
        if len(self.predictions) or self.facts["without"]["predictions"]:
            yield Section("Next tokens", list(self._predicted()))
        yield Section("What moved in the model", list(self._moved()))
        if len(self.examples):
            many = len(self.examples) > FOLDED
            yield Section("Examples that changed most", [self._exemplified()], collapsed=many)
        if len(self.answers):
            yield Section("Answers that changed", [self._answered()])
        yield Section("What the models write", list(self._completed()), collapsed=True)
        yield settings_section([*self.config.items(), ("seconds", f"{self.seconds:.1f}")])

    def _changed(self) -> Iterator[Any]:
        for word in ("broken", "open"):
            if which := [_called(row) for row in _rows(self.changes[self.changes["verdict"] == word])]:
                yield Text(f"Tolerance {word}: {_few(which)}.", TONES[word])
        yield picture(
            self.figure(), "Change of loss, above 0 for worse. Bars: 95 % intervals of each domain alone."
        )
        tasks = self.changes[self.changes["measure"] == "accuracy"]
        if len(tasks):
            yield picture(changes_figure(tasks), "Change of accuracy in points, below 0 for worse.")

        def fixed_by(measure: str, value: float, signed: bool = False) -> str:
            return fixed(value, PLACES[measure], signed=signed)

        columns: dict[str, Any] = {
            "domain": (
                "domain",
                "measure",
                lambda *of: _called(dict(zip(("domain", "measure"), of, strict=True))),
            ),
            "change": ("measure", "change", lambda measure, it: fixed_by(measure, it, True)),
            "interval": (
                "measure",
                "low",
                "high",
                lambda of, low, high: span(low, high, PLACES[of], signed=True),
            ),
            "called": (
                "shown",
                lambda word: Mark("not shown" if word == "no" else word, TONES.get(word, "")),
            ),
            "tolerance": ("tolerance", lambda it: None if missing(it) else f"{it:g}"),
            "verdict": ("verdict", lambda word: None if missing(word) else Mark(word, TONES[word])),
            "judged on": ("units", "of", "{} {}".format),
            "base": ("measure", "base", fixed_by),
            "tuned": ("measure", "tuned", fixed_by),
            "unit": "unit",
        }
        yield Table(written(self.changes, columns), f"{INTERVALS} {SHOWN} {VERDICTS}")
        few = _rows(self.changes[self.changes["units"] < FEW])
        if which := list(dict.fromkeys(f"{row['domain']} ({row['units']} {row['of']})" for row in few)):
            yield Text(
                f"Judged on fewer than {FEW}: {_few(which)}. An interval over so few says little.", "unsure"
            )
        yield from (Text(note) for note in self.notes)

    def _predicted(self) -> Iterator[Any]:
        if reason := self.facts["without"]["predictions"]:
            yield Text(f"KL is left out: {reason}.", "unsure")
        if not len(self.predictions):
            return
        columns: dict[str, Any] = {
            "domain": "domain",
            "KL, nats per token": ("kl", "kl_low", "kl_high", ".4"),
            "greedy tokens changed": ("changed", percent),
            "interval": ("changed_low", "changed_high", lambda low, high: span(100 * low, 100 * high, 1)),
            "positions": "positions",
        }
        caption = (
            "KL(base || tuned) of the next token, at the positions that carry loss. It is above 0 wherever predictions "
            "differ at all, so it measures how much changed and not what got worse. The last interval is in per cent. "
            "Intervals are 95 %, over records or groups."
        )
        yield Table(written(self.predictions, columns), caption)

    def _moved(self) -> Iterator[Any]:
        if self.facts["adapter"]:
            yield Text(f"Adapter of the tuned model: {self.facts['adapter']}.")
        if self.facts["sites"]:
            yield Text(
                f"Changed while it runs, at {len(self.facts['sites'])} sites: {_few(self.facts['sites'])}."
            )
        if reason := self.facts["without"]["weights"]:
            yield Text(f"Weights are not compared: {reason}.", "unsure")
            return
        moved = self.weights[self.weights["changed"] > 0]
        entries = int(self.weights["entries"].sum())
        share = float((self.weights["changed"] * self.weights["entries"]).sum()) / max(1, entries)
        same = " Both sides are one network." if self.facts["same_network"] else ""
        of = f"{percent(share)} of {count(entries)} parameters"
        yield Text(f"{len(moved)} of {len(self.weights)} tensors changed, {of}.{same}")
        if not len(moved):
            return
        parts = by_part(self.weights)
        columns: dict[str, Any] = {
            "part": "part",
            "change by norm": ("relative_change", lambda it: f"{number(100 * it, 2)} %"),
            "parameters changed": ("changed", percent),
            "parameters": ("entries", count),
        }
        caption = "Frobenius norm of the change, in per cent of that of the base model's weights."
        caption += f" The first {MOST_PARTS} of {len(parts)}." if len(parts) > MOST_PARTS else ""
        yield Table(written(parts.head(MOST_PARTS), columns), caption)
        top = moved.sort_values("relative_change", ascending=False, kind="stable").head(10)
        columns = {"tensor": "name"} | {key: columns[key] for key in ("change by norm", "parameters changed")}
        yield Table(written(top, columns), "The ten tensors that moved most.")

    def _exemplified(self) -> Table:
        columns: dict[str, Any] = {"domain": "domain", "text": ("text", _line)}
        columns |= {
            "base": ("base", ".3"),
            "tuned": ("tuned", ".3"),
            "change": ("change", "+.3"),
            "length": "tokens",
        }
        caption = (
            f"Loss in nats per {self.facts['unit']}, length in {self.facts['unit']}s. Chosen because they changed "
            "most: they are not typical."
        )
        return Table(written(self.examples, columns), caption)

    def _answered(self) -> Table:
        names = {"domain": "domain", "prompt": "prompt", "right": "answer", "base": "base", "tuned": "tuned"}
        columns: dict[str, Any] = {heading: (name, _line) for heading, name in names.items()}
        columns["moved"] = ("moved", lambda word: Mark(word, "bad" if word == "lost" else "good"))
        return Table(
            written(self.answers, columns),
            "The first questions that one of the models alone answered rightly.",
        )

    def _completed(self) -> Iterator[Any]:
        if reason := self.facts["without"]["completions"]:
            yield Text(reason if reason.endswith(".") else f"No completions are shown: {reason}.", "unsure")
        texts = self.completions
        if not len(texts):
            return
        names = {"prompt": "prompt", "how the record goes on": "reference", "base": "before"}
        columns: dict[str, Any] = {"domain": "domain"}
        columns |= {heading: (name, _line) for heading, name in names.items()}
        columns["tuned"] = ("before", "after", lambda *both: changed_words(*map(_line, both)))
        frame = written(texts, columns)
        differ = int((texts["before"] != texts["after"]).sum())
        caption = (
            f"For {differ} of {len(texts)} prompts the two texts differ. Each token is the most likely one. Prompts "
            "are the first that fit; nothing is chosen by what was written."
        )
        yield Table(frame, caption)

    @classmethod
    def compared(cls, results: Sequence[CompareResult], labels: Sequence[str]) -> Iterator[Section]:
        """Several comparisons side by side: the changes of each."""
        frames = [result.to_frame().assign(run=label) for result, label in zip(results, labels, strict=True)]
        whole = pd.concat(frames, ignore_index=True)
        yield Section("Compared", [Table(whole[["run", *whole.columns.drop("run")]], INTERVALS)])


def changes_figure(rows: pd.DataFrame) -> Figure:
    """Changes with their intervals as a forest plot; what is called worse or better has a colour and a marker."""
    values, low, high = (rows[name].astype(float).tolist() for name in ("change", "low", "high"))
    finite = [it for it in (*values, *low, *high, 0.0) if math.isfinite(it)]
    room = 0.06 * (max(finite) - min(finite)) or 0.01
    called = [f"{row['domain']} {number(row['change'], signed=True)} {row['shown']}" for row in _rows(rows)]
    tolerances = [fixed(it, 2) if not missing(it) else "" for it in rows["tolerance"]]
    title = f"Change of {rows['measure'].iloc[0]} by domain"
    return interval_rows(
        [str(name) for name in rows["domain"]],
        values,
        low,
        high,
        [LOOKS[word] for word in rows["shown"]],
        bounds=(min(finite) - room, max(finite) + room),
        notes=tolerances if any(tolerances) else (),
        notes_name="tolerance",
        axis=f"tuned less base, {rows['unit'].iloc[0]}",
        title=title,
        label=f"{title}: {', '.join(called)}.",
    )


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    rows: Any = frame.to_dict("records")
    return list(rows)


def _called(row: Mapping[str, Any]) -> str:
    return f"{row['domain']}{' (accuracy)' if row['measure'] == 'accuracy' else ''}"


def _few(names: Sequence[str], mark: str = ", ") -> str:
    rest = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return mark.join(names[:MOST_NAMES]) + rest


def _line(text: str) -> str:
    """A text with its ends of lines as signs, as cells have one line."""
    return str(text).replace("\n", "↵ ")
