from __future__ import annotations

import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

import trimtab
from trimtab.report.charts import Band, heat_map, key, line_band, scatter_identity, share_bars, stacked_area
from trimtab.report.figures import to_svg
from trimtab.report.intervals import Look, gain_against_cost, interval_rows

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = [
    "<script>alert(1)</script>",
    "a\"b'c&d",
    "$\\frac{x}$ $",
    "数据🙂\x00\x1b",
    "x" * 200,
    "100 % _^{}",
]


def area(names: list[str]) -> Figure:
    shares = {name: [1 / len(names)] * 2 for name in names}
    return stacked_area([0, 10], shares, end=30, title=names[0], label=" ".join(names))


def heat(names: list[str]) -> Figure:
    values = np.linspace(-1, 1, len(names) ** 2).reshape(len(names), -1)
    return heat_map(
        values, names, names, errors=np.full_like(values, 0.1), title=names[0], label=" ".join(names)
    )


def line(names: list[str]) -> Figure:
    return line_band(
        [0, 1], [1, 2], [0, 1], [2, 3], reference=1, limit=2, title=names[0], label=" ".join(names)
    )


def scatter(names: list[str]) -> Figure:
    points = [float(number) for number in range(len(names))]
    return scatter_identity(points, points, names, errors=points, title=names[0], label=" ".join(names))


def bars(names: list[str]) -> Figure:
    bands = [Band(name, [1 / len(names)] * len(names), number) for number, name in enumerate(names)]
    return share_bars(names, bands, notes=names, title=names[0], label=" ".join(names))


def colours(names: list[str]) -> Figure:
    return key([Band(name, (), number) for number, name in enumerate(names)], " ".join(names))


def rows(names: list[str]) -> Figure:
    values = [float(number) for number in range(len(names))]
    looks = [Look(name, "#0072b2") for name in names]
    return interval_rows(
        names, values, values, values, looks, bounds=(0, 9), title=names[0], label=" ".join(names)
    )


def trade(names: list[str]) -> Figure:
    values = [float(number) for number in range(len(names))]
    looks = [Look(name, "#0072b2") for name in names]
    return gain_against_cost(
        values,
        values,
        values,
        values,
        looks,
        names=names,
        floor=-1,
        axes_names=("cost", "gain"),
        title=names[0],
        label=" ".join(names),
    )


every_shape = pytest.mark.parametrize(
    "draw", [area, heat, line, scatter, bars, colours, rows, trade], ids=lambda draw: draw.__name__
)
Draw = Callable[[list[str]], Figure]


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def rectangles(svg: str) -> int:
    return len(re.findall(r"fill: #[0-9a-f]{6}", svg))


def test_a_mixture_that_changes_often_is_as_wide_as_a_desk() -> None:
    few, many = ([k / count for k in range(count)] for count in (10, 11))
    widths = [to_svg(stacked_area(steps, {"a": [1.0] * len(steps)}, end=1)) for steps in (few, many)]
    assert ["data-width" in svg for svg in widths] == [False, True]
    assert 'viewBox="0 0 540' in widths[1]


@every_shape
def test_a_drawing_is_the_same_every_time(draw: Draw) -> None:
    assert to_svg(draw(["a", "b"])) == to_svg(draw(["a", "b"]))


@every_shape
def test_a_drawing_is_self_contained_and_says_what_it_shows(draw: Draw) -> None:
    svg = to_svg(draw(["a", "b"]))
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == "a b"
    assert root.findtext(f"{SVG}title") == "a b"
    assert root.get("viewBox", "").startswith("0 0 360")
    assert {root.get("width"), root.get("height")} == {None}
    assert {element.tag for element in root.iter()} <= {
        SVG + name
        for name in (
            "svg",
            "title",
            "g",
            "path",
            "text",
            "tspan",
            "defs",
            "clipPath",
            "rect",
            "use",
            "pattern",
        )
    }
    links = [
        value for element in root.iter() for key, value in element.attrib.items() if key.endswith("href")
    ]
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", svg)


@every_shape
def test_ids_are_unique_over_drawings_and_every_reference_resolves(draw: Draw) -> None:
    both = [to_svg(draw(["a", "b"])), to_svg(draw(["a", "c"]))]
    ids = Counter(found for svg in both for found in re.findall(r'\bid="([^"]+)"', svg))
    used = {found for svg in both for found in re.findall(r'(?:url\(#|href="#)([^")]+)', svg)}
    assert set(ids.values()) <= {1}
    assert used == set(ids)


@every_shape
def test_hostile_names_are_text_and_nothing_else(draw: Draw) -> None:
    svg = to_svg(draw(HOSTILE))
    root = ElementTree.fromstring(svg)
    assert not list(root.iter(f"{SVG}script"))
    assert "<script" not in svg
    assert "\x00" not in svg
    assert "<script>alert(1)</script>" in str(root.get("aria-label"))
    assert all(len(text) <= 44 for text in texts(svg))


@every_shape
def test_dollar_signs_are_not_mathematics(draw: Draw) -> None:
    assert any("$a_1$" in text for text in texts(to_svg(draw(["$a_1$", "$\\bad{$"]))))


@every_shape
def test_drawing_leaves_the_settings_of_matplotlib_alone(draw: Draw) -> None:
    before = dict(matplotlib.rcParams)
    to_svg(draw(["a", "b"]))
    assert dict(matplotlib.rcParams) == before


def test_ink_follows_the_page() -> None:
    svg = to_svg(line(["a"]))
    assert "var(--ink, #1d2530)" in svg
    assert "#010204" not in svg


def test_shares_are_stacked_to_one_and_hold_to_the_end() -> None:
    axes = stacked_area([0, 10], {"a": [0.25, 1.0], "b": [0.75, 0.0]}, end=40).axes[0]
    tops = [float(band.get_paths()[0].vertices[:, 1].max()) for band in axes.collections]
    assert tops == [1.0, 1.0]
    lower = np.asarray(axes.collections[0].get_paths()[0].vertices)
    assert lower[np.isclose(lower[:, 0], 40), 1].max() == 1.0
    assert axes.get_xlim() == (0, 40)


def test_a_mixture_of_one_step_and_of_none_can_be_drawn() -> None:
    assert to_svg(stacked_area([0], {"a": [1.0]}, end=0))
    assert to_svg(stacked_area([], {}, end=0))


def test_a_cell_below_the_threshold_is_in_parentheses_and_a_missing_one_a_dash() -> None:
    values, errors = np.array([[-2.0, 0.12, math.nan]]), np.array([[0.1, 0.1, math.nan]])
    written = texts(to_svg(heat_map(values, ["row"], ["a", "b", "c"], errors=errors)))
    assert {"−2.0", "(+0.1)", "–", "±0.1"} <= set(written)


def test_the_sign_decides_the_colour_and_the_limit_its_strength() -> None:
    patches = heat_map(np.array([[-1.0, 1.0]]), ["r"], ["a", "b"]).axes[0].patches
    (red, _, blue, _), (red2, _, blue2, _) = (patch.get_facecolor() for patch in patches)
    assert blue > red
    assert red2 > blue2
    pale = heat_map(np.array([[-1.0]]), ["r"], ["a"], limit=10).axes[0].patches[0].get_facecolor()
    assert pale[0] > red


@pytest.mark.parametrize("values", [np.full((2, 2), np.nan), np.zeros((2, 2))])
def test_a_heat_map_without_a_slope_can_be_drawn(values: np.ndarray) -> None:
    assert to_svg(heat_map(values, ["a", "b"], ["c", "d"]))


def test_a_wide_heat_map_says_so_and_a_narrow_one_does_not() -> None:
    names = [f"domain {number}" for number in range(20)]
    wide = ElementTree.fromstring(to_svg(heat_map(np.zeros((20, 20)), names, names)))
    assert float(wide.attrib["data-width"]) > 1000
    assert "data-width" not in to_svg(heat(["a", "b"]))


def test_a_line_of_nothing_can_be_drawn() -> None:
    assert to_svg(line_band([], [], [], []))
    assert to_svg(line_band([0, 1], [math.nan, 1.0], [math.nan] * 2, [math.nan] * 2))


def test_reference_limit_spans_and_mark_are_drawn() -> None:
    axes = line_band([0, 4], [1, 2], [0, 1], [2, 3], reference=1, limit=2.5, spans=[(0, 2)], marked=3).axes[0]
    heights = {
        round(float(np.asarray(drawn.get_ydata())[0]), 6): drawn.get_linestyle() for drawn in axes.lines
    }
    assert heights[1.0] in (":", "-")
    assert heights[2.5] == "--"
    assert len(axes.patches) == 1


def test_points_with_a_gap_are_left_out_of_the_scatter() -> None:
    axes = scatter_identity([1.0, math.nan], [1.0, 2.0], ["a", "b"]).axes[0]
    assert [len(np.asarray(container.lines[0].get_xdata())) for container in axes.containers] == [1, 0]  # type: ignore[attr-defined]
    assert axes.get_xlim() == axes.get_ylim()


def test_no_other_file_imports_matplotlib_for_work() -> None:
    root = Path(trimtab.__file__).parent
    found = [path.relative_to(root).as_posix() for path in root.rglob("*.py") if _imports_matplotlib(path)]
    assert found == ["report/figures.py"]


def _imports_matplotlib(path: Path) -> bool:
    """Whether a file imports it outside `if TYPE_CHECKING`."""
    lines = path.read_text().splitlines()
    return any(re.match(r"(import|from) matplotlib", text) for text in lines)


def test_drawing_does_not_import_pyplot() -> None:
    code = "import sys; from trimtab.report import charts, figures; "
    code += "figures.to_svg(charts.line_band([0], [1], [1], [1])); "
    code += "sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
