"""Calibration of listeners that give probabilities: reliability, expected calibration error, Brier score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from trimtab.numerics.bootstrap import Resampling, wilson
from trimtab.numerics.cluster_bootstrap import bootstrap_totals, quotient, units_of
from trimtab.refer.intelligibility.matrix import estimates

BINS = 10


def bin_of(confidence: Float[np.ndarray, " n"], bins: int = BINS) -> np.ndarray:
    """Bin of equal width of each confidence in [0, 1]; 1 belongs to the last.

    >>> bin_of(np.array([0.0, 0.05, 0.1, 1.0])).tolist()
    [0, 0, 1, 9]
    """
    # Rounded first: a sum of probabilities such as 0.30000000000000004 belongs to the bin of 0.3.
    return np.asarray(np.clip(np.floor(np.round(confidence * bins, 9)).astype(int), 0, bins - 1))


def expected_calibration_error(
    confidence: Float[np.ndarray, " n"], correct: Float[np.ndarray, " n"], bins: int = BINS
) -> float:
    """Expected calibration error: sum over bins of their share times |mean confidence - mean accuracy|.

    Bins have equal width. It is at least 0, and above 0 by chance where a bin is small, also for a calibrated listener.

    Source: Guo, Pleiss, Sun, Weinberger 2017, "On calibration of modern neural networks", equation 3.

    >>> round(expected_calibration_error(np.array([0.95, 0.95, 0.25]), np.array([1.0, 1.0, 1.0])), 6)
    0.283333
    """
    if not len(confidence):
        return float("nan")
    totals = np.zeros((bins, 3))
    np.add.at(
        totals, bin_of(confidence, bins), np.column_stack([confidence, correct, np.ones(len(confidence))])
    )
    return float(_error(totals)[0])


def _error(totals: np.ndarray) -> np.ndarray:
    """The expected calibration error of totals (..., bins, 3): sums of confidence, of correct answers, and counts."""
    gaps = totals[..., 0] - totals[..., 1]
    # |x| as sqrt(x^2) would lose the complex step at 0; the sign keeps it.
    sizes = np.where(gaps.real < 0, -gaps, gaps).sum(axis=-1)
    return np.asarray(quotient(sizes, totals[..., 2].sum(axis=-1)))[..., None]


def calibration_table(
    answers: pd.DataFrame, pairs: Sequence[tuple[str, str]], draws: Resampling
) -> pd.DataFrame:
    """Calibration of each pair whose listener gives probabilities.

    Args:
        answers: columns speaker, listener, score, confidence, brier, p_target, cluster.
        pairs: speaker and listener.
        draws: settings of the bootstrap.

    Returns:
        Columns speaker, listener, accuracy, confidence (mean probability of the most probable candidate), p_target
        (mean probability of the target), ece, ece_low, ece_high, brier (Brier 1950: mean of sum_k (p_k - y_k)^2, 0
        best, 2 worst), brier_low, brier_high, n, n_groups. Resampling adds noise to bins, so intervals of the
        calibration error lie high where answers are few.
    """
    rows = []
    for speaker, listener in pairs:
        mask = (answers["speaker"] == speaker) & (answers["listener"] == listener)
        own = answers[mask & answers["confidence"].notna()]
        if own.empty:
            continue
        codes = np.unique(own["cluster"].to_numpy().astype(str), return_inverse=True)[1]
        confidence, correct = own["confidence"].to_numpy(), own["score"].to_numpy()
        values = np.column_stack([confidence, correct, np.ones(len(own))])
        units = units_of(values, bin_of(confidence), BINS, codes)
        error = bootstrap_totals(
            _error, units, n_boot=draws.n_boot, confidence=draws.confidence, seed=draws.seed
        )
        one_cell = np.zeros(len(own), dtype=int)
        brier = estimates(own["brier"].to_numpy(), one_cell, codes, 1, None, draws, (0.0, 2.0)).cells.iloc[0]
        row = {"speaker": speaker, "listener": listener, "accuracy": float(correct.mean())}
        row |= {"confidence": float(confidence.mean()), "p_target": float(own["p_target"].mean())}
        ends = [max(0.0, float(end[0])) if end[0] == end[0] else np.nan for end in (error.low, error.high)]
        row |= {"ece": float(error.values[0]), "ece_low": ends[0], "ece_high": ends[1]}
        row |= {"brier": brier["value"], "brier_low": brier["low"], "brier_high": brier["high"]}
        rows.append(row | {"n": len(own), "n_groups": int(codes.max()) + 1})
    names = ["speaker", "listener", "accuracy", "confidence", "p_target", "ece", "ece_low", "ece_high"]
    return pd.DataFrame(rows, columns=[*names, "brier", "brier_low", "brier_high", "n", "n_groups"])


def reliability_table(
    answers: pd.DataFrame, pairs: Sequence[tuple[str, str]], draws: Resampling
) -> pd.DataFrame:
    """Reliability of each pair whose listener gives probabilities: accuracy by bin of confidence.

    Returns:
        Columns speaker, listener, bin (its lower end), confidence, accuracy, low, high (Wilson's interval, which takes
        answers for independent), n; bins without answers are left out.
    """
    rows = []
    for speaker, listener in pairs:
        mask = (answers["speaker"] == speaker) & (answers["listener"] == listener)
        own = answers[mask & answers["confidence"].notna()]
        place = bin_of(own["confidence"].to_numpy())
        for number in np.unique(place):
            part = own[place == number]
            n, right = len(part), float(part["score"].sum())
            share = wilson(round(right), n, confidence=draws.confidence)
            means = float(part["confidence"].mean()), right / n
            rows.append((speaker, listener, float(number) / BINS, *means, share.low, share.high, n))
    names = ["speaker", "listener", "bin", "confidence", "accuracy", "low", "high", "n"]
    return pd.DataFrame(rows, columns=names)
