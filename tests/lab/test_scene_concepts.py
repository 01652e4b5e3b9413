from __future__ import annotations

import json
from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import DataError
from trimtab.lab import registry
from trimtab.lab.registry import concepts, texts
from trimtab.lab.scene_captions import full_caption, read_caption
from trimtab.lab.scene_concepts import (
    ATTRIBUTES,
    CAPTION_WORDS,
    FILLERS,
    HELD_VALUES,
    NAMED,
    PICTURE_WORLD,
    STEERABLE,
    STYLE,
    SceneConcepts,
    changed,
    concept_name,
    plain_prompts,
    scene_concepts,
    scene_of,
    true_renders,
)
from trimtab.lab.scenes import DEFAULTS
from trimtab.models.one_step import noise_vectors


@pytest.fixture(scope="module")
def found() -> SceneConcepts:
    return scene_concepts(prompts=6)


def test_every_value_and_every_pair_is_one_concept(found):
    sizes = [len(NAMED[name]) for name in STEERABLE]
    pairs = (sum(sizes) ** 2 - sum(size**2 for size in sizes)) // 2
    assert len(found.values) == sum(sizes) + pairs >= 500
    splits = [found.train, found.held_values, found.held_combinations]
    assert sum(map(len, splits)) == len(found.values) == len(set().union(*splits))
    assert Counter(map(len, found.values.values())) == {1: sum(sizes), 2: pairs}
    assert len({tuple(sorted(values.items())) for values in found.values.values()}) == len(found.values)
    for name, values in found.values.items():
        assert set(name.split()) <= {*CAPTION_WORDS, *FILLERS}
        assert set(values.values()) <= set(name.split())


def test_prompts_have_the_values_and_words_that_the_generator_knows(found):
    for prompts in (found.train, found.held_values, found.held_combinations):
        for name, texts_of in prompts.items():
            assert len(texts_of) == 6
            for text in texts_of:
                assert set(text.split()) <= set(CAPTION_WORDS)
                (thing,), whole = read_caption(text)
                said = DEFAULTS | thing | whole
                assert all(said[key] == value for key, value in found.values[name].items())


def test_held_out_values_occur_in_no_training_prompt(found):
    held = set(HELD_VALUES.values())
    assert all(HELD_VALUES[name] in NAMED[name] for name in HELD_VALUES)
    for name, prompts in found.train.items():
        assert not held & {word for text in (name, *prompts) for word in text.split()}
    assert not held & {word for text in plain_prompts(300, 1) for word in text.split()}
    for name, prompts in found.held_values.items():
        assert held & set(name.split())
        assert all(set(found.values[name].values()) & held <= set(text.split()) for text in prompts)


def test_held_out_combinations_have_values_that_are_trained_on_apart(found):
    trained = [found.values[name] for name in found.train]
    for name in found.held_combinations:
        values = found.values[name]
        assert len(values) == 2
        for item in values.items():
            assert any(item in other.items() for other in trained)
        assert not any(values.items() <= other.items() for other in trained)
    known = len(found.held_combinations) + sum(len(values) == 2 for values in trained)
    assert len(found.held_combinations) == round(0.15 * known)


def test_style_is_rare_in_prompts_and_content_uniform():
    scenes = [scene_of(text) for text in plain_prompts(2000, 0)]
    for name in STYLE:
        rare = np.mean([scene.attributes()[name, -1 if name in ("background", "palette") else 0]
                        != DEFAULTS[name] for scene in scenes])  # fmt: skip
        default = 1 / (len(getattr(PICTURE_WORLD, name)) - (name in HELD_VALUES))
        assert rare == pytest.approx(0.1 * (1 - default), abs=0.02)
    colours = Counter(scene.objects[0].colour for scene in scenes)
    assert len(colours) == 9
    assert min(colours.values()) > 150
    assert plain_prompts(5, 0) == plain_prompts(2000, 0)[:5] != plain_prompts(5, 1)


def test_a_file_gives_the_same_concepts_again(found, tmp_path, monkeypatch):
    found.save_jsonl(tmp_path / "concepts.jsonl")
    assert SceneConcepts.from_jsonl(tmp_path / "concepts.jsonl") == found
    assert scene_concepts(prompts=6) == found
    other = scene_concepts(prompts=1, seed=1)
    assert other.held_values.keys() == found.held_values.keys()
    assert other.held_combinations.keys() != found.held_combinations.keys()
    monkeypatch.setattr(registry, "scene_concepts", partial(scene_concepts, prompts=2))
    path = concepts("scene-concepts", tmp_path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == len(found.values)
    assert {tuple(row) for row in rows} == {("concept", "split", "prompts", "values")}
    assert {len(row["prompts"]) for row in rows} == {2}
    source = texts("scene-prompts", tmp_path).read_text().splitlines()
    assert len(source) == 256
    assert all(full_caption(scene_of(text)) == text for text in source)


@given(st.integers(0, 2**32), st.integers(0, 200))
def test_a_prompt_says_all_of_its_scene(seed, place):
    rng = np.random.default_rng((seed, place))
    scene = PICTURE_WORLD.draw(rng)
    assert scene_of(full_caption(scene)) == scene
    values = {
        name: str(rng.choice(getattr(PICTURE_WORLD, name))) for name in rng.choice(ATTRIBUTES, 2, False)
    }
    new = changed(scene, values).attributes()
    for (name, number), value in scene.attributes().items():
        assert new[name, number] == values.get(name, value)


def test_true_renders_have_the_noise_of_a_generated_picture():
    prompts = ["small red circle west", "large blue bar northeast on checkered moonlit"]
    noise = noise_vectors(2, 8, 7)
    plain = true_renders(prompts, seed=7)
    for row, prompt in enumerate(prompts):
        assert np.array_equal(plain[row], PICTURE_WORLD.render(scene_of(prompt), noise[row]))
    assert np.array_equal(true_renders(prompts, {}, 7), plain)
    assert np.array_equal(true_renders(prompts[:1], {"colour": "red", "palette": "natural"}, 7), plain[:1])
    green = true_renders(prompts, {"colour": "green"}, 7)
    assert np.array_equal(green[0], true_renders(["small green circle west"], seed=7)[0])
    differ = (green[0] != plain[0]).any(-1)
    assert differ.any()
    assert not differ[:, 16:].any()  # the ground and its pattern stay
    assert true_renders([]).shape == (0, 32, 32, 3)


@pytest.mark.parametrize(
    "prompt", ["red circle west", "small red circle west and large blue bar north", "", "on sepia"]
)
def test_prompts_that_are_no_full_caption_of_one_object_are_refused(prompt):
    with pytest.raises(
        DataError, match="expected a caption of one object with its size, colour, shape and position"
    ):
        true_renders([prompt])


def test_names():
    assert concept_name({"size": "small", "texture": "banded", "shape": "bar"}) == "small banded bar"
    assert concept_name({"outline": "outlined", "palette": "icy"}) == "outlined object with icy palette"
    both = {"background": "striped", "palette": "icy"}
    assert concept_name(both) == "striped background with icy palette"
