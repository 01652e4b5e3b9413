"""Values of a grid of shades and of a marked passage under the pointer, in a browser."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from browser import CHROMIUM, Tab, tab
from trimtab.report.charts import raster
from trimtab.report.page import Page, Passage, Section, Table, picture

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
SMALL, LARGE = np.array([[0.25, 0.5], [0.75, 1.0]]), np.linspace(0, 1, 32 * 32).reshape(32, 32)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    folder = tmp_path_factory.mktemp("shades")
    grids = [raster(SMALL, ["a", "b"], label="small")]
    grids += [raster(LARGE, [f"row {n}" for n in range(32)], label="large")]
    table = Table(pd.DataFrame({"x": ["y"], "text": [Passage("an ", "old", " cat", "activation 2")]}))
    blocks = [*map(picture, grids), table]
    (folder / "page.html").write_text(Page("t", "s", [Section("x", blocks)]).render(), encoding="utf-8")
    with tab(folder) as browser:
        browser.open((folder / "page.html").as_uri(), width=1280)
        yield browser
        assert browser.complaints() == []


def told_at(opened: Tab, part: str) -> str:
    """What is said while the pointer is on the middle of a part, found by JavaScript."""
    at = opened.js(
        f"(() => {{ const e = {part}; e.scrollIntoView({{block: 'center'}}); const b = e.getBoundingClientRect();"
        "return [b.x + b.width / 2, b.y + b.height / 2] })()"
    )
    opened.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")  # has scrolled
    opened.send("Input.dispatchMouseEvent", type="mouseMoved", x=at[0], y=at[1])
    opened.wait("!document.querySelector('.tip').hidden")
    return str(opened.js("document.querySelector('.tip').textContent"))


def test_a_cell_says_its_own_value(opened: Tab) -> None:
    cells = "[...document.querySelectorAll('svg')[0].querySelectorAll('path')].filter(p => p.style.fill[0] == 'r')"
    assert told_at(opened, f"{cells}[1]") == "a, 2 of 2: 0.500"
    assert told_at(opened, f"{cells}[2]") == "b, 1 of 2: 0.750"


def test_a_row_speaks_over_the_picture_of_a_large_grid_and_is_not_seen(opened: Tab) -> None:
    rows = "[...document.querySelectorAll('svg')[1].querySelectorAll('path')].filter(p => p.style.fillOpacity == .003)"
    assert opened.js(f"{rows}.length") == 32
    assert told_at(opened, f"{rows}[5]").startswith(f"row 5: mean {LARGE[5].mean():.3f}")


def test_a_marked_part_has_its_value_as_a_title_and_stands_out_from_its_text(opened: Tab) -> None:
    mark = "document.querySelector('td > mark')"
    assert opened.js(f"{mark}.title + {mark}.parentNode.textContent") == "activation 2an old cat"
    for theme in ("light", "dark"):
        opened.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        colours = opened.js(
            f"[getComputedStyle({mark}).backgroundColor, getComputedStyle({mark}).color,"
            "getComputedStyle(document.body).backgroundColor]"
        )
        behind, ink, paper = (luminance(colour) for colour in colours)
        assert contrast(behind, ink) > 4.5  # as WCAG asks of text
        assert contrast(behind, paper) > 1.2


def luminance(colour: str) -> float:
    values = np.array([float(part) for part in colour.removeprefix("rgb(").rstrip(")").split(",")]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)
