"""From rows to a result, by hand-worked tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from trimtab.adapt.cost import Ledger
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.adapt.metrics import LOSS_COLUMNS, Progress, final_frame, losses_frame, make_result
from trimtab.adapt.session import make_roles
from trimtab.train.losses import SequenceLosses
from trimtab.train.settings import Fit

ROLES = make_roles(["math", "web"], ["safety", "facts"], ["math"], {"web": 0.1, "safety": 0.0})
FIT = Fit(steps=8, batch_size=4, eval_points=2, eval_sequences=2)
GRID_READINGS = 3
"""Steps 0, 1 and 8."""


def reading(*nll: float) -> SequenceLosses:
    return SequenceLosses(np.array(nll, dtype=float), np.full(len(nll), 10))


BASE = {"math": reading(20, 20), "web": reading(30, 32), "safety": reading(10, 12), "facts": reading(5, 5)}
FINAL = {"math": reading(16, 18), "web": reading(31, 33), "safety": reading(10, 12.2), "facts": reading(9, 5)}


def evaluation(step: int, split: str = "validation", change: float | None = 0.0) -> dict[str, Any]:
    names = ROLES.evaluate
    return {
        "step": step,
        "event": "evaluation",
        "split": split,
        "loss_nats": dict.fromkeys(names, 2.0),
        "standard_error": dict.fromkeys(names, 0.1),
        "change": {name: [change, -0.1, None] for name in names},
    }


def mixture(step: int, math: float, web: float, **more: Any) -> dict[str, Any]:
    return {"step": step, "event": "mixture", "weights": {"math": math, "web": web}, **more}


def update(step: int, column: list[float | None], **more: Any) -> dict[str, Any]:
    """A mixture whose slopes on math are `column` and zero on web."""
    found = {
        "horizon": 4,
        "probe_steps": 1,
        "slopes": [[value, 0.0] for value in column],
        "standard_errors": [[value, 0.0] for value in column],
        "predicted": dict.fromkeys(ROLES.evaluate, 2.0),
        "status": "optimal",
        "conflicts": [],
        "shadow_prices": {"math": None, "web": 0.5, "safety": 0.0, "facts": None},
    }
    return mixture(step, 0.5, 0.5, **{**found, **more})


def result(rows: list[dict[str, Any]] | None = None, **progress: Any) -> FinetuneResult:
    ledger = Ledger(training_steps=8, monitoring_sequences=GRID_READINGS * 8)
    readings = [evaluation(0), evaluation(1), evaluation(8), evaluation(8, "test")]
    return make_result(
        [*(rows or [mixture(0, 1.0, 0.0)]), *readings],
        Progress(**{"ledger": ledger, "stop": "done", **progress}),
        ROLES,
        FIT,
        label="a run",
        config={"seed": 0},
        base=BASE,
        final=FINAL,
    )


def test_the_final_table_by_hand() -> None:
    """math falls by .4 and .2 nats a token, web rises by .1 and .1, safety by 0 and .02, facts by .4 and 0."""
    table = final_frame(ROLES, BASE, FINAL).set_index("domain")
    assert list(table.index) == list(ROLES.evaluate)
    assert table["role"].tolist() == ["target", "constraint", "constraint", "monitored"]
    assert table["reference"].tolist() == pytest.approx([2.0, 3.1, 1.1, 0.5], abs=1e-12)
    assert table["loss"].tolist() == pytest.approx([1.7, 3.2, 1.11, 0.7], abs=1e-12)
    assert table["change"].tolist() == pytest.approx([-0.3, 0.1, 0.01, 0.2], abs=1e-12)
    half = (table["change_high"] - table["change_low"]) / 2 / stats.t.ppf(0.975, 1)
    assert half.tolist() == pytest.approx([0.1, 0.0, 0.01, 0.2], abs=1e-9)
    assert table["units"].tolist() == [2, 2, 2, 2]
    assert table["tolerance"].tolist() == pytest.approx([math.nan, 0.1, 0.0, math.nan], nan_ok=True)
    assert [table.loc[name, "kept"] for name in ("math", "facts")] == [None, None]
    assert table.loc["safety", "kept"] is False


@pytest.mark.parametrize(("moved", "kept"), [(0.05, True), (0.15, False), (math.nan, False), (-9.0, True)])
def test_a_constraint_is_kept_when_its_estimate_is(moved: float, kept: bool) -> None:
    """The interval is wide; the verdict goes by the estimate, and nan keeps nothing."""
    base, final = reading(10, 10), reading(10 + 10 * (moved - 3), 10 + 10 * (moved + 3))
    table = final_frame(ROLES, {**BASE, "web": base}, {**FINAL, "web": final}).set_index("domain")
    assert table.loc["web", "kept"] is kept


def test_readings_become_one_row_each() -> None:
    frame = losses_frame([evaluation(0, change=0.0), evaluation(8, "test", change=None)])
    assert list(frame.columns) == list(LOSS_COLUMNS)
    assert len(frame) == 8
    last = frame.iloc[-1]
    assert (last["step"], last["domain"], last["split"], last["loss_nats"]) == (8, "facts", "test", 2.0)
    assert math.isnan(last["change"])
    assert frame["change_high"].isna().all()
    assert all(map(pd.api.types.is_float_dtype, frame.dtypes[3:]))


def test_no_reading_is_an_empty_table_with_its_columns() -> None:
    frame = losses_frame([])
    assert list(frame.columns) == list(LOSS_COLUMNS)
    assert all(map(pd.api.types.is_float_dtype, frame.dtypes[3:]))


@pytest.mark.parametrize(
    ("progress", "status"),
    [
        ({"best_step": 8, "kept_once": True}, "feasible"),
        ({"kept_once": True}, "no gain"),
        ({}, "infeasible"),
        ({"stop": "diverged: the loss is not finite"}, "diverged"),
        ({"stop": "diverged: the loss is not finite", "best_step": 1, "kept_once": True}, "diverged"),
        ({"stop": "lost web at 2 readings in a row", "best_step": 1, "kept_once": True}, "feasible"),
        ({"stop": "lost diverged at 2 readings in a row"}, "infeasible"),
    ],
)
def test_status(progress: Mapping[str, Any], status: str) -> None:
    found = result(**progress)
    assert found.status == status
    assert found.step == progress.get("best_step", 0)


def test_mixtures_and_slopes_are_read_from_their_rows() -> None:
    found = result([mixture(0, 1.0, 0.0), update(4, [-0.1, 0.2, 0.3, None])])
    pd.testing.assert_frame_equal(
        found.mixtures, pd.DataFrame({"step": [0, 4], "math": [1.0, 0.5], "web": [0.0, 0.5]})
    )
    (only,) = found.slopes
    assert (only.step, only.horizon, only.solver_status) == (4, 4, "optimal")
    assert only.slopes.loc["safety", "math"] == 0.3
    assert math.isnan(only.slopes.loc["facts", "math"])
    assert list(only.slopes.columns) == ["math", "web"]
    assert math.isnan(only.shadow_prices["math"])
    assert only.shadow_prices["web"] == 0.5


def test_what_it_cost_is_beside_the_whole_grid() -> None:
    """Two of three readings of 8 sequences: 4 of the 6 batches of 4 that a whole run reads."""
    stopped = Ledger(training_steps=2, monitoring_sequences=2 * 8)
    rows = [mixture(0, 1.0, 0.0), evaluation(0), evaluation(1)]
    found = make_result(
        rows,
        Progress(ledger=stopped, stop="lost web"),
        ROLES,
        FIT,
        label="",
        config={},
        base=BASE,
        final=FINAL,
    )
    assert found.cost.evaluation_batches == 4
    assert found.cost.all_in_multiple == pytest.approx((2 + 4 / 3) / (8 + 6 / 3), abs=1e-12)


def test_a_finished_run_has_nothing_to_note() -> None:
    assert result().notes == ()


def test_an_early_end_is_noted() -> None:
    notes = result(stop="lost web at 2 readings in a row", ledger=Ledger(training_steps=5)).notes
    assert notes == ("Stopped at step 5 of 8: lost web at 2 readings in a row.",)


def test_weights_that_round_to_no_sequence_are_noted_by_interval() -> None:
    """.06 of 2 x 4 sequences is less than half a sequence, .04 of 4 x 4 is more; a weight of 0 is meant."""
    rows = [mixture(0, 0.94, 0.06), mixture(2, 1.0, 0.0), mixture(4, 0.96, 0.04)]
    assert result(rows).notes == ("From step 0 to 2 the weight of web rounds to no sequence of 8.",)


def test_a_diverged_probe_and_conflicts_are_noted() -> None:
    rows = [
        update(0, [None] * 4),
        update(2, [0.1, None, None, None]),
        update(4, [0.1] * 4, status="relaxed", conflicts=["web", "safety"]),
    ]
    assert result(rows).notes == (
        "The probe of math at step 0 diverged; it got no weight.",
        "At step 4 no mixture was predicted to keep every constraint; in conflict: web, safety.",
    )


def test_what_happened_often_is_one_line_with_a_count() -> None:
    """Two intervals without stubs, two diverged probes, three relaxed updates, of which one has another conflict."""
    rows = [
        update(0, [None] * 4, status="relaxed", conflicts=["web"], weights={"math": 0.99, "web": 0.01}),
        update(2, [None] * 4, status="relaxed", conflicts=["web"], weights={"math": 0.99, "web": 0.01}),
        update(4, [0.1] * 4),
    ]
    rare = "In 2 of 3 mixtures a weight above zero rounds to no sequence until the next mixture: web (2)."
    probes = "Probes diverged at 2 updates, and got no weight there: math (2)."
    relaxed = "2 of 3 updates were relaxed, as no mixture was predicted to keep every constraint"
    assert result(rows).notes == (rare, probes, f"{relaxed}: all of them over web.")
    rows[2] |= {"status": "relaxed", "conflicts": ["safety", "web"]}
    assert result(rows).notes[-1] == f"{relaxed.replace('2 of', '3 of')}: over web (3), safety (1)."


def test_broken_constraints_of_a_run_that_feeds_back_are_noted() -> None:
    """A domain that got no share yet has no slopes, and no probe of it is said to have diverged."""
    rows = [update(step, [None] * 4, status="kept", shadow_prices={}) for step in (0, 2, 4)]
    assert result(rows).notes == ()
    rows[1] |= {"status": "broken", "conflicts": ["web"]}
    assert result(rows).notes == ("At the update of step 2 a constraint was broken: web.",)
    rows[2] |= {"status": "broken", "conflicts": ["web", "safety"]}
    assert result(rows).notes == ("At 2 of 3 updates a constraint was broken: web (2), safety (1).",)
