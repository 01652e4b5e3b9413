"""HyperTransport on a real language model: composed concepts, of which a third was held out of training.

    python benchmarks/real/hypertransport.py --jobs 2       writes benchmarks/results/real/hypertransport.json
    python benchmarks/real/hypertransport.py --gather       writes it from the cells that are there

The model is `lab:smollm2`, SmolLM2-135M-Instruct with dequantised Q4_1 weights, in bfloat16; the hypernetwork is in
float32. A concept is a sentiment, a formality and a topic: 28 in all. Held out are the four of one topic, and five
combinations of values that are known. Cells are hypernetworks, one a seed, and then concepts: each steering is brought
to each of two budgets of KL on neutral text, and goes on after neutral beginnings, greedily. A classifier of words,
fitted on texts of other sentences, says the log-odds of each of the concept's three values; their sum is the score.

Rivals that could win: maps fitted to the concept itself (MeanAcT, CAA), those of the nearest training concept, the mean
map, ridge regression on maps, no steering, and words in the prompt. The control that should fail is the hypernetwork
asked with the texts of another concept. Kill it whenever you like; the same command goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from steering import at, matched, repeats

from runs import head, model_of, options, results_of, span, write
from trimtab import CAA, HyperTransport, MeanAcT
from trimtab.lab.smollm2 import smollm2
from trimtab.models.load import Model
from trimtab.numerics.bootstrap import wilson
from trimtab.runs.paths import safe_name
from trimtab.seeds import derive
from trimtab.steer.hypertransport.fitted import FittedHyperTransport
from trimtab.steer.hypertransport.rivals import ConceptMaps
from trimtab.steer.steering import Steering

sys.path.append(str(Path(__file__).parents[1]))
from verdicts import INTERVAL, mean_interval

SITES = [f"residual.{block}" for block in range(4, 28, 6)]
MIDDLE = "residual.16"
BUDGETS = (0.1, 0.4)
"""KL on neutral text, nats per token, at which steerings are compared."""
HYPER, NAMED, CONTROL = "HyperTransport", "HyperTransport, name alone", "texts of another concept"
NEAREST, MEAN, RIDGE = "nearest training concept", "mean map", "ridge"
MEANACT, CAA_, PROMPTING, UNSTEERED = "MeanAcT on it", "CAA on it", "prompting", "unsteered"
EVERY_SEED = (HYPER, CONTROL)
"""Methods that are measured with every seed; the others with the first one."""
TRAIN, TOPIC, COMBINATION = "train", "new topic", "new combination"
Concept = tuple[str, str, str]
"""Sentiment, formality and topic."""
ATTRIBUTES = ("sentiment", "formality", "topic")

TOPICS = {
    "food": "soup bread cheese salad recipe dinner pasta cake",
    "weather": "rain storm wind sky cloud sunshine snow forecast",
    "music": "song guitar concert melody band singer album piano",
    "football": "goal match striker stadium referee league coach penalty",
    "gardens": "rose lawn hedge soil tulip shrub blossom gardener",
    "computers": "laptop keyboard software screen program server internet password",
    "travel": "airport hotel flight luggage passport tourist beach train",
}
NEW = "travel"
"""The topic that no training concept has."""


@dataclass(frozen=True)
class Wordings:
    """Parts of the sentences of one part: to fit with, or to judge by. No sentence is in both; some words are."""

    feelings: Mapping[str, Sequence[str]]
    openings: Mapping[str, Sequence[str]]
    endings: Mapping[str, Sequence[str]]
    frames: Sequence[str]


GLAD = ("wonderful", "delightful", "excellent", "superb", "charming", "splendid")
GLOOMY = ("terrible", "dreadful", "awful", "miserable", "horrible", "disappointing")
FIT = Wordings(
    feelings={"glad": GLAD, "gloomy": GLOOMY},
    openings={
        "formal": ("It must be noted that", "One may observe that", "We hereby report that", "In summary,"),
        "casual": ("Hey, guess what,", "Yeah so", "Man, you know,", "Ok guys,"),
    },
    endings={
        "formal": (", as previously stated.", ", in accordance with the report.", ", in this regard."),
        "casual": (", lol.", ", no kidding!", ", for real!"),
    },
    frames=("the {0} was {2}", "the {0} and the {1} were both {2}", "this {0} has been {2}"),
)
JUDGE = Wordings(
    feelings={
        "glad": (*GLAD, "great", "lovely", "amazing", "pleasant", "beautiful", "happy"),
        "gloomy": (*GLOOMY, "bad", "poor", "sad", "boring", "ugly", "unhappy"),
    },
    openings={
        "formal": (
            "We wish to state that",
            "It should be emphasised that",
            "It is therefore evident that",
            "In conclusion, one must note that",
            "Furthermore, it has been observed that",
            "In summary it is our view that",
        ),
        "casual": (
            "Dude, seriously,",
            "Gotta say,",
            "Oh yeah, hey,",
            "Guys, wanna know?",
            "Man, so like,",
            "Ok wow,",
        ),
    },
    endings={
        "formal": (
            " with regard to the matter.",
            ", pursuant to the agreement.",
            ", as noted in the report.",
            ", as stated in the previous section.",
        ),
        "casual": (
            ", haha.",
            ", kinda crazy, right?",
            ", you bet!",
            ", lol, whatever.",
            ", no joke, for real.",
        ),
    },
    frames=("every {0} seems {2}", "a more {2} {0} is hard to find", "that {0} by the {1} turned out {2}"),
)
PARTS = {"fit": FIT, "judge": JUDGE}
SOURCE = tuple(
    f"The {thing} {did}."
    for thing, did in product(
        ("office", "letter", "road", "chair", "meeting", "number", "house", "paper"),
        ("was there on Monday", "is next to the other one", "has been seen before", "has two parts"),
    )
)
"""Generic texts that maps act on."""
NEUTRAL = (
    "The river flows from the hills to the sea and passes three towns.",
    "A year has twelve months, and most of them have thirty or thirty-one days.",
    "The museum opens at nine and closes at five on every day but Tuesday.",
    "He put the box on the table, took out the map and read the names of the streets.",
    "Water freezes at zero degrees and boils at one hundred degrees at sea level.",
    "The library has four floors; the books on history are on the second.",
    "She counted the coins twice and wrote the sum into the book.",
    "The committee has seven members, who meet on the first Thursday of each month.",
)
"""Texts to leave alone."""
PROMPTS = (
    "Today I want to write about",
    "The first thing I would like to mention is",
    "My neighbour told me that",
    "Last week we talked about",
    "Here is what happened:",
    "I have been thinking about",
    "When we arrived, we saw",
    "Somebody asked me yesterday what I think of",
    "Let me tell you about",
    "In the end we decided that",
    "What I remember most is",
    "There is something about",
)


@dataclass(frozen=True)
class Size:
    """Texts of a run, and steps of a hypernetwork; a step draws so many generic texts, and half of a concept's."""

    texts: int = 16
    drawn: int = 12
    judge: int = 24
    steps: int = 500
    tokens: int = 24
    prompts: int = 12
    trained: int = 2
    length: int = 64


def concepts() -> dict[Concept, str]:
    """Every concept with its split."""
    kinds = list(product(("glad", "gloomy"), ("formal", "casual")))
    known = [name for name in TOPICS if name != NEW]
    held = {(*kinds[place % len(kinds)], topic) for place, topic in enumerate(known[:-1])}
    every = [(*kind, topic) for topic in TOPICS for kind in kinds]
    return {one: TOPIC if one[2] == NEW else COMBINATION if one in held else TRAIN for one in every}


def name_of(concept: Concept) -> str:
    """
    >>> name_of(("glad", "casual", "food"))
    'a glad, casual text about food'
    """
    return f"a {concept[0]}, {concept[1]} text about {concept[2]}"


def texts(concept: Concept, part: str, n: int) -> list[str]:
    """`n` different sentences of a concept.

    >>> texts(("glad", "casual", "food"), "fit", 1)[0].split()[0] in {"Hey,", "Yeah", "Man,", "Ok"}
    True
    """
    words, rng = PARTS[part], np.random.default_rng(derive(0, "real hypertransport", part, *concept))
    feeling, formality, topic = concept
    nouns, found = TOPICS[topic].split(), dict[str, None]()
    while len(found) < n:
        parts = (words.frames, words.feelings[feeling], words.openings[formality], words.endings[formality])
        frame, adjective, opening, ending = (str(rng.choice(list(one))) for one in parts)
        first, second = rng.permutation(nouns)[:2]
        found[f"{opening} {frame.format(first, second, adjective)}{ending}"] = None
    return list(found)


@dataclass(frozen=True, eq=False)
class Judge:
    """Logistic regressions on which words are there, one an attribute."""

    words: CountVectorizer
    regressions: Mapping[str, LogisticRegression]

    def log_odds(self, given: Sequence[str], concept: Concept) -> np.ndarray:
        """(n, 3) log-odds, in nats, of the concept's value of each attribute against all its other values."""
        rows, columns = self.words.transform(given), []
        for attribute, value in zip(ATTRIBUTES, concept, strict=True):
            regression = self.regressions[attribute]
            log_p = regression.predict_log_proba(rows)
            place = list(regression.classes_).index(value)
            others = np.logaddexp.reduce(np.delete(log_p, place, axis=1), axis=1)
            columns.append(log_p[:, place] - others)
        return np.stack(columns, axis=1)


@cache
def judge_of(n: int) -> Judge:
    """The judge, from `n` texts of each concept."""
    labelled = [(text, concept) for concept in concepts() for text in texts(concept, "judge", n)]
    words = CountVectorizer(binary=True).fit([text for text, _ in labelled])
    rows = words.transform([text for text, _ in labelled])
    return Judge(
        words,
        {
            name: LogisticRegression(C=10.0, max_iter=1000).fit(rows, [one[k] for _, one in labelled])
            for k, name in enumerate(ATTRIBUTES)
        },
    )


def judge_accuracy(size: Size) -> dict[str, Any]:
    """How often the judge names each attribute of the texts to fit with, none of whose sentences it knows."""
    judge, rows = judge_of(size.judge), []
    for concept in concepts():
        rows.append(judge.log_odds(texts(concept, "fit", size.texts), concept) > 0)
    right = np.concatenate(rows)
    return {name: span(wilson(int(right[:, k].sum()), len(right))) for k, name in enumerate(ATTRIBUTES)}


@cache
def network(model: str, size: Size, seed: int, folder: Path) -> FittedHyperTransport:
    """The hypernetwork of a seed; one that is finished in the folder is read."""
    estimator = HyperTransport(sites=SITES, steps=size.steps, examples=size.drawn, seed=seed)
    trained = {
        name_of(one): texts(one, "fit", size.texts) for one, split in concepts().items() if split == TRAIN
    }
    return estimator.fit(model_of(model, "bfloat16"), trained, SOURCE, out=folder / "fit")


def train(cell: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A cell of the first kind: a hypernetwork, and how new concepts are to it."""
    found = network(cell["model"], Size(**cell["size"]), cell["seed"], folder)
    texts_of = {one: texts(one, "fit", Size(**cell["size"]).texts) for one in concepts()}
    return {
        "losses": list(found.losses[:: max(1, len(found.losses) // 20)]),
        "usual_novelty": found.usual_novelty,
        "novelty": {name_of(one): found.novelty(given) for one, given in texts_of.items()},
    }


def steerings(cell: Mapping[str, Any], folder: Path) -> dict[str, Callable[[], Steering]]:
    """Steerings of a cell's concept by method; after the first seed only those of `EVERY_SEED`."""
    size, model, concept = Size(**cell["size"]), model_of(cell["model"], "bfloat16"), tuple(cell["concept"])
    hyper = network(cell["model"], size, cell["seed"], folder)
    mine, other = (texts(one, "fit", size.texts) for one in (concept, opposite(concept)))
    found: dict[str, Callable[[], Steering]] = {HYPER: lambda: hyper(mine), CONTROL: lambda: hyper(other)}
    if cell["seed"]:
        return found
    known = maps_of(hyper, cell["model"], size)
    embedding = hyper.embedding(mine)
    caa = CAA(sites=MIDDLE, position="mean")
    return found | {
        NAMED: lambda: hyper(name_of(concept)),
        NEAREST: lambda: known.nearest(embedding),
        MEAN: known.mean,
        RIDGE: lambda: known.ridge()(embedding),
        MEANACT: lambda: MeanAcT(sites=SITES).fit(model, source=list(SOURCE), target=mine),
        CAA_: lambda: caa.fit(model, source=list(SOURCE), target=mine),
    }


@cache
def _maps(model: str, size: Size) -> tuple[Steering, ...]:
    handle = model_of(model, "bfloat16")
    trained = [one for one, split in concepts().items() if split == TRAIN]
    return tuple(
        MeanAcT(sites=SITES).fit(handle, source=list(SOURCE), target=texts(one, "fit", size.texts))
        for one in trained
    )


def maps_of(hyper: FittedHyperTransport, model: str, size: Size) -> ConceptMaps:
    """Maps that MeanAcT fits to each training concept, beside the embeddings of the hypernetwork."""
    return ConceptMaps(hyper.concepts, hyper.embeddings, _maps(model, size))


def opposite(concept: Concept) -> Concept:
    """Another concept of which no value is the same.

    >>> opposite(("glad", "formal", "travel"))
    ('gloomy', 'casual', 'food')
    """
    topics = list(TOPICS)
    topic = topics[(topics.index(concept[2]) + 1) % len(topics)]
    feeling = {"glad": "gloomy", "gloomy": "glad"}[concept[0]]
    return feeling, {"formal": "casual", "casual": "formal"}[concept[1]], topic


def measure(cell: Mapping[str, Any], folder: Path) -> dict[str, Any]:  # noqa: ARG001
    """A cell of the second kind: every method on one concept, at each budget, and what needs no budget."""
    size, model, concept = Size(**cell["size"]), model_of(cell["model"], "bfloat16"), tuple(cell["concept"])
    prompts, judge = list(PROMPTS[: size.prompts]), judge_of(size.judge)
    at_network = Path(cell["networks"]) / safe_name(f"network {cell['seed']}")
    points = []
    for name, make in steerings(cell, at_network).items():
        steering = make()
        for budget in BUDGETS:
            point = matched(steering, model, NEUTRAL, budget, size.length)
            with at(steering, model, point["strength"]):
                points.append({"method": name} | point | _judged(judge, model, prompts, concept, size))
    if not cell["seed"]:
        words = [f"Write {name_of(concept)}. {one}" for one in prompts]
        for name, given in ((UNSTEERED, prompts), (PROMPTING, words)):
            points.append({"method": name, "budget": None} | _judged(judge, model, given, concept, size))
    return {"points": points}


def _judged(
    judge: Judge, model: Model, prompts: Sequence[str], concept: Concept, size: Size
) -> dict[str, Any]:
    """Completions with the sum of log-odds of each, and means of each attribute's."""
    said = model.generate(list(prompts), max_new_tokens=size.tokens)
    odds = judge.log_odds(said, concept)
    return {
        "scores": odds.sum(axis=1).tolist(),
        "attributes": dict(zip(ATTRIBUTES, odds.mean(axis=0).tolist(), strict=True)),
        "repeats": float(np.mean([repeats(one) for one in said])),
        "completions": said[:3],
    }


def networks(seeds: int, size: Size, model: str) -> dict[str, dict[str, Any]]:
    """Cells of the first kind."""
    return {f"network {seed}": {"seed": seed, "size": asdict(size), "model": model} for seed in range(seeds)}


def cells(seeds: int, size: Size, model: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Cells of the second kind: held-out concepts and some of those trained on, seed by seed."""
    every, splits = dict[str, dict[str, Any]](), concepts()
    trained = [one for one, split in splits.items() if split == TRAIN][:: len(TOPICS)][: size.trained]
    measured = [one for one, split in splits.items() if split != TRAIN] + trained
    for seed, concept in product(range(seeds), measured):
        cell = {"concept": list(concept), "split": splits[concept], "seed": seed}
        fixed = {"size": asdict(size), "model": model, "networks": str(folder.resolve())}
        every[f"{', '.join(concept)}, {seed}"] = cell | fixed
    return every


def gathered(
    nets: Mapping[str, Any], every: Mapping[str, Mapping[str, Any]], results: Mapping[str, Any], command: str,
    size: Size,
) -> dict[str, Any]:  # fmt: skip
    """The result: scores by method, budget and split, differences over concepts, and verdicts by rules set before."""
    there = [{**every[name], **results[name]} for name in every if name in results]
    settings = {"size": size, "sites": SITES, "budgets": BUDGETS, "dtype": "bfloat16, hypernetwork float32"}
    gaps = differences(there)
    return head(command, settings) | {
        "seeds": sorted({one["seed"] for one in there}),
        "concepts": {split: [name_of(one) for one, its in concepts().items() if its == split]
                     for split in (TRAIN, TOPIC, COMBINATION)},
        "cells": {"there": len(there), "planned": len(every)},
        "score": "sum of log-odds of the concept's three values, nats, mean over beginnings and seeds",
        "interval": f"{INTERVAL}; units are concepts; it does not cover the choice of seeds, which are few",
        "judge": judge_accuracy(size),
        "networks": nets,
        "table": table(there),
        "differences": gaps,
        "verdicts": verdicts(gaps),
        "runs": [{k: one[k] for k in ("concept", "split", "seed", "points")} for one in there],
    }  # fmt: skip


def by_concept(
    there: Iterable[Mapping[str, Any]],
) -> dict[tuple[str, float | None], dict[tuple[str, str], float]]:
    """Mean score over beginnings and seeds by method and budget, then by concept and split."""
    found: dict[Any, dict[Any, list[float]]] = {}
    for one in there:
        for point in one["points"]:
            mine = found.setdefault((point["method"], point["budget"]), {})
            mine.setdefault((", ".join(one["concept"]), one["split"]), []).append(
                float(np.mean(point["scores"]))
            )
    return {key: {at: float(np.mean(each)) for at, each in mine.items()} for key, mine in found.items()}


def table(there: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per split, budget and method: its score, log-odds of each attribute, KL, whether reached, repeats."""
    rows, scores = [], by_concept(there)
    for (method, budget), mine in scores.items():
        points = [
            (one["split"], point)
            for one in there
            for point in one["points"]
            if (point["method"], point["budget"]) == (method, budget)
        ]
        for split in dict.fromkeys(split for _, split in mine):
            some = [point for its, point in points if its == split]
            each = np.array([score for (_, its), score in mine.items() if its == split])
            row = {"split": split, "budget": budget, "method": method, "score": span(mean_interval(each))}
            row |= {
                k: float(np.mean([p[k] for p in some])) for k in ("kl", "reached", "repeats") if k in some[0]
            }
            row |= {k: float(np.mean([p["attributes"][k] for p in some])) for k in ATTRIBUTES}
            rows.append(row)
    return rows


def differences(there: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Score of the hypernetwork less that of each other method at the same budget, paired over held-out concepts.

    The last row of a budget is that of the control less no steering.
    """
    scores, rows = by_concept(there), []
    for budget in BUDGETS:
        pairs = [(HYPER, one) for one, its in scores if its in (budget, None) and one != HYPER]
        for method, rival in [*pairs, (CONTROL, UNSTEERED)]:
            mine = scores.get((method, budget), {})
            beside = scores.get((rival, budget), scores.get((rival, None), {}))
            both = [at for at in mine if at in beside and at[1] != TRAIN]
            if both:
                gaps = np.array([mine[at] - beside[at] for at in both])
                row = {"budget": budget, "method": method, "less": rival}
                rows.append(row | {"difference": span(mean_interval(gaps))})
    return rows


def verdicts(gaps: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Rules that were written before the first run; a claim must hold at every budget.

    Held where every interval lies above 0, partly where one does. Of maps that were fitted to the concept itself the
    claim is that they are not better: held where no interval lies below 0.
    """
    rows = []
    for method, rival in dict.fromkeys((one["method"], one["less"]) for one in gaps if one["less"] != NAMED):
        each = [one["difference"] for one in gaps if (one["method"], one["less"]) == (method, rival)]
        if method == CONTROL:
            fails = all(one["low"] <= 0 for one in each)
            rows.append({"claim": "the control fails: no better than no steering", "verdict": _word([fails])})
        elif rival in (MEANACT, CAA_, PROMPTING):
            fine = [one["high"] >= 0 for one in each]
            rows.append({"claim": f"{HYPER} is not shown to be worse than {rival}", "verdict": _word(fine)})
        else:
            above = [one["low"] > 0 for one in each]
            rows.append({"claim": f"{HYPER} scores above {rival}", "verdict": _word(above)})
    return rows


def _word(each: Sequence[bool]) -> str:
    """
    >>> _word([True, False])
    'partly'
    """
    return "held" if all(each) else "partly" if any(each) else "did not hold"


def main() -> None:
    parser = options("hypertransport", __doc__)
    parser.add_argument("--seeds", type=int, default=2)
    asked = parser.parse_args()
    size, model = Size(), str(smollm2())
    command = f"python benchmarks/real/hypertransport.py --jobs {asked.jobs} --seeds {asked.seeds}"
    every = cells(asked.seeds, size, model, asked.folder)
    nets = results_of(train, networks(asked.seeds, size, model), asked)  # all before any is read
    write(asked.out, gathered(nets, every, results_of(measure, every, asked), command, size))


if __name__ == "__main__":
    main()
