"""Pieces of the benchmark: the choice of settings, planes over strengths, conditions, counts, novelty and seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from kept import found, kept
from measures import STRENGTHS, at_budget, curves
from methods import (
    EACH,
    HYPER,
    ITI_,
    LINACT,
    LINEAS,
    RIDGE,
    UNSTEERED,
    Chosen,
    Methods,
    estimators,
    fitted_to,
    hypernetwork,
)
from PIL import Image
from world import World

from trimtab.errors import DivergedError
from trimtab.lab.scene_concepts import true_renders
from trimtab.seeds import derive
from trimtab.steer.hypertransport.concept_file import ConceptRow

CANDIDATES: dict[str, tuple[tuple[tuple[str, Any], ...], ...]] = {
    "hyper": ((), (("lr", 3e-3),), (("lr", 3e-4),), (("normalisation", "paper"),)),
    "lineas": ((), (("lr", 0.02),), (("lr", 0.1),)),
    "linact": ((), (("sequential", False),)),
    "iti": ((), (("alpha", 3.0),), (("alpha", 6.0),)),
}
"""Settings among which the validation concepts choose; the first are those of the quickstart."""
METHOD_OF = {"hyper": HYPER, "lineas": LINEAS, "linact": LINACT, "iti": ITI_}
assert set(CANDIDATES) == {one.name for one in fields(Chosen)}


def choice(world: World) -> dict[str, Any]:
    """Mean concept fidelity at equal input fidelity of every candidate on the validation concepts, and the best."""
    inner, scores, best = world.validating(), dict[str, list[Any]](), dict[str, Any]()
    for kind, candidates in CANDIDATES.items():
        scores[kind] = [
            {"settings": one, "concept_fidelity": _validated(inner, kind, one)}
            for one in candidates[: world.size.candidates]
        ]
        best[kind] = max(scores[kind], key=_score)["settings"]
    return {"scores": scores, "best": best, "concepts": len(inner.held_out), "trained_on": len(inner.train)}


def _score(candidate: Mapping[str, Any]) -> float:
    reached = candidate["concept_fidelity"]
    return -math.inf if reached is None else float(reached)


def _validated(inner: World, kind: str, settings: tuple[tuple[str, Any], ...]) -> float | None:
    """The score of a candidate; None where a fit diverges."""

    def reached(row: ConceptRow) -> float:
        if kind == "hyper":
            steering = hypernetwork(inner, 1, len(inner.train), settings).fitted(list(row.prompts))
        else:
            estimator = estimators(inner, Chosen(**{kind: settings}))[METHOD_OF[kind]]
            steering = fitted_to(inner, METHOD_OF[kind], estimator, row)[0]
        told = curves(inner, row, {kind: steering}, others=False)
        return at_budget(told[kind], told[UNSTEERED][0])

    words = "-".join(str(part) for pair in settings for part in pair)
    path = inner.folder / "choice" / f"{kind}-{words}.json"
    question = [inner.name, kind, settings, inner.size, STRENGTHS]
    try:
        scores = [
            kept(_place(path, row), [*question, row.name], lambda row=row: reached(row))
            for row in inner.held_out
        ]
    except DivergedError:
        return None
    return float(np.mean(scores))


def _place(path: Path, row: ConceptRow) -> Path:
    return path.with_name(f"{path.stem}-{row.name.replace(' ', '-')}.json")


def chosen(world: World) -> Chosen:
    """Settings that the choice of seed 0 made, for all seeds."""
    path = world.folder / "choice.json"
    best = kept(path, [world.name, world.size, CANDIDATES], lambda: choice(world))["best"]
    return Chosen(
        **{kind: tuple((name, value) for name, value in settings) for kind, settings in best.items()}
    )


def about(row: ConceptRow, methods: Methods) -> dict[str, Any]:
    """What a concept is and how new it is."""
    network, prompts = methods.hyper(), list(row.prompts)
    made_by = network(prompts).made_by
    said = {"concept": row.name, "split": row.split, "values": len(row.values)}
    return said | {
        "novelty": made_by["novelty"],
        "nearest": made_by["nearest_concept"],
        "usual": made_by["usual_novelty"],
    }


def planes(methods: Methods, row: ConceptRow) -> dict[str, Any]:
    """Every method over strengths."""
    return about(row, methods) | {"curves": curves(methods.world, row, methods.steerings(row))}


def conditions(methods: Methods, row: ConceptRow) -> dict[str, Any]:
    """The hypernetwork on so many prompts, on the name, and on so many true renders of those prompts."""
    network, world = methods.hyper(), methods.world
    given: dict[str, Any] = {"name": row.name}
    for count in world.size.conditions:
        prompts = list(row.prompts[:count])
        seed = derive(world.seed, "condition", row.name)
        renders = [Image.fromarray(one) for one in true_renders(prompts, None, seed)]
        given |= {f"{count} texts": prompts, f"{count} pictures": renders}
    steerings = {name: network(one) for name, one in given.items()}
    return about(row, methods) | {"curves": curves(world, row, steerings, others=False)}


def counts(methods: Methods, row: ConceptRow) -> dict[str, Any]:
    """Hypernetworks of fewer training concepts, trained for as many steps; how new the concept is to each."""
    steerings, novelty = {}, {}
    for count in methods.world.size.counts:
        steering = methods.hyper(count=count)(list(row.prompts))
        name = str(min(count, len(methods.world.train)))
        steerings[name], novelty[name] = steering, steering.made_by["novelty"]
    told = curves(methods.world, row, steerings, others=False)
    return about(row, methods) | {"curves": told, "novelty_of": novelty}


def novel(methods: Methods, row: ConceptRow) -> dict[str, Any]:
    """The hypernetwork alone; every held-out concept, and some training ones."""
    steering = methods.hyper()(list(row.prompts))
    return about(row, methods) | {"curves": curves(methods.world, row, {HYPER: steering}, others=False)}


def seconds(methods: Methods, row: ConceptRow) -> dict[str, Any]:
    """CPU seconds of a steering by each method, side by side, anew: what is kept is not read."""
    world, network = methods.world, methods.hyper()
    settings, prompts = estimators(world, methods.chosen), list(row.prompts)
    fresh = replace(world, folder=world.folder / "timed" / str(time.time_ns()))
    told = {name: fitted_to(fresh, name, settings[name], row)[1] for name in EACH}
    start = time.process_time()
    steering = network(prompts)
    told[HYPER] = time.process_time() - start
    told["refinement"] = Methods(fresh, methods.chosen).refined(row, steering)[1]
    embedding, ridge = network.embedding(prompts), methods.rivals()[RIDGE]
    start = time.process_time()
    ridge(embedding)
    told[RIDGE] = time.process_time() - start
    training = methods.trained(1, len(world.train)).seconds
    return {"concept": row.name, "seconds": told, "training": None if math.isnan(training) else training}


PER_CONCEPT: dict[str, Callable[[Methods, ConceptRow], dict[str, Any]]] = {
    "planes": planes,
    "conditions": conditions,
    "counts": counts,
    "novelty": novel,
    "seconds": seconds,
}
FITS = ("hypernetworks", "maps")
PIECES = ("choice", *FITS, *PER_CONCEPT)


def concepts_of(world: World, piece: str) -> tuple[ConceptRow, ...]:
    """Concepts that a piece is about."""
    if piece == "novelty":
        return (*world.held_out[: world.size.novel], *world.train[: world.size.beside])
    return world.measured[: world.size.timed] if piece == "seconds" else world.measured


def done(methods: Methods, piece: str) -> Iterator[dict[str, Any]]:
    """Records of a piece, a concept each, read where they are kept."""
    for row, path, question in _questions(methods, piece):
        yield kept(path, question, lambda row=row: PER_CONCEPT[piece](methods, row))


def whole(methods: Methods, piece: str) -> list[dict[str, Any]]:
    """Records of a piece that is kept whole; none of another."""
    records = [found(path, question) for _, path, question in _questions(methods, piece)]
    return [] if None in records else records


def _questions(methods: Methods, piece: str) -> Iterator[tuple[ConceptRow, Path, Any]]:
    world = methods.world
    for row in concepts_of(world, piece):
        question = [world.name, world.size, methods.chosen, STRENGTHS, row.name]
        yield row, _place(world.folder / piece / "concept.json", row), question


def fit(methods: Methods, piece: str) -> None:
    """Fits that pieces share: every hypernetwork, or the maps of training concepts."""
    if piece == "hypernetworks":
        every = [(p, count) for p, count in product((1,), methods.world.size.counts)]
        for p, count in [*every, (1, None), (2, None)]:
            methods.hyper(p, count)
    else:
        methods.rivals()
