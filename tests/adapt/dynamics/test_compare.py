from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from finetune_results import MakeResult
from trimtab.adapt.dynamics.compare import (
    comparison_table,
    percent_gain,
    target_gain,
    unique_labels,
)
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.adapt.dynamics.text import text_table


def test_one_target_keeps_its_own_interval(result_of: MakeResult) -> None:
    result = result_of(evaluate=("a", "b"), pulls=(-0.2, 0.0))
    one = replace(result, final=result.final.assign(role=["target", "monitored"]))
    gain, low, high = target_gain(one)
    assert gain == pytest.approx(100 * (1 - math.exp(-0.2)))
    assert low == pytest.approx(100 * (1 - math.exp(-0.188)))
    assert high == pytest.approx(100 * (1 - math.exp(-0.212)))


def test_the_interval_of_two_targets_covers_as_often_as_it_says() -> None:
    """Against simulation: the mean of two independent normal changes."""
    random = np.random.default_rng(0)
    drawn = random.normal([-0.1, -0.3], [0.01, 0.04], (200_000, 2)).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    half = 1.959964 * np.array([0.01, 0.04])
    final = pd.DataFrame({"role": "target", "change": [-0.1, -0.3]})
    final = final.assign(change_low=final["change"] - half, change_high=final["change"] + half)
    result = FinetuneResult(
        label="x", status="feasible", step=1, mixtures=final, slopes=[], losses=final, final=final, cost=None
    )  # type: ignore[arg-type]
    gain, worst, best = target_gain(result)
    assert gain == pytest.approx(percent_gain(-0.2))
    assert worst == pytest.approx(percent_gain(float(high)), abs=0.05)
    assert best == pytest.approx(percent_gain(float(low)), abs=0.05)


def test_without_a_target_or_a_test_result_there_is_no_gain(result_of: MakeResult) -> None:
    result = result_of()
    assert np.isnan(target_gain(replace(result, final=result.final.assign(role="monitored")))).all()
    assert np.isnan(target_gain(replace(result, final=result.final.assign(change=math.nan)))).all()


def test_one_row_per_run_with_what_each_constraint_came_to(group: list[FinetuneResult]) -> None:
    frame = comparison_table(group)
    assert frame["run"].tolist()[0] == "DynaMiCS"
    assert len(frame) == 7
    stopped = frame.set_index("run").loc["Early-stopped target"]
    assert stopped["docstrings change"] == 0.071
    assert stopped["docstrings tolerance"] == 0.05
    assert stopped["docstrings kept"] is False
    assert stopped["python kept"] is True
    assert frame["seconds"].iloc[0] == pytest.approx(19.2 + 5.5 + 24.8 + 0.11)


def test_a_constraint_of_another_run_has_no_answer(result_of: MakeResult) -> None:
    frame = comparison_table([result_of(evaluate=("a", "b", "c")), result_of(evaluate=("a", "b", "d"))])
    assert np.isnan(frame["d change"].iloc[0])
    assert frame["d kept"].iloc[0] is None
    assert frame["c kept"].iloc[0] is True


def test_labels_are_numbered_where_they_repeat(result_of: MakeResult) -> None:
    assert unique_labels([result_of("a"), result_of(""), result_of("a")]) == ["a", "run 2", "a (2)"]
    assert unique_labels([result_of("a"), result_of("a"), result_of("a (2)")]) == ["a", "a (2)", "a (2) (2)"]


def test_the_table_fits_a_terminal_of_80_columns(group: list[FinetuneResult]) -> None:
    """Constraints for which there is no room stand below, with the runs named again."""
    text = text_table(comparison_table(group))
    assert max(len(row) for row in text.splitlines()) <= 80
    tables = [table.splitlines() for table in text.split("\n\n")]
    assert len(tables) == 2
    assert {len(table) for table in tables} == {2 + len(group)}
    assert [row.split("  ")[0] for row in tables[0][2:]] == [row.split("  ")[0] for row in tables[1][2:]]
    assert text.isascii()
    assert "+0.071 OVER" in text
    assert "13.1 [12.3,13.8]" in text
    assert all(label in text for label in ("DynaMiCS", "Replay 5 %", "infeasible"))


def test_a_run_is_printed_by_domain_in_80_columns(result_of: MakeResult) -> None:
    """`print(result)`, and `print(result.to_frame())` without a column left out."""
    result = result_of()
    text = str(result)
    table = text.partition("\n\n")[2].partition("\n\n")[0]
    assert max(map(len, text.partition("\n\n")[0].splitlines() + table.splitlines())) <= 80
    assert text.isascii()
    assert [line.split()[0] for line in table.splitlines()[1:]] == list(result.final["domain"])
    assert "headers     target      -0." in table
    assert "gain    13.1 % [12.3,13.8]" in text
    with pd.option_context("display.width", 80, "display.max_columns", 20):
        frame = str(result.to_frame())
    assert "..." not in frame
    assert max(map(len, frame.splitlines())) <= 80
    assert len(frame.splitlines()) == 1 + len(result.final)


def test_hostile_names_cannot_break_a_line(result_of: MakeResult) -> None:
    names = ("a", "b", "x" * 200, "tab\tnew\nline\x1b[31m", "$x$", "数据🙂")
    frame = comparison_table([result_of("l" * 200, evaluate=names), result_of("\x1b[2J\n", evaluate=names)])
    text = text_table(frame)
    assert "\x1b" not in text
    assert [line.split()[0][:3] for line in text.splitlines()[-2:]] == ["lll", "�[2"]


def test_no_constraints_and_missing_numbers_are_shown(result_of: MakeResult) -> None:
    result = result_of()
    bare = replace(result, final=result.final.assign(role="target", change=math.nan))
    assert "- [-,-]" in text_table(comparison_table([bare]))
