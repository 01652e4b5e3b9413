"""Two real registers of text, lines of code and sentences of prose, and a detector that tells them apart."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression

from trimtab.errors import DataError, explain, nearest
from trimtab.lab.corpora import SPLITS, corpus
from trimtab.lab.models import read_texts
from trimtab.models.load import Model
from trimtab.numerics.bootstrap import Interval, bootstrap, mean_difference
from trimtab.seeds import derive

LEAST_SEPARATION = 0.4
"""Registers that a detector tells apart by less, in real text or in a model's own, show nothing about steering."""

_SHORTEST, _LONGEST = 30, 120
_CHARACTERS = 2_000_000
_WORD = r"""[("'`]*\w(?:[\w.'-]*\w)?[)"'`]*[,;:]?"""
_SENTENCE = re.compile(rf"[A-Z][a-z]*,?(?: {_WORD}){{3,}}\.")
_BREAK = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_TELLING_NOTHING = (ast.Constant, ast.Name, ast.Tuple)


@dataclass(frozen=True)
class Registers:
    """A balanced sample of two registers: as many lines of code as sentences of prose.

    Attributes:
        code: single lines that are statements of Python by themselves, without indentation.
        prose: single sentences of technical English; names in quotes may stand in them.
    """

    code: list[str]
    prose: list[str]


def registers(n: int, seed: int, *, split: str = "train", cache: Path | None = None) -> Registers:
    """`n` lines of code and `n` sentences of docstrings, all different, drawn from real text on this machine.

    From the corpora `python` and `docstrings`; the lab models have read their train splits and no other.

    Args:
        n: of each register.
        seed: the same seed and split give the same texts on the same installation.
        split: "train", "validation" or "test".
        cache: where the corpora are; None means the cache of this machine.

    Raises:
        DataError: there is no such split, or it has fewer than n texts of a register.
    """
    if split not in SPLITS:
        raise DataError(f"split: {explain(repr(split), f'one of {SPLITS}', nearest(split, SPLITS))}")
    return Registers(_drawn(n, seed, "python", split, cache), _drawn(n, seed, "docstrings", split, cache))


def code_lines(text: str) -> Iterator[str]:
    """The lines of a text that are Python by themselves; a line that opens a block counts, comments do not.

    >>> list(code_lines("for name in sorted(self.names):\\n    # in the order in which they come\\n    pass"))
    ['for name in sorted(self.names):']
    """
    stripped = (line.strip() for line in text.splitlines())
    return (line for line in stripped if _SHORTEST <= len(line) <= _LONGEST and _is_statement(line))


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text that are English: four words or more and a full stop; joined where lines wrap.

    >>> list(sentences("Solve it.\\n\\nThe solver stops at the\\nfirst solution. Returns ----- x : array."))
    ['The solver stops at the first solution.']
    """
    for paragraph in re.split(r"\n\s*\n", text):
        for sentence in _BREAK.split(" ".join(paragraph.split())):
            if _SHORTEST <= len(sentence) <= _LONGEST and _SENTENCE.fullmatch(sentence):
                yield sentence


@dataclass(frozen=True, eq=False)
class Detector:
    """A linear classifier of two registers on character n-grams of length one to three, or on words."""

    features: HashingVectorizer
    classifier: LogisticRegression

    def score(self, texts: Sequence[str]) -> Float[np.ndarray, " n"]:
        """The probability that each text is of the first register; .5 for a text without characters, or nearly so."""
        if not texts:
            return np.zeros(0)
        scores = self.classifier.predict_proba(self.features.transform(texts))[:, 1]
        return np.asarray(scores, dtype=np.float64)


def fit_detector(first: Sequence[str], second: Sequence[str], *, words: bool = False) -> Detector:
    """A logistic regression on hashed characters; fit it on texts that nothing else is judged by.

    Args:
        first: texts of the first register.
        second: texts of the second register.
        words: use which words are there, in small letters, instead. Where each register has few wordings, this says
            more about others.

    Raises:
        DataError: a register without texts.
    """
    if not first or not second:
        raise DataError(explain(f"{len(first)} and {len(second)} texts", "at least one of each register"))
    features = HashingVectorizer(
        analyzer="char", ngram_range=(1, 3), n_features=2**15, lowercase=False, alternate_sign=False
    )
    if words:
        features = HashingVectorizer(n_features=2**15, binary=True, norm=None, alternate_sign=False)
    classifier = LogisticRegression(C=10.0, max_iter=1000)
    labels = [1] * len(first) + [0] * len(second)
    classifier.fit(features.transform([*first, *second]), labels)
    return Detector(features, classifier)


def separation(detector: Detector, first: Sequence[str], second: Sequence[str], *, seed: int = 0) -> Interval:
    """Separation: the difference of the detector's mean scores on two sets of texts, in [-1, 1], with its interval.

    1 when it is sure and right about every text, 0 when it cannot tell them apart; nan without texts.
    """
    if not first or not second:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    return bootstrap(mean_difference, detector.score(first), detector.score(second), seed=seed)


def beginnings(texts: Sequence[str]) -> list[str]:
    """Prompts: the first half of each text, cut before the space nearest to its middle on the left, if there is one.

    >>> beginnings(["The solver stops at the first solution.", "self.assertEqual(1)"])
    ['The solver stops', 'self.asse']
    """
    halves = (text[: max(1, len(text) // 2)] for text in texts)
    return [half.rpartition(" ")[0].rstrip() or half for half in halves]


def continued(model: Model, texts: Sequence[str], *, max_new_tokens: int = 24) -> list[str]:
    """Continuations by a model of the beginning of each text; without the beginning."""
    return model.generate(beginnings(texts), max_new_tokens=max_new_tokens)


def admit(real: Interval, generated: Interval) -> None:
    """Admission test: accept registers that the detector separates, in real texts and in continuations by a model.

    Raises:
        DataError: the lower end of either separation is below `LEAST_SEPARATION`, or nan.
    """
    for name, gap in (("real", real), ("generated", generated)):
        if not gap.low >= LEAST_SEPARATION:
            got = f"{name} texts separated by {gap.value:.3f} [{gap.low:.3f}, {gap.high:.3f}], n={gap.n}"
            hint = "another pair of registers, a better model, or more texts"
            raise DataError(explain(got, f"at least {LEAST_SEPARATION} at the lower end", hint))


def _drawn(n: int, seed: int, name: str, split: str, cache: Path | None) -> list[str]:
    pieces = _pieces(corpus(name, cache), name, split)
    if not 0 < n <= len(pieces):
        raise DataError(f"n: {explain(n, f'1 to {len(pieces)}, the texts that {name} has in {split}')}")
    picks = np.random.default_rng(derive(seed, "registers", name)).permutation(len(pieces))[:n]
    return [pieces[pick] for pick in picks]


@lru_cache(maxsize=8)
def _pieces(folder: Path, name: str, split: str) -> list[str]:
    """Every different text of a register in a split, in alphabetical order; a corpus never changes once made."""
    pieces = {"python": code_lines, "docstrings": sentences}[name]
    return sorted({piece for text in read_texts(folder, split, _CHARACTERS) for piece in pieces(text)})


def _is_statement(line: str) -> bool:
    if line.startswith("#"):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's code
        try:
            body = ast.parse(f"{line} pass" if line.endswith(":") else line).body
        except (SyntaxError, ValueError):
            return False
    return len(body) == 1 and not (
        isinstance(body[0], ast.Expr) and isinstance(body[0].value, _TELLING_NOTHING)
    )
