"""Surveys of the texts of a steering, and keys of another estimator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from trimtab import LinEAS
from trimtab.errors import ConfigProblems
from trimtab.runs.config import read_config
from trimtab.steer.lineas.job import SteeringConfig


@pytest.fixture
def config(llama_folder: Path, sides: dict[str, str]) -> SteeringConfig:
    return SteeringConfig(
        model=str(llama_folder), **sides, estimator=LinEAS(steps=8), examples=6, held_out=8, device="cpu"
    )


def test_a_survey_counts_the_texts_of_each_side(config: SteeringConfig, tmp_path: Path) -> None:
    survey = config.survey()
    table = survey.tables["texts"].set_index("side")
    assert table[["fit", "held_out"]].to_dict("index")["source"] == {"fit": 6, "held_out": 8}
    assert table.loc["neutral", "fit"] == 0
    assert (table["cut"] == 0).all()
    assert (replace(config, max_tokens=3).survey().tables["texts"]["cut"] > 0.5).all()
    assert survey.problems == survey.notes == ()
    (tmp_path / "few.txt").write_text("one\ntwo\n")
    (tmp_path / "odd.jsonl").write_text('{"text": "a"}\n{"text": 3}\n')
    wrong = replace(config, source=str(tmp_path / "few.txt"), target=str(tmp_path / "odd.jsonl")).survey()
    target, source = wrong.problems
    assert target.where == f"target, {tmp_path / 'odd.jsonl'}:2, 'text'"
    assert (source.where, source.hint) == ("source", "fewer of each, or more text")
    assert source.got.startswith("2 different texts in")
    elsewhere = replace(config, model="someone/elsewhere", neutral="lab:clean").survey()
    assert elsewhere.tables["texts"]["cut"].isna().all()
    assert elsewhere.notes == (
        "neutral: lab:clean is not read before the run, which makes it.",
        "Texts cut are unknown: the model is not on this machine.",
    )


def test_a_key_of_another_estimator_is_not_offered_as_itself(config: SteeringConfig) -> None:
    content = {"model": config.model, "source": config.source, "target": config.target, "system": "steering"}
    content |= {"estimator": {"kind": "mean-act", "steps": 100}}
    with pytest.raises(ConfigProblems) as refused:
        read_config(content, SteeringConfig)
    (problem,) = refused.value.problems
    assert (problem.where, problem.hint) == ("estimator.steps", "another estimator.kind, which has it")
