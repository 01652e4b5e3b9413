"""Statistics of samples: the ones used everywhere, and how any of them is called on many resamples."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from trimtab.errors import ConfigError, ShapeError, explain, nearest

Statistic = Callable[..., Any]
"""A function of one or more samples; with an `axis` keyword it is computed on many resamples at once."""

CHUNK = 2**22
"""Numbers held at once when resampling."""


def mean(sample: np.ndarray, *, axis: int = -1) -> Any:
    """The mean along an axis.

    >>> float(mean(np.array([1.0, 3.0])))
    2.0
    """
    return sample.mean(axis=axis)


def mean_difference(first: np.ndarray, second: np.ndarray, *, axis: int = -1) -> Any:
    """The mean of the first sample minus the mean of the second, along an axis.

    >>> float(mean_difference(np.array([1.0, 3.0]), np.array([1.0])))
    1.0
    """
    return first.mean(axis=axis) - second.mean(axis=axis)


def ratio_of_sums(numerator: np.ndarray, denominator: np.ndarray, *, axis: int = -1) -> Any:
    """The sum of the first sample over the sum of the second: a mean weighted by the second, such as loss per token.

    >>> float(ratio_of_sums(np.array([4.0, 2.0]), np.array([3.0, 1.0])))
    1.5
    """
    return numerator.sum(axis=axis) / denominator.sum(axis=axis)


def spearman(
    first: Float[np.ndarray, "*lines m"], second: Float[np.ndarray, "*#lines m"]
) -> Float[np.ndarray, " *lines"]:
    """Spearman's correlation along the last axis, ties at their mean rank; nan where a side is constant.

    One line as the second side goes with every line of the first.

    >>> float(spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 8.0, 27.0])).round(6))
    1.0
    """
    return pearson(rankdata(first, axis=-1), rankdata(second, axis=-1))


def pearson(
    first: Float[np.ndarray, "*lines m"], second: Float[np.ndarray, "*#lines m"]
) -> Float[np.ndarray, " *lines"]:
    """Pearson's correlation along the last axis; nan where a side is constant.

    One line as the second side goes with every line of the first.

    >>> float(pearson(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])).round(6))
    -1.0
    """
    x, y = (side - side.mean(-1, keepdims=True) for side in (first, second))
    size = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    return np.asarray(np.divide((x * y).sum(-1), size, out=np.full(size.shape, np.nan), where=size > 0))


def each_line(statistic: Statistic, samples: list[Any]) -> Float[np.ndarray, " b"]:
    """The statistic of each line, at once where the statistic and the shapes allow it."""
    at_once = isinstance(samples[0], np.ndarray) and "axis" in inspect.signature(statistic).parameters
    if at_once:
        return np.asarray(statistic(*samples, axis=-1), dtype=np.float64)
    return np.array([float(statistic(*line)) for line in zip(*samples, strict=True)])


def arrays_of(samples: Sequence[np.ndarray], *, same_length: bool) -> list[np.ndarray]:
    """The samples as float64 arrays of one dimension; refused when empty, misshapen or unequal where they may not."""
    if not samples:
        raise ShapeError(explain("no samples", "at least one", "bootstrap(mean, sample)"))
    arrays = [np.asarray(sample, dtype=np.float64) for sample in samples]
    for array in arrays:
        if array.ndim != 1 or not len(array):
            raise ShapeError(explain(f"a sample of shape {array.shape}", "one dimension, at least one value"))
    lengths = [len(array) for array in arrays]
    if same_length and len(set(lengths)) > 1:
        raise ShapeError(
            explain(f"lengths {lengths}", "equal lengths, as rows belong together", "paired=False")
        )
    return arrays


def check_choice(name: str, got: str, choices: tuple[str, ...]) -> None:
    """Refuse a word that is not among the choices."""
    if got not in choices:
        raise ConfigError(explain(f"{name} {got!r}", f"one of {choices}", nearest(got, choices)))


def check_numbers(name: str, count: int, confidence: float = 0.95) -> None:
    """Refuse a count below 1 and a confidence outside (0, 1)."""
    if count < 1:
        raise ConfigError(explain(f"{name} {count}", "at least 1"))
    if not 0.0 < confidence < 1.0:
        raise ConfigError(explain(f"confidence {confidence}", "a number between 0 and 1", "0.95"))
