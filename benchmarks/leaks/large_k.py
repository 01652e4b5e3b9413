"""Large numbers of logits by the paper's small network, with and without standardised inputs.

The network has hidden layers of 64, 48 and 32 units (arXiv 2604.09885). Ours is scikit-learn's, which has no dropout:
the one deviation. Folds are grouped by scene; it is trained on four fifths and named right or not on the rest.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from trimtab.numerics.cluster_bootstrap import wilson_of_clusters
from trimtab.read.leaks.cells import FOLDS, Samples
from trimtab.read.leaks.folds import grouped_folds
from trimtab.read.leaks.intervals import clustered_mean

HIDDEN = (64, 48, 32)
INPUTS = ("raw", "standardised")


def right(features: np.ndarray, samples: Samples, inputs: str, seed: int) -> np.ndarray:
    """Whether each row's class is named right by the network of the folds without it."""
    _, labels = np.unique(samples.labels, return_inverse=True)
    _, groups = np.unique(samples.groups, return_inverse=True)
    fold, hits = grouped_folds(labels, groups, FOLDS, seed), np.zeros(len(labels))
    for held in range(FOLDS):
        train, test = fold != held, fold == held
        x, new = features[train], features[test]
        if inputs == "standardised":
            scaler = StandardScaler().fit(x)
            x, new = scaler.transform(x), scaler.transform(new)
        network = MLPClassifier(HIDDEN, random_state=seed)
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore", ConvergenceWarning)
            network.fit(x, labels[train])
        hits[test] = network.predict(new) == labels[test]
    return hits


def large_k(
    features: Callable[[int, np.ndarray], np.ndarray],
    samples: Samples,
    ks: Sequence[int],
    fewer: int,
    seed: int,
) -> dict[str, Any]:
    """Accuracy at each number of logits with either kind of inputs, and the largest less `fewer`, paired.

    Args:
        features: number of logits, rows of the questions -> (rows, k).
        samples: rows, labels and groups of an attribute in a role.
        ks: numbers of logits, the largest last.
        fewer: the one that the largest is compared with.
        seed: of folds and weights.
    """
    name = f"{samples.attribute} ({samples.role})"
    groups = np.unique(samples.groups, return_inverse=True)[1]
    rows, differences = [], {}
    for inputs in INPUTS:
        hits = {k: right(np.asarray(features(k, samples.rows)), samples, inputs, seed) for k in ks}
        for k, one in hits.items():
            low, high = wilson_of_clusters(one, np.zeros(len(one), dtype=int), groups, 1)
            ends = {"accuracy": one.mean(), "accuracy_low": low[0], "accuracy_high": high[0], "n": len(one)}
            rows.append(
                {"attribute": samples.attribute, "role": samples.role, "inputs": inputs, "k": k, **ends}
            )
        ends = clustered_mean(hits[ks[-1]] - hits[fewer], groups, unit=1.0)
        what = {"what": f"{ks[-1]} less {fewer} fixed, {name}", "measure": "accuracy", "n": len(groups)}
        differences[inputs] = what | dict(zip(("value", "low", "high"), map(float, ends), strict=True))
    return {"rows": rows, "differences": differences}
