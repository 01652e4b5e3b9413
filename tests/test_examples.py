"""Every example runs, and the README names files that exist."""

from __future__ import annotations

import re
import runpy
import sys
from functools import partial
from pathlib import Path

import pytest

from trimtab.lab import facts_model, scene_models
from trimtab.lab.scene_towers import Schedule

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture
def small_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of the scenes that are trained in seconds: an example is to run here, not to convince."""
    short = {"tower": Schedule(60), "captioner": Schedule(120, 3e-3), "listener": Schedule(40, 2e-3, 64)}
    small = partial(scene_models.SceneModels, targets=800, held_out=20, **short)
    monkeypatch.setattr(scene_models, "SceneModels", small)


@pytest.fixture
def small_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of text facts that is trained for as long as this test is to take."""
    small = partial(facts_model.FactsModel, width=32, intermediate=64, training=Schedule(20, 1e-2, 8))
    monkeypatch.setattr(facts_model, "FactsModel", small)


@pytest.mark.slow
@pytest.mark.usefixtures("small_scenes", "small_facts")
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # TRL's use of transformers
@pytest.mark.filterwarnings("ignore:.*completions have no words.*:UserWarning")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(example), str(tmp_path / "run")])
    runpy.run_path(str(example), run_name="__main__")
    if example.name == "listener_reward.py":  # TRL's run: a model, and no page
        assert (tmp_path / "run" / "model" / "config.json").is_file()
    else:
        (page,) = (tmp_path / "run").rglob("report.html")
        assert page.stat().st_size > 10_000
    assert re.search(r"at (step|strength|the mix|distractors|AUC|a share|k)\b", capsys.readouterr().out)


def test_the_readme_names_only_files_that_are_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert links
    for link in links:
        assert link.startswith("http") or (ROOT / link).exists(), link
