from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from trimtab.errors import ConfigProblems, DataError
from trimtab.lab.scenes import DEFAULTS, OBJECT, PLACES, VALUES, WHOLE, Scene, SceneWorld

WORLD = SceneWorld()
RICH = SceneWorld(**VALUES, objects=(0.2, 0.3, 0.3, 0.2), pixels=48, columns=3)
worlds, seeds = st.sampled_from([WORLD, RICH]), st.integers(0, 2**32)


def drawn(world: SceneWorld, seed: int) -> tuple[Scene, np.ndarray]:
    rng = np.random.default_rng(seed)
    return world.draw(rng), world.nuisance(rng)


def differences(one: Scene, other: Scene) -> list[tuple[str, int]]:
    first, second = one.attributes(), other.attributes()
    assert first.keys() == second.keys()
    return [key for key in first if first[key] != second[key]]


@given(worlds, seeds)
@settings(max_examples=40, deadline=None)
def test_the_same_seed_gives_the_same_scene_and_the_same_bytes(world, seed):
    (scene, nuisance), (again, same) = drawn(world, seed), drawn(world, seed)
    assert scene == again
    picture = world.render(scene, nuisance)
    assert picture.tobytes() == world.render(again, same).tobytes()
    assert picture.shape == (world.pixels, world.pixels, 3)
    assert picture.dtype == np.uint8
    assert Scene.from_graph(RICH.graph(scene)) == scene


@given(worlds, seeds)
@settings(max_examples=40, deadline=None)
def test_objects_stand_in_distinct_cells_in_reading_order(world, seed):
    places = [list(PLACES).index(thing.position) for thing in drawn(world, seed)[0].objects]
    assert places == sorted(set(places))
    assert 1 <= len(places) <= len(world.objects)


@given(worlds, seeds)
@settings(max_examples=30, deadline=None)
def test_a_variant_differs_in_exactly_its_attribute_and_in_its_pixels(world, seed):
    scene, nuisance = drawn(world, seed)
    picture = world.render(scene, nuisance).astype(int)
    variants = world.variants(scene)
    assert len(set(variants)) == len(variants)
    for variant in variants:
        assert differences(scene, variant.scene) == [(variant.attribute, variant.number)]
        gap = np.abs(world.render(variant.scene, nuisance).astype(int) - picture).max(axis=-1)
        # Where pictures may be faded and dimmed, contrasts are a quarter of the others.
        assert (gap > (20 if world is WORLD else 5)).sum() >= 3, variant


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_a_change_of_an_object_changes_its_own_cell_only(seed):
    scene, nuisance = drawn(WORLD, seed)
    before = WORLD.render(scene, nuisance)
    for variant in WORLD.variants(scene):
        if variant.number < 0 or variant.attribute == "position":
            continue
        right, down = PLACES[scene.objects[variant.number].position]
        rest = np.ones((32, 32), dtype=bool)
        rest[8 + 8 * down : 24 + 8 * down, 8 + 8 * right : 24 + 8 * right] = False
        assert np.array_equal(WORLD.render(variant.scene, nuisance)[rest], before[rest])


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_pictures_of_one_scene_differ_by_nuisance_less_than_by_an_attribute_of_the_whole(seed):
    scene, nuisance = drawn(WORLD, seed)
    other = WORLD.nuisance(np.random.default_rng([seed, 1]))
    assert not np.array_equal(WORLD.render(scene, nuisance), WORLD.render(scene, other))
    palette = next(value for value in WORLD.palette if value != scene.palette)
    assert np.array_equal(
        WORLD.render(replace(scene, palette=palette), nuisance),
        WORLD.render(scene.changed("palette", -1, palette), nuisance),
    )


def test_a_nuisance_of_zero_at_the_default_is_the_plain_drawing():
    scene = Scene((WORLD.draw(np.random.default_rng(0)).objects[0],))
    plain = scene.changed("texture", 0, "solid").changed("outline", 0, "unlined").changed("colour", 0, "red")
    picture = WORLD.render(plain.changed("position", 0, "northwest"), np.zeros(13))
    assert picture[8, 8].tolist() == [217, 38, 38]  # .85, .15, .15 of 255
    assert picture[28, 28].tolist() == [224, 220, 211]  # .88 of 255, a little warm


def test_the_prior_is_uniform_over_values_and_as_stated_over_numbers_of_objects():
    rng = np.random.default_rng(0)
    scenes = [WORLD.draw(rng) for _ in range(4000)]
    numbers = Counter(len(scene.objects) for scene in scenes)
    assert chisquare([numbers[1], numbers[2]], [1200, 2800]).pvalue > 1e-3
    for name in OBJECT:
        counts = Counter(getattr(thing, name) for scene in scenes for thing in scene.objects)
        assert set(counts) == set(getattr(WORLD, name))
        assert len(counts) == 1 or chisquare(list(counts.values())).pvalue > 1e-3, name
    for name in WHOLE:
        counts = Counter(getattr(scene, name) for scene in scenes)
        assert len(counts) == 1 or chisquare(list(counts.values())).pvalue > 1e-3, name


def test_hard_sets_have_no_scene_twice_and_spread_over_attributes():
    rng = np.random.default_rng(3)
    for _ in range(50):
        scene = WORLD.draw(rng)
        hard = WORLD.hard(scene, 9, rng)
        assert len({variant.scene for variant in hard} | {scene}) == 10
        counts = Counter(variant.attribute for variant in hard)
        assert set(counts) == set(WORLD.varying())
        assert max(counts.values()) <= 2
    with pytest.raises(
        DataError, match=r"scenes: got k=500, expected at most \d+, the variants that there are"
    ):
        WORLD.hard(scene, 500, rng)


def test_graphs_name_what_varies_only():
    scene, _ = drawn(WORLD, 1)
    graph = WORLD.graph(scene)
    assert set(graph) == {"objects", "background", "palette"}
    assert set(graph["objects"][0]) == set(OBJECT) - {"material"}
    assert Scene.from_graph(graph) == scene


def test_words_belong_to_one_attribute():
    for one, other in combinations(VALUES, 2):
        assert not set(VALUES[one]) & set(VALUES[other])
    assert all(value in VALUES[name] for name, value in DEFAULTS.items())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"colour": ("red", "mauve")},
            r"scenes\.colour: got \('red', 'mauve'\), expected different values of",
        ),
        ({"shape": ("bar", "bar")}, r"scenes\.shape: got"),
        ({"size": ()}, r"scenes\.size: got \(\)"),
        ({"objects": (0.5, 0.4)}, r"scenes\.objects: got \(0\.5, 0\.4\), expected chances that sum to 1"),
        ({"objects": (0.2,) * 5}, "expected at most 4 objects, one for each position"),
        ({"columns": 4}, r"scenes\.columns: got 4, expected 2 or 3; try 2"),
        ({"pixels": 8}, r"scenes\.pixels: got 8, expected at least 16, 8 a cell"),
    ],
)
def test_a_world_that_cannot_be_drawn_is_refused(wrong, message):
    with pytest.raises(ConfigProblems, match=message):
        SceneWorld(**wrong)
