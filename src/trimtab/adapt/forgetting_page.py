"""The page about forgetting: was anything forgotten, what injection did, what the law says and where it is guessing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from trimtab.adapt.forgetting_figures import predicted_figure, share_surface, size_surface, sizes_of
from trimtab.report.chapters import chapters_page, settings_section
from trimtab.report.numbers import fixed, number, span
from trimtab.report.page import Section, Table, Text
from trimtab.report.pictures import gallery, picture
from trimtab.runs.plain import plain

if TYPE_CHECKING:
    from trimtab.adapt.forgetting_result import ForgettingResult

FORMS = (
    "Fitted by least squares of log losses to the runs that were not held out; AICc is of these, smaller is better. "
    "Errors are mean absolute errors on the held-out runs (the largest size and token count): of the loss in percent "
    "of it, of the rise in percent of the mean rise there, with 95 % intervals over these runs. A loss is mostly that "
    "of the base model, so its error looks small even where nothing is said to be forgotten."
)
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
    told = (
        f"{facts['runs']} runs. Without injection they forgot {_interval(facts['forgotten'])} nats per token."
    )
    if facts["removed"]:
        told += f" Injecting {100 * facts['inject']:g} % removed {_percent(facts['removed'])} % of that."
    if len(result.forms) and facts["held_out"]:
        best = result.forms.sort_values("rise_error").iloc[0]
        own = result.forms[result.forms["form"] == "injection"].iloc[0]
        told += f" On held-out runs the law errs by {fixed(100 * own['rise_error'], 0)} % of the rise"
        told += "." if best["form"] == "injection" else f"; the form '{best['form']}' errs less."
    return told


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
    if facts["removed"]:
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
            f"In {facts['not_reached']} runs the target's loss was still falling at the end.", "unsure"
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
    yield picture(
        predicted_figure(result),
        "Held-out runs took no part in the fit shown here.",
    )
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
    return Table(frame, f"{fitted} runs fitted, {unseen} held out. {FORMS}", marked=[0])


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
    return f"{fixed(scaled['value'], 0)} ({span(scaled['low'], scaled['high'], 0)})"
