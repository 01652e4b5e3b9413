"""Five steerings of a real chat model at matched side effects: rude requests to polite ones, and code to prose.

    python benchmarks/real/steering.py --jobs 2            writes benchmarks/results/real/steering.json
    python benchmarks/real/steering.py --gather            writes it from the cells that are there

The model is `lab:smollm2`, SmolLM2-135M-Instruct with dequantised Q4_1 weights. A cell is a pair of registers, a
method and a draw of 32 + 32 examples. Each steering is tried at strengths whose KL on neutral text is near each of
two budgets. There it goes on after prompts of the source register, greedily. A classifier of words (of requests)
or of characters (of code), fitted on register texts that no fit reads, says how much the completions are still of the
source register. The control is the same fit on both registers shuffled together, which should change nothing but by
chance. Kill it whenever you like; the same command goes on.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trimtab import CAA, ITI, LinAcT, LinEAS, MeanAcT, load
from trimtab.lab.corpora import corpus
from trimtab.lab.models import read_texts
from trimtab.lab.registers import Detector, beginnings, fit_detector, registers, separation
from trimtab.lab.requests import PARTS, SYSTEM, Part, Register, instruction, prose_chat, requests
from trimtab.lab.smollm2 import PACKAGE, VERSION, WEIGHTS, smollm2
from trimtab.models.language import kl_divergence
from trimtab.models.load import Model
from trimtab.numerics.bootstrap import Interval, bootstrap, mean
from trimtab.runs.atomic import write_atomic
from trimtab.runs.environment import hardware
from trimtab.runs.paths import safe_name
from trimtab.runs.serialise import plain, to_json
from trimtab.runs.sweep import read_cell, sweep
from trimtab.seeds import derive
from trimtab.steer.samples import rows_to_measure
from trimtab.steer.steering import Steering

RESULT = Path(__file__).parents[1] / "results" / "real" / "steering.json"
BLOCKS = range(7, 23, 2)
RESIDUAL = [f"residual.{block}" for block in BLOCKS]
METHODS: dict[str, Any] = {
    "LinEAS": LinEAS(sites=RESIDUAL, gamma=0.0, lr=0.03, steps=15),
    "MeanAcT": MeanAcT(sites=RESIDUAL),
    "LinAcT": LinAcT(sites=RESIDUAL),
    "CAA": CAA(sites="residual.15", position="mean"),
    "ITI": ITI(sites=[f"attention_out.{block}" for block in BLOCKS], alpha=5.0, pool="mean"),
}
"""Transport maps at eight blocks of the middle. CAA at one block and ITI behind attention, as in their papers; but with
the mean over tokens, since the last one closes a sentence in every register."""
CONTROLLED = ("LinEAS", "MeanAcT")
"""Methods of which the control is fitted too."""
BUDGETS = (0.1, 0.3)
"""KL on neutral text, nats per token, at which methods are compared."""
NEAR, TRIES = 0.1, 6
"""How near to the budget KL has to be, as a share of it, and how many strengths are tried for that."""
MOST = 16.0
"""The largest strength; beyond 1 a map is carried on in a straight line."""
MANNERS, CODE = "rude to polite", "code to prose"


@dataclass(frozen=True)
class Size:
    """Texts of a run."""

    examples: int = 32
    judge: int = 80
    prompts: int = 24
    neutral: int = 12
    tokens: int = 28
    length: int = 96
    history: int = 3


@dataclass(frozen=True, eq=False)
class Pair:
    """A pair of registers.

    Attributes:
        source: to fit with; twice as many as a fit takes, so that draws differ.
        target: likewise.
        prompts: of the source register, to go on with.
        contrast: the same prompts of the target register; what a completion looks like where nothing has to change.
        neutral: texts to leave alone.
        judge: source and target texts that the classifier is fitted on.
        unseen: source and target texts that neither it nor a completion shares a wording with, to rate it by.
    """

    source: Sequence[Any]
    target: Sequence[Any]
    prompts: Sequence[Any]
    contrast: Sequence[Any]
    neutral: Sequence[Any]
    judge: tuple[Sequence[str], Sequence[str]]
    unseen: tuple[Sequence[str], Sequence[str]]


def manners(size: Size) -> Pair:
    """Requests that a chat model writes; fits read none of the words of prompts and classifier."""

    def replies(register: Register, part: Part) -> list[str]:
        return [one["messages"][-1]["content"] for one in requests(register, part, size.judge)]

    fit, judge = PARTS
    source, target = (requests(register, fit, 2 * size.examples) for register in ("rude", "polite"))
    prompts, contrast = (
        [_after(register, number, size) for number in range(size.prompts)] for register in ("rude", "polite")
    )
    return Pair(
        source=source,
        target=target,
        prompts=prompts,
        contrast=contrast,
        neutral=prose_chat(registers(size.neutral, 1, split="validation").prose),
        judge=(replies("rude", judge), replies("polite", judge)),
        unseen=(replies("rude", fit), replies("polite", fit)),
    )


ASKED = (
    ("driver", "slow down"),
    ("teacher", "repeat the question"),
    ("farmer", "sell the eggs"),
    ("pilot", "land the plane"),
    ("tailor", "mend the coat"),
    ("singer", "start the concert"),
    ("plumber", "stop the leak"),
    ("librarian", "stamp the books"),
)
"""Who is asked, and what for, in the last turn of a prompt; no register text has these tasks."""


def _after(register: Register, number: int, size: Size) -> list[dict[str, str]]:
    """A prompt: requests of one register, then one more to write."""
    turns = requests(register, "judge", size.history, seed=derive(number, "real steering", "history") % 2**31)
    last = {"role": "user", "content": instruction(*ASKED[number % len(ASKED)])}
    said = [message for one in turns for message in one["messages"] if message["role"] != "system"]
    return [{"role": "system", "content": SYSTEM}, *said, last]


def code(size: Size) -> Pair:
    """Lines of code and sentences of docstrings of this installation, as plain text."""
    drawn = registers(2 * size.examples, 0, split="validation")
    judged, judge = registers(size.prompts, 0, split="test"), registers(10 * size.judge, 0)
    unseen = registers(size.judge, 2, split="test")
    seen = {*drawn.code, *drawn.prose, *judged.code, *judged.prose, *unseen.code, *unseen.prose}
    lines = [
        line for text in read_texts(corpus("metadata"), "validation", 200_000) for line in text.splitlines()
    ]
    return Pair(
        source=drawn.code,
        target=drawn.prose,
        prompts=beginnings(judged.code),
        contrast=beginnings(judged.prose),
        neutral=[line for line in dict.fromkeys(lines) if len(line) > 40][: size.neutral],
        judge=(
            [one for one in judge.code if one not in seen],
            [one for one in judge.prose if one not in seen],
        ),
        unseen=(unseen.code, unseen.prose),
    )


PAIRS = {MANNERS: manners, CODE: code}


@cache
def pair_of(name: str, size: Size) -> tuple[Pair, Detector]:
    """A pair and its classifier."""
    pair = PAIRS[name](size)
    return pair, fit_detector(*pair.judge, words=name == MANNERS)


@cache
def model_of(folder: str) -> Model:
    torch.set_num_threads(1)
    return load(folder, device="cpu")


def examples(pair: Pair, count: int, draw: int, *, shuffled: bool) -> tuple[list[Any], list[Any]]:
    """Source and target examples of a draw; shuffled, each side holds as many of either register by chance.

    >>> pair = Pair(list("abcd"), list("wxyz"), [], [], [], ([], []), ([], []))
    >>> [sorted({*side} & {*"abcd"}) == sorted(side) for side in examples(pair, 2, 0, shuffled=False)]
    [True, False]
    """
    rng = np.random.default_rng(derive(draw, "real steering", "draw"))
    sides = [
        [side[place] for place in rng.permutation(len(side))[:count]] for side in (pair.source, pair.target)
    ]
    if shuffled:
        both = [*sides[0], *sides[1]]
        mixed = [both[place] for place in rng.permutation(len(both))]
        sides = [mixed[:count], mixed[count:]]
    return sides[0], sides[1]


def run(cell: Mapping[str, Any], folder: Path) -> dict[str, Any]:  # noqa: ARG001
    """One steering: its fit, its strength at each budget, and its completions there."""
    size, model = Size(**cell["size"]), model_of(cell["model"])
    pair, detector = pair_of(cell["pair"], size)
    if cell["method"] is None:
        return untouched(model, pair, detector, size)
    source, target = examples(pair, size.examples, cell["draw"], shuffled=cell["shuffled"])
    start = time.process_time()
    steering = METHODS[cell["method"]].fit(model, source=source, target=target)
    seconds, tried = time.process_time() - start, []
    for budget in cell["budgets"]:
        point = matched(steering, model, pair.neutral, budget, size.length)
        with at(steering, model, point["strength"]):
            texts = model.generate(list(pair.prompts), max_new_tokens=size.tokens)
        tried.append(point | judged(detector, texts))
    return {"cpu_s": round(seconds, 1), "cost": steering.made_by["cost"], "budgets": tried}


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


def cells(draws: int, size: Size, model: str) -> dict[str, dict[str, Any]]:
    """Every cell by name, draw by draw, controls last, so that what is there first is of all methods."""
    fixed = {"size": asdict(size), "model": model, "budgets": list(BUDGETS)}
    alone = {"method": None, "draw": 0, "shuffled": False}
    every = {f"{pair}, untouched": {"pair": pair, **alone, **fixed} for pair in PAIRS}
    for shuffled, draw, pair in product((False, True), range(draws), PAIRS):
        for method in CONTROLLED if shuffled else METHODS:
            cell = {"pair": pair, "method": method, "draw": draw, "shuffled": shuffled}
            every[f"{pair}, {method}, {draw}{', shuffled' * shuffled}"] = cell | fixed
    return every


def gathered(
    every: Mapping[str, Mapping[str, Any]], results: Mapping[str, Any], command: str, size: Size
) -> dict[str, Any]:
    """The result: scores by pair, budget and method, and differences from the untouched model and from LinEAS."""
    there = [{**every[name], **results[name], "cell": name} for name in every if name in results]
    return plain(
        {
            "command": command,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "model": {"name": "SmolLM2-135M-Instruct", "weights": WEIGHTS, "package": f"{PACKAGE} {VERSION}"},
            "versions": {one: version(one) for one in ("trimtab", "torch", "transformers", "scikit-learn")}
            | {"python": platform.python_version()},
            "hardware": hardware(),
            "seeds": {"draws": sorted({one["draw"] for one in there}), "registers": 0},
            "settings": {"size": size, "methods": METHODS, "budgets": BUDGETS, "largest_strength": MOST},
            "score": "probability, by the classifier, that a completion is of the source register",
            "interval": "95 %, over prompts, each the mean over draws; it does not cover the choice of examples",
            "cells": {"there": len(there), "planned": len(every)},
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
            grouped.setdefault(key, []).append(point)
    over_draws = {
        key: np.mean([point["scores"] for point in points], axis=0) for key, points in grouped.items()
    }
    for key, points in grouped.items():
        pair, budget, method, shuffled = key
        scores, reference = over_draws[key], over_draws.get((pair, budget, "LinEAS", False))
        row = {"pair": pair, "budget": budget, "method": method, "shuffled": shuffled, "draws": len(points)}
        row |= {"score": _interval(bootstrap(mean, scores))}
        row |= {"by_draw": [round(float(np.mean(point["scores"])), 4) for point in points]}
        if pair in base:
            row["less_than_untouched"] = _interval(bootstrap(mean, scores - base[pair]))
        if reference is not None and (method, shuffled) != ("LinEAS", False):
            row["less_lineas"] = _interval(bootstrap(mean, scores - reference))
        row |= {name: _mean(points, name) for name in ("strength", "kl", "reached")}
        rows.append(row | {"repeats": round(float(np.mean([point["repeats"] for point in points])), 4)})
    return rows


def _mean(points: Sequence[Mapping[str, Any]], name: str) -> float:
    return round(float(np.mean([point[name] for point in points])), 4)


def _interval(found: Interval) -> dict[str, Any]:
    return {name: round(getattr(found, name), 4) for name in ("value", "low", "high")} | {"n": found.n}


def _bare(one: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one[name] for name in ("pair", "accuracy", "separation", "source", "target")}


def _completed(one: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one[name] for name in ("pair", "method", "draw", "shuffled", "cpu_s", "budgets")}


def kept(every: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Results of the cells that have ended, read from their files; another sweep may be at work."""
    records = {name: read_cell(folder / safe_name(name)) for name in every}
    return {name: one["result"] for name, one in records.items() if one and one["status"] == "done"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-real-steering"))
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument(
        "--gather", action="store_true", help="run nothing; the result of the cells that are there"
    )
    asked = parser.parse_args()
    size, command = Size(), f"python benchmarks/real/steering.py --jobs {asked.jobs} --draws {asked.draws}"
    every = cells(asked.draws, size, str(smollm2()))
    if asked.gather:
        results = kept(every, asked.folder)
    else:
        done = sweep(run, every, asked.folder, jobs=asked.jobs, progress=_tell)
        results = done.results
        for name, error in done.failures.items():
            print(f"failed: {name}: {error}", file=sys.stderr)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(asked.out, to_json(gathered(every, results, command, size), indent=1) + "\n")


def _tell(ended: int, total: int) -> None:
    print(f"{time.strftime('%H:%M:%S', time.gmtime())} {ended} of {total} cells", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
