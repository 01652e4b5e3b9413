"""The generator, its judge and its dual encoder, trained for a second or two: to run, not to convince."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoTokenizer, CLIPModel

from trimtab.errors import DataError
from trimtab.lab import registry
from trimtab.lab import scene_generator as scene_generator_module
from trimtab.lab.corpora import read_card
from trimtab.lab.scene_captions import full_caption
from trimtab.lab.scene_concepts import (
    ATTRIBUTES,
    CAPTION_WORDS,
    FILLERS,
    PICTURE_WORLD,
    plain_prompts,
    true_renders,
)
from trimtab.lab.scene_encoder import WORDS, SceneEncoder, encoder_facts, named_values, scene_encoder
from trimtab.lab.scene_generator import (
    SceneGenerator,
    generated,
    generator_accuracy,
    near_object,
    object_centres,
    picture_distance,
    scene_generator,
)
from trimtab.lab.scene_judge import (
    Judge,
    Rendered,
    SceneJudge,
    attribute_labels,
    fidelity,
    judge_accuracy,
    scene_judge,
)
from trimtab.lab.scene_models import END, START, word_ids
from trimtab.lab.scene_towers import Schedule
from trimtab.models.encoders import two_tower
from trimtab.models.load import load
from trimtab.seeds import derive

JUDGE = SceneJudge(scenes=300, held_out=100, schedule=Schedule(40, 4e-3, 32), width=16)
SMALL = SceneGenerator(
    scenes=300, plain=0, held_out=50, schedule=Schedule(200, 5e-3, 16), width=24, blocks=1, grounds=100
)
HEARD = SceneEncoder(
    scenes=300,
    held_out=64,
    vision=Schedule(40, 3e-3, 32),
    text=Schedule(40, 4e-3, 32),
    width=32,
    text_width=32,
)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def folders(home) -> dict[str, Path]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made = {"generator": scene_generator(SMALL, home), "encoder": scene_encoder(HEARD, home)}
        return made | {"judge": scene_judge(JUDGE, home)}
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    return Rendered.draw(60, 3)


def test_a_generator_comes_nearer_to_the_true_renders(folders):
    card, model = read_card(folders["generator"]), load(folders["generator"])
    assert card["scenes"] == 50
    assert card["parameters"] == sum(parameter.numel() for parameter in model.module.parameters())
    unseen = Rendered.draw(50, derive(SMALL.seed, "held out"))
    assert card["distance"] == pytest.approx(
        float((generated(model.module, unseen) - unseen.channels()).abs().mean()), abs=1e-5
    )
    grey = np.abs(Rendered.draw(50, 0).pixels / 255 - 0.5).mean()
    assert card["distance"] < 0.7 * grey
    prompts = plain_prompts(4, 0)
    assert [one.size for one in model.generate(prompts)] == [(32, 32)] * 4
    assert set(model.tokenizer.get_vocab()) >= set(CAPTION_WORDS)


def test_a_perfect_generator_is_as_accurate_as_its_judge(folders, monkeypatch):
    judge, network = Judge.read(folders["judge"]), load(folders["generator"]).module
    unseen = Rendered.draw(50, derive(SMALL.seed, "held out"))
    accuracy = generator_accuracy(SMALL, network, judge)
    monkeypatch.setattr(scene_generator_module, "generated", lambda _network, scenes: scenes.channels())
    perfect = generator_accuracy(SMALL, network, judge)
    assert perfect == judge_accuracy(judge, unseen) != accuracy
    assert set(accuracy) == set(ATTRIBUTES)


def test_where_an_object_is(rendered):
    """By the pixels that another colour changes."""
    captions = list(map(full_caption, rendered.scenes))
    near = near_object(object_centres(rendered), 32)[:, 0].bool().numpy()
    shares = []
    for row, scene in enumerate(rendered.scenes):
        others = [scene.changed("colour", 0, colour) for colour in ("red", "green", "blue")]
        painted = [PICTURE_WORLD.render(one, rendered.noise[row]) for one in others]
        covered = (np.std(painted, axis=0) > 0).any(-1)
        assert not (covered & ~near[row]).any(), captions[row]
        shares.append(covered.sum() / near[row].sum())
    assert 0.1 < np.mean(shares) < 0.6


def test_the_distance_of_a_step():
    gap, even = torch.zeros(1, 3, 4, 4), torch.ones(1, 1, 4, 4)
    gap[..., 2:] = 0.5
    each = 0.5 + 4 * 0.25
    assert picture_distance(gap, even, 0, 4) == pytest.approx(each / 2)
    assert picture_distance(gap, even, 1, 4) == pytest.approx(each / 2 + each / 3)
    assert picture_distance(gap.mT, even, 1, 4) == pytest.approx(each / 2 + each / 3)
    assert picture_distance(gap, 3 * even, 1, 4) == pytest.approx(3 * (each / 2 + each / 3))
    assert picture_distance(gap, even, 1, 0) == pytest.approx(0.5 / 2 + 0.5 / 3)
    left = even * torch.tensor([1.0, 0, 0, 0])
    assert picture_distance(gap, left, 1, 4) == 0
    assert picture_distance(-gap, even, 1, 4) == picture_distance(gap, even, 1, 4)


def test_a_judge_sees_what_it_has_learned(folders, rendered):
    judge, card = Judge.read(folders["judge"]), read_card(folders["judge"])
    assert not judge.training
    assert card["accuracy"]["palette"] > 2 / 8
    assert card["accuracy"]["background"] > 2 / 7
    seen = judge.see(rendered.pixels)
    rates = judge_accuracy(judge, rendered)
    for name in ATTRIBUTES:
        truth = [
            scene.attributes()[name, -1 if name in ("background", "palette") else 0]
            for scene in rendered.scenes
        ]
        assert rates[name] == pytest.approx(
            np.mean([a == b for a, b in zip(seen[name], truth, strict=True)]), abs=1e-4
        )
    assert judge.see([Image.fromarray(one) for one in rendered.pixels]) == seen
    assert judge.see([]) == {name: [] for name in ATTRIBUTES}
    with pytest.raises(
        DataError, match=r"got a picture of shape \(16, 16, 3\), expected 32 x 32 pixels in RGB"
    ):
        judge.see([Image.new("RGB", (16, 16))])


def test_fidelity_counts_what_was_asked_and_what_stays():
    prompts = ["small red circle west", "large blue bar north on sepia"]
    values = {"colour": "green", "palette": "icy"}
    right = {
        "size": ["small", "large"],
        "colour": ["green", "green"],
        "shape": ["circle", "bar"],
        "position": ["west", "north"],
        "texture": ["solid", "solid"],
        "outline": ["unlined", "unlined"],
        "background": ["plain", "plain"],
        "palette": ["icy", "icy"],
    }
    assert fidelity(right, prompts, values) == replace(
        fidelity(right, prompts, values), concept=1, others=1, n=2
    )
    half = right | {"palette": ["icy", "sepia"], "size": ["large", "large"], "shape": ["circle", "cross"]}
    found = fidelity(half, prompts, values)
    assert (found.concept, found.others) == (0.5, pytest.approx(10 / 12))
    plain = fidelity(right | {"colour": ["red", "blue"], "palette": ["natural", "sepia"]}, prompts, {})
    assert np.isnan(plain.concept)
    assert plain.others == 1


def test_labels_are_places_of_values(rendered):
    labels = attribute_labels(rendered.scenes)
    for column, name in enumerate(ATTRIBUTES):
        for row, scene in enumerate(rendered.scenes):
            value = getattr(PICTURE_WORLD, name)[int(labels[row, column])]
            assert value in (getattr(scene, name, None), getattr(scene.objects[0], name, None))


def test_an_encoder_hears_captions_and_names(folders, rendered):
    model, card = CLIPModel.from_pretrained(folders["encoder"]), read_card(folders["encoder"])
    facts = encoder_facts(HEARD, model)
    assert facts == {key: card[key] for key in facts}
    assert card["p_at_1_of_64"] > 2 / 74
    tokenizer = AutoTokenizer.from_pretrained(folders["encoder"])
    names = ["red object with icy palette", "banded cross", full_caption(rendered.scenes[0])]
    ids = [tokenizer(name)["input_ids"] for name in names]
    assert {(row[0], row[-1]) for row in ids} == {(START, END)}
    assert ids[0] == word_ids(names[:1], WORDS, framed=True)[0].tolist()
    assert set(WORDS) == {*CAPTION_WORDS, *FILLERS}
    encoder = two_tower(folders["encoder"])
    texts = encoder.texts(names)
    pictures = encoder.pictures([Image.fromarray(one) for one in rendered.pixels[:3]])
    assert texts.shape == pictures.shape == (3, 32)
    assert F.cosine_similarity(texts[0], texts[1], dim=0) < 0.999


def test_values_that_are_named():
    scene = Rendered.draw(1, 0).scenes[0].changed("texture", 0, "solid").changed("palette", -1, "icy")
    named = named_values(scene)
    assert named["palette"] == "icy"
    assert "texture" not in named
    assert {"size", "colour", "shape", "position"} <= set(named)


def test_made_once_the_same_each_time(tmp_path):
    quick = SceneGenerator(20, 8, 4, Schedule(2), 8, 1)
    torch.manual_seed(5)
    state, told = torch.get_rng_state(), []
    first, second = (
        scene_generator(quick, tmp_path / one, lambda *step: told.append(step[:2])) for one in "ab"
    )
    Judge.read(scene_judge(SceneJudge(20, 4, Schedule(1), 8), tmp_path))
    assert torch.equal(torch.get_rng_state(), state)
    assert told == [(1, 2), (2, 2)] * 2
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    assert scene_generator(quick, tmp_path / "a", lambda *step: told.append(step[:2])) == first
    assert len(told) == 4
    assert np.array_equal(Rendered.draw(3, 0).noise, Rendered.draw(5, 0).noise[:3])


def test_names_in_the_lab(monkeypatch, tmp_path):
    asked = []

    def builds(name, **_):
        asked.append(name)
        return tmp_path

    names = ("scene-generator", "scene-encoder", "scene-judge")
    monkeypatch.setattr(registry, "BUILT", {name: partial(builds, name) for name in names})
    assert [registry.model(name, tmp_path) for name in names] == [tmp_path] * 3
    assert tuple(asked) == names
    assert set(names) <= set(registry.MODELS)


def test_pictures_compare_with_true_renders_one_by_one(folders):
    """A generator that were perfect would make exactly these: here, the noise at least is the same."""
    model = load(folders["generator"])
    prompts = plain_prompts(40, 1)
    made = np.stack([np.asarray(one) for one in model.generate(prompts, seed=5)]).astype(float)
    same = np.abs(made - true_renders(prompts, seed=5)).mean((1, 2, 3))
    shuffled = np.abs(made - np.roll(true_renders(prompts, seed=5), 1, axis=0)).mean((1, 2, 3))
    assert same.mean() < shuffled.mean()
