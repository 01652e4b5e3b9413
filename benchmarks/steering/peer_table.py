"""The comparison with other packages over models, and its record as JSON with one fit a line; see `peer_page.py`.

python benchmarks/steering/peer_table.py    makes the comparison anew from the fits of the result file
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from peer_effect import PAIRED

sys.path.append(str(Path(__file__).parents[1]))
from verdicts import mean_interval

from trimtab.runs.atomic import write_atomic
from trimtab.runs.serialise import to_json

RESULT = Path(__file__).parents[1] / "results" / "steering" / "peers.json"
UNITS = (
    "effect: models, draws of examples averaged first, 95 % by Student's t;"
    " speed: rounds, 95 % percentile bootstrap of medians"
)
BUDGETS = (0.02, 0.05)
"""KL on clean documents, nats per token, at which effects are compared."""
OURS = "trimtab LinEAS, residual"
BETTER = "better"
WAYS = {
    "curve": "as it says",
    "reversed": "reversed",
    BETTER: "the better way of each fit, known from the result",
}
COLUMNS = (
    "insult_rate at KL 0.02",
    "insult_rate at KL 0.05",
    "kl_to_clean at KL 0.02",
    "kl_to_clean at KL 0.05",
    "lowest kl_to_clean",
)


def effect(fits: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per contestant and direction: means over models, draws averaged first, and the gap to `OURS`."""
    scored: dict[tuple[str, str], dict[tuple[int, int], dict[str, float]]] = defaultdict(dict)
    failed = {fit["contestant"]: fit["failed"] for fit in fits if "failed" in fit}
    for fit in fits:
        for way in ("curve", "reversed"):
            if way in fit:
                scored[fit["contestant"], way][fit["seed"], fit["draw"]] = scores(fit[way])
    for name in [name for name, way in scored if way == "reversed"]:
        both = (scored[name, "curve"], scored[name, "reversed"])
        scored[name, BETTER] = {key: min(both[0][key], both[1][key], key=_effect) for key in both[0]}
    ours = scored.get((OURS, "curve"), {})
    rows = [summary(name, way, found, ours) for (name, way), found in scored.items()]
    return rows + [{"contestant": name, "failed": why} for name, why in failed.items()]


def _effect(scores: dict[str, float]) -> float:
    return scores[COLUMNS[1]]


def scores(curve: list[dict[str, float]]) -> dict[str, float]:
    found = {
        f"{name} at KL {budget:g}": at(curve, budget, name)
        for name in ("insult_rate", "kl_to_clean")
        for budget in BUDGETS
    }
    reached = {f"reached KL {budget:g}": float(curve[-1]["kl_moved"] >= budget) for budget in BUDGETS}
    best = min(curve, key=lambda point: point["kl_to_clean"])
    return {
        **found,
        **reached,
        "lowest kl_to_clean": best["kl_to_clean"],
        "kl_moved there": best["kl_moved"],
        "insult_rate there": best["insult_rate"],
        "unsteered insult_rate": curve[0]["insult_rate"],
    }


def at(curve: list[dict[str, float]], budget: float, name: str) -> float:
    """A score where the curve first passes a budget of KL, in a straight line between points; else at its end."""
    for before, after in pairwise(curve):
        if after["kl_moved"] > budget:
            part = (budget - before["kl_moved"]) / (after["kl_moved"] - before["kl_moved"])
            return before[name] + part * (after[name] - before[name])
    return curve[-1][name]


def summary(name: str, way: str, found: dict[Any, Any], ours: dict[Any, Any]) -> dict[str, Any]:
    first = COLUMNS[1]
    gaps = {
        key: own[first] - ours[key][first] for key, own in found.items() if key in ours and PAIRED not in name
    }
    return {
        "contestant": name,
        "way": WAYS[way],
        "fits": len(found),
        **{
            score: interval({key: own[score] for key, own in found.items()})
            for score in next(iter(found.values()))
        },
        f"{first}, less {OURS}": interval(gaps) if gaps else None,
    }


def interval(values: dict[tuple[int, int], float]) -> dict[str, float]:
    """Over models; draws of examples are averaged first."""
    models: dict[int, list[float]] = defaultdict(list)
    for (seed, _), value in values.items():
        models[seed].append(value)
    found = mean_interval(np.array([np.mean(own) for own in models.values()]))
    return {name: round(float(getattr(found, name)), 5) for name in ("value", "low", "high", "n")}


def compact(record: dict[str, Any]) -> str:
    """JSON with one fit a line."""
    head = to_json({name: value for name, value in record.items() if name != "fits"}, indent=1)
    lines = ",\n".join(f"  {json.dumps(fit)}" for fit in record["fits"])
    return f'{head.rstrip().removesuffix("}").rstrip()},\n "fits": [\n{lines}\n ]\n}}\n'


def main() -> None:
    record = json.loads(RESULT.read_text(encoding="utf-8"))
    record |= {"units": UNITS, "effect": effect(record["fits"])}
    write_atomic(RESULT, compact(record))


if __name__ == "__main__":
    main()
