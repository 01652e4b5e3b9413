"""A steering from a config to a folder and a page, and what stops it before it starts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from page_script import without_script
from trimtab import CAA, LinEAS, MeanAcT, Steering, load
from trimtab.errors import CheckpointError, ConfigProblems, DataError
from trimtab.job import carry_out
from trimtab.steer.lineas.job import SteeringConfig
from trimtab.steer.lineas.result import SteeringResult
from trimtab.steer.samples import read_examples
from trimtab.steer.strength import strength_curve


@pytest.fixture
def config(llama_folder: Path, sides: dict[str, str]) -> SteeringConfig:
    return SteeringConfig(
        model=str(llama_folder),
        **sides,
        estimator=LinEAS(sites="residual", steps=8),
        examples=6,
        held_out=8,
        prompts=("you", "dear <b>"),
        strengths=(0.0, 0.5, 1.0),
        max_new_tokens=4,
        device="cpu",
    )


def test_a_job_fits_judges_and_reports(config: SteeringConfig, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    outcome = carry_out(config, tmp_path / "run", lambda done, total: told.append((done, total)))
    assert told == [(n, 8) for n in range(1, 9)]
    loaded = SteeringResult.load(tmp_path / "run")
    pd.testing.assert_frame_equal(loaded.curve, outcome.curve)
    pd.testing.assert_frame_equal(loaded.samples, outcome.samples)
    pd.testing.assert_frame_equal(loaded.costs, outcome.costs)
    for name, (weight, shift) in outcome.steering.maps.items():
        assert torch.equal(loaded.steering.maps[name][0], weight)
        assert torch.equal(loaded.steering.maps[name][1], shift)
    assert (tmp_path / "run/report.html").read_text().count("<svg") == 5
    assert len(loaded.samples) == 6
    assert json.loads(outcome.to_json())["curve"][2]["strength"] == 1.0


def test_its_numbers_are_those_of_the_library(config: SteeringConfig, tmp_path: Path) -> None:
    """What a user would do by hand in Python, with the same examples."""
    result = carry_out(config, tmp_path / "run")
    texts = {n: read_examples(getattr(config, n), n, 6, 8) for n in ("source", "target")}
    neutral = read_examples(config.neutral, "neutral", 0, 8).held_out
    model = load(config.model, device="cpu")
    steering = replace(config.estimator, max_tokens=128).fit(
        model, source=list(texts["source"].fit), target=list(texts["target"].fit)
    )
    held = {name: side.held_out for name, side in texts.items()}
    curve = strength_curve(
        steering, model, **held, neutral=neutral, strengths=config.strengths, max_tokens=128
    )
    pd.testing.assert_frame_equal(result.curve, curve)
    assert not {*texts["source"].fit} & {*texts["source"].held_out}


def test_the_costs_are_of_held_out_texts_and_fall_where_maps_help(
    config: SteeringConfig, tmp_path: Path
) -> None:
    config = replace(config, estimator=MeanAcT(sites="residual"))
    costs = carry_out(config, tmp_path / "run").costs
    assert list(costs["site"]) == ["model.layers.0:out", "model.layers.1:out"]
    assert (costs["after"] < costs["before"]).all()
    assert np.isfinite(costs[["before", "after"]].to_numpy()).all()


def test_a_finished_job_is_not_another_ones(config: SteeringConfig, tmp_path: Path) -> None:
    carry_out(config, tmp_path / "run")
    with pytest.raises(CheckpointError, match="seed"):
        carry_out(replace(config, seed=1), tmp_path / "run")


def test_an_interrupted_fit_goes_on_where_it_was(config: SteeringConfig, tmp_path: Path) -> None:
    whole = carry_out(config, tmp_path / "whole")

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(config, tmp_path / "run", stop)
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "interrupted"
    resumed = carry_out(config, tmp_path / "run")
    for name, (weight, shift) in whole.steering.maps.items():
        assert torch.equal(resumed.steering.maps[name][0], weight)
        assert torch.equal(resumed.steering.maps[name][1], shift)


# What is wrong with a config


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"estimator": LinEAS(steps=0)}, "estimator.steps"),
        ({"estimator": CAA(position="first")}, "estimator.position"),
        ({"examples": 1}, "examples"),
        ({"held_out": 1}, "held_out"),
        ({"max_tokens": 1}, "max_tokens"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"strengths": ()}, "strengths"),
        ({"strengths": (0.5, 1.5)}, "strengths"),
        ({"source": "no/such/file.txt"}, "source"),
        ({"neutral": "nothing*.txt"}, "neutral"),
        ({"model": "./no-folder"}, "model"),
    ],
)
def test_each_mistake_is_named_before_anything_starts(
    config: SteeringConfig, tmp_path: Path, changes: dict[str, Any], where: str
) -> None:
    wrong = replace(config, **changes)
    assert [problem.where for problem in wrong.problems()] == [where]
    with pytest.raises(ConfigProblems, match=where):
        carry_out(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_both_sides_from_one_file_are_refused(config: SteeringConfig) -> None:
    assert [str(p) for p in replace(config, target=config.source).problems()] == [
        "target: got the same file as source, expected another behaviour"
    ]


def test_too_few_texts_are_refused_and_the_run_says_failed(config: SteeringConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"source: got 18 different texts .*, expected 40"):
        carry_out(replace(config, examples=32), tmp_path / "run")
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "failed"


def test_an_estimate_counts_steps_and_texts(config: SteeringConfig) -> None:
    assert config.cost() == {"steps": 8, "texts": 8 * 3 * 3 + 2 * 3}


def test_there_is_no_result_before_the_end(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no finished result"):
        SteeringResult.load(tmp_path)


# The page


@pytest.fixture(scope="module")
def carried_out() -> list[SteeringResult]:
    """The one result that all tests of the page read; none changes it."""
    return []


@pytest.fixture
def result(config: SteeringConfig, tmp_path: Path, carried_out: list[SteeringResult]) -> SteeringResult:
    if not carried_out:
        carried_out.append(carry_out(config, tmp_path / "run"))
    return carried_out[0]


def test_a_page_escapes_what_models_and_users_write(result: SteeringResult) -> None:
    samples = result.samples.assign(text="<script>alert(1)</script>")
    text = SteeringResult.page([replace(result, samples=samples, label="<i>")], title="<b>")
    assert "<script>" not in without_script(text)
    assert "&lt;script&gt;" in text
    assert "dear &lt;b&gt;" in text


def test_a_verdict_says_when_chance_explains_it(result: SteeringResult) -> None:
    def told(low: float, high: float, lean: float) -> str:
        last = result.curve.assign(lean=lean, lean_low=low, lean_high=high)
        return replace(result, curve=last).summary()

    assert "towards the target" in told(0.1, 0.3, 0.2)
    assert "away from the target" in told(-0.3, -0.1, -0.2)
    assert "within what chance explains" in told(-0.1, 0.3, 0.1)
    assert "chance" not in told(0.1, 0.3, 0.2)


def test_several_results_are_compared_and_none_is_refused(result: SteeringResult) -> None:
    text = SteeringResult.page([result, replace(result, label="other")])
    assert "1. LinEAS" in text
    assert "2. other" in text
    with pytest.raises(DataError, match="no result"):
        SteeringResult.page([])


def test_a_result_draws_its_curve(result: SteeringResult) -> None:
    assert result.figure().axes[0].get_xlabel() == "strength"
    assert list(result.to_frame()["strength"]) == [0.0, 0.5, 1.0]
    assert isinstance(result.steering, Steering)


@pytest.mark.parametrize("name", ["curve", "costs", "samples"])
def test_a_result_that_lacks_a_part_is_named(result: SteeringResult, tmp_path: Path, name: str) -> None:
    path = result.save(tmp_path / "copy") / "artifacts/result.json"
    found = json.loads(path.read_text())
    del found[name]
    path.write_text(json.dumps(found))
    with pytest.raises(CheckpointError, match=f"result.json: got values that are no result .*{name}"):
        SteeringResult.load(tmp_path / "copy")
