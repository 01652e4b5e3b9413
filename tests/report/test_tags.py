"""Names and values of what is drawn, as they stand in the SVG; and that a slim drawing is the same drawing."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import numpy as np
import pytest

from trimtab.report import charts, intervals
from trimtab.report.charts import Band
from trimtab.report.figures import to_svg
from trimtab.report.intervals import Cloud, Look
from trimtab.report.slim import slim

SVG = "{http://www.w3.org/2000/svg}"
LOOK = Look("kept", "#0072b2")
NONE = math.nan


def read(figure: object) -> ElementTree.Element:
    return ElementTree.fromstring(to_svg(figure))  # type: ignore[arg-type]


def told(root: ElementTree.Element) -> list[str]:
    """Values in words, without the text alternative of the whole."""
    parents = {child: parent for parent in root.iter() for child in parent}
    return [str(one.text) for one in root.iter(f"{SVG}title") if parents[one] is not root]


def owners(root: ElementTree.Element) -> set[str]:
    return {one.attrib["data-of"] for one in root.iter() if "data-of" in one.attrib}


def keys(root: ElementTree.Element) -> list[str]:
    """The names that are written and may be pressed."""
    written = [one for one in root.iter() if "data-key" in one.attrib and list(one.iter(f"{SVG}text"))]
    return [one.attrib["data-of"] for one in written]


def test_every_point_of_a_line_says_its_value_and_its_interval() -> None:
    line = charts.line_band([0, 5, 9], [1.5, NONE, 2], [1, NONE, NONE], [2, NONE, 3], about="web", label="x")
    root = read(line)
    assert told(root) == ["training step 0: 1.50 (1 to 2)", "training step 9: 2"]
    assert root.attrib["data-of"] == "web"


def test_a_cell_is_of_its_row_and_of_its_column() -> None:
    root = read(charts.heat_map([[1.0, NONE]], ["web"], ["math", "a\nb"], errors=[[0.25, NONE]]))
    assert told(root) == ["web, math: +1 ± 0.250", "web, a b: –"]
    assert owners(root) == {"web\nmath", "web\na b", "web", "math", "a b"}
    assert sorted(keys(root)) == ["a b", "math", "web"]
    shares = read(charts.share_map([[0.5]], ["web"], ["web"], notes=[["0.4 to 0.6"]]))
    assert told(shares) == ["web, web: 0.500 (0.4 to 0.6)"]
    assert owners(shares) == {"web"}


def test_a_point_of_a_cloud_says_what_it_is_of_and_its_interval() -> None:
    line = Cloud([0, 1, NONE], [2, 3, 4], True, ["dial 0", "dial 1", "dial 2"], [1, NONE, 3], [5, NONE, 6])
    figure = intervals.curve_and_clouds(
        None, {"ours": line, "plain": Cloud([0], [0])}, axes_names=("cost", "gain")
    )
    root = read(figure)
    assert [one for one in told(root) if ":" in one] == [
        "ours, dial 0: cost 0; gain 2 (1 to 5)",
        "ours, dial 1: cost 1; gain 3",
        "plain: cost 0; gain 0",
    ]
    low, high = figure.axes[0].get_ylim()
    assert low < 0
    assert high > 6  # the intervals are inside
    assert owners(root) == {"ours", "plain"}


def test_a_row_of_a_forest_is_of_one_name_that_its_legend_is_not() -> None:
    rows = intervals.interval_rows(
        ["x" * 90, "b", "c"], [0.5, 9, NONE], [0.25, 8, NONE], [1, 10, NONE], [LOOK] * 3, bounds=(0, 2)
    )
    root = read(rows)
    assert set(told(root)) == {f"{'x' * 90}: 0.500 (0.250 to 1)", "b: 9 (8 to 10)"}
    assert sorted(keys(root)) == ["b", "c", "x" * 90]


def test_points_are_told_apart_also_where_they_are_not_named() -> None:
    points = intervals.gain_against_cost(
        [1, 2, 3],
        [5, 7, -90],
        [4, NONE, -91],
        [6, NONE, -89],
        [LOOK] * 3,
        names=["", "b", ""],
        of=["a", "b", "c"],
        floor=-5,
        axes_names=("cost", "gain"),
    )
    root = read(points)
    wanted = {"a: cost 1; gain 5 (4 to 6)", "b: cost 2; gain 7", "c: cost 3; gain −90 (−91 to −89)"}
    assert wanted <= set(told(root))
    assert owners(root) == {"a", "b", "c"}
    assert keys(root) == ["b"]


def test_legends_light_up_with_what_they_explain() -> None:
    clouds = {"DoGE": Cloud([1, NONE], [2, 3]), "y" * 60: Cloud([4], [5])}
    root = read(intervals.curve_and_clouds(None, clouds, axes_names=("x", "y")))
    assert told(root) == ["DoGE: x 1; y 2", f"{'y' * 60}: x 4; y 5"]
    assert keys(root) == ["DoGE", "y" * 60]
    area = read(charts.stacked_area([0, 5], {"web": [0.25, 0.5], "math": [0.75, 0.5]}, end=9))
    assert told(area) == ["web: 0.250 to 0.500", "math: 0.750 to 0.500"]
    assert keys(area) == ["web", "math"]
    pairs = read(charts.scatter_identity([1, 2], [1, NONE], ["web", "math"], errors=[0.1, 0.1]))
    assert "web: predicted 1, realised 1" in told(pairs)
    assert keys(pairs) == ["web", "math"]


def test_bands_are_of_the_same_name_whatever_the_key_adds() -> None:
    bands = [Band("web", [0.25, 1.0], 0, note="target"), Band("math", [0.75, 0.0], 1, solid=False)]
    root = read(charts.key(bands))
    assert keys(root) == ["web", "math"]
    assert "web (target)" in "".join(root.itertext())
    bars = read(charts.share_bars(["run a", "run b"], bands))
    assert told(bars)[:2] == ["run a, web: 0.250", "run b, web: 1"]
    small = read(charts.small_area([0, 5], bands, end=9, limit=9, title="run a"))
    assert small.attrib["data-of"] == "run a"
    assert told(small) == ["web: 0.250 to 1", "math: 0.750 to 0"]


def test_every_cell_of_a_small_grid_says_its_value_and_a_blank_one_nothing() -> None:
    root = read(charts.raster([[0.25, NONE], [0.5, 1.0]], ["a", "b"], of=["whole a", "whole b"], label="x"))
    assert told(root) == ["whole a, 1 of 2: 0.250", "whole b, 1 of 2: 0.500", "whole b, 2 of 2: 1"]
    cells = [one for one in root.iter(f"{SVG}path") if one.find(f"{SVG}title") is not None]
    shades = [one.attrib["style"] for one in cells]
    assert len(set(shades)) == 3  # the title of a shade is of that shade alone


def test_rows_speak_for_a_grid_of_many_cells_which_stays_small() -> None:
    table = np.linspace(0, 1, 32 * 32).reshape(32, 32)
    table[3] = NONE
    drawing = to_svg(charts.raster(table, [f"row {n}" for n in range(32)], label="x"))
    root = ElementTree.fromstring(drawing)
    words = told(root)
    assert len(words) == 32
    assert words[0] == f"row 0: mean {table[0].mean():.4f}, 0 to {table[0].max():.4f}"
    assert words[3] == "row 3: –"
    assert len(drawing) < 40_000
    assert len(list(root.iter(f"{SVG}image"))) == 2  # the grid, and its key
    few = charts.raster(table[:12, :32], [f"row {n}" for n in range(12)], label="x")
    assert len(told(read(few))) == 11 * 32


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('<g><g><path d="M 1.23456  2 L -0.001 3 "/></g></g>', '<path d="M 1.23 2 L 0 3"/>'),
        ('<g><g clip-path="url(#a)"><g/></g></g><defs>\n</defs>', ""),
        ('<path d="M 1 2" style="fill: none"/>', ""),
        ('<path id="m" d="M 1 2" style="fill: none"/>', '<path id="m" d="M 1 2" style="fill: none"/>'),
        (
            "<text style=\"font-size: 9px; font-family: 'DejaVu Sans'; fill: red\" x='1.999' y='2' "
            'transform="rotate(-0 1.999 2)"> a <tspan> b</tspan> </text>\n ',
            '<text style="font-size: 9px; fill: red" x="2" y="2"> a <tspan> b</tspan> </text>',
        ),
        (
            '<text transform="translate(1.234567 2) rotate(-35)">1.23456</text>',
            '<text transform="translate(1.23 2) rotate(-35)">1.23456</text>',
        ),
    ],
)
def test_what_is_left_out_is_not_seen(before: str, after: str) -> None:
    root = ElementTree.fromstring(f"<svg>{before}</svg>")
    slim(root)
    wanted = ElementTree.fromstring(f"<svg style=\"font-family: 'DejaVu Sans'\">{after}</svg>")
    assert ElementTree.tostring(root) == ElementTree.tostring(wanted)
