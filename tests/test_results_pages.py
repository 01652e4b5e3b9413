"""The pages of docs/results are what their scripts print, and no script has a number typed into a sentence."""

from __future__ import annotations

import ast
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmark_scripts import scripts
from site_pages import PAGES, ROOT, TEXTS, sentences
from trimtab.numerics.bootstrap import bootstrap, mean, student

FOLDER = ROOT / "benchmarks"
SCRIPTS = {
    "caption-scores": "captions/scores_page.py",
    "discritune": "captions/discritune_page.py",
    "dynamics": "dynamics/page.py",
    "expertlens": "experts/page.py",
    "forgetting": "forgetting/page.py",
    "hypertransport": "hypertransport/table.py",
    "intelligibility": "intelligibility/table.py",
    "leaks": "leaks/page.py",
    "lexicon": "names/lexicon_page.py",
    "naming-bias": "names/naming_bias_page.py",
    "real": "real/page.py",
    "steering": "steering/page.py",
}
HELPERS = runpy.run_path(str(FOLDER / "pages.py"))


@pytest.mark.parametrize(("name", "script"), SCRIPTS.items())
def test_a_page_is_what_its_script_prints(
    name: str, script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script])
    with scripts(Path(script).parent.name):
        runpy.run_path(str(FOLDER / script), run_name="__main__")
    assert capsys.readouterr().out == TEXTS[f"results/{name}.md"]


def test_every_page_of_results_has_its_script() -> None:
    assert {f"results/{name}.md" for name in SCRIPTS} == {
        name for name in PAGES if name.startswith("results/")
    }


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (0.1, 0.3, "higher"),
        (-0.3, -0.1, "lower"),
        (-0.1, 0.1, "not told apart"),
        (None, None, "not told apart"),
    ],
)
def test_a_difference_is_told_by_its_interval(low: float | None, high: float | None, told: str) -> None:
    value = 0.0 if low is None or high is None else (low + high) / 2
    assert HELPERS["verdict"]({"value": value, "low": low, "high": high}) == told


def test_the_interval_of_a_mean_is_students_below_twenty_units() -> None:
    draws = np.random.default_rng(0).normal(size=20)
    with scripts(".", "verdicts") as (verdicts,):
        assert verdicts.mean_interval(draws[:19]) == student(draws[:19])
        assert verdicts.mean_interval(draws) == bootstrap(mean, draws)
        assert np.isnan(verdicts.mean_interval(draws[:1]).low)


NAMED = re.compile(
    r"`[^`]*`|\([^)]*/[^)]*\)|95 %|P@1|BLEU-4|SmolLM2(-135M)?|DMD2|GPT-2|METEOR 1\.5|CE \.1|\.1 cross-entropy"
    r"|\b(19|20)\d\d\b|(from|holds|of|beside) 0\b|times 100\b|so 1000 for identical|100 random pictures|\[0, 1\]"
)
"""What has a digit in it and is no measurement: code, links, years, levels, names, no difference, units."""


def typed(script: Path) -> list[str]:
    """Strings of a script that have a number in them which nobody computed."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    strings = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented
    ]
    return [one for one in strings if " " in one.strip() and re.search(r"\d", NAMED.sub(" ", one))]


@pytest.mark.parametrize("script", SCRIPTS.values())
def test_no_number_is_typed_into_a_sentence(script: str) -> None:
    assert typed(FOLDER / script) == []


def test_a_typed_number_is_seen(tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text(
        '"""Over 9 runs."""\nN = 3\na = f"kept in {N} of 12 runs"\nb = f"{N} runs, 95 % intervals"\n'
    )
    assert typed(script) == [" of 12 runs"]


def parts_of(text: str) -> list[str]:
    """Sentences without their intervals and code; an item of a list that is set apart by semicolons is one."""
    plain = (re.sub(r"`[^`]*`|\[[^\]]*\]|\([^)]*\)", " ", one) for one in sentences(text))
    return [part for one in plain for part in one.split(";")]


@pytest.mark.parametrize("name", SCRIPTS)
def test_sentences_of_results_are_short(name: str) -> None:
    told = parts_of(TEXTS[f"results/{name}.md"])
    assert [one for one in told if len(re.findall(r"[A-Za-z][\w'-]*", one)) > 25] == []
