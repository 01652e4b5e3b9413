"""The nearest miss of an infeasible run, and from when on a run was for nothing, against tables written by hand."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from finetune_results import MakeResult
from trimtab.adapt.dynamics.limits import (
    Lost,
    constraint_readings,
    lost_after,
    lost_sentence,
    miss_sentence,
    nearest_miss,
    validation_gain,
)
from trimtab.adapt.dynamics.result import Comparison, FinetuneResult
from trimtab.adapt.record import LOSS_COLUMNS


def with_readings(
    result: FinetuneResult, moved: Mapping[int, Sequence[float]], half: float = 0.01
) -> FinetuneResult:
    """The result with these changes of python, docstrings, metadata and tests at each step; targets fall by .1."""
    names = ("headers", "decimals", "python", "docstrings", "metadata", "tests")
    rows = [
        (step, name, "validation", 2.0, 0.1, change, change - half, change + half)
        for step, changes in {0: (0.0,) * 4, **moved}.items()
        for name, change in zip(names, (-0.1 * (step > 0), -0.3 * (step > 0), *changes), strict=True)
    ]
    return replace(result, losses=pd.DataFrame(rows, columns=list(LOSS_COLUMNS)))


def never(result_of: MakeResult, moved: Mapping[int, Sequence[float]]) -> FinetuneResult:
    return with_readings(result_of(status="infeasible", probes=False), moved)


def test_the_nearest_miss_is_the_least_of_the_worst(result_of: MakeResult) -> None:
    result = never(
        result_of, {5: (0.09, 0.0, 0.02, 0.0), 9: (0.0, 0.07, 0.06, 0.0), 16: (0.2, 0.0, 0.3, 0.0)}
    )
    miss = nearest_miss(result)
    assert miss is not None
    assert (miss.step, miss.domain, miss.change, miss.tolerance) == (9, "docstrings", 0.07, 0.05)
    assert miss.excess == pytest.approx(0.02)
    assert miss_sentence(result) == (
        "The nearest miss: docstrings +0.070 nats at step 9 of 320 (limit 0.050). Try a larger tolerance or a lower lr."
    )
    assert miss_sentence(result) in result.summary()
    assert miss_sentence(result) in result.to_text()


def test_a_domain_that_nothing_trains_on_can_be_trained_on(result_of: MakeResult) -> None:
    result = never(result_of, {5: (0.0, 0.0, 0.09, 0.0)})
    assert miss_sentence(result).endswith("Try training on metadata, too, a larger tolerance or a lower lr.")


def test_a_miss_is_measured_in_tolerances(result_of: MakeResult) -> None:
    """.02 over a limit of .05 is nearer than .015 over one of 0, whose unit is .01."""
    result = never(result_of, {5: (0.07, 0.0, 0.0, -0.1), 9: (0.0, 0.0, 0.0, 0.015)})
    final = result.final.copy()
    final.loc[final["domain"] == "tests", "tolerance"] = 0.0
    miss = nearest_miss(replace(result, final=final))
    assert miss is not None
    assert (miss.step, miss.domain) == (5, "python")


def test_a_reserve_for_noise_counts(result_of: MakeResult) -> None:
    """.04 is within .05, but not by two standard errors, which the interval tells."""
    result = never(result_of, {5: (0.04, 0.0, 0.0, 0.0)})
    data = pd.DataFrame(
        [(name, "validation", 12, 9) for name in result.final["domain"]],
        columns=["domain", "split", "read", "read_records"],
    )
    result = replace(result, data=data, config={"fit": {"margin": 2.0}})
    reserve = 2 * 0.01 / stats.t.ppf(0.975, 8)
    miss = nearest_miss(result)
    assert miss is not None
    assert (miss.domain, miss.reserve) == ("python", pytest.approx(reserve))
    over = replace(never(result_of, {5: (0.07, 0.0, 0.0, 0.0)}), data=data, config=result.config)
    assert f"(limit 0.050, less {reserve:.3f} in reserve for noise). Try a larger" in miss_sentence(over)
    one = replace(result, data=data.assign(read_records=1))
    rows = constraint_readings(one).set_index("domain")
    assert rows.loc["python", "reserve"] == pytest.approx(2 * 0.01 / stats.t.ppf(0.975, 11))


def test_a_margin_alone_is_said_to_be_in_the_way(result_of: MakeResult) -> None:
    result = replace(never(result_of, {5: (0.049, 0.0, 0.0, 0.0)}), config={"fit": {"margin": 1.0}})
    assert miss_sentence(result).endswith("Try a smaller fit.margin, a larger tolerance or a lower lr.")


def test_what_rounding_broke_is_told_so(result_of: MakeResult) -> None:
    held = never(result_of, {5: (0.0,) * 4})
    assert miss_sentence(held) == ""
    rounded = replace(held, notes=("Trained in float32, saved in bfloat16: at step 5 ...",))
    assert "at step 5 of 320 every constraint held, until weights were rounded" in miss_sentence(rounded)


def test_without_numbers_or_constraints_nothing_is_told(result_of: MakeResult) -> None:
    assert nearest_miss(never(result_of, {5: (math.nan, 0.1, 0.0, 0.0)})) is None
    result = never(result_of, {5: (0.1,) * 4})
    assert nearest_miss(replace(result, final=result.final[result.final["role"] == "target"])) is None
    assert miss_sentence(never(result_of, {})) == ""


@pytest.mark.parametrize(
    ("moved", "expected"),
    [
        (
            {177: (0.0,) * 4, 200: (0.0, 0.1, 0.0, 0.0), 320: (0.1, 0.2, 0.0, 0.0)},
            Lost(143, 2, ("docstrings",)),
        ),
        ({177: (0.0,) * 4, 200: (0.0, 0.1, 0.0, 0.0), 320: (0.1, 0.0, 0.0, 0.0)}, Lost(143, 2, ())),
        ({177: (0.0,) * 4, 200: (math.nan, 0.0, 0.0, 0.0)}, Lost(143, 1, ("python",))),
        ({177: (0.0,) * 4, 200: (0.0, 0.1, 0.0, 0.0), 320: (0.0,) * 4}, None),
        ({177: (0.0,) * 4}, None),
    ],
    ids=["always one", "in turn", "not a number", "kept again", "the last"],
)
def test_steps_after_which_nothing_was_kept(
    result_of: MakeResult, moved: Mapping[int, Sequence[float]], expected: Any
) -> None:
    result = with_readings(result_of(), moved)
    assert lost_after(result) == expected
    assert bool(lost_sentence(result)) == (expected is not None)
    assert lost_sentence(result) in result.summary()


def test_the_headline_says_from_when_on_a_run_was_for_nothing(result_of: MakeResult) -> None:
    result = with_readings(
        result_of(), {177: (0.0,) * 4, 200: (0.0, 0.1, 0.0, 0.0), 320: (0.0, 0.2, 0.0, 0.0)}
    )
    assert result.summary().endswith(
        "The best checkpoint is that of step 177 of 320: none of the 2 evaluations after it kept docstrings, so 143 "
        "steps were for nothing."
    )
    turns = with_readings(result, {177: (0.0,) * 4, 200: (0.0, 0.1, 0.0, 0.0), 320: (0.1, 0.0, 0.0, 0.0)})
    assert "none of the 2 evaluations after it kept every constraint" in turns.summary()


# Outcomes


@pytest.mark.parametrize(
    ("status", "step", "passed"),
    [
        ("feasible", 5, True),
        ("infeasible", 0, False),
        ("no gain", 0, False),
        ("diverged", 0, False),
        ("diverged", 5, True),
    ],
)
def test_a_run_passes_with_tuned_weights(result_of: MakeResult, status: Any, step: int, passed: bool) -> None:
    result = replace(result_of(status=status), step=step)
    assert result.passed is passed
    assert ("no model is written" in result.to_text()) is not passed


def test_base_weights_are_not_shown_as_kept(result_of: MakeResult) -> None:
    result = never(result_of, {5: (0.0, 0.0, 0.09, 0.0)})
    table = result.to_text().partition("\n\n")[2].partition("\n\n")[0]
    assert len(re.findall(r" base$", table, re.MULTILINE)) == 4
    assert "kept" not in table
    comparison = Comparison(runs=[result, replace(result, label="again")]).to_text()
    assert "0.000 base" in comparison
    cells = FinetuneResult.page([result, replace(result, label="again")])
    assert cells.count("base weights") >= 4 * 3
    assert ">kept<" not in cells


def test_a_group_keeps_the_run_that_is_best_on_validation(result_of: MakeResult) -> None:
    """The second fell most at its step; the third most of all, but was infeasible; test has no say."""
    runs = [
        with_readings(result_of("main", pulls=(-0.9, -0.9, 0.0, 0.0, 0.0, 0.0)), {177: (0.0,) * 4}),
        result_of("second"),
        with_readings(result_of("third", status="infeasible"), {5: (0.2,) * 4}),
    ]
    losses = runs[1].losses.copy()
    losses.loc[(losses["step"] == 177) & losses["domain"].isin(["headers", "decimals"]), "change"] = -0.25
    runs[1] = replace(runs[1], losses=losses)
    assert [validation_gain(run) for run in runs[:2]] == pytest.approx([0.2, 0.25])
    group = Comparison(label="main", runs=runs)
    assert group.chosen is runs[1]
    assert group.passed
    told = group.to_text()
    assert (
        "The model kept is that of second: of 2 feasible runs among 3 the one whose target loss fell most on "
        "validation, by 0.250 nats per token.\nOn test: second lowered target perplexity"
    ) in told
    assert group.choice() in group.card()
    assert group.headline()["compared"] == "with 2 others"
    assert group.headline()["model"].startswith("of second, gain 13.1 % [")
    alone = Comparison(label="main", runs=[runs[0], runs[2]]).headline()
    assert alone["compared"] == "with 1 other"
    assert "model" not in alone
    assert not Comparison(label="main", runs=runs[1:]).passed  # the main run failed
    none = Comparison(label="third", runs=runs[2:])
    assert none.chosen is None
    assert not none.passed
    assert "No run was feasible" in none.to_text()
