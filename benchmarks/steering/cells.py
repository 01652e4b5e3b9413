"""One fit of the benchmark and what it does over strengths."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from methods import METHODS, ORACLE, VARIANTS
from oracle import oracle

from trimtab import Steering
from trimtab.errors import DivergedError
from worlds import PLACES, Judge, documents, judge

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""From 0, where nothing is changed. Beyond 1 the map is carried on in a straight line, so that weak methods can be
compared at the same KL."""
DIGITS = 5


@dataclass(frozen=True)
class Cell:
    """What is fitted.

    Attributes:
        world: its name.
        seed: of the model.
        draw: which examples are drawn.
        place: kind of site.
        method: its name.
        n: examples on each side.
        changes: other settings of the estimator, as (name, value).
    """

    world: str
    seed: int
    draw: int
    place: str
    method: str
    n: int = 32
    changes: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Its name, and that of its folder."""
        changed = "".join(f", {key} {value}" for key, value in self.changes)
        return f"{self.world}, {self.seed}, {self.draw}, {self.place}, {self.method}, n {self.n}{changed}"


def run(cell: dict[str, Any], folder: Path) -> dict[str, Any]:  # noqa: ARG001
    """Fit, and score at each strength; a fit that diverges is a result too."""
    torch.set_num_threads(1)
    judged = judge(cell["world"], cell["seed"])
    start = time.perf_counter()
    try:
        steering = fitted(judged, Cell(**{**cell, "changes": tuple(map(tuple, cell["changes"]))}))
    except DivergedError as error:
        return {"diverged": str(error)}
    seconds = time.perf_counter() - start
    alone = list(steering.sparsity().values())
    curve = [judged.untouched, *(scored(judged, steering, s) for s in STRENGTHS[1:])]
    return {
        "curve": [{"strength": s, **_rounded(scores)} for s, scores in zip(STRENGTHS, curve, strict=True)],
        "seconds": round(seconds, 2),
        "left_alone": round(sum(alone) / len(alone), 4),
        "cost": steering.made_by.get("cost"),
    }


def fitted(judged: Judge, cell: Cell) -> Steering:
    """The steering of a cell: rude documents to clean ones."""
    sites = PLACES[cell.place]
    if cell.method == ORACLE:
        return oracle(judged, sites, cell.draw)
    rude, clean = (
        documents(judged.world, style, cell.n, "fit", cell.draw).texts for style in ("rude", "clean")
    )
    estimator = replace({**METHODS, **VARIANTS}[cell.method](sites), **dict(cell.changes))
    return estimator.fit(judged.model, source=list(rude), target=list(clean))


def scored(judged: Judge, steering: Steering, strength: float) -> dict[str, float]:
    """Scores under a strength, which may be beyond 1."""
    with (steering * max(strength, 1.0)).on(judged.model, min(strength, 1.0)):
        return judged.scores()


def _rounded(scores: dict[str, float]) -> dict[str, float]:
    return {name: round(value, DIGITS) for name, value in scores.items()}
