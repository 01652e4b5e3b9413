from __future__ import annotations

import json
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import chi2_contingency
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from trimtab.errors import DataError
from trimtab.lab.scene_questions import (
    ADJECTIVES,
    ASKED,
    BACKGROUND,
    LEVELS,
    QUESTION_WORLD,
    Question,
    QuestionScenes,
    ask,
    choices,
    descriptions,
    question_scenes,
)
from trimtab.lab.scenes import PLACES, VALUES, Scene, Thing

seeds = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def scenes() -> QuestionScenes:
    return question_scenes(QUESTION_WORLD, 400, start="test", seed=0)


def drawn(seed: int) -> tuple[Scene, Question]:
    rng = np.random.default_rng(seed)
    scene = QUESTION_WORLD.draw(rng)
    while not choices(scene):
        scene = QUESTION_WORLD.draw(rng)
    return scene, ask(scene, rng)


def test_a_scene_that_nothing_can_be_asked_about_is_refused():
    alone = Scene((Thing("circle", "red", "north"),))
    with pytest.raises(DataError, match=r"got 1 objects, of which no description .* try another scene"):
        ask(alone, np.random.default_rng(0))


def fits(thing: Thing, words: list[str]) -> bool:
    return set(words) <= {getattr(thing, name) for name in ASKED}


@given(seeds)
@settings(max_examples=100, deadline=None)
def test_an_answer_is_the_truth_and_the_description_is_the_smallest(seed):
    scene, asked = drawn(seed)
    words = asked.text.removeprefix("is there a ").removesuffix(" ?").split()
    assert len(words) == len(asked.mentioned)
    assert any(fits(thing, words) for thing in scene.objects) == (asked.answer == "yes")
    assert all(any(fits(thing, [word]) for thing in scene.objects) for word in words)
    target = scene.objects[asked.target]
    kept = [name for name in asked.mentioned if name != asked.replaced]
    assert all(getattr(target, name) in words for name in kept)
    assert (asked.replaced == "") == (asked.answer == "yes")
    own = [getattr(target, name) for name in asked.mentioned]
    assert [fits(thing, own) for thing in scene.objects].count(True) == 1
    for size in range(len(asked.mentioned) - 1):
        for fewer in combinations(ADJECTIVES, size):
            short = [getattr(target, name) for name in (*fewer, "shape")]
            assert [fits(thing, short) for thing in scene.objects].count(True) > 1


def test_descriptions_of_a_scene_by_hand():
    red, blue = Thing("circle", "red", "north"), Thing("circle", "blue", "centre", size="small")
    square = Thing("square", "red", "south", material="shiny")
    scene = Scene((red, blue, square))
    found = [(one.target, one.mentioned, one.replacements) for one in descriptions(scene)]
    assert found == [
        (0, ("size", "shape"), ()),  # a small circle is there, and a large square
        (0, ("colour", "shape"), ()),
        (1, ("size", "shape"), (("shape", "square"),)),
        (1, ("colour", "shape"), (("shape", "square"),)),
        (2, ("shape",), ()),
    ]
    assert [one.target for one in choices(scene)] == [1, 1]
    assert [one.mentioned for one in descriptions(scene, ("material",))] == [("shape",)]


def test_what_is_asked_is_uniform_given_the_form_and_independent_of_the_answer(scenes):
    asked = [one for some in scenes.questions(6) for one in some]
    answers = [one.answer for one in asked]
    assert abs(answers.count("yes") / len(answers) - 0.5) < 0.04  # 4 standard errors
    for attribute in ("colour", "size", "shape"):
        words = [next((w for w in one.text.split() if w in VALUES[attribute]), "none") for one in asked]
        table = Counter(zip(words, answers, strict=True))
        counts = [[table[word, answer] for answer in ("yes", "no")] for word in sorted(set(words))]
        assert chi2_contingency(counts).pvalue > 1e-4, attribute


def test_the_words_alone_do_not_answer(scenes):
    asked = [one for some in scenes.questions(5) for one in some]
    bags = CountVectorizer(ngram_range=(1, 3), binary=True).fit_transform([one.text for one in asked])
    scores = cross_val_score(LogisticRegression(), bags, [one.answer for one in asked], cv=5)
    assert abs(scores.mean() - 0.5) < 0.045  # 4 standard errors of 2000 answers


def test_a_smaller_set_is_the_beginning_of_a_larger_one(scenes):
    few = question_scenes(QUESTION_WORLD, 5, start="test", seed=0)
    assert few.scenes == scenes.scenes[:5]
    assert few.questions(3) == scenes.questions(3)[:5]
    assert np.array_equal(few.pixels, question_scenes(QUESTION_WORLD, 5, start="test", seed=0).pixels)
    assert question_scenes(QUESTION_WORLD, 5, start="train", seed=0).scenes != few.scenes
    assert question_scenes(QUESTION_WORLD, 5, start="test", seed=1).scenes != few.scenes


def test_pictures_show_each_object_in_its_cell_and_noise_by_its_level(scenes):
    rng = np.random.default_rng(0)
    scene, nuisance = scenes.scenes[0].changed("noise", -1, "clean"), QUESTION_WORLD.nuisance(rng)
    clean = QUESTION_WORLD.render(scene, nuisance)
    for thing in scene.objects:
        right, down = PLACES[thing.position]
        cell = clean[16 * (1 + down) : 16 * (2 + down), 16 * (1 + right) : 16 * (2 + right)]
        assert np.ptp(cell.astype(int), axis=(0, 1)).max() > 60
    for noise in ("grainy", "speckled", "dimmed"):
        noisy = scene.changed("noise", -1, noise)
        gaps = [
            np.abs(QUESTION_WORLD.render(noisy, nuisance, noise=strength).astype(float) - clean).mean()
            for strength in LEVELS.values()
        ]
        assert 0 < 1.5 * gaps[0] < gaps[1] < gaps[2] / 1.2


def test_a_table_says_what_a_question_is_about(scenes):
    table = scenes.table(2)
    assert len(table) == 800
    assert {tuple(row) for row in table} == {tuple(table[0])}
    assert {*ASKED, *BACKGROUND} <= {*table[0]}
    for row in table:
        scene = Scene.from_graph({"noise": row["noise"], **row["graph"]})
        target = scene.objects[row["target"]]
        named = set(row["prompt"].removeprefix("is there a ").removesuffix(" ?").split())
        assert named == {row[name] for name in row["mentioned"]}
        rest = {name: row[name] for name in ASKED if name not in row["mentioned"]}
        if row["answer"] == "yes":
            assert all(getattr(target, name) == row[name] for name in ASKED)
        else:
            assert set(rest.values()) <= {None}
            assert row["replaced"] in row["mentioned"]
        assert row["count"] == str(len(scene.objects))
        assert row["background_colour"] in {one.colour for one in scene.objects if one is not target}
        assert (row["noise"] == "clean") == (row["noise_level"] is None)


def test_questions_and_their_pictures_are_written_side_by_side(scenes, tmp_path):
    few = question_scenes(QUESTION_WORLD, 3, start="test", seed=0)
    few.save(tmp_path / "questions.jsonl", 2)
    rows = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text("utf-8").splitlines()]
    assert rows == few.table(2)
    pictures = [np.asarray(Image.open(tmp_path / row["image"])) for row in rows[::2]]
    assert np.array_equal(pictures, few.pixels)
