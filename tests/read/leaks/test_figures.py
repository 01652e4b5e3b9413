"""Figures of a leak audit: lines of controls that can be told apart, and are the same in every panel."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from trimtab.read.leaks.figures import REFERENCES, layers_figure, trade_figure
from trimtab.report.figures import to_svg

ROWS = pd.DataFrame(
    {"layer": [0.0, 1.0], "accuracy": [0.3, 0.5], "accuracy_low": [0.2, 0.4], "accuracy_high": [0.4, 0.6]}
)


def looks(names: list[str]) -> dict[str, tuple[Any, Any]]:
    """Colour and dashes of the line of each control, as they are drawn."""
    (axes,) = layers_figure(ROWS, {name: 0.1 * place for place, name in enumerate(names)}, "city").axes
    drawn = {str(line.get_label()): line for line in axes.get_lines()}
    return {name: (drawn[name].get_color(), drawn[name]._dash_pattern[1]) for name in names}


@pytest.mark.parametrize("other", ["text", "pixels"])
def test_lines_of_controls_differ_in_colour_and_in_dashes(other: str) -> None:
    names = [name for name in REFERENCES if name not in {"text", "pixels"} - {other}]
    for one, two in combinations(looks(names).values(), 2):
        assert one[0] != two[0]
        assert differ(one[1] or (), two[1] or ())


def differ(one: Sequence[float], two: Sequence[float]) -> bool:
    """Whether a period has another number of strokes, or one of at least twice the length."""
    return len(one) != len(two) or max(one[0], two[0]) >= 2 * min(one[0], two[0])


def test_a_control_looks_alike_where_others_are_missing() -> None:
    every, few = (
        looks(["largest class", "question alone", "text", "untrained model"]),
        ["text", "untrained model"],
    )
    assert looks(few) == {name: every[name] for name in few}


def test_every_point_of_a_trade_is_named_with_its_values_also_one_without_a_setting() -> None:
    tried = [("none", "", 1.2, np.nan), ("round", "1 decimal", 1.1, 0.4), ("answer-only", "", 0.0, 0.2)]
    rows = pd.DataFrame(tried, columns=["mitigation", "setting", "bits", "answer_error_nats"])
    rows = rows.assign(low=rows["bits"] - 0.1, high=rows["bits"] + 0.1)
    root = ElementTree.fromstring(to_svg(trade_figure(rows, "city")))
    svg = "{http://www.w3.org/2000/svg}"
    titles = [str(one.text) for one in root.iter(f"{svg}title")]
    written = ["".join(one.itertext()) for one in root.iter(f"{svg}text")]
    for name, cost, bits in (
        ("none", 0, "1.20"),
        ("round 1 decimal", 0.4, "1.10"),
        ("answer-only", 0.2, "0"),
    ):
        (told,) = [one for one in titles if one.startswith(f"{name}: ")]
        costs, left = re.findall(r"nats (\S+); .* alone (\S+) \(", told)[0]
        assert (float(costs), left) == (cost, bits)
        assert name in written
