from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.colors import to_hex

from trimtab.report.charts import Band, key, share_bars, small_area
from trimtab.report.figures import PALETTE, to_svg

BANDS = [Band("a", [0.25, 0.5], 0), Band("b", [0.25, 0.0], 2), Band("c", [0.5, 0.5], 1, solid=False)]


def test_a_line_tops_the_solid_bands_and_the_stack_reaches_one() -> None:
    axes = small_area([0, 10], BANDS, end=30, limit=40).axes[0]
    (line,) = axes.lines
    assert np.asarray(line.get_ydata()).tolist() == [0.5, 0.5, 0.5]
    assert float(axes.collections[-1].get_paths()[0].vertices[:, 1].max()) == 1.0
    assert axes.get_xlim() == (0, 40)


def test_colours_are_those_of_the_bands_and_only_solid_ones_are_full() -> None:
    bands = small_area([0, 10], BANDS, end=30, limit=40).axes[0].collections
    assert [to_hex(band.get_facecolor()[0]) for band in bands] == [PALETTE[0], PALETTE[2], PALETTE[1]]  # type: ignore[index]
    assert [band.get_alpha() for band in bands] == [1.0, 1.0, 0.42]


def test_panels_have_the_same_axes_whatever_their_names() -> None:
    short, long = (
        small_area([0, 10], BANDS, end=30, limit=40, title=name) for name in ("a", "two words " * 30)
    )
    for figure in (short, long):
        figure.draw_without_rendering()
    assert short.axes[0].get_position().bounds == long.axes[0].get_position().bounds


@pytest.mark.parametrize("bands", [[], [Band("a", [], 0)], [Band("a", [], 0, solid=False)]])
def test_a_mixture_without_a_step_can_be_drawn(bands: list[Band]) -> None:
    assert to_svg(small_area([], bands, end=0, limit=0))


def test_sixty_steps_of_twenty_domains_stay_a_small_drawing() -> None:
    shares = np.random.default_rng(0).dirichlet(np.ones(20), 60)
    bands = [Band(f"d{k}", shares[:, k].tolist(), k, solid=k < 3) for k in range(20)]
    svg = to_svg(small_area(list(range(60)), bands, end=60, limit=60))
    assert 'viewBox="0 0 172.8' in svg
    assert len(svg) < 150_000


def test_bars_are_as_long_as_the_shares() -> None:
    axes = share_bars(["x", "y"], BANDS, notes=["50 %", "50 %"]).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.25, 0.5, 0.25, 0.0, 0.5, 0.5]  # type: ignore[attr-defined]
    assert [bar.get_x() for bar in axes.patches] == [0.0, 0.0, 0.25, 0.5, 0.5, 0.5]  # type: ignore[attr-defined]


def test_a_missing_share_is_drawn_as_none() -> None:
    assert "nan" not in to_svg(share_bars(["x"], [Band("a", [math.nan], 0)]))


def test_a_key_names_every_band_and_of_none_is_empty() -> None:
    svg = to_svg(key([Band("headers (target)", (), 0), Band("$x$", (), 1)]))
    assert "headers (target)" in svg
    assert "$x$" in svg
    assert to_svg(key([]))
