"""Every example runs, and the README names files that exist."""

from __future__ import annotations

import re
import runpy
import sys
from functools import partial
from pathlib import Path

import pytest

from trimtab.lab import corpora, facts_model
from trimtab.lab.scene_towers import Schedule

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


SHORTER = {
    "compare.py": {"steps=100": "steps=2"},
    "discritune.py": {
        "steps=10": "steps=2",
        "evaluate_every=5": "evaluate_every=1",
        "test_pictures=60": "test_pictures=20",
        "watched=30": "watched=5",
    },
    "dynamics.py": {"steps=20": "steps=4"},
    "expertlens.py": {"layers=2, steps=150": "width=32, intermediate=48, layers=1, steps=10"},
    "hypertransport.py": {
        "scenes=2000, plain=0, schedule=Schedule(700": "scenes=100, plain=0, held_out=8, schedule=Schedule(5",
        '"scenes": 2000': '"held_out": 64, "scenes": 300',
        "Schedule(120)": "Schedule(3)",
        "Schedule(200, 2e-3, 128)": "Schedule(20, 2e-3, 128)",
        "steps=300": "steps=5",
        "lr=0.1, steps=30": "lr=0.1, steps=3",
    },
    "listener_reward.py": {
        "steps: int = 300": "steps: int = 3",
        "steps: int = 200": "steps: int = 3",
        "(0, 60)": "(0, 2)",
    },
    "leaks.py": {"fact_questions(160)": "fact_questions(80)"},
    "steering.py": {"layers=2, steps=150": "layers=1, steps=10", "steps=60": "steps=6"},
}
"""Fewer steps and less to read, in the text of an example: it is to run here, not to convince."""


def shortened(example: Path, folder: Path) -> Path:
    """The example with fewer steps, as a file of its own."""
    text = example.read_text(encoding="utf-8")
    for long, short in SHORTER.get(example.name, {}).items():
        assert long in text, f"{example.name} has no {long!r} any more"
        text = text.replace(long, short)
    copy = folder / example.name
    copy.write_text(text, encoding="utf-8")
    return copy


@pytest.fixture
def small_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of text facts that is trained for as long as this test is to take."""
    small = partial(facts_model.FactsModel, width=32, intermediate=64, training=Schedule(20, 1e-2, 8))
    monkeypatch.setattr(facts_model, "FactsModel", small)


@pytest.fixture
def short_corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Corpora cut to their first documents, for all but the models of the lab."""
    whole = corpora.corpus

    def short(name: str) -> Path:
        (tmp_path / name).mkdir()
        for split in corpora.SPLITS:
            lines = (whole(name) / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")[:8]
            (tmp_path / name / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path / name

    monkeypatch.setattr(corpora, "corpus", short)


@pytest.mark.slow
@pytest.mark.usefixtures("small_facts", "short_corpora")
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # TRL's use of transformers
@pytest.mark.filterwarnings("ignore:.*completions have no words.*:UserWarning")
@pytest.mark.filterwarnings("ignore:training ends at step .* with the least target training:UserWarning")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(
    example: Path,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if example.name == "discritune.py":
        request.getfixturevalue("small_scenes")
    monkeypatch.setattr(sys, "argv", [str(example), str(tmp_path / "run")])
    runpy.run_path(str(shortened(example, tmp_path)), run_name="__main__")
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
