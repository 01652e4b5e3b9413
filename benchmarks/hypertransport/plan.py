"""Planned CPU minutes of each piece of the benchmark, from one timed step of each kind."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from measures import STRENGTHS, curves
from methods import (
    EACH,
    HYPER,
    LINACT,
    LINEAS,
    LINEAS_ALIKE,
    LINEAS_SHORT,
    LINEAS_STEPS,
    Chosen,
    estimators,
    fitted_to,
    hypernetwork,
    oracle,
)
from pieces import CANDIDATES, PIECES
from world import Size, World

from trimtab.runs.files import read_json
from trimtab.steer.hypertransport.concept_file import ConceptRow

STEPS = 4
"""Steps that are timed."""


def took(work: Callable[[], Any]) -> float:
    """CPU seconds of some work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def units(world: World) -> dict[str, float]:
    """CPU seconds of a step of the hypernetwork, of its set-up, of a fit to a concept, the oracle's, and of a curve."""
    row = world.train[0]
    with TemporaryDirectory() as folder:
        small = replace(
            world, folder=Path(folder), size=replace(world.size, steps=STEPS, oracle=STEPS, lineas=STEPS)
        )
        trained, most = took(lambda: hypernetwork(small, 1, 32, ())), len(small.train)
        more = replace(small, size=replace(small.size, steps=2 * STEPS))
        step = (took(lambda: hypernetwork(more, 1, 32, ())) - trained) / STEPS
        found = {"step": max(step, 1e-3), "set-up": max(0.0, trained - STEPS * step) * most / 32}
        settings = estimators(small, Chosen())
        for name in EACH:
            found[name] = took(lambda name=name: fitted_to(small, name, settings[name], row))
        twice = replace(settings[LINEAS], steps=2 * STEPS)
        slope = max(0.0, took(lambda: fitted_to(small, LINEAS, twice, row)) - found[LINEAS]) / STEPS
        for name in (LINEAS, LINEAS_SHORT, LINEAS_ALIKE):
            found[name] += slope * (estimators(world, Chosen())[name].steps - STEPS)
        found["oracle"] = took(lambda: oracle(small, row)) * world.size.oracle / STEPS
        found["curve"] = _curve(small, row)
    return found


def _curve(world: World, row: ConceptRow) -> float:
    steering = hypernetwork(world, 1, 32, ()).fitted(list(row.prompts))
    whole = took(lambda: curves(world, row, {HYPER: steering}, others=False))
    return whole * len(STRENGTHS) / (len(STRENGTHS) + 1)


def _lineas_fits() -> float:
    """Fits of LinEAS that its candidates are worth, by their steps."""
    return sum(dict(one).get("steps", LINEAS_STEPS) / LINEAS_STEPS for one in CANDIDATES["lineas"])


def planned(world: World, size: Size, seeds: int) -> str:
    """Minutes of each piece, of all seeds: as Markdown."""
    unit = units(replace(world, size=size))
    network = unit["set-up"] + size.steps * unit["step"]
    each = sum(unit[name] for name in EACH) + unit[LINEAS_SHORT] + unit["oracle"]
    curve, every = unit["curve"], len(world.train)
    numbers = len([one for one in size.counts if one < every])
    minutes = {
        "choice": len(CANDIDATES["hyper"]) * network
        + size.validation * (_lineas_fits() * unit[LINEAS] + sum(map(len, CANDIDATES.values())) * curve),
        "hypernetworks": seeds * (2 + numbers) * network,
        "maps": seeds * (every * unit[LINACT] + size.fitted * unit[LINEAS]),
        "planes": seeds * size.held_out * (each + (6 + 2 * 6 + 1) * curve),
        "conditions": seeds * size.held_out * (2 * len(size.conditions) + 1) * curve,
        "counts": seeds * size.held_out * len(size.counts) * curve,
        "novelty": seeds * (len(world.held_out) + size.beside) * curve,
        "seconds": seeds * size.timed * (each - unit["oracle"]),
    }
    assert set(minutes) == set(PIECES)
    card = read_json(Path(world.generator.name) / "card.json", "the card of a generator")
    minutes["generators of the other seeds, at most"] = (seeds - 1) * float(card["seconds"])
    rows = [f"| {name} | {value / 60:.0f} |" for name, value in minutes.items()]
    told = ", ".join(f"{name} {value:.3g}" for name, value in unit.items())
    head = f"CPU seconds of one: {told}.\n\n| piece | CPU minutes, {seeds} seeds |\n|---|---|\n"
    return head + "\n".join(rows) + f"\n| all | {sum(minutes.values()) / 60:.0f} |"
