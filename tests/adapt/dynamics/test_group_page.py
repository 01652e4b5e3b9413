from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from finetune_results import EVALUATE, TRAIN, MakeResult, make_result
from page_script import without_script
from trimtab.adapt.dynamics.compare import (
    calibration_points,
    calibration_table,
    feasibility_table,
    violation_table,
)
from trimtab.adapt.dynamics.figures import (
    MOST_POINTS,
    calibration_rows,
    calibration_scatter,
    constant_mixtures,
    constraint_figures,
    cost_figures,
    evenly,
    feasible_on_test,
    is_constant,
    mixture_key,
    moving_mixtures,
    unbeaten,
)
from trimtab.adapt.dynamics.page import comparison_section
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.report.figures import to_svg
from trimtab.report.page import Page

from .test_page import HOSTILE, Reader, headings


def asked_often(label: str, updates: int = 60, **changes: object) -> FinetuneResult:
    """A run with as many mixtures and, without a probe, slopes of its own."""
    result = make_result(label, **changes)  # type: ignore[arg-type]
    steps = np.linspace(0, 300, updates).astype(int)
    shares = np.random.default_rng(updates).dirichlet(np.ones(len(TRAIN)), updates)
    mixtures = pd.DataFrame(
        [
            {"step": step, **dict(zip(TRAIN, row, strict=True))}
            for step, row in zip(steps, shares, strict=True)
        ]
    )
    slopes = [replace(result.slopes[0], step=int(step), horizon=5) for step in steps]
    return replace(result, mixtures=mixtures, slopes=slopes, cost=replace(result.cost, probe_steps=0))


@pytest.fixture(scope="module")
def thirty() -> list[FinetuneResult]:
    kinds = [
        lambda k: asked_often(f"Kept probes {k}", 20 + k),
        lambda k: make_result(f"Fixed {k}", probes=False, pulls=(-0.01 * k, -0.1, 0.05, 0.002 * k, 0, 0)),
        lambda k: make_result(
            f"A long name of a mixer and its settings, seed {k}", probes=False, status="infeasible"
        ),
    ]
    return [kinds[k % 3](k) for k in range(30)]


def section(results: Sequence[FinetuneResult]) -> str:
    """The group's part of the page alone, which takes a tenth of the time of the whole."""
    return Page("title", "summary", [comparison_section(results)]).render()


def cells(text: str, row: str) -> list[str]:
    found = re.search(rf'<th scope="row"[^>]*>{re.escape(row)}</th>(.*?)</tr>', text, re.S)
    assert found
    return [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", found[1])]


@pytest.mark.usefixtures("undrawn")
def test_several_runs_have_a_group_section_and_one_has_none(group: list[FinetuneResult]) -> None:
    parts = ["Gain against cost", "Constraints side by side", "Was “feasible” luck?", "Mixtures side by side"]
    parts.append("Did the slopes predict? All runs")
    assert headings(FinetuneResult.page(group[:2]))[:6] == ["Comparison", *parts]
    assert not set(parts) & set(headings(FinetuneResult.page(group[1:2])))


@pytest.mark.usefixtures("undrawn")
def test_luck_is_told_with_its_count_and_interval(group: list[FinetuneResult]) -> None:
    """Seven runs: five chose a checkpoint, of which one broke two constraints on test, .071 and .055 of .05."""
    text = section(group)
    assert cells(text, "feasible on validation, of all runs") == ["5 of 7", "71 %", "36 % to 92 %"]
    assert cells(text, "feasible on validation and kept on test, of all runs")[0] == "4 of 7"
    assert cells(text, "not kept on test, of those feasible on validation (feasible by luck)")[0] == "1 of 5"


@pytest.mark.usefixtures("undrawn")
def test_the_page_says_how_many_points_calibrate_and_how_many_were_left_out(result_of: MakeResult) -> None:
    result = result_of()
    cut = replace(result, losses=result.losses[result.losses["step"] < 320], label="cut")
    text = section([result, cut])
    n = len(EVALUATE) * len(result.slopes)
    assert f"Runs with slopes: 2; n = {2 * n - len(EVALUATE)} points" in text
    assert f"{len(EVALUATE)} more were not read at both ends and are left out" in text


def test_thirty_runs_of_many_updates_stand_side_by_side(thirty: list[FinetuneResult]) -> None:
    text = section(thirty)
    read = Reader(without_script(text))
    words = "".join(read.words)
    assert read.tags["script"] == 0
    assert set(read.ids.values()) == {1}
    assert all(f"seed {k}" in words for k in range(2, 30, 3))
    assert "Runs whose mixture changes, 10 of 30" in words
    assert len(text) < 3e6


def test_three_runs_make_a_page(thirty: list[FinetuneResult]) -> None:
    """The group's part is drawn for thirty above; a chapter for each run takes most of a page's time."""
    bare = [replace(result, slopes=[], final=result.final.iloc[1:3]) for result in thirty[1:3]]
    text = FinetuneResult.page([thirty[0], *bare])
    assert sum(f"<h3>{result.label}</h3>" in text for result in bare) == 2
    assert set(Reader(text).ids.values()) == {1}


def test_sixty_updates_show_eight_maps_and_fold_eight_more() -> None:
    text = FinetuneResult.page([asked_often("kept probes")])
    assert "8 of the 52 updates in between, evenly chosen" in headings(text)
    assert text.count(", for 5 steps (") == 16
    assert "No probe was rolled back" in text


def test_hostile_names_are_text_in_a_group() -> None:
    wide = make_result("<b>bold</b>", train=HOSTILE[:4], evaluate=HOSTILE)
    text = section([wide, replace(wide, label="{{ 7*7 }}<script>"), make_result("x" * 300, probes=False)])
    read = Reader(without_script(text))
    assert read.tags["script"] == read.tags["b"] == 0
    words = "".join(read.words)
    assert all(name.replace("\u202e", "�") in words for name in HOSTILE)
    assert "{{ 7*7 }}<script>" in words


def test_a_group_without_any_answer_still_makes_a_page(result_of: MakeResult) -> None:
    result = result_of(status="diverged")
    final = result.final.assign(
        **dict.fromkeys(["loss", "change", "change_low", "change_high"], math.nan), kept=None
    )
    nothing = replace(result, final=final, losses=result.losses.iloc[:0], mixtures=result.mixtures.iloc[:0])
    free = replace(result_of(probes=False), final=result.final.assign(role="monitored"))
    text = section([nothing, nothing])
    assert "n = 84 points" in text  # updates read their own start; the grid, which is gone, read the last end
    assert "12 more were not read at both ends" in text
    assert "Constraints side by side" not in headings(section([free, free]))
    assert ">nan<" not in text + FinetuneResult.page([nothing, free])


def test_only_runs_whose_mixture_moves_get_a_panel_of_their_own(group: list[FinetuneResult]) -> None:
    assert [is_constant(result) for result in group] == [False, *[True] * 6]
    assert len(moving_mixtures(group)) == 1
    bars = constant_mixtures(group)
    assert bars is not None
    assert [label.get_text() for label in bars.axes[0].get_yticklabels()] == [one.label for one in group[1:]]
    assert constant_mixtures(group[:1]) is None


def test_a_mixture_asked_for_again_and_again_but_the_same_is_constant(result_of: MakeResult) -> None:
    result = result_of(probes=False)
    again = pd.concat([result.mixtures.assign(step=step) for step in (0, 10, 20)], ignore_index=True)
    assert is_constant(replace(result, mixtures=again))
    assert not is_constant(replace(result, mixtures=result.mixtures.iloc[:0]))


def test_panels_share_axes_and_colours_and_targets_lie_below(result_of: MakeResult) -> None:
    first, second = (
        asked_often("a"),
        replace(asked_often("b", 20), mixtures=asked_often("b", 20).mixtures[["step", *TRAIN[::-1]]]),
    )
    one, two = (figure.axes[0] for figure in moving_mixtures([first, second]))
    assert one.get_xlim() == two.get_xlim() == (0, 320)
    faces = [[tuple(band.get_facecolor()[0]) for band in axes.collections] for axes in (one, two)]  # type: ignore[index]
    assert faces[0] == faces[1]
    top = np.asarray(one.lines[0].get_ydata())
    assert top[:60] == pytest.approx(first.mixtures[["headers", "decimals"]].sum(axis=1).to_numpy())


def test_the_key_says_which_domains_are_targets(group: list[FinetuneResult]) -> None:
    svg = to_svg(mixture_key(group))
    assert all(name in svg for name in ("headers (target)", "decimals (target)", ">python<"))


def test_one_panel_per_constraint_and_one_of_the_worst(group: list[FinetuneResult]) -> None:
    found = constraint_figures(feasibility_table(group), violation_table(group))
    titles = [figure.axes[0].get_title(loc="left") for figure in found]
    assert titles == ["The worst of all constraints", *EVALUATE[2:]]
    assert "1 of 7 runs over the limit" in found[0].get_label()  # type: ignore[operator]
    assert len({figure.axes[0].get_xlim() for figure in found}) == 1


def test_base_weights_are_not_feasible_though_they_keep_everything(group: list[FinetuneResult]) -> None:
    assert [feasible_on_test(result) for result in group] == [True, True, True, True, False, False, False]


def brute(cost: Sequence[float], gain: Sequence[float]) -> list[int]:
    """Twin of `unbeaten` by sorting: walking up in cost, those that gain more than all before."""
    best, found = -math.inf, []
    for k in sorted(range(len(cost)), key=lambda k: (cost[k], -gain[k])):
        if gain[k] > best:
            best = gain[k]
            found.append(k)
    return sorted(found)


def test_the_unbeaten_are_those_of_a_walk_along_the_cost() -> None:
    for seed in range(200):
        random = np.random.default_rng(seed)
        cost, gain = random.permutation(12).tolist(), random.permutation(12).tolist()
        assert unbeaten(cost, gain, [True] * 12) == brute(cost, gain)


def test_what_is_not_allowed_or_not_known_beats_nothing() -> None:
    assert unbeaten([1.0, 2.0, math.nan], [9.0, 5.0, 99.0], [False, True, True]) == [1]


def test_the_best_of_equal_cost_is_named(group: list[FinetuneResult]) -> None:
    training, all_in = cost_figures(group)
    assert "Not beaten: Fixed 0.65 on targets 15" in str(training.get_label())
    assert "Not beaten: Fixed 0.65 on targets 15" in str(all_in.get_label())


def test_no_more_points_are_drawn_than_a_page_can_carry() -> None:
    points = calibration_points([asked_often(f"r{k}") for k in range(3)])
    assert len(points.dropna()) > MOST_POINTS
    drawn = calibration_scatter(points).axes[0].containers
    assert sum(len(np.asarray(one.lines[0].get_xdata())) for one in drawn) == MOST_POINTS  # type: ignore[attr-defined]


def test_the_drawn_are_spread_evenly() -> None:
    assert evenly(range(1000), 5) == [0, 250, 500, 749, 999]
    assert evenly([4, 7], 2) == [4, 7]


def test_lengths_without_a_reading_are_not_drawn(result_of: MakeResult) -> None:
    result = result_of()
    cut = replace(result, losses=result.losses[result.losses["step"] < 320])
    axes = calibration_rows(calibration_table([cut])).axes[0]
    names = [label.get_text().removesuffix(" steps") for label in axes.get_yticklabels()]
    assert names == ["1–8", "9–16", "17–32", "33–64", "65–128", "all intervals"]
