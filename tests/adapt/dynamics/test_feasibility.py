from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from finetune_results import MakeResult, make_result
from trimtab.adapt.dynamics.compare import feasibility_rates, feasibility_table, violation_table
from trimtab.adapt.dynamics.result import FinetuneResult


def ending(
    label: str, changes: Sequence[float], tolerances: Sequence[float], *, half: float = 0.01, step: int = 10
) -> FinetuneResult:
    """A run with these constraints only."""
    rows: list[dict[str, Any]] = [
        {
            "domain": f"c{number}",
            "role": "constraint",
            "tolerance": tolerance,
            "change": change,
            "change_low": change - half,
            "change_high": change + half,
            "kept": None if math.isnan(change) else change <= tolerance,
        }
        for number, (change, tolerance) in enumerate(zip(changes, tolerances, strict=True))
    ]
    columns = ["domain", "role", "tolerance", "change", "change_low", "change_high", "kept"]
    final = pd.DataFrame(rows, columns=columns).astype({"kept": object})
    status = "feasible" if step else "infeasible"
    return FinetuneResult(status, step, final, [], final, final, None, label=label)  # type: ignore[arg-type]


def test_a_change_is_told_in_tolerances() -> None:
    frame = feasibility_table([ending("a", [0.03, 0.06, -0.02], [0.05, 0.04, 0.05])])
    assert frame["used"].tolist() == pytest.approx([0.6, 1.5, -0.4])
    assert frame["used_low"].tolist() == pytest.approx([0.4, 1.25, -0.6])
    assert frame["used_high"].tolist() == pytest.approx([0.8, 1.75, -0.2])
    assert frame["kept"].tolist() == [True, False, True]


def test_without_a_tolerance_the_limit_stays_at_one_and_a_unit_is_a_hundredth_of_a_nat() -> None:
    frame = feasibility_table([ending("a", [0.0, 0.02, -0.01], [0.0, 0.0, 0.0])])
    assert frame["used"].tolist() == pytest.approx([1.0, 3.0, 0.0])


@given(
    st.lists(
        st.tuples(st.floats(-0.3, 0.3), st.sampled_from([0.0, 0.001, 0.02, 0.05])), min_size=1, max_size=5
    )
)
def test_more_than_one_is_broken_and_at_most_one_is_kept(cells: list[tuple[float, float]]) -> None:
    changes, tolerances = zip(*cells, strict=True)
    frame = feasibility_table([ending("a", changes, tolerances)])
    for used, kept in zip(frame["used"], frame["kept"], strict=True):
        assert used == pytest.approx(1) or (used < 1) == kept


def test_the_worst_constraint_is_the_one_that_used_most_of_its_tolerance() -> None:
    """.03 of .02 is worse than .06 of .05, though both are over by .01 nats."""
    row = violation_table([ending("a", [0.06, 0.03, 0.0], [0.05, 0.02, 0.05])]).iloc[0]
    assert (row["worst"], row["constraints"], row["broken"]) == ("c1", 3, 2)
    assert row["excess_nats"] == pytest.approx(0.01)
    assert (row["excess_low"], row["excess_high"]) == pytest.approx((0.0, 0.02))
    assert (row["used"], row["used_low"], row["used_high"]) == pytest.approx((1.5, 1.0, 2.0))
    assert row["kept_on_test"] is False


def test_a_run_that_kept_everything_has_room_left() -> None:
    row = violation_table([ending("a", [0.01, 0.04], [0.05, 0.05])]).iloc[0]
    assert row["excess_nats"] == pytest.approx(-0.01)
    assert row["kept_on_test"] is row["feasible_on_validation"] is True


def test_what_is_not_known_has_no_answer() -> None:
    unknown, broken, free = violation_table(
        [
            ending("a", [0.01, math.nan], [0.05, 0.05]),
            ending("b", [0.09, math.nan], [0.05, 0.05]),
            ending("c", [], []),
        ]
    ).to_dict("records")
    assert unknown["kept_on_test"] is unknown["worst"] is None
    assert math.isnan(unknown["excess_nats"])
    assert broken["kept_on_test"] is False
    assert broken["broken"] == 1
    assert free["feasible_on_validation"] is free["kept_on_test"] is None


def test_rates_of_a_group_by_hand() -> None:
    limits = [0.05, 0.05]
    group = [
        ending("kept", [0.01, 0.02], limits),
        ending("kept too", [0.04, 0.049], limits),
        ending("over, within the noise", [0.055, 0.0], limits),
        ending("clearly over", [0.09, 0.0], limits),
        ending("base weights", [0.0, 0.0], limits, step=0),
        ending("unknown", [math.nan, 0.0], limits),
        ending("free", [], []),
    ]
    frame = feasibility_rates(group).set_index("rate")
    assert frame["k"].to_dict() == {
        "feasible on validation": 5,
        "feasible on validation, kept on test": 2,
        "false feasible": 2,
        "clearly false feasible": 1,
    }
    assert frame["n"].tolist() == [6, 5, 4, 4]
    interval = binomtest(2, 4).proportion_ci(method="wilson")
    luck = frame.loc["false feasible"]
    assert (luck["share"], luck["low"], luck["high"]) == pytest.approx((0.5, interval.low, interval.high))


def test_rates_of_no_run_have_no_answer() -> None:
    frame = feasibility_rates([ending("free", [], [])])
    assert frame["n"].tolist() == [0, 0, 0, 0]
    assert frame[["share", "low", "high"]].isna().all(axis=None)


GROUP = [ending(f"r{k}", [0.02 * k, 0.01], [0.05, 0.0], step=k) for k in range(5)]
IN_ORDER = feasibility_rates(GROUP), violation_table(GROUP)


@given(st.permutations(range(5)))
@settings(max_examples=30)
def test_the_order_of_runs_does_not_change_the_numbers(order: list[int]) -> None:
    moved = [GROUP[k] for k in order]
    pd.testing.assert_frame_equal(feasibility_rates(moved), IN_ORDER[0])
    sorted_rows = violation_table(moved).sort_values("run", ignore_index=True)
    pd.testing.assert_frame_equal(sorted_rows, IN_ORDER[1])


def test_runs_of_the_same_label_stay_apart(result_of: MakeResult) -> None:
    one, two = result_of(probes=False), result_of(probes=False, pulls=(-0.1, -0.1, 0.2, 0.2, 0.2, 0.2))
    frame = violation_table([one, two, replace(one, label="DynaMiCS (2)")])
    assert frame["broken"].tolist() == [0, 4, 0]
    assert frame["constraints"].tolist() == [4, 4, 4]


def test_a_table_without_runs_has_its_columns() -> None:
    assert "used" in feasibility_table([])
    assert "worst" in violation_table([])
    assert len(feasibility_table([make_result()])) == 4
