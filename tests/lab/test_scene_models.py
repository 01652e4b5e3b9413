from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoTokenizer,
    CLIPModel,
    VisionEncoderDecoderModel,
    VisionTextDualEncoderModel,
)

from trimtab.errors import ConfigError
from trimtab.lab import registry
from trimtab.lab.corpora import read_card
from trimtab.lab.scene_captions import full_caption, vocabulary
from trimtab.lab.scene_models import (
    END,
    PAD,
    POSITIONS,
    SCENE_MODELS,
    START,
    SceneModels,
    caption_ids,
    captioner_facts,
    embedded,
    listener_facts,
    scene_model,
)
from trimtab.lab.scene_sets import training_scenes
from trimtab.lab.scene_towers import Schedule, pixel_values
from trimtab.lab.scenes import VALUES, SceneWorld

EASY = SceneWorld(
    shape=VALUES["shape"][:3],
    colour=VALUES["colour"][:3],
    texture=("solid",),
    outline=("unlined",),
    background=("plain",),
    palette=("natural", "sepia"),
    objects=(1.0,),
    pixels=16,
)
"""One object; what can vary is few, so that a second of training shows."""
SMALL = SceneModels(
    world=EASY,
    targets=300,
    held_out=20,
    full=1.0,
    tower=Schedule(120, 3e-3, 32),
    captioner=Schedule(150, 4e-3, 32),
    listener=Schedule(80, 4e-3, 32),
    width=32,
    layers=2,
    text_width=32,
)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def folders(home) -> dict[str, Path]:
    """The three models, made in one cache with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {name: scene_model(name, SMALL, home) for name in SCENE_MODELS}
    finally:
        torch.set_num_threads(threads)


def test_a_captioner_says_what_there_is(folders):
    model = VisionEncoderDecoderModel.from_pretrained(folders["captioner"])
    card = read_card(folders["captioner"])
    assert captioner_facts(SMALL, model) == {
        name: card[name] for name in ("scenes", "true_captions", "full_captions")
    }
    assert card["true_captions"] >= 0.7
    assert card["scenes"] == 20
    assert card["parameters"] == sum(p.numel() for p in model.parameters())
    fresh = VisionEncoderDecoderModel(model.config)
    fresh.generation_config = model.generation_config
    assert captioner_facts(SMALL, fresh)["full_captions"] < 0.1


@pytest.mark.parametrize("name", ["listener", "listener-other"])
def test_a_listener_finds_the_picture_of_a_caption(folders, name):
    model = AutoModel.from_pretrained(folders[name])
    assert isinstance(model, CLIPModel if name == "listener" else VisionTextDualEncoderModel)
    card = read_card(folders[name])
    facts = listener_facts(SMALL, model)
    assert facts == {key: card[key] for key in facts}
    assert card["p_at_1_hard"] >= 0.6


def test_plain_transformers_loads_them_and_hears_every_word(folders):
    captioner = AutoModelForImageTextToText.from_pretrained(folders["captioner"])
    processor = AutoImageProcessor.from_pretrained(folders["captioner"], backend="pil")
    tokenizer = AutoTokenizer.from_pretrained(folders["captioner"])
    scenes = SMALL.unseen().targets()
    pictures = [Image.fromarray(pixels) for pixels in scenes.pixels]
    pixels = processor(pictures, return_tensors="pt")["pixel_values"]
    assert torch.allclose(pixels, pixel_values(scenes), atol=1e-6)
    ids = captioner.generate(pixel_values=pixels[:1])
    assert set(tokenizer.decode(ids[0], skip_special_tokens=True).split()) <= set(vocabulary(EASY))
    text = full_caption(scenes.scenes[0])
    assert tokenizer(text)["input_ids"] == caption_ids([text], EASY, framed=False)[0, :-1].tolist()
    listener = CLIPModel.from_pretrained(folders["listener"])
    framed = AutoTokenizer.from_pretrained(folders["listener"])
    assert listener.config.text_config.eos_token_id == END != 2
    encoded = framed([text], return_tensors="pt")
    assert torch.equal(encoded["input_ids"], caption_ids([text], EASY, framed=True))
    words = encoded["input_ids"][0].tolist()
    assert (words[0], words[-1]) == (START, END)
    assert (framed.pad_token_id, framed.model_max_length) == (PAD, POSITIONS)
    with torch.no_grad():
        whole = listener.get_text_features(**encoded).pooler_output
        assert torch.allclose(
            torch.nn.functional.normalize(whole), embedded(listener, encoded["input_ids"]), atol=1e-6
        )
        for place in range(1, len(words) - 1):
            other = encoded["input_ids"].clone()
            other[0, place] = 4 + (other[0, place] - 3) % len(vocabulary(EASY))
            assert not torch.allclose(listener.get_text_features(other).pooler_output, whole, atol=1e-3)


def test_the_captioner_and_the_first_listener_share_a_tower_and_the_other_does_not(home, folders):
    captioner = load_file(folders["captioner"] / "model.safetensors")
    listener = load_file(folders["listener"] / "model.safetensors")
    other = load_file(folders["listener-other"] / "model.safetensors")
    towers = {path.name.rpartition("-")[0]: path for path in (home / "lab/models").glob("scene-tower*[!k]")}
    assert set(towers) == {"scene-tower", "scene-tower-other"}
    patch = "embeddings.patch_embedding.weight"
    weights = {one: value for one, value in captioner.items() if one.startswith("encoder.")}
    for name, value in weights.items():
        twin = [key for key in listener if key.endswith(name.removeprefix("encoder."))]
        assert any(torch.equal(listener[key], value) for key in twin), name
    own = next(value for name, value in other.items() if name.endswith(patch))
    shared = next(value for name, value in captioner.items() if name.endswith(patch))
    assert own.shape != shared.shape
    assert "features.safetensors" in {path.name for path in towers["scene-tower"].iterdir()}


def test_made_once_the_same_each_time_and_the_caller_s_generator_is_left_alone(tmp_path, folders):
    quick = SceneModels(
        EASY, targets=20, held_out=4, tower=Schedule(2), captioner=Schedule(2), listener=Schedule(2, batch_size=8),
        width=16, layers=2, text_width=16,
    )  # fmt: skip
    first = scene_model("listener", quick, tmp_path / "a")
    torch.manual_seed(5)
    state, told = torch.get_rng_state(), []
    second = scene_model("listener", quick, tmp_path / "b", lambda *step: told.append(step[:2]))
    assert torch.equal(torch.get_rng_state(), state)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert first.name == second.name
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    told.clear()
    assert scene_model("listener", quick, tmp_path / "b", lambda *step: told.append(step[:2])) == second
    scene_model("captioner", quick, tmp_path / "b", lambda *step: told.append(step[:2]))
    assert told == [(3, 4), (4, 4)]  # the tower is there
    assert json.loads((second / "card.json").read_text())["settings"]["world"]["colour"] == list(EASY.colour)
    assert folders["listener"].name != second.name


def test_names(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match=r"lab model: got 'listner', expected one of .*; try 'listener'"):
        scene_model("listner", cache=tmp_path)
    asked = []
    monkeypatch.setattr(registry, "scene_model", lambda name, **_: asked.append(name) or tmp_path)
    assert [registry.model(name, tmp_path) for name in SCENE_MODELS] == [tmp_path] * 3
    assert asked == list(SCENE_MODELS)
    assert not set(training_scenes(EASY, 5).names) & set(SMALL.unseen().names)
    assert np.isfinite(SMALL.unseen().nuisances).all()
