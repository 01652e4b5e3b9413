"""The tables of the steering benchmark, from whatever results there are.

    python benchmarks/steering/table.py        prints Markdown, writes benchmarks/results/steering/summary.json

Units are models (seeds): draws of examples are averaged first, and intervals are 95 % bootstrap intervals over models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from methods import ORACLE

from trimtab.numerics.bootstrap import bootstrap, mean
from trimtab.runs.atomic import write_atomic
from trimtab.runs.serialise import to_json
from worlds import PLACES, WEAK

RESULTS = Path(__file__).parents[1] / "results" / "steering"
BUDGETS = (0.02, 0.05)
"""KL on clean text, nats per token, at which effects are compared."""
SCORES = ("insult_rate", "topic_fidelity", "kl_to_clean", "kl_moved")
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
    own = table[(table["world"] == world) & table["part"].isin(["main", "strong"])]
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


def sensitivity(table: pd.DataFrame, score: str) -> list[dict[str, Any]]:
    """How far each method's score lies apart between its best and its worst kind of site, model by model."""
    own = table[table["part"] == "main"]
    rows = []
    for method, of_method in own.groupby("method", sort=False):
        by_place = of_method.groupby(["seed", "place"])[score].mean().unstack()
        spread = (by_place.max(axis=1) - by_place.min(axis=1)).dropna()
        worst = by_place.max(axis=1).dropna()
        if len(spread):
            told = {"spread": _interval(spread.to_numpy()), "worst": _interval(worst.to_numpy())}
            rows.append({"method": method, "score": score, **told})
    return rows


def _interval(values: np.ndarray) -> dict[str, Any]:
    if not len(values):  # every fit diverged
        return {"value": None, "low": None, "high": None, "n": 0}
    found = bootstrap(mean, values.astype(float))
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}


def markdown(rows: Sequence[dict[str, Any]], scores: Sequence[str]) -> str:
    """Some groups as a table."""
    lines = [f"| site | method | {' | '.join(scores)} |", "|---" * (len(scores) + 2) + "|"]
    for row in rows:
        label = ", ".join(part for part in (row["method"], f"n {row['n']}", row["changes"]) if part)
        lines.append(f"| {row['place']} | {label} | {' | '.join(_span(row.get(name)) for name in scores)} |")
    return "\n".join(lines)


def _span(value: dict[str, Any] | None) -> str:
    if value is None or not value["n"]:
        return "-"
    return (
        f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
        if value["n"] > 1
        else f"{value['value']:.3f}"
    )


def main() -> None:
    table = fits(RESULTS)
    rows = summary(table)
    matched = f"insult_rate at KL {BUDGETS[1]:g}"
    asked = ("insult_rate", "kl_moved", "kl_to_clean", matched)
    record = {
        "command": "python benchmarks/steering/table.py",
        "units": "models; draws of examples averaged first",
        "budgets_nats": BUDGETS,
        "groups": rows,
        "end_to_end_less_local": [
            paired(table, method, f"{method}, local", world, score)
            for world in (WEAK, "strong cues")
            for method in ("LinEAS", "LinEAS, gamma .3")
            for score in asked
        ],
        "sparse_less_others": [
            paired(table, "LinEAS, gamma .3", other, WEAK, score)
            for other in ("MeanAcT", "LinAcT", "CAA, mean", "LinEAS")
            for score in asked
        ],
        "sensitivity_to_the_site": [
            row for score in ("insult_rate", "kl_to_clean", matched) for row in sensitivity(table, score)
        ],
    }
    write_atomic(RESULTS / "summary.json", to_json(record, indent=1) + "\n")
    order = list(PLACES)
    for part in table["part"].unique():
        own = [row for row in rows if row["part"] == part]
        own.sort(key=lambda row: (order.index(row["place"]), row["method"] != ORACLE))
        print(f"\n## {part}\n\n{markdown(own, (*SCORES, matched, 'diverged'))}")


if __name__ == "__main__":
    main()
