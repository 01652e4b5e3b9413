"""Named points: each in its place and colour, names written where there is room, values for the pointer."""

from __future__ import annotations

import math
import re
from itertools import combinations

import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Text

from trimtab.report.figures import LINE, house_style, to_svg
from trimtab.report.intervals import Cloud, curve_and_clouds
from trimtab.report.named_points import NamedPoint

NAMES = ("cost", "gain")


def drawn(points: list[NamedPoint], curve: Cloud | None = None) -> Figure:
    return curve_and_clouds(curve, {"all": Cloud([1.0], [1.0])}, points, axes_names=NAMES, curve_name="best")


def written(figure: Figure) -> list[str]:
    return [one.get_text() for one in figure.axes[0].texts]


def test_points_have_their_place_their_colour_and_their_value() -> None:
    figure = drawn([NamedPoint("red", 1.5, 2.0, 0.25, "#ff0000"), NamedPoint("plain", 3.0, 1.0, 0.01)])
    discs = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [(line.get_xdata()[0], line.get_ydata()[0], line.get_color()) for line in discs] == [
        (1.5, 2.0, "#ff0000"),
        (3.0, 1.0, LINE),
    ]
    assert discs[0].get_markersize() > discs[1].get_markersize() > 0
    svg = to_svg(figure)
    assert "<title>red: cost 1.50; gain 2</title>" in svg
    assert 'data-of="red"' in svg
    assert "var(--line" in svg


def test_names_touch_no_other_name_and_stay_within_the_axes() -> None:
    rng = np.random.default_rng(0)
    points = [NamedPoint(f"word {k}", *rng.normal(size=2), share=0.05) for k in range(40)]
    figure = drawn(points)
    assert 10 < len(written(figure)) < 40
    assert figure.get_layout_engine() is not None
    with house_style():
        FigureCanvasSVG(figure)
        figure.draw_without_rendering()
        inside = figure.axes[0].get_window_extent()
        boxes = [Text.get_window_extent(one) for one in figure.axes[0].texts]
    # How wide a letter is, is known about only: names may touch, but not cover each other.
    for one, other in combinations(boxes, 2):
        wide = min(one.x1, other.x1) - max(one.x0, other.x0)
        high = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert min(wide, high) < 4
    for one in boxes:
        assert one.x0 > inside.x0 - 4
        assert one.x1 < inside.x1 + 4


def test_points_without_room_keep_their_value_and_unknown_ones_are_left_out() -> None:
    crowd = [NamedPoint(f"a rather long name {k}", 1.0 + k * 1e-3, 1.0, 0.5) for k in range(12)]
    figure = drawn([*crowd, NamedPoint("nowhere", math.nan, 1.0, 0.5), NamedPoint("far", 9.0, 9.0, 0.5)])
    assert len(written(figure)) < 13
    assert "nowhere" not in to_svg(figure)
    assert to_svg(figure).count("<title>a rather long name") == 12


def test_the_curve_has_a_name_and_ends_at_the_edges_of_what_is_drawn() -> None:
    figure = drawn([NamedPoint("a", 2.0, 2.0, 0.1)], Cloud([0.0, 100.0], [0.0, 100.0]))
    assert figure.axes[0].get_xlim()[1] < 3
    assert "best" in re.findall(r">([^<>]+)</text>", to_svg(figure))
