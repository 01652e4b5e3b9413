from __future__ import annotations

import math
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from trimtab.report.figures import to_svg
from trimtab.report.intervals import Look, Part, gain_against_cost, interval_rows, waterfall

GOOD, BAD = Look("kept", "#009e73"), Look("over", "#d55e00", "X", filled=False)


def drawn(values: list[float], looks: list[Look] | None = None) -> Figure:
    low, high = [value - 0.5 for value in values], [value + 0.5 for value in values]
    names = [f"run {number}" for number in range(len(values))]
    return interval_rows(
        names, values, low, high, looks or [GOOD] * len(values), bounds=(-1, 4), limit=1.0, axis="x"
    )


def points(figure: Figure) -> list[tuple[float, float, str]]:
    """Every single point that is drawn: where, and with which marker."""
    lines = [line for line in figure.axes[0].lines if len(np.asarray(line.get_xdata())) == 1]
    return [
        (
            float(np.asarray(line.get_xdata())[0]),
            float(np.asarray(line.get_ydata())[0]),
            str(line.get_marker()),
        )
        for line in lines
    ]


def words(figure: Figure) -> list[str]:
    return re.findall(r">([^<>]+)</text>", to_svg(figure))


def test_values_stand_at_their_place_in_the_order_of_the_rows() -> None:
    assert points(drawn([0.5, 2.0], [GOOD, BAD])) == [(0.5, 0.0, "o"), (2.0, 1.0, "X")]


def test_a_value_outside_the_axes_is_an_arrow_with_its_number() -> None:
    figure = drawn([9.04, -3.5])
    assert points(figure) == [(4.0, 0.0, ">"), (-1.0, 1.0, "<")]
    assert {"9.0", "−3.5"} <= set(words(figure))


def test_a_missing_value_is_a_dash() -> None:
    figure = drawn([math.nan])
    assert points(figure) == []
    assert "–" in words(figure)


def test_a_legend_says_once_what_each_look_means() -> None:
    assert [word for word in words(drawn([1, 2, 3], [GOOD, BAD, GOOD])) if word in ("kept", "over")] == [
        "kept",
        "over",
    ]


def test_no_rows_can_be_drawn() -> None:
    assert to_svg(drawn([]))


def test_notes_stand_beside_their_rows_under_their_name() -> None:
    figure = interval_rows(
        ["a", "b"],
        [0, 1],
        [0, 1],
        [0, 1],
        [GOOD] * 2,
        bounds=(0, 2),
        notes=["7 + 5", "3 + 9"],
        notes_name="objects",
    )
    found = {text.get_text(): text.xy for text in figure.axes[0].texts}
    assert found["7 + 5"] == (2, 0)
    assert found["3 + 9"] == (2, 1)
    assert {"objects", "7 + 5", "3 + 9"} <= set(words(figure))


def bars(figure: Figure) -> list[tuple[float, float]]:
    """Where each bar of a waterfall starts and ends."""
    return [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in figure.axes[0].patches]


def test_a_waterfall_starts_each_part_where_the_one_before_ended() -> None:
    total = Part("whole", -0.5, -0.75, -0.25, "#0072b2")
    parts = [Part("one", -0.75, -1.0, -0.5, "#e69f00"), Part("two", 0.25, math.nan, math.nan, "#d55e00")]
    figure = waterfall(total, parts, bounds=(-1, 0.25))
    assert bars(figure) == [(0, -0.5), (0, -0.75), (-0.75, -0.5)]
    upright = [line for line in figure.axes[0].lines if len(set(np.asarray(line.get_xdata()).tolist())) == 1]
    assert [np.asarray(line.get_ydata()).tolist() for line in upright] == [[-0.75, -0.25], [-1.0, -0.5]]
    assert {"whole", "−0.500", "−0.750 to −0.250", "two", "+0.250"} <= set(words(figure))
    assert "<title>one: −0.750 (−1.000 to −0.500)</title>" in to_svg(figure)


def test_parts_that_do_not_add_up_are_seen() -> None:
    parts = [Part("one", 0.5, 0.4, 0.6, "#e69f00"), Part("two", 0.25, 0.2, 0.3, "#d55e00")]
    assert bars(waterfall(Part("whole", 1.0, 0.9, 1.1, "#0072b2"), parts, bounds=(0, 1)))[-1] == (0.5, 0.75)


def test_a_part_that_is_not_known_is_a_dash() -> None:
    unknown = [Part("one", math.nan, math.nan, math.nan, "#e69f00"), Part("two", 0.25, 0.2, 0.3, "#d55e00")]
    figure = waterfall(Part("whole", 1.0, 0.9, 1.1, "#0072b2"), unknown, bounds=(0, 1))
    assert bars(figure) == [(0, 1.0)]
    assert words(figure).count("–") >= 2


def trade(
    cost: list[float], gain: list[float], names: list[str] | None = None, floor: float = -5.0
) -> Figure:
    looks = [GOOD if one > 0 else BAD for one in gain]
    return gain_against_cost(
        cost,
        gain,
        gain,
        gain,
        looks,
        names=names or [""] * len(cost),
        floor=floor,
        axes_names=("cost", "gain"),
    )


def test_runs_of_one_cost_stand_side_by_side_lowest_first_and_others_where_they_are() -> None:
    found = points(trade([1.0, 1.0, 2.0], [9.0, 3.0, 5.0]))
    (high, _, _), (low, _, _), other = found
    assert low < 1.0 < high
    assert high - low < 0.1
    assert other == (2.0, 5.0, "o")


def test_many_runs_of_one_cost_stay_within_a_tenth_of_the_axis() -> None:
    places = [x for x, _, _ in points(trade([1.0] * 29 + [2.0], [float(k) for k in range(1, 31)]))][:29]
    assert max(places) - min(places) <= 0.2 + 1e-9
    assert len(set(places)) == 29


def test_a_gain_below_the_floor_is_an_arrow_with_its_number() -> None:
    figure = trade([1.0, 1.5], [5.0, -134.2])
    assert "v" in [marker for _, _, marker in points(figure)]
    assert "−134" in words(figure)
    assert figure.axes[0].get_ylim()[0] > -7


@pytest.mark.parametrize("nothing", [([], []), ([math.nan], [1.0]), ([1.0], [math.nan])])
def test_a_point_with_a_gap_is_left_out(nothing: tuple[list[float], list[float]]) -> None:
    assert points(trade(*nothing)) == []


def boxes(figure: Figure) -> tuple[list[Bbox], list[Bbox]]:
    """Where names and where points with their intervals come to lie, as the drawing measures them."""
    figure.draw_without_rendering()
    axes = figure.axes[0]
    names = [Text.get_window_extent(text) for text in axes.texts]  # without the line to its point
    drawn = [line for line in axes.lines if np.asarray(line.get_xdata()).size]
    upright = [line for line in drawn if len(set(np.asarray(line.get_xdata()).tolist())) == 1]
    return names, [line.get_window_extent() for line in upright]


def touching(figure: Figure) -> int:
    """Pairs of a name with another name, or with a point or an interval, that share some of the drawing."""
    names, marks = boxes(figure)
    pairs = [(one, other) for k, one in enumerate(names) for other in [*names[k + 1 :], *marks]]
    return sum(Bbox.intersection(one, other) is not None for one, other in pairs)


def test_names_beside_points_do_not_touch() -> None:
    assert not touching(trade([1.0, 1.5, 2.0], [5.0, 5.01, 5.02], ["one", "two", "three"]))


def test_a_name_stands_on_no_other_point() -> None:
    """A front of two among six that cost and gain nearly as much, with intervals that reach up and down."""
    cost, gain = [0.6, 0.9, 0.95, 1.0, 1.02, 1.1, 2.5], [19.5, 19.1, 21.5, 23.9, 24.6, 28.3, 23.4]
    names = ["early-stopped-target", "", "", "", "", "uniform", ""]
    figure = gain_against_cost(
        cost,
        gain,
        [value - 1.5 for value in gain],
        [value + 1.5 for value in gain],
        [GOOD] * len(cost),
        names=names,
        floor=-5.0,
        axes_names=("cost", "gain"),
    )
    assert [text.get_text() for text in figure.axes[0].texts] == ["uniform", "early-stopped-target"]
    assert not touching(figure)


def test_a_name_stays_within_the_axes() -> None:
    figure = trade([0.05, 3.0], [5.0, 9.0], ["a name of some length", "another name as long"])
    inside = figure.axes[0].get_window_extent()
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in boxes(figure)[0])
