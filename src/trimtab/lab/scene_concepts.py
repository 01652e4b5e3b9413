"""Concepts of pictures in words: values of a scene's attributes and compositions of two, with example prompts.

Whole values, and whole combinations of values, are held out. For a prompt, its noise and a concept the picture that a
perfect steering would make is known exactly.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from trimtab.errors import DataError, refusal
from trimtab.lab.scene_captions import ON, full_caption, read_caption
from trimtab.lab.scenes import DEFAULTS, PLACES, VALUES, WHOLE, Scene, SceneWorld, Thing
from trimtab.models.one_step import noise_vectors
from trimtab.runs.serialise import to_json
from trimtab.seeds import derive

CONTENT = ("size", "colour", "shape", "position")
STYLE = ("texture", "outline", "background", "palette")
ATTRIBUTES = (*CONTENT, *STYLE)
STEERABLE = tuple(name for name in ATTRIBUTES if name != "position")
"""Attributes that concepts are about. The generator places its object before its first norm, so that no map at a norm
can move it."""
PICTURE_WORLD = SceneWorld(
    shape=VALUES["shape"],
    colour=VALUES["colour"],
    position=tuple(PLACES),
    texture=VALUES["texture"],
    background=VALUES["background"],
    palette=VALUES["palette"],
    objects=(1.0,),
)
"""One object at one of nine places of a 32 x 32 picture; places are half a cell apart."""
NAMED: Mapping[str, tuple[str, ...]] = {
    name: tuple(value for value in getattr(PICTURE_WORLD, name) if value != DEFAULTS.get(name))
    for name in ATTRIBUTES
}
"""Attribute -> the values that captions name: all but the defaults."""
CAPTION_WORDS = (ON, *(value for values in NAMED.values() for value in values))
"""The words of captions of this world."""
HELD_VALUES = {
    "colour": "purple",
    "shape": "diamond",
    "background": "spotted",
    "palette": "faded",
}
"""Values that no training concept has, alone or composed, and no prompt but of a concept that names them."""
_SEEN: Any = {
    name: tuple(value for value in getattr(PICTURE_WORLD, name) if value != held)
    for name, held in HELD_VALUES.items()
}
SEEN_WORLD = replace(PICTURE_WORLD, **_SEEN)
"""The world of prompts, without the held-out values."""
HELD_SHARE = 0.15
"""Share of the other compositions that is held out; both of their values occur in training concepts."""
RARE = 0.1
"""Chance of each style attribute to be named in a prompt at random: style words are rare."""
FILLERS = ("object", "background", "palette", "with")
"""Words of concept names that no caption has."""

Values = Mapping[str, str]
"""Attribute -> value."""


@dataclass(frozen=True)
class SceneConcepts:
    """Concepts by name, each with example prompts: captions of scenes that have its values.

    Attributes:
        train: concepts to train on.
        held_values: concepts with a value that no training concept has.
        held_combinations: compositions of two values that training concepts have, but never together.
        values: of each concept of all three, one or two attributes and their values.
    """

    train: dict[str, list[str]]
    held_values: dict[str, list[str]]
    held_combinations: dict[str, list[str]]
    values: dict[str, dict[str, str]]

    def rows(self) -> Iterator[dict[str, object]]:
        """A JSON object for each concept: concept, split, prompts, values."""
        for split in ("train", "held_values", "held_combinations"):
            for name, prompts in getattr(self, split).items():
                yield {"concept": name, "split": split, "prompts": prompts, "values": self.values[name]}

    def save_jsonl(self, path: Path) -> None:
        """Write the rows, a line each."""
        path.write_text("".join(f"{to_json(row)}\n" for row in self.rows()), encoding="utf-8")

    @classmethod
    def from_jsonl(cls, path: Path) -> SceneConcepts:
        """The concepts of a file that `save_jsonl` wrote."""
        made = cls({}, {}, {}, {})
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            getattr(made, row["split"])[row["concept"]] = row["prompts"]
            made.values[row["concept"]] = row["values"]
        return made


def scene_concepts(prompts: int = 64, seed: int = 0) -> SceneConcepts:
    """Every value of `STEERABLE` attributes but the defaults, and every composition of two, as concepts.

    Which values are held out is fixed (`HELD_VALUES`); of the compositions of other values `HELD_SHARE` are, by the
    seed, so that each of their values still occurs in training concepts.

    Args:
        prompts: example prompts of each, drawn independently.
        seed: of the prompts and of the held-out combinations.
    """
    every, made = list(_singles_and_pairs()), SceneConcepts({}, {}, {}, {})
    known = [values for values in every if len(values) == 2 and not _held(values)]
    rng = np.random.default_rng(derive(seed, "held combinations"))
    picked = rng.choice(len(known), round(HELD_SHARE * len(known)), replace=False)
    apart = {concept_name(known[place]) for place in picked}
    for values in every:
        name = concept_name(values)
        split = "held_values" if _held(values) else "held_combinations" if name in apart else "train"
        made.values[name] = values
        getattr(made, split)[name] = plain_prompts(prompts, seed, values, of=name)
    return made


def _singles_and_pairs() -> Iterator[dict[str, str]]:
    """Every value that captions name, then every pair of values of two attributes; without positions."""
    for count in (1, 2):
        for names in combinations(STEERABLE, count):
            for chosen in product(*(NAMED[name] for name in names)):
                yield dict(zip(names, chosen, strict=True))


def _held(values: Values) -> bool:
    return any(HELD_VALUES.get(name) == value for name, value in values.items())


def concept_name(values: Values) -> str:
    """A concept in words; what is not said is open.

    >>> concept_name({"colour": "red", "background": "checkered"})
    'red object with checkered background'
    >>> concept_name({"shape": "cross", "position": "west"}), concept_name({"palette": "sepia"})
    ('cross west', 'sepia palette')
    """
    order = ("size", "texture", "outline", "colour")
    thing = [values[name] for name in order if name in values]
    if thing or "shape" in values or "position" in values:
        thing.append(values.get("shape", "object"))
    thing += [values["position"]] if "position" in values else []
    whole = [f"{values[name]} {name}" for name in ("background", "palette") if name in values]
    return " with ".join(filter(None, (" ".join(thing), *whole)))


def plain_prompts(count: int, seed: int, values: Values | None = None, of: str = "plain") -> list[str]:
    """Captions of scenes at random with rare style: size, colour, shape, position and, with chance `RARE` each, style.

    Args:
        count: how many; they may repeat.
        seed: of the draws.
        values: what all of them have in common.
        of: name of the draw; those of different names are independent.
    """
    rng = np.random.default_rng(derive(seed, "prompts", of))
    return [full_caption(changed(plain_scene(rng), values or {})) for _ in range(count)]


def plain_scene(rng: np.random.Generator, world: SceneWorld = SEEN_WORLD) -> Scene:
    """A scene at random with rare style: each attribute of it is at its default but for a chance of `RARE`."""
    scene = world.draw(rng)
    return changed(scene, {name: DEFAULTS[name] for name in STYLE if rng.random() >= RARE})


def changed(scene: Scene, values: Values) -> Scene:
    """A scene of one object with some values replaced."""
    for name, value in values.items():
        scene = scene.changed(name, -1 if name in WHOLE else 0, value)
    return scene


def scene_of(prompt: str) -> Scene:
    """The scene of a prompt: the inverse of `full_caption` for scenes of one object.

    Raises:
        DataError: no caption of one object with size, colour, shape and position.

    >>> scene_of("small red circle west on sepia").palette
    'sepia'
    """
    things, whole = read_caption(prompt)
    if len(things) != 1 or not set(CONTENT) <= set(things[0]):
        expected = "a caption of one object with its size, colour, shape and position"
        raise refusal("", repr(prompt), expected, "'small red circle west'", error=DataError)
    return Scene((Thing(**things[0]),), **whole)


def true_renders(
    prompts: Sequence[str], values: Values | None = None, seed: int = 0
) -> UInt8[np.ndarray, "n size size 3"]:
    """Pictures that a perfect generator makes of prompts, or with a concept's values that a perfect steering makes.

    The noise is what `load("lab:scene-generator").generate(prompts, seed=seed)` has, so pictures compare one by one.

    Args:
        prompts: full captions.
        values: a concept's; None or empty leaves the scenes as they are.
        seed: of the noise.

    Raises:
        DataError: a prompt that is no such caption.
    """
    scenes = [changed(scene_of(prompt), values or {}) for prompt in prompts]
    size = PICTURE_WORLD.nuisance(np.random.default_rng(0)).size
    noise = noise_vectors(len(scenes), size, seed)
    pixels = PICTURE_WORLD.pixels
    if not scenes:
        return np.zeros((0, pixels, pixels, 3), dtype=np.uint8)
    return np.stack([PICTURE_WORLD.render(one, vector) for one, vector in zip(scenes, noise, strict=True)])
