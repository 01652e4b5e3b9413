"""Cells of an audit: roles apart, shared folds, kept and resumed, the same for any number of processes."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quick_leaks import questions, quick_baseline, quick_leak
from trimtab.errors import DataError
from trimtab.read.leaks import cells
from trimtab.read.leaks.cells import Baselines, Cell, Measured, dealt, measured, samples_of, words_of
from trimtab.read.leaks.controls import majority_rows
from trimtab.read.leaks.estimate import Baseline
from trimtab.read.leaks.questions import Questions, read_questions

TABLE = np.random.default_rng(0).normal(size=(48, 3))
CELLS = [
    Cell("hidden", partial(np.take, TABLE, axis=0), layer=0),
    Cell("logprobs", partial(np.take, TABLE[:, :1], axis=0), encoding="sorted", k=1),
]


@pytest.fixture(scope="module")
def asked() -> Questions:
    return read_questions(questions(), ["colour"], background=["city"], group="scene")


def same(one: Measured, other: Measured) -> bool:
    assert one.leak is not None
    assert other.leak is not None
    pairs = [(getattr(one.leak, it.name), getattr(other.leak, it.name)) for it in fields(one.leak)]
    return all(np.array_equal(a, b) and np.asarray(a).dtype == np.asarray(b).dtype for a, b in pairs)


def test_roles_are_apart_and_hold_every_row_once(asked: Questions) -> None:
    samples = {(one.attribute, one.role): one for one in samples_of(asked)}
    assert list(samples) == [("colour", "mentioned"), ("colour", "unmentioned"), ("city", "background")]
    assert samples["colour", "mentioned"].rows.tolist() == list(range(1, 48, 2))
    assert samples["colour", "unmentioned"].rows.tolist() == list(range(0, 48, 2))
    assert samples["city", "background"].rows.tolist() == list(range(48))


def test_rows_of_rare_classes_of_a_role_are_set_aside() -> None:
    frame = questions()
    frame.loc[[0, 2, 4, 6, 8], "colour"] = "green"
    frame.loc[[1, 3], "colour"] = "green"
    mentioned, unmentioned = samples_of(read_questions(frame, ["colour"], group="scene"))
    assert mentioned.aside == {"class 'green' in 2 groups, fewer than 5 folds": 2}
    assert unmentioned.aside == {}
    assert len(mentioned.rows) + len(unmentioned.rows) == 48 - 2
    assert set(unmentioned.labels) == {"red", "blue", "green"}


@pytest.mark.usefixtures("quick")
def test_the_order_is_that_of_attributes_roles_and_cells(asked: Questions) -> None:
    told: list[tuple[int, int]] = []
    found = measured(CELLS, asked, progress=lambda done, total: told.append((done, total)))
    assert [(one.attribute, one.role, one.cell.level) for one in found][:3] == [
        ("colour", "mentioned", "hidden"),
        ("colour", "mentioned", "logprobs"),
        ("colour", "unmentioned", "hidden"),
    ]
    assert told == [(done, 6) for done in range(1, 7)]


@pytest.mark.usefixtures("quick")
def test_cells_of_an_attribute_and_role_share_their_seed(
    asked: Questions, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []

    def note(*given: Any, **more: Any) -> Any:
        seeds.append(given[4])
        return quick_leak(*given, **more)

    monkeypatch.setattr(cells, "estimate_leak", note)
    measured(CELLS, asked, seed=3)
    assert seeds[0] == seeds[1] != seeds[2] == seeds[3]


@pytest.mark.usefixtures("quick")
def test_a_killed_call_goes_on_and_ends_alike(
    asked: Questions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[int] = []

    def broken(*given: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return quick_leak(*given, **more)

    monkeypatch.setattr(cells, "estimate_leak", broken)
    with pytest.raises(KeyboardInterrupt):
        measured(CELLS, asked, store=tmp_path)
    resumed = measured(CELLS, asked, store=tmp_path)
    assert len(calls) == 4 + 3
    assert all(same(*pair) for pair in zip(resumed, measured(CELLS, asked), strict=True))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("change", ["stamp", "seed", "labels", "classifiers"])
def test_kept_cells_of_other_data_or_settings_are_measured_anew(
    asked: Questions, change: str, tmp_path: Path
) -> None:
    measured(CELLS[:1], asked, store=tmp_path)
    settings = {"stamp": "b", "seed": 1, "classifiers": ("k-nn",)}
    other = read_questions(
        questions().assign(colour=["red", "blue", "blue", "red"] * 12), ["colour"], group="scene"
    )
    more: dict[str, Any] = {change: settings[change]} if change in settings else {}
    measured(CELLS[:1], other if change == "labels" else asked, store=tmp_path, **more)
    assert len(list(tmp_path.iterdir())) > 3


def test_a_baseline_is_fitted_once_for_as_long_as_an_audit(
    asked: Questions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fits: list[int] = []

    def note(*given: Any, **more: Any) -> Baseline:
        fits.append(1)
        return quick_baseline(*given, **more)

    monkeypatch.setattr(cells, "estimate_leak", quick_leak)
    monkeypatch.setattr(cells, "fit_baseline", note)
    every = [
        *CELLS,
        replace(CELLS[0], against="classes"),
        replace(CELLS[0], shuffled=True, control="shuffled"),
    ]
    audit = Baselines()
    first = measured(every, asked, baselines=audit, store=tmp_path)
    assert (len(fits), len(audit)) == (2 * 3, 6)  # of the labels and of those dealt out anew, in each role
    again = measured(every, asked, baselines=audit)
    assert len(fits) == 6
    assert all(same(*pair) for pair in zip(first, again, strict=True))
    measured(every, asked)  # another audit
    assert len(fits) == 12
    measured(every, asked, store=tmp_path)  # nothing is left to measure
    assert len(fits) == 12


def test_a_baseline_that_cannot_be_fitted_is_the_reason_of_its_cells(
    asked: Questions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_given: Any, **_more: Any) -> Baseline:
        raise DataError("got no fold, expected some")

    monkeypatch.setattr(cells, "fit_baseline", refused)
    monkeypatch.setattr(cells, "estimate_leak", quick_leak)
    found = measured([CELLS[0], replace(CELLS[1], against="classes")], asked)
    assert [(one.leak is None, one.why) for one in found] == [
        (True, "got no fold, expected some"),
        (False, ""),
    ] * 3


@pytest.mark.usefixtures("quick")
def test_a_refused_cell_says_why_and_the_others_are_measured(asked: Questions) -> None:
    def refused(rows: np.ndarray) -> np.ndarray:
        raise DataError("got nothing, expected something")

    (first, second) = measured([Cell("hidden", refused), CELLS[1]], asked)[:2]
    assert first.leak is None
    assert "got nothing, expected something" in first.why
    assert second.leak is not None


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("rows", "left"), [(range(0, 12, 2), "1 class"), (range(0, 4, 2), "0 classes")])
def test_a_role_of_fewer_than_two_classes_is_not_measured(rows: range, left: str) -> None:
    frame = questions()
    frame["mentioned"] = [[] if row in rows else ["colour"] for row in range(48)]
    frame["colour"] = ["green" if row in rows else colour for row, colour in enumerate(frame["colour"])]
    frame.loc[[1, 3, 5, 7, 9], "colour"] = "green"
    found = measured(CELLS[:1], read_questions(frame, ["colour"], group="scene"))
    assert [(one.role, one.leak is None) for one in found] == [("mentioned", False), ("unmentioned", True)]
    assert found[1].why.startswith(f"got {left} in at least 5 groups, expected at least two")
    assert [
        row["role"] for row in majority_rows(samples_of(read_questions(frame, ["colour"], group="scene")))
    ] == ["mentioned"]


def test_processes_change_nothing(asked: Questions) -> None:
    settings: dict[str, Any] = {"classifiers": ("logistic",)}
    few = read_questions(questions(), [], background=["city"], group="scene")
    assert few.known is not None  # so that a baseline goes to the processes
    alone, together = (measured(CELLS[1:], few, jobs=jobs, **settings) for jobs in (1, 2))
    assert all(same(*pair) for pair in zip(alone, together, strict=True))


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=12), st.integers(0, 99), st.integers(1, 3))
def test_dealt_labels_are_the_same_ones(labels: list[str], seed: int, size: int) -> None:
    given_labels = np.array(labels)
    groups = np.arange(len(labels)) // size
    out = dealt(given_labels, groups, seed)
    constant = all(len(set(given_labels[groups == one])) == 1 for one in set(groups))
    if constant:
        assert all(len(set(out[groups == one])) == 1 for one in set(groups))
        firsts = [out[groups == one][0] for one in sorted(set(groups))]
        assert sorted(firsts) == sorted(given_labels[groups == one][0] for one in set(groups))
    else:
        assert sorted(out) == sorted(labels)
    assert (dealt(given_labels, groups, seed) == out).all()


def test_dealt_labels_of_a_group_stay_together() -> None:
    groups = np.repeat(np.arange(50), 8)
    labels = np.repeat(np.arange(50) % 2, 8).astype(str)
    labels[0] = "2"  # not one label a group
    out = dealt(labels, groups, 0)
    pure = [len(set(out[groups == group])) <= 1 + ("2" in out[groups == group]) for group in range(50)]
    assert all(pure)
    places = np.tile(
        ["left", "right"], 50
    )  # which place it has in its group says it all, unless dealt in there too
    moved = dealt(places, np.repeat(np.arange(50), 2), 0)
    assert 20 < (moved == places).sum() < 80


def test_signs_and_scripts_without_spaces_are_words() -> None:
    assert words_of(["\U0001f534 cube?", "\U0001f535 cube?"]).shape == (2, 2)
    assert words_of(["\u7ea2\u8272\u7403", "\u84dd\u8272\u7403"]).shape == (2, 2)  # red ball, blue ball
    assert words_of(["is a < b", "is a > b"]).shape == (2, 2)


def test_words_are_those_that_differ() -> None:
    assert words_of(["A red cube", "a RED ball"]).tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert words_of(["", " "]).shape == (2, 0)
    assert words_of([]).shape == (0, 0)
