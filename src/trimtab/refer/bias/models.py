"""Amplification of naming bias: whether models widen the gap of people, and whether they get the group wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from trimtab.data.naming import each_row, known_names
from trimtab.data.tables import Label, check_columns, check_known, labels
from trimtab.data.wordlist import MIXED, WordList
from trimtab.errors import DataError, explain
from trimtab.numerics.bootstrap import Resampling, wilson
from trimtab.numerics.cluster_bootstrap import bootstrap_totals, spread, units_of
from trimtab.refer.bias.audit import gaps_of, naming_bias
from trimtab.refer.bias.objects import POOLED, USED, Columns, Objects, Outcome, objects_of, outcomes_of


@dataclass(frozen=True)
class Amplification:
    """Amplification: gaps of models minus those of people whose words they may have learned, on the same objects.

    Attributes:
        gaps: by model and gap ("raw", "at the mix of ..."): people, model and amplification (model - people), each with
            low and high from the same resamples of clusters; n_objects.
        misnaming: by model and group: the share of its members whom the model gives a name of the other group, its ends
            and n_objects; empty without a list of such names.
        accounting: by model: reason, n_objects; adds up to the objects of the people's data.
    """

    gaps: pd.DataFrame
    misnaming: pd.DataFrame
    accounting: pd.DataFrame


def amplification(
    people: pd.DataFrame,
    predictions: pd.DataFrame,
    *,
    columns: Columns,
    outcome: Outcome,
    reference: Label,
    among: Callable[[str], bool] | None = None,
    group_words: WordList | None = None,
    model: str | None = None,
    draws: Resampling | None = None,
) -> Amplification:
    """Amplification: a model's gap minus that of people, on the same objects.

    Args:
        people: one row per object and name.
        predictions: one row per object and name that a model gives it; several rows per object weigh the same.
        columns: which column of `people` holds what; object and name hold for `predictions` too.
        outcome: a function of names, or a boolean column of both frames.
        reference: label of the reference group.
        among: which names of people count; predictions all do.
        group_words: which names tell a group, for misnaming.
        model: column of `predictions` that tells models apart; None: all are of one.
        draws: resamples, confidence and seed.

    Raises:
        DataError: as for `naming_bias`, or a model that predicts for no object of both groups.
    """
    draws = draws or Resampling()
    check_columns(predictions, [columns.object, columns.name, *([model] if model else [])])
    if predictions.empty:
        raise DataError(explain("no predictions", "at least one row per model", "leaving them out"))
    for column in (columns.object, *([model] if model else [])):
        check_known(predictions, column)
        predictions = predictions.assign(**{column: labels(predictions[column])})
    predictions = predictions.assign(**{columns.name: known_names(predictions, columns.name)})
    human = objects_of(people, columns, outcome, reference, among)
    gaps, misnamed, accounts = [], [], []
    parts: list[tuple[Any, pd.DataFrame]] = [("model", predictions)]
    for name, rows in predictions.groupby(model, sort=True) if model else parts:
        both = human.table.assign(model=_shares(rows, columns, outcome)).dropna(subset="model")
        if both["group"].nunique() < 2:
            got = f"predictions for {len(both)} of {len(human.table)} objects, not of both groups"
            raise DataError(explain(f"model {str(name)!r}: {got}", "predictions for members of both groups"))
        gaps += [(str(name), *row) for row in _gap_rows(both, human, draws)]
        accounts += [(str(name), USED, len(both)), (str(name), "no prediction", len(human.table) - len(both))]
        aside = human.accounting[human.accounting["reason"] != USED]
        accounts += [(str(name), row.reason, int(row.n_objects)) for row in each_row(aside)]
        if group_words:
            wrong = _misnamed(rows, both, human.groups, columns, group_words, draws)
            misnamed += [(str(name), *row) for row in wrong]
    ends = [f"{what}{end}" for what in ("people", "model", "amplification") for end in ("", "_low", "_high")]
    ends[3] = "model_gap"
    return Amplification(
        pd.DataFrame(gaps, columns=["model", "gap", *ends, "n_objects"]),
        pd.DataFrame(misnamed, columns=["model", "group", "rate", "low", "high", "n_objects"]),
        pd.DataFrame([row for row in accounts if row[2]], columns=["model", "reason", "n_objects"]),
    )


def sensitivity(
    frame: pd.DataFrame, groups: Mapping[str, str], outcomes: Mapping[str, Outcome], **settings: Any
) -> pd.DataFrame:
    """Sensitivity of the gap to other sources of group labels, and to other outcomes.

    Args:
        frame: as for `naming_bias`.
        groups: what a source is called -> its column of labels.
        outcomes: what an outcome is called -> it.
        settings: what else `naming_bias` takes.

    Returns:
        One row per source and outcome: the gap and the gap at the other group's mix, with their ends; n_reference,
        n_other, n_aside.
    """
    rows = []
    for source, column in groups.items():
        for title, outcome in outcomes.items():
            result = naming_bias(frame, group=column, outcome=outcome, **settings)
            at = result.standardised.iloc[1]
            used = result.rates["n_objects"].tolist()
            aside = int(result.accounting["n_objects"].sum()) - sum(used)
            rows.append((source, title, *result.gap.ends(), *at[["gap", "low", "high"]], *used, aside))
    names = ["gap", "low", "high", "standardised", "standardised_low", "standardised_high"]
    return pd.DataFrame(rows, columns=["source", "outcome", *names, "n_reference", "n_other", "n_aside"])


def _shares(predictions: pd.DataFrame, columns: Columns, outcome: Outcome) -> pd.Series[float]:
    """Share of an object's predicted names that have the outcome."""
    if isinstance(outcome, str):
        yes = outcomes_of(predictions, outcome, columns.name).astype(float)
    else:
        yes = predictions[columns.name].map(lambda name: float(bool(outcome(str(name)))))
    return yes.groupby(predictions[columns.object]).mean()


def _gap_rows(both: pd.DataFrame, human: Objects, draws: Resampling) -> list[tuple[Any, ...]]:
    """Gaps of people, of the model, and their differences, raw and at each mix, with intervals."""

    def gaps(totals: np.ndarray) -> np.ndarray:
        people, model = (gaps_of(totals[..., [k, 2]]) for k in (0, 1))
        return np.concatenate([people, model, model - people], axis=-1)

    cells = (both["group"] * len(human.strata) + both["stratum"]).to_numpy()
    clusters = both["cluster"].to_numpy()
    columns = [spread(both[name].to_numpy(dtype=float), cells, clusters) for name in ("share", "model")]
    units = units_of(np.column_stack([*columns, np.ones(len(both))]), cells, 2 * len(human.strata), clusters)
    boot = bootstrap_totals(gaps, units, **vars(draws))
    # By gap: value, low and high of people, of the model, and of the difference.
    ends = np.stack([boot.values, boot.low, boot.high], axis=-1).reshape(3, 4, 3).transpose(1, 0, 2)
    names = ["raw", *(f"at the mix of {mix}" for mix in (*human.groups, POOLED))]
    return [(name, *row, len(both)) for name, row in zip(names, ends.reshape(4, 9).tolist(), strict=True)]


def _misnamed(
    predictions: pd.DataFrame,
    both: pd.DataFrame,
    groups: tuple[str, str],
    columns: Columns,
    words: WordList,
    draws: Resampling,
) -> list[tuple[Any, ...]]:
    """Misnaming rate by group: the share of its members that a model gives a name of the other group."""
    first = predictions.drop_duplicates(columns.object).set_index(columns.object)[columns.name]
    named_groups = first.map(lambda name: words.label(str(name))).reindex(both.index)
    rows = []
    for number, group in enumerate(groups):
        members = named_groups[both["group"] == number]
        wrong = int(members.isin([groups[1 - number], MIXED]).sum())
        share = wilson(wrong, len(members), confidence=draws.confidence)
        rows.append((group, share.value, share.low, share.high, len(members)))
    return rows
