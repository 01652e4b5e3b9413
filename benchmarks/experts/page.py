"""The documentation's page of results of ExpertLens, written from the result files: every number is computed.

python benchmarks/experts/page.py [--write]    prints it; --write puts it into docs/results
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from causal import SILENCED
from claims import (
    BASELINE,
    CONTROL,
    EXPERTS,
    LEAST_RHO,
    MEASURED,
    MOST_RHO,
    RATINGS,
    ends_of_training,
    gaps,
    headline,
    judged,
    rows_of,
)

sys.path.append(str(Path(__file__).parents[1]))
from claims_table import table, touch
from pages import bullets, joined, lines, link, listed, main, number, percent, prose, read, script, span

PARTS = {"n": "nouns", "v": "verbs", "a": "adjectives", "r": "adverbs"}
WAYS = {"force": "forced to their median response", "silence": "silenced"}
LEVEL = 0.05
"""Below which a p-value is pointed out."""
Found = Mapping[str, Any]


def opening(encoder: Found, causal: Found | None) -> Iterator[str]:
    """The question and what was run."""
    yield "# Results: ExpertLens"
    yield "How it works: [expertlens.md](../expertlens.md). Made by `python benchmarks/experts/page.py --write`."
    settings = encoder["settings"]
    yield prose(
        "Do two concepts share units of a network where people find them alike?",
        "Do simpler similarities say as much?",
        f"A sentence encoder, {encoder['model'].partition(',')[0]}, reads sentences of WordNet.",
        "A small causal language model, trained here on a made-up grammar, reads its own." if causal else "",
        f"An expert is a unit with an average precision (AP) above {settings['tau']:g}, unless a row says otherwise.",
        "Brackets are 95 % intervals, over words for the encoder; n counts what they are over.",
    )


def verdicts(
    encoder: Found, differences: Found | None, causal: Found | None, language: Found | None
) -> Iterator[str]:
    """Each claim with its verdict."""
    yield "## Claims"
    yield table(judged(encoder, differences, causal, language))
    yield prose(
        f"The rules stand in {script('experts/claims.py')}.",
        "Partly: for some of what the rule names.",
        "What was seen is of a few models; yours gets baselines and differences of its own.",
    )


def agreement(encoder: Found) -> Iterator[str]:
    """Rho of every row with both sets of ratings."""
    yield "## Does the overlap of experts agree with people?"
    every = {**rows_of(encoder["table"], EXPERTS), **rows_of(encoder["table"], BASELINE)}
    every |= rows_of(encoder["table"], CONTROL)
    heads = [
        f"{RATINGS[name]} (n = {one['n_concepts']} words, {one['n_pairs']} pairs)"
        for name, one in next(iter(every.values())).items()
    ]
    rows = [[name, *cells(own["men"]), *cells(own["simlex999"])[:2]] for name, own in every.items()]
    yield "Spearman's rho with ratings of people:"
    yield lines(["similarity by", heads[0], "Mantel p", "of ceiling", heads[1], "Mantel p"], rows)
    men = [own["men"]["rho"] for own in rows_of(encoder["table"], EXPERTS).values()]
    yield prose(
        "The ceiling takes the ratings as free of error.",
        f"On MEN the {len(men)} rows of experts lie between {number(min(men))} and {number(max(men))}.",
        f"The paper has {number(LEAST_RHO)} to {number(MOST_RHO)} there, for causal models and other sentences.",
    )


def real_model(found: Found | None) -> Iterator[str]:
    """The same questions to a real language model."""
    if found is None:
        return
    yield "## What does a real language model say?"
    own, facts = found["settings"], found["facts"]
    yield prose(
        f"{found['model'].partition(', of')[0]} ({found['model'].rpartition(', ')[2]}) reads WordNet's sentences.",
        f"Precision is {own['dtype']}." if own["dtype"] else "",
        f"Concepts are {facts['concepts']} words of MEN, in {facts['examples']:,} sentences.",
        f"Units are the {facts['units']:,} outputs of {listed([f'`{site}`' for site in own['sites']])}.",
        "The paper takes the outputs of all linear maps." if own["sites"] != ["*"] else "",
        f"{cost_of(found)} ({link('experts/smollm2.json')}).",
    )
    rows = [
        [role, name, *cells(one["men"])[:2]]
        for role in (EXPERTS, BASELINE, CONTROL)
        for name, one in rows_of(found["table"], role).items()
    ]
    men = next(iter(rows_of(found["table"], EXPERTS).values()))["men"]
    yield lines(
        ["", "similarity by", f"MEN (n = {men['n_concepts']} words, {men['n_pairs']} pairs)", "Mantel p"],
        rows,
    )
    every = gaps(found)
    names, against = (list(dict.fromkeys(key[place] for key in every)) for place in (0, 1))
    yield "Rho of each row of experts less that of each baseline, drawn in pairs:"
    yield lines(
        ["MEN", *against], [[row, *(told(every[row, one, "men"]) for one in against)] for row in names]
    )
    yield f"For *{headline(found)}*, the cut of the settings:"
    yield bullets([sides(every, headline(found), "men")])


def cost_of(found: Found) -> str:
    """Minutes of a run, and of the CPU where they are known."""
    wall = f"It took {number(found['wall_s'] / 60, 0)} minutes"
    if found["cpu_s"] is None:
        return wall
    cores, load = found["threads"]["torch"], found["load_average_at_the_end"][0]
    shared = f" of a machine with a load of {number(load, 1)}"
    on = f"on {cores} thread{'s' * (cores > 1)}"
    return f"{wall}{shared}, and {number(found['cpu_s'] / 60, 0)} minutes of CPU time {on}"


def cells(one: Found) -> tuple[str, str, str]:
    """Rho with its interval, its p, and its share of the ceiling."""
    return span(one, of="rho"), number(one["mantel_p"], 4), number(one["rho_over_ceiling"])


def beside(encoder: Found, differences: Found | None) -> Iterator[str]:
    """Each row of experts less each baseline."""
    every = gaps(differences)
    if differences is None or not every:
        return
    yield "## Do experts agree more than simpler similarities?"
    rows, baselines = (list(dict.fromkeys(key[place] for key in every)) for place in (0, 1))
    yield "Rho of each row of experts less that of each baseline, drawn in pairs:"
    for ratings, name in RATINGS.items():
        n = next(gap["n"] for key, gap in every.items() if key[2] == ratings)
        yield lines(
            [f"{name} (n = {n})", *baselines],
            [[row, *(told(every[row, against, ratings]) for against in baselines)] for row in rows],
        )
    first = headline(encoder)
    yield f"For *{first}*, the cut of the settings:"
    yield bullets([sides(every, first, ratings) for ratings in RATINGS])
    yield from overlapping(every, differences, first)
    best = max(rows, key=lambda row: rows_of(differences["rows"], EXPERTS)[row]["men"]["rho"])
    if best != first:
        yield f"The highest of the {len(rows)} rows on MEN, seen after looking, is *{best}*:"
        yield bullets([sides(every, best, ratings) for ratings in RATINGS])


def told(gap: Found) -> str:
    """A difference with its interval, and the side that it is on where it is on one."""
    value = span(gap, sign="+")
    return f"{value} **{gap['side']}**" if gap["side"] in ("above", "below") else value


def sides(every: Mapping[tuple[str, str, str], Found], row: str, ratings: str) -> str:
    """What a row is above, below or not distinguishable from."""
    words: dict[str, list[str]] = {}
    for (own, against, of), gap in every.items():
        if (own, of) == (row, ratings):
            words.setdefault(gap["side"], []).append(against)
    return f"{RATINGS[ratings]}: {'; '.join(f'{word} {listed(names)}' for word, names in words.items())}"


def overlapping(every: Mapping[tuple[str, str, str], Found], differences: Found, first: str) -> Iterator[str]:
    """A sentence where differences exclude 0 although the intervals of the rows overlap."""
    both = {**rows_of(differences["rows"], EXPERTS), **rows_of(differences["rows"], BASELINE)}
    apart = [key for key, gap in every.items() if key[0] == first and gap["side"] in ("above", "below")]
    overlap = [key for key in apart if touch(both[key[0]][key[2]], both[key[1]][key[2]])]
    if overlap:
        yield prose(
            f"In {len(overlap)} of the {len(apart)} of these that exclude zero the intervals of the two rows overlap.",
            "Differences are drawn in pairs, so they can exclude zero where the rows' own intervals overlap.",
        )


def controls(encoder: Found) -> Iterator[str]:
    """What must not work, and how stable experts are."""
    yield "## What about controls and chance?"
    every = [(name, one) for name, own in rows_of(encoder["table"], CONTROL).items() for one in own.values()]
    empty = [one["low"] <= 0 <= one["high"] for _, one in every]
    others = [control(it) for it, holds in zip(every, empty, strict=True) if not holds]
    told = [f"rho with an interval that excludes zero: {'; '.join(others)}"] if others else []
    told.append(f"{sum(empty)} of {len(empty)} intervals of rho hold zero")
    odd = [it for it, holds in zip(every, empty, strict=True) if holds and it[1]["mantel_p"] < LEVEL]
    if odd:
        told.append(f"of these, Mantel's p is below {LEVEL:g} for {listed(map(control, odd))}")
    facts, fdr = encoder["facts"], encoder["settings"]["fdr"]
    permuted, again, overlap = (
        facts[name] for name in ("permuted_with_any_expert", "retrieved_by_halves", "overlap_of_halves")
    )
    told += [
        f"permuted labels: {percent(permuted)} of {permuted['n']} concepts have a unit, at a false discovery rate of "
        f"{fdr:g}",
        f"the other half of the sentences finds the same concept in {percent(again)} of {again['n']}",
        f"experts of the halves overlap at a Jaccard of {span(overlap)}",
    ]
    yield bullets(told)


def control(row: tuple[str, Found]) -> str:
    """A control with its rho on one set of ratings."""
    name, one = row
    return f"{name} ({RATINGS[one['ratings']]} {span(one, 3, of='rho')})"


def topics(causal: Found) -> Iterator[str]:
    """Whether the experts of a causal model come to follow topics."""
    yield "## Do experts of a causal model come to follow topics?"
    rows = []
    for row in causal["alignment"]:
        step = f"{row['step']} (random weights)" if row["step"] == 0 else str(row["step"])
        rows.append(
            [
                step,
                span(row[MEASURED], of="rho"),
                number(row[MEASURED]["auc"]),
                *(
                    span(row[name], of="rho")
                    for name in row
                    if isinstance(row[name], Mapping) and name != MEASURED
                ),
            ]
        )
    names = [name for name, one in causal["alignment"][0].items() if isinstance(one, Mapping)]
    heads = [f"rho, experts with {MEASURED}", "AUC", *(f"rho, {name}" for name in names if name != MEASURED)]
    one = causal["alignment"][-1][MEASURED]
    n_topics = len(next(iter(causal["effects"].values()))["topics"])
    yield prose(
        f"Rho with *of one topic* or not, for {one['n_concepts']} nouns in the same sentences.",
        f"That is {one['n_pairs']:,} pairs; intervals are over nouns.",
    )
    yield lines(["steps", *heads], rows)
    yield prose(
        f"Two kinds of score cap rho at {number(cap(one['n_concepts'], n_topics))}, for similarities without ties.",
        "The AUC says how likely nouns of one topic share more experts than nouns of two.",
        "Differences between columns were not measured.",
    )
    yield prose(
        "The sentences differ in the noun alone, so shared words are equally alike for every two nouns.",
        "That column ranks their rounding; today such similarities count as equal, and have no rho.",
    )


def cap(nouns: int, topics: int) -> float:
    """The largest Spearman's rho with a score of two kinds, of topics of one size, where no similarities are tied.

    With a share p of pairs of one topic it is sqrt(3 p (1 - p)), for many pairs.
    """
    p = topics * math.comb(nouns // topics, 2) / math.comb(nouns, 2)
    return math.sqrt(3 * p * (1 - p))


def effects(causal: Found) -> Iterator[str]:
    """What forcing and silencing experts does."""
    yield "## Do experts do something?"
    start, end = ends_of_training(causal)
    rows, n = [], 0
    for step in (end["step"], start["step"]):
        for way, words in WAYS.items():
            means = causal["effects"][f"step {step}, {way}"]["means"]
            n = means["experts"]["n"]
            rows.append(
                [
                    words if step else f"{words}, random weights",
                    *(span(means[name], sign="+") for name in means),
                ]
            )
    names = [name.replace(" - ", " less ") for name in next(iter(causal["effects"].values()))["means"]]
    yield prose(
        f"The {SILENCED} best experts of a topic are held, beside random units and units matched in their response.",
        f"Change of the log probability of the topic's words in other documents, nats, n = {n} topics.",
        "Intervals are Student's, over topics:",
    )
    yield lines(["", *(f"{name} units" if name in ("random", "matched") else name for name in names)], rows)


def sentences(encoder: Found, nouns: Found | None) -> Iterator[str]:
    """Another choice of sentences."""
    if nouns is None:
        return
    yield "## Do other sentences give the same?"
    rows = []
    for found in (encoder, nouns):
        settings = found["settings"]
        own = rows_of(found["table"], EXPERTS)
        first = next(iter(own.values()))["men"]
        rows.append(
            [
                listed([PARTS[part] for part in settings.get("pos", PARTS)]),
                f"{settings['positives']} and {settings['negatives']}",
                found["facts"]["concepts"],
                f"{first['n_pairs']} of {first['n_concepts']} words",
                *(span(row["men"], of="rho") for row in list(own.values())[:2]),
            ]
        )
    names = list(rows_of(encoder["table"], EXPERTS))[:2]
    heads = [
        "sentences of",
        "positive and negative",
        "words",
        "MEN pairs",
        *(f"MEN, {name}" for name in names),
    ]
    yield lines(heads, rows)
    yield prose(
        "The two differ in sentences, their number and the words, so what is due to nouns was not measured.",
        "The first setting is that of an early pilot, and was returned to after looking at both.",
        '`pos=["n", "v", "a", "r"]` takes all parts of speech.',
    )


def settings(encoder: Found) -> Iterator[str]:
    """What was run."""
    yield "## Settings"
    own, facts = encoder["settings"], encoder["facts"]
    yield bullets(
        [
            f"encoder: {encoder['model']}; {facts['units']:,} units",
            f"words: {facts['concepts']}, with {own['positives']} sentences each against {own['negatives']} of others, "
            f"of WordNet's {listed([PARTS[part] for part in own['pos']])}",
            f"encoder, all rows: {link('experts/minilm.json')}, by {script('experts/run.py')}",
            f"encoder, differences: {link('experts/minilm-differences.json')}, by {script('experts/differences.py')}",
            f"encoder, with nouns: {link('experts/minilm-nouns-48.json')}, made before `pos` was a setting",
            f"causal model: {link('experts/causal.json')}, by {script('experts/causal.py')}",
        ]
    )


def page() -> str:
    """The whole page."""
    encoder = read("experts/minilm.json")
    if encoder is None:
        sys.exit("benchmarks/results/experts/minilm.json is missing: run run.py first")
    differences, causal = read("experts/minilm-differences.json"), read("experts/causal.json")
    language = read("experts/smollm2.json")
    return joined(
        [
            *opening(encoder, causal),
            *verdicts(encoder, differences, causal, language),
            *agreement(encoder),
            *beside(encoder, differences),
            *controls(encoder),
            *real_model(language),
            *sentences(encoder, read("experts/minilm-nouns-48.json")),
            *(topics(causal) if causal is not None else ()),
            *(effects(causal) if causal is not None else ()),
            *settings(encoder),
        ]
    )


if __name__ == "__main__":
    main("expertlens.md", page())
