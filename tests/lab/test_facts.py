"""Questions about texts of facts: what each row says, and what the question alone does not."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score

from trimtab import systems
from trimtab.errors import ConfigError, ConfigProblems
from trimtab.lab.facts import CITIES, COLOURS, NAMES, OBJECTS, draw_facts, fact_questions, is_there
from trimtab.lab.registry import questions
from trimtab.read.leaks.questions import read_questions

VALUES = {"colour": COLOURS, "object": OBJECTS, "name": NAMES, "city": CITIES}


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return fact_questions(800)


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


def test_prompts_say_what_their_row_says_and_the_answer_follows_from_the_text(frame: pd.DataFrame) -> None:
    for row in frame.itertuples():
        text = row.prompt.removesuffix(f" {row.question} Answer:")
        assert text != row.prompt
        for name, values in VALUES.items():
            assert words(text) & set(values) == {getattr(row, name)}
        assert not words(row.question) & {*NAMES, *CITIES}
        (asked,) = words(row.question) & set(OBJECTS)
        assert row.answer == ("yes" if asked == row.object else "no")
        assert words(row.question) & set(COLOURS) == ({row.colour} if "colour" in row.mentioned else set())
        assert "object" in row.mentioned


def test_rows_of_a_scene_share_their_facts_and_scenes_are_balanced(frame: pd.DataFrame) -> None:
    assert frame.groupby("scene").size().eq(2).all()
    assert frame.groupby("scene")[list(VALUES)].nunique().eq(1).all(axis=None)
    for name, values in VALUES.items():
        assert frame[name].value_counts().to_dict() == dict.fromkeys(values, len(frame) // len(values))
    assert frame["answer"].eq("yes").mean() == 0.5
    assert frame["mentioned"].map(len).eq(2).mean() == 0.25
    assert frame["prompt"].nunique() > 0.99 * len(frame)
    for one, other in combinations(VALUES, 2):
        scenes = frame.drop_duplicates("scene")
        assert chi2_contingency(pd.crosstab(scenes[one], scenes[other])).pvalue > 0.001


@pytest.mark.parametrize("label", ["answer", "city", "name", "colour"])
def test_the_question_alone_says_nothing_of_what_it_does_not_mention(frame: pd.DataFrame, label: str) -> None:
    rows = frame[frame["mentioned"].map(lambda names: label not in names)]
    counts = CountVectorizer(binary=True, ngram_range=(1, 2)).fit_transform(rows["question"])
    model = LogisticRegression(C=0.1, max_iter=300)
    right = cross_val_score(model, counts, rows[label], groups=rows["scene"], cv=GroupKFold(4)).mean()
    chance = 1 / rows[label].nunique()
    assert right < chance + 4 * np.sqrt(chance * (1 - chance) / len(rows))


def test_a_colour_that_is_mentioned_is_in_the_question_and_an_object_is_half_of_the_time(
    frame: pd.DataFrame,
) -> None:
    asked = frame["question"].map(lambda text: next(iter(words(text) & set(OBJECTS))))
    assert (asked == frame["object"]).mean() == 0.5


@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_draws_are_balanced_for_any_count(count: int, seed: int) -> None:
    drawn = draw_facts(count, np.random.default_rng(seed))
    assert len(drawn) == count
    for name, values in VALUES.items():
        each = [sum(getattr(facts, name) == value for facts in drawn) for value in values]
        assert max(each) - min(each) <= 1


def test_a_no_is_about_another_object() -> None:
    (facts,) = draw_facts(1, np.random.default_rng(0))
    draw = np.random.default_rng(1)
    texts = [is_there(facts, draw, yes=False, colour="red") for _ in range(50)]
    assert all(facts.object not in words(text) and "red" in words(text) for text in texts)


def test_draws_are_those_of_the_seed() -> None:
    assert fact_questions(4, seed=1).equals(fact_questions(4, seed=1))
    assert not fact_questions(4, seed=1).equals(fact_questions(4, seed=2))


def test_the_file_of_the_lab(tmp_path: Path) -> None:
    path = questions("facts", tmp_path)
    read = pd.read_json(path, lines=True)
    pd.testing.assert_frame_equal(read, fact_questions())
    assert questions("facts", tmp_path / "other").read_bytes() == path.read_bytes()
    with pytest.raises(ConfigError, match=r"lab questions: got 'fact', expected one of .*; try 'facts'"):
        questions("fact", tmp_path)


@pytest.mark.parametrize("name", ["facts", "facts-chat"])
def test_an_audit_reads_the_file_with_every_row(name: str, tmp_path: Path) -> None:
    read = read_questions(questions(name, tmp_path), ["colour"], group="scene", background=["city"])
    counts = read.roles["colour"].value_counts().to_dict()
    assert counts == {"unmentioned": 480, "mentioned": 160}
    assert (read.roles["city"] == "background").all()
    assert len(np.unique(read.groups)) == 320
    assert read.accounting.used("questions") == 640
    assert isinstance(read.prompts[0], str) == (name == "facts")
    assert read.known is not None
    assert read.answers is not None


def test_names_of_questions_are_found_from_a_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    path = systems.lab_folder("questions", "lab:facts")
    assert Path(path).name == "questions.jsonl"
    assert systems.lab_folder("questions", "mine.jsonl") == "mine.jsonl"
    with pytest.raises(ConfigProblems, match="lab:fakts"):
        systems.lab_folder("questions", "lab:fakts")
