"""Matrix and interaction: planted truths recovered, laws, closed forms; controls, calibration, captions."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.calibration import calibration_curve

from trimtab.numerics.bootstrap import Resampling, bootstrap, mean
from trimtab.refer.intelligibility.calibration import expected_calibration_error
from trimtab.refer.intelligibility.matrix import (
    Square,
    control_squares,
    estimates,
    interactions,
    own_pairs,
    squares_of,
)
from trimtab.refer.intelligibility.result import Intelligibility
from trimtab.refer.intelligibility.statistics import (
    caption_statistics,
    entropy_bits,
    length_matched,
    overlap,
    rarefied_types,
    words_of,
)
from trimtab.refer.intelligibility.study import intelligibility

PAIRS = (("people", "people"), ("captioner", "clip"))


def planted(rates: np.ndarray, groups: int, size: int, spread: float, seed: int) -> pd.DataFrame:
    """Right and wrong answers of two speakers and two listeners; items of a group share what makes them hard."""
    rng = np.random.default_rng(seed)
    shift = rng.uniform(-spread, spread, groups)
    rows = []
    for (i, speaker), (j, listener) in product(
        enumerate(("people", "captioner")), enumerate(("people", "clip"))
    ):
        right = rng.random((groups, size)) < (rates[i, j] + shift)[:, None]
        for group in range(groups):
            rows += [(speaker, listener, float(one), 0.1, str(group)) for one in right[group]]
    return pd.DataFrame(rows, columns=["speaker", "listener", "score", "chance", "cluster"])


def measured(answers: pd.DataFrame, n_boot: int = 300) -> tuple[pd.DataFrame, pd.DataFrame, object]:
    sides = ["people", "captioner"], ["people", "clip"]
    return interactions(answers, *sides, PAIRS, None, Resampling(n_boot))


@pytest.mark.parametrize(
    ("rates", "groups", "size", "spread"),
    [([[0.6, 0.5], [0.3, 0.8]], 60, 1, 0.0), ([[0.5, 0.4], [0.4, 0.3]], 30, 10, 0.3)],
    ids=["independent", "in-groups-no-interaction"],
)
def test_intervals_hold_the_planted_matrix(rates: list, groups: int, size: int, spread: float) -> None:
    truth, held, sets = np.array(rates), [], 60
    contrast = truth[0, 0] + truth[1, 1] - truth[0, 1] - truth[1, 0]
    for seed in range(sets):
        accuracy, _, interaction = measured(planted(truth, groups, size, spread, 1000 + seed))
        low, high = accuracy["low"].to_numpy(), accuracy["high"].to_numpy()
        cells = ((low <= truth.ravel()) & (truth.ravel() <= high)).tolist()
        held.append([*cells, interaction.low <= contrast <= interaction.high])
    covered = np.mean(held, axis=0)
    # 60 sets: within three standard errors of 95 %; the benchmark says how 300 sets are covered.
    error = np.sqrt(0.95 * 0.05 / sets)
    assert abs(covered[:4].mean() - 0.95) < 3 * error, covered
    assert covered[4] > 0.95 - 3 * error, covered
    if spread:  # intervals that took answers for independent would fail here
        ends = []
        for seed in range(sets):
            first_cell = planted(truth, groups, size, spread, 1000 + seed)["score"].to_numpy()[
                : groups * size
            ]
            one = bootstrap(mean, first_cell, n_boot=200)
            ends.append(one.low <= truth[0, 0] <= one.high)
        assert np.mean(ends) < 0.85


def test_a_matrix_of_main_effects_has_no_interaction() -> None:
    rng = np.random.default_rng(1)
    hard = rng.random(40)
    rows = [
        (s, x, hard[k] * (0.2 + 0.5 * (s == "people") + 0.3 * (x == "clip")), 0.1, str(k))
        for s in ("people", "captioner")
        for x in ("people", "clip")
        for k in range(40)
    ]
    answers = pd.DataFrame(rows, columns=["speaker", "listener", "score", "chance", "cluster"])
    _, _, interaction = measured(answers)
    assert interaction.value == pytest.approx(0, abs=1e-12)
    # Paired: what makes an item hard cancels from every resample.
    assert interaction.high - interaction.low == pytest.approx(0, abs=1e-9)


def test_an_interaction_is_a_difference_of_differences_and_swapping_names_keeps_it() -> None:
    answers = planted(np.array([[0.9, 0.5], [0.2, 0.8]]), 50, 2, 0.1, 3)
    accuracy, table, interaction = measured(answers)
    a = accuracy.set_index(["speaker", "listener"])["accuracy"]
    by_hand = a["people", "people"] + a["captioner", "clip"] - a["people", "clip"] - a["captioner", "people"]
    assert interaction.value == pytest.approx(by_hand)
    assert table["kind"].tolist() == ["own"]
    swapped = interactions(
        answers, ["captioner", "people"], ["clip", "people"], PAIRS[::-1], None, Resampling(300)
    )
    assert swapped[2].value == pytest.approx(interaction.value)
    # Clusters of one kind are drawn together, in an order that names decide: the draws differ, not their distribution.
    assert swapped[2].low == pytest.approx(interaction.low, abs=0.03)


def test_a_missing_cell_makes_the_interaction_nan_with_its_reason() -> None:
    answers = planted(np.full((2, 2), 0.5), 20, 1, 0.0, 0)
    answers = answers[~((answers["speaker"] == "captioner") & (answers["listener"] == "people"))]
    accuracy, table, interaction = measured(answers)
    assert np.isnan(interaction.value)
    assert interaction.reason == "no answers of people with captions of captioner"
    assert accuracy["n"].tolist() == [20, 20, 0, 20]
    assert np.isnan(accuracy["accuracy"].iloc[2])
    assert table["reason"].tolist() == [interaction.reason]


def test_own_pairs_and_their_squares() -> None:
    assert own_pairs(None, ["a", "b"], ["b", "x"]) == (("b", "b"), ("a", "x"))
    assert own_pairs(None, ["a", "b", "c"], ["b", "x"]) == (("b", "b"),)
    assert own_pairs({"a": ["x", "y"]}, ["a"], ["x", "y"]) == (("a", "x"), ("a", "y"))
    assert squares_of([("a", "x"), ("a", "y")]) == []
    assert len(squares_of([("a", "x"), ("b", "y"), ("c", "z")])) == 3


def test_a_control_splits_an_interaction() -> None:
    square = Square(("people", "rule"), ("tuned", "A"))
    place = {
        (s, x): 2 * k + j
        for k, s in enumerate(("people", "tuned", "full"))
        for j, x in enumerate(("rule", "A"))
    }
    found = control_squares([square], "full")
    assert [one.kind for one in found] == ["less control"] * 2
    first, second = (one.weights(place) for one in found)
    np.testing.assert_array_equal(first + second, square.weights(place))
    for speaker, weights in (("people", first), ("tuned", second)):
        row = ("people", "tuned", "full").index(speaker)
        assert weights.reshape(3, 2).sum(axis=0).tolist() == [0, 0]
        assert (weights.reshape(3, 2)[row] == -weights.reshape(3, 2)[2]).all()
    assert control_squares([square], "people") == []


def test_a_perfect_cell_has_wilsons_interval_and_contrasts_keep_a_width() -> None:
    values, cells, clusters = (
        np.array([1.0] * 10 + [0.0, 1.0] * 5),
        np.repeat([0, 1], 10),
        np.tile(np.arange(10), 2),
    )
    found = estimates(values, cells, clusters, 2, np.array([[1.0, -1.0]]), Resampling(200))
    low = 1 / (1 + stats.t.ppf(0.975, 9) ** 2 / 10)
    assert found.cells.loc[0, ["value", "low", "high"]].tolist() == pytest.approx([1.0, low, 1.0])
    low, high = found.contrasts.loc[0, ["low", "high"]]
    assert low < 0.5 < high
    assert found.cells["n_groups"].tolist() == [10, 10]


def test_intervals_of_one_cell_agree_with_the_plain_cluster_bootstrap() -> None:
    rng = np.random.default_rng(5)
    clusters = rng.integers(0, 80, 400)
    values = (rng.random(400) < 0.3 + 0.4 * (clusters % 2)).astype(float)
    found = estimates(values, np.zeros(400, dtype=int), clusters, 1, None, Resampling(3000)).cells.iloc[0]
    plain = bootstrap(mean, values, clusters=clusters, n_boot=3000)
    assert found["value"] == pytest.approx(plain.value)
    assert found["high"] - found["low"] == pytest.approx(plain.high - plain.low, rel=0.1)


# Calibration


def test_calibration_agrees_with_a_loop_and_with_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    confidence = rng.random(500)
    correct = (rng.random(500) < confidence**2).astype(float)
    share, error = 0.0, 0.0
    for k in range(10):
        there = (confidence >= k / 10) & (confidence < (k + 1) / 10)
        share += there.mean()
        error += there.mean() * abs(confidence[there].mean() - correct[there].mean())
    assert share == pytest.approx(1)
    assert expected_calibration_error(confidence, correct) == pytest.approx(error)
    rows = pd.DataFrame({"item": range(500), "choice": 0})
    accuracy, mean_confidence = calibration_curve(correct, confidence, n_bins=10)
    told = _two_candidates(confidence, correct)
    upper = told.reliability
    assert len(rows) == int(upper["n"].sum())
    two_sided = np.maximum(confidence, 1 - confidence)
    right = np.where(confidence >= 0.5, correct, 1 - correct)
    curve, means = calibration_curve(right, two_sided, n_bins=10)
    np.testing.assert_allclose(upper["accuracy"], curve)
    np.testing.assert_allclose(upper["confidence"], means)
    brier = 2 * np.mean((confidence - correct) ** 2)
    assert told.calibration["brier"].item() == pytest.approx(brier)
    assert len(accuracy) == len(mean_confidence) == 10


def _two_candidates(confidence: np.ndarray, correct: np.ndarray) -> Intelligibility:
    """A model that says how probable "yes" is, of items of which some are."""
    items = [str(k) for k in range(len(confidence))]
    target = np.where(correct == 1, "yes", "no")
    sets = pd.DataFrame({"item": items, "candidates": [["yes", "no"]] * len(items), "target": target})
    frame = pd.DataFrame({"item": items, "yes": np.log(confidence), "no": np.log1p(-confidence)})
    return intelligibility({"s": dict.fromkeys(items, "it is")}, {"model": frame}, sets, n_boot=50)


def test_a_sure_and_right_model_is_calibrated() -> None:
    assert expected_calibration_error(np.ones(5), np.ones(5)) == 0
    assert np.isnan(expected_calibration_error(np.array([]), np.array([])))


# Captions


def test_rarefied_types_agree_with_all_samples() -> None:
    words = ["a", "a", "b", "c"]
    for size in range(5):
        by_hand = np.mean([len(set(one)) for one in combinations(words, size)])
        assert rarefied_types([2, 1, 1], size) == pytest.approx(by_hand)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_entropy_is_between_none_and_that_of_equal_shares(counts: list[int]) -> None:
    bits = entropy_bits(counts)
    assert -1e-12 <= bits <= np.log2(len(counts)) + 1e-12
    assert entropy_bits([2 * one for one in counts]) == pytest.approx(bits)


def test_overlap_at_once_agrees_with_pairs() -> None:
    rng = np.random.default_rng(4)
    names = [f"p{k}" for k in range(30)]
    captions = {name: " ".join(rng.choice(list("abcdef"), rng.integers(0, 5))) for name in names}
    candidates = [sorted({name, *rng.choice(names, 4).tolist()}) for name in names]
    sets = pd.DataFrame({"item": names, "candidates": candidates, "target": names})
    sets = sets[sets["candidates"].map(len) > 1]
    captions = {name: captions[name] for name in sets["item"]}
    choices = sets.assign(choice=sets["target"])[["item", "choice"]]
    told = intelligibility({"s": captions}, {"x": choices}, sets, n_boot=20).captions.iloc[0]
    shared, same = [], []
    for row in sets.itertuples():
        others = [captions[name] for name in row.candidates if name != row.item and name in captions]
        if others:
            shared.append(overlap(words_of(captions[row.item]), [words_of(one) for one in others]))
            same.append(any(one.split() == captions[row.item].split() for one in others))
    assert told["overlap"] == pytest.approx(np.mean(shared))
    assert told["ambiguous"] == pytest.approx(np.mean(same))


def test_statistics_of_captions_by_hand() -> None:
    frame = pd.DataFrame(
        {"item": ["1", "2", "3"], "caption": ["a red a red", "A red!", "a red"], "cluster": ["1", "2", "3"]}
    )
    told = caption_statistics({"s": frame}).iloc[0]
    assert (told["n"], told["words"], told["tokens"], told["types"]) == (3, pytest.approx(8 / 3), 8, 2)
    assert told["repetition"] == pytest.approx(0.5 / 3)
    assert told["repeats"] == pytest.approx(2 / 3)
    assert told["entropy_bits"] == pytest.approx(1)
    assert np.isnan(told["overlap"])


def terse_and_wordy(seed: int) -> pd.DataFrame:
    """Two speakers who are equally clear at a length; one says more of the longer captions."""
    rng = np.random.default_rng(seed)
    parts = []
    for speaker, chance in (("terse", 0.2), ("wordy", 0.8)):
        long = rng.random(500) < chance
        right = (rng.random(500) < np.where(long, 0.9, 0.4)).astype(float)
        part = pd.DataFrame(
            {"score": right, "words": np.where(long, 9, 3), "cluster": np.arange(500).astype(str)}
        )
        parts.append(part.assign(speaker=speaker, listener="x"))
    return pd.concat(parts, ignore_index=True)


def test_a_speaker_who_is_only_wordier_is_no_clearer_at_equal_length() -> None:
    told = [length_matched(terse_and_wordy(seed), Resampling(200)).iloc[0] for seed in range(40)]
    raw = [one["low"] <= 0.6 * 0.5 <= one["high"] for one in told]
    matched = [one["matched_low"] <= 0 <= one["matched_high"] for one in told]
    assert min(sum(raw), sum(matched)) >= 33  # of 40; 95 % are 38, and 33 or fewer come once in 200
    errors = np.array([one["matched"] for one in told])
    assert abs(errors.mean()) < 4 * errors.std() / np.sqrt(40)
    assert all(one["support"] == 1 for one in told)
    answers = terse_and_wordy(0)
    short = answers[(answers["speaker"] == "wordy") | (answers["words"] == 3)]
    by_hand = short[short["words"] == 3].groupby("speaker")["score"].mean()
    told = length_matched(short, Resampling(50)).iloc[0]
    assert told["matched"] == pytest.approx(by_hand["wordy"] - by_hand["terse"])
    assert told["support"] < 1


def test_strata_of_lists_and_of_numbers() -> None:
    items = [str(k) for k in range(12)]
    sets = pd.DataFrame({"item": items, "candidates": [["x", "y"]] * 12, "target": ["x"] * 12})
    captions = pd.DataFrame(
        {
            "item": items,
            "caption": ["it"] * 12,
            "kinds": [["negation", "spatial"], ["spatial"], []] * 4,
            "turn": [0.0, 10.0, 2.0] * 4,
        }
    )
    choices = pd.DataFrame({"item": items, "choice": ["x", "y", "x"] * 4})
    told = intelligibility({"s": captions}, {"l": choices}, sets, strata=["kinds", "turn"], n_boot=50).strata
    rows = told.set_index(["by", "stratum"])
    assert rows["n"].to_dict() == {
        ("kinds", "negation"): 4, ("kinds", "spatial"): 8, ("turn", "0"): 4, ("turn", "2"): 4, ("turn", "10"): 4
    }  # fmt: skip
    assert rows["accuracy"].tolist() == [1.0, 0.5, 1.0, 1.0, 0.0]
