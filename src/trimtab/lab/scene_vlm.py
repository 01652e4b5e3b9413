"""A small vision-language model that answers questions about scenes: a Llava that this machine trains itself, once.

Its vision tower and projector are trained as a classifier of the attributes in each cell, then frozen. The language
model learns from rows of a picture and several independent blocks (see `trimtab.lab.scene_blocks`). **Its loss stays
near chance for a third of the training and then falls**: do not stop it early.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from trimtab.lab.models import Progress, built_model, built_with, llama, model_folder
from trimtab.lab.scene_blocks import (
    END,
    IMAGE,
    PAD,
    UNLABELLED,
    Block,
    Blocks,
    Packed,
    block_tokenizer,
    numbers,
    packed,
)
from trimtab.lab.scene_questions import ASKED, QUESTION_WORLD, QuestionScenes, question_scenes
from trimtab.lab.scene_towers import Counter, Schedule, draws, fit, scene_processor
from trimtab.lab.scenes import PLACES, SceneWorld
from trimtab.models.speakers import Llava
from trimtab.seeds import derive, isolated

VLM = "vlm"
RECIPE = 1
"""Raised when the same settings would give another model, so that no cache serves the old one."""
_SPREAD = 0.1
"""Standard deviation of all fresh weights: with the usual .02 the model stays at chance."""


@dataclass(frozen=True)
class SceneVlm:
    """The settings of the small vision-language model.

    Attributes:
        world: the distribution of scenes.
        scenes: training scenes.
        held_out: scenes by which it is judged, which it never sees.
        vision: training of the tower and the projector.
        language: training of the language model.
        blocks: questions and captions in a row, about one picture.
        colour_questions: whether it learns to answer `what colour is the large circle ?` too.
        width: of the tower and of the language model.
        intermediate: width of the language model's MLPs.
        layers: of the language model; the tower has two.
        heads: attention heads of both.
        vocabulary: tokens, some of which no text has: for top log-probabilities of 50 tokens, say.
        seed: of scenes, weights and draws.
    """

    world: SceneWorld = QUESTION_WORLD
    scenes: int = 4000
    held_out: int = 500
    vision: Schedule = field(default_factory=lambda: Schedule(300, 2e-3, 64))
    language: Schedule = field(default_factory=lambda: Schedule(1400, 2e-3, 32))
    blocks: int = 8
    colour_questions: bool = True
    width: int = 96
    intermediate: int = 192
    layers: int = 3
    heads: int = 4
    vocabulary: int = 64
    seed: int = 0


def scene_vlm(
    settings: SceneVlm | None = None, cache: Path | None = None, progress: Progress | None = None
) -> Path:
    """The folder of the small vision-language model, in the format of Hugging Face; trained on first use, then kept.

    `card.json` has its settings, versions, and how often it answers right on held-out scenes: `yes_no`, in all and for
    each noise and level, and `where` and `colour`, each with its n.

    Args:
        settings: None means those of `lab:vlm`.
        cache: where to keep it; None means the cache of this machine.
        progress: called after each training step; never when the model is there already.
    """
    given = SceneVlm() if settings is None else settings
    about = {"name": VLM, "recipe": RECIPE, "settings": asdict(given)}
    counter = Counter(progress, given.vision.steps, given.language.steps)
    return built_model(model_folder(VLM, [about], cache), about, partial(_make, given, counter))


def held_out_questions(settings: SceneVlm) -> QuestionScenes:
    """Scenes that the model has never seen; whatever its seed, they are the same."""
    return question_scenes(settings.world, settings.held_out, start="test", seed=0)


def new_vlm(settings: SceneVlm) -> LlavaForConditionalGeneration:
    """A fresh model: CLIP's tower with a patch for each cell, a projector, and a Llama with tied embeddings."""
    vision: Any = CLIPVisionConfig(
        hidden_size=settings.width,
        intermediate_size=4 * settings.width,
        num_hidden_layers=2,
        num_attention_heads=settings.heads,
        image_size=settings.world.pixels,
        patch_size=settings.world.pixels // settings.world.columns,
        initializer_range=_SPREAD,
    )
    text = llama(settings, settings.vocabulary, 128, END, PAD, initializer_range=_SPREAD)
    make: Any = LlavaConfig
    config = make(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        image_seq_length=settings.world.columns**2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        pad_token_id=PAD,
        eos_token_id=END,
    )
    model = LlavaForConditionalGeneration(config)
    generation: Any = GenerationConfig
    model.generation_config = generation(
        eos_token_id=END, pad_token_id=PAD, max_new_tokens=48, do_sample=False
    )
    return model


def _make(settings: SceneVlm, counter: Counter, folder: Path) -> dict[str, Any]:
    scenes = question_scenes(settings.world, settings.scenes, start="train", seed=settings.seed)
    with isolated(derive(settings.seed, VLM)):
        model = new_vlm(settings)
        train_vision(model, scenes, settings, counter)
        counter.next()
        train_language(model, scenes, settings, counter)
    model.requires_grad_(True)
    model.train(False)
    model.save_pretrained(folder)
    vlm_processor(settings).save_pretrained(folder)
    size = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": size, **vlm_facts(settings, model), **built_with()}


def vlm_processor(settings: SceneVlm) -> LlavaProcessor:
    """Processor of pictures and texts; `<image> is there a red circle ?` is its form of a question."""
    make: Any = LlavaProcessor
    processor: LlavaProcessor = make(
        scene_processor(settings.world),
        block_tokenizer(settings.world, settings.vocabulary),
        patch_size=settings.world.pixels // settings.world.columns,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return processor


def _pixel_values(scenes: QuestionScenes) -> Float[Tensor, "n 3 size size"]:
    return (torch.from_numpy(scenes.pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25


def seen(
    model: LlavaForConditionalGeneration, pixels: Float[Tensor, "n 3 size size"]
) -> Float[Tensor, "n cells d"]:
    """What the tower sees in each cell of pictures, before the projector."""
    return Llava(model).look(pixels)


def train_vision(
    model: LlavaForConditionalGeneration, scenes: QuestionScenes, settings: SceneVlm, counter: Counter
) -> None:
    """Train tower and projector as a classifier of the attributes of what is in each cell, `empty` where nothing is."""
    names = [name for name in ASKED if len(getattr(settings.world, name)) > 1]
    sizes = [1 + len(getattr(settings.world, name)) for name in names]
    heads, labels, pixels = (
        nn.Linear(settings.width, sum(sizes)),
        _cells(scenes, names),
        _pixel_values(scenes),
    )
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector

    def loss_of(rows: Tensor) -> Tensor:
        scores = torch.split(heads(projector(seen(model, pixels[rows]))), sizes, -1)
        losses = [
            F.cross_entropy(logits.flatten(0, 1), labels[rows, :, number].flatten())
            for number, logits in enumerate(scores)
        ]
        return torch.stack(losses).sum()

    weights = [*tower.parameters(), *projector.parameters(), *heads.parameters()]
    weights = [one for one in weights if one.requires_grad]
    fit(weights, settings.vision, draws(settings.vision, len(scenes)), loss_of, counter)


def _cells(scenes: QuestionScenes, names: list[str]) -> Int[Tensor, "n cells names"]:
    """Numbers of the attributes of the object in each cell; 0 where it is empty."""
    world, places = scenes.world, list(PLACES)
    labels = torch.zeros(len(scenes), world.columns**2, len(names), dtype=torch.long)
    for row, scene in enumerate(scenes.scenes):
        for thing in scene.objects:
            values = [1 + getattr(world, name).index(getattr(thing, name)) for name in names]
            labels[row, places.index(thing.position)] = torch.tensor(values)
    return labels


FIRST = (0.2, 0.175, 0.25, 0.25, 0.125)
"""Shares of `Blocks.KINDS` in the first two fifths of the training, when half of the blocks bind words to places."""
LATER = (0.7, 0.05, 0.075, 0.05, 0.125)
"""Their shares in the rest."""


def train_language(
    model: LlavaForConditionalGeneration, scenes: QuestionScenes, settings: SceneVlm, counter: Counter
) -> None:
    """Train projector and language model on blocks about pictures; the tower is frozen, and its features are kept."""
    blocks, words = Blocks(scenes, settings.colour_questions), numbers(settings.world, settings.vocabulary)
    model.model.vision_tower.requires_grad_(False)
    with torch.no_grad():
        features = torch.cat([seen(model, some) for some in torch.split(_pixel_values(scenes), 500)])
    rng, step = np.random.default_rng(derive(settings.seed, VLM, "blocks")), count()

    def loss_of(rows: Tensor) -> Tensor:
        shares = FIRST if next(step) < 0.4 * settings.language.steps else LATER
        drawn = [blocks.draw(row, shares, settings.blocks, rng) for row in rows.tolist()]
        batch = packed(drawn, words, features.shape[1])
        logits = block_logits(model, features[rows], batch)
        return F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=UNLABELLED)

    weights = [one for one in model.parameters() if one.requires_grad]
    fit(weights, settings.language, draws(settings.language, len(scenes)), loss_of, counter)


def block_logits(
    model: LlavaForConditionalGeneration, features: Float[Tensor, "rows cells d"], batch: Packed
) -> Float[Tensor, "rows T V"]:
    """Logits at every place of rows of blocks, from what the tower sees of their pictures."""
    embedded = Llava(model).keywords(features, batch.ids)["inputs_embeds"]
    output = model(inputs_embeds=embedded, attention_mask=batch.mask, position_ids=batch.positions)
    return cast("Tensor", output.logits)


@torch.no_grad()
def vlm_facts(settings: SceneVlm, model: LlavaForConditionalGeneration) -> dict[str, Any]:
    """Shares of right answers on held-out scenes, each with its n.

    `yes_no` compares the logits of `yes` and `no`: two questions of a scene, in all and by noise and level. `where` and
    `colour` are greedy: one of each.
    """
    scenes = held_out_questions(settings)
    blocks, words = Blocks(scenes, True), numbers(settings.world, settings.vocabulary)
    rng = np.random.default_rng(derive(0, VLM, "facts"))
    asked: list[list[Block]] = [
        [*((one.text, one.answer) for one in both), blocks.where(row, rng), blocks.colour(row, rng)]
        for row, both in enumerate(scenes.questions(2))
    ]
    batch = packed(asked, words, settings.world.columns**2)
    logits = block_logits(model, seen(model, _pixel_values(scenes)), batch)
    firsts = [
        [_first(batch.blocks[row], batch.labels[row], number) for number in range(1, 5)]
        for row in range(len(scenes))
    ]
    at = logits[torch.arange(len(scenes))[:, None], torch.tensor(firsts)]
    right = at.argmax(-1) == torch.tensor([[words[answer] for _, answer in row] for row in asked])
    yes = at[:, :2, words["yes"]] > at[:, :2, words["no"]]
    told = yes == torch.tensor([[answer == "yes" for _, answer in row[:2]] for row in asked])
    kinds = [
        f"{scene.noise} {level}".strip() for scene, level in zip(scenes.scenes, scenes.levels, strict=True)
    ]
    by_noise = {kind: _share(told[[one == kind for one in kinds]]) for kind in sorted(set(kinds))}
    colours = torch.tensor([row[3][0].startswith("what") for row in asked])
    return {
        "yes_no": _share(told),
        "yes_no_by_noise": by_noise,
        "where": _share(right[:, 2]),
        "colour": _share(right[colours, 3]),
    }


def _first(blocks: Int[Tensor, " T"], labels: Int[Tensor, " T"], number: int) -> int:
    """The place where the first token of a block's answer is predicted."""
    return int(((blocks == number) & (labels != UNLABELLED)).nonzero()[0])


def _share(right: Bool[Tensor, ...]) -> dict[str, Any]:
    return {"right": round(float(right.float().mean()), 4), "n": right.numel()}
