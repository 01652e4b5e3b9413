"""The world of one seed: pictures, captions, captioners, the listener of the training and an independent one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from trimtab.data.pictures import Pictures, read_pictures
from trimtab.lab.scene_captions import terse_caption
from trimtab.lab.scene_models import SceneModels, scene_model
from trimtab.lab.scene_sets import NEIGHBOURS, SceneSet, scene_set, training_scenes
from trimtab.lab.scene_towers import Schedule
from trimtab.lab.scenes import SceneWorld
from trimtab.models.captioner import Captioner, captioner
from trimtab.refer.captions.faithfulness import Truth, truth_of, values_said
from trimtab.refer.captions.listener import Gallery, Listener
from trimtab.seeds import derive

LISTENER, INDEPENDENT = "listener", "independent"
TEST, CROSS = "test", "cross"
ELSEWHERE = SceneWorld(
    objects=(0.0, 0.5, 0.5), palette=("sepia", "moonlit"), background=("striped", "spotted")
)
"""Scenes of another kind: two or three objects (the training has one or two), and no picture plain and natural."""
TERSE_REFERENCES = 5


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        training: scenes that a speaker is tuned on, each with one variant.
        test: scenes to be judged by, of the training's kind, each with nine variants.
        cross: the same, of the other kind.
        steps: of DiscriTune.
        models: settings of the models, but for the seed and the share of full captions.
    """

    training: int = 1000
    test: int = 300
    cross: int = 200
    steps: int = 60
    models: SceneModels = field(default_factory=SceneModels)


SMOKE = Sizes(
    training=100,
    test=110,
    cross=110,
    steps=2,
    models=SceneModels(
        targets=128, tower=Schedule(20), captioner=Schedule(20, 3e-3), listener=Schedule(20, 3e-3)
    ),
)


@dataclass(frozen=True, eq=False)
class Exam:
    """Pictures to judge captions by.

    Attributes:
        scenes: those that are captioned, and their variants.
    """

    scenes: SceneSet

    @cached_property
    def pictures(self) -> Pictures:
        return shown(self.scenes)

    @cached_property
    def targets(self) -> SceneSet:
        return self.scenes.targets()

    @property
    def names(self) -> tuple[str, ...]:
        return self.targets.names

    @cached_property
    def hard(self) -> pd.DataFrame:
        frame = self.scenes.hard_sets()
        return frame.assign(candidates=frame["candidates"].map(json.loads))

    @cached_property
    def full(self) -> dict[str, str]:
        return dict(zip(self.names, self.targets.captions("full"), strict=True))

    @cached_property
    def terse(self) -> dict[str, str]:
        return dict(zip(self.names, self.targets.captions("terse"), strict=True))

    @cached_property
    def terse_references(self) -> dict[str, list[str]]:
        """Several people's terse captions of each picture, the speaker of `terse` not among them."""
        return {
            name: [
                terse_caption(scene, np.random.default_rng(derive(self.scenes.seed, "people", name, person)))
                for person in range(TERSE_REFERENCES)
            ]
            for name, scene in zip(self.names, self.targets.scenes, strict=True)
        }

    @cached_property
    def told(self) -> dict[str, Truth]:
        pairs = zip(self.names, self.targets.scenes, strict=True)
        return {name: truth_of(self.scenes.world.graph(scene)) for name, scene in pairs}

    @cached_property
    def said(self) -> set[str]:
        return values_said(self.full.values(), self.told.values())


class Misled(Listener):
    """A listener that is shown other pictures than the speaker: the control that should gain nothing."""

    def gallery(self, pictures: Any) -> Gallery:
        seen = super().gallery(pictures)
        if isinstance(pictures, Gallery):
            return seen
        order = np.random.default_rng(derive(0, "misled")).permutation(len(seen))
        return Gallery(seen.names, seen.vectors[order], tuple(seen.keys[row] for row in order))


@dataclass(frozen=True, eq=False)
class World:
    """Everything of one seed; models are trained on first use and kept in the cache of this machine."""

    seed: int
    sizes: Sizes

    def _model(self, name: str, full: float) -> Path:
        return scene_model(name, replace(self.sizes.models, seed=self.seed, full=full))

    def prepare(self, full: float) -> None:
        """Train, draw and embed all that an arm needs, so that its seconds are its own."""
        self._model("captioner", full)
        _ = self.galleries, self.pictures

    def speaker(self, full: float) -> Captioner:
        """A captioner as it was before any tuning."""
        return captioner(self._model("captioner", full))

    @cached_property
    def listeners(self) -> dict[str, Listener]:
        names = {LISTENER: "listener", INDEPENDENT: "listener-other"}
        return {role: Listener.from_pretrained(self._model(name, 0.2)) for role, name in names.items()}

    @cached_property
    def misled(self) -> Listener:
        return Misled(self.listeners[LISTENER].encoder)

    @cached_property
    def training(self) -> SceneSet:
        return training_scenes(self.sizes.models.world, self.sizes.training, self.seed)

    @cached_property
    def pictures(self) -> Pictures:
        return shown(self.training)

    @cached_property
    def copies(self) -> Pictures:
        """As many pictures, of which a third stands once, a third twice and a third four times."""
        images = self.pictures
        listed = [
            (f"{name}-copy-{copy}", name)
            for number, name in enumerate(images.names)
            for copy in range((1, 2, 4)[number % 3])
        ]
        return read_pictures({name: images[of] for name, of in listed[: len(images)]})

    def people(self, full: float) -> dict[str, list[str]]:
        """A caption of each training picture, in the mixture of dialects that the captioner learned from."""
        draws = np.random.default_rng(derive(self.seed, "people's dialects")).random(len(self.training))
        both = zip(
            self.training.names, self.training.captions("full"), self.training.captions("terse"), strict=True
        )
        return {name: [a if draw < full else b] for (name, a, b), draw in zip(both, draws, strict=True)}

    @cached_property
    def exams(self) -> dict[str, Exam]:
        kinds = {TEST: (self.sizes.models.world, self.sizes.test), CROSS: (ELSEWHERE, self.sizes.cross)}
        return {
            name: Exam(scene_set(world, count, NEIGHBOURS, start=name, seed=self.seed))
            for name, (world, count) in kinds.items()
        }

    @cached_property
    def galleries(self) -> dict[tuple[str, str, str], Gallery]:
        """Embedded pictures by exam, listener, and whether these are the targets or all."""
        found = {}
        for name, exam in self.exams.items():
            for role, listener in self.listeners.items():
                every = listener.gallery(exam.pictures)
                found[name, role, "all"] = every
                found[name, role, "targets"] = _picked(every, exam.names)
        return found


def shown(scenes: SceneSet) -> Pictures:
    """Pictures of scenes by name, in memory."""
    pairs = zip(scenes.names, scenes.pixels, strict=True)
    return read_pictures({name: Image.fromarray(pixels) for name, pixels in pairs})


def _picked(gallery: Gallery, names: Sequence[str]) -> Gallery:
    rows = gallery.places(names)
    return Gallery(tuple(names), gallery.vectors[rows], tuple(gallery.keys[row] for row in rows))
