"""Classifiers that recover an attribute from features: logistic, linear discriminants, k-NN, trees and a small MLP.

Each maps training rows and new rows to log-probabilities of the new rows, one set for each setting of its grid. Inputs
are standardised by the training rows. `DEFAULT` is fast; `ALL` also tries trees and a network.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize

from trimtab.errors import ConfigError, not_among

CONSTANT = 1e-9
"""Standard deviation, relative to the largest value of a column, below which it is constant."""


class Inputs:
    """Training rows and new rows, standardised by the training rows; columns constant in training are dropped.

    Attributes:
        train: (n, d) mean 0 and variance 1 in each column.
        new: (m, d) on the same scale.
    """

    def __init__(self, train: Float[np.ndarray, "n d"], new: Float[np.ndarray, "m d"]) -> None:
        train = np.asarray(train, dtype=np.float64)
        mean, scale = train.mean(axis=0), train.std(axis=0)
        varies = scale > CONSTANT * np.abs(train).max(axis=0, initial=0.0)
        self.train = (train[:, varies] - mean[varies]) / scale[varies]
        self.new = (np.asarray(new, dtype=np.float64)[:, varies] - mean[varies]) / scale[varies]

    @cached_property
    def rotated(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Principal axes: training rows, new rows (both (., r), r <= min(n, d)) and the variance of each axis.

        Lossless for classifiers that see inner products or distances to training rows: what new rows have outside the
        span of the training rows changes neither.
        """
        n, d = self.train.shape
        wide = d > n
        gram = self.train @ self.train.T if wide else self.train.T @ self.train
        values, vectors = np.linalg.eigh(gram)
        kept = values > 1e-10 * max(values.max(initial=0.0), 1e-300)
        values, vectors = values[kept][::-1], vectors[:, kept][:, ::-1]
        if wide:
            root = np.sqrt(values)
            return vectors * root, (self.new @ self.train.T @ vectors) / root, values / n
        return self.train @ vectors, self.new @ vectors, values / n


LogProbabilities = Float[np.ndarray, "settings m classes"]
Classifier = Callable[[Inputs, Int[np.ndarray, " n"], int, Sequence[int], int], LogProbabilities]
"""(inputs, labels in [0, classes), classes, which settings, seed) -> log-probabilities of the new rows."""


def class_shares(labels: Int[np.ndarray, " n"], classes: int) -> Float[np.ndarray, " classes"]:
    """Smoothed log-shares of classes, (count + 0.5) / (n + 0.5 classes): what to say without any features.

    >>> np.exp(class_shares(np.array([0, 0, 1]), 2)).tolist()
    [0.625, 0.375]
    """
    counts = np.bincount(labels, minlength=classes) + 0.5
    return np.asarray(np.log(counts / counts.sum()))


def log_softmax(logits: Float[np.ndarray, "*rows classes"]) -> Float[np.ndarray, "*rows classes"]:
    """Log-softmax along the last axis; a quarter of the time of SciPy's on small arrays.

    >>> np.exp(log_softmax(np.log(np.array([1.0, 3.0])))).round(9).tolist()
    [0.25, 0.75]
    """
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1e3, 1e5)
"""Prior variances of a logit: C of scikit-learn times the number of columns."""


def logistic(
    inputs: Inputs, labels: Int[np.ndarray, " n"], classes: int, settings: Sequence[int], seed: int = 0
) -> LogProbabilities:
    """Multinomial logistic regression with an L2 penalty, one for each of `STRENGTHS` that is asked for.

    The minimum of scikit-learn's `LogisticRegression(C=strength / d)`, found in the principal axes of the training
    rows, each scaled by the bound of Boehning (1992) on its curvature, from strong to weak penalties: a few steps each.
    """
    del seed
    x, new, variance = inputs.rotated
    n, d = len(labels), max(inputs.train.shape[1], 1)
    shares = class_shares(labels, classes)
    flat, true = np.empty(0), (np.arange(n), labels)
    weights, bias = np.zeros((x.shape[1], classes)), shares - shares.mean()
    out = np.empty((len(settings), len(new), classes))
    for place, setting in enumerate(settings):
        penalty = d / (STRENGTHS[setting] * n)
        scale = 1.0 / np.sqrt(0.25 * variance + penalty)[:, None]
        scaled = x * scale.T

        def loss(
            flat: np.ndarray, scaled: np.ndarray = scaled, scale: np.ndarray = scale, penalty: float = penalty
        ) -> tuple[float, np.ndarray]:
            steps = flat.reshape(-1, classes)
            held = steps[1:] * scale
            logp = log_softmax(scaled @ steps[1:] + 2.0 * steps[0])
            error = np.exp(logp)
            error[true] -= 1.0
            value = -logp[true].mean() + 0.5 * penalty * (held**2).sum()
            slope = scaled.T @ error / n + penalty * scale * held
            return float(value), np.concatenate([2.0 * error.mean(axis=0)[None], slope]).ravel()

        flat = np.concatenate([bias[None] / 2.0, weights / scale]).ravel()
        flat = minimize(
            loss, flat, jac=True, method="L-BFGS-B", options={"maxiter": 60, "gtol": 1e-4, "ftol": 1e-7}
        ).x
        steps = flat.reshape(-1, classes)
        bias, weights = 2.0 * steps[0], steps[1:] * scale
        out[place] = log_softmax(new @ weights + bias)
    return out


SHRINKAGES = (0.001, 0.1, 0.5, 0.9)


def discriminant(
    inputs: Inputs, labels: Int[np.ndarray, " n"], classes: int, settings: Sequence[int], seed: int = 0
) -> LogProbabilities:
    """Linear discriminant analysis with a shrunk covariance, for each of `SHRINKAGES` that is asked for.

    The best classifier of Gaussian classes with one covariance, which it learns from fewer rows than a logistic
    regression (Efron 1975). The covariance within classes is (1 - a) S + a tr(S) / d I, as in scikit-learn's
    `LinearDiscriminantAnalysis(solver="lsqr", shrinkage=a)`; priors are the smoothed shares. In the principal axes of
    the training rows, outside of which classes do not differ.
    """
    del seed
    x, new, _ = inputs.rotated
    shares = class_shares(labels, classes)
    means = np.zeros((classes, x.shape[1]))
    np.add.at(means, labels, x)
    means /= np.maximum(np.bincount(labels, minlength=classes), 1)[:, None]
    within = x - means[labels]
    values, axes = np.linalg.eigh(within.T @ within / len(x))
    values = values.clip(min=CONSTANT)  # of standardised inputs: a class may have one point
    total = values.sum() / max(inputs.train.shape[1], 1)
    means, new = means @ axes, new @ axes
    out = []
    for setting in settings:
        scaled = means / ((1 - SHRINKAGES[setting]) * values + SHRINKAGES[setting] * total)
        out.append(log_softmax(new @ scaled.T - 0.5 * (means * scaled).sum(axis=1) + shares))
    return np.stack(out)


NEIGHBOURS = (3, 10, 30, 100)


def nearest(
    inputs: Inputs, labels: Int[np.ndarray, " n"], classes: int, settings: Sequence[int], seed: int = 0
) -> LogProbabilities:
    """k nearest neighbours in standardised inputs, for each of `NEIGHBOURS` that is asked for.

    The votes of the neighbours and one further vote split as the classes are: (votes + share) / (k + 1).
    """
    del seed
    x, new, _ = inputs.rotated
    distance = (x**2).sum(axis=1) - 2.0 * new @ x.T
    most = min(max(NEIGHBOURS), len(x))
    order = np.argsort(distance, axis=1, kind="stable")[:, :most]
    votes = np.cumsum(np.eye(classes)[labels[order]], axis=1)
    share = np.exp(class_shares(labels, classes))
    asked = [min(NEIGHBOURS[setting], most) for setting in settings]
    return np.asarray(np.log(np.stack([(votes[:, k - 1] + share) / (k + 1) for k in asked])))


TREES = (10, 30, 100)


def boosting(
    inputs: Inputs, labels: Int[np.ndarray, " n"], classes: int, settings: Sequence[int], seed: int = 0
) -> LogProbabilities:
    """Gradient-boosted trees (`HistGradientBoostingClassifier`), read after each number of rounds in `TREES`."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    asked = [TREES[setting] for setting in settings]
    present = np.unique(labels)
    if len(present) < 2 or not inputs.train.shape[1]:
        return np.tile(class_shares(labels, classes), (len(settings), len(inputs.new), 1))
    model = HistGradientBoostingClassifier(
        max_iter=max(asked),
        max_leaf_nodes=8,
        min_samples_leaf=10,
        early_stopping=False,
        random_state=seed % 2**32,
    )
    model.fit(inputs.train, labels)
    stages = list(model.staged_predict_proba(inputs.new))
    return np.stack([_spread(stages[rounds - 1], present, labels, classes) for rounds in asked])


PENALTIES = (0.1, 1.0)


def perceptron(
    inputs: Inputs, labels: Int[np.ndarray, " n"], classes: int, settings: Sequence[int], seed: int = 0
) -> LogProbabilities:
    """A network with one hidden layer of 64 units (`MLPClassifier`), for each L2 penalty of `PENALTIES` asked for."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    x, new, _ = inputs.rotated
    present = np.unique(labels)
    if len(present) < 2 or not x.shape[1]:
        return np.tile(class_shares(labels, classes), (len(settings), len(new), 1))
    out = []
    for setting in settings:
        model = MLPClassifier((64,), alpha=PENALTIES[setting], max_iter=60, random_state=seed % 2**32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x, labels)
        out.append(_spread(model.predict_proba(new), present, labels, classes))
    return np.stack(out)


def _spread(
    probabilities: Float[np.ndarray, "m present"],
    present: Int[np.ndarray, " present"],
    labels: np.ndarray,
    classes: int,
) -> Float[np.ndarray, "m classes"]:
    """Log-probabilities over all classes; those that training lacks have their smoothed share."""
    out = np.tile(np.exp(class_shares(labels, classes)), (len(probabilities), 1))
    out[:, present] = np.maximum(probabilities, 1e-12)
    return np.asarray(np.log(out / out.sum(axis=1, keepdims=True)))


CLASSIFIERS: dict[str, tuple[Classifier, int]] = {
    "logistic": (logistic, len(STRENGTHS)),
    "lda": (discriminant, len(SHRINKAGES)),
    "k-nn": (nearest, len(NEIGHBOURS)),
    "boosting": (boosting, len(TREES)),
    "mlp": (perceptron, len(PENALTIES)),
}
"""Each family with the number of settings in its grid."""

DEFAULT = ("logistic", "lda", "k-nn")
ALL = tuple(CLASSIFIERS)


def check_classifiers(names: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple.

    Raises:
        ConfigError: none, or a name that is no classifier.

    >>> check_classifiers(["logistic"])
    ('logistic',)
    """
    wrong = [not_among("classifiers", name, CLASSIFIERS) for name in names if name not in CLASSIFIERS]
    if wrong or not names:
        raise ConfigError(
            str(wrong[0]) if wrong else "classifiers: got none, expected at least one; try ['logistic']"
        )
    return tuple(names)
