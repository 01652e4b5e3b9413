"""The job of the laws: own points and a small grid, their numbers, their page, and what is told when it cannot be."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trimtab.adapt.forgetting import job as job
from trimtab.adapt.forgetting.effects import beside_none
from trimtab.adapt.forgetting.fitting import numeric
from trimtab.adapt.forgetting.job import ForgettingConfig
from trimtab.adapt.forgetting.laws import ForgettingLaw
from trimtab.adapt.forgetting.result import LAW, ForgettingResult, held_out
from trimtab.cli.main import main
from trimtab.errors import CheckpointError, ConfigProblems, DataError
from trimtab.job import carry_out
from trimtab.train.settings import Fit


def points(shares: tuple[float, ...] = (0.0, 0.001, 0.01)) -> pd.DataFrame:
    grid = [(n, d, p) for n in (5e4, 2e5, 8e5) for d in (1e4, 1e5, 1e6) for p in shares]
    frame = pd.DataFrame(grid, columns=["params", "tokens", "inject"])
    n, d, p = (frame[name].to_numpy() for name in frame)
    rise = 0.5 * d**0.3 / ((1 + 500 * p) * n) ** 0.4
    noise = np.exp(0.01 * np.random.default_rng(0).normal(size=len(n)))
    told = {"loss_pt0": 3.0, "loss_pt": 3 + rise * noise, "loss_ft": (1.5 + 40 / (n**0.3 * d**0.1)) * noise}
    return frame.assign(**told, seed=0, reached=True, injected=p * d / 1000, rise_low=rise * noise - 0.05)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[ForgettingConfig, Path, ForgettingResult]:
    folder = tmp_path_factory.mktemp("forgetting")
    points().to_csv(folder / "points.csv", index=False)
    config = ForgettingConfig(points=str(folder / "points.csv"), n_boot=6)
    return config, folder / "run", carry_out(config, folder / "run")


def test_own_points_give_laws_forms_and_effects(own: Any) -> None:
    _, _, result = own
    assert result.law.coefficients["alpha"] == pytest.approx(0.4, rel=0.1)
    assert result.facts["held_out"] == 15
    assert result.facts["removed"]["value"] == pytest.approx(1 - 6**-0.4, abs=0.01)
    assert result.facts["clear"] == int((points().query("inject == 0")["rise_low"] > 0).sum())
    assert [row["inject"] for row in result.facts["injected"]] == [0.001, 0.01]
    assert set(result.forms["form"]) >= {"injection", "constant", "nothing forgotten"}
    text = result.to_text()
    assert f"plan with: trimtab plan --law RUN/{LAW}" in text
    assert "Injecting 1 % removed" in text
    assert "nothing forgotten" in text
    told = json.loads(result.to_json())
    assert told["refused"] == {}
    assert [row["law"] for row in told["laws"]] == ["forgetting"] * 4 + ["fine-tuning"] * 4
    assert len(told["forms"]) == len(result.forms)
    assert told["facts"]["runs"] == 27


def test_the_result_is_read_back_and_planned_with(own: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder, result = own
    again = ForgettingResult.load(folder)
    assert again.facts == result.facts
    pd.testing.assert_frame_equal(again.to_frame(), result.to_frame())
    assert isinstance(again.law, ForgettingLaw)
    asked = ["plan", "--law", str(folder / LAW), "--params", "2e5", "--tokens", "1e5", "--max-rise", "0.05"]
    assert main(asked) == 0
    assert "Inject" in capsys.readouterr().out


def test_the_page_says_it(own: Any) -> None:
    _, folder, _ = own
    text = (folder / "report.html").read_text()
    for told in (
        "Rival forms",
        "hatched zone",
        "held out",
        "Injecting 1 % removed",
        "sequences injected per run",
    ):
        assert told in text
    with pytest.raises(DataError, match="no result"):
        ForgettingResult.page([])


def test_what_the_runs_cannot_tell_is_said_and_the_rest_is_there(tmp_path: Path) -> None:
    points(shares=(0.01,)).to_csv(tmp_path / "points.csv", index=False)
    config = ForgettingConfig(points=str(tmp_path / "points.csv"), n_boot=2)
    result: Any = carry_out(config, tmp_path / "run")
    assert result.law is None
    assert result.target is not None
    assert "determines B" in result.refused["forgetting"]
    assert "determines B" in (tmp_path / "run/report.html").read_text()
    assert ForgettingResult.load(tmp_path / "run").law is None
    assert not (tmp_path / "run" / LAW).exists()
    text = ForgettingResult.page([result] * 2)
    assert "2 sets of runs" in text
    assert f"2. {result.label}" in text


def test_the_page_of_a_result_read_back_has_dashes_where_nothing_was_held_out(
    own: Any, tmp_path: Path
) -> None:
    forms = own[2].forms.assign(**dict.fromkeys(("loss_error", "rise_error", "rise_low"), np.nan))
    replace(own[2], forms=forms, law=None, target=None).save(tmp_path)
    again = ForgettingResult.load(tmp_path)
    assert again.forms["rise_error"].isna().all()
    assert "Rival forms" in ForgettingResult.page([again])


def test_two_sizes_leave_nothing_to_hold_out_by_size() -> None:
    frame = points()
    assert held_out(frame).sum() == 15
    assert held_out(frame[frame["params"] < 8e5]).sum() == 6
    assert held_out(frame[(frame["params"] < 8e5) & (frame["tokens"] < 1e6)]).sum() == 0


def test_runs_are_made_where_no_points_are_given(
    own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(job, "forgetting_grid", lambda models, **given: asked.update(given) or points())
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "train.txt").write_text("some words")
    config = ForgettingConfig(
        models={"a": "me/small"},
        domain=str(tmp_path / "text"),
        pretraining=str(tmp_path / "text"),
        tokens=(10,),
        n_boot=5,
    )
    assert config.cost() == {"runs": 5, "steps": 5 * config.fit.steps}
    monkeypatch.setattr(job, "judged", lambda points, **given: own[2])
    monkeypatch.setattr(ForgettingResult, "report", lambda result, path: path)
    carry_out(config, tmp_path / "run")
    assert asked["folder"] == tmp_path / "run/members"
    assert asked["tokens"] == (10,)
    monkeypatch.setattr(job, "forgetting_grid", lambda models, **given: points().iloc[:0])
    with pytest.raises(DataError, match="no run of 5 that ended"):
        carry_out(config, tmp_path / "other")


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    wrong = ForgettingConfig(
        models={},
        domain="nowhere",
        pretraining="lab:python",
        tokens=(1,),
        shares=(1.0,),
        n_boot=0,
        inject=2.0,
    )
    with pytest.raises(ConfigProblems) as caught:
        carry_out(replace(wrong, fit=Fit(lr=-1)), tmp_path / "run")
    assert {problem.where for problem in caught.value.problems} == {
        "models", "domain", "pretraining", "tokens", "shares", "fit.lr", "n_boot", "inject",
    }  # fmt: skip
    (problem,) = ForgettingConfig(points="nowhere.csv").problems()
    assert problem.where == "points"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "points: got .*points.csv: .*, expected a table with a header"),
        ("params,tokens\ncaf\xe9,1\n".encode("latin-1"), "points: .*bytes that are not UTF-8"),
        ("params,tokens\n1,2\n".encode("utf-16"), "points: .*bytes that are not UTF-8"),
        (b"a,b\n1,2\n1,2,3,4\n", "points: .*points.csv"),
        (
            b"params,tokens\n1,2\n",
            "points: .*columns params, tokens, expected params, tokens, inject, loss_pt",
        ),
        (b"params,tokens,inject,loss_pt,loss_pt0\n1,2,0,3,3\n", "points: .*loss_ft; try adding 'loss_ft'"),
        (b"params,tokens,inject,loss_pt,loss_pt0,ft_loss\n1,2,0,3,3,3\n", "points: .*; try 'ft_loss'"),
        (
            b"params,tokens,inject,loss_pt,loss_pt0,loss_ft\n1,2,0,3,3,3\n1,2,0,,3,3\n",
            r"points: got loss_pt: no value \(nan\) in row 1, expected above 0 nats",
        ),
        (
            b"params,tokens,inject,loss_pt,loss_pt0,loss_ft\n1,2,5 %,3,3,3\n",
            "points: got inject: '5 %' in row 0, expected shares from 0 to below 1",
        ),
        (b"params,tokens,inject,loss_pt,loss_pt0,loss_ft\n", "points: got a header and no run below it"),
        (
            b"params,tokens,inject,loss_pt,loss_pt0,loss_ft,rise_low\n1,2,0,3,3,3,\n1,2,0,3,3,3,low\n",
            "points: got rise_low: 'low' in row 1, expected numbers, or nothing",
        ),
        (
            b"params,tokens,inject,loss_pt,loss_pt0,loss_ft,injected\n1,2,0,3,3,3,1 MiB\n",
            "points: got injected: '1 MiB' in row 0, expected numbers, or nothing",
        ),
        (
            b"params,tokens,inject,loss_pt,loss_pt0,loss_ft,reached\n1,2,0,3,3,3,perhaps\n",
            "points: got reached: 'perhaps' in row 0, expected true or false",
        ),
    ],
)
def test_a_file_of_points_that_cannot_be_used_is_told_by_the_check(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "points.csv").write_bytes(content)
    (problem,) = ForgettingConfig(points=str(tmp_path / "points.csv")).problems()
    assert re.search(message, str(problem))


@pytest.mark.parametrize("kind", [object, str, "string"])
def test_numbers_are_numbers_whatever_type_holds_them(kind: Any) -> None:
    frame = points().assign(rise_low=[None, *[0.5] * (len(points()) - 1)], reached="False")
    read = numeric(
        frame.astype(dict.fromkeys(("loss_pt", "loss_pt0", "tokens", "inject"), kind)), job.COLUMNS
    )
    assert not read["reached"].any()
    assert read["rise_low"].isna().tolist() == [True] + [False] * (len(frame) - 1)
    pd.testing.assert_frame_equal(read[list(job.COLUMNS)], points()[list(job.COLUMNS)].astype(float))
    share = float(frame["inject"].max())
    as_text = frame.astype(dict.fromkeys(("loss_pt", "loss_pt0"), str))
    pd.testing.assert_frame_equal(beside_none(as_text, share), beside_none(frame, share))


def test_what_is_no_file_of_points_is_told_by_the_check(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (str(tmp_path), str(tmp_path / "pipe"), "~nosuchuser/x", "/dev/zero"):
        (problem,) = ForgettingConfig(points=name).problems()
        assert (problem.where, problem.expected) == ("points", "a CSV file")


@pytest.mark.parametrize("name", ["points", "facts", "refused", "forms"])
def test_a_result_that_lacks_a_part_is_named(own: Any, tmp_path: Path, name: str) -> None:
    own[2].save(tmp_path)
    path = tmp_path / "artifacts/result.json"
    found = json.loads(path.read_text())
    del found[name]
    path.write_text(json.dumps(found))
    with pytest.raises(CheckpointError, match=f"result.json: got values that are no result .*'{name}'"):
        ForgettingResult.load(tmp_path)


def test_frames_that_earlier_versions_wrote_as_rows_are_read(own: Any, tmp_path: Path) -> None:
    expected = own[2]
    expected.save(tmp_path)
    path = tmp_path / "artifacts/result.json"
    found = json.loads(path.read_text())
    rows = {
        name: json.loads(getattr(expected, name).to_json(orient="records")) for name in ("points", "forms")
    }
    path.write_text(json.dumps(found | rows))
    (tmp_path / "artifacts/result.sha256").unlink()
    again = ForgettingResult.load(tmp_path)
    for name in ("points", "forms"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(expected, name), check_dtype=False)
    assert ForgettingResult.page([again]).count("<svg") == 1 + 3 + 3


def test_runs_that_tell_no_law_stand_beside_others(own: Any) -> None:
    without = replace(own[2], law=None, target=None)
    assert list(without.to_frame()["law"]) == []
    text = ForgettingResult.page([without, own[2], without])
    assert "3 sets of runs" in text
    compared = re.sub("<[^>]*>", "", text.partition(">Compared</h2>")[2].partition("<details")[0])
    assert compared.count("2. points") == len(own[2].to_frame())
    assert "Compared" in ForgettingResult.page([without, without])
