"""ROUGE-L against subsequences found one by one, METEOR against every alignment there is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.refer.scores.alignment import align, best_alignment, common_subsequence, meteor, rouge_l
from trimtab.refer.scores.stems import stem

words = str.split
CAPTION = st.lists(st.sampled_from(["cat", "cats", "run", "running", "red"]), max_size=5)


def subsequences(tokens: list[str]) -> set[tuple[str, ...]]:
    return {each for n in range(len(tokens) + 1) for each in itertools.combinations(tokens, n)}


@given(CAPTION, CAPTION)
def test_the_longest_of_all_common_subsequences(first: list[str], second: list[str]) -> None:
    both = subsequences(first) & subsequences(second)
    assert common_subsequence(first, second) == max(map(len, both))


def test_rouge_by_hand() -> None:
    # Precision 3 / 4, recall 3 / 5, beta 1.2.
    told = rouge_l(words("a cat has sat"), [words("a red cat sat down")])
    assert told == pytest.approx(2.44 * 0.75 * 0.6 / (0.6 + 1.44 * 0.75))
    # The best precision and the best recall may come from two references.
    told = rouge_l(words("a b c d"), [words("a b c x y z"), words("a b")])
    assert told == pytest.approx(2.44 * 0.75 * 1.0 / (1.0 + 1.44 * 0.75))


def test_rouge_of_nothing_and_of_the_same() -> None:
    assert rouge_l([], [["a"]]) == 0.0
    assert rouge_l(["a"], [["b"], []]) == 0.0
    assert rouge_l(["a", "b"], [["b"], ["a", "b"]]) == 1.0


def every_alignment(first: list[str], second: list[str]) -> Iterator[list[tuple[int, int]]]:
    """All sets of matches in which no word takes part twice."""
    if not first:
        yield []
        return
    for rest in every_alignment(first[:-1], second):
        yield rest
        taken = {place for _, place in rest}
        for place, word in enumerate(second):
            if place not in taken and stem(word) == stem(first[-1]):
                yield [*rest, (len(first) - 1, place)]


def told_of(pairs: list[tuple[int, int]], first: list[str], second: list[str]) -> tuple[float, ...]:
    """What alignments are compared by: matches, fewer chunks, weight, less distance."""
    chunks = sum((i - 1, j - 1) not in pairs for i, j in pairs)
    weight = sum(1.0 if first[i] == second[j] else 0.6 for i, j in pairs)
    return len(pairs), -chunks, round(weight, 9), -sum(abs(i - j) for i, j in pairs)


@settings(max_examples=200)
@given(CAPTION, CAPTION)
def test_the_best_of_all_alignments(first: list[str], second: list[str]) -> None:
    found = align(first, second)
    matches, chunks, weight, _ = max(
        told_of(pairs, first, second) for pairs in every_alignment(first, second)
    )
    whole = matches == len(first) == len(second) and chunks == -1
    assert found.matches == matches
    assert found.chunks == (0 if whole else -chunks)
    assert found.weight == pytest.approx(weight)
    assert (found.length, found.reference) == (len(first), len(second))


def test_meteor_by_hand() -> None:
    # cat-cat and runs-running of 3 words and 4: precision 1.6 / 3, recall 1.6 / 4, two chunks of two matches.
    precision, recall = 1.6 / 3, 1.6 / 4
    mean = precision * recall / (0.85 * precision + 0.15 * recall)
    assert align(words("cat now runs"), words("a running cat sits")).score == pytest.approx((1 - 0.6) * mean)


def test_identical_captions_have_no_penalty_and_others_do() -> None:
    told = words("a man on a horse")
    assert align(told, told).score == 1.0
    assert align(told, words("a horse on a man")).score < 1.0
    assert align(told[:2], told).score < 1.0
    assert align([], told).score == align(told, []).score == 0.0


def test_a_corpus_is_scored_by_its_totals() -> None:
    pairs = [align(["a", "cat"], ["a", "dog"]), align(["b"], ["b"])]
    total = meteor(np.array([one.statistics for one in pairs]).sum(axis=0))
    mean = (2 / 3) * (2 / 3) / (2 / 3)
    assert total == pytest.approx((1 - 0.6 * (1 / 2) ** 0.2) * mean)
    assert meteor(np.zeros((2, 5))).tolist() == [0.0, 0.0]


def test_the_best_reference_counts_in_any_order() -> None:
    references = [["a", "dog"], ["the", "cat", "runs"], ["the", "cat"]]
    told = [best_alignment(["the", "cat"], list(each)).score for each in itertools.permutations(references)]
    assert told == [1.0] * 6


def test_many_repetitions_end_soon() -> None:
    found = align(["a", "b"] * 60, ["b", "a"] * 60)
    assert found.matches == 120
    assert found.chunks <= 3
