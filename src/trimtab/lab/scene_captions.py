"""Captions of scenes in two dialects, which are read back into the attributes that they name.

A caption is a phrase for each object, in reading order and joined by `and`, then `on` and what is true of the whole:
`small halved red circle northwest and large blue square southeast on checkered sepia`. Its words are values of
attributes; a default value is left unnamed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trimtab.errors import DataError, explain, nearest
from trimtab.lab.scenes import DEFAULTS, OBJECT, VALUES, WHOLE, Scene, SceneWorld

AND, ON = "and", "on"

_OF = {value: name for name, values in VALUES.items() for value in values}
_TERSE = (
    ("shape", "colour"),
    ("shape",),
    *(("shape", "colour", more) for more in ("size", "position", "texture")),
)
_TERSE_CHANCES = (0.55, 0.15, 0.1, 0.1, 0.1)


def vocabulary(world: SceneWorld) -> tuple[str, ...]:
    """The words of a world's captions in a fixed order; values that no caption names are among them."""
    return (AND, ON, *(value for name in VALUES for value in getattr(world, name)))


def full_caption(scene: Scene) -> str:
    """The full dialect: every attribute that is not at its default."""
    return _caption(scene, lambda _name, _number: True)


def terse_caption(scene: Scene, rng: np.random.Generator) -> str:
    """The terse dialect, of a speaker in a hurry.

    Of each object colour and shape (chance .55), the shape alone (.15), or colour and shape with the size, the
    position or the texture (.1 each, and a default texture stays unnamed). Of two objects, the second is not mentioned
    in a quarter of captions. The background and the palette are never named.
    """
    mentioned = len(scene.objects) if rng.random() >= 0.25 else 1
    named = [_TERSE[rng.choice(len(_TERSE), p=_TERSE_CHANCES)] for _ in range(mentioned)]
    return _caption(scene, lambda name, number: 0 <= number < mentioned and name in named[number])


def partial_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption of each object's shape and, by the toss of a coin, each other attribute that is not at its default."""
    return _caption(scene, lambda name, _: name == "shape" or rng.random() < 0.5)


def _caption(scene: Scene, names: Callable[[str, int], bool]) -> str:
    """The words of the attributes that `names` (attribute, number of the object) asks for."""
    phrases: list[list[str]] = [[] for _ in scene.objects]
    for number, thing in enumerate(scene.objects):
        for name in OBJECT:
            value = getattr(thing, name)
            if value != DEFAULTS.get(name) and names(name, number):
                phrases[number].append(value)
    whole = [value for name in WHOLE if (value := getattr(scene, name)) != DEFAULTS[name] and names(name, -1)]
    text = f" {AND} ".join(" ".join(phrase) for phrase in phrases if phrase)
    return " ".join(filter(None, (text, f"{ON} {' '.join(whole)}" if whole else "")))


def read_caption(text: str) -> tuple[list[dict[str, str]], dict[str, str]]:
    """The attributes that a caption names: a mapping for each object phrase, and one for the whole.

    Words may stand in any order within their phrase. Where a phrase names an attribute twice, the last one counts.

    Raises:
        DataError: a word that is no value of an attribute, or one of an object after `on` or the other way round.

    >>> read_caption("small red circle and square west on sepia")[1]
    {'palette': 'sepia'}
    """
    things: list[dict[str, str]] = [{}]
    whole: dict[str, str] = {}
    here = things[0]
    allowed: tuple[str, ...] = OBJECT
    for word in text.split():
        if word == AND and allowed is OBJECT:
            here = {}
            things.append(here)
        elif word == ON:
            here, allowed = whole, WHOLE
        elif _OF.get(word) in allowed:
            here[_OF[word]] = word
        else:
            place = f"a word for {'an object' if allowed is OBJECT else 'the whole picture'}"
            raise DataError(f"caption {text!r:.80}: {explain(repr(word), place, nearest(word, _OF))}")
    return [thing for thing in things if thing], whole


def is_true(text: str, scene: Scene) -> bool:
    """Whether all that a caption says is so: its object phrases fit different objects, in their order.

    Raises:
        DataError: as for `read_caption`.
    """
    things, whole = read_caption(text)
    left = iter(scene.objects)
    fits = all(
        any(all(getattr(thing, name) == value for name, value in named.items()) for thing in left)
        for named in things
    )
    return fits and all(getattr(scene, name) == value for name, value in whole.items())
