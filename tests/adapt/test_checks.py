"""What is looked at before a run begins, and the order in which it is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trimtab import DynaMiCS, Fixed, Uniform, finetune
from trimtab.adapt.finetune import problems, refuse, tokenise_all, type_problems
from trimtab.adapt.session import make_roles
from trimtab.errors import CheckpointError, ConfigProblems, ModelError, Problem
from worlds import QUICK, domain, evaluated, model, trainable

ROLES = make_roles(["math", "web"], ["safety"], ["math"], {"web": 0.1})
NAMES = {"math": "a path", "web": "a path"}


def found(**changes: object) -> list[Problem]:
    options = {"train": NAMES, "evaluate": {"safety": "a path"}, "mixer": Uniform(["math"]), "fit": QUICK}
    return list(problems(ROLES, **{**options, **changes}))  # type: ignore[arg-type]


def test_nothing_is_wrong_with_what_can_work() -> None:
    assert found() == []
    refuse(iter([]))


def test_every_part_is_asked() -> None:
    roles = make_roles(["math"], [], ["mth"], {})
    mixer = DynaMiCS(targets=["mth"], kappa=-1.0)
    told = problems(roles, NAMES, {"web": "a path"}, mixer, replace(QUICK, lr=0.0))
    assert [problem.where for problem in told] == ["evaluate.web", "targets", "mixer.kappa", "fit.lr"]


def test_each_process_needs_a_sequence_of_the_batch() -> None:
    with pytest.raises(ConfigProblems, match=r"fit\.batch_size: got 4, expected at least one .* 5 processes"):
        refuse(iter(found(world=5)))
    assert found(world=4) == []


def test_the_message_holds_one_line_for_each_problem() -> None:
    with pytest.raises(ConfigProblems) as caught:
        refuse(iter(found(mixer=Fixed(weights={"mth": -1}))))
    assert len(str(caught.value).splitlines()) == len(caught.value.problems) == 3


def test_domains_are_tokenised_by_name_and_in_order() -> None:
    roles = make_roles(["math", "code", "web"], ["safety", "facts"], ["math"], {})
    tokens = tokenise_all({**trainable(), **evaluated()}, roles, model(), QUICK)
    assert list(tokens) == list(roles.evaluate)
    assert len(tokens["code"].splits["train"]) == 40 * 61 // 16
    assert "train" not in tokens["safety"].splits


def test_all_short_domains_are_told_at_once() -> None:
    some = {"math": domain("math"), "web": domain("web", trainable=False), "safety": domain("safety")}
    with pytest.raises(ConfigProblems) as caught:
        tokenise_all(some, ROLES, model(), replace(QUICK, batch_size=4000))
    assert [problem.where for problem in caught.value.problems] == ["math, split train", "web, split train"]


@pytest.mark.parametrize(
    ("mixer", "fit", "where"),
    [
        (Uniform, QUICK, "mixer"),
        ("uniform", QUICK, "mixer"),
        (Uniform(["math"]), {"steps": 3}, "fit"),
        (Uniform(None), QUICK, "mixer.targets"),  # type: ignore[arg-type]
        (Fixed(["math"], weights={"math": "5%"}), QUICK, "mixer.weights.math"),  # type: ignore[dict-item]
        (DynaMiCS(["math"], kappa="x"), QUICK, "mixer.kappa"),  # type: ignore[arg-type]
        (Uniform(["math"]), replace(QUICK, lr="1e-3"), "fit.lr"),  # type: ignore[arg-type]
        (Uniform(["math"]), replace(QUICK, steps=None), "fit.steps"),  # type: ignore[arg-type]
        (Uniform(["math"]), replace(QUICK, betas=0.9), "fit.betas"),  # type: ignore[arg-type]
    ],
)
def test_settings_of_another_type_are_told_and_not_computed_with(mixer: Any, fit: Any, where: str) -> None:
    assert [problem.where for problem in type_problems(mixer, fit)] == [where]
    with pytest.raises(ConfigProblems, match=f"{where}: got "):
        finetune(model(), train=trainable(), mixer=mixer, fit=fit)


def test_numbers_of_numpy_and_mixers_of_others_are_as_good() -> None:
    class Own:
        targets, constraints = ("math",), {}  # type: ignore[var-annotated]

        def decide(self) -> None: ...

    fit = replace(QUICK, lr=np.float32(0.5), steps=np.int64(4), betas=[np.float64(0.5), 0.9])  # type: ignore[arg-type]
    assert list(type_problems(DynaMiCS(["math"], ridge=np.float32(0.5)), fit)) == []  # type: ignore[arg-type]
    assert list(type_problems(Own(), QUICK)) == []


@pytest.mark.parametrize("below", ["a", "a/run"])
def test_a_run_below_a_file_is_refused_by_its_path(tmp_path: Path, below: str) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(CheckpointError, match="a file or below one, expected a folder of a run"):
        finetune(model(), train=trainable(), mixer=Uniform(["math"]), fit=QUICK, out=tmp_path / below)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"seed": "a"}, r"seed: got 'a', expected a whole number from 0"),
        ({"seed": None}, r"seed: got None, expected a whole number"),
        ({"seed": True}, r"seed: got True, expected a whole number"),
        ({"seed": 1.5}, r"seed: got 1\.5, expected a whole number"),
        ({"seed": 2**63}, r"seed: got 9223372036854775808, expected"),
        ({"label": ["a"]}, r"label: got \['a'\], expected a text"),
        ({"config": "x"}, r"config: got 'x', expected a mapping"),
        ({"save_model": "no"}, r"save_model: got 'no', expected True or False"),
        ({"out": ""}, r"out: got '', expected the folder of a run"),
    ],
    ids=lambda one: str(one)[:24],
)
def test_other_arguments_of_another_type_are_told_before_any_work(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigProblems, match=told):
        finetune(model(), train=trainable(), mixer=Uniform(["math"]), fit=QUICK, **given)


def test_arguments_settings_and_how_progress_is_shown_are_told_at_once() -> None:
    wrong: dict[str, Any] = {"fit": 3, "progress": "bar", "seed": "a", "label": 1}
    with pytest.raises(ConfigProblems) as caught:
        finetune(model(), train=trainable(), mixer=Uniform(["math"]), **wrong)
    assert [problem.where for problem in caught.value.problems] == ["fit", "progress", "seed", "label"]


def test_float8_weights_are_no_numbers_to_train() -> None:
    handle = model()
    next(handle.module.parameters()).data = next(handle.module.parameters()).data.to(torch.float8_e4m3fn)
    with pytest.raises(ModelError, match=r"a quantised model .*float8"):
        finetune(handle, train=trainable(), mixer=Uniform(["math"]), fit=QUICK)
