"""The page of a leak audit: every section from its frames, of full results and of empty ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from page_script import without_script
from page_sentences import sentences
from trimtab.read.leaks import page
from trimtab.read.leaks.mitigated import COLUMNS
from trimtab.read.leaks.recommendation import recommend
from trimtab.read.leaks.result import LeaksResult
from trimtab.report.figures import to_svg
from trimtab.report.page import Gallery, Page, Section

PAIRS = (("colour", "mentioned"), ("city", "background"))


def estimates(bits: float, accuracy: float) -> dict[str, float]:
    row = {"bits": bits, "low": bits - 0.05, "high": bits + 0.05, "accuracy": accuracy}
    return row | {"accuracy_low": accuracy - 0.04, "accuracy_high": min(accuracy + 0.04, 1.0)}


def table_rows(attribute: str, role: str) -> Iterator[dict[str, Any]]:
    base = {"attribute": attribute, "role": role, "lens": "", "encoding": "", "setting": "", "k": np.nan}
    base |= {"layer": np.nan, "n": 480, "groups": 240, "classes": 4, "chance": 0.25, "classifier": "logistic"}
    base |= {"question_only": 1.0 if role == "mentioned" else 0.26}
    leaks = role != "mentioned"
    for layer in range(4):
        yield (
            base
            | {"level": "hidden", "layer": float(layer)}
            | estimates(0.4 * layer * leaks, 0.3 + 0.2 * layer)
        )
    yield base | {"level": "trajectory", "lens": "tuned", "k": 2.0} | estimates(0.6 * leaks, 0.62)
    for encoding, slope in (("sorted", 0.02), ("served", 0.06)):
        for k in (1.0, 5.0, 20.0):
            row = {"level": "logprobs", "encoding": encoding, "k": k}
            yield base | row | estimates(slope * k * leaks, 0.3 + 0.02 * k)
    yield base | {"level": "answer"} | estimates(0.01 * leaks, 0.27)


def control_rows(attribute: str, role: str) -> Iterator[dict[str, Any]]:
    base = {"attribute": attribute, "role": role, "level": "", "k": np.nan, "n": 480, "chance": 0.25}
    yield base | {"control": "majority"} | estimates(np.nan, 0.25)
    for k in (1.0, 5.0, 20.0):
        yield base | {"control": "random tokens", "level": "logits", "k": k} | estimates(0.05 * k, 0.3)
    yield base | {"control": "text"} | estimates(1.9, 0.99)


def mitigation_rows(attribute: str, role: str) -> Iterator[dict[str, Any]]:
    base: dict[str, Any] = dict.fromkeys(COLUMNS, np.nan)
    base |= {"attribute": attribute, "role": role, "n": 480.0, "groups": 240.0, "chance": 0.25, "why": ""}
    tried = [("none", "", 1.2, 0.0, 1.0), ("truncate", "top 1", 0.06, 0.0, 0.05)]
    tried += [("noise", "0.5, 16 queries", 1.1, 0.4, 1.0)]
    for name, setting, bits, error, kept in tried:
        row = estimates(bits * (role != "mentioned"), 0.5) | {"mitigation": name, "setting": setting}
        row |= {f"change{end}": (bits - 1.2) * (role != "mentioned") for end in ("", "_low", "_high")}
        row |= {f"same_answer{end}": 1.0 for end in ("", "_low", "_high")}
        row |= {f"answer_error_nats{end}": error for end in ("", "_low", "_high")}
        row |= {f"kept{end}": kept for end in ("", "_low", "_high")}
        yield base | row


@pytest.fixture(scope="module")
def result() -> LeaksResult:
    table, controls, mitigations = (
        pd.DataFrame([row for pair in PAIRS for row in rows(*pair)])
        for rows in (table_rows, control_rows, mitigation_rows)
    )
    accounting = [("questions", 500, "in"), ("questions", 20, "no label"), ("questions", 480, "used")]
    accounting += [("city (background)", np.nan, "not measured: logprobs served k 20: too few groups")]
    check = {"attribute": "city", "role": "background", "lesser": "top k", "greater": "final hidden state"}
    return LeaksResult(
        table=table,
        controls=controls,
        checks=pd.DataFrame([check | {"n": 480, "holds": False} | estimates(0.3, 0.0)]),
        mitigations=mitigations,
        accounting=pd.DataFrame(accounting, columns=["where", "rows", "why"]),
        facts={"prompts": 480, "task_accuracy": {"value": 0.71, "low": 0.68, "high": 0.74, "n": 480}},
        max_bits=0.1,
        recommendation=recommend(table, mitigations, 0.1),
        findings=("Lenses were fitted on the prompts themselves.",),
        config={"model": "m", "seed": 0},
    )


@pytest.fixture(scope="module")
def made(result: LeaksResult) -> Iterator[list[Section]]:
    """Sections with drawings that are empty but for their labels: drawing takes most of a page's time."""
    with pytest.MonkeyPatch.context() as patched:
        labelled = '<svg aria-label="{}"></svg>'.format
        patched.setattr("trimtab.report.page.to_svg", lambda figure: labelled(figure.get_label()))
        yield list(page.sections(result))


@pytest.fixture(scope="module")
def html(result: LeaksResult, made: list[Section]) -> str:
    return Page("leaks", result.summary(), made).render()


def of_city(result: LeaksResult) -> LeaksResult:
    """The result of one attribute."""
    frames = ("table", "controls", "mitigations", "checks")
    return replace(result, **{name: getattr(result, name).query("attribute == 'city'") for name in frames})


def test_sections_come_in_the_order_of_the_questions(made: list[Section]) -> None:
    assert [section.title for section in made] == [
        "What is served gives away",
        "Levels",
        "By number of tokens",
        "By layer",
        "Trajectory against logits",
        "Mitigations",
        "Controls",
        "Checks",
        "What was not measured",
        "What to know",
        "Accounting",
        "Settings",
    ]


def test_roles_stand_apart_and_numbers_are_those_of_the_frames(html: str) -> None:
    assert re.search(r"above the bound.*?\+1\.200.*?\+1\.150 to \+1\.250", html, re.DOTALL)
    for attribute, role in PAIRS:
        assert f"{attribute} ({role})" in html
    assert "0.710" in html
    assert "0.680 to 0.740" in html
    assert "not measured: logprobs served k 20: too few groups" in html
    assert "Not read: logits." in html
    assert "Lenses were fitted on the prompts themselves." in html


@pytest.mark.usefixtures("undrawn")
def test_what_was_not_measured_without_a_mitigation_has_no_panel(result: LeaksResult) -> None:
    unknown = result.mitigations.assign(bits=np.nan, low=np.nan, high=np.nan)
    galleries = [
        block
        for block in page._mitigations(replace(result, mitigations=unknown))
        if isinstance(block, Gallery)
    ]
    assert galleries == []
    both = pd.concat(
        [result.mitigations.query("attribute == 'city'"), unknown.query("attribute == 'colour'")]
    )
    (forests, _) = [
        block for block in page._mitigations(replace(result, mitigations=both)) if isinstance(block, Gallery)
    ]
    assert len(forests.pictures) == 1


@pytest.mark.usefixtures("undrawn")
def test_a_caption_names_the_encodings_that_are_drawn(result: LeaksResult) -> None:
    sorted_alone = result.table[result.table["encoding"] != "served"]
    no_controls = result.controls.iloc[:0]
    for one, said in ((result, True), (replace(result, table=sorted_alone, controls=no_controls), False)):
        (block,) = page._by_tokens(one)
        assert isinstance(block, Gallery)
        assert ("Ids with values" in block.caption, "Random tokens" in block.caption) == (said, said)
        assert ("Sorted values" in block.caption, "Fixed tokens" in block.caption) == (True, False)


def test_what_is_drawn(html: str) -> None:
    labels = re.findall(r'aria-label="([^"]*)"', html)
    for start in (
        "Bits by level",
        "Bits by number of tokens",
        "Accuracy by layer",
        "Bits of trajectories",
        "Bits under each mitigation",
    ):
        assert sorted(one for one in labels if one.startswith(start)) == sorted(
            next(one for one in labels if one.startswith(start) and f"{a} ({r})" in one) for a, r in PAIRS
        )
    against = [one for one in labels if one.startswith("Bits left against utility")]
    # Nothing leaks of what is mentioned, so there is nothing to trade.
    assert against == ["Bits left against utility: city (background)"]


def test_texts_are_short_sentences(html: str) -> None:
    for sentence in sentences(html):
        assert len(sentence.split()) <= 26, sentence


@pytest.mark.usefixtures("undrawn")
def test_an_audit_that_measured_nothing_says_so(result: LeaksResult) -> None:
    frames = {
        name: getattr(result, name).iloc[:0]
        for name in ("table", "controls", "checks", "mitigations", "accounting")
    }
    empty = replace(result, **frames, facts={}, findings=(), recommendation="", max_bits=None)
    html = Page("leaks", empty.summary(), list(page.sections(empty))).render()
    for text in (
        "No level that a caller sees was measured.",
        "Nothing could be measured.",
        "No mitigation was tried.",
    ):
        assert text in html
    for text in (
        "No controls were measured",
        "No rows were counted.",
        "Not read: hidden states, trajectories",
    ):
        assert text in html
    assert "By number of tokens" not in html
    to_svg(page.figure(empty))


def test_cells_that_could_not_be_measured_are_drawn_as_nothing(result: LeaksResult) -> None:
    names = ["bits", "low", "high", "accuracy", "accuracy_low", "accuracy_high"]
    unknown = replace(
        result,
        table=result.table.assign(**dict.fromkeys(names, np.nan)),
        mitigations=result.mitigations.assign(**dict.fromkeys(names, np.nan), why="too few rows"),
        max_bits=None,
    )
    one = {
        name: getattr(unknown, name).query("attribute == 'city'")
        for name in ("table", "controls", "mitigations")
    }
    unknown = replace(unknown, **one)
    html = Page("leaks", unknown.summary(), list(page.sections(unknown))).render()
    assert "not measured" in html
    assert "too few rows" in html
    to_svg(page.figure(unknown))


@pytest.mark.usefixtures("undrawn")
def test_names_of_others_are_text(result: LeaksResult) -> None:
    one = of_city(result)
    frames = {
        name: getattr(one, name).replace({"city": "<script>x</script>"})
        for name in ("table", "controls", "checks", "mitigations")
    }
    html = Page("leaks", "", list(page.sections(replace(one, **frames)))).render()
    assert "<script>" not in without_script(html)
    assert "&lt;script&gt;" in html


def test_the_main_figure_is_of_what_leaks_most(result: LeaksResult) -> None:
    assert page.figure(result).get_label() == "Bits by number of tokens: city (background)"
    without = replace(result, table=result.table[result.table["k"].isna() & ~(result.table["layer"] < 3)])
    assert page.figure(without).get_label() == "Bits by level: city (background)"


@pytest.mark.usefixtures("undrawn")
def test_one_number_of_tokens_is_no_curve(result: LeaksResult) -> None:
    one = replace(result, table=result.table[result.table["k"].isna() | (result.table["k"] == 20.0)])
    one = replace(one, table=one.table[one.table["level"] != "trajectory"])
    assert "By number of tokens" not in [section.title for section in page.sections(one)]
    assert page.figure(one).get_label() == "Bits by level: city (background)"


def test_the_strongest_row_of_each_level_is_drawn_with_its_value(
    made: list[Section], result: LeaksResult
) -> None:
    levels = next(section for section in made if section.title == "Levels")
    assert isinstance(levels.blocks[0], Gallery)
    rows = result.table.query("attribute == 'city'")
    strongest = rows.groupby("level")["bits"].max()
    drawing = to_svg(page._by_level(result, ("city", "background")))
    for level, name in (
        ("hidden", "hidden 3"),
        ("logprobs", "top 20, ids with values"),
        ("answer", "answer"),
    ):
        bits = strongest[level]
        (told,) = set(re.findall(rf"<title>{name}: ([^<]*)</title>", drawing))
        value, low, high = (float(text) for text in re.findall(r"[\d.]+", told.replace("−", "")))
        assert (value, high) == pytest.approx((bits, bits + 0.05))
        assert abs(low) == pytest.approx(abs(bits - 0.05))


@pytest.mark.usefixtures("undrawn")
def test_one_layer_is_no_curve(result: LeaksResult) -> None:
    one = of_city(replace(result, table=result.table[~(result.table["layer"] < 3)]))
    assert "By layer" not in [section.title for section in page.sections(one)]


@pytest.mark.usefixtures("undrawn")
def test_what_is_not_drawn_is_said(result: LeaksResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MOST_PANELS", 1)
    captions = [
        block.caption
        for section in page.sections(result)
        for block in section.blocks
        if hasattr(block, "pictures")
    ]
    assert sum("Drawn are 1 of 2 attributes with their roles" in one for one in captions) == 5
