"""The result of the laws of forgetting: runs, laws where the runs determine them, the page and its figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from trimtab.adapt.forgetting import effects
from trimtab.adapt.forgetting.laws import FinetuningLaw, ForgettingLaw
from trimtab.adapt.forgetting.replay import (
    measured_shares,
    planned_shares,
    promises,
    undetermined_sentence,
)
from trimtab.adapt.forgetting.share_figure import every_size, largest, main_picture, share_figure
from trimtab.adapt.forgetting.surface import share_surface, size_surface
from trimtab.errors import DataError
from trimtab.job import Result
from trimtab.numerics.bootstrap import bootstrap, mean
from trimtab.report import charts
from trimtab.report.formats import estimate, fixed, missing, number, span, spans
from trimtab.report.page import Section, Table, Text, gallery, picture, settings_section
from trimtab.report.text import plain_table
from trimtab.runs.serialise import numeric, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LAW, TARGET_LAW = Path("artifacts/law.json"), Path("artifacts/law-target.json")
PLAN = f"plan with: trimtab plan --law RUN/{LAW} --params N --tokens D --max-rise NATS"


@dataclass(frozen=True, eq=False, repr=False)
class ForgettingResult(Result):
    """The outcome of a job of the laws of forgetting.

    Attributes:
        points: one row per run, see `forgetting_grid`; held_out: whether it was kept from the fits that are judged.
        law, target: of all runs; None where the runs cannot tell.
        refused: what they cannot tell, and why; by "forgetting", "fine-tuning", "forms" or "injection".
        forms: the table of `compare_forms`; empty where it was refused.
        facts: single numbers, each with n and an interval where it is a rate or a mean.
    """

    points: pd.DataFrame
    law: ForgettingLaw | None
    target: FinetuningLaw | None
    refused: Mapping[str, str]
    forms: pd.DataFrame
    facts: Mapping[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """Coefficients of the laws with 95 % intervals."""
        laws = {"forgetting": self.law, "fine-tuning": self.target}
        frames = [law.to_frame().assign(law=name) for name, law in laws.items() if law is not None]
        columns = ["law", "coefficient", "value", "low", "high", "n"]
        return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)

    def to_text(self) -> str:
        """Coefficients and summary, rival forms, what the target paid, what was refused, and how to plan."""
        parts = [super().to_text(), *([plain_table(self.forms)] if len(self.forms) else [])]
        if self.facts["equivalence"]:
            parts.append(_equivalence(self.facts))
        parts += [f"{name}: {why}" for name, why in self.refused.items()]
        return "\n\n".join([*parts, *([PLAN] if self.law is not None else [])])

    def json_values(self) -> dict[str, Any]:
        """Every field but the config, with the coefficients of both laws as `laws`."""
        return {"laws": self.to_frame()} | {
            name: it for name, it in self.values().items() if name != "config"
        }

    def values(self) -> dict[str, Any]:
        """Every field but the laws, which are files of their own."""
        return {name: it for name, it in super().values().items() if name not in ("law", "target")}

    @classmethod
    def from_values(cls, values: dict[str, Any], folder: Path) -> Self:
        """The result that was written, with the laws beside it; earlier versions wrote frames as lists of rows."""
        for name in ("points", "forms"):
            if isinstance(values[name], list):
                values[name] = numeric(pd.DataFrame(values[name]))
        law = ForgettingLaw.load(folder / LAW) if (folder / LAW).exists() else None
        target = FinetuningLaw.load(folder / TARGET_LAW) if (folder / TARGET_LAW).exists() else None
        return super().from_values({**values, "law": law, "target": target}, folder)

    def save(self, folder: str | Path) -> Path:
        """Write the numbers into a run's folder, and the laws that `trimtab plan` reads."""
        for law, name in ((self.law, LAW), (self.target, TARGET_LAW)):
            if law is not None:
                law.save(Path(folder) / name)
        return super().save(folder)

    def headline(self) -> dict[str, str]:
        """Runs, the rise without injection, the share that injection removed, and what of the law is not determined."""
        facts, words = self.facts, {"runs": str(self.facts["runs"])}
        rise, removed = facts["forgotten"], facts["removed"]
        words["rise"] = estimate(rise["value"], rise["low"], rise["high"])
        if removed and not missing(removed["value"]):
            value, low, high = (100 * float(removed[name]) for name in ("value", "low", "high"))
            words["removed"] = estimate(value, low, high, 0) + " %"
        if self.law is None or self.law.undetermined:
            at = "none" if self.law is None else f"{', '.join(self.law.undetermined)} not determined"
            words["law"] = at
        return words

    def figure(self) -> Figure:
        """Rise against share of pretraining data, at the largest size and token count."""
        place = largest(self.points, self.law)
        promised = promises(self.law)
        return share_figure(self.points, self.law, place.params, [place.tokens], promised)

    def summary(self) -> str:
        """Verdict: forgetting, the share that injection removed, and the law against its rivals on unseen runs."""
        facts = self.facts
        first = undetermined_sentence(self.law)
        sentences = [*([first] if first else []), f"{facts['runs']} runs.", _forgotten(facts["forgotten"])]
        removed = facts["removed"]
        if removed and not missing(removed["value"]):
            value, low, high = 100 * pd.Series(removed, dtype=float)[["value", "low", "high"]]
            ends = "" if _endless(removed) else f"{span(low, high, 0)}; "
            share = f"{fixed(value, 0)} % ({ends}n = {removed['n']})"
            unclear = ", without an interval" if _endless(removed) else ": not distinguishable from nothing"
            unclear = "" if _apart(removed) else unclear
            sentences.append(f"Injecting {100 * facts['inject']:g} % removed {share} of that{unclear}.")
        if len(self.forms) and facts["held_out"]:
            sentences.append(_rivalry(self.forms))
        return " ".join(sentences)

    def sections(self) -> Iterator[Section]:
        """What the runs cannot tell, what injection did, the law, its rivals and the runs."""
        if self.refused:
            reasons = [Text(f"{name}: {why}", "unsure") for name, why in self.refused.items()]
            yield Section("What the runs cannot tell", reasons)
        planned = [] if self.law is None else list(planned_shares(self.law, promises(self.law)))
        first, panels = main_picture(self.points, self.law), every_size(self.points, self.law)
        replay: list[Any] = [first, measured_shares(self.points), *planned, *panels]
        yield Section("How much pretraining data to replay", replay)
        yield Section("What injection did", list(_effects(self.facts)))
        if self.law is not None:
            yield Section("The law", list(_law(self, self.law)))
        if len(self.forms):
            yield Section("Rival forms", [_forms(self.forms)])
        runs = Table(self.points.drop(columns="model", errors="ignore"), RUNS)
        yield Section("Runs", [runs], collapsed=True)
        yield settings_section([*plain(self.config).items(), ("seconds", f"{self.seconds:.1f}")])

    @classmethod
    def summary_of_several(cls, results: Sequence[Self]) -> str:
        """The number of results."""
        return f"{len(results)} sets of runs."


def held_out(points: pd.DataFrame) -> pd.Series[bool]:
    """The largest size and the largest token count, where there are at least three of them; else nothing."""
    out = pd.Series(False, index=points.index)
    for name in ("params", "tokens"):
        if points[name].nunique() > 2:
            out |= points[name] == points[name].max()
    return out


def judged(
    points: pd.DataFrame, *, inject: float, margin: float, n_boot: int, seed: int, **described: Any
) -> ForgettingResult:
    """Fit both laws, compare the forms on held-out runs, read off what injection did; refusals are kept as words.

    Args:
        points: one row per run, see `forgetting_grid`.
        inject, margin, n_boot, seed: see `trimtab.adapt.forgetting.job.ForgettingConfig`.
        described: label, config and seconds of the result.
    """
    refused: dict[str, str] = {}

    def tried(name: str, what: Any) -> Any:
        try:
            return what()
        except DataError as error:
            refused[name] = str(error)
            return None

    def target_error_of(unseen: pd.DataFrame) -> dict[str, Any]:
        law = FinetuningLaw.fit(points[~points["held_out"]], n_boot=0, seed=seed)
        off = law.predict(**_numbers(unseen, "params", "tokens")) / _numbers(unseen, "loss_ft")["loss_ft"] - 1
        return asdict(bootstrap(mean, np.abs(off), seed=seed))

    points = points.assign(held_out=held_out(points))
    unseen = points[points["held_out"]]
    law = tried("forgetting", lambda: ForgettingLaw.fit(points, n_boot=n_boot, seed=seed))
    target = tried("fine-tuning", lambda: FinetuningLaw.fit(points, n_boot=n_boot, seed=seed))
    forms = tried("forms", lambda: effects.compare_forms(points, points["held_out"].tolist(), seed=seed))
    target_error = tried("fine-tuning held out", lambda: target_error_of(unseen)) if len(unseen) else None
    pairs = tried("injection", lambda: effects.beside_none(points, inject))
    forgotten = effects.forgetting_shown(points, seed=seed)
    same = None if pairs is None else effects.target_equivalence(pairs, margin)
    facts = {
        "runs": len(points),
        "held_out": len(unseen),
        "inject": inject,
        "forgotten": asdict(forgotten["rise"]),
        "clear": forgotten["clear"],
        "target_error": target_error,
        "removed": None if pairs is None else asdict(effects.share_removed(pairs, seed=seed)),
        "equivalence": None if same is None else {**asdict(same), "equivalent": same.equivalent},
        "injected": effects.injected_sequences(points).to_dict("records"),
        "not_reached": int((~points["reached"].astype(bool)).sum()) if "reached" in points else None,
    }
    return ForgettingResult(points, law, target, refused, pd.DataFrame(forms), facts, **described)


def _numbers(points: pd.DataFrame, *names: str) -> dict[str, np.ndarray]:
    return {name: points[name].to_numpy(dtype=float) for name in names}


def predicted_figure(result: ForgettingResult, law: ForgettingLaw | None = None) -> Figure:
    """Rises that a law of the runs which were not held out predicts, beside the observed ones; none without a law."""
    points = result.points
    law = judging_law(result) if law is None else law
    if law is None:
        raise ValueError("no law")
    return charts.scatter_identity(
        law.rise(**_numbers(points, "params", "tokens", "inject")).tolist(),
        (points["loss_pt"] - points["loss_pt0"]).astype(float).tolist(),
        np.where(points["held_out"].to_numpy(dtype=bool), "held out", "fitted").tolist(),
        title="Rises: predicted, observed",
        label=f"Predicted and observed rises of {len(points)} runs",
    )


def judging_law(result: ForgettingResult) -> ForgettingLaw | None:
    """The law of the runs that were not held out; that of all where there are none, or they do not tell one."""
    out = result.points["held_out"].to_numpy(dtype=bool)
    try:
        return ForgettingLaw.fit(result.points[~out], n_boot=0) if out.any() else result.law
    except DataError:
        return result.law


FORMS = (
    "Fitted by least squares of log losses; AICc is of the fitted runs, smaller is better. "
    "Errors are mean absolute errors on the held-out runs: of the loss in percent of it, of the rise in percent of the "
    "mean rise there, with 95 % intervals over these runs. "
    "The last column is the error of the rise less that of the law, run by run: above 0 the law errs less. "
    "A loss is mostly that of the base model, so its error looks small even where nothing is said to be forgotten."
)
UNJUDGED = "Fitted by least squares of log losses; AICc is of the fitted runs, smaller is better."
SURFACE = (
    "Nats per token. The dashed frame is what the law was fitted to; everywhere in the hatched zone it extrapolates. "
    "Darker is more."
)
RUNS = "Losses in nats per token where the validation loss of the target was lowest; inject is a share."


def _forgotten(rise: Mapping[str, Any]) -> str:
    """Forgetting without injection, and whether its interval excludes 0."""
    if missing(rise["value"]):
        return "None is without injection, so what they forgot cannot be told."
    ends = "" if _endless(rise) else f"{span(rise['low'], rise['high'])}; "
    value = f"{number(rise['value'])} ({ends}n = {rise['n']})"
    rose = f"their pretraining loss rose by {value} nats per token in the mean"
    if _endless(rise):
        return f"Without injection {rose}, without an interval."
    if not _apart(rise):
        return f"Without injection {rose}: not distinguishable from nothing forgotten."
    return f"Without injection {'' if rise['value'] > 0 else 'nothing was forgotten: '}{rose}."


def _rivalry(forms: pd.DataFrame) -> str:
    """Error of the law on held-out runs, and which rival forms err less, by paired differences."""
    law, rivals = forms[forms["form"] == "injection"].iloc[0], forms[forms["form"] != "injection"]
    error = f"{fixed(100 * law['rise_error'], 0)} % of the rise"
    ends = span(100 * law["rise_low"], 100 * law["rise_high"], 0)
    errs = f"On {int(law['n_held_out'])} held-out runs the law errs by {error} ({ends})"
    if "more_low" not in forms:
        return f"{errs}; this run did not compare it with other forms run by run."
    less, more = rivals[rivals["more_high"] < 0], rivals[rivals["more_low"] > 0]
    if len(less):
        gains = spans(-100 * less["more_high"], -100 * less["more_low"], 0)
        by = zip(less["form"], less["rise_more"], gains, strict=True)
        each = ", ".join(f"'{form}' by {fixed(-100 * gain, 0)} % ({interval})" for form, gain, interval in by)
        return f"{errs}; less than it err {each}."
    if len(more) == len(rivals):
        return f"{errs}; each of {len(rivals)} other forms errs more, run by run."
    return f"{errs}; {len(more)} of {len(rivals)} other forms err more, the rest are not distinguishable from it."


def _apart(it: Mapping[str, Any]) -> bool:
    """Whether an interval excludes 0."""
    return not _endless(it) and (it["low"] > 0 or it["high"] < 0)


def _endless(it: Mapping[str, Any]) -> bool:
    """Whether an estimate has no interval, as one of a single run."""
    return missing(it["low"]) or missing(it["high"])


def _effects(facts: Mapping[str, Any]) -> Iterator[Text | Table]:
    named = {
        "rise without injection, nats per token": facts["forgotten"],
        f"share of forgetting removed at {100 * facts['inject']:g} %": facts["removed"],
        "error of the target loss on held-out runs, as a share": facts["target_error"],
    }
    rows = [
        (what, number(it["value"]), span(it["low"], it["high"]), it["n"])
        for what, it in named.items()
        if it and (it is facts["forgotten"] or not missing(it["value"]))
    ]
    frame = pd.DataFrame(rows, columns=["what", "value", "95 % interval", "n"])
    yield Table(frame, "Intervals are over runs.")
    if facts["clear"] is not None:
        count = f"{facts['clear']} of {facts['forgotten']['n']} runs without injection"
        yield Text(
            f"{count} rose by more than the noise of their own test records (a whole 95 % interval above 0)."
        )
    if facts["not_reached"]:
        count = f"{facts['not_reached']} of {facts['runs']} runs ended before the target's loss had turned"
        yield Text(f"{count}: their lowest reading need not be its minimum.", "unsure")
    if facts["equivalence"]:
        yield Text(_equivalence(facts), "good" if facts["equivalence"]["equivalent"] else "unsure")
    if facts["injected"]:
        frame = pd.DataFrame(facts["injected"]).rename(columns={"below_one": "runs below one"})
        frame["inject"] = [f"{100 * value:g} %" for value in frame["inject"]]
        yield Table(frame, "Pretraining sequences injected per run until the point that counts, expected.")


def _equivalence(facts: Mapping[str, Any]) -> str:
    """Equivalence of the target loss under injection: two one-sided t tests."""
    it, share = facts["equivalence"], f"{100 * facts['inject']:g} %"
    word = "is equivalent to" if it["equivalent"] else "is not shown to be equivalent to"
    tests = f"90 % interval {span(it['low'], it['high'], 4, signed=True)}; margin {it['margin']:g}; n = {it['n']} pairs"
    return (
        f"The target loss at {share} {word} that without injection: the log differs by "
        f"{number(it['value'], signed=True)} ({tests}; two one-sided t tests, p = {number(it['p'], 2)})."
    )


def _law(result: ForgettingResult, law: ForgettingLaw) -> Iterator[Any]:
    frame = result.to_frame()
    ends = zip(frame.pop("low"), frame.pop("high"), strict=True)
    frame.insert(3, "interval", [f"{number(low)} to {number(high)}" for low, high in ends])
    caption = "A D^beta / ((1 + B p) N)^alpha, and A / (N^alpha D^beta) + E; intervals are 95 %, from refits."
    yield Table(frame, caption)
    for name, fitted in (("forgetting", law), ("fine-tuning", result.target)):
        if fitted is not None and fitted.undetermined:
            at = f"{', '.join(fitted.undetermined)} of the law of {name}"
            yield Text(f"At a bound of the search, so not determined by the runs: {at}.", "unsure")
    judging, runs, held = judging_law(result), len(result.points), int(result.facts["held_out"])
    fit = f"The law of {runs - held} runs; the {held} held-out runs took no part in it."
    if judging is result.law:
        fit = f"The law of all {runs} runs{': those that were not held out do not tell one' if held else ''}."
    yield picture(predicted_figure(result, judging), fit)
    yield gallery([share_surface(law, float(result.points["params"].max())), size_surface(law)], SURFACE)


def _forms(forms: pd.DataFrame) -> Table:
    def percents(part: str, places: int) -> list[str]:
        return spans(100 * forms[f"{part}_low"], 100 * forms[f"{part}_high"], places)

    frame = pd.DataFrame({"form": forms["form"], "coefficients": forms["coefficients"]})
    frame["AICc"] = [fixed(value, 1) for value in forms["aicc"]]
    fitted, unseen = int(forms["n_fitted"].iloc[0]), int(forms["n_held_out"].iloc[0])
    if not unseen:
        return Table(frame, f"{fitted} runs fitted, none held out. {UNJUDGED}", marked=[0])
    frame["error of the loss, %"] = [fixed(100 * value, 2) for value in forms["loss_error"]]
    frame["interval"] = percents("loss", 2)
    frame["error of the rise, %"] = [fixed(100 * value, 1) for value in forms["rise_error"]]
    frame["its interval"] = percents("rise", 1)
    if "rise_more" in forms:
        frame["more than the law, %"] = [fixed(100 * value, 1, signed=True) for value in forms["rise_more"]]
        frame["interval of that"] = percents("more", 1)
    return Table(frame, f"{fitted} runs fitted, {unseen} held out. {FORMS}", marked=[0])
