"""What a page does where scripts run, in a browser: sorting, one name lit up, values, links to what is folded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from browser import CHROMIUM, Tab, tab
from trimtab.report.charts import heat_map, line_band, stacked_area
from trimtab.report.intervals import Look, interval_rows
from trimtab.report.page import Mark, Page, Passage, Section, Table, Text, gallery, picture

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
HOSTILE = "__proto__</script><script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"
NAMES = ["web", HOSTILE, "constructor", "math"]
VALUES = ["+0.012 (0.001 to 0.020)", "−0.5 (−0.6 to −0.4)", Mark("–"), "+0.1 kept"]
LOOK = Look("kept", "#0072b2")


def forest(title: str = "Forest") -> Figure:
    values = [0.1, 0.2, math.nan, 0.4]
    return interval_rows(NAMES, values, values, values, [LOOK] * 4, bounds=(-1, 1), title=title, label=title)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    columns = {"run": NAMES, "gain": VALUES, "n": [9, 10, 100, 2], "seconds": [1e-9, math.inf, 3, -1]}
    table = Table(pd.DataFrame(columns | {"share": ["<1 %", ">99 %", "99 %", "0 %"]}))
    shares = {name: [0.25, 0.25] for name in NAMES}
    area = stacked_area([0, 10], shares, end=20, title="Area", label="Area")
    loss = line_band([0, 10], [1.5, 1.25], [1, 1], [2, 2], about="web", title="web", label="web")
    cells = heat_map([[0.5] * 4] * 4, NAMES, NAMES, label="Heat")
    blocks = [
        table,
        gallery([forest(), area, loss, line_band([0], [1], [0], [2], about="math")]),
        picture(cells),
    ]
    folded = Section("Folded", [Section("Inner", [Text("here"), table])], collapsed=True)
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(Page("t", "s", [Section("Runs", blocks), folded]).render(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with tab(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def opened(browser: Tab, path: Path) -> Iterator[Tab]:
    browser.open(path.as_uri(), width=1280)
    yield browser
    assert browser.complaints() == []
    assert not browser.js("document.querySelector('img, iframe')")


def column(opened: Tab, number: int) -> list[str]:
    rows = "[...document.querySelector('table').tBodies[0].rows]"
    return list(opened.js(f"{rows}.map(row => row.cells[{number}].textContent)"))


def ways(opened: Tab) -> list[str]:
    return list(
        opened.js("[...document.querySelectorAll('table')[0].tHead.rows[0].cells].map(c => c.ariaSort)")
    )


def press(opened: Tab, number: int) -> None:
    opened.js(f"document.querySelectorAll('thead')[0].querySelectorAll('button')[{number}].click()")


@pytest.mark.parametrize(
    ("number", "upwards", "downwards"),
    [
        (1, [1, 0, 3, 2], [3, 0, 1, 2]),  # by the value, whatever its interval; what is missing is last
        (2, [3, 0, 1, 2], [2, 1, 0, 3]),  # as numbers
        (3, [3, 0, 2, 1], [1, 2, 0, 3]),  # 1.00e-9, infinity and below zero
        (4, [3, 0, 2, 1], [1, 2, 0, 3]),  # rounded shares
        (0, [1, 2, 3, 0], [0, 3, 2, 1]),  # as text
    ],
)
def test_a_heading_sorts_up_then_down_then_as_it_was(
    opened: Tab, number: int, upwards: list[int], downwards: list[int]
) -> None:
    before = column(opened, 0)
    assert before == [" ".join(name.split()) for name in NAMES]
    for way, order in (("ascending", upwards), ("descending", downwards), ("none", range(4))):
        press(opened, number)
        assert column(opened, 0) == [before[place] for place in order]
        assert ways(opened) == [way if place == number else "none" for place in range(5)]


def test_a_heading_is_a_button_for_the_keyboard(opened: Tab) -> None:
    opened.js("document.querySelectorAll('thead button')[2].focus()")
    opened.key("Enter", 13)
    assert column(opened, 2) == ["2", "9", "10", "100"]
    press(opened, 1)
    assert ways(opened) == ["none", "ascending", "none", "none", "none"]


def lit(opened: Tab) -> list[str]:
    """The names of what is lit, once each; of cells of two names both."""
    return sorted(set(opened.js("[...document.querySelectorAll('.on')].map(e => e.dataset.of)")))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_name_is_lit_in_every_drawing_and_table_and_let_go_again(opened: Tab, place: int) -> None:
    name = " ".join(NAMES[place].split())
    button = f"document.querySelectorAll('tbody')[0].querySelectorAll('button')[{place}]"
    assert opened.js(f"{button}.textContent") == name
    opened.js(f"{button}.click()")
    found = lit(opened)
    assert name in found
    assert all(name in one.split("\n") for one in found)
    assert len([one for one in found if "\n" in one]) == 6  # its row and its column
    assert opened.js("[...document.querySelectorAll('svg.some')].length") == 3
    assert opened.js("[...document.querySelectorAll('tr.on')].length") == 2
    assert opened.js(f"{button}.ariaPressed") == "true"
    panels = opened.js("[...document.querySelectorAll('.gallery.some svg[data-of].on')].length")
    assert panels == (name == "web")
    opened.wait("getComputedStyle(document.querySelector('svg.some g[data-of]:not(.on)')).opacity < 1")
    opened.key("Escape", 27)
    assert lit(opened) == []


def test_a_row_lights_up_while_the_pointer_is_on_it(opened: Tab) -> None:
    at = opened.js(
        "(() => { const b = document.querySelector('tbody tr').getBoundingClientRect(); return [b.x, b.y] })()"
    )
    opened.send("Input.dispatchMouseEvent", type="mouseMoved", x=at[0] + 5, y=at[1] + 5)
    opened.wait("document.querySelectorAll('svg.some').length === 3")
    opened.send("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    opened.wait("!document.querySelector('.on')")


def test_names_of_a_drawing_are_one_stop_of_the_keyboard(opened: Tab) -> None:
    keys = "[...document.querySelectorAll('svg')[0].querySelectorAll('[data-key][role]')]"
    assert opened.js(f"{keys}.map(k => k.tabIndex)") == [0, -1, -1, -1]
    opened.js(f"{keys}[0].focus()")
    assert "web" in lit(opened)
    opened.key("ArrowDown", 40)
    assert opened.js("document.activeElement.dataset.of") == " ".join(HOSTILE.split())
    opened.key("Enter", 13)
    opened.js("document.activeElement.blur()")
    assert " ".join(HOSTILE.split()) in lit(opened)


def test_values_stand_under_the_pointer(opened: Tab) -> None:
    assert opened.js("document.querySelectorAll('svg title').length") == 0
    at = opened.js(
        "(() => { const s = document.querySelectorAll('svg')[2]; s.scrollIntoView({block: 'center'});"
        "const b = [...s.querySelectorAll('use[style*=--line]')].pop().getBoundingClientRect(); return [b.x, b.y] })()"
    )
    opened.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")  # has scrolled
    opened.send("Input.dispatchMouseEvent", type="mouseMoved", x=at[0] - 3, y=at[1] + 8)
    opened.wait("!document.querySelector('.tip').hidden")
    assert opened.js("document.querySelector('.tip').textContent") == "training step 10: 1.25 (1 to 2)"


def test_a_link_to_what_is_folded_opens_it(opened: Tab) -> None:
    opened.js("location.hash = 'folded.inner.table-1'")
    opened.wait("document.querySelector('main > details').open")
    opened.js("location.hash = '%__proto__'")
    opened.js("location.hash = ''")


WIDEST = "Math.max(...[...document.querySelectorAll('main *')].map(e => e.getBoundingClientRect().right))"


def test_paper_holds_a_table_and_a_drawing_that_a_screen_scrolls(browser: Tab, tmp_path: Path) -> None:
    cells = {f"interval: column {k}": ["−0.123 to +0.456", HOSTILE * 3] for k in range(12)}
    marked = [Passage(((HOSTILE, False), ("token", True)))]
    wide = Table(pd.DataFrame({"run": NAMES[:2], "sentence": marked * 2, "n": [1234567, 7]} | cells))
    many = heat_map([[0.5] * 20] * 20, [f"domain {k}" for k in range(20)], [f"domain {k}" for k in range(20)])
    path = tmp_path / "wide.html"
    sections = [Section("Runs", [wide, picture(many)]), Section("Folded", [wide], collapsed=True)]
    path.write_text(Page("t", "s", sections).render(), encoding="utf-8")
    browser.open(path.as_uri(), width=680)  # of a sheet of A4
    assert browser.js(WIDEST) > 1000
    browser.send("Emulation.setEmulatedMedia", media="print")
    try:
        assert browser.js(WIDEST) <= 680
        whole = "(() => { const r = document.createRange(); r.selectNodeContents(document.querySelector('td.number'));"
        assert browser.js(f"{whole} return r.toString() + r.getClientRects().length }})()") == "12345671"
        boxes = "[...document.querySelectorAll('.box')].map(e => e.scrollHeight - e.clientHeight)"
        assert max(browser.js(boxes)) <= 0
    finally:
        browser.send("Emulation.setEmulatedMedia", media="")


@pytest.mark.parametrize("width", [375, 1280])
def test_without_script_all_is_there_and_nothing_scrolls_sideways(
    browser: Tab, path: Path, width: int
) -> None:
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(path.as_uri(), width=width)
        assert browser.js("document.documentElement.scrollWidth <= innerWidth")
        assert browser.js("document.querySelectorAll('button').length") == 0
        assert browser.js("document.querySelectorAll('svg title').length") > 30
        assert browser.js("document.querySelectorAll('nav a').length") == 3
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)
