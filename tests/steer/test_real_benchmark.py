"""The benchmark on the real model: its cells on a tiny one, and its table on made-up results."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from benchmark_scripts import scripts
from templates import DEFAULT_SYSTEM
from tiny_models import build, chat_tokenizer
from trimtab import CAA, LinAcT, LinEAS, MeanAcT, load
from trimtab.models.language import kl_divergence
from trimtab.runs.serialise import to_json
from trimtab.runs.sweep import sweep
from trimtab.steer.samples import rows_to_measure


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    with scripts("real", "runs", "steering_texts", "steering") as (runs, texts, module):
        yield from _with_a_tiny_model(module, monkeypatch)
        texts.pair_of.cache_clear()
        runs.model_of.cache_clear()


def _with_a_tiny_model(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    network = build("llama", vocab_size=264, max_position_embeddings=1024)
    tiny = load(network, tokenizer=chat_tokenizer(DEFAULT_SYSTEM))
    monkeypatch.setattr(module, "model_of", lambda _folder, _dtype: tiny)
    sites = ["residual.0", "residual.1"]
    methods = {"LinEAS": LinEAS(sites=sites, steps=2), "LinAcT": LinAcT(sites=sites), "CAA": CAA()}
    methods |= {"LinEAS from LinAcT": LinEAS(sites=sites, steps=2, lr=0.01), "MeanAcT": MeanAcT(sites=sites)}
    monkeypatch.setattr(module, "METHODS", methods)
    rates = {"rude to polite": 0.01, "code to prose": 0.01}
    monkeypatch.setattr(module, "LRS", {"LinEAS": rates, "LinEAS from LinAcT": rates})
    yield module


@pytest.mark.filterwarnings(
    "ignore:LinEAS. the mean cost rose"
)  # a network of random weights, three examples
def test_cells_run_and_are_gathered_before_all_are_there(bench: ModuleType, tmp_path: Path) -> None:
    size = bench.Size(examples=3, judge=40, prompts=3, neutral=2, tokens=3, length=600, history=1)
    every = {name: cell for name, cell in bench.cells(1, size, "tiny").items() if name.startswith("rude")}
    assert next(iter(every)) == "rude to polite, untouched"
    assert len(every) == 1 + 5 + 1
    first = dict(list(every.items())[:6])
    done = sweep(bench.run, first, tmp_path / "cells")
    assert not done.failures
    asked = Namespace(gather=True, folder=tmp_path / "cells")
    assert bench.results_of(bench.run, every, asked) == done.results
    found = bench.gathered(every, done.results, "command", size)
    assert found["cells"] == {"there": 6, "planned": 7}
    assert found["model"]["weights"] == "dequantised Q4_1"
    assert found["untouched"][0]["accuracy"]["n"] == 80
    assert {(row["method"], row["budget"]) for row in found["table"]} == {
        (method, budget) for method in bench.METHODS for budget in bench.BUDGETS
    }
    for run in found["runs"]:
        for point in run["budgets"]:
            assert len(point["scores"]) == len(point["completions"]) == 3
            assert point["reached"] == (abs(point["kl"] - point["budget"]) <= 0.1 * point["budget"])
            assert 0 < point["strength"] <= bench.MOST
    assert json.loads(to_json(found)) == found
    shown(found)


def shown(found: dict[str, Any]) -> None:
    """The page's section: verdicts follow the numbers, and what was not run is not measured."""
    with scripts("real", "dynamics_page", "steering_page", "page") as (_, section, page):
        assert page.page({"steering": {**found, "table": []}}).count("##") == 0
        for low, high, verdict in ((0.1, 0.3, "did not hold"), (-0.3, -0.1, "held"), (-0.1, 0.1, "open")):
            for row in found["table"]:
                row["less_than_untouched"] = {"value": (low + high) / 2, "low": low, "high": high, "n": 3}
            whole = page.page({"steering": found})
            claim = next(line for line in whole.splitlines() if line.startswith("| LinEAS takes"))
            assert claim.endswith(f"**{verdict}** |")
        assert "| control: MeanAcT fitted on shuffled registers does less | ours |" in whole
        assert "| - | **not measured** |" in whole
        assert "Of 7 planned cells, 6 are there." in " ".join(whole.split())
        for row in found["table"]:
            if row["method"] == "LinEAS":
                assert section.number(row["strength"]) in whole


def test_the_learning_rate_is_tried_on_a_draw_of_its_own(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "RATES", {"LinEAS": (0.01, 0.1), "LinEAS from LinAcT": (0.01,)})
    size = bench.Size(examples=3, judge=40, prompts=3, neutral=2, tokens=3, length=600, history=1)
    every = {name: cell for name, cell in bench.tuning_cells(size, "tiny").items() if name.startswith("rude")}
    done = sweep(bench.run, every, tmp_path / "cells")
    assert not done.failures
    found = bench.gathered(every, done.results, "command", size)
    assert [(one["method"], one["lr"], one["draw"]) for one in found["tuning"]] == [
        ("LinEAS", 0.01, 100),
        ("LinEAS", 0.1, 100),
        ("LinEAS from LinAcT", 0.01, 100),
    ]
    costs = [one["cost"] for one in found["tuning"]]
    assert len({before for before, _ in costs}) == 1  # whatever the rate and the start
    assert costs[2] != costs[0]  # the same settings, from another start
    chosen = bench.least(found["tuning"], "LinEAS", "rude to polite")
    assert chosen == (0.01 if costs[0][1] < costs[1][1] else 0.1)
    assert found["table"] == []


def test_the_committed_result_has_the_rates_with_the_least_costs() -> None:
    with scripts("real", "runs", "steering") as (runs, module):
        found = json.loads((runs.RESULTS / "steering.json").read_text())
        assert found["settings"]["learning_rates"] == module.LRS
        for method, rates in module.LRS.items():
            assert rates == {pair: module.least(found["tuning"], method, pair) for pair in rates}


def made(method: str, scores: list[float], draw: int = 0, *, shuffled: bool = False) -> dict[str, Any]:
    point = {"budget": 0.1, "strength": 1.0, "kl": 0.1, "reached": True, "repeats": [0.0, 0.5]}
    return {"pair": "p", "method": method, "draw": draw, "shuffled": shuffled} | {
        "cost": {"a": [1.0, 0.5], "b": [2.0, 0.7]},
        "budgets": [{**point, "scores": scores}],
    }


def test_differences_are_of_the_same_prompts_and_over_draws(bench: ModuleType) -> None:
    base = {"pair": "p", "method": None, "draw": 0, "shuffled": False, "source": {"scores": [0.9, 0.8]}}
    runs = [
        base,
        made("LinEAS", [0.2, 0.4]),
        made("LinEAS", [0.4, 0.4], 1),
        made("MeanAcT", [0.5, 0.5]),
        made("LinAcT", [0.4, 0.6]),
        made("LinEAS from LinAcT", [0.3, 0.6]),
        made("MeanAcT", [0.9, 0.8], shuffled=True),
    ]
    rows = {(row["method"], row["shuffled"]): row for row in bench.table(runs)}
    lineas, mean, control = rows["LinEAS", False], rows["MeanAcT", False], rows["MeanAcT", True]
    assert (lineas["score"]["value"], lineas["score"]["n"], lineas["draws"]) == (0.35, 2, 2)
    assert lineas["by_draw"] == [0.3, 0.4]
    assert lineas["less_than_untouched"]["value"] == -0.5
    assert "less_lineas" not in lineas
    assert mean["less_lineas"]["value"] == pytest.approx(0.15)
    assert (mean["less_lineas"]["low"], mean["less_lineas"]["high"]) == (0.1, 0.2)
    assert control["less_than_untouched"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 2}
    assert lineas["repeats"] == 0.25
    assert lineas["cost"] == 0.6  # afterwards, the mean of two sites
    assert control["less_true"] == {"value": 0.35, "low": 0.3, "high": 0.4, "n": 2}
    assert rows["LinEAS from LinAcT", False]["less_local"]["value"] == pytest.approx(-0.05)
    assert not {"less_true", "less_local"} & (lineas.keys() | mean.keys())


def test_a_draw_has_other_examples_and_a_control_has_both_registers_on_each_side(bench: ModuleType) -> None:
    source, target = [f"s{n}" for n in range(20)], [f"t{n}" for n in range(20)]
    pair = bench.Pair(source, target, [], [], [], ([], []), ([], []))
    first, other = (bench.examples(pair, 10, draw, shuffled=False) for draw in (0, 1))
    assert [{one[0] for one in side} for side in first] == [{"s"}, {"t"}]
    assert first != other
    mixed = bench.examples(pair, 10, 0, shuffled=True)
    assert sorted([*mixed[0], *mixed[1]]) == sorted([*first[0], *first[1]])
    assert all({one[0] for one in side} == {"s", "t"} for side in mixed)


def test_prompts_share_no_request_with_the_examples(bench: ModuleType) -> None:
    size = bench.Size(examples=8, judge=20, prompts=4, neutral=2)
    pair = bench.PAIRS["rude to polite"](size)
    fitted = {one["messages"][-1]["content"] for side in (pair.source, pair.target) for one in side}
    shown = {m["content"] for p in (*pair.prompts, *pair.contrast) for m in p if m["role"] == "assistant"}
    assert not fitted & (shown | set(pair.judge[0]) | set(pair.judge[1]))
    asked = [[prompt[-1] for prompt in prompts] for prompts in (pair.prompts, pair.contrast)]
    assert asked[0] == asked[1]
    assert all(prompt[-1]["role"] == "user" for prompt in pair.prompts)
    assert len({json.dumps(prompt) for prompt in pair.prompts}) == 4


def test_repeats_are_of_word_pairs(bench: ModuleType) -> None:
    assert bench.repeats("I am sorry, I am sorry, I am") == pytest.approx(4 / 7)
    assert bench.repeats("") == 0.0
    assert np.isclose(bench.repeats("one two"), 0.0)


def test_the_matched_strength_has_the_kl_that_it_says(bench: ModuleType) -> None:
    """Measured again, and refused as reached where no strength comes near: the identity moves nothing."""
    model, size = bench.model_of("tiny", "float32"), bench.Size(examples=4, judge=20, prompts=2, neutral=3)
    pair = bench.PAIRS["rude to polite"](size)
    steering = bench.METHODS["MeanAcT"].fit(model, source=pair.source, target=pair.target)
    rows = rows_to_measure(model, pair.neutral, "neutral", 600)
    for budget in (1e-3, 1e-2):
        found = bench.matched(steering, model, pair.neutral, budget, 600)
        scaled = steering * found["strength"]
        again = kl_divergence(model, rows, lambda s=scaled: s.on(model), max_tokens=600).mean_nats
        assert found["reached"]
        assert abs(again - budget) <= 0.1 * budget
        assert again == pytest.approx(found["kl"], rel=0.02)
    still = bench.matched(steering * 0.0, model, pair.neutral, 0.1, 600)
    assert (still["strength"], still["kl"], still["reached"]) == (0.0, 0.0, False)
