"""What runs of `dynamics.py` came to: a row per method, a search that counts as one method, paired differences."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from dynamics_texts import TARGET

sys.path.append(str(Path(__file__).parents[1] / "dynamics"))
from outcomes import outcome

from trimtab.train.losses import Change, SequenceLosses

SEARCH = "best of three fixed"
MEMBERS = ("fixed 0.2", "fixed 0.5", "fixed 0.8")
"""The search runs all three, keeps the one that gained most on validation, and pays for all."""
COSTS = ("steps", "all_in", "seconds")

Run = Mapping[str, Any]
"""A cell: method, role, seed, run (as `cells.record` makes it), target_records."""


def searched(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """The search as a run of its own, for every seed on which all its members ran."""
    for seed in sorted({one["seed"] for one in runs}):
        members = [one for one in runs if one["seed"] == seed and one["method"] in MEMBERS]
        if len(members) < len(MEMBERS):
            continue
        came_to = [summed(one) for one in members]
        best = min(range(len(members)), key=lambda place: came_to[place]["validation"])
        paid = {cost: sum(one[cost] for one in came_to) for cost in COSTS}
        whose = {"method": SEARCH, "role": "search", "chose": members[best]["method"]}
        yield {**members[best], **whose, "paid": paid}


def summed(one: Run) -> dict[str, Any]:
    """What a run came to, as the benchmark on small models says it; a search with the price of all its members."""
    return {**outcome({**one["run"], "role": one["role"]}, [TARGET]), **one.get("paid", {})}


def rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per method over its seeds, best constrained gain first.

    kept: share of seeds on which every constraint held on test. claimed: share that returned a trained checkpoint.
    gain: fall of target perplexity on test in per cent; constrained: the same, 0 where a constraint was broken.
    excess: largest change beyond a tolerance on test, nats per token, negative inside; reached: the same over all
    readings on validation, so above 0 where the run had to be stopped or turned. change: per domain on test, nats per
    token.
    """
    by_method: dict[str, list[Run]] = {}
    for one in runs:
        by_method.setdefault(one["method"], []).append(one)
    found = [row(name, own) for name, own in by_method.items()]
    return sorted(found, key=lambda one: -one["constrained"])


def row(name: str, own: Sequence[Run]) -> dict[str, Any]:
    """A method over its seeds."""
    came_to = [summed(one) for one in own]
    mean = {
        part: _mean([float(one[part]) for one in came_to])
        for part in ("kept", "claimed", "gain", "constrained", *COSTS)
    }
    tests = [{each["domain"]: each for each in one["run"]["test"]} for one in own]
    return {
        "method": name,
        "role": own[0]["role"],
        "seeds": sorted(one["seed"] for one in own),
        **mean,
        "excess": round(max(one["excess"] for one in came_to), 5),
        "reached": round(max(map(reached, own)), 5),
        "change": {
            domain: {
                end: _mean([test[domain][column] for test in tests])
                for end, column in (("value", "change"), ("low", "change_low"), ("high", "change_high"))
            }
            for domain in tests[0]
        },
        "steps_kept": [one["step"] for one in came_to],
        **({"chose": [one["chose"] for one in own]} if "chose" in own[0] else {}),
    }


def reached(one: Run) -> float:
    """The largest change beyond a tolerance at any reading on validation, nats per token; -inf without a reading."""
    tolerances = {
        each["domain"]: each["tolerance"] for each in one["run"]["test"] if each["role"] == "constraint"
    }
    readings = one["run"]["validation"].values()
    beyond = [
        read[name] - tolerance
        for read in readings
        for name, tolerance in tolerances.items()
        if read[name] is not None
    ]
    return max(beyond, default=-math.inf)


def differences(runs: Sequence[Run], ours: str) -> list[dict[str, Any]]:
    """Target gain of `ours` less that of each other method, paired on test records, mean over the seeds of both.

    In nats per token, above 0 where `ours` gained more. `gain` takes runs as they are; in `constrained` one that broke
    a constraint on test gained nothing. An end is None where there is no interval.
    """
    mine = {one["seed"]: one for one in runs if one["method"] == ours}
    found = []
    for name in dict.fromkeys(one["method"] for one in runs if one["method"] != ours):
        theirs = {one["seed"]: one for one in runs if one["method"] == name and one["seed"] in mine}
        pairs = [(mine[seed], other) for seed, other in sorted(theirs.items())]
        pairs = [(a, b) for a, b in pairs if _records(a)[:, :2].tolist() == _records(b)[:, :2].tolist()]
        if pairs:
            both = {what: _told(apart(pairs, what == "constrained")) for what in ("gain", "constrained")}
            found.append({"other": name, "seeds": [a["seed"] for a, _ in pairs], **both})
    return found


def apart(pairs: Sequence[tuple[Run, Run]], constrained: bool) -> Change:
    """The second run's change of the target less the first's, over the same test records, mean over pairs."""
    tokens = _records(pairs[0][0])[:, 1].astype(int)
    gaps = [_changes(b, constrained) - _changes(a, constrained) for a, b in pairs]
    losses = SequenceLosses(np.mean(gaps, axis=0), tokens)
    return Change(losses.loss, losses.standard_error, len(tokens), losses.units)


def _records(one: Run) -> np.ndarray:
    """(n, 3) record, tokens, and change in nats, summed over its tokens."""
    return np.array(one["target_records"], dtype=float).reshape(-1, 3)


def _changes(one: Run, constrained: bool) -> np.ndarray:
    changes: np.ndarray = _records(one)[:, 2]
    return changes * (summed(one)["kept"] or not constrained)


def _told(change: Change) -> dict[str, Any]:
    ends = {end: getattr(change, end) for end in ("value", "low", "high")}
    return {end: None if math.isnan(at) else round(at, 5) for end, at in ends.items()} | {"n": change.n}


def _mean(values: Sequence[float | None], digits: int = 5) -> float | None:
    """Mean of the values; None where one is missing."""
    known = [one for one in values if one is not None]
    return round(math.fsum(known) / len(known), digits) if len(known) == len(values) else None
