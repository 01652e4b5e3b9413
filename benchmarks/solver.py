"""How long one mixture takes: 20 evaluation domains, 20 training domains, every method.

    python benchmarks/solver.py        writes benchmarks/results/solver.json

The instances resemble an update of a run: slopes of about 1e-3 nats per step, 128 steps, standard errors of a tenth
of a slope. "feasible" has references .05 nats above the losses; "one hopeless" has the same, and one constraint that
rises on every domain; "all tight" has every reference .05 nats below the loss. CPU time is the headline, because the
solver has one thread and the machine may be shared; wall-clock time stands beside it.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from trimtab.numerics.bootstrap import bootstrap
from trimtab.numerics.simplex import MixtureProblem, MixtureSolution, solve_mixture

DOMAINS, COUNT, SEED, GOAL_MS = 20, 200, 0, 10.0
METHODS = ("lp", "robust", "grid")
SCENARIOS = ("feasible", "one hopeless", "all tight")


def instance(seed: int, scenario: str) -> MixtureProblem:
    rng = np.random.default_rng([SEED, seed])
    slopes = rng.normal(size=(DOMAINS, DOMAINS)) * 1e-3
    noise = rng.uniform(0.5, 1.5, (DOMAINS, DOMAINS)) * 1e-4
    losses = rng.uniform(1.0, 4.0, DOMAINS)
    reference = losses + (-0.05 if scenario == "all tight" else 0.05)
    reference[:3] = np.nan
    if scenario == "one hopeless":
        slopes[3] = 1e-3 + np.abs(slopes[3])
    return MixtureProblem(slopes, losses, reference, targets=[0, 1, 2], horizon=128.0, slope_se=noise)


def timed(problem: MixtureProblem, method: str) -> tuple[float, float, MixtureSolution]:
    wall, cpu = time.perf_counter(), time.process_time()
    solution = solve_mixture(problem, method)  # type: ignore[arg-type]
    return 1e3 * (time.process_time() - cpu), 1e3 * (time.perf_counter() - wall), solution


def row(method: str, scenario: str) -> dict[str, object]:
    problems = [instance(seed, scenario) for seed in range(COUNT)]
    timed(problems[0], method)
    cpu_ms, wall_ms, solutions = zip(*(timed(problem, method) for problem in problems), strict=True)
    cpu, wall = (bootstrap(np.median, np.array(times), seed=SEED) for times in (cpu_ms, wall_ms))
    return {
        "method": method,
        "scenario": scenario,
        "n": COUNT,
        "relaxed": sum(solution.status == "relaxed" for solution in solutions),
        "median_conflicts": float(np.median([len(solution.conflicts) for solution in solutions])),
        "cpu_median_ms": round(cpu.value, 3),
        "cpu_median_ms_interval": [round(cpu.low, 3), round(cpu.high, 3)],
        "cpu_p95_ms": round(float(np.quantile(cpu_ms, 0.95)), 3),
        "wall_median_ms": round(wall.value, 3),
        "wall_median_ms_interval": [round(wall.low, 3), round(wall.high, 3)],
        "under_goal": cpu.high < GOAL_MS,
    }


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor()
    )


def main() -> None:
    result = {
        "command": "python benchmarks/solver.py",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("trimtab", "clarabel", "numpy", "scipy")},
        "python": platform.python_version(),
        "hardware": {"cpu": cpu(), "cores": os.cpu_count(), "solver_threads": 1},
        "seed": SEED,
        "size": f"{DOMAINS} evaluation domains (3 targets, 17 constraints) x {DOMAINS} training domains",
        "interval": "95 % percentile bootstrap of the median over instances, 2000 resamples",
        "load_average_at_start": os.getloadavg()[0],
        "goal_ms": GOAL_MS,
        "rows": [row(method, scenario) for method in METHODS for scenario in SCENARIOS],
    }
    out = Path(__file__).parent / "results" / "solver.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    json.dump(result["rows"], sys.stdout, indent=2)


if __name__ == "__main__":
    main()
