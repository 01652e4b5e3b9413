from __future__ import annotations

import html
import json
import math
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from finetune_results import EVALUATE, TRAIN, UPDATES, MakeResult
from page_script import without_script
from trimtab.adapt.dynamics.compare import calibration, calibration_sentence
from trimtab.adapt.dynamics.figures import feasible_spans, loss_figures
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.adapt.record import COMPLETION_COLUMNS
from trimtab.errors import DataError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = (
    "<script>alert(1)</script>",
    "\"quotes'&amp;",
    "$\\frac{a}{b}$ $",
    "数据🙂\u202e",
    "x" * 200,
    "{{ 7*7 }}",
)
PULLS = (-0.1,) * 14


class Reader(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.ids.update(value for key, value in attrs if key == "id" and value)
        self.links += [value or "" for key, value in attrs if key in ("href", "src", "xlink:href")]
        assert not [key for key, _ in attrs if key.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def headings(text: str) -> list[str]:
    return [html.unescape(found) for found in re.findall(r"<h[23]>(.*?)</h[23]>", text)]


@pytest.fixture(scope="module")
def hostile_html() -> str:
    from finetune_results import make_result

    names = [*HOSTILE, *(f"domain {number}" for number in range(8))]
    wide = make_result("<b>bold</b>", train=names[:8], evaluate=names, pulls=PULLS)
    plain = make_result("<b>bold</b>", probes=False, evaluate=names[:6])
    runs = [replace(wide, slopes=wide.slopes[:2]), plain]
    written = [(name, f"{name}\x00\n<b>prompt", f"{name}</td>", name, f"</table>{name}") for name in HOSTILE]
    texts = pd.DataFrame(written, columns=list(COMPLETION_COLUMNS), dtype=object)
    return FinetuneResult.page([replace(run, completions=texts) for run in runs], title="<i>title</i>")


def test_a_page_of_one_run_has_every_part(result_of: MakeResult) -> None:
    text = FinetuneResult.page([result_of()], title="One run")
    assert headings(text) == [
        "Result on test",
        "Mixture",
        "Losses on validation",
        "Slopes at each update",
        "Did the slopes predict?",
        "What the solver said",
        "Every update",
        "Cost",
        "Settings and versions",
    ]
    assert Reader(text).tags["svg"] == 1 + len(EVALUATE) + len(UPDATES) + 1


def test_a_mixer_without_slopes_has_no_parts_about_them(result_of: MakeResult) -> None:
    text = FinetuneResult.page([result_of("Uniform", probes=False)])
    assert "Slopes at each update" not in headings(text)
    assert "What the solver said" not in headings(text)
    assert Reader(text).tags["svg"] == 1 + len(EVALUATE)


@pytest.mark.usefixtures("undrawn")
def test_several_runs_are_compared_and_the_others_folded(result_of: MakeResult) -> None:
    text = FinetuneResult.page(
        [result_of(probes=False), result_of("Uniform", probes=False, pulls=(-0.1, 0, 0.01, 0.06, 0, 0))]
    )
    assert headings(text)[0] == "Comparison"
    assert "This run: DynaMiCS" in headings(text)
    assert re.search(r'<td class="[^"]*bad">\+0.060 not kept</td>', text)
    assert re.search(r'<details id="[a-z.-]+">\s*<summary><h3>Uniform</h3>', text)


def test_many_updates_are_folded_in_the_middle(result_of: MakeResult) -> None:
    result = result_of()
    many = replace(result, slopes=[replace(result.slopes[0], step=step) for step in range(11)])
    text = FinetuneResult.page([many])
    assert "The 3 updates in between" in headings(text)
    assert text.count("Step 5, for 1 step (") == 1


@pytest.mark.usefixtures("undrawn")
def test_notes_are_told(result_of: MakeResult) -> None:
    assert "The probe of decimals diverged." in FinetuneResult.page(
        [result_of(probes=False, notes=("The probe of decimals diverged.",))]
    )


def test_no_result_is_refused() -> None:
    with pytest.raises(DataError, match="got no result, expected at least one finished run"):
        FinetuneResult.page([])


@pytest.mark.usefixtures("undrawn")
def test_a_constraint_whose_interval_crosses_its_tolerance_is_within_the_noise(result_of: MakeResult) -> None:
    text = FinetuneResult.page([result_of(probes=False, pulls=(-0.1, -0.1, 0.045, 0.055, 0.01, 0.09))])
    shown = re.findall(r">((?:not )?kept[^<]*)</td>", text)
    assert shown == ["kept, within the noise", "not kept, within the noise", "kept", "not kept"]


def test_hostile_names_are_text_everywhere(hostile_html: str) -> None:
    read = Reader(without_script(hostile_html))
    assert read.tags["script"] == read.tags["b"] == read.tags["i"] == 0
    words = "".join(read.words)
    for name in HOSTILE:
        assert name.replace("\u202e", "�") in words
    assert "<b>bold</b> (2)" in words
    assert words.count(f"</table>{HOSTILE[0]}") == 3  # of the first run alone, and side by side
    assert "49" not in re.findall(r"(?<![\d.])49(?![\d.])", words)


def test_ids_are_unique_and_nothing_is_fetched(hostile_html: str) -> None:
    read = Reader(hostile_html)
    assert read.ids
    assert set(read.ids.values()) == {1}
    assert all(link.startswith(("#", "data:,")) for link in read.links)
    assert set(re.findall(r"https?://[^\"'\s<]*", hostile_html)) == {"http://www.w3.org/2000/svg"}
    for svg in re.findall(r"<svg.*?</svg>", hostile_html, re.S):
        assert ElementTree.fromstring(svg).get("aria-label")


def test_a_page_of_twenty_domains_is_light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under 1.5 MB with all its drawings and completions: slope maps of so many cells are fewer."""
    import finetune_results

    monkeypatch.setattr(finetune_results, "VALIDATION", (*finetune_results.VALIDATION, *(0.01,) * 6))
    names = [f"a domain of number {number}" for number in range(20)]
    result = finetune_results.make_result(train=names, evaluate=names, pulls=(-0.2, -0.1, *(0.01,) * 18))
    rows = [
        (name, f"{name} {'prompt ' * 45}", *("completion " * 24,) * 3) for name in names for _ in range(2)
    ]
    result = replace(result, completions=pd.DataFrame(rows, columns=list(COMPLETION_COLUMNS), dtype=object))
    text = FinetuneResult.page([result])
    assert text.count("completion completion") >= 3 * len(rows)
    assert len(text.encode()) < 1.5e6
    assert "2 of the 6 updates in between, evenly chosen" in headings(text)
    assert text.count(", for ") >= 4


def test_a_page_is_the_same_every_time(result_of: MakeResult) -> None:
    assert FinetuneResult.page([result_of(probes=False)]) == FinetuneResult.page([result_of(probes=False)])


def test_prediction_meets_outcome_where_the_slopes_are_exact(result_of: MakeResult) -> None:
    """Losses that fall linearly, and slopes that say so: every point lies on the identity."""
    result = result_of()
    rates = np.linspace(-1e-3, 1e-3, len(EVALUATE))
    slopes = pd.DataFrame(np.tile(rates[:, None], len(TRAIN)), index=list(EVALUATE), columns=list(TRAIN))
    exact = [
        replace(
            update,
            slopes=slopes,
            standard_errors=slopes.abs() * 0,
            predicted=dict(zip(EVALUATE, 2 + rates * (update.step + update.horizon), strict=True)),
        )
        for update in result.slopes
    ]
    losses = result.losses.assign(
        loss_nats=[
            2 + rates[EVALUATE.index(name)] * step
            for step, name in zip(result.losses["step"], result.losses["domain"], strict=True)
        ]
    )
    points = calibration(replace(result, slopes=exact, losses=losses))
    assert len(points) == len(UPDATES) * len(EVALUATE)
    np.testing.assert_allclose(points["realised"], points["predicted"], atol=1e-12)
    assert "correlation 1.00" in calibration_sentence(points)


def test_an_interval_that_was_not_read_at_its_end_is_left_out(result_of: MakeResult) -> None:
    result = result_of()
    cut = replace(result, losses=result.losses[result.losses["step"] < 320])
    points = calibration(cut)
    assert points["realised"].isna().sum() == len(EVALUATE)
    assert f"{len(EVALUATE)} more were not read at both ends" in calibration_sentence(points)
    assert "nothing can be compared" in calibration_sentence(points[points["realised"].isna()])


def test_a_diverged_probe_without_weight_does_not_spoil_the_prediction(result_of: MakeResult) -> None:
    points = calibration(result_of())
    assert points.loc[points["step"] == 5, "predicted"].notna().all()


def test_feasible_spans_reach_half_way_to_the_next_evaluation(result_of: MakeResult) -> None:
    result = result_of()
    changes = {0: 0.0, 10: 0.06, 20: 0.04, 40: 0.05, 60: 0.07}
    rows = [(step, "python", "validation", change) for step, change in changes.items()]
    losses = pd.DataFrame(rows, columns=["step", "domain", "split", "change"])
    final = result.final[result.final["domain"] == "python"]
    assert feasible_spans(replace(result, losses=losses, final=final)) == [(0.0, 5.0), (15.0, 50.0)]
    assert feasible_spans(replace(result, losses=losses, final=final.assign(role="monitored"))) == []


def test_a_loss_is_drawn_beside_its_reference_and_limit(result_of: MakeResult) -> None:
    result = result_of()
    axes = loss_figures(result, "run")[EVALUATE.index("python")].axes[0]
    heights = [
        float(np.asarray(line.get_ydata())[0]) for line in axes.lines if line.get_linestyle() in (":", "--")
    ]
    assert heights == pytest.approx([2.3, 2.35])


def test_every_number_missing_still_makes_a_page(result_of: MakeResult) -> None:
    result = result_of(status="diverged")
    final = result.final.assign(
        **dict.fromkeys(["loss", "change", "change_low", "change_high"], math.nan), kept=None
    )
    empty = replace(result, final=final, losses=result.losses.iloc[:0], slopes=result.slopes[:1])
    text = FinetuneResult.page([empty, empty])
    assert "has no test result on its targets" in text
    assert ">nan<" not in text


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [375, 1280])
def test_no_browser_scrolls_sideways_or_complains(hostile_html: str, tmp_path: Path, width: int) -> None:
    """The page stands in a frame of a given width, so that a telephone's layout is what is measured."""
    unfolded = hostile_html.replace("<details ", "<details open ")
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<meta charset=utf-8><iframe style='border:0;width:{width}px;height:900px' srcdoc='{html.escape(unfolded)}'>"
        "</iframe><script>onload = () => { const page = frames[0].document.documentElement;"
        "document.body.innerHTML = JSON.stringify([page.clientWidth, page.scrollWidth, frames[0].innerWidth,"
        "frames[0].document.querySelectorAll('svg').length]) }</script>"
    )
    command = [
        str(CHROMIUM),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    command += ["--enable-logging=stderr", "--window-size=1400,1000", "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"\[\d[\d.,]*\]", done.stdout)
    assert found, done.stdout[-500:]
    visible, needed, inner, drawings = json.loads(found[0])
    assert inner == width
    assert needed <= visible
    assert drawings == hostile_html.count("<svg")
    assert "CONSOLE" not in done.stderr
