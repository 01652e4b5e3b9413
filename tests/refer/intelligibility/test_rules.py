"""The listener by rule, against enumeration and the lab's own reading of captions."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from trimtab.errors import DataError
from trimtab.lab.scene_captions import full_caption, is_true
from trimtab.lab.scene_sets import held_out_scenes
from trimtab.refer.candidates import read_candidates
from trimtab.refer.intelligibility.rules import Caption, RuleListener, Scene

RED = {"objects": [{"shape": "disc", "colour": "red", "size": "large"}], "background": "plain"}
TWO = {
    "objects": [{"shape": "disc", "colour": "red"}, {"shape": "star", "colour": "blue"}],
    "background": "striped",
}


def heard(caption: str, scenes: dict[str, object]) -> list[float]:
    (row,) = RuleListener(scenes)([caption], [list(scenes)])
    return np.exp(row).round(6).tolist()


def test_each_phrase_is_true_of_an_object_of_its_own() -> None:
    scenes = {"red": RED, "two": TWO}
    cases = {
        "red disc": [0.5, 0.5],
        "blue star": [0.0, 1.0],
        "blue disc": [0.5, 0.5],  # true of neither: it tells nothing
        "disc and disc": [0.5, 0.5],
        "star blue and disc": [0.0, 1.0],
        "large": [1.0, 0.0],
        "on striped": [0.0, 1.0],
        "disc on plain": [1.0, 0.0],
        "a most Red DISC on plain": [1.0, 0.0],  # words that are no value anywhere say nothing
        "": [0.5, 0.5],
    }
    assert {caption: heard(caption, scenes) for caption in cases} == cases


def test_scenes_from_a_frame_from_json_and_as_mappings_are_one() -> None:
    frame = pd.DataFrame({"scene": [json.dumps(RED), json.dumps(TWO)]}, index=["a", "b"])
    one = RuleListener(frame)(["blue"], [["a", "b"]])[0]
    other = RuleListener({"a": RED, "b": TWO})(["blue"], [["a", "b"]])[0]
    np.testing.assert_array_equal(one, other)
    assert Scene.of(json.dumps(TWO)) == Scene.of(TWO)


def test_the_rule_agrees_with_the_lab_on_every_candidate_of_its_hard_sets() -> None:
    scenes = held_out_scenes(targets=12)
    sets = read_candidates(scenes.hard_sets())
    graphs = dict(zip(scenes.names, scenes.table()["scene"], strict=True))
    listener, by_name = RuleListener(graphs), dict(zip(scenes.names, scenes.scenes, strict=True))
    captions = dict(zip(scenes.names, map(full_caption, scenes.scenes), strict=True))
    found = 0
    for row in sets.itertuples():
        (answer,) = listener([captions[row.target]], [list(row.candidates)])
        fits = [is_true(captions[row.target], by_name[name]) for name in row.candidates]
        np.testing.assert_allclose(np.exp(answer), np.array(fits) / sum(fits))
        found += answer[list(row.candidates).index(row.target)] > -np.inf
    assert found == len(sets)


def test_what_is_refused() -> None:
    for scenes, message in (
        (pd.DataFrame({"scenes": ["{}"]}, index=["a"]), "pictures: got no column 'scene'.*; try 'scenes'"),
        ({"a": "{no json"}, "scene of a: got '{no json', expected a scene graph as JSON"),
        ({"a": {"things": []}}, 'expected a scene graph with a list of "objects"'),
        ({"a": {"objects": [1]}}, "expected a mapping from attribute to value each"),
        ({"a": {"objects": [{}] * 7}}, "got 7 objects, expected at most 6"),
    ):
        with pytest.raises(DataError, match=message):
            RuleListener(scenes)
    with pytest.raises(DataError, match="candidate 'c' without a scene"):
        RuleListener({"a": RED})(["red"], [["a", "c"]])
    assert Caption.of("on").phrases == ()
