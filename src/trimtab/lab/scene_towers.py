"""Vision towers of the scenes, trained on the attributes of pictures, and how every part of the models is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from trimtab.lab.models import Progress
from trimtab.lab.scene_sets import SceneSet
from trimtab.lab.scenes import OBJECT, PLACES, WHOLE, Scene, SceneWorld
from trimtab.train.settings import Fit

_SPREAD = 0.1
"""Standard deviation of fresh embeddings of patches: with the usual .02 a tower learns shapes much later."""


@dataclass(frozen=True)
class Schedule:
    """Training of one part: steps of AdamW under a cosine, its peak learning rate, pictures in a batch."""

    steps: int
    lr: float = 2e-3
    batch_size: int = 64


class Counter:
    """Progress over several parts, told as steps of one whole."""

    def __init__(self, progress: Progress | None, *parts: int) -> None:
        self.progress, self.parts, self.before = progress, parts, 0

    def step(self, step: int, loss: float) -> None:
        """A step of the part at work is done."""
        if self.progress is not None:
            self.progress(self.before + step, sum(self.parts), loss)

    def next(self) -> None:
        """The first part is done."""
        self.before = self.parts[0]


def fit(
    parameters: Iterable[nn.Parameter],
    schedule: Schedule,
    batch: Callable[[], Int[Tensor, " rows"]],
    loss_of: Callable[[Int[Tensor, " rows"]], Tensor],
    counter: Counter,
) -> None:
    """Train parameters; `batch` draws the numbers of the pictures of a step, and `loss_of` gives their loss."""
    weights = list(parameters)
    plan = Fit(steps=schedule.steps, lr=schedule.lr, lr_schedule="cosine", warmup_steps=schedule.steps // 15)
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    for step in range(schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.lr_at(step)
        loss = loss_of(batch())
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        counter.step(step + 1, float(loss.detach()))


def draws(schedule: Schedule, pictures: int) -> Callable[[], Int[Tensor, " rows"]]:
    """Batches of any pictures."""
    return lambda: torch.randint(pictures, (schedule.batch_size,))


def scene_processor(world: SceneWorld) -> CLIPImageProcessorPil:
    """An image processor that changes no pixel's place: pictures come in the size of the world."""
    size = {"height": world.pixels, "width": world.pixels}
    ready: dict[str, Any] = {"do_resize": False, "do_center_crop": False, "size": size, "crop_size": size}
    return CLIPImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.25] * 3, **ready)


def pixel_values(scenes: SceneSet) -> Float[Tensor, "n 3 size size"]:
    """Pictures as `scene_processor` gives them."""
    return (torch.from_numpy(scenes.pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25


def new_tower(
    world: SceneWorld, width: int, layers: int, *, other: bool = False
) -> CLIPVisionModel | SiglipVisionModel:
    """A fresh tower with a patch for each cell: CLIP's with its class token, or SigLIP's that pools by attention."""
    shape: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "image_size": world.pixels,
        "patch_size": world.pixels // world.columns,
    }
    if other:
        return SiglipVisionModel(SiglipVisionConfig(**shape))
    return CLIPVisionModel(CLIPVisionConfig(**shape, initializer_range=_SPREAD))


def train_tower(tower: nn.Module, scenes: SceneSet, schedule: Schedule, counter: Counter) -> None:
    """Train a tower on the attributes of scenes, with classifiers that are thrown away; leaves it in evaluation mode.

    Each attribute is read twice: from the pooled vector, which a listener hears, and from the patch of its cell, which
    a captioner looks at.
    """
    pixels, heads = pixel_values(scenes), _Heads(tower.config.hidden_size, scenes.world)  # type: ignore[union-attr, arg-type]
    objects, whole = heads.labels(scenes.scenes)

    def loss_of(rows: Tensor) -> Tensor:
        loss: Tensor = heads(tower(pixel_values=pixels[rows]), objects[rows], whole[rows])
        return loss

    fit([*tower.parameters(), *heads.parameters()], schedule, draws(schedule, len(pixels)), loss_of, counter)
    tower.train(False)


@torch.no_grad()
def features(tower: nn.Module, pixels: Float[Tensor, "n 3 size size"]) -> dict[str, Tensor]:
    """`states` (n, tokens, width) and `pooled` (n, width) of pictures."""
    outputs = [tower(pixel_values=pixels[start : start + 500]) for start in range(0, len(pixels), 500)]
    states = torch.cat([output.last_hidden_state for output in outputs])
    return {"states": states, "pooled": torch.cat([output.pooler_output for output in outputs])}


class _Heads(nn.Module):
    """Classifiers of attributes: of all from the pooled vector, and of those of each cell's object from its patch."""

    def __init__(self, width: int, world: SceneWorld) -> None:
        super().__init__()
        varies = set(world.varying()) - {"position"}
        self.world = world
        self.names = [name for name in OBJECT if name in varies]
        self.whole_names = [name for name in WHOLE if name in varies]
        self.sizes = [1 + len(getattr(world, name)) for name in self.names]  # a cell may be empty
        self.whole_sizes = [len(getattr(world, name)) for name in self.whole_names]
        self.pooled = nn.Linear(width, len(world.position) * sum(self.sizes))
        self.patch = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(self.sizes)))
        self.whole = nn.Linear(width, sum(self.whole_sizes))

    def labels(self, scenes: Iterable[Scene]) -> tuple[Int[Tensor, "n places a"], Int[Tensor, "n b"]]:
        """Numbers of the attributes of the object at each place, 0 where there is none, and of those of the whole."""
        world, objects, whole = self.world, [], []
        for scene in scenes:
            places = np.zeros((len(world.position), len(self.names)), dtype=np.int64)
            for thing in scene.objects:
                values = [1 + getattr(world, name).index(getattr(thing, name)) for name in self.names]
                places[world.position.index(thing.position)] = values
            objects.append(places)
            whole.append([getattr(world, name).index(getattr(scene, name)) for name in self.whole_names])
        return torch.from_numpy(np.stack(objects)), torch.tensor(whole)

    def forward(self, output: Any, objects: Tensor, whole: Tensor) -> Tensor:
        """The loss: the mean cross-entropy of each attribute, summed over attributes."""
        pooled = self.pooled(output.pooler_output).unflatten(1, (objects.shape[1], -1))
        patches = self.patch(output.last_hidden_state[:, self._cells()])
        losses = [
            F.cross_entropy(logits.flatten(0, 1), objects[..., number].flatten())
            for scores in (pooled, patches)
            for number, logits in enumerate(torch.split(scores, self.sizes, -1))
        ]
        of_whole = torch.split(self.whole(output.pooler_output), self.whole_sizes, -1)
        losses += [F.cross_entropy(logits, whole[:, number]) for number, logits in enumerate(of_whole)]
        return torch.stack(losses).sum()

    def _cells(self) -> list[int]:
        """The token of each place's cell, counted from the last: a class token comes before the patches."""
        columns = self.world.columns
        steps = [PLACES[place] for place in self.world.position]
        cells = [
            (1 + down) // (4 - columns) * columns + (1 + right) // (4 - columns) for right, down in steps
        ]
        return [cell - columns**2 for cell in cells]
