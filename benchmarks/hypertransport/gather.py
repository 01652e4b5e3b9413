"""Result file of the benchmark: means over concepts, and the evidence of each claim, from the kept records."""

from __future__ import annotations

import datetime
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from claims import BREAK_EVEN, MARGIN, judged
from measures import STRENGTHS, at_budget, at_full
from methods import (
    HYPER,
    HYPER_2,
    HYPER_FEW,
    LINEAS,
    LINEAS_ALIKE,
    LINEAS_SHORT,
    MEAN,
    NEAREST,
    PROMPTING,
    REFINED,
    RIDGE,
    RIDGE_FEW,
    UNSTEERED,
    Chosen,
)
from world import Size

from trimtab.numerics.bootstrap import Interval, bootstrap, spearman
from trimtab.runs.environment import hardware
from trimtab.runs.serialise import plain
from trimtab.steer.hypertransport.concept_file import SPLITS, TRAIN
from trimtab.steer.hypertransport.measuring import ALL_HELD_OUT, BUDGET, break_even

sys.path.append(str(Path(__file__).parents[1]))
from verdicts import INTERVAL, mean_interval

RESULTS = Path(__file__).parents[1] / "results" / "hypertransport"
Record = Mapping[str, Any]
Of = Callable[[Record, str], float]
PLANES = ("planes", "conditions", "counts", "novelty")
DIGITS = 5


def gathered(runs: Sequence[Record], chosen: Chosen, size: Size) -> dict[str, Any]:
    """The whole result, without its command."""
    evidence = {key: found for key, found in evidence_of(runs).items() if found}
    return plain(
        {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "versions": {one: version(one) for one in ("trimtab", "torch", "transformers", "numpy")},
            "hardware": hardware(),
            "interval": INTERVAL,
            "settings": {"size": size, "chosen": chosen, "budget": BUDGET, "margin": MARGIN}
            | {"strengths": STRENGTHS, "break_even": BREAK_EVEN},
            "seeds": [{"seed": run["seed"], "concepts": run["concepts"]} for run in runs],
            "verdicts": judged(evidence),
            "evidence": evidence,
            "overall": overall(runs),
            **{piece: list(_means(runs, piece)) for piece in PLANES},
            "novel": [
                {"seed": run["seed"], **{key: one[key] for key in ("concept", "split", "novelty", "usual")}}
                | {"reached": round(equal(one, HYPER), DIGITS)}
                for run in runs
                for one in run.get("novelty", ())
            ],
            "attributes": list(_attributes(runs)),
            "seconds": list(_seconds(runs)),
        }
    )


def equal(record: Record, method: str) -> float:
    """Concept fidelity at equal input."""
    return at_budget(record["curves"][method], record["curves"][UNSTEERED][0])


def full(what: str) -> Of:
    """A measure at strength 1."""
    return lambda record, method: at_full(record["curves"][method], what)


def _interval(found: Interval) -> dict[str, Any]:
    ends = (found.value, found.low, found.high)
    names = ("value", "low", "high")
    return {
        name: round(one, DIGITS) for name, one in zip(names, ends, strict=True) if not math.isnan(one)
    } | {"n": found.n}


def groups(records: Sequence[Record]) -> Iterator[tuple[str, list[Record]]]:
    """Records of each split; those of training concepts last."""
    for split in dict.fromkeys(
        sorted((one["split"] for one in records), key=lambda one: (one == TRAIN, one))
    ):
        yield SPLITS.get(split, split), [one for one in records if one["split"] == split]


def _means(runs: Sequence[Record], piece: str) -> Iterator[dict[str, Any]]:
    """Means over concepts of each seed, split, method and strength; the last of a curve is at equal input."""
    for run in runs:
        records = list(run.get(piece, ()))
        held = [one for one in records if one["split"] != TRAIN]
        for split, some in [*groups(records), (ALL_HELD_OUT, held)]:
            for method in some[0]["curves"] if some else ():
                told = {"seed": run["seed"], "split": split, "method": method}
                curves = [one["curves"][method] for one in some]
                for points in zip(*curves, strict=True):
                    values = {
                        name: _interval(mean_interval(np.array([point[name] for point in points])))
                        for name in ("concept", "whole", "input", "distance")
                    }
                    yield told | {"strength": points[0]["strength"]} | values
                reached = np.array([equal(one, method) for one in some])
                yield told | {"strength": None, "concept": _interval(mean_interval(reached))}


def _attributes(runs: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """Shares of values that are seen at equal input, by attribute, over held-out concepts of all seeds."""
    records = [one for run in runs for one in run.get("planes", ()) if one["split"] != TRAIN]
    found: dict[tuple[str, str], list[float]] = {}
    for one in records:
        start = one["curves"][UNSTEERED][0]
        for method, attribute in product(one["curves"], start["values"]):
            reached = at_budget(one["curves"][method], start, attribute)
            found.setdefault((attribute, method), []).append(reached)
    for (attribute, method), shares in found.items():
        share = _interval(mean_interval(np.array(shares)))
        yield {"attribute": attribute, "method": method, "concept": share}


def _seconds(runs: Sequence[Record]) -> Iterator[dict[str, Any]]:
    for run in runs:
        if records := run.get("seconds"):
            names = records[0]["seconds"]
            each = {name: float(np.mean([one["seconds"][name] for one in records])) for name in names}
            training = records[0]["training"]
            training = math.nan if training is None else float(training)
            pairs = [[one["seconds"][name] for one in records] for name in (HYPER, LINEAS)]
            pays = bootstrap(partial(_pays_from, training), *map(np.array, pairs), paired=True)
            told = {"seed": run["seed"], "each": each, "training": training}
            yield told | {"break_even": _interval(pays), "n": len(records)}


def _pays_from(training: float, each: Any, rival: Any) -> float:
    return break_even(training, float(np.mean(each)), float(np.mean(rival)))


def difference(
    records: Sequence[Record], what: str, first: str, second: str, of: Of = equal
) -> dict[str, Any]:
    """The first method less the second, paired over concepts."""
    gaps = np.array([of(one, first) - of(one, second) for one in records])
    return {"what": what} | _interval(mean_interval(gaps))


DIFFERENCES: Mapping[str, tuple[str, str, Of]] = {
    "mean": (HYPER, MEAN, equal),
    "nearest": (HYPER, NEAREST, equal),
    "ridge": (HYPER, RIDGE, equal),
    "end to end": (HYPER_FEW, RIDGE_FEW, equal),
    "lineas": (HYPER, LINEAS, equal),
    "p concept": (HYPER, HYPER_2, full("concept")),
    "p input": (HYPER, HYPER_2, full("input")),
    "prompting input": (PROMPTING, HYPER, full("input")),
    "prompting concept": (HYPER, PROMPTING, full("concept")),
    "refined": (REFINED, LINEAS, equal),
    "start": (REFINED, LINEAS_SHORT, equal),
    "same scenes": (LINEAS_ALIKE, LINEAS, equal),
}
"""Claim -> the methods of the planes whose difference is its evidence, and the measure."""


def evidence_of(runs: Sequence[Record]) -> dict[str, list[dict[str, Any]]]:
    """Evidence of each claim, of every seed and split."""
    found: dict[str, list[dict[str, Any]]] = {key: [] for key in (*DIFFERENCES, *_OTHERS)}
    for run in runs:
        for split, records in groups(list(run.get("planes", ()))):
            what = f"seed {run['seed']}, {split}"
            for key, (first, second, of) in DIFFERENCES.items():
                found[key].append(difference(records, what, first, second, of))
        for key, evidence in _OTHERS.items():
            found[key] += evidence(run)
    return {key: [one for one in every if "low" in one] for key, every in found.items()}


def overall(runs: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """The differences again, over held-out concepts of all seeds and splits together."""
    held = [one for run in runs for one in run.get("planes", ()) if one["split"] != TRAIN]
    if not held:
        return {}
    pairs = {key: difference(held, ALL_HELD_OUT, *methods) for key, methods in DIFFERENCES.items()}
    return {key: one for key, one in pairs.items() if "low" in one}


def _novelty(run: Record) -> Iterator[dict[str, Any]]:
    held = [one for one in run.get("novelty", ()) if one["split"] != TRAIN]
    if len(held) > 2:
        new, reached = (
            np.array(side)
            for side in zip(*((one["novelty"], equal(one, HYPER)) for one in held), strict=True)
        )
        yield {"what": f"seed {run['seed']}"} | _interval(bootstrap(spearman, new, reached, paired=True))


def _pictures(run: Record) -> Iterator[dict[str, Any]]:
    for split, records in groups(list(run.get("conditions", ()))):
        for count in _numbers(records, " pictures"):
            what = f"seed {run['seed']}, {split}, {count}"
            yield difference(records, what, f"{count} pictures", f"{count} texts")


def _conditions(run: Record) -> Iterator[dict[str, Any]]:
    for split, records in groups(list(run.get("conditions", ()))):
        least, *_, most = _numbers(records, " texts")
        what = f"seed {run['seed']}, {split}, {most} less {least}"
        yield difference(records, what, f"{most} texts", f"{least} texts")


def _counts(run: Record) -> Iterator[dict[str, Any]]:
    for split, records in groups(list(run.get("counts", ()))):
        numbers = _numbers(records, "")
        for fewer, more in pairwise(numbers):
            what = f"seed {run['seed']}, {split}, {more} less {fewer}"
            yield difference(records, what, str(more), str(fewer))


def _numbers(records: Sequence[Record], ending: str) -> list[int]:
    """Numbers in the names of curves, rising."""
    heads = (name.removesuffix(ending) for name in records[0]["curves"] if name.endswith(ending))
    return sorted(int(head) for head in heads if head.isdigit())


def _pays(run: Record) -> Iterator[dict[str, Any]]:
    for one in _seconds([run]):
        yield {"what": f"seed {run['seed']}"} | one["break_even"]


_OTHERS: Mapping[str, Callable[[Record], Iterator[dict[str, Any]]]] = {
    "novelty": _novelty,
    "pictures": _pictures,
    "conditions": _conditions,
    "counts": _counts,
    "break even": _pays,
}
