"""A quick stand-in for the classifiers of an audit, and questions for its tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from trimtab.read.leaks.estimate import Baseline, Leak
from trimtab.read.leaks.intervals import clustered_mean

COLOURS, CITIES = ("red", "blue"), ("Cairo", "Rome")


def quick_leak(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    baseline: np.ndarray | Baseline | None = None,
    seed: int = 0,
    **_settings: Any,
) -> Leak:
    """Nearest class mean, learned on half of the groups and tested on the other; the baseline is the same without."""
    names, codes = np.unique(labels, return_inverse=True)
    clusters = np.unique(groups, return_inverse=True)[1]
    known = baseline.features if isinstance(baseline, Baseline) else baseline
    plain = np.zeros((len(codes), 0)) if known is None else known
    below, above = (_halves(x, codes, clusters) for x in (plain, np.hstack([features, plain])))
    rows, counts = np.arange(len(codes)), np.bincount(codes)
    correct, anyway = (logp.argmax(1) == codes for logp in (above, below))
    gained = (above[rows, codes] - below[rows, codes]) / np.log(2)
    mean = float(correct.mean())
    return Leak(
        mean, mean - 0.1, mean + 0.1, *clustered_mean(correct - anyway.astype(float), clusters),
        *clustered_mean(gained, clusters), baseline_accuracy=float(anyway.mean()), n=len(codes),
        groups=len(set(clusters)), classes=len(names), chance=float(counts.max() / len(codes)), classifier="nearest",
        correct=correct, nats=above[rows, codes], baseline_nats=below[rows, codes], clusters=clusters,
    )  # fmt: skip


def quick_baseline(
    labels: np.ndarray, groups: np.ndarray, features: np.ndarray | None, seed: int, **_settings: Any
) -> Baseline:
    """Features of a baseline without anything fitted: `quick_leak` needs no more."""
    return Baseline(features, labels, groups, seed, (), ())


def _halves(x: np.ndarray, codes: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    scaled = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9) / max(x.shape[1], 1) ** 0.5
    classes = int(codes.max()) + 1
    logp, halves = (
        np.zeros((len(codes), classes)),
        np.random.default_rng(0).permutation(clusters.max() + 1) % 2,
    )
    for half in (0, 1):
        train, test = halves[clusters] != half, halves[clusters] == half
        sums = [
            scaled[train & (codes == k)].sum(0) / max(1, (train & (codes == k)).sum()) for k in range(classes)
        ]
        gaps = np.stack([((scaled[test] - mean) ** 2).sum(1) for mean in sums], axis=1)
        logp[test] = log_softmax(-8 * gaps, axis=1)
    return logp


def questions(n: int = 48) -> pd.DataFrame:
    """Questions about a cube in a city, two a scene: every second one names the colour, none the city."""
    rows = []
    for row in range(n):
        scene = row // 2
        colour, city = COLOURS[scene % 2], CITIES[scene // 2 % 2]
        asked = f"Is it {colour}?" if row % 2 else "Is it a ball?"
        rows.append(
            {"prompt": f"A {colour} cube, {city}. {asked}", "question": asked, "colour": colour, "city": city}
            | {
                "mentioned": ["colour"] if row % 2 else [],
                "answer": "yes" if row % 2 else "no",
                "scene": scene,
            }
        )
    return pd.DataFrame(rows)
