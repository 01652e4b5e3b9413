"""Naming bias: is a member of one group called something else than a member of another in the same situation?"""

from __future__ import annotations

import time
from collections.abc import Callable

import pandas as pd

from trimtab.data.tables import Label
from trimtab.numerics.totals import bootstrap_totals
from trimtab.refer.bias_objects import Columns, Objects, objects_of
from trimtab.refer.bias_result import NamingBias
from trimtab.refer.bias_statistics import SUMMARY, Draws, found_at, object_units, p_values, statistics
from trimtab.refer.bias_tables import (
    power_table,
    rates_table,
    representation_table,
    standardised_table,
    steadied,
    strata_table,
)

POOLED = "pooled"


def naming_bias(
    frame: pd.DataFrame,
    *,
    object: str = "referent",
    outcome: str | Callable[[str], bool],
    group: str,
    strata: str | None = None,
    cluster: str | None = None,
    weight: str | None = None,
    reference: Label,
    name: str = "name",
    among: Callable[[str], bool] | None = None,
    n_boot: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> NamingBias:
    """How often members of two groups are given a kind of name, the gap, and how much of it the situations explain.

    An object's share is the part of its names that have the outcome; a group's rate is the mean share of its objects.
    The standardised gaps are what the gap would be if both groups came in the same mix of strata: that of the reference
    group, of the other one, or of both together.

    Args:
        frame: one row per object and name.
        object: column of the objects (referents).
        outcome: a column of true and false (or 1 and 0), or a function of names such as a `WordList`.
        group: column of labels, one per object. Missing, "unknown" and "mixed" ones are set aside and counted. Labels
            may be texts, numbers or truth values; the result has them as texts.
        strata: column of situations to compare within, one per object, such as the sport; None: no strata.
        cluster: column of what is drawn together, such as the photograph; None: each object.
        weight: column of counts; None: one per row.
        reference: label of the reference group; 0, "0" and 0.0 mean the same. The gap is the other one's minus its.
        name: column of names, for functions of names.
        among: which names count at all, such as names of people; None: every name. The rest are counted as set aside.
        n_boot: resamples of clusters, and rearrangements of group labels.
        confidence: of the intervals, in (0, 1).
        seed: the same seed gives the same numbers.

    Returns:
        Rates, gap, ratios, standardised gaps, strata, representation, power and an accounting that adds up to the
        objects given. Intervals are percentile bootstrap intervals over clusters, corrected for cells of few objects
        (`numerics.totals`: `spread`, `bootstrap_totals`); they are nan for groups seen in fewer than two clusters.

    Raises:
        DataError: a column is missing (the nearest is named) or there twice, a count is no whole number from 0 on or
            too large to be exact, an outcome is not true or false, a name holds names with their counts, a group has no
            members, an object stands in several clusters.
        ConfigError: n_boot below 1, confidence outside (0, 1), or a seed below 0.

    Source: Harrison, Gualdoni and Boleda 2023, arXiv 2305.14468, for the question; Kitagawa 1955 for standardisation.

    >>> frame = pd.DataFrame({"referent": range(8), "gender": ["m", "f"] * 4, "sporty": [True, False, True, True] * 2})
    >>> result = naming_bias(frame, outcome="sporty", group="gender", reference="m", n_boot=100)
    >>> result.gap.value, result.accounting["n_objects"].tolist()
    (-0.5, [8])
    """
    start = time.perf_counter()
    columns = Columns(object, group, strata, cluster, weight, name)
    draws = Draws(n_boot, confidence, seed)
    objects = objects_of(frame, columns, outcome, reference, among)
    labels = {"object": object, "group": group, "strata": strata, "cluster": cluster, "weight": weight}
    told = (
        outcome
        if isinstance(outcome, str)
        else getattr(outcome, "title", getattr(outcome, "__name__", "a function"))
    )
    config = {**labels, "outcome": told, "reference": objects.groups[0], **vars(draws)}
    return audit(objects, draws, config, start)


def audit(objects: Objects, draws: Draws, config: dict[str, object], start: float) -> NamingBias:
    """The result for objects whose shares are known."""
    groups, strata = objects.groups, objects.strata
    found = bootstrap_totals(
        statistics, object_units(objects), n_boot=draws.n_boot, confidence=draws.confidence, seed=draws.seed
    )
    rates = rates_table(objects, found, draws)
    summary = {name: found_at(found, place) for place, name in enumerate(SUMMARY)}
    mixes = (*groups, POOLED)
    p_raw, p_within = p_values(objects, draws)
    summary["gap"] = steadied(summary["gap"], rates)
    return NamingBias(
        rates=rates,
        gap=summary["gap"].tested(p_raw),
        standardised=standardised_table(objects, found, mixes, p_within),
        strata=strata_table(objects, found, draws),
        representation=representation_table(objects, draws),
        power=power_table(found, mixes, draws),
        accounting=objects.accounting,
        odds_ratio=summary["odds_ratio"],
        risk_ratio=summary["risk_ratio"],
        mantel_haenszel=summary["mantel_haenszel"],
        mantel_haenszel_risk=summary["mantel_haenszel_risk"],
        notes=objects.notes,
        config={**config, "groups": list(groups), "strata_names": list(strata)},
        seconds=time.perf_counter() - start,
    )
