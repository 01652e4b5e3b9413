"""Every sentence of a comparison's page with a number or a comparison, against the numbers it is about."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

import compare_worlds as cw
from page_sentences import hold, sentences
from trimtab import compare
from trimtab.adapt.compare.result import CompareResult
from trimtab.adapt.compare.weights import by_part
from trimtab.report.formats import fixed, number, span

pytestmark = pytest.mark.usefixtures("undrawn")

DEFINITIONS = (
    r"Change of (?:loss, above 0 for worse|accuracy in points, below 0 for worse)\.",
    r"Bars: 95 % intervals of each domain alone\.",
    r"Intervals are 95 % and of each row alone, .*",
    r"Losses have Student's interval, .*",
    r"A change is called worse or better where its interval excludes 0 after Holm's correction over all rows\.",
    r"So a page calls any change where there is none in at most 5 % of cases, whatever the number of domains\.",
    r"Kept: the whole interval is within the tolerance\.",
    r"Broken: the whole interval is beyond it, also after Holm's correction over all tolerances, or .*",
    r"It is above 0 wherever predictions differ at all, .*",
    r"Intervals are 95 %, over records or groups\.",
    r"Frobenius norm of the change, in per cent of that of the base model's weights\.",
    r"The ten tensors that moved most\.",
    r"Loss in nats per token, length in tokens\.",
    r"Chosen because they changed most: they are not typical\.",
    r"The first questions that one of the models alone answered rightly\.",
    r"Each token is the most likely one\.",
    r"An interval over so few says little\.",
)


@pytest.fixture(scope="module")
def results() -> dict[str, CompareResult]:
    base = cw.base()
    bad = cw.swapped(cw.worse_on(base, cw.ALPHABETS[0], 0.2), [cw.ALPHABETS[1][:2]])
    domains: dict[str, Any] = {
        f"d{place}": cw.texts(letters, 40) for place, letters in enumerate(cw.ALPHABETS[:3])
    }
    said = base.generate(few := cw.texts(cw.ALPHABETS[1], 12, length=6), max_new_tokens=2)
    domains["sums"] = [{"prompt": p, "completion": c.strip() or "x"} for p, c in zip(few, said, strict=True)]
    limits: dict[str, Any] = {"tolerances": {"d0": 0.1, "d1": 0.0, "d2": 0.0}, "tasks": {"sums": "exact"}}
    limits |= {"points": {"sums": 5.0}, "batch_size": 64}
    short = {"d0": cw.texts(cw.ALPHABETS[0], 8)}
    return {
        "changed": compare(base, bad, domains, **limits),
        "itself": compare(base, base, domains, **limits),
        "better": compare(bad, base, short, seq_len=100),
    }


def near(text: str, value: float) -> bool:
    """A number as the page has it is the value, to the last place that is written."""
    places = len(text.partition(".")[2])
    return abs(float(text.replace("−", "-")) - value) <= 0.51 * 10.0**-places


def changes(it: CompareResult, word: str, column: str = "shown") -> list[dict[str, Any]]:
    return it.changes[it.changes[column] == word].to_dict("records")


def called(row: dict[str, Any]) -> str:
    return str(row["domain"]) + " (accuracy)" * (row["measure"] == "accuracy")


def rules(it: CompareResult) -> dict[str, Callable[..., bool]]:
    def listed(word: str, text: str) -> bool:
        rows, found = changes(it, word), text.split("; ")
        if len(rows) != len(found):
            return False
        for row, part in zip(rows, found, strict=True):
            name, value, low, high, unit = re.fullmatch(r"(\S+) (\S+) \[(\S+), (\S+)\] (.+)", part).groups()  # type: ignore[union-attr]
            ends = zip((value, low, high), ("change", "low", "high"), strict=True)
            if (name, unit) != (row["domain"], row["unit"]) or not all(
                near(text, row[key]) for text, key in ends
            ):
                return False
        return True

    def judged(word: str, names: str) -> bool:
        return names.split(", ") == [called(row) for row in changes(it, word, "verdict")]

    def moved(tensors: str, of: str, percent: str, parameters: str) -> bool:
        weights = it.weights
        share = (weights["changed"] * weights["entries"]).sum() / weights["entries"].sum()
        entries = float(parameters.removesuffix("k")) * 1e3
        counts = (int(tensors), int(of)) == ((weights["changed"] > 0).sum(), len(weights))
        return counts and near(percent, 100 * share) and abs(entries - weights["entries"].sum()) < 60

    def few(text: str) -> bool:
        rows = it.changes[it.changes["units"] < 30].to_dict("records")
        return text.split(", ") == [
            *dict.fromkeys(f"{row['domain']} ({row['units']} {row['of']})" for row in rows)
        ]

    def differ(some: str, of: str) -> bool:
        texts = it.completions
        return (int(some), int(of)) == ((texts["before"] != texts["after"]).sum(), len(texts))

    def unchanged(names: str) -> bool:
        moved = {row["domain"] for word in ("worse", "better") for row in changes(it, word)}
        rows = [called(row) if row["domain"] in moved else row["domain"] for row in changes(it, "no")]
        return names.split(", ") == list(dict.fromkeys(rows))

    return {
        r".* against .* on (\d+) domains?\.": lambda n: int(n) == it.changes["domain"].nunique(),
        r"Worse: (.*)\.": lambda text: listed("worse", text),
        r"Better: (.*)\.": lambda text: listed("better", text),
        r"No change is shown in (.*)\.": unchanged,
        r"Tolerance (broken|open|kept): (.*)\.": judged,
        r"(\d+) of (\d+) tensors changed, (\d+) % of ([\d.]+k) parameters\.": moved,
        r"Both sides are one network\.": lambda: it.facts["same_network"],
        r"Judged on fewer than 30: (.*)\.": few,
        r"For (\d+) of (\d+) prompts the two texts differ\.": differ,
        r"Sequences have at most (\d+) tokens, as many as both models have positions for\.": lambda n: (
            int(n) == 64
        ),
    }


@pytest.mark.parametrize("name", ["changed", "itself", "better"])
def test_sentences_are_true(name: str, results: dict[str, CompareResult]) -> None:
    held = hold(CompareResult.page([results[name]]), rules(results[name]), definitions=DEFINITIONS)
    assert sum(held.values()) >= 4


@pytest.mark.parametrize("name", ["changed", "itself", "better"])
def test_sentences_are_short(name: str, results: dict[str, CompareResult]) -> None:
    for sentence in sentences(CompareResult.page([results[name]])):
        if not re.match(r"(Worse|Better|Tolerance|No change|Judged)", sentence):  # lists of names
            assert len(re.findall(r"\w[\w'-]*", sentence)) <= 25, sentence


def test_tables_have_the_numbers_of_the_result(results: dict[str, CompareResult]) -> None:
    it = results["changed"]
    page = re.sub(r"<[^>]*>", " ", CompareResult.page([it]))
    text = re.sub(r"\s+", " ", page)
    for row in it.changes.to_dict("records"):
        places = 1 if row["measure"] == "accuracy" else 3
        assert fixed(row["change"], places, signed=True) in text
        assert span(row["low"], row["high"], places, signed=True) in text
    for row in it.predictions.to_dict("records"):
        assert f"{row['kl']:.4f}" in text
    parts = by_part(it.weights).set_index("part")["relative_change"]
    embedding = 100 * parts["model.embed_tokens"]
    assert f"{number(embedding, 2)} %" in text
    frame = it.to_frame()
    assert list(frame.columns) == [
        "domain",
        "measure",
        "change",
        "interval",
        "tolerance",
        "n",
        "verdict",
        "shown",
    ]
    assert isinstance(frame, pd.DataFrame)
