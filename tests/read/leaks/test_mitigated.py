"""Leaks of mitigated outputs against the estimator itself, and paired with the unmitigated ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import log_softmax, logsumexp
from torch import nn

from quick_leaks import questions as model_questions
from tiny_models import build, tokenizer
from trimtab import Hidden, TopLogprobs, load
from trimtab.models.readout import Readout, readout_of
from trimtab.read.leaks import erase
from trimtab.read.leaks.encodings import TopTokens, encode
from trimtab.read.leaks.erase import Erase
from trimtab.read.leaks.estimate import estimate_leak, leak_difference
from trimtab.read.leaks.mitigated import COLUMNS, mitigation_rows, served_by, served_in, temperatures_of
from trimtab.read.leaks.mitigations import (
    AnswerOnly,
    Noise,
    Round,
    Temperature,
    Truncate,
)
from trimtab.read.leaks.model_pass import read_model
from trimtab.read.leaks.questions import Accounting, Questions, read_questions
from trimtab.read.leaks.served import Inside, Served
from trimtab.seeds import derive

HOW: dict[str, Any] = {"classifiers": ("logistic",), "against": "classes"}
N, V = 120, 8


@pytest.fixture(scope="module")
def states() -> np.ndarray:
    rng = np.random.default_rng(0)
    city = np.arange(N) % 2
    return np.column_stack([4.0 * city - 2.0 + 0.5 * rng.normal(size=N), rng.normal(size=(N, 4))])


@pytest.fixture(scope="module")
def questions() -> Questions:
    city = np.array(["Cairo", "Oslo"], dtype=object)[np.arange(N) % 2]
    table = pd.DataFrame({"city": city})
    roles = pd.DataFrame({"city": ["background"] * N})
    return Questions((), table, roles, np.arange(N) // 2, Accounting.of("questions", N, {}))


@pytest.fixture(scope="module")
def served(states: np.ndarray, questions: Questions) -> Served:
    """Outputs of a linear readout of states in whose first coordinate the city stands; the answer says nothing."""
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(V, 5)) * 0.5
    weights[0] = 0
    head = nn.Linear(5, V)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weights))
        head.bias.copy_(torch.tensor([9.0] + [0.0] * (V - 1)))
    logits = (states @ weights.T + head.bias.detach().numpy()).astype(np.float64)
    values = log_softmax(logits, axis=1)
    ids = np.argsort(-values, axis=1)[:, :6]
    top = TopTokens(ids, np.take_along_axis(values, ids, axis=1))
    readout = Readout(("in", "out"), 5, V, "print", head=head)
    inside = Inside(lambda t: logsumexp(logits / t, axis=1), states.astype(np.float32), readout)
    assert (ids[:, 0] == 0).all()
    return Served(top, ids[:, 0], np.arange(N), (), questions.attributes, questions.groups, inside)


@pytest.fixture(scope="module")
def rows(served: Served, questions: Questions) -> pd.DataFrame:
    tried = [Truncate(1), Round(0), Noise(20.0), Noise(20.0, 2500), AnswerOnly(), Erase("city")]
    return mitigation_rows(served, questions, tried, right=np.arange(N) % 4 > 0, **HOW)


def row(rows: pd.DataFrame, mitigation: str, setting: str | None = None) -> dict[str, Any]:
    found = rows[rows["mitigation"] == mitigation]
    found = found if setting is None else found[found["setting"] == setting]
    assert len(found) == 1
    return {str(name): value for name, value in found.to_dict("records")[0].items()}


def test_a_row_is_the_leak_of_what_is_served_and_its_paired_change(
    rows: pd.DataFrame, served: Served, questions: Questions
) -> None:
    labels, seed = questions.attributes["city"].to_numpy(str), derive(0, "leak", "city", "background")
    plain, rounded = (
        estimate_leak(encode(top, "served"), labels, questions.groups, None, seed, classifiers=("logistic",))
        for top in (served.top, Round(0)(served).top)
    )
    none, got = row(rows, "none"), row(rows, "round")
    assert (none["bits"], none["low"], none["high"]) == (plain.bits, plain.low, plain.high)
    assert (got["bits"], got["accuracy"], got["n"]) == (rounded.bits, rounded.accuracy, N)
    paired = leak_difference(rounded, plain)
    assert (got["change"], got["change_low"], got["change_high"]) == (paired.bits, paired.low, paired.high)
    assert tuple(rows.columns) == COLUMNS
    assert np.isnan(none["change"])


def test_what_hides_the_city_hides_it_and_what_asks_again_finds_it(rows: pd.DataFrame) -> None:
    assert row(rows, "none")["low"] > 0.7
    noisy, asked_again = row(rows, "noise", "20, 1 query"), row(rows, "noise", "20, 2500 queries")
    assert noisy["high"] < asked_again["low"]
    assert asked_again["bits"] > 0.5
    for name in ("same_answer", "answer_error_nats", "kept"):  # a caller asks once
        ends = (min(one[f"{name}_high"] for one in (noisy, asked_again)), noisy[f"{name}_low"])
        assert ends[0] >= ends[1]
    assert row(rows, "answer-only")["accuracy_high"] < 0.7  # one answer for all: its confidence is 1
    assert row(rows, "truncate")["change_high"] < 0


def test_no_mitigation_hides_the_answer(questions: Questions) -> None:
    rng, answer = np.random.default_rng(2), np.arange(N) % 2  # the answer says the city
    ids = np.column_stack([answer, 1 - answer, np.full(N, 2)])
    values = np.log(np.sort(rng.dirichlet(np.ones(3), N))[:, ::-1])
    told = mitigation_rows(
        served_in(TopTokens(ids, values), answer), questions, [Noise(99.0), Round(0)], **HOW
    )
    assert (told["low"] > 0.9).all()


def test_erasure_is_tested_on_the_half_that_it_was_not_fitted_on(rows: pd.DataFrame) -> None:
    erased = row(rows, "erase")
    assert erased["n"] == N // 2
    assert erased["groups"] == N // 4
    assert erased["bits"] < 0.2
    assert erased["change_high"] < 0
    assert len(rows) == 7


def test_a_transcript_has_all_but_erasure_and_classes_it_cannot_measure_say_why(questions: Questions) -> None:
    ids = np.arange(N)[:, None] + np.array([0, 1000])
    top = TopTokens(ids, np.tile([-0.1, -3.0], (N, 1)))
    got = mitigation_rows(served_in(top, ids[:, 0]), questions, [Truncate(1)], **HOW)
    assert got["bits"].isna().all()
    assert got["why"].str.contains("answers that share no token").all()
    assert got["same_answer"].tolist() == [1.0, 1.0]
    assert mitigation_rows(served_in(top, ids[:, 0]), questions, [], **HOW).empty


def test_temperatures_that_readings_need() -> None:
    tried = [Temperature(2.0), Truncate(1), Temperature(0.5), Temperature(2.0)]
    assert temperatures_of(tried) == (2.0, 0.5)


def test_an_erasure_that_erases_nothing_serves_what_a_model_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, asked = (
        load(build("gemma2"), tokenizer=tokenizer()),
        read_questions(model_questions(), ["colour"], group="scene"),
    )
    readings = read_model(
        model, asked, [Hidden((-1,)), TopLogprobs(5)], tmp_path / "readings", temperatures=(2.0,)
    )
    served = served_by(readings, asked, 5, readout=readout_of(model), options=(3,))
    monkeypatch.setattr(erase, "leace", lambda states, labels: lambda rows: rows)
    after = Erase("colour")(served)
    assert 0 < len(after.rows) < readings.n
    assert after.top.values == pytest.approx(served.top.values[after.rows], abs=1e-4)
    assert np.array_equal(after.answer, served.answer[after.rows])
    warm = Temperature(2.0)(served).top.values
    assert warm == pytest.approx(readings.serve(5, temperature=2.0).values, abs=1e-5)
