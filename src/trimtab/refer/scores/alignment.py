"""Scores of captions that line words up in order: ROUGE-L by the longest common subsequence, METEOR by matches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from trimtab.refer.scores.ngrams import Tokens
from trimtab.refer.scores.stems import stems

ROUGE_BETA = 1.2
"""How much more ROUGE-L values recall than precision, as COCO's scores have it."""

ALPHA, BETA, GAMMA = 0.85, 0.2, 0.6
"""METEOR 1.5's parameters for English: the weight of precision, the shape of the penalty and its size."""
EXACT, STEM = 1.0, 0.6
"""METEOR 1.5's weights of a match of the same word and of words with the same stem."""
BEAM = 40
"""Alignments that are kept at a time; captions of everyday length have fewer."""


def common_subsequence(first: Tokens, second: Tokens) -> int:
    """Length of the longest common subsequence: words that both have in the same order, others between them allowed.

    Bits of one number are the row of the usual table (Hyyro 2004, "Bit-parallel LCS-length computation revisited").

    >>> common_subsequence("a red cat sat".split(), "a cat has sat".split())
    3
    """
    places: dict[str, int] = defaultdict(int)
    for place, token in enumerate(first):
        places[token] |= 1 << place
    whole = (1 << len(first)) - 1
    row = whole
    for token in second:
        met = row & places.get(token, 0)
        row = ((row + met) | (row - met)) & whole
    return len(first) - row.bit_count()


def rouge_l(candidate: Tokens, references: Sequence[Tokens]) -> float:
    """ROUGE-L, in [0, 1]: F with beta 1.2 of precision and recall of the longest common subsequence.

    Over references the best precision and the best recall count, which may come from two of them, as in COCO's scores.

    Source: Lin 2004, "ROUGE: a package for automatic evaluation of summaries", equations 2 to 4.

    >>> rouge_l(["a", "cat"], [["a", "cat"], ["a", "dog", "runs"]])
    1.0
    """
    shared = [(common_subsequence(candidate, one), len(one)) for one in references]
    precision = max(both for both, _ in shared) / max(len(candidate), 1)
    recall = max(both / max(length, 1) for both, length in shared)
    if not precision or not recall:
        return 0.0
    squared = ROUGE_BETA**2
    return (1 + squared) * precision * recall / (recall + squared * precision)


_Value = tuple[int, int, float, int]
"""Matches, chunks below zero, weight and distances below zero: what alignments are compared by."""


@dataclass(frozen=True)
class Alignment:
    """What METEOR counts of a candidate and one reference.

    Attributes:
        matches: matched words, each with one word of the reference.
        weight: the sum of their weights.
        chunks: stretches of matches that are next to each other and in order on both sides; 0 where both are one
            stretch from beginning to end, as in METEOR 1.5, so that an identical caption has no penalty.
        length: words of the candidate.
        reference: words of the reference.
    """

    matches: int
    weight: float
    chunks: int
    length: int
    reference: int

    @property
    def score(self) -> float:
        """METEOR of the pair, in [0, 1]."""
        return float(meteor(np.array(self.statistics)))

    @property
    def statistics(self) -> tuple[float, ...]:
        """What the pair adds to the totals that `meteor` takes."""
        return self.matches, self.weight, self.chunks, self.length, self.reference


def meteor(totals: Float[np.ndarray, "*lines 5"]) -> Float[np.ndarray, "*lines"]:
    """METEOR with exact and stem matches, in [0, 1], from sums of the `statistics` of alignments.

    (1 - penalty) P R / (alpha P + (1 - alpha) R): precision P and recall R are the weight of the matches over the words
    of candidate and reference; the penalty is gamma (chunks / matches)^beta. Without matches of synonyms and
    paraphrases, and with equal weights of content and function words, it is METEOR 1.5 with
    `-m "exact stem" -w "1 0.6" -p ".85 .2 .6 .5"`.

    Source: Denkowski and Lavie 2014, "Meteor Universal: language specific translation evaluation", section 2.

    >>> meteor(np.array([2.0, 2.0, 1.0, 2.0, 4.0])).round(4).item()
    0.2582
    """
    matches, weight, chunks, length, reference = np.moveaxis(totals, -1, 0)
    any_match = (weight.real > 0) & (length.real > 0) & (reference.real > 0)
    one = np.where(any_match, weight, 1.0)
    precision, recall = one / np.where(any_match, length, 1.0), one / np.where(any_match, reference, 1.0)
    mean = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
    broken = chunks.real > 0
    share = np.where(broken, chunks, 1.0) / np.where(any_match, matches, 1.0)
    return np.asarray(np.where(any_match, (1.0 - np.where(broken, GAMMA * share**BETA, 0.0)) * mean, 0.0))


def best_alignment(candidate: Tokens, references: Sequence[Tokens]) -> Alignment:
    """The alignment with the reference that gives a candidate its highest METEOR.

    >>> best_alignment("a dog runs".split(), ["two cats".split(), "a dog running".split()]).weight
    2.6
    """
    own = stems(candidate)
    found = [_aligned(candidate, own, one, stems(one)) for one in references]
    return max(found, key=lambda one: one.score)


def align(candidate: Tokens, reference: Tokens) -> Alignment:
    """METEOR's alignment of two captions: each word matches at most one, of the same form or of the same stem.

    Of all alignments it is the one with the most matches, of those the one with the fewest chunks, of those the one of
    most weight, of those the one whose matches are nearest in position. A beam of 40 is searched, as in METEOR 1.5;
    the paper does not name the weight, by which the program's alignments are met more often.

    >>> align("a cat on a mat".split(), "on a mat a cat".split())
    Alignment(matches=5, weight=5.0, chunks=2, length=5, reference=5)
    """
    return _aligned(candidate, stems(candidate), reference, stems(reference))


def _aligned(candidate: Tokens, own: Tokens, reference: Tokens, theirs: Tokens) -> Alignment:
    places: dict[str, list[int]] = defaultdict(list)
    for place, one in enumerate(theirs):
        places[one].append(place)
    often: dict[str, int] = defaultdict(int)
    for one in own:
        often[one] += 1
    # A state is the place matched last, if the word before was, and the places taken among those that several words
    # want; of the ways to a state only the best is kept.
    states: dict[tuple[int, int], _Value] = {(-2, 0): (0, 0, 0.0, 0)}
    for position, one in enumerate(own):
        options = places.get(one, [])
        reached: dict[tuple[int, int], _Value] = {}
        contested = len(options) > 1 or often[one] > 1
        for (last, taken), (matches, chunks, weight, distance) in states.items():
            for place in options:
                if contested and taken >> place & 1:
                    continue
                value = (
                    matches + 1,
                    chunks - (place != last + 1),
                    weight + (EXACT if reference[place] == candidate[position] else STEM),
                    distance - abs(place - position),
                )
                state = (place, taken | 1 << place if contested else taken)
                if state not in reached or value > reached[state]:
                    reached[state] = value
            if contested or not options:
                value, state = (matches, chunks, weight, distance), (-2, taken)
                if state not in reached or value > reached[state]:
                    reached[state] = value
        if len(reached) > BEAM:
            reached = dict(sorted(reached.items(), key=lambda each: each[1], reverse=True)[:BEAM])
        states = reached
    matches, chunks, weight, _ = max(states.values())
    whole = matches == len(candidate) == len(reference) and chunks == -1
    return Alignment(matches, weight, 0 if whole else -chunks, len(candidate), len(reference))
