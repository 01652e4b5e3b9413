"""The grid of runs behind a law: what a row says, that nothing is repeated, what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from trimtab.adapt.finetune import finetune
from trimtab.adapt.forgetting import grid as grid
from trimtab.adapt.mixers.fixed import ReplayUntilRise
from trimtab.data.domains import Domain
from trimtab.data.tokens import first_tokens
from trimtab.errors import CheckpointError, ConfigProblems
from trimtab.models.load import load
from worlds import QUICK, llama, texts, tokenizer

FIT = replace(QUICK, steps=9, lr=1e-2, eval_points=3)


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    """Two models and two domains on disk."""
    for seed in (0, 1):
        llama(seed).save_pretrained(tmp_path / f"model-{seed}")
        tokenizer().save_pretrained(tmp_path / f"model-{seed}")
    for name in ("math", "web"):
        for split in ("train", "validation", "test"):
            file = tmp_path / name / f"{split}.jsonl"
            file.parent.mkdir(exist_ok=True)
            file.write_text("".join(f'{{"text": "{text}"}}\n' for text in texts(name, split, 30)))
    return {
        "models": [str(tmp_path / f"model-{seed}") for seed in (0, 1)],
        "domain": str(tmp_path / "math"),
        "pretraining": str(tmp_path / "web"),
        "tokens": [200, 800],
        "shares": [0.0, 0.25],
        "fit": FIT,
        "passes": 4.0,
        "folder": tmp_path / "runs",
        "device": "cpu",
    }


def test_one_row_per_run_and_none_is_repeated(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    frame = grid.forgetting_grid(**asked)
    assert len(frame) == 8
    assert set(frame["tokens"]) == {200, 800}
    assert frame["run"].is_unique
    assert (frame["loss_ft"] < frame["loss_ft0"]).all()
    assert frame["step"].between(1, 9).all()
    assert (frame["rise_low"] <= frame["loss_pt"] - frame["loss_pt0"]).all()
    assert (frame["loss_pt"] - frame["loss_pt0"] <= frame["rise_high"]).all()
    assert frame.groupby("model")["loss_pt0"].nunique().eq(1).all()
    injected = frame["inject"] * FIT.batch_size * frame["step"]
    pd.testing.assert_series_equal(frame["injected"], injected, check_names=False)
    rise = (frame["loss_pt"] - frame["loss_pt0"]).groupby(frame["inject"]).mean()
    assert rise[0.25] < rise[0.0]
    monkeypatch.setattr(grid, "finetune", None)
    again = grid.forgetting_grid(**asked)
    pd.testing.assert_frame_equal(frame, again)


def test_a_run_ends_behind_its_minimum(asked: dict[str, Any]) -> None:
    """Few tokens, many passes: the validation loss turns, and the steps behind it are saved."""
    fit = replace(FIT, steps=160, lr=3e-2, eval_points=14)
    ends: dict[int, tuple[int, int]] = {}
    for patience in (4, 99):
        mixer = ReplayUntilRise(targets=["math"], share=0.0, patience=patience)
        model, domains = load(asked["models"][0]), {}
        for name in ("math", "web"):
            domains[name] = Domain.from_path(name, asked["domain" if name == "math" else "pretraining"])
        domains["math"] = first_tokens(domains["math"], model, 150)
        result = finetune(model, train=domains, mixer=mixer, fit=fit)
        ends[patience] = (result.step, int(result.losses["step"].max()))
    assert ends[4][0] == ends[99][0] < ends[4][1] < ends[99][1] == 160


def test_a_run_that_fails_leaves_the_others(asked: dict[str, Any]) -> None:
    with pytest.warns(
        UserWarning, match=r"1 of 2 runs failed and are left out \(model-0, 1000000, 0, 0: .*DataError"
    ):
        frame = grid.forgetting_grid(
            **asked | {"models": asked["models"][:1], "tokens": [200, 10**6], "shares": [0.0]}
        )
    assert frame["tokens"].tolist() == [200]


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Runs that take no time: each says its own cell; the list holds those that were made."""
    made: list[dict[str, Any]] = []

    def one_run(cell: dict[str, Any], folder: Path) -> dict[str, Any]:
        made.append(cell)
        return {name: cell[name] for name in ("model", "tokens", "inject", "seed")}

    monkeypatch.setattr(grid, "one_run", one_run)
    return made


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        ("models", ["a/model", "b/model", "a/b/model"]),
        ("models", ["model", "a/model"]),
        ("shares", [0.1, 0.1 + 1e-9, 0.1 + 2e-9]),
        ("shares", [1e-12, 2e-12]),
        ("tokens", [10**15, 10**15 + 1]),
        ("seeds", [2**40, 2**40 + 1, -1]),
    ],
)
def test_runs_that_look_alike_are_runs_of_their_own(
    axis: str, values: list[Any], asked: dict[str, Any], cells: list[dict[str, Any]]
) -> None:
    frame = grid.forgetting_grid(**asked | {"tokens": [200], "shares": [0.0], axis: values})
    column = {"models": "model", "shares": "inject"}.get(
        axis, axis.removesuffix("s") if axis == "seeds" else axis
    )
    models = 1 if axis == "models" else 2
    assert len(frame) == len(cells) == models * len(values)
    assert set(frame[column]) == set(values)
    assert frame["run"].is_unique


def test_a_grid_of_an_earlier_version_is_found(asked: dict[str, Any], cells: list[dict[str, Any]]) -> None:
    """It named cells after the last part of the model's path; the first of two with one name is gone."""
    whole = asked | {"tokens": [200], "shares": [0.05], "models": ["b/model"]}
    assert grid.forgetting_grid(**whole)["run"].tolist() == ["model, 200, 0.05, 0"]
    frame = grid.forgetting_grid(**whole | {"models": ["a/model", "b/model"]})
    assert [cell["model"] for cell in cells] == ["b/model", "a/model"]
    assert frame["run"].tolist() == ["a/model, 200, 0.05, 0", "model, 200, 0.05, 0"]
    again = grid.forgetting_grid(**whole | {"models": ["a/model"]})
    assert again["model"].tolist() == ["a/model"]
    with pytest.raises(CheckpointError, match="another cell"):
        grid.forgetting_grid(**whole | {"passes": 9.0})


@pytest.mark.parametrize(
    "twice", [{"tokens": [200, 200]}, {"shares": [0.1, 0.1]}, {"seeds": [0, 0]}, {"shares": [0, 0.0]}]
)
def test_what_is_given_twice_is_refused(asked: dict[str, Any], twice: dict[str, Any]) -> None:
    with pytest.raises(ConfigProblems, match=r"got .* twice, expected each once"):
        grid.forgetting_grid(**asked | twice)
    first = asked["models"][0]
    with pytest.raises(ConfigProblems, match=r"models: got .*model-0' twice"):
        grid.forgetting_grid(**asked | {"models": [first, f"{first}/../model-0"]})


class KilledError(BaseException):
    """What stands for a kill: nothing of ours catches it."""


@pytest.mark.parametrize(
    "removed", ["artifacts/weights-00000000", "config.yaml", "artifacts/result.json", "run.json"]
)
def test_a_kill_in_the_clean_up_of_a_run_loses_nothing(
    removed: str, asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked |= {"models": asked["models"][:1], "tokens": [200], "shares": [0.0]}
    real, finetuned = shutil.rmtree, grid.finetune

    def killed(path: Path, **options: Any) -> None:
        if Path(path).name != "run":
            real(path, **options)
            return
        gone = path / removed
        real(gone) if gone.is_dir() else gone.unlink()
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(grid.shutil, "rmtree", killed)
        with pytest.raises(KilledError):
            grid.forgetting_grid(**asked)
    (cell,) = (path for path in asked["folder"].iterdir() if path.is_dir())
    assert (cell / "run").exists()
    kept = shutil.copytree(cell / "run", tmp_path / "half")
    with monkeypatch.context() as patch:
        patch.setattr(grid, "finetune", None)
        frame = grid.forgetting_grid(**asked)
    assert len(frame) == 1
    assert not (cell / "run").exists()
    # An earlier version wrote no row before it removed the run.
    shutil.copytree(kept, cell / "run")
    (cell / grid.ROW).unlink()
    (cell / "cell.json").write_text((cell / "cell.json").read_text().replace('"done"', '"failed"'))
    monkeypatch.setattr(grid, "finetune", finetuned)
    again = grid.forgetting_grid(**asked)
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), frame.drop(columns="seconds"))


@pytest.mark.parametrize(("tokens", "share", "steps"), [(128, 0.0, 8), (128, 0.5, 9), (1, 0.0, 1)])
def test_the_length_of_a_run(tokens: int, share: float, steps: int) -> None:
    """4 x 16 tokens a step, four passes; nine steps at most."""
    assert grid.steps_for(tokens, share, FIT, 4.0) == steps


def test_every_mistake_is_told_at_once(asked: dict[str, Any]) -> None:
    wrong = {
        "models": [],
        "tokens": [1],
        "shares": [0.1, 1.0],
        "passes": 0.0,
        "patience": 0,
        "fit": replace(FIT, lr=0.0),
    }
    with pytest.raises(ConfigProblems) as caught:
        grid.forgetting_grid(**asked | wrong)
    assert [problem.where for problem in caught.value.problems] == [
        "models",
        "tokens",
        "shares",
        "passes",
        "patience",
        "fit.lr",
    ]
    assert not asked["folder"].exists()
