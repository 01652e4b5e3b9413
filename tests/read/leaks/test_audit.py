"""Audit of a model: levels become cells, controls are always there, and a killed call goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from quick_leaks import questions, quick_leak
from tiny_models import build, tokenizer
from trimtab import Answer, Hidden, Model, TopLogits, TopLogprobs, Trajectory, audit, load
from trimtab.errors import ConfigProblems
from trimtab.read.leaks import assessment, cells, model_cells
from trimtab.read.leaks.audit import CELL, onward
from trimtab.read.leaks.mitigations import Round, Truncate
from trimtab.read.leaks.model_cells import cells_of, read_for_audit, setting_of, with_lenses
from trimtab.read.leaks.questions import read_questions
from trimtab.read.leaks.result import LeaksResult

LEVELS = [Hidden((-1,)), Trajectory(), TopLogprobs((2, 99), decimals=2), Answer()]
HOW: dict[str, Any] = {"background": ["city"], "group": "scene", "levels": LEVELS}


@pytest.fixture(scope="module")
def model() -> Model:
    return load(build("llama"), tokenizer=tokenizer())


@pytest.fixture(scope="module")
def result(model: Model) -> Iterator[LeaksResult]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cells, "estimate_leak", quick_leak)
        yield audit(model, questions(), ["colour"], mitigations=[Truncate(1), Round(0)], max_bits=0.1, **HOW)


def test_every_attribute_role_and_level_has_a_row(result: LeaksResult, model: Model) -> None:
    pairs = [("colour", "mentioned"), ("colour", "unmentioned"), ("city", "background")]
    assert list(dict.fromkeys(zip(result.table["attribute"], result.table["role"], strict=True))) == pairs
    one = result.table[(result.table["attribute"] == "city")]
    vocabulary = model.module.config.vocab_size
    assert one[["level", "encoding", "setting", "k", "layer"]].fillna(-1).to_numpy().tolist() == [
        ["hidden", "", "", -1, 2],
        ["trajectory", "", "", 2, -1],
        ["logprobs", "sorted", "2 decimals", 2, -1],
        ["logprobs", "sorted", "2 decimals", vocabulary, -1],
        ["logprobs", "served", "2 decimals", 2, -1],
        ["logprobs", "served", "2 decimals", vocabulary, -1],
        ["answer", "", "", -1, -1],
    ]
    asked = result.table.groupby(["attribute", "role"])["question_only"].first()
    assert asked["colour", "mentioned"] == 1.0
    assert asked["colour", "unmentioned"] < 0.8


def test_every_control_is_there_for_every_attribute_and_role(result: LeaksResult) -> None:
    names = {
        "majority", "question-only", "answer-only", "random tokens", "text", "shuffled labels", "untrained model"
    }  # fmt: skip
    for _, rows in result.controls.groupby(["attribute", "role"]):
        assert set(rows["control"]) == names
        assert rows["k"][rows["control"] == "random tokens"].tolist() == [2, 64]
        assert rows["level"][rows["control"] == "untrained model"].tolist() == ["hidden", "logprobs"]
    assert set(result.checks["lesser"]) == {"top k", "all logits"}
    assert set(result.checks["greater"]) == {"all logits", "final hidden state"}


def test_mitigations_recommendation_and_accounting_stand_beside(result: LeaksResult) -> None:
    assert set(result.mitigations["mitigation"]) == {"none", "truncate", "round"}
    assert result.recommendation
    assert result.summary() == result.recommendation
    for _, rows in result.accounting.groupby("where"):
        numbers = rows["rows"].tolist()
        assert numbers[0] == sum(numbers[1:])
    assert result.facts["states"] == 3
    assert result.max_bits == 0.1


def test_cells_hold_what_the_readings_hold(model: Model, tmp_path: Path) -> None:
    asked = read_questions(questions(), ["colour"], group="scene")
    levels = [Hidden(), TopLogits(3, encodings=("fixed", "random")), TopLogits(None)]
    levels += [TopLogprobs(3, temperature=2.0, encodings=("sorted",))]
    reading = read_for_audit(model, asked, levels, tmp_path, controls=False)
    rows = np.array([5, 1])
    features = [cell.features(rows) for cell in cells_of(levels, reading.readings)]
    logits = reading.readings.all_logits()[rows]
    assert [one.shape for one in features[:5]] == [(2, 16)] * 3 + [(2, 3), (2, 64)]
    assert np.array_equal(features[2], reading.readings.hidden(-1)[rows])
    fixed = reading.readings.fixed_ids[:3]
    assert features[3] == pytest.approx(logits[:, fixed])
    scaled = torch.from_numpy(np.array(logits)).double().div(2).log_softmax(-1).numpy()
    assert features[5] == pytest.approx(-np.sort(-scaled, axis=1)[:, :3], abs=1e-5)
    assert reading.controls == []
    assert reading.served is not None
    assert reading.served.k == 3


def test_a_killed_audit_goes_on_and_ends_alike(
    model: Model,
    quick: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few: dict[str, Any] = {**HOW, "levels": [Hidden((-1,)), TopLogprobs(2)], "mitigations": [Truncate(1)]}
    state = torch.random.get_rng_state()
    frame = questions()
    before = frame.copy(deep=True)
    whole = audit(model, frame, ["colour"], **few)
    pd.testing.assert_frame_equal(frame, before)
    assert torch.equal(torch.random.get_rng_state(), state)

    def broken(*_given: Any, **_more: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(assessment, "mitigation_rows", broken)
        with pytest.raises(KeyboardInterrupt):
            audit(model, questions(), ["colour"], folder=tmp_path, **few)
    resumed = audit(model, questions(), ["colour"], folder=tmp_path, **few)
    for name in ("table", "controls", "checks", "mitigations", "accounting"):
        pd.testing.assert_frame_equal(getattr(resumed, name), getattr(whole, name))
    assert resumed.recommendation == whole.recommendation


def test_lenses_by_name_are_fitted_once_and_said(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = read_questions(questions(), ["colour"], group="scene")
    fitted = []

    class Fitted:
        name = "tuned"

        def save_pretrained(self, folder: Path) -> None:
            folder.mkdir(parents=True)

    def lens_of(source: Any, *_given: Any, **_more: Any) -> Fitted:
        fitted.append(source)
        return Fitted()

    monkeypatch.setattr(model_cells, "lens_of", lens_of)
    for _ in range(2):
        levels, told = with_lenses(
            [Trajectory("tuned"), Trajectory(), Answer()], model, asked, None, tmp_path
        )
        assert told == ["The tuned lens was fitted on the prompts of the questions themselves."]
        assert isinstance(levels[0].lens, Fitted)  # type: ignore[union-attr]
        assert levels[1:] == [Trajectory(), Answer()]
    assert fitted.count("tuned") == 1
    assert with_lenses([Trajectory("tuned")], model, asked, ["a text"], tmp_path)[1] == []
    assert fitted.count("tuned") == 2


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"levels": []}, "levels: got none, expected a list of levels"),
        (
            {"levels": [Hidden()], "max_bits": 0.1},
            r"max_bits: got a bound, and levels that no caller sees \(hidden\)",
        ),
        ({"max_bits": -1.0}, "max_bits: got -1.0, expected a number of bits, 0 or more"),
        ({"jobs": 0}, "jobs: got 0, expected at least 1"),
        ({"batch_size": True}, "batch_size: got True, expected at least 1, whole"),
        ({"mitigations": [{"truncate": 0}]}, r"mitigations\[0\].truncate.k: got 0"),
    ],
)
def test_settings_are_refused_before_anything_is_read(more: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigProblems, match=told):
        audit("no model", "no-file.jsonl", ["colour"], **more)


def test_progress_only_rises_and_a_cell_counts_for_many_prompts() -> None:
    told: list[tuple[int, int]] = []
    prompts, of_cells = onward(lambda done, total: told.append((done, total)))
    assert prompts is not None
    assert of_cells is not None
    for done, total in [(1, 2), (2, 2), (1, 3), (3, 3)]:
        prompts(done, total)
    for done in (1, 2):
        of_cells(done, 2)
    assert told == [(1, 2), (2, 2), (3, 5), (5, 5), (5 + CELL, 5 + 2 * CELL), (5 + 2 * CELL, 5 + 2 * CELL)]
    assert onward(None) == (None, None)


def test_settings_in_words() -> None:
    assert setting_of(TopLogprobs(5, decimals=1)) == "1 decimal"
    assert setting_of(TopLogprobs(5)) == setting_of(Answer()) == ""
