"""The model's own task: answers are compared in any case and with any blanks, of a model as of a transcript."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quick_leaks import questions
from tiny_models import build, tokenizer
from trimtab.models.load import Model, load
from trimtab.numerics.bootstrap import wilson
from trimtab.read.leaks.questions import Questions, read_questions
from trimtab.read.leaks.task import accuracy, all_known, begins, first_tokens, graded, task_accuracy, texts_of

BLANKS = st.sampled_from(["", " ", "\n", "\t "])
WORDS = st.text("abcno é", min_size=1, max_size=6).filter(str.strip)


@pytest.fixture(scope="module")
def model() -> Model:
    return load(build("llama"), tokenizer=tokenizer())


@pytest.fixture(scope="module")
def asked() -> Questions:
    return read_questions(questions(), ["colour"], group="scene")


@given(WORDS, WORDS, BLANKS, BLANKS)
def test_case_and_outer_blanks_change_no_comparison(said: str, answer: str, before: str, after: str) -> None:
    plain = begins(said, answer)
    assert plain == answer.strip().startswith(said.strip())
    for one, other in ((said.upper(), answer), (said, answer.title()), (said.title(), answer.upper())):
        assert begins(before + one + after, after + other + before) == plain
    assert begins(answer, answer)
    assert not begins(before, answer)


def test_an_answer_that_nobody_knows_has_no_grade() -> None:
    assert graded(["a", "b"], None).tolist() == pytest.approx([np.nan] * 2, nan_ok=True)
    grades = graded(["a", "b", "c"], ["A b", "a", " "])
    assert grades.tolist() == pytest.approx([1.0, 0.0, np.nan], nan_ok=True)
    assert all_known(grades) is None
    right = all_known(grades[:2])
    assert right is not None
    assert right.tolist() == [True, False]
    known = {"a b": {4}}  # no token is known of the answer "a"
    assert graded(["a", "a"], ["A b", "a"], [9, 9], known).tolist() == pytest.approx([1, np.nan], nan_ok=True)
    assert graded(["\ufffd", "\ufffd"], ["a b", "a b"], [4, 5], known).tolist() == [
        1,
        0,
    ]  # parts of a character


def test_tokens_of_an_answer_are_those_of_any_case(model: Model) -> None:
    tokens = first_tokens(model, ["no", "No", "yes", " ", "Yes\n"])
    assert list(tokens) == ["no", "yes"]
    vocabulary = model.need_tokenizer().get_vocab()
    for name, ids in tokens.items():
        cased = {vocabulary[form] for form in (name[0], name[0].upper()) if form in vocabulary}
        assert ids == cased - {model.need_tokenizer().unk_token_id}
    assert first_tokens(load(torch.nn.Linear(2, 2)), ["yes"]) == {}


def test_a_model_that_answers_in_another_case_is_right(model: Model, asked: Questions) -> None:
    tokens = first_tokens(model, asked.answers or ())
    said = ["Yes", "no"] * 12 + ["No", " YES "] * 12  # the right answers are no, yes, no, ...
    grades = graded(said, asked.answers)
    assert grades.tolist() == [0.0] * 24 + [1.0] * 24
    readings = _Logits({token: np.full(48, 1.0) for token in tokens["yes"]})
    facts = task_accuracy(grades, readings, asked, tokens)  # type: ignore[arg-type]
    assert facts["task_accuracy"]["value"] == facts["task_accuracy_among_answers"]["value"] == 0.5
    rough = wilson(24, 48)
    assert facts["task_accuracy"]["low"] == pytest.approx(rough.low, abs=0.15)
    assert task_accuracy(np.full(48, np.nan), readings, asked, {}) == {}  # type: ignore[arg-type]


def test_rows_of_one_group_narrow_no_interval() -> None:
    grades = np.array([1.0, 0.0] * 20)
    alone, pairs = (
        accuracy(grades, np.arange(40)),
        accuracy(np.repeat(grades, 2), np.repeat(np.arange(40), 2)),
    )
    assert (alone["value"], alone["n"], pairs["n"]) == (0.5, 40, 80)
    assert (pairs["low"], pairs["high"]) == pytest.approx((alone["low"], alone["high"]))


def test_texts_of_tokens_are_those_of_the_tokenizer(model: Model) -> None:
    vocabulary = model.need_tokenizer().get_vocab()
    assert texts_of(model, np.array([vocabulary["a"], vocabulary["b"], vocabulary["a"]])) == ["a", "b", "a"]
    assert texts_of(load(torch.nn.Linear(2, 2)), np.array([3])) == [""]


class _Logits:
    """Readings of which some logits are known; the others are 0."""

    def __init__(self, logits: dict[int, np.ndarray]) -> None:
        self.logits = logits

    def tokens(self, ids: list[int]) -> np.ndarray:
        return np.stack([self.logits.get(token, np.zeros(48)) for token in ids], axis=1)
