"""Statistics of a speaker's captions, and accuracy at the same length: is a speaker clearer, or only wordier?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.special import gammaln

from trimtab.numerics import cluster_bootstrap as clustered
from trimtab.numerics.bootstrap import Resampling
from trimtab.refer.intelligibility.answers import Sets
from trimtab.refer.intelligibility.matrix import estimates

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
LENGTH_BINS = 5
"""Bins of length, at most, within which speakers are compared."""
_EVERYTHING = (-np.inf, np.inf)
_AT_ONCE = 256


def words_of(caption: str) -> list[str]:
    """Words of a caption: lower-case runs of letters and digits; an inner apostrophe or hyphen belongs to the word.

    >>> words_of("A man's T-shirt, red & blue.")
    ['a', "man's", 't-shirt', 'red', 'blue']
    """
    return _WORD.findall(caption.lower())


def rarefied_types(counts: Sequence[int], size: int) -> float:
    """Expected number of different words in a random sample of so many words, drawn without replacement.

    The number of types grows with the size of a text; at one size texts can be compared.

    Args:
        counts: how often each word was said.
        size: words in the sample, from 0 to all of them.

    Source: Hurlbert 1971, "The nonconcept of species diversity", equation 1 of rarefaction.

    >>> rarefied_types([2, 1, 1], 4), round(rarefied_types([1, 1], 1), 6)
    (3.0, 1.0)
    """
    n, total = np.asarray(counts, dtype=float), float(np.sum(counts))
    absent = np.zeros(len(n))
    possible = total - n >= size
    left = total - n[possible]
    logs = gammaln(left + 1) - gammaln(left - size + 1) - gammaln(total + 1) + gammaln(total - size + 1)
    absent[possible] = np.exp(logs)
    return float((1.0 - absent).sum())


def entropy_bits(counts: Sequence[int]) -> float:
    """Entropy of words in bits per word, by their shares; nan without words. Short texts show too little of it.

    >>> entropy_bits([1, 1, 1, 1])
    2.0
    """
    n = np.asarray(counts, dtype=float)
    if not n.sum() > 0:
        return float("nan")
    shares = n[n > 0] / n.sum()
    return float(-(shares * np.log2(shares)).sum())


def repetition(words: Sequence[str]) -> float:
    """Share of a caption's words that it has said before; 0 for an empty one.

    >>> repetition(["a", "red", "a", "red"])
    0.5
    """
    return 1.0 - len(set(words)) / len(words) if words else 0.0


def overlap(words: Sequence[str], others: Sequence[Sequence[str]]) -> float:
    """Mean Jaccard overlap of a caption's words with those of other captions; nan without others.

    Two captions without words overlap fully.

    >>> overlap(["a", "cat"], [["a", "dog"], ["a", "cat"]])
    0.6666666666666666
    """
    if not others:
        return float("nan")
    own = set(words)
    return float(np.mean([len(own & set(o)) / len(own | set(o)) if own | set(o) else 1.0 for o in others]))


def caption_statistics(
    speakers: Mapping[str, pd.DataFrame], sets: Sets | None = None, draws: Resampling | None = None
) -> pd.DataFrame:
    """Statistics of each speaker's captions.

    Args:
        speakers: name -> columns item, caption, cluster.
        sets: candidate sets, for what captions share with those of distractors by the same speaker; or None.
        draws: settings of the intervals.

    Returns:
        Columns speaker, n (captions), words (mean length), words_low, words_high, tokens, types, rarefied (types
        expected in as many words as the speaker with fewest said), entropy_bits, repetition (see `repetition`, the
        mean), repeats (share of captions that are also said of another item), overlap (mean Jaccard with captions
        of distractors), overlap_low, overlap_high, ambiguous (share of captions that equal a distractor's).
    """
    draws = draws or Resampling()
    said = {name: [words_of(one) for one in frame["caption"]] for name, frame in speakers.items()}
    counts = {name: Counter(word for words in several for word in words) for name, several in said.items()}
    size = min((sum(one.values()) for one in counts.values()), default=0)
    rows = []
    for name, frame in speakers.items():
        codes = np.unique(frame["cluster"].to_numpy().astype(str), return_inverse=True)[1]
        lengths = np.array([len(words) for words in said[name]], dtype=float)
        numbers = list(counts[name].values())
        row = {"speaker": name, "n": len(frame), **_mean("words", lengths, codes, draws)}
        row |= {"tokens": sum(numbers), "types": len(numbers), "rarefied": rarefied_types(numbers, size)}
        row |= {"entropy_bits": entropy_bits(numbers)}
        row |= {"repetition": float(np.mean([repetition(words) for words in said[name]]))}
        texts = Counter(" ".join(words) for words in said[name])
        row |= {"repeats": float(np.mean([texts[" ".join(words)] > 1 for words in said[name]]))}
        shared, same = _with_distractors(frame["item"].tolist(), said[name], sets)
        row |= _mean("overlap", shared, codes, draws, 1.0)
        known = np.isfinite(same)
        rows.append(row | {"ambiguous": float(same[known].mean()) if known.any() else np.nan})
    return pd.DataFrame(rows)


def _with_distractors(
    items: Sequence[str], said: Sequence[Sequence[str]], sets: Sets | None
) -> tuple[np.ndarray, np.ndarray]:
    """For each caption its `overlap` with the captions of its distractors, and whether it equals one; nan without any.

    All captions at once: words in common are products of rows of a captions x words matrix.
    """
    shared, same = np.full(len(items), np.nan), np.full(len(items), np.nan)
    if sets is None:
        return shared, same
    number = {word: column for column, word in enumerate(sorted({w for words in said for w in words}))}
    distinct = [sorted({number[word] for word in words}) for words in said]
    ends = np.cumsum([0, *map(len, distinct)])
    columns = np.array([column for row in distinct for column in row], dtype=int)
    table = csr_array((np.ones(len(columns)), columns, ends), shape=(len(items), max(len(number), 1)))
    pictures, of = np.unique([sets.target[item] for item in items], return_inverse=True)
    place = {str(name): column for column, name in enumerate(pictures)}
    members = csr_array((np.ones(len(items)), (np.arange(len(items)), of)), shape=(len(items), len(pictures)))
    counts, sizes = np.bincount(of), np.diff(ends)
    texts = [" ".join(words) for words in said]
    known = {(text, int(picture)) for text, picture in zip(texts, of, strict=True)}
    others = [
        [place[name] for name in sets.candidates[item] if name != sets.target[item] and name in place]
        for item in items
    ]
    for start in range(0, len(items), _AT_ONCE):
        rows = np.arange(start, min(start + _AT_ONCE, len(items)))
        heard = np.zeros(len(pictures), dtype=bool)
        heard[[column for row in rows for column in others[row]]] = True
        told = np.flatnonzero(heard[of])  # the captions of these rows' distractors, which are few of all
        common = (table[rows] @ table[told].T).toarray()
        either = sizes[rows, None] + sizes[None, told] - common
        jaccard = np.divide(common, either, out=np.ones_like(common), where=either > 0)
        sums = jaccard @ members[told]
        for line, row in enumerate(rows.tolist()):
            if others[row]:
                shared[row] = sums[line, others[row]].sum() / counts[others[row]].sum()
                same[row] = float(any((texts[row], other) in known for other in others[row]))
    return shared, same


def _mean(
    name: str, values: np.ndarray, codes: np.ndarray, draws: Resampling, most: float = np.inf
) -> dict[str, float]:
    """A mean with its interval, of values from 0 to the most: intervals of few captions would leave the range."""
    known = np.isfinite(values)
    cells = np.zeros(int(known.sum()), dtype=int)
    row = estimates(values[known], cells, codes[known], 1, None, draws, _EVERYTHING).cells.iloc[0]
    low, high = np.clip([row["low"], row["high"]], 0.0, most).tolist()
    return {name: row["value"], f"{name}_low": low, f"{name}_high": high}


def length_bins(lengths: np.ndarray, bins: int = LENGTH_BINS) -> np.ndarray:
    """Bin of each length, by quantiles of all of them; equal lengths share a bin.

    >>> length_bins(np.array([1, 1, 1, 9, 9, 20]), 2).tolist()
    [0, 0, 0, 1, 1, 1]
    """
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.unique(np.searchsorted(edges, lengths, side="left"), return_inverse=True)[1]


def length_labels(lengths: np.ndarray, bins: int = LENGTH_BINS) -> tuple[np.ndarray, list[str]]:
    """Bins of length as labels such as "4 to 6 words", and the labels in order."""
    place = length_bins(lengths, bins)
    names = []
    for number in range(int(place.max()) + 1):
        low, high = int(lengths[place == number].min()), int(lengths[place == number].max())
        names.append(f"{low} word{'s' * (low != 1)}" if low == high else f"{low} to {high} words")
    return np.array(names, dtype=object)[place], names


def length_matched(answers: pd.DataFrame, draws: Resampling, bins: int = LENGTH_BINS) -> pd.DataFrame:
    """Differences of two speakers with one listener, as they are and at one mix of caption lengths.

    Direct standardisation over bins of length (quantiles of both speakers' captions), at the mix of both; bins that
    lack a speaker cannot be compared, and support says what part of the answers is left.

    Args:
        answers: columns speaker, listener, score, words (length of the caption), cluster.
        draws: settings of the bootstrap.
        bins: of length, at most.

    Returns:
        Columns listener, speaker, other, difference (accuracy of the other less that of the speaker), low, high,
        matched (the same at one mix of lengths), matched_low, matched_high, support, n, n_groups.
    """
    rows = []
    speakers = list(dict.fromkeys(answers["speaker"]))
    for listener in dict.fromkeys(answers["listener"]):
        of_listener = answers[answers["listener"] == listener]
        for speaker, other in combinations(speakers, 2):
            part = of_listener[of_listener["speaker"].isin([speaker, other])]
            if part["speaker"].nunique() < 2:
                continue
            raw = _raw(part, speaker, draws)
            at, support = _matched(part, speaker, bins, draws)
            rows.append((listener, speaker, other, *raw, *at, support, len(part), part["cluster"].nunique()))
    names = [
        "listener",
        "speaker",
        "other",
        "difference",
        "low",
        "high",
        "matched",
        "matched_low",
        "matched_high",
    ]
    return pd.DataFrame(rows, columns=[*names, "support", "n", "n_groups"])


def _raw(part: pd.DataFrame, speaker: str, draws: Resampling) -> tuple[float, float, float]:
    """The difference of two speakers as it is, with its interval."""
    codes = np.unique(part["cluster"].to_numpy().astype(str), return_inverse=True)[1]
    cells = np.where(part["speaker"] == speaker, 0, 1)
    found = estimates(part["score"].to_numpy(), cells, codes, 2, np.array([[-1.0, 1.0]]), draws)
    row = found.contrasts.iloc[0]
    return float(row["value"]), float(row["low"]), float(row["high"])


def _matched(
    part: pd.DataFrame, speaker: str, bins: int, draws: Resampling
) -> tuple[tuple[float, float, float], float]:
    """The difference at the mix of both, and its support; no interval where no resample differs."""
    place = length_bins(part["words"].to_numpy(dtype=float), bins)
    k = int(place.max()) + 1
    cells = np.where(part["speaker"] == speaker, 0, 1) * k + place
    codes = np.unique(part["cluster"].to_numpy().astype(str), return_inverse=True)[1]
    values = clustered.spread(part["score"].to_numpy(), cells, codes)
    units = clustered.units_of(np.column_stack([values, np.ones(len(part))]), cells, 2 * k, codes)

    def function(totals: np.ndarray) -> np.ndarray:
        split = totals.reshape(*totals.shape[:-2], 2, k, 2)
        return clustered.gaps(split[..., 0], split[..., 1])[..., 3:]

    n = np.bincount(cells, minlength=2 * k).reshape(2, k)
    support = float(n[:, (n > 0).all(axis=0)].sum() / n.sum())
    found = clustered.bootstrap_totals(
        function, units, n_boot=draws.n_boot, confidence=draws.confidence, seed=draws.seed
    )
    value, low, high = (float(end[0]) for end in (found.values, found.low, found.high))
    return ((value, low, high) if low < high else (value, np.nan, np.nan)), support
