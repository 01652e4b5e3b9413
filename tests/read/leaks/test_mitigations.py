"""Mitigations: laws of each by hypothesis, values by closed forms, erasure that never sees what is tested."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp
from torch import nn

from trimtab.errors import ConfigProblems, DataError
from trimtab.models.readout import Readout
from trimtab.numerics.erasure import leace
from trimtab.read.leaks.encodings import TopTokens
from trimtab.read.leaks.erase import Erase, halves
from trimtab.read.leaks.mitigations import (
    DEFAULT,
    KINDS,
    AnswerOnly,
    Noise,
    Round,
    Temperature,
    Truncate,
    as_used,
    form_of,
    mitigation_of,
    mitigation_problems,
)
from trimtab.read.leaks.served import Inside, Served
from trimtab.seeds import derive

SEEDS = st.integers(0, 2**32 - 1)


def top_of(logits: np.ndarray, k: int) -> TopTokens:
    """The k likeliest tokens, normalised over all of them."""
    values = log_softmax(logits, axis=1)
    ids = np.argsort(-values, axis=1, kind="stable")[:, :k]
    return TopTokens(ids, np.take_along_axis(values, ids, axis=1))


def served_of(seed: int, n: int = 6, k: int = 5, vocabulary: int = 9, *, inside: bool = False) -> Served:
    """Outputs of random logits."""
    logits = 2 * np.random.default_rng(seed).normal(size=(n, vocabulary))
    behind = Inside(lambda t: logsumexp(logits / t, axis=1)) if inside else None
    return Served(top_of(logits, k), logits.argmax(axis=1), np.arange(n), inside=behind)


def equal(one: Served, other: Served, tolerance: float = 0.0) -> bool:
    same = np.array_equal(one.top.ids, other.top.ids)
    return same and np.allclose(one.top.values, other.top.values, rtol=0, atol=tolerance, equal_nan=True)


@given(SEEDS, st.integers(1, 7), st.integers(1, 7))
def test_truncating_twice_is_truncating_to_the_fewer(seed: int, first: int, second: int) -> None:
    served = served_of(seed)
    assert equal(Truncate(second)(Truncate(first)(served)), Truncate(min(first, second))(served))
    assert equal(Truncate(served.k)(served), served)


@given(SEEDS, st.integers(0, 6))
def test_rounding_is_idempotent_sorts_equal_values_by_id_and_is_within_half_a_unit(
    seed: int, decimals: int
) -> None:
    served = served_of(seed)
    once = Round(decimals)(served)
    assert equal(Round(decimals)(once), once)
    ids, values, answer = once.top.ids, once.top.values, served.answer[:, None]
    same = (np.diff(values, axis=1) == 0) & (ids[:, :-1] != answer)
    assert (np.diff(values, axis=1) <= 0).all()
    assert (np.diff(ids, axis=1)[same] > 0).all()
    assert (
        (values[:, 1:] < values[:, :1]) | (ids[:, 1:] != answer)
    ).all()  # the answer is first among its equals
    before, after = (np.argsort(one.top.ids, axis=1) for one in (served, once))
    moved = np.take_along_axis(values, after, 1) - np.take_along_axis(served.top.values, before, 1)
    assert np.abs(moved).max() <= 0.5 * 10.0**-decimals + 1e-12
    assert equal(Round(12)(served), served, 1e-12)


@given(SEEDS, st.floats(0.2, 5.0), st.booleans())
def test_temperature_keeps_order_and_one_changes_nothing(seed: int, t: float, inside: bool) -> None:
    served = served_of(seed, inside=inside)
    assert equal(Temperature(1.0)(served), served, 1e-9)
    warm = Temperature(t)(served)
    assert np.array_equal(warm.top.ids, served.top.ids)
    assert (np.diff(warm.top.values, axis=1) <= 1e-12).all()
    assert (np.exp(warm.top.values).sum(axis=1) <= 1 + 1e-9).all()


def test_temperature_of_a_model_is_a_softmax_of_scaled_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 9))
    inside = Inside(lambda t: logsumexp(logits / t, axis=1))
    served = Served(top_of(logits, 3), logits.argmax(1), np.arange(4), inside=inside)
    expected = np.take_along_axis(log_softmax(logits / 1.7, axis=1), served.top.ids, axis=1)
    assert Temperature(1.7)(served).top.values == pytest.approx(expected, abs=1e-12)
    few = replace(served, rows=np.array([2, 0]), top=served.top.rows(np.array([2, 0])))
    assert Temperature(1.7)(few).top.values == pytest.approx(expected[[2, 0]], abs=1e-12)


def test_temperature_of_a_transcript_takes_the_rest_as_one_token() -> None:
    served = replace(
        served_of(0), top=TopTokens(np.array([[4, 7]]), np.log([[0.5, 0.25]])), rows=np.arange(1)
    )
    expected = np.sqrt([0.5, 0.25]) / np.sqrt([0.5, 0.25, 0.25]).sum()
    assert np.exp(Temperature(2.0)(served).top.values[0]) == pytest.approx(expected)


def test_rows_that_served_fewer_tokens_keep_their_gaps() -> None:
    top = TopTokens(np.array([[4, 7], [5, -1]]), np.array([[-0.5, -1.25], [-0.25, np.nan]]))
    served = Served(top, np.array([4, 5]), np.arange(2))
    for mitigation in (Round(0), Noise(0.5), Temperature(2.0), Truncate(2)):
        after = mitigation(served).top
        assert after.ids[1].tolist() == [5, -1]
        assert np.isnan(after.values[1, 1])


def test_noise_is_sorted_repeatable_and_falls_with_the_square_root_of_the_queries() -> None:
    served = served_of(0, n=4000, k=5)
    plain = dict(
        zip(served.top.ids.ravel().tolist()[:5], served.top.values.ravel().tolist()[:5], strict=True)
    )
    spread = {}
    for queries in (1, 16):
        after = Noise(0.5, queries)(served, seed=3)
        assert equal(after, Noise(0.5, queries)(served, seed=3))
        assert (np.diff(after.top.values, axis=1) <= 0).all()
        assert np.array_equal(np.sort(after.top.ids, axis=1), np.sort(served.top.ids, axis=1))
        assert set(after.top.ids[0].tolist()) == set(plain)
        back = np.argsort(after.top.ids, axis=1), np.argsort(served.top.ids, axis=1)
        pair = [
            np.take_along_axis(each.top.values, by, axis=1)
            for each, by in zip((after, served), back, strict=True)
        ]
        spread[queries] = (pair[0] - pair[1]).std()
    assert spread[1] == pytest.approx(0.5, rel=0.03)
    assert spread[16] == pytest.approx(0.125, rel=0.03)
    assert not equal(Noise(0.5)(served, seed=3), Noise(0.5)(served, seed=4))
    assert as_used(Noise(0.5, 16)) == Noise(0.5)
    assert as_used(Round(1)) == Round(1)


@given(SEEDS)
def test_answer_only_is_the_confidence_of_a_yes_or_no_question(seed: int) -> None:
    served = replace(served_of(seed, k=9), options=(1, 2))
    served = replace(served, answer=np.array([1, 2, 1, 2, 1, 2]))
    after = AnswerOnly()(served)
    by_id = np.take_along_axis(served.top.values, np.argsort(served.top.ids, axis=1), axis=1)
    sign = np.where(served.answer == 1, 1.0, -1.0)
    expected = -np.log1p(np.exp(-sign * (by_id[:, 1] - by_id[:, 2])))  # log of the logistic of the difference
    assert after.top.ids[:, 0].tolist() == served.answer.tolist()
    assert after.top.values[:, 0] == pytest.approx(expected, abs=1e-9)


def test_answer_only_of_an_answer_that_is_not_served_is_the_lowest_value() -> None:
    top = TopTokens(np.array([[4, 7], [4, 7], [7, 4]]), np.log([[0.5, 0.25], [0.9, 0.05], [0.6, 0.3]]))
    served = Served(top, np.array([4, 8, 4]), np.arange(3), options=(7,))
    after = AnswerOnly()(served).top
    assert after.ids[:, 0].tolist() == [4, 8, 4]
    assert np.exp(after.values[:, 0]) == pytest.approx([2 / 3, 1 / 3, 1 / 3])


def test_what_was_served_is_never_changed_in_place() -> None:
    served = served_of(1)
    ids, values = served.top.ids.copy(), served.top.values.copy()
    for mitigation in DEFAULT:
        mitigation(served)
    assert np.array_equal(served.top.ids, ids)
    assert np.array_equal(served.top.values, values)


def behind_of(seed: int = 0, n: int = 80) -> tuple[Served, Readout]:
    """Outputs of a linear readout of states in which a colour stands."""
    rng = np.random.default_rng(seed)
    colour = rng.integers(0, 3, n)
    states = (2 * np.eye(3)[colour] @ rng.normal(size=(3, 6)) + rng.normal(size=(n, 6))).astype(np.float32)
    head = nn.Linear(6, 12, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(rng.normal(size=(12, 6))))
    readout = Readout(("in", "out"), 6, 12, "print", norm=nn.LayerNorm(6), head=head)
    with torch.no_grad():
        logits = readout.logits(torch.from_numpy(states)).double().numpy()
    table = pd.DataFrame({"colour": np.array(["red", "blue", "green"], dtype=object)[colour]})
    inside = Inside(lambda t: logsumexp(logits / t, axis=1), states, readout)
    answers, groups = logits.argmax(axis=1), np.arange(n) // 2
    return Served(top_of(logits, 4), answers, np.arange(n), (), table, groups, inside), readout


def test_erasure_serves_the_other_half_as_the_closed_form_says() -> None:
    served, readout = behind_of()
    after = Erase("colour")(served, seed=5)
    fitted, tested = halves(served.groups, derive(5, "erase", "colour"))
    assert after.rows.tolist() == tested.tolist()
    assert not set(served.groups[fitted]) & set(served.groups[tested])
    assert abs(len(fitted) - len(tested)) <= 2
    assert served.inside is not None
    with torch.no_grad():
        normed = readout.normed(torch.from_numpy(served.inside.states)).double().numpy()
        dummies = pd.get_dummies(served.attributes["colour"].iloc[fitted]).to_numpy(float)
        weights = readout.unembedding().double().numpy()
    logits = leace(normed[fitted], dummies)(normed[tested]) @ weights.T
    expected = top_of(logits, 4)
    assert np.array_equal(after.top.ids, expected.ids)
    assert after.top.values == pytest.approx(expected.values, abs=1e-4)
    assert np.array_equal(after.answer, after.top.ids[:, 0])


def test_erasure_never_reads_a_label_of_a_row_that_is_tested() -> None:
    served, _ = behind_of()
    after = Erase("colour")(served, seed=5)
    table = served.attributes.copy()
    table.loc[after.rows, "colour"] = "another"
    again = Erase("colour")(replace(served, attributes=table), seed=5)
    assert equal(after, again)


def test_erasure_fits_on_rows_that_have_the_attribute() -> None:
    served, _ = behind_of()
    table = served.attributes.copy()
    table.loc[::3, "colour"] = None
    after = Erase("colour")(replace(served, attributes=table), seed=5)
    assert np.array_equal(after.rows, Erase("colour")(served, seed=5).rows)
    table["colour"] = "red"
    with pytest.raises(DataError, match="erase colour: got 1 class among the 40 rows to fit on, expected at"):
        Erase("colour")(replace(served, attributes=table), seed=5)


def test_erasure_without_a_model_or_of_an_unknown_attribute_is_refused() -> None:
    with pytest.raises(DataError, match="erase: got outputs without the hidden states behind them, expected"):
        Erase("colour")(served_of(0))
    served, _ = behind_of()
    with pytest.raises(DataError, match="erase: got 'color', expected one of 'colour'; try 'colour'"):
        Erase("color")(served)


@pytest.mark.parametrize("mitigation", [*DEFAULT, Erase("colour"), Noise(0.25, 1)], ids=repr)
def test_forms_in_yaml_make_the_mitigation_again(mitigation: Any) -> None:
    assert mitigation_of(form_of(mitigation)) == mitigation
    assert mitigation_of(mitigation) is mitigation
    assert KINDS[mitigation.name] is type(mitigation)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"trunkate": 5}, "mitigations: got .*, expected one of 'truncate'.*; try 'truncate'"),
        ("noise", "mitigations.noise: got .*, expected settings among scale, queries; try"),
        ({"noise": {"sigma": 1.0}}, "mitigations.noise: got .*, expected settings among scale, queries"),
        ({"noise": 0}, "mitigations.noise.scale: got 0, expected a deviation above 0 nats; try 0.5"),
        ({"noise": {"scale": 1.0, "queries": 0}}, "mitigations.noise.queries: got 0, expected at least 1"),
        ({"truncate": "5"}, "mitigations.truncate.k: got '5', expected a whole number; try 5 without quotes"),
        ({"truncate": True}, "mitigations.truncate.k: got true, expected a whole number"),
        ({"truncate": 2.5}, "mitigations.truncate.k: got 2.5, expected a whole number"),
        ({"round": 13}, "mitigations.round.decimals: got 13, expected 0 to 12 decimals; try 1"),
        ({"temperature": float("nan")}, "mitigations.temperature.t: got NaN, expected a temperature above 0"),
        ({"erase": ""}, "mitigations.erase.attribute: got '', expected the name of an attribute; try"),
        ({"answer-only": {"k": 3}}, "mitigations.answer-only: got .*, expected no settings"),
        (5, "mitigations: got 5, expected one of"),
        ({"truncate": 5, "round": 1}, "mitigations: got .*, expected one of"),
    ],
)
def test_wrong_forms_say_what_to_try(form: Any, message: str) -> None:
    with pytest.raises(ConfigProblems, match=message):
        mitigation_of(form)


def test_settings_made_in_python_are_checked_too() -> None:
    with pytest.raises(ConfigProblems, match=r"truncate\.k: got 0, expected at least 1 token; try 1"):
        Truncate(0)


def test_problems_of_a_list_come_all_at_once() -> None:
    forms = [{"truncate": 0}, {"erase": "color"}, {"round": 1}, Erase("colour")]
    problems = [str(one) for one in mitigation_problems(forms, ["colour"], model=True)]
    assert len(problems) == 2
    assert problems[1] == "mitigations[1].erase: got 'color', expected one of 'colour'; try 'colour'"
    transcript = [str(one) for one in mitigation_problems(forms[2:], ["colour"], model=False)]
    assert len(transcript) == 1
    assert "a transcript holds no hidden states to change" in transcript[0]
