"""How long average precision of many units takes: ours beside a loop over scikit-learn's, and what memory it needs.

    OMP_NUM_THREADS=1 python benchmarks/experts/speed.py        writes benchmarks/results/experts/speed.json

1,000 units x 1,400 sentences, 400 of them positive, on one thread; five rounds in which contestants alternate. CPU time
stands beside wall-clock time, because the machine may be shared. A second part takes the memory of scoring 20,736 units
for 162 concepts of 24 positives and 60 negatives in a pool of 3,888 sentences, from responses that are made up.
"""

from __future__ import annotations

import datetime
import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np
import sklearn
import torch
from sklearn.metrics import average_precision_score

from trimtab.numerics.bootstrap import bootstrap
from trimtab.numerics.ranking import average_precision
from trimtab.read.experts.detection import Labelling, detect
from trimtab.read.responses import Units
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
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTESTANTS}
    found = {}
    for number in range(ROUNDS + 1):  # the first one warms up
        for name, contestant in CONTESTANTS.items():
            wall, cpu = time.perf_counter(), time.process_time()
            found[name] = contestant(scores, labels)
            if number:
                seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    gap = np.abs(found["trimtab"] - found["scikit-learn, a loop"]).max()
    told: dict[str, object] = {"dtype": kind.__name__, "ties": ties, "largest_difference": float(gap)}
    for place, clock in enumerate(("wall", "cpu")):
        own, theirs = (np.array(seconds[name])[:, place] for name in CONTESTANTS)
        ratio = bootstrap(lambda x, y: np.median(x) / np.median(y), theirs, own, paired=True, seed=SEED)
        told[f"{clock}_median_s"] = {
            "trimtab": round(float(np.median(own)), 4),
            "scikit-learn": round(float(np.median(theirs)), 4),
        }
        told[f"times_faster_by_{clock}"] = {
            "ratio": round(ratio.value, 1),
            "low": round(ratio.low, 1),
            "high": round(ratio.high, 1),
            "n": ratio.n,
        }
    return told


class MadeUp:
    """Responses without a network."""

    def __init__(self) -> None:
        self.units = Units(("made-up:out",), (20_736,))
        self.values = np.random.default_rng(SEED).standard_normal((3_888, 20_736), dtype=np.float32)

    def blocks(self):
        yield slice(0, 20_736), self.values


def memory() -> dict[str, float]:
    """Peak of the whole process, and seconds, for 162 concepts; p-values for the first eight."""
    order, responses = np.random.default_rng(SEED), MadeUp()
    dealt = [order.permutation(3_888)[:84] for _ in range(162)]
    labellings = [Labelling(rows[:24], rows[24:]) for rows in dealt]
    cpu = time.process_time()
    detect(responses, labellings)
    scored = time.process_time() - cpu
    detect(responses, labellings[:8], chance=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"concepts": 162, "units": 20_736, "scoring_cpu_s": round(scored, 1), "peak_bytes": peak}


def main() -> None:
    torch.set_num_threads(1)
    before = os.getloadavg()
    rows = [race(np.float32, False), race(np.float32, True), race(np.float64, False)]
    held = memory()
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
        "goal_met": min(row["times_faster_by_cpu"]["ratio"] for row in rows) >= GOAL,  # type: ignore[index]
        "memory": held,
        "memory_goal_bytes": 2 * 10**9,
        "rows": rows,
    }
    out = Path(__file__).parents[1] / "results" / "experts" / "speed.json"
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    json.dump([*rows, held], sys.stdout, indent=1)


if __name__ == "__main__":
    main()
