"""Results on disk and off it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from trimtab import DynaMiCS, finetune
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.adapt.record import SlopeUpdate
from trimtab.errors import CheckpointError
from worlds import QUICK, evaluated, model, trainable

MakeResult = Callable[..., FinetuneResult]


def assert_same(a: FinetuneResult, b: FinetuneResult) -> None:
    """Every field equal: frames with their types, numbers to the last bit, nan beside nan."""
    for field in fields(FinetuneResult):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, pd.DataFrame):
            pd.testing.assert_frame_equal(one, other, check_exact=True)
        elif field.name == "slopes":
            for mine, theirs in zip(one, other, strict=True):
                assert_same_update(mine, theirs)
        else:
            assert one == other, field.name


def assert_same_update(a: SlopeUpdate, b: SlopeUpdate) -> None:
    for field in fields(SlopeUpdate):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, pd.DataFrame):
            pd.testing.assert_frame_equal(one, other, check_exact=True)
        else:
            assert one == pytest.approx(other, abs=0, nan_ok=True), field.name


def test_a_saved_result_is_the_same_when_loaded(result_of: MakeResult, tmp_path: Path) -> None:
    result = result_of(notes=("One.", "Two."))
    path = result.save(tmp_path / "deep" / "result.json")
    assert_same(FinetuneResult.load(path), result)


@pytest.mark.parametrize("status", ["infeasible", "no gain", "diverged"])
def test_every_status_comes_back(result_of: MakeResult, tmp_path: Path, status: str) -> None:
    result = result_of(status=status, probes=False)
    assert_same(FinetuneResult.load(result.save(tmp_path / "result.json")), result)


def test_columns_of_nothing_but_nan_come_back(result_of: MakeResult, tmp_path: Path) -> None:
    """A run without constraints has no tolerance; one that diverged at once has neither mixture nor loss."""
    result = result_of(probes=False)
    bare = replace(
        result,
        final=result.final.assign(tolerance=math.nan, change_high=math.nan),
        mixtures=result.mixtures.iloc[:0].astype({"step": object}).astype(object),
        losses=result.losses.iloc[:2].assign(change=math.nan),
    )
    again = FinetuneResult.load(bare.save(tmp_path / "result.json"))
    pd.testing.assert_frame_equal(again.final, bare.final)
    pd.testing.assert_frame_equal(again.losses, bare.losses)
    assert list(again.mixtures.columns) == list(bare.mixtures.columns)
    assert len(again.mixtures) == 0


def test_a_real_run_is_the_same_when_read_from_its_folder(tmp_path: Path) -> None:
    mixer = DynaMiCS(targets=("math",), constraints={"web": 0.3}, schedule=4)
    result = finetune(
        model(), train=trainable(), evaluate=evaluated(), mixer=mixer, fit=QUICK, out=tmp_path / "run"
    )
    assert_same(FinetuneResult.load(tmp_path / "run"), result)
    assert_same(FinetuneResult.load(str(tmp_path / "run" / "artifacts" / "result.json")), result)


def test_the_file_is_strict_json(result_of: MakeResult, tmp_path: Path) -> None:
    text = result_of().save(tmp_path / "result.json").read_text()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(text, parse_constant=refuse)["schema"] == 1


def test_the_frame_is_a_copy(result_of: MakeResult) -> None:
    result = result_of()
    frame = result.to_frame()
    assert list(frame) == ["domain", "role", "change", "interval", "tolerance", "n", "kept"]
    constraints = result.final["role"] == "constraint"
    assert (frame["kept"] == "").tolist() == (~constraints).tolist()
    assert frame["kept"][constraints].tolist() == result.final["kept"][constraints].tolist()
    assert frame["tolerance"].isna().tolist() == (~constraints).tolist()
    frame["change"] = 0.0
    assert (result.final["change"] != 0).all()


def test_a_result_draws_and_reports_itself(result_of: MakeResult, tmp_path: Path) -> None:
    result = result_of("a <b>bold</b> label")
    assert isinstance(result.figure(), Figure)
    path = result.report(str(tmp_path / "page.html"))
    assert path == tmp_path / "page.html"
    page = path.read_text()
    assert "a &lt;b&gt;bold&lt;/b&gt; label" in page
    assert "<b>bold" not in page


def test_an_unfinished_run_has_no_result(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "result.json"):
        with pytest.raises(CheckpointError, match=r"got no finished result in .*, expected a finished run"):
            FinetuneResult.load(path)


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"schema": 1, "la')
    with pytest.raises(CheckpointError, match=r"damaged text in .*result\.json"):
        FinetuneResult.load(tmp_path / "result.json")


def test_a_status_of_the_solver_that_none_has_is_damage(result_of: MakeResult, tmp_path: Path) -> None:
    path = result_of().save(tmp_path / "result.json")
    content = json.loads(path.read_text())
    content["slopes"][0]["status"] = "optimal\x01"
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"result\.json"):
        FinetuneResult.load(path)


def test_a_result_of_another_version_is_told(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"schema": 99}')
    with pytest.raises(CheckpointError, match="got result schema 99, expected schema 1"):
        FinetuneResult.load(tmp_path / "result.json")
