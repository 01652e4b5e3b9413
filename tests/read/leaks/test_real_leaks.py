"""The leak audit of the real model: its cells on a tiny one, what is gathered, and the head of every real record."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmark_scripts import scripts
from quick_leaks import quick_baseline, quick_leak
from templates import DEFAULT_SYSTEM
from tiny_models import build, chat_tokenizer
from trimtab import Answer, Hidden, TopLogprobs, load
from trimtab.read.leaks import cells
from trimtab.runs.serialise import to_json


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    monkeypatch.setattr(cells, "estimate_leak", quick_leak)
    monkeypatch.setattr(cells, "fit_baseline", quick_baseline)
    network = build("llama", vocab_size=264, max_position_embeddings=1024)
    tiny = load(network, tokenizer=chat_tokenizer(DEFAULT_SYSTEM))
    with scripts("real", "runs", "leaks") as (runs, leaks):
        monkeypatch.setattr(leaks, "model_of", lambda _folder: tiny)
        levels = (
            Hidden((1, -1)),
            TopLogprobs((1, 3), encodings=("served",)),
            TopLogprobs((3,), encodings=("sorted",)),
            Answer(),
        )
        monkeypatch.setattr(leaks, "LEVELS", levels)
        monkeypatch.setattr(leaks, "MITIGATIONS", ({"truncate": 1}, "answer-only"))
        yield runs, leaks


def test_draws_run_and_are_gathered_before_all_are_there(
    bench: tuple[ModuleType, ModuleType], tmp_path: Path
) -> None:
    runs, leaks = bench
    every = leaks.cells(2, 80, "tiny")
    asked = argparse.Namespace(folder=tmp_path / "cells", jobs=1, gather=False)
    first = dict(list(every.items())[:1])
    done = runs.results_of(leaks.run, first, asked)
    assert list(done) == ["draw 0"]
    asked.gather = True
    assert runs.results_of(leaks.run, every, asked) == done
    record = leaks.gathered(every, done, "command")
    assert record["cells"] == {"there": 1, "planned": 2}
    assert record["model"]["weights"] == "dequantised Q4_1"
    assert record["draws"][0]["prompts"] == 160
    assert {one["attribute"] for one in record["attributes"]} == {"colour", "city"}
    for one in record["attributes"]:
        assert (one["most served"]["encoding"], one["most served"]["k"]) == ("served", 3)
        control = one["shuffled labels"]
        assert (control["level"], control["k"]) == ("logprobs", 3)
        assert control["draws"][0]["low"] <= control["draws"][0]["bits"] <= control["draws"][0]["high"]
    runs.write(tmp_path / "deeper" / "leaks.json", record)
    there = json.loads((tmp_path / "deeper" / "leaks.json").read_text())
    assert there == json.loads(to_json(runs.rounded(record)))


def planted(seed: int, bits: float, low: float, control: str = "", **more: Any) -> dict[str, Any]:
    row = {"attribute": "city", "role": "background", "level": "logprobs", "encoding": "served", "k": 20.0}
    numbers = {"bits": bits, "low": low, "high": bits + 0.1, "n": 10}
    name = "controls" if control else "table"
    row |= {"control": control} if control else {}
    return {"seed": seed, "table": [], "controls": [], "mitigations": []} | {
        name: [{**row, **numbers, **more}]
    }


def test_draws_stand_beside_one_another_and_a_leak_is_one_of_every_draw(
    bench: tuple[ModuleType, ModuleType],
) -> None:
    leaks = bench[1]
    draws = [planted(0, 0.5, 0.4), planted(1, 0.3, 0.2)]
    draws += [planted(0, 0.9, 0.8, k=1.0), planted(1, 0.9, -0.1, k=1.0), planted(0, 1.5, 1.0, level="hidden")]
    controls = [planted(0, 0.01, -0.1, "shuffled labels"), planted(1, 0.0, -0.1, "shuffled labels")]
    table, shuffled = leaks.by_draw(draws, "table"), leaks.by_draw(controls, "controls")
    assert [[one["seed"] for one in row["draws"]] for row in table] == [[0, 1], [0, 1], [0]]
    (row,) = leaks.shown(table, shuffled)
    assert (row["leak"], row["shuffled leak"], row["of"]) == ("shown", "not shown", 2)
    assert row["largest"]["k"] == 1.0
    assert leaks.verdict(row["largest"]["draws"]) == "in some draws"
