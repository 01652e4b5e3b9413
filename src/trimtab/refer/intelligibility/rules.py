"""A listener by rule: it knows every attribute of the pictures, and takes each word of a caption to be true.

It stands for a careful person in worlds whose scenes are known. It hears what is said and ignores what silence says: a
default that nobody names tells it nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from trimtab.errors import DataError, nearest, refusal

AND, ON = "and", "on"
MOST_OBJECTS = 6


@dataclass(frozen=True)
class Scene:
    """Words that are true of a picture.

    Attributes:
        objects: of each object, the words of its attributes' values.
        whole: of the scene itself, such as its background.
    """

    objects: tuple[frozenset[str], ...]
    whole: frozenset[str]

    @classmethod
    def of(cls, value: Any, where: str = "scene") -> Scene:
        """A scene from its graph: `{"objects": [{attribute: value}, ...], attribute: value, ...}`, or that as JSON.

        Raises:
            DataError: it is no such graph.

        >>> Scene.of('{"objects": [{"shape": "disc", "colour": "red"}], "background": "grey"}').whole
        frozenset({'grey'})
        """
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                raise refusal(where, f"{value!r:.60}", "a scene graph as JSON") from None
        if not isinstance(value, Mapping) or not isinstance(objects := value.get("objects"), list):
            raise refusal(where, f"{value!r:.60}", 'a scene graph with a list of "objects"')
        if len(objects) > MOST_OBJECTS:
            raise refusal(where, f"{len(objects)} objects", f"at most {MOST_OBJECTS}")
        if not all(isinstance(one, Mapping) for one in objects):
            raise refusal(where, f"objects {objects!r:.60}", "a mapping from attribute to value each")
        rest = {key: one for key, one in value.items() if key != "objects"}
        return cls(tuple(_words(one) for one in objects), _words(rest))

    def fits(self, caption: Caption) -> bool:
        """Whether a caption is true: its phrases of as many different objects, the rest of the whole scene.

        >>> scene = Scene.of({"objects": [{"shape": "disc", "colour": "red"}], "background": "grey"})
        >>> scene.fits(Caption.of("red disc on grey")), scene.fits(Caption.of("red and disc"))
        (True, False)
        """
        if not caption.whole <= self.whole or len(caption.phrases) > len(self.objects):
            return False
        orders = permutations(self.objects, len(caption.phrases))
        return any(all(map(frozenset.issubset, caption.phrases, order)) for order in orders)


@dataclass(frozen=True)
class Caption:
    """Words of a caption by what they are about: a phrase for each object (joined by `and`), the scene after `on`."""

    phrases: tuple[frozenset[str], ...]
    whole: frozenset[str]

    @classmethod
    def of(cls, text: str, known: frozenset[str] | None = None) -> Caption:
        """Phrases of a caption; words that are no value of any scene (`known`) say nothing.

        >>> Caption.of("big red disc and star on grey").whole
        frozenset({'grey'})
        """
        head, _, tail = f" {' '.join(text.lower().split())} ".partition(f" {ON} ")
        phrases = [part.split() for part in head.split(f" {AND} ")]
        whole = [word for word in tail.split() if word != AND]
        sets = [
            frozenset(words if known is None else known.intersection(words)) for words in (*phrases, whole)
        ]
        return cls(tuple(one for one in sets[:-1] if one), sets[-1])


def _words(values: Mapping[str, Any]) -> frozenset[str]:
    """Words of the values; of what is neither text nor number (a place as coordinates, nothing at all), none."""
    texts = (str(one) for one in values.values() if isinstance(one, str | int | float))
    return frozenset(word for text in texts for word in text.lower().split())


class RuleListener:
    """Listener by rule: every candidate of which each word of the caption is true is equally likely.

    Where no candidate fits, as after a word that is true of none, the caption tells it nothing: all are equally likely.

    Args:
        scenes: picture -> its scene graph, as a mapping or JSON, or a frame with a column `scene` and the pictures'
            names as its index (as `trimtab.data.pictures.Pictures.table`).

    Raises:
        DataError: no column `scene`, or a graph that cannot be read.

    >>> scenes = {"a": {"objects": [{"colour": "red"}]}, "b": {"objects": [{"colour": "blue"}]}}
    >>> [row.round(2).tolist() for row in RuleListener(scenes)(["red", ""], [["a", "b"], ["a", "b"]])]
    [[0.0, -inf], [-0.69, -0.69]]
    """

    def __init__(self, scenes: Any) -> None:
        if hasattr(scenes, "columns"):
            if "scene" not in scenes.columns:
                hint = (
                    nearest("scene", map(str, scenes.columns)) or "a metadata.csv with scene graphs as JSON"
                )
                raise DataError(
                    str(refusal("pictures", "no column 'scene'", "scene graphs for the rule listener", hint))
                )
            scenes = dict(zip(scenes.index, scenes["scene"], strict=True))
        self.scenes = {str(name): Scene.of(one, f"scene of {name}") for name, one in scenes.items()}
        self.known = frozenset(word for scene in self.scenes.values() for word in _all_words(scene))

    def __call__(self, captions: Sequence[str], candidates: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Log-probabilities of the candidates of each caption.

        Raises:
            DataError: a candidate without a scene.
        """
        answers = []
        for text, names in zip(captions, candidates, strict=True):
            for name in names:
                if name not in self.scenes:
                    hint = nearest(str(name), self.scenes)
                    raise refusal(
                        "rule listener", f"candidate {name!r} without a scene", "one for each", hint
                    )
            caption = Caption.of(text, self.known)
            fits = np.array([self.scenes[name].fits(caption) for name in names], dtype=float)
            fits = fits if fits.any() else np.ones(len(names))
            with np.errstate(divide="ignore"):
                answers.append(np.log(fits / fits.sum()))
        return answers


def _all_words(scene: Scene) -> Iterator[str]:
    for words in (*scene.objects, scene.whole):
        yield from words
