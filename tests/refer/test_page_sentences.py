"""Every sentence with a number or a comparison on the pages of names is what the result, or the data, says."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from page_sentences import hold
from trimtab import naming_bias
from trimtab.data.wordlist import WordList
from trimtab.job import carry_out
from trimtab.lab.naming import NamingWorld, chips, colour_names, predictions
from trimtab.refer.bias.job import NamingBiasConfig
from trimtab.refer.bias.result import NamingBias
from trimtab.refer.lexicon.job import LexiconConfig
from trimtab.refer.lexicon.result import LexiconResult

pytestmark = pytest.mark.usefixtures("undrawn")  # what is drawn is looked at where jobs are tested

Rules = dict[str, Callable[..., bool]]
NUMBER = r"([+−]?[\d.]+)"
SPAN = rf"\({NUMBER} to {NUMBER}\)"
APART = r"((?:not )?distinguishable) from 0"

BIAS_DEFINITIONS = (
    r"A rate of 0 or 1 has Wilson's interval, and a gap with such a rate Newcombe's\.",
    r"A standardised gap is what would be seen if both groups came in one mix of strata\.",
    r"Composition is the raw gap less it, .*",
    r"An upright line is the interval of its bar, at the bar's end\.",
    r"Amplification is a model's gap less that of the given names of the same objects, .* the model widens it\.",
    r"\S+ against \S+\.",
    r"The share of \S+ among the objects compared \(Wilson's interval\)\.",
    r"Intervals are percentile bootstrap intervals over clusters, each at the confidence of its settings\.",
)
LEXICON_DEFINITIONS = (
    r"A disc is a referent by the first two features, as large as the word's share there\.",
    r"The line is the best for these referents that annealing finds; what it misses could lie a little above\.",
    r"It holds of whole lexicons: a word alone may lie above it\.",
    r"Success: a listener who hears a word picks the referent among all of them\.",
    r"Effective words: 2 to the power of the entropy of a referent's names\.",
    r"Modifiers stripped: taken off names; .*",
    r"Smoothing takes certainty from words that were said a few times only\.",
    r"Messages that are not compared, by context; .*",
    r"A share of 0 or 1 has Wilson's interval over clusters, and a difference with one Newcombe's\.",
    r"Every name that was given, by what became of it\.",
)


def near(text: str, value: float) -> bool:
    """Whether a number as written is the value at its decimals."""
    text = text.replace("−", "-")
    places = len(text.partition(".")[2])
    return abs(float(text) - value) <= 0.5 * 10**-places + 1e-9


def says(apart: str, low: str, high: str) -> bool:
    ends = [float(one.replace("−", "-")) for one in (low, high)]
    return (apart == "distinguishable") == (ends[0] > 0 or ends[1] < 0)


# Naming bias

NAMES = NamingWorld().sample(200, seed=3)
VOTES = pd.DataFrame(
    {
        "referent": range(60),
        "g": [0, 1] * 30,
        "yes": [False, True, False, False] * 15,
        "s": [0, 0, 1, 1, 1, 1] * 10,
    }
)


@pytest.fixture(scope="module")
def audits(tmp_path_factory: pytest.TempPathFactory) -> list[NamingBias]:
    """One of the command line with models, strata and another source of labels; one of the library with neither."""
    folder = tmp_path_factory.mktemp("audit")
    NAMES.to_csv(folder / "names.csv", index=False)
    predictions(NAMES).to_csv(folder / "predictions.csv", index=False)
    config = NamingBiasConfig(
        counts=str(folder / "names.csv"),
        outcome="sports-en",
        reference="male",
        groups={"annotation": "gender", "names": "gender-en"},
        strata="sport",
        cluster="image",
        predictions=str(folder / "predictions.csv"),
        model="model",
        group_words="gender-en",
        n_boot=100,
    )
    first = carry_out(config, folder / "run")
    lonely = VOTES.assign(
        g=VOTES["g"].where(VOTES.index != 5), s=VOTES["s"].where(VOTES["g"] == 0, VOTES["s"] * 2)
    )
    second = naming_bias(
        lonely, outcome="yes", group="g", reference=0, strata="s", n_boot=200, confidence=0.9
    )
    return [first, second]


def share_by_hand(result: NamingBias, group: str) -> tuple[float, int]:
    """The mean share of a group's objects and their number, from the rows that were given."""
    if group in ("male", "female"):
        sporty = NAMES["name"].map(WordList.read("sports-en"))
        counts = (
            NAMES.assign(yes=NAMES["count"] * sporty).groupby(["gender", "referent"])[["yes", "count"]].sum()
        )
        own = (counts["yes"] / counts["count"]).loc[group]
    else:
        own = VOTES[(VOTES["g"] == int(group)) & (VOTES.index != 5)]["yes"]
    return float(own.mean()), len(own)


def bias_rules(results: list[NamingBias]) -> Rules:
    def of_groups(*groups: str) -> NamingBias:
        return next(one for one in results if set(groups) <= set(one.groups))

    def gap(value: str, low: str, high: str, apart: str, ends: tuple[float, float, float]) -> bool:
        return near(value, ends[0]) and near(low, ends[1]) and near(high, ends[2]) and says(apart, low, high)

    def rates(a: str, first: str, n: str, b: str, second: str, m: str, *told: str) -> bool:
        result = of_groups(first, second)
        sides = [share_by_hand(result, one) for one in (first, second)]
        fits = (
            near(a, sides[0][0]) and near(b, sides[1][0]) and (int(n), int(m)) == (sides[0][1], sides[1][1])
        )
        raw = (sides[1][0] - sides[0][0], result.gap.low, result.gap.high)
        return fits and (first, second) == result.groups and gap(*told, raw)  # type: ignore[arg-type]

    def at_mix(place: int, mix: str, *told: str) -> bool:
        result = of_groups(mix)
        row = result.standardised.set_index("mix").loc[mix]
        return mix == result.groups[place] and gap(*told, (row["gap"], row["low"], row["high"]))  # type: ignore[arg-type]

    def alone(told: str) -> bool:
        """What part of each mix is in strata of one group, from the numbers of objects."""
        each = []
        for result in results:
            numbers = result.strata.iloc[:, 1:3].to_numpy(dtype=float)
            weights = {
                **dict(zip(result.groups, numbers.T, strict=True)),
                "both groups together": numbers.sum(axis=1),
            }
            outside = {
                mix: float(w[(numbers == 0).any(axis=1)].sum() / w.sum()) for mix, w in weights.items()
            }
            each.append({mix: share for mix, share in outside.items() if share})
        found = re.findall(r"([\d.]+) of the mix of ([^;]+)", told)
        return any(
            len(found) == len(shares) and all(near(value, shares[mix]) for value, mix in found)
            for shares in each
            if shares
        )

    def models(k: str, n: str, names: str) -> bool:
        raw = results[0].amplification.query("gap == 'raw'")
        apart = raw[(raw["amplification_low"] > 0) | (raw["amplification_high"] < 0)]["model"].tolist()
        return (int(k), int(n)) == (len(apart), len(raw)) and names == (
            f" ({', '.join(apart)})" if apart else ""
        )

    def compared(k: str, n: str) -> bool:
        sums = [
            (int(one.rates["n_objects"].sum()), int(one.accounting["n_objects"].sum())) for one in results
        ]
        return (int(k), int(n)) in sums

    told = rf"{NUMBER} {SPAN}, {APART}"
    return {
        rf"{NUMBER} of names for (\S+) \((\d+) objects\) against {NUMBER} of names for (\S+) \((\d+) objects\), "
        rf"objects weighing the same: a gap of {told}\.": rates,
        rf"With both groups in the mix of strata of (\S+) it is {told}\.": partial(at_mix, 1),
        rf"In the mix of (\S+) it is {told}\.": partial(at_mix, 0),
        r"At the right: objects, (\S+) \+ (\S+); of a common mix, its objects in strata with both groups\.": (
            lambda *groups: groups in {one.groups for one in results}
        ),
        r"Strata with one group only count as composition: (.*)\.": alone,
        r"Intervals are (\d+) % percentile bootstrap intervals over clusters\.": lambda level: (
            int(level) in {round(100 * float(one.config["confidence"])) for one in results}
        ),
        r"The raw gap is distinguishable from that of the given names for (\d+) of (\d+) models(.*)\.": models,
        r"(\d+) of (\d+) objects are compared; every object that was given has its reason\.": compared,
        r"Note: strata with one group only, left out of standardised gaps: (.*)\.": lambda names: (
            set(names.split(", "))
            == {
                row["stratum"]
                for one in results
                for _, row in one.strata.iterrows()
                if 0 in (row.iloc[1], row.iloc[2])
            }
        ),
        r"(\d+) runs side by side\.": lambda n: int(n) == len(results),
    }


def test_sentences_of_an_audit(audits: list[NamingBias]) -> None:
    first = hold(NamingBias.page(audits[:1]), bias_rules(audits[:1]), definitions=BIAS_DEFINITIONS)
    assert sum(first.values()) >= 10
    second = hold(NamingBias.page(audits[1:]), bias_rules(audits[1:]), definitions=BIAS_DEFINITIONS)
    assert sum(second.values()) >= 8
    together = hold(NamingBias.page(audits), bias_rules(audits), definitions=BIAS_DEFINITIONS)
    assert sum(together.values()) > sum(first.values())


def test_nobody_is_called_people_where_nobody_judged(audits: list[NamingBias]) -> None:
    shown = re.sub(r"<(style|script).*?</\1>", "", NamingBias.page(audits), flags=re.DOTALL)
    given = re.sub(r"Written for trimtab.*?</td>|draws as people do", "", shown, flags=re.DOTALL)
    assert "people" not in given


# Lexicons

SAID = colour_names(games=20, rounds=30)
SAID = SAID[SAID["referent"] % 5 == 0].assign(
    name=lambda frame: frame["name"].where((frame.index % 4 > 0) | (frame["context"] == "far"), "banana")
)


@pytest.fixture(scope="module")
def lexicons(tmp_path_factory: pytest.TempPathFactory) -> list[LexiconResult]:
    """One with contexts, word lists and a frontier; one of bare names over features that are no colours."""
    folder = tmp_path_factory.mktemp("lexicon")
    SAID.to_csv(folder / "names.csv", index=False)
    chips().to_csv(folder / "chips.csv")
    chips()[["L", "a"]].rename(columns={"L": "x", "a": "y"}).to_csv(folder / "plain.csv")
    config = LexiconConfig(
        counts=str(folder / "names.csv"),
        features=str(folder / "chips.csv"),
        smoothings=(0.0, 1.0),
        context="context",
        easy="far",
        hard="close",
        cluster="game",
        heads="colours-en",
        modifiers="modifiers-en",
        treatments=("stripped", "bare"),
        trials=70,
        n_boot=50,
    )
    plain = LexiconConfig(
        counts=str(folder / "names.csv"),
        features=str(folder / "plain.csv"),
        frontier=False,
        flexibilities=(0.0, 0.5),
        trials=50,
        n_boot=50,
    )
    return [carry_out(one, folder / str(k)) for k, one in enumerate((config, plain))]


def aside_by_hand(treatment: str) -> dict[str, tuple[int, int]]:
    """Messages without a word of the list (or with a modifier, for "bare") and all, by context."""
    heads, modifiers = WordList.read("colours-en"), WordList.read("modifiers-en")
    out = SAID["name"].map(lambda name: not heads(name) or (treatment == "bare" and modifiers(name)))
    return {
        one: (int(out[SAID["context"] == one].sum()), int((SAID["context"] == one).sum()))
        for one in ("far", "close")
    }


def lexicon_rules(results: list[LexiconResult], html: str) -> Rules:
    def whole(words: str, referents: str, cost: str, tells: str, far: str) -> bool:
        firsts = [one.systems.iloc[0] for one in results if bool(len(one.frontier)) == bool(far)]
        return any(
            (int(words), int(referents)) == (row["n_words"], row["n_referents"])
            and near(cost, row["complexity_bits"])
            and near(tells, row["accuracy_bits"])
            and (not far or near(re.sub(r"[^\d.]", "", far.partition(" bits")[0]), row["inefficiency_bits"]))
            for row in firsts
        )

    def by_context(
        treatment: str, hard: str, easy: str, told: str, above: str, below: str, n: str, end: str
    ) -> bool:
        table = results[0].contexts
        own = table[
            (table["comparison"] == "same referents, both contexts' mix") & (table["treatment"] == treatment)
        ]
        found = re.findall(rf"{NUMBER} {SPAN} at smoothing {NUMBER}", told)
        columns = own[["difference", "low", "high", "smoothing"]].to_numpy(dtype=float)
        each = len(found) == len(own) and all(
            near(text, value)
            for row, values in zip(found, columns, strict=True)
            for text, value in zip(row, values, strict=True)
        )
        a, b = int((own["low"] > 0).sum()), int((own["high"] < 0).sum())
        expected = (
            ", so the sign depends on the smoothing"
            if a and b
            else ""
            if a + b
            else ", not distinguishable from 0"
        )
        return (
            each
            and (hard, easy) == ("close", "far")
            and (int(above), int(below), int(n)) == (a, b, len(own))
            and end == expected
        )

    def aside(
        treatment: str, k: str, n: str, hard: str, easy: str, value: str, low: str, high: str, apart: str
    ) -> bool:
        far, close = aside_by_hand(treatment).values()
        row = results[0].aside.query("treatment == @treatment").iloc[2]
        shares = close[0] / close[1], far[0] / far[1]
        return (
            (int(k), int(n)) == (far[0] + close[0], far[1] + close[1])
            and near(hard, shares[0])
            and near(easy, shares[1])
            and near(value, shares[0] - shares[1])
            and near(low, row["low"])
            and near(high, row["high"])
            and says(apart, low, high)
        )

    def flexible(low: str, high: str) -> bool:
        ends = [(one.simulation["flexibility"].min(), one.simulation["flexibility"].max()) for one in results]
        return (float(low), float(high)) in ends

    def trials(n: str) -> bool:
        return int(n) in {int(one.config["trials"]) for one in results}

    def at_the_mean() -> bool:
        return all(
            np.isclose(one.plane["probability"] @ one.plane[name], one.systems[name].iloc[0], atol=1e-9)
            for one in results
            for name in ("complexity_bits", "accuracy_bits")
        )

    def by_frequency() -> bool:
        tables = html.split("Words by bits")[-len(results) :]
        tops = [one.words.sort_values("probability", ascending=False)["name"].head(2) for one in results]
        return all(
            re.search(rf">\s*{a}\s*<.*>\s*{b}\s*<", table, re.DOTALL)
            for (a, b), table in zip(tops, tables, strict=True)
        )

    return {
        rf"(\d+) words for (\d+) referents: a word conveys {NUMBER} bits on average, of which {NUMBER} "
        r"tell of the world(, [\d.]+ bits from the frontier)?\.": whole,
        r"Modifiers (\S+), same referents, (\S+) less (\S+), bits per word: (.*): above 0 at (\d+) and below 0 "
        r"at (\d+) of (\d+) smoothings(.*)\.": by_context,
        rf"Modifiers (\S+): set aside are (\d+) of (\d+) messages, {NUMBER} of close and {NUMBER} of far ones, "
        rf"a difference of {NUMBER} {SPAN}, {APART}\.": aside,
        r"The (\d+) most frequent words\.": lambda n: (
            int(n) in {len(one.places.columns) - 4 for one in results}
        ),
        r"The most frequent words first\.": by_frequency,
        r"A disc is one of all (\d+) words, as large as its share of what is said\.": lambda n: (
            int(n) in {one.systems["n_words"].iloc[0] for one in results}
        ),
        r"The lexicon of all names stands at the mean of its words, weighted by these shares\.": at_the_mean,
        r"Each line goes from flexibility ([\d.]+) to ([\d.]+): at 0 speakers have one word per referent, at 1 they "
        r"choose among all its words in context\.": flexible,
        r"Intervals are 95 % percentile bootstrap intervals over (\d+) trials, the same for every lexicon\.": trials,
        r"Intervals are (\d+) % percentile bootstrap intervals over clusters\.": lambda level: (
            int(level) == 95
        ),
        r"(\d+) runs side by side\.": lambda n: int(n) == len(results),
    }


def test_sentences_of_lexicons(lexicons: list[LexiconResult]) -> None:
    held = []
    for own in (lexicons[:1], lexicons[1:], lexicons):
        html = LexiconResult.page(own)
        held.append(sum(hold(html, lexicon_rules(own, html), definitions=LEXICON_DEFINITIONS).values()))
    assert held[0] >= 9
    assert held[1] >= 5
    assert held[2] > held[0]


def test_messages_set_aside_more_often_in_one_context_are_told(lexicons: list[LexiconResult]) -> None:
    row = lexicons[0].aside.iloc[2]
    assert row["low"] > 0
    told = lexicons[0].summary()
    assert "distinguishable from 0." in told
    assert "Messages that are not compared, by context" in LexiconResult.page(lexicons[:1])


def test_a_sign_that_turns_with_the_smoothing_is_told(lexicons: list[LexiconResult]) -> None:

    turned = lexicons[0].contexts.copy()
    turned[["low", "high"]] = np.where(turned[["smoothing"]] == 0, [[0.1, 0.3]], [[-0.3, -0.1]])
    told = replace(lexicons[0], contexts=turned).summary()
    assert "above 0 at 1 and below 0 at 1 of 2 smoothings, so the sign depends on the smoothing." in told
