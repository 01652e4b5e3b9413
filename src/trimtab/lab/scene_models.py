"""Captioner and listeners of the scenes: small Hugging Face models that this machine trains itself, once.

A vision tower is trained on the attributes of pictures, then frozen; its features are kept. The captioner and the first
listener share it, as ClipCap and its listener share CLIP. The other listener has a tower, an architecture and a seed of
its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
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
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionModel,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    SiglipVisionModel,
    VisionEncoderDecoderModel,
    VisionTextDualEncoderModel,
)

from trimtab.errors import ConfigError, DataError, explain, nearest
from trimtab.lab.models import Progress, built_model, built_with, fast_tokenizer, model_folder
from trimtab.lab.scene_captions import is_true, partial_caption, vocabulary
from trimtab.lab.scene_sets import SceneSet, held_out_scenes, training_scenes
from trimtab.lab.scene_towers import (
    Counter,
    Schedule,
    draws,
    features,
    fit,
    new_tower,
    pixel_values,
    scene_processor,
    train_tower,
)
from trimtab.lab.scenes import Scene, SceneWorld
from trimtab.seeds import derive, isolated

CAPTIONER, LISTENER, OTHER = "captioner", "listener", "listener-other"
SCENE_MODELS = (CAPTIONER, LISTENER, OTHER)
RECIPE = 1
"""Raised when the same settings would give another model, so that no cache serves the old one."""

SPECIAL = ("<pad>", "<start>", "<unknown>", "<end>")
"""Special tokens by id. CLIP pools at the largest id where that of the end is 2, so it is not."""
PAD, START, END = 0, 1, 3
POSITIONS = 48
"""Longest caption in tokens: thrice the longest that people write, for speakers that ramble."""
_FEATURES = "features.safetensors"
AnyListener = CLIPModel | VisionTextDualEncoderModel


@dataclass(frozen=True)
class SceneModels:
    """The settings of the models of the scenes.

    Attributes:
        world: the distribution of scenes; every position is a cell of its grid.
        targets: training scenes; each comes with one of its variants.
        held_out: scenes by which the models are judged, each with nine variants.
        full: the share of full captions among those that the captioner learns; the others are terse.
        tower: training of a tower.
        captioner: training of the captioner's decoder.
        listener: training of a listener's text tower; half of a batch are variants of the other half.
        width: of the shared tower; the other listener's is an eighth narrower and a layer less deep.
        layers: of the shared tower.
        text_width: of the decoder and of the text towers.
        seed: of scenes, weights and draws.
    """

    world: SceneWorld = field(default_factory=SceneWorld)
    targets: int = 6000
    held_out: int = 300
    full: float = 0.2
    tower: Schedule = field(default_factory=lambda: Schedule(650))
    captioner: Schedule = field(default_factory=lambda: Schedule(600, 3e-3))
    listener: Schedule = field(default_factory=lambda: Schedule(300, 2e-3, 128))
    width: int = 128
    layers: int = 3
    text_width: int = 96
    seed: int = 0

    def training(self) -> SceneSet:
        """The scenes to train on."""
        return training_scenes(self.world, self.targets, self.seed)

    def unseen(self) -> SceneSet:
        """Scenes that no model is trained on."""
        return held_out_scenes(self.world, self.held_out, self.seed)


def scene_model(
    name: str,
    settings: SceneModels | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """The folder of a model of the scenes, in the format of Hugging Face; trained here on first use, then kept.

    `card.json` has its settings, versions and what it can do on scenes that it has never seen: of the captioner, the
    share of its greedy captions that are true, and that are full captions; of a listener, how often it finds the
    picture that a full caption is about among 64, among 100, and in its hard set.

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
    about = _about(name, given, {"listener"} if name == CAPTIONER else {"captioner", "full"})
    target = model_folder(name, [about], cache)
    if target.is_dir():
        return target
    own = given.captioner if name == CAPTIONER else given.listener
    counter = Counter(progress, given.tower.steps, own.steps)
    tower = _tower(given, name == OTHER, cache, counter)
    counter.next()
    make = partial(_make_captioner if name == CAPTIONER else _make_listener, given, tower, counter)
    return built_model(target, about, make)


def _about(name: str, settings: SceneModels, without: set[str]) -> dict[str, Any]:
    """What a model is made from: all settings but those that do not concern it."""
    concerned = {key: value for key, value in asdict(settings).items() if key not in without}
    return {"name": name, "recipe": RECIPE, "settings": concerned}


def scene_tokenizer(world: SceneWorld, *, framed: bool) -> PreTrainedTokenizerFast:
    """One token per word of the captions; framed texts begin and end with tokens of their own, as CLIP's do."""
    return word_tokenizer(vocabulary(world), framed=framed)


def word_tokenizer(words: Sequence[str], *, framed: bool) -> PreTrainedTokenizerFast:
    """One token per word; framed texts begin and end with tokens of their own."""
    pad, start, unknown, end = SPECIAL
    inner = Tokenizer(models.WordLevel(_numbers(words), unk_token=unknown))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if framed:
        ends = [(start, START), (end, END)]
        inner.post_processor = processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=ends)
    tokenizer = fast_tokenizer(inner, pad_token=pad, bos_token=start, unk_token=unknown, eos_token=end)
    tokenizer.model_max_length = POSITIONS
    return tokenizer


def _numbers(words: Sequence[str]) -> dict[str, int]:
    return {word: number for number, word in enumerate((*SPECIAL, *words))}


def caption_ids(texts: Sequence[str], world: SceneWorld, *, framed: bool) -> Int[Tensor, "n T"]:
    """Token ids of captions and of their end, padded on the right; framed ones begin with the start, as CLIP's do."""
    return word_ids(texts, vocabulary(world), framed=framed)


def word_ids(texts: Sequence[str], words: Sequence[str], *, framed: bool) -> Int[Tensor, "n T"]:
    """Token ids of texts as `word_tokenizer` gives them, with the end also where they are not framed."""
    number, start = _numbers(words), [START] if framed else []
    rows = [torch.tensor([*start, *map(number.__getitem__, text.split()), END]) for text in texts]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


def _tower(settings: SceneModels, other: bool, cache: Path | None, counter: Counter) -> Path:
    """The folder of a trained tower with its features of the training pictures, made on first use."""
    name = f"scene-tower{'-other' if other else ''}"
    about = _about(name, settings, {"held_out", "full", "captioner", "listener", "text_width"})

    def make(folder: Path) -> dict[str, Any]:
        scenes, width = settings.training(), settings.width
        shape = (width - width // 8, settings.layers - 1) if other else (width, settings.layers)
        with isolated(derive(settings.seed, name)):
            tower = new_tower(settings.world, *shape, other=other)
            train_tower(tower, scenes, settings.tower, counter)
        tower.save_pretrained(folder)
        save_file(features(tower, pixel_values(scenes)), folder / _FEATURES)
        return {"parameters": _size(tower), **built_with()}

    return built_model(model_folder(name, [about], cache), about, make)


def _size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _save(model: Any, folder: Path, world: SceneWorld, *, framed: bool) -> None:
    model.requires_grad_(True)
    model.train(False)
    model.save_pretrained(folder)
    scene_tokenizer(world, framed=framed).save_pretrained(folder)
    scene_processor(world).save_pretrained(folder)


def _learned(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def new_captioner(settings: SceneModels, tower: CLIPVisionModel) -> VisionEncoderDecoderModel:
    """A captioner with a fresh GPT-2 that looks at the patches of a tower; without dropout."""
    special: dict[str, Any] = {"pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END}
    shape: dict[str, Any] = {
        "n_embd": settings.text_width,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": POSITIONS,
    }
    rest: dict[str, Any] = {
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "initializer_range": 0.05,
    }
    words = len(SPECIAL) + len(vocabulary(settings.world))
    decoder = GPT2Config(vocab_size=words, add_cross_attention=True, **special, **shape, **rest)
    decoder.is_decoder = True
    model = VisionEncoderDecoderModel(encoder=tower, decoder=GPT2LMHeadModel(decoder))
    for name, value in {**special, "decoder_start_token_id": START}.items():
        setattr(model.config, name, value)
    make: Callable[..., GenerationConfig] = GenerationConfig
    model.generation_config = make(decoder_start_token_id=START, max_new_tokens=32, **special)
    return model


def _make_captioner(settings: SceneModels, tower: Path, counter: Counter, folder: Path) -> dict[str, Any]:
    """Train a decoder on captions of both dialects and the kept features of the frozen tower."""
    scenes, states = settings.training(), load_file(tower / _FEATURES)["states"]
    chances = np.random.default_rng(derive(settings.seed, "dialects")).random(len(scenes))
    both = zip(scenes.captions("full"), scenes.captions("terse"), chances, strict=True)
    texts = [full if chance < settings.full else terse for full, terse, chance in both]
    labels = caption_ids(texts, settings.world, framed=False)
    labels[labels == PAD] = -100
    with isolated(derive(settings.seed, CAPTIONER)):
        model = new_captioner(settings, CLIPVisionModel.from_pretrained(tower))
        model.encoder.requires_grad_(False)

        def loss_of(rows: Tensor) -> Tensor:
            longest = int((labels[rows] != -100).sum(1).max())
            mask = torch.ones(len(rows), longest, dtype=torch.long)  # padding comes last, and counts nowhere
            target = labels[rows, :longest]
            output = model(encoder_outputs=(states[rows],), labels=target, decoder_attention_mask=mask)
            loss: Tensor = output.loss
            return loss

        fit(_learned(model), settings.captioner, draws(settings.captioner, len(scenes)), loss_of, counter)
    _save(model, folder, settings.world, framed=False)
    return {"parameters": _size(model), **captioner_facts(settings, model), **built_with()}


def new_listener(settings: SceneModels, tower: CLIPVisionModel | SiglipVisionModel) -> AnyListener:
    """A listener with a fresh text tower and projections: a CLIP, or a BERT beside a tower of SigLIP's."""
    width = settings.text_width
    shape: dict[str, Any] = {
        "vocab_size": len(SPECIAL) + len(vocabulary(settings.world)),
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": PAD,
    }
    if isinstance(tower, SiglipVisionModel):
        bert = BertConfig(
            **shape, initializer_range=0.1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        )
        return VisionTextDualEncoderModel(vision_model=tower, text_model=BertModel(bert))
    text = CLIPTextConfig(**shape, bos_token_id=START, eos_token_id=END)
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=tower.config.to_dict(), projection_dim=width
    )
    model = CLIPModel(config)
    model.vision_model.load_state_dict(tower.state_dict())
    return model


def _make_listener(settings: SceneModels, tower: Path, counter: Counter, folder: Path) -> dict[str, Any]:
    """Train a text tower and both projections contrastively, on the kept features of a frozen vision tower."""
    scenes, pooled, schedule = settings.training(), load_file(tower / _FEATURES)["pooled"], settings.listener
    heard = caption_ids(_heard(scenes), settings.world, framed=True)
    heard = heard.view(-1, len(scenes), heard.shape[-1])
    other = "-other-" in tower.name
    with isolated(derive(settings.seed, OTHER if other else LISTENER)):
        kind = SiglipVisionModel if other else CLIPVisionModel
        model = new_listener(settings, kind.from_pretrained(tower))
        model.vision_model.requires_grad_(False)

        def pairs() -> Tensor:
            firsts = 2 * torch.randint(len(scenes) // 2, (schedule.batch_size // 2,))
            return torch.cat([firsts, firsts + 1])  # scenes and their variants

        def loss_of(rows: Tensor) -> Tensor:
            ids = heard[torch.randint(len(heard), rows.shape), rows]
            ids = ids[:, : int((ids != PAD).sum(1).max())]
            logits = model.logit_scale.exp() * embedded(model, ids) @ _seen(model, pooled[rows]).T
            own = torch.arange(len(rows))
            return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

        fit(_learned(model), schedule, pairs, loss_of, counter)
    _save(model, folder, settings.world, framed=True)
    return {"parameters": _size(model), **listener_facts(settings, model), **built_with()}


def _heard(scenes: SceneSet) -> list[str]:
    """Captions that a listener learns from, seven of each scene, a set after another: five full, a partial, a terse."""
    rng = np.random.default_rng(derive(scenes.seed, "heard"))
    partials = [partial_caption(scene, rng) for scene in scenes.scenes]
    return [*scenes.captions("full") * 5, *partials, *scenes.captions("terse")]


def embedded(model: AnyListener, ids: Int[Tensor, "n T"]) -> Float[Tensor, "n d"]:
    """Unit embeddings of framed captions."""
    output: Any = model.text_model(input_ids=ids, attention_mask=(ids != PAD).long())
    return F.normalize(model.text_projection(output.pooler_output), dim=-1)


def _seen(model: AnyListener, pooled: Tensor) -> Tensor:
    return F.normalize(model.visual_projection(pooled), dim=-1)


@torch.no_grad()
def captioner_facts(settings: SceneModels, model: VisionEncoderDecoderModel) -> dict[str, Any]:
    """On unseen scenes, the share of greedy captions of which every word is true, and the share of full captions."""
    scenes = settings.unseen().targets()
    states = features(model.encoder, pixel_values(scenes))["states"]
    ids = torch.full((len(scenes), 1), START)
    for _ in range(POSITIONS - 1):
        logits = model(encoder_outputs=(states,), decoder_input_ids=ids).logits[:, -1]
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
        if (ids == END).any(1).all():
            break
    tokenizer = scene_tokenizer(settings.world, framed=False)
    ends = [row.index(END) if END in row else len(row) for row in ids.tolist()]
    texts = [str(tokenizer.decode(row[1:end])) for row, end in zip(ids, ends, strict=True)]
    true = [_says_truth(text, scene) for text, scene in zip(texts, scenes.scenes, strict=True)]
    full = [text == caption for text, caption in zip(texts, scenes.captions("full"), strict=True)]
    return {"scenes": len(scenes), "true_captions": _rate(true), "full_captions": _rate(full)}


@torch.no_grad()
def listener_facts(settings: SceneModels, model: AnyListener) -> dict[str, Any]:
    """On unseen scenes and their full captions, how often the picture is found among 64, 100 and its variants."""
    scenes = settings.unseen()
    names = {name: row for row, name in enumerate(scenes.names)}
    rows = [row for row, changed in enumerate(scenes.changed) if not changed]
    seen = _seen(model, features(model.vision_model, pixel_values(scenes))["pooled"])
    texts = scenes.rows(rows).captions("full")
    cosines = embedded(model, caption_ids(texts, settings.world, framed=True)) @ seen.T
    rng = np.random.default_rng(derive(settings.seed, "candidates"))

    def among(count: int) -> list[list[int]]:
        return [
            [row, *rng.choice([one for one in rows if one != row], min(count, len(rows)) - 1, False)]
            for row in rows
        ]

    hard = [[names[one] for one in json.loads(text)] for text in scenes.hard_sets()["candidates"]]
    facts: dict[str, Any] = {"scenes": len(rows)}
    for name, sets in {"p_at_1_of_64": among(64), "p_at_1_of_100": among(100), "p_at_1_hard": hard}.items():
        chosen = [given[int(scores[given].argmax())] for scores, given in zip(cosines, sets, strict=True)]
        facts[name] = _rate([choice == row for choice, row in zip(chosen, rows, strict=True)])
    return facts


def _says_truth(text: str, scene: Scene) -> bool:
    try:
        return is_true(text, scene)
    except DataError:  # words in an order that nobody uses
        return False


def _rate(right: Sequence[bool]) -> float:
    return round(float(np.mean(right)), 4)
