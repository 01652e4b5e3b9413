"""What a result of ExpertLens tells of a lens: its concepts, where experts are, the best of them, single numbers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from trimtab.numerics.resample import Interval, bootstrap
from trimtab.numerics.statistics import mean
from trimtab.read.comparison import false_discoveries
from trimtab.read.experts import ExpertLens

SHOWN = 10
"""Experts of each concept that a result keeps."""


def concepts_table(lens: ExpertLens, tau: float, fdr: float) -> pd.DataFrame:
    """A row per concept: its examples, its experts by either rule, and whether its halves agree on them."""
    nothing = np.full(len(lens.concepts), np.nan)
    stable = (
        lens.stability(tau=tau).concepts if lens.can_be_halved else {"overlap": nothing, "found": nothing}
    )
    return pd.DataFrame(
        {
            "concept": lens.concepts.names,
            "positive": [len(concept.positive) for concept in lens.concepts],
            "negative": [len(concept.negative) for concept in lens.concepts],
            "experts": lens.sets(tau=tau).sum(1),
            "found": lens.sets(fdr=fdr).sum(1),
            "best": lens.precision.max(1),
            "overlap": np.asarray(stable["overlap"]),
            "retrieved": np.asarray(stable["found"]),
        }
    )


def counts_table(lens: ExpertLens, tau: float) -> pd.DataFrame:
    """A row per site: its units, its experts over all concepts, and their share, mean over concepts."""
    counts = lens.counts(tau=tau).sum()
    frame = pd.DataFrame({"site": counts.index, "units": lens.units.widths, "experts": counts.to_numpy()})
    frame["share"] = frame["experts"] / (frame["units"] * len(lens.concepts))
    return frame


def best_experts(lens: ExpertLens) -> pd.DataFrame:
    """The units with the highest average precision of each concept: columns concept, site, unit, ap, q."""
    top = min(SHOWN, len(lens.units))
    frames = [lens.experts(name, top=top).assign(concept=name) for name in lens.concepts.names]
    return pd.concat(frames, ignore_index=True)[["concept", "site", "unit", "ap", "q"]]


def single_numbers(lens: ExpertLens, tau: float, fdr: float, concepts: pd.DataFrame) -> dict[str, Any]:
    """What is told of all concepts at once; rates and means with their intervals over concepts and n."""
    overlap = retrieval = Interval(np.nan, np.nan, np.nan, 0)
    if lens.can_be_halved:
        stable = lens.stability(tau=tau)
        overlap, retrieval = stable.overlap, stable.retrieval
    return {
        "units": len(lens.units),
        "concepts": len(lens.concepts),
        "examples": len(lens.concepts.pool.examples),
        "cut": int(lens.responses.cut.sum()),
        "experts": asdict(bootstrap(mean, concepts["experts"].to_numpy(dtype=float))),
        "found": asdict(bootstrap(mean, concepts["found"].to_numpy(dtype=float))),
        "overlap_of_halves": asdict(overlap),
        "retrieved_by_halves": asdict(retrieval),
        "permuted_with_any_expert": asdict(false_discoveries(lens, fdr)),
        "tau": tau,
        "fdr": fdr,
    }
