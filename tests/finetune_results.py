"""Results that look like real ones, made in milliseconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from trimtab.adapt.cost import CostReport
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.adapt.record import SlopeUpdate

TRAIN = ("headers", "decimals", "python", "docstrings")
EVALUATE = (*TRAIN, "metadata", "tests")
TOLERANCES = {"python": 0.05, "docstrings": 0.05, "metadata": 0.05, "tests": 0.05}
VALIDATION = (-0.2, -0.12, 0.04, 0.062, 0.03, 0.02) + (0.01,) * 8
UPDATES = (0, 1, 5, 10, 20, 40, 80, 160)
GRID = (0, 5, 9, 16, 30, 54, 98, 177, 320)

MakeResult = Callable[..., FinetuneResult]


def _curve(step: float, pull: float) -> float:
    return pull * (1 - math.exp(-step / 120))


def _updates(
    train: Sequence[str], evaluate: Sequence[str], base: dict[str, float], pulls: Sequence[float]
) -> list[SlopeUpdate]:
    """Slopes that predict the curves up to noise."""
    random = np.random.default_rng(3)
    found = []
    for step, end in zip(UPDATES, (*UPDATES[1:], 320), strict=True):
        slopes = random.normal(3e-4, 4e-4, (len(evaluate), len(train)))
        slopes -= random.uniform(1e-3, 4e-3, len(train)) * np.eye(len(evaluate), len(train))
        if step == 5:
            slopes[:, 1] = np.nan
        weights = random.dirichlet(np.ones(len(train)))
        if step == 5:
            weights[1] = 0.0
            weights /= weights.sum()
        true = np.array([_curve(end, pull) - _curve(step, pull) for pull in pulls]) / (end - step)
        usable = np.isfinite(slopes[0])
        slopes[:, usable] += (true * random.normal(1, 0.2, len(true)) - slopes[:, usable] @ weights[usable])[
            :, None
        ]
        moved = (end - step) * slopes[:, usable] @ weights[usable]
        relaxed = step == 160
        found.append(
            SlopeUpdate(
                step=step,
                horizon=end - step,
                slopes=pd.DataFrame(slopes, index=list(evaluate), columns=list(train)),
                standard_errors=pd.DataFrame(
                    np.abs(slopes) * 0.1 + 2e-4, index=list(evaluate), columns=list(train)
                ),
                predicted={
                    name: base[name] + _curve(step, pull) + float(m)
                    for name, pull, m in zip(evaluate, pulls, moved, strict=True)
                },
                weights=dict(zip(train, weights.tolist(), strict=True)),
                solver_status="relaxed" if relaxed else "optimal",
                conflicts=tuple(evaluate[2:4]) if relaxed else (),
                shadow_prices={
                    name: math.nan if relaxed else 0.31 * k for k, name in enumerate(evaluate[2:])
                },
            )
        )
    return found


def _losses(evaluate: Sequence[str], base: dict[str, float], pulls: Sequence[float]) -> pd.DataFrame:
    rows = []
    for step in GRID:
        for name, pull in zip(evaluate, pulls, strict=True):
            change = _curve(step, pull)
            half = 0.004 + 0.08 * abs(change)
            rows.append(
                (step, name, "validation", base[name] + change, 0.03, change, change - half, change + half)
            )
    columns = [
        "step",
        "domain",
        "split",
        "loss_nats",
        "standard_error",
        "change",
        "change_low",
        "change_high",
    ]
    return pd.DataFrame(rows, columns=columns)


def _final(evaluate: Sequence[str], base: dict[str, float], pulls: Sequence[float]) -> pd.DataFrame:
    rows = []
    for number, (name, pull) in enumerate(zip(evaluate, pulls, strict=True)):
        role = "target" if number < 2 else "constraint"
        tolerance = math.nan if number < 2 else 0.05
        kept = None if number < 2 else bool(pull <= tolerance)
        rows.append(
            (name, role, base[name], tolerance, base[name] + pull, pull, pull - 0.012, pull + 0.012, kept)
        )
    columns = [
        "domain",
        "role",
        "reference",
        "tolerance",
        "loss",
        "change",
        "change_low",
        "change_high",
        "kept",
    ]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(kept=frame["kept"].astype(object))


def make_result(
    label: str = "DynaMiCS",
    *,
    status: str = "feasible",
    probes: bool = True,
    train: Sequence[str] = TRAIN,
    evaluate: Sequence[str] = EVALUATE,
    pulls: Sequence[float] = (-0.18, -0.1, 0.031, 0.044, 0.027, 0.012),
    notes: tuple[str, ...] = (),
) -> FinetuneResult:
    """A run of 320 steps with two targets and the rest constraints at .05 nats."""
    base = {name: 1.9 + 0.2 * number for number, name in enumerate(evaluate)}
    slopes = _updates(train, evaluate, base, VALIDATION[: len(evaluate)]) if probes else []
    shares = [update.weights for update in slopes] or [{name: 1 / len(train) for name in train}]
    steps = [update.step for update in slopes] or [0]
    pulls = pulls[: len(evaluate)] if status in ("feasible", "diverged") else [0.0] * len(evaluate)
    return FinetuneResult(
        label=label,
        status=status,  # type: ignore[arg-type]
        step=177 if status in ("feasible", "diverged") else 0,
        mixtures=pd.DataFrame([{"step": step, **row} for step, row in zip(steps, shares, strict=True)]),
        slopes=slopes,
        losses=_losses(evaluate, base, VALIDATION[: len(evaluate)]),
        final=_final(evaluate, base, pulls),
        cost=CostReport(
            training_steps=320,
            probe_steps=448 if probes else 0,
            evaluation_batches=612.0,
            solver_seconds=0.11 if probes else 0.0,
            training_multiple=2.4 if probes else 1.0,
            all_in_multiple=2.31 if probes else 1.0,
            seconds={
                "training": 19.2,
                "evaluation": 5.5,
                "probe training": 24.8,
                "solver": 0.11,
                "checkpoint": 1.9,
            },
        ),
        config={
            "seed": 0,
            "fit": {"steps": 320, "batch_size": 8, "lr": 1e-4, "eval_sequences": 64, "probe_sequences": 32},
            "mixer": {"kind": "dynamics", "constraints": dict.fromkeys(evaluate[2:], 0.05)},
            "versions": {"torch": "2.13.0", "trimtab": "0.1.0"},
        },
        seconds=51.51,
        notes=notes,
    )
