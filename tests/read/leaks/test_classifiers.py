"""Classifiers against scikit-learn, on standardised inputs that lose nothing by rotation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from trimtab.errors import ConfigError
from trimtab.read.leaks.classifiers import (
    ALL,
    CLASSIFIERS,
    NEIGHBOURS,
    SHRINKAGES,
    STRENGTHS,
    TREES,
    Inputs,
    boosting,
    check_classifiers,
    class_shares,
    discriminant,
    logistic,
    nearest,
)


def blobs(n: int, d: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / np.sqrt(d)
    return x + rng.normal(size=(classes, d))[labels] * 0.7 + 5.0, labels


@pytest.mark.parametrize("d", [6, 90], ids=["tall", "wide"])
@pytest.mark.parametrize("classes", [2, 4])
def test_logistic_is_that_of_scikit_learn(d, classes):
    x, labels = blobs(80, d, classes)
    train, new = x[:60], x[60:]
    scaler = StandardScaler().fit(train)
    ours = logistic(Inputs(train, new), labels[:60], classes, [0, 1, 2])
    for one, prior in zip(ours, STRENGTHS, strict=False):
        # A pair of classes has two opposite columns of weights here and one of twice the size in scikit-learn.
        model = LogisticRegression(C=prior / d * (2 if classes == 2 else 1), tol=1e-9, max_iter=5000)
        theirs = model.fit(scaler.transform(train), labels[:60]).predict_log_proba(scaler.transform(new))
        assert np.abs(np.exp(one) - np.exp(theirs)).max() < 5e-3


@pytest.mark.parametrize("d", [6, 90], ids=["tall", "wide"])
@pytest.mark.parametrize("classes", [2, 4])
def test_discriminants_are_those_of_scikit_learn(d, classes):
    x, labels = blobs(80, d, classes)
    inputs, y = Inputs(x[:60], x[60:]), labels[:60]
    priors = np.exp(class_shares(y, classes))
    # scikit-learn weighs the covariance of each class by its prior, ours by its rows: the priors enter afterwards.
    for shrinkage, one in zip(SHRINKAGES, discriminant(inputs, y, classes, range(4)), strict=True):
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(inputs.train, y)
        theirs = model.predict_proba(inputs.new) * priors / (np.bincount(y) / 60)
        assert np.allclose(np.exp(one), theirs / theirs.sum(axis=1, keepdims=True), atol=1e-8)


def test_discriminants_without_variance():
    labels = np.array([0, 0, 1, 1])
    constant = discriminant(Inputs(np.ones((4, 2)), np.ones((3, 2))), labels, 2, [0])
    exact = discriminant(Inputs(np.eye(2)[labels], np.eye(2)), labels, 2, [0, 1])
    assert np.allclose(np.exp(constant), 0.5)
    assert np.allclose(np.exp(exact), np.eye(2))


def test_nearest_counts_the_neighbours_of_scikit_learn():
    x, labels = blobs(150, 5, 3)
    train, new, y = x[:120], x[120:], labels[:120]
    scaler = StandardScaler().fit(train)
    settings = range(len(NEIGHBOURS))
    for k, one in zip(NEIGHBOURS, nearest(Inputs(train, new), y, 3, settings), strict=True):
        theirs = KNeighborsClassifier(k).fit(scaler.transform(train), y).predict_proba(scaler.transform(new))
        assert np.allclose(np.exp(one), (theirs * k + np.exp(class_shares(y, 3))) / (k + 1))


def test_boosting_reads_fewer_rounds_from_one_fit():
    x, labels = blobs(150, 4, 3)
    inputs = Inputs(x[:120], x[120:])
    ours = boosting(inputs, labels[:120], 3, [0, 1], seed=5)
    for rounds, one in zip(TREES, ours, strict=False):
        model = HistGradientBoostingClassifier(
            max_iter=rounds, max_leaf_nodes=8, min_samples_leaf=10, early_stopping=False, random_state=5
        )
        theirs = model.fit(inputs.train, labels[:120]).predict_proba(inputs.new)
        assert np.allclose(np.exp(one), theirs)


@pytest.mark.parametrize("d", [5, 70])
def test_rotation_keeps_inner_products_and_the_order_of_neighbours(d):
    x, _ = blobs(50, d, 2)
    inputs = Inputs(x[:40], x[40:])
    train, new, variance = inputs.rotated
    assert train.shape[1] <= min(39, d)
    assert np.allclose(train @ train.T, inputs.train @ inputs.train.T)
    assert np.allclose(new @ train.T, inputs.new @ inputs.train.T)
    assert np.allclose(train.T @ train / 40, np.diag(variance), atol=1e-9)
    ours, full = (cdist(a, b, "sqeuclidean") for a, b in ((new, train), (inputs.new, inputs.train)))
    assert np.allclose(ours - ours[:, :1], full - full[:, :1])


def test_inputs_are_standardised_by_the_training_rows_and_constant_columns_dropped():
    rng = np.random.default_rng(0)
    train = np.column_stack(
        [rng.normal(3, 2, 30), np.full(30, 0.1), np.full(30, -40.0), rng.normal(0, 1e-6, 30)]
    )
    new = train + 1.0
    kept = train.copy()
    inputs = Inputs(train, new)
    assert inputs.train.shape == (30, 2)
    assert np.allclose(inputs.train.mean(axis=0), 0)
    assert np.allclose(inputs.train.std(axis=0), 1)
    assert np.allclose(inputs.new - inputs.train, 1.0 / train[:, [0, 3]].std(axis=0))
    assert np.array_equal(train, kept)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("d", [0, 3])
def test_every_classifier_gives_distributions_also_over_a_class_that_training_lacks(name, d):
    x, labels = blobs(60, 3, 2)
    classify, settings = CLASSIFIERS[name]
    for y in (labels[:40] * 2, np.zeros(40, dtype=int)):
        out = classify(Inputs(x[:40, :d], x[40:, :d]), y, 3, range(settings), 2**60)
        assert out.shape == (settings, 20, 3)
        assert np.isfinite(out).all()
        assert np.allclose(np.exp(out).sum(axis=2), 1.0)
        assert np.array_equal(out, classify(Inputs(x[:40, :d], x[40:, :d]), y, 3, range(settings), 2**60))


@pytest.mark.parametrize("name", ALL)
def test_one_setting_alone_is_the_one_of_the_grid(name):
    x, labels = blobs(90, 4, 3)
    classify, settings = CLASSIFIERS[name]
    inputs = Inputs(x[:60], x[60:])
    grid = classify(inputs, labels[:60], 3, range(settings), 1)
    alone = classify(inputs, labels[:60], 3, [settings - 1], 1)[0]
    assert np.abs(np.exp(grid[-1]) - np.exp(alone)).max() < 0.02


def test_classifiers_are_named():
    with pytest.raises(ConfigError, match=r"classifiers: got 'logistics', expected .* try 'logistic'"):
        check_classifiers(["logistics"])
    with pytest.raises(ConfigError, match="classifiers: got none, expected at least one"):
        check_classifiers([])
