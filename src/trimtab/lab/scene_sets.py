"""Sets of scenes as files: pictures in a folder with their truth, hard sets, and captions in two dialects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from PIL import Image

from trimtab.errors import DataError, explain
from trimtab.lab.scene_captions import full_caption, terse_caption
from trimtab.lab.scenes import OBJECT, WHOLE, Scene, SceneWorld
from trimtab.seeds import derive

Dialect = Literal["full", "terse"]
METADATA = "metadata.csv"
TRAINING, TARGETS, NEIGHBOURS = 2000, 300, 9


@dataclass(frozen=True)
class SceneSet:
    """Scenes with names, some of them one-attribute variants of others.

    Attributes:
        world: whose scenes these are.
        names: of the scenes, all different.
        scenes: their truth.
        nuisances: a nuisance vector each.
        bases: the name of the scene that each was made from; its own name for one that is no variant.
        changed: the attribute in which each differs from its base; empty for one that is no variant.
        seed: of the scenes, and of what speakers of the terse dialect say about them.
    """

    world: SceneWorld
    names: tuple[str, ...]
    scenes: tuple[Scene, ...]
    nuisances: Float[np.ndarray, "n nuisances"]
    bases: tuple[str, ...]
    changed: tuple[str, ...]
    seed: int = 0

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def pixels(self) -> UInt8[np.ndarray, "n size size 3"]:
        """The pictures, rendered on first use."""
        pairs = zip(self.scenes, self.nuisances, strict=True)
        return np.stack([self.world.render(scene, nuisance) for scene, nuisance in pairs])

    def rows(self, picked: Sequence[int]) -> SceneSet:
        """Some of the scenes, by their numbers."""
        return replace(
            self,
            names=tuple(self.names[row] for row in picked),
            scenes=tuple(self.scenes[row] for row in picked),
            nuisances=self.nuisances[list(picked)],
            bases=tuple(self.bases[row] for row in picked),
            changed=tuple(self.changed[row] for row in picked),
        )

    def targets(self) -> SceneSet:
        """The scenes that are no variants."""
        return self.rows([row for row, changed in enumerate(self.changed) if not changed])

    def captions(self, dialect: Dialect) -> list[str]:
        """A caption of each scene; what is said in the terse dialect depends on the seed and the name only."""
        if dialect == "full":
            return [full_caption(scene) for scene in self.scenes]
        draws = (np.random.default_rng(derive(self.seed, "terse", name)) for name in self.names)
        return [terse_caption(scene, rng) for scene, rng in zip(self.scenes, draws, strict=True)]

    def caption_table(self, dialect: Dialect) -> pd.DataFrame:
        """Captions as references: columns item, caption."""
        return pd.DataFrame({"item": self.names, "caption": self.captions(dialect)})

    def table(self) -> pd.DataFrame:
        """Truth of the scenes, a row each.

        Columns: file_name, base, changed, objects (how many), each attribute of the whole that varies, each attribute
        of each object (`colour_1`, `colour_2`; empty where there is no such object), and the scene graph as JSON.
        """
        varies = {*self.world.varying()}
        rows = []
        for name, base, changed, scene in zip(self.names, self.bases, self.changed, self.scenes, strict=True):
            row = {"file_name": f"{name}.png", "base": base, "changed": changed}
            row |= {"objects": str(len(scene.objects))}
            row |= {one: getattr(scene, one) for one in WHOLE if one in varies}
            for number in range(len(self.world.objects)):
                thing = scene.objects[number] if number < len(scene.objects) else None
                row |= {f"{one}_{number + 1}": getattr(thing, one, "") for one in OBJECT if one in varies}
            rows.append(row | {"scene": json.dumps(self.world.graph(scene))})
        return pd.DataFrame(rows)

    def hard_sets(self) -> pd.DataFrame:
        """Hard candidate sets: columns item, candidates (a JSON list, the target anywhere in it) and target.

        Raises:
            DataError: there are no variants.
        """
        frame = pd.DataFrame({"name": self.names, "base": self.bases})
        rows = []
        for base, names in frame.groupby("base", sort=False)["name"]:
            rng = np.random.default_rng(derive(self.seed, "candidates", str(base)))
            rows.append((base, json.dumps(list(rng.permutation(names.to_list()))), base))
        if len(rows) == len(frame):
            raise DataError(explain(f"{len(frame)} scenes without variants", "variants of each scene"))
        return pd.DataFrame(rows, columns=["item", "candidates", "target"])

    def save(self, folder: Path) -> None:
        """Write the pictures, PNG, and `metadata.csv`, so that the folder is one of the image-folder layout."""
        for name, pixels in zip(self.names, self.pixels, strict=True):
            Image.fromarray(pixels).save(folder / f"{name}.png", compress_level=1)
        self.table().to_csv(folder / METADATA, index=False)


def scene_set(world: SceneWorld, targets: int, neighbours: int, *, start: str, seed: int) -> SceneSet:
    """Scenes at random, each followed by some of its one-attribute variants, with nuisances of their own.

    The first scenes of a larger set are those of a smaller one.

    Args:
        world: the distribution of the scenes.
        targets: how many scenes at random.
        neighbours: variants of each.
        start: of the names, which are `start-0000` and `start-0000-1` for the first variant of it.
        seed: of the scenes.
    """
    names, scenes, nuisances, bases, changed = [], [], [], [], []
    for number in range(targets):
        rng = np.random.default_rng(derive(seed, "scenes", start, number))
        scene, base = world.draw(rng), f"{start}-{number:04}"
        variants = world.hard(scene, neighbours, rng)
        scenes += [scene, *(variant.scene for variant in variants)]
        names += [base, *(f"{base}-{place + 1}" for place in range(neighbours))]
        changed += ["", *(variant.attribute for variant in variants)]
        bases += [base] * (neighbours + 1)
        nuisances += [world.nuisance(rng) for _ in range(neighbours + 1)]
    return SceneSet(
        world, tuple(names), tuple(scenes), np.stack(nuisances), tuple(bases), tuple(changed), seed
    )


def training_scenes(world: SceneWorld | None = None, targets: int = TRAINING, seed: int = 0) -> SceneSet:
    """Scenes to train on, each with one of its one-attribute variants."""
    return scene_set(SceneWorld() if world is None else world, targets, 1, start="train", seed=seed)


def held_out_scenes(world: SceneWorld | None = None, targets: int = TARGETS, seed: int = 0) -> SceneSet:
    """Scenes to test on, each with nine of its one-attribute variants."""
    return scene_set(SceneWorld() if world is None else world, targets, NEIGHBOURS, start="test", seed=seed)
