"""Captioner and listeners of the scenes: small Hugging Face models that this machine trains itself, once.

A vision tower is trained on the attributes of pictures, then frozen; its features are kept. The captioner and the first
listener share it, as ClipCap and its listener share CLIP. The other listener has a tower, an architecture and a seed of
its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    VisionEncoderDecoderModel,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTModel,
)

from trimtab.errors import ConfigError, explain, nearest
from trimtab.lab.models import Progress, built_model, built_with, fast_tokenizer, model_folder
from trimtab.lab.scene_captions import full_caption, is_true, partial_caption, vocabulary
from trimtab.lab.scene_sets import SceneSet, held_out_scenes, training_scenes
from trimtab.lab.scenes import OBJECT, PLACES, WHOLE, SceneWorld
from trimtab.runs.paths import cache_home
from trimtab.seeds import derive, isolated
from trimtab.train.settings import Fit

CAPTIONER, LISTENER, OTHER = "captioner", "listener", "listener-other"
SCENE_MODELS = (CAPTIONER, LISTENER, OTHER)
RECIPE = 1
"""Raised when the same settings would give another model, so that no cache serves the old one."""

PAD, START, UNKNOWN, END = "<pad>", "<start>", "<unknown>", "<end>"
POSITIONS = 48
"""Longest caption in tokens: thrice the longest that people write, for speakers that ramble."""
_FEATURES = "features.safetensors"
_SPREAD = 0.1
"""Standard deviation of fresh weights of the first tower: with the usual .02 it learns shapes much later."""


@dataclass(frozen=True)
class Schedule:
    """Training of one part: AdamW under a cosine; pictures in a batch, half of them variants of the other half."""

    steps: int
    lr: float = 2e-3
    batch_size: int = 64


@dataclass(frozen=True)
class SceneModels:
    """The settings of the models of the scenes.

    Attributes:
        world: the distribution of scenes; every position is a cell of its grid.
        targets: training scenes; each comes with one of its variants.
        full: the share of full captions among those that the captioner learns; the others are terse.
        tower: training of the shared tower, and of the other listener's.
        captioner: training of the captioner's decoder.
        listener: training of a listener's text tower.
        width: of the shared tower; the other listener's is an eighth narrower.
        layers: of the towers.
        text_width: of the decoder and of the text towers.
        seed: of weights and draws.
    """

    world: SceneWorld = field(default_factory=SceneWorld)
    targets: int = 6000
    full: float = 0.2
    tower: Schedule = Schedule(600)
    captioner: Schedule = Schedule(600, 3e-3)
    listener: Schedule = Schedule(300, 3e-3, 128)
    width: int = 128
    layers: int = 3
    text_width: int = 96
    seed: int = 0


def scene_model(
    name: str,
    settings: SceneModels | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """The folder of a model of the scenes, in the format of Hugging Face; trained here on first use, then kept.

    `card.json` has its settings, versions and what it can do on scenes that it has never seen.

    Args:
        name: "captioner", a VisionEncoderDecoder; "listener", a CLIP with the captioner's tower; "listener-other", a
            VisionTextDualEncoder with a tower of its own.
        settings: None means those of the `lab:` names.
        cache: where to keep it and its tower; None means the cache of this machine.
        progress: called after each training step, also of the tower where that is not there yet.

    Raises:
        ConfigError: there is no such model.
    """
    if name not in SCENE_MODELS:
        expected = f"one of {SCENE_MODELS}"
        raise ConfigError(f"lab model: {explain(repr(name), expected, nearest(name, SCENE_MODELS))}")
    given = SceneModels() if settings is None else settings
    about = {"recipe": RECIPE, "settings": asdict(given)}
    home = cache_home() if cache is None else cache
    target = model_folder(name, [name, about], home)
    if target.is_dir():
        return target
    tower = "scene-tower-other" if name == OTHER else "scene-tower"
    counter = _Counter(
        progress, [given.tower.steps, (given.captioner if name == CAPTIONER else given.listener).steps]
    )
    place = model_folder(tower, [tower, about], home)
    built_model(place, {"name": tower, **about}, partial(_make_tower, given, name == OTHER, counter))
    counter.next()
    make = partial(_make_captioner if name == CAPTIONER else _make_listener, given, place, counter)
    return built_model(target, {"name": name, **about}, make)


class _Counter:
    """Steps of several parts told as those of one."""

    def __init__(self, progress: Progress | None, parts: list[int]) -> None:
        self.progress, self.parts, self.before = progress, parts, 0

    def __call__(self, step: int, loss: float) -> None:
        if self.progress is not None:
            self.progress(self.before + step, sum(self.parts), loss)

    def next(self) -> None:
        self.before += self.parts[0]


def scene_tokenizer(world: SceneWorld, *, frame: bool) -> PreTrainedTokenizerFast:
    """One token per word of the captions; with `frame`, texts begin and end with tokens of their own, as CLIP's do."""
    words = {word: number for number, word in enumerate((PAD, START, UNKNOWN, END, *vocabulary(world)))}
    inner = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if frame:
        ends = [(START, words[START]), (END, words[END])]
        inner.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    roles = {"pad_token": PAD, "bos_token": START, "unk_token": UNKNOWN, "eos_token": END}
    return fast_tokenizer(inner, model_max_length=POSITIONS, **roles)


def scene_processor(world: SceneWorld) -> CLIPImageProcessorPil:
    """An image processor that changes no pixel's place: pictures come in the size of the world."""
    size = world.pixels
    return CLIPImageProcessorPil(
        do_resize=False,
        do_center_crop=False,
        size={"height": size, "width": size},
        crop_size={"height": size, "width": size},
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
    )


def _pixel_values(scenes: SceneSet) -> Float[Tensor, "n 3 size size"]:
    """Pictures as `scene_processor` gives them."""
    return (torch.from_numpy(scenes.pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25


def _trained(settings: SceneModels) -> SceneSet:
    return training_scenes(settings.world, settings.targets, settings.seed)


@dataclass(frozen=True)
class _Labels:
    """Attributes of pictures as numbers: of the object at each place, 0 where there is none, and of the whole."""

    world: SceneWorld
    scenes: SceneSet

    @cached_property
    def names(self) -> list[str]:
        return [name for name in OBJECT if name != "position" and len(getattr(self.world, name)) > 1]

    @cached_property
    def whole_names(self) -> list[str]:
        return [name for name in WHOLE if len(getattr(self.world, name)) > 1]

    @property
    def sizes(self) -> list[int]:
        return [1 + len(getattr(self.world, name)) for name in self.names]

    @property
    def whole_sizes(self) -> list[int]:
        return [len(getattr(self.world, name)) for name in self.whole_names]

    @cached_property
    def objects(self) -> Int[Tensor, "n places attributes"]:
        world = self.world
        labels = np.zeros((len(self.scenes), len(world.position), len(self.names)), dtype=np.int64)
        for row, scene in enumerate(self.scenes.scenes):
            for thing in scene.objects:
                values = [1 + getattr(world, name).index(getattr(thing, name)) for name in self.names]
                labels[row, world.position.index(thing.position)] = values
        return torch.from_numpy(labels)

    @cached_property
    def whole(self) -> Int[Tensor, "n attributes"]:
        rows = [
            [getattr(self.world, name).index(getattr(scene, name)) for name in self.whole_names]
            for scene in self.scenes.scenes
        ]
        return torch.tensor(rows)

    @property
    def cells(self) -> list[int]:
        """The number of each place's cell, in reading order of the grid."""
        columns = self.world.columns
        steps = [PLACES[place] for place in self.world.position]
        each = [((1 + x) // (4 - columns), (1 + y) // (4 - columns)) for x, y in steps]
        return [row * columns + column for column, row in each]


class _Heads(nn.Module):
    """Classifiers of the attributes: of all of them from the pooled vector, and of each cell's from its patch."""

    def __init__(self, width: int, labels: _Labels) -> None:
        super().__init__()
        self.sizes, self.whole_sizes, self.cells = labels.sizes, labels.whole_sizes, labels.cells
        self.places = len(labels.cells)
        self.pooled = nn.Linear(width, self.places * sum(self.sizes))
        self.patch = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(self.sizes)))
        self.whole = nn.Linear(width, sum(self.whole_sizes))

    def forward(self, output: Any, objects: Tensor, whole: Tensor) -> Tensor:
        """The loss: the mean cross-entropy of each attribute, summed over attributes."""
        pooled = self.pooled(output.pooler_output).unflatten(1, (self.places, -1))
        patches = self.patch(output.last_hidden_state[:, [1 + cell for cell in self.cells]])
        losses = [
            F.cross_entropy(logits.flatten(0, 1), objects[..., place].flatten())
            for scores in (pooled, patches)
            for place, logits in enumerate(scores.split(self.sizes, -1))
        ]
        whole_scores = self.whole(output.pooler_output).split(self.whole_sizes, -1)
        losses += [F.cross_entropy(logits, whole[:, place]) for place, logits in enumerate(whole_scores)]
        return torch.stack(losses).sum()


def _fit(
    parameters: Iterable[nn.Parameter],
    schedule: Schedule,
    batch: Callable[[], Tensor],
    loss_of: Callable[[Tensor], Tensor],
    counter: _Counter,
) -> None:
    """Train under a schedule; `batch` gives the numbers of the pictures of a step, and `loss_of` their loss."""
    weights = list(parameters)
    fit = Fit(steps=schedule.steps, lr=schedule.lr, lr_schedule="cosine", warmup_steps=schedule.steps // 15)
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    for step in range(schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = fit.lr_at(step)
        loss = loss_of(batch())
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        counter(step + 1, float(loss.detach()))


def _any(schedule: Schedule, rows: Tensor) -> Callable[[], Tensor]:
    return lambda: torch.randint(len(rows), (schedule.batch_size,))


def _pairs(schedule: Schedule, rows: Tensor) -> Callable[[], Tensor]:
    """Scenes with their variants, which are neighbours: what differs in one attribute must be told apart."""

    def batch() -> Tensor:
        firsts = 2 * torch.randint(len(rows) // 2, (schedule.batch_size // 2,))
        return torch.cat([firsts, firsts + 1])

    return batch


def _new_tower(settings: SceneModels, other: bool) -> CLIPVisionModel | ViTModel:
    world, width = settings.world, settings.width - settings.width // 8 if other else settings.width
    shape: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": 4,
        "image_size": world.pixels,
        "patch_size": world.pixels // world.columns,
    }
    if other:
        return ViTModel(ViTConfig(**shape, initializer_range=0.05))
    return CLIPVisionModel(CLIPVisionConfig(**shape, initializer_range=_SPREAD))


def _make_tower(settings: SceneModels, other: bool, counter: _Counter, folder: Path) -> dict[str, Any]:
    """Train a tower on attributes, and save it with its features of the training pictures."""
    scenes = _trained(settings)
    pixels, labels = _pixel_values(scenes), _Labels(settings.world, scenes)
    with isolated(derive(settings.seed, "scene tower", int(other))):
        tower = _new_tower(settings, other)
        heads = _Heads(tower.config.hidden_size, labels)

        def loss_of(rows: Tensor) -> Tensor:
            output = tower(pixel_values=pixels[rows])
            loss: Tensor = heads(output, labels.objects[rows], labels.whole[rows])
            return loss

        parameters = [*tower.parameters(), *heads.parameters()]
        _fit(parameters, settings.tower, _any(settings.tower, pixels), loss_of, counter)
    tower.train(False)
    tower.save_pretrained(folder)
    save_file(_features(tower, pixels), folder / _FEATURES)
    return {"parameters": _size(tower), **built_with()}


@torch.no_grad()
def _features(tower: nn.Module, pixels: Tensor) -> dict[str, Tensor]:
    """`states` (n, tokens, width) and `pooled` (n, width) of pictures."""
    outputs = [tower(pixel_values=part) for part in pixels.split(500)]
    states, pooled = (
        [getattr(one, name) for one in outputs] for name in ("last_hidden_state", "pooler_output")
    )
    return {"states": torch.cat(states).contiguous(), "pooled": torch.cat(pooled).contiguous()}


def _size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _ids(texts: list[str], world: SceneWorld, *, frame: bool) -> Int[Tensor, "n T"]:
    """Token ids of captions with their end, padded on the right; with `frame`, after the token that starts one."""
    number = {word: place for place, word in enumerate((PAD, START, UNKNOWN, END, *vocabulary(world)))}
    start = [number[START]] if frame else []
    rows = [torch.tensor([*start, *map(number.__getitem__, text.split()), number[END]]) for text in texts]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=number[PAD])


def _new_captioner(settings: SceneModels, tower: CLIPVisionModel) -> VisionEncoderDecoderModel:
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3}
    decoder = GPT2Config(
        vocab_size=4 + len(vocabulary(settings.world)),
        n_embd=settings.text_width,
        n_layer=2,
        n_head=4,
        n_positions=POSITIONS,
        add_cross_attention=True,
        is_decoder=True,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.05,
        **special,
    )
    model = VisionEncoderDecoderModel(encoder=tower, decoder=GPT2LMHeadModel(decoder))
    for name, value in {**special, "decoder_start_token_id": 1}.items():
        setattr(model.config, name, value)
    model.generation_config = GenerationConfig(decoder_start_token_id=1, max_new_tokens=32, **special)
    return model


def _make_captioner(settings: SceneModels, place: Path, counter: _Counter, folder: Path) -> dict[str, Any]:
    """Train a decoder on captions of both dialects, on the kept features of the frozen tower."""
    scenes, states = _trained(settings), load_file(place / _FEATURES)["states"]
    rng = np.random.default_rng(derive(settings.seed, "dialects"))
    both = zip(scenes.captions("full"), scenes.captions("terse"), rng.random(len(scenes)), strict=True)
    texts = [full if chance < settings.full else terse for full, terse, chance in both]
    labels = _ids(texts, settings.world, frame=False)
    labels[labels == 0] = -100
    with isolated(derive(settings.seed, "captioner")):
        model = _new_captioner(settings, CLIPVisionModel.from_pretrained(place))
        model.encoder.requires_grad_(False)

        def loss_of(rows: Tensor) -> Tensor:
            target = labels[rows]
            target = target[:, : int((target != -100).sum(1).max())]
            loss: Tensor = model(encoder_outputs=(states[rows],), labels=target).loss
            return loss

        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        _fit(learned, settings.captioner, _any(settings.captioner, states), loss_of, counter)
    model.requires_grad_(True)
    model.train(False)
    model.save_pretrained(folder)
    scene_tokenizer(settings.world, frame=False).save_pretrained(folder)
    scene_processor(settings.world).save_pretrained(folder)
    return {"parameters": _size(model), **_captioner_facts(settings, model), **built_with()}


def _new_listener(settings: SceneModels, place: Path) -> CLIPModel | VisionTextDualEncoderModel:
    """A listener with fresh text tower and projections around the tower of a folder."""
    width, words = settings.text_width, 4 + len(vocabulary(settings.world))
    shape: dict[str, Any] = {
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": 0,
    }
    if "-other-" in place.name:
        # BERT reads in both directions; no dropout, since the text is made and not found.
        text = BertModel(BertConfig(**shape, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
        return VisionTextDualEncoderModel(vision_model=ViTModel.from_pretrained(place), text_model=text)
    tower = CLIPVisionModel.from_pretrained(place)
    text_config = CLIPTextConfig(
        **shape, bos_token_id=1, eos_token_id=3
    )  # 2 would make CLIP pool at the largest id
    config = CLIPConfig(
        text_config=text_config.to_dict(), vision_config=tower.config.to_dict(), projection_dim=width
    )
    model = CLIPModel(config)
    model.vision_model.load_state_dict(tower.state_dict())
    return model


def _make_listener(settings: SceneModels, place: Path, counter: _Counter, folder: Path) -> dict[str, Any]:
    """Train a text tower and both projections contrastively, on the kept features of a frozen vision tower."""
    scenes, pooled = _trained(settings), load_file(place / _FEATURES)["pooled"]
    heard = _ids(_heard(scenes), settings.world, frame=True).unflatten(0, (-1, len(scenes)))
    name = "listener other" if "-other-" in place.name else "listener"
    with isolated(derive(settings.seed, name)):
        model = _new_listener(settings, place)
        model.vision_model.requires_grad_(False)

        def loss_of(rows: Tensor) -> Tensor:
            ids = heard[torch.randint(len(heard), rows.shape), rows]
            ids = ids[:, : int((ids != 0).sum(1).max())]
            logits = (
                model.logit_scale.exp() * _texts(model, ids) @ _unit(model.visual_projection(pooled[rows])).T
            )
            own = torch.arange(len(rows))
            return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        _fit(learned, settings.listener, _pairs(settings.listener, pooled), loss_of, counter)
    model.requires_grad_(True)
    model.train(False)
    model.save_pretrained(folder)
    scene_tokenizer(settings.world, frame=True).save_pretrained(folder)
    scene_processor(settings.world).save_pretrained(folder)
    return {"parameters": _size(model), **_listener_facts(settings, model), **built_with()}


def _heard(scenes: SceneSet) -> list[str]:
    """Captions that a listener learns from, six of each scene one after another: full, partial and terse ones."""
    rng = np.random.default_rng(derive(scenes.seed, "heard"))
    fulls = [full_caption(scene) for scene in scenes.scenes]
    partials = [partial_caption(scene, rng) for _ in range(2) for scene in scenes.scenes]
    return [*fulls * 3, *partials, *scenes.captions("terse")]


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors, dim=-1)


def _texts(model: nn.Module, ids: Tensor) -> Tensor:
    """Unit embeddings of captions."""
    output: Any = model.text_model(input_ids=ids, attention_mask=(ids != 0).long())  # type: ignore[operator]
    return _unit(model.text_projection(output.pooler_output))  # type: ignore[operator]


@torch.no_grad()
def _captioner_facts(settings: SceneModels, model: VisionEncoderDecoderModel) -> dict[str, Any]:
    """On unseen scenes: the share of captions of which every word is true, and the share that are full captions."""
    scenes = held_out_scenes(settings.world, seed=settings.seed).targets()
    tokenizer = scene_tokenizer(settings.world, frame=False)
    start = torch.ones(len(scenes), 1, dtype=torch.long)
    ids = model.generate(pixel_values=_pixel_values(scenes), decoder_attention_mask=start)  # type: ignore[attr-defined]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    pairs = zip(texts, scenes.scenes, strict=True)
    true = [is_true(text, scene) for text, scene in pairs]
    full = [text == caption for text, caption in zip(texts, scenes.captions("full"), strict=True)]
    return {"scenes": len(scenes), "true_captions": _rate(true), "full_captions": _rate(full)}


@torch.no_grad()
def _listener_facts(settings: SceneModels, model: nn.Module) -> dict[str, Any]:
    """On unseen scenes and their full captions: how often the listener finds the picture among others."""
    scenes = held_out_scenes(settings.world, seed=settings.seed)
    names = {name: row for row, name in enumerate(scenes.names)}
    rows = [row for row, changed in enumerate(scenes.changed) if not changed]
    pictures = _unit(model.visual_projection(_features(model.vision_model, _pixel_values(scenes))["pooled"]))
    texts = scenes.rows(rows).captions("full")
    cosines = _texts(model, _ids(texts, settings.world, frame=True)) @ pictures.T
    sets = [[names[one] for one in json.loads(each)] for each in scenes.hard_sets()["candidates"]]
    rng = np.random.default_rng(derive(settings.seed, "candidates"))

    def others(count: int) -> list[list[int]]:
        return [[row, *rng.choice([one for one in rows if one != row], count - 1, False)] for row in rows]

    candidates = {"p_at_1_of_64": others(64), "p_at_1_of_100": others(100), "p_at_1_hard": sets}
    return {"scenes": len(rows)} | {
        name: _rate(
            [
                given[int(scores[given].argmax())] == row
                for given, scores, row in zip(each, cosines, rows, strict=True)
            ]
        )
        for name, each in candidates.items()
    }


def _rate(right: list[bool]) -> float:
    return round(float(np.mean(right)), 4)
