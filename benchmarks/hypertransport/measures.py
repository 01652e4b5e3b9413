"""Measures of the benchmark: fidelities to the concept and to the input by a judge, and the distance to the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from methods import PROMPTING, RENDERS, UNSTEERED
from world import World

from trimtab import Steering
from trimtab.steer.hypertransport.concept_file import ConceptRow
from trimtab.steer.hypertransport.judging import ByJudge
from trimtab.steer.hypertransport.measuring import BUDGET, within_budget

STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Beyond 1 a map is carried on in a straight line, so that weak methods can be compared at equal input fidelity."""
FULL = 1.0
Point = dict[str, Any]
"""strength; concept: mean share of the concept's values that are seen; values: the share of each, by attribute; whole:
share of pictures in which all are; input: share of the other attributes that are as asked; distance to the true
render: mean absolute difference of pixels in [0, 1]. Claims are about the second: on validation concepts of two values
closed-form maps give hardly any whole.
"""


def curves(
    world: World, row: ConceptRow, steerings: Mapping[str, Steering], *, others: bool = True
) -> dict[str, list[Point]]:
    """Points of each method over strengths.

    Args:
        world: where.
        row: the concept.
        steerings: by method.
        others: whether prompting, the true renders and the unsteered generator are measured too.
    """
    found = {
        name: [_point(world, row, one, strength) for strength in STRENGTHS] for name, one in steerings.items()
    }
    start = {UNSTEERED: [_marked(world, row, 0.0, _painted(world, world.prompts))]}
    if not others:
        return found | start
    words = world.truth.prompted(world.prompts, row.values)
    truth = world.truth.truth(world.prompts, row.values, world.noise)
    found[PROMPTING] = [_marked(world, row, FULL, _painted(world, words))]
    return found | {RENDERS: [_marked(world, row, FULL, truth)]} | start


def _point(world: World, row: ConceptRow, steering: Steering, strength: float) -> Point:
    with (steering * max(strength, FULL)).on(world.generator, min(strength, FULL)):
        return _marked(world, row, strength, _painted(world, world.prompts))


def _painted(world: World, prompts: Sequence[str]) -> list[Any]:
    return list(world.generator.generate(list(prompts), seed=world.noise))


def _marked(world: World, row: ConceptRow, strength: float, pictures: Sequence[Any]) -> Point:
    marks, seen = ByJudge(world.truth).marks(pictures, world.prompts, row), world.truth.see(pictures)
    shares = {name: float(np.mean(np.array(seen[name]) == value)) for name, value in row.values.items()}
    truth = world.truth.truth(world.prompts, row.values, world.noise)
    gaps = [
        np.abs(np.asarray(a, float) - np.asarray(b, float)).mean() / 255
        for a, b in zip(pictures, truth, strict=True)
    ]
    return {
        "strength": strength,
        "concept": float(np.mean(list(shares.values()))),
        "values": shares,
        "whole": float(marks.concept.mean()),
        "input": float(marks.others.mean()),
        "distance": float(np.mean(gaps)),
    }


def at_budget(curve: Sequence[Point], start: Point, attribute: str | None = None) -> float:
    """Best concept fidelity on the way to the strength at which the input fidelity has fallen by the budget.

    The best, since a map that is carried on beyond 1 may lose the concept while the input stays.

    Args:
        curve: of a method.
        start: the unsteered generator.
        attribute: whose value counts; None for all of the concept.
    """
    line = [start, *curve]
    concepts = [float(p["concept"] if attribute is None else p["values"][attribute]) for p in line]
    inputs = [float(p["input"]) for p in line]
    reached = [within_budget(inputs[:n], concepts[:n], BUDGET) for n in range(2, len(line) + 1)]
    return max([concepts[0], *reached])


def at_full(curve: Sequence[Point], what: str) -> float:
    """A measure at strength 1."""
    return next(float(point[what]) for point in curve if point["strength"] == FULL)
