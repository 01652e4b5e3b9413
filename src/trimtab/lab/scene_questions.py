"""Yes/no questions about scenes, each with a minimal unique description of an object: `is there a large red circle ?`.

A description is the noun of the shape with the smallest set of adjectives that no other object of the scene fits (Dale
& Reiter 1995). A question is either about such an object, or about what becomes of its description when one word of
it is replaced by another that the scene has too: all words occur, together they do not. Adjectives, object and
replacement are drawn before the coin that decides the answer, so that the words alone say nothing about it. Which
attributes the adjectives are of is drawn first, so that each is often left unmentioned.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from trimtab.errors import DataError, explain
from trimtab.lab.scenes import PLACES, VALUES, Scene, SceneWorld, Thing
from trimtab.seeds import derive

QUESTION_WORLD = SceneWorld(
    shape=VALUES["shape"][:3],
    colour=VALUES["colour"][:8],
    position=tuple(PLACES),
    texture=("solid",),
    outline=("unlined",),
    material=VALUES["material"],
    background=("plain",),
    palette=("natural",),
    noise=VALUES["noise"],
    objects=(0.0, 0.0, 1 / 3, 1 / 3, 1 / 3),
    pixels=48,
    columns=3,
)
"""Three to five objects in a grid of 3 x 3 cells of 16 pixels: 3 shapes, 8 colours, 2 sizes, 2 materials, 3 noises."""
ADJECTIVES = ("size", "material", "colour")
ASKED = (*ADJECTIVES, "shape")
"""Attributes of an object in the order of their words in a description."""
LEVELS = {"1": 0.5, "2": 1.0, "3": 1.5}
"""Noise level -> strength of the noise, as `SceneWorld.render` takes it."""
PICTURES = "pictures"
BACKGROUND = ("background_colour", "count", "noise", "noise_level")
"""Columns of a table of questions about what a question does not ask for."""


@dataclass(frozen=True)
class Choice:
    """What a question can be made from.

    Attributes:
        target: number of the object.
        mentioned: attributes in its minimal unique description, the shape last.
        replacements: (attribute, value) that make of the description one that no object of the scene fits.
    """

    target: int
    mentioned: tuple[str, ...]
    replacements: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Question:
    """A yes/no question about a scene.

    Attributes:
        text: `is there a large red circle ?`, words apart.
        answer: `yes` or `no`.
        target: number of the object that the description is of, or, where there is none, was made from.
        mentioned: attributes that the question names.
        replaced: the attribute whose word was replaced, empty where the answer is `yes`.
    """

    text: str
    answer: str
    target: int
    mentioned: tuple[str, ...]
    replaced: str


def descriptions(scene: Scene, adjectives: Sequence[str] = ADJECTIVES) -> list[Choice]:
    """Every minimal unique description in a scene; an object may have none, or several.

    Args:
        scene: what is described.
        adjectives: attributes that may be named; the shape always is.
    """
    found = []
    for target, thing in enumerate(scene.objects):
        for size in range(len(adjectives) + 1):
            forms = [(*picked, "shape") for picked in combinations(adjectives, size)]
            unique = [form for form in forms if sum(_fits(one, thing, form) for one in scene.objects) == 1]
            found += [Choice(target, form, tuple(_replacements(scene, thing, form))) for form in unique]
            if unique:
                break
    return found


def choices(scene: Scene) -> list[Choice]:
    """The minimal unique descriptions in a scene that can be made false, so that a question can be asked."""
    return [one for one in descriptions(scene) if one.replacements]


def _fits(one: Thing, other: Thing, form: Sequence[str]) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in form)


def _replacements(scene: Scene, thing: Thing, form: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name in form:
        rest = [one for one in form if one != name]
        taken = {getattr(one, name) for one in scene.objects if _fits(one, thing, rest)}
        seen = {getattr(one, name) for one in scene.objects}
        yield from ((name, value) for value in VALUES[name] if value in seen - taken)


def describe(thing: Thing, form: Sequence[str], **replaced: str) -> str:
    """The words of some attributes of an object.

    >>> describe(Thing("circle", "red", "north"), ("size", "shape"))
    'large circle'
    """
    return " ".join(replaced.get(name, getattr(thing, name)) for name in ASKED if name in form)


def ask(scene: Scene, rng: np.random.Generator, options: Sequence[Choice] | None = None) -> Question:
    """A question about a scene at random.

    Args:
        scene: what to ask about.
        rng: of the adjectives, the object, the replacement, and last of the answer.
        options: `choices(scene)`, where they are known.

    Raises:
        DataError: no description of the scene can be made false.
    """
    options = choices(scene) if options is None else options
    if not options:
        got = f"{len(scene.objects)} objects, of which no description can be made false"
        raise DataError(
            f"scene: {explain(got, 'one with words that occur but not together', 'another scene')}"
        )
    forms = sorted({one.mentioned for one in options})
    form = forms[rng.integers(len(forms))]
    picked = [one for one in options if one.mentioned == form]
    choice = picked[rng.integers(len(picked))]
    name, value = choice.replacements[rng.integers(len(choice.replacements))]
    thing, yes = scene.objects[choice.target], rng.random() < 0.5
    words = describe(thing, form, **({} if yes else {name: value}))
    answer, replaced = ("yes", "") if yes else ("no", name)
    return Question(question(words), answer, choice.target, form, replaced)


def question(words: str) -> str:
    """The question whether there is what the words describe."""
    return f"is there a {words} ?"


@dataclass(frozen=True)
class QuestionScenes:
    """Scenes that something can be asked about, with what their pictures are rendered from.

    Attributes:
        world: whose scenes these are.
        names: of the scenes, all different.
        scenes: their truth.
        nuisances: a nuisance vector each.
        levels: noise level of each, empty where the scene is clean.
        seed: of the scenes and of the questions about them.
    """

    world: SceneWorld
    names: tuple[str, ...]
    scenes: tuple[Scene, ...]
    nuisances: Float[np.ndarray, "n nuisances"]
    levels: tuple[str, ...]
    seed: int = 0

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def pixels(self) -> UInt8[np.ndarray, "n size size 3"]:
        """The pictures, rendered on first use."""
        rows = zip(self.scenes, self.nuisances, self.levels, strict=True)
        render = self.world.render
        return np.stack([render(scene, own, noise=LEVELS.get(level, 1.0)) for scene, own, level in rows])

    @cached_property
    def choices(self) -> list[list[Choice]]:
        """What can be asked about each."""
        return [choices(scene) for scene in self.scenes]

    def questions(self, each: int) -> list[list[Question]]:
        """Some questions about each scene, their answers independent; they depend on seed and name only."""
        asked = []
        for name, scene, options in zip(self.names, self.scenes, self.choices, strict=True):
            rng = np.random.default_rng(derive(self.seed, "questions", name))
            asked.append([ask(scene, rng, options) for _ in range(each)])
        return asked

    def table(self, each: int) -> list[dict[str, Any]]:
        """A row for each question, `each` of a scene, as an audit reads them.

        `prompt`; `image`, its file; `answer`; `scene`, the group; `mentioned`, a list; `size`, `material`, `colour`
        and `shape` of the object asked about. Where the answer is `no` there is no such object: what the question names
        is as the question says, and the others are missing. Of the rest of the picture: `background_colour`, of the
        first object in reading order that the question was not made from; `count`, of objects; `noise`; `noise_level`,
        missing where there is none. For other views: `target`, the number of the object that the question was made
        from; `replaced`, the attribute by which a `no` question differs from it; `graph`, the scene.
        """
        rows = []
        for number, asked in enumerate(self.questions(each)):
            scene = self.scenes[number]
            whole = {
                "count": str(len(scene.objects)),
                "noise": scene.noise,
                "noise_level": self.levels[number] or None,
            }
            for one in asked:
                others = [thing for place, thing in enumerate(scene.objects) if place != one.target]
                rows.append(
                    {
                        "prompt": one.text,
                        "image": f"{PICTURES}/{self.names[number]}.png",
                        "answer": one.answer,
                        "scene": self.names[number],
                        "mentioned": list(one.mentioned),
                        **_labels(one, scene.objects[one.target]),
                        "background_colour": others[0].colour,
                        **whole,
                        "target": one.target,
                        "replaced": one.replaced,
                        "graph": self.world.graph(scene),
                    }
                )
        return rows

    def save(self, path: Path, each: int) -> None:
        """Write the questions, JSON lines, and their pictures, PNG, into a folder `pictures` next to them."""
        folder = path.parent / PICTURES
        folder.mkdir()
        for name, pixels in zip(self.names, self.pixels, strict=True):
            Image.fromarray(pixels).save(folder / f"{name}.png", compress_level=1)
        lines = (json.dumps(row) for row in self.table(each))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _labels(asked: Question, thing: Thing) -> dict[str, str | None]:
    """Attributes of the object asked about: of one that is not there, what the question says."""
    words = asked.text.split()
    named = {name: next(word for word in words if word in VALUES[name]) for name in asked.mentioned}
    return {name: named.get(name, getattr(thing, name) if asked.answer == "yes" else None) for name in ASKED}


def question_scenes(world: SceneWorld, number: int, *, start: str, seed: int) -> QuestionScenes:
    """Scenes at random, of those that something can be asked about; the first of a larger set are a smaller one.

    Args:
        world: the distribution of the scenes.
        number: how many.
        start: of the names, which are `start-0000` and so on; sets that differ in it share no scene but by chance.
        seed: of the scenes.
    """
    scenes, nuisances, levels = [], [], []
    for row in range(number):
        rng = np.random.default_rng(derive(seed, "question scenes", start, row))
        scene = world.draw(rng)
        while not choices(scene):
            scene = world.draw(rng)
        level = list(LEVELS)[rng.integers(len(LEVELS))]
        scenes.append(scene)
        nuisances.append(world.nuisance(rng))
        levels.append("" if scene.noise == "clean" else level)
    names = tuple(f"{start}-{row:04}" for row in range(number))
    return QuestionScenes(world, names, tuple(scenes), np.stack(nuisances), tuple(levels), seed)
