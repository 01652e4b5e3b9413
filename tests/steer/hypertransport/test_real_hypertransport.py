"""HyperTransport on the real model: its concepts and judge, cells on a tiny model, and verdicts on planted scores."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from benchmark_scripts import scripts
from templates import DEFAULT_SYSTEM
from tiny_models import build, chat_tokenizer
from trimtab import load

Modules = tuple[ModuleType, ModuleType]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Modules]:
    network = build("llama", vocab_size=264, max_position_embeddings=1024).to(torch.bfloat16)
    tiny = load(network, tokenizer=chat_tokenizer(DEFAULT_SYSTEM))
    with scripts("real", "runs", "steering", "hypertransport") as (runs, _, hyper):
        monkeypatch.setattr(hyper, "model_of", lambda _folder, _dtype: tiny)
        monkeypatch.setattr(hyper, "SITES", ["residual.0", "residual.1"])
        monkeypatch.setattr(hyper, "MIDDLE", "residual.1")
        yield runs, hyper


def test_a_third_is_held_out_and_every_value_but_the_new_topic_is_trained_on(bench: Modules) -> None:
    hyper = bench[1]
    splits = hyper.concepts()
    assert [list(splits.values()).count(one) for one in ("train", "new topic", "new combination")] == [
        19,
        4,
        5,
    ]
    trained = [one for one, split in splits.items() if split == "train"]
    values = {value for one in trained for value in one}
    assert values == {"glad", "gloomy", "formal", "casual", *hyper.TOPICS} - {"travel"}
    for one in splits:
        other = hyper.opposite(one)
        assert other in splits
        assert not set(one) & set(other)


def test_no_sentence_is_both_fitted_and_judged_by(bench: Modules) -> None:
    hyper = bench[1]
    for one in hyper.concepts():
        fit, judge = (set(hyper.texts(one, part, 16)) for part in ("fit", "judge"))
        assert len(fit) == len(judge) == 16
        assert not fit & judge


def test_the_judge_knows_texts_of_other_sentences_and_says_nothing_of_generic_ones(bench: Modules) -> None:
    hyper = bench[1]
    accuracy = hyper.judge_accuracy(hyper.Size())
    assert all(one["low"] > 0.8 for one in accuracy.values())
    judge, concept = hyper.judge_of(24), ("glad", "casual", "food")
    mine, other = (
        judge.log_odds(hyper.texts(one, "fit", 8), concept) for one in (concept, hyper.opposite(concept))
    )
    assert (mine.mean(0) > 0).all()
    assert (other.mean(0) < 0).all()
    both = [judge.log_odds(["soup"], (one, "casual", "food"))[0, 0] for one in ("glad", "gloomy")]
    assert both[0] == pytest.approx(-both[1])


def test_cells_run_and_are_gathered_before_all_are_there(bench: Modules, tmp_path: Path) -> None:
    runs, hyper = bench
    size = hyper.Size(texts=4, judge=12, steps=2, tokens=3, prompts=2, trained=1, length=600)
    asked = argparse.Namespace(folder=tmp_path / "cells", jobs=1, gather=False)
    nets = runs.results_of(hyper.train, hyper.networks(2, size, "tiny"), asked)
    assert list(nets) == ["network 0", "network 1"]
    assert len(nets["network 0"]["novelty"]) == 28
    every = hyper.cells(2, size, "tiny", asked.folder)
    assert len(every) == 2 * 10
    chosen = {name: every[name] for name in ("glad, formal, food, 0", "glad, formal, food, 1")}
    done = runs.results_of(hyper.measure, chosen, asked)
    assert list(done) == list(chosen)
    methods = [{point["method"] for point in one["points"]} for one in done.values()]
    assert len(methods[0]) == 10
    assert methods[1] == set(hyper.EVERY_SEED)
    for one in done.values():
        for point in one["points"]:
            assert len(point["scores"]) == 2
            assert sum(point["attributes"].values()) == pytest.approx(sum(point["scores"]) / 2)
    record = hyper.gathered(nets, every, done, "command", size)
    assert record["cells"] == {"there": 2, "planned": 20}
    assert record["model"]["weights"] == "dequantised Q4_1"
    assert {row["method"] for row in record["table"]} == methods[0]
    runs.write(tmp_path / "out.json", record)


def scored(seed: int, scores: dict[str, float], place: int) -> dict[str, Any]:
    """A measured concept with the same scores at each budget; concepts differ a little."""
    free = {"unsteered", "prompting"}
    attributes = dict.fromkeys(("sentiment", "formality", "topic"), 0.0)
    points = [
        {
            "method": name,
            "budget": budget,
            "scores": [score + 0.01 * place],
            "attributes": attributes,
            "repeats": 0.0,
        }
        | ({} if name in free else {"kl": budget, "reached": True})
        for name, score in scores.items()
        for budget in ((None,) if name in free else (0.1, 0.4))
    ]
    return {"concept": ["a", "b", str(place)], "split": "new topic", "seed": seed, "points": points}


def test_differences_are_of_the_same_concepts_and_a_control_that_works_is_told(bench: Modules) -> None:
    hyper = bench[1]
    scores = {"HyperTransport": 1.0, "texts of another concept": -2.0, "mean map": 0.4, "MeanAcT on it": 2.0}
    scores |= {"unsteered": -1.0, "prompting": 0.0}
    there = [scored(0, scores, place) for place in range(4)]
    there += [
        scored(1, {"HyperTransport": 3.0, "texts of another concept": -2.0}, place) for place in range(4)
    ]
    gaps = hyper.differences(there)
    first = {
        one["less"]: one["difference"]
        for one in gaps
        if one["budget"] == 0.1 and one["method"] == "HyperTransport"
    }
    assert first["mean map"] == {
        "value": pytest.approx(1.6),
        "low": pytest.approx(1.6),
        "high": pytest.approx(1.6),
        "n": 4,
    }
    words = {one["claim"]: one["verdict"] for one in hyper.verdicts(gaps)}
    assert words["HyperTransport scores above mean map"] == "held"
    assert words["HyperTransport is not shown to be worse than MeanAcT on it"] == "held"
    assert words["the control fails: no better than no steering"] == "held"
    works = [scored(0, {**scores, "texts of another concept": 1.0}, place) for place in range(4)]
    words = {one["claim"]: one["verdict"] for one in hyper.verdicts(hyper.differences(works))}
    assert words["the control fails: no better than no steering"] == "did not hold"
    assert words["HyperTransport scores above texts of another concept"] == "did not hold"
    assert words["HyperTransport is not shown to be worse than MeanAcT on it"] == "did not hold"
