"""Controls of an audit: inputs, majority, shuffled labels, and the data-processing checks by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quick_leaks import questions, quick_leak
from trimtab.numerics.bootstrap import wilson
from trimtab.read.leaks.cells import Cell, Measured, samples_of
from trimtab.read.leaks.controls import (
    CHECK,
    Bag,
    OneHot,
    checks_of,
    input_controls,
    majority_rows,
    pixels,
    shuffled,
)
from trimtab.read.leaks.questions import read_questions


def test_controls_of_texts_and_of_what_is_unknown() -> None:
    asked = read_questions(questions(), ["colour"], group="scene")
    question, text = input_controls(asked)
    assert (question.control, question.against) == ("question-only", "classes")
    assert (text.control, text.against) == ("text", "question")
    assert text.features(np.arange(8)).shape[1] > question.features(np.arange(8)).shape[1]
    assert input_controls(replace(asked, known=None, prompts=())) == []


def test_pixels_of_pictures_are_scaled(tmp_path: Path) -> None:
    frame = questions(24)
    for row in range(24):
        colour = (255, 0, 0) if frame["colour"][row] == "red" else (0, 0, 255)
        Image.new("RGB", (31, 17), colour).save(tmp_path / f"{row}.png")
    frame["image"] = [str(tmp_path / f"{row}.png") for row in range(24)]
    asked = read_questions(frame, ["colour"], group="scene")
    (control,) = [cell for cell in input_controls(asked) if cell.control == "pixels"]
    features = control.features(np.array([0, 2]))
    assert features.shape == (2, 20 * 20 * 3)
    assert features[0].reshape(20, 20, 3)[5, 5].tolist() == [1.0, 0.0, 0.0]
    assert pixels([tmp_path / "2.png"])[0].reshape(20, 20, 3)[0, 0].tolist() == [0.0, 0.0, 1.0]


def test_a_bag_without_words_that_differ_is_one_empty_column() -> None:
    assert Bag(("same", "same")).__call__(np.array([0, 1])).tolist() == [[0.0], [0.0]]
    assert OneHot(np.array([7, 5, 7, 5]))(np.array([0, 1, 2, 3])).tolist() == [[0, 1], [1, 0], [0, 1], [1, 0]]


def test_majority_is_the_share_of_the_largest_class() -> None:
    frame = questions().assign(colour=["red"] * 30 + ["blue"] * 18, mentioned=[[]] * 48, scene=range(48))
    (row,) = majority_rows(samples_of(read_questions(frame, ["colour"], group="scene")))
    assert row["accuracy"] == row["chance"] == 30 / 48
    rough = wilson(30, 48)
    assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx((rough.low, rough.high), abs=0.01)
    assert "bits" not in row


def test_labels_of_a_shuffled_cell() -> None:
    cell = shuffled(Cell("logprobs", np.atleast_2d, encoding="served", k=5))
    assert (cell.control, cell.shuffled, cell.k) == ("shuffled labels", True, 5)


def told(
    level: str, strength: float, *, k: int | None = None, layer: int | None = None, control: str = ""
) -> Measured:
    """A measured cell whose features show the label at a signal-to-noise ratio."""
    labels = np.tile([0, 1], 60)
    noise = np.random.default_rng(len(level) + (k or 0)).normal(size=120)
    leak = quick_leak((strength * labels + noise)[:, None], labels, np.arange(120))
    cell = Cell(level, np.atleast_2d, k=k, layer=layer, control=control)
    return Measured("colour", "unmentioned", cell, np.arange(120), leak)


def test_the_order_of_levels_is_checked_by_paired_differences() -> None:
    strong, weak = told("logprobs", 9.0, k=5), told("logprobs", 0.0, k=2)
    everything, state = told("logits", 9.0, control=CHECK), told("hidden", 0.0, layer=4)
    middle, random_tokens = told("hidden", 9.0, layer=2), told("logits", 9.0, k=9, control="random tokens")
    checks = checks_of([weak, strong, everything, state, middle, random_tokens], final=4)
    assert checks[["lesser", "greater", "holds"]].to_numpy().tolist() == [
        ["top k", "all logits", True],
        ["top k", "final hidden state", False],
        ["all logits", "final hidden state", False],
    ]
    assert strong.leak is not None
    assert state.leak is not None
    gap = strong.leak.nats - strong.leak.baseline_nats - (state.leak.nats - state.leak.baseline_nats)
    assert checks["bits"][1] == pytest.approx(gap.mean() / np.log(2))
    assert (checks["n"] == 120).all()


def test_nothing_to_compare_is_an_empty_frame() -> None:
    missing = replace(told("hidden", 1.0, layer=4), leak=None, why="none")
    assert checks_of([missing, told("logprobs", 1.0, k=2)], final=4).empty
