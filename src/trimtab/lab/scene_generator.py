"""One-step generator of rendered scenes: a caption and a noise vector in, a picture out, in one forward pass.

The noise vector is the renderer's nuisance, so the picture that belongs to a caption and a noise is known: training is
supervised, without teacher or adversary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.lab.models import Progress, built_model, built_with, model_folder
from trimtab.lab.scene_captions import full_caption
from trimtab.lab.scene_concepts import CAPTION_WORDS, PICTURE_WORLD
from trimtab.lab.scene_judge import Judge, Rendered, judge_accuracy
from trimtab.lab.scene_models import PAD, SPECIAL, word_tokenizer
from trimtab.lab.scene_towers import Counter, Schedule, draws, fit
from trimtab.lab.scenes import PLACES
from trimtab.models.load import Model
from trimtab.models.one_step import OneStepConfig, OneStepGenerator, prompt_batches
from trimtab.seeds import derive, isolated

GENERATOR = "scene-generator"
RECIPE = 1
"""Raised when the same settings would give another model, so that no cache serves the old one."""
_COVERED = 0.55
"""Farthest that an object reaches from its centre, in halves of the picture."""


@dataclass(frozen=True)
class SceneGenerator:
    """The settings of a generator of scenes.

    Attributes:
        scenes: training scenes.
        plain: how many of them have rare style; of the others all attributes are uniform.
        held_out: scenes by which it is judged.
        schedule: of the training.
        width: channels of its canvas.
        blocks: residual blocks.
        edges: weight of the distance of differences between neighbouring pixels, beside that of pixels.
        near: how much more pixels near the object count.
        squares: weight of the squared distance of pixels, beside the L1 distance.
        grounds: first steps, in which there is no squared distance: patterns of grounds are learned.
        seed: of scenes, weights and draws.
    """

    scenes: int = 24000
    plain: int = 8000
    held_out: int = 1000
    schedule: Schedule = field(default_factory=lambda: Schedule(2300, 4e-3, 64))
    width: int = 48
    blocks: int = 4
    edges: float = 1.0
    near: float = 4.0
    squares: float = 10.0
    grounds: int = 300
    seed: int = 0


def scene_generator(
    settings: SceneGenerator | None = None, cache: Path | None = None, progress: Progress | None = None
) -> Path:
    """The folder of the generator, in the format of Hugging Face; trained on first use, then kept.

    `card.json` has its settings and, on captions and noise that it has never seen, the number of `scenes` and the
    `distance` to the true renders: the mean absolute difference of pixels in [0, 1]. What a judge sees in its pictures
    `generator_accuracy` says.

    Args:
        settings: None means those of `lab:scene-generator`.
        cache: where to keep it; None means the cache of this machine.
        progress: called after each training step.
    """
    given = SceneGenerator() if settings is None else settings
    about = {"name": GENERATOR, "recipe": RECIPE, "world": asdict(PICTURE_WORLD), "settings": asdict(given)}
    counter = Counter(progress, given.schedule.steps)
    return built_model(model_folder(GENERATOR, [about], cache), about, partial(_make, given, counter))


def new_generator(settings: SceneGenerator) -> OneStepGenerator:
    """A fresh generator that knows the words of captions."""
    config = OneStepConfig(
        vocab_size=len(SPECIAL) + len(CAPTION_WORDS),
        pad_token_id=PAD,
        image_size=PICTURE_WORLD.pixels,
        width=settings.width,
        blocks=settings.blocks,
    )
    return OneStepGenerator(config)


def _make(settings: SceneGenerator, counter: Counter, folder: Path) -> dict[str, Any]:
    scenes = Rendered.draw(settings.scenes, settings.seed, settings.plain)
    with isolated(derive(settings.seed, GENERATOR)):
        network = new_generator(settings)
        train_generator(network, scenes, settings, counter)
    network.save_pretrained(folder)
    word_tokenizer(CAPTION_WORDS, framed=False).save_pretrained(folder)
    size = sum(parameter.numel() for parameter in network.parameters())
    scenes = _unseen(settings)
    gaps = generated(network, scenes) - scenes.channels()
    return {
        "parameters": size,
        "scenes": len(gaps),
        "distance": round(float(gaps.abs().mean()), 5),
        **built_with(),
    }


def train_generator(
    network: OneStepGenerator, scenes: Rendered, settings: SceneGenerator, counter: Counter
) -> None:
    """Train a generator to paint scenes from their captions and noise; it is in evaluation mode afterwards.

    The loss is a distance of pixels and of their differences, with a greater weight near the object, and the squared
    distance of the place where it looks for the object from where that is: without the two it paints grounds alone.
    First the L1 distance, in which patterns of little contrast count as much as objects; then also the squared one,
    without which objects stay grey for long.
    """
    inputs, pixels, centres = _keywords(network, scenes), scenes.channels(), object_centres(scenes)
    steps = count()

    def loss_of(rows: Tensor) -> Tensor:
        keywords = {name: values[rows] for name, values in inputs.items()}
        gap = network(**keywords) - pixels[rows]
        weight = 1 + settings.near * near_object(centres[rows], pixels.shape[-1])
        misplaced = (network.places(**keywords)[:, :2] - centres[rows]).square().mean()
        squares = 0.0 if next(steps) < settings.grounds else settings.squares
        return misplaced + picture_distance(gap, weight, settings.edges, squares)

    schedule = settings.schedule
    fit(network.parameters(), schedule, draws(schedule, len(pixels)), loss_of, counter)
    network.train(False)


def picture_distance(
    gap: Float[Tensor, "n 3 h w"], weight: Float[Tensor, "n 1 h w"], edges: float, squares: float
) -> Float[Tensor, ""]:
    """Distance |g| + `squares` g^2 of pixels and, `edges` times, of differences between neighbours across and down.

    Args:
        gap: of two pictures.
        weight: of each pixel; of the first one of two neighbours.
        edges: weight of the differences.
        squares: weight of the squared distance.
    """
    across, down = (gap.diff(dim=-1), weight[..., :-1]), (gap.diff(dim=-2), weight[..., :-1, :])
    parts = [
        (each * (one.abs() + squares * one.square())).mean() for one, each in ((gap, weight), across, down)
    ]
    return parts[0] + edges * (parts[1] + parts[2])


def object_centres(scenes: Rendered) -> Float[Tensor, "n 2"]:
    """Where each object is, to the right and down; the picture reaches from -1 to 1."""
    steps = torch.tensor([PLACES[scene.objects[0].position] for scene in scenes.scenes])
    return 0.5 * steps + 0.06 * torch.from_numpy(scenes.noise[:, 3:5]).float()


def near_object(centres: Float[Tensor, "n 2"], size: int) -> Float[Tensor, "n 1 h w"]:
    """1 at pixels that an object can cover, 0 elsewhere."""
    line = (torch.arange(size) + 0.5) * 2 / size - 1
    right, down = (centres[:, k, None, None, None] for k in range(2))
    return ((line - right).square() + (line[:, None] - down).square() < _COVERED**2).float()


def _keywords(network: OneStepGenerator, scenes: Rendered) -> dict[str, Tensor]:
    """Forward keywords of scenes: their captions and their own noise."""
    model = Model(network, word_tokenizer(CAPTION_WORDS, framed=False), GENERATOR)
    (batch,) = prompt_batches(model, list(map(full_caption, scenes.scenes)), batch_size=len(scenes.scenes))
    return batch | {"noise": torch.from_numpy(scenes.noise).to(network.dtype)}


@torch.no_grad()
def generated(network: OneStepGenerator, scenes: Rendered) -> Float[Tensor, "n 3 h w"]:
    """What a generator makes of the captions of scenes and their own noise."""
    inputs = _keywords(network, scenes)
    parts = zip(*(torch.split(values, 250) for values in inputs.values()), strict=True)
    return torch.cat([network(**dict(zip(inputs, part, strict=True))) for part in parts])


def _unseen(settings: SceneGenerator) -> Rendered:
    return Rendered.draw(settings.held_out, derive(settings.seed, "held out"))


def generator_accuracy(settings: SceneGenerator, network: OneStepGenerator, judge: Judge) -> dict[str, float]:
    """How often a judge sees each attribute as the caption asks, on captions and noise that were never trained on."""
    scenes = _unseen(settings)
    painted = (generated(network, scenes) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return judge_accuracy(judge, replace(scenes, pixels=painted))
