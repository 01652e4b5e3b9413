"""The summary of the steering benchmark, from whatever results there are; `page.py` makes the page of it.

    python benchmarks/steering/table.py        writes benchmarks/results/steering/summary.json

Units are models (seeds): draws of examples are averaged first, and intervals over models are Student's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from methods import DEFAULT, LOCAL, UNPENALISED

sys.path.append(str(Path(__file__).parents[1]))
from verdicts import INTERVAL, mean_interval

from trimtab.runs.atomic import write_atomic
from trimtab.runs.serialise import to_json
from worlds import GRAMMARS

RESULTS = Path(__file__).parents[1] / "results" / "steering"
BUDGETS = (0.02, 0.05)
"""KL on clean text, nats per token, at which effects are compared."""
SCORES = ("insult_rate", "topic_fidelity", "kl_to_clean", "kl_moved")
MATCHED = f"insult_rate at KL {BUDGETS[1]:g}"
COMPARED = ("main", "strong")
"""Parts in which every method is fitted at every kind of site."""
GROUP = ["part", "world", "place", "method", "n", "changes"]


def fits(folder: Path) -> pd.DataFrame:
    """One row per fit: its settings, its scores at strength 1, and its insult rate at each budget of KL."""
    rows = []
    for path in sorted(folder.glob("*-[0-9]*.json")):
        block = json.loads(path.read_text())
        for fit in block["fits"]:
            named = {key: fit[key] for key in ("world", "seed", "draw", "place", "method", "n")}
            changes = ", ".join(f"{key} {value}" for key, value in fit["changes"])
            rows.append({"part": block["part"], **named, "changes": changes, **_scores(fit)})
    return pd.DataFrame(rows)


def _scores(fit: dict[str, Any]) -> dict[str, float]:
    if "diverged" in fit:
        return {"diverged": 1.0}
    curve = pd.DataFrame(fit["curve"])
    full = curve[curve["strength"] == 1.0].iloc[0]
    found = {name: float(full[name]) for name in SCORES}
    found |= {
        f"insult_rate at KL {budget:g}": at_budget(curve, "insult_rate", "kl_moved", budget)
        for budget in BUDGETS
    }
    none = float(curve["insult_rate"].iloc[0])
    return {
        **found,
        "unsteered": none,
        "seconds": fit["seconds"],
        "left_alone": fit["left_alone"],
        "diverged": 0.0,
    }


def at_budget(curve: pd.DataFrame, score: str, cost: str, budget: float) -> float:
    """A score where the curve first reaches a budget of cost, in a straight line between strengths."""
    moved, scores = curve[cost].to_numpy(), curve[score].to_numpy()
    over = np.flatnonzero(moved > budget)
    if not len(over):
        return float(scores[-1])
    last = over[0]
    part = (budget - moved[last - 1]) / (moved[last] - moved[last - 1])
    return float(scores[last - 1] + part * (scores[last] - scores[last - 1]))


def summary(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per group: the mean of each score over models, with its interval."""
    rows = []
    for key, own in table.groupby(GROUP, sort=False):
        per_model = own.groupby("seed").mean(numeric_only=True)
        scores = {
            name: _interval(per_model[name].dropna().to_numpy())
            for name in per_model.columns
            if name not in ("draw", "n")
        }
        rows.append({**dict(zip(GROUP, key, strict=True)), "fits": len(own), **scores})
    return rows


def paired(table: pd.DataFrame, one: str, two: str, world: str, score: str) -> dict[str, Any]:
    """The score of one method less that of another, by place and over all places, on the same models and examples."""
    own = table[(table["world"] == world) & table["part"].isin(COMPARED)]
    sides = [own[own["method"] == name].set_index(["place", "seed", "draw"])[score] for name in (one, two)]
    gap = sides[0].sub(sides[1]).dropna()
    if gap.empty:
        return {}
    by_place = {
        place: _interval(gap[place].groupby("seed").mean().to_numpy()) for place in gap.index.unique(0)
    }
    return {"world": world, "score": score, "of": one, "less": two, "by_place": by_place} | {
        "all": _interval(gap.groupby("seed").mean().to_numpy())
    }


def sensitivity(table: pd.DataFrame, world: str, score: str) -> list[dict[str, Any]]:
    """How far each method's score lies apart between its best and its worst kind of site, model by model.

    Beside it the default's spread and worst score less that of the method, on the same models.
    """
    own = table[(table["world"] == world) & table["part"].isin(COMPARED)]
    found = {}
    for method, of_method in own.groupby("method", sort=False):
        by_place = of_method.groupby(["seed", "place"])[score].mean().unstack()
        worst = by_place.max(axis=1)
        found[method] = {"spread": (worst - by_place.min(axis=1)).dropna(), "worst": worst.dropna()}
    rows = []
    for method, sides in found.items():
        told = {name: _interval(values.to_numpy()) for name, values in sides.items()}
        gaps = {
            f"default less it, {name}": _interval((found[DEFAULT][name] - values).dropna().to_numpy())
            for name, values in sides.items()
            if method != DEFAULT
        }
        rows.append({"world": world, "method": method, "score": score, **told, **gaps})
    return rows


def most_less_fewest(table: pd.DataFrame, score: str) -> list[dict[str, Any]]:
    """Each method's score with the most examples less that with the fewest, on the same models."""
    own = table[table["part"] == "examples"]
    ends = (own["n"].max(), own["n"].min())
    rows = []
    for method, of_method in own.groupby("method", sort=False):
        most, fewest = (of_method[of_method["n"] == n].set_index("seed")[score] for n in ends)
        gap = _interval(most.sub(fewest).dropna().to_numpy())
        rows.append({"method": method, "score": score, "most": ends[0], "fewest": ends[1], "gap": gap})
    return rows


def _interval(values: np.ndarray) -> dict[str, Any]:
    if not len(values):  # every fit diverged
        return {"value": None, "low": None, "high": None, "n": 0}
    found = mean_interval(values.astype(float))
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}


def main() -> None:
    table = fits(RESULTS)
    asked = ("insult_rate", "kl_moved", "kl_to_clean", MATCHED)
    worlds = [
        (world, list(table[(table["world"] == world) & table["part"].isin(COMPARED)]["method"].unique()))
        for world in GRAMMARS
    ]
    record = {
        "command": "python benchmarks/steering/table.py",
        "units": "models; draws of examples averaged first",
        "interval": INTERVAL,
        "budgets_nats": BUDGETS,
        "groups": summary(table),
        "end_to_end_less_local": [
            paired(table, method, LOCAL[method], world, score)
            for world, methods in worlds
            for method in (UNPENALISED, DEFAULT)
            if {method, LOCAL[method]} <= set(methods)
            for score in asked
        ],
        "default_less_others": [
            paired(table, DEFAULT, other, world, score)
            for world, methods in worlds
            for other in methods
            if other != DEFAULT
            for score in asked
        ],
        "unpenalised_less_others": [
            paired(table, UNPENALISED, other, world, MATCHED)
            for world, methods in worlds
            for other in methods
            if UNPENALISED in methods and other not in (UNPENALISED, DEFAULT)
        ],
        "sensitivity_to_the_site": [
            row
            for world, _ in worlds
            for score in ("insult_rate", "kl_to_clean", MATCHED)
            for row in sensitivity(table, world, score)
        ],
        "most_less_fewest_examples": most_less_fewest(table, MATCHED),
    }
    write_atomic(RESULTS / "summary.json", to_json(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
