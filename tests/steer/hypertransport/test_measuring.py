"""Scores with intervals, means over concepts, equal input fidelity, the break-even count, and fidelities."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

import tiny_generator as tiny
from tiny_judge import TinyJudge
from trimtab.errors import ConfigError, DataError, ModelError
from trimtab.steer.hypertransport.concept_file import ConceptRow
from trimtab.steer.hypertransport.judging import ByEncoder, ByJudge, Marks, judge_of
from trimtab.steer.hypertransport.measuring import (
    ALL_HELD_OUT,
    at_equal_input,
    break_even,
    means,
    scores,
    within_budget,
)


def test_scores_of_shares_are_wilsons_and_those_of_means_hold_the_mean():
    marks = Marks(np.array([1.0, 0, 1, 1, 0, 1, 1, 1]), np.linspace(0, 1, 8))
    told = scores(marks, shares=True)
    ends = binomtest(6, 8).proportion_ci(0.95, method="wilson")
    assert told["concept_fidelity"] == 0.75
    assert told["concept_fidelity_low"] == pytest.approx(ends.low, abs=1e-10)
    assert told["concept_fidelity_high"] == pytest.approx(ends.high, abs=1e-10)
    assert told["input_fidelity"] == pytest.approx(0.5)
    assert told["input_fidelity_low"] < 0.5 < told["input_fidelity_high"]
    cosines = scores(Marks(np.array([-0.5, 0.5]), np.array([0.1, 0.1])), shares=False)
    assert cosines["concept_fidelity"] == 0


@given(st.floats(0, 1e4), st.floats(0, 5), st.floats(0, 20))
def test_the_break_even_count_is_the_fewest(training, each, rival):
    n = break_even(training, each, rival)
    if math.isnan(n):
        assert rival <= each + 1e-290
    elif n < 1e5:
        slack = 1e-6 * (1 + training + n * rival)
        assert training + n * each < n * rival + slack
        assert training + (n - 1) * each >= (n - 1) * rival - slack


def test_no_break_even_where_a_time_is_unknown():
    assert math.isnan(break_even(math.nan, 1.0, 2.0))
    assert math.isnan(break_even(1.0, 1.0, math.nan))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=6), st.floats(0, 0.5))
def test_equal_input_fidelity_is_where_the_line_crosses(points, budget):
    """A walk in small steps along the line through all points finds the same place."""
    inputs, concepts = (np.array(side) for side in zip(*points, strict=True))
    told = within_budget(inputs.tolist(), concepts.tolist(), budget)
    at = np.linspace(0, len(inputs) - 1, 4001)
    walk = np.interp(at, np.arange(len(inputs)), inputs) < inputs[0] - budget
    first = int(walk.argmax()) if walk.any() else len(at) - 1
    near = np.interp(at[max(first - 1, 0) : first + 1], np.arange(len(inputs)), concepts)
    assert near.min() - 2e-3 <= told <= near.max() + 2e-3


def table() -> pd.DataFrame:
    rows = []
    for concept, split, reached in (
        ("a", "held value", 0.2),
        ("b", "held value", 0.6),
        ("c", "training", 1.0),
    ):
        rows.append((concept, split, "unsteered", 0.0, 0.0, 0.9))
        rows.append((concept, split, "hypertransport", 1.0, reached, 0.8))
        rows.append((concept, split, "truth", math.nan, 1.0, 1.0))
    frame = pd.DataFrame(
        rows, columns=["concept", "split", "method", "strength", "concept_fidelity", "input_fidelity"]
    )
    ends = {
        f"{name}_{end}": 0.0 for name in ("concept_fidelity", "input_fidelity") for end in ("low", "high")
    }
    return frame.assign(**ends, truth_distance=0.25, n=4)


def test_means_count_each_concept_once_and_hold_training_apart():
    told = means(table()).set_index(["split", "method"])
    held = told.loc[(ALL_HELD_OUT, "hypertransport")]
    assert held["concept_fidelity"] == pytest.approx(0.4)
    assert (held["concept_fidelity_low"], held["concept_fidelity_high"]) == (0.2, 0.6)
    assert held["n"] == 2
    assert told.loc[("training", "hypertransport"), "concept_fidelity"] == 1
    assert math.isnan(told.loc[("training", "hypertransport"), "concept_fidelity_low"])
    assert told.loc[(ALL_HELD_OUT, "truth"), "concept_fidelity"] == 1


def test_at_equal_input_fidelity_half_the_way_has_half_the_effect():
    told = at_equal_input(table(), 0.05).set_index(["split", "method"])
    assert told.loc[(ALL_HELD_OUT, "hypertransport"), "concept_fidelity"] == pytest.approx(0.2)
    assert told.loc[("training", "hypertransport"), "concept_fidelity"] == pytest.approx(0.5)
    assert set(told.reset_index()["method"]) == {"hypertransport"}


def test_a_judge_counts_what_is_seen_and_leaves_out_what_is_not_asked():
    fidelity, red = ByJudge(TinyJudge()), ConceptRow("red", ("a", "b"), values={"colour": "red"})
    prompts = ["blue cross left", "blue ring", "blue"]
    perfect = TinyJudge().truth(prompts, {"colour": "red"}, 0)
    marks = fidelity.marks(perfect, prompts, red)
    assert marks.concept.tolist() == [1, 1, 1]
    assert marks.others[:2].tolist() == [1, 1]
    assert math.isnan(marks.others[2])
    untouched = fidelity.marks(TinyJudge().truth(prompts, {}, 0), prompts, red)
    assert untouched.concept.tolist() == [0, 0, 0]


def test_a_judge_refuses_what_it_cannot_see():
    fidelity, outputs = ByJudge(TinyJudge()), TinyJudge().truth(["red"], {}, 0)
    with pytest.raises(DataError, match="the attribute 'size', expected one of"):
        fidelity.marks(outputs, ["red"], ConceptRow("x", ("a",), values={"size": "large"}))
    with pytest.raises(DataError, match="concept 'x': got no values"):
        fidelity.marks(outputs, ["red"], ConceptRow("x", ("a",)))
    with pytest.raises(ConfigError, match=r"judge: got 'tiny_judge:Nobody' .* expected module:name"):
        judge_of("tiny_judge:Nobody")
    with pytest.raises(ConfigError, match=r"makes a tuple without see\(\)"):
        judge_of("tiny_judge:COLOURS")


def test_an_encoder_gives_cosines_to_the_name_and_to_each_prompt():
    encoder, prompts = tiny.encoder(), ["red disc left", "blue box right"]
    pictures = tiny.handle().generate(prompts, seed=0)
    marks = ByEncoder(encoder).marks(pictures, prompts, ConceptRow("red", ("a", "b")))
    assert encoder.pictures is not None
    seen, name, asked = encoder.pictures(pictures), encoder.texts(["red"]), encoder.texts(prompts)
    assert np.allclose(marks.concept, torch.cosine_similarity(seen, name).numpy(), atol=1e-6)
    assert np.allclose(marks.others, torch.cosine_similarity(seen, asked).numpy(), atol=1e-6)
    silent = ByEncoder(encoder).marks(["", " \n"], prompts, ConceptRow("red", ("a", "b")))
    assert (silent.concept.tolist(), silent.others.tolist()) == ([0, 0], [0, 0])
    half = ByEncoder(encoder).marks(["", prompts[1]], prompts, ConceptRow("red", ("a", "b")))
    assert (half.others[0], half.others[1]) == (0, pytest.approx(1, abs=1e-6))
    texts = ByEncoder(tiny.encoder(sees=False)).marks(prompts, prompts, ConceptRow("red", ("a", "b")))
    assert np.allclose(texts.others, 1, atol=1e-6)
    with pytest.raises(ModelError, match="which reads texts alone, expected an encoder of two towers"):
        ByEncoder(tiny.encoder(sees=False)).marks(pictures, prompts, ConceptRow("red", ("a", "b")))
