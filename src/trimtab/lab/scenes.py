"""Rendered scenes with known attributes: one or more objects in cells of a small picture, and nuisances.

A picture is a function of a scene (its attributes) and of a nuisance vector, and of nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise, zip_longest
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from trimtab.errors import ConfigProblems, DataError, Problem, explain

Picture = UInt8[np.ndarray, "size size 3"]
Nuisance = Float[np.ndarray, " nuisances"]

COLOURS: Mapping[str, tuple[float, float, float]] = {
    "red": (0.85, 0.15, 0.15),
    "green": (0.15, 0.60, 0.20),
    "blue": (0.15, 0.30, 0.85),
    "yellow": (0.93, 0.85, 0.12),
    "purple": (0.55, 0.18, 0.65),
    "cyan": (0.10, 0.78, 0.80),
    "orange": (0.96, 0.52, 0.08),
    "brown": (0.45, 0.28, 0.12),
    "pink": (0.97, 0.48, 0.68),
    "lime": (0.62, 0.95, 0.25),
}
"""Colour word -> red, green and blue in [0, 1]."""
PLACES: Mapping[str, tuple[int, int]] = {
    "northwest": (-1, -1),
    "north": (0, -1),
    "northeast": (1, -1),
    "west": (-1, 0),
    "centre": (0, 0),
    "east": (1, 0),
    "southwest": (-1, 1),
    "south": (0, 1),
    "southeast": (1, 1),
}
"""Position word -> steps of a cell to the right of the middle and below it, in reading order."""
RADIUS: Mapping[str, float] = {"large": 0.40, "small": 0.27}
"""Size word -> radius of an object as a share of its cell."""

VALUES: Mapping[str, tuple[str, ...]] = {
    "size": tuple(RADIUS),
    "texture": ("solid", "halved", "dotted", "banded"),
    "outline": ("unlined", "outlined"),
    "material": ("matte", "shiny"),
    "colour": tuple(COLOURS),
    "shape": ("circle", "square", "triangle", "cross", "diamond", "bar"),
    "position": tuple(PLACES),
    "background": ("plain", "checkered", "striped", "spotted", "gridded", "shaded", "wavy"),
    "palette": ("natural", "sepia", "moonlit", "faded", "rosy", "icy", "mossy", "negative"),
    "noise": ("clean", "grainy", "speckled", "dimmed"),
}
"""Attribute -> every value that the renderer knows, in the order of a caption's words; no two share a word."""
OBJECT = ("size", "texture", "outline", "material", "colour", "shape", "position")
WHOLE = ("background", "palette", "noise")
DEFAULTS = {name: VALUES[name][0] for name in ("texture", "outline", "material", *WHOLE)}
"""Attribute -> the value that captions leave unnamed."""

_PER_OBJECT, _PER_SCENE = 5, 3
_CORNERS = ("northwest", "northeast", "southwest", "southeast")


@dataclass(frozen=True)
class Thing:
    """An object of a scene: a value for each of its attributes."""

    shape: str
    colour: str
    position: str
    size: str = "large"
    texture: str = "solid"
    outline: str = "unlined"
    material: str = "matte"


@dataclass(frozen=True)
class Scene:
    """Scene graph: objects in distinct cells, in reading order, and what is true of the whole picture."""

    objects: tuple[Thing, ...]
    background: str = "plain"
    palette: str = "natural"
    noise: str = "clean"

    def attributes(self) -> dict[tuple[str, int], str]:
        """(Attribute, number of the object) -> value; the number is -1 for attributes of the whole scene."""
        own = {
            (name, number): getattr(thing, name)
            for number, thing in enumerate(self.objects)
            for name in OBJECT
        }
        return own | {(name, -1): getattr(self, name) for name in WHOLE}

    def changed(self, attribute: str, number: int, value: str) -> Scene:
        """This scene with one attribute of one object, or of the whole with number -1, replaced."""
        if number < 0:
            return replace(self, **{attribute: value})  # type: ignore[arg-type]
        objects = list(self.objects)
        objects[number] = replace(objects[number], **{attribute: value})
        return replace(self, objects=tuple(objects))

    @classmethod
    def from_graph(cls, graph: Mapping[str, Any]) -> Scene:
        """The scene of a graph as `SceneWorld.graph` gives it."""
        rest = {name: value for name, value in graph.items() if name != "objects"}
        return cls(objects=tuple(Thing(**one) for one in graph["objects"]), **rest)


@dataclass(frozen=True)
class Variant:
    """A scene that differs from another in one attribute: which, of which object (-1: of the whole)."""

    scene: Scene
    attribute: str
    number: int


@dataclass(frozen=True)
class SceneWorld:
    """A distribution of scenes: attributes are independent, and the values of each are equally likely.

    An attribute with one value does not vary. Systems that need other attributes fill in more values.

    Attributes:
        shape: values of an object's shape; so for `colour`, `position`, `size`, `texture`, `outline`, `material`.
        background: values of the whole picture; so for `palette` and `noise`.
        objects: the chance of one object, of two, and so on; they sum to 1.
        pixels: width and height of a picture.
        columns: cells in a row of the grid in which objects stand: 2, or 3 where all nine places are used.
    """

    shape: tuple[str, ...] = VALUES["shape"][:4]
    colour: tuple[str, ...] = VALUES["colour"][:6]
    position: tuple[str, ...] = _CORNERS
    size: tuple[str, ...] = VALUES["size"]
    texture: tuple[str, ...] = VALUES["texture"][:3]
    outline: tuple[str, ...] = VALUES["outline"]
    material: tuple[str, ...] = ("matte",)
    background: tuple[str, ...] = VALUES["background"][:4]
    palette: tuple[str, ...] = VALUES["palette"][:3]
    noise: tuple[str, ...] = ("clean",)
    objects: tuple[float, ...] = (0.3, 0.7)
    pixels: int = 32
    columns: int = 2

    def __post_init__(self) -> None:
        if problems := list(self.problems()):
            raise ConfigProblems(problems)

    def problems(self, where: str = "scenes") -> Iterator[Problem]:
        """Every setting that the renderer cannot draw."""
        for name, known in VALUES.items():
            values = getattr(self, name)
            if not values or len(set(values)) < len(values) or not set(values) <= set(known):
                yield Problem(f"{where}.{name}", repr(values), f"different values of {known}")
        if any(share < 0 for share in self.objects) or abs(sum(self.objects) - 1) > 1e-9:
            yield Problem(f"{where}.objects", repr(self.objects), "chances that sum to 1")
        if len(self.objects) > len(self.position):
            expected = f"at most {len(self.position)} objects, one for each position"
            yield Problem(f"{where}.objects", repr(self.objects), expected)
        if self.columns not in (2, 3):
            yield Problem(f"{where}.columns", repr(self.columns), "2 or 3", "2")
        if self.pixels < 8 * self.columns:
            yield Problem(f"{where}.pixels", repr(self.pixels), f"at least {8 * self.columns}, 8 a cell")

    def varying(self) -> tuple[str, ...]:
        """The attributes with more than one value."""
        return tuple(name for name in VALUES if len(getattr(self, name)) > 1)

    def graph(self, scene: Scene) -> dict[str, Any]:
        """Scene graph as JSON values: `objects`, a mapping each, and the attributes of the whole; what varies only."""
        varies = {*self.varying(), "shape", "colour", "position"}
        objects = [
            {name: one for name, one in asdict(thing).items() if name in varies} for thing in scene.objects
        ]
        return {"objects": objects} | {name: getattr(scene, name) for name in WHOLE if name in varies}

    def draw(self, rng: np.random.Generator) -> Scene:
        """A scene at random."""
        count = 1 + int(rng.choice(len(self.objects), p=self.objects))
        places = rng.choice(len(self.position), size=count, replace=False)
        order = sorted((self.position[place] for place in places), key=list(PLACES).index)
        things = (
            Thing(position=place, **{name: self._value(name, rng) for name in OBJECT if name != "position"})
            for place in order
        )
        return Scene(tuple(things), **{name: self._value(name, rng) for name in WHOLE})

    def _value(self, name: str, rng: np.random.Generator) -> str:
        values: tuple[str, ...] = getattr(self, name)
        return values[int(rng.integers(len(values)))]

    def nuisance(self, rng: np.random.Generator) -> Nuisance:
        """A nuisance vector: uniform numbers in [-1, 1], three of the scene and five of each object it may have."""
        return rng.uniform(-1, 1, _PER_SCENE + _PER_OBJECT * len(self.objects))

    def variants(self, scene: Scene) -> list[Variant]:
        """Every scene of this world that differs from one in one attribute; a move keeps the order of objects."""
        return [
            Variant(scene.changed(name, number, value), name, number)
            for (name, number), old in scene.attributes().items()
            for value in getattr(self, name)
            if value != old and (name != "position" or _keeps_order(scene, number, value))
        ]

    def hard(self, scene: Scene, k: int, rng: np.random.Generator) -> list[Variant]:
        """`k` different one-attribute variants, spread over the attributes as evenly as they can be.

        Raises:
            DataError: the scene has fewer.
        """
        queues: dict[str, list[Variant]] = {}
        for variant in self.variants(scene):
            queues.setdefault(variant.attribute, []).append(variant)
        for queue in queues.values():
            rng.shuffle(queue)
        order = [queues[name] for name in rng.permutation(list(queues))]
        spread = [one for turn in zip_longest(*order) for one in turn if one is not None]
        if len(spread) < k:
            raise DataError(
                f"scenes: {explain(f'k={k}', f'at most {len(spread)}, the variants that there are')}"
            )
        return spread[:k]

    def render(self, scene: Scene, nuisance: Nuisance, *, noise: float = 1.0) -> Picture:
        """The picture of a scene, 8 bits a channel; the same arguments give the same bytes.

        Args:
            scene: what is in it.
            nuisance: where exactly, and its noise.
            noise: strength of the scene's noise, 0 to 2. At 1 grain has a standard deviation of 0.08 of the full
                range, 6 % of pixels are black or white, or half of the light is gone; each grows in proportion.
        """
        return _render(scene, np.asarray(nuisance, dtype=np.float64), self.pixels, self.columns, noise)


def _keeps_order(scene: Scene, number: int, place: str) -> bool:
    """Whether an object of a scene can stand there without passing another one in reading order."""
    order = list(PLACES)
    places = [order.index(thing.position) for thing in scene.objects]
    places[number] = order.index(place)
    return all(before < after for before, after in pairwise(places))


def _render(scene: Scene, nuisance: Nuisance, pixels: int, columns: int, strength: float) -> Picture:
    y, x = np.mgrid[:pixels, :pixels] + 0.5
    light, right, down = nuisance[:_PER_SCENE]
    cell = pixels / columns
    level = _ground(scene.background, (x + 2 * right) / cell, (y + 2 * down) / cell)
    canvas = np.repeat(level[..., None], 3, axis=-1) * (1.0, 0.98, 0.94)
    for number, thing in enumerate(scene.objects):
        start = _PER_SCENE + _PER_OBJECT * number
        canvas = _draw(canvas, thing, nuisance[start : start + _PER_OBJECT], x, y, cell)
    canvas = _PALETTES[scene.palette](canvas) * (1 + 0.08 * light)
    noisy = _noisy(canvas, scene.noise, nuisance, strength)
    picture: Picture = np.round(255 * np.clip(noisy, 0, 1)).astype(np.uint8)
    return picture


def _ground(background: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Lightness of the background in units of cells; its patterns have a period of half a cell or a cell."""
    if background == "checkered":
        dark = (np.floor(2 * x) + np.floor(2 * y)) % 2
    elif background == "striped":
        dark = np.floor(2 * (x + y)) % 2
    elif background == "spotted":
        dark = np.hypot((2 * x) % 1 - 0.5, (2 * y) % 1 - 0.5) < 0.28
    elif background == "gridded":
        dark = np.minimum((2 * x) % 1, (2 * y) % 1) < 0.25
    elif background == "wavy":
        dark = np.floor(2 * y + 0.5 * np.sin(2 * np.pi * x)) % 2
    elif background == "shaded":
        dark = np.clip(y / 2, 0, 1)
    else:
        dark = np.zeros_like(x)
    return np.asarray(0.88 - 0.26 * dark)


def _distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to the edge of a shape of radius 1, near it; negative inside."""
    a, b = np.abs(x), np.abs(y)
    edges: Mapping[str, Callable[[], np.ndarray]] = {
        "circle": lambda: np.hypot(x, y) - 0.95,
        "square": lambda: np.maximum(a, b) - 0.82,
        "triangle": lambda: np.maximum(0.894 * a - 0.447 * (y + 0.95), y - 0.8),
        "cross": lambda: np.minimum(np.maximum(a - 1, b - 0.4), np.maximum(b - 1, a - 0.4)),
        "diamond": lambda: (a + b - 1.05) / np.sqrt(2),
        "bar": lambda: np.maximum(a - 1, b - 0.42),
    }
    return edges[shape]()


def _draw(
    canvas: np.ndarray, thing: Thing, nuisance: Nuisance, x: np.ndarray, y: np.ndarray, cell: float
) -> np.ndarray:
    """The canvas with an object on it, its edges smooth."""
    shift_x, shift_y, scale, hue, bright = nuisance
    column, row = PLACES[thing.position]
    radius = RADIUS[thing.size] * cell * (1 + 0.06 * scale)
    middle = canvas.shape[0] / 2
    step = cell / (2 if cell * 2 == canvas.shape[0] else 1)
    u = (x - middle - column * step - 0.06 * cell * shift_x) / radius
    v = (y - middle - row * step - 0.06 * cell * shift_y) / radius
    edge = _distance(thing.shape, u, v) * radius
    colour = (np.array(COLOURS[thing.colour]) + 0.04 * hue * np.array([1, -1, 1])) * (1 + 0.08 * bright)
    paint = np.broadcast_to(colour, canvas.shape)
    if thing.texture == "halved":
        paint = np.where((u > 0)[..., None], 0.4 * paint, paint)
    elif thing.texture == "dotted":
        paint = _blend(paint, 1.0, np.clip(0.5 - (np.hypot(u, v) - 0.4) * radius, 0, 1))
    elif thing.texture == "banded":
        paint = np.where((np.floor(v / 0.5 + 0.5) % 2 == 0)[..., None], 0.4 * paint, paint)
    if thing.material == "shiny":  # darker away from the light, with a white band
        paint = paint * (1 - 0.4 * np.clip(u + v, -1, 1))[..., None]
        paint = _blend(paint, 1.0, 0.8 * np.clip(0.5 - (np.abs(u + v + 0.5) - 0.22) * radius, 0, 1))
    if thing.outline == "outlined":
        paint = _blend(paint, 0.03, np.clip(edge + cell / 16 + 0.5, 0, 1))
    return _blend(canvas, paint, np.clip(0.5 - edge, 0, 1))


def _blend(under: np.ndarray, over: np.ndarray | float, share: np.ndarray) -> np.ndarray:
    return under + share[..., None] * (over - under)


def _sepia(canvas: np.ndarray) -> np.ndarray:
    return np.asarray(0.55 * canvas + 0.45 * canvas.mean(axis=-1, keepdims=True) * (1.1, 0.85, 0.5))


_PALETTES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "natural": lambda canvas: canvas,
    "sepia": _sepia,
    "moonlit": lambda canvas: canvas * (0.5, 0.6, 0.85),
    "faded": lambda canvas: 0.5 * canvas + 0.4,
    "rosy": lambda canvas: 0.65 * canvas + (0.35, 0.15, 0.2),
    "icy": lambda canvas: 0.5 * canvas + 0.5 * canvas.mean(axis=-1, keepdims=True) * (0.75, 1.0, 1.25),
    "mossy": lambda canvas: 0.5 * canvas + 0.5 * canvas.mean(axis=-1, keepdims=True) * (0.6, 1.0, 0.5),
    "negative": lambda canvas: 1 - canvas,
}


def _noisy(canvas: np.ndarray, noise: str, nuisance: Nuisance, strength: float) -> np.ndarray:
    """A canvas with the noise that its nuisance vector decides."""
    rng = np.random.default_rng(np.frombuffer(nuisance.tobytes(), dtype=np.uint32))
    if noise == "grainy":
        return canvas + 0.08 * strength * rng.standard_normal(canvas.shape)
    if noise == "speckled":
        hit = rng.random(canvas.shape[:2])[..., None]
        return np.where(hit < 0.03 * strength, 0.0, np.where(hit > 1 - 0.03 * strength, 1.0, canvas))
    return canvas * (1 - 0.5 * strength) if noise == "dimmed" else canvas
