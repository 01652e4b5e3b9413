"""What users see of an object: one line in a terminal, a short table in a notebook, nothing that HTML would run."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import trimtab
from coin import CoinResult
from finetune_results import make_result
from trimtab import (
    AurA,
    ConceptSet,
    Domain,
    DynaMiCS,
    ExpertLens,
    FinetuningLaw,
    Fit,
    ForgettingLaw,
    Lexicon,
    LinEAS,
    NamingCounts,
    Steering,
)
from trimtab.adapt.dynamics.job import DynamicsConfig
from trimtab.data.tokens import tokenise
from trimtab.report.page import CELL_ROWS, Table, cell
from trimtab.runs.brief import WIDTH, brief, one_line
from trimtab.steer.maps import AffineMap, Base
from worlds import domain, model, tokenizer

HOSTILE = "<script>alert(1)</script>\x1b[31m\n" + "x" * 300
SETTINGS = [name for name in trimtab.__all__ if isinstance(getattr(trimtab, name), type)]


def runs() -> pd.DataFrame:
    """Points of a grid on which both laws are determined."""
    rows = []
    for params in (1e5, 4e5, 1.6e6):
        for tokens in (1e4, 1e5):
            for inject in (0.0, 0.01, 0.05):
                rise = 2e2 * tokens**0.3 / ((1 + 300 * inject) * params) ** 0.6
                target = 40 / (params**0.2 * tokens**0.1) + 1.0
                rows.append((params, tokens, inject, 3 + rise, 3.0, target))
    return pd.DataFrame(rows, columns=["params", "tokens", "inject", "loss_pt", "loss_pt0", "loss_ft"])


def colours() -> Lexicon:
    """A lexicon of two words, one of them hostile."""
    frame = pd.DataFrame(
        {"referent": [0, 0, 1, 2], "name": ["red", HOSTILE, "red", HOSTILE], "count": [3, 1, 2, 2]}
    )
    features = pd.DataFrame({"x": [0.0, 1.0, 2.0]}, index=[0, 1, 2])
    return Lexicon.fit(NamingCounts.from_frame(frame), features)


def concepts() -> ConceptSet:
    words = {"animal": ["a cat runs", "a dog runs"], HOSTILE: ["a car rolls", "a bus rolls"]}
    return ConceptSet.one_against_rest(words, words=False)


def steering() -> Steering:
    maps = {f"model.layers.{k}.mlp:out": (torch.ones(64), torch.arange(64.0)) for k in range(12)}
    return Steering(maps, Base(HOSTILE, {}), {"estimator": HOSTILE, "losses": list(range(400))})


@cache
def law() -> ForgettingLaw:
    return ForgettingLaw.fit(runs(), n_boot=0)


@cache
def target_law() -> FinetuningLaw:
    return FinetuningLaw.fit(runs(), n_boot=0)


HELD: dict[str, Any] = {
    "settings": lambda: Fit(steps=400, lr=1e-3),
    "mixer": lambda: DynaMiCS(targets=["math"], constraints={f"domain {k}": 0.05 for k in range(40)}),
    "config": lambda: DynamicsConfig(system="dynamics", model=HOSTILE, train={"a": "b"}, targets=("a",)),
    "estimator": lambda: LinEAS(sites="mlp_out", steps=30),
    "damping": AurA,
    "map": lambda: AffineMap.identity(4096),
    "steering": steering,
    "domain": lambda: Domain("web", ["one", "two"] * 40),
    "tokens": lambda: tokenise(domain("web"), tokenizer(), seq_len=16),
    "model": model,
    "concepts": concepts,
    "lens": lambda: ExpertLens.fit(model(), concepts()),
    "counts": lambda: NamingCounts.from_frame(pd.DataFrame({"referent": [1], "name": [HOSTILE]})),
    "lexicon": colours,
    "law": law,
    "target law": target_law,
    "result": lambda: replace(make_result(), label=HOSTILE),
    "coin": lambda: CoinResult(3, pd.DataFrame({HOSTILE: [HOSTILE] * 60}), label=HOSTILE, config={"seed": 1}),
}


@pytest.mark.parametrize("name", HELD)
def test_repr_is_one_short_line(name: str) -> None:
    text = repr(HELD[name]())
    assert len(text) <= WIDTH
    assert text.isprintable()
    assert not re.search(r"tensor\(|array\(|\bdtype\b|  ", text)


def test_every_public_class_has_a_repr_of_its_own() -> None:
    """None is left with the one that `dataclass` writes, which prints tensors and frames in full."""
    by_dataclass = [name for name in SETTINGS if "recursive_repr" in str(getattr(trimtab, name).__repr__)]
    assert by_dataclass == []


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("name", ["steering", "lens", "lexicon", "law", "target law", "result", "coin"])
def test_html_of_a_notebook_escapes_and_is_bounded(name: str) -> None:
    html, page = HELD[name]()._repr_html_(), _Tags()
    page.feed(html)
    assert not {"script", "img", "iframe", "link"} & set(page.tags)
    assert "table" in page.tags
    assert page.tags.count("tr") <= 1 + CELL_ROWS
    assert "\x1b" not in html
    assert "<script" not in html


def test_a_long_table_says_how_much_more_there_is() -> None:
    html = cell("Words", "Many.", Table(pd.DataFrame({"word": list("abc") * 20}), marked=(1, 40)))
    assert html.count("<tr") == 1 + CELL_ROWS
    assert "40 more rows" in html
    assert "<table" not in cell("Nothing", "", Table(pd.DataFrame()))


def test_settings_show_what_was_chosen() -> None:
    assert brief(Fit(steps=400)) == "Fit(steps=400)"
    assert brief(LinEAS()) == "LinEAS()"
    assert brief(AffineMap(torch.ones(3), torch.zeros(3))) == "AffineMap(weight=<Tensor 3>, shift=<Tensor 3>)"
    assert one_line("A", np.str_("b"), "c\td") == "A(b, c d)"
