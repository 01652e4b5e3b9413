"""What limits a planner that adds up slopes: noise, curvature, domains that do not add up. Measured on the base model.

    python benchmarks/dynamics/limits.py --scenarios fonts "three targets"
                                                    writes benchmarks/results/dynamics/limits.json

From the same base weights, each training domain alone and an even mixture of all are trained on for 128 steps, on three
orders of the data, and every evaluation domain is read on the way. Then:

- noise: how much a slope over 16 steps differs between data orders, in units of its paired standard error;
- curvature: the slope over the whole 128 steps as a share of that over the first 16, for the losses that moved;
- straight line: the change under the even mixture less what the domains alone did in as many steps, averaged;
- additivity: the change under the even mixture less the sum of what each domain alone did in its share of the steps,
  which leaves curvature out; between readings a change is taken to grow with the square root of steps.
"""

from __future__ import annotations

import argparse
import itertools
import math
import platform
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from run import RESULTS
from scenarios import FIT, MODEL, SCENARIOS

from trimtab import load
from trimtab.adapt.finetune import tokenise_all
from trimtab.adapt.session import make_roles
from trimtab.lab.models import lab_model
from trimtab.runs.atomic import write_atomic
from trimtab.runs.environment import hardware
from trimtab.runs.serialise import to_json
from trimtab.runs.sweep import sweep
from trimtab.seeds import isolated
from trimtab.train.loop import Loop
from trimtab.train.losses import change

READINGS = (16, 32, 64, 128)
SEEDS = (0, 1, 2)
RATE = 1e-4
CLEAR = 3
"""A change counts as one, for the ratio of curvature, from so many standard errors on."""


def trials(cell: dict[str, Any], folder: Path) -> dict[str, Any]:  # noqa: ARG001
    """Changes and errors (readings, losses, trials): one trial per training domain, then the even mixture."""
    scenario, seed = SCENARIOS[cell["scenario"]], cell["seed"]
    model = load(str(lab_model(MODEL)))
    train, evaluate = scenario.domains()
    roles = make_roles(list(train), list(evaluate), scenario.targets, scenario.constraints)
    fit = replace(FIT, lr=RATE)
    tokens = tokenise_all({**train, **evaluate}, roles, model, fit)
    splits = {name: tokens[name].splits["validation"] for name in roles.evaluate}
    with isolated(seed):
        loop = Loop(model, {name: tokens[name] for name in roles.train}, fit, seed=seed)
        base, start = loop.snapshot(), loop.evaluate(splits, fit.eval_sequences)
        mixtures = [*np.eye(len(train)), np.full(len(train), 1 / len(train))]
        moved = []
        for mixture in mixtures:
            moved.append(_readings(loop, mixture.tolist(), splits, start))
            loop.restore(base)
    changes = np.moveaxis(np.array(moved), 0, -1)
    return {"evaluate": list(roles.evaluate), "changes": changes[..., 0, :], "errors": changes[..., 1, :]}


def _readings(loop: Loop, mixture: list[float], splits: Any, start: Any) -> list[list[tuple[float, float]]]:
    found = []
    for before, after in itertools.pairwise((0, *READINGS)):
        for _ in range(after - before):
            loop.step(mixture)
        read = loop.evaluate(splits, loop.fit.eval_sequences)
        moved = [change(read[name], start[name]) for name in splits]
        found.append([(m.value, m.standard_error) for m in moved])
    return found


def limits(changes: np.ndarray, errors: np.ndarray) -> dict[str, Any]:
    """The figures from changes and errors of shape (seeds, readings, losses, trials)."""
    alone, own = changes[..., :-1], errors[..., :-1]
    between = alone[:, 0].std(axis=0, ddof=1)
    clear = np.abs(alone[:, 0]) > CLEAR * own[:, 0]
    bend = (alone[:, -1] / READINGS[-1])[clear] / (alone[:, 0] / READINGS[0])[clear]
    mixed = changes[..., -1]
    gap = mixed - alone.mean(axis=-1)
    return {
        "between_orders_rms_nats_at_16": float(np.sqrt(np.mean(between**2))),
        "between_orders_over_standard_error": math.sqrt(float(np.mean(between**2) / np.mean(own[:, 0] ** 2))),
        "slope_128_over_slope_16": dict(
            zip(("q25", "median", "q75"), np.quantile(bend, (0.25, 0.5, 0.75)).tolist(), strict=True)
        )
        | {"n": int(clear.sum())},
        "straight_line": {str(n): _off(gap[:, k], mixed[:, k]) for k, n in enumerate(READINGS)},
        "additivity": {
            str(n): _off(mixed[:, k] - _parts(alone, n / alone.shape[-1]), mixed[:, k])
            for k, n in enumerate(READINGS)
        },
    }


def _parts(alone: np.ndarray, steps: float) -> np.ndarray:
    """(seeds, losses) the summed changes under the domains alone after so many steps each."""
    known = np.sqrt([0, *READINGS])
    flat = np.moveaxis(alone, 1, -1).reshape(-1, len(READINGS))
    there = np.array([np.interp(math.sqrt(steps), known, [0, *row]) for row in flat])
    return there.reshape(np.delete(alone.shape, 1)).sum(axis=-1)


def _off(gap: np.ndarray, change: np.ndarray) -> dict[str, float]:
    return {
        "gap_rms_nats": float(np.sqrt(np.mean(gap**2))),
        "change_rms_nats": float(np.sqrt(np.mean(change**2))),
        "mean_gap_nats": float(gap.mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scenarios", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-limits"))
    asked = parser.parse_args()
    cells = {f"{s}, {seed}": {"scenario": s, "seed": seed} for s in asked.scenarios for seed in SEEDS}
    done = sweep(trials, cells, asked.folder, jobs=asked.jobs).results
    found = {}
    for scenario in asked.scenarios:
        parts = [done[f"{scenario}, {seed}"] for seed in SEEDS]
        changes, errors = (np.array([part[key] for part in parts]) for key in ("changes", "errors"))
        limited = [name in SCENARIOS[scenario].constraints for name in parts[0]["evaluate"]]
        found[scenario] = {
            "all losses": limits(changes, errors),
            "constraints": limits(changes[:, :, limited], errors[:, :, limited]),
        }
    record = {
        "command": "python benchmarks/dynamics/limits.py --scenarios "
        + " ".join(f'"{s}"' for s in asked.scenarios),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": {name: version(name) for name in ("trimtab", "torch", "transformers")}
        | {"python": platform.python_version()},
        "hardware": hardware(),
        "lr": RATE,
        "readings": READINGS,
        "seeds": SEEDS,
        "scenarios": found,
    }
    write_atomic(RESULTS / "limits.json", to_json(record, indent=1) + "\n")
    print(to_json(found, indent=1))


if __name__ == "__main__":
    main()
