"""Dual encoder of scenes: texts and pictures in one space, a CLIP that this machine trains itself, once.

Its vision tower is trained on the attributes of pictures, then frozen; a text tower learns contrastively to hear full
and partial captions and names of concepts (Radford et al. 2021).
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
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from trimtab.lab.models import Progress, built_model, built_with, model_folder
from trimtab.lab.scene_captions import full_caption, partial_caption
from trimtab.lab.scene_concepts import CAPTION_WORDS, FILLERS, NAMED, PICTURE_WORLD, concept_name
from trimtab.lab.scene_judge import Rendered, attribute_values, train_reader
from trimtab.lab.scene_models import END, PAD, POSITIONS, SPECIAL, START, word_ids, word_tokenizer
from trimtab.lab.scene_towers import Counter, Schedule, features, fit, scene_processor
from trimtab.lab.scenes import Scene
from trimtab.seeds import derive, isolated

ENCODER = "scene-encoder"
WORDS = (*CAPTION_WORDS, *FILLERS)
RECIPE = 1
"""Raised when the same settings would give another model, so that no cache serves the old one."""
_SPREAD = 0.1
"""Standard deviation of fresh embeddings of patches: with the usual .02 a tower learns shapes much later."""
_PATCH = 8


@dataclass(frozen=True)
class SceneEncoder:
    """The settings of the dual encoder.

    Attributes:
        scenes: training scenes, all attributes uniform.
        held_out: scenes by which it is judged.
        vision: training of the vision tower.
        text: training of the text tower and both projections.
        width: of the vision tower.
        text_width: of the text tower and of the embeddings.
        seed: of scenes, weights and draws.
    """

    scenes: int = 24000
    held_out: int = 640
    vision: Schedule = field(default_factory=lambda: Schedule(1200, 2e-3, 96))
    text: Schedule = field(default_factory=lambda: Schedule(600, 2e-3, 256))
    width: int = 96
    text_width: int = 96
    seed: int = 2000


def scene_encoder(
    settings: SceneEncoder | None = None, cache: Path | None = None, progress: Progress | None = None
) -> Path:
    """The folder of the dual encoder, a CLIP in the format of Hugging Face; trained on first use, then kept.

    `card.json` has its settings and, on scenes that it has never seen, `p_at_1_of_64`: how often the picture of a full
    caption is found among 64; and `p_named` by attribute: how often the name of a value that a picture has is nearer to
    it than the names of the other values.

    Args:
        settings: None means those of `lab:scene-encoder`.
        cache: where to keep it; None means the cache of this machine.
        progress: called after each training step.
    """
    given = SceneEncoder() if settings is None else settings
    about = {"name": ENCODER, "recipe": RECIPE, "world": asdict(PICTURE_WORLD), "settings": asdict(given)}
    counter = Counter(progress, given.vision.steps, given.text.steps)
    return built_model(model_folder(ENCODER, [about], cache), about, partial(_make, given, counter))


def new_encoder(settings: SceneEncoder) -> CLIPModel:
    """A fresh CLIP that knows the words of captions and of concepts' names."""
    width = settings.text_width
    text: Any = CLIPTextConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        pad_token_id=PAD,
        bos_token_id=START,
        eos_token_id=END,
    )
    vision: Any = CLIPVisionConfig(
        hidden_size=settings.width,
        intermediate_size=2 * settings.width,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=PICTURE_WORLD.pixels,
        patch_size=_PATCH,
        initializer_range=_SPREAD,
    )
    config: Any = CLIPConfig
    return CLIPModel(config(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=width))


class _Reader(nn.Module):
    """Attributes of a picture, read linearly from the pooled vector of a tower."""

    def __init__(self, tower: nn.Module, width: int) -> None:
        super().__init__()
        self.tower = tower
        self.sizes = [len(values) for values in attribute_values().values()]
        self.heads = nn.Linear(width, sum(self.sizes))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        pooled = self.tower(pixel_values=(pixels - 0.5) / 0.25).pooler_output
        return torch.split(self.heads(pooled), self.sizes, 1)


def _make(settings: SceneEncoder, counter: Counter, folder: Path) -> dict[str, Any]:
    scenes = Rendered.draw(settings.scenes, settings.seed)
    with isolated(derive(settings.seed, ENCODER)):
        model = new_encoder(settings)
        tower = model.vision_model
        train_reader(_Reader(tower, settings.width), scenes, settings.vision, counter)
        counter.next()
        train_text(model, scenes, settings, counter)
    model.requires_grad_(True)
    model.train(False)
    model.save_pretrained(folder)
    word_tokenizer(WORDS, framed=True).save_pretrained(folder)
    scene_processor(PICTURE_WORLD).save_pretrained(folder)
    size = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": size, **encoder_facts(settings, model), **built_with()}


def train_text(model: CLIPModel, scenes: Rendered, settings: SceneEncoder, counter: Counter) -> None:
    """Train a text tower and both projections contrastively, on features of the frozen vision tower."""
    model.vision_model.requires_grad_(False)
    pooled = _pooled(model, scenes)
    heard = word_ids(_heard(scenes.scenes, settings.seed), WORDS, framed=True)
    heard = heard.view(-1, len(pooled), heard.shape[-1])

    def loss_of(rows: Tensor) -> Tensor:
        ids = heard[torch.randint(len(heard), rows.shape), rows]
        ids = ids[:, : int((ids != PAD).sum(1).max())]
        seen = F.normalize(model.visual_projection(pooled[rows]), dim=-1)
        logits = model.logit_scale.exp() * text_embeddings(model, ids) @ seen.T
        own = torch.arange(len(rows))
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    learned = [one for one in model.parameters() if one.requires_grad]
    schedule = settings.text
    fit(learned, schedule, lambda: torch.randperm(len(pooled))[: schedule.batch_size], loss_of, counter)


def _heard(scenes: Sequence[Scene], seed: int) -> list[str]:
    """Texts of each scene, a set after another: two full captions, a partial one, the name of a value or of two."""
    rng = np.random.default_rng(derive(seed, "heard"))
    full = list(map(full_caption, scenes))
    names = []
    for scene in scenes:
        values = named_values(scene)
        picked = rng.choice(list(values), rng.integers(1, 3), replace=False)
        names.append(concept_name({name: values[name] for name in picked}))
    return [*full, *full, *(partial_caption(scene, rng) for scene in scenes), *names]


def named_values(scene: Scene) -> dict[str, str]:
    """The values of a scene of one object that captions name."""
    found = {name: value for (name, _), value in scene.attributes().items() if name in NAMED}
    return {name: value for name, value in found.items() if value in NAMED[name]}


def text_embeddings(model: CLIPModel, ids: Int[Tensor, "n T"]) -> Float[Tensor, "n d"]:
    """Unit embeddings of framed texts."""
    output: Any = model.text_model(input_ids=ids, attention_mask=(ids != PAD).long())
    return F.normalize(model.text_projection(output.pooler_output), dim=-1)


def _pooled(model: CLIPModel, scenes: Rendered) -> Float[Tensor, "n width"]:
    return features(model.vision_model, (scenes.channels() - 0.5) / 0.25)["pooled"]


@torch.no_grad()
def encoder_facts(settings: SceneEncoder, model: CLIPModel) -> dict[str, Any]:
    """On unseen scenes: the picture of a full caption among 64, and the name of a picture's value among the others."""
    scenes = Rendered.draw(settings.held_out, derive(settings.seed, "held out"))
    seen = F.normalize(model.visual_projection(_pooled(model, scenes)), dim=-1)

    def embed(texts: Sequence[str]) -> Tensor:
        return text_embeddings(model, word_ids(texts, WORDS, framed=True))

    scores = embed(list(map(full_caption, scenes.scenes))) @ seen.T
    found = []
    for start in range(0, len(seen), 64):
        part = scores[start : start + 64, start : start + 64]
        found += (part.argmax(1) == torch.arange(len(part))).tolist()
    named = {}
    for name, values in NAMED.items():
        nearest = (seen @ embed([concept_name({name: value}) for value in values]).T).argmax(1).tolist()
        truth = [named_values(scene).get(name) for scene in scenes.scenes]
        pairs = [(values[one], own) for one, own in zip(nearest, truth, strict=True) if own is not None]
        named[name] = round(float(np.mean([one == own for one, own in pairs])), 4) if pairs else None
    return {"scenes": len(seen), "p_at_1_of_64": round(float(np.mean(found)), 4), "p_named": named}
