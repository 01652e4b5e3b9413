"""What listeners answer, recorded or asked: scores by hand, controls by enumeration, and everything that is refused."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trimtab.errors import ConfigError, DataError
from trimtab.refer.candidates import read_candidates
from trimtab.refer.intelligibility.answers import (
    Sets,
    belief_of,
    decision,
    deranged,
    record_answers,
    recorded,
)
from trimtab.refer.intelligibility.study import intelligibility

FOUR = ["a", "b", "c", "d"]
CANDIDATES = pd.DataFrame({"item": FOUR, "candidates": [FOUR] * 4, "target": FOUR})
CAPTIONS = {name: f"caption of {name}" for name in FOUR}


def asks(**changed: Any) -> Any:
    """A study of one speaker and one listener, but for what is changed."""
    choices = pd.DataFrame({"item": FOUR, "choice": ["a", "b", "c", "a"]})
    given_: dict[str, Any] = {
        "speakers": {"people": CAPTIONS},
        "listeners": {"people": choices},
        "n_boot": 50,
    }
    return intelligibility(**({"candidates": CANDIDATES} | given_ | changed))


def test_a_score_is_the_share_of_the_ties_at_the_top() -> None:
    rows = [[0.0, 0.0, -1.0, -2.0], [-5.0, -1.0, -3.0, -4.0], [0.0, 0.0, 0.0, 0.0], [0.0, -1.0, -2.0, -3.0]]
    frame = pd.DataFrame({"item": FOUR, "log_probabilities": rows})
    told = asks(listeners={"model": frame}).answers
    assert told["score"].tolist() == [0.5, 1.0, 0.25, 0.0]
    p = np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(told["p_target"], p.diagonal())
    np.testing.assert_allclose(told["confidence"], p.max(axis=1))
    np.testing.assert_allclose(told["brier"], ((p - np.eye(4)) ** 2).sum(axis=1))


def test_columns_of_candidates_a_list_and_a_callable_are_one_listener() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(4, 4))
    of = dict(zip(CAPTIONS.values(), table, strict=True)) | {"": np.zeros(4)}
    columns = pd.DataFrame(table, columns=FOUR).assign(item=FOUR)
    lists = pd.DataFrame({"item": FOUR, "log_probabilities": table.tolist()})
    both = asks(
        listeners={"columns": columns, "lists": lists, "asked": lambda texts, _: [of[text] for text in texts]}
    )
    told = both.answers.pivot(index="item", columns="listener", values="p_target")
    np.testing.assert_allclose(told["columns"], told["lists"])
    np.testing.assert_allclose(told["columns"], told["asked"])


@pytest.mark.parametrize("name", ["log.csv", "log.json", "log.jsonl", "log.parquet"])
def test_lists_of_log_probabilities_are_read_from_files(name: str, tmp_path: Path) -> None:
    table = np.random.default_rng(3).normal(size=(4, 4))
    frame = pd.DataFrame({"item": FOUR, "log_probabilities": table.tolist()})
    path = tmp_path / name
    if name.endswith(".csv"):
        frame.assign(log_probabilities=frame["log_probabilities"].map(json.dumps)).to_csv(path, index=False)
    elif name.endswith(".parquet"):
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=name.endswith("l"), double_precision=15)
    kept, read = (asks(listeners={"model": one}).answers for one in (frame, path))
    pd.testing.assert_frame_equal(read, kept)


def test_a_callable_that_chooses_and_its_controls() -> None:
    heard: list[list[str]] = []

    def hears(captions: list[str], candidates: list[list[str]]) -> list[str]:
        heard.append(captions)
        return [text[-1] if text else names[0] for text, names in zip(captions, candidates, strict=True)]

    result = asks(listeners={"asked": hears})
    controls = result.controls.set_index("control")["accuracy"]
    assert controls.to_dict() == {
        "captions": 1.0,
        "shuffled captions": 0.0,
        "no caption": 0.25,
        "chance": 0.25,
    }
    assert sorted(heard[1]) == sorted(CAPTIONS.values())
    assert all(shuffled != own for shuffled, own in zip(heard[1], heard[0], strict=True))
    assert np.isnan(result.answers["confidence"]).all()


def test_the_shuffled_control_of_recorded_choices_is_the_mean_over_all_other_items() -> None:
    choices = pd.DataFrame({"item": ["a", "a", "b", "c", "d"], "choice": ["a", "b", "a", "", "d"]})
    result = asks(listeners={"people": choices}).answers
    for row, item in zip(result.to_dict("records"), choices["item"], strict=True):
        others = choices.loc[choices["item"] != item, "choice"]
        assert row["shuffled"] == pytest.approx((others == item).mean())


def test_permuting_answers_agrees_with_the_closed_form() -> None:
    choices = pd.DataFrame({"item": FOUR, "choice": ["a", "a", "d", "c"]})
    closed = asks(listeners={"people": choices}).answers["shuffled"].mean()
    orders = [one for one in permutations(range(4)) if all(k != to for k, to in enumerate(one))]
    # Over derangements every other item's answer is equally often given to an item.
    means = [np.mean([choices["choice"][to] == FOUR[k] for k, to in enumerate(one)]) for one in orders]
    assert closed == pytest.approx(np.mean(means))


def test_items_with_candidates_of_their_own_cannot_be_shuffled() -> None:
    candidates = pd.DataFrame(
        {"item": ["a", "c"], "candidates": [["a", "b"], ["c", "d"]], "target": ["a", "c"]}
    )
    choices = pd.DataFrame({"item": ["a", "c"], "choice": ["a", "d"]})
    controls = asks(candidates=candidates, listeners={"x": choices}, missing="drop").controls.set_index(
        "control"
    )
    assert np.isnan(controls.loc["shuffled captions", "accuracy"])
    assert controls.loc["shuffled captions", "reason"] == "no two items with the same candidates"
    assert controls.loc["no caption", "reason"] == "not recorded"


@given(st.integers(2, 40), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_shuffle_moves_everything(n: int, seed: int) -> None:
    order = deranged(n, seed, "people")
    assert sorted(order) == list(range(n))
    assert (order != np.arange(n)).all()


@given(st.lists(st.floats(-50, 5), min_size=2, max_size=8), st.floats(-10, 10))
@settings(max_examples=50, deadline=None)
def test_log_probabilities_count_up_to_a_constant(row: list[float], shift: float) -> None:
    for numbers in (np.array(row), np.array(row) + shift):  # what may be probabilities is refused
        assume(not ((numbers >= 0).all() and abs(numbers.sum() - 1) < 1e-2))
    names = [str(k) for k in range(len(row))]
    one, other = belief_of(row, names, "x"), belief_of(np.array(row) + shift, names, "x")
    assert one.sum() == pytest.approx(1)
    np.testing.assert_allclose(one, other, atol=1e-12)
    assert decision(one).sum() == pytest.approx(1)


def test_no_choice_counts_as_wrong_and_is_noted() -> None:
    choices = pd.DataFrame({"item": FOUR, "choice": ["a", None, "c", "d"]})
    result = asks(listeners={"people": choices})
    assert result.accuracy["accuracy"].tolist() == [0.75]
    assert any("1 answers without a choice count as wrong" in note for note in result.notes)


def test_speakers_of_a_record_are_told_apart() -> None:
    choices = pd.DataFrame(
        {"item": FOUR * 2, "choice": [*FOUR, *"aaaa"], "speaker": ["one"] * 4 + ["two"] * 4}
    )
    told = asks(
        speakers={"one": CAPTIONS, "two": CAPTIONS, "mute": CAPTIONS}, listeners={"x": choices}
    ).accuracy
    assert told.set_index("speaker")["accuracy"].fillna(-1).to_dict() == {"one": 1.0, "two": 0.25, "mute": -1}
    assert told["n"].tolist() == [4, 4, 0]


def test_what_is_refused_before_anything_is_heard() -> None:
    def hears(captions: list[str], candidates: list[list[str]]) -> list[str]:
        raise AssertionError("asked before everything was checked")

    two = pd.DataFrame({"item": ["a", "a", "b", "c", "d"], "caption": list("vwxyz")})
    wrong = pd.DataFrame({"item": FOUR, "choice": ["a", "b", "z", "d"]})
    absent = CANDIDATES.assign(target=["a", "b", "c", "e"])
    short = pd.DataFrame({"item": FOUR, "log_probabilities": [[0.0] * 3] * 4})
    nan = pd.DataFrame({"item": FOUR, "log_probabilities": [[0.0, float("nan"), 0.0, 0.0]] * 4})
    unknown = pd.DataFrame({"item": ["a", "elsewhere"], "choice": ["a", "b"]})
    twice = pd.DataFrame({"item": ["a", "a"], "choice": ["a", "b"], "listener_id": [7, 7]})
    choices = pd.DataFrame({"item": FOUR, "choice": FOUR})
    cases: list[tuple[dict[str, Any], str]] = [
        ({"speakers": {"people": two}}, "two captions of item 'a'.*expected one caption of each item"),
        ({"speakers": {"people": {"a": "x", "b": "y"}}}, "got 2 items without a caption: 'c', 'd', expected"),
        ({"candidates": absent}, "target 'e' of item 'd', expected one of its candidates"),
        ({"candidates": CANDIDATES.drop(columns="candidates")}, "no column 'candidates'"),
        (
            {"listeners": {"x": wrong}},
            "listener x, item 'c': got choice 'z', expected one of its 4 candidates",
        ),
        (
            {"listeners": {"x": short}},
            r"item 'a': got log-probabilities of shape \(3,\), expected 4, one per",
        ),
        (
            {"listeners": {"x": nan}},
            r"got log-probabilities \[0.0, nan, 0.0, 0.0\], expected numbers that are not nan",
        ),
        ({"listeners": {"x": unknown}}, "answers to 1 items without candidates: 'elsewhere'"),
        ({"listeners": {"x": twice}}, "two answers of listener 7 to item 'a'"),
        ({"listeners": {"x": choices, "y": hears}, "group": "sett"}, "group: got no column 'sett' in"),
        ({"listeners": {"x": choices}, "strata": ["kind"]}, "strata: got no column 'kind' in"),
        (
            {"speakers": {"p": CAPTIONS, "q": CAPTIONS}, "listeners": {"x": choices}},
            "listener x: got no column 'speaker'",
        ),
        (
            {"listeners": {"x": choices.assign(speaker="peple")}},
            "speaker 'peple', expected one of .*; try 'people'",
        ),
        (
            {"listeners": {"x": pd.DataFrame({"item": FOUR})}},
            "listener x: got neither a choice nor log-probabilities of 'a', 'b'",
        ),
        ({"listeners": {"x": 3}}, "listener x: got a int, expected a Listener, a callable"),
    ]
    for changed, message in cases:
        with pytest.raises(DataError, match=message):
            asks(**changed)
    for changed, message in [
        ({"listeners": {}}, r"listeners \{\}, expected a mapping"),
        ({"own": {"people": "clip"}}, "listener 'clip' in own, expected one of"),
        ({"control": "full"}, "control 'full', expected one of the speakers"),
        ({"missing": "ignore"}, "missing 'ignore', expected one of"),
    ]:
        with pytest.raises(ConfigError, match=message):
            asks(**changed)


def test_a_callable_is_held_to_its_promise() -> None:
    for answers, message in (
        (lambda texts, _: ["a"], "got 1 answers, expected one for each of 4 captions"),
        (lambda texts, _: ["nobody"] * len(texts), "choice 'nobody', expected one of its 4 candidates"),
        (lambda texts, _: [[0.0, 1.0]] * len(texts), r"shape \(2,\), expected 4, one per candidate"),
        (
            lambda texts, _: [[-np.inf] * 4] * len(texts),
            "expected numbers that are not nan, at least one of them finite",
        ),
        (lambda texts, _: [None] * len(texts), r"log-probabilities of shape \(\)"),
    ):
        with pytest.raises(DataError, match=message):
            asks(listeners={"asked": answers})


def test_items_that_lack_a_caption_can_be_dropped_with_a_note() -> None:
    result = asks(speakers={"people": {"a": "x", "b": "y"}}, missing="drop")
    assert result.accuracy["n"].tolist() == [2]
    assert any("2 items without a caption are left out" in note for note in result.notes)
    assert any("2 items answered without a caption are left out" in note for note in result.notes)


def test_a_group_of_some_items_is_refused_for_the_others() -> None:
    captions = pd.DataFrame({"item": FOUR, "caption": FOUR, "set": ["1", "1", None, "2"]})
    with pytest.raises(DataError, match="group: got 1 items without a value of 'set': 'c'"):
        asks(speakers={"people": captions}, group="set")


def test_a_record_keeps_its_columns_and_inputs_are_untouched() -> None:
    frame = pd.DataFrame({"item": ["a", "b"], "choice": ["a", "c"], "seconds": [1.5, 2.5]})
    before = frame.copy()
    sets = Sets.of(read_candidates(CANDIDATES))
    told = record_answers(recorded(frame, "x", sets, ["people"]), sets)
    assert told["seconds"].tolist() == [1.5, 2.5]
    assert told["score"].tolist() == [1.0, 0.0]
    pd.testing.assert_frame_equal(frame, before)
