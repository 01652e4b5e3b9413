"""Leakage of an attribute: what features tell about it beyond what is known anyway, as accuracy and in bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from trimtab.errors import ConfigError, ShapeError, explain, refusal
from trimtab.numerics.cluster_bootstrap import wilson_of_clusters
from trimtab.read.leaks.classifiers import (
    CLASSIFIERS,
    DEFAULT,
    Inputs,
    check_classifiers,
    class_shares,
    log_softmax,
)
from trimtab.read.leaks.folds import grouped_folds
from trimtab.read.leaks.intervals import clustered_mean, information_upper, upper_with_learning
from trimtab.seeds import derive

INNER = 3
"""Inner folds, by which the classifier, its setting and its calibration are chosen."""
STRONGEST = 4.0
"""Largest power of a prediction in the pool."""
STEPS = 30
"""Most steps of Newton's method, and most times that one is halved."""


@dataclass(frozen=True, eq=False)
class Leak:
    """What a caller recovers of an attribute, out of fold, with 95 % intervals over groups.

    Attributes:
        accuracy, accuracy_low, accuracy_high: share of rows whose class is named right; Wilson's interval, whose upper
            end also allows for what more rows would teach.
        gain, gain_low, gain_high: accuracy above that of the baseline, paired by row.
        bits, low, high: cross-entropy of the baseline less that of the attacker, in bits a row. A lower bound of the
            information that the features add, since a trained classifier is not the best one; `high` also allows for
            what more rows would teach it, see `information_upper`. It is never below zero, as no
            information is, and never above the upper end of the baseline's cross-entropy, as no features add more than
            is not known yet.
        baseline_accuracy: share of rows that the baseline names right.
        n: rows.
        groups: independent groups of rows.
        classes: number of classes.
        chance: share of the largest class.
        classifier: chosen in most folds; "baseline" where the features were ignored in most.
        correct: (n,) whether the class is named right.
        nats: (n,) log-probability of the true class.
        baseline_nats: (n,) the same by the baseline.
        clusters: (n,) group of each row, whole numbers from 0.
    """

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    gain: float
    gain_low: float
    gain_high: float
    bits: float
    low: float
    high: float
    baseline_accuracy: float
    n: int
    groups: int
    classes: int
    chance: float
    classifier: str
    correct: Bool[np.ndarray, " n"] = field(repr=False)
    nats: Float[np.ndarray, " n"] = field(repr=False)
    baseline_nats: Float[np.ndarray, " n"] = field(repr=False)
    clusters: Int[np.ndarray, " n"] = field(repr=False)


@dataclass(frozen=True)
class LeakDifference:
    """The first leak less the second, paired by row, with 95 % intervals over groups.

    Attributes:
        bits, low, high: difference in bits a row.
        accuracy, accuracy_low, accuracy_high: difference in accuracy.
    """

    bits: float
    low: float
    high: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float


@dataclass(frozen=True)
class _Split:
    """One outer fold: rows of training and test, the labels, and the inner fold of each training row."""

    train: np.ndarray
    test: np.ndarray
    labels: np.ndarray
    inner: np.ndarray
    seed: int


@dataclass(frozen=True)
class _Predictions:
    """Log-probabilities of training rows, each by classifiers of the inner folds without it, and of the test rows."""

    inner: Float[np.ndarray, "train classes"]
    new: Float[np.ndarray, "test classes"]
    classifier: str


@dataclass(frozen=True, eq=False)
class Baseline:
    """What an attacker knows anyway, fitted once for all features of the same labels, groups, seed and folds.

    Attributes:
        features: (n, d0), or None where nothing is known but class shares.
        codes: (n,) class of each row, whole numbers from 0.
        clusters: (n,) group of each row, whole numbers from 0.
        seed: of the folds.
        splits, predictions: each outer fold with what the baseline predicts.
    """

    features: Float[np.ndarray, "n d0"] | None
    codes: Int[np.ndarray, " n"]
    clusters: Int[np.ndarray, " n"]
    seed: int
    splits: tuple[_Split, ...]
    predictions: tuple[_Predictions, ...]

    def fits(self, labels: np.ndarray, groups: np.ndarray | None, seed: int, folds: int) -> bool:
        """Whether it was fitted on these labels, groups, seed and folds."""
        codes, clusters = _coded(labels, groups, folds)
        same = np.array_equal(codes, self.codes) and np.array_equal(clusters, self.clusters)
        return same and seed == self.seed and folds == len(self.splits)


def estimate_leak(
    features: Float[np.ndarray, "n d"],
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"] | None = None,
    baseline: Float[np.ndarray, "n d0"] | Baseline | None = None,
    seed: int = 0,
    *,
    classifiers: Sequence[str] = DEFAULT,
    folds: int = 5,
) -> Leak:
    """Leak of labels through features, by nested, grouped, stratified cross-validation.

    In each outer fold every classifier is tried in inner folds on features and baseline together. The best one by
    cross-entropy is pooled with the baseline, p ~ p_attacker^a p_baseline^b with a, b >= 0 fitted in the inner folds.
    So its confidence is calibrated, and features that tell nothing are ignored (a = 0). Nothing of an outer fold is
    seen before it is predicted. The same seed gives the same folds for all features of the same labels and groups.

    Args:
        features: what the attacker reads, finite.
        labels: class of each row; any values that compare equal when they are the same class.
        groups: rows of one group (a scene, a user) are never on both sides of a split; None: each row is its own.
        baseline: features of what the attacker knows anyway, such as words of the question, or what `fit_baseline` made
            of them; None: class shares.
        seed: of folds and of classifiers that draw.
        classifiers: names among `trimtab.read.leaks.classifiers.ALL`.
        folds: outer folds, at least 3.

    Returns:
        The leak, on one thread and the same for any number of threads.

    Raises:
        ShapeError: features are no matrix, or lengths differ.
        DataError: missing or infinite values, one class, fewer groups than folds, or a class within a single group.
        ConfigError: an unknown classifier, or fewer than 3 folds.

    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 2, 200)
    >>> leak = estimate_leak(labels[:, None] + 0.1 * rng.normal(size=(200, 3)), labels)
    >>> leak.accuracy, leak.low < leak.bits <= 1.0
    (1.0, True)
    """
    names = check_classifiers(classifiers)
    x = _checked("features", features, len(labels))
    known = baseline
    if not isinstance(known, Baseline):
        known = fit_baseline(labels, groups, known, seed, classifiers=names, folds=folds)
    elif not known.fits(labels, groups, seed, folds):
        got = f"a baseline of {len(known.codes)} rows fitted with other labels, groups, seed or folds"
        raise refusal(
            "baseline",
            got,
            "one of the same rows",
            "fit_baseline(labels, groups, ...) with the same arguments",
        )
    both = x if known.features is None else np.concatenate([x, known.features], axis=1)
    with threadpool_limits(1):
        attacks = [_attack(both, *one, names) for one in zip(known.splits, known.predictions, strict=True)]
    return _leak(known, attacks)


def fit_baseline(
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"] | None = None,
    features: Float[np.ndarray, "n d0"] | None = None,
    seed: int = 0,
    *,
    classifiers: Sequence[str] = DEFAULT,
    folds: int = 5,
) -> Baseline:
    """The baseline of `estimate_leak`, which takes it in the place of its features and so fits it only once.

    Args and Raises: as `estimate_leak`, of which it is the part that does not depend on what the attacker reads.
    """
    names = check_classifiers(classifiers)
    x = None if features is None else _checked("baseline", features, len(labels))
    codes, clusters = _coded(labels, groups, folds)
    outer = grouped_folds(codes, clusters, folds, derive(seed, "outer folds"))
    splits = tuple(_split(outer, fold, codes, clusters, seed) for fold in range(folds))
    predictions = [_shares(split, int(codes.max()) + 1) for split in splits]
    if x is not None:
        with threadpool_limits(1):
            predictions = [_attack(x, *one, names) for one in zip(splits, predictions, strict=True)]
    return Baseline(x, codes, clusters, seed, splits, tuple(predictions))


def leak_difference(a: Leak, b: Leak) -> LeakDifference:
    """Difference of two leaks over the same rows, the first less the second, with intervals clustered by group.

    Raises:
        ShapeError: the leaks are of other rows or groups.
    """
    if a.n != b.n or not np.array_equal(a.clusters, b.clusters):
        raise ShapeError(explain(f"leaks of {a.n} and {b.n} rows", "the same rows and groups in both"))
    gained = ((a.nats - a.baseline_nats) - (b.nats - b.baseline_nats)) / np.log(2)
    right = a.correct.astype(float) - b.correct.astype(float)
    return LeakDifference(*clustered_mean(gained, a.clusters), *clustered_mean(right, a.clusters, unit=1.0))


def _split(outer: np.ndarray, fold: int, codes: np.ndarray, clusters: np.ndarray, seed: int) -> _Split:
    train, test = np.flatnonzero(outer != fold), np.flatnonzero(outer == fold)
    seed = derive(seed, "fold", fold)
    count = min(INNER, len(np.unique(clusters[train])))
    return _Split(train, test, codes[train], grouped_folds(codes[train], clusters[train], count, seed), seed)


def _shares(split: _Split, classes: int) -> _Predictions:
    inner = np.empty((len(split.train), classes))
    for fold in range(split.inner.max() + 1):
        inner[split.inner == fold] = class_shares(split.labels[split.inner != fold], classes)
    new = np.tile(class_shares(split.labels, classes), (len(split.test), 1))
    return _Predictions(inner, new, "baseline")


def _attack(x: np.ndarray, split: _Split, below: _Predictions, names: Sequence[str]) -> _Predictions:
    """The best classifier by the inner folds, pooled with what is known anyway."""
    classes = below.inner.shape[1]
    tried = {name: np.empty((CLASSIFIERS[name][1], len(split.train), classes)) for name in names}
    for fold in range(split.inner.max() + 1):
        held = split.inner == fold
        inputs = Inputs(x[split.train[~held]], x[split.train[held]])
        for name, out in tried.items():
            classify, settings = CLASSIFIERS[name]
            out[:, held] = classify(inputs, split.labels[~held], classes, range(settings), split.seed)
    pools = [
        (*pool_powers(np.stack([one, below.inner]), split.labels), name, setting)
        for name, out in tried.items()
        for setting, one in enumerate(out)
    ]
    _, powers, name, setting = min(pools, key=lambda pool: pool[0])
    classify, _ = CLASSIFIERS[name]
    inputs = Inputs(x[split.train], x[split.test])
    new = classify(inputs, split.labels, classes, [setting], split.seed)[0]
    stack, inner = np.stack([tried[name][setting], below.inner]), np.empty_like(below.inner)
    for fold in range(split.inner.max() + 1):
        held = split.inner == fold
        without = pool_powers(stack[:, ~held], split.labels[~held])[1]
        inner[held] = _pooled(stack[:, held], without, split.labels[~held])
    attacked = _pooled(np.stack([new, below.new]), powers, split.labels)
    return _Predictions(inner, attacked, name if powers[0] > 0 else "baseline")


def pool_powers(
    logp: Float[np.ndarray, "2 n classes"], labels: Int[np.ndarray, " n"]
) -> tuple[float, Float[np.ndarray, " 2"]]:
    """Powers in [0, 4] of the logarithmic pool of two predictions that fits the labels best.

    The pool is p ~ p_1^a p_2^b (Genest and Zidek 1986). Its cross-entropy is convex in the powers: Newton's method, in
    which a power that is pushed against a bound stays there.

    Args:
        logp: log-probabilities of both predictions; finite.
        labels: true class of each row.

    Returns:
        The cross-entropy in nats, and the powers.
    """
    n = len(labels)
    true = logp[:, np.arange(n), labels].mean(axis=1)

    def loss(powers: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.tensordot(powers, logp, axes=1)
        top = mixed.max(axis=1, keepdims=True)
        weights = np.exp(mixed - top)
        total = weights.sum(axis=1, keepdims=True)
        return float((np.log(total) + top).mean() - powers @ true), weights / total

    powers = np.array([0.5, 0.5])
    value, p = loss(powers)
    for _ in range(STEPS):
        expected = (p * logp).sum(axis=2)
        slope = expected.mean(axis=1) - true
        curvature = np.einsum("ink,nk,jnk->ij", logp, p, logp) / n - expected @ expected.T / n
        free = ~((powers <= 0) & (slope > 0) | (powers >= STRONGEST) & (slope < 0))
        step = np.zeros(2)
        held = curvature[np.ix_(free, free)] + 1e-10 * np.eye(int(free.sum()))
        step[free] = np.linalg.solve(held, slope[free])
        for _ in range(STEPS):
            moved = np.clip(powers - step, 0.0, STRONGEST)
            lower, p_moved = loss(moved)
            if lower <= value:
                break
            step /= 2.0
        else:
            break
        gained, powers, value, p = value - lower, moved, lower, p_moved
        if gained < 1e-9:
            break
    return value, powers


def _pooled(logp: Float[np.ndarray, "2 n classes"], powers: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The pool, mixed with class shares at the weight of one row, so that no class is held to be impossible."""
    pooled = log_softmax(np.tensordot(powers, logp, axes=1))
    shares, rows = class_shares(labels, logp.shape[2]), len(labels)
    return np.asarray(np.logaddexp(pooled + np.log(rows / (rows + 1)), shares - np.log(rows + 1)))


def _leak(known: Baseline, attacks: Sequence[_Predictions]) -> Leak:
    codes, clusters, n, folds = known.codes, known.clusters, len(known.codes), len(attacks)
    correct, anyway = np.empty(n, dtype=bool), np.empty(n, dtype=bool)
    nats, base, inner, inner_right = np.empty(n), np.empty(n), np.zeros(n), np.zeros(n)
    for split, attack, below in zip(known.splits, attacks, known.predictions, strict=True):
        rows, train, true = np.arange(len(split.test)), np.arange(len(split.train)), codes[split.test]
        correct[split.test], anyway[split.test] = attack.new.argmax(1) == true, below.new.argmax(1) == true
        nats[split.test], base[split.test] = attack.new[rows, true], below.new[rows, true]
        inner[split.train] += (attack.inner - below.inner)[train, split.labels] / (folds - 1)
        inner_right[split.train] += (attack.inner.argmax(1) == split.labels) / (folds - 1)
    low, high = wilson_of_clusters(correct.astype(float), np.zeros(n, dtype=int), clusters, 1)
    counts, chosen = np.bincount(codes), Counter(attack.classifier for attack in attacks)
    gained = (nats - base) / np.log(2)
    bits, bits_low, _ = clustered_mean(gained, clusters)
    high_bits = upper_with_learning(
        information_upper(gained, clusters, codes, -base.mean() / np.log(2)),
        bits,
        gained - inner / np.log(2),
        clusters,
    )
    high_accuracy = upper_with_learning(
        float(high[0]), float(correct.mean()), correct - inner_right, clusters
    )
    # I(X; Y | known) <= H(Y | known) <= the cross-entropy of the baseline.
    unknown = clustered_mean(-base / np.log(2), clusters)[2]
    return Leak(
        float(correct.mean()),
        float(low[0]),
        min(high_accuracy, 1.0),
        *clustered_mean(correct.astype(float) - anyway, clusters, unit=1.0),
        bits,
        bits_low,
        min(max(0.0, high_bits), unknown),
        baseline_accuracy=float(anyway.mean()),
        n=n,
        groups=int(clusters.max()) + 1,
        classes=len(counts),
        chance=float(counts.max() / n),
        classifier=chosen.most_common(1)[0][0],
        correct=correct,
        nats=nats,
        baseline_nats=base,
        clusters=clusters,
    )


def _checked(what: str, x: np.ndarray, n: int) -> np.ndarray:
    """A finite matrix of as many rows as there are labels."""
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or len(x) != n:
        raise ShapeError(explain(f"{what} of shape {x.shape} for {n} labels", f"a matrix of {n} rows"))
    wrong = np.flatnonzero(~np.isfinite(x).all(axis=0))
    if len(wrong):
        got = f"missing or infinite values in {len(wrong)} of {x.shape[1]} columns, the first is column {wrong[0]}"
        raise refusal(what, got, "finite numbers", "a floor in the place of values that were not served")
    return x


def _coded(labels: np.ndarray, groups: np.ndarray | None, folds: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and groups as whole numbers from 0, once they are known to be enough."""
    if folds < 3:
        raise refusal("folds", folds, "at least 3", error=ConfigError)
    codes, names = pd.factorize(np.asarray(labels, dtype=object), sort=True)
    hint = "the rows of `usable_rows(labels, groups, folds)`"
    if (codes < 0).any():
        missing = int((codes < 0).sum())
        got = f"{missing} row{'' if missing == 1 else 's'} without a label"
        raise refusal("labels", got, "a label in each row", hint)
    if len(names) < 2:
        raise refusal("labels", f"{len(names)} class in {len(codes)} rows", "at least two classes")
    if groups is None:
        clusters = np.arange(len(codes))
    elif len(groups) != len(codes):
        raise ShapeError(explain(f"{len(groups)} groups for {len(codes)} labels", "one group for each row"))
    else:
        clusters = pd.factorize(np.asarray(groups), sort=True)[0]
    count = int(clusters.max()) + 1
    if count < folds:
        raise refusal(
            "groups", f"{count} groups", f"at least {folds}, one for each fold", "fewer folds or more groups"
        )
    spread = np.bincount(np.unique(np.column_stack([codes, clusters]), axis=0)[:, 0])
    if (spread < 2).any():
        got = f"class {names[int(spread.argmin())]!r} in a single group"
        raise refusal("labels", got, "each class in at least two groups", hint)
    # Classes are numbered by where they stand, not by name, so that folds are the same under other names.
    sums = [np.bincount(codes, weights=clusters.astype(float) ** power) for power in (2, 1, 0)]
    return np.argsort(np.lexsort(sums))[codes], clusters
