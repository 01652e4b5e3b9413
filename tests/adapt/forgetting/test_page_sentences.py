"""Every sentence of a page about forgetting with a number or a comparison, against the runs it is about."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from page_sentences import hold
from trimtab.adapt.forgetting import fitting
from trimtab.adapt.forgetting.effects import beside_none, target_equivalence
from trimtab.adapt.forgetting.laws import ForgettingLaw
from trimtab.adapt.forgetting.result import ForgettingResult, judged
from trimtab.errors import DataError
from trimtab.numerics.bootstrap import bootstrap, mean, ratio_of_sums

pytestmark = pytest.mark.usefixtures("undrawn")  # what is drawn is looked at in test_job.py

DEFINITIONS = (
    r"A dash: no share below .*",
    r"A D\^beta / .*",
    r"Darker is more\.",
    r"Fitted by least squares of log losses; AICc is of the fitted runs, smaller is better\.",
    r"Errors are mean absolute errors on the held-out runs: of the loss in percent of it, .*",
    r"The last column is the error of the rise less that of the law, run by run: above 0 the law errs less\.",
    r"2 sets of runs\.",
)


def runs(form: str, noise: float = 0.01) -> pd.DataFrame:
    """27 runs: of the law, of a form in which size and data do not multiply, or that forget nothing but noise."""
    grid = [(n, d, p) for n in (5e4, 2e5, 8e5) for d in (1e4, 1e5, 1e6) for p in (0.0, 0.001, 0.01)]
    frame = pd.DataFrame(grid, columns=["params", "tokens", "inject"])
    n, d, p = (frame[name].to_numpy() for name in frame)
    draw = np.random.default_rng(0).normal(size=len(n))
    rise = {
        "law": 0.5 * d**0.3 / ((1 + 500 * p) * n) ** 0.4 * np.exp(noise * draw),
        "additive": (90 / ((1 + 500 * p) * n) ** 0.6 + 0.002 * d**0.4) * np.exp(noise * draw),
        "nothing": 0.05 * draw,
    }[form]
    other = np.random.default_rng(1).normal(size=len(n))
    target = (1.5 + 40 / (n**0.3 * d**0.1)) * np.exp(noise * other)
    told = {"loss_pt0": 3.0, "loss_pt": 3.0 + rise, "loss_ft": target, "rise_low": rise - 0.1}
    return frame.assign(**told, seed=0, reached=np.arange(len(n)) % 4 > 0)


def result(points: pd.DataFrame, label: str, inject: float = 0.01) -> ForgettingResult:
    return judged(points, label=label, inject=inject, margin=0.01, n_boot=2, seed=0, config={}, seconds=1.0)


@pytest.fixture(scope="module")
def results() -> Iterator[dict[str, ForgettingResult]]:
    """Fitted from few starts: what is told of a fit is looked at, not how good it is."""
    few = runs("law").query("params < 8e5 and tokens < 1e6").assign(reached=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "STARTS", 1)
        patch.setattr(fitting, "BEST", 1)
        yield {
            "law": result(runs("law"), "law"),
            "additive": result(runs("additive"), "additive"),
            "nothing": result(runs("nothing"), "nothing"),
            "few": result(few, "few", inject=0.001),
        }


@pytest.fixture(scope="module")
def pages(results: dict[str, ForgettingResult]) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trimtab.report.page.to_svg", lambda figure: "<svg></svg>")
        return {name: ForgettingResult.page([it]) for name, it in results.items()}


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def near(text: str, value: float) -> bool:
    """A number as the page has it is the value, to the last place that is written."""
    places = len(text.partition(".")[2].partition("e")[0])
    return "e" not in text and abs(number(text) - value) <= 0.51 * 10.0**-places


def rises(it: ForgettingResult, inject: float = 0.0) -> np.ndarray:
    rows = it.points[it.points["inject"] == inject]
    return (rows["loss_pt"] - rows["loss_pt0"]).to_numpy()


def true_of_one(results: Sequence[ForgettingResult], check: Callable[..., bool]) -> Callable[..., bool]:
    return lambda *groups: any(_tried(check, it, groups) for it in results)


def drawn_rules(results: Sequence[ForgettingResult]) -> dict[str, Callable[..., bool]]:
    """What is said below the pictures of rise against share."""
    any_of = partial(true_of_one, results)

    def main_runs(it: ForgettingResult, n: str) -> bool:
        most = it.points[["params", "tokens"]].max()
        return int(n) == (it.points[["params", "tokens"]] == most).all(axis=1).sum()

    def shares_planned(it: ForgettingResult) -> list[float]:
        """NaN where none is; empty where the law plans none."""
        if it.law is None or it.law.undetermined:
            return []
        where = {"params": it.points["params"].max(), "tokens": it.points["tokens"].max()}
        without = it.law.rise(**where, inject=0.0)
        return [it.law.inject_for(rise=part * without, **where) for part in (0.5, 0.25, 0.1)]

    def hollow(it: ForgettingResult) -> int:
        return int((np.array(shares_planned(it)) > it.points["inject"].max()).sum())

    def unplanned(it: ForgettingResult, some: str, of: str) -> bool:
        found = shares_planned(it)
        return (int(some), int(of)) == (np.isnan(found).sum(), len(found))

    return {
        r"Points are the runs of the largest size with the most unique tokens: (\d+)\.": any_of(main_runs),
        r"Their bars are 95 % intervals over test records\.": any_of(lambda it: "rise_high" in it.points),
        r"The curve is the law of all (\d+) runs, with its 95 % band from refits\.": any_of(
            lambda it, n: it.law is not None and int(n) == len(it.points)
        ),
        r"Diamonds are the shares that keep a promise in 95 % of the refits\.": any_of(
            lambda it: np.isfinite(shares_planned(it)).any()
        ),
        r"The hollow one lies beyond the shares of the runs, as does the dashed part of the curve\.": any_of(
            lambda it: hollow(it) == 1
        ),
        r"For (\d+) of (\d+) promises no share is planned\.": any_of(unplanned),
        r"The same for every size and count of unique tokens\.": any_of(
            lambda it: it.points["params"].nunique() < 7 and it.points["tokens"].nunique() < 6
        ),
    }


def rules(results: Sequence[ForgettingResult]) -> dict[str, Callable[..., bool]]:
    """What each sentence claims, computed from the runs; on a page of several it is true of one of them."""

    any_of = partial(true_of_one, results)

    def rose(it: ForgettingResult, kind: str, value: str, low: str, high: str, n: str, end: str) -> bool:
        found = bootstrap(mean, rises(it))
        right = (near(value, found.value), near(low, found.low), near(high, found.high), int(n) == found.n)
        apart = found.low > 0 or found.high < 0
        wanted = ("nothing was forgotten: ", "") if found.high < 0 else ("", "")
        return all(right) and (kind, end) == (
            wanted if apart else ("", ": not distinguishable from nothing forgotten")
        )

    def removed(it: ForgettingResult, share: str, value: str, low: str, high: str, n: str, end: str) -> bool:
        pairs = beside_none(it.points, float(share) / 100)
        left = bootstrap(ratio_of_sums, pairs["rise"].to_numpy(), pairs["rise_none"].to_numpy(), paired=True)
        ends = [100 * (1 - one) for one in (left.value, left.high, left.low)]
        right = [near(text, one) for text, one in zip((value, low, high), ends, strict=True)]
        unclear = end == ": not distinguishable from nothing"
        return all(right) and int(n) == len(pairs) and unclear == (ends[1] <= 0 <= ends[2])

    def errs(it: ForgettingResult, n: str, error: str, low: str, high: str, rest: str) -> bool:
        law = it.forms.set_index("form").loc["injection"]
        shown = ((error, "rise_error"), (low, "rise_low"), (high, "rise_high"))
        return (
            int(n) == int(it.points["held_out"].sum())
            and all(near(text, 100 * law[name]) for text, name in shown)
            and rest == rivalry(it)
        )

    def clear(it: ForgettingResult, some: str, n: str) -> bool:
        none = it.points[it.points["inject"] == 0]
        return int(some) == (none["rise_low"] > 0).sum() and int(n) == len(none)

    def same(it: ForgettingResult, share: str, no: str, value: str, low: str, high: str, *rest: str) -> bool:
        margin, n, p = rest
        found = target_equivalence(beside_none(it.points, float(share) / 100), float(margin))
        told = ((value, found.value), (low, found.low), (high, found.high), (p, found.p))
        right = all(near(text, one) for text, one in told) and int(n) == found.n
        return right and (no == "is") == (found.p < 0.05) and float(margin) == 0.01

    def planned(it: ForgettingResult, params: str, tokens: str) -> bool:
        largest = (it.points["params"].max(), it.points["tokens"].max())
        return all(near(text, one) for text, one in zip((params, tokens), largest, strict=True))

    def without(it: ForgettingResult, rise: str) -> bool:
        largest = (it.points["params"].max(), it.points["tokens"].max())
        it_rises = it.law.rise(params=largest[0], tokens=largest[1], inject=0.0) if it.law else np.nan
        return near(rise, it_rises)

    def undetermined(it: ForgettingResult, listed: str) -> bool:
        assert it.law is not None
        told = {name: ends for name, *ends in re.findall(r"(\w+) \((\S+) to (\S+)\)", listed)}
        at = {"B": (1e-2, 1e8), "alpha": (-1, 4), "beta": (-1, 4)}
        ends = it.law.intervals
        open_ends = {name for name in at if np.isclose(ends[name], at[name], rtol=1e-3).any()}
        texts = {name: tuple(f"{end:.3g}" for end in ends[name]) for name in told}
        shown = all(tuple(told[name]) == texts[name] for name in told)
        return shown and set(told) == open_ends | set(it.law.fitted.at_bounds)

    def judged_runs(it: ForgettingResult, fitted: str, unseen: str) -> bool:
        held = int(it.points["held_out"].sum())
        told = 0 if unseen == "none" else int(unseen)
        return int(fitted) == len(it.points) - held and told == held

    return drawn_rules(results) | {
        r"(\d+) runs\.": any_of(lambda it, n: int(n) == len(it.points)),
        r"Without injection (nothing was forgotten: |)their pretraining loss rose by (\S+) \((\S+) to (\S+); "
        r"n = (\d+)\) nats per token in the mean(: not distinguishable from nothing forgotten|)\.": any_of(rose),
        r"Injecting (\S+) % removed (\S+) % \((\S+) to (\S+); n = (\d+)\) of that"
        r"(: not distinguishable from nothing|)\.":
            any_of(removed),
        r"On (\d+) held-out runs the law errs by (\d+) % of the rise \((\d+) to (\d+)\); (.*)\.": any_of(errs),
        r"(\d+) of (\d+) runs without injection rose by more than the noise .*": any_of(clear),
        r"(\d+) of (\d+) runs ended before the target's loss had turned: .*": any_of(
            lambda it, some, n: int(some) == (~it.points["reached"]).sum() and int(n) == len(it.points)
        ),
        r"The target loss at (\S+) % (is|is not shown to be) equivalent to that without injection: the log differs by "
        r"(\S+) \(90 % interval (\S+) to (\S+); margin (\S+); n = (\d+) pairs; two one-sided t tests, p = (\S+)\)\.":
            any_of(same),
        r"(\d+) runs fitted, (\d+|none) held out\.": any_of(judged_runs),
        r"Planned for (\S+) parameters and (\S+) unique tokens, the largest of the runs\.": any_of(planned),
        r"Without injection the law predicts a rise of (\S+) nats\.": any_of(without),
        r"These runs show what each share of pretraining data did, but do not determine (.*) of the law: read the "
        r"measured shares, and plan none beyond them\.": any_of(undetermined),
        r"The law of all (\d+) runs\.": any_of(
            lambda it, n: int(n) == len(it.points) and not it.points["held_out"].any()
        ),
        r"The law of all (\d+) runs: those that were not held out do not tell one\.": any_of(
            lambda it, n: int(n) == len(it.points) and not_told(it)
        ),
        r"The law of (\d+) runs; the (\d+) held-out runs took no part in it\.": any_of(judged_runs),
        r"At a bound of the search, so not told by the runs: (.*) of the law of (.*)\.": any_of(
            lambda it, names, law: names
            == ", ".join((it.law if law == "forgetting" else it.target).fitted.at_bounds)  # type: ignore[union-attr]
        ),
        r"(forgetting|fine-tuning|forms|injection|fine-tuning held out): (.*)": any_of(
            lambda it, name, why: it.refused[name] == why
        ),
    }  # fmt: skip


def not_told(it: ForgettingResult) -> bool:
    try:
        ForgettingLaw.fit(it.points[~it.points["held_out"]], n_boot=0)
    except DataError:
        return bool(it.points["held_out"].any())
    return False


def rivalry(it: ForgettingResult) -> str:
    """Which forms err more or less than the law, from the errors run by run of forms fitted here again."""
    table = it.forms.set_index("form").drop("injection")
    less = table[table["more_high"] < 0]
    if len(less):
        each = [
            f"'{name}' by {-100 * row.rise_more:.0f} % ({-100 * row.more_high:.0f} to {-100 * row.more_low:.0f})"
            for name, row in less.iterrows()
        ]
        return f"less than it err {', '.join(each)}"
    more = int((table["more_low"] > 0).sum())
    if more == len(table):
        return f"each of {more} other forms errs more, run by run"
    return f"{more} of {len(table)} other forms err more, the rest are not distinguishable from it"


def _tried(check: Callable[..., bool], it: ForgettingResult, groups: Sequence[str]) -> bool:
    try:
        return bool(check(it, *groups))
    except (KeyError, ValueError, AttributeError):
        return False


@pytest.mark.parametrize("name", ["law", "additive", "nothing", "few"])
def test_every_sentence_of_one_page_is_true(
    results: dict[str, ForgettingResult], pages: dict[str, str], name: str
) -> None:
    held = hold(pages[name], rules([results[name]]), definitions=DEFINITIONS)
    assert sum(held.values()) >= 4


def test_every_sentence_of_a_page_of_two_is_true_of_one_of_them(results: dict[str, ForgettingResult]) -> None:
    two = [results["law"], results["few"]]
    held = hold(ForgettingResult.page(two), rules(two), definitions=DEFINITIONS)
    assert held[r"(\d+) runs\."] == 2


def test_the_page_knows_the_cases_that_it_tells_apart(
    results: dict[str, ForgettingResult], pages: dict[str, str]
) -> None:
    told = pages
    assert "the rest are not distinguishable from it" in told["law"]
    assert "less than it err" in told["additive"]
    assert "&#39;additive&#39; by" in told["additive"]
    assert "not distinguishable from nothing forgotten" in told["nothing"]
    assert "none held out" in told["few"]
    few = results["few"]
    nothing = dict.fromkeys(("value", "low", "high"), None) | {"n": 0}
    without = replace(few, facts={**few.facts, "forgotten": nothing, "removed": nothing})
    assert without.summary() == "12 runs. None is without injection, so what they forgot cannot be told."


def test_differences_from_the_law_are_of_the_same_runs(results: dict[str, ForgettingResult]) -> None:
    """Errors less that of the law are the difference of both columns; their interval is narrower than a sum of both."""
    forms = results["law"].forms.set_index("form")
    law = forms.loc["injection"]
    assert np.isnan(law["rise_more"])
    others = forms.drop("injection")
    assert others["rise_more"].tolist() == pytest.approx((others["rise_error"] - law["rise_error"]).tolist())
    assert ((others["more_low"] <= others["rise_more"]) & (others["rise_more"] <= others["more_high"])).all()


def test_a_page_of_an_earlier_result_says_that_forms_were_not_compared(
    results: dict[str, ForgettingResult],
) -> None:
    it = results["law"]
    text = replace(it, forms=it.forms.drop(columns=["rise_more", "more_low", "more_high"])).summary()
    assert re.search(r"the law errs by \d+ % of the rise .*this run did not compare it", text)


def test_an_estimate_without_an_interval_is_not_compared_with_nothing(
    results: dict[str, ForgettingResult],
) -> None:
    it = next(one for one in results.values() if (one.facts["removed"] or {}).get("value") is not None)
    ends = {"low": None, "high": None, "n": 1}
    facts = {**it.facts, **{name: {**it.facts[name], **ends} for name in ("forgotten", "removed")}}
    told = replace(it, facts=facts).summary()
    assert re.search(r"rose by [^ ]+ \(n = 1\) nats per token in the mean, without an interval\.", told)
    assert re.search(r"removed [^ ]+ % \(n = 1\) of that, without an interval\.", told)
    assert "not distinguishable from nothing" not in told
