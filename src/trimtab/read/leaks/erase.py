"""Concept erasure before the unembedding, the mitigation that needs the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import nn

from trimtab.errors import nearest, refusal
from trimtab.numerics.erasure import leace
from trimtab.read.leaks.encodings import TopTokens
from trimtab.read.leaks.served import Inside, Served, check_setting
from trimtab.runs.brief import brief
from trimtab.seeds import derive

ROWS_AT_ONCE = 256
"""Rows whose whole distributions are held at once."""


@dataclass(frozen=True)
class Erase:
    """Concept erasure (LEACE) of an attribute from the last hidden state, before the unembedding.

    After it no linear classifier of that state does better than the shares of the classes, on the rows it was fitted
    on. Log-probabilities are not linear in the state, so an attacker of them may still find something. It is fitted
    on a random half of the groups; the other half alone is served and tested.

    Attributes:
        attribute: the name of a column of labels.

    Source: Belrose et al. 2023, arXiv 2306.03819, theorem 4.3.

    >>> Erase("colour").setting
    'colour'
    """

    attribute: str
    name: ClassVar[str] = "erase"
    inside: ClassVar[bool] = True

    __repr__ = brief

    def __post_init__(self) -> None:
        check_setting(self, "attribute", bool, "the name of an attribute", "'colour'")

    @property
    def setting(self) -> str:
        """What is erased."""
        return self.attribute

    def __call__(self, served: Served, seed: int = 0) -> Served:
        """The served half of the rows, as many tokens of each as before.

        Raises:
            DataError: there is no model behind what was served, or too few labels to fit on.
        """
        inside, table, groups = served.inside, served.attributes, served.groups
        if (
            inside is None
            or inside.states is None
            or inside.readout is None
            or table is None
            or groups is None
        ):
            got = "outputs without the hidden states behind them"
            raise refusal("erase", got, "those of a model that was read", "an audit of the model")
        if self.attribute not in table:
            names = [str(name) for name in table.columns]
            expected = f"one of {', '.join(map(repr, names))}"
            raise refusal("erase", repr(self.attribute), expected, nearest(self.attribute, names))
        fitted, tested = halves(groups[served.rows], derive(seed, "erase", self.attribute))
        labelled = fitted[table[self.attribute].iloc[served.rows[fitted]].notna().to_numpy()]
        labels = table[self.attribute].iloc[served.rows[labelled]]
        if labels.nunique() < 2:
            got = f"{labels.nunique()} class among the {len(labelled)} rows to fit on"
            raise refusal(f"erase {self.attribute}", got, "at least two", "more questions")
        states, (ids, values) = _normed(inside, served.rows), ([], [])
        erasure = leace(states[labelled], pd.get_dummies(labels).to_numpy(dtype=np.float64))
        unnormed = replace(inside.readout, norm=nn.Identity())
        for start in range(0, len(tested), ROWS_AT_ONCE):
            erased = torch.from_numpy(erasure(states[tested[start : start + ROWS_AT_ONCE]]))
            with torch.no_grad():
                best = unnormed.log_probabilities(erased).double().topk(served.k)
            ids.append(best.indices.cpu().numpy())
            values.append(best.values.cpu().numpy())
        top = TopTokens(np.concatenate(ids), np.concatenate(values), served.top.vocabulary)
        return replace(served, top=top, answer=top.ids[:, 0], rows=served.rows[tested])


def halves(
    groups: Int[np.ndarray, " n"], seed: int = 0
) -> tuple[Int[np.ndarray, " fitted"], Int[np.ndarray, " tested"]]:
    """Rows of two random halves of the groups, no group in both: to fit on, and to test.

    >>> [half.tolist() for half in halves(np.array([0, 0, 1, 1]), seed=1)] in ([[0, 1], [2, 3]], [[2, 3], [0, 1]])
    True
    """
    names = np.unique(groups)
    chosen = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
    first = np.isin(groups, chosen)
    return np.flatnonzero(first), np.flatnonzero(~first)


def _normed(inside: Inside, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n d"]:
    """States after the final norm, where logits are linear in them."""
    assert inside.states is not None
    assert inside.readout is not None
    with torch.no_grad():
        parts = [
            inside.readout.normed(
                torch.from_numpy(np.array(inside.states[rows[start : start + ROWS_AT_ONCE]]))
            )
            for start in range(0, len(rows), ROWS_AT_ONCE)
        ]
    return np.asarray(torch.cat(parts).double().cpu().numpy())
