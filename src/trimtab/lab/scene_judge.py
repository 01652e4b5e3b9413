"""Judge of generated scenes: a residual network that reads the attributes of a picture, and rates of what it sees.

No model is trained on what it says: it has data, seeds and an architecture of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trimtab.errors import DataError, refusal
from trimtab.lab.models import Progress, built_model, built_with, model_folder
from trimtab.lab.scene_concepts import ATTRIBUTES, PICTURE_WORLD, Values, changed, plain_scene, scene_of
from trimtab.lab.scene_towers import Counter, Schedule, draws, fit
from trimtab.lab.scenes import WHOLE, Scene
from trimtab.seeds import derive, isolated

JUDGE = "scene-judge"
RECIPE = 1
"""Raised when the same settings would give another model, so that no cache serves the old one."""
_WEIGHTS = "judge.safetensors"
Pixels = UInt8[np.ndarray, "n size size 3"]


@dataclass(frozen=True)
class SceneJudge:
    """The settings of a judge.

    Attributes:
        scenes: training scenes, all attributes uniform.
        held_out: scenes by which it is judged.
        schedule: of the training.
        width: channels at half the resolution; twice as many below.
        seed: of scenes, weights and draws.
    """

    scenes: int = 24000
    held_out: int = 2000
    schedule: Schedule = field(default_factory=lambda: Schedule(1200, 4e-3, 96))
    width: int = 48
    seed: int = 1000


@dataclass(frozen=True)
class Rendered:
    """Scenes at random with their noise and pictures.

    Attributes:
        scenes: one object each.
        noise: a noise vector each.
        pixels: the pictures.
    """

    scenes: list[Scene]
    noise: Float[np.ndarray, "n noise"]
    pixels: Pixels

    @classmethod
    def draw(cls, count: int, seed: int, plain: int = 0) -> Rendered:
        """Scenes of a seed, all attributes uniform; those of a smaller draw are the first of a larger one.

        Args:
            count: how many.
            seed: of scenes and noise.
            plain: how many of them, the first ones, have rare style instead.
        """
        rngs = [np.random.default_rng(derive(seed, "rendered", place)) for place in range(count)]
        scenes = [
            plain_scene(rng, PICTURE_WORLD) if place < plain else PICTURE_WORLD.draw(rng)
            for place, rng in enumerate(rngs)
        ]
        noise = np.stack([PICTURE_WORLD.nuisance(rng) for rng in rngs])
        pairs = zip(scenes, noise, strict=True)
        return cls(scenes, noise, np.stack([PICTURE_WORLD.render(*pair) for pair in pairs]))

    def channels(self) -> Float[Tensor, "n 3 size size"]:
        """Pixels in [0, 1], channels first."""
        return torch.from_numpy(self.pixels).permute(0, 3, 1, 2).float() / 255


def attribute_values() -> dict[str, tuple[str, ...]]:
    """Attribute -> its values, in the order of scores."""
    return {name: getattr(PICTURE_WORLD, name) for name in ATTRIBUTES}


def attribute_labels(scenes: Sequence[Scene]) -> Int[Tensor, "n attributes"]:
    """Number of the value of each attribute."""
    rows = [
        [
            values.index(getattr(scene if name in WHOLE else scene.objects[0], name))
            for name, values in attribute_values().items()
        ]
        for scene in scenes
    ]
    return torch.tensor(rows)


class Judge(nn.Module):
    """Residual network with batch norms that reads each attribute with a head of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = [len(values) for values in attribute_values().values()]
        self.stem = nn.Sequential(_layer(3, 24, 2), nn.ReLU(), _layer(24, width), nn.ReLU())
        self.middle, self.down = _layer(width, width), _layer(width, 2 * width, 2)
        self.deep, self.last = _layer(2 * width, 2 * width), _layer(2 * width, 2 * width, 2)
        self.heads = nn.Linear(2 * width * (PICTURE_WORLD.pixels // 8) ** 2, sum(self.sizes))

    def forward(self, pixels: Float[Tensor, "n 3 size size"]) -> tuple[Tensor, ...]:
        """Scores of the values of each attribute, in the order of `ATTRIBUTES`."""
        h = self.stem((pixels - 0.5) / 0.25)
        h = F.relu(self.down(h + F.relu(self.middle(h))))
        h = F.relu(self.last(h + F.relu(self.deep(h))))
        return torch.split(self.heads(h.flatten(1)), self.sizes, 1)

    @torch.no_grad()
    def see(self, pictures: Pixels | Sequence[Image.Image]) -> dict[str, list[str]]:
        """Attribute -> the value that it sees in each picture.

        Raises:
            DataError: a picture of another size.
        """
        seen: dict[str, list[str]] = {name: [] for name in ATTRIBUTES}
        pixels = torch.from_numpy(as_pixels(pictures)).permute(0, 3, 1, 2).float() / 255
        for part in torch.split(pixels, 250):
            for (name, values), scores in zip(attribute_values().items(), self(part), strict=True):
                seen[name] += [values[place] for place in scores.argmax(1).tolist()]
        return seen

    @classmethod
    def read(cls, folder: Path) -> Judge:
        """The judge of a folder that `scene_judge` made, in evaluation mode."""
        weights = load_file(folder / _WEIGHTS)
        with torch.device("meta"):  # draws no random number
            judge = cls(weights["middle.0.weight"].shape[0])
        judge.load_state_dict(weights, assign=True)
        return judge.eval()


def _layer(inward: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inward, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out))


def as_pixels(pictures: Pixels | Sequence[Image.Image]) -> Pixels:
    """Pictures as one array, of the size of this world.

    Raises:
        DataError: another size.
    """
    size = PICTURE_WORLD.pixels
    arrays = [np.asarray(one if isinstance(one, np.ndarray) else one.convert("RGB")) for one in pictures]
    if wrong := next((one.shape for one in arrays if one.shape != (size, size, 3)), None):
        raise refusal("", f"a picture of shape {wrong}", f"{size} x {size} pixels in RGB", error=DataError)
    return np.stack(arrays) if arrays else np.zeros((0, size, size, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Fidelity:
    """Share of pictures that do what was asked, and of other attributes that stay.

    Attributes:
        concept: share of pictures in which every value of the concept is seen; nan for a concept without values.
        others: share of other attributes, over pictures, in which what is seen is what the prompt says.
        n: pictures.
    """

    concept: float
    others: float
    n: int


def fidelity(seen: dict[str, list[str]], prompts: Sequence[str], values: Values) -> Fidelity:
    """Fidelity to a concept and to the rest of each prompt, from what a judge saw in its pictures.

    Args:
        seen: of `Judge.see`.
        prompts: full captions, one for each picture.
        values: of the concept; empty for none.
    """
    wanted = attribute_labels([changed(scene_of(prompt), values) for prompt in prompts])
    right = _numbers(seen) == wanted
    asked = torch.tensor([name in values for name in ATTRIBUTES])
    concept = right[:, asked].all(1).double().mean() if values else torch.nan
    return Fidelity(float(concept), float(right[:, ~asked].double().mean()), len(prompts))


def scene_judge(
    settings: SceneJudge | None = None, cache: Path | None = None, progress: Progress | None = None
) -> Path:
    """The folder of a judge, trained on first use, then kept; `Judge.read` opens it.

    `card.json` has its settings and `accuracy` by attribute on scenes that it has never seen, with their number.

    Args:
        settings: None means those of `lab:scene-judge`.
        cache: where to keep it; None means the cache of this machine.
        progress: called after each training step.
    """
    given = SceneJudge() if settings is None else settings
    about = {"name": JUDGE, "recipe": RECIPE, "world": asdict(PICTURE_WORLD), "settings": asdict(given)}
    return built_model(model_folder(JUDGE, [about], cache), about, partial(_make, given, progress))


def _make(settings: SceneJudge, progress: Progress | None, folder: Path) -> dict[str, Any]:
    with isolated(derive(settings.seed, JUDGE)):
        judge = Judge(settings.width)
        scenes = Rendered.draw(settings.scenes, settings.seed)
        train_reader(judge, scenes, settings.schedule, Counter(progress, settings.schedule.steps))
    save_file(judge.state_dict(), folder / _WEIGHTS)
    accuracy = judge_accuracy(judge, Rendered.draw(settings.held_out, derive(settings.seed, "held out")))
    size = sum(parameter.numel() for parameter in judge.parameters())
    return {"parameters": size, "scenes": settings.held_out, "accuracy": accuracy, **built_with()}


def train_reader(network: nn.Module, scenes: Rendered, schedule: Schedule, counter: Counter) -> None:
    """Train a network that gives scores for each attribute; it is in evaluation mode afterwards."""
    pixels, labels = scenes.channels(), attribute_labels(scenes.scenes)

    def loss_of(rows: Tensor) -> Tensor:
        pairs = zip(network(pixels[rows]), labels[rows].T, strict=True)
        return torch.stack([F.cross_entropy(scores, truth) for scores, truth in pairs]).sum()

    fit(network.parameters(), schedule, draws(schedule, len(pixels)), loss_of, counter)
    network.train(False)


def judge_accuracy(judge: Judge, scenes: Rendered) -> dict[str, float]:
    """Share of pictures in which it sees the true value, by attribute."""
    right = (_numbers(judge.see(scenes.pixels)) == attribute_labels(scenes.scenes)).double().mean(0)
    return {name: round(rate, 4) for name, rate in zip(ATTRIBUTES, right.tolist(), strict=True)}


def _numbers(seen: dict[str, list[str]]) -> Int[Tensor, "n attributes"]:
    return torch.tensor(
        [[values.index(one) for one in seen[name]] for name, values in attribute_values().items()]
    ).T
