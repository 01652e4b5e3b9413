from __future__ import annotations

import ast
import math

import numpy as np
import pytest

from trimtab.errors import DataError
from trimtab.lab import registers as under_test
from trimtab.lab.registers import (
    LEAST_SEPARATION,
    admit,
    beginnings,
    code_lines,
    continued,
    fit_detector,
    registers,
    sentences,
    separation,
)
from trimtab.numerics.bootstrap import Interval


@pytest.fixture(scope="module")
def cache(session_cache):
    """The cache of this test session: corpora take seconds to make."""
    return session_cache


@pytest.fixture(scope="module", autouse=True)
def _a_part(cache):
    """Texts come from the beginnings of the corpora: every line of them all is parsed, which takes seconds."""
    under_test._pieces.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(under_test, "_CHARACTERS", 400_000)
        yield
    under_test._pieces.cache_clear()


@pytest.fixture(scope="module")
def drawn(cache):
    """Texts to fit a detector on, and others to judge it by."""
    return registers(400, 0, cache=cache), registers(150, 0, split="validation", cache=cache)


@pytest.fixture(scope="module")
def detector(drawn):
    return fit_detector(drawn[0].code, drawn[0].prose)


def test_registers_are_single_short_texts_of_their_kind(drawn):
    for texts in drawn:
        for line in texts.code:
            ast.parse(f"{line} pass" if line.endswith(":") else line)
        for text in (*texts.code, *texts.prose):
            assert 30 <= len(text) <= 120
            assert "\n" not in text
            assert text == text.strip()
        assert all(text[0].isupper() and text.endswith(".") for text in texts.prose)
        assert len(set(texts.code)) == len(texts.code) == len(texts.prose) == len(set(texts.prose))


def test_the_same_seed_draws_the_same_texts(drawn, cache):
    assert registers(400, 0, cache=cache) == drawn[0]
    other = registers(400, 1, cache=cache)
    assert other.code != drawn[0].code
    assert len(set(other.prose) & set(drawn[0].prose)) < 200
    fewer = registers(10, 0, cache=cache)
    assert fewer.code == drawn[0].code[:10]


def test_a_detector_separates_real_texts_it_has_not_seen(drawn, detector):
    found = separation(detector, drawn[1].code, drawn[1].prose)
    assert found.low > 0.75
    assert found.n == 150
    admit(found, found)


def test_separation_is_the_gap_of_mean_scores_and_turns_with_the_sides(drawn, detector):
    code, prose = drawn[1].code, drawn[1].prose
    found = separation(detector, code, prose)
    assert found.value == pytest.approx(np.mean(detector.score(code)) - np.mean(detector.score(prose)))
    assert separation(detector, prose, code).value == pytest.approx(-found.value)
    assert separation(detector, code, code).value == 0
    assert math.isnan(separation(detector, [], prose).value)


def test_scores_do_not_depend_on_the_company(drawn, detector):
    texts = drawn[1].code[:5] + drawn[1].prose[:5]
    together = detector.score(texts)
    assert together == pytest.approx([detector.score([text])[0] for text in texts])
    assert ((together > 0) & (together < 1)).all()
    assert detector.score([]).shape == (0,)


def test_two_halves_of_one_register_are_not_admitted(drawn):
    code = drawn[0].code
    detector = fit_detector(code[:200], code[200:])
    found = separation(detector, drawn[1].code[:75], drawn[1].code[75:])
    assert abs(found.value) < 0.2
    good = Interval(0.9, 0.8, 0.95, 100)
    with pytest.raises(DataError, match=r"got generated texts separated by .* n=75, expected at least 0\.4"):
        admit(good, found)


def test_what_is_not_known_is_not_admitted():
    good, unknown = Interval(0.9, LEAST_SEPARATION, 0.95, 100), Interval(0.5, float("nan"), float("nan"), 1)
    admit(good, good)
    with pytest.raises(DataError, match=r"got real texts separated by 0\.500 \[nan, nan\], n=1"):
        admit(unknown, good)


class Echo:
    """Stands for a model: says again what it was asked."""

    def generate(self, prompts, max_new_tokens):
        return [f"{prompt}|{max_new_tokens}" for prompt in prompts]


def test_a_model_is_asked_with_beginnings_only():
    assert continued(Echo(), ["The solver stops here."], max_new_tokens=5) == ["The solver|5"]
    assert continued(Echo(), []) == []


@pytest.mark.parametrize(
    ("text", "expected"), [("abcdef", "abc"), ("ab cd ef gh", "ab"), ("a", "a"), ("ab cdefghijkl", "ab")]
)
def test_beginnings(text, expected):
    assert beginnings([text]) == [expected]


def test_what_counts_as_code():
    text = """
        # a comment that is long enough to be read
        'a string that stands alone in a line, as docstrings do'
        This is a sentence of prose and not of Python at all
        return some_function(of, several, arguments)
        except (ValueError, TypeError) as problem:
        while the_queue_is_not_empty(queue, timeout=3):
        a_name_that_tells_nothing_by_itself
        x = 1
    """
    assert list(code_lines(text)) == [
        "return some_function(of, several, arguments)",
        "while the_queue_is_not_empty(queue, timeout=3):",
    ]


def test_what_counts_as_prose():
    text = """Short.

    The first sentence wraps over
    two lines, as they do. the next begins small and is left out of it.

    Parameters
    ----------
    axis : int, optional. It says along `which` axis the sum is taken.

    >>> A session is not a sentence of prose.
    """
    assert list(sentences(text)) == ["It says along `which` axis the sum is taken."]


def test_mistakes(cache):
    with pytest.raises(DataError, match=r"split: got 'tests', expected one of \(.*\); try 'test'"):
        registers(3, 0, split="tests", cache=cache)
    with pytest.raises(
        DataError, match=r"n: got 100000, expected 1 to \d+, the texts that python has in test"
    ):
        registers(100_000, 0, split="test", cache=cache)
    with pytest.raises(DataError, match="n: got 0, expected 1 to"):
        registers(0, 0, split="test", cache=cache)
    with pytest.raises(DataError, match="got 0 and 2 texts, expected at least one of each register"):
        fit_detector([], ["a", "b"])
