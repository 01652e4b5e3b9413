"""BLEU and CIDEr against published counts, closed forms, and twins that count n-grams one by one."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import ShapeError
from trimtab.refer.scores.ngrams import bleu, bleu_statistics, cider, count_ngrams

words = str.split
CAPTION = st.lists(st.sampled_from("abcd"), max_size=7)
ITEM = st.tuples(CAPTION, st.lists(CAPTION, min_size=1, max_size=3))
ITEMS = st.lists(ITEM, min_size=2, max_size=6)


def grams(tokens: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[k : k + n]) for k in range(len(tokens) - n + 1))


@given(st.lists(CAPTION, min_size=1, max_size=5))
def test_counts_are_those_of_a_dictionary(rows: list[list[str]]) -> None:
    for n, counts in enumerate(count_ngrams(rows), 1):
        told = [sorted(counts.count[counts.row == k].tolist()) for k in range(len(rows))]
        assert told == [sorted(grams(row, n).values()) for row in rows]
        assert (np.diff(counts.keys()) > 0).all()
        same = {
            (int(r), int(g)): int(c) for r, g, c in zip(counts.row, counts.gram, counts.count, strict=True)
        }
        for one in range(len(rows)):
            for other in range(len(rows)):
                shared = {g for r, g in same if r == one} & {g for r, g in same if r == other}
                assert len(shared) == len(set(grams(rows[one], n)) & set(grams(rows[other], n)))


# Papineni et al. 2002, section 2: the examples of modified precision.
FIRST = words(
    "it is a guide to action which ensures that the military always obeys the commands of the party"
)
SECOND = words("it is to insure the troops forever hearing the activity guidebook that party direct")
PEOPLE = [
    words("it is a guide to action that ensures that the military will forever heed party commands"),
    words(
        "it is the guiding principle which guarantees the military forces always being under the command of the party"
    ),
    words("it is the practical guide for the army always to heed the directions of the party"),
]


def test_the_precisions_that_the_paper_of_bleu_prints() -> None:
    statistics = bleu_statistics([FIRST, SECOND], [PEOPLE, PEOPLE])
    assert statistics[:, [0, 4]].tolist() == [[17, 18], [8, 14]]
    assert statistics[:, [1, 5]].tolist() == [[10, 17], [1, 13]]
    the = bleu_statistics(
        [["the"] * 7], [[words("the cat is on the mat"), words("there is a cat on the mat")]]
    )
    assert the[0, [0, 4]].tolist() == [2, 7]
    assert the[0, 8:].tolist() == [7, 7]


def test_bleu_by_hand() -> None:
    # 5 words against 7: precisions 1, 3/4, 1/3 and 0/2.
    told = bleu(bleu_statistics([words("a b c x d")], [[words("a b c d x d e")]]).sum(axis=0))
    short = math.exp(1 - 7 / 5)
    assert told[:3] == pytest.approx([short, short * math.sqrt(3 / 4), short * (3 / 4 / 3) ** (1 / 3)])
    assert told[3] == 0.0


def test_the_closest_reference_and_of_two_the_shorter() -> None:
    references = [["a"] * 2, ["a"] * 6, ["a"] * 9]
    assert bleu_statistics([["a"] * 4], [references])[0, -1] == 2
    assert bleu_statistics([["a"] * 5], [references])[0, -1] == 6
    assert bleu_statistics([[]], [references])[0, -1] == 2


def test_bleu_is_nan_where_no_candidate_is_long_enough() -> None:
    told = bleu(bleu_statistics([["a", "b"], []], [[["a", "b"]], [["a"]]]).sum(axis=0))
    assert np.isnan(told).tolist() == [False, False, True, True]
    assert np.isnan(bleu(np.zeros(10))).all()


def bleu_twin(items: list[tuple[list[str], list[list[str]]]], longest: int) -> float:
    logs, lengths = [], [0, 0]
    for candidate, references in items:
        lengths[0] += len(candidate)
        lengths[1] += min((abs(len(one) - len(candidate)), len(one)) for one in references)[1]
    for n in range(1, longest + 1):
        right, all_of_them = 0, 0
        for candidate, references in items:
            for gram, count in grams(candidate, n).items():
                right += min(count, max(grams(one, n)[gram] for one in references))
                all_of_them += count
        if not all_of_them:
            return math.nan
        logs.append(math.log(right / all_of_them) if right else -math.inf)
    penalty = 1 if lengths[0] >= lengths[1] else math.exp(1 - lengths[1] / lengths[0])
    return penalty * math.exp(sum(logs) / longest)


@given(ITEMS)
def test_bleu_is_that_of_a_twin(items: list[tuple[list[str], list[list[str]]]]) -> None:
    told = bleu(bleu_statistics([one for one, _ in items], [several for _, several in items]).sum(axis=0))
    assert told == pytest.approx([bleu_twin(items, n) for n in (1, 2, 3, 4)], abs=1e-12, nan_ok=True)


def cider_twin(
    items: list[tuple[list[str], list[list[str]]]], corpus: list[list[list[str]]] | None = None
) -> list[tuple[float, float]]:
    """CIDEr and CIDEr-D as their equations read, one n-gram after the other."""
    documents = corpus or [several for _, several in items]

    def vector(tokens: list[str], n: int) -> dict[tuple[str, ...], float]:
        weights = {}
        for gram, count in grams(tokens, n).items():
            having = sum(any(gram in grams(one, n) for one in each) for each in documents)
            weights[gram] = count * math.log(len(documents) / max(1, having))
        return weights

    def norm(weights: dict[tuple[str, ...], float]) -> float:
        return math.sqrt(sum(weight * weight for weight in weights.values()))

    told = []
    for candidate, references in items:
        plain = clipped = 0.0
        for reference in references:
            for n in (1, 2, 3, 4):
                ours, theirs = vector(candidate, n), vector(reference, n)
                size = norm(ours) * norm(theirs)
                if size == 0:
                    continue
                plain += sum(ours.get(gram, 0) * weight for gram, weight in theirs.items()) / size
                shared = (
                    sum(min(ours.get(gram, 0), weight) * weight for gram, weight in theirs.items()) / size
                )
                clipped += shared * math.exp(-((len(candidate) - len(reference)) ** 2) / (2 * 6**2))
        told.append((10 * plain / 4 / len(references), 10 * clipped / 4 / len(references)))
    return told


@settings(max_examples=50)
@given(ITEMS)
def test_cider_is_that_of_a_twin(items: list[tuple[list[str], list[list[str]]]]) -> None:
    told = cider([one for one, _ in items], [several for _, several in items])
    assert told == pytest.approx(np.array(cider_twin(items)), abs=1e-12)


@settings(max_examples=40)
@given(ITEMS, ITEMS)
def test_cider_of_a_given_corpus_is_that_of_a_twin(
    items: list[tuple[list[str], list[list[str]]]], others: list[tuple[list[str], list[list[str]]]]
) -> None:
    corpus = [several for _, several in others]
    told = cider([one for one, _ in items], [several for _, several in items], corpus)
    assert told == pytest.approx(np.array(cider_twin(items, corpus)), abs=1e-12)


def test_identical_captions_have_cider_of_ten_and_disjoint_ones_of_zero() -> None:
    first, second = words("a red cat sat here"), words("two dogs ran far away")
    assert cider([first, second], [[first], [second, second]]) == pytest.approx(np.full((2, 2), 10.0))
    assert (cider([second, first], [[first], [second]]) == 0).all()


def test_the_order_of_references_changes_nothing_and_their_words_do() -> None:
    candidates = [["a", "b", "c"], ["d", "b"], []]
    references = [[["a", "b"], ["c", "b", "a"]], [["d"], ["a", "d", "b"]], [["c"]]]
    told = cider(candidates, references)
    assert told == pytest.approx(cider(candidates, [each[::-1] for each in references]))
    assert told[2].tolist() == [0, 0]
    # CIDEr-D counts a repeated word once, and the longer caption less.
    again = cider([["a", "b", "c"] * 2, ["d", "b"], []], references)
    assert again[0, 1] < told[0, 1]
    assert again[0, 0] > again[0, 1]


def test_one_document_tells_nothing_of_frequencies() -> None:
    assert np.isnan(cider([["a"]], [[["a"]]])).all()
    assert not np.isnan(cider([["a"]], [[["a"]]], [[["a"]], [["b"]]])).any()


@pytest.mark.parametrize("references", [[], [[["a"]], []], [[["a"]]]])
def test_every_candidate_needs_a_reference(references: list[list[list[str]]]) -> None:
    with pytest.raises(ShapeError, match="expected at least one reference for each candidate"):
        bleu_statistics([["a"], ["b"]], references)
    with pytest.raises(ShapeError, match="expected at least one reference for each candidate"):
        cider([["a"], ["b"]], references)
