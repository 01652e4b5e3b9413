"""Rise against share of pretraining data as it is drawn, held against the runs and the equation of the law."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from trimtab.adapt.forgetting import fitting
from trimtab.adapt.forgetting.laws import ForgettingLaw
from trimtab.adapt.forgetting.replay import promises
from trimtab.adapt.forgetting.result import ForgettingResult, judged
from trimtab.adapt.forgetting.share_figure import every_size, largest, main_picture, share_figure
from trimtab.adapt.forgetting.surface import share_surface, size_surface
from trimtab.report.figures import to_svg

SVG = "{http://www.w3.org/2000/svg}"
SIZES, TOKENS, SHARES = (5e4, 8e5), (1e4, 1e6), (0.0, 0.001, 0.01)


def runs() -> pd.DataFrame:
    grid = [(n, d, p) for n in SIZES for d in TOKENS for p in SHARES]
    frame = pd.DataFrame(grid, columns=["params", "tokens", "inject"])
    n, d, p = (frame[name].to_numpy() for name in frame)
    rise = 0.5 * d**0.3 / ((1 + 800 * p) * n) ** 0.4
    rise = rise * np.exp(0.02 * np.random.default_rng(0).normal(size=len(n)))
    told = {"loss_pt0": 3.0, "loss_pt": 3.0 + rise, "loss_ft": 2.0, "rise_low": rise - 0.01}
    return frame.assign(**told, rise_high=rise + 0.03)


@pytest.fixture(scope="module")
def law() -> ForgettingLaw:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "STARTS", 2)
        patch.setattr(fitting, "BEST", 1)
        return ForgettingLaw.fit(runs(), n_boot=8)


def said(svg: str) -> list[str]:
    """Values in words, without the text alternative of the whole."""
    return [str(one.text) for one in ElementTree.fromstring(svg).iter(f"{SVG}title")][1:]


def starting(words: list[str], start: str) -> list[str]:
    return [one for one in words if one.startswith(start)]


def numbers(text: str) -> list[float]:
    """The numbers after the colon."""
    return [float(one) for one in re.findall(r"[\d.]+", text.partition(":")[2])]


def drawn(frame: pd.DataFrame, law: ForgettingLaw | None) -> list[str]:
    return said(to_svg(share_figure(frame, law, 8e5, [1e6], promises(law))))


def test_every_run_is_a_point_with_its_own_interval(law: ForgettingLaw) -> None:
    frame = runs()
    words = drawn(frame, law)
    rows = frame.query("params == 8e5 and tokens == 1e6")
    rise = (rows["loss_pt"] - 3.0).tolist()
    found = starting(words, "run at")
    assert [one.partition(":")[0] for one in found] == ["run at 0 %", "run at 0.1 %", "run at 1 %"]
    for text, value in zip(found, rise, strict=True):
        assert numbers(text) == pytest.approx([value, value - 0.01, value + 0.03], rel=6e-3)
    other = frame.assign(loss_pt=frame["loss_pt"] + 0.5)
    assert starting(drawn(other, law), "run at") != starting(words, "run at")
    bare = drawn(frame.drop(columns=["rise_low", "rise_high"]), law)
    assert all("(" not in one for one in starting(bare, "run at"))


def test_the_curve_is_that_of_the_equation_with_the_band_of_the_refits(law: ForgettingLaw) -> None:
    (at_one_percent,) = starting(drawn(runs(), law), "law at 1 %:")
    c = law.coefficients

    def rise(values: list[float]) -> float:
        a, b, alpha, beta = values
        return float(a * 1e6**beta / ((1 + b * 0.01) * 8e5) ** alpha)

    names = ["A", "B", "alpha", "beta"]
    each = [rise(list(draw)) for draw in law.fitted.draws]
    low, high = np.quantile(each, [0.025, 0.975])
    assert list(law.fitted.coefficients) == names
    assert numbers(at_one_percent) == pytest.approx([rise([c[name] for name in names]), low, high], rel=6e-3)


def test_a_planned_share_is_marked_on_its_promise_and_hollow_beyond_the_runs(law: ForgettingLaw) -> None:
    made = promises(law)
    words = starting(drawn(runs(), law), "planned share")
    where = {"params": 8e5, "tokens": 1e6}
    without = law.rise(**where, inject=0.0)
    for one, text, part in zip(made, words, (0.5, 0.25, 0.1), strict=True):
        share = law.inject_for(rise=part * without, **where)
        assert text.startswith(f"planned share {100 * share:.3g} %: rise within ")
        assert float(text.split()[6].strip(",")) == pytest.approx(part * without, rel=6e-3)
        assert one.beyond == (share > 0.01)
        assert one.kept >= 0.95
    assert {one.beyond for one in made} == {True, False}
    figure = share_figure(runs(), law, 8e5, [1e6], made)
    faces = [line.get_markerfacecolor() for line in figure.axes[0].lines if line.get_marker() == "D"]
    assert [face == "none" for face in faces] == [one.beyond for one in made]
    heights = [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_marker() == "D"]
    assert heights == pytest.approx([0.5 * without, 0.25 * without, 0.1 * without])


def test_without_a_law_the_runs_are_drawn_alone() -> None:
    words = drawn(runs(), None)
    assert len(starting(words, "run at")) == 3
    assert len(words) == 3
    assert (largest(runs(), None).params, largest(runs(), None).tokens) == (8e5, 1e6)
    assert "determine no law" in main_picture(runs(), None).caption


def test_one_size_and_count_has_no_further_panels_and_many_are_thinned(law: ForgettingLaw) -> None:
    one = runs().query("params == 8e5 and tokens == 1e6")
    assert list(every_size(one, law)) == []
    (panels,) = every_size(runs(), law)
    assert len(panels.pictures) == 2
    assert len(starting(said(panels.pictures[0].svg), "run at")) == 6
    many = pd.concat([runs().query("params == 8e5").assign(params=1e5 * n) for n in range(1, 10)])
    (panels,) = every_size(many, None)
    assert len(panels.pictures) == 6
    assert panels.caption == "The same for 6 of 9 sizes and 2 of 2 token counts."


def test_the_first_picture_of_the_page_is_that_of_the_share(
    law: ForgettingLaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "STARTS", 2)
    monkeypatch.setattr(fitting, "BEST", 1)
    result = judged(runs(), inject=0.01, margin=0.01, n_boot=2, seed=0, label="x", config={}, seconds=1.0)
    html = ForgettingResult.page([result])
    first = html[html.index("<svg") : html.index("</svg>")]
    assert "Rise of the pretraining loss by share of pretraining data: 800k parameters, 1M unique" in first
    assert result.figure().get_label() in first


def test_surfaces_say_the_rises_of_the_equation(law: ForgettingLaw) -> None:
    words = said(to_svg(size_surface(law)))
    assert len(words) == 100
    tokens, _, params = words[0].partition(": ")[0].partition(" tokens, parameters ")
    units = {"k": 1e3, "M": 1e6}
    d, n = (float(text[:-1]) * units[text[-1]] for text in (tokens, params))
    rise = law.rise(params=n, tokens=d, inject=0.0)
    assert float(words[0].rpartition(" ")[2]) == pytest.approx(rise, rel=0.02)
    assert len(said(to_svg(share_surface(law, 8e5)))) == 100
