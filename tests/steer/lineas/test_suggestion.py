"""The suggested strength, from nats of texts whose lean and KL are known, against a rule that is written again here."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from trimtab.models.language import Divergence, LogLikelihood
from trimtab.runs.serialise import plain
from trimtab.steer.lineas.suggestion import Suggestion
from trimtab.steer.strength import CurveTexts

N, TOKENS = 8, 10
STRENGTHS = (1.0, 0.0, 0.5)
"""Not in order."""


def likelihood(nats: np.ndarray) -> LogLikelihood:
    return LogLikelihood(nats, np.full(N, TOKENS))


def texts(lean: dict[float, tuple[float, float]], kl: dict[float, tuple[float, float]]) -> CurveTexts:
    """Texts whose even and odd ones have these leans and KLs at each strength, up to a hundredth of noise."""
    rng = np.random.default_rng(0)

    def alternating(pair: tuple[float, float]) -> np.ndarray:
        return TOKENS * (np.tile(pair, N // 2) + 1e-4 * rng.standard_normal(N))

    zero = likelihood(np.zeros(N))
    after = {one: (zero, likelihood(alternating(lean[one]))) for one in STRENGTHS}
    moved = {one: Divergence(alternating(kl[one]), np.full(N, TOKENS)) for one in STRENGTHS}
    return CurveTexts((zero, zero), after, moved)


NOTHING = {0.0: (0.0, 0.0)}
LEAN = NOTHING | {0.5: (0.2, 0.2), 1.0: (0.4, 0.4)}
KL = NOTHING | {0.5: (0.01, 0.01), 1.0: (0.03, 0.03)}


@pytest.mark.parametrize(("budget", "strength"), [(0.05, 1.0), (0.02, 0.5), (0.005, None)])
def test_it_is_the_largest_lean_within_the_budget(budget: float, strength: float | None) -> None:
    found = Suggestion.of(texts(LEAN, KL), budget)
    assert found.strength == strength
    assert found.chosen_on == found.confirmed_on == {"source": 4, "target": 4, "neutral": 4}
    if strength is not None:
        assert found.lean == pytest.approx(LEAN[strength][0], abs=1e-3)
        assert found.kl == pytest.approx(KL[strength][0], abs=1e-3)
        assert found.confirmed


def test_more_strength_is_not_more_lean() -> None:
    falls = NOTHING | {0.5: (0.4, 0.4), 1.0: (0.1, 0.1)}
    assert Suggestion.of(texts(falls, KL), 0.05).strength == 0.5


def test_the_end_of_the_interval_decides_and_not_the_mean() -> None:
    measured = texts(LEAN, KL)
    wide = measured.moved[1.0].nats.copy()
    wide[::2] = TOKENS * np.array([0.0, 0.0, 0.0, 0.12])  # the same mean of .03
    spread = replace(measured, moved={**measured.moved, 1.0: Divergence(wide, np.full(N, TOKENS))})
    assert spread.curve(slice(0, None, 2)).set_index("strength")["kl"][1.0] == pytest.approx(0.03)
    assert Suggestion.of(spread, 0.05).strength == 0.5


def test_a_lean_that_chance_explains_is_not_suggested() -> None:
    away = NOTHING | {0.5: (-0.2, 0.2), 1.0: (-0.1, 0.4)}
    assert Suggestion.of(texts(away, KL), 0.05).strength is None


@pytest.mark.parametrize(
    ("lean", "kl", "other"),
    [(LEAN, KL | {1.0: (0.03, 0.09)}, 0.4), (LEAN | {1.0: (0.4, -0.1)}, KL, -0.1)],
)
def test_the_other_half_may_not_confirm_it(lean: dict, kl: dict, other: float) -> None:
    """The numbers are those of the half that did not choose."""
    found = Suggestion.of(texts(lean, kl), 0.05)
    assert found.strength == 1.0
    assert found.lean == pytest.approx(other, abs=1e-3)
    assert not found.confirmed
    assert list(found.sentences())[-1] == "That does not confirm it."


@pytest.mark.parametrize("seed", range(6))
def test_it_agrees_with_the_rule_applied_by_hand(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lean = NOTHING | {one: (float(rng.normal(0.2, 0.3)),) * 2 for one in (0.5, 1.0)}
    kl = NOTHING | {one: (float(rng.exponential(0.03)),) * 2 for one in (0.5, 1.0)}
    measured = texts(lean, kl)
    first = measured.curve(slice(0, None, 2))
    rows = [row for row in first.to_dict("records") if row["strength"] > 0]
    fine = [row for row in rows if row["kl_high"] <= 0.04 and row["lean_low"] > 0]
    best = max(fine, key=lambda row: row["lean"])["strength"] if fine else None
    assert Suggestion.of(measured, 0.04).strength == best


def test_its_sentences_and_json() -> None:
    found = Suggestion.of(texts(LEAN, KL), 0.02)
    told = " ".join(found.sentences())
    assert told.startswith(
        "Suggested strength: 0.5, with the largest lean at a KL within 0.02 nats per token"
    )
    assert "chosen on 4 source, 4 target and 4 neutral texts" in told
    assert told.endswith("That confirms it.")
    none = Suggestion.of(texts(LEAN, KL), 0.001)
    told = " ".join(none.sentences())
    assert told.startswith("No strength is suggested: none has a lean above 0 and a KL within 0.001")
    assert "confirm" not in told
    written = json.loads(json.dumps(plain(none)))
    assert written["strength"] is None
    assert written["kl"] is None
    assert all(len(one.split()) <= 25 for it in (found, none) for one in it.sentences())


def test_the_curve_of_half_is_not_the_curve_of_all() -> None:
    measured = texts(LEAN | {1.0: (0.4, 0.0)}, KL)
    halves = [measured.curve(slice(k, None, 2)).set_index("strength")["lean"][1.0] for k in (0, 1)]
    assert pd.Series(halves).round(2).tolist() == [0.4, 0.0]
