"""N-gram scores of captions from counts: BLEU of a corpus, CIDEr and CIDEr-D of each item.

All counts are made at once as arrays, so that 5,000 captions with five references each take about a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from trimtab.errors import ShapeError, explain

Tokens = Sequence[str]
"""The tokens of one caption."""

LONGEST = 4
"""The longest n-grams that BLEU and CIDEr count."""
SIGMA = 6.0
"""Width, in words, of CIDEr-D's factor for captions that are longer or shorter than a reference."""


@dataclass(frozen=True)
class NGrams:
    """Counts of the n-grams of one length in rows of tokens.

    Attributes:
        row, gram, count: n-gram `gram[k]` stands `count[k]` times in row `row[k]`; sorted by row, then by n-gram.
        size: how many different n-grams there are.
    """

    row: Int[np.ndarray, " entries"]
    gram: Int[np.ndarray, " entries"]
    count: Int[np.ndarray, " entries"]
    size: int

    def of_rows(self, start: int, stop: int) -> NGrams:
        """The counts of consecutive rows, which are numbered from 0."""
        first, last = np.searchsorted(self.row, (start, stop))
        part = slice(first, last)
        return NGrams(self.row[part] - start, self.gram[part], self.count[part], self.size)

    def keys(self, of: Int[np.ndarray, " rows"] | None = None) -> Int[np.ndarray, " entries"]:
        """One number for each entry: its n-gram together with its row, or with what `of` says of its row."""
        return np.asarray((self.row if of is None else of[self.row]) * self.size + self.gram)


def count_ngrams(rows: Sequence[Tokens], longest: int = LONGEST) -> list[NGrams]:
    """Counts of the n-grams of 1 to `longest` tokens in each row.

    >>> [(one.row.tolist(), one.count.tolist()) for one in count_ngrams([["a", "b", "a"], ["b"]], 2)]
    [([0, 0, 1], [2, 1, 1]), ([0, 0], [1, 1])]
    """
    places: dict[str, int] = {}
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    tokens = np.fromiter(
        (places.setdefault(token, len(places)) for row in rows for token in row), np.int64, int(lengths.sum())
    )
    row = np.repeat(np.arange(len(rows)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(tokens))
    found, grams = [], tokens
    for n in range(1, longest + 1):
        starts = np.flatnonzero(left >= n)
        if n > 1:
            # An n-gram is the number of the n-gram before it together with its last token.
            grams = np.zeros_like(tokens) + grams
            pairs = grams[starts] * len(places) + tokens[starts + n - 1]
            grams[starts] = np.unique(pairs, return_inverse=True)[1]
        size = int(grams[starts].max()) + 1 if len(starts) else 1
        keys, count = np.unique(row[starts] * size + grams[starts], return_counts=True)
        found.append(NGrams(keys // size, keys % size, count, size))
    return found


def bleu_statistics(
    candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]], longest: int = LONGEST
) -> Float[np.ndarray, "items 2*longest+2"]:
    """What each item adds to BLEU: correct n-grams, n-grams in all (for n from 1), its length, its reference's length.

    An n-gram of the candidate is correct as often as it stands in the reference that has it most often. The reference
    is the one nearest in length, of two the shorter one.

    Source: Papineni et al. 2002, "BLEU: a method for automatic evaluation of machine translation", section 2.

    >>> bleu_statistics([["a", "a", "b"]], [[["a", "c"]]], 2).tolist()
    [[1.0, 0.0, 3.0, 2.0, 3.0, 2.0]]
    """
    items, flat, of = _flattened(candidates, references)
    lengths = np.fromiter(map(len, candidates), dtype=np.int64, count=items)
    correct, guesses = np.zeros((items, longest)), np.zeros((items, longest))
    for n, counts in enumerate(count_ngrams([*candidates, *flat], longest)):
        ours, theirs = counts.of_rows(0, items), counts.of_rows(items, items + len(flat))
        keys = theirs.keys(of)
        order = np.argsort(keys, kind="stable")
        distinct, first = np.unique(keys[order], return_index=True)
        most = np.maximum.reduceat(theirs.count[order], first) if len(first) else first
        clipped = np.minimum(ours.count, _looked_up(ours.keys(), distinct, most))
        correct[:, n] = np.bincount(ours.row, weights=clipped, minlength=items)
        guesses[:, n] = np.maximum(lengths - n, 0)
    return np.column_stack([correct, guesses, lengths, _closest(lengths, flat, of)])


def bleu(totals: Float[np.ndarray, "*lines 2*longest+2"]) -> Float[np.ndarray, "*lines longest"]:
    """BLEU-1 to BLEU-`longest` of a corpus, in [0, 1], from sums of `bleu_statistics`.

    The geometric mean of the precisions of n-grams of 1 to n tokens, times exp(1 - r / c) where the candidates are
    shorter (c words) than their references (r). Without smoothing, 0 where no n-gram is correct, and nan where no
    candidate has n tokens.

    Source: Papineni et al. 2002, section 2.3.

    >>> bleu(np.array([3.0, 1.0, 4.0, 3.0, 4.0, 4.0])).round(4).tolist()
    [0.75, 0.5]
    """
    longest = totals.shape[-1] // 2 - 1
    correct, guesses = totals[..., :longest], totals[..., longest : 2 * longest]
    length, reference = totals[..., -2], totals[..., -1]
    some, any_right = guesses.real > 0, correct.real > 0
    precision = np.where(any_right, correct, 1.0) / np.where(some, guesses, 1.0)
    mean_log = np.cumsum(np.log(precision), axis=-1) / np.arange(1, longest + 1)
    short = (length.real < reference.real) & (length.real > 0)
    penalty = np.where(short, 1.0 - reference / np.where(short, length, 1.0), 0.0)
    value = np.exp(mean_log + penalty[..., None])
    value = np.where(np.logical_and.accumulate(any_right, axis=-1), value, 0.0)
    return np.asarray(np.where(some, value, np.nan))


def cider(
    candidates: Sequence[Tokens],
    references: Sequence[Sequence[Tokens]],
    corpus: Sequence[Sequence[Tokens]] | None = None,
    longest: int = LONGEST,
) -> Float[np.ndarray, "items 2"]:
    """CIDEr and CIDEr-D of each item, in [0, 10]: ten times its mean similarity with its references.

    Captions are vectors of n-gram counts times log(N / max(1, documents with the n-gram)). A document is all that is
    said of one item, N their number. CIDEr is the cosine, CIDEr-D counts an n-gram at most as often as the reference
    has it and multiplies by exp(-(difference in words)^2 / 72). Both are means over n of 1 to 4 and over references;
    n-grams that a caption has none of (it is too short), or that every item has, count as similarity 0.

    Two deviations from the paper, as in COCO's scores: words are not stemmed, and counts are not divided by the length
    (which no cosine sees, and CIDEr-D's clipping does).

    Args:
        candidates: tokens of one caption of each item.
        references: those of its references, at least one.
        corpus: references of other items, from which document frequencies are counted; None for these references.
        longest: the longest n-grams.

    Returns:
        CIDEr and CIDEr-D of each item; nan where a single document tells nothing of frequencies.

    Raises:
        ShapeError: not as many candidates as lists of references, or an item without.

    Source: Vedantam, Zitnick, Parikh 2015, "CIDEr: consensus-based image description evaluation", equations 1 to 4.
    """
    items, flat, of = _flattened(candidates, references)
    others = [] if corpus is None else [(item, tokens) for item, each in enumerate(corpus) for tokens in each]
    documents = items if corpus is None else len(corpus)
    if documents < 2:
        return np.full((items, 2), np.nan)
    document = of if corpus is None else np.array([item for item, _ in others], dtype=np.int64)
    lengths = np.fromiter(map(len, [*candidates, *flat]), dtype=np.int64, count=items + len(flat))
    gap = lengths[items:] - lengths[:items][of]
    shorter = np.exp(-(gap**2) / (2.0 * SIGMA**2))
    similarity, end = np.zeros((len(flat), 2)), items + len(flat)
    for counts in count_ngrams([*candidates, *flat, *(tokens for _, tokens in others)], longest):
        ours, theirs = counts.of_rows(0, items), counts.of_rows(items, end)
        known = theirs if corpus is None else counts.of_rows(end, end + len(others))
        with_gram = np.bincount(np.unique(known.keys(document)) % counts.size, minlength=counts.size)
        rarity = np.log(documents) - np.log(np.maximum(with_gram, 1))
        our_weight, their_weight = ours.count * rarity[ours.gram], theirs.count * rarity[theirs.gram]
        other = _looked_up(theirs.keys(of), ours.keys(), our_weight)
        sizes = _norm(ours.row, our_weight, items)[of] * _norm(theirs.row, their_weight, len(flat))
        for column, matched in enumerate((other, np.minimum(other, their_weight))):
            product = np.bincount(theirs.row, weights=matched * their_weight, minlength=len(flat))
            similarity[:, column] += np.divide(product, sizes, out=np.zeros_like(sizes), where=sizes > 0)
    similarity[:, 1] *= shorter
    sums = np.stack([np.bincount(of, weights=one, minlength=items) for one in similarity.T], axis=1)
    return np.asarray(10.0 * sums / np.bincount(of, minlength=items)[:, None] / longest)


def _flattened(
    candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> tuple[int, list[Tokens], Int[np.ndarray, " references"]]:
    """The number of items, all references in a row, and the item of each."""
    counts = [len(each) for each in references]
    if len(candidates) != len(counts) or not all(counts) or not counts:
        got = f"{len(candidates)} candidates and references {counts[:5]}..."
        raise ShapeError(explain(got, "at least one reference for each candidate"))
    return (
        len(candidates),
        [one for each in references for one in each],
        np.repeat(np.arange(len(counts)), counts),
    )


def _looked_up(
    keys: Int[np.ndarray, " n"], known: Int[np.ndarray, " m"], values: np.ndarray
) -> Float[np.ndarray, " n"]:
    """The value of each key among known ones, which are sorted; 0 where it is not among them."""
    if not len(known):
        return np.zeros(len(keys))
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[place] == keys, values[place], 0.0)


def _norm(row: np.ndarray, weight: np.ndarray, rows: int) -> Float[np.ndarray, " rows"]:
    return np.sqrt(np.bincount(row, weights=weight**2, minlength=rows))


def _closest(
    lengths: Int[np.ndarray, " items"], flat: Sequence[Tokens], of: Int[np.ndarray, " references"]
) -> Float[np.ndarray, " items"]:
    """The length of the reference of each item that is nearest to its candidate's; of two, the shorter one."""
    theirs = np.fromiter(map(len, flat), dtype=np.int64, count=len(flat))
    order = np.lexsort((theirs, np.abs(theirs - lengths[of]), of))
    first = np.unique(of[order], return_index=True)[1]
    return theirs[order][first].astype(float)
