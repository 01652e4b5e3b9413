"""Every sentence of the experts page that holds a number or a comparison, against the result, not the page's code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from page_sentences import hold
from tiny_models import build, tokenizer
from trimtab import ConceptSet
from trimtab.data.concept import Concept
from trimtab.job import carry_out
from trimtab.read.experts.job import ExpertLensConfig
from trimtab.read.experts.result import ExpertsResult

pytestmark = pytest.mark.usefixtures("undrawn")  # what is drawn is looked at in test_job.py

WORDS = ["cat", "dog", "cow", "pig", "hen"]
FRAMES_OF = ["a {} ran", "the {} sat there", "no {}", "some {} is here", "one {} and it", "my old {} sleeps"]

DEFINITIONS = (
    r"Rho is Spearman's correlation with the scores over pairs; intervals are 95 % over concepts, not pairs; p is that "
    r"of a Mantel test \(concepts dealt out anew\)\.",
    r"Differences are of the rho of two rows; their intervals are 95 % over concepts, drawn in pairs: each draw gives "
    r"both rows the same concepts\.",
    r"Two rows are distinguishable where the interval excludes 0 at three decimals\.",
    r"Names that would cover one another are moved apart, with a line to where they belong\.",
    r"Two axes cannot hold all distances: what is near here may not be elsewhere, and the share of the spread that "
    r"they keep is written below\.",
    r"Overlap of halves: Jaccard of the experts that the two halves of the examples give; found again: no other "
    r"concept's experts of the second half are as much like those of the first\.",
    r"q: the false discovery rate at which the unit would be found among all units\.",
    r"With permuted labels every expert is false: the share of such concepts with any expert should be at most the "
    r"rate\.",
    r"Intervals are 95 %, over concepts\.",
    r"Percent of the units there that are experts of a concept, mean over concepts\.",
    r"\w+: rows of experts beside baselines, with paired intervals as above\.",
    r"The experts that each run's settings name\.",
)
N = r"(−?[\d.]+|–)"
GAP = r"([+−]?[\d.]+|–)(?: \(([+−]?[\d.]+) to ([+−]?[\d.]+)\)| \(–\))"


def value(text):
    return float("nan") if text in ("", "–") else float(text.replace("−", "-").replace("+", ""))


def same(text, number, places=3):
    return (
        text == "–"
        if np.isnan(number)
        else f"{value(text):.{places}f}" == f"{number:.{places}f}".replace("-0.000", "0.000")
    )


def on(results, name):
    """The tables of the results that have these ratings."""
    return [
        result.table[result.table["ratings"] == name]
        for result in results
        if name in set(result.table["ratings"])
    ]


def rivals_of(own):
    return own[(own["role"] == "baseline") & own["rho"].notna()]


def told(row):
    """By the interval alone: the two ends, rounded as they are shown."""
    low, high = round(row["difference_low"], 3), round(row["difference_high"], 3)
    return "above" if low > 0 else "below" if high < 0 else "not distinguishable from"


def counted(result, concepts, units, mean, low, high):
    it = result.facts["experts"]
    ends = [f"{it[end]:.0f}" for end in ("low", "high")] if low or high else ["", ""]
    sizes = (len(result.concepts), result.counts["units"].sum(), round(result.concepts["experts"].mean()))
    return (int(concepts), int(units), int(mean)) == sizes and ends == [low, high]


def headline(own, cut, whose, rho, low, high, pairs, concepts):
    first = own.iloc[0]
    said = {"people": "people", "labels": "the labels"}.get(first["source"], "the ratings")
    return (
        (first["row"], first["role"], said) == (cut, "experts", whose)
        and all(same(*it) for it in zip((rho, low, high), first[["rho", "low", "high"]], strict=True))
        and (int(pairs), int(concepts)) == tuple(first[["n_pairs", "n_concepts"]])
    )


def highest(own, number, row, rho):
    experts = own[(own["role"] == "experts") & own["rho"].notna()].set_index("row")["rho"]
    return len(experts) == int(number) and experts.idxmax() == row and same(rho, experts.max())


def sides(own, number, listed):
    """ "above 1 (a; b); below 2 (c)" beside what the intervals say."""
    expected = {}
    for _, row in rivals_of(own).iterrows():
        expected.setdefault(told(row), []).append(row["row"])
    parts = {f"{side} {len(rows)} ({'; '.join(rows)})" for side, rows in expected.items()}
    return len(rivals_of(own)) == int(number) and set(listed.replace("); ", ")\0").split("\0")) == parts


def best(own, row, rho, gap, low, high):
    rivals = rivals_of(own)
    top = rivals[rivals["rho"] == rivals["rho"].max()].iloc[0]
    ends = zip((low, high), top[["difference_low", "difference_high"]], strict=True)
    shown = same(gap, own["rho"].iloc[0] - top["rho"]) and all(same(*it) for it in ends)
    return top["row"] == row and same(rho, top["rho"]) and shown


def fired(result, rows, units, n):
    """So many rows: of every concept so many units with so many examples each, at most."""
    groups = result.firing.groupby(["concept", "site", "unit"]).size()
    right = int(rows) == len(result.firing) and int(n) == groups.max()
    return right and int(units) == groups.groupby("concept").size().max()


def held(result):
    """Examples that are among the positive ones of the concept of their row, by the file of concepts."""
    lines = map(json.loads, Path(result.config["concepts"]).read_text().splitlines())
    positive = {one["name"]: set(one["positive"]) for one in lines}
    texts = result.firing["before"] + result.firing["token"] + result.firing["after"]
    return sum(text in positive[name] for text, name in zip(texts, result.firing["concept"], strict=True))


def rules(*results):
    """Sentence -> whether it is true of one of the results; several on a page are told in the same words."""
    tables = [own for result in results for _, own in result.table.groupby("ratings")]
    stated = [it for result in results for it in result.config["reliability"].values()]
    labels, sets = {one.label for one in results}, {tuple(one.concepts["concept"]) for one in results}

    def of_one(check):
        return lambda *groups: any(check(own, *groups) for own in tables)

    def named(check):
        return lambda name, *groups: any(
            check(own, *groups) for own in tables if own["ratings"].iloc[0] == name
        )

    return {
        r"(\d+) concepts?, (\d+) units?: (\d+)(?: \((\d+) to (\d+)\))? experts a concept\.": (
            lambda *groups: any(counted(result, *groups) for result in results)
        ),
        rf"On (\w+) (.+) \(the cut that the settings name\) agree with (people|the labels|the ratings) at rho {N} "
        rf"\({N} to {N}; (\d+) pairs of (\d+) concepts\)\.": named(headline),
        r"On (\w+) (.+) have no rho: their similarities are all alike\.": named(
            lambda own, row: own["row"].iloc[0] == row and np.isnan(own["rho"].iloc[0])
        ),
        rf"The highest of the (\d+) rows of experts, picked after looking, is (.+), at {N}\.": of_one(
            highest
        ),
        r"Of the (\d+) baselines? with a rho they are (.+)\.": of_one(sides),
        rf"The baseline with the highest rho, picked after looking, is (.+), at {N}: experts minus it {GAP}\.": (
            of_one(best)
        ),
        r"(\w+): (\d+) pairs of (\d+) concepts\.": named(
            lambda own, *n: tuple(map(int, n)) == tuple(own.iloc[0][["n_pairs", "n_concepts"]])
        ),
        rf"The ceiling is what .+ allows, from two halves .+, and of ratings with a stated reliability of {N}\.": (
            lambda said: any(same(said, it) for it in stated)
        ),
        r"The ceiling is what .+ allows, from two halves .+, and of ratings with (no) error\.": (
            lambda no: any(set(one.table["ratings"]) - set(one.config["reliability"]) for one in results)
        ),
        r"(\d+) (models|results) side by side\.": (
            lambda n, what: int(n) == len(results) and (what == "models") == (len(labels) == len(results))
        ),
        r"The runs have (\d+) different sets of concepts: their rho need not be of the same pairs\.": (
            lambda n: int(n) == len(sets)
        ),
        r"Experts of a concept in each block, mean over (\d+) concepts; bars are 95 % intervals over concepts\.": (
            lambda n: any(int(n) == len(one.concepts) for one in results)
        ),
        r"(\d+) rows: the (\d+) units of highest average precision of each concept, and the (\d+) examples each "
        r"responds to most\.": lambda rows, units, n: any(fired(one, rows, units, n) for one in results),
        r"(\d+) of (\d+) examples have the concept of their row\.": (
            lambda some, n: any((int(some), int(n)) == (held(one), len(one.firing)) for one in results)
        ),
        r"(.+)": lambda text: any(text in one.findings for one in results),
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Five concepts with two sets of ratings, one of people's; two concepts; concepts of one example each."""
    folder = tmp_path_factory.mktemp("sentences")
    build("llama").save_pretrained(folder / "model")
    tokenizer(pad_token="<unk>").save_pretrained(folder / "model")
    five = ConceptSet.from_templates(WORDS, FRAMES_OF, negatives=12)
    five.save_jsonl(folder / "five.jsonl")
    ConceptSet(tuple(five[word] for word in WORDS[:2])).save_jsonl(folder / "two.jsonl")
    few = [Concept(name, (f"a {name}",), (f"no {name}",), name) for name in ("cat", "dog")]
    ConceptSet(tuple(few)).save_jsonl(folder / "few.jsonl")
    pairs = [(a, b, float(n)) for n, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS if a < b)]
    rated = pd.DataFrame(
        [*pairs, ("cat", "zebra", 2.0), ("cat", "cat", 1.0)], columns=["word1", "word2", "score"]
    )
    rated.to_csv(folder / "rated.csv", index=False)
    rated[:8].assign(source="people").to_csv(folder / "men.csv", index=False)
    config = ExpertLensConfig(
        model=str(folder / "model"),
        concepts=str(folder / "five.jsonl"),
        ratings={"rated": str(folder / "rated.csv"), "men": str(folder / "men.csv")},
        reliability={"rated": 0.8},
        max_tokens=12,
        device="cpu",
    )
    plain = replace(config, ratings={}, reliability={}, max_tokens=64)
    return [
        carry_out(config, folder / "run"),
        carry_out(replace(plain, concepts=str(folder / "two.jsonl")), folder / "two"),
        carry_out(replace(plain, concepts=str(folder / "few.jsonl")), folder / "few"),
    ]


@pytest.fixture(scope="module")
def told_apart(results):
    """The first result with other numbers: above one baseline, below two, not distinguishable from the others."""
    table = results[0].table.copy()
    ours = table["ratings"] == "rated"
    baselines = table.index[ours & (table["role"] == "baseline")]
    table.loc[ours & (table["role"] == "experts"), "rho"] = [0.71, 0.5, 0.4, 0.3, 0.2, 0.1]
    table.loc[baselines, "rho"] = [0.2, 0.81, 0.72, 0.71, 0.9]
    table.loc[baselines, "difference"] = 0.71 - table.loc[baselines, "rho"]
    table.loc[baselines, "difference_low"] = [0.3, -0.2, -0.0304, -0.00004, -0.3]
    table.loc[baselines, "difference_high"] = [0.6, -0.01, 0.01, -0.00002, -0.1]
    table.loc[baselines, "told"] = [told(row) for _, row in table.loc[baselines].iterrows()]
    flat = table[~ours].assign(source="labels", ratings="topics")
    flat.loc[flat["role"] == "experts", ["rho", "low", "high"]] = np.nan
    return replace(results[0], label="another", table=pd.concat([table, flat], ignore_index=True))


page = ExpertsResult.page


def test_every_sentence_of_one_result(results, told_apart):
    for result in (*results, told_apart):
        held = hold(page([result]), rules(result), definitions=DEFINITIONS)
        sentences = [len(rule) for rule, count in held.items() if count]
        assert len(sentences) >= (7 if len(result.table) else 1)


def test_every_sentence_of_several_results(results, told_apart):
    several = [told_apart, *results]
    held = hold(page(several), rules(*several), definitions=DEFINITIONS)
    assert sum(held.values()) > 20
    assert "2 results side by side" in page([results[1], results[1]])


def test_a_rule_that_does_not_hold_is_seen(results):
    other = replace(results[0], table=results[0].table.assign(rho=lambda frame: frame["rho"] + 0.1))
    with pytest.raises(AssertionError, match="not what was measured"):
        hold(page([results[0]]), rules(other), definitions=DEFINITIONS)


def test_above_and_below_are_said_of_intervals_that_exclude_0_alone(told_apart):
    text = told_apart.summary()
    assert (
        "above 1 (shared words (TF-IDF centroids)); below 2 (static input embeddings; mean sentence embed"
        in text
    )
    assert (
        "not distinguishable from 2 (mean sentence embedding, raw; mean sentence embedding, centred)" in text
    )
    assert "agree with the ratings at rho 0.710" in text
    assert "agree with people at rho" in text
    assert "have no rho" in text
    assert "beats" not in text


def test_labels_are_no_people(results):
    labels = replace(results[0], table=results[0].table.assign(source="labels"))
    text = page([labels])
    assert "Agreement with labels" in text
    assert "agree with the labels at rho" in text
    assert "people" not in text.split("<table")[0].partition("<h1")[2]
    old = results[0].table.drop(columns=["source", "told", "difference", "difference_low", "difference_high"])
    text = page([replace(results[0], table=old, differences=pd.DataFrame())])
    assert "Differences from baselines were not measured by the version that made this run." in text
    assert "distinguishable" not in text


def test_findings_count_what_they_say(results):
    found = results[0].findings
    assert "ratings rated: 1 word is no concept, such as 'zebra'" in found
    assert any(one.startswith("ratings rated: left out 1 row of one word (the first is ") for one in found)
    cut = next(one for one in found if "longer than 12 tokens" in one)
    assert (
        cut
        == f"{results[0].facts['cut']} of 30 examples were longer than 12 tokens and cut; the longest has 17"
    )
    assert "cat has one example on a side" in results[2].findings[-1]
    assert results[1].facts["cut"] == 0
    assert results[1].facts["retrieved_by_halves"]["n"] == 2
