"""The page about forgetting: was anything forgotten, what injection did, what the law says and where it is guessing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from trimtab.adapt.forgetting_figures import (
    judging_law,
    predicted_figure,
    share_surface,
    size_surface,
    sizes_of,
)
from trimtab.report.chapters import chapters_page, settings_section
from trimtab.report.numbers import fixed, missing, number, span
from trimtab.report.page import Section, Table, Text
from trimtab.report.pictures import gallery, picture
from trimtab.runs.plain import plain

if TYPE_CHECKING:
    from trimtab.adapt.forgetting import ForgettingLaw
    from trimtab.adapt.forgetting_result import ForgettingResult

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


def page(results: Sequence[ForgettingResult], title: str = "Forgetting") -> str:
    """One self-contained HTML page about the laws of one job, or of several.

    Raises:
        DataError: there is no result.
    """
    return chapters_page(title, results, "sets of runs", verdict=verdict, chapter=_chapter)


def verdict(result: ForgettingResult) -> str:
    """Whether there was forgetting, what injection removed, and whether the law beats its rivals on unseen runs."""
    facts = result.facts
    told = f"{facts['runs']} runs. {_forgotten(facts['forgotten'])}"
    removed = facts["removed"]
    if removed and not missing(removed["value"]):
        told += f" Injecting {100 * facts['inject']:g} % removed {_percent(removed)} of that"
        told += "." if _apart(removed) else ": not told apart from nothing."
    if len(result.forms) and facts["held_out"]:
        told += " " + _rivalry(result.forms)
    return told


def _forgotten(rise: Mapping[str, Any]) -> str:
    """What runs without injection forgot, and whether it is told apart from nothing."""
    if missing(rise["value"]):
        return "None is without injection, so what they forgot cannot be told."
    mean = f"their pretraining loss rose by {_interval(rise)} nats per token in the mean"
    if _apart(rise) and rise["value"] > 0:
        return f"Without injection {mean}."
    if _apart(rise):
        return f"Without injection nothing was forgotten: {mean}."
    return f"Without injection {mean}: not told apart from nothing forgotten."


def _rivalry(forms: pd.DataFrame) -> str:
    """How far the law errs on held-out runs, and which rival forms err less, by paired differences."""
    law = forms[forms["form"] == "injection"].iloc[0]
    n = int(law["n_held_out"])
    ends = span(100 * law["rise_low"], 100 * law["rise_high"], 0)
    told = f"On {n} held-out runs the law errs by {fixed(100 * law['rise_error'], 0)} % of the rise ({ends})"
    if "more_low" not in forms:
        return f"{told}; this run did not compare it with other forms run by run."
    rivals = forms[forms["form"] != "injection"]
    less, more = rivals[rivals["more_high"] < 0], rivals[rivals["more_low"] > 0]
    if len(less):
        each = ", ".join(
            f"'{row['form']}' by {fixed(-100 * row['rise_more'], 0)} % "
            f"({span(-100 * row['more_high'], -100 * row['more_low'], 0)})"
            for row in less.to_dict("records")
        )
        return f"{told}; less than it err {each}."
    if len(more) == len(rivals):
        return f"{told}; each of {len(rivals)} other forms errs more, run by run."
    return f"{told}; {len(more)} of {len(rivals)} other forms err more, the rest are not told apart from it."


def _apart(it: Mapping[str, Any]) -> bool:
    """Whether an interval excludes 0."""
    return not missing(it["low"]) and not missing(it["high"]) and (it["low"] > 0 or it["high"] < 0)


def _chapter(result: ForgettingResult) -> Iterator[Section]:
    if result.refused:
        blocks = [Text(f"{name}: {why}", "unsure") for name, why in result.refused.items()]
        yield Section("What the runs cannot tell", blocks)
    yield Section("What injection did", list(_effects(result)))
    if result.law is not None:
        yield Section("The law", list(_law(result)))
    if len(result.forms):
        yield Section("Rival forms", [_forms(result.forms)])
    yield Section(
        "Runs", [Table(result.points.drop(columns="model", errors="ignore"), _RUNS)], collapsed=True
    )
    seconds = ("seconds", f"{result.seconds:.1f}")
    yield settings_section([*plain(dict(result.config)).items(), seconds])


_RUNS = "Losses in nats per token where the validation loss of the target was lowest; inject is a share."


def _effects(result: ForgettingResult) -> Iterator[Text | Table]:
    facts = result.facts
    rows = [("rise without injection, nats per token", *_cells(facts["forgotten"]))]
    share = f"{100 * facts['inject']:g} %"
    if facts["removed"] and not missing(facts["removed"]["value"]):
        rows.append((f"share of forgetting removed at {share}", *_cells(facts["removed"])))
    if facts["target_error"]:
        rows.append(("error of the target loss on held-out runs, as a share", *_cells(facts["target_error"])))
    yield Table(
        pd.DataFrame(rows, columns=["what", "value", "95 % interval", "n"]), "Intervals are over runs."
    )
    if facts["clear"] is not None:
        yield Text(
            f"{facts['clear']} of {facts['forgotten']['n']} runs without injection rose by more than the noise of "
            "their own test records (a whole 95 % interval above 0)."
        )
    if facts["not_reached"]:
        yield Text(
            f"{facts['not_reached']} of {facts['runs']} runs ended before the target's loss had turned: their lowest "
            "reading need not be its minimum.",
            "unsure",
        )
    if facts["equivalence"]:
        yield _equivalence(facts["equivalence"], share)
    if facts["injected"]:
        frame = pd.DataFrame(facts["injected"]).rename(columns={"below_one": "runs below one"})
        frame["inject"] = [f"{100 * value:g} %" for value in frame["inject"]]
        yield Table(frame, "Pretraining sequences injected per run until the point that counts, expected.")


def _equivalence(it: Mapping[str, Any], share: str) -> Text:
    word = "is equivalent to" if it["equivalent"] else "is not shown to be equivalent to"
    ends = span(it["low"], it["high"], 4, signed=True)
    return Text(
        f"The target loss at {share} {word} that without injection: the log differs by "
        f"{number(it['value'], signed=True)} (90 % interval {ends}; margin {it['margin']:g}; n = {it['n']} pairs; two "
        f"one-sided t tests, p = {number(it['p'], 2)}).",
        "good" if it["equivalent"] else "unsure",
    )


def _law(result: ForgettingResult) -> Iterator[Any]:
    law = result.law
    assert law is not None
    frame = result.to_frame().assign(
        interval=lambda f: [_ends(a, b) for a, b in zip(f["low"], f["high"], strict=True)]
    )
    caption = "A D^beta / ((1 + B p) N)^alpha, and A / (N^alpha D^beta) + E; intervals are 95 %, from refits."
    yield Table(frame[["law", "coefficient", "value", "interval", "n"]], caption)
    for name, fitted in (("forgetting", law), ("fine-tuning", result.target)):
        if fitted is not None and fitted.fitted.at_bounds:
            at = ", ".join(fitted.fitted.at_bounds)
            yield Text(
                f"At a bound of the search, so not told by the runs: {at} of the law of {name}.", "unsure"
            )
    shown = judging_law(result)
    yield picture(predicted_figure(result, shown), _shown_fit(result, shown))
    yield gallery([share_surface(law, sizes_of(result.points)[-1]), size_surface(law)], SURFACE)


def _forms(forms: pd.DataFrame) -> Table:
    frame = pd.DataFrame(
        {
            "form": forms["form"],
            "coefficients": forms["coefficients"],
            "AICc": [fixed(value, 1) for value in forms["aicc"]],
            "error of the loss, %": [fixed(100 * value, 2) for value in forms["loss_error"]],
            "interval": _spans(forms, "loss", 2),
            "error of the rise, %": [fixed(100 * value, 1) for value in forms["rise_error"]],
            "its interval": _spans(forms, "rise", 1),
        }
    )
    fitted, unseen = int(forms["n_fitted"].iloc[0]), int(forms["n_held_out"].iloc[0])
    if not unseen:
        return Table(frame.iloc[:, :3], f"{fitted} runs fitted, none held out. {UNJUDGED}", marked=[0])
    if "rise_more" in forms:
        frame["more than the law, %"] = [fixed(100 * value, 1, signed=True) for value in forms["rise_more"]]
        frame["interval of that"] = _spans(forms, "more", 1)
    return Table(frame, f"{fitted} runs fitted, {unseen} held out. {FORMS}", marked=[0])


def _shown_fit(result: ForgettingResult, law: ForgettingLaw | None) -> str:
    """What the law in the picture was fitted to."""
    held = int(result.facts["held_out"])
    if not held:
        return f"The law of all {len(result.points)} runs."
    if law is result.law:
        return f"The law of all {len(result.points)} runs: those that were not held out do not tell one."
    return f"The law of {len(result.points) - held} runs; the {held} held-out runs took no part in it."


def _spans(forms: pd.DataFrame, part: str, places: int) -> list[str]:
    ends = zip(forms[f"{part}_low"], forms[f"{part}_high"], strict=True)
    return [span(100 * low, 100 * high, places) for low, high in ends]


def _ends(low: float, high: float) -> str:
    return f"{number(low)} to {number(high)}"


def _cells(it: Mapping[str, Any]) -> tuple[str, str, int]:
    return number(it["value"]), span(it["low"], it["high"]), it["n"]


def _interval(it: Mapping[str, Any]) -> str:
    return f"{number(it['value'])} ({span(it['low'], it['high'])}; n = {it['n']})"


def _percent(it: Mapping[str, Any]) -> str:
    scaled = {name: None if it[name] is None else 100 * it[name] for name in ("value", "low", "high")}
    return f"{fixed(scaled['value'], 0)} % ({span(scaled['low'], scaled['high'], 0)}; n = {it['n']})"
