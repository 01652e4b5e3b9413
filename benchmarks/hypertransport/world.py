"""World of the benchmark: a generator of scenes of each seed, concepts, prompts, and the truth that judges them.

A seed is a generator of its own (some minutes of one core), other example prompts and other held-out combinations,
another order of training concepts, and the seed of each hypernetwork. Encoder and judge are the same for all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from trimtab import Model, load
from trimtab.lab.scene_concepts import plain_prompts, scene_concepts
from trimtab.lab.scene_encoder import scene_encoder
from trimtab.lab.scene_generator import SceneGenerator, scene_generator
from trimtab.lab.scene_truth import SceneTruth, scene_truth
from trimtab.seeds import derive
from trimtab.steer.hypertransport.concept_file import TRAIN, ConceptDraw, ConceptRow
from trimtab.steer.hypertransport.conditions import Encoder, encoder_of

SITES = "*norm*"
POOL = 64
"""Example prompts of each concept."""
VALIDATION, VALIDATION_COMBINATIONS = "validation value", "validation combination"
VALIDATION_VALUES = {"shape": "bar", "background": "wavy", "palette": "mossy"}
"""Values that no training concept has while settings are chosen; the held-out ones are others."""
VALIDATION_SHARE = 0.15
"""Of the other compositions; theirs occur apart."""


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        steps: of a hypernetwork.
        counts: training concepts of a hypernetwork; those beyond what there is mean all.
        fitted: training concepts to which LinEAS is fitted.
        held_out: measured by every method, half of each split.
        beside: of training concepts, in the study of novelty.
        novel: held-out concepts in it; None for all.
        source: generic prompts to fit with.
        prompts: generic prompts to measure on.
        conditions: numbers of prompts in a condition.
        lineas: most steps of LinEAS; None for those chosen.
        oracle: steps of the oracle.
        validation: concepts that settings are chosen on, half of each kind.
        timed: concepts that the seconds are of.
        candidates: most settings of each kind to choose from; None for all.
    """

    steps: int = 2000
    counts: tuple[int, ...] = (8, 128, 400)
    fitted: int = 128
    held_out: int = 24
    beside: int = 32
    novel: int | None = 96
    source: int = 32
    prompts: int = 32
    conditions: tuple[int, ...] = (1, 4, 16, 32)
    lineas: int | None = None
    oracle: int = 120
    validation: int = 12
    timed: int = 5
    candidates: int | None = None


FULL = Size()
SMOKE = Size(3, (8, 12), 8, 2, 1, 2, 8, 6, (1, 2), 2, 2, 2, 1, 2)


@dataclass(frozen=True, eq=False)
class World:
    """What one seed measures in.

    Attributes:
        seed: of all of it.
        size: how much is done.
        generator: of scenes.
        encoder: of conditions, of two towers.
        truth: judge and true renders.
        train: all training concepts, in the order in which fewer are taken.
        held_out: all held-out concepts, the splits in turn.
        source: generic prompts to fit with.
        prompts: generic prompts to measure on.
        folder: of kept pieces.
    """

    seed: int
    size: Size
    generator: Model
    encoder: Encoder
    truth: SceneTruth
    train: tuple[ConceptRow, ...]
    held_out: tuple[ConceptRow, ...]
    source: tuple[str, ...]
    prompts: tuple[str, ...]
    folder: Path

    @property
    def name(self) -> list[Any]:
        """What makes it this world, for questions."""
        models = [Path(one).name for one in (self.generator.name, self.encoder.name)]
        return [self.seed, *models, len(self.source), len(self.prompts), POOL]

    @property
    def measured(self) -> tuple[ConceptRow, ...]:
        """Held-out concepts on which every method is measured."""
        return self.held_out[: self.size.held_out]

    @property
    def noise(self) -> int:
        """Seed of the noise of measured pictures, the same for all methods."""
        return derive(self.seed, "measured")

    def validating(self) -> World:
        """The world in which settings are chosen: training concepts alone, some of which are held out instead."""
        rng = np.random.default_rng(derive(self.seed, "validation"))
        rows = [replace(row, split=_validation_split(row, rng)) for row in self.train]
        draw = ConceptDraw.of(rows, None, self.size.validation, 0, self.seed)  # as many of each kind
        prompts = tuple(plain_prompts(len(self.prompts), self.seed, of="validation"))
        inner = replace(self, train=draw.train, held_out=draw.held_out, prompts=prompts)
        return replace(inner, folder=self.folder / "validation")


def _validation_split(row: ConceptRow, rng: np.random.Generator) -> str:
    drawn = (
        rng.random() < VALIDATION_SHARE
    )  # also of the others, so that the draws are those of the order alone
    if any(VALIDATION_VALUES.get(name) == value for name, value in row.values.items()):
        return VALIDATION
    return VALIDATION_COMBINATIONS if drawn and len(row.values) > 1 else TRAIN


@cache
def world_of(seed: int, size: Size, folder: Path) -> World:
    """The world of a seed; its models are trained on first use."""
    rows = [
        ConceptRow(str(one["concept"]), tuple(one["prompts"]), str(one["split"]), one["values"])
        for one in map(dict[str, Any], scene_concepts(POOL, seed).rows())
    ]
    held = sum(row.split != TRAIN for row in rows)
    draw = ConceptDraw.of(rows, None, held, 0, seed)
    prompts = plain_prompts(size.source + size.prompts, seed, of="benchmark")
    return World(
        seed=seed,
        size=size,
        generator=load(str(scene_generator(SceneGenerator(seed=seed))), device="cpu"),
        encoder=encoder_of(str(scene_encoder())),
        truth=scene_truth(),
        train=draw.train,
        held_out=draw.held_out,
        source=tuple(prompts[: size.source]),
        prompts=tuple(prompts[size.source :]),
        folder=folder / f"seed-{seed}",
    )
