"""Levels of an audit: what a recipe says, what is wrong with it, and back."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import ConfigProblems
from trimtab.read.leaks.levels import (
    DEFAULT,
    ENCODINGS,
    KINDS,
    Answer,
    Hidden,
    Level,
    TopLogits,
    TopLogprobs,
    Trajectory,
    check_levels,
    level_items,
    levels_of,
)
from trimtab.runs.files import dump_yaml, load_yaml

_counts = st.lists(st.integers(1, 50), min_size=1, max_size=4, unique=True).map(tuple)
_levels = st.one_of(
    st.builds(Hidden, st.none() | st.lists(st.integers(-5, 5), min_size=1, unique=True).map(tuple)),
    st.builds(Trajectory, st.sampled_from([None, "logit", "tuned", "jacobian"]), st.integers(1, 5)),
    st.builds(
        TopLogits,
        st.none() | _counts,
        st.lists(st.sampled_from(ENCODINGS), min_size=1, unique=True).map(tuple),
    ).filter(lambda level: level.k is None or level.encodings != ("random",)),
    st.builds(
        TopLogprobs,
        _counts,
        st.none() | st.integers(0, 6),
        st.floats(0.1, 3.0),
        st.sampled_from([("sorted",), ("served",), ("sorted", "served")]),
    ),
    st.just(Answer()),
)


@given(st.lists(_levels, min_size=1, max_size=4, unique_by=lambda level: getattr(level, "key", repr(level))))
def test_a_recipe_gives_the_levels_back(levels):
    written = load_yaml(dump_yaml(level_items(levels)))
    assert levels_of(written) == tuple(levels) == check_levels(levels)
    assert all(type(level).__name__ in repr(level) for level in levels)


def test_what_a_recipe_may_say():
    given = ["hidden", {"hidden": [2, -1]}, {"trajectory": "tuned"}, {"trajectory": None, "top": 3}]
    assert levels_of(given) == (Hidden(), Hidden((2, -1)), Trajectory("tuned"), Trajectory(top=3))
    given = [{"logits": "all"}, {"logprobs": 5, "encodings": ["served"], "temperature": 0.7}, "answer"]
    assert levels_of(given) == (TopLogits(None), TopLogprobs(5, None, 0.7, ("served",)), Answer())
    assert set(KINDS.values()) == set(get_args(Level))


def test_lists_and_single_numbers_are_alike():
    assert TopLogprobs(20) == TopLogprobs((20,)) == TopLogprobs([20])  # type: ignore[arg-type]
    assert TopLogits("all") == TopLogits(None)
    assert TopLogits(None).ks == ()
    assert hash(Hidden([1, 2])) == hash(Hidden((1, 2)))  # type: ignore[arg-type]


def test_a_trajectory_is_known_by_its_lens(tmp_path):
    class Mine:
        name, states = "mine", 3

        def log_probabilities(self, hidden: Any, state: int) -> Any:
            return hidden

    assert [Trajectory(lens).key for lens in (None, "tuned", tmp_path / "here", Mine())] == [
        "logit-2",
        "tuned-2",
        "here-2",
        "mine-2",
    ]
    (tmp_path / "here").mkdir()
    assert list(Trajectory(tmp_path / "here").problems()) == []
    assert level_items([Trajectory(Mine())]) == [{"trajectory": "mine"}]


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([], r"levels: got none, expected a list of levels; try \[Hidden\(\)"),
        ("hidden", "levels: got a str, expected a list of levels"),
        ([Answer, Answer()], r"levels\[0\]: got <class .*Answer'>, expected a level"),
        ([Answer(), Answer()], r"levels\[1\]: got Answer\(\) twice, expected each level once"),
        ([Hidden(())], r"levels\[0\].states: got \(\), expected whole numbers, such as \[2, -1\]"),
        ([Hidden((1, 1))], r"levels\[0\].states: got \[1, 1\], expected each number once"),
        ([Hidden((1.5,))], r"levels\[0\].states\[0\]: got 1.5, expected whole numbers"),
        ([Trajectory(top=0)], r"levels\[0\].top: got 0, expected a whole number from 1 to 100"),
        ([Trajectory("tunde")], r"levels\[0\].lens: got 'tunde', expected .* or a lens; try 'tuned'"),
        (
            [Trajectory(), Trajectory("logit")],
            r"levels\[1\]: got a second trajectory 'logit-2', expected lenses of",
        ),
        ([Trajectory(".")], r"levels\[0\].lens: got the name '', expected a name without slashes"),
        ([Trajectory(3)], r"levels\[0\].lens: got 3, expected 'logit', 'tuned', 'jacobian'"),
        ([TopLogits((0,))], r"levels\[0\].k\[0\]: got 0, expected whole numbers of at least 1, or 'all'"),
        ([TopLogits((True,))], r"levels\[0\].k\[0\]: got True, expected whole numbers"),
        ([TopLogits("every")], r"levels\[0\].k: got 'every', expected whole numbers of at least 1, or 'all'"),
        ([TopLogits(2, ("srted",))], r"encodings\[0\]: got 'srted', expected .*; try 'sorted'"),
        ([TopLogits(2, ())], r"levels\[0\].encodings: got \(\), expected a list of sorted, fixed"),
        (
            [TopLogits(2, ("fixed", "fixed"))],
            r"encodings: got \['fixed', 'fixed'\], expected each encoding once",
        ),
        (
            [TopLogits((2, 5), ("random",))],
            r"levels\[0\].encodings: got random alone, expected sorted, .*; try \['fixed', 'random'\]",
        ),
        (
            [TopLogprobs(5, decimals=-1)],
            r"levels\[0\].decimals: got -1, expected a whole number from 0 to 12",
        ),
        ([TopLogprobs(5, temperature=0)], r"levels\[0\].temperature: got 0, expected a number above 0"),
        (
            [TopLogprobs(5, encodings=("fixed",))],
            r"encodings\[0\]: got 'fixed', expected 'sorted' or 'served'",
        ),
        ([TopLogprobs(None)], r"levels\[0\].k: got None, expected whole numbers of at least 1"),
    ],
)
def test_what_is_wrong_is_said(levels, message):
    with pytest.raises(ConfigProblems, match=message):
        check_levels(levels)


def test_random_tokens_are_a_control_beside_others():
    assert list(TopLogits(2, ("fixed", "random")).problems()) == []
    assert list(TopLogits(None, ("random",)).problems()) == []  # every logit has one encoding
    with pytest.raises(ConfigProblems, match="got random alone"):
        levels_of([{"logits": 5, "encodings": "random"}])


def test_everything_that_is_wrong_is_said_at_once():
    with pytest.raises(ConfigProblems) as raised:
        check_levels([Hidden(()), TopLogprobs(0, decimals=99), Answer()])
    assert [problem.where for problem in raised.value.problems] == [
        "levels[0].states",
        "levels[1].k[0]",
        "levels[1].decimals",
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("hidden", r"levels: got a str, expected a list such as \[hidden, "),
        ([], "levels: got none, expected a list of levels"),
        (["hiden"], r"levels\[0\]: got 'hiden', expected .*; try 'hidden'"),
        ([7], r"levels\[0\]: got 7, expected a level's name, or a mapping"),
        ([{}], r"levels\[0\]: got a mapping with nothing, expected one of hidden, trajectory"),
        ([{"logprob": 5}], r"levels\[0\]: got a mapping with 'logprob', expected .*; try 'logprobs'"),
        (
            [{"hidden": [1], "logits": 2}],
            r"levels\[0\]: got a mapping with 'hidden', 'logits', expected one of",
        ),
        ([{"logprobs": 5, "decimal": 2}], r"decimal: got no setting of logprobs, .*; try 'decimals'"),
        ([{"logprobs": 5, "k": 2}], r"levels\[0\].k: got no setting of logprobs"),
        ([{"answer": 5}], r"levels\[0\].answer: got 5, expected no setting; try 'answer'"),
        ([{"logprobs": "many"}], r"levels\[0\].k: got 'many', expected whole numbers"),
        ([{"hidden": {"a": 1}}], r"levels\[0\].states: got \{'a': 1\}, expected whole numbers"),
    ],
)
def test_what_a_recipe_may_not_say(given, message):
    with pytest.raises(ConfigProblems, match=message):
        levels_of(given)


def test_what_is_looked_at_by_default_has_no_problems():
    assert check_levels(DEFAULT) == DEFAULT
