from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from finetune_results import MakeResult
from trimtab.adapt.dynamics.compare import calibration, calibration_points, calibration_table
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.adapt.record import SlopeUpdate

Step = tuple[int, int, float, float]


def running(
    label: str, steps: Sequence[Step], losses: dict[int, float], *, error: float = 0.01
) -> FinetuneResult:
    """A run of one domain: updates (step, horizon, predicted change, loss at the start) and readings."""
    updates = [
        SlopeUpdate(
            step=step,
            horizon=horizon,
            slopes=pd.DataFrame([[change / horizon]], index=["e"], columns=["t"]),
            standard_errors=pd.DataFrame([[error / horizon]], index=["e"], columns=["t"]),
            predicted={"e": start + change},
            weights={"t": 1.0},
            solver_status="optimal",
            conflicts=(),
            shadow_prices={},
        )
        for step, horizon, change, start in steps
    ]
    read = pd.DataFrame(
        [(step, "e", "validation", loss) for step, loss in losses.items()],
        columns=["step", "domain", "split", "loss_nats"],
    )
    return FinetuneResult("feasible", 1, read, updates, read, read, None, label=label)  # type: ignore[arg-type]


FIRST = running("a", [(0, 8, -0.10, 2.0), (8, 16, -0.10, 1.9), (24, 16, 0.0, 1.83)], {0: 2.0, 24: 1.83})
"""Realised: −.10 over 8 steps, −.07 over 16; the end of the third interval was not read."""


def test_the_table_by_hand() -> None:
    """Errors: 0 and .03 nats with standard errors of .01: one of two within 2 of them."""
    frame = calibration_table([FIRST]).set_index("length")
    assert frame.index.tolist() == ["1–8", "9–16", "all"]
    assert frame["n"].tolist() == [1, 1, 2]
    assert frame["left_out"].tolist() == [0, 1, 1]
    assert frame["rmse_nats"].tolist() == pytest.approx([0.0, 0.03, math.sqrt(0.03**2 / 2)], abs=1e-12)
    assert frame["realised_rms_nats"].tolist() == pytest.approx([0.1, 0.07, math.sqrt((0.01 + 0.0049) / 2)])
    assert frame["within"].tolist() == [1, 0, 1]
    assert frame["judged"].tolist() == [1, 1, 2]
    interval = binomtest(1, 2).proportion_ci(method="wilson")
    row = frame.loc["all"]
    assert (row["within_share"], row["within_low"], row["within_high"]) == pytest.approx(
        (0.5, interval.low, interval.high)
    )
    assert math.isnan(row["correlation"])
    assert math.isnan(frame.loc["1–8", "rmse_low"])


def test_the_correlation_is_that_of_numpy() -> None:
    predicted, realised = [-0.1, -0.2, 0.05, 0.0], [-0.08, -0.25, 0.06, 0.03]
    edges = 2 + np.concatenate([[0], np.cumsum(realised)])
    steps = [(10 * k, 10, change, float(edges[k])) for k, change in enumerate(predicted)]
    frame = calibration_table([running("a", steps, {40: float(edges[4])})]).set_index("length")
    assert frame.loc["all", "correlation"] == pytest.approx(np.corrcoef(predicted, realised)[0, 1])
    low, middle, high = frame.loc["all", ["rmse_low", "rmse_nats", "rmse_high"]]
    assert 0 <= low < middle < high


def test_runs_are_pooled_and_told_apart() -> None:
    other = running("b", [(0, 8, -0.10, 2.0)], {8: 1.95})
    frame = calibration_table([FIRST, other, replace(other, slopes=[], label="fixed")], by="run")
    assert frame["run"].tolist() == ["a", "b", "all"]
    assert frame["n"].tolist() == [2, 1, 3]
    assert frame["intervals"].tolist() == [2, 1, 3]
    assert frame["rmse_nats"].tolist()[2] == pytest.approx(math.sqrt((0.03**2 + 0.05**2) / 3))


@pytest.mark.parametrize(
    ("horizon", "name"),
    [(1, "1–8"), (8, "1–8"), (9, "9–16"), (16, "9–16"), (17, "17–32"), (1024, "513–1024")],
)
def test_lengths_double(horizon: int, name: str) -> None:
    points = calibration_points([running("a", [(0, horizon, 0.1, 2.0)], {})])
    assert points["length"].tolist() == [name]


def test_a_horizon_in_another_run_sorts_by_length_not_by_name() -> None:
    long = running("a", [(0, 128, 0.1, 2.0)], {128: 2.1})
    short = running("b", [(0, 16, 0.1, 2.0)], {16: 2.1})
    assert calibration_table([long, short])["length"].tolist() == ["9–16", "65–128", "all"]


@settings(max_examples=20)
@given(st.permutations(range(6)))
def test_the_order_of_runs_does_not_change_the_numbers(order: list[int]) -> None:
    group = [running(f"r{k}", [(0, 8 + k, 0.01 * k, 2.0)], {8 + k: 2.0 + 0.001 * k * k}) for k in range(6)]
    pd.testing.assert_frame_equal(calibration_table([group[k] for k in order]), calibration_table(group))


def test_points_that_nothing_was_predicted_for_or_read_are_counted() -> None:
    blind = running("a", [(0, 8, math.nan, 2.0), (8, 8, 0.1, 2.0)], {8: 2.0})
    frame = calibration_table([blind]).set_index("length")
    assert (frame.loc["all", "n"], frame.loc["all", "left_out"]) == (0, 2)
    assert frame.loc["all", ["rmse_nats", "realised_rms_nats", "within_share"]].isna().all()


def test_without_standard_errors_nothing_is_judged() -> None:
    frame = calibration_table([running("a", [(0, 8, 0.1, 2.0)], {8: 2.1}, error=math.nan)])
    assert frame["n"].tolist() == [1, 1]
    assert frame["judged"].tolist() == [0, 0]
    assert frame["within_share"].isna().all()


def test_without_slopes_the_table_is_empty() -> None:
    assert calibration_table([]).empty
    assert calibration_table([replace(FIRST, slopes=[])]).columns[0] == "length"


def test_one_run_has_the_points_of_the_group(result_of: MakeResult) -> None:
    points = calibration_points([result_of()])
    pd.testing.assert_frame_equal(points.drop(columns="length"), calibration(result_of()))
