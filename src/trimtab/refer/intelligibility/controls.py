"""Controls of the accuracy matrix: shuffled captions, no caption, and chance.

A listener who picks the target without what the caption says (since targets look alike, or stand first) shows in the
first two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from trimtab.numerics.bootstrap import Resampling
from trimtab.refer.intelligibility.matrix import Pair, cells_of, estimates

CONTROLS = {"shuffled": "shuffled captions", "silent": "no caption", "chance": "chance"}
NO_SHUFFLE = "no two items with the same candidates"
NOT_RECORDED = "not recorded"


def controls_table(
    answers: pd.DataFrame, speakers: Sequence[str], listeners: Sequence[str], draws: Resampling
) -> pd.DataFrame:
    """Accuracy of each pair, and under each control.

    Args:
        answers: columns speaker, listener, score, shuffled, silent, chance, cluster.
        speakers, listeners: their names.
        draws: settings of the bootstrap.

    Returns:
        Columns speaker, listener, control, accuracy, low, high, n, n_groups, reason; the reason says why a control is
        nan. The captions themselves are the control "captions". Chance is the mean of 1 / candidates, without interval.
    """
    pairs = [(speaker, listener) for speaker in speakers for listener in listeners]
    place: dict[Pair, int] = {pair: row for row, pair in enumerate(pairs)}
    head = pd.DataFrame(pairs, columns=["speaker", "listener"])
    parts = []
    for column, title in {"score": "captions", **CONTROLS}.items():
        there = answers[answers[column].notna()]
        codes = np.unique(there["cluster"].to_numpy().astype(str), return_inverse=True)[1]
        found = estimates(
            there[column].to_numpy(), cells_of(there, place), codes, len(pairs), None, draws
        ).cells
        if column == "chance":
            found = found.assign(low=np.nan, high=np.nan)
        part = head.assign(control=title).join(found.rename(columns={"value": "accuracy"}))
        reason = {"shuffled": NO_SHUFFLE, "silent": NOT_RECORDED}.get(column, "no answers")
        parts.append(part.assign(reason=np.where(part["n"] == 0, reason, "")))
    table = pd.concat(parts)
    asked = set(zip(answers["speaker"], answers["listener"], strict=True))
    absent = [pair not in asked for pair in zip(table["speaker"], table["listener"], strict=True)]
    table.loc[absent, "reason"] = "no answers"
    keys = [place[pair] for pair in zip(table["speaker"], table["listener"], strict=True)]
    return table.assign(key=keys).sort_values("key", kind="stable").drop(columns="key").reset_index(drop=True)
