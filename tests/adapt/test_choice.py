"""Which checkpoints may be chosen: tolerances, margins, and losses that are no numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fake_session import ROLES
from trimtab.adapt.metrics import keeps_all, lost, target_change
from trimtab.adapt.session import make_roles
from trimtab.train.losses import Change, SequenceLosses

TWO = make_roles(["math", "code"], ["web"], ["math", "web"], {})


def moved(value: float, error: float = 0.0) -> Change:
    """A change of a loss."""
    return Change(value, error, 8, 8)


def losses(value: float) -> SequenceLosses:
    """Two sequences of one token at a loss."""
    return SequenceLosses(np.full(2, value), np.ones(2, dtype=int))


@pytest.mark.parametrize(
    ("web", "safety", "margin", "kept"),
    [
        (moved(0.1), moved(0.05), 0.0, True),
        (moved(0.1 + 1e-9), moved(0.0), 0.0, False),
        (moved(0.0), moved(0.05 + 1e-9), 0.0, False),
        (moved(0.08, 0.01), moved(-0.5), 1.99, True),
        (moved(0.08, 0.01), moved(-0.5), 2.01, False),
        (moved(math.nan), moved(0.0), 0.0, False),
        (moved(0.0, math.nan), moved(0.0), 0.0, True),
        (moved(0.0, math.nan), moved(0.0), 1.0, False),
    ],
)
def test_every_constraint_counts(web: Change, safety: Change, margin: float, kept: bool) -> None:
    """`web` may rise by .1 and `safety` by .05; what targets and watched domains do is of no matter."""
    others = {"math": moved(9.0, math.nan), "code": moved(math.nan)}
    assert keeps_all(ROLES, {**others, "web": web, "safety": safety}, margin) is kept


def test_without_constraints_nothing_is_broken() -> None:
    assert keeps_all(TWO, {}, 2.0)


def test_the_mean_over_targets() -> None:
    changes = {"math": moved(-0.3), "web": moved(0.1), "code": moved(math.nan)}
    assert target_change(TWO, changes) == pytest.approx(-0.1, abs=1e-15)


def test_only_what_was_finite_can_be_lost() -> None:
    base = {"a": losses(1.0), "b": losses(math.inf), "c": losses(2.0), "d": losses(1.0)}
    now = {"a": losses(math.nan), "b": losses(math.nan), "c": losses(9.0), "d": losses(math.inf)}
    assert lost(now, base) == ["a", "d"]
    assert lost(base, base) == []
