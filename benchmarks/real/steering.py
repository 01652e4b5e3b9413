"""Five steerings of a real chat model at matched side effects: rude requests to polite ones, and code to prose.

    python benchmarks/real/steering.py --jobs 2            writes benchmarks/results/real/steering.json
    python benchmarks/real/steering.py --gather            writes it from the cells that are there

The model is `lab:smollm2`, SmolLM2-135M-Instruct with dequantised Q4_1 weights, held in bfloat16. A cell is a pair of
registers, a method and a draw of 32 + 32 examples. Each steering is tried at strengths whose KL on neutral text is near
each of two budgets. There it goes on after prompts of the source register, greedily. A classifier of words (of
requests) or of characters (of code), fitted on register texts that no fit reads, says how much the completions are
still of the source register. The control is the same fit on both registers shuffled together, which should change
nothing but by chance. Kill it whenever you like; the same command goes on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from steering_texts import CODE, MANNERS, PAIRS, Pair, Size, examples, pair_of

from runs import head, model_of, options, results_of, write
from trimtab import CAA, ITI, LinAcT, LinEAS, MeanAcT
from trimtab.lab.registers import Detector, separation
from trimtab.lab.smollm2 import smollm2
from trimtab.models.language import kl_divergence
from trimtab.models.load import Model
from trimtab.numerics.bootstrap import Interval, bootstrap, mean
from trimtab.runs.serialise import plain
from trimtab.steer.samples import rows_to_measure
from trimtab.steer.steering import Steering

DTYPE = "bfloat16"
"""Of the weights; maps are fitted in float32."""
BLOCKS = range(7, 23, 2)
RESIDUAL = [f"residual.{block}" for block in BLOCKS]
OURS, WARM, LOCAL = "LinEAS", "LinEAS from LinAcT", "LinAcT"
METHODS: dict[str, Any] = {
    OURS: LinEAS(sites=RESIDUAL, gamma=0.0, steps=15),
    WARM: LinEAS(sites=RESIDUAL, gamma=0.0, steps=15),
    "MeanAcT": MeanAcT(sites=RESIDUAL),
    LOCAL: LinAcT(sites=RESIDUAL),
    "CAA": CAA(sites="residual.15", position="mean"),
    "ITI": ITI(sites=[f"attention_out.{block}" for block in BLOCKS], alpha=5.0, pool="mean"),
}
"""Transport maps at eight blocks of the middle; LinEAS starts at the identity, or at the maps of LinAcT. CAA at one
block and ITI behind attention, as in their papers; but with the mean over tokens, since the last one closes a sentence
in every register."""
RATES, TUNING_DRAW = {OURS: (0.003, 0.01, 0.03), WARM: (0.001, 0.003)}, 100
"""Learning rates, tried on a draw of examples of their own."""
LRS = {OURS: {MANNERS: 0.03, CODE: 0.003}, WARM: {MANNERS: 0.001, CODE: 0.001}}
"""Those with the least cost afterwards, see `least`; a test compares them with the result."""
CONTROLLED = ("MeanAcT",)
"""Methods of which the control is fitted too."""
BUDGETS = (0.1, 0.3)
"""KL on neutral text, nats per token, at which methods are compared."""
NEAR, TRIES = 0.1, 6
"""How near to the budget KL has to be, as a share of it, and how many strengths are tried for that."""
MOST = 16.0
"""The largest strength; beyond 1 a map is carried on in a straight line."""


def run(cell: Mapping[str, Any], folder: Path) -> dict[str, Any]:  # noqa: ARG001
    """One steering: its fit, its strength at each budget, and its completions there."""
    size, model = Size(**cell["size"]), model_of(cell["model"], DTYPE)
    pair, detector = pair_of(cell["pair"], size)
    if cell["method"] is None:
        return untouched(model, pair, detector, size)
    source, target = examples(pair, size.examples, cell["draw"], shuffled=cell["shuffled"])
    start = time.process_time()
    estimator = estimator_of(cell["method"], cell["pair"], cell.get("lr"))
    warm = {"start": METHODS[LOCAL].fit(model, source, target)} if cell["method"] == WARM else {}
    steering, tried = estimator.fit(model, source, target, **warm), list[dict[str, Any]]()
    spent = {"cpu_s": round(time.process_time() - start, 1), "cost": steering.made_by["cost"]}
    if "lr" in cell:
        return spent
    for budget in cell["budgets"]:
        point = matched(steering, model, pair.neutral, budget, size.length)
        with at(steering, model, point["strength"]):
            texts = model.generate(list(pair.prompts), max_new_tokens=size.tokens)
        tried.append(point | judged(detector, texts))
    return spent | {"budgets": tried}


def estimator_of(method: str, pair: str, lr: float | None = None) -> Any:
    """The estimator of a method for a pair, with its learning rate where it has one, or with another."""
    if method not in LRS:
        return METHODS[method]
    return replace(METHODS[method], lr=lr or LRS[method][pair])


def at(steering: Steering, model: Model, strength: float) -> AbstractContextManager[None]:
    """The steering at any strength; beyond 1 its maps are scaled."""
    return (steering * max(strength, 1.0)).on(model, min(strength, 1.0))


def matched(
    steering: Steering, model: Model, neutral: Sequence[Any], budget: float, length: int
) -> dict[str, Any]:
    """A strength whose KL on neutral texts is near the budget, in a few tries: KL grows about as strength squared.

    Each try is scaled from the nearest one so far. The nearest in the end is taken; `reached` says whether its KL is
    near enough.
    """
    rows = rows_to_measure(model, list(neutral), "neutral", length)
    strength, best = 1.0, {"budget": budget, "strength": 0.0, "kl": 0.0, "reached": False}
    for _ in range(TRIES):
        kl = kl_divergence(
            model, rows, lambda s=strength: at(steering, model, s), max_tokens=length
        ).mean_nats
        if abs(kl - budget) < abs(best["kl"] - budget):
            best |= {"strength": round(strength, 5), "kl": round(kl, 5)}
            best["reached"] = abs(kl - budget) <= NEAR * budget
        if best["reached"] or (strength == MOST and kl < budget):
            break
        strength = min(strength * math.sqrt(budget / max(kl, 1e-9)), MOST)
    return best


def untouched(model: Model, pair: Pair, detector: Detector, size: Size) -> dict[str, Any]:
    """The model as it is, after prompts of both registers, and how well the classifier tells them apart."""
    told = {
        name: judged(detector, model.generate(list(prompts), max_new_tokens=size.tokens))
        for name, prompts in (("source", pair.prompts), ("target", pair.contrast))
    }
    right = [detector.score(pair.unseen[0]) > 0.5, detector.score(pair.unseen[1]) < 0.5]
    generated = separation(detector, *(told[name]["completions"] for name in ("source", "target")))
    return told | {
        "accuracy": _interval(bootstrap(mean, np.concatenate(right).astype(float))),
        "separation": _interval(generated),
    }


def judged(detector: Detector, texts: Sequence[str]) -> dict[str, Any]:
    """Completions, the probability that each is of the source register, and how much each repeats itself."""
    scores = np.round(detector.score(texts), 5).tolist()
    return {
        "scores": scores,
        "repeats": [round(repeats(text), 4) for text in texts],
        "completions": list(texts),
    }


def repeats(text: str) -> float:
    """Share of a text's word pairs that it has had before: near 1 where it goes round in circles.

    >>> repeats("a b a b a b"), repeats("a b c")
    (0.6, 0.0)
    """
    words = text.split()
    pairs = list(pairwise(words))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


def tuning_cells(size: Size, model: str) -> dict[str, dict[str, Any]]:
    """Cells that choose learning rates, by cost alone: nothing is judged."""
    shared = {"draw": TUNING_DRAW, "shuffled": False, "size": asdict(size), "model": model}
    return {
        f"{pair}, {method}, lr {lr:g}, {TUNING_DRAW}": {
            "pair": pair,
            "method": method,
            "lr": lr,
            **shared,
            "settings": asdict(estimator_of(method, pair, lr)),
        }
        for method, rates in RATES.items()
        for pair, lr in product(PAIRS, rates)
    }


def least(tuning: Sequence[Mapping[str, Any]], method: str, pair: str) -> float:
    """The learning rate of a method with the least cost on a pair.

    >>> tried = [{"method": "a", "pair": "p", "lr": lr, "cost": [1, cost]} for lr, cost in ((0.1, 0.9), (0.2, 0.5))]
    >>> least([*tried, {"method": "a", "pair": "q", "lr": 9.0, "cost": [1, 0]}], "a", "p")
    0.2
    """
    mine = [one for one in tuning if (one["method"], one["pair"]) == (method, pair)]
    return float(min(mine, key=lambda one: one["cost"][1])["lr"])


def mean_cost(cost: Mapping[str, Sequence[float]]) -> list[float]:
    """Transport cost before and after, the mean over sites, in target variances."""
    return [round(float(end), 4) for end in np.mean(list(cost.values()), axis=0)]


def cells(draws: int, size: Size, model: str) -> dict[str, dict[str, Any]]:
    """Every cell by name, draw by draw, controls last, so that what is there first is of all methods."""
    fixed = {"size": asdict(size), "model": model, "budgets": list(BUDGETS)}
    alone = {"method": None, "draw": 0, "shuffled": False}
    every = {f"{pair}, untouched": {"pair": pair, **alone, **fixed} for pair in PAIRS}
    for shuffled, draw, pair in product((False, True), range(draws), PAIRS):
        for method in CONTROLLED if shuffled else METHODS:
            cell = {"pair": pair, "method": method, "draw": draw, "shuffled": shuffled}
            cell |= {"settings": asdict(estimator_of(method, pair))}  # none of others passes for one of these
            every[f"{pair}, {method}, {draw}{', shuffled' * shuffled}"] = cell | fixed
    return every


def gathered(
    every: Mapping[str, Mapping[str, Any]], results: Mapping[str, Any], command: str, size: Size
) -> dict[str, Any]:
    """The result: scores by pair, budget and method, and differences from the untouched model and from LinEAS."""
    whole = [{**every[name], **results[name], "cell": name} for name in every if name in results]
    tuning, there = ([one for one in whole if ("lr" in one) == tuned] for tuned in (True, False))
    settings = {
        "size": size,
        "methods": METHODS,
        "learning_rates": LRS,
        "budgets": BUDGETS,
        "largest_strength": MOST,
        "dtype": DTYPE,
    }
    return head(command, settings) | plain(
        {
            "seeds": {"draws": sorted({one["draw"] for one in there}), "registers": 0},
            "score": "probability, by the classifier, that a completion is of the source register",
            "interval": "95 %, over prompts, each the mean over draws; it does not cover the choice of examples",
            "cells": {"there": len(whole), "planned": len(every)},
            "tuning": [
                {name: one[name] for name in ("pair", "method", "lr", "draw")}
                | {"cost": mean_cost(one["cost"])}
                for one in tuning
            ],
            "untouched": [_bare(one) for one in there if one["method"] is None],
            "table": table(there),
            "runs": [_completed(one) for one in there if one["method"] is not None],
        }
    )


def table(there: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per pair, budget, method and control, over the draws that are there."""
    rows = []
    base = {one["pair"]: np.array(one["source"]["scores"]) for one in there if one["method"] is None}
    grouped = dict[tuple[str, float, str, bool], list[Mapping[str, Any]]]()
    for one in there:
        for point in one.get("budgets", ()) if one["method"] is not None else ():
            key = (one["pair"], point["budget"], one["method"], one["shuffled"])
            grouped.setdefault(key, []).append(point | {"cost": mean_cost(one["cost"])[1]})
    over_draws = {
        key: np.mean([point["scores"] for point in points], axis=0) for key, points in grouped.items()
    }
    for key, points in grouped.items():
        pair, budget, method, shuffled = key
        scores, reference = over_draws[key], over_draws.get((pair, budget, OURS, False))
        row = {"pair": pair, "budget": budget, "method": method, "shuffled": shuffled, "draws": len(points)}
        row |= {"score": _interval(bootstrap(mean, scores))}
        row |= {"by_draw": [round(float(np.mean(point["scores"])), 4) for point in points]}
        if pair in base:
            row["less_than_untouched"] = _interval(bootstrap(mean, scores - base[pair]))
        if shuffled and (true := over_draws.get((pair, budget, method, False))) is not None:
            row["less_true"] = _interval(bootstrap(mean, scores - true))
        if reference is not None and (method, shuffled) != (OURS, False):
            row["less_lineas"] = _interval(bootstrap(mean, scores - reference))
        if method == WARM and (local := over_draws.get((pair, budget, LOCAL, False))) is not None:
            row["less_local"] = _interval(bootstrap(mean, scores - local))
        row |= {name: _mean(points, name) for name in ("strength", "kl", "reached", "cost")}
        rows.append(row | {"repeats": round(float(np.mean([point["repeats"] for point in points])), 4)})
    return rows


def _mean(points: Sequence[Mapping[str, Any]], name: str) -> float:
    return round(float(np.mean([point[name] for point in points])), 4)


def _interval(found: Interval) -> dict[str, Any]:
    return {name: round(getattr(found, name), 4) for name in ("value", "low", "high")} | {"n": found.n}


def _bare(one: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one[name] for name in ("pair", "accuracy", "separation", "source", "target")}


def _completed(one: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one[name] for name in ("pair", "method", "draw", "shuffled", "cpu_s", "cost", "budgets")}


def main() -> None:
    parser = options("steering", __doc__)
    parser.add_argument("--draws", type=int, default=3)
    asked = parser.parse_args()
    size, command = Size(), f"python benchmarks/real/steering.py --jobs {asked.jobs} --draws {asked.draws}"
    folder = str(smollm2())
    every = tuning_cells(size, folder) | cells(asked.draws, size, folder)
    write(asked.out, gathered(every, results_of(run, every, asked), command, size))


if __name__ == "__main__":
    main()
