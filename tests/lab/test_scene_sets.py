from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trimtab import systems
from trimtab.errors import ConfigError, DataError
from trimtab.job import PictureFolder
from trimtab.lab import registry
from trimtab.lab.registry import pictures, table
from trimtab.lab.scene_captions import (
    full_caption,
    is_true,
    partial_caption,
    read_caption,
    terse_caption,
    vocabulary,
)
from trimtab.lab.scene_sets import held_out_scenes, training_scenes
from trimtab.lab.scenes import DEFAULTS, OBJECT, WHOLE, Scene, SceneWorld

WORLD = SceneWorld()
seeds = st.integers(0, 2**32)


def named(scene: Scene) -> tuple[list[dict[str, str]], dict[str, str]]:
    """What a full caption names, from the scene itself."""
    things = [{name: getattr(thing, name) for name in OBJECT} for thing in scene.objects]
    whole = {name: getattr(scene, name) for name in WHOLE}
    return [without_defaults(thing) for thing in things], without_defaults(whole)


def without_defaults(values: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value != DEFAULTS.get(name)}


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_captions_are_read_back_into_the_attributes_that_they_name(seed):
    rng = np.random.default_rng(seed)
    scene = WORLD.draw(rng)
    things, whole = named(scene)
    assert read_caption(full_caption(scene)) == (things, whole)
    for text in (terse_caption(scene, rng), partial_caption(scene, rng)):
        phrases, of_whole = read_caption(text)
        assert of_whole.items() <= whole.items()
        assert all(one.items() <= thing.items() for one, thing in zip(phrases, things, strict=False))
        assert all("shape" in one for one in phrases)
        assert is_true(text, scene)
        assert set(text.split()) <= set(vocabulary(WORLD))


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_a_full_caption_tells_a_scene_from_every_variant(seed):
    scene = WORLD.draw(np.random.default_rng(seed))
    others = [variant.scene for variant in WORLD.variants(scene)]
    texts = {full_caption(one) for one in [scene, *others]}
    assert len(texts) == 1 + len(others)
    # What silence says about defaults is not said in words, so a literal reader may take a variant for the scene.
    told = [one for one in others if not is_true(full_caption(scene), one)]
    assert len(told) >= len(others) // 2


def test_truth_of_captions():
    graph = {"colour": "red", "shape": "circle", "position": "northwest", "size": "small"}
    square = {"colour": "blue", "shape": "square", "position": "southeast", "size": "large"}
    scene = Scene.from_graph({"objects": [graph, square], "background": "striped"})
    assert full_caption(scene) == "small red circle northwest and large blue square southeast on striped"
    assert is_true("circle and blue square", scene)
    assert is_true("square southeast on striped", scene)
    assert not is_true("blue square and red circle", scene)  # not in their order
    assert not is_true("blue circle", scene)
    assert not is_true("circle and circle", scene)
    assert not is_true("circle on spotted", scene)
    assert is_true("", scene)
    with pytest.raises(DataError, match=r"got 'circl', expected a word for an object; try 'circle'"):
        read_caption("red circl")
    with pytest.raises(DataError, match="got 'red', expected a word for the whole picture"):
        read_caption("circle on red")


def test_rates_of_the_terse_dialect():
    scenes = training_scenes(targets=2000)
    texts = scenes.captions("terse")
    pairs = [
        (read_caption(text)[0], len(scene.objects)) for text, scene in zip(texts, scenes.scenes, strict=True)
    ]
    phrases = [thing for things, _ in pairs for thing in things]
    two = [len(things) == 1 for things, number in pairs if number == 2]
    n = len(phrases)

    def near(share: float, expected: float, count: int) -> bool:
        return abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / count)

    assert near(np.mean([set(one) == {"shape"} for one in phrases]), 0.15, n)
    assert near(np.mean(["size" in one for one in phrases]), 0.1, n)
    assert near(np.mean(["position" in one for one in phrases]), 0.1, n)
    assert near(np.mean(["texture" in one for one in phrases]), 0.1 * 2 / 3, n)
    assert near(np.mean(two), 0.25, len(two))
    assert not any(read_caption(text)[1] for text in texts)


def test_a_smaller_set_is_the_beginning_of_a_larger_one():
    small, large = training_scenes(targets=5), training_scenes(targets=8)
    assert large.names[:10] == small.names
    assert large.scenes[:10] == small.scenes
    assert np.array_equal(large.nuisances[:10], small.nuisances)
    assert large.captions("terse")[:10] == small.captions("terse")
    assert training_scenes(targets=5, seed=1).scenes != small.scenes
    assert not set(small.scenes[::2]) & set(held_out_scenes(targets=5).scenes)
    picked = large.rows([3, 0])
    assert picked.captions("terse") == [large.captions("terse")[row] for row in (3, 0)]
    with pytest.raises(DataError, match="got 4 scenes without variants"):
        small.targets().rows([0, 1, 2, 3]).hard_sets()


@pytest.fixture
def small(monkeypatch):
    """The names of the lab, with fewer scenes."""
    sets = {"scenes": lambda: training_scenes(targets=4), "scenes-test": lambda: held_out_scenes(targets=3)}
    monkeypatch.setattr(registry, "PICTURES", sets)
    monkeypatch.setattr(
        registry, "TABLES", {**registry.TABLES, "scenes-hard": lambda: held_out_scenes(targets=3).hard_sets()}
    )


@pytest.mark.usefixtures("small")
def test_files_hold_pictures_their_truth_hard_sets_and_captions(tmp_path):
    folder = pictures("scenes-test", tmp_path)
    frame = pd.read_csv(folder / "metadata.csv", keep_default_na=False).set_index("file_name")
    assert sorted(path.name for path in folder.glob("*.png")) == sorted(frame.index)
    assert len(frame) == 30
    scenes = held_out_scenes(targets=3)
    for name, scene, nuisance in zip(scenes.names, scenes.scenes, scenes.nuisances, strict=True):
        row = frame.loc[f"{name}.png"]
        assert np.array_equal(np.asarray(Image.open(folder / f"{name}.png")), WORLD.render(scene, nuisance))
        assert Scene.from_graph(json.loads(row["scene"])) == scene
        assert row["background"] == scene.background
        assert row["colour_1"] == scene.objects[0].colour
        assert row["colour_2"] == (scene.objects[1].colour if len(scene.objects) > 1 else "")
    hard = pd.read_csv(table("scenes-hard", tmp_path))
    assert list(hard.columns) == ["item", "candidates", "target"]
    places = []
    for item, text, target in hard.itertuples(index=False):
        candidates = json.loads(text)
        assert target == item
        assert sorted(candidates) == sorted([target, *(f"{target}-{number}" for number in range(1, 10))])
        places.append(candidates.index(target))
    assert len(set(places)) > 1
    captions = pd.read_csv(table("scenes-captions", tmp_path)).set_index("item")["caption"]
    terse = pd.read_csv(table("scenes-captions-terse", tmp_path)).set_index("item")["caption"]
    assert list(captions.index) == [*training_scenes(targets=4).names, *scenes.names]
    assert list(terse.index) == list(captions.index)
    assert all(
        captions[name] == full_caption(scene) for name, scene in zip(scenes.names, scenes.scenes, strict=True)
    )
    assert all(is_true(terse[name], scene) for name, scene in zip(scenes.names, scenes.scenes, strict=True))


@dataclass(frozen=True)
class Config:
    pictures: PictureFolder = "lab:scenes"


@pytest.mark.usefixtures("small")
def test_a_job_may_name_pictures_of_the_lab(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    assert systems.already_built(Config()) == Config()
    folder = Path(systems.resolve(Config()).pictures)
    assert (folder / "metadata.csv").is_file()
    assert systems.already_built(Config()).pictures == str(folder)
    wrong = systems.lab_problems(Config("lab:scene"))
    assert str(wrong[0]) == (
        "pictures: got 'lab:scene', expected one of lab:scenes, lab:scenes-test; try lab:scenes"
    )
    with pytest.raises(ConfigError, match="lab pictures: got 'scene', expected one of"):
        pictures("scene", tmp_path)
