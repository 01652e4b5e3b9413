"""The table of systems, the lab's names, and the recipes that ship."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from trimtab import systems
from trimtab.errors import ConfigProblems
from trimtab.job import Corpus, ModelName, Result
from trimtab.lab import corpora, registry
from trimtab.runs.config import read_config, read_mapping


@dataclass(frozen=True)
class Config:
    model: ModelName = "here"
    train: dict[str, Corpus] = field(default_factory=dict)
    evaluate: dict[str, Corpus] = field(default_factory=dict)
    seed: int = 0


@pytest.mark.parametrize("system", systems.SYSTEMS.values(), ids=list(systems.SYSTEMS))
def test_every_job_in_the_table_has_all_parts_of_one(system: systems.System) -> None:
    job = system.job_class()
    assert job.__dataclass_params__.frozen
    assert job.__dataclass_fields__["system"].default == system.name
    assert all(callable(getattr(job, part)) for part in ("problems", "cost", "run"))
    assert issubclass(job.result, Result)
    for part in ("to_frame", "summary", "sections", "figure"):
        assert getattr(job.result, part) is not getattr(Result, part), part


@pytest.mark.parametrize("recipe", systems.recipes().values(), ids=list(systems.recipes()))
def test_every_recipe_is_right_but_for_paths_to_edit(recipe: systems.Recipe) -> None:
    content = read_mapping(recipe.path)
    system = systems.system_of(content)
    assert recipe.name.startswith(f"{system.name}/")
    assert recipe.description
    job = read_config(content, system.job_class())
    wrong = [*job.problems(), *systems.lab_problems(job)]
    places = (
        "model",
        "base",
        "tuned",
        "domains.",
        "train.",
        "evaluate.",
        "source",
        "target",
        "neutral",
        "concepts",
        "encoder",
        "judge_encoder",
        "ratings",
        "counts",
        "features",
        "predictions",
        "points",
        "captioner",
        "pictures",
        "test",
        "candidates",
        "captions",
        "records",
        "references",
        "questions",
    )
    assert [p for p in wrong if not p.where.startswith(places)] == []
    if not recipe.name.endswith("/own-data"):
        assert wrong == []
    assert job.cost()["steps"] > 0


def test_lab_names_that_do_not_exist() -> None:
    config = Config("lab:text-smal", {"a": "lab:pythn", "b": "file.txt"}, {"c": "lab:no such"})
    found = systems.lab_problems(config)
    assert [(p.where, p.got, p.hint) for p in found] == [
        ("model", "'lab:text-smal'", "lab:text-small"),
        ("train.a", "'lab:pythn'", "lab:python"),
        ("evaluate.c", "'lab:no such'", ""),
    ]
    assert "lab:docstrings" in found[1].expected
    with pytest.raises(ConfigProblems, match="model: got 'lab:text-smal'"):
        systems.resolve(config)


def test_lab_names_become_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def model(name: str, progress: Any) -> Path:
        progress(1, 2, 0.5)
        return tmp_path / name

    monkeypatch.setattr(corpora, "corpus", lambda name: tmp_path / "corpora" / name)
    monkeypatch.setattr(registry, "model", model)
    told: list[Any] = []
    config = Config("lab:text-small", {"a": "lab:python", "b": "file.txt"}, {"c": "lab:tests"})

    def progress(title: str) -> systems.Progress:
        told.append(title)
        return lambda done, total: told.append((done, total))

    resolved = systems.resolve(config, progress)
    assert resolved == Config(
        str(tmp_path / "text-small"),
        {"a": str(tmp_path / "corpora/python"), "b": "file.txt"},
        {"c": str(tmp_path / "corpora/tests")},
    )
    assert told == ["pretraining lab:text-small, once", (1, 2)]
    assert systems.resolve(resolved) == resolved


def test_estimates_use_a_lab_model_that_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    config = Config("lab:text-small")
    assert systems.already_built(config) == config
    folder = tmp_path / "lab/models/text-small-0123"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({}))
    assert systems.already_built(config).model == str(folder)
    assert systems.already_built(Config("here")) == Config("here")


def test_which_system() -> None:
    assert systems.system_of({"system": "dynamics"}).paper == "arXiv 2605.10770"
    assert systems.system_of_run({}).name == "dynamics"
    with pytest.raises(
        ConfigProblems, match=r"system: got 'dynamcis', expected one of 'dynamics', 'steering', .*; try"
    ):
        systems.system_of({"system": "dynamcis"})


def test_a_file_wins_over_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert systems.find_config("dynamics/lora")[1].name == "lora.yaml"
    (tmp_path / "dynamics").mkdir()
    (tmp_path / "dynamics/lora").write_text("mine")
    assert systems.find_config("dynamics/lora") == ("lora", Path("dynamics/lora"))
