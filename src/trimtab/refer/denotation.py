"""How much of the space of referents a word covers."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import ConvexHull, QhullError
from sklearn.neighbors import NearestNeighbors

Volume = Literal["cells", "hull", "neighbours"]
NEIGHBOURS = 5


def covered(
    members: Bool[np.ndarray, "referents words"],
    prior: Float[np.ndarray, " referents"],
    features: Float[np.ndarray, "referents d"],
    volume: Volume,
) -> Float[np.ndarray, " words"]:
    """The share of the space that each word's denotation takes, in (0, 1]; nan where it has no volume.

    Args:
        members: whether a word was used for a referent.
        prior: of the referents.
        features: of the referents.
        volume: "cells": the referents themselves, by their prior; "hull": the convex hull in feature space, as a
            part of that of all referents (nan with too few or flat points); "neighbours": referents most of whose
            nearest neighbours (itself among them) are in the denotation, by their prior: smooths single namings away.
    """
    if volume == "hull":
        whole = _hull(features)
        return np.array([_hull(features[column]) / whole for column in members.T])
    if volume == "neighbours":
        k = min(NEIGHBOURS, len(features))
        near = NearestNeighbors(n_neighbors=k).fit(features).kneighbors(features, return_distance=False)
        members = members[near].mean(axis=1) > 0.5
    shares = prior @ members
    return np.asarray(np.where(shares > 0, shares, np.nan))


def _hull(points: np.ndarray) -> float:
    if points.shape[1] == 1:
        return float(np.ptp(points)) or float("nan")
    try:
        return float(ConvexHull(points).volume)
    except (QhullError, ValueError):
        return float("nan")
