"""How often does a planned share keep its promise where the law is exact, by the confidence it was planned with?

    python benchmarks/forgetting/planned.py [--data-sets 200] [--jobs 2] [--out DIR]
                                        writes benchmarks/results/forgetting/planned.json; goes on where it was

Data sets are those of `coverage.py` with 2 % noise of what is forgotten, with seeds of their own (from 50000 on, fixed
beforehand). For each, a share is planned for three runs: one amid the fitted ones, one at the largest size and token
count, one at 2.5 times the largest size and twice the largest count. The promise is .6 of what the planted law forgets
without injection; it is kept where the planted law with the planned share forgets no more.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
from coverage import BLOCK, FORGETTING, N_BOOT, NOISE, data_set
from record import write

from trimtab import ForgettingLaw
from trimtab.numerics.bootstrap import wilson
from trimtab.runs.sweep import sweep

FIRST_SEED, PART = 50_000, 0.6
CONFIDENCES = (0.5, 0.8, 0.95, 0.99)
PLACES = {"amid": (1.9e5, 1e5), "largest": (8e5, 1e6), "beyond": (2e6, 2e6)}


def planted(params: float, tokens: float, inject: float) -> float:
    """What the planted law forgets, nats."""
    c = FORGETTING
    return c["A"] * tokens ** c["beta"] / ((1 + c["B"] * inject) * params) ** c["alpha"]


def block(cell: dict[str, Any], folder: Path) -> list[dict[str, Any]]:  # noqa: ARG001
    """Whether each plan keeps its promise, for some seeds."""
    rows = []
    for seed in range(cell["first"], cell["first"] + BLOCK):
        law = ForgettingLaw.fit(data_set(seed, "rise"), n_boot=N_BOOT, seed=seed)
        for place, (params, tokens) in PLACES.items():
            promise = PART * planted(params, tokens, 0.0)
            asked = {"rise": promise, "params": params, "tokens": tokens}
            shares = {c: law.inject_for(**asked, confidence=c) for c in CONFIDENCES}
            shares["upper end of the interval"] = law.inject_interval(**asked)[1]
            for confidence, share in shares.items():
                kept = share == share and planted(params, tokens, share) <= promise
                rows.append({"place": place, "confidence": confidence, "share": share, "kept": bool(kept)})
    return rows


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--data-sets", type=int, default=200)
    options.add_argument("--jobs", type=int, default=1)
    options.add_argument("--out", type=Path, default=Path("runs/forgetting-planned"))
    asked = options.parse_args()
    firsts = range(FIRST_SEED, FIRST_SEED + asked.data_sets, BLOCK)
    done = sweep(block, {str(first): {"first": first} for first in firsts}, asked.out, jobs=asked.jobs)
    assert not done.failures, done.failures
    frame = pd.DataFrame([row for rows in done.results.values() for row in rows])
    told = []
    for (place, confidence), rows in frame.groupby(["place", "confidence"], sort=False):
        share = wilson(int(rows["kept"].sum()), len(rows))
        ends = {"kept": share.value, "low": share.low, "high": share.high, "n": len(rows)}
        told.append(
            {"place": place, "confidence": confidence, **ends, "median_share": rows["share"].median()}
        )
    settings = {"noise": NOISE, "n_boot": N_BOOT, "first_seed": FIRST_SEED, "part": PART, "places": PLACES}
    write("planned", {"settings": settings, "interval": "Wilson, 95 %, over data sets", "rows": told})
    print(pd.DataFrame(told).to_string(index=False))


if __name__ == "__main__":
    main()
