"""Accuracy matrix of speakers and listeners, with paired cluster-bootstrap intervals, and its interaction.

The interaction is a difference of differences: how much more a listener gains than another one when captions come from
its own speaker. What makes a speaker easier for everyone, or a listener better with everyone, cancels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from trimtab.errors import ConfigError, DataError, explain, nearest
from trimtab.numerics import cluster_bootstrap as clustered
from trimtab.numerics.bootstrap import Resampling

Pair = tuple[str, str]
"""A speaker and a listener."""
Own = Mapping[str, str | Sequence[str]]
"""Speaker -> the listener, or listeners, that are its own."""


@dataclass(frozen=True)
class Interaction:
    """Interaction of speakers and listeners: own pairs less crossed pairs, in points of accuracy.

    Attributes:
        value: own + other own - the two crossed cells, averaged over every two own pairs with different speakers and
            listeners; nan where a cell is missing.
        low, high: ends of its interval; nan where it is undefined.
        n: groups behind it.
        reason: why it is nan; empty where it is not.
        pairs: the own pairs, speaker and listener.
    """

    value: float
    low: float
    high: float
    n: int
    reason: str = ""
    pairs: tuple[Pair, ...] = ()


@dataclass(frozen=True)
class Estimates:
    """Means of cells and contrasts of them, with intervals.

    Attributes:
        cells: columns value, low, high, n, n_groups; a row per cell, nan and 0 where a cell has no answers.
        contrasts: columns value, low, high, n_groups; a row per contrast.
    """

    cells: pd.DataFrame
    contrasts: pd.DataFrame


def estimates(
    values: Float[np.ndarray, " rows"],
    cells: Int[np.ndarray, " rows"],
    clusters: Int[np.ndarray, " rows"],
    n_cells: int,
    contrasts: Float[np.ndarray, "m n_cells"] | None = None,
    draws: Resampling | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Estimates:
    """Means of cells and weighted sums of them, with paired cluster-bootstrap intervals.

    A cluster is drawn with all of its rows in every cell, so that what cells have in common cancels from contrasts.
    Shares, values between 0 and 1, have Wilson's interval with the trials that their clusters are worth; other means
    and contrasts have percentile intervals of values spread within cells, widened by Welch's degrees of freedom (see
    `cluster_bootstrap`). A contrast with a cell at a bound puts together the intervals of its cells (Zou and Donner
    2008, "Construction of confidence limits about effect measures"), which takes them for independent.

    Args:
        values: of the answers, within the bounds; no nan.
        cells: to which cell each belongs.
        clusters: labels of what is drawn together.
        n_cells: how many cells there are, those without answers included.
        contrasts: weights of cells.
        draws: settings of the bootstrap.
        bounds: the least and the greatest value.

    Returns:
        The estimates. Intervals need two clusters; a contrast with an empty cell is nan.
    """
    draws = draws or Resampling()
    weights = np.zeros((0, n_cells)) if contrasts is None else np.asarray(contrasts, dtype=float)
    if not len(values):
        nothing = pd.DataFrame({"value": np.nan, "low": np.nan, "high": np.nan}, index=range(n_cells))
        empty = pd.DataFrame({"value": np.nan, "low": np.nan, "high": np.nan}, index=range(len(weights)))
        return Estimates(nothing.assign(n=0, n_groups=0), empty.assign(n_groups=0))
    codes = np.unique(clusters, return_inverse=True)[1]
    spread = clustered.spread(values, cells, codes)
    table = _cells_table(values, spread, cells, codes, n_cells, draws, bounds)
    rows = [_contrast(row, table, spread, cells, codes, draws, bounds) for row in weights]
    return Estimates(table, pd.DataFrame(rows, columns=["value", "low", "high", "n_groups"]))


def _means(totals: np.ndarray) -> np.ndarray:
    return clustered.quotient(totals[..., 0], totals[..., 1])


def _cells_table(
    values: np.ndarray,
    spread: np.ndarray,
    cells: np.ndarray,
    codes: np.ndarray,
    n_cells: int,
    draws: Resampling,
    bounds: tuple[float, float],
) -> pd.DataFrame:
    n = np.bincount(cells, minlength=n_cells)
    pairs = np.unique(np.column_stack([cells, codes]), axis=0)
    groups = np.bincount(pairs[:, 0], minlength=n_cells)
    means = np.full(n_cells, np.nan)
    sums = np.bincount(cells, weights=values, minlength=n_cells)
    means[n > 0] = sums[n > 0] / n[n > 0]
    if bounds == (0.0, 1.0):
        low, high = clustered.wilson_of_clusters(values, cells, codes, n_cells, draws.confidence)
    else:
        units = clustered.units_of(np.column_stack([spread, np.ones(len(values))]), cells, n_cells, codes)
        found = clustered.bootstrap_totals(
            _means, units, n_boot=draws.n_boot, confidence=draws.confidence, seed=draws.seed
        )
        low, high = (np.array(ends[:n_cells]) for ends in (found.low, found.high))
        low, high = np.maximum(low, bounds[0]), np.minimum(high, bounds[1])
    low[groups < 2] = high[groups < 2] = np.nan
    return pd.DataFrame({"value": means, "low": low, "high": high, "n": n, "n_groups": groups})


def _contrast(
    weights: np.ndarray,
    table: pd.DataFrame,
    values: np.ndarray,
    cells: np.ndarray,
    codes: np.ndarray,
    draws: Resampling,
    bounds: tuple[float, float],
) -> tuple[float, float, float, int]:
    """A weighted sum of cells with its interval, and the clusters behind it.

    All sums of a cluster are one entry of the units, since the clusters are the same in every cell: the interval then
    has their degrees of freedom, not those of as many independent samples as there are cells.
    """
    mean, low, high = (table[name].to_numpy() for name in ("value", "low", "high"))
    used = np.flatnonzero(weights)
    mask = np.isin(cells, used)
    groups, value = len(np.unique(codes[mask])), float((mean[used] * weights[used]).sum())
    if np.isnan(value) or np.isnan(low[used]).any():
        return value, np.nan, np.nan, groups
    if np.isin(mean[used], bounds).any():
        down = np.where(weights > 0, mean - low, high - mean)[used] * weights[used]
        up = np.where(weights > 0, high - mean, mean - low)[used] * weights[used]
        return value, value - float(np.hypot.reduce(down)), value + float(np.hypot.reduce(up)), groups
    place = np.searchsorted(used, cells[mask])
    entries = np.zeros((int(mask.sum()), 2 * len(used)))
    entries[np.arange(len(entries)), 2 * place] = values[mask]
    entries[np.arange(len(entries)), 2 * place + 1] = 1.0
    units = clustered.units_of(entries, np.zeros(len(entries), dtype=int), 1, codes[mask])

    def function(totals: np.ndarray) -> np.ndarray:
        sums = totals[..., 0, :]
        means = clustered.quotient(sums[..., 0::2], sums[..., 1::2])
        return np.asarray((means * weights[used]).sum(axis=-1))[..., None]

    found = clustered.bootstrap_totals(
        function, units, n_boot=draws.n_boot, confidence=draws.confidence, seed=draws.seed
    )
    return value, float(found.low[0]), float(found.high[0]), groups


def own_pairs(own: Own | None, speakers: Sequence[str], listeners: Sequence[str]) -> tuple[Pair, ...]:
    """Own pairs of speakers and listeners: as given, else those of one name, and the two that are left over.

    Raises:
        ConfigError: a speaker or listener that there is not.

    >>> own_pairs(None, ["people", "captioner"], ["clip", "people"])
    (('people', 'people'), ('captioner', 'clip'))
    """
    if own is None:
        same = [(name, name) for name in speakers if name in listeners]
        rest = [[one for one in side if (one, one) not in same] for side in (speakers, listeners)]
        if same and all(len(side) == 1 for side in rest):
            same.append((rest[0][0], rest[1][0]))
        return tuple(same)
    pairs = []
    for one, several in own.items():
        speaker = str(one)
        alone = isinstance(several, str) or not isinstance(several, Iterable)
        for listener in map(str, [several] if alone else several):
            for name, side, kind in ((speaker, speakers, "speaker"), (listener, listeners, "listener")):
                if name not in side:
                    got = f"{kind} {name!r} in own"
                    raise ConfigError(explain(got, f"one of {list(side)}", nearest(str(name), side)))
            pairs.append((speaker, listener))
    return tuple(dict.fromkeys(pairs))


@dataclass(frozen=True)
class Square:
    """Two own pairs of different speakers and listeners: the four cells of an interaction.

    Attributes:
        first, second: speaker and listener of each own pair.
        kind: "own"; "less control": an own speaker beside a control speaker with the other own listener.
    """

    first: Pair
    second: Pair
    kind: str = "own"

    def weights(self, place: Mapping[Pair, int]) -> np.ndarray:
        """Weights of cells: +1 for the own pairs, -1 for the crossed ones."""
        row = np.zeros(len(place))
        (s, x), (t, y) = self.first, self.second
        for pair, weight in (((s, x), 1.0), ((t, y), 1.0), ((s, y), -1.0), ((t, x), -1.0)):
            row[place[pair]] += weight
        return row


def squares_of(pairs: Sequence[Pair]) -> list[Square]:
    """Every two own pairs with different speakers and listeners whose crossed pairs are nobody's own."""
    found = []
    for (s, x), (t, y) in combinations(pairs, 2):
        if s != t and x != y and (s, y) not in pairs and (t, x) not in pairs:
            found.append(Square((s, x), (t, y)))
    return found


def control_squares(squares: Sequence[Square], control: str) -> list[Square]:
    """For each own speaker of a square, the square with a control speaker in the place of the other one.

    A control speaker adapted to no listener, so what it shares with an own speaker is no co-adaptation. The
    interaction of own pairs is the sum of the two: (s - c) at x less at y, and (t - c) at y less at x.
    """
    return [
        Square(own, (control, other[1]), "less control")
        for square in squares
        if control not in (square.first[0], square.second[0])
        for own, other in ((square.first, square.second), (square.second, square.first))
    ]


def interactions(
    answers: pd.DataFrame,
    speakers: Sequence[str],
    listeners: Sequence[str],
    pairs: Sequence[Pair],
    control: str | None,
    draws: Resampling,
) -> tuple[pd.DataFrame, pd.DataFrame, Interaction]:
    """The accuracy matrix, its interactions, and the mean of those between own pairs.

    Args:
        answers: columns speaker, listener, score, chance, cluster.
        speakers, listeners: their names, in the order of the matrix.
        pairs: the own ones.
        control: a speaker who adapted to no listener; None for none.
        draws: settings of the bootstrap.

    Returns:
        accuracy: speaker, listener, accuracy, low, high, n, n_groups, chance.
        interactions: kind, speaker, listener, other_speaker, other_listener, value, low, high, n_groups, reason.
        interaction: of the own pairs.
    """
    place = {(s, x): row for row, (s, x) in enumerate((s, x) for s in speakers for x in listeners)}
    squares = squares_of(pairs)
    every = squares + (control_squares(squares, control) if control else [])
    weights = [square.weights(place) for square in every]
    if squares:
        weights.append(np.mean(weights[: len(squares)], axis=0))
    matrix = np.array(weights) if weights else np.zeros((0, len(place)))
    cells = cells_of(answers, place)
    codes = np.unique(answers["cluster"].to_numpy().astype(str), return_inverse=True)[1]
    found = estimates(answers["score"].to_numpy(), cells, codes, len(place), matrix, draws)
    chance = answers.groupby(cells)["chance"].mean().reindex(range(len(place)))
    head = pd.DataFrame(list(place), columns=["speaker", "listener"])
    accuracy = head.join(found.cells.rename(columns={"value": "accuracy"})).assign(chance=chance.to_numpy())
    empty = accuracy.loc[accuracy["n"] == 0, ["speaker", "listener"]].itertuples(index=False, name=None)
    missing = set(empty)
    rows = []
    for square, row in zip(every, found.contrasts.to_dict("records"), strict=False):
        reason = _reason(square.weights(place), place, missing)
        (s, x), (t, y) = square.first, square.second
        rows.append((square.kind, s, x, t, y, row["value"], row["low"], row["high"], row["n_groups"], reason))
    names = ["kind", "speaker", "listener", "other_speaker", "other_listener"]
    table = pd.DataFrame(rows, columns=[*names, "value", "low", "high", "n_groups", "reason"])
    return accuracy, table, _interaction(squares, pairs, found, matrix, place, missing)


def cells_of(answers: pd.DataFrame, place: Mapping[Pair, int]) -> np.ndarray:
    """The cell of each answer."""
    pairs = zip(answers["speaker"], answers["listener"], strict=True)
    return np.array([place[pair] for pair in pairs], dtype=int)


def _interaction(
    squares: Sequence[Square],
    pairs: Sequence[Pair],
    found: Estimates,
    matrix: np.ndarray,
    place: Mapping[Pair, int],
    missing: set[Pair],
) -> Interaction:
    if not squares:
        reason = (
            "no two own pairs with different speakers and listeners; name them with own={speaker: listener}"
        )
        return Interaction(np.nan, np.nan, np.nan, 0, reason, tuple(pairs))
    row = found.contrasts.iloc[-1]
    ends = float(row["value"]), float(row["low"]), float(row["high"])
    reason = _reason(matrix[-1], place, missing)
    if not reason and np.isnan(ends[1]):
        reason = "a cell of fewer than two groups has no interval"
    return Interaction(*ends, int(row["n_groups"]), reason, tuple(pairs))


def _reason(weights: np.ndarray, place: Mapping[Pair, int], missing: set[Pair]) -> str:
    lacking = [pair for pair, cell in place.items() if weights[cell] and pair in missing]
    several = ", ".join(f"{listener} with captions of {speaker}" for speaker, listener in lacking)
    return f"no answers of {several}" if lacking else ""


def by_stratum(
    answers: pd.DataFrame,
    column: str,
    draws: Resampling,
    order: Sequence[str] | None = None,
    *,
    called: str = "",
) -> pd.DataFrame:
    """Accuracy by stratum of a column; an item whose value is a list is in every stratum that it names.

    Args:
        answers: columns speaker, listener, score, chance, cluster, and the column.
        column: of labels or lists of labels; rows without one are left out.
        draws: settings of the bootstrap.
        order: of the strata; by default sorted.
        called: name of the column in the table and in messages; by default its own.

    Returns:
        Columns by, stratum, speaker, listener, accuracy, low, high, n, n_groups, chance.

    Raises:
        DataError: no row has a value.
    """
    long = answers[["speaker", "listener", "score", "chance", "cluster", column]].explode(column)
    long = long[long[column].notna() & (long[column].astype(str) != "")]
    if long.empty:
        raise DataError(explain(f"no value in column {(called or column)!r}", "labels to tell strata apart"))
    stratum = long[column].map(stratum_label)
    names = list(order) if order is not None else sorted(stratum.unique(), key=_sorting)
    speakers, listeners = (list(dict.fromkeys(answers[side])) for side in ("speaker", "listener"))
    keys = [(name, s, x) for name in names for s in speakers for x in listeners]
    place = {key: row for row, key in enumerate(keys)}
    triples = zip(stratum, long["speaker"], long["listener"], strict=True)
    cells = np.array([place[triple] for triple in triples], dtype=int)
    codes = np.unique(long["cluster"].to_numpy().astype(str), return_inverse=True)[1]
    found = estimates(long["score"].to_numpy(), cells, codes, len(keys), None, draws).cells
    chance = long["chance"].groupby(cells).mean().reindex(range(len(keys)))
    table = pd.DataFrame(keys, columns=["stratum", "speaker", "listener"]).join(
        found.rename(columns={"value": "accuracy"})
    )
    table.insert(0, "by", called or column)
    table = table.assign(chance=chance.to_numpy())
    return table[table["n"] > 0].reset_index(drop=True)


def stratum_label(value: object) -> str:
    """The text of a stratum: 1.0 and 1 are one.

    >>> stratum_label(1.0), stratum_label("negation"), stratum_label(True)
    ('1', 'negation', 'True')
    """
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _sorting(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text
